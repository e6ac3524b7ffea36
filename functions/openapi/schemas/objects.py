"""Objects: saved, listed, touched."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired, TypedDict

from msgspec import UNSET, Meta, Struct, UnsetType

from functions.openapi.schemas import Disposition, HeaderText, Languages, Metadata, Moment, NextPage
from storage_lib.ports.expiry import MAX_TTL_SECONDS

_Key = Annotated[str, Meta(description="The key: segments, joined by `/`.", examples=["configs/ceo.json"])]
_Etag = Annotated[str, Meta(description="The ETag without its quotes; another one after each change.")]
_Size = Annotated[int, Meta(ge=0, description="Bytes.")]


MEDIA_TYPES = {"MergePatch": "application/merge-patch+json"}

MergePatch = Annotated[
    Any,
    Meta(description="A change of the JSON value (RFC 7396): null removes a member.", extra_json_schema={}),
]


class SavedObject(TypedDict):
    """What was saved."""

    key: _Key
    etag: _Etag
    size: _Size


class ListedObject(TypedDict):
    """An object in a listing; what it does not have is left out."""

    key: _Key
    size: NotRequired[_Size]
    etag: NotRequired[_Etag]
    last_modified: NotRequired[Moment]
    content_type: NotRequired[str]
    metadata: NotRequired[dict[str, str]]
    expires_at: NotRequired[Annotated[Moment, Meta(description="The end of its time to live.")]]
    sha256: NotRequired[Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]]
    content_encoding: NotRequired[str]
    content_disposition: NotRequired[str]
    content_language: NotRequired[str]
    cache_control: NotRequired[str]


class ObjectPage(TypedDict):
    """A page of objects, ordered by the UTF-8 bytes of their keys."""

    objects: list[ListedObject]
    prefixes: Annotated[list[str], Meta(description="With `delimiter`: what keys were folded into.")]
    cursor: NextPage


class ObjectChange(Struct, forbid_unknown_fields=True, kw_only=True):
    """Other metadata or another time to live; the bytes stay where they are."""

    metadata: Annotated[
        Metadata | UnsetType | None,
        Meta(description="All the metadata that the object has from now on; null: none."),
    ] = UNSET
    ttl_seconds: Annotated[
        Annotated[float, Meta(ge=0, le=MAX_TTL_SECONDS)] | UnsetType | None,
        Meta(description="Seconds it lives from now on; null: for ever. Not with `expires_at`."),
    ] = UNSET
    expires_at: Annotated[
        Moment | UnsetType | None,
        Meta(description="When its life ends, at most 100 years from now; null: never."),
    ] = UNSET
    cache_control: HeaderText = UNSET
    content_disposition: Disposition = UNSET
    content_language: Languages = UNSET


CONSTRAINTS = {"ObjectChange": {"not": {"required": ["ttl_seconds", "expires_at"]}}}
