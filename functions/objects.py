"""HTTP: save, load, head, delete and list objects."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, Any

import azure.functions as func

from functions import access, conditional
from functions.answers import json_response, object_headers
from functions.bodies import body_of, check_digest, json_body, refuse_encoded, refuse_parts
from functions.conditional import Pin
from functions.conditions import Preconditions
from functions.endpoint import endpoint
from functions.parameters import integer_parameter, is_named, metadata_of, moment, ttl_of
from functions.paths import object_key, object_location
from functions.problems import range_problem
from functions.ranges import byte_range
from functions.repeats import repeated_call
from functions.state import state
from storage_lib.errors import InvalidArgumentError, RangeNotSatisfiableError
from storage_lib.ports.created import wanted
from storage_lib.spelling import refuse_unknown

if TYPE_CHECKING:
    from storage_lib.ports.backend import ListEntry, PutResult

blueprint = func.Blueprint()
_ROUTE = "objects/{*key}"
_AUTH = func.AuthLevel.FUNCTION
_LISTING = ("prefix", "delimiter", "limit", "cursor", "start_after")


@blueprint.function_name("save_object")
@blueprint.route(route=_ROUTE, methods=["PUT"], auth_level=_AUTH)
@endpoint()
async def save_object(req: func.HttpRequest) -> func.HttpResponse:
    """``PUT /api/objects/{key}``: store the body under its Content-Type.

    201 with Location for a new object, 200 for a replaced one, with its ETag; 412 if a precondition does not
    hold. ``x-ttl-seconds`` is its time to live, or ``x-expires-at`` the end of it; ``x-meta-*`` is stored
    with it. A conditional request with an ``Idempotency-Key`` may be sent again if its answer was lost.
    """
    return await _save(req)


@blueprint.function_name("load_object")
@blueprint.route(route=_ROUTE, methods=["GET"], auth_level=_AUTH)
@endpoint()
async def load_object(req: func.HttpRequest) -> func.HttpResponse:
    """``GET /api/objects/{key}``: the bytes as they were saved, under their Content-Type; 206 for a
    ``Range``, 304 if ``If-None-Match`` or ``If-Modified-Since`` says that the client has them, 412 if
    ``If-Match`` or ``If-Unmodified-Since`` does not hold."""
    return await _load(req)


@blueprint.function_name("head_object")
@blueprint.route(route=_ROUTE, methods=["HEAD"], auth_level=_AUTH)
@endpoint()
async def head_object(req: func.HttpRequest) -> func.HttpResponse:
    """``HEAD /api/objects/{key}``: the headers of a load, without the bytes."""
    return await _head(req)


@blueprint.function_name("delete_object")
@blueprint.route(route=_ROUTE, methods=["DELETE"], auth_level=_AUTH)
@endpoint()
async def delete_object(req: func.HttpRequest) -> func.HttpResponse:
    """``DELETE /api/objects/{key}``: 204; 404 if there is none; 412 if a precondition does not hold."""
    return await _delete(req)


@blueprint.function_name("touch_object")
@blueprint.route(route=_ROUTE, methods=["PATCH"], auth_level=_AUTH)
@endpoint()
async def touch_object(req: func.HttpRequest) -> func.HttpResponse:
    """``PATCH /api/objects/{key}`` ``{metadata?, ttl_seconds?, expires_at?}``: give an object other metadata,
    in place of all it has, or another time to live (null: for ever). Its bytes stay where they are; 200 with
    its new ETag."""
    return await _touch(req)


@blueprint.function_name("list_objects")
@blueprint.route(route="objects", methods=["GET", "HEAD"], auth_level=_AUTH)
@endpoint("key", *_LISTING)
async def list_objects(req: func.HttpRequest) -> func.HttpResponse:
    """``GET /api/objects?prefix=&delimiter=&limit=&cursor=``: a page of objects, ordered by key. With ``key``
    as the only parameter: that object."""
    if is_named(req, "key"):
        if mixed := next((name for name in _LISTING if name in req.params), None):
            raise RangeNotSatisfiableError(
                f"key names one object, {mixed} is of a listing", field=mixed, remedy="leave one of them out"
            )
        return await (_head if req.method == "HEAD" else _load)(req)
    page = await access.storage().list_page(
        req.params.get("prefix", ""),
        delimiter=req.params.get("delimiter") or None,
        limit=integer_parameter(req, "limit", 100, 1, 1000),
        cursor=req.params.get("cursor") or None,
        start_after=req.params.get("start_after") or None,
        details=True,
    )
    objects = [_listed(entry) for entry in page.entries]
    return json_response({"objects": objects, "prefixes": page.prefixes, "cursor": page.cursor})


@blueprint.function_name("write_object_by_query")
@blueprint.route(route="objects", methods=["PUT", "PATCH", "DELETE"], auth_level=_AUTH)
@endpoint("key")
async def write_object_by_query(req: func.HttpRequest) -> func.HttpResponse:
    """``PUT``, ``PATCH`` and ``DELETE /api/objects?key=``: like the key in the path, for keys that a path
    cannot carry."""
    return await {"PUT": _save, "PATCH": _touch, "DELETE": _delete}[req.method](req)


def _listed(entry: ListEntry) -> dict[str, Any]:
    """An object in a listing; what it does not have is left out."""
    shown: dict[str, Any] = {
        "key": entry.key,
        "size": entry.size,
        "etag": entry.etag,
        "last_modified": entry.last_modified and entry.last_modified.astimezone(UTC),
    }
    if (info := entry.info) is None:
        return shown
    more = {
        "content_type": info.content_type,
        "metadata": dict(info.metadata) or None,
        "expires_at": info.expires_at,
        "sha256": info.sha256,
        "content_encoding": info.content_encoding,
        "content_disposition": info.content_disposition,
        "content_language": info.content_language,
        "cache_control": info.cache_control,
    }
    return shown | {name: value for name, value in more.items() if value is not None}


async def _save(req: func.HttpRequest) -> func.HttpResponse:
    key = object_key(req)
    app = state()
    refuse_parts(req)
    refuse_encoded(req)
    body = body_of(req, app)
    await check_digest(req, body)
    content_type = req.headers.get("Content-Type") or "application/octet-stream"
    metadata, ttl = metadata_of(req), ttl_of(req)
    storage = access.storage(writing=True)

    async def write(pin: Pin) -> tuple[PutResult, bool | None]:
        objects, existed = storage.backend.objects, None
        if pin == Pin() and not (objects.reports_created or objects.tells_created):
            existed = await storage.exists(key, fresh=True)
        put = await storage.write(
            key,
            body,
            content_type=content_type,
            metadata=metadata,
            if_match=pin.if_match,
            if_absent=pin.if_absent,
            ttl=ttl,
        )
        return put, put.created if existed is None else not existed

    try:
        with repeated_call(req, key), wanted():
            put, created = await conditional.create_or_replace(req, storage, key, write)
    except InvalidArgumentError as error:
        if "x-expires-at" in req.headers:
            _name(error, "ttl", "x-expires-at")
        raise
    headers = {"ETag": f'"{put.etag}"'}
    if created:
        headers["Location"] = object_location(req, key)
    return json_response(
        {"key": key, "etag": put.etag, "size": put.size}, status=201 if created else 200, headers=headers
    )


async def _load(req: func.HttpRequest) -> func.HttpResponse:
    key = object_key(req)
    storage = access.storage()
    try:
        found, part = await conditional.read(req, storage, key, byte_range(req))
    except RangeNotSatisfiableError:
        return range_problem((await storage.info(key, fresh=True)).size)
    from storage_lib.ports.backend import ObjectInfo

    if isinstance(found, ObjectInfo):
        return func.HttpResponse(status_code=304, headers=object_headers(found))
    headers = object_headers(found.info)
    if part is not None:
        end = found.start + len(found.data) - 1
        headers["Content-Range"] = f"bytes {found.start}-{end}/{found.info.size}"
    return func.HttpResponse(found.data, status_code=200 if part is None else 206, headers=headers)


async def _head(req: func.HttpRequest) -> func.HttpResponse:
    key, conditions = object_key(req), Preconditions.of(req)
    info = await access.storage().info(key, fresh=conditional.wants_fresh(req) or not conditions.none)
    headers = object_headers(info)
    if not conditions.is_modified(info):
        return func.HttpResponse(status_code=304, headers=headers)
    return func.HttpResponse(status_code=200, headers=headers | {"Content-Length": str(info.size)})


async def _touch(req: func.HttpRequest) -> func.HttpResponse:
    key, app = object_key(req), state()
    change = json_body(req, app)
    refuse_unknown(change, ("metadata", "ttl_seconds", "expires_at"), "field")
    options: dict[str, Any] = {}
    if "metadata" in change:
        options["metadata"] = {} if change["metadata"] is None else change["metadata"]
    if "expires_at" in change:
        end = change["expires_at"]
        options["ttl"] = None if end is None else moment("expires_at", end)
    if "ttl_seconds" in change:
        if "ttl" in options:
            raise InvalidArgumentError(
                "expires_at and ttl_seconds exclude each other", field="expires_at", remedy="leave one out"
            )
        options["ttl"] = change["ttl_seconds"]
    try:
        with repeated_call(req, key, req.get_body()):
            storage = access.storage(writing=True)
            touched = await conditional.touch(req, storage, key, options)
    except InvalidArgumentError as error:
        _name(error, "ttl", "expires_at" if "expires_at" in change else "ttl_seconds")
        _name(error, "metadata", "body.metadata")
        raise
    return json_response(
        {"key": key, "etag": touched.etag, "size": touched.size}, headers={"ETag": f'"{touched.etag}"'}
    )


def _name(error: InvalidArgumentError, argument: str, sent: str) -> None:
    """Have the error name an argument of the library as it was sent."""
    if error.field == argument:
        error.field, error.message = sent, error.message.replace("ttl is", f"{sent} is", 1)


async def _delete(req: func.HttpRequest) -> func.HttpResponse:
    await conditional.delete(req, access.storage(writing=True), object_key(req))
    return func.HttpResponse(status_code=204)
