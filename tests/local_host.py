"""``python -m devhost`` beside a test, as its users run it. The worker runtime serves one app a process."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

PROJECT = Path(__file__).resolve().parent.parent
DEADLINE = 600.0


def wait_for(condition: Callable[[], bool]) -> None:
    """`until`, for states of another process."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "the state was not reached in time"
        time.sleep(0.01)


class Running:
    """``python -m devhost`` beside us."""

    def __init__(self, process: subprocess.Popen[str], app: Path) -> None:
        self.process = process
        self.app = app
        self.output: list[str] = []
        assert process.stdout is not None
        for line in process.stdout:
            self.output.append(line.rstrip())
            if line.startswith("ready: "):
                break
        else:
            raise AssertionError(f"exit code {process.wait()}: {self.log}")
        self.port = urlsplit(self.output[-1].split()[1]).port

    @property
    def log(self) -> str:
        return (self.app / "log.txt").read_text()

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port or 0, timeout=DEADLINE)
        try:
            connection.request(method, path, body, headers or {}, encode_chunked=False)
            response = connection.getresponse()
            return response, response.read()
        finally:
            connection.close()

    def echo(self, path: str, method: str = "GET", **options: Any) -> dict[str, Any]:
        response, body = self.ask(method, f"/api/echo/{path}", **options)
        assert response.status == 200
        return json.loads(body)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port or 0), timeout=DEADLINE)

    def open_gate(self, name: str) -> None:
        (self.app / f"{name}.open").touch()

    def reached(self, *names: str) -> bool:
        return all((self.app / name).exists() for name in names)


def write_app(folder: Path, source: str, host_json: str | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "function_app.py").write_text(source)
    (folder / "host.json").write_text(host_json or '{"version": "2.0"}')
    return folder


def command(*arguments: str, program: tuple[str, ...] = ("-m", "devhost")) -> list[str]:
    return [sys.executable, *program, *arguments]


def environment(**variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AGENT_", "Agent"))}
    return {**kept, "SINK": "sink", "PYTHONPATH": str(PROJECT), **variables}


@contextmanager
def serve(
    app: Path, *arguments: str, program: tuple[str, ...] = ("-m", "devhost"), **variables: str
) -> Iterator[Running]:
    options = ("--app", str(app), "--data", str(app / "data"), "--port", "0", *arguments)
    with (app / "log.txt").open("w") as log:
        process = subprocess.Popen(
            command(*options, program=program),
            cwd=app,
            env=environment(**variables),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        yield Running(process, app)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        assert process.stdout is not None
        process.stdout.close()


@contextmanager
def served(
    app: Path, folder: Path, *options: str, settings: Mapping[str, str] | None = None
) -> Iterator[Running]:
    """The local host with the app of a folder on files in another one."""
    arguments = ("--port", "0", "--backend", "file", "--app", str(app), "--data", str(folder / "data"))
    with (
        (folder / "log.txt").open("w") as log,
        subprocess.Popen(
            command(*arguments, *options),
            cwd=PROJECT,
            env=environment(**(settings or {})),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        try:
            yield Running(process, folder)
        finally:
            process.terminate()
            process.wait(DEADLINE)
