"""Versions."""

from __future__ import annotations

from typing import Any

from functions.openapi.examples import Example

_PATH = {"key": "prompts/ceo"}
_QUERY = {"key": "prompts/a%FFb"}
_ETAG = "3f6a7b8c9d0e1f9b2c7d1e4f5a4c0d8e"
_SAVED = {"key": "prompts/ceo", "version": 1, "etag": _ETAG, "size": 9}


def _page(key: str) -> dict[str, Any]:
    version = {
        "number": 1,
        "size": 9,
        "etag": _ETAG,
        "saved_at": "2026-11-30T08:00:00.000Z",
        "labels": ["draft"],
        "is_current": True,
    }
    return {"key": key, "current": 1, "versions": [version], "cursor": None}


EXAMPLES: dict[str, tuple[Example, ...]] = {
    "save_version": (
        Example(
            name="a prompt, with a label",
            path=_PATH,
            query={"label": "draft"},
            body="Be brief.",
            media_type="text/plain",
            status=201,
            answer=_SAVED,
        ),
    ),
    "by_query_save_version": (
        Example(
            name="of a key that a path cannot carry",
            query={**_QUERY, "label": "draft"},
            body="Be brief.",
            media_type="text/plain",
            status=201,
            answer={**_SAVED, **_QUERY},
        ),
    ),
    "load_versions": (
        Example(name="all", path=_PATH, answer=_page("prompts/ceo"), after=("save_version",)),
        Example(name="the one with a label", path=_PATH, query={"version": "draft"}, after=("save_version",)),
        Example(
            name="one that is not there",
            path=_PATH,
            query={"version": "9"},
            status=404,
            after=("save_version",),
        ),
    ),
    "head_load_versions": (
        Example(name="the current one", path=_PATH, query={"version": "current"}, after=("save_version",)),
    ),
    "by_query_load_versions": (
        Example(name="all", query=_QUERY, answer=_page("prompts/a%FFb"), after=("by_query_save_version",)),
    ),
    "head_by_query_load_versions": (
        Example(name="the first", query={**_QUERY, "version": "1"}, after=("by_query_save_version",)),
    ),
    "change_versions": (
        Example(
            name="roll back, and move labels",
            path=_PATH,
            body={"current": 1, "labels": {"production": 1, "draft": None}},
            answer={"key": "prompts/ceo", "current": 1, "labels": {"production": 1, "draft": None}},
            after=("save_version",),
        ),
    ),
    "by_query_change_versions": (
        Example(
            name="a label for the current one",
            query=_QUERY,
            body={"labels": {"production": "current"}},
            answer={**_QUERY, "current": 1, "labels": {"production": 1}},
            after=("by_query_save_version",),
        ),
    ),
    "prune_versions": (
        Example(
            name="what would be deleted",
            path=_PATH,
            query={"keep_last": "5", "dry_run": "true"},
            answer={"key": "prompts/ceo", "deleted": [], "dry_run": True},
            after=("save_version",),
        ),
    ),
    "by_query_prune_versions": (
        Example(
            name="all but the last five",
            query={**_QUERY, "keep_last": "5"},
            answer={**_QUERY, "deleted": [], "dry_run": False},
            after=("by_query_save_version",),
        ),
    ),
}
