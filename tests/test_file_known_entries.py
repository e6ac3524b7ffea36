"""What listings of files keep: it saves opening each file again, and never shows what is no longer so."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from storage_lib.backends.file import FileStorageBackend, caches
from storage_lib.backends.file.files import ObjectFiles
from storage_lib.ports.object_model import ListEntry


async def details(backend: FileStorageBackend) -> dict[str, ListEntry]:
    page = await backend.objects.list_page("a/", details=True)
    return {entry.key: entry for entry in page.entries}


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of the files that are opened to be listed."""
    keys: list[str] = []
    told, told_at = ObjectFiles.told, ObjectFiles.told_at

    def noting(self: ObjectFiles, key: str) -> Any:
        keys.append(key)
        return told(self, key)

    def noting_at(self: ObjectFiles, directory: int, name: bytes, key: str) -> Any:
        if (found := told_at(self, directory, name, key)) is not None:
            keys.append(key)
        return found

    monkeypatch.setattr(ObjectFiles, "told", noting)
    monkeypatch.setattr(ObjectFiles, "told_at", noting_at)
    return keys


async def test_a_listing_opens_no_file_that_another_has_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[str]
) -> None:
    monkeypatch.setattr(caches, "_QUIET_SECONDS", -10)
    async with FileStorageBackend(tmp_path) as backend:
        for n in range(5):
            await backend.objects.put(f"a/{n % 2}/ü{n}", b"x" * n, metadata={"n": str(n)})
        first = await details(backend)
        assert sorted(opened) == sorted(first)
        opened.clear()
        assert await details(backend) == first
        assert opened == []


async def test_every_change_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[str]) -> None:
    monkeypatch.setattr(caches, "_QUIET_SECONDS", -10)
    async with FileStorageBackend(tmp_path) as backend:
        objects = backend.objects
        for name in ("saved", "touched", "deleted", "theirs", "emptied", "cut"):
            await objects.put(f"a/{name}", b"12345")
        before = await details(backend)
        saved = await objects.put("a/saved", b"54321")
        touched = await objects.touch("a/touched", metadata={"m": "1"})
        await objects.delete("a/deleted")
        folder = tmp_path / "objects" / "a"
        os.remove(folder / "theirs.obj")
        (folder / "theirs").write_bytes(b"of another program")
        os.truncate(folder / "cut.obj", 20)
        os.remove(folder / "emptied.obj")
        os.mkdir(folder / "emptied.obj")
        after = await details(backend)
        assert after.keys() == before.keys() - {"a/deleted", "a/emptied"}
        assert after["a/saved"].etag == saved.etag != before["a/saved"].etag
        assert after["a/touched"].etag == touched.etag
        assert after["a/touched"].info is not None
        assert dict(after["a/touched"].info.metadata) == {"m": "1"}
        assert after["a/theirs"].size == 18
        assert after["a/cut"] == ListEntry("a/cut"), "a damaged one is listed by its key"


async def test_what_has_just_changed_is_read_again(tmp_path: Path, opened: list[str]) -> None:
    """Within one tick of the file system's clock a file may be replaced by another of the same inode."""
    async with FileStorageBackend(tmp_path) as backend:
        await backend.objects.put("a/1", b"x")
        await details(backend)
        await details(backend)
        assert opened == ["a/1", "a/1"]


async def test_how_long_it_took_to_read_a_file_does_not_make_it_older(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[str]
) -> None:
    """Between its status and its bytes, a host may stand still."""
    late = 0.0

    class Clock:
        def time(self) -> float:
            return time.time() + late

    monkeypatch.setattr(caches, "time", Clock())
    told_at = ObjectFiles.told_at

    def slowly(self: ObjectFiles, directory: int, name: bytes, key: str) -> Any:
        nonlocal late
        found = told_at(self, directory, name, key)
        late += 10
        return found

    monkeypatch.setattr(ObjectFiles, "told_at", slowly)
    async with FileStorageBackend(tmp_path) as backend:
        await backend.objects.put("a/1", b"x")
        await details(backend)
        late = 0.0
        opened.clear()
        await details(backend)
        assert opened == ["a/1"]


async def test_no_more_is_kept_than_ten_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[str]
) -> None:
    monkeypatch.setattr(caches, "_QUIET_SECONDS", -10)
    monkeypatch.setattr(caches, "_KEPT_ENTRIES", 3)
    async with FileStorageBackend(tmp_path) as backend:
        for n in range(5):
            await backend.objects.put(f"a/{n}", b"x")
        await details(backend)
        opened.clear()
        assert len(await details(backend)) == 5
        assert opened
        kept = backend.objects.driver._known  # type: ignore[attr-defined]  # pyright: ignore
        assert len(kept._known) == 3


@pytest.mark.parametrize("metadata", [{}, {"m": "1"}], ids=["none", "some"])
async def test_what_a_caller_makes_of_an_entry_is_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metadata: dict[str, str]
) -> None:
    monkeypatch.setattr(caches, "_QUIET_SECONDS", -10)
    async with FileStorageBackend(tmp_path) as backend:
        await backend.objects.put("a/1", b"x", metadata=metadata)
        for _ in range(3):
            info = (await details(backend))["a/1"].info
            assert info is not None
            assert info.metadata == metadata
            assert isinstance(info.metadata, dict)
            info.metadata["m"] = "changed"
