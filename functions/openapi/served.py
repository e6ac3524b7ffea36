"""The document and its page as they are sent: made once in a process."""

from __future__ import annotations

import functools

import azure.functions as func
import msgspec

from functions.openapi.document import document
from functions.openapi.operations import routes_of
from functions.served import Served


@functools.cache
def document_of(app: func.FunctionApp) -> Served:
    """The OpenAPI document of what ``app`` registers."""
    return Served.of(
        msgspec.json.encode(document(routes_of(app))),
        {"Content-Type": "application/json"},
    )


@functools.cache
def page_of(app: func.FunctionApp) -> Served:
    """The page that shows it."""
    from functions.openapi.page import page, policy

    return Served.of(
        page(msgspec.json.decode(document_of(app).body)).encode(),
        {
            "Content-Type": "text/html; charset=utf-8",
            "Content-Security-Policy": policy(),
            "Referrer-Policy": "no-referrer",  # Its own URL may have a key.
        },
    )
