"""`check`: whether two stores hold the same objects."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Literal

import msgspec

from storage_lib.errors import KeyNotFoundError, StorageError
from storage_lib.migration.copying import differences, digest_of, has_same_bytes
from storage_lib.migration.listing import listed
from storage_lib.migration.options import MigrationOptions
from storage_lib.migration.pairing import Pair, paired
from storage_lib.migration.report import MOST_NAMED, Failure
from storage_lib.migration.views import Open, Sealed, View

if TYPE_CHECKING:
    from storage_lib.manager import StorageManager


class Difference(msgspec.Struct, frozen=True):
    """A key that is not the same on both sides.

    ``kind``: ``only_in_first``, ``only_in_second`` or ``differs``; then ``fields`` says in what: ``size``,
    ``content``, ``content_type``, ``metadata``, ``expires_at``, or a header that other programs set.
    """

    name: str
    kind: Literal["only_in_first", "only_in_second", "differs"]
    fields: tuple[str, ...] = ()


class CheckReport(msgspec.Struct, kw_only=True):
    """What a comparison has found. Keys are those of the first store, without exceeding a thousand in each
    list; all are counted."""

    same: int = 0
    different: int = 0
    only_in_first: int = 0
    only_in_second: int = 0
    failures: int = 0
    differences: list[Difference] = []
    failed: list[Failure] = []

    @property
    def equal(self) -> bool:
        """Whether both hold the same, and all of it could be compared."""
        return not (self.different or self.only_in_first or self.only_in_second or self.failures)

    def add(self, found: Difference) -> None:
        """Count a difference, and name it if there are not too many yet."""
        counted = "different" if found.kind == "differs" else found.kind
        setattr(self, counted, getattr(self, counted) + 1)
        if len(self.differences) < MOST_NAMED:
            self.differences.append(found)


async def check(
    first: StorageManager,
    second: StorageManager,
    options: MigrationOptions | None = None,
    *,
    content: bool = False,
) -> CheckReport:
    """Compare two stores, key by key: size, checksum, content type, metadata, end of life and headers.
    Nothing is changed. Times and ETags are each store's own and are not compared.

    :param options: which keys, as for the migration from ``first`` to ``second``.
    :param content: read all bytes of both, and take their checksums anew. Without, the checksums are compared
        that were stored with the objects; those of other programs have none, and are read.
    """
    options = options or MigrationOptions()
    view = Sealed if options.layers == "sealed" else Open
    return await _Check(
        view(first.backend.objects), view(second.backend.objects), options, content=content
    ).run()


class _Check:
    def __init__(self, first: View, second: View, options: MigrationOptions, *, content: bool) -> None:
        self._first = first
        self._second = second
        self._options = options
        self._content = content
        self._report = CheckReport()

    async def run(self) -> CheckReport:
        options = self._options
        wants = options.keys
        free = asyncio.Semaphore(options.concurrency)

        async def compare(pair: Pair) -> None:
            try:
                await self._compare(pair)
            finally:
                free.release()

        ours = listed(self._first, options, options.prefix)
        theirs = listed(self._second, options, options.onto)
        async with (
            aclosing(paired(ours, theirs, options.prefix, options.onto)) as pairs,
            asyncio.TaskGroup() as group,
        ):
            async for pair in pairs:
                if wants(pair.name):
                    await free.acquire()
                    group.create_task(compare(pair))
        self._report.differences.sort(key=lambda found: found.name)
        return self._report

    async def _compare(self, pair: Pair) -> None:
        name = self._options.prefix + pair.name
        try:
            found = await self._difference(pair, name)
        except StorageError as error:
            self._report.failures += 1
            if len(self._report.failed) < MOST_NAMED:
                self._report.failed.append(Failure(name, error.code, error.explained()))
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
