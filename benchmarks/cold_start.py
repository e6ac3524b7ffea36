"""What importing the app costs over importing what it cannot do without, with byte code as it is deployed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from deployment.ignored import deployed
from deployment.package import compile_all

PROJECT = Path(__file__).resolve().parent.parent
TIMED = """
import time
started = time.process_time()
import {}
print(time.process_time() - started)
"""


def measure(runs: int) -> list[tuple[str, str, str]]:
    """Pairs of fresh processes, in turn; of each the least of the processor's time, which other processes
    change least."""
    with tempfile.TemporaryDirectory() as folder:
        app_folder = Path(folder)
        for path in deployed(PROJECT).files:
            (app_folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(PROJECT / path, app_folder / path)
        compile_all(app_folder)
        modules = ("azure.functions, pydantic", "function_app")
        for each in modules:
            seconds(each, app_folder)  # compiles what they depend on
        turns = [tuple(seconds(each, app_folder) for each in modules) for _ in range(runs)]
    bare, app = (min(times) for times in zip(*turns, strict=True))
    return [
        ("import function_app / import azure.functions, pydantic", f"{app / bare:.2f} x", "at most 1.2 x")
    ]


def seconds(modules: str, folder: Path) -> float:
    unwanted = ("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX")
    environment = {name: value for name, value in os.environ.items() if name not in unwanted}
    command = [sys.executable, "-c", TIMED.format(modules)]
    run = subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True)
    return float(run.stdout)
