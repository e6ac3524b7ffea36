"""Streams as multipart uploads: constant memory, and the object appears whole with the last request.

S3 takes an object's metadata when an upload begins. The checksum of a stream and the late metadata are known
when it ends: they go into a small object of their own, the sidecar, written before the upload is completed
and named by the mark of this write, so that an object that can be seen always has them. So do metadata that
find no room at the object.

Source: "Multipart upload overview", CompleteMultipartUpload (Amazon S3 API reference).
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from xml.sax.saxutils import escape

import msgspec

from storage_lib.backends.cloud.objects import send_all
from storage_lib.backends.s3 import encoding
from storage_lib.backends.s3.bucket import Bucket
from storage_lib.backends.s3.client import children_of, text_of
from storage_lib.errors import (
    KeyNotFoundError,
    PreconditionFailedError,
    StorageError,
    StorageUnavailableError,
    TransientStorageError,
    UnsupportedOperationError,
)
from storage_lib.keys import SYSTEM_PREFIX
from storage_lib.ports.drivers import PutOptions, Repeat
from storage_lib.ports.kept_headers import headers_in
from storage_lib.ports.streaming import Parts, SentPart

_IS_MD5 = re.compile(r"[0-9a-f]{32}").fullmatch


class Begun(msgspec.Struct, frozen=True):
    """An upload that was begun, and that another process may continue. S3 knows it by an id that it gives. A
    small object of the library's own, one for each key, keeps this.

    ``upload`` is the caller's name for it; ``mark`` is in the metadata of the object to be. ``by_md5``: the
    ETags of its parts are their MD5 (with keys of AWS KMS they are not).
    """

    upload_id: str
    mark: str
    upload: str = ""
    by_md5: bool = False

    @property
    def query(self) -> dict[str, str]:
        return {"uploadId": self.upload_id}


def _record(key: str) -> str:
    return f"{SYSTEM_PREFIX}uploads/{hashlib.sha256(key.encode()).hexdigest()}"


async def _keep(bucket: Bucket, key: str, begun: Begun) -> None:
    """Keep what is needed to continue an upload."""
    doing = "keep the id of an upload"
    await bucket.put(_record(key), msgspec.json.encode(begun), {"Content-Type": "text/plain"}, doing=doing)


async def forget_upload(bucket: Bucket, key: str) -> None:
    """Remove what was kept; what stays does no harm."""
    with suppress(StorageError):
        await bucket.send("DELETE", _record(key), doing="forget an upload")


async def find_upload(bucket: Bucket, key: str) -> Begun | None:
    """The upload for a key that was begun last, and may be there still."""
    doing = "look for the id of an upload"
    try:
        _, content = await bucket.get(_record(key), {}, doing, whole=True)
        return msgspec.json.decode(content, type=Begun)
    except (KeyNotFoundError, msgspec.DecodeError):
        return None


async def sent_parts(bucket: Bucket, key: str, begun: Begun) -> dict[int, SentPart] | None:
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


async def upload(
    bucket: Bucket,
    key: str,
    parts: Parts,
    options: PutOptions,
    condition: Mapping[str, str],
    before_the_end: Callable[[], Awaitable[None]],
    repeat: Repeat,
) -> str:
    """Store ``parts`` and return the port's ETag. If anything fails, nothing is left but, when the last
    answer was lost, what may belong to an object that is there.

    :param condition: headers that the object must agree with when the upload is completed.
    :param before_the_end: awaited between the last part and the completion; may raise.
    :param repeat: how a part is sent: once, or again where that fails.
    """
    doing = f"put {key!r}"
    begun = None
    if options.upload is not None:
        begun = await _begun(bucket, key, parts, options.upload)
    mark = encoding.new_mark() if begun is None else begun.mark
    metadata, moved = encoding.divided(options.metadata)
    sidecar = encoding.sidecar_name(mark, full=parts.is_late or bool(moved))
    stored = encoding.to_metadata(metadata, mark, None, sidecar=sidecar, key=key)
    headers = encoding.to_headers(stored, options.content_type) | headers_in(metadata)
    # Begun twice, one of the uploads stays empty and is none of anybody's.
    if begun is None:
        query, by_md5 = await repeat(f"{doing}, begin", lambda: _begin(bucket, key, headers, doing))
        if options.upload is not None:
            kept = Begun(query["uploadId"], mark, options.upload, by_md5)
            await repeat(f"{doing}, keep", lambda: _keep(bucket, key, kept))
    else:
        query = begun.query
    completing = False

    async def send(index: int, part: bytes) -> str:
        index += parts.before
        if (sent := await parts.sent(index, part)) is not None:
            return sent.name
        number = index + 1
        numbered = {**query, "partNumber": str(number)}
        response = await repeat(
            f"{doing}, part {number}",
            lambda: bucket.send("PUT", key, query=numbered, body=part, doing=doing),
        )
        return response.headers.get("ETag", "")

    try:
        etags = [parts.known[index].name for index in range(parts.before)]
        etags += await send_all(aiter(parts), send)
        await before_the_end()
        checksum = encoding.to_sidecar(sidecar, parts.sha256, parts.complete(moved))
        plain = {"Content-Type": "text/plain"}
        await repeat(f"{doing}, checksum", lambda: bucket.put(sidecar, checksum, plain, doing=doing))
        completing = True
        body = _manifest(etags)
        claim = bucket.client.claim(key, conditional=bool(condition))
        try:
            answer = await repeat(
                f"{doing}, complete",
                lambda: bucket.send(
                    "POST", key, query=query, headers=condition, body=body, doing=doing, claims=[claim]
                ),
                only_refused=True,
            )
        except (PreconditionFailedError, StorageUnavailableError) as error:
            if "if-match" in condition or not await bucket.is_folder(key):
                raise
            raise UnsupportedOperationError(
                f"{doing}: this server cannot stream an object to where it has a folder",
                remedy="choose a key that no other key has as its folder, or save the object in one piece",
            ) from error
    except BaseException as error:
        is_cut_off = isinstance(error, asyncio.CancelledError | TransientStorageError)
        if options.upload is not None and is_cut_off:
            raise  # Another process is to continue it, or to see that it was completed.
        # A refusal is an answer: nothing was made. Otherwise the object may be there, and needs its sidecar.
        is_refused = isinstance(error, StorageError) and not isinstance(error, StorageUnavailableError)
        await clean_up(bucket, key, query, sidecar if is_refused or not completing else None)
        if options.upload is not None:
            await forget_upload(bucket, key)
        raise
    if options.upload is not None:
        await forget_upload(bucket, key)
    return encoding.join(encoding.bare(text_of(answer.body, "ETag")), mark)


async def _begun(bucket: Bucket, key: str, parts: Parts, upload: str) -> Begun | None:
    """The upload to be continued. One of another stream for this key, which nobody will continue, is given
    up."""
    begun = await find_upload(bucket, key)
    if begun is not None and begun.upload != upload:
        await clean_up(bucket, key, begun.query, None)
        begun = None
    elif begun is not None and not parts.known and await sent_parts(bucket, key, begun) is None:
        begun = None
    if begun is None and parts.known:
        raise TransientStorageError(f"put {key!r}: its upload was given up or completed", remedy="try again")
    return begun


async def _begin(
    bucket: Bucket, key: str, headers: Mapping[str, str], doing: str
) -> tuple[dict[str, str], bool]:
    """The query that names a new upload, and whether the ETags of its parts will be their MD5."""
    begin = asyncio.create_task(bucket.send("POST", key, query={"uploads": ""}, headers=headers, doing=doing))
    try:
        begun = await asyncio.shield(begin)
    except asyncio.CancelledError:
        # Only the answer tells which upload is to be given up.
        await clean_up(bucket, key, {"uploadId": text_of((await begin).body, "UploadId")}, None)
        raise
    by_md5 = not begun.headers.get("x-amz-server-side-encryption", "").startswith("aws:kms")
    return {"uploadId": text_of(begun.body, "UploadId")}, by_md5


async def clean_up(bucket: Bucket, key: str, query: Mapping[str, str], sidecar: str | None) -> None:
    """Give up the upload; what stays is removed by the bucket's lifecycle rule for incomplete uploads, if
    any. While a part that was cut off still arrives this can fail (AbortMultipartUpload): it is tried again.
    """

    async def remove() -> None:
        for name, parameters in ((key, query), (sidecar, {})):
            for pause in (0.1, 0.5, 0) if name is not None else ():
                try:
                    await bucket.send("DELETE", name or "", query=parameters, doing=f"clean up after {key!r}")
                    break
                except TransientStorageError:
                    await asyncio.sleep(pause)
                except StorageError:
                    break

    await asyncio.shield(remove())


def _manifest(etags: list[str]) -> bytes:
    parts = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(etag)}</ETag></Part>"
        for number, etag in enumerate(etags, 1)
    )
    return f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
