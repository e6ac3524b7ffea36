"""`CachingLayer`: the cache around a backend."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from storage_lib.config.caching import CachingOptions
from storage_lib.layers.base import Layer
from storage_lib.layers.caching.cache import Cache, CacheCounts, seconds
from storage_lib.layers.caching.objects import CachingObjects
from storage_lib.ports.backend import StorageBackend
from storage_lib.ports.drivers import ObjectDriver
from storage_lib.ports.statistics import Statistic

_NAME = "agent_storage.cache"
_COUNTERS = {
    "hits": ("{read}", "Reads answered from memory"),
    "misses": ("{read}", "Reads of what was not in memory"),
    "stale": ("{read}", "Reads of what had been in memory for too long"),
    "unchanged": ("{read}", "Reads of which the store sent no bytes, for those in memory still held"),
    "joined": ("{read}", "Reads that waited for another one of the same object"),
    "evictions": ("{entry}", "Entries removed to make room"),
}
_GAUGES = {
    "entries": ("{entry}", "Entries in memory"),
    "bytes": ("By", "Memory that they take, about"),
}


class CachingLayer(Layer):
    """Keeps objects in memory. Tables and queues pass.

    What this process writes is seen at once, what others write after `CachingOptions.ttl` at the latest.
    Nothing is shared with other processes, or with other layers in this one.

    :param clock: seconds that never go back; tests inject their own.
    """

    portable = True

    def __init__(
        self, inner: StorageBackend, options: CachingOptions, *, clock: Callable[[], float] = seconds
    ) -> None:
        self.options = options
        self._clock = clock
        self._drivers: list[CachingObjects] = []
        super().__init__(inner)

    def object_layer(self, inner: ObjectDriver) -> ObjectDriver:
        driver = CachingObjects(inner, self.around, self.options, Cache(self.options, self._clock))
        self._drivers.append(driver)
        return driver

    def counts(self) -> CacheCounts:
        """What the cache has done, and what it holds now."""
        found = [driver.cache.counts() for driver in self._drivers]
        names = CacheCounts.__struct_fields__
        return CacheCounts(**{name: sum(getattr(one, name) for one in found) for name in names})

    def statistics(self) -> Iterable[Statistic]:
        counts = self.counts()
        for name, (unit, description) in _COUNTERS.items():
            value = getattr(counts, name)
            yield Statistic(f"{_NAME}.{name}", value, unit=unit, description=description)
        for name, (unit, description) in _GAUGES.items():
            value = getattr(counts, name)
            yield Statistic(f"{_NAME}.{name}", value, "gauge", unit=unit, description=description)

    def clear(self) -> None:
        """Forget everything: what is read next comes from the store."""
        for driver in self._drivers:
            driver.cache.clear()

    async def close(self) -> None:
        try:
            await super().close()
        finally:
            for driver in self._drivers:
                await driver.close()
