"""HTTP: versions of an object: save, list, load, label, roll back, compare and prune them."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import azure.functions as func

from functions import access, loading
from functions.answers import json_response, saved_response
from functions.bodies import body_of, json_body, refuse_encoded, refuse_parts
from functions.callers import FUNCTION_KEY
from functions.digests import check_digest
from functions.endpoint import Blueprint
from functions.merging import NotJsonError
from functions.object_requests import CONDITIONS, CONTENT, LOADS
from functions.parameters import (
    flag_parameter,
    integer_parameter,
    kept_headers_of,
    metadata_of,
    refuse_headers,
)
from functions.paths import object_key, object_location
from functions.repeats import idempotency_key, repeated_mark
from functions.state import state
from storage_lib.callers import caller
from storage_lib.errors import (
    InvalidArgumentError,
    KeyNotFoundError,
    ObjectTooLargeError,
    PreconditionFailedError,
    SerializationError,
    TransientStorageError,
)
from storage_lib.keys import validate_user_key
from storage_lib.patterns import pattern
from storage_lib.spelling import refuse_unknown

if TYPE_CHECKING:
    from storage_lib.versioning import Version, Versions

blueprint = Blueprint()
_ROUTE = "versions/{*key}"
CURRENT = "current"
"""What the current version is called in a URL."""
PRUNE_SECONDS = 120.0
MAX_DIFF_BYTES = 1024 * 1024
"""How many bytes each of two versions may have that are compared."""
_ATTEMPTS = 10
_READS: Any = LOADS | {
    "answers": {200: ("VersionPage", "JsonPatch", "bytes"), 206: "bytes", 304: ""},
    "problems": (404, 409, 413, 416),
}


@blueprint.http("GET HEAD", _ROUTE, "version", "diff", "limit", "cursor", by_query=("key",), **_READS)
async def load_versions(req: func.HttpRequest) -> func.HttpResponse:
    """``GET /api/versions/{key}``: the versions of an object, newest first; with ``version``, one of them.

    ``version`` is a number (``3`` or ``v3``), a label, or ``current``. It is loaded like any object, with the
    same conditions and ranges; ``Content-Location`` is the URL by its number. ``diff``, another version, asks
    for what changes from it to ``version``, or to the current one, as a JSON Patch (RFC 6902).
    """
    key = _key(req)
    _refuse_mixed(req)
    if "diff" in req.params:
        return await _compared(key, _version(req.params["diff"], "diff"), _wanted(req))
    if "version" in req.params:
        return await _loaded(req, key, _wanted(req))
    limit = integer_parameter(req, "limit", 100, 1, 1000)
    before = integer_parameter(req, "cursor", 0, 1, _MOST) if "cursor" in req.params else None
    page = await _versions().page(key, before=before, limit=limit)
    return json_response(
        {
            "key": key,
            "current": page.current,
            "versions": [_shown(each) for each in page.versions],
            "cursor": None if page.before is None else str(page.before),
        }
    )


@blueprint.http(
    "POST",
    _ROUTE,
    "number",
    "label",
    by_query=("key",),
    headers=CONTENT,
    body="bytes",
    answers={201: "SavedVersion"},
    problems=(404, 409, 412, 422, 507),
)
async def save_version(req: func.HttpRequest) -> func.HttpResponse:
    """``POST /api/versions/{key}``: save the body as a new version, under its Content-Type.

    201 with its Location. It gets the next number, or ``number``, which must be free (412), and becomes the
    current one unless there is a higher number; ``label`` gives it a label in the same step. A request with
    an ``Idempotency-Key`` may be sent again if its answer was lost: it saves no second version.
    """
    from storage_lib.version_record import object_of, record_of

    key, app = _key(req), state()
    refuse_headers(req, (*CONDITIONS, "x-ttl-seconds", "x-expires-at"), "for versions")
    refuse_parts(req)
    refuse_encoded(req)
    await access.need(object_of(key, 1), "save")
    await access.need(record_of(key), "load", "save")
    number = integer_parameter(req, "number", 0, 1, _MOST) if "number" in req.params else None
    label = req.params.get("label")
    metadata = metadata_of(req)
    body = body_of(req, app, check=False)
    await check_digest(req, body)
    actor = caller().actor
    try:
        version, put = await _versions(writing=True).add(
            key,
            body,
            number,
            content_type=req.headers.get("Content-Type") or "application/octet-stream",
            metadata=metadata,
            saved_by=None if actor == FUNCTION_KEY else actor,
            label=label,
            headers=kept_headers_of(req),
            is_bytes=True,
            once=await _once(req, key, body),
        )
    except PreconditionFailedError as error:
        error.field = "number"
        raise
    location = _location(req, key, version)
    return saved_response(key, put.etag, put.size, location=location, version=version)


@blueprint.http(
    "PATCH",
    _ROUTE,
    by_query=("key",),
    body="VersionsChange",
    answers={200: "VersionsChanged"},
    problems=(404, 409),
)
async def change_versions(req: func.HttpRequest) -> func.HttpResponse:
    """``PATCH /api/versions/{key}`` ``{current?, labels?}``: make another version the current one, and set or
    remove labels, all in one step.

    ``current`` and the values of ``labels`` are versions; null removes a label. A label that another version
    has is taken from it. 404 if there is no such version, or no label to remove: then nothing is changed.
    """
    from storage_lib.version_record import record_of

    key = _key(req)
    refuse_headers(req, CONDITIONS, "for versions")
    await access.need(record_of(key), "load", "save")
    body = json_body(req, state(), "change fewer labels in a request")
    refuse_unknown(body, ("current", "labels"), "field")
    labels: Any = body.get("labels", {})
    if not isinstance(labels, dict):
        raise InvalidArgumentError(
            "labels must be an object", field="labels", limit='such as {"production": 3, "old": null}'
        )
    current = _version(body["current"], "current") if "current" in body else None
    given: dict[str, int | str | None] = {}
    for label, version in labels.items():
        if version is not None:
            given[label] = _version(version, f"labels.{label[:40]}")
    removed = [label for label, version in labels.items() if version is None]
    now, made = await _versions(writing=True).change(key, current=current, labels=given, without=removed)
    return json_response({"key": key, "current": now, "labels": made | dict.fromkeys(removed)})


@blueprint.http(
    "DELETE",
    _ROUTE,
    "keep_last",
    "younger_than_seconds",
    "dry_run",
    by_query=("key",),
    answers={200: "PrunedVersions"},
    problems=(409,),
)
async def prune_versions(req: func.HttpRequest) -> func.HttpResponse:
    """``DELETE /api/versions/{key}?keep_last=&younger_than_seconds=&dry_run=``: delete old versions.

    The ``keep_last`` highest numbers stay, those that are younger, the current one, and those with a label.
    200 with the numbers of those that were deleted; ``dry_run=true`` tells them, and deletes nothing.
    """
    key = _key(req)
    refuse_headers(req, CONDITIONS, "for versions")
    if "keep_last" not in req.params:
        raise InvalidArgumentError(
            "nothing says how many versions to keep", field="keep_last", remedy="give keep_last, such as 10"
        )
    keep = integer_parameter(req, "keep_last", 0, 0, _MOST)
    young = None
    if "younger_than_seconds" in req.params:
        young = timedelta(seconds=integer_parameter(req, "younger_than_seconds", 0, 0, _MOST))
    is_dry_run = flag_parameter(req, "dry_run")
    clock = asyncio.timeout(PRUNE_SECONDS)
    try:
        async with clock:
            deleted = await _versions(writing=True).prune(
                key, keep_last=keep, younger_than=young, dry_run=is_dry_run
            )
    except TimeoutError as error:
        if not clock.expired():
            raise
        raise TransientStorageError(
            f"not all old versions were deleted within {PRUNE_SECONDS:g} seconds; those that were are gone",
            remedy="send the request again: it goes on",
        ) from error
    return json_response({"key": key, "deleted": deleted, "dry_run": is_dry_run})


_MOST = 999_999_999
_NUMBER = pattern(r"v?([1-9][0-9]{0,15})")


async def _once(req: func.HttpRequest, key: str, body: bytes) -> str | None:
    if idempotency_key(req) is None:
        return None
    from storage_lib.ports.streaming import sha256_of

    said = await sha256_of(body), req.params.get("number"), req.params.get("label")
    return repeated_mark(req, key, repr(said).encode())


def _versions(*, writing: bool = False) -> Versions:
    from storage_lib.versioning import Versions

    return Versions(access.storage(writing=writing))


def _key(req: func.HttpRequest) -> str:
    return validate_user_key(object_key(req))


def _version(given: Any, field: str) -> int | str | None:
    """A version as the library takes it; None is the current one."""
    if given == CURRENT:
        return None
    if isinstance(given, str) and (number := _NUMBER.fullmatch(given)):
        return int(number[1])
    if isinstance(given, float) and given.is_integer():
        return int(given)  # JSON knows one kind of numbers.
    if isinstance(given, bool) or not isinstance(given, int | str):
        raise InvalidArgumentError(
            f"{field} is {given!r:.40}", field=field, limit=f"a number such as 3, a label, or {CURRENT!r}"
        )
    return given


def _wanted(req: func.HttpRequest) -> int | str | None:
    return _version(req.params.get("version", CURRENT), "version")


def _refuse_mixed(req: func.HttpRequest) -> None:
    of_list = next((name for name in ("limit", "cursor") if name in req.params), None)
    if of_list is not None and ("version" in req.params or "diff" in req.params):
        raise InvalidArgumentError(
            f"{of_list} is of a list of versions", field=of_list, remedy="leave it out, or version and diff"
        )


async def _loaded(req: func.HttpRequest, key: str, version: int | str | None) -> func.HttpResponse:
    """The response of the object that is this version."""
    from storage_lib.version_record import no_version, object_of

    versions, number = _versions(), None
    load = loading.head if req.method == "HEAD" else loading.load
    for _ in range(_ATTEMPTS):
        before, number = number, await versions.number(key, version)
        if number == before:
            break
        params = {"key": object_of(key, number)}
        asked = func.HttpRequest(req.method, req.url, headers=req.headers, params=params, body=b"")
        try:
            response = await load(asked)
        except KeyNotFoundError:
            continue  # Another one has become current, or got the label, and this one was pruned.
        if response.status_code < 400:
            response.headers["Content-Location"] = _location(req, key, number)
        return response
    raise no_version(key, number or 0)


async def _compared(key: str, old: int | str | None, new: int | str | None) -> func.HttpResponse:
    from storage_lib.version_record import object_of

    versions, storage = _versions(), access.storage()
    numbers = [await versions.number(key, each) for each in (old, new)]
    for number in numbers:
        info = await storage.info(object_of(key, number))
        if info.size > MAX_DIFF_BYTES:
            raise ObjectTooLargeError(
                f"version {number} of object {key!r} has {info.size} bytes, too many to be compared",
                field="version",
                limit=f"{MAX_DIFF_BYTES} bytes",
                remedy="load both and compare them yourself",
            )
    try:
        patch = await versions.diff(key, numbers[0], numbers[1])
    except SerializationError as error:
        raise NotJsonError(
            error.message, field="version", remedy="load both and compare them yourself"
        ) from error
    return json_response(patch, content_type="application/json-patch+json")


def _location(req: func.HttpRequest, key: str, number: int) -> str:
    path = object_location(req, key)
    return f"{path}{'&' if '?' in path else '?'}version={quote(str(number))}"


def _shown(version: Version) -> dict[str, Any]:
    import msgspec

    shown: dict[str, Any] = msgspec.to_builtins(version)
    return {name: value for name, value in shown.items() if value is not None}
