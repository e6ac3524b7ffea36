"""Deletes of many objects in one request, whether or not they are there: S3 does not tell.

Source: "DeleteObjects" (Amazon S3 API reference).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from xml.sax.saxutils import escape

from storage_lib.backends.s3.answers import children_of
from storage_lib.backends.s3.bucket import Bucket
from storage_lib.backends.s3.errors import Answer

MAX_DISCARDED = 1000
_STATUS = {"AccessDenied": 403, "InternalError": 500, "SlowDown": 503}


async def discard(bucket: Bucket, keys: Sequence[str]) -> None:
    """:param keys: `MAX_DISCARDED` at most. :raises StorageError: why one of them could not be deleted."""
    if not keys:
        return
    doing = f"delete {len(keys)} objects"
    objects = "".join(f"<Object><Key>{escape(key)}</Key></Object>" for key in keys)
    body = f"<Delete><Quiet>true</Quiet>{objects}</Delete>".encode()
    response = await bucket.send(
        "POST",
        query={"delete": ""},
        headers={"content-md5": base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()},
        body=body,
        doing=doing,
        claims=[bucket.client.claim(key) for key in keys],
    )
    for failed in children_of(response.body, "Error") if response.body.strip() else ():
        code = failed.get("Code", "")
        if code != "NoSuchKey":
            raise Answer(_STATUS.get(code, 400), code, failed.get("Message", "")).as_error(doing)
