"""The app behind the model of the platform's host, at a port that clients can connect to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from storage_lib.config import StorageConfig
from tests.http_app import PlatformApp, serve
from tests.stub_service import Answer, Request, StubService


class ServedApp:
    """``app`` at ``url``. ``before`` sees each request, and may answer in its place; ``after`` may change the
    answer of the app."""

    def __init__(self, app: PlatformApp) -> None:
        self.app = app
        self.before: Callable[[Request], Answer | None] = lambda request: None
        self.after: Callable[[Request, Answer], Answer] = lambda request, answer: answer
        self.service = StubService(self._answer)

    @property
    def url(self) -> str:
        return f"{self.service.endpoint}/api"

    @property
    def seen(self) -> list[Request]:
        return self.service.seen

    async def _answer(self, request: Request) -> Answer:
        if (instead := self.before(request)) is not None:
            return instead
        found = await self.app(request.method, request.target, request.body, request.headers)
        headers = {name.title(): value for name, value in found.headers.items()}
        return self.after(request, Answer(found.status, found.body, headers))


@asynccontextmanager
async def served(config: StorageConfig) -> AsyncIterator[ServedApp]:
    with pytest.MonkeyPatch.context() as patch:
        async with serve(patch, config) as app:
            found = ServedApp(app)
            async with found.service:
                yield found
