"""An event loop in which waiting takes no time, and computing none either: only what was waited counts."""

from __future__ import annotations

import asyncio
import selectors
from typing import Any


class _Selector(selectors.DefaultSelector):
    passed = 0.0
    """Seconds that were waited."""

    def select(self, timeout: float | None = None) -> Any:
        if timeout is not None and timeout > 0:
            self.passed += timeout
            timeout = 0
        return super().select(timeout)


class VirtualTime(asyncio.SelectorEventLoop):
    """Its time passes only while nothing can run: computing costs none."""

    def __init__(self) -> None:
        self._selector_of_time = _Selector()
        super().__init__(self._selector_of_time)

    def time(self) -> float:
        return self._selector_of_time.passed
