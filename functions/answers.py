"""Complete HTTP responses: the host repairs nothing, and turns a wrong one into a 500 or a broken
response."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import UTC
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import azure.functions as func

from functions.dates import http_date
from storage_lib.keys import encode_metadata_value
from storage_lib.patterns import pattern

if TYPE_CHECKING:
    from storage_lib.ports.backend import ObjectInfo

_PRINTABLE = "".join(map(chr, range(0x20, 0x7F)))
_IN_NAMES = "!#$%&'*+-.^_`|~"
"""What a header's name may contain besides letters and digits (RFC 9110, 5.6.2)."""
_WITHOUT_BODY = (204, 304)
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


def object_headers(info: ObjectInfo) -> dict[str, str]:
    """The headers of a response with an object. Other programs may have given it text that no header can
    hold."""
    headers = {
        "Content-Type": _header_text(info.content_type),
        "ETag": _header_text(f'"{info.etag}"'),
        "Last-Modified": http_date(info.last_modified),
        "Accept-Ranges": "bytes",
        # Stored content is untrusted: a browser must neither guess its type nor run it as part of this site.
        "Content-Security-Policy": "sandbox",
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
    if info.expires_at is not None:
        moment = info.expires_at.astimezone(UTC).isoformat(timespec="milliseconds")
        headers["x-expires-at"] = moment.replace("+00:00", "Z")
    for name, value in info.metadata.items():
        headers.setdefault(
            f"x-meta-{quote(name.lower(), safe=_IN_NAMES)}", _header_text(encode_metadata_value(value))
        )
    return headers


def completed(req: func.HttpRequest, response: func.HttpResponse) -> func.HttpResponse:
    """The response with its length, without which the host would chunk it, and without a body for HEAD."""
    headers = response.headers
    # `setdefault` would compare with every header twice.
    if "X-Content-Type-Options" not in headers:
        headers.add("X-Content-Type-Options", "nosniff")
    if response.status_code in _WITHOUT_BODY:
        return response
    if "Content-Length" not in headers:
        headers.add("Content-Length", str(len(response.get_body())))
    if req.method != "HEAD":
        return response
    return func.HttpResponse(status_code=response.status_code, headers=dict(headers))


def _header_text(text: str) -> str:
    """Percent-encode everything but printable ASCII, because the host sends nothing else."""
    if text.isascii() and text.isprintable():
        return text
    return quote(text, safe=_PRINTABLE, errors="surrogatepass")
