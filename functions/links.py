"""HTTP: links, by which somebody without a function key loads or saves one object for a while."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC
from functools import partial
from typing import Any

import azure.functions as func

from functions import access, loading, objects
from functions.addresses import api_path, api_url, client_address, proxies
from functions.admission import mark_of_maker, standing_of_link
from functions.answers import json_response
from functions.bodies import Arriving, UnsupportedMediaTypeError, optional_json_body
from functions.endpoint import Blueprint
from functions.headers import header
from functions.object_requests import HEADS, LOADS, SAVES
from functions.paths import object_key, path_to
from functions.problems import as_sent
from functions.state import AppState, state
from storage_lib.callers import acting_as, caller
from storage_lib.errors import ObjectTooLargeError, StorageError, UnsupportedOperationError
from storage_lib.keys import validate_key
from storage_lib.spelling import refuse_unknown

blueprint = Blueprint()
_BY_LINK = func.AuthLevel.ANONYMOUS
_FIELDS = ("method", "expires_in", "ip", "content_type", "max_bytes")
SIGNED = ("expires", "ip", "type", "max", "maker", "kid", "sig")
_OF_SHARED_CACHES = ("", "private", "public", "s-maxage", "proxy-revalidate")
_LOADS: Any = LOADS | {"is_open": True, "problems": (*LOADS["problems"], 429)}
_HEADS: Any = HEADS | {"is_open": True, "problems": (*HEADS["problems"], 429)}
_SAVES: Any = SAVES | {"is_open": True, "problems": (404, *SAVES["problems"], 429)}


@blueprint.http(
    "POST", "links/{*key}", by_query=("key",), body="LinkRequest", answers={201: "Link"}, problems=(404, 501)
)
async def make_link(req: func.HttpRequest) -> func.HttpResponse:
    """``POST /api/links/{key}`` ``{method?, expires_in?, ip?, content_type?, max_bytes?}``: a URL by which
    whoever has it loads (GET) or saves (PUT) this object, without a key of the app.

    201 with ``url``, ``method``, the ``headers`` to send, and ``expires_at``. ``through`` says whether it
    leads to the ``store`` itself or to the ``app``; ``max_bytes`` is the largest body that is taken by it, if
    there is a bound; ``unenforced`` names what was asked for and nobody checks.
    """
    from storage_lib import links

    key, app = object_key(req), state()
    validate_key(key)
    if (found := access.grant()) is not None and not found.allows("save", key):
        await access.need(key, "load")  # Whatever is asked for.
    wanted: dict[str, Any] = optional_json_body(req, app)
    refuse_unknown(wanted, _FIELDS, "field")
    storage = access.storage(writing=wanted.get("method") == "PUT")
    given = {name: value for name, value in wanted.items() if value is not None}
    with as_sent({"content_type": "body.content_type"}):  # Not the header.
        options = links.options_of(app.storage.backend.objects.clock(), **given)
    made = await links.make_link(
        storage,
        key,
        options,
        signer=app.link_signer,
        app_url=api_url(req, "links"),
        by=access.submitter() or await mark_of_maker(req),
        most_bytes=app.max_link_bytes,
        direct=app.links_to_store,
    )
    if made.through == "app" and options.ip is not None and not proxies():
        raise UnsupportedOperationError(
            "the app does not know where requests come from, so that no link through it can be bound to"
            " addresses",
            field="ip",
            remedy="leave ip out, or set AGENT_STORAGE_PROXIES to how many proxies in front of the app add to"
            " X-Forwarded-For",
        )
    answer: dict[str, Any] = {
        "url": made.url,
        "method": made.method,
        "headers": made.headers,
        "expires_at": made.expires_at.astimezone(UTC),
        "through": made.through,
    }
    if made.max_bytes is not None:
        answer["max_bytes"] = made.max_bytes
    if made.unenforced:
        answer["unenforced"] = made.unenforced
    return json_response(answer, status=201)


@blueprint.http("GET HEAD", "signed", "key", *SIGNED, level=_BY_LINK, **_LOADS)
async def by_query_load_by_link(req: func.HttpRequest) -> func.HttpResponse:
    """``GET /api/signed?key=``: like the key in the path, for keys that a path cannot carry."""
    return await load(req)


@blueprint.http("GET", "signed/{*key}", *SIGNED, level=_BY_LINK, **_LOADS)
async def load_by_link(req: func.HttpRequest) -> func.HttpResponse:
    """``GET /api/signed/{key}``: load an object by a link of the app; 403 if the link was changed, has ended,
    or does not allow it. Otherwise like ``GET /api/objects/{key}``."""
    return await load(req)


@blueprint.http("HEAD", "signed/{*key}", *SIGNED, level=_BY_LINK, **_HEADS)
async def head_by_link(req: func.HttpRequest) -> func.HttpResponse:
    """``HEAD /api/signed/{key}``: the headers of a load, by a link to load by."""
    return await load(req)


@blueprint.http("PUT", "signed/{*key}", *SIGNED, by_query=("key",), level=_BY_LINK, **_SAVES)
async def save_by_link(req: func.HttpRequest) -> func.HttpResponse:
    """``PUT /api/signed/{key}``: save an object by a link of the app; 403 if the link was changed, has ended,
    or does not allow it. Otherwise like ``PUT /api/objects/{key}``."""
    return await save(req)


async def load(
    req: func.HttpRequest, read: Callable[[func.HttpRequest], Awaitable[func.HttpResponse]] | None = None
) -> func.HttpResponse:
    """The answer to a GET or HEAD by a link.

    :param read: what gives it, once it is allowed; None reads the object into memory.
    """
    allowed = await _allowed(req)
    with await access.on_behalf_of_submitter(allowed.by):
        read = read or (loading.head if req.method == "HEAD" else loading.load)
        response = await _counted(req, partial(read, req))
    if (kept := response.headers.get("Cache-Control")) is not None:
        response.headers["Cache-Control"] = _private(kept)
    return response


def _private(cache_control: str) -> str:
    """What the holder of a link may keep; a cache that others share would give it to them after its end."""
    directives = [each.strip() for each in cache_control.split(",")]
    left = [each for each in directives if each.partition("=")[0].strip().lower() not in _OF_SHARED_CACHES]
    return ", ".join(("private", *left))


async def save(req: func.HttpRequest, source: Arriving | None = None) -> func.HttpResponse:
    """The answer to a PUT by a link.

    :param source: the body, of a host that does not hand it on whole; None if the request has it.
    """
    allowed = await _allowed(req)
    with await access.on_behalf_of_submitter(allowed.by):
        return await _counted(req, lambda: _saved(req, allowed, source))


async def _counted(
    req: func.HttpRequest, answer: Callable[[], Awaitable[func.HttpResponse]]
) -> func.HttpResponse:
    counted = standing_of_link(req.params["sig"], req.params.get("maker"))
    if counted is None:
        return await answer()
    counted.need()
    response = await answer()
    counted.tell(response)
    return response


async def _saved(req: func.HttpRequest, allowed: Any, source: Arriving | None) -> func.HttpResponse:
    wanted = allowed.options.content_type
    if wanted is not None and (header(req, "Content-Type") or "").strip() != wanted:
        raise UnsupportedMediaTypeError(
            "the link is for another content type", field="Content-Type", limit=wanted
        )
    most = allowed.options.max_bytes
    size = len(req.get_body()) if source is None else source.size
    if most is not None and size > most:
        raise ObjectTooLargeError(
            f"the body is {size} bytes, more than the link allows",
            field="body",
            limit=f"{most} bytes",
            remedy="ask for another link, or have the object sent in parts to /api/uploads",
        )
    response = await objects.save(req, source)
    if "Location" in response.headers:
        response.headers["Location"] = path_to(f"{api_path(req, 'signed')}/objects", allowed.key)
    return response


async def _allowed(req: func.HttpRequest) -> Any:
    """What the link allows, which is looked at before anything else of the request is.

    :raises InvalidLinkError: not this.
    """
    from storage_lib.links import InvalidLinkError

    key, app = object_key(req), state()
    try:
        allowed = await app.link_signer.check(req.method, key, req.params)
        if (address := allowed.options.ip) is not None and (client_address(req) or "") not in address:
            raise InvalidLinkError("the link is for other addresses than that of the sender", field="ip")
        access.check_submitter(allowed.by)
    except InvalidLinkError:
        if (counted := standing_of_link(None)) is not None:
            counted.need()  # Each refusal is written into the audit log.
        await _refused(req, app, key)
        raise
    return allowed


async def _refused(req: func.HttpRequest, app: AppState, key: str) -> None:
    try:
        validate_key(key)  # It goes into logs.
    except StorageError:
        key = ""
    with acting_as(access.LINK, caller().correlation):
        await app.access.denied("link", f"objects/{key}", "invalid-link")
