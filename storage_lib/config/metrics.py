"""The options of the metrics layer."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from storage_lib.config.settings import Settings
from storage_lib.errors import ConfigurationError

_CONNECTION = "APPLICATIONINSIGHTS_CONNECTION_STRING"


class MetricsOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the metrics layer measures each operation.

    :param traces: make OpenTelemetry spans of operations, requests and runs of tasks.
    :param azure_monitor: the function app sends spans and metrics to Application Insights.
    """

    traces: bool = False
    azure_monitor: bool = False


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
    return MetricsOptions(**settings.given(traces=settings.boolean("TRACES"), azure_monitor=monitor))
