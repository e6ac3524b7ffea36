"""What callers see of conversations, and the limits."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypedDict

import msgspec

from storage_lib.errors import KeyNotFoundError, PreconditionFailedError
from storage_lib.reserved_names import CONVERSATIONS

TABLE = CONVERSATIONS
"""The table of all conversations of a store; in Table Storage its name may have letters and digits only."""
MAX_ID_CHARACTERS = 300
"""Of a conversation's id, which must fit into a partition key."""
MAX_NAME_CHARACTERS = 256
"""Of a participant's name, and of a topic."""
MAX_PARTICIPANTS = 50
MAX_METADATA_CHARACTERS = 30_000
"""Of the metadata as JSON: a property of an entity holds 32 Ki characters."""
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
MAX_APPENDED = 5000
"""Messages in one append."""
MAX_READ = 100_000


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A message in its conversation.

    Positions count from 1 and only ever grow: one that was popped or cleared is not given again. ``id`` is
    the message's own, or one that was made for it. ``at`` is when it was appended; it never goes back.
    """

    position: int
    id: str
    message: dict[str, Any]
    at: datetime


class EntryRange(TypedDict, total=False):
    """Which messages are read; `Conversations.read` says what each means."""

    last: int | None
    after: int | None
    before: int | None
    limit: int | None


class Appended(msgspec.Struct, frozen=True, kw_only=True):
    """What an append did.

    ``position`` is that of the conversation afterwards, for the next ``if_position``. ``positions`` and
    ``ids`` are those of the messages, in their order; ``added`` is how many of them were new: the others had
    been appended before, under the same ids.
    """

    position: int
    positions: tuple[int, ...]
    ids: tuple[str, ...]
    added: int
    etag: str


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation without its messages.

    ``position`` is the position of the last message that was ever appended, 0 for none; ``count`` is how many
    there are now. ``etag`` changes with every change, and is what ``if_match`` takes.
    """

    id: str
    position: int
    count: int
    participants: tuple[str, ...]
    topic: str | None
    metadata: Mapping[str, Any]
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None
    ttl: float | None
    max_messages: int | None
    max_age: float | None
    etag: str


class ConversationPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some conversations, newest first. Pass ``cursor`` for the next page; None means that there is
    none."""

    conversations: list[Conversation]
    cursor: str | None


class Compacted(msgspec.Struct, frozen=True, kw_only=True):
    """What a compaction did: the summary as it now stands in the place of ``replaced`` messages."""

    summary: Entry
    replaced: int


def missing(conversation: str) -> KeyNotFoundError:
    return KeyNotFoundError(f"conversation {conversation!r} does not exist", field="conversation")


def existing(conversation: str) -> PreconditionFailedError:
    return PreconditionFailedError(
        f"conversation {conversation!r} exists",
        field="to",
        remedy="fork to another id, or delete it first",
    )


def moved(conversation: str, expected: int, position: int) -> PreconditionFailedError:
    return PreconditionFailedError(
        f"conversation {conversation!r} is at position {position}, not {expected}",
        field="if_position",
        remedy=f"read what is after position {expected}, decide again, and expect {position}"
        if position > expected
        else f"expect {position}, the position of the last message",
    )


def check_state(
    conversation: str, position: int, etag: str, if_position: int | None, if_match: str | None
) -> None:
    """:param etag: of the conversation; "" if there is none.
    :raises PreconditionFailedError: it is not as the caller expects it.
    """
    if if_position is not None and if_position != position:
        raise moved(conversation, if_position, position)
    if if_match == "*":
        if not etag:
            raise PreconditionFailedError(
                f"conversation {conversation!r} does not exist",
                field="if_match",
                remedy="leave the condition out to create it",
            )
    elif if_match is not None and (if_match != etag or not etag):
        raise changed(conversation, str(if_match))


def changed(conversation: str, etag: str) -> PreconditionFailedError:
    return PreconditionFailedError(
        f"conversation {conversation!r} does not have the ETag {etag[:100]!r}",
        field="if_match",
        remedy="describe it again, decide again, and send its ETag",
    )
