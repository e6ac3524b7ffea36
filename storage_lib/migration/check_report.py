"""What a comparison of two stores has found."""

from __future__ import annotations

from typing import Literal

import msgspec

from storage_lib.migration.report import MOST_NAMED, Failure, MigrationReport


class Difference(msgspec.Struct, frozen=True):
    """A key that is not the same on both sides, or an entity (``table people, entity 'eu' '1'``).

    ``kind``: ``only_in_first``, ``only_in_second`` or ``differs``; then ``fields`` says in what: ``size``,
    ``content``, ``content_type``, ``metadata``, ``expires_at``, or a header that other programs set; of an
    entity, its properties.
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

    fail = MigrationReport.fail

    def add(self, found: Difference) -> None:
        """Count a difference, and name it if there are not too many yet."""
        counted = "different" if found.kind == "differs" else found.kind
        setattr(self, counted, getattr(self, counted) + 1)
        if len(self.differences) < MOST_NAMED:
            self.differences.append(found)
