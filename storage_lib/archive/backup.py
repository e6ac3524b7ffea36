"""Backup: objects, tables and messages into one archive, streamed with constant memory."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import replace
from typing import Literal, NamedTuple

import msgspec

from storage_lib.archive.cutting import Cut
from storage_lib.archive.entries import (
    END_OF_TAR,
    FORMAT,
    FORMAT_WITH_QUEUES,
    About,
    Paths,
    part_path,
    tar_header,
)
from storage_lib.archive.frames import FRAME_BYTES, FrameWriter
from storage_lib.archive.places import Place, StoredArchive, check_target, write_to
from storage_lib.archive.queues import messages_of, queues_of
from storage_lib.archive.reports import BackupReport
from storage_lib.archive.stores import Layers, Objects
from storage_lib.archive.tables import lines_of, tables_of
from storage_lib.arguments import whole
from storage_lib.errors import (
    KeyNotFoundError,
    PreconditionFailedError,
    StorageError,
    StorageUnavailableError,
)
from storage_lib.keys import validate_prefix
from storage_lib.manager import StorageManager
from storage_lib.ports import unlisted
from storage_lib.ports.object_model import ListEntry, ObjectInfo
from storage_lib.reserved_names import MESSAGES, has_conversations

_AHEAD_BYTES = FRAME_BYTES // 2
"""Objects up to this size are read ahead, several at a time; larger ones are streamed, one at a time."""
_ATTEMPTS = 3

Progress = Callable[[BackupReport], None]


async def backup(
    storage: StorageManager,
    target: Place,
    *,
    prefix: str = "",
    tables: Iterable[str] | None = None,
    queues: Iterable[str] = (),
    layers: Layers = "open",
    overwrite: bool = False,
    level: int = 3,
    concurrency: int = 16,
    progress: Progress | None = None,
) -> BackupReport:
    """Write objects and tables into an archive, which `restore` reads, and any ``tar --zstd``.

    Objects keep their content type, metadata, end of life and versions. The store may be used meanwhile: each
    object is in the archive as it was at one moment of the backup, but not all at the same moment.

    :param storage: the store.
    :param target: a path, a binary file object such as ``sys.stdout.buffer``, or a `StoredArchive`. A file or
        an object appears only when it is complete.
    :param prefix: only objects whose keys start with it.
    :param tables: the tables that are to be in it, by their names or by patterns with ``*``, ``?`` and
        ``[a-z]``. None means all if there is no prefix, and none otherwise. Those of tasks and of an audit
        log have to be named.
    :param queues: the names of queues whose messages are to be in it. To be read, they are received, which
        counts as a delivery, and are hidden for others meanwhile; hidden ones are reported as failed.
    :param layers: ``open`` puts objects into the archive as callers see them: decrypted, for whoever has the
        archive. ``sealed`` leaves them encrypted and compressed as they are stored; who restores them needs
        the same keys. Tables are not encrypted in either.
    :param overwrite: replace an archive that is there.
    :param level: of the compression, 1 (fast) to 19 (small).
    :param concurrency: how many small objects to read at a time.
    :param progress: called with the report so far, again and again.
    :return: what is in the archive; what could not be read is in ``failed``.
    :raises ObjectExistsError: the target is there already, and ``overwrite`` is not set.
    :raises StorageUnavailableError: the store cannot be reached; there is no archive.
    """
    validate_prefix(prefix)
    whole("level", level, 1, 19)
    whole("concurrency", concurrency, 1)
    check_target(target, overwrite)
    chosen = await tables_of(storage, tables, prefix)
    named = await queues_of(storage, queues)
    run = _Backup(storage, Objects(storage, layers), FrameWriter(level), concurrency, progress)
    if isinstance(target, StoredArchive) and target.storage.backend is storage.backend:
        run.own = target.key
    is_all = tables is None and not prefix
    run.takes_messages = is_all or any(map(has_conversations, chosen.names))
    with unlisted.collected() as left_out:
        run.left_out = left_out
        run.report.tables_left_out = chosen.left_out
        await write_to(target, run.archive(prefix, chosen.names, named), overwrite)
    return run.report


class _Read(NamedTuple):
    info: ObjectInfo
    metadata: dict[str, str]
    data: bytes


class _Backup:
    def __init__(
        self,
        storage: StorageManager,
        objects: Objects,
        frames: FrameWriter,
        concurrency: int,
        progress: Progress | None,
    ) -> None:
        self._storage = storage
        self._objects = objects
        self._frames = frames
        self._concurrency = concurrency
        self._progress = progress
        self.own: str | None = None
        """The key of the archive itself, if it is in the same store."""
        self.left_out: dict[str, None] = {}
        """Names that no key can address, filled in by listings."""
        self.takes_messages = False
        """Whether the objects that rows of conversations refer to are taken along."""
        self.report = BackupReport()

    async def archive(self, prefix: str, tables: list[str], queues: list[str]) -> AsyncGenerator[bytes]:
        """The bytes of the archive."""
        version = FORMAT_WITH_QUEUES if queues else FORMAT
        about = About(
            "archive", prefix, 0, modified=int(time.time()), format=version, sealed=self._objects.is_sealed
        )
        async for frame in self._member(about, "archive", b""):
            yield self._counted(frame)
        async with aclosing(self._entries(prefix, tables, queues)) as made:
            async for frame in made:
                yield self._counted(frame)
        self.report.unlisted = list(self.left_out)
        content = msgspec.json.encode(self.report)
        about = About("report", "", len(content), modified=int(time.time()))
        async for frame in self._member(about, "report.json", content, END_OF_TAR):
            yield self._counted(frame)
        yield self._counted(self._frames.end())

    def _counted(self, frame: bytes) -> bytes:
        self.report.archive_bytes += len(frame)
        if self._progress is not None:
            self._progress(self.report)
        return frame

    async def _member(
        self, about: About, path: str, content: bytes, behind: bytes = b""
    ) -> AsyncGenerator[bytes]:
        """The frames of a member whose content is at hand: one, unless it is large."""
        cut = Cut(tar_header(about, path), about.size)
        async for data in cut.take(content):
            yield await self._frames.part(data, about.label)
        yield await self._frames.last(cut.rest() + behind, about.label, cut.digest.hexdigest())

    async def _entries(self, prefix: str, tables: list[str], queues: list[str]) -> AsyncGenerator[bytes]:
        async with aclosing(self._below(prefix)) as frames:
            async for frame in frames:
                yield frame
        for table in tables:
            async with aclosing(self._parts("table", table, lines_of(self._storage, table))) as frames:
                async for frame in frames:
                    yield frame
        if self.takes_messages:
            # After their rows, so that none that is appended meanwhile lacks its own.
            async with aclosing(self._below(MESSAGES)) as frames:
                async for frame in frames:
                    yield frame
        for queue in queues:
            messages = messages_of(self._storage, queue, self.report)
            async with aclosing(self._parts("queue", queue, messages)) as frames:
                async for frame in frames:
                    yield frame

    async def _parts(
        self, kind: Literal["table", "queue"], name: str, parts: AsyncGenerator[tuple[bytes, int]]
    ) -> AsyncGenerator[bytes]:
        """The frames of a table or a queue, a member for each of its parts."""
        number = 0
        try:
            async with aclosing(parts):
                async for lines, count in parts:
                    number += 1
                    about = About(kind, name, len(lines), modified=int(time.time()))
                    async for frame in self._member(about, part_path(kind, name, number), lines):
                        yield frame
                    if kind == "table":
                        self.report.entities += count
                    else:
                        self.report.messages += count
        except StorageError as error:
            self._lost(f"{kind} {name}", error)
            return
        if kind == "table":
            self.report.tables += 1
        else:
            self.report.queues += 1

    async def _below(self, prefix: str) -> AsyncGenerator[bytes]:
        paths = Paths()
        async with aclosing(self._ahead(prefix)) as listed:
            async for entry, read in listed:
                if read is not None:
                    about = _about(read.info, read.metadata)
                    async for frame in self._member(about, paths.path(entry.key), read.data):
                        yield frame
                    self._got(about)
                else:
                    async with aclosing(self._streamed(entry, paths.path(entry.key))) as frames:
                        async for frame in frames:
                            yield frame

    def _got(self, about: About) -> None:
        self.report.objects += 1
        self.report.bytes += about.size

    async def _ahead(self, prefix: str) -> AsyncGenerator[tuple[ListEntry, _Read | None]]:
        """What is listed, each with its object, or with None if it has to be streamed."""
        waiting: deque[tuple[ListEntry, asyncio.Task[_Read | None] | None]] = deque()
        try:
            async for entry in self._objects.list(prefix):
                assert isinstance(entry, ListEntry)  # noqa: S101 - there is no delimiter
                if entry.key == self.own:
                    continue
                is_large = entry.size is not None and entry.size > _AHEAD_BYTES
                waiting.append((entry, None if is_large else asyncio.create_task(self._small(entry.key))))
                if len(waiting) >= self._concurrency:
                    async for found in self._ready(*waiting.popleft()):
                        yield found
            while waiting:
                async for found in self._ready(*waiting.popleft()):
                    yield found
        finally:
            for _, task in waiting:
                if task is not None:
                    task.cancel()
            await asyncio.gather(*(task for _, task in waiting if task is not None), return_exceptions=True)

    async def _ready(
        self, entry: ListEntry, task: asyncio.Task[_Read | None] | None
    ) -> AsyncGenerator[tuple[ListEntry, _Read | None]]:
        if task is None:
            yield entry, None
            return
        try:
            read = await task
        except StorageError as error:
            self._lost(entry.key, error)
            return
        if read is not None:
            self._compare(entry, read.info)
        yield entry, read

    async def _small(self, key: str) -> _Read | None:
        for attempt in range(_ATTEMPTS):
            try:
                async with self._objects.open(key) as (reader, metadata):
                    if reader.info.size > _AHEAD_BYTES:
                        return None
                    data = await reader.read()
                    digest = reader.info.sha256 or hashlib.sha256(data).hexdigest()
                    return _Read(replace(reader.info, sha256=digest), metadata, data)
            except PreconditionFailedError:  # Changed while it was read.
                if attempt == _ATTEMPTS - 1:
                    raise
        raise AssertionError

    def _compare(self, entry: ListEntry, info: ObjectInfo) -> None:
        if entry.etag is not None and not info.has_etag(entry.etag):
            self.report.changed.add(entry.key)

    def _lost(self, name: str, error: StorageError) -> None:
        if isinstance(error, StorageUnavailableError):
            raise error  # The others would fail alike.
        if isinstance(error, KeyNotFoundError):
            self.report.deleted.add(name)
        else:
            self.report.failed.add(name, error)

    async def _streamed(self, entry: ListEntry, path: str) -> AsyncGenerator[bytes]:
        """The frames of a large object. One that changes while it is read leaves an entry without content,
        and is read again."""
        key = entry.key
        for _ in range(_ATTEMPTS):
            failure: StorageError | None = None
            try:
                async with self._objects.open(key) as (reader, metadata):
                    about = _about(reader.info, metadata)
                    cut = Cut(tar_header(about, path), about.size)
                    try:
                        async for chunk in reader:
                            async for data in cut.take(chunk):
                                yield await self._frames.part(data, about.label)
                        cut.check()
                    except StorageUnavailableError:
                        raise  # It is not filled up: there will be no archive.
                    except StorageError as error:
                        failure = error
            except StorageError as error:
                self._lost(key, error)
                return
            # An entry has the size that its header says, whatever happens.
            async for data in cut.filled():
                yield await self._frames.part(data, about.label)
            void = "" if failure is None else str(failure) or "it could not be read"
            yield await self._frames.last(cut.rest(), about.label, cut.digest.hexdigest(), void)
            if failure is None:
                self._compare(entry, reader.info)
                self._got(about)
                return
            if not isinstance(failure, PreconditionFailedError):
                self._lost(key, failure)
                return
        self.report.failed.add(key, "it changed each time while it was read")


def _about(info: ObjectInfo, metadata: dict[str, str]) -> About:
    return About(
        "object",
        info.key,
        info.size,
        info.content_type,
        metadata,
        max(0, int(info.last_modified.timestamp())),
        info.sha256 or "",
    )
