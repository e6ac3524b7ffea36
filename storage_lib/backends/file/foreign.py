"""What is known of a file that another program dropped into the folder: its type by its name, an ETag."""

from __future__ import annotations

import os

from storage_lib import content_types


def content_type_of(key: str) -> str:
    """By the extension."""
    return content_types.content_type_of(key) or "application/octet-stream"


def foreign_etag(status: os.stat_result) -> str:
    return f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"
