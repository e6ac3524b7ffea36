"""What travels with a blob's bytes, on the wire of Azure Storage.

User metadata ``some-name`` is ``some_name`` (names are C# identifiers there; ours have no ``_``), and the
checksum is ``aos_sha256``.
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import Any

from storage_lib.backends.cloud import attributes
from storage_lib.backends.cloud.attributes import bare
from storage_lib.ports.drivers import PutOptions
from storage_lib.ports.kept_headers import METADATA, headers_in
from storage_lib.ports.object_model import ANY_VERSION, DEFAULT_CONTENT_TYPE, ObjectInfo

CHECKSUM = "aos_sha256"
_OWN = frozenset({CHECKSUM})
_KEPT = tuple(METADATA)
_NO_TIME = "Thu, 01 Jan 1970 00:00:00 GMT"


def blob_metadata(metadata: dict[str, str], sha256: str) -> dict[str, str]:
    """The metadata of the blob for that of an object."""
    return {CHECKSUM: sha256} | attributes.to_store(metadata, lambda name: name.replace("-", "_"))


def put_headers(options: PutOptions) -> dict[str, str]:
    """What Put Blob sends with the bytes of an object."""
    headers = {"Content-Type": options.content_type, "x-ms-blob-type": "BlockBlob"}
    return headers | _stored_with(options, blob_metadata(options.metadata, options.sha256))


def commit_headers(options: PutOptions, metadata: dict[str, str]) -> dict[str, str]:
    """What Put Block List sends. :param metadata: as they are stored."""
    return {"x-ms-blob-content-type": options.content_type} | _stored_with(options, metadata)


def _stored_with(options: PutOptions, metadata: dict[str, str]) -> dict[str, str]:
    headers = {f"x-ms-meta-{name}": value for name, value in metadata.items()}
    for name, value in headers_in(options.metadata).items():
        headers[f"x-ms-blob-{name.lower()}"] = value
    if options.if_absent:
        headers["If-None-Match"] = ANY_VERSION
    elif options.if_match is not None:
        headers["If-Match"] = quoted(options.if_match)
    return headers


def touched_metadata(metadata: dict[str, str], sha256: str | None) -> dict[str, str] | None:
    """The metadata for a blob whose bytes stay; None if they cannot be stored so: a blob of another program
    has no checksum, and without one values are read as they are."""
    if sha256 is not None:
        return blob_metadata(metadata, sha256)
    stored = attributes.to_store(metadata, lambda name: name)
    if any(metadata[name] != value for name, value in stored.items()):
        return None
    return {name.replace("-", "_"): value for name, value in stored.items()}


def object_info(key: str, result: Any) -> ObjectInfo:
    """The info in an answer of obstore to GET or HEAD."""
    meta = result.meta
    content_type, own, metadata = attributes.read(result.attributes, _OWN, CHECKSUM)
    etag, modified = bare(meta["e_tag"]), meta["last_modified"]
    return ObjectInfo(key, meta["size"], etag, modified, content_type, metadata, own.get(CHECKSUM))


def listed_info(key: str, properties: dict[str, str], metadata: dict[str, str]) -> ObjectInfo:
    """The info in the answer to List Blobs; ``properties`` are those that are not empty."""
    # `attributes.read`, which listings would call for each blob, without a dict of all.
    headers = {METADATA[name]: properties[name] for name in _KEPT if name in properties}
    is_ours = CHECKSUM in metadata
    for name, value in metadata.items():
        if name != CHECKSUM and (ours := attributes.our_name(name)) is not None:
            headers[ours] = attributes.decoded(value) if is_ours else value
    return ObjectInfo(
        key,
        int(properties.get("Content-Length", 0)),
        bare(properties.get("Etag")),
        _moment(properties.get("Last-Modified", _NO_TIME)),
        properties.get("Content-Type", DEFAULT_CONTENT_TYPE),
        headers,
        metadata.get(CHECKSUM),
    )


@lru_cache(maxsize=256)  # Neighbours were often saved in the same second.
def _moment(text: str) -> datetime:
    from email.utils import parsedate_to_datetime

    return parsedate_to_datetime(text)


def quoted(if_match: str) -> str:
    """An ETag, or the mark for any, as the service wants it."""
    return if_match if if_match == ANY_VERSION else f'"{if_match}"'
