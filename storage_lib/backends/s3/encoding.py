"""What an object is on the wire: headers, metadata names and ETags.

S3's ETag of an ordinary object is the MD5 of its bytes, so writing the same bytes again does not change it.
Each write therefore leaves a random mark in the metadata (``aos-write``), and the port's ETag is both, joined
by a dot. Objects of other programs have no mark, and S3's ETag is theirs. A condition is checked in two
steps, the mark by a HEAD and S3's ETag with the write itself: a writer that puts *the same bytes* (perhaps
with other metadata, as a touch does) between the two goes unnoticed; any other is noticed.

User metadata ``some-name`` is ``x-amz-meta-some-name``; the few names that obstore takes for HTTP headers get
the prefix ``aos-meta-``. Where there are more of them than S3 takes, what layers have added goes into a
sidecar, a small object named by the mark. An object with one names its key (``aos-key``): a copy that
another program has made, with all its metadata, shares the sidecar of its original, and must not take it
along when it is removed.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping
from typing import Any, NamedTuple

from msgspec import Struct, json

from storage_lib.backends.cloud import attributes
from storage_lib.backends.cloud.attributes import bare
from storage_lib.ports import expiry, hidden
from storage_lib.ports.kept_headers import FIELDS, METADATA
from storage_lib.ports.object_model import ObjectInfo

CHECKSUM = "aos-sha256"
MARK = "aos-write"
STREAMED = "aos-streamed"
"""Tells that the checksum, which was not known when the upload of a stream began, is in a sidecar named by
the mark, or that metadata are, too."""
KEY = "aos-key"
"""Tells for which key an object with a sidecar was written, by a part of its SHA-256."""
MAX_METADATA_BYTES = 2048
"""Of names and values ("Working with object metadata", Amazon S3 user guide); MinIO counts `PREFIX`, too."""
SIDECARS = ".system/sums/"
_FULL = ".json"
"""How the name of a sidecar ends that has metadata, too."""
PREFIX = "x-amz-meta-"

_CHECKSUM_ALONE = "1"
_ALL = "2"
_OWN = frozenset({CHECKSUM, MARK, STREAMED, KEY})
_ESCAPE = "aos-meta-"
_TAKEN = frozenset(name.lower() for name in (*METADATA, "Content-Type", "Storage-Class"))
_MARK = re.compile("[0-9a-f]{16}")
_MARKED = re.compile(rf"(.*)\.({_MARK.pattern})")


def new_mark() -> str:
    return secrets.token_hex(8)


def to_metadata(
    metadata: Mapping[str, str], mark: str, sha256: str | None, *, sidecar: str | None = None, key: str = ""
) -> dict[str, str]:
    """The metadata to store; of a stream they tell what its ``sidecar`` has, and whose it is."""
    stored = {MARK: mark}
    if sidecar is not None:
        stored[STREAMED] = _ALL if has_metadata(sidecar) else _CHECKSUM_ALONE
        stored[KEY] = _short(key)
    if sha256 is not None:
        stored[CHECKSUM] = sha256
    return stored | attributes.to_store(metadata, lambda name: _ESCAPE + name if name in _TAKEN else name)


def divided(metadata: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The metadata to store with the object, and those that find no room there and go into its sidecar: what
    layers have added, but not the end of its life."""
    stored = to_metadata(metadata, "0" * 16, "0" * 64)
    if sum(len(PREFIX) + len(name) + len(value) for name, value in stored.items()) <= MAX_METADATA_BYTES:
        return dict(metadata), {}
    moved = {
        name: value
        for name, value in metadata.items()
        if name.startswith(hidden.RESERVED) and name != expiry.METADATA and name not in FIELDS
    }
    return {name: value for name, value in metadata.items() if name not in moved}, moved


def to_headers(metadata: Mapping[str, str], content_type: str) -> dict[str, str]:
    """The headers of a request that `to_metadata` goes into."""
    return {"content-type": content_type} | {PREFIX + name: value for name, value in metadata.items()}


class Sidecar(NamedTuple):
    """``is_own``: it may be removed with the object; ``is_shared``: it is that of the object of which another
    program has made this one. Objects of earlier versions tell neither."""

    name: str
    is_own: bool
    is_shared: bool


def to_info(key: str, result: Any) -> tuple[ObjectInfo, Sidecar | None]:
    """What obstore's answer says of the object, and its sidecar if it has one."""
    meta = result.meta
    content_type, own, metadata = attributes.read(result.attributes, _OWN, MARK, _ESCAPE)
    mark = own.get(MARK)
    if mark is not None and not _MARK.fullmatch(mark):
        mark = None  # Another program's: as the name of a sidecar it could mean any object.
    etag = join(bare(meta["e_tag"]), mark)
    streamed = None if mark is None else own.get(STREAMED)
    sidecar = None
    if mark is not None and streamed is not None:
        is_own = own.get(KEY) == _short(key)
        sidecar = Sidecar(sidecar_name(mark, full=streamed == _ALL), is_own, KEY in own and not is_own)
    modified, sha256 = meta["last_modified"], own.get(CHECKSUM)
    return ObjectInfo(key, meta["size"], etag, modified, content_type, metadata, sha256), sidecar


def _short(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def sidecar_name(mark: str, *, full: bool) -> str:
    """:param full: it is to have metadata, too."""
    return f"{SIDECARS}{mark}{_FULL if full else ''}"


def has_metadata(sidecar: str) -> bool:
    return sidecar.endswith(_FULL)


def to_sidecar(sidecar: str, sha256: str | None, late: dict[str, str]) -> bytes:
    """What the sidecar is to hold: the checksum, and metadata known only at the end or without room."""
    if not has_metadata(sidecar):
        return (sha256 or "").encode()
    return json.encode(_Sidecar(sha256, late))


def from_sidecar(sidecar: str, content: bytes) -> tuple[str | None, dict[str, str]]:
    """Checksum and metadata. :raises ValueError: it does not hold them."""
    if not has_metadata(sidecar):
        return content.decode(errors="replace"), {}
    read = json.decode(content, type=_Sidecar)
    return read.sha256, read.metadata


class _Sidecar(Struct, frozen=True):
    sha256: str | None
    metadata: dict[str, str]


def join(etag: str, mark: str | None) -> str:
    return etag if mark is None else f"{etag}.{mark}"


def split(etag: str) -> tuple[str, str | None]:
    """S3's ETag and the mark in an ETag of the port."""
    match = _MARKED.fullmatch(etag)
    return (etag, None) if match is None else (match[1], match[2])


def quoted(etag: str) -> str:
    """S3's own ETag in an ETag of the port, as a header has it."""
    return f'"{split(etag)[0]}"'
