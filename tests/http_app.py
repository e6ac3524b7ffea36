"""The app behind the model of the platform's host, on a storage of the test's choice."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from devhost.runtime import Function, load_app
from functions import state as state_module
from functions import watch
from functions.state import AppState
from storage_lib.config import StorageConfig
from storage_lib.manager import StorageManager
from tests.conftest import PROJECT
from tests.described_answers import described_app
from tests.platform_host import Answered, PlatformHost
from tests.s3_servers import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY


@dataclass(frozen=True)
class AppAnswer(Answered):
    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def problem(self) -> dict[str, Any]:
        """The answer, which has to be a problem."""
        assert self.headers["content-type"] == "application/problem+json"
        found = self.json
        assert found["status"] == self.status
        assert found["type"].startswith("urn:agent-storage:problem:")
        return {**found, "code": found["type"].rpartition(":")[2]}


class PlatformApp:
    """Send a request, get the function's answer, which is one that the OpenAPI document describes; `state` is
    the app's."""

    def __init__(self, state: AppState) -> None:
        self.state = state
        self.index = load_app(PROJECT)
        self.host = PlatformHost(self.index)
        self.described = described_app(self.index.module)

    @property
    def functions(self) -> list[Function]:
        return self.host.routes

    @property
    def storage(self) -> StorageManager:
        return self.state.storage

    def every_route(self) -> list[tuple[str, str]]:
        """Each method and path that the app serves, with ``a`` for each parameter."""
        return sorted(
            (str(method), re.sub(r"\{[^}]*\}", "a", f"/api/{function.trigger['route']}"))
            for function in self.functions
            for method in function.trigger["methods"]
        )

    async def __call__(
        self, method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> AppAnswer:
        found = await self.host(method, target, body, headers)
        if found.function:
            self.described.check(found.function, method, found.status, found.headers, found.body)
        return AppAnswer(found.status, found.headers, found.body, found.function)


@asynccontextmanager
async def serve(monkeypatch: pytest.MonkeyPatch, config: StorageConfig) -> AsyncIterator[PlatformApp]:
    """The app with this configuration, in this event loop."""
    state = AppState(config)
    monkeypatch.setattr(state_module, "_states", {asyncio.get_running_loop(): state})
    app = PlatformApp(state)
    # The app was imported in a running event loop, as a host does. Here nobody stops a host.
    await watch.end()
    yield app
    await state.storage.close()


async def config_of(kind: str, server: Any, folder: Path) -> StorageConfig:
    """Of a new store of this kind."""
    if kind in ("file", "memory"):
        return StorageConfig(storage_type=kind, base_path=folder / "data")  # pyright: ignore[reportArgumentType]
    name = f"platform-{uuid.uuid4().hex[:12]}"
    if kind == "azurite":
        return StorageConfig(storage_type="azure", connection_string=server.connection_string, container=name)
    from storage_lib.backends.s3 import S3StorageBackend

    keys = {"access_key_id": ACCESS_KEY_ID, "secret_access_key": SECRET_ACCESS_KEY, "region": REGION}
    async with S3StorageBackend(name, endpoint=server.endpoint, create_bucket=True, **keys):
        return StorageConfig(
            storage_type="s3",
            s3_bucket=name,
            s3_endpoint=server.endpoint,
            s3_region=REGION,
            s3_access_key_id=ACCESS_KEY_ID,
            s3_secret_access_key=SECRET_ACCESS_KEY,
            tables_and_queues="file",
            base_path=folder / "data",
        )
