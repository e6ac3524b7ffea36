"""The spans that a test makes, as an SDK exports them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext


@cache
def recording() -> TracerProvider:
    """An SDK, from now on: a process has one, for good."""
    provider = TracerProvider(shutdown_on_exit=False)
    trace.set_tracer_provider(provider)
    return provider


class Spans(SpanProcessor):
    """What has ended since the test began."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._inner = SimpleSpanProcessor(self._exporter)
        self.is_on = True
        recording().add_span_processor(self)

    def on_end(self, span: ReadableSpan) -> None:
        if self.is_on:
            self._inner.on_end(span)

    @property
    def all(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.all if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        found = self.named(name)
        assert len(found) == 1, [span.name for span in self.all]
        return found[0]

    def clear(self) -> None:
        self._exporter.clear()


@cache
def _spans() -> Spans:
    return Spans()


def context(span: ReadableSpan) -> SpanContext:
    found = span.get_span_context()
    assert found is not None
    return found


def is_below(span: ReadableSpan, parent: ReadableSpan) -> bool:
    return span.parent is not None and span.parent.span_id == context(parent).span_id


@pytest.fixture
def spans() -> Iterator[Spans]:
    found = _spans()
    found.is_on = True
    yield found
    # Other tests make spans that nobody looks at.
    found.is_on = False
    found.clear()
