"""The one place where answers of an app become errors of this library: by the problem that the app tells
(RFC 9457), else, for the host and what is in front of it, by the status.

A missing object is only believed when the app says so: a bare 404 is that of another server, or of a URL that
is not the API's.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from storage_lib import errors
from storage_lib.errors import (
    AccessDeniedError,
    BackendClosedError,
    ConfigurationError,
    InvalidArgumentError,
    ObjectTooLargeError,
    QuotaExceededError,
    RuleViolationError,
    StorageError,
    StorageUnavailableError,
    TransientStorageError,
    UnsupportedOperationError,
)

PROBLEM = "application/problem+json"

_KINDS: dict[str, type[StorageError]] = {
    kind.code: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, StorageError) and "code" in vars(kind)
}
_KINDS[BackendClosedError.code] = StorageUnavailableError  # That instance stops; another one is there.
_KINDS["digest-mismatch"] = TransientStorageError  # What arrived was not what was sent.
_FIELDS = {
    "If-Match": "if_match",
    "If-None-Match": "if_absent",
    "Content-Type": "content_type",
    "Range": "range",
    "body": "data",
    "x-meta-*": "metadata",
    "x-ttl-seconds": "ttl",
    "x-expires-at": "ttl",
    "ttl_seconds": "ttl",
    "expires_at": "ttl",
    "body.metadata": "metadata",
}
"""The library's arguments, by what they are in HTTP."""
_KEY = "set AGENT_STORAGE_HTTP_KEY (http_key) to a function key of this app"
_URL = "check the URL, which ends in the API's path: https://NAME.azurewebsites.net/api"


def error_of(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    doing: str,
    kinds: Mapping[str, type[StorageError]] | None = None,
) -> StorageError:
    """What an answer that was not expected means.

    :param doing: what was tried, for the message.
    :param kinds: the errors of more codes.
    """
    problem = _problem(headers, body)
    # An answer to HEAD has the type of a problem, but no problem.
    told = headers.get("Content-Type", "").startswith(PROBLEM)
    code = problem.get("type", "").rpartition(":")[2]
    kind = (kinds or {}).get(code) or _KINDS.get(code) or _kind_of(status, told)
    detail = problem.get("detail") or f"the answer was {status}"
    options: dict[str, Any] = {
        "field": _FIELDS.get(problem.get("field", ""), problem.get("field")),
        "limit": problem.get("limit"),
        "remedy": problem.get("remedy"),
    }
    if not told:
        if kind is AccessDeniedError:
            options["remedy"] = _KEY
        elif kind is ConfigurationError:
            options |= {"field": "http_url", "remedy": _URL}
            if 300 <= status < 400:
                detail = f"the answer was a redirect ({status})"
    if issubclass(kind, TransientStorageError):
        # These are answers of who has not begun to do it.
        options |= {"retry_after": _retry_after(headers), "refused": status in (400, 429)}
    elif issubclass(kind, RuleViolationError):
        options |= {"rule": problem.get("rule", ""), "stored": status == 500}
    elif issubclass(kind, QuotaExceededError):
        options |= {"rule": problem.get("rule", "")}
    return kind(f"{doing}: {detail}", **options)


def _kind_of(status: int, told: bool) -> type[StorageError]:
    """The error for a status, of an app that told a problem or of something else that did not."""
    match status:
        case 401 | 403:
            return AccessDeniedError
        case 404 if told:
            return errors.KeyNotFoundError
        case 412:
            return errors.PreconditionFailedError
        case 413:
            return ObjectTooLargeError
        case 416:
            return errors.RangeNotSatisfiableError
        case 501:
            return UnsupportedOperationError
        case 507:
            return QuotaExceededError
        case 408 | 429 | 502 | 503 | 504:
            return StorageUnavailableError
        case _ if status >= 500:
            # Of the host: its worker has died. Of the app: a fault of its own, the same every time.
            return StorageError if told else StorageUnavailableError
        case 404 | 405:
            return ConfigurationError
        case _ if 300 <= status < 400:
            return ConfigurationError
        case 400 | 411 | 414 | 415 | 431:
            return InvalidArgumentError
        case _:
            return StorageError


def _problem(headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    if not headers.get("Content-Type", "").startswith(PROBLEM):
        return {}
    try:
        found: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    members: dict[str, Any] = found if isinstance(found, dict) else {}
    return {name: value for name, value in members.items() if isinstance(value, str)}


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds to wait (RFC 9110, 10.2.3), given as such or as a date."""
    text = headers.get("Retry-After", "").strip()
    if text.isdecimal() and text.isascii():
        return float(text[:9])
    try:
        return max((parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds(), 0)
    except (ValueError, TypeError):
        return None
