"""Conditions and ranges of requests, evaluated as RFC 9110, 13 and 14, has it."""

from __future__ import annotations

import enum
import re
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from typing import Final

import azure.functions as func

from storage_lib.backends.base import ByteRange, ObjectInfo
from storage_lib.errors import InvalidArgumentError, PreconditionFailedError


class _Wildcard(enum.Enum):
    ANY = "*"


ANY: Final = _Wildcard.ANY
"""The bare ``*`` of a condition. An entity tag may be spelled the same, between quotes."""

type EntityTags = list[str] | _Wildcard
_ETAG = re.compile(r'\s*(?:(W/)?"([^"]*)"\s*)?(?:,|\Z)')


def etags(req: func.HttpRequest, header: str) -> EntityTags | None:
    """The entity tags of ``If-Match`` or ``If-None-Match``: None without the header, `ANY` for ``*``.

    A weak tag can not match a strong comparison; ``If-None-Match`` compares weakly (RFC 9110, 13.1). Empty
    members of the list are left out (RFC 9110, 5.6.1.2).

    :raises InvalidArgumentError: the header is malformed.
    """
    text = req.headers.get(header)
    if text is None:
        return None
    if text.strip() == "*":
        return ANY
    tags: list[str] = []
    position = 0
    while position < len(text):
        match = _ETAG.match(text, position)
        if match is None:
            raise InvalidArgumentError(
                f"{header} is not a list of entity tags", field=header, limit='"tag", … or *'
            )
        if match[2] is not None and (not match[1] or header == "If-None-Match"):
            tags.append(match[2])
        position = match.end()
    return tags


_CONDITIONS = ("If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since")


def has_conditions(req: func.HttpRequest) -> bool:
    """Whether the answer depends on which version of the object there is."""
    return any(name in req.headers for name in _CONDITIONS)


def matches(info: ObjectInfo, tags: EntityTags) -> bool:
    return tags is ANY or any(map(info.has_etag, tags))


def date_in(req: func.HttpRequest, header: str) -> datetime | None:
    """The moment of ``If-Modified-Since`` or ``If-Unmodified-Since``; a malformed one is ignored, as RFC
    9110, 13.1.3 and 13.1.4, asks."""
    text = req.headers.get(header)
    if text is None:
        return None
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def check_unchanged(req: func.HttpRequest, info: ObjectInfo) -> None:
    """Evaluate ``If-Match``; only where it is missing, ``If-Unmodified-Since`` (RFC 9110, 13.2.2).

    :raises PreconditionFailedError: it does not hold.
    """
    tags = etags(req, "If-Match")
    if tags is not None:
        if not matches(info, tags):
            raise PreconditionFailedError(f"object {info.key!r} has another ETag", field="If-Match")
        return
    since = date_in(req, "If-Unmodified-Since")
    if since is not None and not _unmodified(info, since):
        raise PreconditionFailedError(
            f"object {info.key!r} was modified at {http_date(info.last_modified)}",
            field="If-Unmodified-Since",
        )


def not_modified(req: func.HttpRequest, info: ObjectInfo) -> bool:
    """Evaluate a read's preconditions in the order of RFC 9110, 13.2.2.

    :raises PreconditionFailedError: ``If-Match`` or ``If-Unmodified-Since`` does not hold.
    """
    check_unchanged(req, info)
    known = etags(req, "If-None-Match")
    if known is not None:
        return matches(info, known)
    since = date_in(req, "If-Modified-Since")
    return since is not None and _unmodified(info, since)


def _unmodified(info: ObjectInfo, since: datetime) -> bool:
    # HTTP dates have whole seconds.
    return info.last_modified.replace(microsecond=0) <= since


def range_holds(req: func.HttpRequest, info: ObjectInfo) -> bool:
    """Whether ``If-Range`` allows a part of this version. A weak tag or a date never does: the one is not
    equal byte by byte, the other has whole seconds (RFC 9110, 13.1.5)."""
    wanted = req.headers.get("If-Range")
    if wanted is None:
        return True
    tag = re.fullmatch(r'\s*"([^"]*)"\s*', wanted)
    return tag is not None and info.has_etag(tag[1])


_RANGE = re.compile(r"bytes=(\d+)?-(\d+)?", re.IGNORECASE | re.ASCII)


def byte_range(req: func.HttpRequest) -> ByteRange | None:
    """The one range of the ``Range`` header. Several ranges, another unit or a malformed one are ignored,
    and the whole object is the answer (RFC 9110, 14.2)."""
    match = _RANGE.fullmatch(req.headers.get("Range", "").strip())
    if match is None or match[1] is match[2] is None or max(len(match[1] or ""), len(match[2] or "")) > 4000:
        return None
    if match[1] is None:
        # A suffix of no bytes is satisfied by nothing: a range behind every end says so.
        return ByteRange(-int(match[2])) if int(match[2]) else ByteRange(2**62)
    if match[2] is None:
        return ByteRange(int(match[1]))
    if int(match[2]) < int(match[1]):
        return None
    return ByteRange(int(match[1]), int(match[2]) + 1)


def http_date(moment: datetime) -> str:
    """As headers have it: with whole seconds."""
    return format_datetime(moment.astimezone(UTC), usegmt=True)
