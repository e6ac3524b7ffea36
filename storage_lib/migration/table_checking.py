"""Whether two stores have the same entities."""

from __future__ import annotations

from contextlib import aclosing
from functools import partial

from storage_lib.entity_json import differences
from storage_lib.manager import StorageManager
from storage_lib.migration.check_report import CheckReport, Difference
from storage_lib.migration.tables import joined, label
from storage_lib.ports.table_model import Entity
from storage_lib.several import Several, surviving

_READERS = 32


class TableCheck:
    """Compares tables, and adds to ``report`` what it finds."""

    def __init__(
        self, first: StorageManager, second: StorageManager, report: CheckReport, concurrency: int
    ) -> None:
        self._first = first.backend.tables
        self._second = second.backend.tables
        self._report = report
        self._concurrency = min(concurrency, _READERS)

    async def compare(self, tables: list[str]) -> None:
        """
        :raises StorageUnavailableError: a store is away.
        """
        for table in tables:
            with surviving(partial(self._report.fail, f"table {table}")):
                await self._compare(table)

    async def _compare(self, table: str) -> None:
        async with (
            Several(self._concurrency) as readers,
            aclosing(joined(self._first, self._second, table)) as pairs,
        ):
            async for ours, theirs in pairs:
                if ours is not None and theirs is not None:
                    self._judge(table, ours, theirs)
                else:
                    await readers.start(self._look(table, ours, theirs))

    async def _look(self, table: str, ours: Entity | None, theirs: Entity | None) -> None:
        """Look on the other side for an entity that a listing has on one only: it may have come since, or
        stand elsewhere in the order of that store."""
        known = ours or theirs
        assert known is not None  # noqa: S101 - a pair has at least one
        other = self._second if theirs is None else self._first
        found = await other.get(table, known.partition_key, known.row_key, default=None)
        if found is None:
            kind = "only_in_first" if theirs is None else "only_in_second"
            self._report.add(Difference(label(table, known.partition_key, known.row_key), kind))
        elif ours is not None:  # What the second has has been or will be met in the first.
            self._judge(table, ours, found)

    def _judge(self, table: str, ours: Entity, theirs: Entity) -> None:
        fields = differences(ours.properties, theirs.properties)
        if fields:
            name = label(table, ours.partition_key, ours.row_key)
            self._report.add(Difference(name, "differs", tuple(fields)))
        else:
            self._report.same += 1
