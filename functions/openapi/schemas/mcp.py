"""Messages of the Model Context Protocol, and what its tools give that no route does."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from msgspec import Meta

from functions.openapi.schemas.batches import BatchResult
from functions.openapi.schemas.links import Link

MEDIA_TYPES = {"McpEvents": "text/event-stream"}


class McpMessage(TypedDict):
    """A message of JSON-RPC 2.0. One with `method` and `id` is a request, without `id` a notification; an
    answer has `result` or `error`."""

    jsonrpc: Literal["2.0"]
    id: NotRequired[Annotated[str | int | None, Meta(description="Of a request, and of its answer.")]]
    method: NotRequired[Annotated[str, Meta(examples=["tools/call"])]]
    params: NotRequired[dict[str, Any]]
    result: NotRequired[dict[str, Any]]
    error: NotRequired[dict[str, Any]]


McpEvents = Annotated[
    str,
    Meta(description="Server-sent events, whose data are `McpMessage`s: progress, and at last the answer."),
]


class LoadedObject(BatchResult):
    """What was loaded, and what is known of it."""

    link: NotRequired[
        Annotated[Link, Meta(description="By which it is loaded, where it is too large for a message.")]
    ]
