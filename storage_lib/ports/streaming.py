"""Streams: any source in parts of one size, hashed on the way; readers that verify what they return."""

from __future__ import annotations

import hashlib
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Buffer,
    Callable,
    Iterable,
    Mapping,
)
from inspect import isawaitable
from typing import Any, BinaryIO, NamedTuple, Protocol

from storage_lib import threads
from storage_lib.buffers import as_bytes
from storage_lib.errors import IntegrityError, InvalidArgumentError, ObjectTooLargeError, StorageError
from storage_lib.ports.object_model import ObjectInfo, StoredObject


class SentPart(NamedTuple):
    """A part that the store has, as a driver tells of it.

    ``name`` is what the driver knows it by; ``md5`` is its digest, or how that begins, if the store tells it.
    """

    name: str
    size: int
    md5: bytes | None = None

    async def agrees(self, part: bytes) -> bool:
        """Whether it is this part, as far as that can be told."""
        if len(part) != self.size:
            return False
        return self.md5 is None or (await threads.working.run(md5_of, part)).startswith(self.md5)


def md5_of(part: bytes) -> bytes:
    return hashlib.md5(part, usedforsecurity=False).digest()


ByteSource = AsyncIterable[Buffer] | Iterable[Buffer] | BinaryIO

_INLINE_BYTES = 1024 * 1024
"""Up to this many bytes are hashed on the event loop (about a millisecond); more in a thread."""
_FILE_CHUNK_BYTES = 1024 * 1024
_REMEDY = "open files in binary mode, encode text"

LATE_BYTES = 1024
"""Late metadata take no more room than this, as names and values in JSON."""


class Digest(Protocol):
    """A hash that is being computed, as hashlib's are."""

    def update(self, data: Buffer, /) -> None: ...
    def digest(self) -> bytes: ...
    def hexdigest(self) -> str: ...
    def copy(self) -> Digest: ...


async def sha256_of(data: bytes) -> str:
    if len(data) <= _INLINE_BYTES:
        return hashlib.sha256(data).hexdigest()
    return (await threads.working.run(hashlib.sha256, data)).hexdigest()


async def verify(found: StoredObject) -> None:
    """Verify a whole object.

    :raises IntegrityError: its bytes do not match its size or checksum."""
    info = found.info
    if len(found.data) != info.size:
        raise IntegrityError(f"object {info.key!r} has {len(found.data)} bytes, expected {info.size}")
    if info.authenticated:
        return
    if info.sha256 is not None and await sha256_of(found.data) != info.sha256:
        raise _changed(info.key)


def _changed(key: str) -> IntegrityError:
    return IntegrityError(
        f"object {key!r} does not agree with its checksum: the stored bytes have changed",
        remedy="restore the object from a backup or an earlier version",
    )


class Parts:
    """The bytes of a source in parts of ``size``, the last one shorter; at most two are held at a time.

    :param limit: of the whole, in bytes.
    :param late: metadata that are known only when the parts have ended, such as the size that a layer's
        caller knows. Drivers store them with those of the save (`complete`).
    :param start: how many bytes precede the source's in the object, which are stored already. Then ``sha256``
        is needed, unless ``digest`` has taken them in.
    :param sha256: the checksum of the whole. If the bytes, from the first one on, do not have it, the parts
        end with an `IntegrityError`.
    :param known: parts that an earlier run has sent, by their index; all that precede ``start`` are among
        them.
    """

    def __init__(
        self,
        source: ByteSource,
        size: int,
        limit: int,
        *,
        late: Callable[[], Mapping[str, str]] | None = None,
        start: int = 0,
        sha256: str | None = None,
        digest: Digest | None = None,
        known: Mapping[int, SentPart] | None = None,
    ) -> None:
        self.known = {} if known is None else known
        """What the store has of the stream already, whether it agrees with it or not."""
        self._late = late
        self._start = start
        self._known = sha256
        self._seen_from_start = start == 0 or digest is not None
        self._chunks = _chunks(source)
        self._size = size
        self._limit = limit
        self._first: bytes | None = None
        self._left = memoryview(b"")
        self._hash: Digest = hashlib.sha256() if digest is None else digest
        self._ended = False
        self._given = False
        self._watch: Callable[[int], Awaitable[None]] | None = None
        self.size = start
        """How many bytes of the object have been given, those before the source's included."""
        self.on_part: Callable[[int], None] | None = None
        """Told the size of each part that is given."""
        self.on_sent: Callable[[int], None] | None = None
        """Told the size of each of them that need not be sent: an earlier run has."""

    @property
    def sha256(self) -> str:
        """Hex digest of what has been given: of the whole, once the parts have ended."""
        if self._known is not None and not self._seen_from_start:
            return self._known
        return self._hash.hexdigest()

    @property
    def start(self) -> int:
        """How many bytes precede the first part."""
        return self._start

    @property
    def before(self) -> int:
        """How many parts precede the first one."""
        return self._start // self._size

    @property
    def digest(self) -> Digest:
        """The hash of what has been given, to be gone on with."""
        return self._hash.copy()

    async def sent(self, index: int, part: bytes) -> SentPart | None:
        """The part of this index, if an earlier run has sent it as it is."""
        known = self.known.get(index)
        if known is None or not await known.agrees(part):
            return None
        if self.on_sent is not None:
            self.on_sent(len(part))
        return known

    def precede(self, digest: Digest) -> None:
        """Take in what the store has before the first part.

        :raises IntegrityError: it is not what the source had there.
        """
        if self._seen_from_start and digest.digest() != self._hash.digest():
            raise IntegrityError(
                "the parts of the stream that were sent before are not those of its source", field="source"
            )
        self._hash, self._seen_from_start = digest, True

    @property
    def is_late(self) -> bool:
        """Whether there are metadata that are known only at the end."""
        return self._late is not None

    def complete(self, metadata: dict[str, str]) -> dict[str, str]:
        """The metadata of the save and, now that the parts have ended, those known only at the end."""
        return metadata if self._late is None else {**self._late(), **metadata}

    async def first(self) -> bytes:
        """The first part, which is still to be given."""
        if self._first is None:
            self._first = await self._cut()
        return self._first

    def watch(self, watch: Callable[[int], Awaitable[None]]) -> None:
        """Call ``watch`` with the number of bytes so far, before each part is given. If it raises, the stream
        ends with its error."""
        self._watch = watch

    async def whole(self) -> bytes | None:
        """All bytes if they fit into one part; else None, and the parts must be iterated."""
        first = await self.first()
        if not self._ended or self._left or self._start:
            return None
        if self._known is not None:
            self._check(await sha256_of(first))
        return first

    def _check(self, digest: str) -> None:
        if self._known is not None and self._seen_from_start and digest != self._known:
            raise IntegrityError(
                "the bytes of the stream do not have the checksum that belongs to them",
                field="source",
                remedy="restore the object that they come from, from a backup or an earlier version",
            )

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._given:
            # What is left of them would be stored as if it were the whole.
            raise StorageError("a stream cannot be read twice", field="source")
        self._given = True
        part, self._first = await self.first(), None
        while part:
            self.size += len(part)
            if self.size > self._limit:
                raise ObjectTooLargeError(
                    "the stream is too long", field="source", limit=f"{self._limit} bytes"
                )
            if self._watch is not None:
                await self._watch(self.size)
            if self.on_part is not None:
                self.on_part(len(part))
            await threads.working.run(self._hash.update, part)
            if self._ended and not self._left:
                self._check(self._hash.hexdigest())
            yield part
            part = await self._cut()

    async def _cut(self) -> bytes:
        pieces: list[memoryview] = []
        missing = self._size
        while missing and await self._more():
            pieces.append(self._left[:missing])
            self._left = self._left[missing:]
            missing -= len(pieces[-1])
        await self._more()  # so that a source of just one part is seen to have ended
        return b"".join(pieces)

    async def _more(self) -> bool:
        """Whether there are bytes left, fetched if need be."""
        while not self._left and not self._ended:
            try:
                chunk = await anext(self._chunks)
                self._left = memoryview(as_bytes(chunk, "source", remedy=_REMEDY))
            except StopAsyncIteration:
                self._ended = True
        return bool(self._left)


class ObjectReader:
    """An open object: ``info``, and its bytes as an async iterator of chunks.

    ``start`` is the offset of the first byte. Reading to the end verifies the length and checksum of a
    whole object before the last chunk is returned.
    """

    def __init__(
        self, info: ObjectInfo, start: int, chunks: AsyncGenerator[bytes], *, verified: bool
    ) -> None:
        self.info = info
        self.start = start
        self._chunks = chunks
        self._verified = verified

    async def __aiter__(self) -> AsyncIterator[bytes]:
        digest = hashlib.sha256()
        length = 0
        held: bytes | None = None
        async for chunk in self._chunks:
            if held is not None:
                yield held
            if self._verified:
                length += len(chunk)
                if self.info.authenticated:
                    pass
                elif len(chunk) > _INLINE_BYTES:
                    await threads.working.run(digest.update, chunk)
                else:
                    digest.update(chunk)
            held = chunk
        if self._verified:
            if length != self.info.size:
                raise IntegrityError(
                    f"object {self.info.key!r} has {length} bytes, expected {self.info.size}"
                )
            expected = None if self.info.authenticated else self.info.sha256
            if expected is not None and digest.hexdigest() != expected:
                raise _changed(self.info.key)
        if held is not None:
            yield held

    async def read(self) -> bytes:
        """All that is left, at once."""
        return b"".join([chunk async for chunk in self])


async def one_chunk(data: bytes) -> AsyncGenerator[bytes]:
    yield data


async def _chunks(source: Any) -> AsyncGenerator[object]:
    """What a source gives, unchecked. Its own errors are its reader's."""
    if isinstance(source, AsyncIterable):
        async for chunk in source:
            yield chunk
    elif hasattr(source, "read"):
        while True:
            chunk = await threads.waiting.run(source.read, _FILE_CHUNK_BYTES)
            if isawaitable(chunk):
                chunk = await chunk
            if isinstance(chunk, Buffer) and not as_bytes(chunk, "source", remedy=_REMEDY):
                return
            yield chunk
    elif isinstance(source, str | Buffer) or not isinstance(source, Iterable):
        raise InvalidArgumentError(
            f"the source is a {type(source).__name__}",
            field="source",
            limit="an iterable of bytes, or a file object",
            remedy="use write or put for bytes at hand",
        )
    else:
        iterator = iter(source)
        nothing = object()
        while (chunk := await threads.waiting.run(next, iterator, nothing)) is not nothing:
            yield chunk
