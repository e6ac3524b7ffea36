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
from storage_lib.ports.attempts import CALL

HEADER = "Idempotency-Key"
_DESCRIBING = ("content-type", "x-meta-", "x-ttl-seconds", "x-expires-at")


@contextmanager
def repeated_call(req: func.HttpRequest, key: str, change: bytes = b"") -> Generator[None]:
    """Within it, a conditional save that has been made by a request with the same ``Idempotency-Key`` is no
    conflict: it has succeeded. A request that is not the same in all it says about the object, or is another
    caller's, is another call.

    :param key: the object.
    :param change: what the request does to it, except for the bytes that are saved, which the store compares.
    :raises InvalidArgumentError: the key is not text.
    """
    text = header(req, HEADER)
    if text is None:
        yield
        return
    name = text.strip(" \t")
    if not re.fullmatch(r"[ -~]{1,255}", name):
        raise InvalidArgumentError(
            f"{HEADER} is {name[:40]!a}", field=HEADER, limit="1 to 255 printable ASCII characters"
        )
    bare = name[1:-1] if len(name) > 1 and name[0] == name[-1] == '"' else name
    said = sorted(item for item in req.headers.items() if item[0].startswith(_DESCRIBING))
    call = repr((bare, caller().actor, req.method, key, said, change))
    token = CALL.set(hashlib.sha256(call.encode()).hexdigest()[:32])
    try:
        yield
    finally:
        CALL.reset(token)
