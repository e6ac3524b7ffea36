"""The app behind the model of the platform's host, on a storage of the test's choice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from devhost.runtime import Function, load_app
from functions.state import AppState
from storage_lib.manager import StorageManager
from tests.conftest import PROJECT
from tests.platform_host import Answered, PlatformHost


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
    """Send a request, get the function's answer; `state` is the app's."""

    def __init__(self, state: AppState) -> None:
        self.state = state
        self._host = PlatformHost(load_app(PROJECT))

    @property
    def functions(self) -> list[Function]:
        return self._host.routes

    @property
    def storage(self) -> StorageManager:
        return self.state.storage

    async def __call__(
        self, method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> AppAnswer:
        found = await self._host(method, target, body, headers)
        return AppAnswer(found.status, found.headers, found.body, found.function)
