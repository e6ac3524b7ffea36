"""Everything in one folder: objects as files, tables and queues in SQLite. Nothing to install or start."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from storage_lib.backends.base import MessageEncoding, StorageBackend
from storage_lib.backends.file.layout import Layout, prepare
from storage_lib.backends.file.objects import FileObjectStore
from storage_lib.backends.file.queues import FileQueueStore
from storage_lib.backends.file.sqlite import Database
from storage_lib.backends.file.tables import FileTableStore


class FileStorageBackend(StorageBackend):
    """A folder that any number of threads, event loops and processes of one machine may share.

    Needs a POSIX system (`flock`) and a file system that keeps what it was told to sync; on a network file
    system both are its promise, not ours. Tables and queues are opened when first used.

    :param base_path: the folder; made if missing. What is in it stands in layout.py.
    :param message_encoding: of queue messages; ``"base64"`` is what the Functions queue trigger expects.
    :param clock: seconds since the epoch, for visibility, expiry and timestamps of tables and queues.
    """

    def __init__(
        self,
        base_path: str | os.PathLike[str],
        *,
        message_encoding: MessageEncoding = "base64",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.base_path = os.path.abspath(os.fspath(base_path))
        self._database = Database(lambda: self._prepare().database)
        self._files = FileObjectStore(self._prepare)
        self.objects = self._files
        self.tables = FileTableStore(self._database, clock)
        self.queues = FileQueueStore(self._database, message_encoding, clock)

    def _prepare(self) -> Layout:
        return prepare(self.base_path)

    async def open(self) -> None:
        """Make the folder, or check that it is there, of a known version and open to this process.

        :raises AccessDeniedError: the system refuses.
        :raises ConfigurationError: it is not a data folder that this version can use.
        """
        await self._files.open()

    async def close(self) -> None:
        """Finish what is being written, then release threads and the database."""
        await self._files.close()
        await self._database.close()
