"""What is done with all objects below a prefix."""

from __future__ import annotations

from typing import Annotated, NotRequired, TypedDict

from msgspec import UNSET, Meta, Struct, UnsetType

from functions.openapi.schemas.problems import Problem
from functions.prefixes import MAX_SECONDS, MOST_AT_ONCE

_Prefix = Annotated[
    str,
    Meta(
        description="The beginning of keys; the empty one is that of all.",
        extra_json_schema={"format": "object-prefix"},
    ),
]
_DryRun = Annotated[bool | UnsetType | None, Meta(description="Tell what would be done, and do nothing.")]
_Cursor = Annotated[
    str | UnsetType | None,
    Meta(description="Of the answer to go on from.", extra_json_schema={"format": "object-key"}),
]
_Limit = Annotated[
    Annotated[int, Meta(ge=1, le=MOST_AT_ONCE)] | UnsetType | None,
    Meta(description="How many objects at most."),
]
_Seconds = Annotated[
    Annotated[float, Meta(ge=1, le=MAX_SECONDS)] | UnsetType | None,
    Meta(description="Begin with no more after this long."),
]


class PrefixDelete(Struct, forbid_unknown_fields=True, kw_only=True):
    """Which objects are deleted."""

    prefix: _Prefix
    dry_run: _DryRun = UNSET
    cursor: _Cursor = UNSET
    limit: _Limit = UNSET
    seconds: _Seconds = UNSET


class PrefixTransfer(Struct, forbid_unknown_fields=True, kw_only=True):
    """Which objects are copied or moved, and where to: `prefix` + rest becomes `to` + rest."""

    prefix: _Prefix
    to: _Prefix
    skip_existing: Annotated[
        bool | UnsetType | None, Meta(description="Leave objects alone that have a target.")
    ] = UNSET
    dry_run: _DryRun = UNSET
    cursor: _Cursor = UNSET
    limit: _Limit = UNSET
    seconds: _Seconds = UNSET


class PrefixFailure(TypedDict):
    """An object that could not be deleted, copied or moved."""

    key: str
    problem: Problem


_Count = Annotated[int, Meta(ge=0)]


class PrefixResult(TypedDict):
    """What was done, or would be in a dry run."""

    done: _Count
    skipped: Annotated[_Count, Meta(description="Deleted meanwhile, or with a target.")]
    failures: _Count
    failed: Annotated[list[PrefixFailure], Meta(max_length=100, description="The first of the failures.")]
    dry_run: bool
    is_complete: Annotated[bool, Meta(description="Whether nothing is left to be tried.")]
    cursor: Annotated[str | None, Meta(description="To go on with, if it is not complete.")]
    problem: NotRequired[Annotated[Problem, Meta(description="What ended it before its time.")]]
    remedy: NotRequired[str]
