"""`agent-storage` from one store to another, and to an archive and back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from storage_lib import StorageConfig, StorageManager
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


async def test_tables_and_queues_go_along(cli: Cli) -> None:
    here, there = "file:./data", "file:./copy"
    async with StorageManager(StorageConfig(base_path=str(cli.folder / "data"))) as storage:
        for table in ("People", "agent_metrics", "tasks"):
            await storage.backend.tables.insert(table, "eu", "r1", {"n": 1})
        await storage.backend.queues.send("agent_letters", "hello")
        await storage.backend.queues.send("agent-tasks", "no task")
    assert cli("tables", "list").lines == ["People", "agent_metrics", "tasks\ttasks"]
    assert cli("tables", "list", "agent").lines == ["agent_metrics"]
    listed = [json.loads(line) for line in cli("queues", "list", "--json").lines]
    assert listed == [{"name": "agent-tasks", "owner": "tasks"}, {"name": "agent_letters", "owner": None}]

    entities = [f"copied\ttable {name}, entity 'eu' 'r1'" for name in ("People", "agent_metrics")]
    planned = cli("migrate", here, there, "--dry-run")
    assert sorted(planned.lines) == sorted([*(f"copied\t{key}" for key in KEYS), *entities])
    assert (
        not (cli.folder / "copy/system/store.db").exists()
        or cli("tables", "list", "--store", there).out == b""
    )
    only = cli("migrate", here, there, "--no-objects", "--table", "agent_*")
    assert only.lines == entities[1:]
    done = cli("migrate", here, there)
    assert "1 entities copied, 1 entities skipped" in done.err
    assert "Not copied, as they are the library's: tasks" in done.err
    assert "5 equal, 0 differences" in cli("check", here, there).err
    assert "3 equal, 0 differences" in cli("check", here, there, "--no-tables").err
    async with StorageManager(StorageConfig(base_path=str(cli.folder / "copy"))) as storage:
        await storage.backend.tables.update("People", "eu", "r1", {"n": 2})
        await storage.backend.tables.insert("People", "eu", "r2", {})
    assert cli("check", here, there, "--table", "People", "--no-objects", code=1).lines == [
        "differs\ttable People, entity 'eu' 'r1'\tn",
        "only_in_second\ttable People, entity 'eu' 'r2'\t",
    ]
    failed = cli("migrate", here, there, code=1)
    assert "error: table People, entity 'eu' 'r1': " in failed.err
    mirrored = cli("migrate", here, there, "--update", "--delete", "--yes", "--json")
    report = json.loads(mirrored.lines[-1])["report"]
    assert (report["entities_updated"], report["entities_deleted"]) == (1, 1)
    cli("migrate", here, there, "--table", "nobody", code=3)
    cli("migrate", here, there, "--table", "People", "--no-tables", code=2)
    assert "records of tasks" in cli("migrate", here, there, "--table", "tasks", code=2).err

    # Messages leave the source only where they are named, and after a confirmation.
    cli("migrate", here, there, "--queue", "agent_letters", code=4)
    assert cli("queues", "length", "agent_letters").text == "1\n"
    moved = cli.shown("migrate", here, there, "--queue", "agent_letters", "--yes")
    assert "1 message moved" in moved
    assert cli("queues", "length", "agent_letters").text == "0\n"
    assert cli("queues", "list", "--store", there).lines == ["agent_letters"]
    assert (
        json.loads(cli("queues", "peek", "agent_letters", "--json", "--store", there).out)["body"] == "hello"
    )
    cli("migrate", here, there, "--queue", "agent-tasks", "--yes", code=2)
    cli("migrate", here, there, "--queue", "nobody", "--yes", code=3)


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


async def test_an_archive_has_tables_and_messages(cli: Cli) -> None:
    async with StorageManager(StorageConfig(base_path=str(cli.folder / "data"))) as storage:
        for table in ("people", "agent_metrics", "tasks"):
            await storage.backend.tables.insert(table, "eu", "r1", {"n": 1})
        await storage.backend.queues.send("letters", "hello")
    done = cli("backup", "all.tar.zst", "--queue", "letters")
    assert "3 objects" in done.err
    assert "2 entities, 1 message; " in done.err
    assert cli("queues", "peek", "letters", "--json").lines[0].count("hello") == 1
    there = ("--store", "file:./copy")
    restored = cli("restore", "all.tar.zst", *there)
    assert "5 restored" in restored.err
    assert "Not sent, without --queue: letters" in restored.err
    assert cli("tables", "list", *there).lines == ["agent_metrics", "people"]
    assert "5 equal, 0 differences" in cli("check", "file:./data", "file:./copy").err
    assert "1 restored" in cli.shown("restore", "all.tar.zst", "--queue", "letters", *there)
    assert cli("queues", "length", "letters", *there).text == "1\n"
    assert (
        "it has messages already" in cli("restore", "all.tar.zst", "--queue", "letters", *there, code=1).err
    )
    assert json.loads(cli("restore", "all.tar.zst", "--verify", "--json").out)["messages"] == 1
    assert "entities" not in cli("backup", "some.tar.zst", "--no-tables").err
    assert "1 entities" in cli("backup", "one.tar.zst", "--prefix", "x/", "--table", "agent_*").err
    cli("backup", "no.tar.zst", "--table", "people", "--no-tables", code=2)
    cli("backup", "no.tar.zst", "--table", "nobody", code=3)
    only = cli("restore", "all.tar.zst", "--no-tables", "--store", "file:./third")
    assert "3 restored" in only.err


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
