"""The content type that a name tells, the same on every machine; the system's own type files are not read."""

from __future__ import annotations

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


def content_type_of(name: str) -> str | None:
    """By the extension; None if it tells nothing."""
    guessed, encoding = _types().guess_file_type(name, strict=False)
    return guessed if encoding is None else _ENCODINGS.get(encoding)


@cache
def _types() -> MimeTypes:
    from mimetypes import MimeTypes

    types = MimeTypes()
    for extension, content_type in _MORE_TYPES.items():
        types.add_type(content_type, extension)
    return types
