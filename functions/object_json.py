"""An object in JSON: in listings and in the results of batches."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import asdict

if TYPE_CHECKING:
    from storage_lib.ports.backend import ListEntry, ObjectInfo


class Listed(Struct, omit_defaults=True, gc=False):
    """What is not known, or not asked for, is left out."""

    key: str
    size: int | None = None
    etag: str | None = None
    last_modified: datetime | None = None
    content_type: str | None = None
    metadata: dict[str, str] | None = None
    expires_at: datetime | None = None
    sha256: str | None = None
    content_encoding: str | None = None
    content_disposition: str | None = None
    content_language: str | None = None
    cache_control: str | None = None


def listed(entry: ListEntry | ObjectInfo, info: ObjectInfo | None) -> Listed:
    """
    :param info: what more is to be told of it.
    """
    modified = entry.last_modified
    if modified is not None and modified.tzinfo is not UTC:
        modified = modified.astimezone(UTC)
    if info is None:
        return Listed(entry.key, entry.size, entry.etag, modified)
    return Listed(
        entry.key,
        entry.size,
        entry.etag,
        modified,
        info.content_type,
        dict(info.metadata) or None,
        info.expires_at,
        info.sha256,
        info.content_encoding,
        info.content_disposition,
        info.content_language,
        info.cache_control,
    )


def described(info: ObjectInfo) -> dict[str, Any]:
    """All that is known of an object."""
    return {name: value for name, value in asdict(listed(info, info)).items() if value is not None}
