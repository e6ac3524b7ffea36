"""Which web pages may speak to agents' tools: without this, any page that someone visits could point a name
of its own at an app on their machine (DNS rebinding), and use it with their rights."""

from __future__ import annotations

from urllib.parse import urlsplit

import azure.functions as func

from functions.addresses import ORIGINS, admitted_origins
from functions.headers import header
from functions.state import is_local
from storage_lib.errors import ForbiddenError

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def check_origin(req: func.HttpRequest) -> None:
    """:raises ForbiddenError: the request comes from a page of another site."""
    origin = header(req, "Origin")
    if origin is None or origin.lower() in admitted_origins():
        return
    # What the header Host says proves nothing: a page that rebinds its name sends that name.
    if is_local() and _host(origin) in _LOOPBACK:
        return
    raise ForbiddenError(
        f"pages of {ascii(origin)[1:-1][:80]} may not use this",
        field="Origin",
        limit=f"origins of the app itself, and those of {ORIGINS}",
        remedy=f"have the origin added to {ORIGINS}; programs other than pages send no Origin",
    )


def _host(origin: str) -> str | None:
    try:
        return urlsplit(origin).hostname
    except ValueError:
        return None
