"""The frames of an archive: independent pieces of Zstandard, each with a head that says what it is.

A head is a skippable frame (RFC 8878, 3.1.2), which every Zstandard decoder passes over. It has the length
and checksum of the frame that follows, the entry that the frame belongs to, and a mark by which the next head
is found behind damage: so a damaged frame costs its own entry and no other, even if the archive is read from
a pipe. The last head has the checksum of everything before it; an archive without it is truncated.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from typing import Any

import msgspec

from storage_lib import threads
from storage_lib.errors import IntegrityError
from storage_lib.zstandard import zstd

FRAME_BYTES = 1024 * 1024
"""The most that a frame expands to."""
MAX_RATIO = 1000
"""No frame, its head included, expands to more than so many times its size, so that an archive of some
megabytes cannot fill a store with terabytes."""

_SKIPPABLE = bytes.fromhex("572a4d18")
_ZSTANDARD = bytes.fromhex("28b52ffd")
_MARK = b"AGENTSTO"
_NONCE_BYTES = 16
_PREFIX_BYTES = 8 + len(_MARK) + _NONCE_BYTES + 4
_MAX_HEAD_BYTES = 16 * 1024
_MAX_STORED_BYTES = FRAME_BYTES + FRAME_BYTES // 8
_WINDOW_BYTES = 2 * (_MAX_STORED_BYTES + _MAX_HEAD_BYTES)
"""How much of a damaged region is kept at a time."""
_INLINE_BYTES = 16 * 1024
_SALVAGES = 8
_LAST_ENTRY = "report"
"""What each archive ends with."""


class Head(msgspec.Struct, frozen=True, omit_defaults=True, tag="frame"):
    """What a head says of the frame that follows.

    ``name`` is the entry of number ``entry`` that the frame is part ``part`` of; ``before`` the entry before.
    The last part of an entry has the ``sha256`` of its content, or says in ``void`` why it has none.
    """

    index: int
    entry: int
    part: int
    name: str
    stored: int
    size: int
    crc: int
    before: str = ""
    sha256: str = ""
    void: str = ""
    fill: str = ""


class End(msgspec.Struct, frozen=True, tag="end"):
    """The last head: how much there is before it, and its checksum."""

    frames: int
    entries: int
    bytes: int
    sha256: str


class Frame(msgspec.Struct, frozen=True):
    """A frame's bytes, and its head; None if the head is damaged."""

    head: Head | None
    data: bytes


class Damage(msgspec.Struct, frozen=True):
    """Something that is wrong with an archive. ``name`` is the entry, if it is known; ``loses`` is whether
    bytes of an entry are lost with it."""

    what: str
    name: str = ""
    loses: bool = True

    def __str__(self) -> str:
        return f"{self.name}: {self.what}" if self.name else self.what


class FrameWriter:
    """Makes the frames of one archive, in order.

    :param level: of the compression, 1 to 19.
    """

    def __init__(self, level: int) -> None:
        self._nonce = os.urandom(_NONCE_BYTES)
        self._compressor = zstd.ZstdCompressor(options=_options(level))
        self._hash = hashlib.sha256()
        self._bytes = 0
        self._index = 0
        self._entry = 0
        self._part = 0
        self._before = ""

    async def part(self, data: bytes, name: str) -> bytes:
        """A frame of the entry ``name``, of which more follow; with its head."""
        return await self._frame(data, name, "", "")

    async def last(self, data: bytes, name: str, sha256: str, void: str = "") -> bytes:
        """The last frame of the entry ``name``.

        :param sha256: of the content of the entry.
        :param void: why its content is not to be used, if it is not.
        """
        made = await self._frame(data, name, sha256, void)
        self._part = 0
        self._entry += 1
        self._before = name
        return made

    async def _frame(self, data: bytes, name: str, sha256: str, void: str) -> bytes:
        if len(data) <= _INLINE_BYTES:
            made = self._framed(data, name, sha256, void)
        else:
            made = await threads.working.run(self._framed, data, name, sha256, void)
        self._part += 1
        return made

    def _framed(self, data: bytes, name: str, sha256: str, void: str) -> bytes:
        stored = self._compressor.compress(data, mode=zstd.ZstdCompressor.FLUSH_FRAME)
        head = Head(
            self._index, self._entry, self._part, name, len(stored), len(data), zlib.crc32(stored),
            "" if self._part else self._before, sha256, void,
        )  # fmt: skip
        missing = len(data) // MAX_RATIO - len(stored)
        if missing > 0:
            head = msgspec.structs.replace(head, fill="-" * missing)
        # The first frame has no head: what tells the kind of a file by its first bytes is to see Zstandard.
        made = stored if self._index == 0 else self._head(head) + stored
        self._index += 1
        return self._counted(made)

    def end(self) -> bytes:
        """The end of the archive."""
        return self._head(End(self._index, self._entry, self._bytes, self._hash.hexdigest()))

    def _head(self, head: Head | End) -> bytes:
        content = msgspec.json.encode(head)
        start = _SKIPPABLE + (_PREFIX_BYTES - 8 + len(content)).to_bytes(4, "little") + _MARK + self._nonce
        return start + zlib.crc32(content, zlib.crc32(start)).to_bytes(4, "little") + content

    def _counted(self, made: bytes) -> bytes:
        self._hash.update(made)
        self._bytes += len(made)
        return made


class FrameReader:
    """Reads the frames of an archive, and says what is damaged.

    :param chunks: the bytes of the archive.
    """

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self._ahead = bytearray()
        self._is_over = False
        self._hash = hashlib.sha256()
        self._bytes = 0
        self._nonce = b""
        self._next = 0
        self._before: Head | None = None
        self._is_torn = False
        """Whether bytes were skipped that are neither a head nor a frame."""
        self._wrong = False
        """Whether the end does not agree with what is before it."""

    async def __aiter__(self) -> AsyncGenerator[Frame | Damage | End]:
        """:raises IntegrityError: these bytes are no archive of this library."""
        is_sound = True
        async for found in self._all():
            if isinstance(found, End) and is_sound and self._wrong:
                yield Damage("the archive does not agree with its checksum", loses=False)
            is_sound = is_sound and not isinstance(found, Damage)
            yield found

    async def _all(self) -> AsyncGenerator[Frame | Damage | End]:
        first = await self._first()
        try:
            yield Frame(None, _expanded(first, FRAME_BYTES))
        except ValueError as error:
            yield Damage(f"the first frame {error}")
        self._next = 1
        while True:
            before = self._bytes, self._hash.hexdigest()
            head = await self._head()
            if head is None and not self._ahead:
                yield Damage("the archive is truncated: it has no end", self._after())
                return
            if head is None:
                rescued = await self._behind_a_bad_head()
                following = await self._peek()
                if following is not None and _index(following) <= self._next:
                    rescued = None  # It is there again.
                self._is_torn = rescued is None  # What the next head tells of it is told then.
                if rescued is not None:
                    head = self._before_head(following)
                    if head is not None and (damage := self._out_of_order(head)) is not None:
                        yield damage
                    self._next = self._next if head is None else head.index
                    yield Damage(f"the head of frame {self._next} is damaged", self._after(), loses=False)
                    self._next, self._before = self._next + 1, head or self._before
                    yield Frame(head, rescued)
                continue
            if (damage := self._out_of_order(head)) is not None:
                yield damage
            self._is_torn = False
            if isinstance(head, End):
                self._wrong = before != (head.bytes, head.sha256)
                if self._ahead or await self._more():
                    yield Damage("there are bytes behind the end of the archive", loses=False)
                yield head
                return
            await self._fill(head.stored)
            stored = bytes(memoryview(self._ahead)[: head.stored])
            if head.index < self._next:
                self._take(len(stored))
                continue
            self._next, self._before = head.index + 1, head
            if len(stored) == head.stored and zlib.crc32(stored) == head.crc:
                self._take(head.stored)
                try:
                    yield Frame(head, await self._checked(head, stored))
                except ValueError as error:
                    yield Damage(f"frame {head.index} {error}", head.name)
            else:
                is_short = len(stored) < head.stored
                await self._skip_to_a_head(0)
                cut = is_short and not self._ahead
                yield Damage(f"frame {head.index} is {'cut off' if cut else 'damaged'}", head.name)

    def _before_head(self, following: Head | End | None) -> Head | None:
        """What the head of the frame before ``following`` has said, as far as that tells; None if it cannot
        be told which part of which entry it is."""
        if following is None:
            return None
        index, last = _index(following) - 1, self._before
        if isinstance(following, Head) and following.part:
            return Head(index, following.entry, following.part - 1, following.name, 0, 0, 0)
        if index != self._next or index != (0 if last is None else last.index) + 1:
            return None  # It may be all of its entry or the end of it.
        if isinstance(following, Head):
            entry, name = following.entry - 1, following.before
        else:
            entry, name = following.entries - 1, _LAST_ENTRY
        part = last.part + 1 if last is not None and last.entry == entry else 0
        return Head(index, entry, part, name, 0, 0, 0)

    def _out_of_order(self, head: Head | End) -> Damage | None:
        """What is wrong before this head."""
        count = _index(head) - self._next
        if count < 0:
            name = head.name if isinstance(head, Head) else ""
            return Damage("a frame is there again", name, loses=False)
        if count == 0:
            return Damage("bytes do not belong here", self._after(), loses=False) if self._is_torn else None
        lost = ("a frame is" if count == 1 else f"{count} frames are") + " damaged or missing"
        before = 0 if self._before is None else self._before.entry
        if isinstance(head, End):
            return Damage(lost, self._after())
        entries = head.entry - before - (head.part == 0)
        if entries == 0:
            return Damage(lost, "" if self._before is None else self._before.name)
        if entries == 1:
            return Damage(lost, head.name if head.part else head.before)
        return Damage(f"{lost}, and with them the {entries} entries before {head.name!r}", self._after())

    def _after(self) -> str:
        return "" if self._before is None else f"after {self._before.name}"

    async def _checked(self, head: Head, stored: bytes) -> bytes:
        if not 0 <= head.size <= FRAME_BYTES or head.size // MAX_RATIO > head.stored + len(head.fill):
            raise ValueError(f"expands to {head.size} bytes, which this library never writes")
        if head.size <= _INLINE_BYTES:
            return _expanded(stored, head.size)
        return await threads.working.run(_expanded, stored, head.size)

    # -- heads

    async def _first(self) -> bytes:
        """The first frame, which reaches to the first head."""
        while (at := self._mark_from(8)) < 0:
            if len(self._ahead) > 2 * _WINDOW_BYTES or not await self._more():
                raise IntegrityError(
                    "this is not an archive of this library, or no more than the beginning of one",
                    field="source",
                    remedy="give a file that backup has written; unpack others with tar --zstd",
                )
        self._nonce = bytes(self._ahead[at + len(_MARK) : at + len(_MARK) + _NONCE_BYTES])
        region = bytes(memoryview(self._ahead)[: at - 8])
        decoder = zstd.ZstdDecompressor(options=_LIMITS)
        with suppress(zstd.ZstdError):
            decoder.decompress(region, FRAME_BYTES)
        if decoder.eof:  # The head that follows may be damaged.
            return self._take(len(region) - len(decoder.unused_data))
        return self._take(self._ahead.find(_MARK + self._nonce, 8) - 8)

    def _mark_from(self, start: int) -> int:
        """Where the next mark is; -1 if none is in sight. The nonce of the first sound head is this
        archive's: what an object has that is an archive itself is not mistaken for a head."""
        while (at := self._ahead.find(_MARK + self._nonce, start)) >= 0 and not self._nonce:
            if self._decoded(at - 8) is not None:
                break
            start = at + 1
        return at

    async def _head(self) -> Head | End | None:
        """The head that comes next, taken; None if it is damaged or there is none."""
        head = await self._peek()
        if head is not None:
            self._take(8 + int.from_bytes(self._ahead[4:8], "little"))
        return head

    async def _peek(self) -> Head | End | None:
        """The head that comes next, which stays; None if it is damaged or there is none."""
        await self._fill(_PREFIX_BYTES)
        size = int.from_bytes(self._ahead[4:8], "little")
        if size <= _MAX_HEAD_BYTES:
            await self._fill(8 + size)
        return self._decoded(0)

    def _decoded(self, at: int) -> Head | End | None:
        size = int.from_bytes(self._ahead[at + 4 : at + 8], "little")
        found = bytes(self._ahead[at : at + min(8 + size, _MAX_HEAD_BYTES)])
        start, content = found[: _PREFIX_BYTES - 4], found[_PREFIX_BYTES:]
        if len(found) != 8 + size or not start.startswith(_SKIPPABLE) or start[8 : 8 + len(_MARK)] != _MARK:
            return None
        crc = int.from_bytes(found[_PREFIX_BYTES - 4 : _PREFIX_BYTES], "little")
        if zlib.crc32(content, zlib.crc32(start)) != crc or self._nonce not in (b"", start[-_NONCE_BYTES:]):
            return None
        try:
            head = _decode(content)
        except msgspec.MsgspecError:
            return None
        if isinstance(head, Head) and not 0 <= head.stored <= _MAX_STORED_BYTES:
            return None
        return head

    async def _behind_a_bad_head(self) -> bytes | None:
        """The frame whose head is damaged, if it is sound itself: its own checksum tells."""
        region = await self._skip_to_a_head(9)
        at, most = region.find(_ZSTANDARD), min(len(region) * MAX_RATIO, FRAME_BYTES)
        for _ in range(_SALVAGES):
            if at < 0:
                return None
            try:
                return await threads.working.run(_expanded, region[at:], most)
            except ValueError:
                at = region.find(_ZSTANDARD, at + 1)
        return None

    async def _skip_to_a_head(self, start: int) -> bytes:
        """Skip to the next head, or to the end; what was skipped, unless it is too long for a frame."""
        is_long = False
        while (at := self._mark_from(start + 8 if start == 0 else start)) < 0:
            if not await self._more():
                return b"" if is_long else self._take(len(self._ahead))
            if len(self._ahead) > _WINDOW_BYTES:
                self._take(len(self._ahead) - _PREFIX_BYTES)
                is_long, start = True, 0
        skipped = self._take(at - 8)
        return b"" if is_long else skipped

    # -- bytes

    async def _more(self) -> bool:
        async for chunk in self._chunks:
            self._ahead += chunk
            return True
        self._is_over = True
        return False

    async def _fill(self, count: int) -> None:
        while len(self._ahead) < count and not self._is_over:
            await self._more()

    def _take(self, count: int) -> bytes:
        taken = bytes(memoryview(self._ahead)[:count])
        del self._ahead[:count]
        self._hash.update(taken)
        self._bytes += len(taken)
        return taken


def _index(head: Head | End) -> int:
    return head.index if isinstance(head, Head) else head.frames


def _expanded(stored: bytes, most: int) -> bytes:
    """What one whole frame expands to. :raises ValueError: it is not one, or expands to more."""
    decoder = zstd.ZstdDecompressor(options=_LIMITS)
    try:
        data = decoder.decompress(stored, most + 1)
    except zstd.ZstdError as error:
        raise ValueError("cannot be expanded") from error
    if not decoder.eof or decoder.unused_data or len(data) > most:
        raise ValueError("is not one frame of the size that it says")
    return data


def _options(level: int) -> dict[int, int]:
    parameter = zstd.CompressionParameter
    return {parameter.compression_level: level, parameter.checksum_flag: 1}


_LIMITS: Any = {zstd.DecompressionParameter.window_log_max: 23}
_decode = msgspec.json.Decoder(Head | End).decode
