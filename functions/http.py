"""HTTP as the standards have it: keys from paths, bodies, headers of objects, problems (RFC 9457)."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Concatenate
from urllib.parse import quote, unquote

import azure.functions as func

from functions.conditions import http_date
from storage_lib.backends.base import ObjectInfo
from storage_lib.errors import (
    InvalidArgumentError,
    InvalidKeyError,
    KeyNotFoundError,
    ObjectTooLargeError,
    PreconditionFailedError,
    SerializationError,
    StorageError,
    TransientStorageError,
    UnsupportedOperationError,
)
from storage_lib.keys import decode_metadata_value, encode_metadata_value, validate_user_key
from storage_lib.tasks.control import TaskStateError
from storage_lib.tasks.submission import IdempotencyConflictError

_log = logging.getLogger("AOS.Http")

PROBLEM_TYPE = "urn:agent-storage:problem:"
"""A problem's ``type`` is this and the stable code of its error."""


class UnsupportedMediaTypeError(InvalidArgumentError):
    """The body's content type is none that this route takes."""

    code = "unsupported-media-type"


_STATUS: tuple[tuple[type[StorageError], int], ...] = (
    (UnsupportedMediaTypeError, 415),
    (KeyNotFoundError, 404),
    (TaskStateError, 409),
    (IdempotencyConflictError, 409),
    (PreconditionFailedError, 412),
    (ObjectTooLargeError, 413),
    (InvalidKeyError, 400),
    (InvalidArgumentError, 400),
    (SerializationError, 400),
    (UnsupportedOperationError, 501),
    (TransientStorageError, 503),
    # Refused credentials, broken data and a wrong configuration are the server's to mend, not the client's.
    (StorageError, 500),
)
_TITLES = {
    400: "Bad Request",
    404: "Not Found",
    409: "Conflict",
    412: "Precondition Failed",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    416: "Range Not Satisfiable",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
}

_HEADERS = {
    "if_match": "If-Match",
    "if_absent": "If-None-Match",
    "content_type": "Content-Type",
    "data": "body",
    "metadata": "x-meta-*",
    "ttl": "x-ttl-seconds",
}
"""Where the library's arguments come from."""


def problems[**P](
    handler: Callable[Concatenate[func.HttpRequest, P], Awaitable[func.HttpResponse]],
) -> Callable[Concatenate[func.HttpRequest, P], Awaitable[func.HttpResponse]]:
    """Answer errors as problem+json; only an error of ours tells its detail."""

    @functools.wraps(handler)
    async def guarded(req: func.HttpRequest, *others: P.args, **outputs: P.kwargs) -> func.HttpResponse:
        try:
            return await handler(req, *others, **outputs)
        except StorageError as error:
            response = problem(error)
            if response.status_code >= 500:
                _log.error("%s %s: %s", req.method, _path(req), error, exc_info=error)
            return response
        except Exception:
            _log.exception("%s %s failed", req.method, _path(req))
            return _problem_response(
                _document(500, "internal-error", "the server failed; its log has the details")
            )

    return guarded


def problem(error: StorageError) -> func.HttpResponse:
    """The problem+json answer to an error."""
    headers: dict[str, str] = {}
    if isinstance(error, TransientStorageError):
        headers["Retry-After"] = str(max(1, round(error.retry_after or 1)))
    return _problem_response(problem_document(error), headers)


def problem_document(error: StorageError) -> dict[str, Any]:
    """An error as a problem (RFC 9457)."""
    status = next(status for kind, status in _STATUS if isinstance(error, kind))
    field = _HEADERS.get(error.field, error.field) if error.field else None
    remedy = error.remedy or (_RETRY if status == 412 else None)
    return _document(status, error.code, str(error), field=field, limit=error.limit, remedy=remedy)


_RETRY = "load it again and retry with its ETag"


def _document(status: int, code: str, detail: str, **extra: Any) -> dict[str, Any]:
    document = {"type": PROBLEM_TYPE + code, "title": _TITLES[status], "status": status, "detail": detail}
    return document | {name: value for name, value in extra.items() if value is not None}


def _problem_response(
    document: dict[str, Any], headers: Mapping[str, str] | None = None
) -> func.HttpResponse:
    return json_response(
        document, status=document["status"], headers=headers, content_type="application/problem+json"
    )


def range_problem(size: int) -> func.HttpResponse:
    """416 with the object's size, as RFC 9110, 15.5.17 asks."""
    detail = f"no byte of the range lies in the object of {size} bytes"
    document = _document(416, "range-not-satisfiable", detail, field="Range")
    return _problem_response(document, {"Content-Range": f"bytes */{size}"})


def json_response(
    document: Any,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    content_type: str = "application/json",
) -> func.HttpResponse:
    import msgspec

    return func.HttpResponse(
        msgspec.json.encode(document), status_code=status, headers=headers, mimetype=content_type
    )


def object_key(req: func.HttpRequest) -> str:
    """The key of the path, checked.

    The platform hands over the path percent-decoded once, but for ``%2F``, which stays as it is; here it is
    the ``/`` that clients meant who encode a whole key. No key contains a literal ``%2F`` (keys.py), so one
    that was encoded twice is refused where the URL still tells it.
    """
    if "%2f" in unquote(_path(req)).lower():
        raise InvalidKeyError(
            "the key contains an encoded '%2F', such as '%252F'", field="key", remedy="encode the key once"
        )
    return validate_user_key(re.sub("%2f", "/", req.route_params.get("key", ""), flags=re.IGNORECASE))


def body_of(req: func.HttpRequest, limit: int) -> bytes:
    """:raises ObjectTooLargeError: the body is larger than the limit."""
    body = req.get_body()
    if len(body) > limit:
        raise ObjectTooLargeError(
            f"the body is {len(body)} bytes",
            field="body",
            limit=f"{limit} bytes (app setting AGENT_STORAGE_MAX_BODY_BYTES)",
            remedy="raise AGENT_STORAGE_MAX_BODY_BYTES, up to 100 MB, split the object, or save it with"
            " storage_lib",
        )
    return body


def json_body(req: func.HttpRequest, limit: int) -> dict[str, Any]:
    """The body as a JSON object.

    :raises UnsupportedMediaTypeError: it does not say that it is JSON.
    :raises SerializationError: it is not.
    """
    content_type = req.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise UnsupportedMediaTypeError(
            f"the content type is {content_type!r}",
            field="Content-Type",
            limit="application/json",
            remedy="send JSON with the header Content-Type: application/json",
        )
    import msgspec

    try:
        found = msgspec.json.decode(body_of(req, limit))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SerializationError(f"the body is not JSON: {error}", field="body") from error
    if not isinstance(found, dict):
        raise SerializationError(f"the body is a JSON {type(found).__name__}, not an object", field="body")
    return found


def integer_parameter(req: func.HttpRequest, name: str, default: int, low: int, high: int) -> int:
    text = req.params.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or not low <= int(text) <= high:
        raise InvalidArgumentError(
            f"{name} is {text[:40]!r}", field=name, limit=f"a whole number from {low} to {high}"
        )
    return int(text)


# -- metadata and validators


def metadata_of(req: func.HttpRequest) -> dict[str, str]:
    """User metadata of the ``x-meta-*`` headers; values are text, or percent-encoded UTF-8."""
    return {
        name[len("x-meta-") :]: decode_metadata_value(value)
        for name, value in req.headers.items()
        if name.startswith("x-meta-")
    }


def ttl_of(req: func.HttpRequest) -> float | None:
    """The time to live of ``x-ttl-seconds``; None without the header."""
    text = req.headers.get("x-ttl-seconds")
    if text is None:
        return None
    if not re.fullmatch(r"\d{1,10}(\.\d{1,3})?", text.strip(), re.ASCII):
        raise InvalidArgumentError(
            f"x-ttl-seconds is {text[:40]!r}", field="x-ttl-seconds", limit="a number of seconds, 0 or more"
        )
    return float(text)


def object_headers(info: ObjectInfo) -> dict[str, str]:
    headers = {
        "Content-Type": info.content_type,
        "ETag": f'"{info.etag}"',
        "Last-Modified": http_date(info.last_modified),
        "Accept-Ranges": "bytes",
        # Stored content is not ours: a browser must neither guess its type nor run it as part of this site.
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox",
        "Cache-Control": "private, no-cache",
    }
    if info.expires_at is not None:
        headers["x-expires-at"] = info.expires_at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    for name, value in info.metadata.items():
        headers[f"x-meta-{name}"] = encode_metadata_value(value)
    return headers


def refuse_partial_content(req: func.HttpRequest) -> None:
    """A save replaces the whole object by the body as it is.

    :raises InvalidArgumentError: the body is a part of one (RFC 9110, 14.5).
    :raises UnsupportedMediaTypeError: the body is encoded, which could not be told when it is loaded.
    """
    if "Content-Range" in req.headers:
        raise InvalidArgumentError(
            "an object can not be saved in parts", field="Content-Range", remedy="send the whole object"
        )
    encoding = req.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding != "identity":
        raise UnsupportedMediaTypeError(
            f"the body is encoded as {encoding[:40]!r}",
            field="Content-Encoding",
            limit="identity",
            remedy="send it decoded, or under a content type of its own such as application/gzip",
        )


def location_below(req: func.HttpRequest, *segments: str) -> str:
    """The path of this request with more segments."""
    return "/".join([_path(req).rstrip("/"), *(quote(segment, safe="") for segment in segments)])


def _path(req: func.HttpRequest) -> str:
    """The URL's path alone: a query may hold a function key (``code=``), which no log should."""
    return re.sub(r"^[a-z]+://[^/]*|[?#].*$", "", req.url)
