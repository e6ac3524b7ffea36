"""The file backend: the contract, and what is its own (files, SQLite, other programs, broken disks)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import hashlib
import itertools
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import unicodedata
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from storage_lib.backends.file import FileStorageBackend, caches, layout, sqlite
from storage_lib.backends.file import tables as file_tables
from storage_lib.backends.file.errors import os_errors
from storage_lib.backends.file.files import ObjectFiles
from storage_lib.backends.file.folder import Folder
from storage_lib.backends.file.format import Header, PathMap, data_offset, decode_header, encode_header
from storage_lib.backends.file.layout import KeyLocks
from storage_lib.backends.file.objects import THREADS, WRITERS
from storage_lib.backends.file.writes import ObjectWriter, PutBytes, Write
from storage_lib.backends.memory import MemoryBackend
from storage_lib.errors import (
    AccessDeniedError,
    ConfigurationError,
    IntegrityError,
    InvalidKeyError,
    KeyNotFoundError,
    ObjectTooLargeError,
    PreconditionFailedError,
    StorageError,
    StorageUnavailableError,
    TransientStorageError,
)
from storage_lib.keys import validate_key
from storage_lib.ports.drivers import PutOptions
from storage_lib.ports.objects import ByteRange, ListEntry, ObjectStore
from storage_lib.ports.table_model import Insert, Upsert
from storage_lib.testing import ObjectStoreContract, QueueStoreContract, TableStoreContract
from storage_lib.testing.objects import AWKWARD_KEYS
from tests.effort import examples
from tests.layers import PassThrough


@pytest.fixture(scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[FileStorageBackend]:
    async with FileStorageBackend(tmp_path_factory.mktemp("data")) as backend:
        yield backend


@pytest.fixture(scope="module")
async def folded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[FileStorageBackend]:
    base = tmp_path_factory.mktemp("folded")
    (base / "system").mkdir()
    (base / "system/layout.json").write_text('{"version":1,"fold_case":true}')
    async with FileStorageBackend(base) as backend:
        yield backend


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[FileStorageBackend]:
    async with FileStorageBackend(tmp_path / "data") as backend:
        yield backend


@pytest.fixture
def folder(backend: FileStorageBackend) -> Path:
    return Path(backend.base_path, "objects")


class TestFileObjects(ObjectStoreContract):
    race_rounds = 20
    lists_decomposed = True

    @pytest.fixture
    def objects(self, shared: FileStorageBackend) -> ObjectStore:
        self.folder = Path(shared.base_path, "objects")
        return shared.objects

    async def tamper(self, objects: ObjectStore, key: str, data: bytes) -> None:
        path = self.folder / f"{key}.obj"
        stored = path.read_bytes()
        path.write_bytes(stored[: stored.index(b"\n", stored.index(b"\n") + 1) + 1] + data)

    async def put_foreign(self, objects: ObjectStore, key: str, data: bytes, content_type: str) -> None:
        path = self.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


class TestFileObjectsWhereCaseIsIgnored(TestFileObjects):
    @pytest.fixture
    def objects(self, folded: FileStorageBackend) -> ObjectStore:
        self.folder = Path(folded.base_path, "objects")
        return folded.objects


class TestFileQueues(QueueStoreContract):
    @pytest.fixture
    def queues(self, shared: FileStorageBackend) -> object:
        return shared.queues


class TestFileTables(TableStoreContract):
    @pytest.fixture
    def tables(self, shared: FileStorageBackend) -> object:
        return shared.tables


class TestFileObjectsBehindALayer(TestFileObjects):
    @pytest.fixture
    def objects(self, shared: FileStorageBackend) -> ObjectStore:
        self.folder = Path(shared.base_path, "objects")
        return PassThrough(shared).objects


class TestFileQueuesBehindALayer(QueueStoreContract):
    @pytest.fixture
    def queues(self, shared: FileStorageBackend) -> object:
        return PassThrough(shared).queues


class TestFileTablesBehindALayer(TableStoreContract):
    @pytest.fixture
    def tables(self, shared: FileStorageBackend) -> object:
        return PassThrough(shared).tables


# -- names


SEGMENTS = st.one_of(
    st.text("aAbB%.-+ objOBJß\u017f\u0131İKKé~ǅ/2E56\u0345", min_size=1, max_size=12),
    st.text(st.characters(exclude_categories=("Cc", "Cs", "Cn")), min_size=1, max_size=20),
    st.sampled_from([".obj", "a.obj", "a.OBJ", "%+", "a%+", "%6A", "100%", ".", "%2E", "x" * 200, "x" * 201]),
    st.text("x%.A", min_size=190, max_size=255),
)


def _is_key(key: str) -> bool:
    try:
        validate_key(key)
    except InvalidKeyError:
        return False
    return True


KEYS = st.lists(SEGMENTS, min_size=1, max_size=4).map("/".join).filter(_is_key)


@settings(max_examples=examples(300), deadline=None)
@given(keys=st.sets(KEYS, min_size=2, max_size=6), fold_case=st.booleans())
def test_keys_and_files_correspond_one_to_one(keys: set[str], fold_case: bool) -> None:
    paths = PathMap(fold_case)
    files: dict[str, str] = {}
    directories: set[str] = set()
    for key in keys:
        path = paths.own(key)
        parts = path.split("/")
        assert all(0 < len(part.encode()) <= 255 and not part.startswith(".") for part in parts)
        assert path.endswith(".obj")
        assert not any(part.endswith(".obj") for part in parts[:-1])
        assert paths.key_of(path.removesuffix(".obj")) == key
        seen = unicodedata.normalize("NFD", path).casefold() if fold_case else path
        assert files.setdefault(seen, key) == key
        directories |= {"/".join(parts[:n]) for n in range(1, len(parts))}
    assert not directories & set(files)


def test_no_two_characters_that_stay_share_a_folded_name() -> None:
    paths = PathMap(fold_case=True)
    seen: dict[str, str] = {}
    for code in range(0x21, 0x20000):
        ch = chr(code)
        key = f"a{ch}"
        if unicodedata.category(ch) not in ("Cn", "Cs", "Co", "Lo") and _is_key(key) and ch != "/":
            path = paths.own(key)
            for form in (path.casefold(), unicodedata.normalize("NFD", path).casefold(), path.upper()):
                assert seen.setdefault(form, key) == key


async def test_files_are_where_one_looks_and_can_be_read(backend: FileStorageBackend, folder: Path) -> None:
    await backend.objects.put("configs/ceo.json", b'{"name":"CEO"}', content_type="application/json")
    first, header, data = (folder / "configs/ceo.json.obj").read_bytes().split(b"\n")
    assert first.startswith(b"AOSOBJ1 ")
    assert msgspec.json.decode(header)["content_type"] == "application/json"
    assert data == b'{"name":"CEO"}'


async def test_a_folder_where_case_is_ignored_keeps_keys_apart(tmp_path: Path) -> None:
    (tmp_path / "system").mkdir()
    (tmp_path / "system/layout.json").write_text('{"version":1,"fold_case":true}')
    async with FileStorageBackend(tmp_path) as backend:
        keys = [*AWKWARD_KEYS, "README.md", "readme.md", "A/B", "a/B", "A/b", "STRASSE", "straße", "strasse"]
        for key in keys:
            await backend.objects.put(key, key.encode())
        names = [str(path).casefold() for path in (tmp_path / "objects").rglob("*") if path.is_file()]
        assert len(names) == len(set(names)) == len(keys)
        assert await _listed(backend.objects) == sorted(keys)
        folder = tmp_path / "objects/Docs"
        folder.mkdir()
        (folder / "Guide.MD").write_bytes(b"theirs")
        found = await backend.objects.get("Docs/Guide.MD")
        assert found is not None
        assert found.data == b"theirs"
        assert await _listed(backend.objects, "Docs/") == ["Docs/Guide.MD"]
        with pytest.raises(KeyNotFoundError):
            await backend.objects.head("docs/guide.md")


# -- the folder itself


@pytest.mark.parametrize("text", ['{"version":2,"fold_case":false}', "{}", "garbage"])
async def test_a_folder_of_an_unknown_version_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "system").mkdir()
    (tmp_path / "system/layout.json").write_text(text)
    with pytest.raises(ConfigurationError) as refused:
        await FileStorageBackend(tmp_path).open()
    assert refused.value.field == "base_path"


async def test_a_file_can_not_be_the_folder(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(ConfigurationError):
        await FileStorageBackend(tmp_path / "data").open()


async def test_only_what_crashed_processes_left_is_removed(tmp_path: Path) -> None:
    temporary = tmp_path / "system/tmp"
    temporary.mkdir(parents=True)
    hour_ago = time.time() - 3600
    writing = layout.TemporaryFiles(str(temporary)).create()
    for path, modified in (
        (temporary / "1-aa.tmp", hour_ago),
        (temporary / "1-bb.tmp", time.time()),
        (Path(writing[1]), hour_ago),
        (temporary / "notes.txt", hour_ago),
    ):
        path.touch()
        os.utime(path, (modified, modified))
    async with FileStorageBackend(tmp_path) as backend:
        left = {path.name for path in temporary.iterdir()}
        assert left == {"1-bb.tmp", os.path.basename(writing[1]), "notes.txt"}
        os.close(writing[0])
        await backend.objects.sweep_expired()
        assert {path.name for path in temporary.iterdir()} == {"1-bb.tmp", "notes.txt"}


async def test_nothing_is_touched_before_the_first_operation(tmp_path: Path) -> None:
    backend = FileStorageBackend(tmp_path / "data")
    assert not (tmp_path / "data").exists()
    with pytest.raises(KeyNotFoundError):
        await backend.objects.get("missing")
    assert not (tmp_path / "data/system/store.db").exists()
    await backend.close()
    for call in (
        backend.objects.put("k", b""),
        backend.objects.get("k"),
        backend.queues.send("queue", "x"),
        backend.tables.get("table", "p", "r"),
    ):
        with pytest.raises(StorageError, match="closed"):
            await call


# -- integrity


async def test_no_changed_bit_is_ever_returned(backend: FileStorageBackend, folder: Path) -> None:
    await backend.objects.put("k", b"some data", content_type="text/plain", metadata={"a": "1"})
    path = folder / "k.obj"
    stored = path.read_bytes()
    damaged = [
        stored[:n] + bytes([stored[n] ^ mask]) + stored[n + 1 :]
        for n in range(len(stored))
        for mask in (0x01, 0x20, 0x80)
    ]
    damaged += [stored[:n] for n in range(len(stored))] + [stored + b"x"]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(IntegrityError, match="'k'"):
            await backend.objects.get("k")
    page = await backend.objects.list_page(details=True)
    assert [(entry.key, entry.etag) for entry in page.entries] == [("k", None)]
    with pytest.raises(IntegrityError):
        await backend.objects.head("k")
    await backend.objects.put("k", b"saved again")
    assert (await backend.objects.get("k")) is not None


async def test_a_file_that_was_moved_to_another_name_is_not_that_object(
    backend: FileStorageBackend, folder: Path
) -> None:
    await backend.objects.put("mine", b"secret")
    (folder / "mine.obj").rename(folder / "yours.obj")
    with pytest.raises(IntegrityError, match="'yours'"):
        await backend.objects.get("yours")


def test_a_header_can_be_reserved_and_filled_in_later() -> None:
    header = Header("k", "text/plain", {}, "0" * 64, "1" * 32, 5)
    reserved = encode_header(header, pad_to=512)
    assert len(reserved) == 512
    assert data_offset(reserved, "k") == 512
    assert decode_header(reserved, 512, "k", 517) == header


async def test_a_range_of_a_large_object_is_read_without_the_rest(
    backend: FileStorageBackend, folder: Path
) -> None:
    data = os.urandom(3_000_000)
    await backend.objects.put("k", data, metadata={"long": "x" * 1400})
    path = folder / "k.obj"
    with path.open("r+b") as file:
        file.seek(-1_000_000, os.SEEK_END)
        file.write(b"\0")
    for byte_range in (ByteRange(1000, 1010), ByteRange(5, 1_900_000), ByteRange(-10)):
        found = await backend.objects.get("k", byte_range=byte_range)
        assert found is not None
        start, end = byte_range.resolve(len(data))
        assert found.data == data[start:end]
    with pytest.raises(IntegrityError):
        await backend.objects.get("k")


# -- files of other programs


async def test_dropped_files_are_objects(backend: FileStorageBackend, folder: Path) -> None:
    (folder / "50% off").mkdir()
    (folder / ".git").mkdir()
    dropped = {
        "notes.md": "text/markdown",
        "rows.jsonl": "application/x-ndjson",
        "rows.csv": "text/csv",
        "a.json": "application/json",
        "archive.csv.gz": "application/gzip",
        "no extension": "application/octet-stream",
        "100%.txt": "text/plain",
        "50% off/a%20b.txt": "text/plain",
        "l" * 230: "application/octet-stream",
    }
    for name in dropped:
        (folder / name).write_bytes(name.encode())
    for name in (".DS_Store", ".git/config", "ends in dot.", "new\nline", "back\\slash"):
        (folder / name).write_bytes(b"no object")
    (folder / "link.txt").symlink_to(folder / "notes.md")
    (folder / "link").symlink_to(folder.parent / "system")
    os.mkfifo(folder / "pipe")
    # A name that is exactly what this library would write stands for what that spells; `%20` is none.
    assert await _listed(backend.objects) == sorted(dropped)
    for key, content_type in dropped.items():
        found = await backend.objects.get(key)
        assert found is not None
        assert (found.data.decode(), found.info.content_type) == (key, content_type)
        assert await backend.objects.get(key, if_none_match=found.info.etag) is None
    for key in ("link.txt", "link/layout.json", "pipe", ".DS_Store", ".git/config"):
        with pytest.raises(KeyNotFoundError):
            await backend.objects.get(key)
    with pytest.raises(AccessDeniedError):
        await backend.objects.put("link/escaped", b"x")
    assert not (folder.parent / "system/escaped.obj").exists()


async def test_dropped_names_that_are_no_text_are_left_out(backend: FileStorageBackend, folder: Path) -> None:
    keys = ["a", "b/c", "z", "é"]
    for key in keys:
        await backend.objects.put(key, b"x")
    root = os.fsencode(folder)
    for name in (b"caf\xe9.txt", b"caf\xe9.obj", b"b/\xff", b"b/\xc3\xa9\xed\xa0\x80"):
        Path(os.fsdecode(root + b"/" + name)).write_bytes(b"x")
    os.makedirs(root + b"/d\xe9r/inner")
    Path(os.fsdecode(root + b"/d\xe9r/inner/below")).write_bytes(b"x")
    assert await _listed(backend.objects) == keys
    assert await _listed(backend.objects, "b/") == ["b/c"]
    for delimiter, expected in ((None, keys), ("/", ["a", "b/", "z", "é"])):
        found: list[str] = []
        cursor = None
        while True:
            page = await backend.objects.list_page(limit=1, delimiter=delimiter, cursor=cursor, details=True)
            found += [entry.key for entry in page.entries] + page.prefixes
            cursor = page.cursor
            if cursor is None:
                break
        assert found == expected
    assert (await backend.objects.stats()).count == len(keys)


async def test_ours_wins_over_a_dropped_file_of_the_same_key(
    backend: FileStorageBackend, folder: Path
) -> None:
    await backend.objects.put("x", b"ours")
    (folder / "x").write_bytes(b"theirs")
    found = await backend.objects.get("x")
    assert found is not None
    assert found.data == b"ours"
    assert await _listed(backend.objects) == ["x"]
    await backend.objects.delete("x")
    assert not list(folder.iterdir())


async def test_a_dropped_file_is_found_while_it_is_being_replaced(
    backend: FileStorageBackend, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "x").write_bytes(b"theirs")
    await backend.objects.put("y", b"ours")
    ours = (folder / "y.obj").read_bytes().replace(b'"y"', b'"x"')
    text = ours[26 : ours.index(b"\n", 26)]
    search = ObjectFiles.foreign_files

    def replaced_meanwhile(files: ObjectFiles, key: str) -> list[str]:
        (folder / "x.obj").write_bytes(b"AOSOBJ1 %08x %08x\n" % (len(text), zlib.crc32(text)) + ours[26:])
        (folder / "x").unlink(missing_ok=True)
        return search(files, key)

    monkeypatch.setattr(ObjectFiles, "foreign_files", replaced_meanwhile)
    found = await backend.objects.get("x")
    assert found is not None
    assert found.data == b"ours"


async def test_a_dropped_file_gives_way_to_a_directory_of_its_name(
    backend: FileStorageBackend, folder: Path
) -> None:
    (folder / "report.csv").write_bytes(b"a,b\n")
    await backend.objects.put("report.csv/notes", b"ours")
    found = await backend.objects.get("report.csv")
    assert found is not None
    assert (found.data, found.info.content_type) == (b"a,b\n", "text/csv")
    assert await _listed(backend.objects) == ["report.csv", "report.csv/notes"]
    await backend.objects.put("shadowed", b"ours")
    (folder / "shadowed").write_bytes(b"left by a crash")
    await backend.objects.put("shadowed/below", b"x")
    found = await backend.objects.get("shadowed")
    assert found is not None
    assert found.data == b"ours"


# -- listing


def _plant(folder: Path, key: str, *, foreign: bool) -> None:
    """Put a file there without the store."""
    path = folder / (key if foreign else PathMap(fold_case=False).own(key))
    with contextlib.suppress(FileExistsError, NotADirectoryError, IsADirectoryError):
        path.parent.mkdir(parents=True, exist_ok=True)
        header = encode_header(Header(key, "text/plain", {}, "0" * 64, "1" * 32, 0))
        path.write_bytes(b"" if foreign else header)


LISTED = st.lists(
    st.sampled_from(
        ["a", "b", "a-", "a0", "a.obj", "%", "é", "🙂", "\uffee", ".h", "x" * 200, "x" * 201, "x" * 230]
    ),
    min_size=1,
    max_size=3,
).map("/".join)


@settings(max_examples=examples(60), deadline=None)
@given(
    ours=st.sets(LISTED, max_size=14),
    theirs=st.sets(LISTED.filter(lambda key: "obj" not in key and ".h" not in key), max_size=4),
    prefix=st.one_of(
        st.just(""), LISTED, LISTED.map(lambda key: key + "/"), LISTED.map(lambda key: key[:-1])
    ),
    delimiter=st.sampled_from([None, "/"]),
    limit=st.integers(1, 5),
    kept=st.booleans(),
)
def test_a_listing_is_the_sorted_filtered_set_of_keys(
    ours: set[str], theirs: set[str], prefix: str, delimiter: str | None, limit: int, kept: bool
) -> None:
    async def check() -> None:
        with tempfile.TemporaryDirectory() as base, pytest.MonkeyPatch.context() as patch:
            if kept:
                patch.setattr(caches, "_MIN_NAMES", 0)
                patch.setattr(caches, "_QUIET_SECONDS", -1)
            folder = Path(base, "objects")
            for key in ours:
                _plant(folder, key, foreign=False)
            for key in theirs:
                _plant(folder, key, foreign=True)
            (folder / "a/empty/deeper").mkdir(parents=True, exist_ok=True) if not (
                folder / "a"
            ).is_file() else 0
            model = MemoryBackend().objects
            for key in (*ours, *theirs):
                if key in ours or (folder / key).is_file():
                    await model.put(key, b"")
            backend = FileStorageBackend(base)
            cursor = None
            while True:
                arguments: dict[str, Any] = {"delimiter": delimiter, "limit": limit, "cursor": cursor}
                expected = await model.list_page(prefix, **arguments)
                assert await backend.objects.list_page(prefix, **arguments) == expected
                if (cursor := expected.cursor) is None:
                    break
            await backend.close()

    with contextlib.suppress(InvalidKeyError):
        asyncio.run(check())


@pytest.fixture
def read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The directories below ``folder`` that are read, by name."""
    scandir = os.scandir
    found: list[str] = []

    def counted(fd: int) -> Any:
        found.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
        return scandir(fd)

    monkeypatch.setattr(os, "scandir", counted)
    return found


async def _pages(
    backend: FileStorageBackend, between: Callable[[int], Awaitable[None]] | None = None
) -> set[str]:
    """The keys below flat/, listed by pages of 50; ``between`` runs after each page."""
    seen: list[str] = []
    cursor = None
    for number in itertools.count():
        page = await backend.objects.list_page("flat/", limit=50, cursor=cursor)
        seen += [entry.key for entry in page.entries]
        if (cursor := page.cursor) is None:
            break
        if between is not None:
            await between(number)
    assert seen == sorted(set(seen))
    return set(seen)


@pytest.mark.parametrize("kept", ["watched", "quiet", "neither"])
async def test_pages_of_a_directory_are_read_once_and_changes_are_seen(
    backend: FileStorageBackend, folder: Path, monkeypatch: pytest.MonkeyPatch, read: list[str], kept: str
) -> None:
    keys = {f"flat/{n:04}" for n in range(700)}
    for key in keys:
        _plant(folder, key, foreign=False)
    if kept != "watched":
        monkeypatch.setattr(caches, "_calls", lambda: None)
    if kept == "quiet":
        monkeypatch.setattr(caches, "_QUIET_SECONDS", -1)
    assert await _pages(backend) == keys
    assert read.count("flat") == (14 if kept == "neither" else 1)
    for n in range(3):
        before = (folder / "flat").stat().st_mtime_ns
        await backend.objects.put(f"flat/new{n}", b"")
        await backend.objects.delete(f"flat/000{n}")
        while kept == "quiet" and (folder / "flat").stat().st_mtime_ns == before:
            await backend.objects.put(f"flat/new{n}", b"")  # the clock of the file system is a coarse one
        keys = keys - {f"flat/000{n}"} | {f"flat/new{n}"}
        assert await _pages(backend) == keys


@pytest.mark.parametrize("by", ["this backend", "another process"])
async def test_a_directory_that_changes_with_every_page_is_read_once(
    backend: FileStorageBackend, folder: Path, read: list[str], by: str
) -> None:
    keys = {f"flat/{n:04}" for n in range(2000)}
    for key in keys:
        _plant(folder, key, foreign=False)

    async def change(number: int) -> None:
        before, behind, again, gone = (
            *(f"flat/0000-{number}", f"flat/1999-{number:04}"),
            *(f"flat/{number * 45:04}", f"flat/{1990 - number:04}"),
        )
        if by == "this backend":
            for key in (before, behind, again):
                await backend.objects.put(key, b"")
            await backend.objects.delete(gone)
        else:
            script = (
                "import os, sys\nbefore, behind, again, gone = sys.argv[1:]\n"
                "for path in (before, behind, again):\n"
                "    open(path + '.new', 'x').close(); os.rename(path + '.new', path)\n"
                "os.unlink(gone)"
            )
            paths = [str(folder / f"{key}.obj") for key in (before, behind, again, gone)]
            await asyncio.to_thread(subprocess.run, [sys.executable, "-c", script, *paths], check=True)
        appeared.add(behind)
        disappeared.add(gone)

    appeared: set[str] = set()
    disappeared: set[str] = set()
    seen = await _pages(backend, change)
    assert len(disappeared) > 35
    assert keys - disappeared <= seen, "what is there all the time"
    assert {key for key in appeared if key < max(seen)} <= seen, "what was saved before its page was read"
    assert read.count("flat") == 1


@pytest.mark.parametrize("loss", ["too many changes", "a full queue", "another directory", "no more watches"])
async def test_a_directory_whose_changes_are_not_known_is_read_again(
    backend: FileStorageBackend, folder: Path, monkeypatch: pytest.MonkeyPatch, read: list[str], loss: str
) -> None:
    keys = {f"flat/{n:04}" for n in range(700)}
    for key in keys:
        _plant(folder, key, foreign=False)
    if loss == "no more watches":
        calls = caches._calls()
        assert calls is not None
        monkeypatch.setattr(calls, "add", lambda *_: -1)
    assert await _pages(backend) == keys
    read.clear()
    if loss == "another directory":
        (folder / "flat").rename(folder / "old")
        keys = {f"flat/new{n:04}" for n in range(700)}
        for key in keys:
            _plant(folder, key, foreign=False)
    else:
        count = {"too many changes": caches.MAX_CHANGES + 1, "no more watches": 1}.get(loss, 20_000)
        for n in range(count):  # one name twice in a row would be one event
            for name in ("one", "two"):
                (folder / f"flat/{name}{n if loss == 'too many changes' else ''}.obj").touch()
                (folder / f"flat/{name}{n if loss == 'too many changes' else ''}.obj").unlink()
        _plant(folder, "flat/new", foreign=False)
        keys = {*keys, "flat/new"}
    assert await _pages(backend) == keys
    assert read.count("flat") == (15 if loss == "no more watches" else 1)
    _plant(folder, "flat/newer", foreign=False)
    assert await _pages(backend) == {*keys, "flat/newer"}


@pytest.mark.skipif(not os.path.isdir("/proc/self/fdinfo"), reason="looks at what the kernel watches")
def test_nothing_is_kept_of_changes_that_nobody_takes(tmp_path: Path) -> None:
    for name in ("busy", "other"):
        (tmp_path / name).mkdir()
    kept = caches.Watches()
    folder = Folder(os.fsencode(tmp_path))
    busy, other = kept.begin(folder, b"busy"), kept.begin(folder, b"other")
    assert busy is not None
    assert other is not None
    for n in range(3):
        for m in range(caches.MAX_CHANGES + 1):
            (tmp_path / f"busy/{n}-{m}").touch()
        (tmp_path / f"other/{n}").touch()
        assert kept.take(other) == {b"%d" % n}
        assert not busy.names
    watched = Path(f"/proc/self/fdinfo/{kept._fd}").read_text().count("inotify wd:")
    assert watched == 1, "the kernel tells no more of what is read again in any case"
    assert kept.take(busy) is None
    kept.end(busy)
    kept.close()


NAMES = st.sampled_from(
    [
        *(
            "a",
            "a.obj",
            "b",
            "b.obj",
            "b%6A",
            "b.ob%6A.obj",
            "%61",
            "%61.obj",
            "100%",
            "100%25",
            "100%25.obj",
        ),
        *(".h", ".h.obj", "%2Eh.obj", "é", "é.obj", "e\u0301", "e\u0301.obj", "x" * 201, "x" * 200 + "%+"),
        *("d", "d.x", b"\xff", b"\xff.obj"),
    ]
).map(os.fsencode)
CHANGES = st.lists(
    st.tuples(st.sampled_from(["own", "foreign", "directory", "rename", "remove", "link"]), NAMES, NAMES),
    max_size=4,
)


@settings(max_examples=examples(80), deadline=None)
@given(st.lists(CHANGES, max_size=8))
@example([[("own", b"a.obj", b"")], [("directory", b"x" * 200 + b"%+", b"")], [("own", b"b.obj", b"")]])
def test_what_is_kept_of_a_directory_is_what_is_in_it(rounds: list[list[tuple[str, bytes, bytes]]]) -> None:
    """Whatever other programs do in it: a backend that keeps it lists what a new one does."""

    def change(folder: bytes, what: str, name: bytes, other: bytes) -> None:
        path = os.path.join(folder, name)
        with contextlib.suppress(OSError):
            match what:
                case "own" | "foreign":
                    Path(os.fsdecode(path)).write_bytes(b"")
                case "directory":
                    os.mkdir(path)
                    Path(os.fsdecode(path), "below.obj").write_bytes(b"")
                case "rename":
                    os.rename(path, os.path.join(folder, other))
                case "link":
                    os.symlink(os.path.join(folder, other), path)
                case _:
                    shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)

    async def listed(backend: FileStorageBackend) -> list[list[ListEntry | str]]:
        return [
            [found async for found in backend.objects.iterate(prefix, delimiter=delimiter)]
            for prefix in ("", "flat/", "flat/d")
            for delimiter in (None, "/")
        ]

    async def check() -> None:
        with tempfile.TemporaryDirectory() as base, pytest.MonkeyPatch.context() as patch:
            async with FileStorageBackend(base) as backend:
                folder = Path(base, "objects/flat")
                folder.mkdir()
                for changes in rounds:
                    for what, name, other in changes:
                        change(os.fsencode(folder), what, name, other)
                    patch.setattr(caches, "_MIN_NAMES", 0)
                    patch.setattr(caches, "_WATCHED_BYTES", 0)
                    found = await listed(backend)
                    patch.undo()
                    async with FileStorageBackend(base) as new:
                        assert found == await listed(new)

    asyncio.run(check())


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts what a process has open")
async def test_what_is_watched_is_watched_no_more_once_it_is_closed(tmp_path: Path) -> None:
    def instances() -> int:
        links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
        return sum(os.readlink(link) == "anon_inode:inotify" for link in links if os.path.lexists(link))

    gc.collect()  # What tests before have dropped is not counted.
    before = instances()
    async with FileStorageBackend(tmp_path) as backend:
        for n in range(700):
            _plant(tmp_path / "objects", f"flat/{n:04}", foreign=False)
        assert len(await _listed(backend.objects)) == 700
        assert instances() == before + 1
    assert instances() == before


@pytest.mark.parametrize(("limit", "read"), [(1, 2), (500, 501), (999, 1000), (1000, 1001), (1500, 1501)])
async def test_a_page_reads_no_more_files_than_it_shows_and_one(
    backend: FileStorageBackend, folder: Path, monkeypatch: pytest.MonkeyPatch, limit: int, read: int
) -> None:
    for n in range(2100):
        _plant(folder, f"flat/{n:04}", foreign=False)
    opened: list[str] = []
    for name in ("told", "told_at"):
        real = getattr(ObjectFiles, name)
        monkeypatch.setattr(
            ObjectFiles, name, lambda *args, real=real: opened.append(args[-1]) or real(*args)
        )
    page = await backend.objects.list_page("flat/", limit=limit, details=True)
    assert (len(page.entries), len(opened)) == (limit, read)


def test_many_names_are_put_in_order() -> None:
    chance = random.Random(1)
    for count in (0, 1, 4096, 4097, 30_000):
        names = [chance.choice(["", "é", "common/"]) + str(chance.randrange(count)) for _ in range(count)]
        assert caches.in_order(names) == sorted(names)
        assert caches.in_order(sorted(names)) == sorted(names)
        assert caches.in_order(["same"] * count) == ["same"] * count


async def test_a_directory_left_empty_is_no_common_prefix(backend: FileStorageBackend, folder: Path) -> None:
    (folder / "empty/deeper").mkdir(parents=True)
    (folder / "hidden").mkdir()
    (folder / "hidden/.keep").write_text("")
    await backend.objects.put("full/deep/er", b"")
    page = await backend.objects.list_page(delimiter="/")
    assert (page.entries, page.prefixes) == ([], ["full/"])


async def test_deleting_removes_directories_that_become_empty(
    backend: FileStorageBackend, folder: Path
) -> None:
    await backend.objects.put("a/b/c", b"")
    await backend.objects.put("a/d", b"")
    await backend.objects.delete("a/b/c")
    assert sorted(path.name for path in (folder / "a").iterdir()) == ["d.obj"]
    await backend.objects.delete("a/d")
    with pytest.raises(PreconditionFailedError):
        await backend.objects.put("never/there", b"", if_match="other")
    assert not list(folder.iterdir())


async def test_saving_and_deleting_in_one_directory_race_without_failing(backend: FileStorageBackend) -> None:
    async def churn(n: int) -> None:
        for _ in range(25):
            await backend.objects.put(f"one/directory/{n}", b"x")
            await backend.objects.delete(f"one/directory/{n}")

    await asyncio.gather(*(churn(n) for n in range(8)))
    assert await _listed(backend.objects) == []


# -- cancellation


@pytest.mark.parametrize("size", [10, 1_000_000])
async def test_a_cancelled_save_never_overwrites_a_later_one(backend: FileStorageBackend, size: int) -> None:
    base = Path(backend.base_path)
    with KeyLocks(str(base / "system/locks")).held("k"):
        first = asyncio.ensure_future(backend.objects.put("k", b"1" * size))
        while not list((base / "system/tmp").iterdir()):
            await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        second = asyncio.ensure_future(backend.objects.put("k", b"second"))
        await asyncio.sleep(0)
    await second
    found = await backend.objects.get("k")
    assert found is not None
    assert found.data == b"second"
    await backend.close()
    assert not list((base / "system/tmp").iterdir())
    assert (base / "objects/k.obj").read_bytes().endswith(b"second")


# -- streams and copies


async def test_a_cancelled_stream_leaves_nothing(
    backend: FileStorageBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend.objects, "part_bytes", 1000)
    base = Path(backend.base_path)
    goes_on = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        for n in range(20):
            yield b"x" * 700
            if n == 10:
                goes_on.set()
                await asyncio.Event().wait()

    await backend.objects.put("k", b"old")
    files = _open_files()
    saving = asyncio.ensure_future(backend.objects.put_stream("k", endless()))
    await goes_on.wait()
    assert len(list((base / "system/tmp").iterdir())) == 1
    saving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await saving
    assert not list((base / "system/tmp").iterdir())
    assert _open_files() == files
    found = await backend.objects.get("k")
    assert found is not None
    assert found.data == b"old"


async def test_a_stream_is_refused_before_it_is_read_if_it_can_not_be_stored(
    backend: FileStorageBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend.objects, "part_bytes", 10)
    read: list[int] = []

    def source() -> Iterator[bytes]:
        for n in range(100):
            read.append(n)
            yield b"x" * 10

    await backend.objects.put("k", b"old")
    with pytest.raises(PreconditionFailedError):
        await backend.objects.put_stream("k", source(), if_match="other")
    assert len(read) < 10


async def test_a_condition_on_a_stream_is_decided_at_its_end(
    backend: FileStorageBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend.objects, "part_bytes", 10)

    async def overtaken() -> AsyncIterator[bytes]:
        yield b"x" * 50
        await backend.objects.put("k", b"overtook")
        yield b"x" * 50

    first = await backend.objects.put("k", b"old")
    with pytest.raises(PreconditionFailedError):
        await backend.objects.put_stream("k", overtaken(), if_match=first.etag)
    await backend.objects.delete("k")
    with pytest.raises(PreconditionFailedError):
        await backend.objects.put_stream("k", overtaken(), if_absent=True)
    found = await backend.objects.get("k")
    assert found is not None
    assert found.data == b"overtook"
    assert not list(Path(backend.base_path, "system/tmp").iterdir())


async def test_a_reader_stays_with_the_version_it_opened(backend: FileStorageBackend) -> None:
    data = os.urandom(3_500_000)
    put = await backend.objects.put("k", data)
    files = _open_files()
    async with backend.objects.open_reader("k") as reader:
        assert _open_files() == files + 1
        chunks = aiter(reader)
        given = [await anext(chunks)]
        await backend.objects.put("k", b"new" * 1_000_000)
        given += [chunk async for chunk in chunks]
        assert reader.info.etag == put.etag
        assert b"".join(given) == data
    async with backend.objects.open_reader("k"):
        pass
    async with backend.objects.open_reader("k") as reader:
        async for _ in reader:
            break
    await backend.close()
    assert _open_files() <= files


async def test_a_file_that_another_program_changes_is_never_a_mixture(
    backend: FileStorageBackend, folder: Path
) -> None:
    (folder / "theirs.bin").write_bytes(b"a" * 3_000_000)
    async with backend.objects.open_reader("theirs.bin") as reader:
        assert b"".join([chunk async for chunk in reader]) == b"a" * 3_000_000
    async with backend.objects.open_reader("theirs.bin") as reader:
        (folder / "theirs.bin").write_bytes(b"b" * 2_000_000)
        with pytest.raises(TransientStorageError, match="changed by another program"):
            await reader.read()


@pytest.mark.parametrize("in_kernel", [True, False])
@pytest.mark.parametrize("size", [10, 2_500_000])
async def test_copies_are_whole_and_have_a_checksum(
    backend: FileStorageBackend,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    in_kernel: bool,
) -> None:
    if not in_kernel:

        def refuse(*_: Any) -> int:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

        monkeypatch.setattr(os, "copy_file_range", refuse, raising=False)
    data = os.urandom(size)
    put = await backend.objects.put("ours", data, content_type="text/x-a", metadata={"n": "1"})
    (folder / "theirs.csv").write_bytes(data)
    for source, content_type in (("ours", "text/x-a"), ("theirs.csv", "text/csv")):
        copied = await backend.objects.copy(source, "deep/er/target")
        found = await backend.objects.get("deep/er/target")
        assert found is not None
        assert found.data == data
        assert found.info.content_type == content_type
        assert found.info.sha256 == hashlib.sha256(data).hexdigest()
        assert put.etag != copied.etag == found.info.etag
    path = folder / "ours.obj"
    stored = path.read_bytes()
    path.write_bytes(stored[:-1] + bytes([stored[-1] ^ 1]))
    await backend.objects.copy("ours", "copy of damaged")
    with pytest.raises(IntegrityError):
        await backend.objects.get("copy of damaged")


def _open_files() -> int:
    return len(os.listdir("/dev/fd"))


# -- the system says no


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (errno.EACCES, AccessDeniedError),
        (errno.EPERM, AccessDeniedError),
        (errno.EROFS, AccessDeniedError),
        (errno.ENOSPC, StorageUnavailableError),
        (errno.EDQUOT, StorageUnavailableError),
        (errno.EIO, StorageUnavailableError),
        (errno.ESTALE, StorageUnavailableError),
        (errno.EMFILE, TransientStorageError),
        (errno.ENAMETOOLONG, InvalidKeyError),
        (errno.EFBIG, ObjectTooLargeError),
        (errno.EXDEV, ConfigurationError),
        (errno.ENOENT, KeyNotFoundError),
        (errno.ENOTDIR, KeyNotFoundError),
    ],
)
def test_errors_of_the_system_have_their_meaning(code: int, expected: type[StorageError]) -> None:
    with pytest.raises(expected, match="'k'") as raised, os_errors("k", absent=True):
        raise OSError(code, os.strerror(code), "file")
    assert isinstance(raised.value.__cause__, OSError)


async def test_a_folder_that_vanished_is_unavailable_not_empty(tmp_path: Path) -> None:
    base, away = tmp_path / "data", tmp_path / "away"
    async with FileStorageBackend(base) as backend:
        objects, queues, tables = backend.objects, backend.queues, backend.tables
        await objects.put("a/b", b"x")
        await queues.send("queue", b"first")
        await tables.insert("table", "p", "r", {})
        calls: list[Callable[[], Any]] = [
            lambda: objects.put("k", b"x"),
            lambda: objects.put("new/k", b"x"),
            lambda: objects.put("k", b"x", if_match="e"),
            lambda: objects.get("a/b"),
            lambda: objects.head("a/b"),
            lambda: objects.delete("a/b"),
            lambda: objects.copy("a/b", "c"),
            lambda: _listed(objects),
            lambda: _listed(objects, "a/"),
            objects.sweep_expired,
            backend.open,
        ]
        rows: list[Callable[[], Any]] = [
            lambda: queues.send("queue", b"lost"),
            lambda: queues.peek("queue"),
            lambda: tables.get("table", "p", "r"),
            lambda: tables.upsert("table", "p", "r", {"lost": True}),
        ]
        # Removed or unmounted; an empty mount point is left; the objects alone are gone.
        for moved, left, expected in (
            (".", None, calls + rows),
            (".", base, calls + rows),
            ("objects", None, calls),
        ):
            os.rename(base / moved, away)
            if left is not None:
                left.mkdir()
            for call in expected:
                with pytest.raises(StorageUnavailableError):
                    await call()
            assert not (base / moved).exists() or not list((base / moved).iterdir())
            if left is not None:
                left.rmdir()
            os.rename(away, base / moved)
            assert await _listed(objects) == ["a/b"]
        assert [message.body for message in await queues.peek("queue", max_messages=9)] == [b"first"]
        assert (await tables.get("table", "p", "r")).properties == {}


async def test_a_database_that_was_replaced_is_opened_anew(tmp_path: Path) -> None:
    async with FileStorageBackend(tmp_path / "data") as backend, FileStorageBackend(tmp_path / "new") as new:
        await backend.queues.send("queue", b"old")
        await backend.queues.peek("queue")
        await new.queues.send("queue", b"restored")
    async with FileStorageBackend(tmp_path / "data") as backend:
        assert await backend.queues.length("queue") == 1
        await backend.queues.send("queue", b"old")
        shutil.rmtree(tmp_path / "data")
        os.rename(tmp_path / "new", tmp_path / "data")
        await backend.queues.send("queue", b"second")
        bodies = [message.body for message in await backend.queues.peek("queue", max_messages=9)]
        assert bodies == [b"restored", b"second"]


async def test_a_directory_in_the_place_of_an_object_is_no_outage(
    backend: FileStorageBackend, folder: Path
) -> None:
    (folder / "reports.obj/inner").mkdir(parents=True)
    for save in (
        lambda: backend.objects.put("reports", b"x"),
        lambda: backend.objects.put("reports", b"x", if_absent=True),
        lambda: backend.objects.put_stream("reports", [b"x"] * 3),
    ):
        with pytest.raises(AccessDeniedError, match=r"reports\.obj") as refused:
            await save()
        assert "another key" in (refused.value.remedy or "")
    with pytest.raises(KeyNotFoundError):
        await backend.objects.get("reports")
    assert await _listed(backend.objects) == []
    (folder / "reports.obj/inner").rmdir()
    (folder / "reports.obj").rmdir()
    await backend.objects.put("reports", b"x")


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on a disk of 12 MiB: a real one where mounting is allowed, else one that only says so."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount")
    arguments = ["-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)]
    if mount and subprocess.run([mount, *arguments], capture_output=True).returncode == 0:
        yield folder
        subprocess.run(["umount", folder], check=True)
        return
    write, pwrite = os.write, os.pwrite

    def limited(fd: int, data: bytes) -> int:
        if len(data) > 12_000_000:
            write(fd, data[:500_000])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, data)

    def limited_at(fd: int, data: bytes, offset: int) -> int:
        if offset + len(data) > 12_000_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(fd, data, offset)

    monkeypatch.setattr(layout.os, "write", limited)
    monkeypatch.setattr(layout.os, "pwrite", limited_at)
    yield folder


async def test_a_full_disk_leaves_what_was_there(small_disk: Path) -> None:
    async with FileStorageBackend(small_disk) as backend:
        await backend.objects.put("k", b"old" * 1000, content_type="text/x-old")
        for key in ("k", "new/key"):
            with pytest.raises(StorageUnavailableError, match="full") as raised:
                await backend.objects.put(key, b"n" * 20_000_000)
            assert "full" in (raised.value.remedy or "")
            with pytest.raises(StorageUnavailableError, match="full"):
                await backend.objects.put_stream(key, [b"n" * 1_000_000] * 20)
        assert not list((small_disk / "system/tmp").iterdir())
        found = await backend.objects.get("k")
        assert found is not None
        assert (found.data, found.info.content_type) == (b"old" * 1000, "text/x-old")
        assert await _listed(backend.objects) == ["k"]
        await backend.objects.delete("k")
        await backend.objects.put("k", b"there is room again")


def _let_write(folder: Path, allowed: bool) -> None:
    if os.path.ismount(folder):
        subprocess.run(["mount", "-o", f"remount,{'rw' if allowed else 'ro'}", folder], check=True)
        return
    for path in (folder, *folder.rglob("*")):  # who may not mount is bound by permissions
        os.chmod(path, (0o555 if path.is_dir() else 0o444) | (0o200 if allowed else 0))


async def test_a_read_only_folder_can_be_read_and_says_why_it_can_not_be_written(small_disk: Path) -> None:
    async with FileStorageBackend(small_disk) as backend:
        await backend.objects.put("k", b"there")
        await backend.queues.send("queue", b"message")
    _let_write(small_disk, False)
    try:
        async with FileStorageBackend(small_disk) as backend:
            for write in (
                lambda: backend.objects.put("k", b"new"),
                lambda: backend.objects.put("other", b"new"),
                lambda: backend.objects.put_stream("k", [b"new"]),
                lambda: backend.objects.delete("k"),
                lambda: backend.queues.send("queue", b"other"),
            ):
                with pytest.raises(AccessDeniedError):
                    await write()
            found = await backend.objects.get("k")
            assert found is not None
            assert found.data == b"there"
            assert await _listed(backend.objects) == ["k"]
    finally:
        _let_write(small_disk, True)


async def test_a_full_disk_stops_queues_without_losing_a_message(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_real = os.path.ismount(small_disk)
    if not is_real:
        connect = sqlite3.connect

        def small(*args: Any, **kwargs: Any) -> sqlite3.Connection:
            connection = connect(*args, **kwargs)
            connection.execute("PRAGMA max_page_count=100")
            return connection

        monkeypatch.setattr(sqlite3, "connect", small)
    async with FileStorageBackend(small_disk) as backend:
        await backend.objects.put("ballast", b"x" * 5_000_000)
        sent = 0
        full: StorageError | None = None
        while full is None:
            try:
                await backend.queues.send("queue", b"x" * 40_000)
                sent += 1
            except StorageUnavailableError as error:
                full = error
        assert "full" in full.message
        assert await backend.queues.length("queue") == sent > 0
        await backend.objects.delete("ballast")
        if is_real:
            for _ in range(sent):
                (message,) = await backend.queues.receive("queue", visibility_timeout=60)
                assert message.body == b"x" * 40_000
                await backend.queues.delete("queue", message)
            assert await backend.queues.receive("queue") == []


# -- tables and queues


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


async def test_visibility_and_expiry_follow_the_clock(tmp_path: Path) -> None:
    clock = Clock()
    async with FileStorageBackend(tmp_path, clock=clock) as backend:
        queues = backend.queues
        await queues.send("queue", "first", ttl=100)
        await queues.send("queue", "delayed", delay=50)
        (first,) = await queues.receive("queue", max_messages=5, visibility_timeout=10)
        assert (first.expires_at - first.inserted_at).total_seconds() == 100
        clock.now += 9.9
        assert await queues.receive("queue") == []
        clock.now += 0.1
        # Visible again, but received by no one: its receipt still holds, as on Azure.
        renewed = await queues.update("queue", first, visibility_timeout=5)
        assert await queues.peek("queue") == []
        clock.now += 40
        assert [m.body for m in await queues.peek("queue", max_messages=5)] == [b"first", b"delayed"]
        clock.now += 50
        assert await queues.length("queue") == 1
        with pytest.raises(KeyNotFoundError, match="receipt"):
            await queues.delete("queue", renewed)
        assert [m.body for m in await queues.receive("queue", max_messages=5)] == [b"delayed"]
        with contextlib.closing(sqlite3.connect(tmp_path / "system/store.db")) as raw:
            assert raw.execute("SELECT count(*) FROM messages").fetchone() == (1,)


async def test_a_poller_that_finds_nothing_takes_no_lock(
    backend: FileStorageBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.05)
    await backend.queues.create_queue("queue")
    with contextlib.closing(
        sqlite3.connect(Path(backend.base_path, "system/store.db"), isolation_level=None)
    ) as other:
        other.execute("BEGIN IMMEDIATE")
        assert await backend.queues.receive("queue") == []
        with pytest.raises(TransientStorageError):
            await backend.queues.send("queue", "x")
        other.execute("COMMIT")
    await backend.queues.send("queue", "x")
    assert len(await backend.queues.receive("queue")) == 1


async def test_writes_that_are_committed_together_fail_alone(backend: FileStorageBackend) -> None:
    await backend.tables.insert("table", "p", "r7", {"n": -1})
    results = await asyncio.gather(
        *(backend.tables.insert("table", "p", f"r{n}", {"n": n}) for n in range(40)),
        *(backend.queues.send("queue", f"m{n}") for n in range(40)),
        return_exceptions=True,
    )
    failed = [n for n, result in enumerate(results) if isinstance(result, BaseException)]
    assert failed == [7]
    assert isinstance(results[7], PreconditionFailedError)
    page = await backend.tables.query("table")
    assert sorted(entity.properties["n"] for entity in page.entities) == [-1, *range(7), *range(8, 40)]
    assert await backend.queues.length("queue") == 40


async def test_a_failing_write_takes_back_what_it_did(tmp_path: Path) -> None:
    database = sqlite.Database(lambda: str(tmp_path / "store.db"))

    def add(connection: sqlite3.Connection, name: str) -> None:
        connection.execute("INSERT INTO tables VALUES (?)", (name,))
        if name == "bad":
            raise PreconditionFailedError("no")

    results = await asyncio.gather(
        *(database.write(lambda c, name=name: add(c, name)) for name in ("a", "bad", "b", "a")),
        return_exceptions=True,
    )
    assert [type(result) for result in results[:3]] == [type(None), PreconditionFailedError, type(None)]
    assert isinstance(results[3], StorageUnavailableError)  # a constraint the statement broke
    names = await database.read(lambda c: [name for (name,) in c.execute("SELECT name FROM tables")])
    assert names == ["a", "b"]
    await database.close()


async def test_what_was_written_is_there_after_reopening(tmp_path: Path) -> None:
    async with FileStorageBackend(tmp_path) as backend:
        await backend.queues.send("queue", "kept")
        etag = await backend.tables.insert("table", "p", "r", {"n": 1})
    async with FileStorageBackend(tmp_path) as backend:
        (message,) = await backend.queues.receive("queue")
        assert message.body == b"kept"
        assert (await backend.tables.get("table", "p", "r")).etag == etag


def test_one_backend_serves_several_event_loops(tmp_path: Path) -> None:
    backend = FileStorageBackend(tmp_path)
    failures: list[BaseException] = []

    async def work(name: str) -> None:
        for n in range(20):
            await backend.objects.put(f"{name}/{n}", b"x")
            await backend.queues.send("queue", "x")
            await backend.tables.upsert("table", name, f"{n}", {"n": n})
            assert (await backend.tables.get("table", name, f"{n}")).properties == {"n": n}

    def run(name: str) -> None:
        try:
            asyncio.run(work(name))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(f"loop{n}",)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []

    async def finish() -> int:
        length = await backend.queues.length("queue")
        await backend.close()
        return length

    assert asyncio.run(finish()) == 60


def test_a_backend_that_is_never_closed_does_not_keep_the_process(tmp_path: Path) -> None:
    code = f"""
import asyncio
from storage_lib.backends.file import FileStorageBackend
async def main():
    backend = FileStorageBackend({str(tmp_path)!r})
    await backend.objects.put("k", b"x")
    await backend.queues.send("queue", "x")
    await backend.queues.length("queue")
    return backend
backend = asyncio.run(main())
print("done")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_objects_alone_do_not_load_sqlite_or_the_filter_grammar(tmp_path: Path) -> None:
    code = f"""
import asyncio, sys
from storage_lib.backends.file import FileStorageBackend
async def main():
    async with FileStorageBackend({str(tmp_path)!r}) as backend:
        await backend.objects.put("k", b"x")
        await backend.objects.get("k")
        await backend.objects.list_page()
asyncio.run(main())
assert not {{"sqlite3", "odata_query", "mimetypes"}} & set(sys.modules), sys.modules
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


async def test_a_damaged_database_is_an_integrity_error(tmp_path: Path) -> None:
    async with FileStorageBackend(tmp_path) as backend:
        await backend.tables.insert("table", "p", "r", {"n": 1})
    (tmp_path / "system/store.db").write_bytes(b"this is no database at all" * 100)
    async with FileStorageBackend(tmp_path) as backend:
        with pytest.raises(IntegrityError):
            await backend.tables.get("table", "p", "r")
        with pytest.raises(IntegrityError):
            await backend.queues.send("queue", "x")


async def test_a_database_of_a_later_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "system").mkdir()
    with contextlib.closing(sqlite3.connect(tmp_path / "system/store.db")) as later:
        later.execute("PRAGMA user_version=9")
    async with FileStorageBackend(tmp_path) as backend:
        with pytest.raises(ConfigurationError, match="version 9"):
            await backend.queues.send("queue", "x")


async def test_a_query_looks_through_many_rows_in_steps(
    backend: FileStorageBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_tables, "ROWS_A_HOP", 7)
    await asyncio.gather(
        *(
            backend.tables.insert("table", f"p{n % 3}", f"r{n:03}", {"n": n, "rare": n % 10 == 9})
            for n in range(100)
        )
    )

    async def rows(filter: str | None, limit: int, **parameters: Any) -> list[int]:
        seen: list[int] = []
        cursor = None
        while True:
            page = await backend.tables.query(
                "table", filter, parameters=parameters, limit=limit, cursor=cursor
            )
            assert len(page.entities) == limit or page.cursor is None
            seen += [entity.properties["n"] for entity in page.entities]
            if (cursor := page.cursor) is None:
                return seen

    order = sorted(range(100), key=lambda n: (n % 3, n))
    for limit in (1, 4, 33, 1000):
        assert await rows(None, limit) == order
        assert await rows("rare", limit) == [n for n in order if n % 10 == 9]
        assert await rows("PartitionKey eq @pk and RowKey ge 'r050'", limit, pk="p1") == [
            n for n in order if n % 3 == 1 and n >= 50
        ]
        assert await rows("PartitionKey gt 'p0' and RowKey lt 'r020' and n ne 7", limit) == [
            n for n in order if n % 3 > 0 and n < 20 and n != 7
        ]


async def test_a_merge_may_not_exceed_what_an_entity_can_hold(backend: FileStorageBackend) -> None:
    half = {f"a{n}": b"x" * 65_000 for n in range(9)}
    await backend.tables.insert("table", "p", "r", half)
    with pytest.raises(ObjectTooLargeError):
        await backend.tables.upsert("table", "p", "r", {f"b{n}": b"x" * 65_000 for n in range(9)})
    assert set((await backend.tables.get("table", "p", "r")).properties) == set(half)


async def _listed(objects: ObjectStore, prefix: str = "") -> list[str]:
    return [entry.key async for entry in objects.iterate(prefix) if isinstance(entry, ListEntry)]


_OTHER_PROCESS = """
import asyncio, sys
from storage_lib.backends.file import FileStorageBackend

async def main():
    async with FileStorageBackend(sys.argv[1]) as backend:
        for n in range(int(sys.argv[2])):
            await backend.queues.send("q", f"other {n}")
        print(await backend.queues.length("q"))

asyncio.run(main())
"""


async def test_what_was_acknowledged_stays_when_another_process_comes_and_goes(tmp_path: Path) -> None:
    """SQLite's locks are the process's: they go when it closes the file anywhere, and then the other process
    takes itself for the last one and removes the log that this one still writes to."""

    async def other(sends: int) -> int:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _OTHER_PROCESS, str(tmp_path), str(sends), stdout=asyncio.subprocess.PIPE
        )
        told, _ = await process.communicate()
        assert process.returncode == 0
        return int(told)

    async with FileStorageBackend(tmp_path) as backend, FileStorageBackend(tmp_path) as second:
        await backend.queues.send("q", "first")
        await asyncio.gather(*(backend.queues.peek("q") for _ in range(8)))  # readers of their own
        await second.queues.peek("q")
        assert await other(10) == 11
        for n in range(50):
            await backend.queues.send("q", f"ours {n}")
        assert await other(0) == 61
        await second.queues.send("q", "second")
        assert await backend.queues.length("q") == 62
    assert await other(0) == 62


async def test_a_query_sees_one_moment_though_it_takes_several_statements(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_tables, "ROWS_A_HOP", 5)
    async with FileStorageBackend(tmp_path) as backend:
        for n in range(200):
            status = "done" if 90 <= n < 120 else "other"
            await backend.tables.insert("t", "p", f"{n:03}", {"status": status})
        read = backend.tables.driver._database._read
        changes: list[str] = []

        class Meddled:
            def __init__(self, connection: sqlite3.Connection) -> None:
                self._connection = connection

            def execute(self, statement: str, *values: Any) -> Any:
                if "OFFSET" in statement and not changes:
                    changes.append(statement)
                    other = sqlite3.connect(tmp_path / "system/store.db", timeout=120)
                    with contextlib.closing(other):
                        other.execute("DELETE FROM entities WHERE rk < '060'")
                        other.commit()
                return self._connection.execute(statement, *values)

        monkeypatch.setattr(
            backend.tables.driver._database,
            "_read",
            lambda work, few: read(lambda connection: work(Meddled(connection)), few),
        )
        page = await backend.tables.query("t", "status eq 'done'")
        assert changes
        assert [entity.row_key for entity in page.entities] == [f"{n:03}" for n in range(90, 120)]


async def test_a_write_that_waited_while_the_folder_was_restored_is_in_the_restored_one(
    tmp_path: Path,
) -> None:
    async with FileStorageBackend(tmp_path / "backup") as backup:
        await backup.queues.send("q", "restored")
    async with FileStorageBackend(tmp_path / "data") as backend:
        await backend.queues.send("q", "old")
        other = sqlite3.connect(tmp_path / "data/system/store.db", isolation_level=None)
        with contextlib.closing(other):
            other.execute("BEGIN IMMEDIATE")
            sending = asyncio.create_task(backend.queues.send("q", "new"))
            await asyncio.sleep(0.2)
            (tmp_path / "data").rename(tmp_path / "gone")
            (tmp_path / "backup").rename(tmp_path / "data")
            other.execute("ROLLBACK")
        await sending
        found = await backend.queues.peek("q", max_messages=9)
        assert [message.body for message in found] == [b"restored", b"new"]


async def test_the_log_of_the_database_stays_short_though_readers_overlap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "LONGEST_LOG_BYTES", 1024 * 1024)
    longest = 0
    async with FileStorageBackend(tmp_path) as backend:
        await backend.queues.create_queue("q")
        done = asyncio.Event()

        async def reads() -> None:
            while not done.is_set():
                await backend.queues.peek("q")

        readers = [asyncio.create_task(reads()) for _ in range(4)]
        for _ in range(40):
            await asyncio.gather(*(backend.queues.send("q", "x" * 30_000) for _ in range(8)))
            longest = max(longest, (tmp_path / "system/store.db-wal").stat().st_size)
        done.set()
        await asyncio.gather(*readers)
    assert longest < 4 * 1024 * 1024


async def test_the_log_grows_in_steps_and_a_crash_loses_nothing_of_it(tmp_path: Path) -> None:
    """What makes a file longer with each commit waits for the file system's journal with each."""
    log = tmp_path / "data/system/store.db-wal"
    async with FileStorageBackend(tmp_path / "data") as backend:
        sizes: list[int] = []
        for n in range(100):
            await backend.tables.insert("t", "p", f"{n:03}", {"text": "x" * 500})
            sizes.append(log.stat().st_size)
            if n == 50:
                (tmp_path / "crashed").mkdir()
                for file in (log, log.with_name("store.db")):
                    shutil.copy(file, tmp_path / "crashed")
        assert sizes == sorted(sizes)
        assert len(set(sizes)) < 15
    with contextlib.closing(sqlite3.connect(tmp_path / "crashed/store.db")) as other:
        assert other.execute("SELECT count(*) FROM entities").fetchone() == (51,)
        assert other.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_the_log_is_lengthened_once_by_however_many_write_it(tmp_path: Path) -> None:
    log = tmp_path / "system/store.db-wal"
    async with FileStorageBackend(tmp_path) as one, FileStorageBackend(tmp_path) as other:
        for n in range(20):
            await (one, other)[n % 2].tables.upsert("t", "p", f"{n:02}", {"n": n})
        assert log.stat().st_size <= 2 * sqlite._LOG_STEP_BYTES


async def test_reads_without_a_thread_leave_others_their_turn(tmp_path: Path) -> None:
    async with FileStorageBackend(tmp_path) as backend:
        table, objects = backend.tables, backend.objects
        await objects.put("k", b"x")
        await table.insert("t", "p", "r", {"is_done": False})
        for read in (
            lambda: objects.get("k"),
            lambda: objects.head("k"),
            lambda: table.get("t", "p", "r"),
            lambda: table.query("t", "PartitionKey eq 'p'", limit=1),
        ):
            await read()
            others = asyncio.Event()
            asyncio.get_running_loop().call_soon(others.set)
            reads = 0
            while not others.is_set() and reads < 100:
                await read()
                reads += 1
            assert others.is_set()


async def test_a_few_rows_are_read_without_a_thread_and_many_in_one(tmp_path: Path) -> None:
    async with FileStorageBackend(tmp_path) as backend:
        table = backend.tables
        for n in range(30):
            await table.insert("t", "p", f"{n:02}", {"n": n, "a": "x" * 30_000, "b": "x" * 30_000})
        database = table.driver._database
        threads: list[bool] = []
        read_now, read = database._read_now, database._read
        database._read_now = lambda *a: (threads.append(False), read_now(*a))[1]
        database._read = lambda *a: (threads.append(True), read(*a))[1]

        async def of(call: Awaitable[Any]) -> tuple[Any, list[bool]]:
            threads.clear()
            return await call, list(threads)

        await table.get("t", "p", "00")  # Opens the connection that does not wait.
        entity, how = await of(table.get("t", "p", "07"))
        assert (entity.properties["n"], how) == (7, [False])
        for filter, limit, expected, way in (
            ("PartitionKey eq 'p' and RowKey ge '03'", 3, range(3, 6), [False]),
            ("PartitionKey eq 'p' and RowKey ge '28'", 8, range(28, 30), [False]),
            # More than 256 KiB, or than a few rows, or rows of which most are left out.
            ("PartitionKey eq 'p' and RowKey ge '10'", 8, range(10, 18), [False, True]),
            ("PartitionKey eq 'p'", 20, range(20), [True]),
            ("PartitionKey eq 'p' and n eq 25", 3, range(25, 26), [True]),
            # To find these, all rows are looked at.
            ("RowKey eq '29'", 2, range(29, 30), [True]),
            ("PartitionKey eq 'p' and RowKey ge '00' and RowKey ge '28'", 3, range(28, 30), [True]),
            ("PartitionKey eq 'p' and PartitionKey ge 'p'", 1, range(1), [True]),
        ):
            page, how = await of(table.query("t", filter, limit=limit))
            assert [each.properties["n"] for each in page.entities] == list(expected), filter
            assert how == way, filter
        with pytest.raises(KeyNotFoundError):
            await table.query("none", "PartitionKey eq 'p'", limit=2)
        with pytest.raises(KeyNotFoundError):
            await table.get("none", "p", "00")


async def test_a_read_that_would_wait_for_a_lock_waits_in_a_thread(tmp_path: Path) -> None:
    async with FileStorageBackend(tmp_path) as backend:
        await backend.tables.insert("t", "p", "r", {})
        await backend.tables.get("t", "p", "r")
        here, found = threading.get_ident(), list[bool]()

        def work(connection: sqlite3.Connection) -> int:
            found.append(threading.get_ident() == here)
            if found[-1]:
                error = sqlite3.OperationalError("database is locked")
                error.sqlite_errorcode = sqlite3.SQLITE_BUSY
                raise error
            return connection.execute("SELECT count(*) FROM entities").fetchone()[0]

        assert await backend.tables.driver._database.read(work, few=True) == 1
        assert found == [True, False]


@pytest.mark.parametrize("has_threads", [True, False])
async def test_files_of_a_batch_are_synced_beside_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_threads: bool
) -> None:
    """A disk that takes milliseconds for it takes them once for several; one that fails fails its own put."""
    puts = [PutBytes(f"a/{n}", b"x", PutOptions("text/plain", {})) for n in range(12)]
    together, fsync = threading.Barrier(4), os.fsync
    broken = puts[5]

    def slow(fd: int) -> None:
        if not os.readlink(f"/proc/self/fd/{fd}").endswith(".tmp"):
            return fsync(fd)
        if has_threads:
            together.wait(120)
        if fd == broken.fd:
            raise OSError(errno.EIO, "broken")
        return fsync(fd)

    def no_threads(work: Any) -> Any:
        raise RuntimeError("can't start new thread")

    async with FileStorageBackend(tmp_path) as backend:
        await backend.objects.put("first", b"x")
        writer = backend.objects.driver._opened[1]
        monkeypatch.setattr(os, "fsync", slow)
        if not has_threads:
            monkeypatch.setattr(writer, "_submit", no_threads)
        assert await asyncio.to_thread(writer.run, puts) == []
        monkeypatch.undo()
        assert [put.key for put in puts if put.error is not None] == [broken.key]
        assert isinstance(broken.error, StorageError)
        found = await backend.objects.list_page("a/")
        assert [each.key for each in found.entries] == sorted(put.key for put in puts if put is not broken)


async def test_a_file_is_synced_before_it_is_an_object_by_whichever_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An executor that cannot start one more thread keeps what it was given for those that it has."""
    puts = [PutBytes(f"a/{n}", b"x", PutOptions("text/plain", {})) for n in range(4)]
    begun, renamed, fsync, replace = threading.Event(), threading.Event(), os.fsync, os.replace
    helpers: list[threading.Thread] = []

    def slow(fd: int) -> None:
        if threading.current_thread() in helpers and not begun.is_set():
            begun.set()
            assert not renamed.wait(0.2)
        fsync(fd)

    def rename(*given: Any, **more: Any) -> None:
        renamed.set()
        replace(*given, **more)

    def late(work: Any) -> Any:
        helpers.append(threading.Thread(target=work))
        helpers[0].start()
        assert begun.wait(60)
        raise RuntimeError("can't start new thread")

    async with FileStorageBackend(tmp_path) as backend:
        await backend.objects.put("first", b"x")
        writer = backend.objects.driver._opened[1]
        monkeypatch.setattr(os, "fsync", slow)
        monkeypatch.setattr(os, "replace", rename)
        monkeypatch.setattr(writer, "_submit", late)
        assert await asyncio.to_thread(writer.run, puts) == []
        helpers[0].join()
        assert [put.error for put in puts] == [None] * 4


async def test_a_thread_that_can_not_be_started_is_no_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FileStorageBackend(tmp_path) as backend:

        def no_thread(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        await backend.objects.put("there", b"x")
        monkeypatch.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(TransientStorageError, match="new thread"):
            await backend.queues.send("q", "x")
        monkeypatch.undo()
        await backend.queues.send("q", "x")
        assert await backend.queues.length("q") == 1


async def test_a_write_that_failed_to_start_is_not_done_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FileStorageBackend(tmp_path) as backend:
        start = threading.Thread.start
        failing = True

        def no_thread(thread: threading.Thread) -> None:
            if failing and "storage-files" in thread.name:
                raise RuntimeError("can't start new thread")
            start(thread)

        await backend.objects.driver.close()
        backend.objects.driver._closed = False  # with no thread left
        monkeypatch.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(TransientStorageError, match="new thread"):
            await backend.objects.put("failed", b"x")
        failing = False
        await backend.objects.put("later", b"x")
        assert [key async for key in backend.objects.iterate()] == [ListEntry("later")]


async def test_a_forked_process_is_told_to_make_its_own_backend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads do not come along, and to wait for one would be for ever."""
    async with FileStorageBackend(tmp_path) as backend:
        await backend.objects.put("k", b"x")
        await backend.queues.send("q", "x")
        with monkeypatch.context() as forked:
            forked.setattr(os, "getpid", lambda: -1)
            for call in (
                backend.objects.put("k", b"y"),
                backend.queues.send("q", "y"),
                backend.queues.peek("q"),
            ):
                with pytest.raises(StorageError, match="before this process was forked"):
                    await call
        assert await backend.queues.length("q") == 1


async def test_a_stream_that_is_cancelled_as_it_begins_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FileStorageBackend(tmp_path) as backend:
        monkeypatch.setattr(backend.objects, "part_bytes", 1000)
        await backend.objects.put("k", b"x")
        assert backend.objects.driver._opened is not None
        writer = backend.objects.driver._opened[1]
        checked, go = threading.Event(), threading.Event()
        check = writer._check

        def slow(put: Any) -> None:
            check(put)
            checked.set()
            go.wait(120)

        monkeypatch.setattr(writer, "_check", slow)
        upload = asyncio.create_task(backend.objects.put_stream("s", [b"x" * 700] * 20))
        await asyncio.to_thread(checked.wait, 10)
        upload.cancel()
        await asyncio.sleep(0.05)
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await upload
        monkeypatch.undo()
        await backend.objects.put("k", b"y")
    assert list((tmp_path / "system/tmp").iterdir()) == []


async def test_a_write_that_fails_by_itself_leaves_nothing_and_the_next_one_is_made(tmp_path: Path) -> None:
    async with FileStorageBackend(tmp_path) as backend:
        table = backend.tables
        await table.insert("t", "p", "there", {"n": 1})
        with pytest.raises(PreconditionFailedError):
            await table.batch("t", "p", [Upsert("new", {"n": 2}), Insert("there", {"n": 3})])
        for _ in range(2):
            with pytest.raises(KeyNotFoundError):
                await table.update("none", "p", "r", {})
        assert [row.row_key for row in await table.iterate("t")] == ["there"]
        assert await table.list_tables() == ["t"]
        await asyncio.gather(*(table.insert("t", "p", f"{n}", {}) for n in range(5)))
        assert len(await table.iterate("t")) == 6


async def test_a_time_without_threads_leaves_some_for_others_than_saves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, run, lock = threading.Thread.start, ObjectWriter.run, threading.Lock()
    running, release = [0], threading.Event()
    most = 0

    def refused(thread: threading.Thread) -> None:
        if thread.name.startswith("storage-files"):
            raise RuntimeError("can't start new thread")
        start(thread)

    def counted(writer: ObjectWriter, writes: list[Write]) -> list[Write]:
        nonlocal most
        with lock:
            running[0] += 1
            most = max(most, running[0])
        release.wait(30)
        with lock:
            running[0] -= 1
        return run(writer, writes)

    async with FileStorageBackend(tmp_path) as backend:
        driver = backend._files  # pyright: ignore[reportPrivateUsage]
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refused)
            saves = [backend.objects.put(f"early/{n}", b"x") for n in range(60)]
            results = await asyncio.gather(*saves, return_exceptions=True)
            assert any(isinstance(result, TransientStorageError) for result in results)
        # What was left in the queue of the threads is done.
        together = threading.Barrier(THREADS)
        all_there = [driver._submit(together.wait) for _ in range(THREADS)]  # type: ignore[arg-type]
        await asyncio.gather(*map(asyncio.wrap_future, all_there))
        monkeypatch.setattr(ObjectWriter, "run", counted)
        late: list[asyncio.Task[object]] = []
        for n in range(THREADS):
            late.append(asyncio.ensure_future(backend.objects.put(f"late/{n}", b"x")))
            await asyncio.sleep(0)
        assert [entry.key async for entry in backend.objects.iterate("late/")] == []
        release.set()
        await asyncio.gather(*late)
    assert most <= WRITERS
