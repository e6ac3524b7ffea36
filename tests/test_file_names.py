"""Names of other programs in the data folder: decomposed ones, two for one key, and some that are no keys."""

from __future__ import annotations

import asyncio
import os
import unicodedata
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage_lib.backends.file import FileStorageBackend
from storage_lib.backends.file.format import PathMap, composed
from storage_lib.errors import IntegrityError, InvalidKeyError, KeyNotFoundError, PreconditionFailedError
from storage_lib.keys import validate_key
from storage_lib.ports.objects import ListEntry, ObjectStore
from tests.effort import examples


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[FileStorageBackend]:
    async with FileStorageBackend(tmp_path / "data") as backend:
        yield backend


@pytest.fixture
def folder(backend: FileStorageBackend) -> Path:
    return Path(backend.base_path, "objects")


def _nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


async def _listed(objects: ObjectStore, prefix: str = "") -> list[str]:
    return [entry.key async for entry in objects.iterate(prefix) if isinstance(entry, ListEntry)]


async def test_decomposed_names_are_objects_in_every_operation(
    backend: FileStorageBackend, folder: Path
) -> None:
    objects = backend.objects
    (folder / _nfd("mémos/é")).mkdir(parents=True)
    (folder / _nfd("mémos/é/über.txt")).write_bytes(b"theirs")
    (folder / _nfd("zoë.txt")).write_bytes(b"z")
    (folder / "zoo.txt").write_bytes(b"z")
    key = "mémos/é/über.txt"
    assert await _listed(objects) == [key, "zoo.txt", "zoë.txt"]
    for prefix in ("m", "mé", "mémos/", "mémos/é/", "mémos/é/ü"):
        assert await _listed(objects, prefix) == [key], prefix
    page = await objects.list_page("", delimiter="/", limit=1)
    assert page.prefixes == ["mémos/"]
    rest = await objects.list_page("", delimiter="/", cursor=page.cursor)
    assert [entry.key for entry in rest.entries] == ["zoo.txt", "zoë.txt"]
    info = await objects.head(key)
    assert (info.size, info.content_type) == (6, "text/plain")
    async with objects.open_reader(key) as reader:
        assert b"".join([chunk async for chunk in reader]) == b"theirs"
    await objects.copy(key, "copied")
    with pytest.raises(PreconditionFailedError):
        await objects.put(key, b"ours", if_absent=True)
    assert (await objects.put("mémos/é/new", b"ours")).created is True
    assert await _listed(objects, "mémos/") == ["mémos/é/new", key]
    saved = await objects.put(key, b"ours", if_match=info.etag)
    assert saved.created is False
    found = await objects.get(key)
    assert found is not None
    assert found.data == b"ours"
    assert not (folder / _nfd("mémos/é/über.txt")).exists()
    assert await _listed(objects, "mémos/") == ["mémos/é/new", key]
    await objects.delete("zoë.txt")
    assert not (folder / _nfd("zoë.txt")).exists()
    with pytest.raises(KeyNotFoundError):
        await objects.get("zoë.txt")


async def test_ours_are_found_where_another_program_has_decomposed_their_names(
    backend: FileStorageBackend, folder: Path
) -> None:
    """As after a way over a file system that does so: an archive unpacked, a folder copied."""
    objects = backend.objects
    key, other = "mémos/über/é.json", "mémos/plain"
    await objects.put(key, b"ours", content_type="text/x-own", metadata={"m": "1"})
    await objects.put(other, b"ours too")
    for path in sorted(folder.rglob("*"), reverse=True):
        os.rename(path, path.with_name(_nfd(path.name)))
    assert await _listed(objects) == [other, key]
    found = await objects.get(key)
    assert found is not None
    assert (found.data, found.info.content_type, dict(found.info.metadata)) == (
        b"ours",
        "text/x-own",
        {"m": "1"},
    )
    assert found.info.sha256 is not None
    await objects.put(key, b"newer")
    found = await objects.get(key)
    assert found is not None
    assert found.data == b"newer"
    assert await _listed(objects) == [other, key]
    await objects.delete(key)
    await objects.delete(other)
    assert await _listed(objects) == []
    assert [path for path in folder.rglob("*") if path.is_file()] == []


async def test_two_files_for_one_key_are_an_error_that_names_both(
    backend: FileStorageBackend, folder: Path
) -> None:
    objects = backend.objects
    (folder / "é.txt").write_bytes(b"composed")
    (folder / _nfd("é.txt")).write_bytes(b"decomposed")
    assert await _listed(objects) == ["é.txt"]
    page = await objects.list_page(details=True)
    assert [(entry.key, entry.size) for entry in page.entries] == [("é.txt", None)]
    for operation in (
        lambda: objects.get("é.txt"),
        lambda: objects.head("é.txt"),
        lambda: objects.delete("é.txt"),
        lambda: objects.put("é.txt", b"ours"),
        lambda: objects.copy("é.txt", "copied"),
    ):
        with pytest.raises(IntegrityError) as refused:
            await operation()
        for name in ("é.txt", _nfd("é.txt")):
            assert ascii(name) in str(refused.value)
        assert "rename" in (refused.value.remedy or "")
    assert sorted(path.read_bytes() for path in folder.iterdir()) == [b"composed", b"decomposed"]
    (folder / "é.txt").unlink()
    found = await objects.get("é.txt")
    assert found is not None
    assert found.data == b"decomposed"
    await objects.put("é.txt", b"ours")
    (folder / _nfd("é.txt")).write_bytes(b"left by a crash, or dropped beside ours")
    found = await objects.get("é.txt")
    assert found is not None
    assert found.data == b"ours"  # as for every other name


async def test_what_no_key_can_address_is_told(backend: FileStorageBackend, folder: Path) -> None:
    objects = backend.objects
    mixed = "é" + _nfd("é")
    (folder / "docs").mkdir()
    for name in (f"docs/{mixed}", "docs/dot.", "docs/line\nbreak", "docs/back\\slash"):
        (folder / name).write_bytes(b"x")
    Path(os.fsdecode(bytes(folder) + b"/docs/\xff.txt")).write_bytes(b"x")
    (folder / mixed).mkdir()
    (folder / mixed / "below").write_bytes(b"x")
    (folder / "dir.obj").mkdir()
    (folder / ".DS_Store").write_bytes(b"x")
    await objects.put("docs/ours", b"x")
    await objects.put("k", b"x", ttl=100)
    stats = await objects.stats(skip=".system/")
    assert stats.count == 2
    assert sorted(stats.unlisted) == sorted(
        [
            f"docs/{mixed}",
            "docs/dot.",
            "docs/line\nbreak",
            "docs/back\\slash",
            "docs/\\xff.txt",
            f"{mixed}/…",
            "dir.obj/…",
        ]
    )
    assert (await objects.stats("docs/d")).unlisted == ("docs/dot.",)
    for n in range(300):
        (folder / f"docs/{n}.").write_bytes(b"")
    assert len((await objects.stats()).unlisted) == 100
    assert await asyncio.wait_for(_listed(objects, "docs/"), 120) == ["docs/ours"]


TEXT = st.text(
    st.sampled_from("aZ.%é\u00df\u0301\u0308e\u1e69\uac00\u11a8\u3099カ🙂"), min_size=1, max_size=6
)


@settings(max_examples=examples(300), deadline=None)
@given(name=TEXT, fold_case=st.booleans())
def test_a_name_and_its_key_find_each_other(name: str, fold_case: bool) -> None:
    paths = PathMap(fold_case)
    key = composed(name)
    if key is None or (not paths.stands_for_itself(name) and paths.encode(name) != (name,)):
        return
    try:
        validate_key(key)
    except InvalidKeyError:
        return
    assert unicodedata.is_normalized("NFC", key)
    assert name in list(paths.foreign(key))
