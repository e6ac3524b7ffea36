"""What answers have besides their bodies: their headers, and the problems that any route may answer with."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

EVERY_PROBLEM = (400, 401, 403, 429, 500, 503)
"""What every route may answer: a malformed request, nobody whom it knows, somebody who may not, somebody who
asks too often, and an app that cannot."""

OF_BODIES = (411, 413, 415)
"""What a route with a body may answer, too: no length, too much, another media type."""

OF_STATUS = {
    201: ("Location",),
    206: ("Content-Range",),
    304: ("ETag",),
    401: ("WWW-Authenticate",),
    405: ("Allow",),
    409: ("Retry-After",),
    415: ("Accept-Patch",),
    416: ("Content-Range",),
    429: ("Retry-After", "RateLimit", "RateLimit-Policy"),
    503: ("Retry-After",),
}
"""The headers of answers with a status."""

OF_SCHEMA: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        (
            *("SavedObject", "SavedVersion", "EntityWritten", "Entity", "MessagesAppended"),
            *("Conversation", "ConversationRead", "ConversationEdited"),
            *("OpenApiDocument", "DocumentationPage", "ConsolePage"),
        ),
        ("ETag",),
    ),
    "Task": ("ETag", "Retry-After", "Preference-Applied"),
    "bytes": (
        "ETag",
        "Last-Modified",
        "Accept-Ranges",
        "Content-Encoding",
        "Vary",
        "Content-Disposition",
        "Content-Language",
        "Cache-Control",
        "Content-Digest",
        "Repr-Digest",
        "x-expires-at",
    ),
}
"""The headers of answers with a schema."""

OF_OPERATION = {
    ("submit_task", 200): ("Location",),
    ("submit_task", 202): ("Location",),
    ("submit_task", 409): ("Retry-After",),
    ("get_task", 304): ("Retry-After", "Preference-Applied"),
    **dict.fromkeys((("load_versions", status) for status in (200, 206, 304)), ("Content-Location",)),
}
"""The headers of one route's answers with a status, and of its ``by_query_…``."""

HEADERS = {
    "Location": "The path of what was made.",
    "Content-Location": "The path of the version, by its number.",
    "ETag": "Names this version, in quotes.",
    "Last-Modified": "When it was saved, an HTTP date.",
    "Accept-Ranges": "`bytes`.",
    "Content-Range": "Which bytes these are, and how many there are. Several ranges are"
    " `multipart/byteranges`, whose parts have this header.",
    "Content-Encoding": "The coding that `Accept-Encoding` asked for; the ETag is its own.",
    "Vary": "Which headers of the request the answer depends on.",
    "Content-Disposition": "As it was saved.",
    "Content-Language": "As it was saved.",
    "Cache-Control": "As it was saved, or `private, no-cache`.",
    "Content-Digest": "The digest of these bytes (RFC 9530) that `Want-Content-Digest` asked for.",
    "Repr-Digest": "The digest of the whole object: SHA-256 unless `Want-Repr-Digest` prefers another.",
    "x-expires-at": "When its life ends.",
    "Preference-Applied": "Which preferences counted (RFC 7240).",
    "Allow": "Which methods there are.",
    "Retry-After": "Seconds after which to ask again.",
    "Accept-Patch": "Of a `PATCH`: which media types it takes (RFC 5789).",
    "RateLimit": "How many requests are left (`r`), and in how many seconds there are more (`t`).",
    "RateLimit-Policy": "How many requests a caller has (`q`) in how many seconds (`w`).",
    "WWW-Authenticate": "What is wrong with the token (RFC 6750).",
}
"""The headers of answers, and what they are: text, unless `SCHEMAS` says something else."""

SCHEMAS: dict[str, dict[str, Any]] = {
    "x-expires-at": {"type": "string", "format": "date-time"},
    "Retry-After": {"type": "integer", "minimum": 0},
}

OF_THE_HOST = {
    400: "or, from the host itself and without a body, a malformed URL",
    401: "From the host, without a body: the function key is missing or wrong. From the app, with a problem:"
    " the token is invalid",
    500: "without a body from the host itself: the function was cut off",
}
"""What the host answers in place of a route."""

SUCCESSES = {
    200: "Done.",
    201: "Made.",
    202: "Accepted.",
    204: "Done; there is nothing to show.",
    206: "A part.",
    304: "What the client has is current.",
}


def described(status: int) -> str:
    """What an answer with this status means."""
    if status in SUCCESSES:
        return SUCCESSES[status]
    host = OF_THE_HOST.get(status, "")
    if host[:1].isupper():
        return f"{host}."
    phrase = HTTPStatus(status).phrase
    return f"{phrase}; {host}." if host else f"{phrase}."
