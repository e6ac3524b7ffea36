"""Processes that begin at the same moment."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import msgspec

from storage_lib.config import StorageConfig


def told(config: StorageConfig) -> dict[str, Any]:
    """The configuration as a process is told of it: what it has besides the defaults, as JSON."""
    given = {name: value for name, value in asdict(config).items() if value is not None}
    return {name: str(value) if name == "base_path" else value for name, value in given.items()}


QUIET = """
import logging

logging.getLogger("AOS.Storage").setLevel("ERROR")
"""
"""A busy server drops connections: that a request is tried again is told in a warning, and is no fault."""


async def at_once(program: str, arguments: Sequence[Any]) -> list[str]:
    """Run ``program`` in a process for each of ``arguments``, which it gets as JSON, and return what each
    printed. It prints ``ready`` and waits for a line: then all of them begin."""
    workers: list[asyncio.subprocess.Process] = []
    try:
        for argument in arguments:
            worker = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", QUIET + program, msgspec.json.encode(argument).decode()),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            workers.append(worker)
        for worker in workers:
            assert worker.stdout is not None
            if await worker.stdout.readline() != b"ready\n":
                worker.kill()
                raise AssertionError((await worker.communicate())[1].decode()[-3000:])
        ended = await asyncio.gather(*(worker.communicate(b"\n") for worker in workers))
    finally:
        for worker in workers:
            if worker.returncode is None:
                worker.kill()
                await worker.wait()
    for worker, (_, errors) in zip(workers, ended, strict=True):
        assert (worker.returncode, errors) == (0, b""), errors.decode()[-3000:]
    return [output.decode() for output, _ in ended]
