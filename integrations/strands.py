"""Strands Agents keep their sessions, memories and offloaded context in a `StorageManager`.

pip install "agent-storage[strands]"
"""

# It conflicts with other frameworks, so the type checker does not see it.
# pyright: reportMissingImports=false, reportUntypedBaseClass=false

from __future__ import annotations

import builtins
import re
from collections.abc import Generator
from contextlib import contextmanager

from strands.storage import Storage
from strands.types.exceptions import StorageError as StrandsStorageError

import storage_lib
from storage_lib import StorageManager, from_path, to_path


class AgentStorage(Storage):
    """Bytes under keys: a ``Storage`` of Strands, on which ``SnapshotSessionManager`` and whatever else of
    Strands keeps something can be.

        sessions = SnapshotSessionManager("user-42", storage=AgentStorage(storage))
        agent = Agent(session_manager=sessions)

    Keys are normalised as by the storages that Strands brings, and are any text otherwise; a part of one is
    encoded (`to_path`) where keys of objects cannot have it. Searches score words of all keys below
    ``prefix``, as in Strands. The storage stays open; who made it closes it.

    :param prefix: where the objects are.
    :param ttl: seconds after which what was not written again is gone; None keeps it.
    """

    def __init__(self, storage: StorageManager, *, prefix: str = "strands", ttl: float | None = None) -> None:
        self._storage = storage
        self._prefix = "".join(f"{each}/" for each in prefix.split("/") if each)
        self._ttl = ttl

    async def write(self, key: str, data: bytes) -> None:
        """Store bytes in the place of what is there.

        :raises strands.types.exceptions.StorageError: the key is invalid, or it failed; the cause says why.
        """
        with _failing(f"write {key!r:.200}"):
            await self._storage.write(self._key(key), data, ttl=self._ttl)

    async def read(self, key: str) -> bytes | None:
        """The bytes under a key, or None."""
        with _failing(f"read {key!r:.200}"):
            try:
                return (await self._storage.read(self._key(key), fresh=True)).data
            except storage_lib.KeyNotFoundError:
                return None

    async def delete(self, key: str) -> None:
        """Delete what is under a key, if there is something."""
        with _failing(f"delete {key!r:.200}"):
            await self._storage.delete(self._key(key), missing_ok=True)

    async def list(self, query: str = "") -> builtins.list[str]:
        """The keys that begin with a text, in order."""
        with _failing(f"list {query!r:.200}"):
            wanted = _normal(query).lstrip("/")
            folder, slash, _ = wanted.rpartition("/")
            below = f"{self._prefix}{to_path(folder) if slash else ''}{slash}"
            keys = [_path(key.removeprefix(self._prefix)) async for key in self._storage.list_keys(below)]
            return sorted(key for key in keys if key.startswith(wanted))

    def _key(self, key: str) -> str:
        if not (normal := _normal(key).strip("/")):
            raise StrandsStorageError("Storage key must not be empty")
        return self._prefix + to_path(normal)


def _normal(key: str) -> str:
    normal = re.sub(r"/+", "/", key)
    if "\\" in key or ".." in normal.split("/"):
        raise StrandsStorageError(f"Invalid storage key {key!r:.200}: it has a backslash or a '..' segment")
    return normal


def _path(key: str) -> str:
    try:
        return from_path(key)
    except storage_lib.InvalidArgumentError:
        return key  # Stored by another way.


@contextmanager
def _failing(to: str) -> Generator[None]:
    try:
        yield
    except storage_lib.StorageError as error:
        raise StrandsStorageError(f"Failed to {to}: {error.explained()}") from error
