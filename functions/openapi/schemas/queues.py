"""Messages of queues."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired, TypedDict

from msgspec import Meta, Struct

from functions.openapi.schemas import Moment, NextPage
from functions.openapi.schemas.tables import NamedResource

_BASE64 = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
_SEVEN_DAYS = 7 * 24 * 3600


class ListedQueue(NamedResource):
    """A queue in a list."""

    length: NotRequired[Annotated[int, Meta(ge=0, description="How many messages are in it, if asked for.")]]
    oldest_at: NotRequired[
        Annotated[Moment | None, Meta(description="Since when the next visible message is in it.")]
    ]


class QueuePage(TypedDict):
    """Queues that the caller may use, by name."""

    queues: list[ListedQueue]
    cursor: NextPage


class Queue(TypedDict):
    """A queue, and how many messages are in it."""

    queue: str
    length: Annotated[int, Meta(ge=0)]


_Delay = Annotated[
    Annotated[float, Meta(ge=0, le=_SEVEN_DAYS)] | None, Meta(description="How long it is hidden at first.")
]
_TimeToLive = Annotated[
    Annotated[float, Meta(gt=0, le=2**31 - 1)] | None,
    Meta(description="After how long it is dropped unread; null: never."),
]


class NewMessage(Struct, forbid_unknown_fields=True, kw_only=True):
    """A message to send."""

    body: Annotated[str, Meta(description="Text.")]
    encoding: None = None
    delay_seconds: _Delay = None
    ttl_seconds: _TimeToLive = None


class NewBinaryMessage(Struct, forbid_unknown_fields=True, kw_only=True):
    """A message of bytes to send."""

    body: Annotated[str, Meta(pattern=_BASE64, description="Base64.")]
    encoding: Literal["base64"]
    delay_seconds: _Delay = None
    ttl_seconds: _TimeToLive = None


class SentMessage(TypedDict):
    """The message was sent."""

    id: str


class Message(TypedDict):
    """A message."""

    id: str
    body: str
    encoding: NotRequired[
        Annotated[Literal["base64"], Meta(description="The body is base64: it is no text.")]
    ]
    receipt: NotRequired[Annotated[str, Meta(description="Deletes it, if it was received.")]]
    next_visible_at: NotRequired[Moment]
    dequeue_count: Annotated[int, Meta(description="How often it was received.")]
    inserted_at: Moment
    expires_at: Moment


class Messages(TypedDict):
    """Messages, in no guaranteed order."""

    messages: list[Message]
