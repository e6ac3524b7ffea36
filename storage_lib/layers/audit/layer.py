"""`AuditLayer`: the entries of each operation."""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Callable

from storage_lib.config.audit import AuditOptions
from storage_lib.layers.audit.entries import Entry
from storage_lib.layers.audit.objects import AuditedObjects
from storage_lib.layers.audit.recording import Recorder
from storage_lib.layers.base import Layer, Operation
from storage_lib.ports.backend import StorageBackend
from storage_lib.ports.drivers import ObjectDriver


class AuditLayer(Layer):
    """A layer that records who did what.

    An entry is written when an operation has ended. With ``on_failure="refuse"`` an entry of the kind
    ``intent`` is written before each write, which is refused if that fails; what is read is not handed out
    if its entry cannot be written. The table of the entries is written inside this layer and those around it,
    which do not see it.
    """

    portable = True

    def __init__(self, inner: StorageBackend, options: AuditOptions) -> None:
        self.options = options
        self.recorder = Recorder(inner, options)
        super().__init__(inner)
        _living.append(weakref.ref(self, _living.remove))

    def object_layer(self, inner: ObjectDriver) -> ObjectDriver:
        return AuditedObjects(inner, self.recorder)

    async def open(self) -> None:
        await super().open()
        await self.recorder.open()

    async def close(self) -> None:
        try:
            await self.recorder.close()
        finally:
            await super().close()

    async def around[T](self, operation: Operation, call: Callable[[], Awaitable[T]], /) -> T:
        return await self.recorder.audited(operation, call)

    async def log(self, entry: Entry) -> None:
        """Write an entry of a program's own.

        :raises AuditUnavailableError: it cannot be written, and the options do not let that pass.
        """
        await self.recorder.record(entry, must=self.recorder.is_strict)


_living: list[weakref.ref[AuditLayer]] = []


def newest() -> AuditLayer | None:
    """The layer that was made last and is still in use."""
    for reference in reversed(_living):
        if (layer := reference()) is not None and not layer.recorder.is_closed:
            return layer
    return None
