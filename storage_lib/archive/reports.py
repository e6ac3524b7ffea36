"""What a backup or a restore has done, and what it could not do."""

from __future__ import annotations

import msgspec

from storage_lib.archive.frames import Damage

MOST_NAMED = 1000
"""How many of each are told by name; all are counted."""


class Named(msgspec.Struct):
    """Names with a reason each, of which only the first thousand are kept; ``count`` counts all."""

    count: int = 0
    reasons: dict[str, str] = {}

    def add(self, name: str, why: object = "") -> None:
        self.count += 1
        if len(self.reasons) < MOST_NAMED:
            self.reasons[name] = str(why)

    def __bool__(self) -> bool:
        return self.count > 0


class BackupReport(msgspec.Struct, kw_only=True):
    """What is in an archive.

    Each object is in it as it was at one moment of the backup. ``changed`` were saved anew after they had
    been listed, and the archive has the newer ones; ``deleted`` were gone before they were read, and are not
    in it, or not all of a table. ``failed`` could not be read, for the reasons given. ``tables_left_out``
    belong to the library. ``unlisted`` has the first hundred names of other programs that no key can address,
    and that are therefore not in it.
    """

    objects: int = 0
    bytes: int = 0
    tables: int = 0
    tables_left_out: list[str] = []
    entities: int = 0
    queues: int = 0
    messages: int = 0
    archive_bytes: int = 0
    changed: Named = msgspec.field(default_factory=Named)
    deleted: Named = msgspec.field(default_factory=Named)
    failed: Named = msgspec.field(default_factory=Named)
    unlisted: list[str] = []

    @property
    def ok(self) -> bool:
        """Whether everything that was there is in the archive."""
        return not (self.failed or self.unlisted)


class RestoreReport(msgspec.Struct, kw_only=True):
    """What has become of what is in an archive, each object, entity of a table and message counted once.

    ``restored`` were stored; ``unchanged`` were there already, just the same; ``kept`` were there, differ and
    were not replaced, as ``overwrite`` was not set; ``expired`` have passed the end of their life. ``failed``
    could not be stored, for the reasons given. ``queues_left_out`` are in the archive and were not chosen.

    ``damage`` is what is wrong with the archive: the entries that it names are not restored, unless it
    says that only a head is damaged. ``missing`` are what the backup itself could not read. ``complete`` is
    whether the archive was read to its proper end.
    """

    restored: int = 0
    bytes: int = 0
    unchanged: int = 0
    expired: int = 0
    kept: Named = msgspec.field(default_factory=Named)
    failed: Named = msgspec.field(default_factory=Named)
    missing: Named = msgspec.field(default_factory=Named)
    queues_left_out: list[str] = []
    damage: list[Damage] = []
    damages: int = 0
    complete: bool = False

    @property
    def ok(self) -> bool:
        """Whether the archive is sound and all of it that was wanted is in the store now."""
        return self.complete and not (self.damages or self.failed or self.kept)

    def damaged(self, damage: Damage) -> None:
        self.damages += 1
        if len(self.damage) < MOST_NAMED:
            self.damage.append(damage)


class VerifyReport(msgspec.Struct, kw_only=True):
    """What is in an archive, and what is wrong with it; the fields are those of the other reports."""

    objects: int = 0
    bytes: int = 0
    entities: int = 0
    messages: int = 0
    sealed: bool = False
    damage: list[Damage] = []
    damages: int = 0
    missing: Named = msgspec.field(default_factory=Named)
    complete: bool = False

    @property
    def ok(self) -> bool:
        """Whether each byte of the archive is as it was written."""
        return self.complete and not self.damages

    damaged = RestoreReport.damaged
