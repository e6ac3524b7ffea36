"""Migration from files to Azurite, beside rclone: 10,000 objects of 4 KiB, the same again with nothing
changed, and one of 2 GiB; time, processor time and peak memory of whole processes.

rclone copies a folder of plain files with the best of several ``--transfers``; ours copies the same bytes as
the objects of a data folder, with their checksums. Each has an Azurite to itself, empty at the first run, for
one that is full is slow. They take turns to begin, and the ratios are medians of the rounds. Processor time
is that of the client. Python's byte code is written before, as an installer does.

``MIGRATION_COUNT`` (10000), ``MIGRATION_LARGE_MIB`` (2048), ``MIGRATION_ROUNDS`` (3) and
``MIGRATION_SECONDS`` (240, after which no other round begins) make it smaller.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

from devhost.azurite import Azurite
from storage_lib import StorageConfig, StorageManager

COUNT = int(os.environ.get("MIGRATION_COUNT", "10000"))
SMALL = 4096
LARGE_MIB = int(os.environ.get("MIGRATION_LARGE_MIB", "2048"))
ROUNDS = int(os.environ.get("MIGRATION_ROUNDS", "3"))
SECONDS = float(os.environ.get("MIGRATION_SECONDS", "240"))
TRANSFERS = (8, 16, 32)
TRIED = 1000
"""Objects by which the best number of transfers is found."""
PROJECT = Path(__file__).resolve().parent.parent


class Cost(NamedTuple):
    """What a process took; seconds, and MiB."""

    seconds: float
    cpu: float
    peak: float = 0.0


Copy = Callable[[Azurite], Cost]


def measure(runs: int) -> list[tuple[str, str, str]]:
    return asyncio.run(_measure(min(runs, ROUNDS)))


async def _measure(rounds: int) -> list[tuple[str, str, str]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        await asyncio.to_thread(_make_plain, folder)
        await _make_objects(folder)
        bench = _Bench(folder, time.monotonic() + SECONDS)
        await bench.prepare()
        await bench.small(rounds)
        await bench.large(min(rounds, 2))
        return bench.rows()


def _make_plain(folder: Path) -> None:
    for n in range(COUNT):
        path = folder / "plain" / "small" / f"{n % 100:02}" / f"{n:05}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(SMALL))
    for n in range(min(COUNT, TRIED)):
        path = folder / "tried" / f"{n % 10}" / f"{n:05}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(SMALL))
    large = folder / "plain-large" / "large.bin"
    large.parent.mkdir()
    with large.open("wb") as file:
        for _ in range(LARGE_MIB):
            file.write(os.urandom(1 << 20))


async def _make_objects(folder: Path) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        with (folder / "plain-large" / "large.bin").open("rb") as file:
            while data := file.read(1 << 20):
                yield data

    async with StorageManager(StorageConfig(base_path=folder / "data")) as storage:
        keys = [f"small/{n % 100:02}/{n:05}" for n in range(COUNT)]
        for start in range(0, COUNT, 500):
            await asyncio.gather(
                *(
                    storage.write(key, (folder / "plain" / key).read_bytes())
                    for key in keys[start : start + 500]
                )
            )
        await storage.write("warm", b"x")
        await storage.write_stream("large.bin", chunks())


class _Bench:
    def __init__(self, folder: Path, until: float) -> None:
        self._folder = folder
        self._until = until
        self._transfers = TRANSFERS[0]
        self._found: dict[str, list[float]] = defaultdict(list)

    async def prepare(self) -> None:
        async with self._azurite() as server:
            await asyncio.to_thread(self._ours, server, "warm")
            tried = [(await self._tried(n, server), n) for n in TRANSFERS]
        self._transfers = min(tried)[1]

    async def _tried(self, transfers: int, server: Azurite) -> float:
        source = self._folder / "tried"
        return (await asyncio.to_thread(self._rclone, server, source, f"to-{transfers}", transfers)).seconds

    async def small(self, rounds: int) -> None:
        def theirs(server: Azurite) -> Cost:
            return self._rclone(server, self._folder / "plain", "objects", self._transfers)

        def ours(server: Azurite) -> Cost:
            return self._ours(server, "small/")

        async for (our_first, *our_next), (first, *again) in self._rounds(rounds, ours, theirs, 3):
            our_again = _median(our_next)
            self._add("small", first.seconds / our_first.seconds)
            self._add("small cpu", our_first.cpu / first.cpu)
            self._add("again", our_first.seconds / our_again.seconds)
            self._add("again theirs", _median(again).seconds / our_again.seconds)
            self._add("again cpu", our_again.cpu / _median(again).cpu)

    async def large(self, rounds: int) -> None:
        def theirs(server: Azurite) -> Cost:
            return self._rclone(server, self._folder / "plain-large", "objects", 4)

        def ours(server: Azurite) -> Cost:
            return self._ours(server, "large")

        async for (mine,), (other,) in self._rounds(rounds, ours, theirs, 1):
            self._add("large", other.seconds / mine.seconds)
            self._add("large cpu", mine.cpu / other.cpu)
            self._add("peak", mine.peak)

    def rows(self) -> list[tuple[str, str, str]]:
        def row(name: str, found: str, figure: str, aim: str = "") -> tuple[str, str, str]:
            return (name, figure.format(median(self._found[found])), aim)

        small = f"{COUNT} objects of 4 KiB from files to Azurite"
        rounds, transfers = len(self._found["small"]), self._transfers
        return [
            (f"rounds, and rclone's --transfers, of {TRANSFERS} the best", f"{rounds}, {transfers}", ""),
            row(f"{small} / rclone", "small", "{:.2f} x", "at least 1.0 x"),
            row("its processor time / rclone's", "small cpu", "{:.2f} x", "below 1 x"),
            row("the same again, nothing changed / the first run", "again", "{:.1f} x", "at least 3 x"),
            row("the same again, nothing changed / rclone", "again theirs", "{:.2f} x", "at least 1.0 x"),
            row("its processor time / rclone's", "again cpu", "{:.2f} x"),
            row(f"an object of {LARGE_MIB} MiB / rclone", "large", "{:.2f} x", "at least 0.9 x"),
            row("its processor time / rclone's", "large cpu", "{:.2f} x"),
            row("its peak memory", "peak", "{:.0f} MiB", "under 200 MB"),
        ]

    def _add(self, name: str, figure: float) -> None:
        self._found[name].append(figure)

    async def _rounds(
        self, rounds: int, ours: Copy, theirs: Copy, runs: int
    ) -> AsyncIterator[tuple[list[Cost], list[Cost]]]:
        """The costs of several runs of each in turn, round by round; the first is to an empty store."""
        for n in range(rounds):
            if n and time.monotonic() > self._until:
                return
            async with self._azurite() as one, self._azurite() as two:
                both = [(ours, one), (theirs, two)]
                costs: dict[Copy, list[Cost]] = {ours: [], theirs: []}
                for _ in range(runs):
                    for copy, server in both if n % 2 == 0 else reversed(both):
                        costs[copy].append(await asyncio.to_thread(copy, server))
            yield costs[ours], costs[theirs]

    def _azurite(self) -> _FreshAzurite:
        return _FreshAzurite(self._folder)

    def _rclone(self, server: Azurite, source: Path, container: str, transfers: int) -> Cost:
        settings = {
            "RCLONE_CONFIG_AZ_TYPE": "azureblob",
            "RCLONE_CONFIG_AZ_CONNECTION_STRING": server.connection_string,
        }
        command = ["rclone", "copy", str(source), f"az:{container}", "--transfers", str(transfers)]
        command += ["--checkers", "16", "--config", os.devnull]
        return self._timed(command, settings)[0]

    def _ours(self, server: Azurite, prefix: str) -> Cost:
        command = [sys.executable, "-m", "benchmarks.migration_run", str(self._folder / "data"), "objects"]
        settings = {"PYTHONPYCACHEPREFIX": str(self._folder / "bytecode"), "PYTHONDONTWRITEBYTECODE": ""}
        cost, output = self._timed([*command, prefix, server.connection_string], settings)
        report = json.loads(output)
        assert report["ok"], output
        return cost._replace(peak=report["peak"])

    def _timed(self, command: list[str], settings: dict[str, str]) -> tuple[Cost, str]:
        with tempfile.TemporaryFile(dir=self._folder) as output:
            began = time.perf_counter()
            process = subprocess.Popen(
                command, cwd=PROJECT, env=os.environ | settings, stdout=output, stderr=subprocess.STDOUT
            )
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - began
            process.returncode = os.waitstatus_to_exitcode(status)
            output.seek(0)
            text = output.read().decode(errors="replace")
        if process.returncode:
            raise RuntimeError(f"{command[0]} ended with {process.returncode}: {text[-2000:]}")
        return Cost(seconds, usage.ru_utime + usage.ru_stime), text


class _FreshAzurite:
    """An Azurite without anything in it, whose folder goes with it."""

    def __init__(self, folder: Path) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="azurite-", dir=folder))
        self._server = Azurite(self._folder)

    async def __aenter__(self) -> Azurite:
        return await self._server.__aenter__()

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop()
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)


def _median(costs: list[Cost]) -> Cost:
    return Cost(median(cost.seconds for cost in costs), median(cost.cpu for cost in costs))
