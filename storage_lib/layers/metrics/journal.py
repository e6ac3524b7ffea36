"""The log record of each operation."""

from __future__ import annotations

import logging

from storage_lib.config.metrics import MetricsOptions
from storage_lib.layers.metrics.meters import Meter

LOG = logging.getLogger("AOS.Storage")
_OFF = -1
"""A level that no logger is enabled for."""


class Journal:
    """Logs operations with their key and size, never with a value."""

    __slots__ = ("_failure_level", "level")

    def __init__(self, options: MetricsOptions) -> None:
        self.level = _level(options.log_level)
        self._failure_level = _level(options.failure_log_level)

    def succeeded(self, meter: Meter, target: str, seconds: float, size: int) -> None:
        """To be called only if `LOG` is enabled for ``level``."""
        LOG.log(self.level, "Storage operation completed", extra=_extra(meter, target, seconds, size))

    def failed(self, meter: Meter, target: str, seconds: float, size: int, ended: tuple[str, str]) -> None:
        """``ended``: the outcome and the kind of error; only a real error is a failure."""
        outcome, error_type = ended
        is_failure = outcome == "error"
        level = self._failure_level if is_failure else self.level
        if LOG.isEnabledFor(level):
            extra = {**_extra(meter, target, seconds, size), "outcome": outcome}
            if is_failure:
                extra["error_type"] = error_type
            LOG.log(level, f"Storage operation {'failed' if is_failure else 'completed'}", extra=extra)


def _extra(meter: Meter, target: str, seconds: float, size: int) -> dict[str, object]:
    return {
        "operation": meter.operation,
        "key": target,
        "size_bytes": size,
        "backend": meter.backend,
        "duration_ms": round(seconds * 1000, 3),
    }


def _level(name: str) -> int:
    return _OFF if name == "OFF" else logging.getLevelNamesMapping()[name]
