"""The handlers of objects, from the runtime's invocation to the answer, on files: no socket, no host.

In a process of its own, because the worker runtime serves one app a process. Nothing waits for a disk, which
would be measured instead: the files are in memory, where the system has such a folder.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks.listing import fill

PROJECT = Path(__file__).resolve().parent.parent
REQUESTS = 200
LISTS = 31
LISTED = 1000
_MEMORY = "/dev/shm"  # noqa: S108
_QUIET_SECONDS = 4.0
"""For which files are left alone, as most in a store have been: only of such is kept what listings read."""
DOCUMENT = json.dumps({"name": "ceo", "notes": ["n" * 80] * 10}).encode()


def measure(runs: int, project: Path = PROJECT) -> list[tuple[str, str, str]]:
    """The median over processes of each one's median.

    :param project: whose handlers are measured: also another tree's, beside this one's.
    """
    found = [_run(project) for _ in range(max(1, runs // 3))]
    median = {name: statistics.median(each[name] for each in found) for name in found[0]}
    return [
        ("load of 1 KiB of JSON, handler on files", f"{median['load'] * 1e6:.0f} µs", "at most 230 µs"),
        ("save of 1 KiB of JSON, without a disk", f"{median['save'] * 1e6:.0f} µs", "at most 400 µs"),
        ("list of 1,000 objects, handler on files", f"{median['list'] * 1e3:.2f} ms", "at most 5 ms"),
        ("the first such list of a process", f"{median['first'] * 1e3:.2f} ms", ""),
        ("the same with include=metadata", f"{median['details'] * 1e3:.2f} ms", ""),
    ]


def _run(project: Path) -> dict[str, float]:
    with tempfile.TemporaryDirectory(dir=_MEMORY if os.path.isdir(_MEMORY) else None) as folder:
        settings = {"AGENT_STORAGE_TYPE": "file", "AGENT_STORAGE_PATH": folder}
        own = {name: value for name, value in os.environ.items() if not name.startswith("AGENT_")}
        command = [sys.executable, "-m", "benchmarks.handlers", folder]
        run = subprocess.run(
            command, cwd=project, env=own | settings, check=True, capture_output=True, text=True
        )
    return json.loads(run.stdout)


async def _measured(folder: str) -> dict[str, float]:
    from devhost.runtime import http_datum, invoke, load_app

    await fill(folder, folders=1, keys=LISTED)
    await asyncio.sleep(_QUIET_SECONDS)
    index = load_app(Path.cwd())

    def request(function: str, method: str, path: str, body: bytes = b"") -> Callable[[], Awaitable[float]]:
        target = index[function]
        address, _, query = path.partition("?")
        headers = {"host": "localhost", "accept": "*/*", "user-agent": "bench"}
        if body:
            headers |= {"content-type": "application/json", "content-length": str(len(body))}
        pairs = dict(pair.split("=") for pair in query.split("&")) if query else {}
        key = {"key": address[1:]} if address else {}

        async def once() -> float:
            url = f"http://localhost/api/objects{path}"
            datum = http_datum(method, url, headers, pairs, key, body)
            started = time.perf_counter()
            result = await invoke(target, [(str(target.trigger["name"]), datum)])
            taken = time.perf_counter() - started
            assert result.ok, result.error
            assert result.return_value is not None
            assert int(result.return_value.value["status_code"].value) < 300
            return taken

        return once

    async def median(work: Callable[[], Awaitable[float]], count: int) -> float:
        await work()
        return statistics.median([await work() for _ in range(count)])

    save = request("save_object", "PUT", "/bench/one", DOCUMENT)
    load = request("load_object", "GET", "/bench/one")
    names = request("list_objects", "GET", "?prefix=agents/&limit=1000")
    details = request("list_objects", "GET", "?prefix=agents/&limit=1000&include=metadata")
    first = await names()
    found = {"save": await median(save, REQUESTS), "load": await median(load, REQUESTS), "first": first}
    found["list"] = await median(names, LISTS)
    try:
        found["details"] = await median(details, LISTS)
    except AssertionError:
        found["details"] = found["list"]  # A tree in which a list has them always.
    return found


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_measured(sys.argv[1]))))
