"""Servers that the tests need, started once by the tests themselves and stopped by pid."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

# A run that decides about a change must not depend on chance; every other run looks for new examples.
settings.register_profile("decides", derandomize=True, print_blob=True)
if os.environ.get("CI"):
    settings.load_profile("decides")

if TYPE_CHECKING:
    from tests.http_app import PlatformApp

PROJECT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
async def azurite(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[object]:
    """One Azurite for the whole run; `connection_string` tells where it listens."""
    from devhost.azurite import Azurite, ensure_installed

    ensure_installed(PROJECT)
    async with Azurite(tmp_path_factory.mktemp("azurite")) as server:
        yield server


@pytest.fixture(scope="session")
async def moto(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[object]:
    """One moto for the whole run, an S3 in memory; `endpoint` tells where it listens."""
    from tests.s3_servers import Moto

    async with Moto(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture(scope="session")
async def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[object]:
    """One SeaweedFS for the whole run, an S3 that checks signatures and writes to disk."""
    from tests.s3_servers import SeaweedFS

    async with SeaweedFS(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture
async def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PlatformApp]:
    """The app on files, behind the model of the platform's host."""
    import asyncio

    from functions import state
    from storage_lib.config import StorageConfig
    from tests.http_app import PlatformApp

    app = state.AppState(StorageConfig(base_path=tmp_path / "data"))
    monkeypatch.setattr(state, "_states", {asyncio.get_running_loop(): app})
    yield PlatformApp(app)
    await app.storage.close()
