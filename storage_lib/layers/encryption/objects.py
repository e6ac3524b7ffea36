"""Objects as envelopes, each with a record in its metadata (record.py)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from functools import cache
from itertools import batched

from msgspec.structs import replace as with_options

from storage_lib.errors import (
    EncryptionError,
    InvalidArgumentError,
    TransientStorageError,
    UnsupportedOperationError,
)
from storage_lib.layers.base import Around, ObjectLayer
from storage_lib.layers.encryption import record
from storage_lib.layers.encryption.envelope import (
    AT_ONCE,
    CHUNK_BYTES,
    HEADER_BYTES,
    MAGIC,
    OBJECT,
    SEALED_BYTES,
    TAG_BYTES,
    Cipher,
    Envelopes,
    changed,
    decrypted,
    decrypted_span,
    encrypted,
    last_chunk,
)
from storage_lib.layers.encryption.fernet import Tokens
from storage_lib.ports import hidden
from storage_lib.ports.drivers import GetOptions, ObjectDriver, PutOptions, Repeat, once
from storage_lib.ports.errors import unmet
from storage_lib.ports.object_model import ByteRange, ObjectInfo, PutResult, StoredObject, agrees
from storage_lib.ports.streaming import Parts, one_chunk, sha256_of

_ATTEMPTS = 8
_LONGEST = 2**50
_START = MAGIC + bytes((OBJECT,))


class EncryptedObjects(ObjectLayer):
    """:param tokens: reads Fernet tokens; None refuses them like any other plaintext."""

    changes_sizes = True

    def __init__(
        self,
        inner: ObjectDriver,
        around: Around,
        envelopes: Envelopes,
        tokens: Tokens | None,
        *,
        allow_plaintext_reads: bool,
    ) -> None:
        super().__init__(inner, around)
        can = self.capabilities
        self.capabilities = replace(
            can,
            max_object_bytes=_largest_plain(can.max_object_bytes),
            max_parts=_largest_plain(can.max_parts * can.part_bytes) // can.part_bytes,
            decrypts=True,
        )
        self._envelopes = envelopes
        self._tokens = tokens
        self._allow_plaintext = allow_plaintext_reads

    # -- writing

    async def put(self, key: str, data: bytes, options: PutOptions) -> PutResult:
        _refuse_nested(key, options)
        cipher = await self._envelopes.begin(key)
        stored = await encrypted(cipher, data)
        metadata = record.described(cipher, options.content_type, options.metadata, len(data), options.sha256)
        options = with_options(options, metadata=metadata, sha256=await sha256_of(stored))
        result = await self.inner.put(key, stored, options)  # There is nothing around it in this layer.
        return PutResult(key, result.etag, len(data), result.created)

    async def put_stream(
        self, key: str, parts: Parts, options: PutOptions, repeat: Repeat = once
    ) -> PutResult:
        _refuse_nested(key, options)
        cipher = await self._envelopes.begin(key)
        known = record.clear(options.metadata)

        @cache  # One record for one envelope: its nonce is used once.
        def late() -> dict[str, str]:
            metadata = parts.complete(options.metadata)
            stored = record.described(cipher, options.content_type, metadata, parts.size, parts.sha256)
            return {name: text for name, text in stored.items() if name not in known}

        can = self.inner.capabilities
        async with aclosing(_encrypted_stream(cipher, parts)) as chunks:
            stored = Parts(chunks, can.part_bytes, can.part_bytes * can.max_parts, late=late)
            result = await super().put_stream(key, stored, with_options(options, metadata=known), repeat)
        return replace(result, size=parts.size)

    async def copy(self, source: ObjectInfo, target: str, if_absent: bool) -> PutResult:
        # The name of the target is part of its encryption: it is read, verified and encrypted anew.
        return await ObjectDriver.copy(self, source, target, if_absent)

    async def touch(self, source: ObjectInfo, metadata: dict[str, str]) -> PutResult:
        if hidden.ENCRYPTED in source.metadata:
            metadata = await record.renewed(self._envelopes, source, metadata)
        else:
            await self._opened(source)
        return await super().touch(source, metadata)

    # -- reading

    async def head(self, key: str) -> ObjectInfo:
        return await self._opened(await super().head(key))

    async def fresh_head(self, key: str) -> ObjectInfo:
        return await self._opened(await super().fresh_head(key))

    async def _opened(self, info: ObjectInfo) -> ObjectInfo:
        if hidden.ENCRYPTED in info.metadata:
            return (await record.opened(self._envelopes, info))[0]
        if (token := await self._token(info, None)) is not None:
            return token.info
        return self._allowed(info)

    async def get(self, key: str, options: GetOptions) -> StoredObject | None:
        wanted = options.byte_range
        found = await self._covering(key, options, super().get)
        if found is None:
            return None
        if hidden.ENCRYPTED not in found.info.metadata:
            return await self._plaintext(found, options)
        info, cipher = await record.opened(self._envelopes, found.info)
        if wanted is None:
            if len(found.data) != found.info.size:
                raise changed(key)
            return StoredObject(info, await decrypted(cipher, found.data))
        span = _Span(wanted, info.size, found.info.size)
        view = memoryview(found.data)[max(span.stored_start - found.start, 0) :][: span.stored_size]
        if found.start > span.stored_start or len(view) != span.stored_size:
            raise changed(key)  # The store sent less than it said.
        data = await decrypted_span(cipher, view, span.first, span.last_of_all, span.skip, span.size)
        return StoredObject(info, data, span.start)

    async def read_stream(
        self, key: str, options: GetOptions
    ) -> tuple[ObjectInfo, int, AsyncGenerator[bytes]]:
        wanted = options.byte_range
        stored, at, chunks = await self._covering(key, options, super().read_stream)
        try:
            if hidden.ENCRYPTED not in stored.metadata:
                return await self._plaintext_stream(stored, chunks, options)
            info, cipher = await record.opened(self._envelopes, stored)
            span = _Span(wanted, info.size, stored.size)
            if at > span.stored_start:
                raise changed(key)
        except BaseException:
            await chunks.aclose()
            raise
        return info, span.start, _decrypted_stream(cipher, chunks, at, span)

    async def _covering[T](
        self, key: str, options: GetOptions, read: Callable[[str, GetOptions], Awaitable[T]]
    ) -> T:
        """What ``read`` returns for the chunks that hold the range."""
        wanted = options.byte_range
        if wanted is None:
            return await read(key, options)
        for _ in range(_ATTEMPTS):
            try:
                return await read(key, with_options(options, byte_range=_chunks_of(wanted)))
            except InvalidArgumentError:  # What is stored ends before them.
                info = await super().head(key)
                if not agrees(info.etag, options.if_match):
                    raise unmet(key, options.if_match) from None
                if hidden.ENCRYPTED not in info.metadata:
                    return await read(key, options)
                wanted.resolve((await record.opened(self._envelopes, info))[0].size)
        raise TransientStorageError(f"get {key!r}: it is being replaced all the time")

    # -- what is not encrypted

    def _allowed(self, info: ObjectInfo, start: bytes = b"") -> ObjectInfo:
        """``info`` of an object without a record.

        :param start: its first bytes, if they were read.
        :raises EncryptionError: it may not be read.
        """
        if start.startswith(_START):
            raise EncryptionError(
                f"object {info.key!r} is encrypted, but has lost the metadata that belong to it",
                field="key",
                remedy="restore the object with its metadata from a backup, or copy it with this library",
            )
        if not self._allow_plaintext:
            raise EncryptionError(
                f"object {info.key!r} is not encrypted, and encryption is required",
                field="key",
                remedy="save it again if you trust it, or allow such objects with"
                " AGENT_STORAGE_ENCRYPTION_ALLOW_PLAINTEXT_READS=true",
            )
        return info

    async def _token(self, info: ObjectInfo, found: StoredObject | None) -> StoredObject | None:
        """What is in a Fernet token; None if the object is none.

        :param found: the whole object, if it was read.
        """
        if self._tokens is None or not self._tokens.may_be(info):
            return None
        if found is None:
            found = await super().get(info.key, GetOptions(if_match=info.etag))
        assert found is not None  # noqa: S101 - only a get with if_none_match answers None
        return await self._tokens.opened(found)

    async def _plaintext(self, found: StoredObject, options: GetOptions) -> StoredObject:
        """An object without a record, read with the range of its chunks if it had any."""
        info, wanted = found.info, options.byte_range
        token = await self._token(info, found if wanted is None else None)
        if token is not None:
            return _part(token, wanted)
        if wanted is None:
            self._allowed(info, found.data)
            return found
        self._allowed(info, await self._start_of(info))
        ranged = await super().get(info.key, GetOptions(wanted, info.etag))
        assert ranged is not None  # noqa: S101 - only a get with if_none_match answers None
        return ranged

    async def _plaintext_stream(
        self, info: ObjectInfo, chunks: AsyncGenerator[bytes], options: GetOptions
    ) -> tuple[ObjectInfo, int, AsyncGenerator[bytes]]:
        await chunks.aclose()
        if (token := await self._token(info, None)) is not None:
            found = _part(token, options.byte_range)
            return found.info, found.start, one_chunk(found.data)
        self._allowed(info, await self._start_of(info))
        return await super().read_stream(info.key, GetOptions(options.byte_range, info.etag))

    async def _start_of(self, info: ObjectInfo) -> bytes:
        """The bytes that tell whether a record is missing; none if plaintext is refused anyway."""
        if not self._allow_plaintext or info.size < len(_START):
            return b""
        found = await super().get(info.key, GetOptions(ByteRange(0, len(_START)), info.etag))
        return b"" if found is None else found.data


class _Span:
    """Which chunks hold a range, and where it begins in them.

    :param stored: the size of the envelope.
    :raises InvalidArgumentError: no byte of the object lies in the range.
    """

    def __init__(self, wanted: ByteRange | None, size: int, stored: int) -> None:
        self.start, end = (0, size) if wanted is None else wanted.resolve(size)
        self.size = end - self.start
        self.skip = self.start % CHUNK_BYTES
        self.first = self.start // CHUNK_BYTES
        self.last_of_all = last_chunk(stored)
        self.last = max(end - 1, 0) // CHUNK_BYTES
        self.stored_start = HEADER_BYTES + self.first * SEALED_BYTES
        self.stored_size = min(HEADER_BYTES + (self.last + 1) * SEALED_BYTES, stored) - self.stored_start


def _chunks_of(wanted: ByteRange) -> ByteRange:
    """The range of an envelope that holds a range of its plaintext, and, where that is counted from an end
    that is not known, up to a chunk before it."""
    start, end = wanted.start, wanted.end
    if start < 0:
        chunks = -(start // CHUNK_BYTES) + 1
        return ByteRange(-min(chunks * SEALED_BYTES, _LONGEST))
    first = HEADER_BYTES + start // CHUNK_BYTES * SEALED_BYTES
    return ByteRange(first, None if end is None else HEADER_BYTES - (-end // CHUNK_BYTES) * SEALED_BYTES)


class _Cutter:
    """Cuts a stream into pieces of ``size`` bytes. The last one, which may be shorter, is the `rest`."""

    def __init__(self, size: int, *, skip: int = 0) -> None:
        """:param skip: how many bytes at the start are left out."""
        self._size = size
        self._skip = skip
        self.rest = b""

    def cut(self, data: bytes | memoryview) -> list[bytes | memoryview]:
        """The pieces that are complete and behind which there is more; most are views of ``data``."""
        view = memoryview(data)
        if self._skip:
            self._skip, view = max(self._skip - len(view), 0), view[self._skip :]
        if not view:
            return []
        found: list[bytes | memoryview] = []
        if self.rest:
            missing = self._size - len(self.rest)
            self.rest += view[:missing]
            view = view[missing:]
            if not view:
                return []
            found.append(self.rest)
        whole = (len(view) - 1) // self._size * self._size
        found += [view[start : start + self._size] for start in range(0, whole, self._size)]
        self.rest = bytes(view[whole:])
        return found


async def _encrypted_stream(cipher: Cipher, parts: Parts) -> AsyncGenerator[bytes]:
    """The envelope of the parts."""
    yield bytes(cipher.header)
    cutter, number = _Cutter(CHUNK_BYTES), 0
    async for part in parts:
        for few in batched(cutter.cut(part), AT_ONCE, strict=False):
            for sealed in cipher.encrypt(few, number, ends=False):
                yield sealed
            number += len(few)
            await asyncio.sleep(0)  # Others have their turn.
    for sealed in cipher.encrypt([cutter.rest], number, ends=True):
        yield sealed


async def _decrypted_stream(
    cipher: Cipher, chunks: AsyncGenerator[bytes], at: int, span: _Span
) -> AsyncGenerator[bytes]:
    """The span of the chunks. :param at: where they begin in the envelope."""
    header = bytes(cipher.header)[at:]
    cutter = _Cutter(SEALED_BYTES, skip=max(span.stored_start - max(at, HEADER_BYTES), 0))
    number, skip, left = span.first, span.skip, span.size
    async with aclosing(chunks):
        async for piece in chunks:
            if not header.startswith(piece[: len(header)]):
                raise changed(cipher.name)
            sealed, header = memoryview(piece)[len(header) :], header[len(piece) :]
            for few in batched(cutter.cut(sealed), AT_ONCE, strict=False):
                for plain in cipher.decrypt(few, number, span.last_of_all):
                    wanted, skip = plain[skip : skip + left], 0
                    left -= len(wanted)
                    yield wanted
                number += len(few)
                await asyncio.sleep(0)  # Others have their turn.
    if number != span.last or header:
        raise changed(cipher.name)
    for plain in cipher.decrypt([cutter.rest], number, span.last_of_all):
        yield plain[skip : skip + left]


def _part(whole: StoredObject, wanted: ByteRange | None) -> StoredObject:
    if wanted is None:
        return whole
    start, end = wanted.resolve(len(whole.data))
    return StoredObject(whole.info, whole.data[start:end], start)


def _largest_plain(stored: int) -> int:
    """The largest plaintext whose envelope has at most ``stored`` bytes."""
    chunks = -(-(stored - HEADER_BYTES) // SEALED_BYTES)
    return stored - HEADER_BYTES - chunks * TAG_BYTES


def _refuse_nested(key: str, options: PutOptions) -> None:
    if hidden.ENCRYPTED in options.metadata:
        raise UnsupportedOperationError(
            f"put {key!r}: there are two encryption layers",
            remedy="use one layer with all keys, the first of which is the current one",
        )
