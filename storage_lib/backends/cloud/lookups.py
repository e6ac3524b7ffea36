"""What aiohttp looks up before a request, without the event loop's pool, which may be full of users' work."""

from __future__ import annotations

import os
import socket
import sys
from functools import partial
from typing import Any

from storage_lib.threads import naming


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
