"""An oracle of RFC 9110, 13 and 14, written from its text and from nothing else: what a server answers that
keeps to all that it may or should do, and sends several ranges, each byte once.

Header values are read by `email` and by splitting, on purpose unlike the app does it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_tz


@dataclass(frozen=True)
class Resource:
    """What there is: bytes, the opaque part of the strong entity tag, and the time of the last change."""

    data: bytes
    tag: str
    modified: datetime


@dataclass(frozen=True)
class Expected:
    """``parts`` are (first, last) of a 206, or None; ``failed`` is the header that made a 412."""

    status: int
    parts: list[tuple[int, int]] | None = None
    failed: str | None = None


def expected(method: str, headers: Mapping[str, str], found: Resource | None) -> Expected:
    """Section 13.2.2, step by step, after 13.2.1: without a response that would be successful (here 404),
    conditions are not evaluated. PUT creates."""
    reads = method in ("GET", "HEAD")
    if found is None and method != "PUT":
        return Expected(404)
    # 1 and 2
    if "If-Match" in headers:
        if found is None or not _lists(headers["If-Match"], found.tag, weakly=False):
            return Expected(412, failed="If-Match")
    elif found is not None and _is_after(found, headers.get("If-Unmodified-Since"), default=False):
        return Expected(412, failed="If-Unmodified-Since")
    # 3 and 4
    if "If-None-Match" in headers:
        if found is not None and _lists(headers["If-None-Match"], found.tag, weakly=True):
            return Expected(304) if reads else Expected(412, failed="If-None-Match")
    elif reads and found is not None and not _is_after(found, headers.get("If-Modified-Since"), default=True):
        return Expected(304)
    # 5: GET alone has ranges (14.2)
    if method == "GET" and found is not None and "Range" in headers and _if_range(headers, found):
        asked = _ranges(headers["Range"])
        if asked is not None:
            if not found.data and any(first is None and last for first, last in asked):
                # 14.1.2: a suffix is satisfiable, however short the object is; 14.4 has no way to say which
                # bytes of none these are, and 14.2 lets the range be ignored.
                return Expected(200)
            parts = _satisfied(asked, len(found.data))
            return Expected(206, parts) if parts else Expected(416)
    # 6
    return Expected({"GET": 200, "HEAD": 200, "DELETE": 204, "PATCH": 200}.get(method, 200 if found else 201))


def _lists(value: str, tag: str, *, weakly: bool) -> bool:
    """Whether ``*`` or one member of a list is this strong tag, by strong or weak comparison (8.8.3.2)."""
    if value.strip() == "*":
        return True
    members = [each.strip() for each in value.split(",")]
    return f'"{tag}"' in members or (weakly and f'W/"{tag}"' in members)


def _if_range(headers: Mapping[str, str], found: Resource) -> bool:
    """13.1.5: a strong tag that is the same. A date is a validator only if it is strong (8.8.2.2), which
    this server never says of one."""
    return headers.get("If-Range", f'"{found.tag}"').strip() == f'"{found.tag}"'


def _ranges(value: str) -> list[tuple[int | None, int | None]] | None:
    """14.1.2: (first, last), (first, None), or (None, length of the suffix). None for what is ignored."""
    unit, _, members = value.partition("=")
    if unit.strip().lower() != "bytes":
        return None
    found: list[tuple[int | None, int | None]] = []
    for member in filter(None, (each.strip() for each in members.split(","))):
        first, dash, last = member.partition("-")
        if dash != "-" or not (first or last) or not (first + last).isdecimal():
            return None
        one, other = int(first) if first else None, int(last) if last else None
        if one is not None and other is not None and other < one:
            return None
        found.append((one, other))
    return found or None


def _satisfied(asked: list[tuple[int | None, int | None]], size: int) -> list[tuple[int, int]]:
    """By sets of bytes: a part is a run of bytes that some range asks for, in the order of the first range
    that asks for one of its bytes."""
    wanted: set[int] = set()
    first_byte: list[int] = []
    for first, last in asked:
        if first is None:
            start, end = max(size - (last or 0), 0), size
        else:
            start, end = first, size if last is None else min(last + 1, size)
        if start < end:
            wanted.update(range(start, end))
            first_byte.append(start)
    parts: list[tuple[int, int]] = []
    for byte in first_byte:
        start = end = byte
        while start - 1 in wanted:
            start -= 1
        while end + 1 in wanted:
            end += 1
        if (start, end) not in parts:
            parts.append((start, end))
    return parts


def _is_after(found: Resource, value: str | None, *, default: bool) -> bool:
    """Whether it was changed after a date (5.6.7), in whole seconds. What is no date is ignored (13.1.3)."""
    read = parsedate_tz(value) if value and value.endswith("GMT") else None
    if read is None:
        return default
    changed = found.modified - timedelta(microseconds=found.modified.microsecond)
    return changed > datetime(*read[:6], tzinfo=UTC)
