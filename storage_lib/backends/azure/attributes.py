"""What travels with a blob's bytes: content type, metadata, checksum and ETag, as they are on the wire.

User metadata ``some-name`` is ``some_name`` (names are C# identifiers there; ours have no ``_``), values are
as `encode_metadata_value` leaves them, and the checksum is ``aos_sha256``. Metadata of other programs
(blobs without our checksum) is given with lower-case names and ``-`` for ``_``, and values as they are; names
outside our grammar are left out.
"""

from __future__ import annotations

import re
from typing import Any

from storage_lib.keys import encode_metadata_value, stored_metadata_value
from storage_lib.ports import kept_headers
from storage_lib.ports.objects import ANY_VERSION, ObjectInfo

DEFAULT_CONTENT_TYPE = "application/octet-stream"
CHECKSUM = "aos_sha256"

_METADATA_NAME = re.compile(r"[a-z][a-z0-9-]{0,63}")
# Some proxies and old clients drop a header without a value. No value of ours contains U+0000.
_EMPTY_VALUE = "%00"


def blob_metadata(metadata: dict[str, str], sha256: str) -> dict[str, str]:
    """The metadata of the blob for that of an object."""
    kept = {CHECKSUM: sha256}
    for name, value in metadata.items():
        if name in kept_headers.FIELDS:
            continue
        # The service signs header values with runs of spaces folded into one; encoded ones are left alone.
        kept[name.replace("-", "_")] = encode_metadata_value(value).replace("  ", "%20%20") or _EMPTY_VALUE
    return kept


def object_info(key: str, result: Any) -> ObjectInfo:
    """The info in an answer of obstore to GET or HEAD."""
    meta = result.meta
    content_type = DEFAULT_CONTENT_TYPE
    sha256 = None
    metadata: dict[str, str] = {}
    decode = _decode_value if CHECKSUM in result.attributes else str
    for name, value in result.attributes.items():
        if name == "Content-Type":
            content_type = value or DEFAULT_CONTENT_TYPE
        elif name == CHECKSUM:
            sha256 = value
        elif name in kept_headers.METADATA:
            metadata[kept_headers.METADATA[name]] = value
        elif name != "Storage-Class":
            ours = name.lower().replace("_", "-")
            if _METADATA_NAME.fullmatch(ours):
                metadata[ours] = decode(value)
    return ObjectInfo(
        key, meta["size"], bare(meta["e_tag"]), meta["last_modified"], content_type, metadata, sha256
    )


def _decode_value(value: str) -> str:
    return "" if value == _EMPTY_VALUE else stored_metadata_value(value)


def bare(etag: str | None) -> str:
    """An ETag as we give it, without quotes."""
    return (etag or "").strip('"')


def quoted(if_match: str) -> str:
    """An ETag, or the mark for any, as the service wants it."""
    return if_match if if_match == ANY_VERSION else f'"{if_match}"'
