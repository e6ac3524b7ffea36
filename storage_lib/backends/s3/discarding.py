"""Deletes of many objects in one request, whether or not they are there: S3 does not tell.

Source: "DeleteObjects" (Amazon S3 API reference).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Sequence
from xml.sax.saxutils import escape

from storage_lib.backends.s3.bucket import Bucket
from storage_lib.backends.s3.client import children_of
from storage_lib.backends.s3.errors import Answer
from storage_lib.errors import StorageError
from storage_lib.ports.deadline import DEADLINE

MAX_DISCARDED = 1000
_STATUS = {"AccessDenied": 403, "InternalError": 500, "SlowDown": 503}


async def discard(
    bucket: Bucket, keys: Sequence[str], still: Callable[[], Iterable[str]] | None = None
) -> dict[str, StorageError]:
    """:param keys: `MAX_DISCARDED` at most.
    :param still: which of them are still to be deleted when it is their turn.
    :return: why some could not be deleted.
    """
    if not keys:
        return {}
    doing = f"delete {len(keys)} objects"

    def content() -> tuple[dict[str, str], bytes]:
        if (deadline := DEADLINE.get()) is not None:
            deadline.share(len(keys))
        wanted = keys if still is None else still()
        objects = "".join(f"<Object><Key>{escape(key)}</Key></Object>" for key in wanted)
        body = f"<Delete><Quiet>true</Quiet>{objects}</Delete>".encode()
        digest = hashlib.md5(body, usedforsecurity=False).digest()
        return {"content-md5": base64.b64encode(digest).decode()}, body

    response = await bucket.send(
        "POST",
        query={"delete": ""},
        content=content,
        doing=doing,
        claims=[bucket.client.claim(key) for key in keys],
    )
    failures: dict[str, StorageError] = {}
    for failed in children_of(response.body, "Error") if response.body.strip() else ():
        code, key = failed.get("Code", ""), failed.get("Key", "")
        if code != "NoSuchKey":
            answer = Answer(_STATUS.get(code, 400), code, failed.get("Message", ""))
            # An error that names none of them, as that of the whole request, may be about any.
            for each in (key,) if key in keys else keys:
                failures.setdefault(each, answer.as_error(f"delete {each!r}"))
    return failures
