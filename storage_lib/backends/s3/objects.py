"""Objects in an S3 bucket: bytes by obstore, what it cannot do by signed requests of our own.

obstore costs the least CPU for get, put and head. Its listing takes whole segments for prefixes and fails at
a foreign name like ``a//b``; conditional deletes, conditions on multipart uploads and copies with new
metadata it has not.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace as with_fields
from itertools import batched
from typing import Any, NamedTuple

from msgspec.structs import replace

from storage_lib.backends.cloud.creating import Creating
from storage_lib.backends.cloud.objects import (
    Found,
    attributes_of,
    check_length,
    chunks_of,
    contended,
    is_key,
)
from storage_lib.backends.cloud.recent import Recent
from storage_lib.backends.cloud.together import Asked, AskedOnce, Together
from storage_lib.backends.s3 import encoding, uploads
from storage_lib.backends.s3.bucket import BY_FOLDER, FOLDER, Bucket
from storage_lib.backends.s3.changes import MAX_DISCARDED, copy, described, discard
from storage_lib.backends.s3.errors import has_unreadable_metadata, read
from storage_lib.backends.s3.listing import MAX_PAGE, Listing, Page, Query, parse
from storage_lib.backends.s3.uploads import clean_up, upload
from storage_lib.errors import (
    AccessDeniedError,
    IntegrityError,
    KeyNotFoundError,
    PreconditionFailedError,
    StorageError,
    StorageUnavailableError,
    UnsupportedOperationError,
)
from storage_lib.ports import hidden
from storage_lib.ports.drivers import (
    UNASKED,
    GetOptions,
    ListOptions,
    ObjectCapabilities,
    ObjectDriver,
    PutOptions,
    Repeat,
    once,
)
from storage_lib.ports.errors import unmet
from storage_lib.ports.link_model import LinkOptions, NoStoreLink, StoreLink
from storage_lib.ports.object_model import (
    ANY_VERSION,
    ListEntry,
    ObjectInfo,
    PutResult,
    StoredObject,
    agrees,
)
from storage_lib.ports.streaming import Parts, SentPart

MAX_COPY_BYTES = 5_000_000_000
_HEADS_AT_ONCE = 250
"""That are handed in together; `Requests` bounds how many are under way."""
_KEPT_SIDECARS = 1024
"""By the keys and ETags of objects that were looked at: who looks at one may be about to remove it."""
_KEPT_LOOKS = 1024
_LOOK_SECONDS = 1.0
"""For so long a look at an object serves the deletion that may follow it: that insists on what was seen."""
_WORTH_A_LISTING = 16
"""Objects that are deleted together: a listing costs as much as a dozen looks."""
_ATTEMPTS = 8
_ATTEMPTS_AT_ANY = 64
"""How often an object may be replaced by others between a look and the save that replaces any version."""


class _Look(NamedTuple):
    """When it was, by the monotonic clock, and what it told."""

    at: float
    etag: str
    sidecar: encoding.Sidecar | None


class S3Objects(ObjectDriver):
    """A bucket. What an ETag is here, and how exact a condition on one is, stands in encoding.py."""

    capabilities = ObjectCapabilities(
        reports_created=False,
        tells_created=True,
        folds_foreign_names=True,
        lists_sizes=True,
        asks_for_details=True,
        max_parts=10_000,  # "Amazon S3 multipart upload limits"
        resumes_streams=True,
        discards_together=True,
        tells_saves=False,  # encoding.py
    )

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._listing = Listing(self._page)
        self._sidecars: Recent[tuple[str, str], encoding.Sidecar] = Recent(_KEPT_SIDECARS)
        self._looks: Recent[str, _Look] = Recent(_KEPT_LOOKS)
        self._creating = Creating(self, self._metadata)
        self._together = Together(MAX_DISCARDED, self._alone, self._send)
        self._first_sidecars = AskedOnce(lambda: self._page(Query(encoding.SIDECARS, None, 1)))

    async def put(self, key: str, data: bytes, options: PutOptions) -> PutResult:
        if options.tell_created:
            return await self._creating.put(key, data, options)
        if_match, if_absent = options.if_match, options.if_absent
        if if_match == ANY_VERSION:
            # S3 compares with one ETag: the one that is there is insisted on, and anew if it was replaced.
            for _ in range(_ATTEMPTS_AT_ANY):
                etag, _ = await self._expect(key, if_match)
                with suppress(PreconditionFailedError):
                    return await self.put(key, data, replace(options, if_match=etag))
            raise contended(f"put {key!r}")
        mark = encoding.new_mark()
        mode: Any = "create" if if_absent else None
        sidecar = None
        if if_match is not None:
            _, sidecar = await self._expect(key, if_match)
            mode = {"e_tag": encoding.quoted(if_match)}
        doing = f"put {key!r}"
        try:
            async with described(
                self._bucket, key, options.metadata, mark, options.sha256, doing
            ) as metadata:
                attributes = attributes_of(options, metadata)
                try:
                    etag = await self._bucket.put(key, data, attributes, mode, doing)
                except PreconditionFailedError:
                    if not if_absent or not await self._bucket.is_folder(key):
                        raise
                    etag = await self._bucket.put(key, data, attributes, {"e_tag": FOLDER}, doing)
        except (PreconditionFailedError, KeyNotFoundError) as error:
            if not options.is_conditional:
                raise
            raise unmet(key, if_match) from error.__cause__ or error
        await self._forget(sidecar)
        return PutResult(key, encoding.join(encoding.bare(etag), mark), len(data), options.has_created)

    async def link(self, key: str, options: LinkOptions) -> StoreLink | NoStoreLink:
        return await self._bucket.client.link(key, options)

    async def get(self, key: str, options: GetOptions) -> StoredObject | None:
        unchanged = options.if_none_match
        if unchanged is not None and (await self._bucket.raw_head(key))[0].etag == unchanged:
            return None
        for _ in range(_ATTEMPTS):
            (result, data), info, sidecar = await self._bucket.read(key, options, whole=True)
            check_length(key, len(data), result)
            complete = await self._bucket.completed(info, sidecar)
            if complete is not None:
                return StoredObject(complete, data, result.range[0])
        raise contended(f"get {key!r}")

    async def head(self, key: str) -> ObjectInfo:
        for _ in range(_ATTEMPTS):
            info, sidecar = await self._bucket.raw_head(key)
            if sidecar is not None:
                self._sidecars.get((key, info.etag), lambda found=sidecar: found)
            self._looks.put(key, _Look(time.monotonic(), info.etag, sidecar))
            complete = await self._bucket.completed(info, sidecar)
            if complete is not None:
                return complete
        raise contended(f"head {key!r}")

    async def delete(self, key: str, if_match: str | None) -> None:
        if if_match is not None or UNASKED.get() < _WORTH_A_LISTING or await self._has_sidecars():
            await self._delete(key, if_match)
        elif (error := await self._together.ask(key)) is not None:
            raise error

    async def _alone(self, key: str, if_match: str | None) -> StorageError | None:
        await self._delete(key, if_match)

    async def _send(self, batch: Sequence[Asked[StorageError | None]]) -> list[StorageError | None]:
        """What became of deletes that share a request."""

        def still() -> list[str]:
            # What was given up before its turn may have been saved since.
            return [one.key for one in batch if not one.answer.done()]

        failures = await discard(self._bucket, [one.key for one in batch], still)
        return [failures.get(one.key) for one in batch]

    async def _has_sidecars(self) -> bool:
        """Whether any object has one, which a delete without a look would leave."""
        try:
            return bool((await self._first_sidecars.get()).found)
        except AccessDeniedError:
            return True  # Who may not list may look.

    async def _delete(self, key: str, if_match: str | None) -> None:
        doing = f"delete {key!r}"
        for _ in range(_ATTEMPTS):
            # Behind what still writes it: it would be called missing and appear after that.
            claims = [self._bucket.client.claim(key)]
            seen = self._seen(key)
            if if_match is not None or not await self._bucket.deletes_conditionally():
                seen = None
            if seen is None:
                info, sidecar = await self._bucket.raw_head(key, claims)
                seen = info.etag, sidecar
            etag, sidecar = seen
            if if_match is not None and etag != if_match:
                raise unmet(key, if_match)
            headers: dict[str, str] = {}
            if await self._bucket.deletes_conditionally():
                headers["if-match"] = encoding.quoted(etag)
            elif if_match is not None:
                raise UnsupportedOperationError(
                    f"{doing}: the server ignores If-Match on a DELETE",
                    remedy="use a server that heeds it, as AWS does, or delete without a condition",
                )
            try:
                await self._bucket.send("DELETE", key, headers=headers, doing=doing, claims=claims)
            except (PreconditionFailedError, KeyNotFoundError):
                continue  # It was replaced or deleted; the next look tells which.
            await self._forget(sidecar)
            return
        raise contended(doing)

    def _seen(self, key: str) -> tuple[str, encoding.Sidecar | None] | None:
        """What `head` has just told of an object, once."""
        look = self._looks.pop(key)
        if look is None or time.monotonic() - look.at > _LOOK_SECONDS:
            return None
        return look.etag, look.sidecar

    async def remove(self, info: ObjectInfo) -> None:
        key, doing = info.key, f"delete {info.key!r}"
        if not await self._bucket.deletes_conditionally():
            await self.delete(key, info.etag)
            return
        headers, claims = {"if-match": encoding.quoted(info.etag)}, [self._bucket.client.claim(key)]
        try:
            await self._bucket.send("DELETE", key, headers=headers, doing=doing, claims=claims)
        except PreconditionFailedError as error:
            raise unmet(key, info.etag) from error
        await self._forget(self._sidecars.pop((key, info.etag)))

    async def discard(self, keys: Sequence[str]) -> None:
        for some in batched(keys, MAX_DISCARDED, strict=False):
            for failure in (await discard(self._bucket, some)).values():
                raise failure

    async def scan(self, prefix: str, options: ListOptions) -> AsyncGenerator[ListEntry | str]:
        size = MAX_PAGE if options.count is None else options.count + 1
        batch: list[Found] = []
        async with aclosing(self._listing.read(prefix, options.delimiter, options.after, size)) as listing:
            async for found in listing:
                if not is_key(found):
                    continue
                if not options.details:
                    yield found
                    continue
                batch.append(found)
                if len(batch) == min(size, _HEADS_AT_ONCE):
                    for entry in await self._with_details(batch):
                        yield entry
                    batch.clear()
        for entry in await self._with_details(batch):
            yield entry

    async def put_stream(
        self, key: str, parts: Parts, options: PutOptions, repeat: Repeat = once
    ) -> PutResult:
        if_match, if_absent = options.if_match, options.if_absent
        condition: dict[str, str] = {"if-none-match": "*"} if if_absent else {}
        sidecar = None

        async def expect() -> None:
            nonlocal sidecar
            if (wanted := if_match) is not None:
                etag, sidecar = await repeat(f"head {key!r}", lambda: self._expect(key, wanted))
                condition["if-match"] = encoding.quoted(etag)

        await expect()  # Now, to tell before all is sent, and once more at the end.

        try:
            etag = await upload(self._bucket, key, parts, options, condition, expect, repeat)
        except (PreconditionFailedError, KeyNotFoundError) as error:
            if not options.is_conditional:
                raise
            if if_match == ANY_VERSION:
                await self._expect(key, if_match)
                raise contended(f"put {key!r}") from error
            raise unmet(key, if_match) from error.__cause__ or error
        await self._forget(sidecar)
        return PutResult(key, etag, parts.size, options.has_created)

    async def uploaded(self, key: str, upload: str) -> dict[int, SentPart]:
        begun = await uploads.find_upload(self._bucket, key)
        if begun is None or begun.upload != upload:
            return {}
        return await uploads.sent_parts(self._bucket, key, begun) or {}

    async def give_up(self, key: str, upload: str) -> None:
        begun = await uploads.find_upload(self._bucket, key)
        if begun is not None and begun.upload == upload:
            await clean_up(self._bucket, key, begun.query, None)
            await uploads.forget_upload(self._bucket, key)

    async def read_stream(
        self, key: str, options: GetOptions
    ) -> tuple[ObjectInfo, int, AsyncGenerator[bytes]]:
        for _ in range(_ATTEMPTS):
            (result, _), info, sidecar = await self._bucket.read(key, options)
            complete = await self._bucket.completed(info, sidecar)
            if complete is not None:
                return complete, result.range[0], chunks_of(key, result, read)
        raise contended(f"get {key!r}")

    async def copy(self, source: ObjectInfo, target: str, if_absent: bool) -> PutResult:
        # Not every server heeds a condition on a copy; on a put they do.
        if if_absent or source.size > MAX_COPY_BYTES:
            return await super().copy(source, target, if_absent)
        etag = await copy(self._bucket, source, target)
        # Nor one on the source: bytes of another version would not agree with the metadata of this one.
        with suppress(KeyNotFoundError):
            found = await self.head(source.key)
            if found.etag != source.etag:
                raise unmet(source.key, source.etag)
        return PutResult(target, etag, source.size, None)

    async def touch(self, source: ObjectInfo, metadata: dict[str, str]) -> PutResult:
        key = source.key
        if source.size > MAX_COPY_BYTES or not await self._bucket.copies_conditionally():
            return await super().touch(source, metadata)
        _, sidecar = await self._expect(key, source.etag)
        etag = await copy(self._bucket, with_fields(source, metadata=metadata), key)
        await self._forget(sidecar)
        return PutResult(key, etag, source.size, created=False)

    # -- writing

    async def _metadata(self, key: str) -> Mapping[str, str] | None:
        try:
            found = await self._bucket.look(key)
        except StorageError as error:
            if not has_unreadable_metadata(error):
                raise
            return {}
        return None if found is None else found[0].metadata

    async def _expect(self, key: str, if_match: str) -> tuple[str, encoding.Sidecar | None]:
        """See that the object has this ETag, its mark included. Its ETag, and its sidecar, to be removed with
        it."""
        try:
            info, sidecar = await self._bucket.raw_head(key)
        except KeyNotFoundError as error:
            raise unmet(key, if_match) from error
        if not agrees(info.etag, if_match):
            raise unmet(key, if_match)
        return info.etag, sidecar

    async def _forget(self, sidecar: encoding.Sidecar | None) -> None:
        """Remove the sidecar of an object; one that stays does no harm."""
        if sidecar is not None and sidecar.is_own:
            with suppress(StorageError):
                await self._bucket.send("DELETE", sidecar.name, doing=f"delete {sidecar.name!r}")

    # -- listing

    async def _page(self, query: Query) -> Page:
        doing = f"list {query.prefix!r}"
        parameters = {"list-type": "2", "encoding-type": "url", "max-keys": str(query.size)}
        wanted = {
            "prefix": query.prefix,
            "delimiter": query.delimiter,
            "start-after": query.start,
            "continuation-token": query.token,
        }
        parameters |= {name: value for name, value in wanted.items() if value}
        response = await self._bucket.send("GET", query=parameters, doing=doing)
        if BY_FOLDER in response.headers.get("Server", ""):
            self._listing.by_folder = True
        try:
            return parse(response.body)
        except ValueError as error:
            raise StorageUnavailableError(f"{doing}: this is no answer of S3: {error}") from error

    async def _with_details(self, batch: Sequence[Found]) -> list[Found]:
        """A listing has not the marks that are part of the ETags: they take a HEAD each, many at once."""
        found = await asyncio.gather(*(self._detailed(one) for one in batch))
        return [one for one in found if one is not None]

    async def _detailed(self, found: Found) -> Found | None:
        if isinstance(found, str):
            return found
        try:
            info, sidecar = await self._bucket.raw_head(found.key)
            if sidecar is not None and encoding.has_metadata(sidecar.name):  # The caller's size is there.
                info = await self._bucket.completed(info, sidecar) or await self.head(found.key)
        except KeyNotFoundError:
            return None  # Deleted since it was listed.
        except StorageError as error:
            if not isinstance(error, IntegrityError) and not has_unreadable_metadata(error):
                raise
            return found  # As the listing has it: one object must not hide the others.
        return hidden.entry(info)
