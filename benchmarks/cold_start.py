"""What importing the app costs over importing what it can not do without."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


def measure(runs: int) -> list[tuple[str, str, str]]:
    """Pairs of fresh processes, in turn, so that a change of the machine's speed meets both; the time of an
    interpreter that imports nothing is taken off both."""
    seconds("import function_app")  # byte code is compiled once, by whoever comes first
    ratios: list[float] = []
    for _ in range(runs):
        nothing = seconds("pass")
        bare = seconds("import azure.functions, pydantic") - nothing
        app = seconds("import function_app") - nothing
        ratios.append(app / bare)
    figure = f"{statistics.median(ratios):.2f} x"
    return [("import function_app / import azure.functions, pydantic", figure, "at most 1.6 x")]


def seconds(code: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=True)
    return time.perf_counter() - started
