"""A `StorageManager` on each kind of store, for the adapters of frameworks."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from storage_lib import StorageManager
from tests.http_app import config_of

type Place = tuple[str, object]
"""A kind of store, or the name of a framework's own, and the server if it has one."""


def on(request: pytest.FixtureRequest) -> Place:
    """The place that a fixture's parameter names."""
    name: str = request.param
    return name, request.getfixturevalue(name) if name in ("moto", "azurite") else None


@asynccontextmanager
async def storage_on(place: Place, folder: Path) -> AsyncGenerator[StorageManager]:
    """A new store there."""
    config = await config_of(*place, folder)
    if config.storage_type == "azure":  # Else they share its tables.
        config = replace(config, namespace=f"n{uuid.uuid4().hex[:10]}")
    async with StorageManager(config) as storage:
        yield storage
