"""Conflicts: both stores had a newer version of an object. The one that lost is kept in the primary."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Literal

import msgspec

from storage_lib.errors import KeyNotFoundError
from storage_lib.keys import SYSTEM_PREFIX
from storage_lib.layers.fallback.entries import Entry, plain
from storage_lib.layers.fallback.transfer import transfer
from storage_lib.ports import expiry
from storage_lib.ports.drivers import PLAIN_GET, ListOptions, ObjectDriver, PutOptions
from storage_lib.ports.object_model import ListEntry, ObjectInfo, PutResult
from storage_lib.ports.streaming import sha256_of

CONFLICTS = f"{SYSTEM_PREFIX}conflicts/"
_ABOUT = f"{CONFLICTS}about/"
_VALUES = f"{CONFLICTS}value/"

_log = logging.getLogger("AOS.Storage")


class Conflict(msgspec.Struct, frozen=True):
    """A key that was written in the second store and changed in the primary, too.

    :param id: names the conflict.
    :param key: the object.
    :param winner: the store whose version was newer and is now in both.
    :param journaled_at: when the write that the second store took began.
    :param primary_modified_at: when the primary's version was saved; None if it had been deleted there.
    :param deleted: the write that the second store took was a delete.
    :param kept: the object of the primary with the version that lost, below ``.system/conflicts/``. Layers
        such as encryption stored it for its own key: `FallbackLayer.restore` puts it back there. None if what
        lost was a delete.
    """

    id: str
    key: str
    winner: Literal["primary", "secondary"]
    journaled_at: datetime
    primary_modified_at: datetime | None
    deleted: bool
    kept: str | None


class Conflicts:
    """The conflicts that the primary keeps until they are dismissed."""

    def __init__(self, primary: ObjectDriver, secondary: ObjectDriver) -> None:
        self._primary = primary
        self._secondary = secondary

    async def keep(
        self,
        journaled: ObjectInfo,
        entry: Entry,
        found: ObjectInfo | None,
        winner: Literal["primary", "secondary"],
    ) -> Conflict:
        """Keep the version that loses, before it is replaced. Doing it twice does no harm."""
        key = journaled.key
        told = f"{key}\n{entry.write}\n{found.etag if found is not None else ''}"
        name = f"{int(entry.at * 1000):014}-{hashlib.sha256(told.encode()).hexdigest()[:16]}"
        kept: str | None = f"{_VALUES}{name}"
        if winner == "secondary" and found is not None:
            await self._transfer(found, self._primary, f"{_VALUES}{name}")
        elif winner == "primary" and not entry.deleted:
            await self._transfer(journaled, self._secondary, f"{_VALUES}{name}")
        else:
            kept = None
        conflict = Conflict(
            name,
            key,
            winner,
            datetime.fromtimestamp(entry.at, UTC),
            None if found is None else found.last_modified,
            entry.deleted,
            kept,
        )
        content = msgspec.json.encode(conflict)
        options = PutOptions("application/json", {}, await sha256_of(content))
        await self._primary.put(f"{_ABOUT}{name}", content, options)
        _log.warning(
            "object %r was changed in both stores; the version of the %s store is newer", key, winner
        )
        return conflict

    async def _transfer(self, info: ObjectInfo, source: ObjectDriver, name: str) -> None:
        # With the end of its life, which other layers may have bound it to; only callers' reads look at that.
        await transfer(info, source, self._primary, name, plain(info.metadata))

    async def all(self) -> AsyncGenerator[Conflict]:
        """Those that are kept, oldest first."""
        async with aclosing(self._primary.scan(_ABOUT, ListOptions())) as listing:
            async for found in listing:
                assert isinstance(found, ListEntry)  # noqa: S101 - there is no delimiter
                try:
                    stored = await self._primary.get(found.key, PLAIN_GET)
                except KeyNotFoundError:
                    continue  # dismissed meanwhile
                assert stored is not None  # noqa: S101 - only a get with if_none_match answers None
                yield msgspec.json.decode(stored.data, type=Conflict)

    async def restored(self, conflict: Conflict, target: ObjectDriver, if_match: str | None) -> PutResult:
        """Save the kept version under its own key.

        :raises KeyNotFoundError: it was dismissed, or what lost was a delete.
        """
        if conflict.kept is None:
            raise KeyNotFoundError(f"conflict {conflict.id!r} has no version to restore", field="conflict")
        info = await self._primary.head(conflict.kept)
        if_match = expiry.split_etag(if_match)[0]
        return await transfer(
            info, self._primary, target, conflict.key, plain(info.metadata), if_match=if_match
        )

    async def dismiss(self, conflict: Conflict) -> None:
        """Remove the kept version, then its record."""
        for name in (conflict.kept, f"{_ABOUT}{conflict.id}"):
            if name is not None:
                try:
                    await self._primary.delete(name, None)
                except KeyNotFoundError:
                    continue  # someone else was faster
