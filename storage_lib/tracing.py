"""Spans, by the OpenTelemetry API. Import this only where traces are on: the API takes some 26 ms.

Without an SDK in the process the API makes spans that record nothing. What an SDK does with them is decided
by whoever configures it (functions/monitor.py, or code of the user's own).
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager

from storage_lib.errors import ConfigurationError, KeyNotFoundError, PreconditionFailedError, StorageError

try:
    from opentelemetry import context as contexts
    from opentelemetry import trace
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as error:
    raise ConfigurationError(
        "traces need OpenTelemetry's API, which is not installed",
        field="traces",
        remedy="pip install agent-storage[metrics], or set AGENT_STORAGE_METRICS_TRACES=false",
    ) from error

NAME = "agent_storage"
"""The instrumentation scope of all spans."""

_tracer = trace.get_tracer(NAME)
_api = vars(trace)
trace.get_tracer_provider()  # Loads the one that the environment names, if any.
_propagator = TraceContextTextMapPropagator()


def has_sdk() -> bool:
    """Whether spans may be recorded in this process; until then they need not be made."""
    # `trace.get_tracer_provider` looks into the environment each time, which takes longer than all the rest.
    # If a later version has no such name, spans are made that record nothing.
    return _api.get("_TRACER_PROVIDER", True) is not None


def start(
    name: str,
    kind: SpanKind,
    attributes: Mapping[str, str | int | bool],
    *,
    within: Context | None = None,
    links: Sequence[Link] = (),
) -> Span:
    """A new span, not yet the current one.

    :param within: the context that has its parent; None is the current one.
    """
    return _tracer.start_span(name, within, kind, attributes, links, record_exception=False)


@contextmanager
def entered(span: Span) -> Generator[Span]:
    """Make ``span`` the current one, and end it. An error that passes is recorded by `fail`."""
    token = contexts.attach(trace.set_span_in_context(span))
    try:
        yield span
    except BaseException as error:
        fail(span, error)
        raise
    finally:
        contexts.detach(token)
        span.end()


@contextmanager
def inside(outer: Context) -> Generator[None]:
    """Make ``outer`` the current context."""
    token = contexts.attach(outer)
    try:
        yield
    finally:
        contexts.detach(token)


def fail(span: Span, error: BaseException) -> None:
    """Record an error: its kind, never its message, which may quote what callers sent.

    That there is no object, or that a condition does not hold, is an answer that many callers expect: the
    span says so but has not failed. Nor has one that was cancelled.
    """
    kind = error_type(error)
    span.set_attribute("error.type", kind)
    if not isinstance(error, (KeyNotFoundError, PreconditionFailedError, asyncio.CancelledError)):
        span.set_status(failed(kind))


def failed(kind: str) -> Status:
    """The status of a span that failed."""
    return Status(StatusCode.ERROR, kind)


def error_type(error: BaseException) -> str:
    """The stable code of this library's errors, the name of any other."""
    if isinstance(error, StorageError):
        return error.code
    return type(error).__qualname__


def parent(traceparent: str | None, tracestate: str | None = None) -> Context | None:
    """The context of a span elsewhere, by its W3C headers; None if there is none or it is malformed."""
    if not traceparent:
        return None
    carrier = {"traceparent": traceparent, "tracestate": tracestate or ""}
    found = _propagator.extract(carrier, Context())
    return found if trace.get_current_span(found).get_span_context().is_valid else None


def span_context(outer: Context | None) -> SpanContext | None:
    """That of the span in a context, if there is one."""
    found = trace.get_current_span(outer).get_span_context()
    return found if found.is_valid else None


def current() -> SpanContext | None:
    """That of the current span, if there is one."""
    return span_context(None)


def is_same(one: SpanContext | None, other: SpanContext | None) -> bool:
    """Whether both are of one span."""
    if one is None or other is None:
        return False
    return (one.trace_id, one.span_id) == (other.trace_id, other.span_id)


def traceparent_of(span: Span) -> str:
    """The W3C header that names ``span``."""
    found = span.get_span_context()
    return f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}"
