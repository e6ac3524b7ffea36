"""The URIs of objects as resources."""

from __future__ import annotations

from urllib.parse import quote, unquote_to_bytes

from storage_lib.errors import InvalidArgumentError

PREFIX = "agentstorage:///"
TEMPLATE = f"{PREFIX}{{+key}}"


def uri_of(key: str) -> str:
    """The URI of an object."""
    return f"{PREFIX}{quote(key, safe='/')}"


def key_of(uri: str) -> str:
    """The key of the object that a URI names.

    :raises InvalidArgumentError: it names none.
    """
    if not uri.startswith(PREFIX) or len(uri) == len(PREFIX):
        raise InvalidArgumentError(
            f"the URI is {ascii(uri)[:80]}", field="uri", limit=TEMPLATE, remedy="take it from resources/list"
        )
    try:
        return unquote_to_bytes(uri.removeprefix(PREFIX)).decode()
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(
            f"the URI is not UTF-8: {ascii(uri)[:80]}", field="uri", limit="UTF-8, percent-encoded once"
        ) from error
