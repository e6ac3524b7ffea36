"""Restore: the objects, tables and messages of an archive into a store; and what is in an archive."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import aclosing

import msgspec

from storage_lib.archive.entries import FORMAT, FORMAT_WITH_QUEUES, About
from storage_lib.archive.frames import Damage
from storage_lib.archive.places import Place, read_from
from storage_lib.archive.queues import RestoredQueues
from storage_lib.archive.reading import ArchiveReader, Entry, VoidEntryError
from storage_lib.archive.reports import BackupReport, RestoreReport, VerifyReport
from storage_lib.archive.stores import Layers, Objects
from storage_lib.archive.tables import restore_lines
from storage_lib.arguments import several, whole
from storage_lib.errors import (
    IntegrityError,
    InvalidArgumentError,
    ObjectExistsError,
    ObjectTooLargeError,
    StorageError,
    StorageUnavailableError,
)
from storage_lib.keys import validate_prefix
from storage_lib.manager import StorageManager
from storage_lib.names import table_name
from storage_lib.ports import expiry
from storage_lib.ports.streaming import Parts
from storage_lib.reserved_names import MESSAGES, has_conversations
from storage_lib.several import Several

_MAX_PART_BYTES = 64 * 1024 * 1024
"""No part of a table or a queue is so long."""
_MAX_REPORT_BYTES = 16 * 1024 * 1024

Progress = Callable[[RestoreReport], None]


async def restore(
    storage: StorageManager,
    source: Place,
    *,
    prefix: str = "",
    into: str | None = None,
    tables: bool | Iterable[str] = True,
    queues: bool | Iterable[str] = False,
    layers: Layers = "open",
    overwrite: bool = False,
    dry_run: bool = False,
    max_bytes: int | None = None,
    concurrency: int = 16,
    progress: Progress | None = None,
) -> RestoreReport:
    """Store what is in an archive that `backup` has written.

    What is there already, just the same, is left alone: a restore that was cut off is run again, and goes on.
    What is damaged in the archive is named in the report, and everything else is restored; no object is
    stored before all of it is verified. The archive may come from anybody: keys, metadata and sizes are
    checked like those of any other caller, and nothing is written but objects and tables of this store,
    and messages where they are asked for.

    :param storage: the store.
    :param source: as for `backup`.
    :param prefix: only objects whose keys start with it.
    :param into: what their keys start with instead.
    :param tables: also restore the tables of the archive: all, none, or those with these names.
    :param queues: likewise also send the messages of queues; by default none, as they make work. To a queue
        that has messages already they are sent only with ``overwrite``, beside those.
    :param layers: as for `backup`: a sealed archive needs ``sealed``, and an open one ``open``.
    :param overwrite: replace objects and entities that are there and differ. Without it they are ``kept``.
    :param dry_run: store nothing, and report what would be done.
    :param max_bytes: the most that the objects may have together; None means no limit.
    :param concurrency: how many small objects to store at a time.
    :param progress: called with the report so far, again and again.
    :return: what was done, what could not be, and what is damaged. A table or queue that is named and is not
        in the archive has failed.
    :raises IntegrityError: this is not an archive of this library.
    :raises ObjectTooLargeError: there are more than ``max_bytes``; what was restored stays.
    :raises StorageUnavailableError: the store cannot be reached; what was restored stays.
    """
    validate_prefix(prefix)
    whole("concurrency", concurrency, 1)
    if max_bytes is not None:
        whole("max_bytes", max_bytes, 0)
    objects = Objects(storage, layers)
    if into is not None:
        validate_prefix(into)
        if objects.is_sealed:
            raise InvalidArgumentError(
                "sealed objects are bound to their keys",
                field="into",
                remedy="restore them where they were, and move them through the layers",
            )
    given: dict[str, str] = {}
    if not isinstance(tables, bool):
        given = {table_name(name).lower(): name for name in several("tables", tables)}
    chosen = tables if isinstance(tables, bool) else set(given)
    run = _Restore(storage, objects, prefix, into, chosen, overwrite, dry_run, max_bytes, progress)
    named = queues if isinstance(queues, bool) else set(several("queues", queues))
    run.queues = RestoredQueues(storage, named, run.report, overwrite=overwrite, dry_run=dry_run)
    await run.all(read_from(source), concurrency)
    for kind, wanted, seen in (
        ("table", given, run.seen_tables),
        ("queue", {name: name for name in named} if isinstance(named, set) else {}, run.queues.seen),
    ):
        for name in wanted.keys() - seen:
            run.report.failed.add(f"{kind} {wanted[name]}", "it is not in the archive")
    return run.report


class _Restore:
    def __init__(
        self,
        storage: StorageManager,
        objects: Objects,
        prefix: str,
        into: str | None,
        tables: bool | set[str],
        overwrite: bool,
        dry_run: bool,
        max_bytes: int | None,
        progress: Progress | None,
    ) -> None:
        self._storage = storage
        self._objects = objects
        self._prefix = prefix
        self._into = into
        self._tables = tables
        self._takes_messages = tables if isinstance(tables, bool) else any(map(has_conversations, tables))
        self._overwrite = overwrite
        self._dry_run = dry_run
        self._max_bytes = max_bytes
        self._progress = progress
        self._bytes = 0
        self.report = RestoreReport()
        self.seen_tables: set[str] = set()
        """The tables of the archive, as stores call them, if some are chosen by name."""
        self.queues: RestoredQueues

    async def all(self, chunks: AsyncGenerator[bytes], concurrency: int) -> None:
        async with aclosing(chunks):
            reader = ArchiveReader(chunks)
            async with Several(concurrency) as storing, aclosing(aiter(reader)) as entries:
                async for found in entries:
                    if isinstance(found, Damage):
                        self.report.damaged(found)
                    else:
                        await self._entry(found, storing)
                    if self._progress is not None:
                        self._progress(self.report)
            self.report.complete = reader.end is not None

    async def _entry(self, entry: Entry, storing: Several) -> None:
        about = entry.about
        if about.kind == "archive":
            check_format(about)
            if about.sealed is not self._objects.is_sealed:
                raise InvalidArgumentError(
                    "the archive has objects as a store has them, sealed"
                    if about.sealed
                    else "the archive has objects as callers see them, not sealed",
                    field="layers",
                    remedy=f"restore it with layers={'sealed' if about.sealed else 'open'!r}",
                )
        elif about.kind == "report":
            if (said := await report_in(entry)) is not None:
                self.report.missing = said.failed
        elif about.kind == "table":
            if self._wants(about.name):
                await self._table(entry)
        elif about.kind == "queue":
            if await self.queues.wants(about.name) and (lines := await self._lines(entry)) is not None:
                await self.queues.send(about.name, lines)
        elif self._takes_messages if about.name.startswith(MESSAGES) else about.name.startswith(self._prefix):
            await self._object(entry, storing)

    async def _table(self, entry: Entry) -> None:
        name = entry.about.name
        try:
            table_name(name)
        except StorageError as error:
            self.report.failed.add(entry.about.label, error)
            return
        if (lines := await self._lines(entry)) is not None:
            await restore_lines(
                self._storage, name, lines, self.report, overwrite=self._overwrite, dry_run=self._dry_run
            )

    async def _lines(self, entry: Entry) -> bytes | None:
        """A part of a table or a queue; None if it cannot be read, which is told."""
        try:
            if entry.about.size > _MAX_PART_BYTES:
                raise ObjectTooLargeError(f"{entry.about.label} has a part of {entry.about.size} bytes")
            return await entry.read()
        except IntegrityError:
            return None  # The reader tells of it.
        except StorageError as error:
            self.report.failed.add(entry.about.label, error)
            return None

    def _wants(self, table: str) -> bool:
        if isinstance(self._tables, bool):
            return self._tables
        try:
            name = table_name(table).lower()
        except StorageError:
            return False
        self.seen_tables.add(name)
        return name in self._tables

    async def _object(self, entry: Entry, storing: Several) -> None:
        about = entry.about
        key = about.name
        if self._into is not None and not key.startswith(MESSAGES):
            key = self._into + key[len(self._prefix) :]
        try:
            self._objects.checked(key, about.type, about.metadata)
        except StorageError as error:
            self.report.failed.add(about.name, error)
            return
        self._bytes += about.size
        if self._max_bytes is not None and self._bytes > self._max_bytes:
            raise ObjectTooLargeError(
                f"the archive has more than {self._max_bytes} bytes of objects",
                field="max_bytes",
                limit=f"{self._max_bytes} bytes",
                remedy="set max_bytes higher if the archive can be trusted",
            )
        until = expiry.end_in(about.metadata)
        if until is not None and until <= self._objects.store.clock():
            self.report.expired += 1
            return
        if not entry.is_whole:
            await self._store(key, about, entry)
            return
        try:
            data = await entry.read()
        except IntegrityError:
            return  # The reader tells of it.
        await storing.start(self._store(key, about, data))

    async def _store(self, key: str, about: About, content: bytes | Entry) -> None:
        """Store an object, unless it is there."""
        try:
            # A large one is not sent only to be refused.
            if (self._overwrite or isinstance(content, Entry)) and await self._is_there(key, about, content):
                return
            if self._dry_run:
                if not self._overwrite and await self._is_there(key, about, content):
                    return
                if isinstance(content, Entry):
                    await content.drain()
            else:
                try:
                    await self._put(key, about, content)
                except ObjectExistsError:
                    if not await self._is_there(key, about, content):
                        raise
                    return
            self._done(about)
        except VoidEntryError:
            pass  # It comes again, or the report in the archive names it.
        except IntegrityError as error:
            if not isinstance(content, Entry):  # The reader tells of it.
                self.report.failed.add(key, error)
        except StorageUnavailableError:
            raise
        except StorageError as error:
            self.report.failed.add(key, error)

    def _done(self, about: About) -> None:
        self.report.restored += 1
        self.report.bytes += about.size

    async def _put(self, key: str, about: About, content: bytes | Entry) -> None:
        store, absent = self._objects.store, not self._overwrite
        data = content
        if isinstance(data, Entry):
            async with aclosing(data.content()) as pieces:
                parts = Parts(self._shown(pieces), store.part_bytes, store.max_stream_bytes)
                await self._objects.put(key, parts, about.type, about.metadata, if_absent=absent)
        else:
            await self._objects.put(key, data, about.type, about.metadata, if_absent=absent)

    async def _shown(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for piece in pieces:
            if self._progress is not None:
                self._progress(self.report)
            yield piece

    async def _is_there(self, key: str, about: About, content: bytes | Entry) -> bool:
        """Whether nothing is to be stored, which is told: it is there, the same or to be kept."""
        there = await self._objects.metadata(key)
        if there is None:
            return False
        info, metadata = there
        same = (info.size, info.content_type, metadata) == (about.size, about.type, about.metadata)
        if same:
            digest = about.sha256
            if not digest and isinstance(content, Entry) and not self._overwrite:
                await content.drain()  # Another program had stored it, without a checksum.
                digest = content.sha256
            same = info.sha256 is not None and info.sha256 == digest
        if same:
            self.report.unchanged += 1
        elif not self._overwrite:
            self.report.kept.add(key)
        return same or not self._overwrite


def check_format(about: About) -> None:
    """:raises IntegrityError: a later version of this library has written the archive."""
    if about.format not in (FORMAT, FORMAT_WITH_QUEUES):
        raise IntegrityError(
            f"the archive has the format {about.format}, and this library reads {FORMAT_WITH_QUEUES}",
            field="source",
            remedy="use the version of this library that has written it, or a later one",
        )


async def report_in(entry: Entry) -> BackupReport | None:
    """The report that a backup has left in its archive; None if it is damaged."""
    if entry.about.size > _MAX_REPORT_BYTES:
        return None
    try:
        return msgspec.json.decode(await entry.read(), type=BackupReport)
    except (IntegrityError, msgspec.MsgspecError):
        return None


async def verify(source: Place) -> VerifyReport:
    """Read an archive to its end, and say what is in it and what is damaged. No store is needed.

    :raises IntegrityError: this is not an archive of this library.
    """
    report = VerifyReport()
    async with aclosing(read_from(source)) as chunks:
        reader = ArchiveReader(chunks)
        async for found in reader:
            if isinstance(found, Damage):
                report.damaged(found)
                continue
            about = found.about
            if about.kind == "archive":
                check_format(about)
                report.sealed = about.sealed
            elif about.kind == "report":
                if (said := await report_in(found)) is not None:
                    report.missing = said.failed
            else:
                try:
                    lines = 0
                    async for piece in found.content():
                        lines += piece.count(b"\n")
                except IntegrityError:
                    continue
                if about.kind == "table":
                    report.entities += lines
                elif about.kind == "queue":
                    report.messages += lines
                else:
                    report.objects += 1
                    report.bytes += about.size
        report.complete = reader.end is not None
    return report
