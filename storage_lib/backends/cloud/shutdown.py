"""What obstore needs at the end of a process, whichever backend uses it."""

from __future__ import annotations

import atexit
import time
from functools import cache

_WAIT_SECONDS = 0.05


@cache
def wait_at_exit() -> None:
    """Let obstore's threads end what they do after they have handed over their last result, before the
    interpreter ends: one that lets go of a Python object then aborts the process, after all had gone well
    (pyo3-async-runtimes, issue 40)."""
    atexit.register(time.sleep, _WAIT_SECONDS)
