"""Runs invocations from trigger to output bindings, never cut off half-way."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
import traceback
from collections.abc import Mapping

from devhost.outputs import QueueOutputs
from devhost.runtime import Datum, Function, InvocationResult
from devhost.worker import Worker
from devhost.worker_process import WorkerProcess

logger = logging.getLogger("devhost")

GRACE_SECONDS = 12.0
"""How long a function that exceeded functionTimeout may still run, until its worker is ended."""


class Invoker:
    """The one way to run a function. Its outputs are sent before the trigger hears of success."""

    def __init__(
        self,
        outputs: QueueOutputs,
        worker: Worker | WorkerProcess,
        *,
        timeout: float = math.inf,
        grace: float = GRACE_SECONDS,
    ) -> None:
        """:param timeout: ``functionTimeout`` of host.json in seconds. A function that takes longer has
        failed; when it is not done in another ``grace`` seconds, the platform ends the worker, and with it
        everything else that runs there.
        """
        self._outputs = outputs
        self._worker = worker
        self._timeout = None if math.isinf(timeout) else timeout
        self._grace = grace
        self._running: dict[asyncio.Task[InvocationResult], Function] = {}

    async def run(
        self, function: Function, trigger: Datum, metadata: Mapping[str, Datum] | None = None
    ) -> InvocationResult:
        """Run a function and send what it put out. Cancelling the caller does not cancel the function."""
        task = asyncio.create_task(self._run(function, trigger, metadata), name=function.name)
        self._running[task] = function
        task.add_done_callback(self._running.pop)
        return await asyncio.shield(task)

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
        self, function: Function, trigger: Datum, metadata: Mapping[str, Datum] | None
    ) -> InvocationResult:
        result = await self._invoke(function, trigger, metadata)
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

    async def _invoke(
        self, function: Function, trigger: Datum, metadata: Mapping[str, Datum] | None
    ) -> InvocationResult:
        # What waits for a worker has not begun.
        await self._worker.ready()
        inputs = [(str(function.trigger["name"]), trigger)]
        call = asyncio.ensure_future(self._worker.invoke(function.name, inputs, metadata))
        try:
            if (await asyncio.wait({call}, timeout=self._timeout))[0]:
                return call.result()
            late = f"{function.name} ran longer than functionTimeout, {self._timeout:g} s"
            if not (await asyncio.wait({call}, timeout=self._grace))[0]:
                self._worker.replace(f"{late}; its worker is ended, with all that runs there")
            return InvocationResult(ok=False, duration=self._timeout or 0, error=late)
        finally:
            call.cancel()
