"""What can be used in one event loop only, such as a session of aiohttp."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

from storage_lib.backends.cloud.dropped import when_dropped
from storage_lib.backends.cloud.lookups import Resolver, has_proxy
from storage_lib.backends.cloud.requests import Requests
from storage_lib.errors import BackendClosedError

if TYPE_CHECKING:
    import aiohttp

CONNECT_SECONDS = 5
READ_SECONDS = 60


class PerLoop[T]:
    """A ``T`` for each event loop, made when it is first needed there and closed with the loop.

    :param make: gives one and what closes it, which must not know this object.
    :param requests: those that use it. What goes on without its caller keeps it open.
    """

    def __init__(
        self, make: Callable[[], tuple[T, Callable[[], Awaitable[None]]]], *requests: Requests
    ) -> None:
        self._make = make
        self._requests = requests
        self._kept: dict[asyncio.AbstractEventLoop, tuple[T, AsyncGenerator[None]]] = {}
        self._closed = False

    def check_open(self) -> None:
        if self._closed:
            raise BackendClosedError

    def here(self) -> T | None:
        """That of this event loop, if it has been made."""
        kept = self._kept.get(asyncio.get_running_loop())
        return None if kept is None else kept[0]

    async def get(self) -> T:
        """:raises BackendClosedError: `close` was called."""
        loop = asyncio.get_running_loop()
        here = self._kept.get(loop)
        if here is None:
            self.check_open()
            for other in list(self._kept):  # Other threads do the same.
                if other.is_closed():
                    self._kept.pop(other, None)
            value, close = self._make()
            here = self._kept[loop] = (value, self._lifetime(close))
            # No await until here: two tasks cannot make two. asyncio finishes async generators before it
            # closes a loop, and with this one what was made.
            await anext(here[1])
        return here[0]

    async def close(self) -> None:
        """Close what was made in this loop; a loop that is run to its end by asyncio closes its own."""
        self._closed = True
        for requests in self._requests:
            await requests.settle()
        here = self._kept.pop(asyncio.get_running_loop(), None)
        if here is not None:
            await here[1].aclose()

    async def _lifetime(self, close: Callable[[], Awaitable[None]]) -> AsyncGenerator[None]:
        every = self._requests

        async def end() -> None:
            for requests in every:
                await requests.settle()
            await close()

        dropped = when_dropped(self, end)
        try:
            yield
        finally:
            self._kept.pop(asyncio.get_running_loop(), None)
            await end()
            dropped.detach()


def new_session(**options: Any) -> aiohttp.ClientSession:
    """A session that keeps no cookies and gives bytes as they were sent. `Requests` bounds how many
    connections it has."""
    import aiohttp

    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, resolver=cast("Any", Resolver())),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=has_proxy(),
        **options,
    )
    # aiohttp would send a PUT or DELETE whose connection broke once more, without a word: a conditional one
    # would meet its own first attempt and report a conflict. Its own test client sets this, too.
    session._retry_connection = False  # pyright: ignore[reportPrivateUsage]
    return session
