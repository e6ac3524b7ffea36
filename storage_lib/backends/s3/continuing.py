"""Multipart uploads that another process may continue.

S3 knows an upload by an id that it gives. A small object of the library's own, one for each key, keeps it,
the mark that the upload was begun with, and the name that the caller has for it.
"""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress

import msgspec

from storage_lib.backends.s3.answers import children_of
from storage_lib.backends.s3.bucket import Bucket
from storage_lib.errors import KeyNotFoundError, StorageError
from storage_lib.keys import SYSTEM_PREFIX
from storage_lib.ports.sent import SentPart

_IS_MD5 = re.compile(r"[0-9a-f]{32}").fullmatch


class Begun(msgspec.Struct, frozen=True):
    """An upload that was begun; ``mark`` is in the metadata of the object to be. ``by_md5``: the ETags of its
    parts are their MD5 (with keys of AWS KMS they are not)."""

    upload_id: str
    mark: str
    upload: str = ""
    by_md5: bool = False

    @property
    def query(self) -> dict[str, str]:
        return {"uploadId": self.upload_id}


def _record(key: str) -> str:
    return f"{SYSTEM_PREFIX}uploads/{hashlib.sha256(key.encode()).hexdigest()}"


async def keep(bucket: Bucket, key: str, begun: Begun) -> None:
    """Keep what is needed to continue an upload."""
    doing = "keep the id of an upload"
    await bucket.put(_record(key), msgspec.json.encode(begun), {"Content-Type": "text/plain"}, doing=doing)


async def forget(bucket: Bucket, key: str) -> None:
    """Remove what was kept; what stays does no harm."""
    with suppress(StorageError):
        await bucket.send("DELETE", _record(key), doing="forget an upload")


async def find(bucket: Bucket, key: str) -> Begun | None:
    """The upload for a key that was begun last, and may be there still."""
    doing = "look for the id of an upload"
    try:
        _, content = await bucket.get(_record(key), {}, doing, whole=True)
        return msgspec.json.decode(content, type=Begun)
    except (KeyNotFoundError, msgspec.DecodeError):
        return None


async def sent(bucket: Bucket, key: str, begun: Begun) -> dict[int, SentPart] | None:
    """The parts of an upload that are there; None if it was completed or given up."""
    found, last = dict[int, SentPart](), "0"
    while True:
        query = {**begun.query, "part-number-marker": last}
        try:
            answer = await bucket.send("GET", key, query=query, doing=f"list the parts of {key!r}")
        except KeyNotFoundError:
            return None
        parts = children_of(answer.body, "Part")
        for part in parts:
            last, etag = part["PartNumber"], part["ETag"]
            md5 = etag.strip('"')
            known = bytes.fromhex(md5) if begun.by_md5 and _IS_MD5(md5) else None
            found[int(last) - 1] = SentPart(etag, int(part["Size"]), known)
        if not parts:
            return found
