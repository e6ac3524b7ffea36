"""Microsoft Agent Framework keeps its histories, workflow checkpoints, sessions and files in a
`StorageManager`.

    pip install "agent-storage[agent-framework]"

Each class takes the place of the framework's own for files: `StorageHistory` of ``FileHistoryProvider``,
`StorageCheckpoints` of ``FileCheckpointStorage``, `StorageSessions` of ``FileSessionStore``, `StorageFiles`
of ``FileSystemAgentFileStore``. Their errors are those of the framework where it has one, else those of
`storage_lib`. The storage stays open; who made it closes it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import warnings
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

from agent_framework import (
    AgentFileStore,
    AgentSession,
    FileStoreEntry,
    HistoryProvider,
    Message,
    SessionStore,
    WorkflowCheckpoint,
    WorkflowCheckpointException,
)
from agent_framework._sessions import filter_new_messages
from agent_framework._workflows._checkpoint_encoding import decode_checkpoint_value, encode_checkpoint_value

from storage_lib import StorageManager, from_path, from_segment, newest_first, to_path, to_segment
from storage_lib.conversations import Conversations
from storage_lib.conversations.batches import batch_ids
from storage_lib.errors import (
    InvalidArgumentError,
    InvalidKeyError,
    KeyNotFoundError,
    PreconditionFailedError,
    SerializationError,
    TransientStorageError,
)

logger = logging.getLogger(__name__)

_ATTEMPTS = 1000
_MOST_PAUSE = 0.05


class StorageHistory(HistoryProvider):
    """The messages of each session, as a conversation that several processes may append to at once.

        agent = Agent(client, context_providers=[StorageHistory(storage)])

    As in the framework's own providers, messages of which the end of the history is the beginning are taken
    for those: an agent may be given the whole transcript again, and a save whose answer was lost may be
    made again. A save reads as many messages as it saves, however long the history is.

    :param storage: of memory, files or Azure; or a `Conversations` that was made of one.
    :param prefix: of the ids of the conversations; see `conversation_of`.
    :param ttl: seconds after the last message after which a history is gone; None keeps it.
    :param skip_excluded: leave out messages that a compaction has marked ``_excluded``.
    :param options: of ``HistoryProvider``: ``load_messages``, ``store_inputs``, …
    """

    def __init__(
        self,
        storage: StorageManager | Conversations,
        *,
        source_id: str = "agent_storage",
        prefix: str = "agent-framework",
        ttl: float | None = None,
        skip_excluded: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(source_id, **options)
        self._log = storage if isinstance(storage, Conversations) else Conversations(storage)
        self._prefix = prefix.strip("/")
        self._ttl = ttl
        self.skip_excluded = skip_excluded

    def conversation_of(self, session_id: str | None) -> str:
        """The id of the conversation with the messages of a session; those without one share ``default``.

        :raises InvalidKeyError: the id is longer than 255 bytes.
        """
        return "/".join(filter(None, (self._prefix, to_segment(session_id or "default"))))

    async def get_messages(
        self, session_id: str | None, *, state: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[Message]:
        """The messages of a session, oldest first."""
        try:
            entries = await self._log.read(self.conversation_of(session_id))
        except KeyNotFoundError:
            return []
        messages = [Message.from_dict(entry.message) for entry in entries]
        if not self.skip_excluded:
            return messages
        return [each for each in messages if not each.additional_properties.get("_excluded", False)]

    async def save_messages(
        self,
        session_id: str | None,
        messages: Sequence[Message],
        *,
        state: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Append the messages that are not there yet, all of them or none.

        :raises SerializationError: one has a value that JSON has not.
        """
        conversation = self.conversation_of(session_id)
        for _ in range(_ATTEMPTS if messages else 0):
            # One more tells whether these are all: only then can they be the beginning of what is saved.
            try:
                entries, head = await self._log.read_with_info(conversation, last=len(messages) + 1)
            except KeyNotFoundError:
                entries, position = [], 0
            else:
                position = head.position
            there = [Message.from_dict(entry.message) for entry in entries]
            new = [each.to_dict() for each in filter_new_messages(there, messages)]
            if not new:
                return
            ids = batch_ids(new) if any(each.get("message_id") for each in new) else [None] * len(new)
            try:
                await self._log.append(conversation, new, ids=ids, if_position=position, ttl=self._ttl)
                return
            except PreconditionFailedError:  # Somebody else has appended.
                await asyncio.sleep(random.uniform(0, _MOST_PAUSE))  # noqa: S311 - no secret
        if messages:
            raise TransientStorageError(
                f"conversation {conversation!r} was changed by others {_ATTEMPTS} times in a row",
                remedy="save the messages again",
            )


class StorageCheckpoints:
    """Workflow checkpoints: a ``CheckpointStorage`` of which several processes may use one.

    A checkpoint is one object, ``PREFIX/ids/ID``, and an empty one, ``PREFIX/workflows/NAME/TIME/ID``,
    lists it for its workflow, the newest first: loading takes one request, and finding the latest takes
    two.

    :param prefix: where they are kept.
    :param allowed_checkpoint_types: classes of your own in checkpoints, each as ``"module:qualname"``,
        beside those that the framework restores.
    :param ttl: seconds after which a checkpoint is gone; None keeps it.
    """

    def __init__(
        self,
        storage: StorageManager,
        *,
        prefix: str = "agent-framework/checkpoints",
        allowed_checkpoint_types: Iterable[str] = (),
        ttl: float | None = None,
    ) -> None:
        self._storage = storage
        self._prefix = "".join(f"{each}/" for each in prefix.split("/") if each)
        self._allowed = frozenset(allowed_checkpoint_types)
        self._ttl = ttl

    async def save(self, checkpoint: WorkflowCheckpoint) -> str:
        """Store a checkpoint, in the place of one with the same id; returns its id.

        :raises WorkflowCheckpointException: it has a value that this storage could not restore, an id or
            a name of more than 255 bytes, or no valid timestamp. Nothing was stored.
        """
        identity = checkpoint.checkpoint_id
        try:
            encoded = encode_checkpoint_value(checkpoint.to_dict())
            decode_checkpoint_value(encoded, allowed_types=self._allowed)
            key, entry = self._key(identity), self._entry(encoded)
        except WorkflowCheckpointException:
            raise
        except Exception as error:
            raise WorkflowCheckpointException(f"Checkpoint {identity} cannot be stored: {error}") from error
        try:
            await self._storage.save(key, encoded, if_absent=True, ttl=self._ttl)
        except PreconditionFailedError:
            earlier = await self._storage.load(key, default=None, fresh=True)
            await self._storage.save(key, encoded, ttl=self._ttl)
            if earlier is not None and (stale := self._entry(earlier)) != entry:
                await self._storage.delete(stale, missing_ok=True)
        except SerializationError as error:
            raise WorkflowCheckpointException(f"Checkpoint {identity} cannot be stored: {error}") from error
        await self._storage.write(entry, b"", ttl=self._ttl)
        return identity

    async def load(self, checkpoint_id: str) -> WorkflowCheckpoint:
        """The checkpoint with an id.

        :raises WorkflowCheckpointException: there is none, or it has a type that is not allowed.
        """
        found = None
        if (key := self._key_or_none(checkpoint_id)) is not None:
            found = await self._storage.load(key, default=None, fresh=True)
        if found is None:
            raise WorkflowCheckpointException(f"No checkpoint found with ID {checkpoint_id}")
        return self._decoded(found)

    async def list_checkpoints(self, *, workflow_name: str) -> list[WorkflowCheckpoint]:
        """Those of a workflow, the oldest first. As in the framework's own storages, those that this one
        could not restore are left out, with a warning in the log."""
        entries = [entry async for entry in self._entries(workflow_name)]
        keys = [self._key(from_segment(entry.rpartition("/")[2])) for entry in entries]
        found = await self._storage.load_many(keys, default=None, raise_errors=True, fresh=True)
        pairs = zip(entries, keys, strict=True)
        decoded = [self._listed(entry, found[key]) for entry, key in pairs]
        return [checkpoint for checkpoint in reversed(decoded) if checkpoint is not None]

    async def list_checkpoint_ids(self, *, workflow_name: str) -> list[str]:
        """The ids of `list_checkpoints`."""
        return [each.checkpoint_id for each in await self.list_checkpoints(workflow_name=workflow_name)]

    async def get_latest(self, *, workflow_name: str) -> WorkflowCheckpoint | None:
        """The checkpoint of a workflow with the latest timestamp, or None if it has none."""
        async for entry in self._entries(workflow_name):
            key = self._key(from_segment(entry.rpartition("/")[2]))
            latest = self._listed(entry, await self._storage.load(key, default=None, fresh=True))
            if latest is not None:
                return latest
        return None

    async def delete(self, checkpoint_id: str) -> bool:
        """Delete a checkpoint; whether there was one."""
        key = self._key_or_none(checkpoint_id)
        found = None if key is None else await self._storage.load(key, default=None, fresh=True)
        if key is None or found is None:
            return False
        await self._storage.delete(self._entry(found), missing_ok=True)
        try:
            await self._storage.delete(key)
        except KeyNotFoundError:
            return False
        return True

    async def _entries(self, workflow_name: str) -> AsyncIterator[str]:
        try:
            prefix = f"{self._prefix}workflows/{to_segment(workflow_name)}/"
        except InvalidKeyError:
            return  # Nothing was stored under such a name.
        async for entry in self._storage.list_keys(prefix):
            yield entry

    def _listed(self, entry: str, found: Any) -> WorkflowCheckpoint | None:
        # An entry may be left behind by a process that ended while it replaced or deleted its
        # checkpoint.
        if found is None or self._entry(found) != entry:
            return None
        try:
            return self._decoded(found)
        except WorkflowCheckpointException as error:
            logger.warning("checkpoint %s is left out: %s", found["checkpoint_id"], error)
            return None

    def _decoded(self, found: Any) -> WorkflowCheckpoint:
        return WorkflowCheckpoint.from_dict(decode_checkpoint_value(found, allowed_types=self._allowed))

    def _key(self, checkpoint_id: str) -> str:
        return f"{self._prefix}ids/{to_segment(checkpoint_id)}"

    def _key_or_none(self, checkpoint_id: str) -> str | None:
        try:
            return self._key(checkpoint_id)
        except InvalidKeyError:
            return None

    def _entry(self, checkpoint: Mapping[str, Any]) -> str:
        when = datetime.fromisoformat(checkpoint["timestamp"])
        when = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
        name, identity = to_segment(checkpoint["workflow_name"]), to_segment(checkpoint["checkpoint_id"])
        return f"{self._prefix}workflows/{name}/{newest_first(when)}/{identity}"


# The two interfaces below are experimental in the framework, which says so to whoever subclasses them.
# Users of the others would be told at the import.
with warnings.catch_warnings(action="ignore", category=FutureWarning):

    class StorageSessions(SessionStore):
        """Snapshots of ``AgentSession``, one object each; the last one that is set stays. The framework
        calls this interface experimental.

        :param prefix: where they are kept.
        :param ttl: seconds after which a session that was not set again is gone; None keeps it.
        """

        def __init__(
            self,
            storage: StorageManager,
            *,
            prefix: str = "agent-framework/sessions",
            ttl: float | None = None,
        ) -> None:
            self._storage = storage
            self._prefix = "".join(f"{each}/" for each in prefix.split("/") if each)
            self._ttl = ttl

        async def get(self, session_id: str) -> AgentSession | None:
            """A copy of the session, or None if there is none.

            :raises ValueError: the id is empty or too long, or what is stored is not a session.
            """
            key = self._key(session_id)
            found = await self._storage.load(key, default=None, fresh=True)
            if found is None:
                return None
            if not isinstance(found, dict) or "session_id" not in found:
                raise SerializationError(f"object {key!r} is not the snapshot of a session")
            return AgentSession.from_dict(cast("dict[str, Any]", found))

        async def set(self, session_id: str, session: AgentSession) -> None:
            """Store a session in the place of the one with this id.

            :raises ValueError: the id is empty or longer than 255 bytes, or the state has a value
                without a codec (``register_state_type``). Nothing was stored.
            :raises TypeError: it is of a subclass, which could not be restored.
            """
            key = self._key(session_id)
            if type(session) is not AgentSession:
                raise TypeError(
                    f"a {type(session).__name__} would come back as an AgentSession; store one of those"
                )
            snapshot = session.to_dict()
            if isinstance(service := snapshot["service_session_id"], Mapping):
                snapshot["service_session_id"] = dict(cast("Mapping[str, Any]", service))
            await self._storage.save(key, snapshot, ttl=self._ttl)

        async def delete(self, session_id: str) -> None:
            """Delete a session, if there is one."""
            await self._storage.delete(self._key(session_id), missing_ok=True)

        def _key(self, session_id: str) -> str:
            self.validate_session_id(session_id)
            return f"{self._prefix}{to_segment(session_id)}"

    class StorageFiles(AgentFileStore):
        """The files of an agent (``FileAccessProvider``), each an object of UTF-8 text below ``prefix``.
        The framework calls this interface experimental.

        A path is the key of its object where keys can have it; in other names ``=`` and two hex digits
        stand for a byte, as in `to_path`. So what was stored by other ways is there for the agent,
        and the reverse. Paths are case-sensitive. A folder exists while a file is in it; ``a`` and
        ``a/b`` may both be files.

        :param prefix: where they are kept.
        :param ttl: seconds after which a file that was not written again is gone; None keeps it.
        """

        def __init__(
            self, storage: StorageManager, *, prefix: str = "agent-framework/files", ttl: float | None = None
        ) -> None:
            self._storage = storage
            self._prefix = prefix.strip("/")
            self._ttl = ttl

        async def write(self, path: str, content: str, *, overwrite: bool = True) -> None:
            """Store a file.

            :raises FileExistsError: there is one, and ``overwrite`` is not set.
            :raises ValueError: the path leads out of the folder or is too long, or the text is not valid
                Unicode.
            """
            await self._storage.write(
                self._key(path),
                content.encode(),
                content_type="text/plain; charset=utf-8",
                if_absent=not overwrite,
                ttl=self._ttl,
            )

        async def read(self, path: str) -> str | None:
            """The text of a file, or None if there is none.

            :raises ValueError: it is not UTF-8 text.
            """
            try:
                found = await self._storage.read(self._key(path), fresh=True)
            except KeyNotFoundError:
                return None
            return found.data.decode()

        async def delete(self, path: str) -> bool:
            """Delete a file; whether there was one."""
            try:
                await self._storage.delete(self._key(path))
            except KeyNotFoundError:
                return False
            return True

        async def file_exists(self, path: str) -> bool:
            """Whether there is a file."""
            return await self._storage.exists(self._key(path), fresh=True)

        async def list_children(self, directory: str = "") -> list[FileStoreEntry]:
            """The folders in a folder, and then its files, each in the order of their keys."""
            prefix, cursor = self._folder(directory), None
            folders: list[FileStoreEntry] = []
            files: list[FileStoreEntry] = []
            while True:
                page = await self._storage.list_page(prefix, delimiter="/", cursor=cursor)
                for folder in page.prefixes:
                    name = _name(folder.removeprefix(prefix).removesuffix("/"))
                    folders.append(FileStoreEntry(name, FileStoreEntry.DIRECTORY))
                names = [_name(each.key.removeprefix(prefix)) for each in page.entries]
                files += [FileStoreEntry(name, FileStoreEntry.FILE) for name in names]
                if (cursor := page.cursor) is None:
                    return folders + files

        async def find_matching_files(
            self,
            directory: str,
            regex_pattern: str,
            glob_pattern: str | None = None,
            *,
            recursive: bool = False,
        ) -> list[str]:
            """The files in a folder, and with ``recursive`` in all below it, by one listing; `search`
            reads those whose names match."""
            prefix = self._folder(directory)
            if not recursive:
                return await super().find_matching_files(directory, regex_pattern, glob_pattern)
            keys = [key.removeprefix(prefix) async for key in self._storage.list_keys(prefix)]
            return ["/".join(map(_name, key.split("/"))) for key in keys]

        async def create_directory(self, path: str) -> None:
            """Does nothing: a folder is there when a file is in it."""
            _parts(path)

        def _key(self, path: str) -> str:
            parts = _parts(path)
            if not parts or path.rstrip().endswith(("/", "\\")):
                raise InvalidArgumentError(f"{path!r:.200} is not the path of a file", field="path")
            return "/".join(filter(None, (self._prefix, *map(to_path, parts))))

        def _folder(self, directory: str) -> str:
            return "".join(f"{each}/" for each in (self._prefix, *map(to_path, _parts(directory))) if each)


def _parts(path: str) -> list[str]:
    """The names in a path, by the rules of the framework's own stores."""
    path = path.strip()
    plain = path.replace("\\", "/")
    parts = [part for part in plain.split("/") if part]
    if plain.startswith("/") or (plain[1:2] == ":" and plain[0].isalpha()) or {".", ".."} & {*parts}:
        raise InvalidArgumentError(
            f"Invalid path: {path!r:.200}",
            field="path",
            limit="relative to the root of the files, without '.' and '..'",
        )
    return parts


def _name(segment: str) -> str:
    try:
        return from_path(segment)
    except InvalidArgumentError:
        return segment  # Stored by another way; it has no path here.
