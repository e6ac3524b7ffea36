"""The app with a second store: requests during an outage, readiness, and the timer that repairs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from functions import maintenance
from storage_lib.config import StorageConfig
from storage_lib.config.fallback import FallbackOptions
from storage_lib.errors import UnsupportedOperationError
from storage_lib.manager import StorageManager
from tests.http_app import serve

TIMER = cast("Any", SimpleNamespace(past_due=False))


async def test_an_outage_of_the_primary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = StorageConfig(
        base_path=tmp_path / "first",
        fallback=FallbackOptions(
            secondary=StorageConfig(base_path=tmp_path / "second"), mode="mirror", writes="secondary"
        ),
    )
    async with serve(monkeypatch, config) as app:
        ready = (await app("GET", "/api/health/ready")).json
        assert (ready["status"], ready["fallback"]["answers"]) == ("ready", "primary")
        put = await app("PUT", "/api/objects/a", b"1")
        assert put.status == 201

        (tmp_path / "first").rename(tmp_path / "away")
        got = await app("GET", "/api/objects/a")
        assert (got.status, got.body, got.headers["etag"]) == (200, b"1", put.headers["etag"])
        matching = {"if-match": put.headers["etag"]}
        assert (await app("PUT", "/api/objects/a", b"2", matching)).status == 200
        assert (await app("PUT", "/api/objects/a", b"3", matching)).status in (412, 503)
        assert (await app("GET", "/api/objects/a")).body == b"2"
        assert (await app("GET", "/api/tasks")).status == 503  # Tables do not fall back.
        answer = await app("GET", "/api/health/ready")
        assert answer.status == 200
        degraded = answer.json
        assert (degraded["status"], degraded["tasks"]) == ("degraded", "unavailable")
        assert degraded["fallback"]["answers"] == "secondary"
        assert degraded["fallback"]["primary_away_since"]
        assert degraded["fallback"]["pending"] == 1
        await maintenance.sweep_expired(TIMER)  # says so, and does the rest

        (tmp_path / "second").rename(tmp_path / "away, too")
        assert (await app("GET", "/api/objects/a")).status == 503
        assert (await app("GET", "/api/health/ready")).status == 503
        (tmp_path / "away, too").rename(tmp_path / "second")

        (tmp_path / "away").rename(tmp_path / "first")
        assert (await app("GET", "/api/objects/a")).body == b"2"
        await maintenance.sweep_expired(TIMER)
        ready = (await app("GET", "/api/health/ready")).json
        assert ready["status"] == "ready"
        assert (ready["fallback"]["answers"], ready["fallback"]["pending"]) == ("primary", 0)
        assert (await app("GET", "/api/tasks")).status == 200
    for name in ("first", "second"):
        async with StorageManager(StorageConfig(base_path=tmp_path / name)) as storage:
            assert (await storage.read("a")).data == b"2"


async def test_without_a_second_store_there_is_nothing_to_repair() -> None:
    storage = StorageManager(StorageConfig(storage_type="memory"))
    assert storage.fallback is None
    with pytest.raises(UnsupportedOperationError) as caught:
        await storage.repair()
    assert "AGENT_STORAGE_FALLBACK" in str(caught.value.remedy)
