"""A layer whose operations a test holds up: before they reach the store, or when it has answered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Literal

from storage_lib.layers.base import Layer, Operation
from storage_lib.ports.backend import StorageBackend

Phase = Literal["before", "after"]


class Hold:
    """An operation that waits: ``arrived`` is set when it does, and it goes on after `release`."""

    def __init__(self) -> None:
        self.arrived = asyncio.Event()
        self._released = asyncio.Event()

    def release(self) -> None:
        self._released.set()

    async def __call__(self) -> None:
        self.arrived.set()
        await self._released.wait()


class Gated(Layer):
    """Holds up operations on objects, and tells which there were."""

    def __init__(self, inner: StorageBackend) -> None:
        super().__init__(inner)
        self.calls: list[str] = []
        self.answers: list[Any] = []
        self._holds: dict[tuple[str, Phase], Hold] = {}
        self.failing: Callable[[], Exception] | None = None

    def hold(self, name: str, phase: Phase = "before") -> Hold:
        """Hold up the next operation of this name."""
        hold = self._holds[(name, phase)] = Hold()
        return hold

    async def around[T](self, operation: Operation, call: Callable[[], Awaitable[T]], /) -> T:
        self.calls.append(operation.name)
        await asyncio.sleep(0)  # A real store lets others go on, too.
        if (hold := self._holds.pop((operation.name, "before"), None)) is not None:
            await hold()
        if self.failing is not None:
            raise self.failing()
        try:
            answer = await call()
        finally:
            if (hold := self._holds.pop((operation.name, "after"), None)) is not None:
                await hold()
        self.answers.append(answer)
        return answer
