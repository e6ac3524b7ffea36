"""Ranges of an object: ``Range`` and ``If-Range`` (RFC 9110, 13.1.5 and 14.2)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import azure.functions as func

from functions.codings import without_coding
from functions.headers import header
from storage_lib.errors import RangeNotSatisfiableError
from storage_lib.patterns import pattern

if TYPE_CHECKING:
    from storage_lib.ports.backend import ByteRange, ObjectInfo

_RANGES = pattern(r"bytes=([-\d, \t]*)", re.IGNORECASE | re.ASCII)
_RANGE = pattern(r"(\d*)-(\d*)", re.ASCII)
MAX_RANGES = 64
"""Who asks for more gets the whole object: each part costs more than its bytes."""
_BEYOND = 2**50
"""Beyond the end of any object that a store accepts, but a number that every store understands."""


def byte_ranges(req: func.HttpRequest) -> list[ByteRange]:
    """The ranges of the ``Range`` header, as they are asked for. Another unit, a malformed one and too many
    are ignored, and the whole object is returned (RFC 9110, 14.2)."""
    ranges = _RANGES.fullmatch((header(req, "Range") or "").strip(" \t"))
    members = [] if ranges is None else [each for part in ranges[1].split(",") if (each := part.strip(" \t"))]
    if len(members) > MAX_RANGES:
        return []
    found = [_range(member) for member in members]
    return [] if None in found else [each for each in found if each is not None]


def _range(member: str) -> ByteRange | None:
    """None if it is malformed."""
    found = _RANGE.fullmatch(member)
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


def spans(wanted: Sequence[ByteRange], size: int) -> list[tuple[int, int]]:
    """What an object of ``size`` bytes has of the ranges: offsets of the first byte and after the last, in
    the order in which they were asked for. Ranges that overlap or touch become one, in the place of the
    first, so that nobody gets a byte twice (RFC 9110, 15.3.7.2). Empty if there is nothing of them.
    """
    found: list[tuple[int, int]] = []
    for each in wanted:
        try:
            start, end = each.resolve(size)
        except RangeNotSatisfiableError:
            continue
        place = len(found)
        for at in reversed(range(len(found))):
            if found[at][0] <= end and start <= found[at][1]:
                start, end = min(start, found[at][0]), max(end, found[at][1])
                del found[at]
                place = at
        found.insert(place, (start, end))
    return found


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
    # What a client has of the object in a coding is no part of what it is without.
    return tag is not None and info.has_etag(tag[1]) and without_coding(tag[1]) == tag[1]
