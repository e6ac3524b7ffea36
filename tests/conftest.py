"""Servers that the tests need, started once by the tests themselves and stopped by pid."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
async def azurite(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[object]:
    """One Azurite for the whole run; `connection_string` tells where it listens."""
    from devhost.azurite import Azurite, ensure_installed

    ensure_installed(PROJECT)
    async with Azurite(tmp_path_factory.mktemp("azurite")) as server:
        yield server
