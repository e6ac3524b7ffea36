"""For Schemathesis (schemathesis.toml): what OpenAPI cannot say about the app, and what the host answers.

A failure is dropped only where the answer is the one that a rule here names; any other counts.
"""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

import schemathesis
from hypothesis import strategies as st
from schemathesis.core.failures import AcceptedNegativeData, ServerError
from schemathesis.openapi.checks import RejectedPositiveData, UnsupportedMethodResponse, UseAfterFree

REFUSED = (
    # (field of the problem, what its detail says)
    ("cursor", "cursor is"),
    ("filter", "the filter cannot be used"),
    ("", "key names one (object|upload), .* is of a list"),
    ("Content-Type", "content type .* is not valid"),
    ("body.content_type", "content type .* is not valid"),
    ("", "partition and row name one entity"),
    ("x-expires-at", "exclude each other|within 100 years|x-expires-at is|ttl is"),
    ("expires_at", "within 100 years|expires_at is"),
    ("", "(partition|row) is missing"),
    ("", "the payload does not fit the action|there is no action|unknown action"),
    ("", "@odata.type|is not a valid Edm|has a type and no value"),
    ("", "is of a list of versions|is of one version"),
    ("", "source and target are the same prefix|one of the prefixes? "),
    ("", r" is '?\d+\.0'?$"),  # To JSON Schema this is a whole number.
    ("label", "cannot be a label"),  # Not printable, as Unicode has it.
    ("Idempotency-Key", "Idempotency-Key is of one task|are not the same"),
    ("Cache-Control", "Cache-Control is "),  # Of a request it is free, of an object it is not.
    ("status", "a task that is .* cannot be"),
    ("", "at least one filter|by at least one"),
    ("", "the body has another (SHA|MD5)|is no digest"),
    ("", "is null, and a merge removes no property"),
    ("status", "nothing says which tasks"),
    ("upload_id", "there is no upload_id"),  # A key without its upload_id.
    ("key", "^key is empty$"),  # An upload_id without its key.
    ("ip", "ip is |does not know where requests come from"),
    ("", "is of a link to (load|save)"),
    ("If-Match", "If-Match is not one entity tag"),  # Of a conversation it may also be a position: one.
    ("", "is of (one conversation|a list of conversations)$|last and limit exclude each other"),
    ("", "the body has no (to|message|until)$|has no meaning here$"),
    ("ids", r"^\d+ ids for \d+ messages$"),
    ("max_messages", "is a float$"),  # To JSON Schema 2.0 is a whole number.
    ("max_bytes", "is a float$"),
    ("max_bytes", "has no URLs of its own$"),  # As every store but those of clouds.
    ("select", "which no property is called"),  # What letters are, Unicode has it.
    ("ttl_seconds", "must be longer than the delay_seconds"),
    ("", "unknown field( of the body)? '.*'"),  # Of `_SEVERAL` alone.
)
"""Requests that a schema cannot rule out."""


_SEGMENT = st.text(
    st.characters(codec="utf-8", categories=("L", "N")) | st.sampled_from("-_ +~@=,;!"),
    min_size=1,
    max_size=12,
).map(lambda text: unicodedata.normalize("NFC", text))
_KEY = st.lists(_SEGMENT, min_size=1, max_size=3).map("/".join)
schemathesis.openapi.format("object-key", _KEY)
schemathesis.openapi.format("object-prefix", _SEGMENT)


@schemathesis.hook
def map_query(context: Any, query: Any) -> Any:
    """Nobody waits for long."""
    if isinstance(query, dict) and isinstance(query.get("wait"), int) and query["wait"] in range(31):
        query["wait"] = min(query["wait"], 1)
    return query


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """Which actions there are, and what each is told, is for the app to say (``GET /api/actions``)."""
    if context.operation.path == "/tasks" and isinstance(body, dict):
        for task in [body, *(body["tasks"] if isinstance(body.get("tasks"), list) else ())]:
            if isinstance(task, dict) and re.fullmatch("[a-z][a-z0-9_]{0,63}", str(task.get("action"))):
                task |= {"action": "analyze_report", "payload": {"report": "reports/2026/q1.csv"}}
    return body


@schemathesis.hook
def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
    """Whether a failure counts."""
    if isinstance(failure, UnsupportedMethodResponse):
        # The platform's host has no 405.
        return not (response.status_code == 404 and not response.content)
    if isinstance(failure, RejectedPositiveData):
        return not _is_refused_rightly(case, response)
    if isinstance(failure, ServerError):
        # Here nobody vouches for the address of a client, to which a link is to be bound.
        return not (response.status_code == 501 and json.loads(response.content).get("field") == "ip")
    if isinstance(failure, UseAfterFree):
        # A list of what there is no longer is empty.
        return not (response.status_code == 200 and json.loads(response.content).get("versions") == [])
    if isinstance(failure, AcceptedNegativeData):
        return not _is_accepted_rightly(failure, case, response)
    return True


def _is_refused_rightly(case: Any, response: Any) -> bool:
    if case.method.upper() == "HEAD":
        return True  # Without a body it does not say why; GET is asked the same.
    try:
        problem = json.loads(response.content)
    except ValueError:
        return False
    if case.path == "/mcp":
        # Which messages there are, the protocol says; and there is no stream, which is said with 405.
        return "error" in problem or problem["status"] in (405, 406)
    if problem["detail"].startswith("unknown field") and not case.path.startswith(_SEVERAL):
        return False
    typed = f"{problem.get('field')}@odata.type"
    if case.path.startswith("/tables/") and isinstance(case.body, dict) and typed in case.body:
        return True  # What a value has to be, the type beside it says.
    return any(
        field in ("", problem.get("field", "")) and re.search(detail, problem["detail"])
        for field, detail in REFUSED
    )


_SEVERAL = ("/uploads", "/conversation-edits")
"""One operation does several things here, such as to create an upload and to complete it, each with fields of
its own."""
_LISTINGS = ("/objects", "/versions", "/versions/{key}", "/tables/{table}")
"""Their conditions are those of one object or entity: with a list they mean nothing."""
_EMPTY = ("", None, {}, [])
"""Values of parameters that are sent as nothing."""
_OF_OURS = ("/prefix", "/to", "/key", "/cursor", "/start_after")


def _is_accepted_rightly(failure: Any, case: Any, response: Any) -> bool:
    if case.path == "/batch":
        # A batch answers for each of its operations.
        return response.status_code == 200 and any(
            result["status"] == 400 for result in json.loads(response.content)["results"]
        )
    if case.path == "/mcp":
        # Of a notification nothing is said, and of a message the protocol's own error; what the client takes
        # is looked at before both.
        return response.status_code in (202, 406) or "error" in json.loads(response.content)
    broken = re.findall(r"(\w+): violates `(\w+)`(?: at (\S+))?", failure.message)
    several = re.search(r"parameters? ([`\w, -]+) in (query|header|path)", failure.message)
    names = re.findall(r"`([\w-]+)`", several[1]) if several else []
    if several and several[2] == "header" and case.path in _LISTINGS:
        return all(name.startswith("If-") for name in names)
    broken += [("", *each) for each in re.findall(r"in body - violates `(\w+)` at (\S+)", failure.message)]
    if several and several[2] != "header":
        kinds = {
            at: kind for kind, at in re.findall(r"violates `(\w+)` at (/properties/\w+)", failure.message)
        }
        broken += [(several[2], kinds.get(at, ""), at) for at in (f"/properties/{name}" for name in names)]
    empty = {f"/properties/{name}" for name, value in (case.query or {}).items() if value in _EMPTY}
    return bool(broken) and all(
        # The host passes on no parameter without a value.
        (place == "query" and where in empty)
        or (place == "header" and where.startswith("/properties/If-") and case.path in _LISTINGS)
        # What this format means, a validator does not know.
        or (what == "format" and where.endswith(_OF_OURS))
        # Bytes are bytes.
        or (place == "body" and what == "type" and case.media_type != "application/json")
        for place, what, where in broken
    )
