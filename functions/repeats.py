"""Requests that come again because their answer was lost."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Generator
from contextlib import contextmanager

import azure.functions as func

from storage_lib.errors import InvalidArgumentError
from storage_lib.ports.attempts import CALL

HEADER = "Idempotency-Key"


@contextmanager
def repeated_call(req: func.HttpRequest) -> Generator[None]:
    """Within it, a conditional save that has been made by a request with the same ``Idempotency-Key`` is no
    conflict: it has succeeded.

    :raises InvalidArgumentError: the key is not text.
    """
    text = req.headers.get(HEADER)
    if text is None:
        yield
        return
    key = text.strip(" \t")
    if not re.fullmatch(r"[ -~]{1,255}", key):
        raise InvalidArgumentError(
            f"{HEADER} is {key[:40]!a}", field=HEADER, limit="1 to 255 printable ASCII characters"
        )
    bare = key[1:-1] if len(key) > 1 and key[0] == key[-1] == '"' else key
    token = CALL.set(hashlib.sha256(bare.encode()).hexdigest()[:32])
    try:
        yield
    finally:
        CALL.reset(token)
