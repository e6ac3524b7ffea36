"""Keys that a model creates from plain values: lists that become sets, names that become UUIDs.

JSON has no sets, and its names are text, whose hashes an attacker cannot predict. But a model that
declares sets, or keys of other types, fills hash tables with predictable hashes. They are counted before
the model is built.
"""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from storage_lib.errors import SerializationError

FEW_BYTES: Final = 16 * 1024
"""Stored values up to this size hold too few keys to take long, whatever their hashes are."""
_FEW: Final = 500
_COMPARISONS: Final = 500_000
_UUID_CHARACTERS: Final = 45
_DIGITS: Final = 4300


def makes_keys(schema: Any) -> bool:
    """Whether pydantic's core schema has sets, or dicts whose keys are not text."""
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            kind = part.get("type")
            keys = part.get("keys_schema")
            if kind in ("set", "frozenset") or (kind == "dict" and keys and keys.get("type") != "str"):
                return True
            waiting.extend(part.values())
        elif isinstance(part, (list, tuple)):
            waiting.extend(part)
    return False


def check_keys(value: Any) -> None:
    """Check the hashes of what a model would use as keys.

    :raises SerializationError: a list or dict in ``value`` has too many items with equal hashes.
    """
    waiting = [value]
    left = _COMPARISONS
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            waiting.extend(part.values())
        elif isinstance(part, (list, tuple)):
            waiting.extend(part)
        else:
            continue
        if len(part) > _FEW:
            left -= _comparisons(list(part))
            if left < 0:
                raise SerializationError(
                    "too many items that the model makes keys, or items of a set, have equal hashes",
                    limit=f"{_COMPARISONS:,} comparisons",
                    remedy="declare a list, or keys that are texts",
                )


def _comparisons(items: list[Any]) -> int:
    # Equal items are found at once; different items with one hash are what takes long.
    different = {repr(item): item for item in items}
    counts = Counter(_hash(item) for item in different.values())
    return sum(count * count for count in counts.values() if count > 1) // 2


def _hash(item: Any) -> int:
    """The hash of the key that a model may create from an item."""
    if isinstance(item, (list, tuple)):
        return hash(tuple(map(_hash, item)))
    if isinstance(item, str) and len(item) <= _DIGITS:
        for make in (UUID, Decimal):
            if make is UUID and not 32 <= len(item) <= _UUID_CHARACTERS:
                continue
            try:
                return hash(make(item))
            except (ValueError, ArithmeticError, TypeError):
                continue
    try:
        return hash(item)
    except TypeError:
        return id(item)
