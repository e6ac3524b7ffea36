"""Conversations: append-only logs of messages, for agents that share and resume them.

    log = Conversations(storage)
    await log.append("boardroom/session_001", [{"role": "ceo", "content": "What is the forecast?"}])
    entries = await log.read("boardroom/session_001", last=20)

A message is an entity of a table and an append is one request of its size, however long the conversation is.
Docs: docs/conversations.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from storage_lib.conversations.log import Conversations
from storage_lib.conversations.model import Appended, Compacted, Conversation, ConversationPage, Entry

if TYPE_CHECKING:
    from storage_lib.conversations.sync import SyncConversations

__all__ = [
    "Appended",
    "Compacted",
    "Conversation",
    "ConversationPage",
    "Conversations",
    "Entry",
    "SyncConversations",
]


def __getattr__(name: str) -> Any:
    if name == "SyncConversations":
        from storage_lib.conversations.sync import SyncConversations  # Only where it is used.

        return SyncConversations
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
