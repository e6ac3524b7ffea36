"""HTTP: save, load, head, delete and list objects."""

from __future__ import annotations

from datetime import UTC
from typing import Any

import azure.functions as func

from functions.http import (
    body_of,
    byte_range,
    etags,
    integer_parameter,
    json_response,
    location_below,
    metadata_of,
    modified_since,
    object_headers,
    object_key,
    problems,
    range_problem,
    ttl_of,
)
from functions.state import state
from storage_lib.backends.base import ObjectInfo
from storage_lib.errors import (
    InvalidArgumentError,
    KeyNotFoundError,
    PreconditionFailedError,
)
from storage_lib.manager import StorageManager

blueprint = func.Blueprint()
_ROUTE = "objects/{*key}"
_AUTH = func.AuthLevel.FUNCTION


@blueprint.function_name("save_object")
@blueprint.route(route=_ROUTE, methods=["PUT"], auth_level=_AUTH)
@problems
async def save_object(req: func.HttpRequest) -> func.HttpResponse:
    """``PUT /api/objects/{key}``: store the body under its Content-Type.

    201 with Location for a new object, 200 for a replaced one, with its ETag; 412 where ``If-Match`` or
    ``If-None-Match: *`` does not hold. ``x-ttl-seconds`` is its time to live, ``x-meta-*`` is kept with it.
    """
    key = object_key(req)
    app = state()
    body = body_of(req, app.max_body_bytes)
    if_match = await _condition(req, app.storage, key)
    if_absent = _must_be_absent(req)
    existed = None
    if not (if_match or if_absent or app.storage.backend.objects.reports_created):
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
    created = put.created if existed is None else not existed
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
    ``Range``, 304 where ``If-None-Match`` or ``If-Modified-Since`` says that the client has them."""
    key = object_key(req)
    storage = state().storage
    wanted = byte_range(req)
    if_range = req.headers.get("If-Range")
    precondition = any(name in req.headers for name in ("If-Match", "If-None-Match", "If-Modified-Since"))
    info = None
    if precondition or (wanted and if_range):
        info = await storage.info(key)
        if _not_modified(req, info):
            return func.HttpResponse(status_code=304, headers=_without_content(object_headers(info)))
        if if_range is not None and if_range.strip() != f'"{info.etag}"':
            wanted = None
    try:
        # Read what the conditions were checked on, not what replaced it meanwhile.
        found = await storage.read(key, byte_range=wanted, if_match=info.etag if info else None)
    except InvalidArgumentError as error:
        if error.field != "range":
            raise
        return range_problem((await storage.info(key)).size)
    headers = object_headers(found.info)
    status = 200
    if wanted is not None:
        status = 206
        end = found.start + len(found.data) - 1
        headers["Content-Range"] = f"bytes {found.start}-{end}/{found.info.size}"
    return func.HttpResponse(found.data, status_code=status, headers=headers)


@blueprint.function_name("head_object")
@blueprint.route(route=_ROUTE, methods=["HEAD"], auth_level=_AUTH)
@problems
async def head_object(req: func.HttpRequest) -> func.HttpResponse:
    """``HEAD /api/objects/{key}``: the headers of a load, without the bytes."""
    info = await state().storage.info(object_key(req))
    headers = object_headers(info)
    if _not_modified(req, info):
        return func.HttpResponse(status_code=304, headers=_without_content(headers))
    return func.HttpResponse(status_code=200, headers=headers | {"Content-Length": str(info.size)})


@blueprint.function_name("delete_object")
@blueprint.route(route=_ROUTE, methods=["DELETE"], auth_level=_AUTH)
@problems
async def delete_object(req: func.HttpRequest) -> func.HttpResponse:
    """``DELETE /api/objects/{key}``: 204; 404 if there is none; 412 where ``If-Match`` does not hold."""
    key = object_key(req)
    storage = state().storage
    await storage.delete(key, if_match=await _condition(req, storage, key))
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


async def _condition(req: func.HttpRequest, storage: StorageManager, key: str) -> str | None:
    """The one ETag that ``If-Match`` allows a write to replace; None without the header.

    :raises PreconditionFailedError: the object's ETag is none of them, or there is no object.
    """
    tags = etags(req, "If-Match")
    if tags is None:
        return None
    if len(tags) == 1 and tags != ["*"]:
        return tags[0]
    try:
        current = (await storage.info(key)).etag
    except KeyNotFoundError as error:
        raise PreconditionFailedError(f"object {key!r} does not exist", field="If-Match") from error
    if tags != ["*"] and current not in tags:
        raise PreconditionFailedError(f"object {key!r} has another ETag", field="If-Match")
    return current


def _must_be_absent(req: func.HttpRequest) -> bool:
    tags = etags(req, "If-None-Match")
    if tags not in (None, ["*"]):
        raise InvalidArgumentError(
            "If-None-Match names entity tags", field="If-None-Match", limit="* when an object is saved"
        )
    return tags is not None


def _not_modified(req: func.HttpRequest, info: ObjectInfo) -> bool:
    """Evaluate a read's preconditions in the order of RFC 9110, 13.2.2.

    :raises PreconditionFailedError: ``If-Match`` does not hold.
    """
    wanted = etags(req, "If-Match")
    if wanted is not None and wanted != ["*"] and info.etag not in wanted:
        raise PreconditionFailedError(f"object {info.key!r} has another ETag", field="If-Match")
    known = etags(req, "If-None-Match")
    if known is not None:
        return known == ["*"] or info.etag in known
    since = modified_since(req)
    # HTTP dates have whole seconds.
    return since is not None and info.last_modified.replace(microsecond=0) <= since


def _without_content(headers: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name != "Content-Type"}
