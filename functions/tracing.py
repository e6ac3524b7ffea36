"""Spans of HTTP requests, and the platform's own spans that they belong to. Imported only where traces are
on."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import azure.functions as func

from storage_lib import tracing
from storage_lib.tracing import Context, Span, SpanKind


class RequestSpan:
    """The span of a request that is being answered."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def answered(self, status: int) -> None:
        """Note the status. Only one of 500 or more is a failure of the server."""
        self._span.set_attribute("http.response.status_code", status)
        if status >= 500:
            self._span.set_attribute("error.type", str(status))
            self._span.set_status(tracing.failed(str(status)))


@contextmanager
def request(function: str, req: func.HttpRequest, context: func.Context | None) -> Generator[RequestSpan]:
    """Make the span of a request the current one, by the conventions for HTTP servers.

    The query is not in it, which may have a function key. Its parent is the platform's span of this
    invocation if there is one, else the client's. The platform reports a request for each of its spans, so
    that this one is then an internal part of it, and no second request.
    """
    headers = req.headers
    if context is not None:
        function = context.function_name
    client = tracing.parent(headers.get("traceparent"), headers.get("tracestate"))
    platform = _platform(context)
    # Where there is no other span, the platform hands on the client's.
    is_server = platform is None or tracing.is_same(
        tracing.span_context(platform), tracing.span_context(client)
    )
    method = req.method.upper()
    url = urlsplit(req.url)
    attributes: dict[str, str | int | bool] = {
        "http.request.method": method,
        "url.path": url.path,
        "url.scheme": url.scheme,
        "faas.trigger": "http",
        "faas.name": function,
    }
    route = _routes().get(function)
    if route is not None:
        attributes["http.route"] = route
    if context is not None:
        attributes["faas.invocation_id"] = context.invocation_id
    span = tracing.start(
        f"{method} {route}" if route else method,
        SpanKind.SERVER if is_server else SpanKind.INTERNAL,
        attributes,
        within=platform or client or Context(),
    )
    with tracing.entered(span):
        yield RequestSpan(span)


@contextmanager
def invocation(context: func.Context) -> Generator[None]:
    """Make the platform's span of this invocation the current one."""
    with tracing.inside(_platform(context) or Context()):
        yield


def _platform(context: func.Context | None) -> Context | None:
    trace = None if context is None else context.trace_context
    return None if trace is None else tracing.parent(trace.trace_parent, trace.trace_state)


@cache
def _routes() -> dict[str, str]:
    """The route of each HTTP function, by its name, with the app's prefix."""
    app: Any = getattr(sys.modules.get("function_app"), "app", None)
    # The library shows its functions only to the worker, once.
    functions = [each._function for each in getattr(app, "_function_builders", ())]
    routes = {each.get_function_name(): getattr(each.get_trigger(), "route", None) for each in functions}
    return {name: f"/api/{route}" for name, route in routes.items() if route}
