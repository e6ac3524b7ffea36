"""Symbolic links below objects/: no operation follows one, at any level of a key, however fast it appears."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from storage_lib.backends.file import FileStorageBackend, folder
from storage_lib.backends.file.format import Header, encode_header
from storage_lib.errors import AccessDeniedError, KeyNotFoundError, StorageError
from storage_lib.ports.objects import ListEntry


@pytest.fixture(params=["openat2", "level by level"])
async def backend(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[FileStorageBackend]:
    if request.param != "openat2":
        monkeypatch.setattr(folder, "_openat2", lambda: None)
    elif folder._openat2() is None:
        pytest.skip("this kernel has no openat2")
    async with FileStorageBackend(tmp_path / "data") as backend:
        yield backend


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory next to the data folder, with what an attacker would like to have read or removed."""
    path = tmp_path / "outside"
    (path / "d").mkdir(parents=True)
    (path / "empty/deep").mkdir(parents=True)
    for key, name in (("in/x", "x"), ("in/d/x", "d/x"), ("a/in/x", "x"), ("in/d/e/x", "d/x")):
        header = encode_header(Header(key, "text/plain", {}, "2" * 64, "1" * 32, 6))
        (path / f"{name}.obj").write_bytes(header + b"secret")
        (path / name).write_bytes(b"secret")
    return path


def _contents(path: Path) -> dict[str, bytes | None]:
    return {
        str(found.relative_to(path)): found.read_bytes() if found.is_file() else None
        for found in sorted(path.rglob("*"))
    }


LINKS = [
    # where the link is, the key that leads through it
    ("in", "in/x"),
    ("in", "in/d/x"),
    ("in", "in/d/e/x"),
    ("a/in", "a/in/x"),
    ("a/b/in", "a/b/in/x"),
    ("in%25", "in%/x"),
    ("ü", "ü/x"),
    ("u\u0308", "ü/x"),
    ("s" * 200 + "%+", "s" * 230 + "/x"),
]


@pytest.mark.parametrize(("link", "key"), LINKS)
@pytest.mark.parametrize("relative", [True, False])
async def test_no_operation_follows_a_link_in_a_key(
    backend: FileStorageBackend, tmp_path: Path, outside: Path, link: str, key: str, relative: bool
) -> None:
    objects = backend.objects
    place = tmp_path / "data/objects" / link
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(os.path.relpath(outside, place.parent) if relative else outside)
    await objects.put("source", b"ours")
    before = _contents(outside)
    reads: list[Callable[[], Awaitable[object]]] = [
        lambda: objects.get(key),
        lambda: objects.head(key),
        lambda: objects.delete(key),
        lambda: objects.copy(key, "target"),
        lambda: objects.move(key, "target"),
    ]
    for read in reads:
        with pytest.raises(KeyNotFoundError):
            await read()
    with pytest.raises(KeyNotFoundError):
        async with objects.open_reader(key):
            pass
    assert [entry.key async for entry in objects.iterate() if isinstance(entry, ListEntry)] == ["source"]
    prefix = key.rpartition("/")[0] + "/"
    assert [entry async for entry in objects.iterate(prefix)] == []
    assert (await objects.list_page("", delimiter="/")).prefixes == []
    writes: list[Callable[[], Awaitable[object]]] = [
        lambda: objects.put(key, b"new"),
        lambda: objects.put(key, b"new", if_absent=True),
        lambda: objects.put_stream(key, [b"new" * 4_000_000] * 2),
        lambda: objects.copy("source", key),
        lambda: objects.move("source", key),
    ]
    for write in writes:
        if link == "u\u0308":
            break  # saved beside it, where the key belongs
        with pytest.raises(AccessDeniedError, match="no directory") as refused:
            await write()
        assert "symbolic links" in (refused.value.remedy or "")
    assert place.is_symlink()
    assert _contents(outside) == before
    assert not list((tmp_path / "data/system/tmp").iterdir())


async def test_a_link_in_the_place_of_an_object_is_replaced_not_followed(
    backend: FileStorageBackend, tmp_path: Path, outside: Path
) -> None:
    objects = backend.objects
    (tmp_path / "data/objects/k.obj").symlink_to(outside / "x.obj")
    (tmp_path / "data/objects/foreign").symlink_to(outside / "x")
    before = _contents(outside)
    for key in ("k", "foreign"):
        with pytest.raises(KeyNotFoundError):
            await objects.get(key)
        with pytest.raises(KeyNotFoundError):
            await objects.delete(key)
        assert (await objects.put(key, b"ours")).created is True
        found = await objects.get(key)
        assert found is not None
        assert found.data == b"ours"
        await objects.delete(key)
    assert _contents(outside) == before


@pytest.fixture
def swapped(tmp_path: Path, outside: Path) -> Iterator[None]:
    """A directory of the objects that becomes a link and a directory again, all the time."""
    stop = threading.Event()
    place, aside = tmp_path / "data/objects/a", tmp_path / "aside"
    link = tmp_path / "link"

    def swap() -> None:
        while not stop.is_set():
            try:
                link.symlink_to(outside / "d")
                os.rename(place, aside)
                os.rename(link, place)
                os.unlink(place)
                os.rename(aside, place)
            except OSError:
                # An operation was faster: begin anew, with whatever is there.
                with suppress(OSError):
                    for path in (link, place):
                        if path.is_symlink():
                            path.unlink(missing_ok=True)
                    if aside.exists() and not place.exists():
                        os.rename(aside, place)
                    place.mkdir(exist_ok=True, parents=True)
                    shutil.rmtree(aside, ignore_errors=True)

    (tmp_path / "data/objects/a").mkdir(parents=True)
    thread = threading.Thread(target=swap)
    thread.start()
    yield
    stop.set()
    thread.join()


@pytest.mark.usefixtures("swapped")
async def test_a_link_that_appears_meanwhile_is_not_followed(
    backend: FileStorageBackend, tmp_path: Path, outside: Path
) -> None:
    header = encode_header(Header("a/x", "text/plain", {}, "2" * 64, "1" * 32, 6))
    (outside / "d/x.obj").write_bytes(header + b"secret")
    before = _contents(outside)
    objects = backend.objects

    async def attempt(number: int) -> None:
        for operation in (
            lambda: objects.put("a/x", b"ours"),
            lambda: objects.get("a/x"),
            lambda: objects.delete("a/x"),
            lambda: objects.put(f"a/n{number}", b"ours"),
        ):
            try:
                found = await operation()
            except StorageError:
                continue
            assert getattr(found, "data", b"ours") == b"ours"
        async for entry in objects.iterate("a/"):
            assert isinstance(entry, ListEntry)
            assert entry.key == "a/x" or entry.key.startswith("a/n")

    for start in range(0, 200, 8):
        await asyncio.gather(*(attempt(number) for number in range(start, start + 8)))
    assert _contents(outside) == before


async def test_the_folder_itself_may_be_reached_by_links(backend: FileStorageBackend, tmp_path: Path) -> None:
    """Its path is the user's own; also where a link comes to be in it while it is used."""
    await backend.objects.put("a/b", b"x")
    os.rename(tmp_path / "data", tmp_path / "moved")
    (tmp_path / "data").symlink_to("moved")
    found = await backend.objects.get("a/b")
    assert found is not None
    await backend.objects.put("a/c", b"y")
    await backend.objects.delete("a/b")
    assert [entry.key async for entry in backend.objects.iterate() if isinstance(entry, ListEntry)] == ["a/c"]
    async with FileStorageBackend(tmp_path / "data") as other:
        assert (await other.objects.head("a/c")).size == 1
