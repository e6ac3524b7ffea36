"""On whose behalf a request runs, as far as the platform vouches for it."""

from __future__ import annotations

import os
import uuid
from typing import Any

import azure.functions as func

from functions.headers import header
from storage_lib.patterns import pattern

FUNCTION_KEY = "function-key"
"""The host has checked a key, and does not tell which."""
_PRINCIPAL = "X-MS-CLIENT-PRINCIPAL"
_MOST = 128
_UNFIT = pattern(r"[^!-~]")
_TRACE = pattern(r"[0-9a-f]{2}-([0-9a-f]{32})-.*")


def actor_of(req: func.HttpRequest) -> str:
    """``PROVIDER:ID`` of the principal if the platform's authentication is on, else `FUNCTION_KEY`.

    Without it anyone can send these headers. With it the platform removes those of clients.
    """
    if is_authenticated():
        who = req.headers.get(f"{_PRINCIPAL}-ID") or req.headers.get(f"{_PRINCIPAL}-NAME")
        if who:
            return _short(f"{req.headers.get(f'{_PRINCIPAL}-IDP') or 'principal'}:{who}")
        return "anonymous"
    return FUNCTION_KEY


def principal_of(req: func.HttpRequest) -> tuple[str, str] | None:
    """Provider and id of the principal that the platform's authentication has found, both as they are: unlike
    `actor_of`, which is for logs, this tells any two principals apart. None where it is off, or found none.

    A name does not stand in for an id, as people can change theirs.
    """
    who = header(req, f"{_PRINCIPAL}-ID") if is_authenticated() else None
    return (header(req, f"{_PRINCIPAL}-IDP") or "principal", who) if who else None


def is_authenticated() -> bool:
    """Whether the platform's authentication is on."""
    return os.environ.get("WEBSITE_AUTH_ENABLED", "").lower() == "true"


def correlation_of(req: func.HttpRequest, context: Any) -> str:
    """What the operations of this request have in common: the client's ``x-correlation-id``, the trace of
    its ``traceparent``, its ``x-request-id``, or the id of the invocation."""
    if given := header(req, "x-correlation-id"):
        return _short(given)
    if traced := _TRACE.fullmatch(header(req, "traceparent") or ""):
        return traced[1]
    if given := header(req, "x-request-id"):
        return _short(given)
    return getattr(context, "invocation_id", None) or uuid.uuid4().hex


def _short(text: str) -> str:
    """It ends up in logs: printable ASCII, and not much."""
    return _UNFIT.sub("?", text[:_MOST])
