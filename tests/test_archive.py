"""Backup and restore: what goes into an archive comes out of it, in a store of any kind."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import tracemalloc
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from storage_lib.archive import StoredArchive, backup, restore, verify
from storage_lib.archive import stores as stores_module
from storage_lib.archive.entries import Paths
from storage_lib.backends.memory import MemoryBackend
from storage_lib.config import StorageConfig
from storage_lib.config.compression import CompressionOptions
from storage_lib.config.encryption import EncryptionOptions
from storage_lib.config.validation import Rule, ValidationOptions
from storage_lib.errors import (
    IntegrityError,
    InvalidArgumentError,
    KeyNotFoundError,
    ObjectExistsError,
    ObjectTooLargeError,
    PreconditionFailedError,
    StorageUnavailableError,
)
from storage_lib.manager import StorageManager
from storage_lib.migration import MigrationOptions, check
from storage_lib.ports.object_model import ObjectInfo
from storage_lib.ports.objects import ObjectReader
from storage_lib.zstandard import zstd
from tests.archives import ENTITY, archive_of, content, fill, memory, pieces, restored
from tests.conftest import PROJECT
from tests.http_app import config_of

SOAK = os.environ.get("SOAK") == "1"


@pytest.fixture
async def storage(any_store: tuple[str, object], tmp_path: Path) -> AsyncIterator[StorageManager]:
    async with StorageManager(await config_of(*any_store, tmp_path)) as storage:
        yield storage


async def test_a_backup_restored_into_another_kind_of_store_is_equal(storage: StorageManager) -> None:
    """There and back: objects with type, metadata and end of life, versions and their labels."""
    await fill(storage)
    before = await content(storage)
    archive, report = await archive_of(storage, tables=())  # an account may have those of others
    assert report.ok
    assert (report.objects, report.bytes) == (len(before), sum(len(data) for data, *_ in before.values()))
    other, done = await restored(archive)
    assert done.ok
    assert done.restored == report.objects
    assert await content(other) == before
    assert (await check(storage, other, MigrationOptions(tables=()), content=True)).equal
    assert await other.load_version("models/ceo") == {"rank": 16}
    assert await other.load_version("models/ceo", "production") == {"rank": 16}
    assert await other.save_versioned("models/ceo", {"rank": 64}) == 4

    for key in before:
        await storage.delete(key)
    assert (await restore(storage, io.BytesIO(archive))).ok
    assert await content(storage) == before
    again = await restore(storage, io.BytesIO(archive), overwrite=True)
    assert (again.restored, again.unchanged) == (0, len(before)), "what is there is not stored again"


async def test_tables_come_back_with_the_types_of_their_properties(storage: StorageManager) -> None:
    tables = storage.backend.tables
    for n in range(40):
        await tables.insert("people", f"p{n % 3}", f"r{n}", ENTITY | {"n": n})
    await tables.create_table("nobody")
    archive, report = await archive_of(storage, tables=["people", "nobody"])
    assert (report.tables, report.entities) == (2, 40)
    other, done = await restored(archive)
    assert (done.ok, done.restored) == (True, 40)
    found = {
        entity.row_key: dict(entity.properties) async for entity in other.backend.tables.iterate("people")
    }
    assert found == {f"r{n}": ENTITY | {"n": n} for n in range(40)}
    assert type(found["r1"]["small"]) is int
    assert type(found["r1"]["float"]) is float
    assert await other.backend.tables.iterate("nobody") == []

    await other.backend.tables.upsert("people", "p0", "r0", ENTITY | {"small": True}, mode="replace")
    kept = await restore(other, io.BytesIO(archive))
    assert (kept.restored, kept.unchanged, list(kept.kept.reasons)) == (
        0,
        39,
        ["table people, entity 'p0' 'r0'"],
    )
    assert not kept.ok
    assert (await restore(other, io.BytesIO(archive), overwrite=True, dry_run=True)).restored == 1
    assert (await restore(other, io.BytesIO(archive), overwrite=True)).restored == 1
    assert (await other.backend.tables.get("people", "p0", "r0")).properties["small"] == 1
    assert (await restored(archive, tables=False))[1].restored == 0
    assert (await restored(archive, tables=["nobody"]))[1].restored == 0
    with pytest.raises(KeyNotFoundError):
        await archive_of(storage, tables=["missing"])


async def test_any_tar_lists_and_unpacks_it(tmp_path: Path) -> None:
    storage = memory()
    await fill(storage)
    path = tmp_path / "a.tar.zst"
    await backup(storage, path)
    plain = io.BytesIO(zstd.decompress(path.read_bytes()))
    with tarfile.open(fileobj=plain) as tar:
        names = tar.getnames()
        tar.extractall(tmp_path / "python", filter="data")
    keys = await storage.list_keys()
    assert len(names) == len(set(names)) == len(keys) + 2
    unpacked = tmp_path / "python" / "objects"
    assert (unpacked / "configs").read_text() == "the object has the name of a folder"
    assert (unpacked / "configs%2F" / "1.json").read_bytes() == (await storage.read("configs/1.json")).data
    assert (unpacked / "%63on" / "a%3A b%3F.txt").read_text() == "a name that Windows refuses"
    assert (unpacked / "noise").read_bytes() == await storage.load("noise")
    if shutil.which("tar") and shutil.which("zstd"):
        command = ["tar", "--zstd", "-tf", str(path)]
        listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)  # noqa: ASYNC221
        assert (len(listed.stdout.splitlines()), listed.stderr) == (len(names), "")


def test_paths_of_objects_are_different_and_valid_everywhere() -> None:
    keys = ["a", "a b", "a ", "a/b", "a/b/c", "a%2F", "a%2F/b", "b/c", "nul", "nul.txt", "NUL/x", "x" * 255,
            "?" * 100, "?" * 101, "ü" * 127, "..a", "a..b", "aux/aux", "com1", "com10", "%63om1"]  # fmt: skip
    keys.sort(key=str.encode)
    paths = Paths()
    found = [paths.path(key) for key in keys]
    assert len({path.lower() for path in found}) == len({key.lower() for key in keys})
    files = set(found)
    for path in found:
        segments = path.split("/")
        assert all("/".join(segments[:n]) not in files for n in range(1, len(segments))), path
        for segment in segments:
            assert 0 < len(segment.encode()) <= 255
            assert not set(segment) & set('<>:"|?*\\')
            assert segment[-1] not in " ."
            assert segment.partition(".")[0].lower() not in {"con", "prn", "aux", "nul", "com1"}


async def test_an_archive_in_a_pipe_a_file_and_a_store(tmp_path: Path) -> None:
    storage = memory()
    await fill(storage)
    before = await content(storage)
    path = tmp_path / "a.tar.zst"
    await backup(storage, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(ObjectExistsError, match="already"):
        await backup(storage, path)
    await backup(storage, str(path), overwrite=True)

    place = StoredArchive(storage, "backups/monday")
    assert (await backup(storage, place)).objects == len(before), "an archive is not in itself"
    with pytest.raises(ObjectExistsError):
        await backup(storage, place)
    assert (await backup(storage, place, overwrite=True)).objects == len(before)
    assert (await verify(place)).ok

    reading, writing = os.pipe()
    other = memory()

    async def write() -> None:
        with open(writing, "wb", buffering=0) as end:  # noqa: ASYNC230
            await backup(storage, end, prefix="configs")

    async def read() -> None:
        with open(reading, "rb", buffering=0) as end:  # noqa: ASYNC230
            assert (await restore(other, end)).ok

    await asyncio.wait_for(asyncio.gather(write(), read()), 120)
    assert await content(other) == {key: value for key, value in before.items() if key.startswith("configs")}
    for source in (path, place):
        another = memory()
        assert (await restore(another, source)).ok
        assert await content(another) == before
    for wrong in (None, 3, b"bytes", object()):
        with pytest.raises(InvalidArgumentError, match=r"target|source"):
            await backup(storage, wrong)  # pyright: ignore[reportArgumentType]
        with pytest.raises(InvalidArgumentError, match="source"):
            await restore(other, wrong)  # pyright: ignore[reportArgumentType]
    with pytest.raises(KeyNotFoundError, match="no archive"):
        await restore(other, tmp_path / "missing")


async def test_a_program_without_the_library_s_help_makes_an_archive_of_standard_output(
    tmp_path: Path,
) -> None:
    async with StorageManager(StorageConfig(base_path=tmp_path / "data")) as storage:
        await storage.save("a", [1])
    code = (
        "import asyncio, sys; from storage_lib import *; from storage_lib.archive import *;"
        "run = backup(StorageManager(StorageConfig(base_path=sys.argv[1])), sys.stdout.buffer);"
        "asyncio.run(run)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "data")]
    run = subprocess.run(command, cwd=PROJECT, capture_output=True, check=True, timeout=120)  # noqa: ASYNC221
    other, done = await restored(run.stdout)
    assert done.ok
    assert await other.load("a") == [1]


async def test_a_backup_that_fails_leaves_the_archive_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = memory()
    await fill(storage)
    path = tmp_path / "a.tar.zst"
    await backup(storage, path)
    before = path.read_bytes()

    async def away(*arguments: object) -> None:
        raise StorageUnavailableError("the store is away")

    monkeypatch.setattr(storage.backend.objects.driver, "read_stream", away)
    with pytest.raises(StorageUnavailableError, match="away"):
        await backup(storage, path, overwrite=True)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.tar.zst"]


async def test_a_restore_keeps_replaces_and_chooses() -> None:
    storage = memory()
    await fill(storage)
    before = await content(storage)
    archive, _ = await archive_of(storage)
    other = memory()
    planned = await restore(other, io.BytesIO(archive), dry_run=True)
    assert (planned.restored, await other.list_keys()) == (len(before), [])

    await other.save("configs/1.json", "mine")
    await other.write("noise", b"mine")
    await other.save("zeros", bytes(1_200_000), metadata={"changed": "yes"})
    planned = await restore(other, io.BytesIO(archive), dry_run=True)
    done = await restore(other, io.BytesIO(archive))
    for report in (planned, done):
        assert list(report.kept.reasons) == ["configs/1.json", "noise", "zeros"]
        assert (report.ok, report.restored) == (False, len(before) - 3)
    assert await other.load("configs/1.json") == "mine"
    assert await other.load("noise") == b"mine"
    done = await restore(other, io.BytesIO(archive), overwrite=True)
    assert (done.ok, done.restored, done.unchanged) == (True, 3, len(before) - 3)
    assert await content(other) == before

    part, done = await restored(archive, prefix="configs/", into="old/")
    assert await part.list_keys() == [f"old/{n}.json" for n in range(6)]
    part, done = await restored(archive, prefix="configs/")
    assert await part.list_keys() == [f"configs/{n}.json" for n in range(6)]
    assert done.ok
    with pytest.raises(ObjectTooLargeError, match="more than 1000000 bytes"):
        await restored(archive, max_bytes=1_000_000)
    some, _ = await archive_of(storage, prefix="models/")
    assert sorted(await (await restored(some))[0].list_keys()) == [
        "models/ceo/current", "models/ceo/v1", "models/ceo/v2", "models/ceo/v3"
    ]  # fmt: skip


async def test_a_restore_that_was_cut_off_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = memory()
    await fill(storage)
    archive, _ = await archive_of(storage)
    other = memory()
    driver, calls = other.backend.objects.driver, 0
    put = driver.put

    async def failing(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 5:
            raise StorageUnavailableError("the store is away")
        return await put(*arguments)

    monkeypatch.setattr(driver, "put", failing)
    with pytest.raises(StorageUnavailableError):
        await restore(other, io.BytesIO(archive))
    monkeypatch.setattr(driver, "put", put)
    there = len(await other.list_keys())
    done = await restore(other, io.BytesIO(archive))
    assert (done.ok, done.unchanged) == (True, there)
    assert await content(other) == await content(storage)


async def test_what_has_expired_meanwhile_is_not_restored() -> None:
    storage, other = memory(), memory()
    await storage.save("short", 1, ttl=100)
    await storage.save("long", 2, ttl=1000)
    until = (await storage.info("long")).expires_at
    archive, _ = await archive_of(storage)
    now = other.backend.objects.clock
    other.backend.objects.clock = lambda: now() + 500
    done = await restore(other, io.BytesIO(archive))
    assert (done.ok, done.expired, done.restored) == (True, 1, 1)
    assert (await other.info("long")).expires_at == until
    other.backend.objects.clock = lambda: now() + 1001
    assert await other.sweep_expired() == 1, "and a sweep finds it"


async def test_what_changes_during_a_backup_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deleted, saved anew between its listing and its reading, and while it is read."""
    storage = memory()
    for key in ("a", "deleted", "large", "never", "saved"):
        await storage.write(key, key.encode() * 200_000)
    taken: dict[str, int] = {}
    opened = stores_module.Objects.open

    @asynccontextmanager
    async def restless(objects: Any, key: str) -> AsyncGenerator[tuple[ObjectReader, dict[str, str]]]:
        taken[key] = taken.get(key, 0) + 1
        if key == "deleted":
            await storage.delete(key)
        if key == "saved" or (key == "large" and taken[key] == 2):
            await storage.write(key, key.encode() + b"anew")
        async with opened(objects, key) as (reader, metadata):
            if key == "never" or (key == "large" and taken[key] == 1):
                yield ObjectReader(reader.info, 0, breaking(reader.info), verified=False), metadata
            else:
                yield reader, metadata

    async def breaking(info: ObjectInfo) -> AsyncGenerator[bytes]:
        yield bytes(300_000)
        raise PreconditionFailedError(f"object {info.key!r} has been replaced")

    monkeypatch.setattr(stores_module.Objects, "open", restless)
    archive, report = await archive_of(storage)
    assert list(report.deleted.reasons) == ["deleted"]
    assert list(report.changed.reasons) == ["large", "saved"]
    assert list(report.failed.reasons) == ["never"]
    assert (report.ok, report.objects) == (False, 3)
    other, done = await restored(archive)
    assert {key: value for key, (value, *_) in (await content(other)).items()} == {
        "a": b"a" * 200_000, "large": b"largeanew", "saved": b"savedanew"
    }  # fmt: skip
    assert (done.damages, list(done.missing.reasons)) == (0, ["never"])
    assert (await verify(io.BytesIO(archive))).ok
    with tarfile.open(fileobj=io.BytesIO(zstd.decompress(archive))) as tar:
        assert tar.getmembers()[-1].name == "report.json", "the archive is whole for others"


async def test_names_that_no_key_can_address_are_told(tmp_path: Path) -> None:
    async with StorageManager(StorageConfig(base_path=tmp_path / "data")) as storage:
        await storage.save("a", 1)
        folder = next(path.parent for path in (tmp_path / "data").rglob("a*") if path.is_file())
        (folder / "back\\slash").write_text("of another program")
        (folder / "dropped.txt").write_text("of another program")
        _, report = await archive_of(storage)
        assert (report.unlisted, report.objects, report.ok) == (["back\\slash"], 2, False)


def sealed_store(folder: Path, key: bytes | None) -> StorageManager:
    return StorageManager(
        StorageConfig(
            base_path=folder,
            encryption=None if key is None else EncryptionOptions(keys={"k": key}),
            compression=CompressionOptions() if key is not None else None,
        )
    )


async def test_a_sealed_archive_has_nothing_in_clear(tmp_path: Path) -> None:
    async with (
        sealed_store(tmp_path / "a", bytes(32)) as storage,
        sealed_store(tmp_path / "b", bytes(32)) as same,
        sealed_store(tmp_path / "c", None) as plain,
    ):
        await fill(storage)
        await storage.save("secret", "the plan " * 500, ttl=5000)
        before = await content(storage)
        sealed, report = await archive_of(storage, layers="sealed")
        assert report.ok
        assert b"the plan" not in zstd.decompress(sealed)
        assert (await verify(io.BytesIO(sealed))).sealed
        for target in (same, plain):
            with pytest.raises(InvalidArgumentError, match="sealed"):
                await restore(target, io.BytesIO(sealed))
            assert (await restore(target, io.BytesIO(sealed), layers="sealed")).ok
            again = await restore(target, io.BytesIO(sealed), layers="sealed")
            assert (again.ok, again.restored, again.unchanged) == (True, 0, len(before))
        assert await content(same) == before
        async with sealed_store(tmp_path / "c", bytes(32)) as opened:
            assert await content(opened) == before, "with the keys it is readable anywhere"
        opened_up, _ = await archive_of(storage)
        assert b"the plan" in zstd.decompress(opened_up)
        assert await content((await restored(opened_up))[0]) == before
        with pytest.raises(InvalidArgumentError, match="not sealed"):
            await restored(opened_up, layers="sealed")
        with pytest.raises(InvalidArgumentError, match="bound to their keys"):
            await restored(sealed, layers="sealed", into="x/")


async def test_versions_below_a_rule_come_back(tmp_path: Path) -> None:
    """What rules say of objects is not meant for the record of which version is current."""
    schema = {"type": "object", "required": ["rank"]}
    rules = ValidationOptions(rules=(Rule(prefix="models/", schema=schema, on_read=True),))
    storage, other = (
        StorageManager(StorageConfig(base_path=tmp_path / name, validation=rules)) for name in "ab"
    )
    async with storage, other:
        await storage.save_versioned("models/ceo", {"rank": 8}, label="production")
        archive, report = await archive_of(storage)
        assert (report.ok, report.objects) == (True, 2)
        assert (await restore(other, io.BytesIO(archive))).ok
        assert await other.load_version("models/ceo", "production") == {"rank": 8}
        plain = memory()
        await plain.save("models/x", {"no": "rank"})
        refused = await restore(other, io.BytesIO((await archive_of(plain))[0]))
        assert list(refused.failed.reasons) == ["models/x"]


async def test_a_store_that_goes_away_within_a_large_object_ends_the_backup(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    storage = memory()
    await storage.write("large", bytes(5_000_000))
    opened = stores_module.Objects.open

    async def breaking() -> AsyncGenerator[bytes]:
        yield bytes(2_000_000)
        raise StorageUnavailableError("the store is away")

    @asynccontextmanager
    async def away(objects: Any, key: str) -> AsyncGenerator[tuple[ObjectReader, dict[str, str]]]:
        async with opened(objects, key) as (reader, metadata):
            yield ObjectReader(reader.info, 0, breaking(), verified=False), metadata

    monkeypatch.setattr(stores_module.Objects, "open", away)
    with pytest.raises(StorageUnavailableError, match="away"):
        await archive_of(storage)
    await storage.write("empty", b"")
    with pytest.raises(IntegrityError, match="not an archive"):
        await restore(memory(), StoredArchive(storage, "empty"))


async def test_objects_of_other_programs_keep_their_headers_and_are_known_again() -> None:
    storage = memory()
    headers = {"aos-content-encoding": "gzip", "aos-cache-control": "no-store"}
    for key, size in (("small", 10), ("large", 800_000)):
        await storage.backend.objects.adopt(key, bytes(size), "text/plain", headers)
    driver = storage.backend.objects.driver
    assert isinstance(storage.backend, MemoryBackend)
    archive, _ = await archive_of(storage)
    other, _ = await restored(archive)
    for key in ("small", "large"):
        info = await other.info(key)
        assert (info.content_encoding, info.cache_control) == ("gzip", "no-store")
    assert (await restore(other, io.BytesIO(archive))).unchanged == 2
    assert driver is storage.backend.objects.driver


@pytest.mark.parametrize(
    "size", [40_000_000, pytest.param(2**31, marks=pytest.mark.skipif(not SOAK, reason="SOAK=1"))]
)
async def test_a_large_object_passes_in_constant_memory(tmp_path: Path, size: int) -> None:
    block = os.urandom(1_000_000)
    async with (
        StorageManager(StorageConfig(base_path=tmp_path / "a")) as storage,
        StorageManager(StorageConfig(base_path=tmp_path / "b")) as other,
    ):

        async def blocks() -> AsyncIterator[bytes]:
            for start in range(0, size, len(block)):
                yield block[: size - start]

        await storage.write_stream("large", blocks())
        tracemalloc.start()
        try:
            await backup(storage, tmp_path / "a.tar.zst")
            done = await restore(other, tmp_path / "a.tar.zst")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert (done.ok, done.bytes) == (True, size)
        assert peak < 60_000_000
        assert (await other.info("large")).sha256 == (await storage.info("large")).sha256


async def test_the_pieces_that_an_archive_comes_in_do_not_matter() -> None:
    storage = memory()
    await fill(storage, large=600_000)
    archive, _ = await archive_of(storage, prefix="configs")
    from storage_lib.archive.reading import ArchiveReader

    for size in (1, 7, 100, len(archive)):
        entries = [entry async for entry in ArchiveReader(pieces(archive, size))]
        assert len(entries) == 9, size
