"""HTTP: conversations: list, read, append, change, edit and delete them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

import azure.functions as func

from functions import access
from functions.answers import json_response
from functions.bodies import json_body
from functions.conditions import ANY, Preconditions, single
from functions.endpoint import Blueprint
from functions.parameters import integer_parameter, is_named, refuse_headers
from functions.paths import object_key, object_location
from functions.problems import as_sent
from functions.repeats import idempotency_key, repeated_mark
from functions.state import messages_as_objects, state
from storage_lib.errors import InvalidArgumentError, PreconditionFailedError
from storage_lib.keys import validate_user_key
from storage_lib.patterns import pattern
from storage_lib.spelling import refuse_unknown

if TYPE_CHECKING:
    from storage_lib.conversations import Conversation, Conversations
    from storage_lib.manager import StorageManager

blueprint = Blueprint()
_ALL, _ONE, _EDITS = "conversations", "conversations/{*key}", "conversation-edits/{*key}"
_RANGE = ("last", "after", "before", "limit")
_LISTING = ("participant", "topic", "prefix", "cursor")
_CONDITIONS = ("If-Match", "If-None-Match")
_MOST = 999_999_999
_SENT = {"ttl": "ttl_seconds", "max_age": "max_age_seconds"}
"""The library's arguments as bodies name them."""
_READS: dict[str, Any] = {
    "headers": _CONDITIONS,
    "answers": {200: "ConversationRead", 304: ""},
    "problems": (404, 501),
}
_LISTS: dict[str, Any] = _READS | {"answers": {200: ("ConversationPage", "ConversationRead"), 304: ""}}

_handles: WeakKeyDictionary[StorageManager, Conversations] = WeakKeyDictionary()
"""Of each caller's storage: one that has seen a conversation appends to it in one request."""


@blueprint.http("GET HEAD", _ALL, "key", *_LISTING, *_RANGE, **_LISTS)
async def list_conversations(req: func.HttpRequest) -> func.HttpResponse:
    """``GET /api/conversations?participant=&topic=&prefix=&limit=&cursor=``: a page of conversations, the one
    that was created last first; only those of a participant, with a topic, or whose ids begin so. With
    ``key``: that conversation, for ids that a path cannot carry."""
    if is_named(req, "key"):
        _refuse_mixed(req, _LISTING)
        return await read_conversation(req)
    _refuse_mixed(req, ("last", "after", "before"))
    refuse_headers(req, _CONDITIONS)
    page = await conversations().page(
        participant=req.params.get("participant"),
        topic=req.params.get("topic"),
        prefix=req.params.get("prefix", ""),
        limit=integer_parameter(req, "limit", 100, 1, 1000),
        cursor=req.params.get("cursor") or None,
    )
    found = [shown(each) for each in page.conversations]
    return json_response({"conversations": found, "cursor": page.cursor})


@blueprint.http("GET HEAD", _ONE, *_RANGE, **_READS)
async def read_conversation(req: func.HttpRequest) -> func.HttpResponse:
    """``GET /api/conversations/{key}?last=&after=&before=&limit=``: a conversation and its messages, oldest
    first: the ``last`` ones (100 if nothing is said), or those behind ``after`` and before ``before``, two
    positions, at most ``limit``. The ETag begins with the position; 304 if ``If-None-Match`` says that the
    client has it."""
    key = _key(req)
    wanted = {name: integer_parameter(req, name, 0, 0, _MOST) for name in _RANGE if name in req.params}
    for name in ("last", "limit"):
        if wanted.get(name, 0) > 1000:
            raise InvalidArgumentError(
                f"{name} is {wanted[name]}", field=name, limit="0 to 1000", remedy="read page by page"
            )
    if "last" not in wanted and "limit" not in wanted:
        wanted["limit" if "after" in wanted else "last"] = 100
    entries, found = await conversations().read_with_info(key, **wanted)
    headers = {"ETag": f'"{found.etag}"'}
    if not check_read(req, found):
        return func.HttpResponse(status_code=304, headers=headers | {"Cache-Control": "no-store"})
    return json_response({"conversation": shown(found), "entries": entries}, headers=headers)


@blueprint.http(
    "POST",
    _ONE,
    by_query=("key",),
    headers=("If-Match", "Idempotency-Key"),
    body="NewMessages",
    answers={200: "MessagesAppended"},
    problems=(404, 501),
)
async def extend_conversation(req: func.HttpRequest) -> func.HttpResponse:
    """``POST /api/conversations/{key}`` ``{"messages": [{…}, …], "participants"?: …, "topic"?: …}``: append
    messages, all or none; the conversation is created if there is none.

    ``If-Match`` appends only at this position (``"7"``; ``"0"`` before the first message), or to this very
    ETag; 412 if another message has come. A message with an ``id`` is appended once, and the messages of a
    request with an ``Idempotency-Key`` are: either may be sent again if its answer was lost.
    """
    key = _key(req)
    refuse_headers(req, ("If-None-Match",))
    await access.need(key, "save")
    body = json_body(req, state(), "append fewer messages in a request")
    refuse_unknown(
        body, ("messages", "ids", "participants", "topic", "metadata", "ttl_seconds"), "field of the body"
    )
    if "messages" not in body:
        raise InvalidArgumentError(
            "the body has no messages", field="messages", remedy='send {"messages": [{"role": …}]}'
        )
    with as_sent(_SENT):
        appended = await conversations().append(
            key,
            body["messages"],
            ids=ids_of(req, key, body),
            participants=body.get("participants"),
            topic=body.get("topic"),
            metadata=body.get("metadata"),
            ttl=body.get("ttl_seconds"),
            **expected(req),
        )
    return json_response(appended, headers={"ETag": f'"{appended.etag}"'})


@blueprint.http(
    "PATCH",
    _ONE,
    by_query=("key",),
    headers=("If-Match",),
    body="ConversationChange",
    answers={200: "Conversation"},
    problems=(404, 501),
)
async def change_conversation(req: func.HttpRequest) -> func.HttpResponse:
    """``PATCH /api/conversations/{key}`` ``{"topic"?: …, "participants"?: […], "metadata"?: {…},
    "ttl_seconds"?: …, "max_messages"?: …, "max_age_seconds"?: …}``: replace what is given; null takes it
    away. ``If-Match`` changes only this version; 412 if there is another."""
    key = _key(req)
    refuse_headers(req, ("If-None-Match",))
    await access.need(key, "load", "save")
    body = json_body(req, state(), "send less metadata")
    refuse_unknown(body, _CHANGED, "field of the body")
    given = {_CHANGED[name]: value for name, value in body.items()}
    for name, empty in (("participants", ()), ("metadata", {})):
        if name in given and given[name] is None:
            given[name] = empty
    wanted = expected(req)
    if "if_position" in wanted:
        raise PreconditionFailedError(
            f"conversation {key!r} has another ETag", field="If-Match", remedy="send its whole ETag"
        )
    with as_sent(_SENT):
        found = await conversations().change(key, **given, **wanted)
    return json_response(shown(found), headers={"ETag": f'"{found.etag}"'})


_CHANGED = {
    "participants": "participants",
    "topic": "topic",
    "metadata": "metadata",
    "ttl_seconds": "ttl",
    "max_messages": "max_messages",
    "max_age_seconds": "max_age",
}


@blueprint.http(
    "DELETE", _ONE, by_query=("key",), headers=("If-Match",), answers={204: ""}, problems=(404, 501)
)
async def delete_conversation(req: func.HttpRequest) -> func.HttpResponse:
    """``DELETE /api/conversations/{key}``: delete a conversation with its messages. 204; 404 if there is
    none; 412 if ``If-Match`` does not hold."""
    key = _key(req)
    refuse_headers(req, ("If-None-Match",))
    wanted = expected(req)
    if "if_position" in wanted:
        found = await conversations().describe(key)
        if found.position != wanted["if_position"]:
            raise PreconditionFailedError(f"conversation {key!r} has another ETag", field="If-Match")
        wanted = {"if_match": found.etag}
    await conversations().delete(key, if_match=wanted.get("if_match"))
    return func.HttpResponse(status_code=204)


@blueprint.http(
    "POST",
    _EDITS,
    by_query=("key",),
    headers=("If-Match",),
    body="ConversationEdit",
    answers={200: "ConversationEdited", 201: "ConversationEdited"},
    problems=(404, 501),
)
async def edit_conversation(req: func.HttpRequest) -> func.HttpResponse:
    """``POST /api/conversation-edits/{key}``: take messages away, or copy the conversation.

    ``{"do": "pop"}`` removes the newest message and answers with it; ``{"do": "clear"}`` removes all;
    ``{"do": "compact", "until": 40, "message": {…}}`` puts one message in the place of all up to a position;
    ``{"do": "fork", "to": "other/id", "until"?: 40}`` copies the conversation (201), which appears when it is
    complete; 412 if there is one with this id. ``If-Match`` as for appending.
    """
    key, log = _key(req), conversations()
    refuse_headers(req, ("If-None-Match",))
    await access.need(key, "load")  # Each of them does, and a body is not looked at for others.
    body = json_body(req, state(), "send a shorter message")
    what = body.get("do")
    if not isinstance(what, str) or what not in _FIELDS:
        raise InvalidArgumentError(
            f"do is {what!r:.40}", field="do", limit="pop, clear, compact or fork", remedy="say what to do"
        )
    await access.need(key, *_NEEDED[what])
    refuse_unknown(body, _FIELDS[what], "field of the body")
    for name in _FIELDS[what]:
        if name not in body and (what, name) != ("fork", "until"):
            raise InvalidArgumentError(f"the body has no {name}", field=name, remedy=f"give {name}")
    wanted = expected(req)
    done: dict[str, Any] = {}
    status = 200
    match what:
        case "pop":
            done["entry"] = await log.pop(key, **wanted)
        case "clear":
            done["removed"] = await log.clear(key, **wanted)
        case "compact":
            made = await log.replace(key, body["message"], until=body["until"], **wanted)
            done |= {"entry": made.summary, "removed": made.replaced}
        case _:
            refuse_headers(req, ("If-Match",))
            status = 201
    if what == "fork":
        found = await log.fork(key, _text(body["to"]), until=body.get("until"))
    else:
        found = await log.describe(key)
    headers = {"ETag": f'"{found.etag}"'}
    if what == "fork":
        headers["Location"] = _location(req, found.id)
    done["conversation"] = shown(found)
    return json_response(done, status=status, headers=headers)


_FIELDS = {
    "pop": ("do",),
    "clear": ("do",),
    "compact": ("do", "until", "message"),
    "fork": ("do", "to", "until"),
}
_NEEDED = {
    "pop": ("load", "delete"),
    "clear": ("load", "delete"),
    "compact": ("load", "save", "delete"),
    "fork": ("load",),
}
"""Each is answered with the conversation."""


def conversations() -> Conversations:
    """Those of whoever sent the request."""
    storage = access.storage()
    if (found := _handles.get(storage)) is None:
        from storage_lib.conversations import Conversations

        found = Conversations(storage, messages_as_objects=messages_as_objects())
        _handles[storage] = found
    return found


def _key(req: func.HttpRequest) -> str:
    return validate_user_key(object_key(req))


def _text(to: Any) -> str:
    if not isinstance(to, str):
        raise InvalidArgumentError(f"to is a {type(to).__name__}", field="to", limit="the id of the copy")
    return to


def _location(req: func.HttpRequest, key: str) -> str:
    """The URL of another conversation than the one in the request."""
    return object_location(req, key).replace("/conversation-edits", "/conversations", 1)


def _refuse_mixed(req: func.HttpRequest, names: tuple[str, ...]) -> None:
    if given := next((name for name in names if name in req.params), None):
        raise InvalidArgumentError(
            f"{given} is of {'a list of conversations' if given in _LISTING else 'one conversation'}",
            field=given,
            remedy="leave it out",
        )


_POSITION = pattern(r"[0-9]{1,12}")


def shown(found: Conversation) -> dict[str, Any]:
    """As it is answered."""
    import msgspec

    fields: dict[str, Any] = msgspec.to_builtins(found)
    fields["ttl_seconds"], fields["max_age_seconds"] = fields.pop("ttl"), fields.pop("max_age")
    return fields


def check_read(req: func.HttpRequest, found: Conversation) -> bool:
    """Whether the client lacks this version.

    :raises PreconditionFailedError: ``If-Match`` does not hold.
    """
    conditions = Preconditions.of(req)
    match, none_match = conditions.match, conditions.none_match
    own = (found.etag, str(found.position))
    if match is not None and match is not ANY and not any(each in own for each in match):
        raise PreconditionFailedError(f"conversation {found.id!r} has another ETag", field="If-Match")
    return none_match is None or (none_match is not ANY and found.etag not in none_match)


def expected(req: func.HttpRequest) -> dict[str, Any]:
    """What ``If-Match`` says: a position, or an ETag."""
    tags = Preconditions.of(req).match
    if tags is None:
        return {}
    if tags is ANY:
        return {"if_match": "*"}
    tag = single(tags)
    if tag is None:
        raise InvalidArgumentError(
            "If-Match is not one entity tag", field="If-Match", limit='one position ("7") or ETag'
        )
    return {"if_position": int(tag)} if _POSITION.fullmatch(tag) else {"if_match": tag}


def ids_of(req: func.HttpRequest, key: str, body: dict[str, Any]) -> list[str | None] | None:
    """The ids of the messages: their own, and those that an ``Idempotency-Key`` gives to the others."""
    if idempotency_key(req) is None:
        return body.get("ids")
    import msgspec

    mark = repeated_mark(req, key, msgspec.json.encode(body, order="sorted"))
    messages, given = body["messages"], body.get("ids")
    if not isinstance(messages, list) or not isinstance(given, list | None):
        return given  # What it is instead is refused.
    ids: list[Any] = [_id_in(each) for each in cast("list[Any]", messages)] if given is None else given
    return [f"{mark}.{n}" if own is None or own == "" else own for n, own in enumerate(ids)]


def _id_in(message: Any) -> str | None:
    own = cast("dict[str, Any]", message).get("id") if isinstance(message, dict) else None
    if type(own) is int:
        return str(own)
    return own if isinstance(own, str) else None
