"""The layers that can be switched on, and stacks of them, for the contract tests of every store."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import combinations

from storage_lib.backends.memory import MemoryBackend
from storage_lib.config import StorageConfig
from storage_lib.config.audit import AuditOptions
from storage_lib.config.caching import CachingOptions
from storage_lib.config.compression import CompressionOptions
from storage_lib.config.encryption import EncryptionOptions
from storage_lib.config.fallback import FallbackOptions
from storage_lib.config.metrics import MetricsOptions
from storage_lib.config.validation import Rule, ValidationOptions
from storage_lib.layers.audit import AuditLayer
from storage_lib.layers.caching import CachingLayer
from storage_lib.layers.compression import CompressionLayer
from storage_lib.layers.encryption import EncryptionLayer
from storage_lib.layers.fallback import FallbackLayer
from storage_lib.layers.metrics import MetricsLayer
from storage_lib.layers.namespace import NamespaceLayer
from storage_lib.layers.tracing import TracingLayer
from storage_lib.layers.validation import ValidationLayer
from storage_lib.ports.backend import StorageBackend
from tests.spans import recording

SOAK = os.environ.get("SOAK") == "1"

AUDIT = AuditOptions(sink="log", operations="all", on_failure="refuse", key="k" * 32)
FALLBACK = FallbackOptions(
    secondary=StorageConfig(storage_type="memory"), writes="secondary", check_seconds=0
)
GENEROUS = ValidationOptions(
    rules=(
        Rule(prefix="nobody/stores/here/", schema=False, quota_objects=0),
        Rule(name="generous", max_bytes=10**13, quota_bytes=10**15, quota_objects=10**9, on_read=True),
    )
)


def traced(inner: StorageBackend) -> StorageBackend:
    """With an SDK, which records what the spans are given."""
    recording()
    return TracingLayer(inner, "memory")


LAYERS: dict[str, Callable[[StorageBackend], StorageBackend]] = {
    "namespace": lambda inner: NamespaceLayer(inner, "team2"),
    "fallback": lambda inner: FallbackLayer(inner, MemoryBackend(), FALLBACK),
    "encryption": lambda inner: EncryptionLayer(
        inner, EncryptionOptions(keys={"now": bytes(range(32))}, allow_plaintext_reads=True)
    ),
    "compression": lambda inner: CompressionLayer(inner, CompressionOptions(min_bytes=1)),
    "caching": lambda inner: CachingLayer(inner, CachingOptions(keep_writes=False)),
    "validation": lambda inner: ValidationLayer(inner, GENEROUS),
    "audit": lambda inner: AuditLayer(inner, AUDIT),
    "metrics": lambda inner: MetricsLayer(inner, MetricsOptions()),
    "traces": traced,
}
"""From inner to outer, as `storage_lib.factory` orders them; each lets through what other programs stored."""

Stack = tuple[str, ...]
ALONE: list[Stack] = [(name,) for name in LAYERS]
PAIRS: list[Stack] = list(combinations(LAYERS, 2))
FULL: Stack = tuple(LAYERS)
STACKS = [*ALONE, *PAIRS, FULL] if SOAK else [*ALONE, FULL]
STORING = ("namespace", "fallback", "encryption", "compression", "caching")
"""Layers that store something else than they were given, or elsewhere, or keep it; others let it through."""


def stacked(backend: StorageBackend, stack: Sequence[str]) -> StorageBackend:
    """``backend`` in these layers."""
    for name in stack:
        backend = LAYERS[name](backend)
    return backend


def named(stack: Stack) -> str:
    """The id of a test with this stack."""
    return "full" if stack == FULL else "+".join(stack)
