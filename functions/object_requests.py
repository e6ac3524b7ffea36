"""What requests that load or save an object send and get: by its key, by a link, or a version of it."""

from __future__ import annotations

from typing import Any

CONDITIONS = ("If-Match", "If-None-Match", "If-Unmodified-Since")
"""Of a write."""
DIGESTS = ("Repr-Digest", "Content-Digest", "Content-MD5")
CONTENT = (
    "Content-Type",
    "Idempotency-Key",
    *DIGESTS,
    "Cache-Control",
    "Content-Disposition",
    "Content-Language",
    "x-meta-*",
)
"""Of a body that becomes an object."""
SAVES: Any = {
    "headers": (*CONDITIONS, *CONTENT, "x-ttl-seconds", "x-expires-at"),
    "body": "bytes",
    "answers": {200: "SavedObject", 201: "SavedObject"},
    "problems": (409, 422, 507),
}
LOADS: Any = {
    "headers": (
        "If-Match",
        "If-None-Match",
        "If-Modified-Since",
        "If-Unmodified-Since",
        "If-Range",
        "Range",
        "Cache-Control",
        "Accept-Encoding",
        "Want-Content-Digest",
        "Want-Repr-Digest",
    ),
    "answers": {200: "bytes", 206: "bytes", 304: ""},
    "problems": (404, 416),
}
HEADS: Any = LOADS | {"answers": {200: "bytes", 304: ""}, "problems": (404,)}
"""Words of `functions.endpoint.endpoint`."""
