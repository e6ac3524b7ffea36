"""File systems that lack a call, and processes whose locale is not UTF-8."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from storage_lib.backends.file import FileStorageBackend, folder
from storage_lib.errors import ConfigurationError, StorageUnavailableError
from storage_lib.ports.objects import ListEntry

REFUSALS = [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM]


def _refusing(
    code: int, call: Callable[..., Any] | None = None, only: Callable[[int], bool] | None = None
) -> Any:
    """A call of the system that is refused, or refused only for some descriptors."""

    def refused(fd: int, *arguments: Any, **named: Any) -> Any:
        if only is None or only(fd):
            raise OSError(code, os.strerror(code))
        assert call is not None
        return call(fd, *arguments, **named)

    return refused


def _is_directory(fd: int) -> bool:
    return stat.S_ISDIR(os.fstat(fd).st_mode)


NEEDED = {
    "fsync of a directory": (os, "fsync", _is_directory, "directory"),
    "fsync of a file": (os, "fsync", lambda fd: not _is_directory(fd), "file"),
    "flock": (fcntl, "flock", lambda fd: True, "flock"),
}


@pytest.mark.parametrize("is_new", [True, False])
@pytest.mark.parametrize("code", [*REFUSALS, errno.ENOLCK])
@pytest.mark.parametrize("call", NEEDED)
async def test_a_call_that_is_needed_and_refused_is_an_error_of_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int, is_new: bool
) -> None:
    if not is_new:
        async with FileStorageBackend(tmp_path / "data") as backend:
            await backend.objects.put("k", b"x")
    module, name, only, words = NEEDED[call]
    monkeypatch.setattr(module, name, _refusing(code, getattr(module, name), only))
    with pytest.raises(ConfigurationError, match=words) as refused:
        await FileStorageBackend(tmp_path / "data").open()
    assert refused.value.field == "base_path"
    assert "local file system" in (refused.value.remedy or "")
    assert os.strerror(code) in str(refused.value)
    monkeypatch.undo()
    async with FileStorageBackend(tmp_path / "data") as backend:
        await backend.objects.put("k", b"x")


@pytest.mark.parametrize(
    ("name", "code"),
    [
        *((name, code) for name in ("fchmod", "mknod", "all") for code in REFUSALS),
        *((name, code) for name in ("posix_fadvise", "copy_file_range") for code in (*REFUSALS, errno.EXDEV)),
        ("copy_file_range", errno.EBADF),
        ("copy_file_range", errno.ETXTBSY),
    ],
)
async def test_a_hint_that_is_refused_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: int
) -> None:
    hints = ["posix_fadvise", "copy_file_range", "fchmod", "mknod"]
    for hint in hints if name == "all" else [name]:
        monkeypatch.setattr(os, hint, _refusing(code), raising=False)
    monkeypatch.setattr(folder, "_openat2", lambda: None)
    async with FileStorageBackend(tmp_path / "data") as backend:
        objects = backend.objects
        await objects.put("a/small", b"x")
        await objects.put("a/large", b"x" * 5_000_000)
        await objects.put_stream("a/stream", [b"y" * 10_000_000] * 2)
        await objects.copy("a/stream", "copies/of/it")
        (tmp_path / "data/objects/foreign").write_bytes(b"z" * 3_000_000)
        await objects.copy("foreign", "copies/of/foreign")
        await backend.queues.send("queue", "x")
        found = await objects.get("copies/of/it")
        assert found is not None
        assert found.data == b"y" * 20_000_000
        assert (await objects.head("copies/of/foreign")).size == 3_000_000


async def test_a_copy_that_runs_out_of_disk_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = _refusing(errno.ENOSPC)
    async with FileStorageBackend(tmp_path / "data") as backend:
        await backend.objects.put("a", b"x" * 5_000_000)
        monkeypatch.setattr(os, "copy_file_range", full, raising=False)
        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(StorageUnavailableError, match="full"):
            await backend.objects.copy("a", "b")


# -- locales

KEYS = ["naïve/über/日本語", "emoji/🙂", "configs/ceo.json", "100%/%41", "ü" * 120]

USE = """
import asyncio, sys, json
from storage_lib.backends.file import FileStorageBackend

async def main(folder, prefix, keys):
    async with FileStorageBackend(folder) as backend:
        for key in keys:
            await backend.objects.put(prefix + key, key.encode())
            assert (await backend.objects.head(prefix + key)).size == len(key.encode())
        await backend.objects.put_stream(prefix + "größe", [b"x" * 9_000_000] * 2)
        await backend.objects.copy(prefix + "größe", prefix + "gelöscht")
        await backend.objects.delete(prefix + "gelöscht")
        await backend.queues.send("queue", "grün")
        listed = [entry.key async for entry in backend.objects.iterate()]
        print(json.dumps(listed), sys.getfilesystemencoding())

asyncio.run(main(sys.argv[1], *json.loads(sys.argv[2])))
"""


def _locale(tmp_path: Path, name: str) -> dict[str, str]:
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG", "PYTHON"))
    }
    environment |= {"LC_ALL": name, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    if name != "C":
        locales = tmp_path / "locales"
        locales.mkdir()
        define = shutil.which("localedef")
        if define is None:
            pytest.skip("localedef is not there to make a locale")
        command = [define, "--no-archive", "-c", "-i", "de_DE", "-f", "ISO-8859-1", str(locales / name)]
        if not (locales / name).is_dir() and subprocess.run(command, capture_output=True).returncode > 1:
            pytest.skip("the sources of the locale are not installed")
        environment["LOCPATH"] = str(locales)
    return environment


def _use(base: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    code = USE.encode("ascii", "backslashreplace").decode()
    command = [sys.executable, "-c", code, str(base), json.dumps(["theirs/", KEYS])]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(("name", "encoding"), [("C", "ascii"), ("de_DE.ISO-8859-1", "iso8859-1")])
async def test_keys_are_the_same_under_every_locale(tmp_path: Path, name: str, encoding: str) -> None:
    environment = _locale(tmp_path, name)
    base = tmp_path / "data"
    async with FileStorageBackend(base) as backend:
        for key in KEYS:
            await backend.objects.put("ours/" + key, key.encode())
        (base / "objects/fremd").mkdir()
        (base / "objects/fremd/für.txt").write_bytes(b"theirs")
        ended = await asyncio.to_thread(_use, base, environment)
        assert ended.returncode == 0, ended.stderr
        listed, used = ended.stdout.rsplit(" ", 1)
        if used.strip() == "utf-8":
            pytest.skip("the locale is not there")
        assert used.strip() == encoding
        expected = sorted(
            [*(f"{who}/{key}" for who in ("ours", "theirs") for key in KEYS), "theirs/größe", "fremd/für.txt"]
        )
        assert json.loads(listed) == expected
        assert [
            entry.key async for entry in backend.objects.iterate() if isinstance(entry, ListEntry)
        ] == expected
        for key in KEYS:
            found = await backend.objects.get("theirs/" + key)
            assert found is not None
            assert found.data == key.encode()
        (message,) = await backend.queues.peek("queue")
        assert message.body == "grün".encode()


def test_a_folder_that_the_locale_cannot_spell_is_refused_with_the_remedy(tmp_path: Path) -> None:
    code = (
        "import asyncio\nfrom storage_lib.backends.file import FileStorageBackend\n"
        "from storage_lib.errors import ConfigurationError\n"
        f"try: asyncio.run(FileStorageBackend({str(tmp_path)!r} + '/gr\\u00fcn').open())\n"
        "except ConfigurationError as error: print(error.field, error.remedy)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], env=_locale(tmp_path, "C"), capture_output=True, text=True, timeout=120
    )
    assert ended.stdout.startswith("base_path set PYTHONUTF8=1"), ended.stderr
