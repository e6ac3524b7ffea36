"""How much memory this process has held."""

from __future__ import annotations

import resource
import sys


def peak_mib() -> float:
    """The most that was resident at once, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)
