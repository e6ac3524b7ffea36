"""Where the policy of an app is kept, and its newest version: a file beside the app, or an object of its
store that no caller can reach."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

from storage_lib.access.policy import Policy
from storage_lib.errors import ConfigurationError, KeyNotFoundError, StorageError
from storage_lib.keys import SYSTEM_PREFIX

if TYPE_CHECKING:
    from storage_lib.manager import StorageManager

POLICY_KEY = f"{SYSTEM_PREFIX}access/policy.json"
"""The object with the policy, where it is kept in the store."""
IN_STORE = "store"
RELOAD_SECONDS = 10.0
"""How long a change may take to be noticed."""

_log = logging.getLogger("AOS.Access")


class PolicySource:
    """The policy of an app.

    :param where: the path of a file, or ``store``.
    :param storage: the whole store.
    """

    def __init__(self, where: str, storage: StorageManager) -> None:
        self._where = where
        self._storage = storage
        self._policy: Policy | None = None
        self._version: object = None
        self._checked = self._failed = 0.0
        self._failure: Exception | None = None
        self._turn = asyncio.Lock()

    async def current(self) -> Policy:
        """The policy, looked at again every `RELOAD_SECONDS`. While there is a valid one, a new one that
        cannot be read or meant is logged, and the old one stays in force.

        :raises ConfigurationError: there is no policy, or none that can be meant.
        :raises StorageError: it cannot be read.
        """
        if self._policy is not None and (
            time.monotonic() - self._checked < RELOAD_SECONDS or self._turn.locked()
        ):
            return self._policy
        asked = time.monotonic()
        async with self._turn:
            if self._policy is None and self._failure is not None and self._failed >= asked:
                # It was tried meanwhile: a crowd does not wait for one attempt after the other.
                raise self._failure.with_traceback(None)
            if self._policy is None or time.monotonic() - self._checked >= RELOAD_SECONDS:
                await self._load()
        assert self._policy is not None  # noqa: S101 - `_load` has raised otherwise
        return self._policy

    async def _load(self) -> None:
        try:
            found, version = await self._of_store() if self._where == IN_STORE else self._of_file()
            if found is not None:
                self._policy, self._version = Policy.parse(found), version
        except (StorageError, OSError) as error:
            if self._policy is None:
                self._failure, self._failed = error, time.monotonic()
                raise
            _log.error("the access policy cannot be renewed, and stays as it was: %s", error)
        self._checked, self._failure = time.monotonic(), None

    async def _of_store(self) -> tuple[bytes | None, object]:
        try:
            known = self._version if isinstance(self._version, str) else None
            found = await self._storage.backend.objects.get(POLICY_KEY, if_none_match=known, fresh=True)
        except KeyNotFoundError as error:
            raise ConfigurationError(
                "AGENT_STORAGE_ACCESS_POLICY is 'store', and the store has no policy",
                field="AGENT_STORAGE_ACCESS_POLICY",
                remedy="put one there: agent-storage access set POLICY.json",
            ) from error
        return (None, known) if found is None else (found.data, found.info.etag)

    def _of_file(self) -> tuple[bytes | None, object]:
        path = Path(self._where)
        try:
            status = path.stat()
            version = (status.st_mtime_ns, status.st_size, status.st_ino)
            return (None, version) if version == self._version else (path.read_bytes(), version)
        except OSError as error:
            raise ConfigurationError(
                f"the access policy {self._where!r} cannot be read: {error.strerror}",
                field="AGENT_STORAGE_ACCESS_POLICY",
                limit="the path of a file that the app may read, or 'store'",
            ) from error
