"""`SyncConversations`: `Conversations` for code without async."""

from __future__ import annotations

from storage_lib.blocking import Twin, called, listed
from storage_lib.conversations.log import Conversations
from storage_lib.conversations.model import TABLE
from storage_lib.sync import SyncStorageManager

__all__ = ["SyncConversations"]


class SyncConversations(Twin[Conversations]):
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
        log = Conversations(
            storage._of,  # pyright: ignore[reportPrivateUsage]
            table=table,
            ttl=ttl,
            max_messages=max_messages,
            max_age=max_age,
            messages_as_objects=messages_as_objects,
        )
        super().__init__(log, storage._blocking)  # pyright: ignore[reportPrivateUsage]

    append = called(Conversations.append)
    read = called(Conversations.read)
    read_with_info = called(Conversations.read_with_info)
    pop = called(Conversations.pop)
    clear = called(Conversations.clear)
    compact = called(Conversations.compact)
    replace = called(Conversations.replace)
    describe = called(Conversations.describe)
    change = called(Conversations.change)
    delete = called(Conversations.delete)
    fork = called(Conversations.fork)
    list = listed(Conversations.list)
    page = called(Conversations.page)
    export = called(Conversations.export)
    sweep = called(Conversations.sweep)
