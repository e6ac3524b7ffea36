"""JSON merge patches (RFC 7396): a change of an object's JSON value, made in one step or not at all.

They are applied to the JSON text: what a patch does not name stays as it was written, with every digit of its
numbers.
"""

from __future__ import annotations

import asyncio
import random
from functools import partial
from typing import TYPE_CHECKING

import azure.functions as func

from functions.bodies import MAX_RAW_ITEMS, UnsupportedMediaTypeError, check_items
from functions.conditional import ATTEMPTS, always_replaced
from functions.conditions import Preconditions, single
from storage_lib.errors import (
    InvalidArgumentError,
    ObjectTooLargeError,
    PreconditionFailedError,
    SerializationError,
)
from storage_lib.keys import essence
from storage_lib.ports.hints import CALL
from storage_lib.ports.kept_headers import keepable

if TYPE_CHECKING:
    from storage_lib.manager import StorageManager
    from storage_lib.ports.backend import ObjectInfo, PutResult

MEDIA_TYPE = "application/merge-patch+json"
_SPACE = b" \t\r\n"
_BOM = b"\xef\xbb\xbf"
_ASIDE_BYTES = 256 * 1024
"""Longer texts are merged in a thread."""


class NotJsonError(InvalidArgumentError):
    """The object that is to be patched says that it is JSON, and is not."""

    code = "not-json"


class UnprocessablePatchError(InvalidArgumentError):
    """The patch is valid, but what it would make of the object cannot be stored."""

    code = "unprocessable-patch"


def merged(target: bytes | None, patch: bytes) -> bytes:
    """What a patch makes of a JSON text, by the algorithm of RFC 7396, 2. Both are valid JSON.

    :param target: None where there is nothing yet.
    """
    if not patch.startswith(b"{"):
        return patch
    from msgspec import Raw
    from msgspec.json import decode, encode

    is_object = target is not None and target.startswith(b"{")
    members = decode(target, type=dict[str, Raw]) if is_object and target is not None else {}
    for name, value in decode(patch, type=dict[str, Raw]).items():
        text = bytes(value)
        if text == b"null":
            members.pop(name, None)
        else:
            before = members.get(name)
            members[name] = Raw(merged(None if before is None else bytes(before), text))
    return encode(members)


async def merge(
    req: func.HttpRequest, storage: StorageManager, key: str, patch: bytes, most: int
) -> PutResult:
    """Change an object's JSON value under the conditions of a request; its type, its metadata and the end of
    its life stay. If another writer was faster, the patch is applied to what that one has saved.

    :param patch: the patch.
    :param most: how many bytes the value may have, before and after.
    :raises KeyNotFoundError: there is no such object: a patch creates none.
    :raises PreconditionFailedError: a condition does not hold.
    :raises UnsupportedMediaTypeError: it is not of a JSON type.
    :raises NotJsonError: it is not valid JSON.
    :raises UnprocessablePatchError: the value could not be stored.
    """
    from storage_lib import values
    from storage_lib.ports.shortcuts import paused

    patch = _bare(patch)
    await paused(values.checking(patch, values.JSON))
    conditions = Preconditions.of(req)
    tag = single(conditions.only_match)
    for attempt in range(ATTEMPTS):
        async with storage.open_reader(key, fresh=True) as reader:
            info, unmet = reader.info, None
            try:
                conditions.check_write(key, info)
            except PreconditionFailedError as error:
                if tag is None or CALL.get() is None or not _is_json(info) or info.size > most:
                    raise
                unmet = error  # It may have been changed by this very request, whose answer was lost.
            _check(info, most)
            before = _bare(await reader.read())
        check_items(before, MAX_RAW_ITEMS, "key", _LOAD)
        try:
            await paused(values.checking(before, values.JSON))
        except SerializationError as error:
            raise unmet or NotJsonError(
                f"object {key!r} is not valid JSON: {error.message}", field="key", remedy=_REPLACE
            ) from error
        after = await _merged(before, patch)
        if unmet is not None and after != before:
            raise unmet
        if len(after) > most:
            raise _too_large(f"object {key!r} would have {len(after)} bytes", most)
        try:
            return await storage.write(
                key,
                after,
                content_type=info.content_type,
                metadata=info.metadata,
                headers=keepable(info.headers),
                if_match=info.etag if unmet is None else tag,
                ttl=info.expires_at,
            )
        except SerializationError as error:
            raise UnprocessablePatchError(
                f"the patched value could not be stored: {error.message}",
                field="body",
                limit=error.limit,
                remedy=error.remedy,
            ) from error
        except PreconditionFailedError:
            if unmet is not None:
                raise unmet from None
        # A random pause keeps many writers from colliding again.
        await asyncio.sleep(random.uniform(0, min(0.001 * 2**attempt, 0.1)))  # noqa: S311
    raise always_replaced(key)


async def _merged(target: bytes, patch: bytes) -> bytes:
    if len(target) + len(patch) < _ASIDE_BYTES:
        return merged(target, patch)
    from storage_lib import threads

    return await threads.working.run(partial(merged, target, patch))


def _bare(text: bytes) -> bytes:
    return text.removeprefix(_BOM).strip(_SPACE)


def _is_json(info: ObjectInfo) -> bool:
    kind = essence(info.content_type)
    return info.content_encoding is None and (kind == "application/json" or kind.endswith("+json"))


_LOAD = "load it, change it, and save it with its ETag in If-Match"
_REPLACE = "replace it with a PUT"


def _check(info: ObjectInfo, most: int) -> None:
    if not _is_json(info):
        encoded = "" if info.content_encoding is None else f", encoded as {info.content_encoding[:40]}"
        raise UnsupportedMediaTypeError(
            f"object {info.key!r} is {info.content_type}{encoded}, and a merge patch changes JSON",
            field="Content-Type",
            limit="application/json",
            remedy=_REPLACE,
        )
    if info.size > most:
        raise _too_large(f"object {info.key!r} has {info.size} bytes", most)


def _too_large(what: str, most: int) -> ObjectTooLargeError:
    return ObjectTooLargeError(
        f"{what}, too many for a merge patch",
        field="key",
        limit=f"{most} bytes (app setting AGENT_STORAGE_MAX_JSON_BYTES)",
        remedy=_LOAD,
    )
