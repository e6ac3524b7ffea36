"""What the protocol's SDK loses of a message: how the arguments of a call were written, and that something is
no JSON, or no id."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from mcp_types import INVALID_REQUEST, PARSE_ERROR
from msgspec import UNSET, Raw, Struct, UnsetType

_ID = re.compile(rb'".*"|-?\d+', re.DOTALL)


class _Message(Struct):
    id: Raw | UnsetType = UNSET
    method: Raw | UnsetType = UNSET


class _Params(Struct):
    arguments: dict[str, Raw] | None = None


class _Call(Struct):
    params: _Params


def fault(body: bytes) -> dict[str, Any] | None:
    """The error of a message that the SDK would take for another one: it reads NaN, which is no JSON, and
    takes a request with an id that is none for a notification, which gets no answer."""
    if body.lstrip(b" \t\r\n").startswith(b"["):
        return _of_list(body)
    try:
        message = msgspec.json.decode(body, type=_Message)
    except (msgspec.ValidationError, RecursionError):
        return None  # Of these the SDK tells.
    except msgspec.DecodeError as error:
        return _error(PARSE_ERROR, f"Parse error: {error}")
    if message.id is UNSET or message.method is UNSET or _ID.fullmatch(bytes(message.id)):
        return None
    return _error(INVALID_REQUEST, "Invalid request: id must be text or a whole number")


def _of_list(body: bytes) -> dict[str, Any]:
    """Of the revisions of the protocol only 2025-03-26 had batches, which no SDK sends."""
    try:
        msgspec.json.decode(body, type=list[Raw])
    except (msgspec.DecodeError, RecursionError) as error:
        return _error(PARSE_ERROR, f"Parse error: {error}")
    return _error(INVALID_REQUEST, "Invalid request: a batch; send each message in a request of its own")


def arguments(body: bytes) -> dict[str, Raw]:
    """Those of a call, each as it was sent: as a float a number may lose digits, or become infinite."""
    return msgspec.json.decode(body, type=_Call).params.arguments or {}


def _error(code: int, message: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": message}}
