"""A proxy that counts the requests of HTTP that pass it."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from tests.fault_proxy import FaultProxy, Faults


class Passed(Faults):
    """Nothing fails; ``seen`` has method and target of each request."""

    def __init__(self) -> None:
        super().__init__(0, 0)
        self.seen: list[tuple[str, str]] = []

    def choose(self, method: str, target: str) -> str | None:
        self.seen.append((method, target))
        return None

    def taken(self) -> Counter[str]:
        """How many there were of each method since this was asked last."""
        counted = Counter(method for method, _ in self.seen)
        self.seen.clear()
        return counted


@asynccontextmanager
async def counted(url: str) -> AsyncGenerator[tuple[str, Passed]]:
    """Another URL for the service at ``url``, and the requests to it."""
    parts, passed = urlsplit(url), Passed()
    assert parts.port is not None
    async with FaultProxy(parts.port, passed) as proxy:
        yield f"{parts.scheme}://{parts.hostname}:{proxy.port}{parts.path}", passed
