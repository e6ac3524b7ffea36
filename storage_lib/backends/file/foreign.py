"""What is known of a file that another program dropped into the folder: its type by its name, an ETag."""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mimetypes import MimeTypes

_MORE_TYPES = {
    ".csv": "text/csv",
    ".json": "application/json",
    ".jsonl": "application/x-ndjson",
    ".md": "text/markdown",
    ".ndjson": "application/x-ndjson",
    ".parquet": "application/vnd.apache.parquet",
    ".toml": "application/toml",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
}
_ENCODINGS = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}


def content_type_of(key: str) -> str:
    """By the extension, the same on every machine; the system's own type files are not read."""
    guessed, encoding = _types().guess_file_type(key, strict=False)
    if encoding is not None:
        return _ENCODINGS.get(encoding, "application/octet-stream")
    return guessed or "application/octet-stream"


def foreign_etag(status: os.stat_result) -> str:
    return f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"


@cache
def _types() -> MimeTypes:
    from mimetypes import MimeTypes

    types = MimeTypes()
    for extension, content_type in _MORE_TYPES.items():
        types.add_type(content_type, extension)
    return types
