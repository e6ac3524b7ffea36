"""Backup and restore: one archive (tar, Zstandard) that any tar reads and that tells of each damaged byte.

from storage_lib.archive import backup, restore, verify

report = await backup(storage, "monday.tar.zst")
report = await restore(storage, "monday.tar.zst", dry_run=True)
"""

from __future__ import annotations

from storage_lib.archive.backup import backup
from storage_lib.archive.frames import Damage
from storage_lib.archive.places import StoredArchive
from storage_lib.archive.reports import BackupReport, Named, RestoreReport, VerifyReport
from storage_lib.archive.restore import restore, verify

__all__ = [
    "BackupReport",
    "Damage",
    "Named",
    "RestoreReport",
    "StoredArchive",
    "VerifyReport",
    "backup",
    "restore",
    "verify",
]
