"""Large objects: links, and uploads in parts."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired, TypedDict

from msgspec import UNSET, Meta, Struct, UnsetType

from functions.openapi.schemas import Disposition, HeaderText, Languages, Metadata, Moment, NextPage
from storage_lib.ports.expiry import MAX_TTL_SECONDS
from storage_lib.ports.link_model import DEFAULT_LINK_SECONDS, MAX_LINK_SECONDS
from storage_lib.uploads import DEFAULT_SECONDS, MAX_PARTS, MAX_SECONDS

_ContentType = Annotated[str, Meta(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+$")]
_UploadId = Annotated[str, Meta(pattern="^[0-9a-f]{32}$", examples=["0f5d1f4bd6de5a1bb7c5ae0c6b9c7f10"])]
_Size = Annotated[int, Meta(ge=0, description="Bytes.")]


class LinkRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """What a link is to allow."""

    method: Annotated[Literal["GET", "PUT"] | None, Meta(description="`GET` to load, `PUT` to save.")] = "GET"
    expires_in: Annotated[
        Annotated[float, Meta(ge=1, le=MAX_LINK_SECONDS)] | None,
        Meta(description="Seconds. A link to load ends no later than the object."),
    ] = DEFAULT_LINK_SECONDS
    ip: Annotated[
        str | UnsetType | None,
        Meta(
            description="Only from these addresses: one, `FIRST-LAST`, or a network.",
            examples=["203.0.113.0/24"],
        ),
    ] = UNSET
    content_type: Annotated[
        _ContentType | UnsetType | None, Meta(description="Of a save: the only type that is taken.")
    ] = UNSET
    max_bytes: Annotated[
        Annotated[int, Meta(ge=1)] | UnsetType | None, Meta(description="Of a save: the largest body.")
    ] = UNSET


class Link(TypedDict):
    """A URL by which whoever has it loads or saves one object. Keep it out of logs."""

    url: Annotated[str, Meta(extra_json_schema={"format": "uri"})]
    method: Literal["GET", "PUT"]
    headers: Annotated[dict[str, str], Meta(description="To be sent with the request.")]
    expires_at: Moment
    through: Annotated[
        Literal["app", "store"], Meta(description="Whether it leads to the store itself, or to the app.")
    ]
    max_bytes: NotRequired[Annotated[int, Meta(description="The largest body that is taken by it.")]]
    unenforced: NotRequired[Annotated[list[str], Meta(description="What was asked for and nobody checks.")]]


class UploadRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """The object that is to be sent in parts."""

    content_type: _ContentType | None = "application/octet-stream"
    metadata: Metadata | UnsetType | None = UNSET
    ttl_seconds: Annotated[
        Annotated[float, Meta(ge=0, le=MAX_TTL_SECONDS)] | UnsetType | None,
        Meta(description="Seconds it lives from its completion on. Not with `expires_at`."),
    ] = UNSET
    expires_at: Annotated[Moment | UnsetType | None, Meta(description="When its life ends.")] = UNSET
    cache_control: HeaderText = UNSET
    content_disposition: Disposition = UNSET
    content_language: Languages = UNSET
    expires_in: Annotated[
        Annotated[float, Meta(ge=1, le=MAX_SECONDS)] | None,
        Meta(description="Seconds until the upload is given up."),
    ] = DEFAULT_SECONDS


class UploadCompletion(Struct, forbid_unknown_fields=True, kw_only=True):
    """What an upload is completed with."""

    parts: Annotated[
        list[Annotated[int, Meta(ge=1, le=MAX_PARTS)]] | UnsetType | None,
        Meta(description="The numbers of the parts that count, rising; without it all, without gaps."),
    ] = UNSET
    sha256: Annotated[
        Annotated[str, Meta(pattern="^[0-9a-f]{64}$")] | UnsetType | None,
        Meta(description="Of the whole; one that has another is not saved."),
    ] = UNSET


class CompletedUpload(TypedDict):
    """What an upload has become."""

    etag: str
    size: _Size


class UploadUnderWay(TypedDict):
    """An upload."""

    upload_id: _UploadId
    key: str
    created_at: Moment
    expires_at: Annotated[Moment, Meta(description="When it is given up, unless it is completed.")]
    content_type: str
    metadata: NotRequired[dict[str, str]]
    completed: NotRequired[CompletedUpload]


class Upload(UploadUnderWay):
    """An upload that has begun."""

    part_bytes: Annotated[int, Meta(description="A size of parts that is always taken.")]
    max_part_bytes: Annotated[int, Meta(description="The largest part that does not begin with `{`.")]
    max_parts: int


class UploadPart(TypedDict):
    """A part, as it is stored."""

    part: Annotated[int, Meta(ge=1, le=MAX_PARTS)]
    size: _Size
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class UploadParts(UploadUnderWay):
    """An upload, and the parts of it that are there."""

    parts: list[UploadPart]


class UploadPage(TypedDict):
    """Uploads that are under way, in no order of use."""

    uploads: list[UploadUnderWay]
    cursor: NextPage
