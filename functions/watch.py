"""What every running instance looks for: tasks of killed hosts, and messages that reach no function.

The platform hides the messages of a killed host for up to ten minutes, and runs timers on one instance only,
whose lease outlives it by a minute. So each instance looks for such tasks itself.

A JSON message with a property such as ``dequeueCount`` that is not a number fails in the worker before any
function runs. So it does in the poison queue, where it is redelivered every ten minutes for a week. What
stays in a poison queue is therefore received directly, with the metadata of the queue itself.
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
from storage_lib.errors import KeyNotFoundError, StorageError

if TYPE_CHECKING:
    from storage_lib.tasks.engine import TaskEngine
    from storage_lib.tasks.model import Priority

_log = logging.getLogger("AOS.Maintenance")

FIRST_SECONDS = 5.0
"""The delay after the start, so that the first requests come first."""
EVERY_SECONDS = 15.0
SHARE = 20
"""Looking may take at most a twentieth of the time; with very many records, looks are rarer."""
STUCK_LOOKS = 2
"""After how many looks at a poison queue that is not empty its messages are received here; its function takes
what it can at once."""
SIFT_SECONDS = 660.0
"""Longer than the host hides a message that its function could not take."""
SIFT_PAUSE = 0.25
"""Shorter than the host's own pause between polls, so that messages are usually received here first."""
_SIFT_LEASE_SECONDS = 60.0

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
        stuck = dict.fromkeys(Priority, 0)
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
    if sent := await state().engine.repair.take_over():
        _log.warning("the messages of %d tasks whose host is gone were sent again", sent)
    return (time.monotonic() - started) * SHARE


async def _unstick(stuck: dict[Priority, int]) -> float:
    engine = state().engine
    for priority in stuck:
        left = await _length(engine, priority)
        stuck[priority] = stuck[priority] + 1 if left else 0
        if stuck[priority] >= STUCK_LOOKS:
            stuck[priority] = 0
            await sift(engine, priority)
    return 0


async def sift(engine: TaskEngine, priority: Priority) -> int:
    """Handle the messages of a poison queue without its function, until it is empty or `SIFT_SECONDS`
    are over, and return how many there were. Each is handled as the function would handle it, and then
    removed.

    :raises StorageError: nothing was lost; a message that was received is visible again within a minute.
    """
    queues, handled = engine.storage.backend.queues, 0
    until = time.monotonic() + SIFT_SECONDS
    while time.monotonic() < until and await _length(engine, priority):
        for message in await queues.receive(priority.poison_queue, visibility_timeout=_SIFT_LEASE_SECONDS):
            ended = await engine.process_poison(
                message.text,
                queue=priority.queue,
                message_id=message.id,
                inserted_at=message.inserted_at,
                dequeue_count=message.dequeue_count,
            )
            await engine.outbox.publish(ended)
            with contextlib.suppress(KeyNotFoundError):
                await queues.delete(priority.poison_queue, message)
            handled += 1
        await asyncio.sleep(SIFT_PAUSE)
    if handled:
        _log.warning("%d messages of %s that no function took were recorded", handled, priority.poison_queue)
    return handled


async def _length(engine: TaskEngine, priority: Priority) -> int:
    try:
        return await engine.storage.backend.queues.length(priority.poison_queue)
    except KeyNotFoundError:
        return 0  # The first message creates it.
