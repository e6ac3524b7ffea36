"""Streams as multipart uploads: constant memory, and the object appears whole with the last request.

S3 takes an object's metadata when an upload begins. The checksum of a stream and the late metadata are known
when it ends: they go into a small object of their own, the sidecar, written before the upload is completed
and named by the mark of this write, so that an object that can be seen always has them. So do metadata that
find no room at the object.

Source: "Multipart upload overview", CompleteMultipartUpload (Amazon S3 API reference).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from xml.sax.saxutils import escape

from storage_lib.backends.cloud.parts import send_all
from storage_lib.backends.s3 import continuing, wire
from storage_lib.backends.s3.answers import text_of
from storage_lib.backends.s3.bucket import Bucket
from storage_lib.errors import (
    PreconditionFailedError,
    StorageError,
    StorageUnavailableError,
    TransientStorageError,
    UnsupportedOperationError,
)
from storage_lib.ports.drivers import PutOptions, Repeat
from storage_lib.ports.kept_headers import headers_in
from storage_lib.ports.streaming import Parts


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
    known: list[str] = []
    if options.upload is not None and parts.start:
        if (begun := await continuing.find(bucket, options.upload)) is not None:
            known = await continuing.etags(bucket, key, begun, parts.start // parts.before)
        if begun is None or len(known) < parts.before:
            raise TransientStorageError(f"{doing}: its upload was given up or completed", remedy="try again")
    mark = wire.new_mark() if begun is None else begun.mark
    metadata, moved = wire.divided(options.metadata)
    sidecar = wire.sidecar_name(mark, full=parts.is_late or bool(moved))
    headers = wire.to_headers(wire.to_metadata(metadata, mark, None, sidecar=sidecar), options.content_type)
    headers |= headers_in(metadata)
    # Begun twice, one of the uploads stays empty and is none of anybody's.
    if begun is None:
        query = await repeat(f"{doing}, begin", lambda: _begin(bucket, key, headers, doing))
        if options.upload is not None:
            kept = continuing.Begun(query["uploadId"], mark)
            name = options.upload
            await repeat(f"{doing}, keep", lambda: continuing.keep(bucket, name, kept))
    else:
        query = begun.query
    completing = False

    async def send(index: int, part: bytes) -> str:
        number = parts.before + index + 1
        numbered = {**query, "partNumber": str(number)}
        response = await repeat(
            f"{doing}, part {number}",
            lambda: bucket.send("PUT", key, query=numbered, body=part, doing=doing),
        )
        return response.headers.get("ETag", "")

    try:
        etags = known[: parts.before] + await send_all(aiter(parts), send)
        await before_the_end()
        checksum = wire.to_sidecar(sidecar, parts.sha256, parts.complete(moved))
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
        if options.upload is not None and is_cut_off and not completing:
            raise  # Another process is to continue it.
        # A refusal is an answer: nothing was made. Otherwise the object may be there, and needs its sidecar.
        is_refused = isinstance(error, StorageError) and not isinstance(error, StorageUnavailableError)
        await _clean_up(bucket, key, query, sidecar if is_refused or not completing else None)
        raise
    finally:
        if options.upload is not None and completing:
            await continuing.forget(bucket, options.upload)
    return wire.join(wire.bare(text_of(answer.body, "ETag")), mark)


async def _begin(bucket: Bucket, key: str, headers: Mapping[str, str], doing: str) -> dict[str, str]:
    begin = asyncio.create_task(bucket.send("POST", key, query={"uploads": ""}, headers=headers, doing=doing))
    try:
        begun = await asyncio.shield(begin)
    except asyncio.CancelledError:
        # Only the answer tells which upload is to be given up.
        await _clean_up(bucket, key, {"uploadId": text_of((await begin).body, "UploadId")}, None)
        raise
    return {"uploadId": text_of(begun.body, "UploadId")}


async def _clean_up(bucket: Bucket, key: str, query: Mapping[str, str], sidecar: str | None) -> None:
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
