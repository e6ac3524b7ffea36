"""Every command of `agent-storage` without a terminal: what it writes for programs, and how it fails."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from storage_lib.cli.program import COMMANDS
from tests.cli_runs import Cli, Result


def _commands() -> dict[str, set[str]]:
    """The options of every command there is, by its words, as ``versions list``."""
    found: dict[str, Any] = {}
    for section in COMMANDS.values():
        for name, (module, _) in section.items():
            app = import_module(f"storage_lib.cli.commands.{module}").app
            whole: Any = get_command(app)
            below: dict[str, Any] = getattr(whole, "commands", {})
            if app.info.name == name:
                found |= {f"{name} {each}": command for each, command in below.items()}
            else:
                found[name] = below.get(name, whole)
    return {
        words: {option for each in command.params for option in each.opts} for words, command in found.items()
    }


ALL = _commands()
ID = "0" * 32


class _Session:
    """Runs commands, each as a program would have it: with ``--json`` where there is one."""

    def __init__(self, cli: Cli) -> None:
        self._cli = cli
        self.run: set[str] = set()

    def text(self, words: str, *arguments: str, **others: Any) -> str:
        """What a command writes that has no ``--json``."""
        assert "--json" not in ALL[words]
        return self._of(words, *arguments, **others).text

    def lines(self, words: str, *arguments: str, **others: Any) -> list[Any]:
        """The JSON Lines that a command writes."""
        return [json.loads(line) for line in self._of(words, *arguments, "--json", **others).lines]

    def one(self, words: str, *arguments: str, **others: Any) -> Any:
        """The one document that a command writes."""
        (found,) = self.lines(words, *arguments, **others)
        return found

    def _of(self, words: str, *arguments: str, **others: Any) -> Result:
        self.run.add(words)
        result = self._cli(*words.split(), *arguments, **others)
        assert (result.err, "\x1b" in result.text) == ("", False), (words, result)
        return result


def test_every_command_writes_for_programs(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    does = _Session(cli)
    assert does.one("save", "data/a.csv", stdin="n\n1\n")["key"] == "data/a.csv"
    assert does.one("save", "j.json", stdin='{"a": 1}')["content_type"] == "application/json"
    assert does.one("load", "j.json") == {"a": 1}
    assert [each["key"] for each in does.lines("ls", "-r")] == ["data/a.csv", "j.json"]
    assert does.lines("tree")
    assert does.lines("du")[-1]["objects"] == 2
    assert does.one("stat", "j.json")["content_type"] == "application/json"
    does.lines("touch", "j.json", "--ttl", "1d")
    does.lines("cp", "j.json", "k.json")
    does.lines("mv", "k.json", "l.json")
    assert does.one("rm", "l.json", "--yes") == {"key": "l.json", "deleted": True}
    assert does.one("query", "SELECT n FROM 'data/a.csv'") == {"n": 1}
    assert [does.one("versions save", "m", stdin=text)["version"] for text in ("1", "2")] == [1, 2]
    does.lines("versions label", "m", "1", "best")
    assert [each["number"] for each in does.lines("versions list", "m")] == [1, 2]
    assert does.one("versions diff", "m", "1")[0]["op"] == "replace"
    does.lines("versions rollback", "m", "1")
    assert does.one("versions current", "m")["version"] == 1
    assert does.text("versions unlabel", "m", "best") == ""
    assert does.lines("versions prune", "m", "--keep-last", "0", "--yes")
    assert does.lines("migrate", "file:./data", "file:./copy")[-1]["report"]["copied"] == 4
    assert does.one("check", "file:./data", "file:./copy")["same"] == 4
    assert does.one("backup", "a.tar.zst")["objects"] == 4
    assert does.one("restore", "a.tar.zst")["unchanged"] == 4
    (cli.folder / "aos").mkdir()
    (cli.folder / "aos" / "x.json").write_text("1")
    assert does.lines("import", "aos")
    (cli.folder / "policy.json").write_text('{"principals": {}}')
    assert does.text("access check", "policy.json") == ""
    assert does.text("access set", "policy.json", "--yes") == ""
    assert json.loads(does.text("access show")) == {"principals": {}}
    assert len(does.text("access digest", stdin="secret\n")) == 65
    task = does.one("tasks submit", "analyze_report", '{"report": "x"}')["task_id"]
    assert [each["task_id"] for each in does.lines("tasks list")] == [task]
    assert does.one("tasks show", task)["status"] == "queued"
    does.lines("tasks cancel", task)
    does.lines("tasks requeue", task)
    does.lines("tasks cancel", task)
    assert does.one("tasks watch", task, code=1)["status"] == "cancelled"
    assert does.lines("tasks counts")
    assert does.lines("tasks actions")
    does.lines("tasks delete", task)
    does.one("tasks submit", "analyze_report", '{"report": "y"}')
    assert "tasks" in json.dumps(does.lines("tables list"))
    row = does.lines("tables query", "tasks", "status eq 'queued'")[0]
    assert does.one("tables get", "tasks", row["PartitionKey"], row["RowKey"])["status"] == "queued"
    assert does.one("queues send", "letters", "hello")
    assert "letters" in json.dumps(does.lines("queues list"))
    assert does.one("queues peek", "letters")["body"] == "hello"
    assert does.one("queues length", "letters")["length"] == 1
    assert does.lines("queues clear", "letters", "--yes")
    assert does.one("conversations append", "c/1", '{"n": 1}')
    assert does.one("conversations list")["id"] == "c/1"
    assert does.one("conversations show", "c/1")["message"] == {"n": 1}
    does.text("conversations fork", "c/1", "d")
    assert "c/1" in does.text("conversations export", "c/1")
    does.text("conversations delete", "d", "--yes")
    assert {each["name"] for each in does.one("doctor")} >= {"configuration", "connectivity"}
    does.lines("sweep")
    cli("save", "y", stdin="1", AGENT_STORAGE_AUDIT="file")
    assert does.one("audit verify", "audit")["ok"] is True
    key = does.text("keys new", "k1").strip()
    encrypted = {"AGENT_STORAGE_ENCRYPTION": "true", "AGENT_STORAGE_ENCRYPTION_KEYS": key}
    assert does.one("keys rotate", **encrypted)["failed"] == {}
    assert does.text("completion", "bash")
    assert does.run == ALL.keys()


OBJECT = {
    "save": ["x"], "load": ["x"], "ls": [], "tree": [], "du": [], "stat": ["x"], "touch": ["x"],
    "cp": ["x", "y"], "mv": ["x", "y"], "rm": ["x", "-y"], "query": ["SELECT * FROM 'x.csv'"],
    "versions list": ["x"], "versions save": ["x"], "versions current": ["x"],
    "versions rollback": ["x", "1"],
    "versions label": ["x", "1", "best"], "versions unlabel": ["x", "best"], "versions diff": ["x", "1"],
    "versions prune": ["x", "--keep-last", "1", "-y"], "sweep": [], "keys rotate": [],
}  # fmt: skip
STORE = {
    "migrate": ["file:./full", "STORE"], "check": ["file:./full", "STORE"], "backup": ["b.tar.zst"],
    "restore": ["a.tar.zst"], "import": ["aos"], "access set": ["policy.json", "-y"], "access show": [],
}  # fmt: skip
OTHER = {
    "tasks submit": ["query", '{"sql": "s", "tables": {"t": "x"}}'], "tasks list": [], "tasks show": [ID],
    "tasks watch": [ID], "tasks cancel": [ID], "tasks requeue": [ID], "tasks counts": [],
    "tasks delete": [ID], "tasks actions": [],
    "tables list": [], "tables query": ["people"], "tables get": ["people", "p", "r"],
    "queues list": [], "queues peek": ["letters"], "queues length": ["letters"],
    "queues send": ["letters", "x"], "queues clear": ["letters", "-y"],
    "conversations list": [], "conversations show": ["c"], "conversations append": ["c", '{"n": 1}'],
    "conversations fork": ["c", "d"], "conversations export": ["c"], "conversations delete": ["c", "-y"],
}  # fmt: skip
OF_A_STORE = OBJECT | STORE | OTHER
WITHOUT_STORE = {"access check", "access digest", "audit verify", "keys new", "completion"}
NEEDED = {
    *("load", "stat", "touch", "cp", "mv", "rm", "query", "access show"),
    *(f"versions {each}" for each in ("list", "current", "rollback", "label", "unlabel", "diff")),
    *(f"tasks {each}" for each in ("show", "watch", "cancel", "requeue", "delete")),
    *("tables query", "tables get", "queues peek", "queues length", "queues clear"),
    *(f"conversations {each}" for each in ("show", "fork", "export", "delete")),
}
"""Those that are given the name of something that must be there."""
AWAY = "".join(f"{each}Endpoint=http://127.0.0.1:9/abc;" for each in ("Blob", "Queue", "Table"))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """A folder with all that the commands above read, and a store that is empty."""
    folder = tmp_path_factory.mktemp("prepared")
    cli = Cli(folder)
    (folder / "data").mkdir()
    cli("save", "y", "--store", "file:./full", stdin="1")
    cli("backup", "a.tar.zst", "--store", "file:./full")
    (folder / "policy.json").write_text('{"principals": {}}')
    (folder / "aos").mkdir()
    (folder / "aos" / "x.json").write_text("1")
    key = cli("keys", "new", "k").text.strip()
    return Cli(folder, AGENT_STORAGE_ENCRYPTION="true", AGENT_STORAGE_ENCRYPTION_KEYS=key)


def test_the_commands_above_are_all() -> None:
    assert OF_A_STORE.keys() | WITHOUT_STORE | {"doctor"} == ALL.keys()


@pytest.mark.parametrize("words", OF_A_STORE)
def test_a_store_that_is_away_is_unavailable(words: str, prepared: Cli) -> None:
    variables = {
        "AgentStorage": f"AccountName=abc;AccountKey=YQ==;{AWAY}",
        "AGENT_STORAGE_RETRY_ATTEMPTS": "1",
        "AGENT_STORAGE_URL": "azure:",
    }
    arguments = ["azure:" if each == "STORE" else each for each in OF_A_STORE[words]]
    result = prepared(*words.split(), *arguments, stdin="1", code=5, **variables)
    assert result.err.startswith("error: ")
    assert "127.0.0.1:9" in result.err
    assert result.out == b""


@pytest.mark.parametrize("words", sorted(NEEDED))
def test_what_is_not_there_is_not_found(words: str, prepared: Cli) -> None:
    result = prepared(*words.split(), *OF_A_STORE[words], stdin="1", code=3)
    assert result.err.startswith("error: ")
    assert result.out == b""


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["ls", "-n", "x"], "'-n'"),
        (["ls", "-n", "-1"], "'-n'"),
        (["ls", "-n", "9" * 5000], "'-n'"),
        (["completion", "tcsh"], "'tcsh' is not one of"),
        (["tasks", "submit", "query", "{}", "--priority", "mad"], "'mad' is not one of"),
        (["load"], "Missing argument"),
        (["stat"], "Missing argument"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_a_value_that_cannot_be_is_wrong_usage(arguments: list[str], told: str, prepared: Cli) -> None:
    result = prepared(*arguments, code=2)
    assert told in result.err
    assert result.out == b""
