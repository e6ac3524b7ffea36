"""What is measured of each operation."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Callable
from threading import Lock, get_ident
from typing import Any

from storage_lib.errors import (
    BackendClosedError,
    KeyNotFoundError,
    PreconditionFailedError,
    StorageError,
    StorageUnavailableError,
    TransientStorageError,
)
from storage_lib.metrics.instruments import Observed
from storage_lib.metrics.registry import Registry
from storage_lib.ports.object_model import StoredObject
from storage_lib.ports.queue_model import QueueMessage

_WORDS = {
    "put": "write",
    "put_stream": "write",
    "get": "read",
    "read_stream": "read",
    "scan": "list",
}
"""What callers do with objects, by the driver's method."""


def _of_object(found: StoredObject | None) -> int:
    return 0 if found is None else len(found.data)


def _of_messages(found: list[QueueMessage]) -> int:
    return sum(len(message.text) for message in found)


_CONTENTS: dict[tuple[str, str], Callable[[Any], int]] = {
    ("objects", "get"): _of_object,
    ("queues", "receive"): _of_messages,
    ("queues", "peek"): _of_messages,
}
"""How many bytes of contents came with a result."""

_DIRECTIONS = {
    ("objects", "put"): "in",
    ("objects", "put_stream"): "in",
    ("objects", "get"): "out",
    ("objects", "read_stream"): "out",
    ("queues", "send"): "in",
    ("queues", "update"): "in",
    ("queues", "receive"): "out",
    ("queues", "peek"): "out",
}
"""What has contents, and where they go."""


class Meters:
    """The meters of a registry, for all layers that measure in it."""

    def __init__(self, registry: Registry) -> None:
        self.durations = registry.histogram(
            "db.client.operation.duration", unit="s", description="How long operations of storages took"
        )
        self.operations = registry.counter(
            "agent_storage.operations", unit="{operation}", description="Operations that have ended"
        )
        self.errors = registry.counter(
            "agent_storage.errors", unit="{error}", description="Operations that failed, by kind of error"
        )
        self.in_flight = registry.updowncounter(
            "agent_storage.in_flight", unit="{operation}", description="Operations under way"
        )
        self.moved = registry.counter(
            "agent_storage.io", unit="By", description="Contents written (in) and read (out)"
        )
        self.up = registry.gauge(
            "agent_storage.up", description="1 if the store answered the latest operation, 0 if it did not"
        )
        self._lock = Lock()
        self._of: dict[tuple[str, str, str], Meter] = {}
        self._availability: dict[tuple[str, str], Availability] = {}

    def of(self, backend: str, port: str, name: str) -> Meter:
        """The meter of one kind of operation."""
        key = (backend, port, name)
        with self._lock:  # A second one would be the one that is shown, and count nothing.
            if (found := self._of.get(key)) is None:
                found = self._of[key] = Meter(self, *key)
            return found

    def availability(self, backend: str, port: str) -> Availability:
        return self._availability.setdefault((backend, port), Availability(self, backend, port))


class Availability:
    """Whether a store answers, as far as the latest operations tell."""

    __slots__ = ("_meters", "_tags", "is_up")

    def __init__(self, meters: Meters, backend: str, port: str) -> None:
        self._meters = meters
        self._tags = {"backend": backend, "port": port}
        self.is_up: bool | None = None

    def learned(self, is_up: bool) -> None:
        self.is_up = is_up
        self._meters.up.set(int(is_up), self._tags)

    def failed(self, error: BaseException) -> None:
        """Learn from an error; most of them are answers."""
        if isinstance(error, StorageUnavailableError):
            self.learned(False)
        elif isinstance(error, StorageError) and not isinstance(
            error, TransientStorageError | BackendClosedError
        ):
            self.learned(True)


BEGUN, SUCCEEDED, FAILED, IN, OUT = range(5)
"""What a thread's tally counts: operations, and bytes of contents."""

type Numbers = tuple[list[int], list[Any]]
"""Of one thread: its tally, and the buckets of the durations."""


class Meter:
    """What is measured of one kind of operation, such as ``put`` of objects.

    An operation costs little: it changes numbers of its own thread, which the instruments add up when they
    are read.
    """

    __slots__ = (
        "_availability",
        "_duration",
        "_meters",
        "_of_threads",
        "_semantic",
        "_tags",
        "backend",
        "contents",
        "operation",
    )

    def __init__(self, meters: Meters, backend: str, port: str, name: str) -> None:
        self.backend = backend
        self.operation = _WORDS.get(name, name) if port == "objects" else name
        self.contents = _CONTENTS.get((port, name))
        """How many bytes came with a result; None if there are none."""
        self._meters = meters
        self._availability = meters.availability(backend, port)
        self._of_threads: dict[int, Numbers] = {}
        self._semantic = {"agent_storage.port": port, "db.operation.name": name, "db.system.name": backend}
        self._duration = meters.durations.bound(self._semantic)
        self._tags = {"backend": backend, "port": port, "operation": self.operation, "method": name}
        meters.in_flight.adopt(self._tags, Observed(self._under_way))
        meters.operations.adopt({**self._tags, "outcome": "ok"}, Observed(lambda: self._sum(SUCCEEDED)))
        if direction := _DIRECTIONS.get((port, name)):
            moved = Observed(lambda: self._sum(IN if direction == "in" else OUT))
            meters.moved.adopt({**self._tags, "direction": direction}, moved)

    def numbers(self) -> Numbers:
        """The numbers of this thread, which alone may change them."""
        thread = get_ident()
        try:
            return self._of_threads[thread]
        except KeyError:
            numbers = self._of_threads[thread] = ([0] * 5, self._duration.cells())
            return numbers

    def succeeded(self, numbers: Numbers, seconds: float) -> None:
        tally, cells = numbers
        tally[SUCCEEDED] += 1
        duration = self._duration
        cells[bisect_left(duration.fine, seconds)] += 1
        cells[-1] += seconds
        if duration.forward is not None:
            duration.forward(seconds, duration.attributes)
        if not self._availability.is_up:
            self._availability.learned(True)

    def failed(self, seconds: float, error: BaseException) -> tuple[str, str]:
        """It raised ``error``. Returns the outcome, and the kind of the error if it is one."""
        self.numbers()[0][FAILED] += 1
        self._availability.failed(error)
        meters, outcome, kind = self._meters, outcome_of(error), ""
        meters.operations.add(1, {**self._tags, "outcome": outcome})
        if outcome in ("not-found", "precondition-failed"):
            self._duration.record(seconds)
            return outcome, ""
        kind = error.code if isinstance(error, StorageError) else type(error).__qualname__
        meters.durations.record(seconds, {**self._semantic, "error.type": kind})
        if outcome == "error":
            meters.errors.add(1, {**self._tags, "error": kind})
        return outcome, kind

    def _sum(self, index: int) -> int:
        return sum(tally[index] for tally, _ in list(self._of_threads.values()))

    def _under_way(self) -> int:
        tallies = list(self._of_threads.values())
        return sum(tally[BEGUN] - tally[SUCCEEDED] - tally[FAILED] for tally, _ in tallies)


def outcome_of(error: BaseException) -> str:
    """What an operation came to that raised ``error``. Nothing there, and a condition that does not hold, are
    answers; being cancelled is the caller's wish."""
    if isinstance(error, KeyNotFoundError):
        return "not-found"
    if isinstance(error, PreconditionFailedError):
        return "precondition-failed"
    return "cancelled" if isinstance(error, asyncio.CancelledError) else "error"
