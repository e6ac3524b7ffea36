"""Pydantic AI keeps its conversations in a `StorageManager`.

pip install "agent-storage[pydantic-ai]"
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from typing import Any

from pydantic import TypeAdapter
from pydantic_ai.conversation_store import (
    ConversationConflict,
    ConversationEntry,
    ConversationRecord,
    ConversationStore,
)
from pydantic_ai.messages import ModelMessagesTypeAdapter

from storage_lib import KeyNotFoundError, Loaded, PreconditionFailedError, StorageManager, to_segment

_RECORD = TypeAdapter(ConversationRecord)
_LINE = 64


class StorageConversations(ConversationStore):
    """Conversations, each a record, and each of their messages once; several processes may save at once.

        store = StorageConversations(storage)
        conversation = await store.load("ann") or Conversation(conversation_id="ann")
        await store.save(await agent.run("Hello", conversation=conversation))

    A save of a conversation that somebody else has saved since is a ``ConversationConflict``: a record is
    replaced only as it was read, on every backend. A listing takes a request for each 1,000 conversations and
    one for each that is returned. Deleting a conversation deletes its record and leaves its messages, which a
    fork may share; delete the objects below ``PREFIX/`` to erase everything. The storage stays open; who made
    it closes it.

    :param prefix: where the objects are.
    """

    def __init__(self, storage: StorageManager, *, prefix: str = "pydantic-ai") -> None:
        self._storage = storage
        self._prefix = "".join(f"{each}/" for each in prefix.split("/") if each)

    async def read_record(self, conversation_id: str) -> ConversationRecord | None:
        """The record of a conversation, or None."""
        found = await self._record(conversation_id)
        return None if found is None else _RECORD.validate_python(found.value)

    async def read_records(
        self, *, scope: str | None = None, limit: int | None = None
    ) -> Sequence[ConversationRecord]:
        """The records, or those of a scope, the last saved first."""
        wanted = None if scope is None else to_segment(scope)
        found: list[tuple[str, str]] = []
        async for entry in self._storage.list_objects(f"{self._prefix}records/"):
            metadata = {} if entry.info is None else entry.info.metadata
            if wanted is None or metadata.get("scope") == wanted:
                found.append((metadata.get("updated", ""), entry.key))
        keys = [key for _, key in sorted(found, reverse=True)[:limit]]
        loaded = await self._storage.load_many(keys, default=None, raise_errors=True, fresh=True)
        return [_RECORD.validate_python(loaded[key]) for key in keys if loaded[key] is not None]

    async def write_record(
        self,
        record: ConversationRecord,
        *,
        new_entries: Sequence[ConversationEntry] = (),
        expected_revision: str | None,
    ) -> None:
        """Store a record, and new entries before it. They stay if the record has changed meanwhile: it may
        be that it was stored, the answer was lost, and somebody else has gone on from it."""
        stored = await self._record(record.conversation_id)
        if (None if stored is None else stored.value["revision"]) != expected_revision:
            raise ConversationConflict(record.conversation_id)
        lines: dict[str | None, list[str]] = {}
        items: dict[str, Any] = {}
        for entry in new_entries:
            line = lines.get(entry.parent_id) or await self._line(entry.parent_id, record.conversation_id)
            (message,) = ModelMessagesTypeAdapter.dump_python([entry.message], mode="json")
            items[self._entry(entry.id)] = {
                "id": entry.id,
                "line": line,
                "message": message,
                "kind": entry.kind,
            }
            lines[entry.id] = [entry.id, *line][:_LINE]
        if record.head_id not in lines:
            await self._line(record.head_id, record.conversation_id)
        await self._storage.save_many(items, raise_errors=True)
        metadata = {"updated": record.updated_at.astimezone(UTC).isoformat()}
        if record.scope is not None:
            metadata["scope"] = to_segment(record.scope)
        condition: dict[str, Any] = {"if_absent": True} if stored is None else {"if_match": stored.etag}
        value = _RECORD.dump_python(record, mode="json")
        try:
            await self._storage.save(self._key(record.conversation_id), value, metadata=metadata, **condition)
        except PreconditionFailedError as error:
            raise ConversationConflict(record.conversation_id) from error

    async def delete_record(self, conversation_id: str, *, expected_revision: str) -> None:
        """Delete a record, but not the entries."""
        stored = await self._record(conversation_id)
        if stored is None or stored.value["revision"] != expected_revision:
            raise ConversationConflict(conversation_id)
        try:
            await self._storage.delete(self._key(conversation_id), if_match=stored.etag)
        except (KeyNotFoundError, PreconditionFailedError) as error:
            raise ConversationConflict(conversation_id) from error

    async def read_entry(self, entry_id: str) -> ConversationEntry:
        """An entry.

        :raises KeyError: there is none.
        """
        return _to_entry(await self._storage.load(self._entry(entry_id)))

    async def read_history(self, head_id: str | None, *, limit: int | None = None) -> list[ConversationEntry]:
        """The entries up to one, of which each names many before it, so that they are read many at a time."""
        newest: list[dict[str, Any]] = []
        line = [] if head_id is None else [head_id]
        while line and (limit is None or len(newest) < limit):
            keys = list(map(self._entry, line))[: None if limit is None else limit - len(newest)]
            found = await self._storage.load_many(keys, raise_errors=True)
            newest += [found[key] for key in keys]
            line = newest[-1]["line"]
        return [_to_entry(each) for each in reversed(newest)]

    async def _record(self, conversation_id: str) -> Loaded[Any] | None:
        try:
            return await self._storage.load_with_info(self._key(conversation_id), fresh=True)
        except KeyNotFoundError:
            return None

    async def _line(self, entry_id: str | None, conversation_id: str) -> list[str]:
        """An entry and those before it, the newest first."""
        if entry_id is None:
            return []
        try:
            found = await self._storage.load(self._entry(entry_id))
        except KeyNotFoundError as error:
            raise ConversationConflict(conversation_id) from error
        return [entry_id, *found["line"]][:_LINE]

    def _key(self, conversation_id: str) -> str:
        return f"{self._prefix}records/{to_segment(conversation_id)}"

    def _entry(self, entry_id: str) -> str:
        return f"{self._prefix}entries/{to_segment(entry_id)}"


def _to_entry(found: dict[str, Any]) -> ConversationEntry:
    (message,) = ModelMessagesTypeAdapter.validate_python([found["message"]])
    parent = found["line"][0] if found["line"] else None
    return ConversationEntry(id=found["id"], parent_id=parent, message=message, kind=found["kind"])
