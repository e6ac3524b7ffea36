"""Streams to blobs: blocks staged side by side.

A blob of blocks appears by Put Block List, whole, with the type and metadata that are known only then.
Blocks that were never committed are not to be seen and go after a week. The service drops all of a blob's
uncommitted blocks when anything is committed to it: of uploads that race for a key, the ones that end later
find theirs gone and fail, and none can be made of the blocks of two, since every upload names its own. The
name of a block tells its upload, its place, and how its MD5 begins.

obstore moves no metadata and no condition with its multipart uploads, so blocks are requests of our own.

Sources: "Put Block", "Put Block List", "Get Block List" (Azure Storage REST).
"""

from __future__ import annotations

import base64
import secrets
from contextlib import suppress
from hashlib import sha256

from storage_lib import threads
from storage_lib.backends.azure.attributes import bare, blob_metadata, commit_headers
from storage_lib.backends.azure.container import Container
from storage_lib.backends.azure.errors import check, etag_of
from storage_lib.backends.azure.listing import parsed
from storage_lib.backends.cloud.objects import send_all
from storage_lib.backends.cloud.sessions import Response
from storage_lib.errors import KeyNotFoundError
from storage_lib.ports.drivers import PutOptions, Repeat
from storage_lib.ports.object_model import ANY_VERSION
from storage_lib.ports.streaming import Parts, SentPart, md5_of

_UPLOAD_BYTES, _INDEX_BYTES, _MD5_BYTES = 9, 3, 12


async def put_blocks(
    container: Container,
    key: str,
    parts: Parts,
    options: PutOptions,
    repeat: Repeat,
) -> str:
    """Store the parts as a blob of blocks and return its ETag. If anything fails, nothing is to be seen.

    :param repeat: how a block is staged: once, or again where that fails.
    :raises TransientStorageError: another save to ``key`` ended meanwhile, which dropped the blocks.
    """
    signed, doing, path = container.signed, f"put {key!r}", container.signed.path_of(key)

    upload = secrets.token_bytes(_UPLOAD_BYTES) if options.upload is None else _named(options.upload)

    async def stage(index: int, part: bytes) -> str:
        index += parts.before
        if (sent := await parts.sent(index, part)) is not None:
            return sent.name
        digest = await threads.working.run(md5_of, part)
        block = _block(upload, index, digest)
        # The service refuses what has been damaged on its way. (The emulator, not given an MD5, computes a
        # CRC-64, in JavaScript, for three times as long as it takes for all the rest.)
        headers = {"Content-MD5": base64.b64encode(digest).decode()}
        query = {"comp": "block", "blockid": _on_wire(block)}

        async def send() -> Response:
            # Not a write of the key: what is never committed is never seen.
            response = await container.send(lambda: signed.send("PUT", path, headers, query=query, body=part))
            return check(response, 201)

        await repeat(f"{doing}, a block", lambda: container.until_made(send, doing, key))
        return block

    # The first one finds out whether there is a container.
    blocks = [parts.known[index].name for index in range(parts.before)]
    blocks += await send_all(aiter(parts), stage, first_alone=not container.seen)

    async def commit() -> Response:
        headers = commit_headers(options, blob_metadata(parts.complete(options.metadata), parts.sha256))
        named = "".join(f"<Latest>{_on_wire(block)}</Latest>" for block in blocks)
        body = f"<?xml version='1.0' encoding='utf-8'?><BlockList>{named}</BlockList>".encode()
        query = {"comp": "blocklist"}
        try:
            response = await container.write(
                key,
                lambda: signed.send("PUT", path, headers, query=query, body=body),
                conditional=is_ordered(options),
            )
            return check(response, 201)
        except Exception as error:
            await container.failed(error, doing, key, options.if_match)
            raise

    response = await repeat(f"{doing}, commit", commit, only_refused=True)
    return bare(etag_of(response, doing))


async def staged(container: Container, key: str, upload: str) -> dict[int, SentPart]:
    """The blocks of an upload that are there."""
    signed, doing = container.signed, f"list the blocks of {key!r}"
    query = {"comp": "blocklist", "blocklisttype": "uncommitted"}
    try:
        response = await container.send(lambda: signed.send("GET", signed.path_of(key), {}, query=query))
        found = parsed(check(response, 200).body, doing, "BlockList").iterfind("UncommittedBlocks/Block")
    except Exception as error:
        with suppress(KeyNotFoundError):
            await container.failed(error, doing, key)
        return {}
    name, parts = _named(upload), dict[int, SentPart]()
    for block in found:
        with suppress(ValueError):  # Others name theirs as they like.
            block_id = base64.b64decode(block.findtext("Name", "")).decode()
            told = base64.urlsafe_b64decode(block_id)
            if told[:_UPLOAD_BYTES] == name:
                index = int.from_bytes(told[_UPLOAD_BYTES:-_MD5_BYTES])
                parts[index] = SentPart(block_id, int(block.findtext("Size", "")), told[-_MD5_BYTES:])
    return parts


def _named(upload: str) -> bytes:
    return sha256(upload.encode()).digest()[:_UPLOAD_BYTES]


def _block(upload: bytes, index: int, digest: bytes) -> str:
    # All ids of a blob have one length; that of obstore's, should one of its uploads be open.
    told = upload + index.to_bytes(_INDEX_BYTES) + digest[:_MD5_BYTES]
    return base64.urlsafe_b64encode(told).decode()


def _on_wire(block: str) -> str:
    # Once more, as the SDK does, which has named blocks of uploads that may still be open.
    return base64.b64encode(block.encode()).decode()


def is_ordered(options: PutOptions) -> bool:
    """Whether a save that lands late changes nothing: it insists on one version, or on none."""
    return options.if_absent or options.if_match not in (None, ANY_VERSION)
