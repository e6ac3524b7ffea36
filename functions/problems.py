"""Errors as problem+json (RFC 9457), in terms of HTTP and without paths of the server."""

from __future__ import annotations

from typing import Any

import azure.functions as func

from functions.answers import json_response
from functions.bodies import LARGE, LengthRequiredError, UnsupportedMediaTypeError
from storage_lib.errors import (
    BackendClosedError,
    ForbiddenError,
    InvalidArgumentError,
    InvalidKeyError,
    KeyNotFoundError,
    ObjectTooLargeError,
    PreconditionFailedError,
    QuotaExceededError,
    RuleViolationError,
    SerializationError,
    StorageError,
    TransientStorageError,
    UnsupportedOperationError,
)
from storage_lib.patterns import pattern
from storage_lib.spelling import UnknownNameError

PROBLEM_TYPE = "urn:agent-storage:problem:"
"""A problem's ``type`` is this and the stable code of its error."""

_STATUS: tuple[tuple[type[StorageError], int], ...] = (
    (LengthRequiredError, 411),
    (UnsupportedMediaTypeError, 415),
    (ForbiddenError, 403),
    (KeyNotFoundError, 404),
    (PreconditionFailedError, 412),
    (ObjectTooLargeError, 413),
    (RuleViolationError, 422),  # RFC 9110, 15.5.21; `_status` has the exceptions.
    (QuotaExceededError, 507),  # RFC 4918, 11.5: the server has no room for it.
    (InvalidKeyError, 400),
    (InvalidArgumentError, 400),
    (SerializationError, 400),
    (UnsupportedOperationError, 501),
    (TransientStorageError, 503),
    (BackendClosedError, 503),  # This instance stops.
    # Refused credentials, broken data and a wrong configuration are for the server's operator to fix.
    (StorageError, 500),
)
_STATUS_OF_CODE = {
    "task-state": 409,
    "idempotency-conflict": 409,
    "idempotency-key-in-use": 409,
    "idempotency-key-reused": 422,
    "upload-state": 409,
    "invalid-token": 401,
    "not-json": 409,
    "not-versions": 409,
    "unprocessable-patch": 422,
    "answer-too-large": 413,
    "entity-exists": 409,
    "rate-limited": 429,
    "method-not-allowed": 405,
    "not-acceptable": 406,
}
"""Of errors of which the modules are not imported for their sake."""
_STATUS_OF_REQUIREMENT = {"content_types": 415, "max_bytes": 413, "max_value_bytes": 413}
"""Of rules about what HTTP has a status of its own for."""
_TITLES = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    409: "Conflict",
    411: "Length Required",
    412: "Precondition Failed",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
    429: "Too Many Requests",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    507: "Insufficient Storage",
}

_IN_HTTP = {
    "if_match": "If-Match",
    "if_position": "If-Match",
    "if_absent": "If-None-Match",
    "if_none_match": "If-None-Match",
    "content_type": "Content-Type",
    "byte_range": "Range",
    "range": "Range",
    "data": "body",
    "value": "body",
    "metadata": "x-meta-*",
    "ttl": "x-ttl-seconds",
    "partition_key": "PartitionKey",
    "row_key": "RowKey",
    "base_path": "AGENT_STORAGE_PATH",
    "connection_string": "AgentStorage",
    "storage_type": "AGENT_STORAGE_TYPE",
    "s3_bucket": "AGENT_STORAGE_S3_BUCKET",
}
"""Where the library's arguments come from."""
_PYTHON = pattern(
    r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|(?<![\w-])("""
    + "|".join(name for name in _IN_HTTP if "_" in name or name == "ttl")
    + r")(?![\w-])"
)
"""Quoted text, which is a key or value of the client, or the name of an argument."""
_PATH = pattern(
    r"""(?<=')/[^']*(?=')|(?<=")/[^"]*(?=")|(?<=\()/[^()]*(?=\))|(?<![\w/:.~-])/[^\s'"/,;:()][^\s'",;:()]*"""
)
_LONGEST_WAIT_SECONDS = 86_400
_RETRY = "load it again and retry with its ETag"


def problem(error: StorageError) -> func.HttpResponse:
    """The problem+json response to an error."""
    document = problem_document(error)
    headers: dict[str, str] = {}
    if isinstance(error, TransientStorageError):
        headers["Retry-After"] = str(max(1, round(min(error.retry_after or 1, _LONGEST_WAIT_SECONDS))))
    if error.code == "idempotency-key-in-use":
        headers["Retry-After"] = "1"
    if document["status"] == 401:
        headers["WWW-Authenticate"] = 'Bearer error="invalid_token"'  # RFC 6750, 3.1
    return problem_response(document, headers)


def internal_problem() -> func.HttpResponse:
    """The response to an unexpected error, without details for the client."""
    return problem_response(_document(500, "internal-error", "the server failed; its log has the details"))


def range_problem(size: int) -> func.HttpResponse:
    """416 with the object's size, as RFC 9110, 15.5.17 asks."""
    detail = f"no byte of the range lies in the object of {size} bytes"
    document = _document(416, "range-not-satisfiable", detail, field="Range")
    return problem_response(document, {"Content-Range": f"bytes */{size}"})


def problem_document(error: StorageError) -> dict[str, Any]:
    """An error as a problem."""
    status = _status(error)
    names = {} if isinstance(error, UnknownNameError) else _IN_HTTP
    return _document(
        status,
        error.code,
        _worded(str(error), status),
        field=names.get(error.field, error.field) if error.field else None,
        limit=error.limit and _worded(error.limit, status),
        remedy=_remedy(error, status),
        rule=error.rule if isinstance(error, RuleViolationError | QuotaExceededError) else None,
    )


def _remedy(error: StorageError, status: int) -> str | None:
    if isinstance(error, ObjectTooLargeError) and error.field in ("data", "source"):
        return LARGE  # Of the library's own, none can be had over HTTP.
    if error.remedy:
        return _worded(error.remedy, status)
    return _RETRY if status == 412 else None


def _status(error: StorageError) -> int:
    if isinstance(error, RuleViolationError):
        if error.stored:
            return 500  # Not what the client sent, but what is stored.
        if error.requirement in _STATUS_OF_REQUIREMENT:
            return _STATUS_OF_REQUIREMENT[error.requirement]
    return _STATUS_OF_CODE.get(error.code) or next(s for kind, s in _STATUS if isinstance(error, kind))


def problem_response(document: dict[str, Any], headers: dict[str, str] | None = None) -> func.HttpResponse:
    return json_response(
        document, status=document["status"], headers=headers, content_type="application/problem+json"
    )


def _worded(text: str, status: int) -> str:
    """The text in terms that a client knows. Only errors of the server may mention its files."""
    text = _PYTHON.sub(lambda found: found[1] or _IN_HTTP[found[2]], text)
    text = text.encode(errors="backslashreplace").decode()
    return _PATH.sub("(a path of the server)", text) if status >= 500 else text


def _document(status: int, code: str, detail: str, **extra: Any) -> dict[str, Any]:
    document = {"type": PROBLEM_TYPE + code, "title": _TITLES[status], "status": status, "detail": detail}
    return document | {name: value for name, value in extra.items() if value is not None}
