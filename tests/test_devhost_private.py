"""What the local host keeps is its user's alone, whatever the umask is."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from devhost.__main__ import _data_folder
from devhost.azurite import PROJECT_ROOT, Azurite, ensure_installed
from devhost.errors import DevhostError
from devhost.keys import load_or_create
from devhost.node import locked


@pytest.fixture(params=[0o000, 0o022], ids=["umask 000", "umask 022"], autouse=True)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def _open_to_others(folder: Path) -> list[Path]:
    return [path for path in (folder, *folder.rglob("*")) if path.stat().st_mode & 0o077]


def test_the_data_folder_is_made_for_its_user_alone(tmp_path: Path) -> None:
    data = _data_folder(tmp_path / "deep/data")
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    there = tmp_path / "there"
    there.mkdir(mode=0o755)
    mode = there.stat().st_mode
    assert _data_folder(there).stat().st_mode == mode  # It is the user's, with who knows what in it.


def test_keys_that_became_readable_are_closed(tmp_path: Path) -> None:
    load_or_create(tmp_path)
    file = tmp_path / "devhost-keys.json"
    file.chmod(0o644)
    load_or_create(tmp_path)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_others_cannot_hold_the_lock_of_a_folder(tmp_path: Path) -> None:
    with locked(tmp_path / "lock", 1, "another"):
        assert stat.S_IMODE((tmp_path / "lock").stat().st_mode) == 0o600


async def test_the_folder_of_azurite_is_closed(tmp_path: Path) -> None:
    try:
        ensure_installed(PROJECT_ROOT)
    except DevhostError as error:
        pytest.skip(f"Azurite is not there: {error}")
    from storage_lib.backends.azure import AzureStorageBackend

    folder = tmp_path / "azurite"
    folder.mkdir()
    folder.chmod(0o755)  # as it was made before
    async with (
        Azurite(folder) as server,
        AzureStorageBackend(server.connection_string) as backend,
    ):
        await backend.objects.put("configs/ceo.json", b"secret")
        await backend.queues.send("queue", "secret")
    assert len(list(folder.rglob("*"))) > 3
    assert _open_to_others(folder) == []
