"""A blob service in a process of its own (`benchmarks.scale.blob_service`), instead of Azurite,
which deletes one blob after the other: with it, the speed of many deletes is its own."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from devhost.azurite import ACCOUNT_KEY, ACCOUNT_NAME

_SERVICES = ("Blob", "Queue", "Table")
"""All three have to be named."""


class StandIn:
    """One that runs, as the ``process`` of that id."""

    def __init__(self, process: int, port: int) -> None:
        self.process = process
        self._control = f"http://127.0.0.1:{port}/control"
        self.connection_string = (
            f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT_NAME};AccountKey={ACCOUNT_KEY};"
            + "".join(f"{each}Endpoint=http://127.0.0.1:{port}/{ACCOUNT_NAME};" for each in _SERVICES)
        )

    def hold(self, seconds: float) -> None:
        """Take that long for each request from now on."""
        self._ask(f"?seconds={seconds}")

    @property
    def requests(self) -> Counter[str]:
        """Up to now, by their methods; a batch is one."""
        return Counter(self._ask()["requests"])

    @property
    def cpu(self) -> float:
        """Seconds of a processor that it has taken."""
        return self._ask()["cpu"]

    def _ask(self, query: str = "") -> dict[str, Any]:
        with urllib.request.urlopen(self._control + query, timeout=30) as answer:  # noqa: S310 - our own
            return json.load(answer)


@contextmanager
def stand_in() -> Generator[StandIn]:
    """One that runs until the end of the block."""
    command = [sys.executable, "-m", "benchmarks.scale.blob_service"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdin is not None  # noqa: PT018 - pipes
        try:
            yield StandIn(process.pid, int(process.stdout.readline()))
        finally:
            process.stdin.close()  # at which it ends
