"""`agent-storage` from one store to another, and to an archive and back."""

from __future__ import annotations

import json
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


def test_a_migration_is_resumed_checked_and_mirrored(cli: Cli) -> None:
    here, there = "file:./data", "file:./copy"
    planned = cli("migrate", here, there, "--dry-run")
    assert sorted(planned.lines) == [f"copied\t{key}" for key in KEYS]
    done = cli("migrate", here, there, "--json", "--verify")
    assert json.loads(done.lines[-1])["report"]["copied"] == 3
    assert cli("ls", "-r", "--store", there).lines == KEYS
    assert cli("migrate", here, there).out == b""  # Nothing is done twice.
    assert "3 equal, 0 differences" in cli("check", here, there).err
    cli("save", "configs/ceo.json", stdin='{"a": 2}')
    cli("save", "extra", "--store", there, stdin="x")
    different = cli("check", here, there, code=1)
    assert sorted(line.split("\t")[:2] for line in different.lines) == [
        ["differs", "configs/ceo.json"],
        ["only_in_second", "extra"],
    ]
    # What differs is not replaced unasked.
    assert "configs/ceo.json" in cli("migrate", here, there, code=1).err
    cli("migrate", here, there, "--update", "--delete", code=4)
    mirrored = cli("migrate", here, there, "--update", "--delete", "--yes")
    assert sorted(mirrored.lines) == ["deleted\textra", "updated\tconfigs/ceo.json"]
    assert json.loads(cli("check", here, there, "--content", "--json").out)["same"] == 3
    cli("migrate", "file:./none", there, code=3)
    assert not (cli.folder / "none").exists()
    cli("migrate", here, there, "--prefix", "models/", "--target-prefix", "m/", "--exclude", "v*", "-j", "2")
    assert cli("ls", "-r", "m/", "--store", there).lines == ["m/ceo/current"]


def test_what_another_program_stored_is_imported(cli: Cli) -> None:
    envelope = {"agent_id": "ceo", "data": {"b": 2}, "stored_at": "2025-12-25T00:00:00", "version": "1.0"}
    files = {"plain.json": {"a": 1}, "agents_ceo.json": envelope, "x_y.json": 3}
    (cli.folder / "aos").mkdir()
    for name, value in files.items():
        (cli.folder / "aos" / name).write_text(json.dumps(value))
    assert sorted(cli("import", "aos", "--prefix", "old/", code=1).lines) == [
        "ambiguous\tx_y.json\tx/y, x_y",
        "imported\tagents_ceo.json\told/agents/ceo",
        "imported\tplain.json\told/plain",
    ]
    done = json.loads(cli("import", "aos", "--prefix", "old/", "--name", "x_y.json=x/y", "--json").out)
    assert (len(done["unchanged"]), done["imported"]) == (2, {"x_y.json": "old/x/y"})
    assert cli("load", "old/agents/ceo", "--json").text == '{"b":2}\n'


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
