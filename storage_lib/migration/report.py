"""What a migration did."""

from __future__ import annotations

import msgspec

from storage_lib.errors import StorageError

MOST_NAMED = 1000
"""So many failures are named; all are counted."""


class Failure(msgspec.Struct, frozen=True):
    """What could not be copied or deleted, and why. ``name`` is the key of the object in the source, or says
    which entity or message it is; ``code`` is that of `storage_lib.errors`."""

    name: str
    code: str
    message: str


class MigrationReport(msgspec.Struct, kw_only=True):
    """What a migration has done so far; all of it, when `Migration.run` has returned.

    ``copied`` objects were stored anew, ``updated`` ones in place of another; together they have
    ``bytes_copied`` bytes. ``bytes_resumed`` more had been sent by an earlier run that was stopped.
    ``skipped`` objects were in the target already. ``vanished`` ones were deleted or expired in the source
    before they could be copied. ``retried`` counts the times that an object had changed since it was listed,
    and was read again. With ``dry_run`` it is what would be done.

    The entities of tables are counted likewise, and apart from the objects. ``tables`` were looked at;
    ``tables_left_out`` belong to the library, and were not. ``messages_moved`` are in queues of the target
    now, and no longer in the source.
    """

    copied: int = 0
    updated: int = 0
    skipped: int = 0
    deleted: int = 0
    vanished: int = 0
    retried: int = 0
    tables: int = 0
    tables_left_out: list[str] = []
    entities_copied: int = 0
    entities_updated: int = 0
    entities_skipped: int = 0
    entities_deleted: int = 0
    messages_moved: int = 0
    bytes_copied: int = 0
    bytes_resumed: int = 0
    failures: int = 0
    failed: list[Failure] = []
    seconds: float = 0.0
    dry_run: bool = False

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return not self.failures

    def fail(self, name: str, error: StorageError) -> None:
        """Count a failure, and name it if there are not too many yet."""
        self.failures += 1
        if len(self.failed) < MOST_NAMED:
            self.failed.append(Failure(name, error.code, error.explained()))

    def add(self, other: MigrationReport) -> None:
        """Take in what another part of the same migration has done."""
        for name in _COUNTED:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.failed += other.failed[: max(MOST_NAMED - len(self.failed), 0)]


_COUNTED = [name for name, hint in MigrationReport.__annotations__.items() if hint == "int"]
