"""The options of the metrics layer."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from storage_lib.config.settings import Settings


class MetricsOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the metrics layer measures each operation.

    :param traces: make OpenTelemetry spans of operations, requests and runs of tasks.
    """

    traces: bool = False


def from_env(env: Mapping[str, str]) -> MetricsOptions | None:
    """Read ``AGENT_STORAGE_METRICS`` and the settings that begin with it; None if it is off."""
    settings = Settings(env, "AGENT_STORAGE_METRICS")
    if not settings.switch():
        return None
    return MetricsOptions(**settings.given(traces=settings.boolean("TRACES")))
