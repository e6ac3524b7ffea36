"""Stores that can be made unavailable, for tests of the fallback layer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

from storage_lib.errors import StorageUnavailableError, TransientStorageError
from storage_lib.layers.base import Around, Layer, ObjectLayer, Operation
from storage_lib.ports.backend import StorageBackend
from storage_lib.ports.drivers import ListOptions, ObjectDriver
from storage_lib.ports.object_model import ListEntry

WRITES = ("put", "put_stream", "delete", "copy", "touch")


def down() -> TransientStorageError:
    return StorageUnavailableError("connection refused")


def refused() -> TransientStorageError:
    """The store says that it did nothing."""
    return StorageUnavailableError("too busy", refused=True)


class Switched(Layer):
    """A store that is unavailable while `is_away` or while the file ``flag`` exists."""

    def __init__(self, inner: StorageBackend, flag: Path | None = None) -> None:
        self.away = False
        self.error: Callable[[], TransientStorageError] = down
        self.lose_responses = 0
        """So many writes are done, and their responses are lost."""
        self.calls = 0
        self.before: Callable[[], None] = lambda: None
        """Called before each operation."""
        self._flag = flag
        super().__init__(inner)

    def object_layer(self, inner: ObjectDriver) -> ObjectDriver:
        return _SwitchedObjects(inner, self.around, self.check)

    def check(self) -> None:
        self.calls += 1
        self.before()
        if self.away or (self._flag is not None and self._flag.exists()):
            raise self.error()

    async def around[T](self, operation: Operation, call: Callable[[], Awaitable[T]], /) -> T:
        self.check()
        result = await call()
        if self.lose_responses and operation.name in WRITES:
            self.lose_responses -= 1
            raise self.error()
        return result

    async def open(self) -> None:
        self.check()
        await super().open()


class _SwitchedObjects(ObjectLayer):
    """Bookkeeping is not spared."""

    def __init__(self, inner: ObjectDriver, around: Around, check: Callable[[], None]) -> None:
        super().__init__(inner, around)
        self._check = check

    @property
    def core(self) -> ObjectDriver:
        return self

    async def scan(self, prefix: str, options: ListOptions) -> AsyncGenerator[ListEntry | str]:
        if options.continued:  # `around` does not see it.
            self._check()
        async with aclosing(super().scan(prefix, options)) as found:
            async for one in found:
                yield one
