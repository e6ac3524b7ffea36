"""The preconditions of a request, evaluated as in RFC 9110, 13."""

from __future__ import annotations

import enum
from datetime import datetime
from typing import TYPE_CHECKING, Final

import azure.functions as func
from msgspec import Struct

from functions import dates
from functions.codings import without_coding
from functions.headers import header
from storage_lib.errors import InvalidArgumentError, PreconditionFailedError
from storage_lib.patterns import pattern

if TYPE_CHECKING:
    from storage_lib.ports.backend import ObjectInfo


class _Wildcard(enum.Enum):
    ANY = "*"


ANY: Final = _Wildcard.ANY
"""The bare ``*`` of a condition. A quoted entity tag may be spelled the same."""

type EntityTags = list[str] | _Wildcard
_ETAG = pattern(r'[ \t]*(?:(W/)?"([\x21\x23-\x7e\x80-\uffff]*)"[ \t]*)?(?:,|\Z)')
_OURS = pattern(r"(?!\*\Z)[\x21\x23-\x7e]+")
"""The form of an object's ETag; no other is ever passed to a store."""


class Preconditions(Struct, frozen=True):
    """What a request requires of the current object; None where it requires nothing."""

    match: EntityTags | None
    none_match: EntityTags | None
    modified_since: datetime | None
    unmodified_since: datetime | None

    @classmethod
    def of(cls, req: func.HttpRequest) -> Preconditions:
        """The conditions of a request. Invalid dates are ignored, and so is ``If-Modified-Since`` on a write
        (RFC 9110, 13.1.3).

        :raises InvalidArgumentError: a list of entity tags is malformed.
        """
        reads = req.method in ("GET", "HEAD")
        return cls(
            _etags(req, "If-Match"),
            _etags(req, "If-None-Match"),
            dates.parsed(header(req, "If-Modified-Since")) if reads else None,
            dates.parsed(header(req, "If-Unmodified-Since")),
        )

    @property
    def none(self) -> bool:
        return self == _NONE

    @property
    def only_match(self) -> EntityTags | None:
        """``If-Match``, if it is the only condition."""
        return self.match if self.none_match is None else None

    @property
    def only_none_match(self) -> EntityTags | None:
        """``If-None-Match``, if it is the only condition."""
        return self.none_match if self.match is None and self.unmodified_since is None else None

    def is_modified(self, info: ObjectInfo) -> bool:
        """Evaluate a read, in the order of RFC 9110, 13.2.2: whether the client lacks this version.

        :raises PreconditionFailedError: ``If-Match`` or ``If-Unmodified-Since`` does not hold.
        """
        self._check_unchanged(info)
        if self.none_match is not None:
            return not _matches(info, self.none_match)
        return self.modified_since is None or not _is_unmodified(info, self.modified_since)

    def check_write(self, key: str, info: ObjectInfo | None) -> None:
        """Evaluate a write over the object, or over nothing, in the same order.

        :raises PreconditionFailedError: one does not hold.
        """
        if info is not None:
            self._check_unchanged(info)
        elif self.match is not None:
            raise PreconditionFailedError(f"object {key!r} does not exist", field="If-Match")
        if self.none_match is not None and info is not None and _matches(info, self.none_match):
            what = "exists" if self.none_match is ANY else f"has the ETag {info.etag!r}"
            raise PreconditionFailedError(f"object {key!r} {what}", field="If-None-Match")

    def _check_unchanged(self, info: ObjectInfo) -> None:
        if self.match is not None:
            if not _matches(info, self.match):
                raise PreconditionFailedError(f"object {info.key!r} has another ETag", field="If-Match")
        elif self.unmodified_since is not None and not _is_unmodified(info, self.unmodified_since):
            raise PreconditionFailedError(
                f"object {info.key!r} was modified at {dates.http_date(info.last_modified)}",
                field="If-Unmodified-Since",
            )


_NONE = Preconditions(None, None, None, None)


def single(tags: EntityTags | None) -> str | None:
    """The only entity tag, if a store can compare with it."""
    return tags[0] if isinstance(tags, list) and len(tags) == 1 and _OURS.fullmatch(tags[0]) else None


def _etags(req: func.HttpRequest, name: str) -> EntityTags | None:
    """None without the header, `ANY` for ``*``. A weak tag cannot match in the strong comparison of
    ``If-Match``; ``If-None-Match`` compares weakly (RFC 9110, 13.1). Empty members of the list are left out
    (RFC 9110, 5.6.1.2). The tag of an object in a coding stands for its version: a client that got it encoded
    may write under that condition."""
    text = header(req, name)
    if text is None:
        return None
    if text.strip(" \t") == "*":
        return ANY
    tags: list[str] = []
    position = 0
    while position < len(text):
        match = _ETAG.match(text, position)
        if match is None:
            raise InvalidArgumentError(
                f"{name} is not a list of entity tags", field=name, limit='"tag", … or *'
            )
        if match[2] is not None and (not match[1] or name == "If-None-Match"):
            tags.append(without_coding(match[2]))
        position = match.end()
    return tags


def _matches(info: ObjectInfo, tags: EntityTags) -> bool:
    return tags is ANY or any(map(info.has_etag, tags))


def _is_unmodified(info: ObjectInfo, since: datetime) -> bool:
    # HTTP dates have whole seconds.
    return info.last_modified.replace(microsecond=0) <= since
