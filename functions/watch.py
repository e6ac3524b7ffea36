"""What every instance looks after while it is up: tasks whose host was killed.

The platform hides the messages of a killed host for up to ten minutes, and runs timers on one instance alone,
whose right to do so outlives it by a minute. So each instance looks by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time

from functions.state import state
from storage_lib.errors import StorageError

_log = logging.getLogger("AOS.Maintenance")

FIRST_SECONDS = 5.0
"""After the start, so that the first requests come first."""
EVERY_SECONDS = 15.0
SHARE = 20
"""A look may take a twentieth of the time at most: where there are very many records, looks are rarer."""

_watches: dict[asyncio.AbstractEventLoop, asyncio.Task[None]] = {}


def begin() -> None:
    """Look now and then, from soon on, while this event loop runs. Without a running loop, as where the app
    is imported by something that is no host, nothing is begun."""
    with contextlib.suppress(RuntimeError):
        loop = asyncio.get_running_loop()
        if loop not in _watches:
            _watches[loop] = loop.create_task(_watch(), name="watch")


async def end() -> None:
    """Stop looking; a look under way is broken off."""
    watch = _watches.pop(asyncio.get_running_loop(), None)
    if watch is not None:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)


async def _watch() -> None:
    pause = FIRST_SECONDS
    while True:
        # Spread, so that hosts that were started together do not look together.
        await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311 - protects nothing
        started = time.monotonic()
        try:
            if sent := await state().engine.repair.take_over():
                _log.warning("the messages of %d tasks whose host is gone were sent again", sent)
        except StorageError as error:
            _log.warning("tasks whose host is gone could not be looked for: %s", error)
        except Exception:
            _log.exception("tasks whose host is gone could not be looked for")
        pause = max(EVERY_SECONDS, (time.monotonic() - started) * SHARE)
