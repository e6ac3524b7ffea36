"""What travels with an object's bytes, as every service has it: type, metadata and ETag.

User metadata have their own names, in the spelling of the service, and values as `encode_metadata_value`
leaves them. Metadata of other programs (objects without the marker of a write of ours) are given with
lower-case names and ``-`` for ``_``, and values as they are; names outside our grammar are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from storage_lib.keys import encode_metadata_value, stored_metadata_value
from storage_lib.patterns import pattern
from storage_lib.ports.kept_headers import FIELDS, METADATA
from storage_lib.ports.object_model import DEFAULT_CONTENT_TYPE

_METADATA_NAME = pattern(r"[a-z][a-z0-9-]{0,63}")
# Some servers, proxies and old clients drop a header without a value. No value of ours contains U+0000.
_EMPTY_VALUE = "%00"


def to_store(metadata: Mapping[str, str], spelled: Callable[[str], str]) -> dict[str, str]:
    """The metadata to store; the names of kept headers are left to `headers_in`."""
    # Signatures are made of values with runs of spaces folded into one; encoded ones are left alone.
    return {
        spelled(name): encode_metadata_value(value).replace("  ", "%20%20") or _EMPTY_VALUE
        for name, value in metadata.items()
        if name not in FIELDS
    }


def read(
    attributes: Mapping[Any, str], own: frozenset[str], marker: str, escape: str = ""
) -> tuple[str, dict[str, str], dict[str, str]]:
    """Content type, the entries that are our ``own``, and the metadata in an answer of obstore.

    :param marker: the one of them that every object of ours has. :param escape: in front of some names.
    """
    content_type = DEFAULT_CONTENT_TYPE
    kept: dict[str, str] = {}
    metadata: dict[str, str] = {}
    decode = decoded if marker in attributes else str
    for name, value in attributes.items():
        if name == "Content-Type":
            content_type = value or DEFAULT_CONTENT_TYPE
        elif name in own:
            kept[name] = value
        elif name in METADATA:
            metadata[METADATA[name]] = value
        elif name != "Storage-Class" and (ours := our_name(name, escape)) is not None:
            metadata[ours] = decode(value)
    return content_type, kept, metadata


@lru_cache(maxsize=1024)
def our_name(name: str, escape: str = "") -> str | None:
    """The name of a metadata of the service as we give it; None if it cannot be one of ours."""
    ours = name.lower().replace("_", "-").removeprefix(escape)
    return ours if _METADATA_NAME.fullmatch(ours) else None


def bare(etag: str | None) -> str:
    """An ETag without quotes, as we give it."""
    return (etag or "").strip('"')


def decoded(value: str) -> str:
    """A value of ours, as it was before `to_store`."""
    if "%" not in value:
        return value
    return "" if value == _EMPTY_VALUE else stored_metadata_value(value)
