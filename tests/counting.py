"""Counts what a storage's drivers are asked: on Azure each is a request."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

from storage_lib.ports.drivers import QueueDriver, TableDriver

_ASKED = {
    TableDriver: ("write", "get", "batch", "query"),
    QueueDriver: ("send", "receive", "delete", "update", "peek", "length", "clear"),
}


class Requests(Counter[str]):
    """How often each was asked, as ``tables.get``; to be made of a backend before it is used.

    :param seconds: how long each takes longer than it does.
    """

    def __init__(self, backend: Any, seconds: float = 0) -> None:
        super().__init__()
        self.seconds = seconds
        for name, driver, kind in (
            ("tables", backend.tables.driver, TableDriver),
            ("queues", backend.queues.driver, QueueDriver),
        ):
            for operation in _ASKED[kind]:
                setattr(driver, operation, self._counted(f"{name}.{operation}", getattr(driver, operation)))

    def _counted(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        async def counted(*args: Any, **named: Any) -> Any:
            self[name] += 1
            if self.seconds:
                await asyncio.sleep(self.seconds)
            return await call(*args, **named)

        return counted
