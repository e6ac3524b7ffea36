"""What the service does at one request without the bytes passing through here: a copy within the bucket, and
deletes of many objects, whether or not they are there: S3 does not tell.

Source: "CopyObject", "DeleteObjects" (Amazon S3 API reference).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from xml.sax.saxutils import escape

from storage_lib.backends.s3 import encoding
from storage_lib.backends.s3.bucket import Bucket
from storage_lib.backends.s3.client import children_of, encode_path, text_of
from storage_lib.backends.s3.errors import Answer
from storage_lib.errors import (
    KeyNotFoundError,
    PreconditionFailedError,
    StorageError,
    StorageUnavailableError,
)
from storage_lib.ports.deadline import DEADLINE
from storage_lib.ports.errors import missing, unmet
from storage_lib.ports.kept_headers import headers_in
from storage_lib.ports.object_model import ObjectInfo

MAX_DISCARDED = 1000
_STATUS = {"AccessDenied": 403, "InternalError": 500, "SlowDown": 503}


@asynccontextmanager
async def described(
    bucket: Bucket, key: str, metadata: Mapping[str, str], mark: str, sha256: str | None, doing: str
) -> AsyncGenerator[dict[str, str]]:
    """The metadata to store an object with, within. What finds no room there is in a sidecar before the
    object is there, and is removed if that is refused."""
    kept, moved = encoding.divided(metadata)
    if not moved:
        yield encoding.to_metadata(kept, mark, sha256)
        return
    sidecar = encoding.sidecar_name(mark, full=True)
    content = encoding.to_sidecar(sidecar, sha256, moved)
    await bucket.put(sidecar, content, {"Content-Type": "text/plain"}, doing=f"{doing}, metadata")
    try:
        yield encoding.to_metadata(kept, mark, sha256, sidecar=sidecar, key=key)
    except StorageError as error:
        if not isinstance(error, StorageUnavailableError):  # Else the object may be there.
            with suppress(StorageError):
                await bucket.send("DELETE", sidecar, doing=f"clean up after {doing}")
        raise


async def copy(bucket: Bucket, info: ObjectInfo, target: str) -> str:
    """Copy the version that ``info`` tells of, with a mark and so an ETag of its own, which is returned.

    :raises KeyNotFoundError: the source is gone.
    :raises PreconditionFailedError: it has been replaced meanwhile.
    """
    mark = encoding.new_mark()
    doing = f"copy {info.key!r} to {target!r}"
    async with described(bucket, target, info.metadata, mark, info.sha256, doing) as metadata:
        headers = encoding.to_headers(metadata, info.content_type) | {
            "x-amz-copy-source": f"/{bucket.name}/{encode_path(info.key)}",
            "x-amz-copy-source-if-match": encoding.quoted(info.etag),
            "x-amz-metadata-directive": "REPLACE",
            **headers_in(info.metadata),
        }
        if target == info.key:
            # What replaces it while it is copied must not be overwritten; older servers ignore this one.
            headers["if-match"] = encoding.quoted(info.etag)
        claims = [bucket.client.claim(target)]
        try:
            answer = await bucket.send("PUT", target, headers=headers, doing=doing, claims=claims)
        except KeyNotFoundError as error:
            raise missing(info.key) from error.__cause__
        except PreconditionFailedError as error:
            raise unmet(info.key, info.etag) from error
    return encoding.join(encoding.bare(text_of(answer.body, "ETag")), mark)


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
