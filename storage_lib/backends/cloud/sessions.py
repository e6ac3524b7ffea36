"""Sessions of aiohttp and whatever else can be used in one event loop only: made when it is first needed
there, and closed with it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from weakref import finalize

from storage_lib.backends.cloud.requests import Requests
from storage_lib.errors import BackendClosedError, StorageUnavailableError
from storage_lib.threads import naming

if TYPE_CHECKING:
    import aiohttp

INLINE_BYTES = 1024 * 1024
"""A longer body is sent piece by piece."""


class Response(NamedTuple):
    """The response to a request of our own, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def has_proxy() -> bool:
    """Whether a proxy is configured. aiohttp would ask for each request, in two threads of the loop's pool,
    and look for passwords in ``~/.netrc``, which no storage takes."""
    if sys.platform not in ("darwin", "win32"):  # The environment alone tells, and the import takes its time.
        names = [name.lower() for name, value in os.environ.items() if value]
        return any(name.endswith("_proxy") and name != "no_proxy" for name in names)
    from urllib.request import getproxies

    return any(scheme != "no" for scheme in getproxies())


class Resolver:
    """Looks up the names of hosts for aiohttp, which takes a thread each."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[dict[str, Any]]:
        ask = partial(socket.getaddrinfo, type=socket.SOCK_STREAM, family=family, flags=socket.AI_ADDRCONFIG)
        found = await naming.run(ask, host, port)
        return [
            {
                "hostname": host,
                # With its zone, without which a link-local address cannot be reached.
                "host": address[0] if len(address) < 4 or not address[3] else f"{address[0]}%{address[3]}",
                "port": address[1],
                "family": kind,
                "proto": protocol,
                "flags": socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            }
            for kind, _, protocol, _, address in found
        ]

    async def close(self) -> None:
        """Nothing is kept."""


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


def open_sessions(*requests: Requests) -> PerLoop[aiohttp.ClientSession]:
    """A `new_session` for each event loop, whose requests may take any time while something is heard."""

    def make() -> tuple[aiohttp.ClientSession, Callable[[], Awaitable[None]]]:
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS)
        session = new_session(timeout=timeout)
        return session, session.close

    return PerLoop(make, *requests)


async def exchange(
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: Any,
    *,
    doing: str,
    remedy: str | None = None,
    **options: Any,
) -> Response:
    """The whole answer, whatever it says. ``url`` is encoded; ``doing`` and ``remedy`` are for the error.

    :raises StorageUnavailableError: there was none, or not to its end.
    """
    import aiohttp
    from yarl import URL

    try:
        async with session.request(
            method, URL(url, encoded=True), headers=headers, data=body, allow_redirects=False, **options
        ) as response:
            return Response(response.status, response.headers, await response.read())
    except (aiohttp.ClientError, TimeoutError) as error:
        raise StorageUnavailableError(f"{doing}: {error or type(error).__name__}", remedy=remedy) from error
