"""Streams to blobs: blocks staged side by side.

A blob of blocks appears by Put Block List, whole, with the type and metadata that are known only then.
Blocks that were never committed are not to be seen and go after a week. The service drops all of a blob's
uncommitted blocks when anything is committed to it: of uploads that race for a key, the ones that end later
find theirs gone and fail, and none can be made of the blocks of two, since every upload names its own. The
name of a block tells its upload, its place, and how its MD5 begins.

obstore moves no metadata and no condition with its multipart uploads, so blocks go through the SDK, at about
two or three milliseconds of processor time for a MiB, the checksums included.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import AsyncIterator
from contextlib import suppress
from hashlib import sha256
from typing import Any, cast

from storage_lib import threads
from storage_lib.backends.azure.attributes import bare, blob_metadata, quoted
from storage_lib.backends.azure.container import Container
from storage_lib.backends.cloud.parts import send_all
from storage_lib.errors import KeyNotFoundError
from storage_lib.ports.drivers import PutOptions, Repeat
from storage_lib.ports.kept_headers import headers_in
from storage_lib.ports.object_model import ANY_VERSION
from storage_lib.ports.sent import SentPart, md5_of
from storage_lib.ports.streaming import Parts

_PIECE_BYTES = 256 * 1024
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
    from azure.core import MatchConditions
    from azure.storage.blob import BlobBlock, ContentSettings

    condition: dict[str, Any] = {}
    if_match, metadata = options.if_match, options.metadata
    if options.if_absent:
        condition["match_condition"] = MatchConditions.IfMissing
    elif if_match == ANY_VERSION:
        condition["match_condition"] = MatchConditions.IfPresent
    elif if_match is not None:
        condition |= {"etag": quoted(if_match), "match_condition": MatchConditions.IfNotModified}
    kept = headers_in(metadata)
    blob = await container.blob(key)
    doing = f"put {key!r}"

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
        await repeat(f"{doing}, a block", lambda: stage_once(block, part, headers))
        return block

    async def stage_once(block: str, part: bytes, headers: dict[str, str]) -> None:
        while True:
            try:
                # Not a write of the key: what is never committed is never seen.
                await container.send(
                    lambda: blob.stage_block(
                        block, cast("Any", _Pieces(part)), length=len(part), headers=headers
                    )
                )
                break
            except Exception as error:
                await container.failed(error, doing, key)
        container.seen = True

    # The first one finds out whether there is a container.
    blocks = [parts.known[index].name for index in range(parts.before)]
    blocks += await send_all(aiter(parts), stage, first_alone=not container.seen)

    async def commit() -> Any:
        try:
            return await container.write(
                key,
                lambda: blob.commit_block_list(
                    [BlobBlock(block) for block in blocks],
                    content_settings=ContentSettings(
                        content_type=options.content_type,
                        cache_control=kept.get("Cache-Control"),
                        content_disposition=kept.get("Content-Disposition"),
                        content_encoding=kept.get("Content-Encoding"),
                        content_language=kept.get("Content-Language"),
                    ),
                    metadata=blob_metadata(parts.complete(metadata), parts.sha256),
                    **condition,
                ),
                conditional=is_ordered(options),
            )
        except Exception as error:
            await container.failed(error, doing, key, if_match)
            raise

    answer = await repeat(f"{doing}, commit", commit, only_refused=True)
    return bare(answer["etag"])


async def staged(container: Container, key: str, upload: str) -> dict[int, SentPart]:
    """The blocks of an upload that are there."""
    blob = await container.blob(key)
    try:
        _, found = await container.send(lambda: blob.get_block_list("uncommitted"))
    except Exception as error:
        with suppress(KeyNotFoundError):
            await container.failed(error, f"list the blocks of {key!r}", key)
        return {}
    name, parts = _named(upload), dict[int, SentPart]()
    for block in found:
        with suppress(binascii.Error, UnicodeEncodeError):
            told = base64.urlsafe_b64decode(str(block.id))
            if told[:_UPLOAD_BYTES] == name:
                index = int.from_bytes(told[_UPLOAD_BYTES:-_MD5_BYTES])
                parts[index] = SentPart(str(block.id), block.size, told[-_MD5_BYTES:])
    return parts


def _named(upload: str) -> bytes:
    return sha256(upload.encode()).digest()[:_UPLOAD_BYTES]


def _block(upload: bytes, index: int, digest: bytes) -> str:
    # All ids of a blob have one length; that of obstore's, should one of its uploads be open.
    told = upload + index.to_bytes(_INDEX_BYTES) + digest[:_MD5_BYTES]
    return base64.urlsafe_b64encode(told).decode()


def is_ordered(options: PutOptions) -> bool:
    """Whether a save that lands late changes nothing: it insists on one version, or on none."""
    return options.if_absent or options.if_match not in (None, ANY_VERSION)


class _Pieces:
    """A part as the body of a request: views, so that nothing is copied and little waits in the socket. It
    can be read again, should the SDK have to ask for a token of another tenant first."""

    def __init__(self, part: bytes) -> None:
        self._part = memoryview(part)

    async def __aiter__(self) -> AsyncIterator[memoryview]:
        for start in range(0, len(self._part), _PIECE_BYTES):
            yield self._part[start : start + _PIECE_BYTES]
