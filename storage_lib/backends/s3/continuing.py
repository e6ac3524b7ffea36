"""Multipart uploads that another process may continue.

S3 knows an upload by an id that it gives. A small object of the library's own keeps it, with the mark that
the upload was begun with, under the name that the caller has for the upload.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress

import msgspec

from storage_lib.backends.s3.answers import children_of
from storage_lib.backends.s3.bucket import Bucket
from storage_lib.errors import KeyNotFoundError, StorageError
from storage_lib.keys import SYSTEM_PREFIX


class Begun(msgspec.Struct, frozen=True):
    """An upload that was begun; ``mark`` is in the metadata of the object to be."""

    upload_id: str
    mark: str

    @property
    def query(self) -> dict[str, str]:
        return {"uploadId": self.upload_id}


def _record(upload: str) -> str:
    return f"{SYSTEM_PREFIX}uploads/{hashlib.sha256(upload.encode()).hexdigest()}"


async def keep(bucket: Bucket, upload: str, begun: Begun) -> None:
    """Keep what is needed to continue an upload."""
    doing = "keep the id of an upload"
    await bucket.put(_record(upload), msgspec.json.encode(begun), {"Content-Type": "text/plain"}, doing=doing)


async def forget(bucket: Bucket, upload: str) -> None:
    """Remove what was kept; what stays does no harm."""
    with suppress(StorageError):
        await bucket.send("DELETE", _record(upload), doing="forget an upload")


async def find(bucket: Bucket, upload: str) -> Begun | None:
    """An upload that was begun and may be there still."""
    doing = "look for the id of an upload"
    try:
        _, content = await bucket.get(_record(upload), {}, doing, whole=True)
        return msgspec.json.decode(content, type=Begun)
    except (KeyNotFoundError, msgspec.DecodeError):
        return None


async def etags(bucket: Bucket, key: str, begun: Begun, part_bytes: int) -> list[str]:
    """Those of the parts that are there, all from the first one on, of ``part_bytes`` each."""
    found: list[str] = []
    while True:
        query = {**begun.query, "part-number-marker": str(len(found))}
        try:
            answer = await bucket.send("GET", key, query=query, doing=f"list the parts of {key!r}")
        except KeyNotFoundError:
            return []  # It was completed or given up.
        parts = children_of(answer.body, "Part")
        for part in parts:
            if part.get("PartNumber") != str(len(found) + 1) or part.get("Size") != str(part_bytes):
                return found
            found.append(part.get("ETag", ""))
        if not parts:
            return found
