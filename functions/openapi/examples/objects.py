"""Objects."""

from __future__ import annotations

from typing import Any

from functions.openapi.examples import Example

_KEY = "configs/ceo.json"
_ETAG = "9b2c7d1e4f5a4c0d8e3f6a7b8c9d0e1f"
_SAVED = {"key": _KEY, "etag": _ETAG, "size": 34}
_CONFIG = {"model": "large", "temperature": 0}

EXAMPLES: dict[str, tuple[Example, ...]] = {
    "save_object": (
        Example(
            name="a configuration",
            path={"key": _KEY},
            headers={"x-meta-agent": "ceo"},
            body=_CONFIG,
            status=201,
            answer=_SAVED,
        ),
        Example(
            name="a text that lives for an hour",
            path={"key": "sessions/1.txt"},
            headers={"x-ttl-seconds": "3600"},
            body="hello",
            media_type="text/plain",
            status=201,
            answer={"key": "sessions/1.txt", "etag": "5d41402abc4b2a76b9719d911017c592", "size": 5},
        ),
        Example(
            name="in place of the version that was read",
            path={"key": _KEY},
            headers={"If-Match": f'"{_ETAG}"'},
            body={"model": "small"},
            answer={"key": _KEY, "etag": "1f0e9d8c7b6a4f3e8d0c4a5f4e1d7c2b", "size": 18},
            after=("save_object",),
        ),
        Example(
            name="only if there is none, and there is one",
            path={"key": _KEY},
            headers={"If-None-Match": "*"},
            body={"model": "small"},
            status=412,
            after=("save_object",),
        ),
    ),
    "load_object": (
        Example(name="a configuration", path={"key": _KEY}, answer=_CONFIG, after=("save_object",)),
        Example(
            name="its first ten bytes",
            path={"key": _KEY},
            headers={"Range": "bytes=0-9"},
            status=206,
            after=("save_object",),
        ),
        Example(
            name="only if it was changed",
            path={"key": _KEY},
            headers={"If-None-Match": f'"{_ETAG}"'},
            status=304,
            after=("save_object",),
        ),
    ),
    "stat_object": (Example(name="a configuration", path={"key": _KEY}, after=("save_object",)),),
    "touch_object": (
        Example(
            name="other metadata, and a day to live",
            path={"key": _KEY},
            body={"metadata": {"agent": "cfo"}, "ttl_seconds": 86400},
            answer=_SAVED,
            after=("save_object",),
        ),
        Example(
            name="another temperature, and no model",
            path={"key": _KEY},
            body={"temperature": 1, "model": None},
            media_type="application/merge-patch+json",
            answer=_SAVED,
            after=("save_object",),
        ),
    ),
    "delete_object": (
        Example(name="a configuration", path={"key": _KEY}, status=204, after=("save_object",)),
        Example(name="one that is not there", path={"key": "configs/nobody.json"}, status=404),
    ),
    "list_objects": (
        Example(
            name="what is below a prefix",
            query={"prefix": "configs/", "delimiter": "/", "limit": "10"},
            answer={
                "objects": [
                    {
                        "key": _KEY,
                        "size": 34,
                        "etag": _ETAG,
                        "last_modified": "2026-11-30T08:00:00.000000Z",
                    }
                ],
                "prefixes": [],
                "cursor": None,
            },
            after=("save_object",),
        ),
        Example(name="one object", query={"key": _KEY}, after=("save_object",)),
    ),
    "head_list_objects": (Example(name="one object", query={"key": _KEY}, after=("save_object",)),),
    "by_query_save_object": (
        Example(
            name="a key with a percent sign",
            query={"key": "notes/a%FFb"},
            body="found",
            media_type="text/plain",
            status=201,
            answer={"key": "notes/a%FFb", "etag": "0cbc6611f5540bd0809a388dc95a615b", "size": 5},
        ),
    ),
    "by_query_touch_object": (
        Example(
            name="for ever",
            query={"key": "notes/a%FFb"},
            body={"ttl_seconds": None},
            answer={"key": "notes/a%FFb", "etag": "0cbc6611f5540bd0809a388dc95a615b", "size": 5},
            after=("by_query_save_object",),
        ),
    ),
    "by_query_delete_object": (
        Example(
            name="a key with a percent sign",
            query={"key": "notes/a%FFb"},
            status=204,
            after=("by_query_save_object",),
        ),
    ),
}


def _to_object(operation: str) -> dict[str, Any]:
    return {"operationId": operation, "parameters": {"key": "$response.body#/key"}}


LINKS: dict[tuple[str, int], dict[str, Any]] = {
    ("save_object", status): {
        "load": _to_object("load_object"),
        "head": _to_object("stat_object"),
        "touch": _to_object("touch_object"),
        "delete": _to_object("delete_object"),
    }
    for status in (200, 201)
}
