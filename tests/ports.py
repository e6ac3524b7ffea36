"""Ports for servers that have to be told theirs."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from contextlib import suppress
from pathlib import Path

# Below those that the system gives to clients, which would take one before its server binds it.
_RANGE = range(15_000, 32_000)
_held: list[int] = []


def free_ports(count: int) -> list[int]:
    """That nobody listens on, and that no other process of tests is given as long as this one lives."""
    folder = Path(tempfile.gettempdir(), f"agent-storage-ports-{os.getuid()}")
    folder.mkdir(exist_ok=True)
    found: list[int] = []
    for port in random.SystemRandom().sample(_RANGE, len(_RANGE)):
        if len(found) == count:
            break
        if _is_free(port) and _hold(folder / str(port)):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):
            one.bind(("127.0.0.1", port))
            return True
    return False


def _hold(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    _held.append(descriptor)  # The lock ends with the process.
    return True
