"""Running `agent-storage` as its users do: a process of its own, with and without a terminal."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import subprocess
import sys
import termios
import threading
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.conftest import PROJECT

PROGRAM = [sys.executable, "-m", "storage_lib.cli"]
SECONDS = 240


@dataclass(frozen=True)
class Result:
    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()


def environment(**variables: str) -> dict[str, str]:
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AGENT_", "Agent", "AzureWebJobs", "PYTHONWARNINGS", "COLUMNS"))
    }
    return clean | {"PYTHONPATH": str(PROJECT), "TERM": "xterm-256color"} | variables


def _checked(result: Result, arguments: tuple[str, ...], code: int) -> Result:
    assert result.code == code, (arguments, result)
    assert "Traceback" not in result.err, result.err
    return result


class Forks:
    """A process that has imported the program and forks for each run."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-c", _SERVER],
            env=environment(),
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def run(self, request: dict[str, Any]) -> int:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request).encode() + b"\n")
        self._server.stdin.flush()
        assert select.select([self._server.stdout], [], [], SECONDS)[0], request
        return int(self._server.stdout.readline())


_SERVER = """
import json, os, signal, sys
import asyncio, importlib.metadata, logging, msgspec, pydantic.type_adapter, sqlite3
import storage_lib.manager, storage_lib.urls, storage_lib.backends.file, storage_lib.tasks.engine
import storage_lib.migration.tables
from storage_lib.cli import program
from storage_lib.cli.commands import archives, listings, loading, migration, objects, saving, tables
from storage_lib.cli.commands import query, queues, tasks, versions
for line in sys.stdin.buffer:
    request = json.loads(line)
    child = os.fork()
    if child:
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    signal.alarm(200)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["variables"])
    for n, path in enumerate(request["streams"]):
        file = os.open(path, os.O_RDONLY if n == 0 else os.O_WRONLY | os.O_CREAT)
        os.dup2(file, n)
        os.close(file)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", errors="backslashreplace")
    sys.argv[1:] = request["arguments"]
    program.run(request["arguments"])
"""


@cache
def _forks() -> Forks:
    """One for each process of tests; it ends with its stdin."""
    return Forks()


class Cli:
    """Runs commands in a folder, on the store ``./data``."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder = folder
        self.variables = variables

    def __call__(self, *arguments: str, stdin: bytes | str = b"", code: int = 0, **variables: str) -> Result:
        """Without a terminal; the exit code is ``code``. The process is a fork of one that has imported the
        program, which spares most of the time and nothing else."""
        data = stdin.encode() if isinstance(stdin, str) else stdin
        with TemporaryDirectory() as folder:
            streams = [Path(folder, name) for name in ("in", "out", "err")]
            streams[0].write_bytes(data)
            result = _forks().run(
                {
                    "arguments": arguments,
                    "folder": str(self.folder),
                    "variables": environment(**self.variables | variables),
                    "streams": [str(path) for path in streams],
                }
            )
            return _checked(Result(result, streams[1].read_bytes(), streams[2].read_text()), arguments, code)

    def shown(self, *arguments: str, code: int = 0, **variables: str) -> str:
        """What a terminal of 80 columns shows; a fork runs it."""
        ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, 80))
        found: list[bytes] = []

        def read() -> None:
            with contextlib.suppress(OSError):  # Linux, when the last one who has the other end is gone.
                while chunk := os.read(ours, 65536):
                    found.append(chunk)

        reader = threading.Thread(target=read)
        reader.start()
        try:
            result = _forks().run(
                {
                    "arguments": arguments,
                    "folder": str(self.folder),
                    "variables": environment(**self.variables | variables),
                    "streams": [os.ttyname(theirs)] * 3,
                }
            )
        finally:
            os.close(theirs)
            reader.join(SECONDS)
            os.close(ours)
        text = b"".join(found).decode().replace("\r\n", "\n")
        assert (result, "Traceback" in text) == (code, False), (arguments, result, text)
        return text

    def process(self, *arguments: str, stdin: bytes = b"", code: int = 0, **variables: str) -> Result:
        """Without a terminal, in a process of its own, whose streams are pipes."""
        run = subprocess.run(
            [*PROGRAM, *arguments],
            cwd=self.folder,
            env=environment(**self.variables | variables),
            input=stdin,
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
        return _checked(Result(run.returncode, run.stdout, run.stderr.decode()), arguments, code)

    def start(self, *arguments: str, **pipes: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*PROGRAM, *arguments], cwd=self.folder, env=environment(**self.variables), **pipes
        )

    def terminal(
        self, *arguments: str, typed: dict[str, str] | None = None, code: int = 0, **others: Any
    ) -> str:
        """On a terminal of 80 columns; what it shows. ``typed`` has answers by what is asked.

        :param others: streams that are not the terminal.
        """
        ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, 80))
        streams: dict[str, Any] = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
        process = self.start(*arguments, **streams | others)
        os.close(theirs)
        shown, answers = b"", dict(typed or {})
        until = time.monotonic() + SECONDS
        try:
            while time.monotonic() < until:
                if not select.select([ours], [], [], 1)[0]:
                    continue
                try:
                    chunk = os.read(ours, 65536)
                except OSError:  # Linux, when the last one who has the other end is gone.
                    break
                if not chunk:
                    break
                shown += chunk
                for asked in [asked for asked in answers if asked.encode() in shown]:
                    os.write(ours, answers.pop(asked).encode())
            result = process.wait(SECONDS)
        finally:
            process.kill()
            process.wait()
            os.close(ours)
        text = shown.decode().replace("\r\n", "\n")
        assert result == code, (arguments, result, text)
        assert not answers, (answers, text)
        return text
