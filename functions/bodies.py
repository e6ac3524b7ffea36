"""Request bodies: whether they arrived, how large they may be, and JSON."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import azure.functions as func

from functions.digests import check_digest as check_digest
from functions.digests import compare_now
from functions.headers import header
from functions.state import AppState
from storage_lib.errors import (
    InvalidArgumentError,
    ObjectTooLargeError,
    SerializationError,
    TransientStorageError,
)
from storage_lib.patterns import pattern

_BOM = b"\xef\xbb\xbf"
_OBJECT = pattern(rb"(?:\xef\xbb\xbf|\xff\xfe|\xfe\xff)?[\s\0]*\{")
"""How a body begins that the host parses as JSON: in UTF-8, or in UTF-16 with a byte order mark."""


class Arriving:
    """A body that is taken part by part, once, because it is too large to be handed on whole.

    :param size: as it is announced.
    :param parts: all of it; their error if it does not arrive.
    """

    def __init__(self, size: int, parts: AsyncIterator[bytes]) -> None:
        self.size = size
        self._parts = parts
        self._is_begun = False

    def begin(self) -> AsyncIterator[bytes]:
        """
        :raises TransientStorageError: it was begun: a save failed that was to be tried again.
        """
        if self._is_begun:
            raise TransientStorageError(
                "the object was replaced while the body arrived, which cannot be read again",
                remedy="send the request again",
            )
        self._is_begun = True
        return self._parts


class LengthRequiredError(InvalidArgumentError):
    """There was a body, but the host did not pass it on."""

    code = "length-required"


class UnsupportedMediaTypeError(InvalidArgumentError):
    """This route does not accept the body's content type or coding."""

    code = "unsupported-media-type"


LARGE = "send it by a link (POST /api/links/{key}) or in parts (POST /api/uploads/{key})"
"""What to do with a body that is too large for a request."""
MAX_ITEMS = 50_000
"""Lists, objects and names in a body that is read as JSON. Reading holds the interpreter up, and with it all
other requests of the process: about 1 µs each, several times until it is stored."""
MAX_RAW_ITEMS = 200_000
"""Likewise, in JSON whose values are passed on as they were written."""
ITEM_BYTES = 16
"""A body may have one more for so many bytes. Ordinary JSON has fewer; what is made to be slow has one for
three bytes."""
_OBJECTS = (
    f"{LARGE}; or send it so that it does not begin with '{{' (as a JSON array, or compressed as"
    " application/gzip)"
)
_TASKS = (
    "submit fewer tasks in a request, or save a large payload as an object (POST /api/links/{key} or"
    " /api/uploads/{key}) and send its key"
)


def body_of(
    req: func.HttpRequest, app: AppState, remedy: str = _OBJECTS, *, large: str = LARGE, check: bool = True
) -> bytes:
    """
    :param remedy: what to do where it is too large to be JSON.
    :param large: what to do where it is too large for any request.
    :param check: compare it with its digests here; a large one is better left to `check_digest`.
    :raises DigestError: it is not the one that its sender has digested.
    :raises LengthRequiredError: a body was announced but did not arrive.
    :raises ObjectTooLargeError: the body exceeds the limit of its kind.
    """
    refuse_missing(req)
    body = req.get_body()
    if len(body) > app.max_body_bytes:
        raise ObjectTooLargeError(
            f"the body is {len(body)} bytes",
            field="body",
            limit=f"{app.max_body_bytes} bytes (app setting AGENT_STORAGE_MAX_BODY_BYTES)",
            remedy=f"{large}; or raise AGENT_STORAGE_MAX_BODY_BYTES, up to 100 MB",
        )
    if len(body) > app.max_json_bytes and _OBJECT.match(body):
        raise ObjectTooLargeError(
            f"the body is {len(body)} bytes and begins with '{{', so that the host parses it as JSON,"
            " at about 30 times its size in memory",
            field="body",
            limit=f"{app.max_json_bytes} bytes (app setting AGENT_STORAGE_MAX_JSON_BYTES)",
            remedy=f"{remedy}; or raise AGENT_STORAGE_MAX_JSON_BYTES",
        )
    if check:
        compare_now(req, body)
    return body


def refuse_missing(req: func.HttpRequest) -> None:
    """:raises LengthRequiredError: a body was announced but did not arrive."""
    if not req.get_body() and _is_announced(req):
        raise LengthRequiredError(
            "the request announces a body that did not arrive; the host does not pass chunked bodies on",
            field="Transfer-Encoding" if "Transfer-Encoding" in req.headers else "Content-Length",
            remedy="send the body whole, with a Content-Length",
        )


def _is_announced(req: func.HttpRequest) -> bool:
    return "Transfer-Encoding" in req.headers or bool(req.headers.get("Content-Length", "").strip(" 0"))


def json_body(req: func.HttpRequest, app: AppState, remedy: str = _TASKS) -> dict[str, Any]:
    """The body as a JSON object.

    :param remedy: what to do where it is too large.
    :raises UnsupportedMediaTypeError: its content type is not JSON, or it is encoded.
    :raises SerializationError: it is not JSON.
    """
    text = json_text(req, app, remedy)
    import msgspec

    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SerializationError(f"the body is not JSON: {error}", field="body") from error
    return found


def optional_json_body(req: func.HttpRequest, app: AppState) -> dict[str, Any]:
    """`json_body`; without a body, an empty object."""
    if req.get_body():
        return json_body(req, app)
    body_of(req, app)
    return {}


def json_text(req: func.HttpRequest, app: AppState, remedy: str, most: int = MAX_ITEMS) -> bytes:
    """Like `json_body`, but not yet read: only its type and its beginning are those of a JSON object.

    :param most: how many lists, objects and names a short one may have; see `ITEM_BYTES`.
    """
    refuse_missing(req)
    need_json(req)
    refuse_encoded(req)
    text = body_of(req, app, remedy).removeprefix(_BOM)
    if (begin := text.lstrip(b" \t\r\n")[:1]) != b"{":
        # The JSON limit applies only to what begins as an object, so nothing else is parsed.
        what = {b"[": "a JSON list, not an object", b'"': "a JSON text, not an object"}
        raise SerializationError(f"the body is {what.get(begin, 'not JSON, or not an object')}", field="body")
    check_items(text, most + len(text) // ITEM_BYTES, "body", remedy)
    return text


def check_json_size(body: bytes, app: AppState, what: str, remedy: str) -> None:
    """:raises ObjectTooLargeError: it is longer than what is read as JSON, whatever it begins with."""
    if len(body) > app.max_json_bytes:
        raise ObjectTooLargeError(
            f"the {what} is {len(body)} bytes",
            field="body",
            limit=f"{app.max_json_bytes} bytes (app setting AGENT_STORAGE_MAX_JSON_BYTES)",
            remedy=remedy,
        )


def check_items(text: bytes, most: int, field: str, remedy: str) -> None:
    """
    :raises ObjectTooLargeError: JSON has too many lists, objects and names to be read at once.
    """
    if len(text) <= most:
        return
    from storage_lib.json_text import has_more_items

    if has_more_items(text, most):
        raise ObjectTooLargeError(
            f"the {'object' if field == 'key' else field} has too many lists, objects and names",
            field=field,
            limit=f"{most:,} of them together",
            remedy=remedy,
        )


def need_json(req: func.HttpRequest) -> None:
    """:raises UnsupportedMediaTypeError: the content type of the body is not JSON's."""
    content_type = req.headers.get("Content-Type", "")
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise UnsupportedMediaTypeError(
            f"the content type is {content_type[:80]!r}",
            field="Content-Type",
            limit="application/json",
            remedy="send JSON with the header Content-Type: application/json",
        )


def refuse_encoded(req: func.HttpRequest) -> None:
    """Refuse an encoded body.

    :raises UnsupportedMediaTypeError: the body has a ``Content-Encoding`` other than ``identity``."""
    codings = [coding.strip().lower() for coding in (header(req, "Content-Encoding") or "").split(",")]
    if encoded := [coding for coding in codings if coding not in ("", "identity")]:
        raise UnsupportedMediaTypeError(
            f"the body is encoded as {encoded[0][:40]!r}",
            field="Content-Encoding",
            limit="identity",
            remedy="send it decoded, or under a content type of its own such as application/gzip",
        )


def refuse_parts(req: func.HttpRequest) -> None:
    """:raises InvalidArgumentError: the body is a part of an object (RFC 9110, 14.5)."""
    if "Content-Range" in req.headers:
        raise InvalidArgumentError(
            "an object cannot be saved in parts", field="Content-Range", remedy="send the whole object"
        )
