"""HTTP: messages of queues: send, receive, delete, peek, and how many there are.

What the app keeps in queues itself (tasks, their events) can be looked at by those who may see how it works,
and changed by nobody.
"""

from __future__ import annotations

import asyncio
import base64
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import azure.functions as func

from functions import access
from functions.answers import json_response
from functions.bodies import json_body
from functions.endpoint import Blueprint
from functions.named import page_of_names
from functions.parameters import flag_parameter, integer_parameter
from functions.paths import named_in_path
from functions.problems import as_sent
from functions.state import state
from storage_lib.errors import InvalidArgumentError, KeyNotFoundError
from storage_lib.spelling import refuse_unknown

if TYPE_CHECKING:
    from storage_lib.ports.queue_model import QueueMessage
    from storage_lib.ports.queues import QueueStore

blueprint = Blueprint()
_MESSAGES = "queues/{queue}/messages"
_MOST_MESSAGES = 32
_AT_ONCE = 16
"""Of how many queues it is asked at the same time how long they are."""
_MOST_SECONDS = 7 * 24 * 3600
_SENT = {"delay": "delay_seconds", "ttl": "ttl_seconds", "pop_receipt": "receipt"}
"""The library's arguments as clients name them."""
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


@blueprint.http(
    "GET HEAD", "queues", "prefix", "limit", "cursor", "lengths", answers={200: "QueuePage"}, problems=(501,)
)
async def list_queues(req: func.HttpRequest) -> func.HttpResponse:
    """``GET /api/queues?prefix=&limit=&cursor=&lengths=``: a page of the queues that you may use, by name,
    each with what of the app it belongs to, if it is the app's own. With ``lengths=true`` also how many
    messages are in each, hidden ones included, and since when the next visible one is, null if there is none;
    that takes two requests to the store for each queue of the page."""
    lengths = flag_parameter(req, "lengths")
    page = await page_of_names(req, "queues")
    if lengths:
        turns = asyncio.Semaphore(_AT_ONCE)
        await asyncio.gather(*(_measure(each, turns) for each in page["queues"]))
    return json_response(page)


async def _measure(shown: dict[str, Any], turns: asyncio.Semaphore) -> None:
    length = 0
    found: list[QueueMessage] = []
    async with turns:
        with suppress(KeyNotFoundError):  # It was removed meanwhile.
            length = await _queues().length(shown["name"])
            found = await _queues().peek(shown["name"]) if length else []
    oldest = found[0].inserted_at.astimezone(UTC) if found else None
    shown |= {"length": length, "oldest_at": oldest}


@blueprint.http("GET HEAD", "queues/{queue}", answers={200: "Queue"}, problems=(404, 501))
async def queue_length(req: func.HttpRequest) -> func.HttpResponse:
    """``GET /api/queues/{queue}``: how many messages there are, hidden ones included. On Azure that is an
    approximation, never too low."""
    queue = named_in_path(req, "queue")
    return json_response({"queue": queue, "length": await _queues().length(queue)})


@blueprint.http(
    "POST", _MESSAGES, body=("NewMessage", "NewBinaryMessage"), answers={201: "SentMessage"}, problems=(501,)
)
async def send_message(req: func.HttpRequest) -> func.HttpResponse:
    """``POST /api/queues/{queue}/messages`` ``{body, encoding?, delay_seconds?, ttl_seconds?}``: send a
    message; 201 with its id. ``body`` is text, or base64 with ``"encoding": "base64"``. The queue is created
    if there is none. One whose answer was lost may be sent twice."""
    queue = named_in_path(req, "queue")
    await access.need_to_write("queues", queue)
    document = json_body(req, state())
    refuse_unknown(document, ("body", "encoding", "delay_seconds", "ttl_seconds"), "field")
    with as_sent(_SENT):
        delay = document.get("delay_seconds")
        message_id = await _queues().send(
            queue,
            _body(document),
            delay=0 if delay is None else delay,
            ttl=document.get("ttl_seconds"),
        )
    return json_response({"id": message_id}, status=201)


@blueprint.http("GET HEAD", _MESSAGES, "max_messages", answers={200: "Messages"}, problems=(404, 501))
async def peek_messages(req: func.HttpRequest) -> func.HttpResponse:
    """``GET /api/queues/{queue}/messages?max_messages=``: up to 32 visible messages, which stay visible and
    have no receipts."""
    queue, most = named_in_path(req, "queue"), _most(req)
    return _answer(await _queues().peek(queue, max_messages=most))


@blueprint.http(
    "POST",
    "queues/{queue}/receive",
    "max_messages",
    "visibility_timeout",
    answers={200: "Messages"},
    problems=(404, 501),
)
async def receive_messages(req: func.HttpRequest) -> func.HttpResponse:
    """``POST /api/queues/{queue}/receive?max_messages=&visibility_timeout=``: up to 32 visible messages that
    nobody else receives for ``visibility_timeout`` seconds (30). Each has the receipt to delete it with."""
    queue, most = named_in_path(req, "queue"), _most(req)
    await access.need_to_write("queues", queue)
    if req.get_body().strip() not in (b"", b"{}"):
        raise InvalidArgumentError(
            "the request has a body, which nothing reads",
            field="body",
            remedy="give max_messages and visibility_timeout as query parameters",
        )
    seconds = integer_parameter(req, "visibility_timeout", 30, 1, _MOST_SECONDS)
    return _answer(await _queues().receive(queue, max_messages=most, visibility_timeout=seconds))


@blueprint.http("DELETE", f"{_MESSAGES}/{{message_id}}", "receipt", answers={204: ""}, problems=(404, 501))
async def delete_message(req: func.HttpRequest) -> func.HttpResponse:
    """``DELETE /api/queues/{queue}/messages/{message_id}?receipt=``: delete a received message; 404 if the
    receipt is no longer valid, because the message has been visible again since, or is gone."""
    from storage_lib.ports.queue_model import QueueMessage

    queue, message_id = named_in_path(req, "queue"), named_in_path(req, "message_id")
    # A "+" that is not percent-encoded arrives as a space, and no receipt has one.
    receipt = req.params.get("receipt", "").replace(" ", "+")
    if not receipt:
        raise InvalidArgumentError(
            "receipt is missing",
            field="receipt",
            remedy="give the receipt that the message was received with",
        )
    gone = QueueMessage(message_id, "", None, 0, receipt, _LONG_AGO, _LONG_AGO, _LONG_AGO)
    with as_sent(_SENT):
        await _queues().delete(queue, gone)
    return func.HttpResponse(status_code=204)


def _queues() -> QueueStore:
    return access.users_storage().backend.queues


def _most(req: func.HttpRequest) -> int:
    return integer_parameter(req, "max_messages", 1, 1, _MOST_MESSAGES)


def _body(document: dict[str, Any]) -> str | bytes:
    body, encoding = document.get("body"), document.get("encoding")
    if not isinstance(body, str):
        raise InvalidArgumentError(
            f"body is {ascii(body)[:80]}" if "body" in document else "body is missing",
            field="body",
            limit='text, or base64 with "encoding": "base64"',
            remedy="write an object or a list as JSON into it",
        )
    if encoding is None:
        return body
    if encoding != "base64":
        raise InvalidArgumentError(
            f"encoding is {ascii(encoding)[:80]}",
            field="encoding",
            limit="base64",
            remedy="leave it out for text",
        )
    try:
        return base64.b64decode(body, validate=True)
    except ValueError as error:
        raise InvalidArgumentError("body is no base64", field="body", limit="base64 (RFC 4648, 4)") from error


def _answer(messages: list[QueueMessage]) -> func.HttpResponse:
    return json_response({"messages": [_shown(each) for each in messages]})


def _shown(message: QueueMessage) -> dict[str, Any]:
    shown: dict[str, Any] = {"id": message.id}
    raw = message.body
    try:
        # What another program sent in another encoding is its text.
        shown["body"] = message.text if raw is None else raw.decode()
    except UnicodeDecodeError:
        shown |= {"body": base64.b64encode(raw or b"").decode(), "encoding": "base64"}
    if message.pop_receipt:
        shown |= {"receipt": message.pop_receipt, "next_visible_at": message.next_visible_at.astimezone(UTC)}
    return shown | {
        "dequeue_count": message.dequeue_count,
        "inserted_at": message.inserted_at.astimezone(UTC),
        "expires_at": message.expires_at.astimezone(UTC),
    }
