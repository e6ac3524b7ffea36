"""Reading an archive entry by entry, from a file or a pipe, whatever has happened to it."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress

from storage_lib.archive.entries import About, parsed
from storage_lib.archive.frames import Damage, End, Frame, FrameReader
from storage_lib.errors import IntegrityError
from storage_lib.threads import working

_INLINE_BYTES = 64 * 1024


class VoidEntryError(IntegrityError):
    """The backup could not read an object to its end; the report in the archive says what became of it."""


class Entry:
    """An entry of an archive: ``about`` it, and its content.

    ``is_whole`` is whether the content is at hand; else it has to be read before the next entry is.
    """

    def __init__(self, about: About, frame: Frame, start: int, reader: ArchiveReader) -> None:
        self.about = about
        self.is_whole = len(frame.data) - start >= about.size
        self.is_begun = False
        self.sha256 = about.sha256
        """The checksum of the content; empty until it has been read, if the header does not tell."""
        self._frame = frame
        self._start = start
        self._reader = reader

    async def content(self) -> AsyncGenerator[bytes]:
        """The content in pieces, once. The last one comes only when all of it has been verified.

        :raises IntegrityError: it is damaged.
        :raises VoidEntryError: the backup could not read it to its end.
        """
        self.is_begun = True
        frame, start, part = self._frame, self._start, 0
        left = self.about.size
        digest = hashlib.sha256()
        held = b""
        while True:
            data = frame.data[start : start + left]
            left -= len(data)
            if len(data) > _INLINE_BYTES:
                await working.run(digest.update, data)
            else:
                digest.update(data)
            if not left:
                self._verify(frame, digest.hexdigest())
            if held:
                yield held
            if not left:
                yield data
                return
            held, start, part = data, 0, part + 1
            frame = await self._reader.next_of(self.about, frame, part)

    async def read(self) -> bytes:
        """All of the content."""
        return b"".join([piece async for piece in self.content()])

    async def drain(self) -> None:
        """Verify the content, if it has not been read. The errors are those of `content`."""
        if not self.is_begun:
            async for _ in self.content():
                pass

    def _verify(self, frame: Frame, digest: str) -> None:
        told = "" if frame.head is None else frame.head.sha256
        if frame.head is not None and frame.head.void:
            self._reader.ended()
            raise VoidEntryError(f"{self.about.label}: {frame.head.void}", field="source")
        if (told or digest) != digest or (self.about.sha256 or digest) != digest:
            raise self._reader.broken(self.about, "its content does not agree with its checksum")
        self.sha256 = digest
        self._reader.ended()


class ArchiveReader:
    """The entries of an archive in their order, each verified, and what is wrong with it.

    :param chunks: the bytes of the archive.
    """

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._frames = aiter(FrameReader(chunks))
        self._damage: list[Damage] = []
        self._ahead: Frame | None = None
        self._follows = True
        """Whether the next frame is known to follow the end of an entry."""
        self.end: End | None = None
        """The end of the archive, when it has been read; None if it is missing."""

    async def __aiter__(self) -> AsyncGenerator[Entry | Damage]:
        """What is not read of an entry when the next one is asked for is verified and skipped.

        :raises IntegrityError: the bytes are no archive of this library.
        """
        while (frame := await self._next()) is not None:
            for damage in self._told():
                yield damage
            head = frame.head
            if head is not None and head.part > 0:
                continue  # The rest of an entry that is damaged, or was given up.
            if head is None and not self._follows:
                yield Damage("the entry behind a damaged head cannot be told from the rest of another")
                continue
            try:
                about, start = parsed(frame.data)
            except ValueError as error:
                yield Damage(f"the entry {error}; it is refused", "" if head is None else head.name)
                continue
            self._follows = False
            entry = Entry(about, frame, start, self)
            yield entry
            with suppress(IntegrityError):  # `broken` has told.
                await entry.drain()
            for damage in self._told():
                yield damage
        for damage in self._told():
            yield damage

    async def next_of(self, about: About, before: Frame, part: int) -> Frame:
        """The next frame of an entry.

        :raises IntegrityError: it is lost.
        """
        known = len(self._damage)
        frame = await self._next()
        lost = any(damage.loses for damage in self._damage[known:])
        if frame is None:
            raise self.broken(about, "the archive ends within it")
        head, last = frame.head, before.head
        follows = head is None or (head.part == part and (last is None or head.entry == last.entry))
        if lost or not follows:
            self._ahead = frame
            raise self.broken(about, "a part of it is missing")
        return frame

    def broken(self, about: About, what: str) -> IntegrityError:
        """The error of an entry that is damaged, which is told unless its damage has been."""
        if not any(damage.loses and damage.name == about.label for damage in self._damage):
            self._damage.append(Damage(what, about.label))
        return IntegrityError(f"{about.label}: {what}", field="source")

    def ended(self) -> None:
        """An entry has ended, and was sound."""
        self._follows = True

    async def _next(self) -> Frame | None:
        frame, self._ahead = self._ahead, None
        while frame is None:
            found = await anext(self._frames, None)
            if found is None:
                return None
            if isinstance(found, Frame):
                frame = found
            elif isinstance(found, End):
                self.end = found
            else:
                self._damage.append(found)
                self._follows = self._follows and not found.loses
        return frame

    def _told(self) -> list[Damage]:
        damage, self._damage = self._damage, []
        return damage
