"""Ranges of an object: ``Range`` and ``If-Range`` (RFC 9110, 13.1.5 and 14.2)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import azure.functions as func

from functions.headers import header
from storage_lib.patterns import pattern

if TYPE_CHECKING:
    from storage_lib.ports.backend import ByteRange, ObjectInfo

_RANGES = pattern(r"bytes=([-\d, \t]*)", re.IGNORECASE | re.ASCII)
_RANGE = pattern(r"(\d*)-(\d*)", re.ASCII)
_BEYOND = 2**50
"""Beyond the end of any object that a store accepts, but a number that every store understands."""


def byte_range(req: func.HttpRequest) -> ByteRange | None:
    """The range of the ``Range`` header. Several ranges, another unit or a malformed one are ignored, and the
    whole object is returned (RFC 9110, 14.2)."""
    ranges = _RANGES.fullmatch((header(req, "Range") or "").strip(" \t"))
    members = [] if ranges is None else [each for part in ranges[1].split(",") if (each := part.strip(" \t"))]
    found = _RANGE.fullmatch(members[0]) if len(members) == 1 else None
    if found is None or found[0] == "-":
        return None
    from storage_lib.ports.backend import ByteRange

    if not found[1]:
        # An empty suffix cannot be satisfied, like a range beyond the end of any object.
        count = _number(found[2])
        return ByteRange(-count) if count else ByteRange(_BEYOND)
    start = _number(found[1])
    if not found[2]:
        return ByteRange(start)
    last = _number(found[2])
    return None if _is_less(found[2], found[1]) else ByteRange(start, max(last, start) + 1)


def _number(digits: str) -> int:
    digits = digits.lstrip("0")
    return min(int(digits or "0"), _BEYOND) if len(digits) < 20 else _BEYOND


def _is_less(one: str, other: str) -> bool:
    """Compare numbers of any length by their digits."""
    one, other = one.lstrip("0"), other.lstrip("0")
    return (len(one), one) < (len(other), other)


def range_holds(req: func.HttpRequest, info: ObjectInfo) -> bool:
    """Whether ``If-Range`` allows a range of this version. A weak tag or a date never does: weakly equal
    objects may differ in their bytes, and an object can change twice within the second of a date."""
    wanted = header(req, "If-Range")
    if wanted is None:
        return True
    tag = re.fullmatch(r'[ \t]*"([^"]*)"[ \t]*', wanted)
    return tag is not None and info.has_etag(tag[1])
