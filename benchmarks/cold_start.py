"""What importing the app costs over importing what it cannot do without."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
TIMED = """
import time
started = time.process_time()
import {}
print(time.process_time() - started)
"""


def measure(runs: int) -> list[tuple[str, str, str]]:
    """Pairs of fresh processes, in turn, with byte code, as the deployed package has it; of each the least of
    the processor's time, which other processes change least."""
    with tempfile.TemporaryDirectory() as cache:
        for modules in ("azure.functions, pydantic", "function_app"):
            seconds(modules, cache)  # compiles
        turns = [
            (seconds("azure.functions, pydantic", cache), seconds("function_app", cache)) for _ in range(runs)
        ]
    bare, app = (min(times) for times in zip(*turns, strict=True))
    return [
        ("import function_app / import azure.functions, pydantic", f"{app / bare:.2f} x", "at most 1.2 x")
    ]


def seconds(modules: str, cache: str) -> float:
    environment = os.environ | {"PYTHONPYCACHEPREFIX": cache}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-c", TIMED.format(modules)]
    run = subprocess.run(command, cwd=PROJECT, env=environment, check=True, capture_output=True, text=True)
    return float(run.stdout)
