"""The tracing layer: a span for each operation of a caller."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from storage_lib import tracing
from storage_lib.errors import TransientStorageError
from storage_lib.layers.base import Layer, Operation
from storage_lib.ports.backend import StorageBackend
from storage_lib.ports.hints import REPEATED, within
from storage_lib.ports.object_model import PutResult, StoredObject
from storage_lib.tracing import Span, SpanKind

_SETTLES = frozenset({"delete", "update"})
_TYPES = {"send": "send", "receive": "receive", "peek": "receive"}


class TracingLayer(Layer):
    """Makes a span for each operation, named by the conventions for databases and messaging.

    A span has the key of an object, the name of a table or queue, and sizes; never a value, metadata, a
    message, or the keys of an entity. Attempts that are repeated are its events. A stream or listing is one
    span until its first part is there.

    :param system: where objects are stored, as in ``StorageConfig.storage_type``.
    :param tables_and_queues: where tables and queues are, if elsewhere.
    """

    portable = True
    traced = True

    def __init__(self, inner: StorageBackend, system: str, tables_and_queues: str | None = None) -> None:
        super().__init__(inner)
        self._system = system
        self._second = tables_and_queues or system

    async def around[T](self, operation: Operation, call: Callable[[], Awaitable[T]], /) -> T:
        if not tracing.has_sdk():
            return await call()
        name = operation.name
        of_objects = operation.port == "objects"
        target = "objects" if of_objects else operation.target
        span = tracing.start(
            f"{name} {target}".rstrip(), SpanKind.CLIENT, self._attributes(operation, target)
        )
        if not span.is_recording():
            return await call()
        with within(REPEATED, _Events(span)), tracing.entered(span):
            result = await call()
            _measure(span, operation, result)
            return result

    def _attributes(self, operation: Operation, target: str) -> dict[str, str | int | bool]:
        name = operation.name
        if operation.port == "queues":
            found: dict[str, str | int | bool] = {
                "messaging.system": self._second,
                "messaging.operation.name": name,
                "messaging.destination.name": target,
            }
            kind = "settle" if name in _SETTLES else _TYPES.get(name)
            return found if kind is None else {**found, "messaging.operation.type": kind}
        is_table = operation.port == "tables"
        found = {
            "db.system.name": self._second if is_table else self._system,
            "db.operation.name": name,
            "db.collection.name": target,
        }
        if not is_table:
            found["agent_storage.object.key"] = operation.target
        elif name == "batch":
            found["db.operation.batch.size"] = len(operation.arguments[1])
        return found


class _Events:
    """Turns repeated attempts into events of a span."""

    __slots__ = ("_span",)

    def __init__(self, span: Span) -> None:
        self._span = span

    def __call__(self, attempt: int, error: TransientStorageError, delay: float) -> None:
        if self._span.is_recording():  # A fill of the cache may outlive the operation that began it.
            self._span.add_event(
                "retry",
                {
                    "agent_storage.attempt": attempt,
                    "agent_storage.delay": delay,
                    "error.type": tracing.error_type(error),
                },
            )


def _measure(span: Span, operation: Operation, result: Any) -> None:
    if isinstance(result, PutResult):
        span.set_attribute("agent_storage.object.size", result.size)
    elif isinstance(result, StoredObject):
        span.set_attribute("agent_storage.object.size", len(result.data))
    elif operation.port == "queues" and isinstance(result, list):
        span.set_attribute("messaging.batch.message_count", len(result))  # pyright: ignore[reportUnknownArgumentType]
