"""`SyncConversations`: `Conversations` for code without async.

Written by ``python -m tests.sync_source`` from the methods of `Conversations`; a test says when to run it.
"""

# pyright: reportOverlappingOverload=false

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Unpack, overload

from storage_lib.blocking import Listing
from storage_lib.conversations.log import (
    _NOTHING,  # pyright: ignore[reportPrivateUsage]
    Conversations,
    Summarise,
)
from storage_lib.conversations.model import (
    TABLE,
    Appended,
    Compacted,
    Conversation,
    ConversationPage,
    Entry,
    EntryRange,
)
from storage_lib.ports.object_model import KEPT, Kept
from storage_lib.sync import SyncStorageManager

__all__ = ["SyncConversations"]


class SyncConversations:
    """`Conversations` for code without async, with the same methods, on a `SyncStorageManager`.

        log = SyncConversations(storage)
        log.append("chats/42", [{"role": "user", "content": "Hello"}], participants=["ceo"])
        entries = log.read("chats/42", last=20)

    Any number of threads may use it at once.
    """

    def __init__(
        self,
        storage: SyncStorageManager,
        *,
        table: str = TABLE,
        ttl: float | None = None,
        max_messages: int | None = None,
        max_age: float | None = None,
        messages_as_objects: bool = False,
    ) -> None:
        """The parameters are those of `Conversations`."""
        self._log = Conversations(
            storage._storage,  # pyright: ignore[reportPrivateUsage]
            table=table,
            ttl=ttl,
            max_messages=max_messages,
            max_age=max_age,
            messages_as_objects=messages_as_objects,
        )
        self._blocking = storage._blocking  # pyright: ignore[reportPrivateUsage]

    def append(
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
        return self._blocking.call(
            self._log.append(
                conversation,
                messages,
                ids=ids,
                if_position=if_position,
                if_match=if_match,
                participants=participants,
                topic=topic,
                metadata=metadata,
                ttl=ttl,
            )
        )

    def read(self, conversation: str, **which: Unpack[EntryRange]) -> list[Entry]:
        """Return messages, oldest first; without arguments all of them.

        :param which: ``last`` takes only as many of the newest (alone it is one request for up to 999),
            ``limit`` only as many of the oldest, ``after`` and ``before`` only those behind and before a
            position.
        :raises KeyNotFoundError: there is no such conversation.
        """
        return self._blocking.call(self._log.read(conversation, **which))

    def read_with_info(
        self,
        conversation: str,
        *,
        last: int | None = None,
        after: int | None = None,
        before: int | None = None,
        limit: int | None = None,
    ) -> tuple[list[Entry], Conversation]:
        """`read`, and what `describe` says, at the same moment."""
        return self._blocking.call(
            self._log.read_with_info(conversation, last=last, after=after, before=before, limit=limit)
        )

    @overload
    def pop(
        self, conversation: str, *, if_position: int | None = None, if_match: str | None = None
    ) -> Entry: ...

    @overload
    def pop[Default](
        self,
        conversation: str,
        *,
        if_position: int | None = None,
        if_match: str | None = None,
        default: Default,
    ) -> Entry | Default: ...

    def pop(
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
        :raises KeyNotFoundError: there is no such conversation, or no message in it.
        :raises PreconditionFailedError: the position is another one.
        """
        return self._blocking.call(
            self._log.pop(conversation, if_position=if_position, if_match=if_match, default=default)
        )

    def clear(self, conversation: str, *, if_position: int | None = None, if_match: str | None = None) -> int:
        """Remove all messages and return how many there were. The conversation stays, and so does its
        position.

        :param if_position: as in `append`, and so is ``if_match``.
        :raises KeyNotFoundError: there is no such conversation.
        """
        return self._blocking.call(self._log.clear(conversation, if_position=if_position, if_match=if_match))

    def compact(self, conversation: str, summarise: Summarise, *, keep: int) -> Compacted | None:
        """Replace all but the newest messages by one, and return it; None if there are no more than ``keep``.

        Messages that are appended meanwhile stay. The summary has the position of the last message that it
        replaces.

        :param summarise: makes one message of the ones to be replaced, oldest first. It is called again only
            if some of them were removed meanwhile.
        :param keep: how many of the newest messages stay as they are.
        :raises KeyNotFoundError: there is no such conversation.
        """
        return self._blocking.call(self._log.compact(conversation, summarise, keep=keep))

    def replace(
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
        return self._blocking.call(
            self._log.replace(conversation, message, until=until, if_position=if_position, if_match=if_match)
        )

    def describe(self, conversation: str) -> Conversation:
        """Return the conversation without its messages; `Conversation.count` says how many there are.

        :raises KeyNotFoundError: there is no such conversation.
        """
        return self._blocking.call(self._log.describe(conversation))

    def change(
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
        return self._blocking.call(
            self._log.change(
                conversation,
                participants=participants,
                topic=topic,
                metadata=metadata,
                ttl=ttl,
                max_messages=max_messages,
                max_age=max_age,
                if_match=if_match,
            )
        )

    def delete(self, conversation: str, *, if_match: str | None = None, missing_ok: bool = False) -> None:
        """Delete the conversation with its messages. It is gone at once; what it took is removed then.

        :param if_match: delete it only if it has this `Conversation.etag`.
        :param missing_ok: it is no error if there is none.
        :raises KeyNotFoundError: there is no such conversation.
        :raises PreconditionFailedError: it has another ETag.
        """
        return self._blocking.call(self._log.delete(conversation, if_match=if_match, missing_ok=missing_ok))

    def fork(self, conversation: str, to: str, *, until: int | None = None) -> Conversation:
        """Copy the conversation with its messages under another id, where each keeps its position, and return
        the copy. It appears when it is complete.

        :param until: only the messages up to this position, which becomes the position of the copy.
        :raises KeyNotFoundError: there is no such conversation.
        :raises PreconditionFailedError: there is one with the other id, or ``until`` is beyond the position.
        """
        return self._blocking.call(self._log.fork(conversation, to, until=until))

    def list(
        self, *, participant: str | None = None, topic: str | None = None, prefix: str = ""
    ) -> Listing[Conversation]:
        """List conversations, the one that was created last first: ``async for`` streams them, ``await``
        returns a list. The arguments are those of `page`.
        """
        return Listing(self._blocking, self._log.list(participant=participant, topic=topic, prefix=prefix))

    def page(
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
        return self._blocking.call(
            self._log.page(participant=participant, topic=topic, prefix=prefix, limit=limit, cursor=cursor)
        )

    def export(self, conversation: str) -> dict[str, Any]:
        """Return the whole conversation as one JSON document: ``conversation_id``, ``participants``,
        ``messages`` and ``metadata``, with ``topic`` and ``created_at`` in it.

        :raises KeyNotFoundError: there is no such conversation.
        """
        return self._blocking.call(self._log.export(conversation))

    def sweep(self, limit: int = 1000, *, seconds: float = 60) -> int:
        """Remove conversations and messages whose life is over, and what interrupted calls have left behind.
        The app does so every minute. Any number of sweeps may run at once.

        :param limit: look at most at as many conversations.
        :param seconds: begin with no other after this time.
        :return: how many were looked at.
        """
        return self._blocking.call(self._log.sweep(limit, seconds=seconds))
