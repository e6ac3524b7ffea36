"""Connections of a backend that nobody closed: they are closed when it is garbage, without a warning."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any
from weakref import finalize

_CLOSING: set[asyncio.Future[Any]] = set()


def when_dropped(owner: object, close: Callable[[], Awaitable[None]]) -> finalize[..., object]:
    """Have ``close`` run in this event loop once ``owner``, which it must not know, is garbage. `detach` what
    is returned when all is closed.

    Until then ``close`` keeps alive what it closes: a collector that found that dead as well would have it
    warn of itself first.
    """
    end = finalize(owner, _schedule, asyncio.get_running_loop(), close)
    end.atexit = False
    return end


def _schedule(loop: asyncio.AbstractEventLoop, close: Callable[[], Awaitable[None]]) -> None:
    with suppress(RuntimeError):  # a loop that was closed has closed what was made in it
        loop.call_soon_threadsafe(_begin, close)


def _begin(close: Callable[[], Awaitable[None]]) -> None:
    task = asyncio.ensure_future(close())
    _CLOSING.add(task)
    task.add_done_callback(_CLOSING.discard)
