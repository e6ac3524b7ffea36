"""Migration: everything from one store to another, of any kinds, as often as you like.

    async with StorageManager(laptop) as source, StorageManager(cloud) as target:
        report = await Migration(source, target).run()
        assert report.ok, report.failed
        assert (await check(source, target)).equal

docs/migration.md tells what is copied, what happens to what is there already, and how a migration that was
stopped goes on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from storage_lib.migration.check_report import CheckReport, Difference
from storage_lib.migration.migration import Migration
from storage_lib.migration.options import MigrationOptions
from storage_lib.migration.report import Failure, MigrationReport

if TYPE_CHECKING:
    from storage_lib.migration.checking import check

__all__ = [
    "CheckReport",
    "Difference",
    "Failure",
    "Migration",
    "MigrationOptions",
    "MigrationReport",
    "check",
]


def __getattr__(name: str) -> Any:
    # With all that it needs for tables, which most migrations do without.
    if name == "check":
        from storage_lib.migration.checking import check

        return check
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
