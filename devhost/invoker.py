"""Runs invocations from trigger to output bindings, never cut off half-way."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
import traceback
from collections.abc import Callable, Mapping

from devhost import runtime
from devhost.outputs import QueueOutputs
from devhost.runtime import Datum, Function, InvocationResult

logger = logging.getLogger("devhost")


class Invoker:
    """The one way to run a function. Its outputs are sent before the trigger hears of success."""

    def __init__(
        self,
        outputs: QueueOutputs,
        *,
        timeout: float = math.inf,
        stop_host: Callable[[str], None] = lambda reason: None,
    ) -> None:
        """:param timeout: ``functionTimeout`` of host.json in seconds. When a function takes longer, the
        platform ends the worker, and with it everything else that runs there; ``stop_host`` hears of it.
        """
        self._outputs = outputs
        self._timeout = timeout
        self._stop_host = stop_host
        self._worker_ended = asyncio.Event()
        self._running: dict[asyncio.Task[InvocationResult], Function] = {}

    async def run(
        self,
        function: Function,
        inputs: list[tuple[str, Datum]],
        trigger_metadata: Mapping[str, Datum] | None = None,
    ) -> InvocationResult:
        """Run a function and send what it put out. Cancelling the caller does not cancel the function."""
        task = asyncio.create_task(self._run(function, inputs, trigger_metadata), name=function.name)
        self._running[task] = function
        task.add_done_callback(self._running.pop)
        ended = asyncio.ensure_future(self._worker_ended.wait())
        try:
            await asyncio.wait(
                {task, ended},
                timeout=None if math.isinf(self._timeout) else self._timeout,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            ended.cancel()
        if task.done():
            return task.result()
        if not self._worker_ended.is_set():
            self._worker_ended.set()
            self._stop_host(
                f"{function.name} ran longer than functionTimeout, {self._timeout:g} s; its worker is ended,"
                " with all that runs there"
            )
        return InvocationResult(ok=False, duration=self._timeout, error="the worker was ended")

    async def drain(self, timeout: float) -> None:
        """Wait so many seconds for running invocations; cancel those that take longer, and timers at once."""
        for task, function in list(self._running.items()):
            if function.kind == "timer":
                task.cancel()
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
