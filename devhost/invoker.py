"""Runs invocations from trigger to output bindings, never cut off half-way."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import traceback
from collections.abc import Mapping

from devhost import runtime
from devhost.outputs import QueueOutputs
from devhost.runtime import Datum, Function, InvocationResult

logger = logging.getLogger("devhost")


class Invoker:
    """The one way to run a function. Its outputs are sent before the trigger hears of success."""

    def __init__(self, outputs: QueueOutputs) -> None:
        self._outputs = outputs
        self._running: set[asyncio.Task[InvocationResult]] = set()

    async def run(
        self,
        function: Function,
        inputs: list[tuple[str, Datum]],
        trigger_metadata: Mapping[str, Datum] | None = None,
    ) -> InvocationResult:
        """Run a function and send what it put out. Cancelling the caller does not cancel the function."""
        task = asyncio.create_task(self._run(function, inputs, trigger_metadata), name=function.name)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def drain(self, timeout: float) -> None:
        """Wait so many seconds for running invocations; cancel those that take longer."""
        if not self._running:
            return
        _, late = await asyncio.wait(self._running, timeout=timeout)
        for task in late:
            logger.warning("%s did not end within %g s and is cancelled", task.get_name(), timeout)
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def _run(
        self,
        function: Function,
        inputs: list[tuple[str, Datum]],
        trigger_metadata: Mapping[str, Datum] | None,
    ) -> InvocationResult:
        result = await runtime.invoke(function, inputs, trigger_metadata)
        if result.ok:
            try:
                await self._outputs.send(function, result)
            except Exception as error:
                # Whatever kept an output from being sent, the invocation did not do what it should.
                result = dataclasses.replace(
                    result, ok=False, error=repr(error), traceback=traceback.format_exc()
                )
        if not result.ok:
            logger.error("%s failed: %s\n%s", function.name, result.error, result.traceback.rstrip())
        return result
