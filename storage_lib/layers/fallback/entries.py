"""Journal entries, which objects in the second store carry in their metadata, and the ETags of that store."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import replace

import msgspec

from storage_lib.errors import IntegrityError
from storage_lib.ports import hidden
from storage_lib.ports.kept_headers import headers_in
from storage_lib.ports.object_model import ObjectInfo

TAG = hidden.OF_SECONDARY
"""How an ETag of the second store begins, so that it never matches one of the primary."""

_FORM = "1"
_DIGITS = 16
_TAKEN = 2
"""How many fingerprints of lost responses an entry has. A process that has journaled a key writes it to the
primary no more."""
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
    :param copied: fingerprint of the copy that the first of them replaced; empty if there was none.
    :param taken: fingerprints of what the primary may have taken from their writers, too.
    :param origin: the ETag of the primary's version that it replaced, if that is known.
    """

    chain: str
    write: str
    at: float
    since: float
    blind: bool
    deleted: bool
    copied: str
    taken: tuple[str, ...]
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
            form, chain, write, at, since, flags, known, origin = text.split(".", 7)
            if form != _FORM:
                raise ValueError(form)
            copied, *taken = known.split("+")
            return Entry(
                chain=chain,
                write=write,
                at=int(at) / 1e6,
                since=int(since) / 1e6,
                blind="b" in flags,
                deleted="d" in flags,
                copied=copied,
                taken=tuple(taken),
                origin=origin,
            )
        except ValueError as error:
            raise IntegrityError(
                f"object {info.key!r} of the second store has a journal entry that cannot be read"
            ) from error

    @staticmethod
    def next(
        found: ObjectInfo | None, *, at: float, since: float, conditional: bool, deleted: bool, taken: str
    ) -> Entry:
        """The entry of a write that replaces ``found``."""
        before = None if found is None else Entry.of(found)
        new = Entry(
            chain=uuid.uuid4().hex[:12],
            write=uuid.uuid4().hex[:12],
            at=at,
            since=since,
            blind=not conditional,
            deleted=deleted,
            copied="" if found is None else fingerprint_of(found),
            taken=(taken,) if taken else (),
            origin="" if found is None else found.metadata.get(hidden.ORIGIN, ""),
        )
        if before is None:
            return new
        # The condition was checked against the entry before, so what that one replaced still counts.
        return msgspec.structs.replace(
            new,
            chain=before.chain,
            since=min(since, before.since),
            blind=before.blind or not conditional,
            copied=before.copied,
            taken=(*before.taken, *new.taken)[:_TAKEN],
            origin="" if before.deleted else before.origin,
        )

    def __str__(self) -> str:
        flags = ("b" if self.blind else "") + ("d" if self.deleted else "")
        at, since = round(self.at * 1e6), round(self.since * 1e6)
        parts = (
            _FORM,
            self.chain,
            self.write,
            at,
            since,
            flags,
            "+".join((self.copied, *self.taken)),
            self.origin,
        )
        return ".".join(map(str, parts))

    def knows(self, found: ObjectInfo) -> bool:
        """Whether the primary's object is what the writers of these entries knew. One that is equal to the
        copy, but was saved after the primary went away, is a newer write of the same content."""
        if self.origin and self.origin == found.etag:
            return True
        mine = fingerprint_of(found)
        if not mine:
            return False
        return mine in self.taken or (mine == self.copied and found.last_modified.timestamp() <= self.since)

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


def has_same_bytes(one: ObjectInfo, other: ObjectInfo) -> bool:
    """Whether two objects differ in their metadata at most."""
    return (
        one.sha256 is not None
        and one.sha256 == other.sha256
        and one.size == other.size
        and one.content_type == other.content_type
        and headers_in(one.metadata) == headers_in(other.metadata)
    )


def is_same(one: ObjectInfo, other: ObjectInfo) -> bool:
    """Whether two objects have the same bytes, type and metadata."""
    return has_same_bytes(one, other) and plain(one.metadata) == plain(other.metadata)


def fingerprint(sha256: str, content_type: str, metadata: Mapping[str, str]) -> str:
    """A few digits of everything that makes an object what it is."""
    told = repr((sha256, content_type, sorted(plain(metadata).items())))
    return hashlib.sha256(told.encode()).hexdigest()[:_DIGITS]


def fingerprint_of(info: ObjectInfo) -> str:
    """`fingerprint` of a stored object; empty if its bytes have no checksum."""
    return "" if info.sha256 is None else fingerprint(info.sha256, info.content_type, info.metadata)
