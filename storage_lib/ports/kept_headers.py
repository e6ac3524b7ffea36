"""The HTTP headers that other programs give an object and that copies keep.

Between a store and its driver they are metadata with reserved names: a service stores them as headers, a
backend without headers as metadata. Callers see them in the fields of `ObjectInfo`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

FIELDS: Final = {
    "aos-cache-control": "cache_control",
    "aos-content-disposition": "content_disposition",
    "aos-content-encoding": "content_encoding",
    "aos-content-language": "content_language",
}
"""The fields of `ObjectInfo` by the reserved names."""

METADATA: Final = {
    "Cache-Control": "aos-cache-control",
    "Content-Disposition": "aos-content-disposition",
    "Content-Encoding": "aos-content-encoding",
    "Content-Language": "aos-content-language",
}
"""The reserved names by the headers."""


def headers_in(metadata: Mapping[str, str]) -> dict[str, str]:
    """The headers to store an object with."""
    return {header: metadata[name] for header, name in METADATA.items() if name in metadata}
