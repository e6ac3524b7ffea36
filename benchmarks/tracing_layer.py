"""What a span of an operation costs: without an SDK, and with one that records it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

Rows = list[tuple[str, str, str]]

CALLS = 3000


def measure(runs: int) -> Rows:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

    from storage_lib.layers.tracing import TracingLayer

    without = _more(runs, TracingLayer)
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        trace.set_tracer_provider(TracerProvider(shutdown_on_exit=False))  # One for the rest of the process.
    recorded = _more(runs, TracingLayer)
    return [
        ("traces: an operation without an SDK, more than without the layer", f"{without:.1f} µs", "<= 15 µs"),
        ("traces: an operation whose span is recorded, more", f"{recorded:.1f} µs", ""),
    ]


def _more(runs: int, layer: Any) -> float:
    """By how many µs a head is slower in the layer, at the best of so many turns."""
    from storage_lib.backends.memory import MemoryBackend

    async def turn(driver: Any) -> float:
        began = time.perf_counter()
        for _ in range(CALLS):
            await driver.head("a")
        return (time.perf_counter() - began) / CALLS * 1e6

    async def turns() -> float:
        memory = MemoryBackend()
        await memory.objects.put("a", b"1")
        bare, traced = memory.objects.driver, layer(memory, "memory").objects.driver
        each = [(await turn(bare), await turn(traced)) for _ in range(max(runs, 3))]
        return min(most for _, most in each) - min(least for least, _ in each)

    return asyncio.run(turns())
