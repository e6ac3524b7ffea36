"""What is kept of an object."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from types import MappingProxyType

from storage_lib.config.caching import CachingOptions
from storage_lib.ports import expiry, hidden
from storage_lib.ports.drivers import PutOptions
from storage_lib.ports.object_model import ObjectInfo, StoredObject
from storage_lib.ports.streaming import verify

_OVERHEAD_BYTES = 1300
"""Of an entry beside its texts and its bytes, about: objects, references, and its place in the table."""
_TEXT_BYTES = 120
"""Of two short texts."""


class Entry:
    """An object, its info alone, or that there is none (``info`` is None), until ``stale_at``.

    ``info`` is as the driver gave it, and nobody else's. ``dated``: the time of its last change is known.
    ``ends_at`` is the end of the object's life.
    """

    __slots__ = ("_shown", "data", "dated", "ends_at", "etag", "info", "size", "stale_at")

    def __init__(
        self, key: str, info: ObjectInfo | None, data: bytes | None, stale_at: float, *, dated: bool = True
    ) -> None:
        self.info = info
        self.data = data
        self.stale_at = stale_at
        self.dated = dated
        self.etag: str | None = None
        self.ends_at: float | None = None
        self._shown: StoredObject | None = None
        self.size = _OVERHEAD_BYTES + len(key)
        if data is not None:
            self.size += len(data)
        if info is None:
            return
        self.etag = info.etag
        if metadata := info.metadata:
            self.ends_at = expiry.end_in(metadata)
            texts = sum(map(len, metadata)) + sum(map(len, metadata.values()))
            self.size += texts + len(metadata) * _TEXT_BYTES

    @property
    def shown(self) -> StoredObject | None:
        """What all callers may see, and none may change; made when the first one asks."""
        if self._shown is None and self.data is not None and self.info is not None:
            if hidden.ENCRYPTED in self.info.metadata:
                return None  # The store refuses to return the bytes.
            info = seen(self.info)
            info = replace(info, metadata=MappingProxyType(info.metadata))
            self._shown = StoredObject(info, self.data, verified=True)
        return self._shown

    def found(self, start: int = 0, end: int | None = None) -> StoredObject:
        """The object, or a range of it, for one caller."""
        assert self.info is not None and self.data is not None  # noqa: S101, PT018 - the caller has looked
        data = self.data if end is None else self.data[start:end]
        return StoredObject(own(self.info), data, start, verified=end is None)


class Entries:
    """Makes entries.

    :param clock: seconds since the epoch, which decide whether an object has expired.
    """

    def __init__(self, options: CachingOptions, clock: Callable[[], float]) -> None:
        self._options = options
        self._clock = clock
        self.largest = options.largest_bytes

    def of(self, key: str, info: ObjectInfo, data: bytes | None, started: float) -> Entry:
        """What a read has found that began at ``started``.

        :raises KeyNotFoundError: it has expired.
        """
        entry = Entry(key, own(info), data, started + self._options.ttl)
        if self.has_ended(entry):
            raise expiry.gone(key)
        return entry

    async def verified(self, key: str, found: StoredObject, started: float) -> Entry:
        """Likewise, with bytes that are verified once for all who read them.

        :raises IntegrityError: they do not match their size or checksum.
        """
        entry = self.of(key, found.info, found.data, started)
        if not found.verified and entry.shown is not None:
            await verify(entry.shown)
        return entry

    def written(self, key: str, data: bytes, options: PutOptions, etag: str, started: float) -> Entry | None:
        """What was saved. The time of its last change is the store's, and not yet known."""
        if len(data) > self.largest:
            return None
        now = datetime.fromtimestamp(self._clock(), UTC)
        sha256 = options.sha256 or None
        info = ObjectInfo(key, len(data), etag, now, options.content_type, options.metadata, sha256)
        return Entry(key, info, data, started + self._options.ttl, dated=False)

    def none(self, key: str, started: float) -> Entry | None:
        """That there is no object."""
        seconds = self._options.missing_seconds
        return Entry(key, None, None, started + seconds) if seconds else None

    def kept(self, key: str, entry: Entry) -> Entry:
        """What is kept of an entry: of a large object its info alone."""
        if entry.data is None or len(entry.data) <= self.largest:
            return entry
        return Entry(key, entry.info, None, entry.stale_at)

    def has_ended(self, entry: Entry) -> bool:
        return entry.ends_at is not None and entry.ends_at <= self._clock()

    def is_large(self, entry: Entry | None) -> bool:
        """Whether it is known to be too large to be kept."""
        return entry is not None and entry.info is not None and seen(entry.info).size > self.largest


def seen(info: ObjectInfo) -> ObjectInfo:
    """What callers see of an object: also of one that is still compressed, for compression is off now."""
    return hidden.presented(hidden.received(info))


def own(info: ObjectInfo) -> ObjectInfo:
    """An equal info with a dict of its own, so that nobody changes another's."""
    return info.with_metadata(dict(info.metadata), info.expires_at)
