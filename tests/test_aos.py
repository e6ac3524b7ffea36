"""The import of what AgentOperatingSystem's file backend stored: nothing is guessed, nothing lost."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from storage_lib.aos import FOLDERS, import_aos
from storage_lib.errors import InvalidArgumentError, InvalidKeyError, KeyNotFoundError
from tests.archives import memory

AT = "2025-12-25T10:00:00.123456"


def write(folder: Path, key: str, data: Any) -> str:
    """As that backend wrote it."""
    name = key.replace("/", "_").replace("\\", "_") + ".json"
    text = json.dumps(data, indent=2, default=str, ensure_ascii=False)
    (folder / name).write_text(text, encoding="utf-8")
    return name


def envelope(field: str, name: str, data: Any) -> dict[str, Any]:
    return {field: name, "data": data, "stored_at": AT, "version": "1.0"}


@pytest.mark.parametrize("field", FOLDERS)
@pytest.mark.parametrize("name", ["ceo", "ceo_1", "a/b", "Zoë", "x_y/z_"])
async def test_an_envelope_tells_the_key(tmp_path: Path, field: str, name: str) -> None:
    data = {"name": "CEO", "n": [1, 2.5, None, True, "ü"]}
    file = write(tmp_path, f"{FOLDERS[field]}/{name}", envelope(field, name, data))
    storage, key = memory(), f"{FOLDERS[field]}/{name}"
    planned = await import_aos(storage, tmp_path, dry_run=True)
    assert (planned.imported, await storage.list_keys()) == ({file: key}, [])
    report = await import_aos(storage, tmp_path)
    assert (report.ok, report.imported) == (True, {file: key})
    assert await storage.load(key) == data
    assert (await storage.info(key)).metadata == {"stored-at": AT}
    again = await import_aos(storage, tmp_path)
    assert (again.imported, again.unchanged) == ({}, {file: key})
    whole = memory()
    await import_aos(whole, tmp_path, unwrap=False, prefix="old/")
    assert await whole.load(f"old/{key}") == envelope(field, name, data)


async def test_ambiguous_names_are_reported_and_not_guessed(tmp_path: Path) -> None:
    write(tmp_path, "plain", {"a": 1})
    write(tmp_path, "metrics/2025-12", {"b": 1})
    write(tmp_path, "agents/cto", envelope("agent_id", "somebody else", {}))
    write(tmp_path, "agents/cfo", {"agent_id": "cfo", "data": {}})
    storage = memory()
    report = await import_aos(storage, tmp_path)
    assert report.imported == {"plain.json": "plain"}
    assert set(report.ambiguous) == {"metrics_2025-12.json", "agents_cto.json", "agents_cfo.json"}
    assert report.ambiguous["metrics_2025-12.json"] == ["metrics/2025-12", "metrics_2025-12"]
    assert not report.ok
    assert await storage.list_keys() == ["plain"]
    names = {
        "metrics_2025-12.json": "metrics/2025-12",
        "agents_cto": "agents_cto",
        "agents_cfo.json": "agents/cfo",
    }
    assert (await import_aos(storage, tmp_path, names=names)).ok
    assert await storage.list_keys() == ["agents/cfo", "agents_cto", "metrics/2025-12", "plain"]
    assert await storage.load("agents/cfo") == {"agent_id": "cfo", "data": {}}, "no envelope of that backend"
    for wrong in ({"plain.json": "other"}, {"a_b.json": "a/c"}):
        with pytest.raises(InvalidArgumentError, match="was not stored in"):
            await import_aos(storage, tmp_path, names=wrong)
    with pytest.raises(InvalidKeyError):
        await import_aos(storage, tmp_path, names={".._x.json": "../x"})


async def test_what_cannot_be_read_is_named_and_the_rest_imported(tmp_path: Path) -> None:
    write(tmp_path, "agents/ceo", envelope("agent_id", "ceo", {"good": True}))
    write(tmp_path, "agents/..", envelope("agent_id", "..", {}))
    write(tmp_path, ".system/x", envelope("agent_id", "x", {}))
    (tmp_path / "cut.json").write_text('{"agent_id": "x", "da')
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe")
    (tmp_path / "deep.json").write_text("[" * 200_000)
    (tmp_path / "empty.json").touch()
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.json").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "pipe.json")
    storage = memory()
    report = await import_aos(storage, tmp_path)
    assert report.imported == {"agents_ceo.json": "agents/ceo"}
    assert set(report.failed) == {"cut.json", "bytes.json", "deep.json", "empty.json", "agents_...json"}
    assert set(report.ignored) == {"notes.txt", "folder", "link.json", "pipe.json"}
    assert set(report.ambiguous) == {".system_x.json"}
    assert not report.ok
    with pytest.raises(KeyNotFoundError, match="no folder"):
        await import_aos(storage, tmp_path / "missing")
    with pytest.raises(InvalidArgumentError, match="not a folder"):
        await import_aos(storage, tmp_path / "notes.txt")


async def test_what_is_there_and_differs_is_kept_unless_it_is_to_be_replaced(tmp_path: Path) -> None:
    file = write(tmp_path, "agents/ceo", envelope("agent_id", "ceo", {"n": 1}))
    storage = memory()
    await storage.save("agents/ceo", {"n": 2})
    report = await import_aos(storage, tmp_path)
    assert (report.ok, report.kept) == (False, {file: "agents/ceo"})
    assert await storage.load("agents/ceo") == {"n": 2}
    assert (await import_aos(storage, tmp_path, overwrite=True)).imported == {file: "agents/ceo"}
    assert await storage.load("agents/ceo") == {"n": 1}
