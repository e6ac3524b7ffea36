"""Errors as problem+json (RFC 9457), in terms of HTTP and without paths of the server."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import azure.functions as func

from functions.answers import json_response
from functions.bodies import LARGE
from storage_lib.errors import (
    ObjectTooLargeError,
    QuotaExceededError,
    RuleViolationError,
    StorageError,
    TransientStorageError,
)
from storage_lib.patterns import pattern
from storage_lib.spelling import UnknownNameError

PROBLEM_TYPE = "urn:agent-storage:problem:"
"""A problem's ``type`` is this and the stable code of its error."""

CODES: dict[int, tuple[str, ...]] = {
    400: (
        "digest-mismatch",
        "invalid-argument",
        "invalid-key",
        "serialization-error",
        "unknown-action",
    ),
    401: ("invalid-token",),
    403: ("forbidden", "invalid-link"),
    404: ("key-not-found",),
    405: ("method-not-allowed",),
    406: ("not-acceptable",),
    409: (
        "entity-exists",
        "idempotency-conflict",
        "idempotency-key-in-use",
        "not-json",
        "not-versions",
        "task-state",
        "upload-state",
    ),
    411: ("length-required",),
    412: ("precondition-failed",),
    413: ("answer-too-large", "object-too-large", "rule-violation"),
    415: ("rule-violation", "unsupported-media-type"),
    416: ("range-not-satisfiable",),
    422: ("idempotency-key-reused", "rule-violation", "unprocessable-patch"),
    429: ("rate-limited",),
    500: (
        "access-denied",
        "configuration-error",
        "encryption-error",
        "integrity-error",
        "internal-error",
        "rule-violation",
    ),
    501: ("unsupported-operation",),
    503: ("audit-unavailable", "backend-closed", "storage-unavailable", "transient-storage-error"),
    507: ("quota-exceeded",),
}
"""The codes that stay the same, by the status that they come with. Of another error, that of the class above
it counts. What has 500 is for the operator of the server to fix."""
_STATUS = {code: status for status, codes in CODES.items() for code in codes}
_STATUS_OF_REQUIREMENT = {"content_types": 415, "max_bytes": 413, "max_value_bytes": 413}
"""Of rules about what HTTP has a status of its own for."""
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
_TIME = pattern(r"(?<!['\"\w])(?:ttl|delay|max_age)(?= )")
"""The name of a time among the library's arguments, which clients give in seconds or as a moment."""
_RETRY = "load it again and retry with its ETag"


@contextmanager
def as_sent(names: Mapping[str, str]) -> Generator[None]:
    """Have errors name what was sent as it was sent.

    :param names: by those of the library's arguments.
    """
    try:
        yield
    except StorageError as error:
        name_as_sent(error, names)
        raise


def name_as_sent(error: StorageError, names: Mapping[str, str]) -> StorageError:
    """Likewise, of one."""
    if (sent := names.get(error.field or "")) is not None:
        error.message = _TIME.sub(lambda found: names.get(found[0], found[0]), error.message)
        error.field = sent
    return error


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
        return _STATUS_OF_REQUIREMENT.get(error.requirement, 422)  # RFC 9110, 15.5.21.
    inherited = (vars(kind).get("code") for kind in type(error).__mro__)
    return next((_STATUS[code] for code in (error.code, *inherited) if code in _STATUS), 500)


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
    document = {
        "type": PROBLEM_TYPE + code,
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    return document | {name: value for name, value in extra.items() if value is not None}
