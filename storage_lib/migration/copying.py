"""Copying one object, whatever its size, all or nothing, and going on with one that was cut off."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping
from contextlib import AsyncExitStack, contextmanager, nullcontext, suppress
from enum import Enum
from operator import attrgetter
from typing import Any

from storage_lib import threads
from storage_lib.errors import (
    IntegrityError,
    KeyNotFoundError,
    ObjectExistsError,
    PreconditionFailedError,
    StorageError,
    TransientStorageError,
    UnsupportedOperationError,
)
from storage_lib.keys import is_system_key, validate_user_key
from storage_lib.migration.limits import Bandwidth, Memory
from storage_lib.migration.options import MigrationOptions
from storage_lib.migration.pairing import Pair
from storage_lib.migration.report import MigrationReport
from storage_lib.migration.views import Seen, View
from storage_lib.ports import expiry, hidden, kept_headers
from storage_lib.ports.object_model import ListEntry, ObjectInfo
from storage_lib.ports.streaming import Digest, Parts, SentPart, sha256_of

_ATTEMPTS = 5
"""How often an object may change while it is being copied."""
_SMALL_BYTES = 256 * 1024
"""As many as may be copied at a time take little memory."""


class Outcome(Enum):
    """What became of an object."""

    COPIED = "copied"
    UPDATED = "updated"
    SKIPPED = "skipped"
    VANISHED = "vanished"


class ObjectCopier:
    """Copies objects from one view to another.

    :param origin: what stores the source.
    """

    def __init__(
        self, source: View, target: View, options: MigrationOptions, report: MigrationReport, origin: str
    ) -> None:
        self._origin = f"{options.layers} {origin}"
        self._source = source
        self._target = target
        self._options = options
        self._report = report
        self._bandwidth = Bandwidth(options.bytes_per_second)
        self._memory = Memory()
        self._moved = options.onto != options.prefix

    def is_done(self, pair: Pair) -> bool:
        """Whether the target has a copy of exactly this version, by what the listings say.

        The mark alone does not tell: an ETag of S3 may be that of the bytes, and other programs change the
        properties of a copy and leave its mark.
        """
        ours, theirs = pair.source, pair.target
        if ours is None or ours.etag is None or theirs is None or theirs.source is None:
            return False
        if ours.info is None or theirs.info is None or not _agree(ours.info, theirs.info):
            return False
        return theirs.source == self.mark(ours.key, ours.etag)

    async def copy(self, key: str, onto: str, entry: ListEntry, there: ListEntry | None) -> Outcome:
        """Make ``onto`` in the target what ``key`` is in the source.

        :param entry: what a listing says of the source.
        :param there: likewise of the target; None if it has no such object.
        :raises ObjectExistsError: there is another object, which may not be replaced.
        :raises PreconditionFailedError: the target's object was changed at this moment.
        """
        etag, size = entry.etag, entry.size or 0
        if not is_system_key(key):
            validate_user_key(onto)
        for _ in range(_ATTEMPTS):
            try:
                if there is not None:
                    if self._is_listed_equal(entry, there) or await self._is_equal(key, onto):
                        return Outcome.SKIPPED
                    if not self._options.update:
                        raise _exists(onto)
                if self._options.dry_run:
                    self._report.bytes_copied += size
                else:
                    await self._transfer(key, onto, etag, size, there)
            except _ChangedError:
                self._report.retried += 1
                try:
                    seen = await self._source.head(key)
                except KeyNotFoundError:
                    return Outcome.VANISHED
                etag, size = seen.etag, seen.size
            except _VanishedError:
                return Outcome.VANISHED
            else:
                return Outcome.COPIED if there is None else Outcome.UPDATED
        raise TransientStorageError(
            f"object {key!r} is being replaced all the time", remedy="run the migration again later"
        )

    def mark(self, key: str, etag: str) -> str:
        """What a copy keeps of the version that it was made of. Some ETags tell only the bytes: in another
        store, for another key or below a layer, another object may have the same."""
        return hashlib.sha256(f"{self._origin} {key} {etag}".encode()).hexdigest()[:32]

    def _marked(self, key: str, seen: Seen) -> dict[str, str]:
        return {**seen.metadata, hidden.SOURCE: self.mark(key, seen.etag)}

    def _is_listed_equal(self, entry: ListEntry, there: ListEntry) -> bool:
        ours, theirs = self._source.listed(entry), self._target.listed(there)
        return ours is not None and theirs is not None and not differences(ours, theirs)

    async def _is_equal(self, key: str, onto: str) -> bool:
        try:
            ours = await self._source.head(key)
        except KeyNotFoundError as error:
            raise _VanishedError from error
        try:
            theirs = await self._target.head(onto)
        except KeyNotFoundError:
            return False
        return not differences(ours, theirs) and await has_same_bytes(
            (self._source, key, ours), (self._target, onto, theirs)
        )

    async def _transfer(
        self, key: str, onto: str, etag: str | None, size: int, there: ListEntry | None
    ) -> None:
        part = self._target.store.part_bytes
        is_stream = etag is not None and size > part
        holding: Any = nullcontext()
        if size > _SMALL_BYTES:
            holding = self._memory.holding(size, is_stream=is_stream)
        condition: dict[str, Any] = {"if_absent": True} if there is None else {"if_match": there.etag}
        async with holding:
            try:
                if is_stream and etag is not None:
                    seen, sha256 = await self._send_stream(key, onto, etag, size, condition)
                else:
                    seen, sha256 = await self._send_whole(key, onto, etag, condition)
            except (PreconditionFailedError, TransientStorageError) as error:
                if there is None:
                    with suppress(StorageError):
                        if await self._is_equal(key, onto):
                            return  # Another run of the same migration was here at this moment.
                if not isinstance(error, PreconditionFailedError):
                    raise
                raise PreconditionFailedError(
                    f"object {onto!r} of the target was changed at this moment",
                    remedy="run the migration again",
                ) from error
        if self._options.verify:
            await self._verify(onto, seen, sha256)

    async def _send_whole(
        self, key: str, onto: str, etag: str | None, condition: dict[str, Any]
    ) -> tuple[Seen, str]:
        with _of_source():
            seen, data = await self._source.get(key, etag)
        self._check_binding(key, seen)
        await self._bandwidth.use(len(data))
        kept = self._marked(key, seen)
        await self._target.store.adopt(onto, data, seen.content_type, kept, sha256=seen.sha256, **condition)
        self._report.bytes_copied += len(data)
        return seen, seen.sha256 or await sha256_of(data)

    async def _send_stream(
        self, key: str, onto: str, etag: str, size: int, condition: dict[str, Any]
    ) -> tuple[Seen, str]:
        driver = self._target.store.driver
        # Whoever continues it has the same version of the same object: its parts are these.
        upload = hashlib.sha256(f"{self._options.layers}/{etag}/{size}/{onto}".encode()).hexdigest()
        known: Mapping[int, SentPart] = {}
        try:
            if driver.capabilities.resumes_streams:
                known = await driver.uploaded(onto, upload)
            return await self._send_parts(key, onto, etag, size, upload, known, condition)
        except IntegrityError:
            if not known:
                raise
            # It is told whether the fault is in what was sent before by sending all of it.
            self._report.retried += 1
            return await self._send_parts(key, onto, etag, size, upload, {}, condition)
        except (_ChangedError, _VanishedError):
            with suppress(StorageError):  # What stays is not to be seen, and goes some time.
                await driver.give_up(onto, upload)
            raise

    async def _send_parts(
        self,
        key: str,
        onto: str,
        etag: str,
        size: int,
        upload: str,
        known: Mapping[int, SentPart],
        condition: dict[str, Any],
    ) -> tuple[Seen, str]:
        store = self._target.store
        start, digest = await self._start(key, etag, size, known)
        async with AsyncExitStack() as opened:
            with _of_source():
                stream = await opened.enter_async_context(self._source.stream(key, etag, start))
            seen = stream.seen
            self._check_binding(key, seen)
            self._report.bytes_resumed += start
            chunks = self._bandwidth.metered(_whole(stream.chunks, key, seen.size - start))
            parts = Parts(
                chunks,
                store.part_bytes,
                store.max_stream_bytes,
                start=start,
                sha256=seen.sha256,
                digest=digest,
                known=known,
            )
            parts.on_part, parts.on_sent = self._count, self._count_resumed
            await store.adopt(
                onto, parts, seen.content_type, self._marked(key, seen), upload=upload, **condition
            )
        return seen, parts.sha256

    def _count(self, size: int) -> None:
        self._report.bytes_copied += size

    def _count_resumed(self, size: int) -> None:
        self._report.bytes_copied -= size
        self._report.bytes_resumed += size

    async def _start(
        self, key: str, etag: str, size: int, known: Mapping[int, SentPart]
    ) -> tuple[int, Digest | None]:
        """How many bytes need not be read to be sent: those of the parts from the first one on that the
        target has. The last part is always read.

        A source that is near is read again all the same, and so is an object without a checksum: what was
        sent is compared with it, and their hash is returned. The ETag vouches for others.
        """
        part = self._target.store.part_bytes
        count = 0
        while (count + 1) * part < size and (there := known.get(count)) and there.size == part:
            count += 1
        if not count:
            return 0, None
        with _of_source():
            if not self._source.store.driver.capabilities.is_local:
                seen = await self._source.head(key)
                if seen.etag != etag:
                    raise _ChangedError
                if seen.sha256 is not None:
                    return count * part, None
            digest, same = hashlib.sha256(), 0
            async with self._source.stream(key, etag, 0) as stream:
                earlier = Parts(stream.chunks, part, size)
                async for piece in earlier:
                    if same == count or not await known[same].agrees(piece):
                        break
                    digest, same = earlier.digest, same + 1
        return same * part, digest if same else None

    async def _verify(self, onto: str, seen: Seen, sha256: str) -> None:
        """:raises IntegrityError: what can be read in the target is not what was copied."""
        there = await self._target.head(onto)
        digest = await digest_of(self._target, onto, there)
        if digest != sha256 or differences(seen, there):
            raise IntegrityError(
                f"object {onto!r} of the target is not what was copied",
                remedy="run the migration again with update",
            )

    def _check_binding(self, key: str, seen: Seen) -> None:
        if seen.is_encrypted and self._moved and not is_system_key(key):
            raise UnsupportedOperationError(
                f"object {key!r} is encrypted, and bound to its key: its sealed bytes cannot have another",
                field="target_prefix",
                remedy='use layers="open", which encrypts anew',
            )


class _ChangedError(Exception):
    """The source has another version now."""


class _VanishedError(Exception):
    """The source has no such object any more."""


@contextmanager
def _of_source() -> Generator[None]:
    """Reading the source: its errors are to be told from those of writing the target."""
    try:
        yield
    except PreconditionFailedError as error:
        raise _ChangedError from error
    except KeyNotFoundError as error:
        raise _VanishedError from error


async def _whole(chunks: AsyncIterator[bytes], key: str, size: int) -> AsyncGenerator[bytes]:
    """The chunks, which must be so many bytes: fewer would be stored as if they were all."""
    async for chunk in chunks:
        size -= len(chunk)
        yield chunk
    if size:
        raise IntegrityError(f"object {key!r} was not read to its end: {size} bytes are missing")


def _exists(onto: str) -> ObjectExistsError:
    return ObjectExistsError(
        f"the target has another object {onto!r}",
        field="update",
        remedy="set update to replace what differs, or remove the object",
    )


def _agree(ours: ObjectInfo, theirs: ObjectInfo) -> bool:
    """Whether listings tell the same of two objects. By hand: a second run does this for each object."""
    return (
        ours.size == theirs.size
        and ours.content_type == theirs.content_type
        and ours.metadata == theirs.metadata
        and ours.expires_at == theirs.expires_at
        and (ours.sha256 == theirs.sha256 or None in (ours.sha256, theirs.sha256))
        and _headers_of(ours) == _headers_of(theirs)
    )


_headers_of = attrgetter(*kept_headers.FIELDS.values())


def differences(ours: Seen, theirs: Seen) -> list[str]:
    """In which of their properties two objects differ; the bytes may differ all the same if one of them has
    no checksum."""
    found: list[str] = []
    if ours.size != theirs.size:
        found.append("size")
    elif None not in (ours.sha256, theirs.sha256) and ours.sha256 != theirs.sha256:
        found.append("content")
    if ours.content_type != theirs.content_type:
        found.append("content_type")
    names = {
        name
        for name in {*ours.metadata, *theirs.metadata}
        if ours.metadata.get(name) != theirs.metadata.get(name)
    }
    if expiry.METADATA in names:
        found.append("expires_at")
    found += sorted(kept_headers.FIELDS[name] for name in names & kept_headers.FIELDS.keys())
    if names - {expiry.METADATA} - kept_headers.FIELDS.keys():
        found.append("metadata")
    return found


async def has_same_bytes(*sides: tuple[View, str, Seen]) -> bool:
    """Whether the objects have the same bytes; read if a checksum is missing."""
    digests = [seen.sha256 or await digest_of(view, key, seen) for view, key, seen in sides]
    return len(set(digests)) == 1


async def digest_of(view: View, key: str, seen: Seen) -> str:
    """The SHA-256 of an object's bytes, read anew."""
    digest = hashlib.sha256()
    if not seen.size:
        await view.get(key, seen.etag)
        return digest.hexdigest()
    async with view.stream(key, seen.etag, 0) as stream:
        async for chunk in stream.chunks:
            await threads.working.run(digest.update, chunk)
    return digest.hexdigest()
