"""`MetricsCollector`: measurements of your own, next to those of the storage."""

from __future__ import annotations

import math

from storage_lib.errors import InvalidArgumentError
from storage_lib.metrics.instruments import SECONDS, Tags
from storage_lib.metrics.registry import Registry, default_registry

_MILLISECONDS = tuple(bound * 1000 for bound in SECONDS)
_OWN = ("agent_storage.", "agent_task.", "db.client.", "process.", "python.")


class MetricsCollector:
    """Counts and measures under names and tags of your choice; ``/api/metrics`` and OpenTelemetry show them.

        metrics = MetricsCollector()
        metrics.increment("storage.operations.total", tags={"operation": "write"})
        metrics.timing("storage.latency", 12.5, tags={"operation": "read"})
        metrics.gauge("storage.size.bytes", 1024)

    Tags have few values, such as an operation: each set of values is a series of its own, at most 1,000 of a
    name.

    :param registry: where; None means the registry of this process.
    """

    def __init__(self, registry: Registry | None = None) -> None:
        self.registry = default_registry() if registry is None else registry

    def increment(self, name: str, value: float = 1, *, tags: Tags | None = None) -> None:
        """Add ``value``, 0 or more, to the counter ``name``.

        :raises InvalidArgumentError: a name, tag or value is not valid, or the name is that of another kind.
        """
        self.registry.counter(_own(name)).add(_number("value", value), tags)

    def timing(self, name: str, ms: float, *, tags: Tags | None = None) -> None:
        """Record a duration of ``ms`` milliseconds in the histogram ``name``. The errors are those of
        `increment`."""
        if (ms := _number("ms", ms)) < 0:
            raise InvalidArgumentError(f"ms is {ms}", field="ms", limit="0 or more")
        self.registry.histogram(_own(name), unit="ms", bounds=_MILLISECONDS).record(ms, tags)

    def gauge(self, name: str, value: float, *, tags: Tags | None = None) -> None:
        """Set the gauge ``name`` to ``value``. The errors are those of `increment`."""
        self.registry.gauge(_own(name)).set(_number("value", value), tags)


def _own(name: str) -> str:
    if isinstance(name, str) and name.startswith(_OWN):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidArgumentError(
            f"metric {name[:100]} is the storage's own",
            field="name",
            limit=f"a name that does not begin with {', '.join(_OWN)}",
            remedy="give it another name",
        )
    return name


def _number(field: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):  # pyright: ignore[reportUnnecessaryIsInstance]
        shown = "a huge number" if isinstance(value, int) and abs(value) >= 2**64 else str(value)[:100]
        raise InvalidArgumentError(
            f"{field} is {shown}", field=field, limit="a number of a double, neither NaN nor infinite"
        )
    return float(value) if abs(value) > 2**53 else value


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # An int that no double can be.
        return False
