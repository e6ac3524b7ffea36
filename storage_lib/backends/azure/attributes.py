"""What travels with a blob's bytes, on the wire of Azure Storage.

User metadata ``some-name`` is ``some_name`` (names are C# identifiers there; ours have no ``_``), and the
checksum is ``aos_sha256``.
"""

from __future__ import annotations

from typing import Any

from storage_lib.backends.cloud import attributes
from storage_lib.backends.cloud.attributes import bare
from storage_lib.ports.object_model import ANY_VERSION, ObjectInfo

CHECKSUM = "aos_sha256"
_OWN = frozenset({CHECKSUM})


def blob_metadata(metadata: dict[str, str], sha256: str) -> dict[str, str]:
    """The metadata of the blob for that of an object."""
    return {CHECKSUM: sha256} | attributes.to_store(metadata, lambda name: name.replace("-", "_"))


def object_info(key: str, result: Any) -> ObjectInfo:
    """The info in an answer of obstore to GET or HEAD."""
    meta = result.meta
    content_type, own, metadata = attributes.read(result.attributes, _OWN, CHECKSUM)
    etag, modified = bare(meta["e_tag"]), meta["last_modified"]
    return ObjectInfo(key, meta["size"], etag, modified, content_type, metadata, own.get(CHECKSUM))


def quoted(if_match: str) -> str:
    """An ETag, or the mark for any, as the service wants it."""
    return if_match if if_match == ANY_VERSION else f'"{if_match}"'
