"""`MetricsLayer`: the metrics layer around a backend."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from time import perf_counter

from storage_lib.config.metrics import MetricsOptions
from storage_lib.errors import StorageError
from storage_lib.layers.base import Layer, Operation
from storage_lib.layers.metrics.journal import LOG, Journal
from storage_lib.layers.metrics.meters import BEGUN, IN, OUT, Meter, Meters
from storage_lib.layers.metrics.objects import MeasuredObjects
from storage_lib.metrics.registry import Registry, default_registry
from storage_lib.ports.backend import StorageBackend, statistics_of
from storage_lib.ports.drivers import ObjectDriver
from storage_lib.ports.statistics import Statistic

PATIENCE_SECONDS = 1.0
"""A store that was asked in vain for so long, before its caller gave up, does not answer."""


class MetricsLayer(Layer):
    """Measures and logs each operation, and shows what the layers inside count.

    That there is no object, or that a condition does not hold, is an outcome and no error. A log record has
    the key and the size, never the value.

    :param registry: where; None means the registry of this process.
    :raises ConfigurationError: OpenTelemetry is not installed, and the options do not switch it off.
    """

    portable = True

    def __init__(
        self, inner: StorageBackend, options: MetricsOptions, registry: Registry | None = None
    ) -> None:
        registry = default_registry() if registry is None else registry
        self._meters = registry.shared(Meters)
        self._of: dict[tuple[str, str], Meter] = {}
        self._journal = Journal(options)
        super().__init__(inner)
        self.metrics = registry
        registry.add_source(self)
        if options.opentelemetry:
            from storage_lib.metrics.opentelemetry import export

            export(registry)

    def meter(self, port: str, name: str) -> Meter:
        """The meter of one kind of operation."""
        found = self._of.get((port, name))
        if found is None:
            found = self._of[port, name] = self._meters.of(self.inner.system(port), port, name)
        return found

    def object_layer(self, inner: ObjectDriver) -> ObjectDriver:
        return MeasuredObjects(inner, self.around, self.meter, self._journal)

    def measured(self) -> Iterable[Statistic]:
        """What is inside, for the registry."""
        return statistics_of(self.inner)

    async def open(self) -> None:
        availability = self._meters.availability(self.inner.system("objects"), "objects")
        began = perf_counter()
        try:
            await self.inner.open()
        except StorageError as error:
            availability.failed(error)
            raise
        except asyncio.CancelledError:
            if perf_counter() - began >= PATIENCE_SECONDS:
                availability.learned(False)
            raise
        availability.learned(True)

    async def around[T](self, operation: Operation, call: Callable[[], Awaitable[T]], /) -> T:
        meter = self._of.get((operation.port, operation.name)) or self.meter(operation.port, operation.name)
        size = operation.size or 0
        numbers = meter.numbers()
        tally = numbers[0]
        tally[BEGUN] += 1
        began = perf_counter()
        try:
            result = await call()
        except BaseException as error:
            seconds = perf_counter() - began
            ended = meter.failed(seconds, error)
            self._journal.failed(meter, operation.target, seconds, size, ended)
            raise
        seconds = perf_counter() - began
        if size:
            tally[IN] += size
        elif meter.contents is not None:
            size = meter.contents(result)
            tally[OUT] += size
        meter.succeeded(numbers, seconds)
        if LOG.isEnabledFor(self._journal.level):
            self._journal.succeeded(meter, operation.target, seconds, size)
        return result
