"""Journal entries, which objects in the second store carry in their metadata, and the ETags of that store."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import replace

import msgspec

from storage_lib.errors import IntegrityError
from storage_lib.ports import hidden
from storage_lib.ports.object_model import ObjectInfo

TAG = "secondary."
"""How an ETag of the second store begins. No store's own ETags do, so it never matches one of the primary."""

_FORM = "1"
_BOOKKEEPING = frozenset({hidden.JOURNAL, hidden.ORIGIN, hidden.REPAIRED, hidden.ATTEMPT})


class Entry(msgspec.Struct, frozen=True):
    """A write that the second store took while the primary was away.

    :param chain: the same for all journaled writes of a key until it is repaired.
    :param write: this write.
    :param at: when it began, in seconds since the epoch. A write that timed out may have reached the primary
        at any moment after that.
    :param since: when the primary was first found away.
    :param blind: it replaced whatever there was, without a condition.
    :param deleted: it was a delete.
    :param origin: the ETag of the primary's version that it replaced, if that is known.
    """

    chain: str
    write: str
    at: float
    since: float
    blind: bool
    deleted: bool
    origin: str

    @staticmethod
    def of(info: ObjectInfo) -> Entry | None:
        """The entry of an object in the second store; None if it is only a copy.

        :raises IntegrityError: it cannot be read.
        """
        text = info.metadata.get(hidden.JOURNAL)
        if text is None:
            return None
        try:
            form, chain, write, at, since, flags, origin = text.split(".", 6)
            if form != _FORM:
                raise ValueError(form)
            return Entry(chain, write, int(at) / 1000, int(since) / 1000, "b" in flags, "d" in flags, origin)
        except ValueError as error:
            raise IntegrityError(
                f"object {info.key!r} of the second store has a journal entry that cannot be read"
            ) from error

    @staticmethod
    def next(found: ObjectInfo | None, *, at: float, since: float, conditional: bool, deleted: bool) -> Entry:
        """The entry of a write that replaces ``found``."""
        before = None if found is None else Entry.of(found)
        write = uuid.uuid4().hex[:12]
        if before is None:
            origin = "" if found is None else found.metadata.get(hidden.ORIGIN, "")
            return Entry(uuid.uuid4().hex[:12], write, at, since, not conditional, deleted, origin)
        # The condition was checked against the entry before, so what that one replaced still counts.
        return Entry(
            before.chain,
            write,
            at,
            min(since, before.since),
            before.blind or not conditional,
            deleted,
            "" if before.deleted else before.origin,
        )

    def __str__(self) -> str:
        flags = ("b" if self.blind else "") + ("d" if self.deleted else "")
        at, since = int(self.at * 1000), int(self.since * 1000)
        return f"{_FORM}.{self.chain}.{self.write}.{at}.{since}.{flags}.{self.origin}"

    @property
    def mark(self) -> str:
        """What a repair leaves on the primary's object."""
        return f"{self.chain}.{self.write}"


def presented(info: ObjectInfo) -> ObjectInfo:
    """An object of the second store as callers see it. A copy of a known version of the primary has that
    version's ETag."""
    metadata = info.metadata
    origin = metadata.get(hidden.ORIGIN) if hidden.JOURNAL not in metadata else None
    return replace(info, etag=origin or f"{TAG}{info.etag}", metadata=plain(metadata))


def plain(metadata: Mapping[str, str]) -> dict[str, str]:
    """Metadata without this layer's own, and without the marks of attempts."""
    return {name: value for name, value in metadata.items() if name not in _BOOKKEEPING}


def is_same(one: ObjectInfo, other: ObjectInfo) -> bool:
    """Whether two objects have the same bytes, type and metadata."""
    return (
        one.sha256 is not None
        and one.sha256 == other.sha256
        and one.size == other.size
        and one.content_type == other.content_type
        and plain(one.metadata) == plain(other.metadata)
    )
