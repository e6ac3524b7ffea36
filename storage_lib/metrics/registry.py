"""The registry: every instrument of a process by its name, and what else is asked when it is read."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from storage_lib.errors import InvalidArgumentError
from storage_lib.metrics.instruments import (
    SECONDS,
    Counter,
    Gauge,
    Histogram,
    Instrument,
    UpDownCounter,
)
from storage_lib.patterns import pattern

if TYPE_CHECKING:
    from storage_lib.ports.statistics import Statistic

_NAME = pattern(r"[A-Za-z][A-Za-z0-9_.\-/]{0,254}")
"""OpenTelemetry's syntax of an instrument's name."""
_NOT_EXPOSED = pattern(r"[^A-Za-z0-9_]")


class Source(Protocol):
    """What keeps statistics of its own, which are read from it when the registry is read."""

    def measured(self) -> Iterable[Statistic]: ...


class Registry:
    """Instruments by name. Asking for one that exists returns it; asking for another kind under its name is
    refused."""

    def __init__(self) -> None:
        self._instruments: dict[str, Instrument[Any]] = {}
        self._exposed: dict[str, str] = {}
        self._sources: dict[int, weakref.ref[Source]] = {}
        self._listeners: list[Callable[[Instrument[Any]], None]] = []
        self._shared: dict[Any, Any] = {}
        self._source_listeners: list[Callable[[Source], None]] = []

    def counter(self, name: str, *, unit: str = "", description: str = "") -> Counter:
        """The counter of this name.

        :param name: dotted and in lower case, like ``agent_storage.operations``.
        :param unit: of what it counts, such as ``By`` or ``{operation}``; see `Instrument`.
        :param description: one line for people.
        :raises InvalidArgumentError: the name is not valid, or is that of something else.
        """
        return self._get(Counter, name, unit, description)

    def updowncounter(self, name: str, *, unit: str = "", description: str = "") -> UpDownCounter:
        """A number that rises and falls; otherwise like `counter`."""
        return self._get(UpDownCounter, name, unit, description)

    def gauge(self, name: str, *, unit: str = "", description: str = "") -> Gauge:
        """A value that is set; otherwise like `counter`."""
        return self._get(Gauge, name, unit, description)

    def histogram(
        self, name: str, *, unit: str = "s", description: str = "", bounds: Sequence[float] = SECONDS
    ) -> Histogram:
        """A distribution; otherwise like `counter`.

        :param bounds: of its buckets, ascending and above 0; those of an existing one stay.
        """
        return self._get(Histogram, name, unit, description, bounds)

    def shared[T](self, kind: Callable[[Registry], T]) -> T:
        """What ``kind`` makes of this registry: one for all who ask."""
        found = self._shared.get(kind)
        return self._shared.setdefault(kind, kind(self)) if found is None else found

    def instruments(self) -> list[Instrument[Any]]:
        return list(self._instruments.copy().values())

    def add_source(self, source: Source) -> None:
        """Read ``source`` whenever this registry is read, as long as it exists."""
        key = id(source)
        self._sources[key] = weakref.ref(source, lambda _: self._sources.pop(key, None))
        for listener in self._source_listeners:
            listener(source)

    def sources(self) -> list[Source]:
        return [source for each in list(self._sources.values()) if (source := each()) is not None]

    def statistics(self) -> list[Statistic]:
        """What the sources tell now; equal ones are added up."""
        summed: dict[Any, Statistic] = {}
        for source in self.sources():
            for each in source.measured():
                known = summed.get(key := (each.name, each.tags))
                summed[key] = each if known is None else each.plus(known.value)
        return list(summed.values())

    def on_source(self, listener: Callable[[Source], None]) -> None:
        """Call ``listener`` with every source: those there are, and new ones."""
        self._source_listeners.append(listener)
        for source in self.sources():
            listener(source)

    def on_instrument(self, listener: Callable[[Instrument[Any]], None]) -> None:
        """Call ``listener`` with every instrument: those there are, and new ones."""
        self._listeners.append(listener)
        for instrument in self.instruments():
            listener(instrument)

    def _get[I: Instrument[Any]](
        self, kind: type[I], name: str, unit: str, description: str, *more: Any
    ) -> I:
        found = self._instruments.get(name)
        if found is None:
            return self._made(kind, name, unit, description, *more)
        if type(found) is not kind:
            raise InvalidArgumentError(
                f"metric {name} is a {found.kind}, not a {kind.kind}",
                field="name",
                remedy="give it another name",
            )
        return found

    def _made[I: Instrument[Any]](
        self, kind: type[I], name: str, unit: str, description: str, *more: Any
    ) -> I:
        if not isinstance(name, str) or not _NAME.fullmatch(name):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidArgumentError(
                f"{str(name)[:100]!r} is not the name of a metric",
                field="name",
                limit="a letter, then letters, digits, _ . - and /, at most 255 in all",
            )
        # Prometheus has neither dots nor dashes: two names that it could not tell apart are one too many.
        exposed = _NOT_EXPOSED.sub("_", name).removesuffix("_total")
        if (other := self._exposed.setdefault(exposed, name)) != name:
            raise InvalidArgumentError(
                f"metric {name} and metric {other} would be the same to Prometheus",
                field="name",
                remedy="give it another name",
            )
        made = kind(name, unit, description, *more)
        found = self._instruments.setdefault(name, made)
        if found is made:
            for listener in self._listeners:
                listener(made)
        return self._get(kind, name, unit, description)


_DEFAULT = Registry()


def default_registry() -> Registry:
    """The registry of this process."""
    return _DEFAULT
