"""Environments of their own for the frameworks and tools whose requirements conflict with those of the other
tests, or that would run with each of them.

`tests/frameworks/NAME.txt` pins what a framework needs. Its environment lies on top of that of the tests:
it has only what is missing there or conflicts, so it is made in seconds.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import signal
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from devhost.node import locked
from tests.conftest import PROJECT
from tests.downloads import fetched

PINS = PROJECT / "tests" / "frameworks"
INSTALL_SECONDS = 1800
"""For which another process that installs it is waited for."""
RUN_SECONDS = 600

# What the environment below is made from.
_BELOW = ("requirements.txt", "requirements-s3.txt", "requirements-dev.txt", "devhost/requirements.txt")


def environment(name: str) -> Path:
    """The Python of the environment for ``tests/frameworks/NAME.txt``.

    It is made once for what the file and the tests' own requirements say, by one process while others wait.
    """
    pins = PINS / f"{name}.txt"
    made_from = hashlib.sha256(sys.version.encode())
    for path in (pins, *(PROJECT / below for below in _BELOW)):
        made_from.update(path.read_bytes())
    homes = Path(sys.prefix).resolve() / "frameworks"
    home = homes / f"{name}-{made_from.hexdigest()[:12]}"
    whole = home / "whole"
    if not whole.exists():
        homes.mkdir(exist_ok=True)
        with locked(homes / f"{name}.lock", INSTALL_SECONDS, f"another installation of {name}"):
            if not whole.exists():
                _install(home, pins)
                whole.touch()
    return home / "bin" / "python"


def _install(home: Path, pins: Path) -> None:
    shutil.rmtree(home, ignore_errors=True)
    fetched(sys.executable, "-m", "venv", "--without-pip", str(home), env=_variables({}))
    below = Path(sysconfig.get_paths()["purelib"])
    # Behind the environment's own folder on the path; pip sees both, and replaces nothing outside.
    (home / below.relative_to(sys.prefix) / "below.pth").write_text(f"{below.resolve()}\n")
    python = home / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check")
    fetched(*pip, "install", "--quiet", "--requirement", str(pins), env=_variables({}))


def _variables(given: Mapping[str, str]) -> dict[str, str]:
    own = ("PYTEST_", "PYTHONPATH", "VIRTUAL_ENV", "AGENT_", "Agent")
    return {name: value for name, value in os.environ.items() if not name.startswith(own)} | given


async def run_python(
    name: str, *arguments: str, folder: Path = PROJECT, timeout: float = RUN_SECONDS, **variables: str
) -> str:
    """Run ``python ARGUMENTS`` in the environment NAME, which imports the project; what it printed.

    :param folder: the working directory.
    :param variables: of the environment, beside those of this process.
    :raises AssertionError: it failed; with its output.
    :raises TimeoutError: it took longer than ``timeout`` seconds, and was killed.
    """
    python = await asyncio.to_thread(environment, name)
    process = await asyncio.create_subprocess_exec(
        python,
        *arguments,
        cwd=folder,
        env=_variables({"PYTHONPATH": str(PROJECT)} | variables),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(timeout):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    assert process.returncode == 0, f"{name}: {' '.join(arguments)}\n{output.decode(errors='replace')}"
    return output.decode()


async def run_tests(name: str, *options: str, azurite: object = None) -> str:
    """Run ``tests/frameworks/test_NAME*.py`` in its environment; pytest's last line, which counts them.

    :param azurite: the fixture, for tests that use it too: they share its server.
    """
    variables = {"FRAMEWORK": name}
    if azurite is not None:
        variables["SHARED_AZURITE"] = str(cast("Any", azurite).connection_string)
    tests = sorted(str(path) for path in PINS.glob(f"test_{name}*.py"))
    options = ("-q", "-p", "no:cacheprovider", *options)
    output = await run_python(name, "-m", "pytest", *tests, *options, **variables)
    return output.strip().splitlines()[-1]
