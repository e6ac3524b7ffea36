"""What obstore needs at the end of a process, whichever backend uses it."""

from __future__ import annotations

import atexit
import time
from functools import cache

_SETTLE_SECONDS = 0.05


@cache
def settle_at_exit() -> None:
    """Let obstore's threads end what they do after they have handed over their last result, before the
    interpreter ends: one that lets go of a Python object then aborts the process, after all had gone well
    (pyo3-async-runtimes, issue 40)."""
    atexit.register(time.sleep, _SETTLE_SECONDS)
