"""HTTP: save, load, head, delete and list objects."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC
from typing import Any

import azure.functions as func

from functions.conditions import (
    ANY,
    byte_range,
    check_unchanged,
    date_in,
    etags,
    has_conditions,
    not_modified,
    range_holds,
)
from functions.http import (
    body_of,
    integer_parameter,
    json_response,
    location_below,
    metadata_of,
    object_headers,
    object_key,
    problems,
    range_problem,
    refuse_partial_content,
    ttl_of,
)
from functions.state import state
from storage_lib.backends.base import ByteRange, ObjectInfo, PutResult, StoredObject
from storage_lib.errors import (
    InvalidArgumentError,
    KeyNotFoundError,
    PreconditionFailedError,
    TransientStorageError,
)
from storage_lib.manager import StorageManager

blueprint = func.Blueprint()
_ROUTE = "objects/{*key}"
_ATTEMPTS = 100
_AUTH = func.AuthLevel.FUNCTION


@blueprint.function_name("save_object")
@blueprint.route(route=_ROUTE, methods=["PUT"], auth_level=_AUTH)
@problems
async def save_object(req: func.HttpRequest) -> func.HttpResponse:
    """``PUT /api/objects/{key}``: store the body under its Content-Type.

    201 with Location for a new object, 200 for a replaced one, with its ETag; 412 where ``If-Match``,
    ``If-None-Match: *`` or ``If-Unmodified-Since`` does not hold. ``x-ttl-seconds`` is its time to live,
    ``x-meta-*`` is kept with it.
    """
    key = object_key(req)
    app = state()
    refuse_partial_content(req)
    body = body_of(req, app.max_body_bytes)
    objects = app.storage.backend.objects

    async def write(if_match: str | None) -> tuple[PutResult, bool | None]:
        existed = None
        if not (if_match or if_absent or objects.reports_created):
            existed = await app.storage.exists(key)
        put = await app.storage.write(
            key,
            body,
            content_type=req.headers.get("Content-Type") or "application/octet-stream",
            metadata=metadata_of(req),
            if_match=if_match,
            if_absent=if_absent,
            ttl=ttl_of(req),
        )
        return put, put.created if existed is None else not existed

    if_absent = _must_be_absent(req)
    put, created = await _matching(req, app.storage, key, write)
    headers = {"ETag": f'"{put.etag}"'}
    if created:
        headers["Location"] = location_below(req)
    return json_response(
        {"key": key, "etag": put.etag, "size": put.size}, status=201 if created else 200, headers=headers
    )


@blueprint.function_name("load_object")
@blueprint.route(route=_ROUTE, methods=["GET"], auth_level=_AUTH)
@problems
async def load_object(req: func.HttpRequest) -> func.HttpResponse:
    """``GET /api/objects/{key}``: the bytes as they were saved, under their Content-Type; 206 for a
    ``Range``, 304 where ``If-None-Match`` or ``If-Modified-Since`` says that the client has them, 412 where
    ``If-Match`` or ``If-Unmodified-Since`` does not hold."""
    key = object_key(req)
    storage = state().storage
    wanted = byte_range(req)
    try:
        if has_conditions(req) or (wanted is not None and "If-Range" in req.headers):
            found, wanted = await _read_conditionally(req, storage, key, wanted)
        else:
            found = await storage.read(key, byte_range=wanted)
    except InvalidArgumentError as error:
        if error.field != "range":
            raise
        return range_problem((await storage.info(key)).size)
    if isinstance(found, ObjectInfo):
        return _not_modified(found)
    headers = object_headers(found.info)
    status = 200
    if wanted is not None:
        status = 206
        end = found.start + len(found.data) - 1
        headers["Content-Range"] = f"bytes {found.start}-{end}/{found.info.size}"
    return func.HttpResponse(found.data, status_code=status, headers=headers)


async def _read_conditionally(
    req: func.HttpRequest, storage: StorageManager, key: str, wanted: ByteRange | None
) -> tuple[StoredObject | ObjectInfo, ByteRange | None]:
    """What the conditions let through and the range of it, or the info of what the client has already.

    The conditions come before the range, which may end behind a version that they exclude (RFC 9110, 13.2.2).
    """
    known = etags(req, "If-None-Match")
    alone = "If-Match" not in req.headers and "If-Unmodified-Since" not in req.headers and wanted is None
    if alone and known is not None and known is not ANY and len(known) == 1:
        # The store compares: what the client has already does not travel.
        found = await storage.read_if_changed(key, known[0])
        return (await storage.info(key) if found is None else found), None
    for _ in range(_ATTEMPTS):
        info = await storage.info(key)
        if not_modified(req, info):
            return info, None
        part = wanted if range_holds(req, info) else None
        try:
            return await storage.read(key, byte_range=part, if_match=info.etag), part
        except PreconditionFailedError:
            continue  # It was replaced meanwhile: what holds for the new one?
    raise _always_replaced(key)


@blueprint.function_name("head_object")
@blueprint.route(route=_ROUTE, methods=["HEAD"], auth_level=_AUTH)
@problems
async def head_object(req: func.HttpRequest) -> func.HttpResponse:
    """``HEAD /api/objects/{key}``: the headers of a load, without the bytes."""
    info = await state().storage.info(object_key(req))
    if not_modified(req, info):
        return _not_modified(info)
    headers = object_headers(info) | {"Content-Length": str(info.size)}
    return func.HttpResponse(status_code=200, headers=headers)


@blueprint.function_name("delete_object")
@blueprint.route(route=_ROUTE, methods=["DELETE"], auth_level=_AUTH)
@problems
async def delete_object(req: func.HttpRequest) -> func.HttpResponse:
    """``DELETE /api/objects/{key}``: 204; 404 if there is none; 412 where ``If-Match`` or
    ``If-Unmodified-Since`` does not hold."""
    key = object_key(req)
    storage = state().storage
    if "If-None-Match" in req.headers:
        raise InvalidArgumentError(
            "If-None-Match is no condition of a delete", field="If-None-Match", remedy="use If-Match"
        )
    await _matching(req, storage, key, lambda if_match: storage.delete(key, if_match=if_match))
    return func.HttpResponse(status_code=204)


@blueprint.function_name("list_objects")
@blueprint.route(route="objects", methods=["GET"], auth_level=_AUTH)
@problems
async def list_objects(req: func.HttpRequest) -> func.HttpResponse:
    """``GET /api/objects?prefix=&delimiter=&limit=&cursor=``: a page of objects, ordered by key."""
    page = await state().storage.list_page(
        req.params.get("prefix", ""),
        delimiter=req.params.get("delimiter") or None,
        limit=integer_parameter(req, "limit", 100, 1, 1000),
        cursor=req.params.get("cursor") or None,
        details=True,
    )
    objects: list[dict[str, Any]] = [
        {
            "key": entry.key,
            "size": entry.size,
            "etag": entry.etag,
            "last_modified": entry.last_modified and entry.last_modified.astimezone(UTC),
        }
        for entry in page.entries
    ]
    return json_response({"objects": objects, "prefixes": page.prefixes, "cursor": page.cursor})


async def _matching[T](
    req: func.HttpRequest,
    storage: StorageManager,
    key: str,
    write: Callable[[str | None], Awaitable[T]],
) -> T:
    """Do a write under the condition of ``If-Match`` or ``If-Unmodified-Since``; without them, under none.

    The stores compare with one ETag. Where ``*``, several or a date are allowed, the one that the object has
    is tried, and anew if it was replaced meanwhile by another that is allowed.

    :raises PreconditionFailedError: the object is not as they say; with ``If-Match`` also: there is none.
    """
    tags = etags(req, "If-Match")
    if tags is None and ("If-None-Match" in req.headers or date_in(req, "If-Unmodified-Since") is None):
        return await write(None)  # what must not be there has no date
    if tags is not None and tags is not ANY and len(tags) == 1:
        return await write(tags[0])
    for _ in range(_ATTEMPTS):
        try:
            info = await storage.info(key)
        except KeyNotFoundError as error:
            if tags is None:
                return await write(None)  # what is not there has no date (RFC 9110, 13.1.4)
            raise PreconditionFailedError(f"object {key!r} does not exist", field="If-Match") from error
        check_unchanged(req, info)
        try:
            return await write(info.etag)
        except PreconditionFailedError:
            continue
    raise _always_replaced(key)


def _must_be_absent(req: func.HttpRequest) -> bool:
    tags = etags(req, "If-None-Match")
    if tags is not None and tags is not ANY:
        raise InvalidArgumentError(
            "If-None-Match names entity tags", field="If-None-Match", limit="* when an object is saved"
        )
    return tags is not None


def _always_replaced(key: str) -> TransientStorageError:
    return TransientStorageError(f"object {key!r} is being replaced all the time", remedy="try again later")


def _not_modified(info: ObjectInfo) -> func.HttpResponse:
    return func.HttpResponse(status_code=304, headers=object_headers(info))
