"""Counts and delays what the drivers of tables and queues are asked: on Azure each call is one request."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

from storage_lib.ports.backend import StorageBackend

_TABLES = ("write", "get", "batch", "query")
_QUEUES = ("send", "receive", "delete", "update", "peek", "length", "clear")


class Delays:
    """Make it of a backend before it is used.

    `entities` counts by table and partition how many were read or written by their keys, and `messages` by
    queue how many were sent, received and deleted.
    """

    def __init__(self, backend: StorageBackend, seconds: float) -> None:
        self.calls: Counter[str] = Counter()
        self.entities: Counter[tuple[str, str]] = Counter()
        self.messages: Counter[str] = Counter()
        self._seconds = seconds
        drivers = ((backend.tables.driver, _TABLES), (backend.queues.driver, _QUEUES))
        for driver, operations in drivers:
            for name in operations:
                setattr(driver, name, self._around(name, getattr(driver, name)))

    @property
    def count(self) -> int:
        """Of the requests up to now."""
        return self.calls.total()

    @property
    def without_polls(self) -> int:
        """Of those up to now that do not receive messages."""
        return self.count - self.calls["receive"]

    def _around(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        async def around(*args: Any, **named: Any) -> Any:
            self.calls[name] += 1
            if self._seconds:
                await asyncio.sleep(self._seconds)
            answer = await call(*args, **named)
            if name in ("write", "get"):
                self.entities[args[0], args[1]] += 1
            elif name == "batch":
                self.entities[args[0], args[1]] += len(args[2])
            elif name in ("send", "delete"):
                self.messages[args[0]] += 1
            elif name == "receive":
                self.messages[args[0]] += len(answer)
            return answer

        return around
