"""Query parameters and ``x-…`` headers, each known and checked."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

import azure.functions as func

from functions.headers import header
from storage_lib.errors import InvalidArgumentError
from storage_lib.keys import decode_metadata_value
from storage_lib.ports.expiry import MAX_TTL_SECONDS
from storage_lib.ports.kept_headers import GIVEN
from storage_lib.spelling import refuse_unknown

_OF_THE_HOST = frozenset({"code", "clientid"})
"""A function key and the name of its client, which the host reads."""
_FIRST, _LAST = datetime(1970, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)


def check_query(req: func.HttpRequest, known: Collection[str]) -> None:
    """Check the names and the encoding of the query.

    :raises UnknownNameError: a parameter is not one of ``known``.
    :raises InvalidArgumentError: the query is not UTF-8, or has a parameter twice, which the host would join.
    """
    query = req.url.partition("?")[2]
    if not query and not req.params:
        return
    # Read from the URL, too: the host passes on no parameter without a value.
    named = [name for pair in query.split("&") if (name := unquote(pair.partition("=")[0].replace("+", " ")))]
    _refuse_repeated(named)
    names = (name for name in (*req.params, *named) if name.lower() not in _OF_THE_HOST)
    if "@name" in known:  # Stands for every name that the client chooses.
        names = (name for name in names if not name.startswith("@"))
    refuse_unknown(names, known, "query parameter")
    if "%" in query:
        try:
            unquote_to_bytes(query).decode()
        except UnicodeError as error:
            raise InvalidArgumentError(
                "the query is not UTF-8", field="query", limit="UTF-8, percent-encoded once"
            ) from error


def _refuse_repeated(names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in map(str.lower, names):
        if name in seen and name not in _OF_THE_HOST:
            raise InvalidArgumentError(
                f"{name[:80]!r} is given more than once", field=ascii(name[:80])[1:-1], remedy="give it once"
            )
        seen.add(name)


def is_named(req: func.HttpRequest, name: str) -> bool:
    """Whether the query has this parameter, with or without a value; the host drops one without."""
    return name in req.params or re.search(rf"[?&]{name}(?:[=&]|$)", req.url) is not None


def is_included(req: func.HttpRequest, what: str) -> bool:
    """Whether ``include`` asks for ``what``, which is all that it can ask for.

    :raises InvalidArgumentError: it asks for something else.
    """
    asked = req.params.get("include")
    if asked is None:
        return False
    if asked != what:
        raise InvalidArgumentError(
            f"include is {asked[:40]!a}", field="include", limit=what, remedy="leave it out, or ask for that"
        )
    return True


def integer_parameter(req: func.HttpRequest, name: str, default: int, low: int, high: int) -> int:
    text = req.params.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or not low <= int(text) <= high:
        raise InvalidArgumentError(
            f"{name} is {text[:40]!r}", field=name, limit=f"a whole number from {low} to {high}"
        )
    return int(text)


def flag_parameter(req: func.HttpRequest, name: str) -> bool:
    text = req.params.get(name, "false").lower()
    if text not in ("true", "false"):
        raise InvalidArgumentError(f"{name} is {text[:40]!r}", field=name, limit="true or false")
    return text == "true"


def time_parameter(req: func.HttpRequest, name: str) -> datetime | None:
    """A moment in UTC, moved into the range that every store can compare."""
    text = req.params.get(name)
    if text is None:
        return None
    try:
        # A "+" that is not percent-encoded arrives as a space.
        moment = datetime.fromisoformat(re.sub(r" (?=\d\d:\d\d$)", "+", text))
    except ValueError as error:
        raise InvalidArgumentError(
            f"{name} is {text[:40]!r}", field=name, limit="ISO 8601, for example 2026-01-31T12:00:00Z"
        ) from error
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return min(max(moment, _FIRST), _LAST).astimezone(UTC)


def moment(name: str, text: object) -> datetime:
    """A moment with its time zone. Its range is checked by whoever uses it."""
    try:
        found = datetime.fromisoformat(text.strip(" \t")) if isinstance(text, str) else None
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise InvalidArgumentError(
            f"{name} is {str(text)[:40]!r}",
            field=name,
            limit="ISO 8601 with a time zone, for example 2026-01-31T12:00:00.000Z",
        )
    return found


def refuse_headers(req: func.HttpRequest, names: Iterable[str], where: str = "here") -> None:
    """:raises InvalidArgumentError: the request has one of these, which would otherwise be ignored."""
    if given := next((name for name in names if name in req.headers), None):
        raise InvalidArgumentError(f"{given} has no meaning {where}", field=given, remedy="leave it out")


def metadata_of(req: func.HttpRequest) -> dict[str, str]:
    """User metadata of the ``x-meta-*`` headers; values are text, or percent-encoded UTF-8."""
    try:
        return {
            name[len("x-meta-") :]: decode_metadata_value(value)
            for name, value in req.headers.items()
            if name.startswith("x-meta-")
        }
    except UnicodeEncodeError as error:
        raise InvalidArgumentError("a metadata value is not UTF-8", field="metadata") from error


def kept_headers_of(req: func.HttpRequest) -> dict[str, str]:
    """The headers that an object is kept with and served under; an empty one is none."""
    given = ((name, header(req, name)) for name in GIVEN)
    return {name: value for name, value in given if value is not None and value.strip(" \t")}


def ttl_in(body: Mapping[str, Any]) -> Any:
    """The time to live that a body says, in ``ttl_seconds`` or by its end in ``expires_at``; None for ever.

    :raises InvalidArgumentError: it says both, or a moment that is none.
    """
    if "expires_at" in body and "ttl_seconds" in body:
        raise InvalidArgumentError(
            "expires_at and ttl_seconds exclude each other", field="expires_at", remedy="leave one out"
        )
    end = body.get("expires_at")
    return body.get("ttl_seconds") if end is None else moment("expires_at", end)


def ttl_of(req: func.HttpRequest) -> float | datetime | None:
    """The time to live of ``x-ttl-seconds``, or its end in ``x-expires-at``; None without these headers."""
    text, end = header(req, "x-ttl-seconds"), header(req, "x-expires-at")
    if end is not None:
        if text is not None:
            raise InvalidArgumentError(
                "x-expires-at and x-ttl-seconds exclude each other",
                field="x-expires-at",
                remedy="leave one of them out",
            )
        return moment("x-expires-at", end)
    if text is None:
        return None
    if not re.fullmatch(r"\d{1,10}(\.\d{0,9})?|\.\d{1,9}", text.strip(" \t"), re.ASCII) or (
        float(text) > MAX_TTL_SECONDS
    ):
        raise InvalidArgumentError(
            f"x-ttl-seconds is {text[:40]!r}",
            field="x-ttl-seconds",
            limit=f"a decimal number of seconds, 0 to {MAX_TTL_SECONDS} (100 years)",
        )
    return float(text)
