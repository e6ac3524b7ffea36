"""Who may read the data folder, whatever the umask is, and how long a lock is waited for."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from zlib import crc32

import pytest

from storage_lib.backends.file import FileStorageBackend, folder, layout
from storage_lib.backends.file.layout import KeyLocks
from storage_lib.config import StorageConfig
from storage_lib.errors import ConfigurationError, TransientStorageError
from storage_lib.manager import StorageManager

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")


@contextlib.contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every user can reach."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)  # noqa: S103 - that is what it is for
        yield Path(folder)


async def _use(backend: FileStorageBackend) -> None:
    """Have everything made that this backend makes, and leave it open."""
    await backend.objects.put("configs/ceo.json", b"secret")
    await backend.objects.put("naïve/ü", b"x" * 300_000, ttl=100)
    await backend.objects.put_stream("stream", [b"x" * 1000] * 10)
    await backend.objects.copy("stream", "copies/of/it")
    await backend.queues.send("queue", "secret")
    await backend.tables.upsert("table", "p", "r", {"secret": 1})


def _modes(base: Path) -> dict[str, int]:
    return {str(path.relative_to(base)): path.stat().st_mode for path in (base, *base.rglob("*"))}


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o277])
async def test_nobody_but_the_owner_can_read_anything(tmp_path: Path, mask: int) -> None:
    with _umask(mask):
        async with FileStorageBackend(tmp_path / "data") as backend:
            await _use(backend)
            modes = _modes(tmp_path / "data")
            writing = backend.objects.put_stream("held", _held_parts(tmp_path / "data/system/tmp", modes))
            await writing
    assert {"system/store.db", "system/store.db-wal", "system/store.db-shm"} <= set(modes)
    assert any(name.startswith("system/tmp/") for name in modes)
    assert any(name.startswith("system/locks/") for name in modes)
    for name, mode in modes.items():
        assert stat.S_IMODE(mode) == (0o700 if stat.S_ISDIR(mode) else 0o600), name


def _held_parts(temporary: Path, modes: dict[str, int]) -> Iterator[bytes]:
    """A stream that notes the modes of what is being written while it is."""
    for _ in range(3):
        yield b"x" * 8 * 1024 * 1024
    modes.update({f"system/tmp/{path.name}": path.stat().st_mode for path in temporary.iterdir()})


async def test_a_folder_that_was_open_to_others_is_closed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = tmp_path / "data"
    async with FileStorageBackend(base) as backend:
        await _use(backend)
    for path in (base, *base.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    with caplog.at_level(logging.WARNING):
        async with FileStorageBackend(base) as backend:
            found = await backend.objects.get("configs/ceo.json")
            assert found is not None
            assert await backend.queues.length("queue") == 1
            modes = _modes(base)
    for name in ("objects", "system", "system/tmp", "system/locks"):
        assert stat.S_IMODE(modes[name]) == 0o700
    for name, mode in modes.items():
        if name.startswith("system/") and stat.S_ISREG(mode):
            assert stat.S_IMODE(mode) == 0o600, name
    # The folder itself was there, with who knows what in it.
    assert stat.S_IMODE(modes["."]) == 0o755
    assert "objects" in caplog.text
    assert "shared_group" in caplog.text
    caplog.clear()
    async with FileStorageBackend(base):
        assert not [each for each in caplog.records if each.name == "AOS.Storage"]


async def test_a_folder_that_cannot_be_closed_is_used_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    base = tmp_path / "data"
    (base / "objects").mkdir(parents=True)
    (base / "objects").chmod(0o777)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fchmod", refuse)
    monkeypatch.setattr(os, "chmod", refuse)
    async with FileStorageBackend(base) as backend:
        await _use(backend)
        assert (await backend.objects.head("stream")).size == 10_000
    assert "open to other users" in caplog.text


@needs_root
async def test_another_user_is_told_what_to_do(public: Path) -> None:
    async with FileStorageBackend(public / "data") as backend:
        await backend.objects.put("k", b"secret")
    for code, words in (
        ("open(f'{base}/objects/k.obj')", "PermissionError"),
        ("open(f'{base}/system/locks/00.lock', 'a')", "PermissionError"),
        ("os.listdir(base)", "PermissionError"),
    ):
        ended = _as_nobody(f"base = {str(public / 'data')!r}\n{code}")
        assert words in ended.stderr, code
    seen = _as_nobody(
        "import asyncio\nfrom storage_lib.backends.file import FileStorageBackend\n"
        "from storage_lib.errors import AccessDeniedError\n"
        f"try: asyncio.run(FileStorageBackend({str(public / 'data')!r}).open())\n"
        "except AccessDeniedError as error: print(error.remedy)"
    )
    assert "AGENT_STORAGE_SHARED_GROUP" in seen.stdout, seen.stderr


def _as_nobody(code: str) -> subprocess.CompletedProcess[str]:
    become = (
        "import os, sys, storage_lib.backends.file\nos.setgroups([])\nos.setgid(65534)\nos.setuid(65534)\n"
    )
    return subprocess.run([sys.executable, "-c", become + code], capture_output=True, text=True, timeout=120)


# -- a shared group


@pytest.mark.parametrize("mask", [0o022, 0o077])
async def test_the_folders_group_can_be_let_in(tmp_path: Path, mask: int) -> None:
    base = tmp_path / "data"
    with _umask(mask):
        async with FileStorageBackend(base, shared_group=True) as backend:
            await _use(backend)
            modes = _modes(base)
    for name, mode in modes.items():
        assert stat.S_IMODE(mode) == (0o2770 if stat.S_ISDIR(mode) else 0o660), name


@needs_root
async def test_two_users_of_one_group_share_a_folder(public: Path) -> None:
    base = public / "data"
    base.mkdir()
    os.chown(base, -1, 4242)
    base.chmod(0o770)

    def as_user(user: int, code: str) -> None:
        source = (
            "import os, tempfile, asyncio, sqlite3\n"
            "from storage_lib.backends.file import FileStorageBackend\n"
            "async def main(base):\n"
            f"  async with FileStorageBackend(base, shared_group=True) as b:\n    {code}\n"
            # Once as root, which imports all there is to import: the other user may not reach it.
            "with tempfile.TemporaryDirectory() as base:\n"
            "  try: asyncio.run(main(base))\n"
            "  except Exception: pass\n"
            f"os.setgroups([4242]); os.setgid({user}); os.setuid({user}); os.umask(0o022)\n"
            f"asyncio.run(main({str(base)!r}))"
        )
        ended = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=120)
        assert ended.returncode == 0, ended.stderr

    async with FileStorageBackend(base, shared_group=True) as backend:
        await _use(backend)
    as_user(4001, "await b.objects.put('a/b/c', b'first'); await b.queues.send('queue', 'one')")
    as_user(4002, "await b.objects.put('a/b/c', b'second'); await b.queues.send('queue', 'two')")
    as_user(4001, "await b.objects.delete('a/b/c'); assert await b.queues.length('queue') == 3")
    assert {path.stat().st_gid for path in base.rglob("*")} == {4242}


async def test_sharing_is_a_setting(tmp_path: Path) -> None:
    assert StorageConfig.from_env({}).shared_group is False
    for text, value in (("true", True), ("1", True), ("FALSE", False), ("0", False)):
        assert StorageConfig.from_env({"AGENT_STORAGE_SHARED_GROUP": text}).shared_group is value
    with pytest.raises(ConfigurationError) as refused:
        StorageConfig.from_env({"AGENT_STORAGE_SHARED_GROUP": "agents"})
    assert refused.value.field == "AGENT_STORAGE_SHARED_GROUP"
    async with StorageManager(StorageConfig(base_path=tmp_path / "data", shared_group=True)) as storage:
        await storage.save("k", b"x")
    assert stat.S_IMODE((tmp_path / "data/objects/k.obj").stat().st_mode) == 0o660


@needs_root
async def test_a_folder_that_cannot_be_shared_is_refused_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "data"
    async with FileStorageBackend(base):
        pass

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(folder.os, "fchmod", refuse)
    with pytest.raises(ConfigurationError) as refused:
        await FileStorageBackend(base, shared_group=True).open()
    assert "chgrp -R" in (refused.value.remedy or "")


async def test_what_a_user_closes_can_still_be_loaded(tmp_path: Path) -> None:
    async with FileStorageBackend(tmp_path / "data") as backend:
        await backend.write("notes/a", "text")
        file_path = tmp_path / "data/objects/notes/a.obj"
        os.chmod(file_path, 0o600)
        assert await backend.read("notes/a") == "text"
        await backend.write("notes/a", "changed")
        assert await backend.read("notes/a") == "changed"
        assert stat.S_IMODE(file_path.stat().st_mode) == 0o600


# -- locks that others hold


async def test_waiting_for_a_lock_ends_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "PATIENCE_SECONDS", 0.3)
    async with FileStorageBackend(tmp_path / "data") as backend:
        objects = backend.objects
        await objects.put("k", b"old")
        operations: list[Callable[[], Awaitable[object]]] = [
            lambda: objects.put("k", b"new"),
            lambda: objects.put("k", b"n" * 1_000_000),
            lambda: objects.put_stream("k", [b"n" * 10_000_000] * 2),
            lambda: objects.copy("source", "k"),
            lambda: objects.delete("k"),
        ]
        await objects.put("source", b"s")
        with KeyLocks(str(tmp_path / "data/system/locks")).held("k"):
            ticks = 0

            async def tick() -> None:
                nonlocal ticks
                while True:
                    await asyncio.sleep(0.005)
                    ticks += 1

            ticking = asyncio.create_task(tick())
            for operation in operations:
                with pytest.raises(TransientStorageError, match=r"system/locks/[0-9a-f]{2}\.lock") as ended:
                    await operation()
                assert "fuser" in (ended.value.remedy or "")
            ticking.cancel()
            assert ticks > 20  # The loop went on.
            found = await objects.get("k")  # Readers take no lock.
            assert found is not None
            assert found.data == b"old"
        assert not list((tmp_path / "data/system/tmp").iterdir())
        await objects.put("k", b"new")


async def test_one_lock_that_is_held_keeps_no_other_key_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "PATIENCE_SECONDS", 600.0)
    async with FileStorageBackend(tmp_path / "data") as backend:
        await backend.objects.put("other/0", b"")
        with KeyLocks(str(tmp_path / "data/system/locks")).held("k"):
            held = [asyncio.ensure_future(backend.objects.put("k", b"%d" % n)) for n in range(5)]
            free = [f"other/{n}" for n in range(40) if crc32(b"other/%d" % n) & 0xFF != crc32(b"k") & 0xFF]
            others = [backend.objects.put(key, b"x") for key in free]
            await asyncio.gather(*others)
            assert not any(future.done() for future in held)
        await asyncio.gather(*held)
        assert (await backend.objects.head("k")).size == 1


async def test_a_database_that_another_holds_ends_the_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sqlite3

    from storage_lib.backends.file import sqlite

    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.2)
    async with FileStorageBackend(tmp_path / "data") as backend:
        await backend.queues.send("queue", "x")
        other = sqlite3.connect(tmp_path / "data/system/store.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            with pytest.raises(TransientStorageError, match=r"store\.db"):
                await backend.queues.send("queue", "y")
        finally:
            other.execute("ROLLBACK")
            other.close()


async def test_those_who_wait_for_a_lock_keep_nobody_else_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many they are: neither listings nor saves of other keys."""
    monkeypatch.setattr(layout, "PATIENCE_SECONDS", 20.0)
    backend = FileStorageBackend(tmp_path)
    await backend.objects.put("k", b"1")
    with KeyLocks(str(tmp_path / "system" / "locks")).held("k"):
        waiting = [asyncio.create_task(backend.objects.put("k", b"2")) for _ in range(60)]
        waiting += [asyncio.create_task(backend.objects.put("k", b"2" * 300_000)) for _ in range(20)]
        while len(list((tmp_path / "system" / "tmp").iterdir())) < len(waiting):
            await asyncio.sleep(0.01)
        await backend.objects.put("other", b"x")
        await backend.objects.put("large", b"x" * 300_000)
        assert len(await backend.objects.iterate()) == 3
        assert not any(task.done() for task in waiting)
        waiting[70].cancel()
        failed = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(failure) for failure in failed} == {layout.LockedError, asyncio.CancelledError}
    assert list((tmp_path / "system" / "tmp").iterdir()) == []
    await backend.objects.put("k", b"3")
    await backend.close()
