"""Two backends as one: objects of the first, tables and queues of the second."""

from __future__ import annotations

from collections.abc import Mapping

from storage_lib.ports.backend import StorageBackend


class CombinedBackend(StorageBackend):
    """Objects in one backend, tables and queues in another: S3 with Azure, or with files.

    It opens and closes both; each keeps its own errors and guarantees.
    """

    portable = True

    def __init__(self, objects: StorageBackend, tables_and_queues: StorageBackend) -> None:
        self._parts = (objects, tables_and_queues)
        self.objects = objects.objects
        self.tables = tables_and_queues.tables
        self.queues = tables_and_queues.queues

    def __repr__(self) -> str:
        return f"CombinedBackend({self._parts[0]!r}, {self._parts[1]!r})"

    def inside(self) -> Mapping[str, StorageBackend]:
        objects, tables_and_queues = self._parts
        return {"objects": objects, "tables_and_queues": tables_and_queues}

    def system(self, port: str) -> str:
        objects, tables_and_queues = self._parts
        return (objects if port == "objects" else tables_and_queues).system(port)

    def place(self, port: str) -> str:
        objects, tables_and_queues = self._parts
        return (objects if port == "objects" else tables_and_queues).place(port)

    async def open(self) -> None:
        for part in self._parts:
            await part.open()

    async def close(self) -> None:
        first, second = self._parts
        try:
            await first.close()
        finally:
            await second.close()
