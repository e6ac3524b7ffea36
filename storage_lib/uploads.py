"""Uploads in parts, of objects that are too large for one request: create a session, save its parts in any
order and as often as it takes, then complete it.

A session is an object below ``.system/uploads/OWNER/ID/``, and so is each part, so that any process goes on
with it; all of them have a time to live, after which sweeps remove what nobody completed. Parts go through
all layers, as every object does. Completing streams them into the object: it appears as a whole, under its
conditions, or not at all. The session then tells the result until its end, in case the answer got lost.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import secrets
import time
from collections.abc import AsyncGenerator, Buffer, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from itertools import batched, pairwise
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import msgspec

from storage_lib import threads, values
from storage_lib.arguments import mapping, several, whole
from storage_lib.arguments import seconds as checked_seconds
from storage_lib.buffers import as_bytes
from storage_lib.errors import (
    IntegrityError,
    InvalidArgumentError,
    KeyNotFoundError,
    ObjectTooLargeError,
    PreconditionFailedError,
    QuotaExceededError,
    StorageError,
)
from storage_lib.keys import SYSTEM_PREFIX, user_key, validate_content_type, validate_metadata
from storage_lib.many import for_each
from storage_lib.patterns import pattern
from storage_lib.ports import expiry, kept_headers
from storage_lib.ports.hints import CALL, within
from storage_lib.ports.object_model import PutResult
from storage_lib.ports.streaming import sha256_of

if TYPE_CHECKING:
    from storage_lib.manager import StorageManager
    from storage_lib.ports.backend import StorageBackend

UPLOADS = f"{SYSTEM_PREFIX}uploads/"
MAX_PARTS = 10_000
DEFAULT_SECONDS = 24 * 3600
MAX_SECONDS = 7 * 24 * 3600
_COMPLETED_SECONDS = 3600.0
"""How long a completed session is remembered, at most."""
_ID = pattern(r"[0-9a-f]{32}")
_PART = pattern(r"[0-9]{5}")
_SHA256 = pattern(r"[0-9a-f]{64}")
_AT_ONCE = 16
_COUNTED_SECONDS = 10.0
"""For so long the parts that were counted are not counted again, unless there is no room left: to list all of
them for each would take longer with each. Those that another process takes meanwhile are not seen."""
_MOST_KNOWN = 10_000
_KNOWN: WeakKeyDictionary[StorageBackend, dict[tuple[str, str], tuple[float, int]]] = WeakKeyDictionary()
"""By owner and prefix: when the bytes of the parts were counted, and how many they are, with those since."""


class UploadStateError(StorageError):
    """The session was completed, or its parts are not those that it needs."""

    code = "upload-state"


class DigestMismatchError(InvalidArgumentError):
    """The parts together are not what their sender has digested."""

    code = "digest-mismatch"


class Upload(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A session. ``expires_at`` is its own end, ``ttl`` that of the object: seconds from its completion, or a
    moment."""

    id: str
    key: str
    created_at: datetime
    expires_at: datetime
    content_type: str = values.BYTES
    metadata: dict[str, str] = {}
    headers: dict[str, str] = {}
    ttl: float | datetime | None = None
    completed: Completed | None = None


class Completed(msgspec.Struct, frozen=True):
    """What a session has become."""

    etag: str
    size: int
    created: bool | None


class Part(msgspec.Struct, frozen=True):
    """A part of a session, as it is stored."""

    part: int
    size: int
    sha256: str | None
    etag: str


class Uploads:
    """The sessions of one owner. Nobody finds those of another, even by their ids.

    :param storage: the whole store.
    :param owner: who creates sessions; any text.
    :param root: where the keys are that the owner knows.
    """

    def __init__(self, storage: StorageManager, owner: str = "", *, root: str = "") -> None:
        self._backend = storage.backend
        self._objects = storage.backend.objects
        self._keys = root
        self._root = f"{UPLOADS}{hashlib.sha256(owner.encode()).hexdigest()[:32]}/"

    async def create(
        self,
        key: str,
        *,
        content_type: str = values.BYTES,
        metadata: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        ttl: float | datetime | None = None,
        expires_in: float = DEFAULT_SECONDS,
    ) -> Upload:
        """Begin a session.

        :param key: of the object that is to be, as whoever completes the session knows it.
        :param content_type: of the object, as its ``metadata``, ``headers`` and ``ttl``; the last begins with
            its completion.
        :param expires_in: seconds until the session is given up.
        """
        now = self._objects.clock()
        lasts = checked_seconds("expires_in", expires_in, 1, MAX_SECONDS)
        if ttl is not None:
            expiry.end_of(now, ttl)
        given = {} if headers is None else dict(mapping("headers", headers))
        kept_headers.checked(given)
        upload = Upload(
            id=secrets.token_hex(16),
            key=user_key(key),
            created_at=datetime.fromtimestamp(now, UTC),
            expires_at=datetime.fromtimestamp(int(now + lasts), UTC),
            content_type=validate_content_type(content_type),
            metadata={} if metadata is None else validate_metadata(mapping("metadata", metadata)),
            headers=given,
            ttl=ttl,
        )
        await self._put(upload, if_absent=True)
        return upload

    async def get(self, upload_id: str, key: str | None = None) -> Upload:
        """A session.

        :param key: of its object, if that is to be sure.
        :raises KeyNotFoundError: there is no such session, or it has ended.
        """
        return (await self._found(upload_id, key))[0]

    async def put(self, upload_id: str, part: int, data: Buffer, *, key: str | None = None) -> Part:
        """Store a part; one of the same number is replaced.

        :param part: its number, from 1; the object has the parts in their order.
        :raises KeyNotFoundError: there is no such session.
        :raises UploadStateError: it was completed.
        :raises QuotaExceededError: the parts of the owner's sessions would take more than a quota allows of
            the objects that are to be.
        """
        number = whole("part", part, 1, MAX_PARTS)
        upload = await self._open(upload_id, key)
        held = as_bytes(data)
        name = self._name(upload.id, number)
        await self._admit(upload, name, len(held))
        put = await self._objects.put(name, held, ttl=upload.expires_at)
        try:
            await self._open(upload.id, None)
        except (KeyNotFoundError, UploadStateError):
            # Whoever has completed it or given it up meanwhile may not have seen this part.
            await self._objects.delete(name, missing_ok=True)
            raise
        return Part(number, put.size, await sha256_of(held), put.etag)

    async def parts(self, upload_id: str, *, key: str | None = None) -> list[Part]:
        """The parts that are there, in their order.

        :raises KeyNotFoundError: there is no such session.
        """
        upload, _ = await self._found(upload_id, key)
        return [] if upload.completed is not None else await self._parts(upload.id)

    async def complete(
        self,
        upload_id: str,
        into: StorageManager,
        *,
        key: str | None = None,
        parts: Sequence[Any] | None = None,
        sha256: str | None = None,
        if_match: str | None = None,
        if_absent: bool = False,
        existed: bool | None = None,
    ) -> PutResult:
        """Make the object of the parts.

        Called again after its answer got lost, it returns the same result.

        :param into: the storage of whoever completes the session.
        :param parts: the numbers of the parts that it is to have; None takes all that are there, of which
            none may be missing.
        :param sha256: of the whole, in hex; the object is not saved if it has another.
        :param if_match: as for `StorageManager.save`, like ``if_absent``.
        :param existed: whether there was an object before, where the store does not tell.
        :raises UploadStateError: parts are missing, or the session has none.
        :raises DigestMismatchError: the whole has another checksum.
        """
        if sha256 is not None and not (isinstance(sha256, str) and _SHA256.fullmatch(sha256)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidArgumentError(
                f"sha256 is {ascii(sha256)[:80]}", field="sha256", limit="64 lower-case hex digits"
            )
        upload, etag = await self._found(upload_id, key)
        if (done := upload.completed) is not None:
            return PutResult(upload.key, done.etag, done.size, done.created)
        chosen = _chosen(upload, await self._parts(upload.id), parts)
        most, total = into.backend.objects.max_stream_bytes, sum(part.size for part in chosen)
        if total > most:
            raise ObjectTooLargeError(
                f"the parts are {total} bytes together", field="parts", limit=f"{most} bytes"
            )
        # A call that comes again with the same parts finds what it has saved before.
        told = msgspec.json.encode([upload.id, [(part.part, part.etag) for part in chosen]])
        try:
            with within(CALL, hashlib.sha256(told).hexdigest()[:32]):
                result = await into.write_stream(
                    upload.key,
                    self._chunks(upload, chosen, sha256),
                    content_type=upload.content_type,
                    metadata=upload.metadata,
                    headers=upload.headers,
                    ttl=_left(upload.ttl, self._objects.clock()),
                    if_match=if_match,
                    if_absent=if_absent,
                )
        except (PreconditionFailedError, UploadStateError):
            # Another request may have completed it meanwhile, or given it up.
            if (done := (await self._found(upload.id, None))[0].completed) is None:
                raise
            return PutResult(upload.key, done.etag, done.size, done.created)
        if result.created is None and existed is not None:
            result = replace(result, created=not existed)
        await self._end(upload, etag, result)
        return result

    async def abort(self, upload_id: str, *, key: str | None = None) -> None:
        """Give a session up, with all of its parts.

        :raises KeyNotFoundError: there is no such session.
        """
        upload, _ = await self._found(upload_id, key)
        await self._objects.delete(self._name(upload.id), missing_ok=True)
        await self._remove(upload.id)

    async def list(
        self, prefix: str = "", *, limit: int = 100, start_after: str | None = None
    ) -> tuple[list[Upload], str | None]:
        """Some of the sessions that are neither completed nor over, ordered by their ids.

        :param prefix: of the keys of their objects.
        :param limit: look at no more sessions than this.
        :param start_after: an id: only those behind it.
        :return: the sessions, and the id to go on behind; None if there are no more.
        """
        limit = whole("limit", limit, 1, 1000)
        if start_after is not None and not _ID.fullmatch(start_after):
            raise InvalidArgumentError("the cursor is none of a list of uploads", field="cursor")
        page = await self._objects.list_page(
            self._root,
            delimiter="/",
            limit=limit,
            start_after=None if start_after is None else f"{self._root}{start_after}/",
        )
        ids = [name[len(self._root) : -1] for name in page.prefixes]
        found: list[Upload] = []
        for start in range(0, len(ids), _AT_ONCE):
            looked = await asyncio.gather(*(self._seen(each) for each in ids[start : start + _AT_ONCE]))
            found += [
                each
                for each in looked
                if each is not None and each.completed is None and each.key.startswith(prefix)
            ]
        return found, ids[-1] if page.cursor is not None and ids else None

    # -- quotas

    async def _admit(self, upload: Upload, name: str, size: int) -> None:
        key, known = self._keys + upload.key, _KNOWN.setdefault(self._backend, {})
        for quota in self._backend.quotas():
            most = quota.quota_bytes
            if most is None or not key.startswith(quota.prefix):
                continue
            place, now, replaced = (self._root, quota.prefix), time.monotonic(), 0
            counted_at, taken = known.get(place, (-math.inf, 0))
            if now - counted_at > _COUNTED_SECONDS or taken + size > most:
                counted_at, taken = now, await self._taken(quota.prefix)
                if taken + size > most:
                    with suppress(KeyNotFoundError):
                        replaced = (await self._objects.head(name, fresh=True)).size
            if taken + size - replaced > most:
                raise QuotaExceededError(
                    f"the parts of uploads that are under way below {quota.prefix!r} are {taken} bytes, and"
                    f" this one has {size}",
                    rule=quota.rule,
                    limit=f"{most} bytes below {quota.prefix!r}",
                    remedy="complete these uploads or give them up, or raise the rule's quota_bytes",
                )
            if len(known) >= _MOST_KNOWN:
                known.clear()
            known[place] = counted_at, taken + size - replaced

    async def _taken(self, prefix: str) -> int:
        """The bytes of the parts of all sessions whose objects are to be below a prefix."""
        taken, after = 0, None
        while True:
            found, after = await self.list(limit=1000, start_after=after)
            names = [
                self._name(each.id, 0)[:-5] for each in found if (self._keys + each.key).startswith(prefix)
            ]
            for some in batched(names, _AT_ONCE, strict=False):
                taken += sum(each.bytes for each in await asyncio.gather(*map(self._objects.stats, some)))
            if after is None:
                return taken

    # -- objects

    def _name(self, upload_id: str, part: int | None = None) -> str:
        return f"{self._root}{upload_id}/" + ("session" if part is None else f"parts/{part:05}")

    async def _put(self, upload: Upload, *, if_absent: bool = False, if_match: str | None = None) -> None:
        end = upload.expires_at
        if upload.completed is not None:
            end = min(end, datetime.fromtimestamp(self._objects.clock() + _COMPLETED_SECONDS, UTC))
        await self._objects.put(
            self._name(upload.id),
            msgspec.json.encode(upload),
            content_type="application/json",
            ttl=end,
            if_absent=if_absent,
            if_match=if_match,
        )

    async def _found(self, upload_id: str, key: str | None) -> tuple[Upload, str]:
        if not isinstance(upload_id, str) or not _ID.fullmatch(upload_id):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise _none()
        try:
            found = await self._objects.get(self._name(upload_id), fresh=True)
        except KeyNotFoundError as error:
            raise _none() from error
        assert found is not None  # noqa: S101 - only a get with if_none_match answers None
        try:
            upload = msgspec.json.decode(found.data, type=Upload)
        except msgspec.MsgspecError as error:
            raise IntegrityError(f"upload {upload_id!r} cannot be read", field="upload_id") from error
        if key is not None and upload.key != key:
            raise _none()
        return upload, found.info.etag

    async def _seen(self, upload_id: str) -> Upload | None:
        try:
            return (await self._found(upload_id, None))[0]
        except KeyNotFoundError:
            return None  # Over, with parts that are still to be swept.

    async def _open(self, upload_id: str, key: str | None) -> Upload:
        upload, _ = await self._found(upload_id, key)
        if upload.completed is not None:
            raise UploadStateError(
                "the upload was completed", field="upload_id", remedy="create another one for other bytes"
            )
        return upload

    async def _parts(self, upload_id: str) -> list[Part]:
        prefix = f"{self._name(upload_id, 0)[:-5]}"
        found: list[Part] = []
        names: list[str] = []
        async for entry in self._objects.iterate(prefix, details=True):
            if isinstance(entry, str) or not _PART.fullmatch(entry.key[len(prefix) :]):
                continue
            info = entry.info
            if info is None or info.sha256 is None:
                names.append(entry.key)  # What this listing does not tell.
            else:
                found.append(Part(int(entry.key[-5:]), info.size, info.sha256, info.etag))
        looked = await for_each(names, lambda name: self._objects.head(name, fresh=True), _AT_ONCE)
        for info in looked.values():
            if isinstance(info, KeyNotFoundError):
                continue
            if isinstance(info, StorageError):
                raise info
            found.append(Part(int(info.key[-5:]), info.size, info.sha256, info.etag))
        return sorted(found, key=lambda part: part.part)

    async def _chunks(
        self, upload: Upload, parts: Sequence[Part], sha256: str | None
    ) -> AsyncGenerator[bytes]:
        digest = hashlib.sha256()
        for part in parts:
            try:
                async with self._objects.open_reader(
                    self._name(upload.id, part.part), if_match=part.etag
                ) as reader:
                    async for chunk in reader:
                        if sha256 is not None:
                            await threads.working.run(digest.update, chunk)
                        yield chunk
            except (KeyNotFoundError, PreconditionFailedError) as error:
                raise UploadStateError(
                    f"part {part.part} was replaced or removed meanwhile",
                    field="parts",
                    remedy="complete the upload again",
                ) from error
        if sha256 is not None and digest.hexdigest() != sha256:
            raise DigestMismatchError(
                "the parts together have another SHA-256 than was told",
                field="sha256",
                remedy="compare the parts (their list has the SHA-256 of each), and send those that differ",
            )
        # At the last moment: what was saved after another request had completed it must not be replaced.
        await self._open(upload.id, None)

    async def _end(self, upload: Upload, etag: str, result: PutResult) -> None:
        done = Completed(result.etag, result.size, result.created)
        try:
            await self._put(msgspec.structs.replace(upload, completed=done), if_match=etag)
        except PreconditionFailedError:
            return  # Completed by another request, or given up: either removes the parts.
        await self._remove(upload.id)

    async def _remove(self, upload_id: str) -> None:
        """Remove the parts. What cannot be removed now, sweeps remove."""
        names = [self._name(upload_id, part.part) for part in await self._parts(upload_id)]
        for error in (await self._objects.delete_many(names, missing_ok=True)).values():
            if error is not None:
                raise error


def _none() -> KeyNotFoundError:
    return KeyNotFoundError(
        "there is no such upload, or it has ended", field="upload_id", remedy="create another one"
    )


def _left(ttl: float | datetime | None, now: float) -> float | datetime | None:
    """The time to live of an object that is completed now."""
    if isinstance(ttl, datetime) and ttl.timestamp() <= now:
        return 0
    return ttl


def _chosen(upload: Upload, found: Sequence[Part], wanted: Sequence[Any] | None) -> list[Part]:
    there = {part.part: part for part in found}
    if wanted is None:
        numbers = list(range(1, max(there, default=0) + 1))
    else:
        numbers = [whole("parts", number, 1, MAX_PARTS) for number in several("parts", wanted)]
        if any(after <= before for before, after in pairwise(numbers)):
            raise InvalidArgumentError("the parts are not in order", field="parts", limit="each once, rising")
        if len(numbers) > MAX_PARTS:
            raise InvalidArgumentError("there are too many parts", field="parts", limit=f"{MAX_PARTS}")
    missing = [number for number in numbers if number not in there]
    if missing:
        shown = ", ".join(map(str, missing[:10])) + (" …" if len(missing) > 10 else "")
        raise UploadStateError(
            f"part {shown} of the upload of {upload.key!r} is missing"
            if len(missing) == 1
            else f"parts {shown} of the upload of {upload.key!r} are missing",
            field="parts",
            remedy="send what is missing, or name the parts that the object is to have",
        )
    if not numbers:
        raise UploadStateError(
            "the upload has no parts",
            field="parts",
            remedy="send them first; an empty object has an empty one",
        )
    return [there[number] for number in numbers]
