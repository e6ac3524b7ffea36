"""Batches: operations, and what came of each."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired, TypedDict

from msgspec import UNSET, Meta, Struct, UnsetType

from functions.batch import MAX_OPERATIONS
from functions.openapi.schemas import Moment
from functions.openapi.schemas.problems import Problem

_Text = str | UnsetType
_Match = Annotated[_Text, Meta(description="Only if the object has this ETag; `*`: only if there is one.")]
_NoneMatch = Annotated[_Text, Meta(description="Only if it has another ETag; `*`: only if there is none.")]


class SaveOperation(Struct, forbid_unknown_fields=True, kw_only=True, tag="save", tag_field="op"):
    """As `PUT`. One of `value`, `text` and `base64` is saved."""

    key: str
    value: Annotated[Any, Meta(description="A JSON value.")] = UNSET
    text: _Text = UNSET
    base64: Annotated[_Text, Meta(description="Bytes.")] = UNSET
    content_type: _Text = UNSET
    metadata: dict[str, str] | UnsetType | None = UNSET
    ttl_seconds: float | UnsetType | None = UNSET
    expires_at: Moment | UnsetType | None = UNSET
    cache_control: _Text = UNSET
    content_disposition: _Text = UNSET
    content_language: _Text = UNSET
    if_match: _Match = UNSET
    if_none_match: _NoneMatch = UNSET


class _Conditional(Struct, forbid_unknown_fields=True, kw_only=True, tag_field="op"):
    key: str
    if_match: _Match = UNSET
    if_none_match: _NoneMatch = UNSET


class LoadOperation(_Conditional, tag="load"):
    """As `GET`."""


class ExistsOperation(_Conditional, tag="exists"):
    """As `HEAD`."""


class DeleteOperation(_Conditional, tag="delete"):
    """As `DELETE`."""


class _Transfer(Struct, forbid_unknown_fields=True, kw_only=True, tag_field="op"):
    key: str
    to: str
    if_none_match: Annotated[_Text, Meta(description="`*`: replace nothing.")] = UNSET


class CopyOperation(_Transfer, tag="copy"):
    """A copy under another key."""


class MoveOperation(_Transfer, tag="move"):
    """Another key for the object."""


_Operation = SaveOperation | LoadOperation | ExistsOperation | DeleteOperation | CopyOperation | MoveOperation


class Batch(Struct, forbid_unknown_fields=True, kw_only=True):
    """Operations on objects. Those on different objects are done at the same time."""

    operations: Annotated[list[_Operation], Meta(min_length=1, max_length=MAX_OPERATIONS)]


class BatchResult(TypedDict):
    """What came of an operation: the status of its own route, what is known of the object, or the problem."""

    status: int
    problem: NotRequired[Problem]
    retry_after: NotRequired[Annotated[int, Meta(description="Seconds after which to try it again.")]]
    key: NotRequired[str]
    etag: NotRequired[str]
    size: NotRequired[int]
    location: NotRequired[str]
    last_modified: NotRequired[Moment | None]
    content_type: NotRequired[str]
    metadata: NotRequired[dict[str, str]]
    expires_at: NotRequired[Moment]
    sha256: NotRequired[str]
    content_encoding: NotRequired[str]
    content_disposition: NotRequired[str]
    content_language: NotRequired[str]
    cache_control: NotRequired[str]
    value: NotRequired[Annotated[Any, Meta(description="What was loaded, if it is JSON.")]]
    text: NotRequired[Annotated[str, Meta(description="What was loaded, if it is text.")]]
    base64: NotRequired[Annotated[str, Meta(description="What was loaded, if it is neither.")]]


class BatchResults(TypedDict):
    """The results, in the order of the operations."""

    results: list[BatchResult]
