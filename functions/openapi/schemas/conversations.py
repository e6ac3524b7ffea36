"""Conversations."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from msgspec import UNSET, Meta, Struct, UnsetType

from functions.openapi.schemas import Moment, NextPage

_Position = Annotated[int, Meta(ge=0, description="Of the last message that was ever appended; 0: none.")]
_OfMessage = Annotated[int, Meta(ge=1, description="Positions count from 1 and are never given again.")]
_Name = Annotated[str, Meta(min_length=1, max_length=256)]
_Message = Annotated[
    dict[str, Any], Meta(description="Any JSON object. Its `id`, if it has one, makes it appended once.")
]
_Seconds = Annotated[float, Meta(ge=0, le=3_153_600_000)]
_Etag = Annotated[str, Meta(description="The ETag without its quotes; it begins with the position.")]
_Metadata = Annotated[dict[str, Any], Meta(description="At most 30,000 characters of JSON.")]


class Conversation(TypedDict):
    """A conversation without its messages."""

    id: str
    position: _Position
    count: Annotated[int, Meta(ge=0, description="How many messages there are now.")]
    participants: list[str]
    topic: str | None
    metadata: dict[str, Any]
    created_at: Moment
    updated_at: Moment
    expires_at: Moment | None
    ttl_seconds: Annotated[float | None, Meta(description="Counted from each append; null: it stays.")]
    max_messages: Annotated[int | None, Meta(description="How many of the newest are kept; null: all.")]
    max_age_seconds: Annotated[float | None, Meta(description="How long each is kept; null: for ever.")]
    etag: _Etag


class Entry(TypedDict):
    """A message in its conversation."""

    position: _OfMessage
    id: str
    message: dict[str, Any]
    at: Annotated[Moment, Meta(description="When it was appended.")]


class ConversationRead(TypedDict):
    """A conversation, and messages of it, oldest first."""

    conversation: Conversation
    entries: list[Entry]


class ConversationPage(TypedDict):
    """Conversations; the one that was created last comes first."""

    conversations: list[Conversation]
    cursor: NextPage


class NewMessages(Struct, forbid_unknown_fields=True, kw_only=True):
    """Messages to append, all or none of them, and what the conversation is."""

    messages: Annotated[list[_Message], Meta(max_length=5000)]
    ids: Annotated[
        list[str | int | None] | UnsetType | None,
        Meta(description="Instead of the `id` of each message; null has one made."),
    ] = UNSET
    participants: Annotated[
        Annotated[list[_Name], Meta(max_length=50)] | UnsetType | None,
        Meta(description="They join those that there are."),
    ] = UNSET
    topic: Annotated[
        Annotated[str, Meta(max_length=256)] | UnsetType | None, Meta(description="Replaces it.")
    ] = UNSET
    metadata: Annotated[
        _Metadata | UnsetType | None, Meta(description="Its members join or replace those that there are.")
    ] = UNSET
    ttl_seconds: Annotated[
        _Seconds | UnsetType | None,
        Meta(description="The conversation is gone so long after the last append."),
    ] = UNSET


class MessagesAppended(TypedDict):
    """Where the messages are."""

    position: _Position
    positions: list[_OfMessage]
    ids: list[str]
    added: Annotated[int, Meta(ge=0, description="How many were new; the others had been appended before.")]
    etag: _Etag


class ConversationChange(Struct, forbid_unknown_fields=True, kw_only=True):
    """What is to be replaced; null takes it away."""

    participants: Annotated[list[_Name], Meta(max_length=50)] | UnsetType | None = UNSET
    topic: Annotated[str, Meta(max_length=256)] | UnsetType | None = UNSET
    metadata: _Metadata | UnsetType | None = UNSET
    ttl_seconds: _Seconds | UnsetType | None = UNSET
    max_messages: Annotated[int, Meta(ge=1, le=1_000_000)] | UnsetType | None = UNSET
    max_age_seconds: Annotated[float, Meta(ge=1, le=3_153_600_000)] | UnsetType | None = UNSET


class ConversationEdit(Struct, forbid_unknown_fields=True, kw_only=True):
    """What is to be done."""

    do: Annotated[
        Literal["pop", "clear", "compact", "fork"],
        Meta(
            description="`pop`: remove the newest message; `clear`: remove all; `compact`: put `message`"
            " in the place of all up to the position `until`; `fork`: copy the conversation as `to`."
        ),
    ]
    until: Annotated[
        Annotated[int, Meta(ge=0, le=10**12)] | UnsetType | None,
        Meta(
            description="Of `compact` (where it is at least 1), and of `fork`: the last position that counts."
        ),
    ] = UNSET
    message: Annotated[dict[str, Any] | UnsetType, Meta(description="Of `compact`.")] = UNSET
    to: Annotated[
        Annotated[str, Meta(min_length=1, max_length=300)] | UnsetType, Meta(description="Of `fork`.")
    ] = UNSET


class ConversationEdited(TypedDict):
    """The conversation as it is now, or the copy, and the message that was popped or replaces others."""

    conversation: Conversation
    entry: NotRequired[Entry]
    removed: NotRequired[Annotated[int, Meta(ge=0)]]
