"""Writes whose keys are locked by others: they wait by themselves, so that nothing else waits for them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from storage_lib.backends.file import locks

THREADS = 16


@dataclass(slots=True)
class LateWrite:
    """``finish`` does it, waiting for the lock no longer than it is told."""

    finish: Callable[[float], None]
    until: float = field(default_factory=lambda: time.monotonic() + locks.PATIENCE_SECONDS)


class LateWrites:
    """One thread for each lock: who waits for the same one has nothing to try before that."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lines: dict[str, deque[LateWrite]] = {}
        self._threads: ThreadPoolExecutor | None = None
        self._closed = False

    def add(self, key: str, finish: Callable[[float], None]) -> None:
        """Have it finished in a thread of its own; at once, here, if there is none."""
        name, late = locks.name_of(key), LateWrite(finish)
        with self._lock:
            if name in self._lines:
                return self._lines[name].append(late)
            self._lines[name] = deque([late])
            try:
                if not self._closed:
                    self._threads = self._threads or ThreadPoolExecutor(
                        THREADS, thread_name_prefix="storage-files-late"
                    )
                    self._threads.submit(self._work_off, name)
                    return None
            except RuntimeError:  # no more threads
                pass
        self._work_off(name)
        return None

    def _work_off(self, name: str) -> None:
        while True:
            with self._lock:
                if not (line := self._lines[name]):
                    del self._lines[name]
                    return
                late = line.popleft()
            late.finish(max(late.until - time.monotonic(), 0))

    def close(self) -> None:
        """Wait until all are done."""
        with self._lock:
            self._closed = True
            threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown()
