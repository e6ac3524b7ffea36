"""The options of the metrics layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from storage_lib.config.settings import Settings
from storage_lib.errors import ConfigurationError

MAX_SIZES_HOURS = 24 * 366
_CONNECTION = "APPLICATIONINSIGHTS_CONNECTION_STRING"
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "OFF")


class MetricsOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the metrics layer measures each operation.

    :param traces: make OpenTelemetry spans of operations, requests and runs of tasks.
    :param azure_monitor: the function app sends spans and metrics to Application Insights.
    :param opentelemetry: measure through OpenTelemetry's API, too. It does nothing until an SDK is set up.
    :param log_level: of a record of each operation that succeeded, in the log ``AOS.Storage``.
    :param failure_log_level: of a record of each operation that failed.
    :param sizes_hours: the function app measures what is stored below each prefix every so many hours, 1 or
        more; 0 never does.
    """

    traces: bool = False
    azure_monitor: bool = False
    opentelemetry: bool = True
    log_level: str = "DEBUG"
    failure_log_level: str = "WARNING"
    sizes_hours: float = 1

    def __post_init__(self) -> None:
        for field in ("traces", "azure_monitor", "opentelemetry"):
            _boolean(field, getattr(self, field))
        for field in ("log_level", "failure_log_level"):
            _level(field, getattr(self, field))
        hours: Any = self.sizes_hours
        if type(hours) not in (int, float) or (hours != 0 and not 1 <= hours <= MAX_SIZES_HOURS):
            raise ConfigurationError(
                f"sizes_hours is {str(hours)[:40]!r}",
                field="sizes_hours",
                limit=f"0, or 1 to {MAX_SIZES_HOURS}",
            )


def from_env(env: Mapping[str, str]) -> MetricsOptions | None:
    """Read ``AGENT_STORAGE_METRICS`` and the settings that begin with it; None if it is off."""
    settings = Settings(env, "AGENT_STORAGE_METRICS")
    if not settings.switch():
        return None
    monitor = settings.boolean("AZURE_MONITOR")
    if monitor and "InstrumentationKey=" not in env.get(_CONNECTION, ""):
        raise ConfigurationError(
            f"AGENT_STORAGE_METRICS_AZURE_MONITOR is true, but {_CONNECTION} is not that of a resource",
            field="AGENT_STORAGE_METRICS_AZURE_MONITOR",
            limit=f"{_CONNECTION} of the form InstrumentationKey=…;IngestionEndpoint=…",
            remedy=f"set {_CONNECTION}, or remove AGENT_STORAGE_METRICS_AZURE_MONITOR",
        )
    given = settings.options(MetricsOptions)
    for name in ("log_level", "failure_log_level"):
        if name in given:
            given[name] = _level(f"AGENT_STORAGE_METRICS_{name.upper()}", given[name].strip().upper())
    return MetricsOptions(**given)


def _level(field: str, level: Any) -> str:
    if level not in LOG_LEVELS:
        raise ConfigurationError(
            f"{field} is {str(level)[:40]!r}",
            field=field,
            limit=f"one of {', '.join(LOG_LEVELS)}",
            remedy="set it to one of them",
        )
    return level


def _boolean(field: str, value: Any) -> None:
    if type(value) is not bool:
        raise ConfigurationError(f"{field} is {str(value)[:40]!r}", field=field, limit="true or false")
