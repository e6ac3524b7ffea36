"""Sends spans and metrics to Application Insights. Imported only where the setting says so.

``azure-monitor-opentelemetry`` takes 800 ms to import. So the first invocation begins it in a thread and does
not wait; spans that end before it is ready are not sent.

Logs are left to the platform, which sends them already, and so are its own requests: nothing is sent twice.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from typing import Any

_log = logging.getLogger("AOS.Monitor")

FLUSH_SECONDS = 5.0
"""How long the end of the process waits for what has not been sent yet."""

DEFAULTS = {
    # Each record would be sent twice.
    "OTEL_LOGS_EXPORTER": "none",
    # What the exporter tells its makers about itself, and settings that it would ask them for.
    "APPLICATIONINSIGHTS_STATSBEAT_DISABLED_ALL": "true",
    "APPLICATIONINSIGHTS_CONTROLPLANE_DISABLED": "true",
}
"""Settings of the packages, unless they are set."""

_BY_WORKER = "PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY"
"""With it the worker does all this itself, before the app is imported."""

_INSTRUMENTED = (
    *("azure_sdk", "django", "fastapi", "flask", "httpx"),
    *("httpx2", "psycopg2", "requests", "urllib", "urllib3"),
)

_started: list[threading.Thread] = []
_providers: list[Any] = []


def begin() -> None:
    """Begin sending, if this process does not yet."""
    if not _started:
        thread = threading.Thread(target=_configure, name="monitor", daemon=True)
        _started.append(thread)
        thread.start()
    atexit.unregister(end)
    atexit.register(end)  # For hosts that end the process without calling it.


def end() -> None:
    """Send what has not been sent yet, for at most `FLUSH_SECONDS`."""
    if not _started:
        return
    atexit.unregister(end)
    until = time.monotonic() + FLUSH_SECONDS
    _started[0].join(FLUSH_SECONDS)
    # The SDK's time limit does not end an export whose service does not answer, which takes minutes.
    threads = [threading.Thread(target=each.force_flush, daemon=True) for each in _providers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(until - time.monotonic(), 0))
    if any(thread.is_alive() for thread in threads):
        _log.warning("telemetry could not be sent within %g s", FLUSH_SECONDS)


def _configure() -> None:
    try:
        if os.environ.get(_BY_WORKER, "").lower() == "true":
            _log.warning("%s is true, so the worker sends telemetry, and the app does not", _BY_WORKER)
            return
        for name, value in DEFAULTS.items():
            os.environ.setdefault(name, value)
        from azure.monitor.opentelemetry import configure_azure_monitor
        from opentelemetry import metrics, trace
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider

        if isinstance(trace.get_tracer_provider(), TracerProvider):
            _log.warning("OpenTelemetry is configured already; nothing is sent to Application Insights")
            return
        configure_azure_monitor(
            resource=Resource(_resource()),
            enable_live_metrics=False,
            enable_performance_counters=False,
            # Every request to storage has a span of the operation that it belongs to.
            instrumentation_options={name: {"enabled": False} for name in _INSTRUMENTED},
        )
        providers: tuple[Any, ...] = (trace.get_tracer_provider(), metrics.get_meter_provider())
        for provider in providers:
            if hasattr(provider, "force_flush"):
                # It would wait for half a minute at the end of the process, for each of the two.
                atexit.unregister(provider.shutdown)
                _providers.append(provider)
    except Exception:  # Whatever it is, the app works without.
        _log.exception("no telemetry is sent to Application Insights")


def _resource() -> dict[str, str]:
    """The names under which the platform's own telemetry of this app and instance appears."""
    given = {"service.name": "WEBSITE_SITE_NAME", "service.instance.id": "WEBSITE_INSTANCE_ID"}
    return {name: value for name, variable in given.items() if (value := os.environ.get(variable))}
