"""Messages of queues."""

from __future__ import annotations

from typing import Any

from functions.openapi.examples import Example

_QUEUE = {"queue": "reviews"}
_ID = "3c1f0a52-c3b9-4e0f-8a6b-5c4d3e2f1a09"
_RECEIPT = "AgAAAAMAAAAAAAAAexample"
_MESSAGE: dict[str, Any] = {
    "id": _ID,
    "body": "configs/ceo.json",
    "dequeue_count": 0,
    "inserted_at": "2026-11-30T08:00:00.000000Z",
    "expires_at": "2026-12-01T08:00:00.000000Z",
}

EXAMPLES: dict[str, tuple[Example, ...]] = {
    "send_message": (
        Example(
            name="a text that waits for a day at most",
            path=_QUEUE,
            body={"body": "configs/ceo.json", "ttl_seconds": 86400},
            status=201,
            answer={"id": _ID},
        ),
    ),
    "list_queues": (
        Example(
            name="queues of one kind",
            query={"prefix": "rev"},
            answer={"queues": [{"name": "reviews", "owner": None}], "cursor": None},
            after=("send_message",),
        ),
        Example(
            name="how many messages are in each",
            query={"prefix": "rev", "lengths": "true"},
            answer={
                "queues": [
                    {
                        "name": "reviews",
                        "owner": None,
                        "length": 1,
                        "oldest_at": "2026-11-30T08:00:00.000000Z",
                    }
                ],
                "cursor": None,
            },
            after=("send_message",),
        ),
    ),
    "head_list_queues": (Example(name="whether queues can be listed"),),
    "queue_length": (
        Example(
            name="how many wait",
            path=_QUEUE,
            answer={"queue": "reviews", "length": 1},
            after=("send_message",),
        ),
    ),
    "head_queue_length": (Example(name="whether there is one", path=_QUEUE, after=("send_message",)),),
    "peek_messages": (
        Example(name="the next", path=_QUEUE, answer={"messages": [_MESSAGE]}, after=("send_message",)),
    ),
    "head_peek_messages": (Example(name="whether there is one", path=_QUEUE, after=("send_message",)),),
    "receive_messages": (
        Example(
            name="up to 32, for a minute",
            path=_QUEUE,
            query={"max_messages": "32", "visibility_timeout": "60"},
            answer={
                "messages": [
                    {
                        **_MESSAGE,
                        "receipt": _RECEIPT,
                        "next_visible_at": "2026-11-30T08:01:00.000000Z",
                        "dequeue_count": 1,
                    }
                ]
            },
            after=("send_message",),
        ),
    ),
    "delete_message": (
        Example(
            name="what was received",
            path={**_QUEUE, "message_id": _ID},
            query={"receipt": _RECEIPT},
            status=204,
            after=("send_message", "receive_messages"),
        ),
    ),
}

_SAME_QUEUE = {"queue": "$request.path.queue"}
_RECEIVED = {
    **_SAME_QUEUE,
    "message_id": "$response.body#/messages/0/id",
    "receipt": "$response.body#/messages/0/receipt",
}
LINKS: dict[tuple[str, int], dict[str, Any]] = {
    ("send_message", 201): {
        "length": {"operationId": "queue_length", "parameters": _SAME_QUEUE},
        "peek": {"operationId": "peek_messages", "parameters": _SAME_QUEUE},
        "receive": {"operationId": "receive_messages", "parameters": _SAME_QUEUE},
    },
    ("receive_messages", 200): {"delete": {"operationId": "delete_message", "parameters": _RECEIVED}},
}
