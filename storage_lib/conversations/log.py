"""`Conversations`: append, read and manage the conversations of a store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Unpack, overload

from storage_lib.arguments import whole
from storage_lib.conversations import compacting, forking, listing, options, reading
from storage_lib.conversations.appending import Append
from storage_lib.conversations.chores import Chores
from storage_lib.conversations.head import Head
from storage_lib.conversations.index import Index, facets_of
from storage_lib.conversations.messages import MOST_INLINE_BYTES, checked_messages, summary_message
from storage_lib.conversations.model import (
    MAX_READ,
    TABLE,
    Appended,
    Compacted,
    Conversation,
    ConversationPage,
    Entry,
    EntryRange,
    check_state,
    missing,
)
from storage_lib.conversations.retention import Retention
from storage_lib.conversations.rows import MAX_POSITION
from storage_lib.conversations.store import Conflict, Plan, Store, afterwards, pauses
from storage_lib.errors import InvalidArgumentError, KeyNotFoundError
from storage_lib.ports.listed import Listed
from storage_lib.ports.object_model import KEPT, Kept
from storage_lib.ports.portable import Stationary
from storage_lib.ports.table_model import Delete, Entity, TableOperation

if TYPE_CHECKING:
    from storage_lib.manager import StorageManager

_NOTHING: Any = object()

type Summarise = Callable[[list[dict[str, Any]]], dict[str, Any] | Awaitable[dict[str, Any]]]
"""Makes one message of several: a function or a coroutine function."""


class Conversations(Stationary):
    """Conversations in the tables of a storage. Any number of processes may use them at once.

        log = Conversations(storage)
        appended = await log.append("chats/42", [{"role": "user", "content": "Hello"}], participants=["ceo"])
        await log.append("chats/42", [{"role": "assistant", "content": "Hi"}], if_position=appended.position)
        entries = await log.read("chats/42", last=20)

    The id of a conversation follows the grammar of keys (`storage_lib.keys`). Where the storage is that of
    one caller with an access policy, its rights to objects of these names hold: ``load`` to read, ``save``
    to append, ``delete`` to clear and delete, ``list`` to list; what also answers with what is there, such as
    `pop` and `change`, needs ``load`` too.

    :param table: the table that has them, and their index.
    :param ttl: seconds from the last append after which a conversation that is created here is gone; None
        means never.
    :param max_messages: how many of the newest messages one that is created here keeps; None means all.
    :param max_age: for how many seconds it keeps each message; None means for ever.
    :param messages_as_objects: keep the messages that are appended here as objects, whatever their size, so
        that an encryption layer encrypts them. Each costs a request more to append and to read.
    :raises UnsupportedOperationError: by every method, if the storage has no tables: S3 alone has none.
    """

    def __init__(
        self,
        storage: StorageManager,
        *,
        table: str = TABLE,
        ttl: float | None = None,
        max_messages: int | None = None,
        max_age: float | None = None,
        messages_as_objects: bool = False,
    ) -> None:
        self._defaults = options.checked(ttl=ttl, max_messages=max_messages, max_age=max_age)
        self._most_inline = 0 if messages_as_objects else MOST_INLINE_BYTES
        self._store = Store(storage.backend.reach(), table)
        self._index = Index(self._store.tables, table)
        self._retention = Retention(self._store)
        self._chores = Chores(self._store, self._index, self._retention)

    # -- messages

    async def append(
        self,
        conversation: str,
        messages: Iterable[Mapping[str, Any]],
        *,
        ids: Iterable[str | None] | None = None,
        if_position: int | None = None,
        if_match: str | None = None,
        participants: Iterable[str] | None = None,
        topic: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        ttl: float | None = None,
    ) -> Appended:
        """Append messages, all of them or none; a conversation that does not exist is created.

        A message with an id is appended once: if one with this id is there, its position is the result, and
        only the others are appended. So an append whose answer was lost can be made again. An id is known as
        long as its message is there.

        :param messages: JSON objects; at most 5,000. An empty list creates the conversation, or only sets
            what follows.
        :param ids: instead of the ``id`` of each message; None has one made, which is always a new message.
        :param if_position: append only if this is the position of the last message (0 if there is none), and
            so no other has come since it was read.
        :param if_match: append only if the conversation has this `Conversation.etag`.
        :param participants: join those that there are.
        :param topic: replaces the topic.
        :param metadata: its members join or replace those that there are.
        :param ttl: seconds from now, and from each append that follows, after which the conversation is gone.
        :raises PreconditionFailedError: the position is another one, or an id is that of another message;
            nothing was appended.
        """
        given = checked_messages(messages, ids, self._most_inline)
        wanted = options.checked(
            participants=KEPT if participants is None else participants,
            topic=KEPT if topic is None else topic,
            metadata=KEPT if metadata is None else metadata,
            ttl=KEPT if ttl is None else ttl,
        )
        if if_position is not None:
            if_position = whole("if_position", if_position, 0, MAX_POSITION)
        stored = await self._stored(conversation, "save")
        call = Append(
            *(self._store, self._index, self._chores, conversation, stored, given),
            *(if_position, if_match, wanted, self._defaults),
        )
        async with self._store.turn(stored):
            appended, head = await call.run()
            await self._retention.after_append(stored, head)
        return appended

    async def read(self, conversation: str, **which: Unpack[EntryRange]) -> list[Entry]:
        """Return messages, oldest first; without arguments all of them.

        :param which: ``last`` takes only as many of the newest (alone it is one request for up to 999),
            ``limit`` only as many of the oldest, ``after`` and ``before`` only those behind and before a
            position.
        :raises KeyNotFoundError: there is no such conversation.
        """
        return (await self.read_with_info(conversation, **which))[0]

    async def read_with_info(
        self,
        conversation: str,
        *,
        last: int | None = None,
        after: int | None = None,
        before: int | None = None,
        limit: int | None = None,
    ) -> tuple[list[Entry], Conversation]:
        """`read`, and what `describe` says, at the same moment."""
        if last is not None and limit is not None:
            raise InvalidArgumentError("last and limit exclude each other", field="limit", remedy="give one")
        last = None if last is None else whole("last", last, 0, MAX_READ)
        limit = None if limit is None else whole("limit", limit, 0, MAX_READ)
        behind = 0 if after is None else whole("after", after, 0, MAX_POSITION)
        until = None if before is None else whole("before", before, 0, MAX_POSITION)
        stored = await self._stored(conversation, "load")
        if last is not None and after is None and before is None:
            head, rows = await reading.newest(self._store, self._retention, stored, last)
            if head is None:
                raise missing(conversation)
        else:
            head = await self._need(conversation, stored)
            rows = await reading.between(
                self._store, self._retention, stored, head, behind, until, last, limit
            )
        entries = await self._store.entries(stored, rows)
        return entries, head.shown(conversation, await self._retention.count(stored, head))

    @overload
    async def pop(
        self, conversation: str, *, if_position: int | None = None, if_match: str | None = None
    ) -> Entry: ...
    @overload
    async def pop[Default](
        self,
        conversation: str,
        *,
        if_position: int | None = None,
        if_match: str | None = None,
        default: Default,
    ) -> Entry | Default: ...
    async def pop(
        self,
        conversation: str,
        *,
        if_position: int | None = None,
        if_match: str | None = None,
        default: Any = _NOTHING,
    ) -> Any:
        """Remove the newest message and return it. Its position is not given again; its id may be used again.

        :param if_position: as in `append`, and so is ``if_match``.
        :param default: returned if there is no message; without it that is an error.
        :raises KeyNotFoundError: there is no such conversation, whatever was expected of it, or it is empty.
        :raises PreconditionFailedError: the position is another one.
        """
        if if_position is not None:
            if_position = whole("if_position", if_position, 0, MAX_POSITION)
        stored = await self._stored(conversation, "load", "delete")

        async def plan(head: Head | None, token: str, conflict: Conflict | None) -> Plan[Entry]:
            head, rows = await reading.newest(self._store, self._retention, stored, 1)
            if head is None:
                raise missing(conversation)
            check_state(conversation, head.position, head.public_etag, if_position, if_match)
            entries = await self._store.entries(stored, rows)
            if not entries:
                raise KeyNotFoundError(f"conversation {conversation!r} has no messages", field="conversation")
            wanted = head.after(token, self._store.now(), count=head.count - 1, erased=head.erased + 1)
            removal: list[TableOperation] = [Delete(rows[0].row_key)]
            popped.append(rows[0])
            return head, wanted, removal, entries[0]

        popped: list[Entity] = []
        try:
            async with self._store.turn(stored):
                head, entry = await self._store.change(stored, plan, fresh=True, reads=True)
        except KeyNotFoundError:
            if default is _NOTHING:
                raise
            return default
        with afterwards(stored):
            await self._store.forget(stored, head.generation, popped[-1])
        return entry

    async def clear(
        self, conversation: str, *, if_position: int | None = None, if_match: str | None = None
    ) -> int:
        """Remove all messages and return how many there were. The conversation stays, and so does its
        position.

        :param if_position: as in `append`, and so is ``if_match``.
        :raises KeyNotFoundError: there is no such conversation, whatever was expected of it.
        :raises PreconditionFailedError: the position or the ETag is another one.
        """
        if if_position is not None:
            if_position = whole("if_position", if_position, 0, MAX_POSITION)
        stored = await self._stored(conversation, "delete")

        async def plan(head: Head | None, token: str, conflict: Conflict | None) -> Plan[int]:
            if head is None or head.is_over(self._store.now()):
                raise missing(conversation)
            check_state(conversation, head.position, head.public_etag, if_position, if_match)
            count = await self._retention.count(stored, head)
            changes = {"first": head.position + 1, "count": 0, "erased": head.erased + 1}
            return head, head.after(token, self._store.now(), **changes), [], count

        async with self._store.turn(stored):
            head, count = await self._store.change(stored, plan, fresh=True)
            with afterwards(stored):
                await self._retention.removed(stored, head)
        return count

    async def compact(self, conversation: str, summarise: Summarise, *, keep: int) -> Compacted | None:
        """Replace all but the newest messages by one, and return it; None if there are no more than ``keep``.

        Messages that are appended meanwhile stay. The summary has the position of the last message that it
        replaces.

        :param summarise: makes one message of the ones to be replaced, oldest first. It is called again only
            if some of them were removed meanwhile.
        :param keep: how many of the newest messages stay as they are.
        :raises KeyNotFoundError: there is no such conversation.
        """
        keep = whole("keep", keep, 0, MAX_READ)
        stored = await self._stored(conversation, "load", "save", "delete")

        async def summary_of(messages: list[dict[str, Any]]) -> dict[str, Any]:
            made = summarise(messages)
            return await made if isawaitable(made) else made

        return await compacting.compact(
            self._store,
            self._retention,
            self._chores,
            conversation,
            stored,
            summary_of,
            keep,
            self._most_inline,
        )

    async def replace(
        self,
        conversation: str,
        message: Mapping[str, Any],
        *,
        until: int,
        if_position: int | None = None,
        if_match: str | None = None,
    ) -> Compacted:
        """Put one message in the place of all messages up to a position: `compact`, for those who have the
        summary. Messages that are appended meanwhile stay.

        :param until: the position of the last message that is replaced, which the new one gets.
        :param if_position: as in `append`, and so is ``if_match``.
        :raises KeyNotFoundError: there is no such conversation, or no message at this position.
        """
        until = whole("until", until, 1, MAX_POSITION)
        if if_position is not None:
            if_position = whole("if_position", if_position, 0, MAX_POSITION)
        stored = await self._stored(conversation, "save", "delete")
        summary = summary_message("message", message, self._most_inline)
        return await compacting.replace(
            *(self._store, self._retention, self._chores),
            *(conversation, stored, summary, until, if_position, if_match),
        )

    # -- conversations

    async def describe(self, conversation: str) -> Conversation:
        """Return the conversation without its messages; `Conversation.count` says how many there are.

        :raises KeyNotFoundError: there is no such conversation.
        """
        stored = await self._stored(conversation, "load")
        head = await self._need(conversation, stored)
        return head.shown(conversation, await self._retention.count(stored, head))

    async def change(
        self,
        conversation: str,
        *,
        participants: Iterable[str] | Kept = KEPT,
        topic: str | Kept | None = KEPT,
        metadata: Mapping[str, Any] | Kept = KEPT,
        ttl: float | Kept | None = KEPT,
        max_messages: int | Kept | None = KEPT,
        max_age: float | Kept | None = KEPT,
        if_match: str | None = None,
    ) -> Conversation:
        """Replace what is given, and return the conversation.

        :param ttl: seconds from now, and from each append that follows; None means that it stays.
        :param max_messages: keep only as many of the newest messages; None means all.
        :param max_age: keep each message only for so many seconds; None means for ever.
        :param if_match: change it only if it has this `Conversation.etag`.
        :raises KeyNotFoundError: there is no such conversation.
        :raises PreconditionFailedError: it has another ETag.
        """
        wanted = options.checked(
            participants=participants,
            topic=topic,
            metadata=metadata,
            ttl=ttl,
            max_messages=max_messages,
            max_age=max_age,
        )
        stored = await self._stored(conversation, "load", "save")
        told: set[str] = set()

        async def plan(head: Head | None, token: str, conflict: Conflict | None) -> Plan[None]:
            now = self._store.now()
            if head is None or head.is_over(now):
                raise missing(conversation)
            check_state(conversation, head.position, head.public_etag, None, if_match)
            changes = wanted.applied(head, adding=False)
            if "ttl" in wanted.given:
                changes["expires"] = options.expiry(now, wanted.given["ttl"])
            after = head.after(token, now, **changes)
            there = {*told, *facets_of(head.participants, head.topic)}
            facets = [each for each in facets_of(after.participants, after.topic) if each not in there]
            await self._index.add(stored, head.generation, facets)
            told.update(facets)
            if changes.keys() & {"ttl", "max_age"}:
                await self._chores.watch(stored, after)
            return head, after, [], None

        async with self._store.turn(stored):
            head, _ = await self._store.change(stored, plan, fresh=True)
        return head.shown(conversation, await self._retention.count(stored, head))

    async def delete(
        self, conversation: str, *, if_match: str | None = None, missing_ok: bool = False
    ) -> None:
        """Delete the conversation with its messages. It is gone at once; what it took is removed then.

        :param if_match: delete it only if it has this `Conversation.etag`.
        :param missing_ok: it is no error if there is none.
        :raises KeyNotFoundError: there is no such conversation.
        :raises PreconditionFailedError: it has another ETag.
        """
        stored = await self._stored(conversation, "delete")
        async with self._store.turn(stored):
            chore = ""
            for pause in pauses():
                head = await self._store.head(stored)
                if head is None or head.is_over(self._store.now()):
                    if missing_ok or chore:
                        return
                    raise missing(conversation)
                check_state(conversation, head.position, head.public_etag, None, if_match)
                chore = chore or await self._chores.add(stored, head.generation)
                if await self._chores.end(stored, head):
                    break
                await asyncio.sleep(pause)
            else:
                raise self._store.beset(stored)
            with afterwards(stored):
                await self._store.remove_generation(stored, head.generation)
                await self._chores.done(chore)

    async def fork(self, conversation: str, to: str, *, until: int | None = None) -> Conversation:
        """Copy the conversation with its messages under another id, where each keeps its position, and return
        the copy. It appears when it is complete.

        :param until: only the messages up to this position, which becomes the position of the copy.
        :raises KeyNotFoundError: there is no such conversation.
        :raises PreconditionFailedError: there is one with the other id, or ``until`` is beyond the position.
        """
        until = None if until is None else whole("until", until, 0, MAX_POSITION)
        source = await self._stored(conversation, "load")
        target = await self._stored(to, "save")
        head = await forking.fork(
            *(self._store, self._index, self._retention, self._chores),
            *(conversation, source, to, target, until),
        )
        return head.shown(to, head.count)

    def list(
        self, *, participant: str | None = None, topic: str | None = None, prefix: str = ""
    ) -> Listed[Conversation]:
        """List conversations, the one that was created last first: ``async for`` streams them, ``await``
        returns a list. The arguments are those of `page`."""

        async def found() -> AsyncGenerator[Conversation]:
            cursor = None
            while True:
                page = await self.page(participant=participant, topic=topic, prefix=prefix, cursor=cursor)
                for each in page.conversations:
                    yield each
                if (cursor := page.cursor) is None:
                    return

        return Listed(found)

    async def page(
        self,
        *,
        participant: str | None = None,
        topic: str | None = None,
        prefix: str = "",
        limit: int = 100,
        cursor: str | None = None,
    ) -> ConversationPage:
        """Return a page of conversations, the one that was created last first. It costs a request for the
        page and one for each conversation.

        :param participant: only those that it takes part in.
        :param topic: only those with this topic.
        :param prefix: only those whose ids begin so.
        :param limit: at most as many, 1 to 1,000.
        :param cursor: that of the previous page of the same listing.
        """
        return await listing.page(
            self._store, self._index, self._retention, participant, topic, prefix, limit, cursor
        )

    async def export(self, conversation: str) -> dict[str, Any]:
        """Return the whole conversation as one JSON document: ``conversation_id``, ``participants``,
        ``messages`` and ``metadata``, with ``topic`` and ``created_at`` in it.

        :raises KeyNotFoundError: there is no such conversation.
        """
        entries, found = await self.read_with_info(conversation)
        own = {"created_at": found.created_at.isoformat()} | ({"topic": found.topic} if found.topic else {})
        return {
            "conversation_id": conversation,
            "participants": [*found.participants],
            "messages": [each.message for each in entries],
            "metadata": {**found.metadata, **own},
        }

    async def sweep(self, limit: int = 1000, *, seconds: float = 60) -> int:
        """Remove conversations and messages whose life is over, and what interrupted calls have left behind.
        The app does so every minute. Any number of sweeps may run at once.

        :param limit: look at most at as many conversations.
        :param seconds: begin with no other after this time.
        :return: how many were looked at.
        """
        return await self._chores.sweep(whole("limit", limit, 1), seconds)

    # -- names

    async def _stored(self, conversation: str, *actions: str) -> str:
        return options.check_id(conversation, await self._store.reach.stored(conversation, *actions))

    async def _need(self, conversation: str, stored: str) -> Head:
        head = await self._store.head(stored)
        if head is None or head.is_over(self._store.now()):
            raise missing(conversation)
        return head
