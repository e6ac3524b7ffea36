"""Everything in one folder: objects as files, tables and queues in SQLite. Nothing to install or start."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from storage_lib.backends.file.layout import DataFolder
from storage_lib.backends.file.objects import FileObjects
from storage_lib.backends.file.queues import FileQueues
from storage_lib.backends.file.sqlite import Database
from storage_lib.backends.file.tables import FileTables
from storage_lib.keys import user_key
from storage_lib.ports.backend import MessageEncoding, StorageBackend
from storage_lib.ports.listed import Listed
from storage_lib.ports.object_model import PutResult
from storage_lib.ports.objects import ObjectStore
from storage_lib.ports.queues import QueueStore
from storage_lib.ports.shortcuts import load_value, names_below, put_value
from storage_lib.ports.tables import TableStore


class FileStorageBackend(StorageBackend):
    """A folder that any number of threads, event loops and processes of one machine may share.

    A folder that vanishes while it is used (removed, unmounted) is unavailable, never empty, and is used
    again when it is back.

    Needs a POSIX system (`flock`) and a file system that keeps what it was told to sync; on a network file
    system both are its promise, not ours. Tables and queues are opened when first used.

    :param base_path: the folder; made if missing. What is in it stands in layout.py.
    :param message_encoding: of queue messages; ``"base64"`` is what the Functions queue trigger expects.
    :param clock: seconds since the epoch, for visibility, times to live, and timestamps of tables and queues.
    :param shared_group: whether the members of the folder's group may read and write what is in it. Otherwise
        nobody but its owner may: folders are 0700 and files 0600, whatever the umask is.
    """

    portable = True

    def __init__(
        self,
        base_path: str | os.PathLike[str],
        *,
        message_encoding: MessageEncoding = "base64",
        clock: Callable[[], float] = time.time,
        shared_group: bool = False,
    ) -> None:
        self.base_path = os.path.abspath(os.fspath(base_path))
        folder = DataFolder(self.base_path, shared_group)
        self._database = Database(lambda: folder.prepare().database, shared_group=shared_group)
        self._files = FileObjects(folder.prepare, clock)
        self.objects = ObjectStore(self._files)
        self.tables = TableStore(FileTables(self._database, clock))
        self.queues = QueueStore(FileQueues(self._database, message_encoding, clock))

    def __repr__(self) -> str:
        return f"FileStorageBackend({self.base_path!r})"

    def built_with(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """With the folder's whole path, which means the same in another working directory."""
        arguments, options = super().built_with()
        return arguments[1:], options | {"base_path": self.base_path}

    async def open(self) -> None:
        """Make the folder, or check that it is there, of a known version and open to this process.

        :raises StorageUnavailableError: it was there and is gone.
        :raises AccessDeniedError: the system refuses.
        :raises ConfigurationError: it is not a data folder that this version can use.
        """
        await self._files.open()

    async def close(self) -> None:
        """Finish what is being written, then release threads and the database."""
        await self._files.close()
        await self._database.close()

    # -- short methods for files

    async def write(self, path: str, data: Any) -> PutResult:
        """Store bytes, text or any value that values.py supports; it is durable when this returns. A
        file object or an async iterable of bytes is streamed.

        :raises InvalidKeyError: ``path`` is outside the grammar of keys.py (no ``..``, no leading slash).
        :raises SerializationError: the value could not be restored as it is; nothing was stored.
        """
        return await put_value(self.objects, path, data)

    async def read(self, path: str) -> Any:
        """Return what was written, with its type. A file of another program is read by its content type.

        :raises KeyNotFoundError: there is no such file.
        :raises IntegrityError: the bytes are not the ones that were written.
        """
        return await load_value(self.objects, path)

    async def delete(self, path: str) -> None:
        """Delete a file.

        :raises KeyNotFoundError: there is no such file.
        """
        await self.objects.delete(user_key(path))

    def list_files(self, prefix: str = "") -> Listed[str]:
        """List the paths that start with ``prefix``, in order: ``async for`` streams them, ``await``
        returns a list."""
        return names_below(self.objects, prefix)
