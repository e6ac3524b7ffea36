"""Sends spans and metrics to Application Insights. Imported only where the setting says so.

``azure-monitor-opentelemetry`` takes 800 ms to import. So the first invocation begins it in a thread and does
not wait; spans that end before it is ready are not sent.

Logs are left to the platform, which sends them already, and so are its own requests: nothing is sent twice.
"""

from __future__ import annotations

import logging
import os
import threading

_log = logging.getLogger("AOS.Monitor")

FLUSH_MILLISECONDS = 5000
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


def begin() -> None:
    """Begin sending, once in this process."""
    if not _started:
        thread = threading.Thread(target=_configure, name="monitor", daemon=True)
        _started.append(thread)
        thread.start()


def end() -> None:
    """Send what has not been sent yet."""
    if not _started:
        return
    _started[0].join(FLUSH_MILLISECONDS / 1000)
    from opentelemetry import metrics, trace

    for provider in (trace.get_tracer_provider(), metrics.get_meter_provider()):
        flush = getattr(provider, "force_flush", None)  # Without an SDK there is nothing to send.
        if flush is not None and not flush(FLUSH_MILLISECONDS):
            _log.warning("telemetry could not be sent within %d ms", FLUSH_MILLISECONDS)


def _configure() -> None:
    try:
        if os.environ.get(_BY_WORKER, "").lower() == "true":
            _log.warning("%s is true, so the worker sends telemetry, and the app does not", _BY_WORKER)
            return
        for name, value in DEFAULTS.items():
            os.environ.setdefault(name, value)
        from azure.monitor.opentelemetry import configure_azure_monitor
        from opentelemetry import trace
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
    except Exception:  # Whatever it is, the app works without.
        _log.exception("no telemetry is sent to Application Insights")


def _resource() -> dict[str, str]:
    """The names under which the platform's own telemetry of this app and instance appears."""
    given = {"service.name": "WEBSITE_SITE_NAME", "service.instance.id": "WEBSITE_INSTANCE_ID"}
    return {name: value for name, variable in given.items() if (value := os.environ.get(variable))}
