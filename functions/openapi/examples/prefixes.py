"""Prefixes."""

from __future__ import annotations

from typing import Any

from functions.openapi.examples import Example

_DONE: dict[str, Any] = {
    "done": 1,
    "skipped": 0,
    "failures": 0,
    "failed": [],
    "dry_run": False,
    "is_complete": True,
    "cursor": None,
}

EXAMPLES: dict[str, tuple[Example, ...]] = {
    "delete_prefix": (
        Example(
            name="what would be deleted",
            body={"prefix": "configs/", "dry_run": True},
            answer=_DONE | {"dry_run": True},
            after=("save_object",),
        ),
    ),
    "copy_prefix": (
        Example(
            name="to another prefix",
            body={"prefix": "configs/", "to": "copies/", "skip_existing": True},
            answer=_DONE,
            after=("save_object",),
        ),
    ),
    "move_prefix": (
        Example(
            name="a hundred objects at most",
            body={"prefix": "configs/", "to": "moved/", "limit": 100},
            answer=_DONE,
            after=("save_object",),
        ),
    ),
}
