"""Which objects are there for a caller: what has expired is not, though it may still be stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress

from storage_lib.errors import IntegrityError, KeyNotFoundError, PreconditionFailedError
from storage_lib.ports import expiry, hidden, sweeping
from storage_lib.ports.drivers import ObjectDriver
from storage_lib.ports.errors import still_encrypted, unmet
from storage_lib.ports.object_model import ANY_VERSION, ObjectInfo, read_etag
from storage_lib.ports.portable import Stationary


class Presence(Stationary):
    """What a store knows of the life of its objects, and of the ETags by which callers mean them."""

    def __init__(self, driver: ObjectDriver) -> None:
        self.driver = driver
        self._core = driver.core
        self._ends_objects = driver.capabilities.ends_objects

    @property
    def clock(self) -> Callable[[], float]:
        """Seconds since the epoch, which decide whether an object has expired."""
        return self.driver.clock

    @clock.setter
    def clock(self, clock: Callable[[], float]) -> None:
        self.driver.clock = clock

    async def _exists(self, key: str) -> None:
        """Check that an object exists.

        :raises KeyNotFoundError: there is no such object, or it has expired.
        """
        self._presented(await self._core.head(key))

    async def _lives(self, key: str) -> None:
        """See that an object that is to be deleted is not over.

        :raises KeyNotFoundError: it is.
        """
        # What is damaged can be removed. What is missing may yet be made by a save that was cancelled: the
        # driver's `delete` waits for that.
        with suppress(IntegrityError):
            try:
                info = await self._core.head(key)
            except KeyNotFoundError:
                return
            self._presented(info)

    def _is_expired(self, info: ObjectInfo) -> bool:
        until = expiry.end_in(info.metadata)
        return until is not None and until <= self.clock()

    def _presented(self, info: ObjectInfo) -> ObjectInfo:
        """The info as callers see it. :raises KeyNotFoundError: the object has expired."""
        if expiry.METADATA in info.metadata and self._is_expired(info):
            raise expiry.gone(info.key)
        return hidden.presented(info)

    def _readable(self, info: ObjectInfo) -> ObjectInfo:
        """`_presented`, of an object whose bytes are to be returned. :raises EncryptionError: they are
        encrypted, and no layer has decrypted them."""
        if not info.metadata:
            return hidden.presented(info)
        shown = self._presented(hidden.received(info))
        if hidden.ENCRYPTED in info.metadata:
            raise still_encrypted(info.key)
        return shown

    def _sealable(self, info: ObjectInfo) -> None:
        """Check that the metadata of an object, as the core knows it, can be changed.

        :raises KeyNotFoundError: it has expired.
        :raises EncryptionError: its metadata are bound to its bytes, and no layer can do that anew.
        """
        self._presented(info)
        if hidden.ENCRYPTED in info.metadata and not self.driver.capabilities.decrypts:
            raise still_encrypted(info.key)

    async def _replaceable(self, key: str, if_match: str | None) -> str | None:
        """What the hooks of a save get for ``if_match``: the store's own ETag, or `ANY_VERSION`.

        :raises PreconditionFailedError: there is nothing that it means.
        """
        if if_match is None:
            return None
        etag = read_etag(if_match, "if_match")
        if etag is None:
            raise unmet(key, if_match)
        if etag == ANY_VERSION:
            try:
                await self._exists(key)
            except KeyNotFoundError as error:
                raise unmet(key, etag) from error
            except IntegrityError:
                pass  # What is damaged is there, and can be replaced.
            return etag
        raw, until = expiry.split_etag(etag)
        if until is not None and until <= self.clock():
            raise PreconditionFailedError(f"object {key!r} has expired", field="if_match")
        return raw

    async def _present(self, key: str, if_match: str | None) -> str | None:
        """The ETag that a read or a delete is to insist on, None for any version.

        :raises KeyNotFoundError: the object cannot have ``if_match``, for there is none.
        :raises PreconditionFailedError: no object can have it.
        """
        etag = None if if_match is None else read_etag(if_match, "if_match")
        if etag is None and if_match is not None:
            await self._exists(key)
            raise unmet(key, if_match)
        return None if etag == ANY_VERSION else etag

    async def _make_way(self, key: str) -> None:
        """Remove an object that has expired and is still there. A sweep may do the same at any moment, so it
        is not replaced: only "there must be none" holds before and after.

        :raises PreconditionFailedError: there is one that has not expired.
        """
        try:
            info = await self._core.head(key)
            if not self._is_expired(info):
                raise unmet(key, None)
        except KeyNotFoundError:
            return
        with suppress(KeyNotFoundError, PreconditionFailedError):  # swept, or saved anew, just now
            await self._core.delete(key, info.etag)

    async def mark(self, key: str, metadata: Mapping[str, str]) -> None:
        """Leave a marker that tells listings and sweeps of the end of an object's life, before the object is
        there: a marker without an object does no harm, an object without one would stay for ever."""
        if (end := metadata.get(expiry.METADATA)) is not None:
            await self._put_marker(*expiry.marker(key, end))

    async def mark_again(self, key: str, metadata: Mapping[str, str]) -> None:
        """Mark an object whose life was over before it was there: a sweep may have been there first. For what
        stores objects with the metadata that they had."""
        until = expiry.end_in(metadata)
        if until is not None and (now := self.clock()) >= until:
            # By another name than the first: that one may be about to be removed.
            await self._put_marker(*expiry.marker(key, expiry.end_of(now, 0)))

    async def _put_marker(self, name: str, content: bytes) -> None:
        if self._ends_objects:
            return
        await sweeping.put_marker(self._core, name, content)
