"""Where stores of a benchmark are that measures computing or counts requests: no disk is to be waited for."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager

_MEMORY = "/dev/shm"  # noqa: S108


@contextmanager
def folder() -> Generator[str]:
    """One for the time of the block, in memory where the system has such a folder."""
    with tempfile.TemporaryDirectory(dir=_MEMORY if os.path.isdir(_MEMORY) else None) as name:
        yield name
