"""Request bodies: whether they arrived, how large they may be, and JSON."""

from __future__ import annotations

from typing import Any

import azure.functions as func

from functions.headers import header
from functions.state import AppState
from storage_lib.errors import InvalidArgumentError, ObjectTooLargeError, SerializationError
from storage_lib.patterns import pattern

_BOM = b"\xef\xbb\xbf"
_OBJECT = pattern(rb"(?:\xef\xbb\xbf|\xff\xfe|\xfe\xff)?[\s\0]*\{")
"""How a body begins that the host parses as JSON: in UTF-8, or in UTF-16 with a byte order mark."""


class LengthRequiredError(InvalidArgumentError):
    """There was a body, but the host did not pass it on."""

    code = "length-required"


class UnsupportedMediaTypeError(InvalidArgumentError):
    """This route does not accept the body's content type or coding."""

    code = "unsupported-media-type"


class DigestError(InvalidArgumentError):
    """The body is not the one that its sender has digested."""

    code = "digest-mismatch"


_DIGEST = pattern(r"(?:^|[,\s])sha-256=:([A-Za-z0-9+/=]*):")

_OBJECTS = (
    "split the object, send it so that it does not begin with '{' (as a JSON array, or compressed as"
    " application/gzip), or save it with storage_lib"
)
_TASKS = "submit fewer tasks in a request, or save a large payload as an object and send its key"


def body_of(req: func.HttpRequest, app: AppState, remedy: str = _OBJECTS) -> bytes:
    """
    :param remedy: what to do where it is too large to be JSON.
    :raises LengthRequiredError: a body was announced but did not arrive.
    :raises ObjectTooLargeError: the body exceeds the limit of its kind.
    """
    body = req.get_body()
    if not body and _is_announced(req):
        raise LengthRequiredError(
            "the request announces a body that did not arrive; the host does not pass chunked bodies on",
            field="Transfer-Encoding" if "Transfer-Encoding" in req.headers else "Content-Length",
            remedy="send the body whole, with a Content-Length",
        )
    if len(body) > app.max_body_bytes:
        raise ObjectTooLargeError(
            f"the body is {len(body)} bytes",
            field="body",
            limit=f"{app.max_body_bytes} bytes (app setting AGENT_STORAGE_MAX_BODY_BYTES)",
            remedy="raise AGENT_STORAGE_MAX_BODY_BYTES, up to 100 MB, split the object, or save it with"
            " storage_lib",
        )
    if len(body) > app.max_json_bytes and _OBJECT.match(body):
        raise ObjectTooLargeError(
            f"the body is {len(body)} bytes and begins with '{{', so that the host parses it as JSON,"
            " at about 30 times its size in memory",
            field="body",
            limit=f"{app.max_json_bytes} bytes (app setting AGENT_STORAGE_MAX_JSON_BYTES)",
            remedy=f"{remedy}; or raise AGENT_STORAGE_MAX_JSON_BYTES",
        )
    return body


def _is_announced(req: func.HttpRequest) -> bool:
    return "Transfer-Encoding" in req.headers or bool(req.headers.get("Content-Length", "").strip(" 0"))


def json_body(req: func.HttpRequest, app: AppState) -> dict[str, Any]:
    """The body as a JSON object.

    :raises UnsupportedMediaTypeError: its content type is not JSON, or it is encoded.
    :raises SerializationError: it is not JSON.
    """
    body = body_of(req, app, _TASKS)
    content_type = req.headers.get("Content-Type", "")
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise UnsupportedMediaTypeError(
            f"the content type is {content_type[:80]!r}",
            field="Content-Type",
            limit="application/json",
            remedy="send JSON with the header Content-Type: application/json",
        )
    refuse_encoded(req)
    text = body.removeprefix(_BOM)
    if (begin := text.lstrip(b" \t\r\n")[:1]) != b"{":
        # The JSON limit applies only to what begins as an object, so nothing else is parsed.
        what = {b"[": "a JSON list, not an object", b'"': "a JSON text, not an object"}
        raise SerializationError(f"the body is {what.get(begin, 'not JSON, or not an object')}", field="body")
    import msgspec

    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SerializationError(f"the body is not JSON: {error}", field="body") from error
    return found


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


async def check_digest(req: func.HttpRequest, body: bytes) -> None:
    """:raises DigestError: the body does not agree with the SHA-256 of ``Repr-Digest`` (RFC 9530)."""
    found = _DIGEST.search(header(req, "Repr-Digest") or "")
    if found is None:
        return
    import base64

    from storage_lib.ports.streaming import sha256_of

    if base64.b64encode(bytes.fromhex(await sha256_of(body))).decode() != found[1]:
        raise DigestError(
            "the body has another SHA-256 than Repr-Digest says: it was changed on its way",
            field="Repr-Digest",
            remedy="send it again",
        )


def refuse_parts(req: func.HttpRequest) -> None:
    """:raises InvalidArgumentError: the body is a part of an object (RFC 9110, 14.5)."""
    if "Content-Range" in req.headers:
        raise InvalidArgumentError(
            "an object cannot be saved in parts", field="Content-Range", remedy="send the whole object"
        )
