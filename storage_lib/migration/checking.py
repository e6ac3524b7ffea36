"""`check`: whether two stores hold the same objects."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from storage_lib.errors import KeyNotFoundError, StorageError
from storage_lib.migration.check_report import CheckReport, Difference
from storage_lib.migration.copying import differences, digest_of, has_same_bytes
from storage_lib.migration.listing import listed
from storage_lib.migration.options import MigrationOptions, Span
from storage_lib.migration.pairing import Pair, paired
from storage_lib.migration.table_checking import TableCheck
from storage_lib.migration.tables import messages_of, tables_of
from storage_lib.migration.views import Open, Sealed, View
from storage_lib.several import Several

if TYPE_CHECKING:
    from storage_lib.manager import StorageManager


async def check(
    first: StorageManager,
    second: StorageManager,
    options: MigrationOptions | None = None,
    *,
    content: bool = False,
) -> CheckReport:
    """Compare two stores, key by key: size, checksum, content type, metadata, end of life and headers; and
    the entities of tables, property by property. Nothing is changed. Times and ETags are each store's own and
    are not compared. A table without entities is as good as none.

    :param options: which keys, as for the migration from ``first`` to ``second``.
    :param content: read all bytes of both, and take their checksums anew. Without, the checksums are compared
        that were stored with the objects; those of other programs have none, and are read.
    """
    options = options or MigrationOptions()
    view = Sealed if options.layers == "sealed" else Open
    tables = (await tables_of(options, first, second)).names
    messages = messages_of(options, tables, first, second)
    if first.backend.place("tables") == second.backend.place("tables"):
        tables = []
    report = CheckReport()
    for span in (options.span if options.objects else None, messages):
        if span is not None:
            ours, theirs = view(first.backend.objects), view(second.backend.objects)
            await _Check(ours, theirs, options, span, report, content=content).run()
    await TableCheck(first, second, report, options.concurrency).compare(tables)
    report.differences.sort(key=lambda found: found.name)
    return report


class _Check:
    def __init__(
        self,
        first: View,
        second: View,
        options: MigrationOptions,
        span: Span,
        report: CheckReport,
        *,
        content: bool,
    ) -> None:
        self._first = first
        self._second = second
        self._options = options
        self._span = span
        self._content = content
        self._report = report

    async def run(self) -> None:
        options = self._options
        prefix, onto, wants = self._span
        ours = listed(self._first, options, prefix)
        theirs = listed(self._second, options, onto)
        async with (
            aclosing(paired(ours, theirs, prefix, onto)) as pairs,
            Several(options.concurrency) as comparing,
        ):
            async for pair in pairs:
                if wants(pair.name):
                    await comparing.start(self._compare(pair))

    async def _compare(self, pair: Pair) -> None:
        name = self._span.prefix + pair.name
        try:
            found = await self._difference(pair, name)
        except StorageError as error:
            self._report.fail(name, error)
        else:
            if found is None:
                self._report.same += 1
            else:
                self._report.add(found)

    async def _difference(self, pair: Pair, name: str) -> Difference | None:
        if pair.target is None:
            return Difference(name, "only_in_first")
        if pair.source is None:
            return Difference(name, "only_in_second")
        if not self._content:
            ours, theirs = self._first.listed(pair.source), self._second.listed(pair.target)
            if ours is not None and theirs is not None and not differences(ours, theirs):
                return None
        first, second = pair.source.key, pair.target.key
        try:
            ours = await self._first.head(first)
        except KeyNotFoundError:
            return Difference(name, "only_in_second")  # Deleted since it was listed.
        try:
            theirs = await self._second.head(second)
        except KeyNotFoundError:
            return Difference(name, "only_in_first")
        fields = differences(ours, theirs)
        if not {"size", "content"} & {*fields}:
            if self._content:
                same = await digest_of(self._first, first, ours) == await digest_of(
                    self._second, second, theirs
                )
            else:
                same = await has_same_bytes((self._first, first, ours), (self._second, second, theirs))
            fields += [] if same else ["content"]
        return Difference(name, "differs", tuple(fields)) if fields else None
