"""HTTP: objects that are too large for one request, in parts."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, Any

import azure.functions as func

from functions import access, conditional
from functions.addresses import api_path
from functions.answers import json_response, saved_response
from functions.bodies import body_of, optional_json_body, refuse_encoded, refuse_parts
from functions.conditional import Pin
from functions.digests import check_digest
from functions.endpoint import Blueprint
from functions.object_requests import CONDITIONS, DIGESTS
from functions.parameters import integer_parameter, is_named, ttl_in
from functions.paths import object_key, path_to
from functions.problems import as_sent
from functions.state import state
from storage_lib.errors import InvalidArgumentError
from storage_lib.keys import validate_key
from storage_lib.ports.kept_headers import GIVEN_FIELDS
from storage_lib.spelling import refuse_unknown

if TYPE_CHECKING:
    from storage_lib.ports.backend import PutResult
    from storage_lib.uploads import Part, Upload, Uploads

blueprint = Blueprint()
_ROUTE = "uploads/{*key}"
_CREATED = ("content_type", "metadata", "ttl_seconds", "expires_at", "expires_in", *GIVEN_FIELDS)
_COMPLETED = ("parts", "sha256")
_MOST_PARTS = 10_000


@blueprint.http(
    "GET HEAD",
    "uploads",
    "key",
    "upload_id",
    "prefix",
    "limit",
    "cursor",
    answers={200: ("UploadPage", "UploadParts")},
    problems=(404,),
)
async def list_uploads(req: func.HttpRequest) -> func.HttpResponse:
    """``GET /api/uploads?prefix=&limit=&cursor=``: your own uploads that are under way. A page can be empty
    and have a ``cursor`` all the same. With ``key`` and ``upload_id``: the parts of one."""
    if is_named(req, "key") or is_named(req, "upload_id"):
        if mixed := next((name for name in ("prefix", "limit", "cursor") if name in req.params), None):
            raise InvalidArgumentError(
                f"key names one upload, {mixed} is of a list", field=mixed, remedy="leave one of them out"
            )
        return await show_upload(req)
    await access.need_some("save")
    found, cursor = await _uploads().list(
        req.params.get("prefix", ""),
        limit=integer_parameter(req, "limit", 100, 1, 1000),
        start_after=req.params.get("cursor"),
    )
    return json_response({"uploads": [_shown(each) for each in found], "cursor": cursor})


@blueprint.http(
    "POST",
    _ROUTE,
    "upload_id",
    by_query=("key",),
    headers=CONDITIONS,
    body=("UploadRequest", "UploadCompletion"),
    answers={200: "SavedObject", 201: ("Upload", "SavedObject")},
    problems=(404, 409, 422, 507),
)
async def create_or_complete_upload(req: func.HttpRequest) -> func.HttpResponse:
    """``POST /api/uploads/{key}`` ``{content_type?, metadata?, ttl_seconds?, expires_at?, cache_control?,
    content_disposition?, content_language?, expires_in?}``: begin to send an object in parts; 201 with its
    ``upload_id``. ``expires_in`` is how many seconds there are for it, a day without it, seven days at most.

    With ``upload_id``, and ``{parts?, sha256?}``: make the object of its parts, or of those whose numbers are
    given; 201 for a new object, 200 for a replaced one, 409 if parts are missing, 412 if a precondition does
    not hold. It may be sent again if its answer was lost.
    """
    return await (_complete if is_named(req, "upload_id") else _create)(req)


@blueprint.http(
    "PUT",
    _ROUTE,
    "upload_id",
    "part",
    by_query=("key",),
    headers=DIGESTS,
    body="bytes",
    answers={200: "UploadPart"},
    problems=(404, 409, 507),
)
async def save_upload_part(req: func.HttpRequest) -> func.HttpResponse:
    """``PUT /api/uploads/{key}?upload_id=&part=``: store a part, 1 to 10,000, in any order; one that is sent
    again replaces the first. 200 with its size and SHA-256."""
    key, app = await _permitted(req), state()
    upload_id = _upload_id(req)
    if not is_named(req, "part"):
        raise InvalidArgumentError("there is no part", field="part", limit=f"1 to {_MOST_PARTS}")
    number = integer_parameter(req, "part", 0, 1, _MOST_PARTS)
    refuse_parts(req)
    refuse_encoded(req)
    body = body_of(req, app, _SMALLER, large="send it as several parts", check=False)
    await check_digest(req, body)
    part = await _uploads().put(upload_id, number, body, key=key)
    return json_response(_shown_part(part))


@blueprint.http("GET HEAD", _ROUTE, "upload_id", answers={200: "UploadParts"}, problems=(404,))
async def show_upload(req: func.HttpRequest) -> func.HttpResponse:
    """``GET /api/uploads/{key}?upload_id=``: an upload, and the parts of it that are there."""
    key, uploads = await _permitted(req), _uploads()
    upload_id = _upload_id(req)
    upload = await uploads.get(upload_id, key)
    parts = [] if upload.completed is not None else await uploads.parts(upload_id)
    return json_response(_shown(upload) | {"parts": [_shown_part(part) for part in parts]})


@blueprint.http("DELETE", _ROUTE, "upload_id", by_query=("key",), answers={204: ""}, problems=(404,))
async def discard_upload(req: func.HttpRequest) -> func.HttpResponse:
    """``DELETE /api/uploads/{key}?upload_id=``: give an upload up, with its parts. 204."""
    key = await _permitted(req)
    await _uploads().abort(_upload_id(req), key=key)
    return func.HttpResponse(status_code=204)


def _uploads() -> Uploads:
    """Those of the sender."""
    from storage_lib.uploads import Uploads

    found = access.grant()
    if found is None:
        return Uploads(state().storage)
    return Uploads(state().storage, f"{found.root} {found.principal}", root=found.root)


async def _permitted(req: func.HttpRequest) -> str:
    """The key of a request whose sender may save it."""
    key = object_key(req)
    validate_key(key)
    await access.need(key, "save")
    return key


def _upload_id(req: func.HttpRequest) -> str:
    if not (found := req.params.get("upload_id")):
        raise InvalidArgumentError(
            "there is no upload_id",
            field="upload_id",
            remedy="POST /api/uploads/{key} without it begins an upload, and answers with one",
        )
    return found


async def _create(req: func.HttpRequest) -> func.HttpResponse:
    key, app = await _permitted(req), state()
    wanted: dict[str, Any] = optional_json_body(req, app)
    refuse_unknown(wanted, _CREATED, "field")
    options = {name: value for name, value in wanted.items() if value is not None}
    headers = {name: options.pop(field) for field, name in GIVEN_FIELDS.items() if field in options}
    ttl, end = ttl_in(options), options.pop("expires_at", None)
    options.pop("ttl_seconds", None)
    sent = {"ttl": "ttl_seconds" if end is None else "expires_at"}
    sent |= {name: f"body.{name}" for name in ("content_type", "metadata")}  # Not the headers.
    sent |= {name: field for field, name in GIVEN_FIELDS.items()}
    with as_sent(sent):
        upload = await _uploads().create(key, headers=headers, ttl=ttl, **options)
    answer = _shown(upload) | {
        "part_bytes": min(app.max_json_bytes, app.max_body_bytes),
        "max_part_bytes": app.max_body_bytes,
        "max_parts": _MOST_PARTS,
    }
    where = path_to(f"{api_path(req, 'uploads')}/uploads", key)
    location = f"{where}{'&' if '?' in where else '?'}upload_id={upload.id}"
    return json_response(answer, status=201, headers={"Location": location})


_SMALLER = "send less in this part: the first bytes of a large JSON object may be a part of their own"


async def _complete(req: func.HttpRequest) -> func.HttpResponse:
    key, app = await _permitted(req), state()
    upload_id = _upload_id(req)
    wanted: dict[str, Any] = optional_json_body(req, app)
    refuse_unknown(wanted, _COMPLETED, "field")
    storage, uploads = access.storage(writing=True), _uploads()

    async def write(pin: Pin) -> tuple[PutResult, bool | None]:
        objects, existed = storage.backend.objects, None
        if pin == Pin() and not objects.reports_created:
            existed = await storage.exists(key, fresh=True)
        put = await uploads.complete(
            upload_id,
            storage,
            key=key,
            parts=wanted.get("parts"),
            sha256=wanted.get("sha256"),
            if_match=pin.if_match,
            if_absent=pin.if_absent,
            existed=existed,
        )
        return put, put.created

    if (done := (await uploads.get(upload_id, key)).completed) is not None:
        etag, size, created = done.etag, done.size, done.created  # Its answer was lost.
    else:
        put, created = await conditional.written(req, storage, key, write, creates=True)
        etag, size = put.etag, put.size
    location = path_to(f"{api_path(req, 'uploads')}/objects", key)
    return saved_response(key, etag, size, location=location if created else None)


def _shown(upload: Upload) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "upload_id": upload.id,
        "key": upload.key,
        "created_at": upload.created_at.astimezone(UTC),
        "expires_at": upload.expires_at.astimezone(UTC),
        "content_type": upload.content_type,
    }
    if upload.metadata:
        shown["metadata"] = upload.metadata
    if upload.completed is not None:
        shown["completed"] = {"etag": upload.completed.etag, "size": upload.completed.size}
    return shown


def _shown_part(part: Part) -> dict[str, Any]:
    return {"part": part.part, "size": part.size, "sha256": part.sha256}
