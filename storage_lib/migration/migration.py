"""`Migration`: one run over two stores."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING

from storage_lib.errors import (
    InvalidArgumentError,
    KeyNotFoundError,
    StorageError,
    StorageUnavailableError,
    UnsupportedOperationError,
)
from storage_lib.migration.copying import ObjectCopier, Outcome
from storage_lib.migration.listing import listed
from storage_lib.migration.options import MigrationOptions
from storage_lib.migration.pairing import Pair, paired
from storage_lib.migration.report import MigrationReport
from storage_lib.migration.views import Open, Sealed, View
from storage_lib.ports.object_model import ListEntry
from storage_lib.several import Several

if TYPE_CHECKING:
    from storage_lib.manager import StorageManager

_CURRENT = "/current"
"""How the names of objects end that may say which versions there are (`storage_lib.version_record`)."""
_AWAY = 20
"""After so many objects in a row that failed because a store was away, the run ends: the others would too."""


class Migration:
    """Copies from one store to another. A run that was stopped, however it was, is continued by running the
    same migration again, from any machine: what has been copied is skipped, and a large object is continued
    where it was cut off.

    :param source: what is read; nothing is changed in it, but that messages leave queues that are named.
    :param target: what is written.
    :param options: what to copy, and how; by default all objects and all tables.
    :param on_object: told the key and the outcome of each object, as a word of `MigrationReport`: ``copied``,
        ``updated``, ``skipped``, ``vanished``, ``deleted`` or ``failed``; and likewise of each entity
        (``table people, entity 'eu' '1'``) and of the messages of a queue, which are ``moved``.
    :raises InvalidArgumentError: both are the same store, and what is copied would be its own source.
    """

    def __init__(
        self,
        source: StorageManager,
        target: StorageManager,
        options: MigrationOptions | None = None,
        *,
        on_object: Callable[[str, str], object] | None = None,
    ) -> None:
        self.source = source
        self.target = target
        self.options = options or MigrationOptions()
        self.report = MigrationReport(dry_run=self.options.dry_run)
        """What has been done so far, while it runs too."""
        self._on_object = on_object
        self._check_apart()
        view = Sealed if self.options.layers == "sealed" else Open
        self._from: View = view(source.backend.objects)
        self._to: View = view(target.backend.objects)
        self._span = self.options.span
        self._away = 0
        self._has_pointers = False
        origin = source.backend.place("objects")
        self._copier = ObjectCopier(self._from, self._to, self.options, self.report, origin)

    async def run(self) -> MigrationReport:
        """Copy, and return what was done. What fails is named in the report, and the others go on.

        :raises StorageUnavailableError: one of the stores is away; what was done stays done.
        """
        began = time.monotonic()
        try:
            tables = await self.chosen_tables()
            if self.options.queues:
                from storage_lib.migration.queues import check_queues  # Only where it is used.

                await check_queues(self.options, self.source)
            if self.options.objects:
                await self._objects()
            if tables:
                await self._tables(tables)
            if self.options.takes_tables:
                await self._messages(tables)
            if self.options.queues:
                await self._queues()
        finally:
            self.report.seconds += time.monotonic() - began
        return self.report

    # -- tables and queues

    async def chosen_tables(self) -> list[str]:
        """The tables that it copies.

        :raises InvalidArgumentError: source and target have the same.
        :raises KeyNotFoundError: the source does not have one that is named.
        """
        chosen: list[str] = []
        if self.options.takes_tables:
            from storage_lib.migration.tables import tables_of

            chosen, self.report.tables_left_out = await tables_of(self.options, self.source)
        wanted = (
            ("tables", chosen if self.options.tables is not None else []),
            ("queues", self.options.queues),
        )
        for field, names in wanted:
            if names and self._shares(field):
                raise InvalidArgumentError(
                    f"source and target have the same {field}", field=field, remedy=f"copy none: {field}=()"
                )
        return [] if self._shares("tables") else chosen

    async def _tables(self, names: list[str]) -> None:
        from storage_lib.migration.tables import TableCopier

        copier = TableCopier(self.source, self.target, self.options, self.report, self._on_object)
        for name in names:
            await copier.copy(name)
            self.report.tables += 1
        if self.options.delete and self.report.ok:
            for name in names:
                await copier.mirror(name)

    async def _queues(self) -> None:
        from storage_lib.migration.queues import QueueMover

        source, target = self.source.backend.queues, self.target.backend.queues
        dry_run = self.options.dry_run
        mover = QueueMover(source, target, self.report, self._on_object, dry_run=dry_run)
        for queue in self.options.queues:
            await mover.move(queue)

    def _shares(self, port: str) -> bool:
        return self.source.backend.place(port) == self.target.backend.place(port)

    def _check_apart(self) -> None:
        if not self.options.objects:
            return
        if not self._shares("objects"):
            return
        prefix, onto = self.options.prefix, self.options.onto
        if prefix.startswith(onto) or onto.startswith(prefix):
            raise InvalidArgumentError(
                f"source and target are the same store, and {onto!r} and {prefix!r} are not apart",
                field="target_prefix",
                remedy="choose a target_prefix that neither begins with the prefix nor the other way round",
            )

    # -- objects

    async def _objects(self) -> None:
        await self._each(self._copy, lambda pair: pair.source is not None and not self._is_deferred(pair))
        if self._has_pointers:
            # After the versions that they name.
            await self._each(
                self._copy_pointer, lambda pair: pair.source is not None and pair.name.endswith(_CURRENT)
            )
        if self.options.delete and self.report.ok:
            await self._each(self._delete, lambda pair: pair.source is None)

    async def _messages(self, tables: list[str]) -> None:
        """Copy the large messages of conversations. Their rows came first, so none that was copied lacks an
        object that was appended meanwhile."""
        from storage_lib.migration.tables import messages_of

        if (span := messages_of(self.options, tables, self.source, self.target)) is None:
            return
        self._span = span
        await self._each(self._copy, lambda pair: pair.source is not None)
        if self.options.delete and self.report.ok:
            await self._each(self._delete, lambda pair: pair.source is None)

    def _is_deferred(self, pair: Pair) -> bool:
        if not pair.name.endswith(_CURRENT):
            return False
        self._has_pointers = True
        return True

    async def _each(self, work: Callable[[Pair], Awaitable[str]], is_meant: Callable[[Pair], bool]) -> None:
        """Do ``work`` for the pairs that are meant, several at a time."""
        async with aclosing(self._pairs()) as pairs, Several(self.options.concurrency) as running:
            async for pair in pairs:
                if not (self._span.wants(pair.name) and is_meant(pair)):
                    continue
                if self._copier.is_done(pair):
                    self._count(self._span.prefix + pair.name, Outcome.SKIPPED.value)
                else:
                    await running.start(self._do(work, pair))

    async def _do(self, work: Callable[[Pair], Awaitable[str]], pair: Pair) -> None:
        name = self._span.prefix + pair.name
        try:
            outcome = await work(pair)
        except StorageError as error:
            outcome = "failed"
            self.report.fail(name, error)
            self._away = self._away + 1 if isinstance(error, StorageUnavailableError) else 0
            if self._away >= _AWAY:
                raise
            if self._on_object is not None:
                self._on_object(name, outcome)
        else:
            self._away = 0
            self._count(name, outcome)

    def _count(self, name: str, outcome: str) -> None:
        setattr(self.report, outcome, getattr(self.report, outcome) + 1)
        if self._on_object is not None:
            self._on_object(name, outcome)

    async def _pairs(self) -> AsyncGenerator[Pair]:
        prefix, onto, _ = self._span
        ours = listed(self._from, self.options, prefix)
        theirs = listed(self._to, self.options, onto)
        async with aclosing(paired(ours, theirs, prefix, onto)) as pairs:
            async for pair in pairs:
                yield pair

    async def _copy(self, pair: Pair) -> str:
        assert pair.source is not None  # noqa: S101 - only these are meant
        onto = self._span.onto + pair.name
        return (await self._copier.copy(pair.source.key, onto, pair.source, pair.target)).value

    async def _copy_pointer(self, pair: Pair) -> str:
        """Copy ``KEY/current`` once the target has all versions that it names."""
        assert pair.source is not None  # noqa: S101 - only these are meant
        key, onto = pair.source.key, self._span.onto + pair.name
        try:
            seen, content = await self._from.get(key, None)
        except KeyNotFoundError:
            return Outcome.VANISHED.value
        entry = ListEntry(key, seen.size, seen.etag)
        if not (self.options.layers == "sealed" or self.options.dry_run):
            from storage_lib.version_record import named_in, object_of  # Only where it is used.

            for number in named_in(content):
                await self._copy_version(object_of(key.removesuffix(_CURRENT), number))
        return (await self._copier.copy(key, onto, entry, pair.target)).value

    async def _copy_version(self, key: str) -> None:
        name = key[len(self._span.prefix) :]
        if not self._span.wants(name):
            return
        onto = self._span.onto + name
        try:
            await self._to.head(onto)
        except KeyNotFoundError:
            with suppress(KeyNotFoundError):  # Pruned since, or it never was.
                seen = await self._from.head(key)
                await self._copier.copy(key, onto, ListEntry(key, seen.size, seen.etag), None)

    async def _delete(self, pair: Pair) -> str:
        assert pair.target is not None  # noqa: S101 - only these are meant
        key = self._span.prefix + pair.name
        with suppress(KeyNotFoundError):
            await self._from.head(key)
            return Outcome.SKIPPED.value  # It has been saved since it was listed.
        if not self.options.dry_run:
            store, theirs = self._to.store, pair.target
            try:
                await store.delete(theirs.key, if_match=theirs.etag)
            except KeyNotFoundError:
                pass
            except UnsupportedOperationError:
                if (await self._to.head(theirs.key)).etag != theirs.etag:
                    raise
                await store.delete(theirs.key)
        return "deleted"
