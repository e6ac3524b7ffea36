"""The local host on the file backend: how soon it serves, and what a request through it costs."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
REQUESTS = 300
THREADS = 8
DOCUMENT = json.dumps({"name": "ceo", "notes": ["n" * 80] * 10}).encode()


def measure(runs: int) -> list[tuple[str, str, str]]:
    starts: list[float] = []
    rows: list[tuple[str, str, str]] = []
    with tempfile.TemporaryDirectory() as data:
        for run in range(max(3, runs // 3)):
            started = time.perf_counter()
            process, port = start(data)
            _request(http.client.HTTPConnection("127.0.0.1", port), "GET", "/api/health/live")
            starts.append(time.perf_counter() - started)
            if run == 0:
                rows = _rates(port)
            process.send_signal(signal.SIGINT)
            process.wait(30)
    first = (
        "start of the local host to its first answer, file backend",
        f"{statistics.median(starts):.2f} s",
    )
    return [(*first, "under 2 s"), *rows]


def _rates(port: int) -> list[tuple[str, str, str]]:
    def save(connection: http.client.HTTPConnection, n: int) -> None:
        _request(connection, "PUT", f"/api/objects/bench/{n}", DOCUMENT)

    def load(connection: http.client.HTTPConnection, n: int) -> None:
        _request(connection, "GET", f"/api/objects/bench/{n}")

    def live(connection: http.client.HTTPConnection, n: int) -> None:
        _request(connection, "GET", "/api/health/live")

    rates = {name: _rate(port, work) for name, work in (("live", live), ("save", save), ("load", load))}
    connections = f"{THREADS} connections, 1 KiB"
    return [
        (f"saves over HTTP, {connections}, durable", f"{rates['save']:.0f} /s", ""),
        (f"loads over HTTP, {connections}", f"{rates['load']:.0f} /s", ""),
        ("a load / an answer that asks nothing of the storage", f"{rates['live'] / rates['load']:.2f} x", ""),
    ]


def _rate(port: int, work: Callable[[http.client.HTTPConnection, int], None]) -> float:
    def worker(first: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        for n in range(first, REQUESTS, THREADS):
            work(connection, n)
        connection.close()

    threads = [threading.Thread(target=worker, args=(n,)) for n in range(THREADS)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return REQUESTS / (time.perf_counter() - started)


def _request(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None = None
) -> None:
    connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
    response = connection.getresponse()
    response.read()
    assert response.status < 300, (method, path, response.status)


def start(
    data: str, settings: Mapping[str, str] | None = None, *, backend: str | None = "file"
) -> tuple[subprocess.Popen[bytes], int]:
    """The local host on a free port, ready, with these app settings; the process and the port.

    :param backend: None stores where the settings say.
    """
    where = [] if backend is None else ["--backend", backend]
    process = subprocess.Popen(
        [sys.executable, "-m", "devhost", *where, "--port", "0", "--data", data, "--quiet"],
        cwd=PROJECT,
        env=os.environ | dict(settings or {}),
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.match(rb"ready: http://127\.0\.0\.1:(\d+)", line):
            return process, int(found[1])
    raise RuntimeError("the local host ended before it was ready")
