"""Batches, patches, prefixes and versions over HTTP, behind every layer."""

from __future__ import annotations

import json

import pytest

from storage_lib.backends.memory import MemoryBackend
from storage_lib.config import StorageConfig
from storage_lib.manager import StorageManager
from tests.http_app import serve
from tests.layer_stacks import STACKS, Stack, named, stacked

JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize("stack", STACKS, ids=named)
async def test_layers_change_nothing_of_what_is_answered(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve(monkeypatch, StorageConfig(storage_type="memory")) as app:
        monkeypatch.setitem(
            vars(app.state), "storage", StorageManager(backend=stacked(MemoryBackend(), stack))
        )
        value = {"a": "x" * 5000}
        operations = [
            {"op": "save", "key": "a", "value": value, "metadata": {"m": "1"}, "ttl_seconds": 600},
            {"op": "load", "key": "a"},
            {"op": "copy", "key": "a", "to": "b"},
            {"op": "exists", "key": "b"},
            {"op": "move", "key": "b", "to": "c"},
            {"op": "load", "key": "c", "if_match": "*"},
            {"op": "delete", "key": "c"},
        ]
        done = await app("POST", "/api/batch", json.dumps({"operations": operations}).encode(), JSON)
        found = done.json["results"]
        assert [each["status"] for each in found] == [201, 200, 201, 200, 201, 200, 204]
        assert found[1]["value"] == found[5]["value"] == value
        assert {found[n]["size"] for n in (0, 1, 3, 5)} == {found[0]["size"]}
        change = {
            "Content-Type": "application/merge-patch+json",
            "If-Match": f'"{found[0]["etag"]}"',
            "Idempotency-Key": "call-1",
        }
        patched = [await app("PATCH", "/api/objects/a", b'{"b": 1}', change) for _ in range(2)]
        assert [each.status for each in patched] == [200, 200]
        assert patched[0].headers["etag"] == patched[1].headers["etag"]
        loaded = await app("GET", "/api/objects/a")
        assert (loaded.json, loaded.headers["x-meta-m"]) == (value | {"b": 1}, "1")
        assert "x-expires-at" in loaded.headers
        known = [{"op": "load", "key": "a", "if_none_match": tag} for tag in (loaded.headers["etag"], "x")]
        done = await app("POST", "/api/batch", json.dumps({"operations": known}).encode(), JSON)
        assert [each["status"] for each in done.json["results"]] == [304, 200]
        saved = await app("POST", "/api/versions/v?label=l", b"hello", {"Content-Type": "text/plain"})
        assert saved.status == 201
        part = await app("GET", "/api/versions/v?version=l", headers={"Range": "bytes=1-2"})
        assert (part.status, part.body) == (206, b"el")
        moved = await app("POST", "/api/prefixes/move", b'{"prefix": "v/", "to": "w/"}', JSON)
        assert (moved.json["done"], moved.json["is_complete"]) == (2, True)
        assert (await app("GET", "/api/versions/w?version=l")).body == b"hello"
