"""Requests that come again because their answer was lost."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Generator
from contextlib import contextmanager

import azure.functions as func

from functions.headers import header
from storage_lib.callers import caller
from storage_lib.errors import InvalidArgumentError
from storage_lib.ports.hints import CALL, within

HEADER = "Idempotency-Key"
_DESCRIBING = (
    "content-type",
    "content-disposition",
    "content-language",
    "cache-control",
    "x-meta-",
    "x-ttl-seconds",
    "x-expires-at",
)


@contextmanager
def repeated_call(req: func.HttpRequest, key: str, change: bytes = b"") -> Generator[None]:
    """Within it, a conditional save that has been made by a request with the same ``Idempotency-Key`` is no
    conflict: it has succeeded. A request that is not the same in all it says about the object, or is another
    caller's, is another call.

    :param key: the object.
    :param change: what the request does to it, except for the bytes that are saved, which the store compares.
    :raises InvalidArgumentError: the key is not text.
    """
    name = idempotency_key(req)
    if name is None:
        yield
        return
    with within(CALL, _mark(name, req, key, change)):
        yield


def repeated_mark(req: func.HttpRequest, key: str, change: bytes) -> str | None:
    """What a request and those that are the same as it have in common; None without an ``Idempotency-Key``.

    :param key: the object.
    :param change: what the request does to it, as far as that is not in its headers.
    :raises InvalidArgumentError: the key is not text.
    """
    name = idempotency_key(req)
    return None if name is None else _mark(name, req, key, change)


def _mark(name: str, req: func.HttpRequest, key: str, change: bytes) -> str:
    said = sorted(item for item in req.headers.items() if item[0].startswith(_DESCRIBING))
    call = repr((name, caller().actor, req.method, key, said, change))
    return hashlib.sha256(call.encode()).hexdigest()[:32]


def idempotency_key(req: func.HttpRequest) -> str | None:
    """The key by which a request says that it is the same as an earlier one; None without.

    :raises InvalidArgumentError: it is not text.
    """
    text = header(req, HEADER)
    if text is None:
        return None
    name = text.strip(" \t")
    if not re.fullmatch(r"[ -~]{1,255}", name):
        raise InvalidArgumentError(
            f"{HEADER} is {name[:40]!a}", field=HEADER, limit="1 to 255 printable ASCII characters"
        )
    return name[1:-1] if len(name) > 1 and name[0] == name[-1] == '"' else name
