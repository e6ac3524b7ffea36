"""`agent-storage` from one store to another, and to an archive and back."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli_runs import Cli


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    cli = Cli(tmp_path)
    cli("save", "configs/ceo.json", "-m", "by=me", stdin='{"a": 1}')
    cli("versions", "save", "models/ceo", "--label", "best", stdin='{"r": 8}')
    return cli


KEYS = ["configs/ceo.json", "models/ceo/current", "models/ceo/v1"]


def test_an_archive_brings_a_store_back(cli: Cli) -> None:
    assert "3 objects" in cli("backup", "all.tar.zst").err
    cli("backup", "all.tar.zst", code=4)  # It is not replaced unasked.
    assert "0 damages" in cli("restore", "all.tar.zst", "--verify").err
    assert "3 restored" in cli("restore", "all.tar.zst", "--store", "file:./copy").err
    assert "3 unchanged" in cli("restore", "all.tar.zst", "--store", "file:./copy").err
    assert "metadata by: me" in cli("stat", "configs/ceo.json", "--store", "file:./copy").lines
    assert cli("load", "models/ceo", "--version", "best", "--store", "file:./copy").out == b'{"r":8}'
    # Through a pipe.
    stream = cli.process("backup", "-", "--prefix", "configs/").out
    assert (
        "1 restored"
        in cli.process(
            "restore", "-", "--prefix", "configs/", "--into", "c/", "--store", "file:./copy", stdin=stream
        ).err
    )
    assert cli("ls", "c/", "--store", "file:./copy").lines == ["c/ceo.json"]
    # One changed byte is found and named.
    damaged = bytearray((cli.folder / "all.tar.zst").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (cli.folder / "all.tar.zst").write_bytes(damaged)
    assert "error: " in cli("restore", "all.tar.zst", "--verify", code=1).err
