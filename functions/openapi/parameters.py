"""Parameters and headers, each described once. A route names those that it reads
(`functions.endpoint.Blueprint.http`); one that stands nowhere here is text."""

from __future__ import annotations

from typing import Any

from functions.preferences import MAX_WAIT_SECONDS
from functions.task_lists import MOST_COUNTED

type Schema = dict[str, Any]
type Parameters = dict[str, tuple[str, Schema]]
"""By name: what it is, and its schema."""


def _text(pattern: str) -> Schema:
    return {"type": "string", "pattern": pattern}


def _or_none(pattern: str) -> Schema:
    """One without a value counts as not given; the host passes on no such parameter."""
    return _text(f"^({pattern.strip('^$')})?$")


def _one_of(*values: str) -> Schema:
    return {"type": "string", "enum": list(values)}


def _number(least: int, most: int, default: int | None = None) -> Schema:
    found = {"type": "integer", "minimum": least, "maximum": most}
    return found if default is None else found | {"default": default}


_TEXT: Schema = {"type": "string"}
_FLAG: Schema = {"type": "boolean", "default": False}
_MOMENT: Schema = {"type": "string", "format": "date-time"}
_COUNT = _number(0, 999_999_999)
_DAY = r"((0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])|(0[13-9]|1[0-2])-(29|30)|(0[13578]|1[02])-31|02-29)"
_TIME_OF_DAY = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
_RFC_3339 = rf"^[0-9]{{4}}-{_DAY}T{_TIME_OF_DAY}$"
_TAGS = _text(r'^(\*|((W/)?"[!#-~]*"(, ?(W/)?"[!#-~]*")*)?)$')
TEXT = "^[!-~]+( +[!-~]+)*$"
DISPOSITION = "^[!#$%&'*+.^_`|~0-9A-Za-z-]+( *;([ -~]*[!-~])?)?$"
LANGUAGES = "^[A-Za-z]{1,8}(-[A-Za-z0-9]{1,8})*( *, *[A-Za-z]{1,8}(-[A-Za-z0-9]{1,8})*)*$"
"""Of the headers that are kept with an object."""
_PRINTABLE = r"^[^\u0000-\u001f\u007f-\u009f]{1,%d}$"
AGENT, IDEMPOTENCY_KEY, _PARTICIPANT = _PRINTABLE % 128, _PRINTABLE % 255, _PRINTABLE % 256
ACTION = "^[a-z][a-z0-9_]{0,63}$"
TASK_ID = "^[A-Za-z0-9]([A-Za-z0-9._:-]{0,126}[A-Za-z0-9_:-])?$"
_STATUS = "(queued|running|succeeded|failed|cancelled|dead)"
_NOT_IN_KEYS = r"/\\\u0000-\u001f\u007f-\u009f\ufdd0-\ufdef\ufffe\uffff"
_SEGMENT = rf"[^{_NOT_IN_KEYS}]*[^.{_NOT_IN_KEYS}]"
_KEY: Schema = {
    "type": "string",
    "format": "object-key",
    "pattern": rf"^(?!\.system(/|$))(?!.*%2[fF]){_SEGMENT}(/{_SEGMENT})*$",
}
"""Its other rules (bytes, NFC) are no regular expression."""
_PATH_KEY = _KEY | {"pattern": _KEY["pattern"].replace("%2[fF]", "%(2[fF]|[89a-fA-F][0-9a-fA-F])")}
_NOT_IN_PATHS = r"^(?!\.{1,2}$)(?!.*%[0-9a-fA-F]{2})"
_NAME: Schema = {
    "type": "string",
    "maxLength": 255,
    "pattern": _NOT_IN_PATHS + r"[^/\u0000-\u001f\u007f-\u009f]+$",
}
_TABLE_KEY = _text(_NOT_IN_PATHS + r"[^/\\#?\u0000-\u001f\u007f-\u009f]+$")
_TABLE_KEY_OR_NONE = _text(r"^[^/\\#?\u0000-\u001f\u007f-\u009f]*$")
LABEL = r"^(?!v?[0-9]+$)(?!current$)[^\u0000-\u001f\u007f-\u009f]{1,100}$"
VERSION = LABEL.replace("^", "^(v?[1-9][0-9]{0,14}$|current$|", 1) + ")"
_VERSION = _text(VERSION)


PATH: Parameters = {
    "key": (
        "The key of the object: segments joined by `/`, at most 1,024 bytes of UTF-8 in form NFC, 255 in a"
        " segment. Slashes may be sent as they are or as `%2F`.",
        _PATH_KEY,
    ),
    "table": ("The table; its case does not count.", _NAME),
    "partition": ("The `PartitionKey`.", _TABLE_KEY),
    "row": ("The `RowKey`.", _TABLE_KEY),
    "queue": ("The queue.", _NAME),
    "message_id": ("The id of a message.", _TEXT),
    "asset": ("A file that the console loads.", _one_of("console.js", "console.css", "charts.js")),
    "task_id": ("The id that the submission was answered with.", _text(TASK_ID)),
}
"""Of a route's template, by name: what it is, and its schema."""


QUERY: Parameters = {
    "key": ("The key of one object, for keys that a path cannot carry.", _KEY),
    "prefix": ("Only keys that begin so.", _TEXT | {"format": "object-prefix"}),
    "delimiter": ("Fold what is below the next one into `prefixes`.", _one_of("/")),
    "limit": ("How many at most are on a page.", _number(1, 1000, 100)),
    "cursor": ("Of the page before, for the next one.", _TEXT | {"format": "cursor"}),
    "start_after": ("Begin behind this key, which need not exist.", _TEXT | {"format": "object-key"}),
    "include": (
        "`metadata`: also content type, metadata, expiry, checksum and headers.",
        _one_of("metadata"),
    ),
    "version": ("A version: its number (`3` or `v3`), its label, or `current`.", _VERSION),
    "diff": ("The version from which changes are told, as a JSON Patch.", _VERSION),
    "number": ("The number of the new version; without it, it gets the next one.", _COUNT | {"minimum": 1}),
    "label": ("A label that the new version gets.", _or_none(LABEL)),
    "lengths": ("Also tell how many messages are in each queue.", _FLAG),
    "keep_last": ("How many of the versions with the highest numbers stay.", _COUNT),
    "younger_than_seconds": ("Versions that were saved within this time stay, too.", _COUNT),
    "dry_run": ("Tell what would be done, and do nothing.", _FLAG),
    "partition": ("The `PartitionKey` of one entity, for keys that a path cannot carry.", _TABLE_KEY_OR_NONE),
    "row": ("The `RowKey` of one entity.", _TABLE_KEY_OR_NONE),
    "filter": ("An OData filter of Azure Tables. Values belong into parameters: `day eq @day`.", _TEXT),
    "select": ("The properties to return, separated by commas.", _TEXT),
    "max_messages": ("How many messages at most.", _number(1, 32, 1)),
    "visibility_timeout": ("For how many seconds nobody else receives them.", _number(1, 604_800, 30)),
    "receipt": ("What the message was received with.", _TEXT | {"minLength": 1}),
    "upload_id": ("What the upload was begun with.", _text("^[0-9a-f]{32}$")),
    "part": ("The number of a part.", _number(1, 10_000)),
    "expires": ("Of a link: when it ends, in seconds since 1970.", _text(r"^\d{1,12}$")),
    "ip": ("Of a link: the addresses that may use it.", _TEXT),
    "type": ("Of a link: the content type of what is saved.", _TEXT),
    "max": ("Of a link: the largest body.", _text(r"^\d{1,15}$")),
    "maker": ("Of a link: who has made it.", _TEXT),
    "kid": ("Of a link: the secret that has signed it.", _text("^[0-9a-f]{8}$")),
    "sig": ("Of a link: its signature.", _text("^[A-Za-z0-9_-]{43}$")),
    "wait": (
        "How many seconds the answer is held back until the task has ended, or has changed.",
        _number(0, MAX_WAIT_SECONDS, 0),
    ),
    "status": (
        "Only tasks in this state, or in one of several, separated by commas: `queued`, `running`,"
        " `succeeded`, `failed`, `cancelled`, `dead`.",
        _or_none(f"^{_STATUS}(,{_STATUS})*$"),
    ),
    "correlation_id": ("Only tasks with this one.", _or_none(AGENT)),
    "idempotency_key": ("Only tasks with this one.", _or_none(IDEMPOTENCY_KEY)),
    "by": ("Count those of each agent or action, too.", _one_of("agent_id", "action")),
    "agent_id": ("Only tasks of this agent.", _or_none(AGENT)),
    "action": ("Only tasks of this action.", _or_none(ACTION)),
    "parent_id": ("Only tasks that this one has submitted.", _or_none(TASK_ID)),
    "created_after": ("Only tasks that were submitted after this moment.", _MOMENT),
    "created_before": ("Only tasks that were submitted before this moment.", _MOMENT),
    "participant": ("Only conversations that it takes part in.", _or_none(_PARTICIPANT)),
    "topic": ("Only conversations with this topic.", _or_none(_PARTICIPANT)),
    "last": ("Only so many of the newest messages.", _number(0, 1000, 100)),
    "after": ("Only messages behind this position.", _COUNT),
    "before": ("Only messages before this position.", _COUNT),
}
"""Of the query, by name."""

REQUIRED_QUERY = {
    "delete_message": ("receipt",),
    "prune_versions": ("keep_last",),
    "save_upload_part": ("upload_id", "part"),
    "show_upload": ("upload_id",),
    "discard_upload": ("upload_id",),
    **dict.fromkeys(("load_by_link", "head_by_link", "save_by_link"), ("expires", "kid", "sig")),
}
"""What a route cannot do without; ``by_query_…`` likewise, besides what it has in place of a path."""

QUERY_OF: dict[tuple[str, str], tuple[str, Schema]] = {
    ("count_tasks", "limit"): ("No state is counted further.", _number(1, MOST_COUNTED, 1000)),
    ("read_conversation", "limit"): ("Only so many of the oldest messages.", _number(0, 1000)),
}
"""Parameters that mean something else in one route, by its name and theirs."""

UNNAMED_QUERY = {
    "@name": "Each `@name` in the filter is a query parameter of this name with one literal: `'text'`, `5`,"
    " `1.5`, `true`, `datetime'2026-11-30T12:00:00Z'`, `guid'…'`.",
}
"""Families of parameters, likewise."""

HEADERS: Parameters = {
    "If-Match": ("Only if the current ETag is one of these; `*`: only if it exists.", _TAGS),
    "If-None-Match": (
        "Only if the current ETag is none of these; `*` with a write: only if it does not exist.",
        _TAGS,
    ),
    "If-Modified-Since": ("Only if it was changed after this HTTP date; ignored if malformed.", _TEXT),
    "If-Unmodified-Since": ("Only if it was not changed after this HTTP date; ignored if malformed.", _TEXT),
    "If-Range": ("The `Range` counts only for this ETag or HTTP date; else all of it comes.", _TEXT),
    "Range": ("Ranges of bytes, such as `bytes=0-99` or `bytes=0-9,-5`; others are ignored.", _TEXT),
    "Cache-Control": (
        "Of a save: kept with the object, and sent with it. Of a load: `no-cache` if what a cache of the app"
        " has kept is not good enough, `no-transform` to get it without a coding.",
        _TEXT,
    ),
    "Accept-Encoding": ("`zstd` and `gzip` are answered to, for objects that become shorter by it.", _TEXT),
    "Want-Content-Digest": ("Which digest of the answer's bytes to give: `sha-256=1`, `sha-512=1`.", _TEXT),
    "Want-Repr-Digest": ("Which digest of the whole object to give: `sha-256=1`, `sha-512=1`.", _TEXT),
    "Idempotency-Key": (
        "Names a conditional request, or a submission, that may be sent again if its answer was lost.",
        _text("^[!-~]([ -~]{0,253}[!-~])?$"),
    ),
    "Prefer": (
        "`wait=SECONDS` (RFC 7240): hold the answer back until the task has ended, at most 30 seconds.",
        _TEXT,
    ),
    "Last-Event-ID": ("The id of the event that the client has.", _TEXT),
    "Repr-Digest": (
        "`sha-256=:BASE64:` or `sha-512=:BASE64:` of the body (RFC 9530); another body is refused.",
        _TEXT,
    ),
    "Content-Digest": ("Likewise, of the bytes as they are sent.", _TEXT),
    "Content-MD5": (
        "The MD5 of the body, in base64; another body is refused.",
        _text("^[A-Za-z0-9+/]{21}[AQgw]==$"),
    ),
    "x-ttl-seconds": (
        "How many seconds the object lives, a decimal number, at most 100 years.",
        _text(r"^(([0-2]\d{9}|\d{1,9})(\.\d{0,9})?|\.\d{1,9})$"),
    ),
    # A pattern, not a format: generated clients refuse moments in headers, and leave the operation out.
    "x-expires-at": (
        "When its life ends (RFC 3339), instead of `x-ttl-seconds`; at most 100 years from now.",
        _text(_RFC_3339),
    ),
    "Content-Disposition": ("Kept with the object, and sent with it.", _or_none(DISPOSITION)),
    "Content-Language": ("Kept with the object, and sent with it.", _or_none(LANGUAGES)),
    "Origin": ("Of a web page: only those of the app itself, and of origins that a setting names.", _TEXT),
    "MCP-Protocol-Version": (
        "The revision of the protocol, such as `2026-07-28`; without it, `2025-03-26`.",
        _TEXT,
    ),
    "Mcp-Method": ("The message's method, in protocol 2026-07-28.", _TEXT),
    "Mcp-Name": ("The message's tool or resource, in protocol 2026-07-28.", _TEXT),
    "Accept": ("Which media type the answer is to have.", _TEXT),
}
"""Of a request, by name. ``Content-Type`` belongs to the body."""

UNNAMED_HEADERS = {
    "x-meta-*": "Each header `x-meta-NAME` is a name and a value of its metadata: `NAME` of a-z, 0-9 and `-`,"
    " the value percent-encoded UTF-8.",
}
"""Families of headers, which OpenAPI cannot describe as such: what the text of an operation says of them."""

EVERYWHERE: Parameters = {
    "x-correlation-id": ("Ties together what this request does, in logs, spans and the audit log.", _TEXT),
    "traceparent": ("The caller's span (W3C Trace Context); a malformed one is dropped.", _TEXT),
}
"""Headers that every route reads."""
