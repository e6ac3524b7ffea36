"""What the tests download by pip and npm: tried again a few times, for networks fail."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

TRIES = 3
PAUSE_SECONDS = 5.0
SECONDS = 600.0
"""For one try: what has stalled is ended."""


class DownloadError(Exception):
    """It failed each time; with the command and what it said."""


def tried[T](download: Callable[[], T], *errors: type[Exception], pause: float = PAUSE_SECONDS) -> T:
    """:raises Exception: one of ``errors``, the last time too; any other, at once."""
    for _ in range(TRIES - 1):
        try:
            return download()
        except errors:
            time.sleep(pause)
    return download()


def fetched(
    *command: str | Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    pause: float = PAUSE_SECONDS,
) -> str:
    """Run a command that downloads; what it printed. :raises DownloadError: it failed each time."""

    def once() -> str:
        try:
            done = subprocess.run(
                command, cwd=cwd, env=env, capture_output=True, text=True, timeout=SECONDS, check=True
            )
        except subprocess.CalledProcessError as error:
            said = f"{error.stdout}{error.stderr}"
            raise DownloadError(f"{TRIES} times: {' '.join(map(str, command))}\n{said}") from error
        except subprocess.TimeoutExpired as error:
            raise DownloadError(f"{' '.join(map(str, command))} took longer than {SECONDS:g} s") from error
        return done.stdout

    return tried(once, DownloadError, pause=pause)
