"""What each layer costs, against the library that it uses and against the store without it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks import (
    audit_layer,
    caching_layer,
    compression_layer,
    encryption_layer,
    fallback_layer,
    full_stack,
    metrics_layer,
    tracing_layer,
)

Rows = list[tuple[str, str, str]]

LAYERS: dict[str, Callable[[int], Rows]] = {
    "audit": audit_layer.measure,
    "compression": compression_layer.measure,
    "encryption": encryption_layer.measure,
    "caching": caching_layer.measure,
    "fallback": fallback_layer.measure,
    "metrics": metrics_layer.measure,
    "traces": tracing_layer.measure,
    "all": full_stack.measure,
}
"""The rows of each layer, measured with so many turns."""


def measure(runs: int) -> Rows:
    return [row for rows in LAYERS.values() for row in rows(runs)]


def _more(runs: int, bare: Callable[[], Awaitable[Any]], layered: Callable[[], Awaitable[Any]]) -> str:
    """How much longer ``layered`` takes, by the fastest of so many turns of each, taken in turn."""

    async def turn(call: Callable[[], Awaitable[Any]]) -> float:
        began = time.perf_counter()
        for _ in range(2000):
            await call()
        return (time.perf_counter() - began) / 2000 * 1e6

    async def turns() -> str:
        each = [(await turn(bare), await turn(layered)) for _ in range(runs)]
        return f"{min(most for _, most in each) - min(least for least, _ in each):.1f} µs"

    return asyncio.run(turns())


def _validation(runs: int) -> Rows:
    from storage_lib.backends.memory import MemoryBackend
    from storage_lib.config.validation import Rule, ValidationOptions
    from storage_lib.layers.validation import ValidationLayer
    from storage_lib.ports.drivers import PutOptions

    schema = {"type": "object", "properties": {"model": {"type": "string"}}, "required": ["model"]}
    rules = tuple(Rule(prefix=f"{n}/", max_bytes=9) for n in range(20))
    rules += (Rule(prefix="schema/", schema=schema), Rule(prefix="quota/", quota_objects=1000))
    data, options = b'{"model": "' + b"m" * 1000 + b'"}', PutOptions("application/json", {}, "x")
    memory = MemoryBackend()
    layer: Any = ValidationLayer(memory, ValidationOptions(rules=rules)).objects.driver
    layer.inner.put = _stored

    def more(key: str) -> str:
        return _more(runs, lambda: layer.inner.put(key, data, options), lambda: layer.put(key, data, options))

    return [
        ("validation: a put of a key without rules, more than without the layer", more("other/a"), "<= 2 µs"),
        ("validation: a put of 1 KiB under a small schema, more", more("schema/a"), ""),
        ("validation: a put under a quota, more", more("quota/a"), ""),
    ]


async def _stored(key: str, data: bytes, options: Any) -> Any:
    from storage_lib.ports.object_model import PutResult

    return PutResult(key, "e", len(data), False)


LAYERS["validation"] = _validation
