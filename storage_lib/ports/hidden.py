"""Metadata with reserved names, which travels with an object but is never shown; `ObjectInfo` has its meaning
in other fields, or it is a layer's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from storage_lib.keys import readable_content_type
from storage_lib.patterns import pattern
from storage_lib.ports import expiry, kept_headers
from storage_lib.ports.object_model import ListEntry, ObjectInfo

RESERVED = "aos-"
"""How the names begin; no caller's does."""

ATTEMPT = f"{RESERVED}attempt"
"""The mark of the call that saved the object."""
CALL = f"{RESERVED}call"
"""The mark of the remote call that saved the object, by which it is known when it comes again."""
SIZE = f"{RESERVED}original-size"
"""The size that the caller knows, if a layer stores other bytes instead."""
CHECKSUM = f"{RESERVED}original-sha256"
"""The SHA-256 that the caller knows."""
ENCRYPTED = f"{RESERVED}encrypted"
"""What the encryption layer needs to know of the object."""
COMPRESSION = f"{RESERVED}compression"
"""How a layer has compressed the bytes: the codec, a hyphen and more. It is gone once they are expanded."""

JOURNAL = f"{RESERVED}journal"
"""The journal entry of an object that a second store has taken for its primary."""
ORIGIN = f"{RESERVED}origin"
"""The ETag of the primary's version that an object of a second store is a copy of."""
REPAIRED = f"{RESERVED}repaired"
"""The journal entry that a repair has made this object of."""

SOURCE = f"{RESERVED}source"
"""Tells the version in another store that a migration has made this object of."""

OF_SECONDARY = "secondary."
"""How the ETag of an object begins that is in a second store and no copy of a version of the primary. No
store's own ETags do."""

ADDED_BELOW = frozenset({ATTEMPT, JOURNAL, ORIGIN, REPAIRED, SOURCE})
"""What layers inside the encryption layer add, and what it therefore does not bind the object to."""

OF_ONE_WRITE = frozenset({CALL, REPAIRED, SOURCE})
"""What tells which write made an object, and is not true any more of one that was touched since."""

_SHOWN = frozenset({expiry.METADATA, SIZE, *kept_headers.FIELDS})
"""What callers see of them, in other fields."""

_DIGITS = pattern(r"[0-9]{1,18}")


def is_own(name: str) -> bool:
    """Whether this name of a metadata is not a caller's."""
    return name.startswith(RESERVED)


def presented(info: ObjectInfo) -> ObjectInfo:
    """What a driver knows about an object, as callers see it."""
    if (content_type := readable_content_type(info.content_type)) != info.content_type:
        info = replace(info, content_type=content_type)
    if not (metadata := info.metadata):
        return info
    visible = {name: value for name, value in metadata.items() if not name.startswith(RESERVED)}
    if len(visible) == len(metadata):
        return info
    if metadata.keys().isdisjoint(_SHOWN):
        return info.with_metadata(visible, None, authenticated=info.authenticated)
    until = expiry.end_in(metadata)
    shown: dict[str, Any] = {
        field: metadata.get(name, getattr(info, field)) for name, field in kept_headers.FIELDS.items()
    }
    if (size := _size(metadata)) is not None:
        shown |= {"size": size, "sha256": metadata.get(CHECKSUM)}
    return ObjectInfo(
        info.key,
        shown.pop("size", info.size),
        expiry.join_etag(info.etag, metadata),
        info.last_modified,
        info.content_type,
        visible,
        shown.pop("sha256", info.sha256),
        None if until is None else datetime.fromtimestamp(until, UTC),
        authenticated=info.authenticated,
        **shown,
    )


def received(info: ObjectInfo) -> ObjectInfo:
    """What a driver has returned with an object's bytes, or instead of them.

    If they are still compressed, for the layer that did it is off now, the caller's size and checksum are not
    theirs: they are an object with a content encoding, as another program might have stored it.
    """
    if COMPRESSION not in info.metadata or ENCRYPTED in info.metadata:
        return info
    kept = {name: value for name, value in info.metadata.items() if name not in (SIZE, CHECKSUM)}
    # Another program may have written the blob anew without the header.
    kept.setdefault(kept_headers.METADATA["Content-Encoding"], kept[COMPRESSION].partition("-")[0])
    return replace(info, metadata=kept)


def entry(info: ObjectInfo) -> ListEntry:
    """What a driver lists of an object, with details. Layers may change its ``info`` as in an answer to
    `head`; `listed` makes of it what callers see."""
    metadata = info.metadata
    size, etag = _size(metadata), expiry.join_etag(info.etag, metadata)
    return ListEntry(info.key, info.size if size is None else size, etag, info.last_modified, info)


def listed(entry: ListEntry) -> ListEntry:
    """What a driver has listed, as callers see it."""
    if (info := entry.info) is None:
        return entry
    if not info.metadata and readable_content_type(info.content_type) == info.content_type:
        return entry
    if (shown := presented(received(info))) is info:
        return entry
    source = info.metadata.get(SOURCE)
    return ListEntry(shown.key, shown.size, shown.etag, shown.last_modified, shown, source)


def _size(metadata: Mapping[str, str]) -> int | None:
    text = metadata.get(SIZE)
    return int(text) if text is not None and _DIGITS.fullmatch(text) else None
