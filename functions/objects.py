"""HTTP: save, load, head, delete and list objects."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import azure.functions as func
from msgspec import Struct
from msgspec.structs import asdict

from functions import access, conditional, loading, merging
from functions.answers import json_response, saved_response
from functions.bodies import (
    MAX_ITEMS,
    Arriving,
    UnsupportedMediaTypeError,
    body_of,
    check_items,
    check_json_size,
    json_body,
    refuse_encoded,
    refuse_parts,
)
from functions.conditional import Pin
from functions.digests import check_digest, checked, has_digest
from functions.endpoint import Blueprint
from functions.headers import header
from functions.object_requests import CONDITIONS, HEADS, LOADS, SAVES
from functions.parameters import (
    integer_parameter,
    is_included,
    is_named,
    kept_headers_of,
    metadata_of,
    ttl_in,
    ttl_of,
)
from functions.paths import object_key, object_location
from functions.problems import as_sent, problem
from functions.repeats import repeated_call
from functions.state import state
from storage_lib.errors import InvalidArgumentError
from storage_lib.keys import essence, validate_key
from storage_lib.ports.hints import WANTS_CREATED, within
from storage_lib.ports.kept_headers import GIVEN_FIELDS
from storage_lib.spelling import refuse_unknown

if TYPE_CHECKING:
    from storage_lib.ports.backend import ListEntry, ObjectInfo, PutResult

blueprint = Blueprint()
_ROUTE = "objects/{*key}"
_LISTING = ("prefix", "delimiter", "limit", "cursor", "start_after", "include")


class _Listed(Struct, omit_defaults=True, gc=False):
    """An object in JSON. What is not known, or not asked for, is left out."""

    key: str
    size: int | None = None
    etag: str | None = None
    last_modified: datetime | None = None
    content_type: str | None = None
    metadata: dict[str, str] | None = None
    expires_at: datetime | None = None
    sha256: str | None = None
    content_encoding: str | None = None
    content_disposition: str | None = None
    content_language: str | None = None
    cache_control: str | None = None


def _listed(entry: ListEntry | ObjectInfo, info: ObjectInfo | None) -> _Listed:
    """
    :param info: what more is to be told of it.
    """
    modified = entry.last_modified
    if modified is not None and modified.tzinfo is not UTC:
        modified = modified.astimezone(UTC)
    if info is None:
        return _Listed(entry.key, entry.size, entry.etag, modified)
    return _Listed(
        entry.key,
        entry.size,
        entry.etag,
        modified,
        info.content_type,
        dict(info.metadata) or None,
        info.expires_at,
        info.sha256,
        info.content_encoding,
        info.content_disposition,
        info.content_language,
        info.cache_control,
    )


def described(info: ObjectInfo) -> dict[str, Any]:
    """All that is known of an object."""
    return {name: value for name, value in asdict(_listed(info, info)).items() if value is not None}


@blueprint.http(
    "GET HEAD",
    "objects",
    "key",
    *_LISTING,
    **LOADS | {"answers": {200: ("ObjectPage", "bytes"), 206: "bytes", 304: ""}},
)
async def list_objects(req: func.HttpRequest) -> func.HttpResponse:
    """``GET /api/objects?prefix=&delimiter=&limit=&cursor=``: a page of objects, ordered by key, each with
    its size, ETag and time of its last change as far as a listing of the store tells them; with
    ``include=metadata`` also with its content type, metadata, expiry, checksum and headers. With ``key`` as
    the only parameter: that object."""
    if is_named(req, "key"):
        if mixed := next((name for name in _LISTING if name in req.params), None):
            raise InvalidArgumentError(
                f"key names one object, {mixed} is of a listing", field=mixed, remedy="leave one of them out"
            )
        return await (loading.head if req.method == "HEAD" else loading.load)(req)
    has_details = is_included(req, "metadata")
    page = await access.storage().list_page(
        req.params.get("prefix", ""),
        delimiter=req.params.get("delimiter") or None,
        limit=integer_parameter(req, "limit", 100, 1, 1000),
        cursor=req.params.get("cursor") or None,
        start_after=req.params.get("start_after") or None,
        details=True,
        cheap=not has_details,
    )
    objects = [_listed(entry, entry.info if has_details else None) for entry in page.entries]
    return json_response({"objects": objects, "prefixes": page.prefixes, "cursor": page.cursor})


@blueprint.http("PUT", _ROUTE, by_query=("key",), **SAVES)
async def save_object(req: func.HttpRequest) -> func.HttpResponse:
    """``PUT /api/objects/{key}``: store the body under its Content-Type.

    201 with Location for a new object, 200 for a replaced one, with its ETag; 412 if a precondition does not
    hold. ``x-ttl-seconds`` is its time to live, or ``x-expires-at`` the end of it; ``x-meta-*`` is stored
    with it, and ``Cache-Control``, ``Content-Disposition`` and ``Content-Language`` are served with it. A
    conditional request with an ``Idempotency-Key`` may be sent again if its answer was lost.
    """
    return await save(req)


@blueprint.http("GET", _ROUTE, **LOADS)
async def load_object(req: func.HttpRequest) -> func.HttpResponse:
    """``GET /api/objects/{key}``: the bytes as they were saved, under their Content-Type; 206 for a
    ``Range``, 304 if ``If-None-Match`` or ``If-Modified-Since`` says that the client has them, 412 if
    ``If-Match`` or ``If-Unmodified-Since`` does not hold."""
    return await loading.load(req)


@blueprint.http("HEAD", _ROUTE, **HEADS)
async def stat_object(req: func.HttpRequest) -> func.HttpResponse:
    """``HEAD /api/objects/{key}``: the headers of a load, without the bytes."""
    return await loading.head(req)


@blueprint.http("DELETE", _ROUTE, by_query=("key",), headers=CONDITIONS, answers={204: ""}, problems=(404,))
async def delete_object(req: func.HttpRequest) -> func.HttpResponse:
    """``DELETE /api/objects/{key}``: remove an object. 204; 404 if there is none; 412 if a precondition does
    not hold."""
    await conditional.delete(req, access.storage(deleting=True), object_key(req))
    return func.HttpResponse(status_code=204)


@blueprint.http(
    "PATCH",
    _ROUTE,
    by_query=("key",),
    headers=(*CONDITIONS, "Idempotency-Key"),
    body=("ObjectChange", "MergePatch"),
    answers={200: "SavedObject"},
    problems=(404, 409, 422, 501, 507),
)
async def touch_object(req: func.HttpRequest) -> func.HttpResponse:
    """``PATCH /api/objects/{key}`` ``{metadata?, ttl_seconds?, expires_at?, cache_control?,
    content_disposition?, content_language?}``: give an object other metadata, in place of all it has, another
    time to live (null: for ever), or another of these headers (null: none). Its bytes stay where they are;
    200 with its new ETag.

    As ``application/merge-patch+json`` the body changes the JSON value of the object (RFC 7396) in one step,
    whoever else writes at the same time. Type, metadata, headers and time to live stay.
    """
    merges = essence(header(req, "Content-Type") or "") == merging.MEDIA_TYPE
    try:
        return await (_merge if merges else _touch)(req)
    except UnsupportedMediaTypeError as error:
        # A merge patch is refused for its coding, or because this object is not JSON (RFC 5789, 2.2).
        of_object = merges and error.field == "Content-Type"
        accepted = "application/json" if of_object else f"application/json, {merging.MEDIA_TYPE}"
        if error.field == "Content-Type":
            error.limit = accepted
        response = problem(error)
        response.headers["Accept-Patch"] = accepted
        return response


async def save(req: func.HttpRequest, source: Arriving | None = None) -> func.HttpResponse:
    """The answer to a PUT.

    :param source: the body, of a host that does not hand it on whole. Its bytes are not checked against the
        content type.
    """
    key = object_key(req)
    app = state()
    refuse_parts(req)
    refuse_encoded(req)
    if has_digest(req):
        validate_key(key)  # Before the bytes are digested; otherwise the store does, once.
    await access.need(key, "save")
    content_type = req.headers.get("Content-Type") or "application/octet-stream"
    metadata, headers_kept, ttl = metadata_of(req), kept_headers_of(req), ttl_of(req)
    body = body_of(req, app, check=False) if source is None else b""
    if source is None:
        await check_digest(req, body)
    storage = access.storage(writing=True)

    async def write(pin: Pin) -> tuple[PutResult, bool | None]:
        objects, existed = storage.backend.objects, None
        if pin == Pin() and not (objects.reports_created or objects.tells_created):
            existed = await storage.exists(key, fresh=True)
        options: Any = {
            "content_type": content_type,
            "metadata": metadata,
            "headers": headers_kept,
            "if_match": pin.if_match,
            "if_absent": pin.if_absent,
            "ttl": ttl,
        }
        if source is None:
            put = await storage.write(key, body, **options)
        else:
            put = await storage.write_stream(key, checked(req, source.begin()), **options)
        return put, put.created if existed is None else not existed

    sent = {"ttl": "x-expires-at"} if "x-expires-at" in req.headers else {}
    with as_sent(sent), repeated_call(req, key), within(WANTS_CREATED, True):
        put, created = await conditional.written(req, storage, key, write, creates=True)
    return saved_response(key, put.etag, put.size, location=object_location(req, key) if created else None)


async def _merge(req: func.HttpRequest) -> func.HttpResponse:
    key, app = object_key(req), state()
    refuse_encoded(req)
    await access.need(key, "load", "save")
    patch = body_of(req, app)
    check_json_size(patch, app, "patch", "send several patches")
    check_items(patch, MAX_ITEMS, "body", "send several patches")
    with repeated_call(req, key, patch):
        storage = access.storage(writing=True)
        put = await merging.merge(req, storage, key, patch, app.max_json_bytes)
    return saved_response(key, put.etag, put.size)


async def _touch(req: func.HttpRequest) -> func.HttpResponse:
    key, app = object_key(req), state()
    await access.need(key, "save")
    change = json_body(req, app)
    refuse_unknown(change, ("metadata", "ttl_seconds", "expires_at", *GIVEN_FIELDS), "field")
    options: dict[str, Any] = {}
    if "metadata" in change:
        options["metadata"] = {} if change["metadata"] is None else change["metadata"]
    if "expires_at" in change or "ttl_seconds" in change:
        options["ttl"] = ttl_in(change)
    if headers := {name: change[field] for field, name in GIVEN_FIELDS.items() if field in change}:
        options["headers"] = headers
    sent = {"ttl": "expires_at" if "expires_at" in change else "ttl_seconds", "metadata": "body.metadata"}
    sent |= {name: f"body.{field}" for field, name in GIVEN_FIELDS.items()}
    with as_sent(sent), repeated_call(req, key, req.get_body()):
        storage = access.storage(writing=True)
        touched = await conditional.written(
            req, storage, key, lambda pin: storage.touch(key, **options, if_match=pin.if_match)
        )
    return saved_response(key, touched.etag, touched.size)
