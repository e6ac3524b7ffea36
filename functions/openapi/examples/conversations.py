"""Conversations."""

from __future__ import annotations

from typing import Any

from functions.openapi.examples import Example

_AT = "2026-11-30T08:00:00.000000Z"
_PATH = {"key": "boardroom/session_001"}
_QUERY = {"key": "boardroom/a%FFb"}
_MESSAGE = {"id": "m1", "role": "ceo", "content": "What is the forecast?"}
_APPENDED: dict[str, Any] = {
    "position": 1,
    "positions": [1],
    "ids": ["m1"],
    "added": 1,
    "etag": "1.1.6f3a7b8c",
}
_ENTRY: dict[str, Any] = {"position": 1, "id": "m1", "message": _MESSAGE, "at": _AT}
_BODY: dict[str, Any] = {"messages": [_MESSAGE], "participants": ["ceo", "cfo"], "topic": "forecast"}


def _conversation(key: str, **others: Any) -> dict[str, Any]:
    return {
        "id": key,
        "position": 1,
        "count": 1,
        "participants": ["ceo", "cfo"],
        "topic": "forecast",
        "metadata": {},
        "created_at": _AT,
        "updated_at": _AT,
        "expires_at": None,
        "ttl_seconds": None,
        "max_messages": None,
        "max_age_seconds": None,
        "etag": "1.1.6f3a7b8c",
    } | others


_OF_PATH, _OF_QUERY = _conversation("boardroom/session_001"), _conversation("boardroom/a%FFb")

EXAMPLES: dict[str, tuple[Example, ...]] = {
    "extend_conversation": (
        Example(
            name="the first message",
            path=_PATH,
            headers={"If-Match": '"0"'},
            body=_BODY,
            answer=_APPENDED,
        ),
    ),
    "by_query_extend_conversation": (
        Example(name="of an id that a path cannot carry", query=_QUERY, body=_BODY, answer=_APPENDED),
    ),
    "read_conversation": (
        Example(
            name="the newest messages",
            path=_PATH,
            query={"last": "20"},
            answer={"conversation": _OF_PATH, "entries": [_ENTRY]},
            after=("extend_conversation",),
        ),
        Example(name="one that is not there", path={"key": "boardroom/none"}, status=404),
    ),
    "head_read_conversation": (Example(name="its ETag", path=_PATH, after=("extend_conversation",)),),
    "list_conversations": (
        Example(
            name="of a participant",
            query={"participant": "ceo", "prefix": "boardroom/s"},
            answer={"conversations": [_OF_PATH], "cursor": None},
            after=("extend_conversation",),
        ),
        Example(
            name="one whose id a path cannot carry",
            query=_QUERY,
            answer={"conversation": _OF_QUERY, "entries": [_ENTRY]},
            after=("by_query_extend_conversation",),
        ),
    ),
    "head_list_conversations": (Example(name="with a topic", query={"topic": "forecast"}),),
    "change_conversation": (
        Example(
            name="another topic, and an end",
            path=_PATH,
            body={"topic": "budget", "ttl_seconds": 86400},
            answer=_OF_PATH | {"topic": "budget", "ttl_seconds": 86400.0, "expires_at": _AT},
            after=("extend_conversation",),
        ),
    ),
    "by_query_change_conversation": (
        Example(
            name="metadata",
            query=_QUERY,
            body={"metadata": {"room": 1}},
            answer=_OF_QUERY | {"metadata": {"room": 1}},
            after=("by_query_extend_conversation",),
        ),
    ),
    "edit_conversation": (
        Example(
            name="a copy",
            path=_PATH,
            body={"do": "fork", "to": "boardroom/copy"},
            status=201,
            answer={"conversation": _conversation("boardroom/copy")},
            after=("extend_conversation",),
        ),
    ),
    "by_query_edit_conversation": (
        Example(
            name="the newest message is taken back",
            query=_QUERY,
            body={"do": "pop"},
            answer={"conversation": _OF_QUERY | {"count": 0}, "entry": _ENTRY},
            after=("by_query_extend_conversation",),
        ),
    ),
    "delete_conversation": (
        Example(name="with its messages", path=_PATH, status=204, after=("extend_conversation",)),
    ),
    "by_query_delete_conversation": (
        Example(name="likewise", query=_QUERY, status=204, after=("by_query_extend_conversation",)),
    ),
}
