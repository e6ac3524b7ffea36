"""Names of queues, tables and containers: what every backend accepts, so that a name can move between them.

Source: "Naming Queues and Metadata", "Understanding the Table Service Data Model", "Naming and Referencing
Containers, Blobs, and Metadata" (Azure Storage REST).
"""

from __future__ import annotations

import re

from storage_lib.errors import InvalidKeyError

_DASHED = re.compile(r"(?=.{3,63}\Z)[a-z0-9]+(?:-[a-z0-9]+)*")
_TABLE = re.compile(r"[A-Za-z][A-Za-z0-9]{2,62}")


def validate_queue_name(name: str) -> str:
    """Return ``name``: 3 to 63 of a-z, 0-9 and single hyphens between them. :raises InvalidKeyError: else."""
    return _check("queue", name, _DASHED, "3 to 63 of a-z, 0-9 and single hyphens inside")


def validate_container_name(name: str) -> str:
    """Return ``name``; the rule is that of queues. :raises InvalidKeyError: else."""
    return _check("container", name, _DASHED, "3 to 63 of a-z, 0-9 and single hyphens inside")


def validate_table_name(name: str) -> str:
    """Return ``name``: 3 to 63 letters and digits, a letter first. :raises InvalidKeyError: else."""
    return _check("table", name, _TABLE, "3 to 63 letters and digits, a letter first")


def _check(kind: str, name: str, rule: re.Pattern[str], limit: str) -> str:
    if not rule.fullmatch(name):
        raise InvalidKeyError(f"{kind} name {name[:80]!a} is not valid", field=kind, limit=limit)
    return name
