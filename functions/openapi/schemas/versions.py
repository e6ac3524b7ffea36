"""Versions of an object."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired, TypedDict

from msgspec import UNSET, Meta, Struct, UnsetType

from functions.openapi.parameters import LABEL, VERSION
from functions.openapi.schemas import Moment, NextPage

MEDIA_TYPES = {"JsonPatch": "application/json-patch+json"}

JsonPatch = Annotated[
    list[dict[str, Any]], Meta(description="What changes from one version to another (RFC 6902).")
]

_Number = Annotated[int, Meta(ge=1)]
_Label = Annotated[str, Meta(pattern=LABEL)]
_Version = Annotated[
    Annotated[int, Meta(ge=1, le=10**15)] | Annotated[str, Meta(pattern=VERSION)],
    Meta(description="A number (`3` or `v3`), a label, or `current`."),
]


class ListedVersion(TypedDict):
    """A version, without its value."""

    number: _Number
    size: Annotated[int, Meta(ge=0, description="Bytes.")]
    etag: str
    saved_at: Moment
    saved_by: NotRequired[str]
    labels: list[str]
    is_current: bool


class VersionPage(TypedDict):
    """Versions of an object, newest first."""

    key: str
    current: Annotated[int | None, Meta(description="The number of the current one; null: there are none.")]
    versions: list[ListedVersion]
    cursor: NextPage


class SavedVersion(TypedDict):
    """The version that was saved."""

    key: str
    version: _Number
    etag: Annotated[str, Meta(description="The ETag without its quotes.")]
    size: Annotated[int, Meta(ge=0, description="Bytes.")]


class VersionsChange(Struct, forbid_unknown_fields=True, kw_only=True):
    """Another current version, and labels that move, all at once."""

    current: Annotated[
        _Version | UnsetType, Meta(description="The version that becomes the current one.")
    ] = UNSET
    labels: Annotated[
        dict[_Label, _Version | None] | UnsetType,
        Meta(description="The version that each label is of from now on; null removes the label."),
    ] = UNSET


class VersionsChanged(TypedDict):
    """The current version, and the versions of the labels that were named."""

    key: str
    current: _Number
    labels: dict[str, int | None]


class PrunedVersions(TypedDict):
    """The versions that were deleted, or would be in a dry run."""

    key: str
    deleted: list[int]
    dry_run: bool
