"""HTTP: delete, copy and move all objects below a prefix, as many as a request has time for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import azure.functions as func

from functions import access
from functions.answers import json_response
from functions.bodies import json_body
from functions.endpoint import Blueprint
from functions.problems import name_as_sent, problem_document
from functions.state import state
from storage_lib.arguments import seconds, whole
from storage_lib.errors import (
    InvalidArgumentError,
    StorageError,
    StorageUnavailableError,
    TransientStorageError,
)
from storage_lib.spelling import refuse_unknown

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from storage_lib.prefixes import PrefixResult

blueprint = Blueprint()
MAX_SECONDS = 60.0
"""After this time no other object begins."""
END_SECONDS = 180.0
"""After this time what is under way is ended, too: the platform ends a request after 230 s."""
MOST_NAMED = 100
"""How many failures are told by name."""
MOST_AT_ONCE = 1_000_000
_BOUNDS = ("dry_run", "cursor", "limit", "seconds")
_FIELDS = {"source": "prefix", "target": "to", "after": "cursor"}
"""Arguments of the library by other names."""


@blueprint.http("POST", "prefixes/delete", body="PrefixDelete", answers={200: "PrefixResult"})
async def delete_prefix(req: func.HttpRequest) -> func.HttpResponse:
    """``POST /api/prefixes/delete`` ``{prefix, dry_run?, cursor?, limit?, seconds?}``: delete the objects
    whose keys start with ``prefix``, their versions included.

    200 with the numbers of those that were deleted and of those that could not be. A request has a minute: if
    ``is_complete`` is false, the same request with the ``cursor`` of the answer goes on. ``dry_run`` tells
    what would be done.
    """
    return await _answer(req, "delete_prefix")


@blueprint.http("POST", "prefixes/copy", body="PrefixTransfer", answers={200: "PrefixResult"})
async def copy_prefix(req: func.HttpRequest) -> func.HttpResponse:
    """``POST /api/prefixes/copy`` ``{prefix, to, skip_existing?, dry_run?, cursor?, limit?, seconds?}``: copy
    each object ``prefix + rest`` to ``to + rest``, with its type, metadata and the end of its life.

    ``skip_existing`` skips objects that have a target. The rest is as for a delete.
    """
    return await _answer(req, "copy_prefix", "to", "skip_existing")


@blueprint.http("POST", "prefixes/move", body="PrefixTransfer", answers={200: "PrefixResult"})
async def move_prefix(req: func.HttpRequest) -> func.HttpResponse:
    """``POST /api/prefixes/move`` ``{prefix, to, skip_existing?, dry_run?, cursor?, limit?, seconds?}``: like
    a copy, but each object is deleted once it is copied. Sent again, it goes on where it was cut off."""
    return await _answer(req, "move_prefix", "to", "skip_existing")


async def _answer(req: func.HttpRequest, method: str, *more: str) -> func.HttpResponse:
    """
    :param method: of the storage manager.
    :param more: the fields of the body besides those of a delete.
    """
    await access.need_some("list")
    body = json_body(req, state(), "name a shorter prefix")
    refuse_unknown(body, ("prefix", *more, *_BOUNDS), "field")
    for name in ("prefix", *more[:1]):
        if not isinstance(body.get(name), str):
            raise InvalidArgumentError(f"{name} must be given as text", field=name)
    cursor = body.get("cursor")
    if cursor is not None and not isinstance(cursor, str):
        raise InvalidArgumentError("cursor must be text, as an answer has it", field="cursor")
    found: PrefixResult | None = None

    def seen(result: PrefixResult) -> None:
        nonlocal found
        found = result

    limit, most = body.get("limit"), body.get("seconds")
    if isinstance(limit, float) and limit.is_integer():
        limit = int(limit)  # JSON knows one kind of numbers.
    is_dry_run = _flag(body, "dry_run")
    bounds: dict[str, Any] = {
        "dry_run": is_dry_run,
        "after": cursor,
        "limit": None if limit is None else whole("limit", limit, 1, MOST_AT_ONCE),
        "seconds": MAX_SECONDS if most is None else seconds("seconds", most, 1, MAX_SECONDS),
        "on_progress": seen,
    }
    if more:
        bounds["if_absent"] = _flag(body, "skip_existing")
    work: Callable[..., Awaitable[PrefixResult]] = getattr(access.storage(writing=True), method)
    ended: StorageError | None = None
    clock = asyncio.timeout(END_SECONDS)
    try:
        async with clock:
            found = await work(*(body[name] for name in ("prefix", *more[:1])), **bounds)
    except (StorageUnavailableError, TimeoutError) as error:
        if isinstance(error, TimeoutError):
            if not clock.expired():
                raise
            error = TransientStorageError(
                f"an object takes longer than a request has, {END_SECONDS:g} seconds", remedy=_TASK
            )
        if found is None:
            raise error from None
        ended = error
    except StorageError as error:
        name_as_sent(error, _FIELDS)
        raise
    return json_response(_shown(found, is_dry_run, cursor, ended))


_TASK = "submit the task 'migrate', which copies on all instances and resumes large objects"


def _shown(
    found: PrefixResult, is_dry_run: bool, cursor: str | None, ended: StorageError | None
) -> dict[str, Any]:
    named = [
        {"key": key, "problem": problem_document(name_as_sent(error, _FIELDS))}
        for key, error in list(found.failed.items())[:MOST_NAMED]
    ]
    shown: dict[str, Any] = {
        "done": found.done,
        "skipped": found.skipped,
        "failures": found.failures,
        "failed": named,
        "dry_run": is_dry_run,
        "is_complete": found.is_complete,
        "cursor": None if found.is_complete else found.last or cursor,
    }
    if ended is not None:
        shown["problem"] = problem_document(ended)
    if not found.is_complete:
        shown["remedy"] = f"send the request again with this cursor; to copy very many objects, {_TASK}"
    return shown


def _flag(body: dict[str, Any], name: str) -> bool:
    given = body.get(name)
    if given is not None and not isinstance(given, bool):
        raise InvalidArgumentError(f"{name} is {given!r:.40}", field=name, limit="true or false")
    return bool(given)
