"""What every running instance looks for: tasks of killed hosts, messages that reach no function, queues that
are no longer in use, and records of the version before.

The platform hides the messages of a killed host for up to ten minutes, and runs timers on one instance only,
whose lease outlives it by a minute. So each instance looks for such tasks itself.

A JSON message with a property such as ``dequeueCount`` that is not a number fails in the worker before any
function runs. So it does in the poison queue, where it is redelivered every ten minutes for a week. What
stays in a poison queue is therefore received directly, with the metadata of the queue itself.

No function takes messages from queues that are no longer in use, because ``AGENT_TASK_QUEUES`` is less than
it was. They are moved.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from functions.state import state
from storage_lib.errors import StorageError

if TYPE_CHECKING:
    from storage_lib.tasks.model import Priority

_log = logging.getLogger("AOS.Maintenance")

FIRST_SECONDS = 5.0
"""The delay after the start, so that the first requests come first."""
EVERY_SECONDS = 15.0
SHARE = 20
"""Looking may take at most a twentieth of the time; with very many records, looks are rarer."""
CARRY_SECONDS = 10.0
DRAIN_SECONDS = 60.0
DRAINED_SECONDS = 300.0
"""Until the next look once nothing is left in unused queues; hosts of the old number may be ending then."""
NEVER_SECONDS = 7 * 24 * 3600.0
STUCK_LOOKS = 2
"""After how many looks at a poison queue that is not empty its messages are received here; its function takes
what it can at once."""

_watches: dict[asyncio.AbstractEventLoop, asyncio.Task[None]] = {}


def begin() -> None:
    """Start looking periodically while this event loop runs. Without a running loop, as when the app is
    imported by something other than a host, nothing is started."""
    with contextlib.suppress(RuntimeError):
        loop = asyncio.get_running_loop()
        if loop not in _watches:
            _watches[loop] = loop.create_task(_watch(), name="watch")


async def end() -> None:
    """Stop looking; a look under way is cut off."""
    watch = _watches.pop(asyncio.get_running_loop(), None)
    if watch is not None:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)


async def _watch() -> None:
    from storage_lib.tasks.model import Priority

    async with asyncio.TaskGroup() as group:
        group.create_task(_repeatedly("tasks whose host is gone could not be looked for", _take_over))
        carried = "records of the version before could not be carried over"
        group.create_task(_repeatedly(carried, _carry_over))
        stuck = dict.fromkeys(Priority, 0)
        group.create_task(_repeatedly("queues that are not in use could not be emptied", _drain))
        group.create_task(_repeatedly("poison queues could not be looked at", lambda: _unstick(stuck)))


async def _repeatedly(failure: str, look: Callable[[], Awaitable[float]]) -> None:
    """Call ``look`` again and again; it returns the least number of seconds until the next call."""
    pause = FIRST_SECONDS
    while True:
        # Jitter, so that hosts that were started together do not look at the same time.
        await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311 - protects nothing
        least = 0.0
        try:
            least = await look()
        except StorageError as error:
            _log.warning("%s: %s", failure, error)
        except Exception:
            _log.exception("%s", failure)
        pause = max(EVERY_SECONDS, least)


async def _take_over() -> float:
    started = time.monotonic()
    if sent := await state().engine.take_over():
        _log.warning("the messages of %d tasks whose host is gone were sent again", sent)
    return (time.monotonic() - started) * SHARE


async def _carry_over() -> float:
    """A little at a time; once there is nothing left, only the timer looks (functions/maintenance.py)."""
    started = time.monotonic()
    if await state().engine.carry_over(CARRY_SECONDS):
        return time.monotonic() - started
    return NEVER_SECONDS


async def _drain() -> float:
    try:
        _, left = await state().engine.drain(DRAIN_SECONDS)
    except StorageError as error:
        _log.warning("queues that are not in use could not be emptied: %s", error)
        return DRAINED_SECONDS  # Perhaps the app may not list queues.
    return 0 if left else DRAINED_SECONDS


async def _unstick(stuck: dict[Priority, int]) -> float:
    from storage_lib.tasks.queues import POISON

    engine = state().engine
    for priority in stuck:
        left = 0
        for queue in engine.queues.named(priority):
            left += await engine.queue_length(queue + POISON)
        stuck[priority] = stuck[priority] + 1 if left else 0
        if stuck[priority] >= STUCK_LOOKS:
            stuck[priority] = 0
            await engine.sift(priority)
    return 0
