"""`agent-storage` as its users run it, on files: each command through the real program."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import resource
import shlex
import signal
import stat
import struct
import subprocess
import sys
import termios
import time
import uuid
from datetime import UTC, datetime
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from storage_lib import StorageConfig, StorageManager
from storage_lib.cli.program import COMMANDS
from storage_lib.errors import KeyNotFoundError
from storage_lib.s3_backend import S3StorageBackend
from storage_lib.tasks.engine import TaskEngine
from storage_lib.tasks.model import EVENT_QUEUE, TASK_QUEUE, TASK_TABLE, TaskRecord, TaskStatus, new_task_id
from storage_lib.tasks.records import record_keys
from storage_lib.tasks.registry import Registry
from tests.cli_runs import PROGRAM, Cli, environment
from tests.conftest import PROJECT
from tests.effort import SOAK
from tests.s3_servers import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY

ESCAPE = "\x1b]0;owned\x07\x1b[31mred"


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


@pytest.fixture
def data(cli: Cli) -> StorageConfig:
    return StorageConfig(base_path=cli.folder / "data")


def plain(text: str) -> str:
    """Without the styles that the program itself gives, and as it is in the end: what takes long, as all does
    on a busy machine, has had a line of progress, which has been erased."""
    text = re.sub(r"\x1b\[(\?25[lh]|[0-9;]*m)", "", text)
    return re.sub(r"[^\n]*(\n\r\x1b\[1A|\r)\x1b\[2K", "", text)


# -- objects


def test_an_object_goes_through_files_and_streams(cli: Cli) -> None:
    source = cli.folder / "ceo.json"
    source.write_bytes(b'{"a": 1}\n')
    saved = cli("save", "configs/", "ceo.json", "-m", "by=me", "--ttl", "1h", "--json")
    assert json.loads(saved.out) | {"etag": ""} == {
        "key": "configs/ceo.json",
        "etag": "",
        "size": 9,
        "created": True,
        "content_type": "application/json",
    }
    assert cli("save", "notes/x.txt", stdin="hällo\n").out == b""
    assert cli("load", "notes/x.txt").out == "hällo\n".encode()
    assert cli("load", "configs/ceo.json", "--json").out == b'{"a":1}\n'
    assert cli("load", "configs/ceo.json", "--range", "0-1").out == b'{"'
    (cli.folder / "out.json").write_text("old")
    (cli.folder / "out.json").chmod(0o640)
    assert cli("load", "configs/ceo.json", "out.json").out == b""
    assert (cli.folder / "out.json").read_bytes() == source.read_bytes()
    assert stat.S_IMODE((cli.folder / "out.json").stat().st_mode) == 0o640
    info = json.loads(cli("stat", "configs/ceo.json", "--json").out)
    assert info["metadata"] == {"by": "me"}
    assert info["expires_at"] > info["last_modified"]
    assert "content type: application/json" in cli("stat", "configs/ceo.json").lines
    cli("touch", "configs/ceo.json", "--ttl", "never", "-m", "at=work", "--unset", "by")
    touched = json.loads(cli("stat", "configs/ceo.json", "--json").out)
    assert (touched["metadata"], touched["expires_at"]) == ({"at": "work"}, None)
    cli("touch", "configs/ceo.json", "nope", "--ttl", "1d", code=1)
    cli("touch", "nope", code=3)
    assert cli("save", "configs/ceo.json", "--if-absent", stdin="{}", code=4).err.startswith("error: ")
    assert cli("save", "bad.json", "-t", "application/json", stdin="{", code=1).err.startswith("error: ")
    # A name that is wrong about the bytes is no reason to refuse them.
    assert "not application/json" in cli("save", "odd.json", stdin="{").err
    assert "content type: application/octet-stream" in cli("stat", "odd.json").lines


def test_a_large_object_is_a_stream(cli: Cli) -> None:
    data = os.urandom(1 << 20) * 20
    assert cli.process("save", "models/base.bin", "-", stdin=data).out == b""
    assert cli.process("load", "models/base.bin", "-").out == data
    (cli.folder / "base").write_bytes(data)
    assert json.loads(cli("save", "models/b", "base", "--json").out)["size"] == len(data)
    assert sorted(path.name for path in cli.folder.iterdir()) == ["base", "data"]


def test_folders_are_saved_listed_copied_moved_loaded_and_deleted(cli: Cli) -> None:
    for name in ("a.json", "sub/b.txt", "sub/deep/c.bin"):
        path = cli.folder / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    (cli.folder / "source" / "bad.").write_text("no key ends in a dot")
    (cli.folder / "source" / "link").symlink_to("a.json")
    failed = cli("save", "-r", "models", "source", code=1)
    assert "bad.: key 'models/bad.' has a segment that ends in '.'" in failed.err
    assert "link: left out" in failed.err
    assert cli("ls").lines == ["models/"]
    assert cli("ls", "models/").lines == ["models/a.json", "models/sub/"]
    assert cli("ls", "-r").lines == ["models/a.json", "models/sub/b.txt", "models/sub/deep/c.bin"]
    listed = [json.loads(line) for line in cli("ls", "models/", "--json").lines]
    assert [each.get("key") or each["prefix"] for each in listed] == ["models/a.json", "models/sub/"]
    assert re.fullmatch(r"2\t[\dT:-]+Z\tmodels/a.json", cli("ls", "-l", "models/a").lines[0])
    assert cli("ls", "-r", "-n", "2").lines == ["models/a.json", "models/sub/b.txt"]
    assert cli("tree", "models/").lines == [
        "├── a.json",
        "└── sub/",
        "    ├── b.txt",
        "    └── deep/",
        "        └── c.bin",
    ]
    assert cli("du", "-d", "2").lines == ["6\t3\tmodels/", "4\t2\tmodels/sub/", "6\t3\t"]
    cli("cp", "-r", "models", "copies")
    cli("mv", "copies/a.json", "other/")
    cli("mv", "-r", "copies/sub", "moved", "--if-absent")
    assert cli("ls", "-r").lines[:3] == ["models/a.json", "models/sub/b.txt", "models/sub/deep/c.bin"]
    assert cli("ls", "-r", "m").lines[3:] == ["moved/b.txt", "moved/deep/c.bin"]
    cli("load", "-r", "moved", "loaded")
    found = sorted(
        str(path.relative_to(cli.folder / "loaded")) for path in (cli.folder / "loaded").rglob("*.*")
    )
    assert found == ["b.txt", "deep/c.bin"]
    # What begins like the folder is not in it.
    cli("save", "moved2", stdin="x")
    assert cli("rm", "-r", "moved", "--dry-run").lines == ["moved/b.txt", "moved/deep/c.bin"]
    cli("rm", "-r", "moved", "--yes")
    assert cli("ls", "mov").lines == ["moved2"]
    assert cli("rm", "-", "-y", "--json", stdin="moved2\nnope\n", code=1).lines == [
        '{"key":"moved2","deleted":true}'
    ]
    cli("rm", "nope", "-y", "--missing-ok")
    cli("rm", "-r", "nope", "-y", code=3)
    cli("rm", "-r", "", "--yes")
    assert cli("ls", "-r").out == b""


# -- the manners of a program


@pytest.mark.parametrize(
    ("arguments", "variables", "code", "told"),
    [
        (["load", "nope"], {}, 3, "error: object 'nope' does not exist"),
        (["ls", "--store", "file:./none"], {}, 3, "the folder 'none', which does not exist"),
        (["load", "a/../b"], {}, 2, "key 'a/../b' has a segment that ends in '.'"),
        (["lss"], {}, 2, "Did you mean 'ls'?"),
        (["ls", "--nope"], {}, 2, "No such option"),
        (["ls", "--store", "ftp://x"], {}, 2, "limit: file:./data"),
        (["rm", "x"], {}, 4, "remedy: add --yes"),
        (["save", "x", "missing-file"], {}, 3, "missing-file: No such file"),
        (["load", "x", "none/x"], {}, 3, "none: No such folder"),
        (["save", "x", "--ttl", "soon"], {}, 2, "'soon' is no duration"),
        (
            ["ls", "--store", "azure:"],
            {
                "AgentStorage": "AccountName=abc;AccountKey=YQ==;BlobEndpoint=http://127.0.0.1:9/abc;"
                "QueueEndpoint=http://127.0.0.1:9/abc;TableEndpoint=http://127.0.0.1:9/abc;",
                "AGENT_STORAGE_RETRY_ATTEMPTS": "1",
            },
            5,
            "error: ",
        ),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else "",
)
def test_the_exit_code_tells_what_went_wrong(
    cli: Cli, arguments: list[str], variables: dict[str, str], code: int, told: str
) -> None:
    cli("save", "x", stdin="1")
    result = cli(*arguments, code=code, **variables)
    assert told in result.err
    assert result.out == b""


def test_confirmation_is_asked_on_a_terminal(cli: Cli) -> None:
    cli("save", "x", stdin="1")
    asked = "Delete x? [y/N] "
    assert "Nothing was changed" in cli.terminal("rm", "x", typed={asked: "\n"}, code=4)
    assert cli("ls").lines == ["x"]
    assert "Deleted 1 object." in cli.terminal("rm", "x", typed={asked: "y\n"})
    assert cli("ls").lines == []


async def test_stored_text_does_not_control_a_terminal(cli: Cli, data: StorageConfig) -> None:
    async with StorageManager(data) as storage:
        await storage.save("evil.txt", f"first\r\n{ESCAPE}\x9b\n", metadata={"a": "b"})
        await storage.write("binary", b"\x00\xff")
        await storage.save("evil.json", {"title": f"{ESCAPE}\x9b\u202e"})
        await storage.backend.insert_entity("letters", {"PartitionKey": "p", "RowKey": "r", "text": ESCAPE})
        await storage.backend.queues.send("letters", ESCAPE)
    (cli.folder / "data" / "objects" / "-\u202eevil").write_text("a name that turns around")
    shown = [
        cli.terminal("load", "evil.txt"),
        cli.terminal("load", "evil.json", "--json"),
        cli.terminal("ls", "-l"),
        cli.terminal("tables", "query", "letters"),
        cli.terminal("queues", "peek", "letters"),
    ]
    for text in shown:
        own = re.sub(r"\x1b\[[01]m", "", text)  # Headings of tables are bold.
        assert re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", own) is None, ascii(text)
    assert shown[0].startswith("first\n\\x1b]0;owned")
    assert "is not text, and stdout is a terminal" in cli.terminal("load", "binary", code=2)
    # A pipe gets what is stored.
    assert cli("load", "binary").out == b"\x00\xff"
    assert ESCAPE.encode() in cli("load", "evil.txt").out


def test_progress_is_for_terminals(cli: Cli) -> None:
    read, write = os.pipe()
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import time\nfor _ in range(12): print('x' * 99999, flush=True); time.sleep(.1)",
        ],
        stdout=write,
    )
    os.close(write)
    shown = cli.terminal("save", "slow.bin", "-", stdin=read)
    os.close(read)
    assert process.wait() == 0
    assert "Saving slow.bin" in shown
    assert re.search(r"[kM]i?B", shown)
    assert re.search(r"[kM]i?B/s", shown)
    # Neither in a pipe nor in a file.
    quiet = cli("load", "slow.bin")
    assert (quiet.err, len(quiet.out)) == ("", 12 * 100_000)


async def test_a_closed_pipe_ends_it_quietly(cli: Cli, data: StorageConfig) -> None:
    async with StorageManager(data) as storage:
        await storage.save_many({f"{'long' * 40}/{n:04}": n for n in range(1500)})
    process = cli.start("ls", "-r", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline().endswith(b"/0000\n")
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(120) == -signal.SIGPIPE


def test_streams_may_be_closed(cli: Cli) -> None:
    cli("save", "x", stdin="1")
    command = shlex.join([*PROGRAM, "rm", "x", "--yes"])
    subprocess.run(
        ["sh", "-c", f"{command} <&- >&- 2>&-"], cwd=cli.folder, env=environment(), check=True, timeout=120
    )
    assert cli("ls").lines == []


def test_ctrl_c_ends_it_as_a_signal_does(cli: Cli) -> None:
    (cli.folder / "data").mkdir()
    process = cli.start("save", "x", "-", stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdin.write(b"begun")
    process.stdin.flush()
    try:
        _wait_until_it_sleeps(process.pid, process.stdin.fileno())
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == -signal.SIGINT
        assert process.stderr.read() == b""
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stderr.close()
    assert cli("ls").lines == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["query", "-"],
        ["access", "check", "-"],
        ["access", "digest"],
        ["queues", "send", "work", "-"],
        ["rm", "--yes", "-"],
        ["tasks", "submit", "work", "-"],
        ["versions", "save", "x", "-"],
    ],
    ids=" ".join,
)
def test_ctrl_c_ends_each_command_that_reads_its_stdin(cli: Cli, arguments: list[str]) -> None:
    (cli.folder / "data").mkdir()
    process = cli.start(*arguments, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdin is not None
    process.stdin.write(b"x")
    process.stdin.flush()
    try:
        _wait_until_it_sleeps(process.pid, process.stdin.fileno(), "pipe_read")
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == -signal.SIGINT
    finally:
        process.kill()
        process.wait()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()


def test_a_queue_that_does_not_exist_is_named_as_it_was_given(cli: Cli) -> None:
    (cli.folder / "data").mkdir()
    assert "queue 'q' does not exist" in cli("queues", "peek", "q", code=3).err


def test_an_audit_log_that_does_not_exist_is_named(cli: Cli) -> None:
    (cli.folder / "data").mkdir()
    assert cli("audit", "verify", "none", code=3).err == "error: none does not exist\n"


def test_ctrl_c_is_not_lost_among_imports() -> None:
    """Python prints an interrupt that comes in a callback, such as the one with which an import ends, and
    goes on."""
    pressed = """
import os, signal, sys
class Pressed:
    def find_spec(self, name, *_):
        if name == "storage_lib.cli.program":
            class Callback:
                def __del__(self):
                    os.kill(os.getpid(), signal.SIGINT)
            Callback()
sys.meta_path.insert(0, Pressed())
sys.argv[1:] = ["--version"]
from storage_lib.cli.__main__ import main
main()
"""
    ended = subprocess.run(
        [sys.executable, "-c", pressed], cwd=PROJECT, env=environment(), capture_output=True, timeout=120
    )
    assert (ended.returncode, ended.stderr) == (-signal.SIGINT, b"")


def _wait_until_it_sleeps(pid: int, pipe: int, where: str = "epoll") -> None:
    """Until it has read what is in the pipe, and waits for more, by default in the event loop."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        (left,) = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))
        with open(f"/proc/{pid}/wchan") as waiting:
            if not left and where in waiting.read():
                return
        time.sleep(0.05)
    raise AssertionError("it never read its stdin")


@pytest.mark.skipif(not SOAK, reason="SOAK=1, as any strict bound of time; what it imports is told below")
def test_it_starts_fast() -> None:
    """Below 150 ms on a quiet machine; here the time of the processor is compared with what Python and typer
    need themselves."""

    def cost(*arguments: str) -> float:
        began = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(arguments, cwd=PROJECT, env=environment(), stdout=subprocess.DEVNULL, check=True)
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        return ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime

    commands = ((sys.executable, "-c", "import typer.main"), (*PROGRAM, "--help"), (*PROGRAM, "--version"))
    rounds = [[cost(*command) for command in commands] for _ in range(5)]
    bare, helped, told = map(min, zip(*rounds, strict=True))
    assert helped < 2.5 * bare
    assert told < 2.5 * bare


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["ls", "--help"], ["completion", "bash"], ["tasks", "list", "-n", "5", "--help"]],
    ids=" ".join,
)
def test_what_needs_no_store_imports_little(arguments: list[str]) -> None:
    code = f"import sys\nsys.argv[1:] = {arguments}\nimport os\nos._exit = lambda code: print(*sys.modules)\n"
    code += "from storage_lib.cli.__main__ import main\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PROJECT,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = done.stdout.splitlines()[-1].split()
    assert "typer" in loaded
    assert {"pydantic", "rich", "storage_lib.manager"}.isdisjoint(loaded)
    bare = subprocess.run(
        [sys.executable, "-c", "import sys, typer.main\nprint(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(loaded) < 2 * len(bare.stdout.split())
    if arguments[-2:] in (["--help"], ["ls", "--help"]):
        assert {"asyncio", "msgspec", "logging"}.isdisjoint(loaded)


# -- the other commands


def test_versions(cli: Cli) -> None:
    assert cli("versions", "save", "m", "--by", "trainer", stdin='{"r": 8}').text == "v1\n"
    (cli.folder / "two.json").write_text('{"r": 16}')
    saved = cli("versions", "save", "m", "two.json", "--label", "candidate", "--json")
    assert json.loads(saved.out) == {"key": "m", "version": 2, "label": "candidate"}
    listed = [json.loads(line) for line in cli("versions", "list", "m", "--json").lines]
    assert [(each["number"], each["saved_by"], each["is_current"]) for each in listed] == [
        (1, "trainer", False),
        (2, None, True),
    ]
    patch = [{"op": "replace", "path": "/r", "value": 16}]
    assert json.loads(cli("versions", "diff", "m", "1", "--json").out) == patch
    assert cli("versions", "rollback", "m", "v1").text == "v1\n"
    assert cli("versions", "label", "m", "2", "production").text == "v2\n"
    cli("versions", "unlabel", "m", "candidate")
    assert cli("load", "m", "--version", "production").out == b'{"r":16}'
    assert cli("versions", "current", "m").text == "v1\n"
    cli("versions", "save", "m", stdin="3")
    assert cli("versions", "prune", "m", "--keep-last", "0", "--dry-run").lines == ["v1"]
    cli("versions", "prune", "m", "--keep-last", "0", code=4)
    for arguments in (["list", "none"], ["prune", "none", "--keep-last", "0", "--yes"]):
        assert "'none' has no versions" in cli("versions", *arguments, code=3).err
    asked = "Delete 1 version of m (v1)? [y/N] "
    assert "Deleted 1 version." in cli.terminal(
        "versions", "prune", "m", "--keep-last", "0", typed={asked: "y\n"}
    )
    assert [line.split("\t")[0::4] for line in cli("versions", "list", "m").lines] == [
        ["v2", "production"],
        ["v3", "current"],
    ]
    cli("versions", "rollback", "m", "7", code=3)


def test_query(cli: Cli) -> None:
    cli("save", "reports/weather.csv", stdin="day,rain\nmon,1\ntue,2\n")
    cli("save", "reports/names.json", stdin='[{"day": "mon", "name": "Monday"}]')
    sql = "SELECT name, rain FROM 'reports/weather.csv' w JOIN 'reports/names.json' USING (day)"
    assert cli("query", sql).lines == ["Monday\t1"]
    assert [json.loads(line) for line in cli("query", sql, "--json").lines] == [{"name": "Monday", "rain": 1}]
    assert cli("query", "SELECT sum(rain) FROM t", "-t", "t=reports/weather.csv").lines == ["3"]
    assert cli("query", "SELECT 1", code=2).err.count("FROM 'KEY'") == 1


async def test_tasks(cli: Cli, data: StorageConfig) -> None:
    cli("save", "reports/a.txt", stdin="Rain.")
    task = cli("tasks", "submit", "analyze_report", '{"report": "reports/a.txt"}', "-a", "ceo").text.strip()
    other = json.loads(
        cli("tasks", "submit", "analyze_report", "-", "--json", stdin='{"report": "reports/none.txt"}').out
    )["task_id"]
    assert cli("tasks", "list", "--agent", "ceo").lines[0].split("\t")[:4] == [
        task,
        "queued",
        "analyze_report",
        "ceo",
    ]
    assert 'payload: {"report":"reports/a.txt"}' in cli("tasks", "show", task).lines
    cli("tasks", "cancel", task)
    assert cli("tasks", "watch", task, code=1).lines[0].split("\t")[1:] == [task, "cancelled"]
    cli("tasks", "requeue", task)
    assert cli("tasks", "watch", task, "--timeout", "0", code=5).lines[0].split("\t")[1:] == [task, "queued"]
    watching = cli.start("tasks", "watch", task, other, "--json", stdout=subprocess.PIPE)
    async with StorageManager(data) as storage:
        engine = TaskEngine(storage, Registry(["actions"]))
        for message in await storage.backend.queues.receive(TASK_QUEUE, max_messages=32):
            await engine.deliver(message.text, queue=TASK_QUEUE)
            await storage.backend.queues.delete(TASK_QUEUE, message)
    seen = [json.loads(line) for line in watching.communicate(timeout=120)[0].splitlines()]
    assert watching.returncode == 1  # One of them has failed.
    assert {each["task_id"]: each["status"] for each in seen} == {task: "succeeded", other: "failed"}
    assert cli("tasks", "list", "--status", "failed", "--since", "1h").text.count("key-not-found") == 1
    assert cli("tasks", "cancel", task, code=4).err.startswith("error: ")
    counted = cli("tasks", "counts", "--agent", "ceo").lines
    assert sorted(line.split("\t")[0] for line in counted) == sorted(TaskStatus)
    assert "failed\t1" in cli("tasks", "counts").lines
    assert cli("tasks", "list", "--status", "failed,dead").text.count("key-not-found") == 1
    tagged = cli("tasks", "submit", "query", '{"sql": "s", "tables": {"t": "x"}}', "--correlation-id", "c")
    of_it = ("--correlation-id", "c")
    assert cli("tasks", "list", *of_it).lines[0].split("\t")[0] == tagged.text.strip()
    assert cli("tasks", "cancel", *of_it, "--dry-run").lines == [f"{tagged.text.strip()}\tqueued"]
    assert cli("tasks", "cancel", *of_it).lines == [f"{tagged.text.strip()}\tcancelled"]
    assert cli("tasks", "requeue", *of_it).lines == []
    assert cli("tasks", "requeue", *of_it, "--status", "cancelled").lines == [
        f"{tagged.text.strip()}\tqueued"
    ]
    cli("tasks", "delete", tagged.text.strip(), code=4)
    cli("tasks", "cancel", *of_it)
    cli("tasks", "delete", tagged.text.strip())
    cli("tasks", "show", tagged.text.strip(), code=3)
    cli("tasks", "cancel", code=2)
    cli("tasks", "cancel", "x", *of_it, code=2)
    assert any(line.startswith("query\tRun a SELECT") for line in cli("tasks", "actions").lines)
    cli("tasks", "submit", "nope", code=2)
    cli("tasks", "show", "x", code=3)


@pytest.mark.parametrize(
    ("setting", "count"), [({}, 0), ({"AGENT_TASK_EVENTS": "true"}, 1)], ids=["unset", "true"]
)
async def test_the_end_of_a_task_is_published_only_if_it_is_set(
    cli: Cli, data: StorageConfig, setting: dict[str, str], count: int
) -> None:
    cli("save", "reports/a.txt", stdin="Rain.")
    task = cli("tasks", "submit", "analyze_report", '{"report": "reports/a.txt"}', "-a", "ceo").text.strip()
    cli("tasks", "cancel", task, **setting)
    published = 0
    async with StorageManager(data) as storage:
        with contextlib.suppress(KeyNotFoundError):  # The first event makes the queue.
            published = await storage.backend.queues.length(EVENT_QUEUE)
    assert published == count


async def test_tables_and_queues(cli: Cli, data: StorageConfig) -> None:
    async with StorageManager(data) as storage:
        for n in range(3):
            await storage.backend.insert_entity("agents", {"PartitionKey": "eu", "RowKey": f"r{n}", "n": n})
    assert cli("tables", "query", "agents", "n gt 0").lines == ['eu\tr1\t{"n":1}', 'eu\tr2\t{"n":2}']
    found = cli("tables", "query", "agents", "RowKey eq @row", "-p", "row=r1", "-s", "n", "--json")
    assert json.loads(found.out) == {"PartitionKey": "eu", "RowKey": "r1", "n": 1}
    assert json.loads(cli("tables", "get", "agents", "eu", "r0").out)["n"] == 0
    shown = cli.terminal("tables", "query", "agents", "-n", "1")
    assert plain(shown).splitlines() == ["PartitionKey  RowKey  n", "eu            r0      0"]
    cli("tables", "query", "agents", "n gt", code=2)
    cli("tables", "query", "nothing", code=3)

    cli("queues", "send", "letters", "hello", "--delay", "0")
    cli("queues", "send", "letters", stdin="again")
    bodies = [
        json.loads(line)["body"] for line in cli("queues", "peek", "letters", "-n", "9", "--json").lines
    ]
    assert sorted(bodies) == ["again", "hello"]
    assert cli("queues", "length", "letters").text == "2\n"
    cli("queues", "clear", "letters", code=4)
    cli("queues", "clear", "letters", "--yes")
    assert json.loads(cli("queues", "length", "letters", "--json").out) == {"queue": "letters", "length": 0}


def test_audit_and_keys(cli: Cli) -> None:
    audited = {"AGENT_STORAGE_AUDIT": "file", "AGENT_STORAGE_AUDIT_KEY": "k" * 16}
    cli("save", "x", stdin="1", **audited)
    assert json.loads(cli("audit", "verify", "--json", **audited).out)["ok"] is True
    (log,) = (cli.folder / "audit").glob("*.jsonl")
    log.write_text(log.read_text().replace('"success"', '"denied"'))
    tampered = cli("audit", "verify", "audit", code=1, **audited)
    assert "edited" in tampered.text

    first, second = (cli("keys", "new", name).text.strip() for name in ("k1", "k2"))
    encrypted = {"AGENT_STORAGE_ENCRYPTION": "true", "AGENT_STORAGE_ENCRYPTION_KEYS": first}
    cli("save", "secret.txt", stdin="hush", **encrypted)
    encrypted["AGENT_STORAGE_ENCRYPTION_KEYS"] = f"{second},{first}"
    rotated = json.loads(cli("keys", "rotate", "secret", "--json", **encrypted).out)
    assert (rotated["examined"], rotated["encrypted"], rotated["failed"]) == (1, 1, {})
    encrypted["AGENT_STORAGE_ENCRYPTION_KEYS"] = second
    assert cli("load", "secret.txt", **encrypted).out == b"hush"
    assert "encryption is off" in cli("keys", "rotate", code=2).err


async def test_doctor_and_sweep(cli: Cli, data: StorageConfig) -> None:
    assert "does not exist" in cli("doctor", AGENT_STORAGE_TPYE="x").text
    async with StorageManager(data) as storage:
        storage.backend.objects.clock = lambda: time.time() - 7200
        await storage.save("old", 1, ttl=60)
    (cli.folder / "data").chmod(0o755)
    (cli.folder / "data" / "objects" / "bad.").write_text("no key")
    checks: list[dict[str, Any]] = json.loads(cli("doctor", "--json", AGENT_STORAGE_TPYE="x").out)
    assert {each["name"] for each in checks if each["verdict"] == "error"} == set()
    warnings = {each["name"]: each for each in checks if each["verdict"] == "warning"}
    assert "did you mean AGENT_STORAGE_TYPE?" in warnings["configuration"]["message"]
    assert "1 object expired and not removed, the first 1 hour ago" in warnings["time to live"]["message"]
    assert warnings["time to live"]["remedy"].startswith("agent-storage sweep")
    assert "'bad.'" in warnings["names"]["message"]
    assert cli("sweep").text == "1\n"
    assert "ok       time to live: 0 objects to remove\n" in plain(cli.terminal("doctor", "--read-only"))
    assert "AGENT_STORAGE_S3_BUCKET" in cli("doctor", code=1, AGENT_STORAGE_TYPE="s3").text


async def test_a_thorough_doctor_compares_task_records_with_their_index(
    cli: Cli, data: StorageConfig
) -> None:
    def said() -> str:
        checks: list[dict[str, Any]] = json.loads(cli("doctor", "--thorough", "--json").out)
        (found,) = [f"{each['verdict']} {each['message']}" for each in checks if each["name"] == "tasks"]
        return found

    async with StorageManager(data) as storage:
        await storage.save("x", 1)
        assert said() == "ok all records are in the index"
        engine, now = TaskEngine(storage), datetime.now(UTC)
        new = TaskRecord(new_task_id(), "a", "note", TaskStatus.QUEUED, created_at=now, updated_at=now)
        await engine.records.insert(new)
        assert said() == "ok all records are in the index"
        partition, key = record_keys(new.task_id)
        await storage.backend.tables.delete(TASK_TABLE, partition, f"~open:{key}")
        assert said() == f"warning 1 wrong row of the index of tasks: row ~open:{key} is missing"


def test_completion(cli: Cli) -> None:
    script = cli("completion", "bash").text
    assert "complete -o default -F _agent_storage_completion agent-storage" in script
    completed = cli(
        _AGENT_STORAGE_COMPLETE="complete_bash", COMP_WORDS="agent-storage versions pr", COMP_CWORD="2"
    )
    assert completed.lines == ["prune"]


@pytest.fixture(params=["azure", "s3"])
def cloud(request: pytest.FixtureRequest, cli: Cli) -> Cli:
    """The same program on an emulated cloud, which its environment and a URL select."""
    name = f"cli-{uuid.uuid4().hex[:12]}"
    if request.param == "azure":
        connection = request.getfixturevalue("azurite").connection_string
        return Cli(
            cli.folder, AgentStorage=connection, AGENT_STORAGE_CONTAINER=name, AGENT_STORAGE_URL="azure:"
        )
    endpoint = request.getfixturevalue("moto").endpoint
    credentials = {"AWS_ACCESS_KEY_ID": ACCESS_KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY}
    where = {"AGENT_STORAGE_S3_ENDPOINT": endpoint, "AGENT_STORAGE_URL": f"s3://{name}"}
    return Cli(cli.folder, AWS_REGION=REGION, **credentials, **where)


async def test_a_cloud_is_a_store_like_files(cloud: Cli) -> None:
    if url := cloud.variables.get("AGENT_STORAGE_S3_ENDPOINT"):
        bucket = cloud.variables["AGENT_STORAGE_URL"].removeprefix("s3://")
        keys = {"access_key_id": ACCESS_KEY_ID, "secret_access_key": SECRET_ACCESS_KEY}
        async with S3StorageBackend(bucket, endpoint=url, region=REGION, create_bucket=True, **keys):
            pass
    cloud("save", "reports/a.csv", "-m", "by=me", "--ttl", "1h", stdin="a,b\n1,2\n")
    assert cloud("ls", "-r").lines == ["reports/a.csv"]
    assert cloud("load", "reports/a.csv").out == b"a,b\n1,2\n"
    assert json.loads(cloud("ls", "reports/", "--json").out)["metadata"] == {"by": "me"}
    checks = {each["name"]: each["verdict"] for each in json.loads(cloud("doctor", "--json").out)}
    tables = "ok" if "AgentStorage" in cloud.variables else "skipped"
    expected = {"configuration", "connectivity", "permissions", "clock", "time to live", "names"}
    assert checks == dict.fromkeys(expected, "ok") | {"tables": tables, "queues": tables}
    cloud("rm", "-r", "reports", "--yes")
    assert cloud("ls").lines == []


def _names() -> set[str]:
    """Every command there is, as ``versions list``."""
    found: set[str] = set()
    for section in COMMANDS.values():
        for name, (module, _) in section.items():
            app = import_module(f"storage_lib.cli.commands.{module}").app
            own: Any = getattr(get_command(app), "commands", {})
            found |= {f"{name} {each}" for each in own} if app.info.name == name else {name}
    return found


def test_every_command_runs_on_a_terminal(cli: Cli) -> None:
    run: set[str] = set()

    def shows(words: str, *arguments: str, code: int = 0, **variables: str) -> str:
        run.add(words)
        shown = cli.shown(*words.split(), *arguments, code=code, **variables)
        return plain(shown)

    for name, text in (("a.csv", "n\n1\n"), ("v.json", '{"r": 1}'), ("w.json", '{"r": 2}')):
        (cli.folder / name).write_text(text)
    assert shows("save", "data/a.csv", "a.csv") == "Saved data/a.csv (4 B).\n"
    assert shows("load", "data/a.csv") == "n\n1\n"
    assert re.fullmatch(r" +4 B  [\dT:-]{19}Z  data/a\.csv\n", shows("ls", "-r", "-l"))
    assert shows("tree") == "└── data/\n    └── a.csv\n\n1 folder, 1 object\n"
    assert shows("du") == "SIZE  OBJECTS  PREFIX\n 4 B  1\n"
    assert "content type: text/csv\n" in shows("stat", "data/a.csv")
    assert shows("touch", "data/a.csv", "--ttl", "1d") == ""
    assert shows("cp", "data/a.csv", "b.csv") == "Copied data/a.csv to b.csv.\n"
    assert shows("mv", "b.csv", "c.csv") == "Moved b.csv to c.csv.\n"
    assert shows("rm", "c.csv", "--yes") == "Deleted 1 object.\n"
    assert shows("query", "SELECT n FROM 'data/a.csv'") == "n\n1\n"
    assert shows("versions save", "m", "v.json", "--by", "me") == "v1\n"
    assert shows("versions save", "m", "w.json") == "v2\n"
    assert shows("versions label", "m", "2", "best") == "v2\n"
    assert shows("versions list", "m").splitlines()[0].split() == ["VERSION", "SIZE", "SAVED", "BY", "LABELS"]
    assert shows("versions diff", "m", "1").startswith('{"op":"replace"')
    assert shows("versions rollback", "m", "1") == "v1\n"
    assert shows("versions current", "m") == "v1\n"
    assert shows("versions unlabel", "m", "best") == ""
    assert shows("versions prune", "m", "--keep-last", "0", "--yes") == "v2\nDeleted 1 version.\n"
    assert shows("migrate", "file:./data", "file:./copy").startswith("3 copied, 0 updated, 0 skipped")
    assert shows("check", "file:./data", "file:./copy") == "3 equal, 0 differences\n"
    assert shows("backup", "a.tar.zst").startswith("3 objects of ")
    assert "3 unchanged" in shows("restore", "a.tar.zst")
    (cli.folder / "aos").mkdir()
    (cli.folder / "aos" / "x.json").write_text("1")
    assert shows("import", "aos").split() == ["imported", "x.json", "x"]
    (cli.folder / "policy.json").write_text('{"principals": {}}')
    assert shows("access check", "policy.json") == "The policy is valid.\n"
    assert shows("access set", "policy.json") == "Saved the policy.\n"
    assert shows("access set", "policy.json", "--yes") == "Saved the policy.\n"
    assert shows("access show") == '{"principals": {}}\n'
    run.add("access digest")
    assert cli("access", "digest", stdin="secret\n").out == f"{sha256(b'secret').hexdigest()}\n".encode()
    task = shows("tasks submit", "analyze_report", '{"report": "x"}').strip()
    assert shows("tasks cancel", task) == f"Task {task} is cancelled.\n"
    assert shows("tasks requeue", task) == f"Task {task} is queued.\n"
    assert shows("tasks list").split()[:5] == ["ID", "STATUS", "ACTION", "AGENT", "CREATED"]
    assert "status: queued\n" in shows("tasks show", task)
    assert "has not ended within 0" in shows("tasks watch", task, "--timeout", "0", code=5)
    assert "analyze_report" in shows("tasks actions")
    assert re.search(r"^queued\s+1$", shows("tasks counts"), re.MULTILINE)
    ended = shows("tasks submit", "analyze_report", '{"report": "y"}').strip()
    assert shows("tasks cancel", ended) == f"Task {ended} is cancelled.\n"
    assert shows("tasks delete", ended) == ""
    assert [line.split() for line in shows("tables list").splitlines()] == [
        ["TABLE", "OF"],
        ["tasks", "tasks"],
    ]
    assert "RowKey" in shows("tables query", "tasks", "-s", "status")
    found = cli("tables", "query", "tasks", "status eq 'queued'").lines[0].split("\t")
    assert '"status": "queued"' in shows("tables get", "tasks", *found[:2])
    assert len(shows("queues send", "letters", "hello").strip()) == 36
    assert shows("queues peek", "letters").split()[:4] == ["ID", "DELIVERED", "SENT", "BODY"]
    assert shows("queues list", "l").split() == ["QUEUE", "OF", "letters"]
    assert shows("queues length", "letters") == "1\n"
    assert shows("queues clear", "letters", "--yes") == "Removed 1 message.\n"
    assert shows("conversations append", "c/1", '[{"id": "m1", "n": 1}, {"n": 2}]') == "2\n"
    assert "at position 2, not 1" in shows("conversations append", "c/1", "{}", "--if-position", "1", code=4)
    assert shows("conversations list", "c/").split()[:7] == [
        *("ID", "MESSAGES", "CHANGED", "TOPIC", "PARTICIPANTS", "c/1", "2"),
    ]
    assert '{"id":"m1","n":1}' in shows("conversations show", "c/1")
    assert shows("conversations fork", "c/1", "d") == "Copied 2 messages to d.\n"
    assert '"conversation_id": "d"' in shows("conversations export", "d")
    assert shows("conversations delete", "d", "--yes") == "Deleted d.\n"
    assert "ok       connectivity: the store answers" in shows("doctor")
    assert shows("sweep") == "0\nRemoved 0 objects.\n"
    cli("save", "y", stdin="1", AGENT_STORAGE_AUDIT="file")
    assert "0 findings" in shows("audit verify", "audit")
    key = shows("keys new", "k1").strip()
    encrypted = {"AGENT_STORAGE_ENCRYPTION": "true", "AGENT_STORAGE_ENCRYPTION_KEYS": key}
    assert shows("keys rotate", "--prefix-of-nothing", code=2).startswith("Usage: ")
    assert shows("keys rotate", "nothing/", **encrypted).startswith("0 examined")
    assert "compdef" in shows("completion", "zsh")
    assert run == _names()
