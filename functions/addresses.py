"""Where a request comes from, as far as it can be known, and where the app is for its clients."""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit

import azure.functions as func

from functions.headers import header
from functions.paths import url_path
from storage_lib.errors import ConfigurationError
from storage_lib.patterns import pattern

PROXIES = "AGENT_STORAGE_PROXIES"
PUBLIC_URL = "AGENT_STORAGE_PUBLIC_URL"
ORIGINS = "AGENT_STORAGE_MCP_ORIGINS"
_FORWARDED = "x-forwarded-for"
_MOST_PROXIES = 10
_WITH_PORT = pattern(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::\d+)?")


def proxies() -> int:
    """How many proxies in front of the app add the address of their client to ``X-Forwarded-For``: Azure's
    own front end, and those that the setting counts. With none, nobody knows where a request comes from.

    :raises ConfigurationError: the setting is no number.
    """
    text = os.environ.get(PROXIES)
    if not text:
        return 1 if os.environ.get("WEBSITE_INSTANCE_ID") else 0
    if not re.fullmatch(r"\d{1,2}", text, re.ASCII) or int(text) > _MOST_PROXIES:
        raise ConfigurationError(
            f"{PROXIES} is {text[:40]!r}",
            field=PROXIES,
            limit=f"a whole number from 0 to {_MOST_PROXIES}",
            remedy="set it to how many proxies in front of the app add to X-Forwarded-For",
        )
    return int(text)


def client_address(req: func.HttpRequest) -> str | None:
    """The address of the client; None if it cannot be known. What the client itself claims does not count."""
    count = proxies()
    told = [each.strip() for each in (header(req, _FORWARDED) or "").split(",")]
    if not count or len(told) < count:
        return None
    found = told[-count]
    with_port = _WITH_PORT.fullmatch(found)
    return (with_port[1] or with_port[2]) if with_port is not None else found


def public_url() -> str | None:
    """The URL of the app's API for its clients, as it is set; None takes that of each request.

    :raises ConfigurationError: it is no URL.
    """
    text = os.environ.get(PUBLIC_URL, "").strip().rstrip("/")
    if not text:
        return None
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
        raise ConfigurationError(
            f"{PUBLIC_URL} is not the URL of an API",
            field=PUBLIC_URL,
            limit="https://HOST/api, without a query",
            remedy="set it to the URL that clients use for the app, up to and with /api",
        )
    return text


def admitted_origins() -> frozenset[str]:
    """The origins of web pages that may use agents' tools: of the app itself, and those of the setting.

    :raises ConfigurationError: the setting names something else.
    """
    found = {each.strip().rstrip("/").lower() for each in os.environ.get(ORIGINS, "").split(",")} - {""}
    for each in found:
        if not _is_origin(each):
            raise ConfigurationError(
                f"{ORIGINS} names {each[:80]!r}",
                field=ORIGINS,
                limit="origins such as https://pages.example, separated by commas",
                remedy="name origins without a path, or remove it: then pages of other sites are refused",
            )
    if name := os.environ.get("WEBSITE_HOSTNAME"):
        found.add(f"https://{name}".lower())
    if (url := public_url()) is not None:
        found.add(_origin(url).lower())
    return frozenset(found)


def _is_origin(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and text == _origin(text)


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def api_url(req: func.HttpRequest, route: str) -> str:
    """The URL of the app's API for the sender of a request.

    :param route: the first segment of the request's own route.
    """
    return public_url() or f"{re.match(r'[a-z]+://[^/]*', req.url, re.IGNORECASE)[0]}{api_path(req, route)}"  # type: ignore[index]


def api_path(req: func.HttpRequest, route: str) -> str:
    """The path of the app's API."""
    path = url_path(req).rstrip("/")
    if in_path := req.route_params.get("key"):
        path = path.rsplit("/", in_path.count("/") + 1)[0]
    return path[: -len(route) - 1]
