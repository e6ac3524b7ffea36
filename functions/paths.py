"""Keys in URLs: how the host decodes a path, and the URL that leads back to a key.

The host decodes a path once, but leaves two kinds of escapes as they were sent: ``%2F``, and bytes that
are not UTF-8. So ``%2F`` and ``%252F`` arrive alike, and so do ``%FF`` and ``%25FF``. The first two both
mean ``/``, because no key contains ``%2F``. The second two are refused; a key that contains such text
(``a%FFb``) goes into the query parameter ``key`` instead. The URL that the host passes on is rebuilt
from the decoded path and sometimes names another key, so no key is read from it.
"""

from __future__ import annotations

import re
from urllib.parse import quote

import azure.functions as func

from storage_lib.errors import InvalidKeyError
from storage_lib.keys import user_key
from storage_lib.patterns import pattern

_SLASH = pattern("%2f", re.IGNORECASE)
_ESCAPE = pattern("%(?:2f|[89a-f][0-9a-f])", re.IGNORECASE)
_NOT_ASCII = pattern("%[89a-f][0-9a-f]", re.IGNORECASE)
"""An escape that is still there after the host's decoding, though it is of no ASCII character."""


def object_key(req: func.HttpRequest) -> str:
    """The key from the path, or, if the path has none, from the query parameter ``key``. Its grammar
    is left to the store.

    :raises InvalidKeyError: it is reserved, or the path is not UTF-8.
    """
    in_path = req.route_params.get("key")
    if not in_path:
        return user_key(req.params.get("key", ""))
    if found := _NOT_ASCII.search(in_path):
        raise InvalidKeyError(
            f"the path contains the escape {found[0]!r}, which is not UTF-8 or is encoded twice",
            field="key",
            limit="UTF-8, percent-encoded once",
            remedy="encode the key once; one that contains such text itself goes into the query,"
            " /api/objects?key=…",
        )
    return user_key(_SLASH.sub("/", in_path))


def object_location(req: func.HttpRequest, key: str) -> str:
    """The path, with a query if necessary, that leads to the object ``key``."""
    objects = url_path(req).rstrip("/")
    if in_path := req.route_params.get("key"):
        objects = url_path(req).rsplit("/", in_path.count("/") + 1)[0]
    return path_to(objects, key)


def path_to(route: str, key: str) -> str:
    """The path, with a query if necessary, that leads to ``key`` below a route."""
    return f"{route}?key={quote(key, safe='/')}" if _NOT_ASCII.search(key) else f"{route}/{quote(key)}"


def named_in_path(req: func.HttpRequest, name: str) -> str:
    """The value of a parameter of the route, as it was before it was percent-encoded.

    :raises InvalidKeyError: it has an escape still, so that it is not known what was sent.
    """
    value = req.route_params[name]
    if found := _ESCAPE.search(value):
        raise InvalidKeyError(
            f"the path contains the escape {found[0]!r}, which is not UTF-8, a slash, or encoded twice",
            field=name,
            limit="UTF-8, percent-encoded once, without slashes",
            remedy="keys that contain such text go into the query: ?partition=…&row=…"
            if name in ("partition", "row")
            else None,
        )
    return value


def carries(segment: str) -> bool:
    """Whether a path can have this as one of its segments, and `named_in_path` reads it."""
    return segment not in ("", ".", "..") and _ESCAPE.search(segment) is None


def location_below(req: func.HttpRequest, segment: str) -> str:
    """The path of this request plus one segment."""
    return f"{url_path(req).rstrip('/')}/{quote(segment, safe='')}"


def url_path(req: func.HttpRequest) -> str:
    """The path of the URL without its query, which may hold a function key (``code=``) that no log
    should show."""
    return re.sub(r"^[a-z]+://[^/]*|[?#].*$", "", req.url, flags=re.DOTALL)
