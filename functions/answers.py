"""Complete HTTP responses: the host repairs nothing, and turns a wrong one into a 500 or a broken
response."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import UTC
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import azure.functions as func

from functions import digests
from functions.dates import http_date
from storage_lib.keys import encode_metadata_value
from storage_lib.patterns import pattern

if TYPE_CHECKING:
    from storage_lib.ports.backend import ObjectInfo

_PRINTABLE = "".join(map(chr, range(0x20, 0x7F)))
_IN_NAMES = "!#$%&'*+-.^_`|~"
"""What a header's name may contain besides letters and digits (RFC 9110, 5.6.2)."""
_WITHOUT_BODY = (204, 304)
_SAFE = tuple(
    (name, name.lower(), value)
    for name, value in (
        ("X-Content-Type-Options", "nosniff"),
        ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
        ("Referrer-Policy", "no-referrer"),  # A URL may hold a function key.
        # Of requests without CORS, such as <img>; what CORS allows is not concerned (Fetch, 3.7).
        ("Cross-Origin-Resource-Policy", "same-origin"),
        ("Cache-Control", "no-store"),
    )
)
"""What every response has that does not say otherwise."""
_NOT_EXPOSED = {"cache-control", "content-language", "content-length", "content-type", "last-modified"} | {
    lower for _, lower, _ in _SAFE
}
"""Pages may read these anyway (Fetch, "CORS-safelisted response-header name"), or have no use for them."""
_WHO_ASKS = "Authorization, Cookie, x-functions-key, X-ZUMO-AUTH"
"""The last is how clients that sign in themselves say it to App Service Authentication."""
_SHA256 = pattern("[0-9a-f]{64}")


def json_response(
    document: Any,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    content_type: str = "application/json",
) -> func.HttpResponse:
    import msgspec

    return func.HttpResponse(
        msgspec.json.encode(document),
        status_code=status,
        headers={"Content-Type": content_type, "Cache-Control": "no-store", **(headers or {})},
    )


def saved_response(
    key: str, etag: str, size: int, *, location: str | None = None, **more: Any
) -> func.HttpResponse:
    """The answer to a save.

    :param location: of an object that is new.
    :param more: what else is told of it.
    """
    headers = {"ETag": f'"{etag}"'} | ({} if location is None else {"Location": location})
    shown = {"key": key, **more, "etag": etag, "size": size}
    return json_response(shown, status=200 if location is None else 201, headers=headers)


def object_headers(info: ObjectInfo) -> dict[str, str]:
    """The headers of a response with an object. Other programs may have given it text that no header can
    hold."""
    headers = {
        "Content-Type": _header_text(info.content_type),
        "ETag": _header_text(f'"{info.etag}"'),
        "Last-Modified": http_date(info.last_modified),
        "Accept-Ranges": "bytes",
        # Stored content is untrusted: a page or an SVG has an origin of its own, runs and loads nothing.
        # Cross-Origin-Resource-Policy does not keep it out of frames of other sites.
        "Content-Security-Policy": "sandbox; default-src 'none'; frame-ancestors 'self'",
        "Cache-Control": "private, no-cache",
    }
    if info.sha256 is not None and _SHA256.fullmatch(info.sha256):
        headers["Repr-Digest"] = f"sha-256=:{base64.b64encode(bytes.fromhex(info.sha256)).decode()}:"
    for name, value in (
        ("Content-Encoding", info.content_encoding),
        ("Content-Disposition", info.content_disposition),
        ("Content-Language", info.content_language),
        ("Cache-Control", info.cache_control),
    ):
        if value is not None:
            headers[name] = _header_text(value)
    if info.cache_control is not None:
        # It may let caches keep the answer: they must not give it to those whom the app would refuse.
        headers["Vary"] = _WHO_ASKS
    if info.expires_at is not None:
        moment = info.expires_at.astimezone(UTC).isoformat(timespec="milliseconds")
        headers["x-expires-at"] = moment.replace("+00:00", "Z")
    for name, value in info.metadata.items():
        headers.setdefault(
            f"x-meta-{quote(name.lower(), safe=_IN_NAMES)}", _header_text(encode_metadata_value(value))
        )
    return headers


async def completed(req: func.HttpRequest, response: func.HttpResponse) -> func.HttpResponse:
    """The response with what keeps browsers from misusing it, with its length, without which the host would
    chunk it, with its digest if that is asked for, and without a body for HEAD."""
    headers = response.headers
    if (
        "want-content-digest" in req.headers
        and (algorithm := digests.wanted(req, digests.CONTENT)) is not None
        and (body := response.get_body())
    ):
        headers.add(digests.CONTENT, await digests.digest_of(algorithm, body))
    # `setdefault` and `in` would go through all headers for each one.
    given = {name.lower() for name, _ in headers}
    for name, lower, value in _SAFE:
        if lower not in given:
            headers.add(name, value)
    if "origin" in req.headers:
        # Where the platform lets a page of another origin read this, it would still hide most headers.
        headers.add("Access-Control-Expose-Headers", ", ".join(sorted(given - _NOT_EXPOSED)))
    if response.status_code in _WITHOUT_BODY:
        return response
    if "content-length" not in given and not (req.method == "HEAD" and "content-encoding" in given):
        # How long an encoded body would be is known only when it is encoded (RFC 9110, 9.3.2).
        headers.add("Content-Length", str(len(response.get_body())))
    if req.method != "HEAD":
        return response
    return func.HttpResponse(status_code=response.status_code, headers=dict(headers))


def _header_text(text: str) -> str:
    """Percent-encode everything but printable ASCII, because the host sends nothing else."""
    if text.isascii() and text.isprintable():
        return text
    return quote(text, safe=_PRINTABLE, errors="surrogatepass")
