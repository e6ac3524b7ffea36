"""Functions and an action that the tests run in other processes."""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path
from typing import Any

from storage_lib.errors import InvalidArgumentError, TransientStorageError
from storage_lib.tasks.context import TaskContext
from storage_lib.tasks.registry import task


class OwnError(Exception):
    """Its constructor takes something else than a text."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


class SilentError(ValueError):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def same(value: Any, *, named: Any = None) -> Any:
    return value if named is None else [value, named]


def process_id() -> int:
    return os.getpid()


def settings() -> dict[str, str]:
    return dict(os.environ)


def spin(announce: str = "", seconds: float = 0) -> None:
    """Hold the interpreter, as an expression that backtracks does: no other Python code runs meanwhile."""
    if announce:
        Path(announce).write_text(str(os.getpid()))
    until = time.monotonic() + (seconds or 600)
    while time.monotonic() < until:
        re.fullmatch("(a|aa)+", "a" * (25 if seconds else 60) + "b")


def grow() -> int:
    kept: list[bytes] = []
    while True:
        kept.append(bytes(64 << 20))


def chatter() -> str:
    print("\x00" * 100, flush=True)
    os.write(1, b"no frame")
    sys.stdout.flush()
    return sys.stdin.read() if sys.stdin else ""


def fail(kind: str) -> Any:
    match kind:
        case "storage":
            raise InvalidArgumentError("bad", field="f", limit="l", remedy="r")
        case "transient":
            raise TransientStorageError("later", retry_after=7.5)
        case "builtin":
            raise LookupError("nothing")
        case "unicode":
            b"\xff".decode()
        case "own":
            raise OwnError(1, 2)
        case "silent":
            raise SilentError
        case "exit":
            sys.exit(3)
        case "surrogate":
            raise ValueError("\ud800")
        case "result":
            return object()
        case "killed":
            os.kill(os.getpid(), 9)
    return os._exit(5)


async def asynchronous() -> None: ...


@task("spin_isolated", timeout=2)
async def spin_isolated(context: TaskContext, payload: Any) -> None:
    await context.run_isolated(spin, payload["announce"], payload.get("seconds", 0))


@task("spin_isolated_long", timeout=500)
async def spin_isolated_long(context: TaskContext, payload: Any) -> None:
    await context.run_isolated(spin, payload["announce"], payload.get("seconds", 0))
