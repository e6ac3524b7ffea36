"""What an app says about an object: in the headers of its answers, and in listings."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import unquote

import msgspec

from storage_lib.errors import InvalidArgumentError, StorageUnavailableError
from storage_lib.keys import decode_metadata_value
from storage_lib.patterns import pattern
from storage_lib.ports import expiry, hidden, kept_headers
from storage_lib.ports.object_model import ListEntry, ObjectInfo

_META = "x-meta-"
_UNCACHED = "private, no-cache"
"""What the app says of objects that have no Cache-Control of their own."""
_CONTENT_RANGE = pattern(r"bytes (?:(\d+)-(\d+)|\*)/(\d+)")
_DIGEST = pattern(r"(?:^|[,\s])sha-256=:([A-Za-z0-9+/=]{44}):")


class Listing(msgspec.Struct):
    """A page of a listing."""

    objects: list[Entry]
    prefixes: list[str]
    cursor: str | None


class Entry(msgspec.Struct):
    """An object in a listing. Nothing is said of one that is damaged."""

    key: str
    size: int | None = None
    etag: str | None = None
    last_modified: datetime | None = None
    content_type: str | None = None
    metadata: dict[str, str] = {}
    sha256: str | None = None
    content_encoding: str | None = None
    content_disposition: str | None = None
    content_language: str | None = None
    cache_control: str | None = None

    def listed(self, details: bool) -> ListEntry:
        size, etag, modified, content_type = self.size, self.etag, self.last_modified, self.content_type
        if not details or size is None or etag is None or modified is None or content_type is None:
            return ListEntry(self.key, self.size, self.etag, self.last_modified)
        raw, end = apart(etag)
        headers = {name: getattr(self, field) for name, field in kept_headers.FIELDS.items()}
        metadata = self.metadata | {name: text for name, text in headers.items() if text is not None} | end
        return hidden.entry(ObjectInfo(self.key, size, raw, modified, content_type, metadata, self.sha256))


class Saved(msgspec.Struct):
    """The answer to a PUT."""

    etag: str


def decoded[T](body: bytes, kind: type[T], doing: str) -> T:
    """:raises StorageUnavailableError: it is no answer of an app."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise not_ours(doing) from error


def not_ours(doing: str) -> StorageUnavailableError:
    return StorageUnavailableError(
        f"{doing}: the answer is not one of this app's API", remedy="check the URL, and any proxy on the way"
    )


def info_of(key: str, headers: Mapping[str, str], size: int, doing: str) -> ObjectInfo:
    """What the headers say about an object. The end of its life is in its ETag. It and the headers that the
    object is kept with become metadata, as in every other store."""
    etag = headers.get("ETag", "")
    modified = headers.get("Last-Modified")
    if not (etag.startswith('"') and etag.endswith('"') and len(etag) > 2) or modified is None:
        raise not_ours(doing)
    raw, metadata = apart(etag[1:-1])
    for name, value in headers.items():
        if name.lower().startswith(_META):
            metadata[unquote(name[len(_META) :].lower())] = _text(value)
    for name, kept in kept_headers.METADATA.items():
        if (value := headers.get(name)) is not None and (name, value) != ("Cache-Control", _UNCACHED):
            metadata[kept] = value
    digest = _DIGEST.search(headers.get("Repr-Digest", ""))
    try:
        return ObjectInfo(
            key,
            size,
            raw,
            parsedate_to_datetime(modified).astimezone(UTC),
            headers.get("Content-Type") or "application/octet-stream",
            metadata,
            None if digest is None else base64.b64decode(digest[1]).hex(),
        )
    except (ValueError, binascii.Error) as error:
        raise not_ours(doing) from error


def apart(etag: str) -> tuple[str, dict[str, str]]:
    """The store's own ETag, and the metadata with the end that the app's ETag carries."""
    raw, until = expiry.split_etag(etag)
    if raw is None or until is None:
        return etag, {}
    return raw, {expiry.METADATA: etag[len(raw) + 1 :]}


def range_in(headers: Mapping[str, str], doing: str) -> tuple[int, int]:
    """The offset of the first byte of a part, and the size of the object."""
    found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    if found is None:
        raise not_ours(doing)
    return int(found[1] or 0), int(found[3])


def _text(value: str) -> str:
    try:
        return decode_metadata_value(value)
    except InvalidArgumentError:
        return value
