"""The worker: where the app is loaded, and its functions run."""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from devhost import runtime
from devhost.errors import DevhostError
from devhost.runtime import Datum, Function, FunctionIndex, InvocationResult

logger = logging.getLogger("devhost")


class Worker:
    """A worker in this process, which can have one app only. `WorkerProcess` is one like the platform's."""

    def __init__(self, app: Path) -> None:
        self._app = app
        self._index: FunctionIndex | None = None

    async def start(self, stop_host: Callable[[str], None] = lambda reason: None) -> tuple[Function, ...]:
        """Load the app; its functions.

        :param stop_host: hears why the platform would stop the host, if it would.
        :raises DevhostError: the app, or a setting of it, cannot be used.
        """
        self._stop_host = stop_host
        self._index = runtime.load_app(self._app)
        _check_task_modules()
        _check_settings(self._index)
        return self._index.functions

    async def ready(self) -> None:
        """Return when functions can be run, which they can be here."""

    async def invoke(
        self, function: str, inputs: list[tuple[str, Datum]], trigger_metadata: Mapping[str, Datum] | None
    ) -> InvocationResult:
        """Run a function once. Whatever it raises becomes a failed result."""
        assert self._index is not None, "invoked before it was started"  # noqa: S101
        try:
            found = self._index[function]
        except KeyError:
            return InvocationResult(ok=False, duration=0, error="the app has no such function any more")
        return await runtime.invoke(found, inputs, trigger_metadata)

    def replace(self, reason: str) -> None:
        """End the worker and all that runs in it, and start another. This one can end with its host only."""
        self._stop_host(reason)

    async def stop(self) -> None:
        """Let the app close what it opened: ``function_app.shutdown``, where it has one."""
        shutdown = getattr(self._index and self._index.module, "shutdown", None)
        if not inspect.iscoroutinefunction(shutdown):
            return
        try:
            await shutdown()
        except Exception:
            # The app's own code: its failure must not keep the rest from being released.
            logger.exception("function_app.shutdown failed")


def _check_task_modules() -> None:
    """Import what ``AGENT_TASK_MODULES`` names: the app does so at the first task, too late to be noticed.

    :raises DevhostError: a module cannot be imported, or has an action that cannot work.
    """
    if not os.environ.get("AGENT_TASK_MODULES", "").strip(" ,"):
        return
    from functions.state import task_registry
    from storage_lib.errors import ConfigurationError
    from storage_lib.tasks import registry

    try:
        task_registry().names()
    except ConfigurationError as error:
        cause = error.__cause__
        ours = {registry.__file__, importlib.__file__}
        frames = traceback.extract_tb(cause.__traceback__) if cause is not None else []
        theirs = [each for each in frames if each.filename not in ours and not each.filename.startswith("<")]
        told = f"AGENT_TASK_MODULES: {error.explained()}\n{''.join(traceback.format_list(theirs))}"
        raise DevhostError(told.rstrip()) from error


def _check_settings(index: FunctionIndex) -> None:
    """Let the app check its settings: ``function_app.check_settings``, where it has one.

    :raises DevhostError: one cannot work.
    """
    from storage_lib.errors import ConfigurationError

    check: Any = getattr(index.module, "check_settings", None)
    if not callable(check):
        return
    try:
        check()
    except ConfigurationError as error:
        raise DevhostError(f"the settings cannot work: {error.explained()}") from error
