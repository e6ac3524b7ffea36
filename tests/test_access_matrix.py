"""Access to every route: what a policy allows is done, all else is denied and audited, and no answer tells of
what does not concern the caller."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import os
import re
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from storage_lib.access import tokens
from tests.access_world import (
    ACTION,
    AGENTS,
    IDENTITIES,
    KEYS,
    OBJECT_ACTIONS,
    QUEUES,
    TABLES,
    UNKNOWN_ID,
    UPLOAD_SYMBOL,
    VERSIONED,
    Audit,
    Rights,
    World,
    etag_symbol,
    identity,
    mark,
    memory,
    message_symbol,
    principal,
    registered,
    routes,
    task_symbol,
    worlds,
)
from tests.http_app import AppAnswer
from tests.test_access_tokens import ISSUER, OTHER, Issuer, signed, token

UNSHRUNK = (Phase.explicit, Phase.reuse, Phase.generate)
"""An example of many requests takes minutes to shrink, and what fails is shown by one of them."""
SOAK = bool(os.environ.get("SOAK"))
pytestmark = pytest.mark.timeout(7200 if SOAK else 900)


@pytest.fixture(scope="module")
def policy_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the policy is, for callers who show a key, come through the platform's authentication, or have a
    token."""
    path = tmp_path_factory.mktemp("access") / "policy.json"
    with pytest.MonkeyPatch.context() as patch, registered():
        patch.setenv("AGENT_STORAGE_ACCESS_POLICY", str(path))
        patch.setenv("AGENT_STORAGE_ACCESS_ISSUER", ISSUER)
        patch.setenv("AGENT_STORAGE_ACCESS_AUDIENCE", "api://app")
        patch.setenv("WEBSITE_AUTH_ENABLED", "true")
        patch.setattr(tokens, "_fetched", Issuer().fetch)
        yield path


# -- what there is to ask of each route

_RULES = (
    "",
    "agents/ceo",
    "agents/ceo/",
    "agents",
    "agents/ceo/a",
    "shared/",
    "a",
    "tenants/a",
    "tenants/a/",
)


def _rights(draw: st.DrawFn) -> Rights:
    some = st.sets(st.sampled_from(_RULES), max_size=2).map(tuple)
    rules = st.one_of(st.just(("agents/ceo",)), some, some)
    may = {action: draw(rules) for action in OBJECT_ACTIONS}
    for action, names in (("tasks", AGENTS), ("tables", TABLES), ("queues", QUEUES)):
        few = st.sets(st.sampled_from((*names, "*")), max_size=2).map(tuple)
        may[action] = draw(st.one_of(st.just(names[:1]), few))
    if draw(st.integers(0, 7)) == 7:
        may["operate"] = ("*",)
    return Rights(draw(st.sampled_from(("", "", "tenants/a/", "agents/ceo/"))), may)


def _decomposed(text: str) -> str:
    return quote(unicodedata.normalize("NFD", text))


SPELLINGS: Sequence[Callable[[str], str]] = (
    quote,
    lambda name: quote(name, safe=""),
    lambda name: quote(quote(name, safe=""), safe=""),
    lambda name: "".join(f"%{byte:02X}" for byte in name.encode()),
    lambda name: "".join(f"%25{byte:02x}" for byte in name.encode()),
    lambda name: quote(name).replace("/", "%2f"),
    lambda name: quote(name).replace("/", "%252F"),
    lambda name: quote(name).replace("/", "%5C"),
    lambda name: quote(name).replace("/", "\\"),
    lambda name: quote(name).replace("/", "//"),
    lambda name: quote(name).replace("/", "/./"),
    lambda name: quote(name).replace("/", "/x/../"),
    lambda name: quote(name).replace("/", "/%2e%2e/x/"),
    lambda name: quote(name).replace("/", "%EF%BC%8F"),
    lambda name: quote(name).replace("/", "%c0%af"),
    lambda name: quote(name).replace("/", "%E2%81%84"),
    lambda name: quote(name.upper()),
    lambda name: quote(name.title()),
    _decomposed,
    lambda name: quote(name) + "/",
    lambda name: quote(name) + "/.",
    lambda name: quote(name) + "/..",
    lambda name: quote(name) + "%2f",
    lambda name: quote(name) + "%00",
    lambda name: quote(name) + "%2500.txt",
    lambda name: quote(name) + ".",
    lambda name: quote(name) + "%20",
    lambda name: quote(name) + ";x=y",
    lambda name: quote(name) + "?key=a",
    lambda name: quote(name) + "%3Fkey=a",
    lambda name: quote(name) + "%23",
    lambda name: "/" + quote(name),
    lambda name: "./" + quote(name),
    lambda name: "%2e/" + quote(name),
    lambda name: "x/../" + quote(name),
    lambda name: "x/%2e%2e/" + quote(name),
    lambda name: "x/%252e%252e/" + quote(name),
    lambda name: "x%2f..%2f" + quote(name),
    lambda name: "agents/ceo/../../" + quote(name),
    lambda name: "../" * 3 + quote(name),
    lambda name: "%2e%2e%2f" * 3 + quote(name),
    lambda name: "..%5C..%5C" + quote(name),
    lambda name: "%c0%ae%c0%ae/" + quote(name),
    lambda name: "tenants/a/../" + quote(name),
    lambda name: "agents/ceo/" + "%2e%2e/" * 2 + quote(name),
    lambda name: ".system/" + quote(name),
    lambda name: quote(name) + "/" + "x" * 300,
    lambda name: ("x" * 250 + "/") * 5 + quote(name),
)


def _names(draw: st.DrawFn, rights: Rights) -> str:
    """A name of an object, as a caller might try it: below its root, or out of it."""
    name = draw(st.sampled_from((*KEYS, *VERSIONED)))
    if not rights.root:
        return name
    if name.startswith(rights.root) and draw(st.booleans()):
        return name.removeprefix(rights.root)
    return draw(st.sampled_from(("../", "../../", "", "/"))) + name


def _key(draw: st.DrawFn, rights: Rights) -> str:
    """One in a body or a query, before its percent-encoding."""
    name = _names(draw, rights)
    return draw(
        st.sampled_from(
            (
                *(name, name, name, f"{name}/", f"/{name}", f"x/../{name}", name.replace("/", "\\")),
                *(f"{name}\0", quote(name, safe=""), name.upper(), f".system/{name}", f"{name}/..", "", ".."),
            )
        )
    )


def _prefix(draw: st.DrawFn, rights: Rights) -> str:
    name = _names(draw, rights)
    return draw(
        st.sampled_from(
            (
                *("", "a", name, name[:-1], name.rpartition("/")[0], name.rpartition("/")[0] + "/"),
                *("agents/ceo", "agents/ceo/", "tenants/", "tenants/a", "../", ".system/", "/", "\0"),
            )
        )
    )


PARAMETERS: Mapping[str, Callable[[st.DrawFn, Rights], str]] = {
    "key": _key,
    "prefix": _prefix,
    "start_after": _prefix,
    "delimiter": lambda draw, _: draw(st.sampled_from(("/", "", "a"))),
    "limit": lambda draw, _: draw(st.sampled_from(("1", "2", "1000", "0"))),
    "cursor": lambda draw, _: draw(st.sampled_from(("x", "AAAA", "dGVuYW50cy9hYi9h", quote("../")))),
    "status": lambda draw, _: draw(st.sampled_from(("queued", "failed", "succeeded,failed", "x"))),
    "agent_id": lambda draw, _: draw(st.sampled_from((*AGENTS, "*", "CEO", "none"))),
    "action": lambda draw, _: draw(st.sampled_from((ACTION, "query", "none"))),
    "parent_id": lambda draw, _: _task(draw),
    "correlation_id": lambda draw, _: draw(st.sampled_from([f"of-{agent}" for agent in AGENTS])),
    "idempotency_key": lambda draw, _: draw(st.sampled_from([f"key-{agent}-0" for agent in AGENTS])),
    "by": lambda draw, _: draw(st.sampled_from(("agent_id", "action", "x"))),
    "created_after": lambda draw, _: draw(st.sampled_from(("2026-01-01T00:00:00Z", "x"))),
    "created_before": lambda draw, _: draw(st.sampled_from(("2100-01-01T00:00:00Z", "x"))),
    "wait": lambda draw, _: draw(st.sampled_from(("0", "-1", "31", "x"))),
    "version": lambda draw, _: draw(st.sampled_from(("1", "v2", "current", "x"))),
    "diff": lambda draw, _: draw(st.sampled_from(("1..2", "1", "x"))),
    "number": lambda draw, _: draw(st.sampled_from(("1", "3"))),
    "label": lambda draw, _: "good",
    "keep_last": lambda draw, _: draw(st.sampled_from(("1", "0"))),
    "younger_than_seconds": lambda draw, _: "60",
    "lengths": lambda draw, _: draw(st.sampled_from(("true", "false", "x"))),
    "dry_run": lambda draw, _: draw(st.sampled_from(("true", "false"))),
    "include": lambda draw, _: draw(st.sampled_from(("metadata", "x"))),
    "partition": lambda draw, _: draw(st.sampled_from(("p", "", "x", "p/../p"))),
    "row": lambda draw, _: draw(st.sampled_from(("r", "", "x"))),
    "filter": lambda draw, _: draw(
        st.sampled_from(("PartitionKey eq 'p'", "mark gt ''", "RowKey eq @name", "x eq", "agent_id eq 'cto'"))
    ),
    "@name": lambda draw, _: draw(st.sampled_from(("'r'", "1", "x"))),
    "select": lambda draw, _: draw(st.sampled_from(("mark", "PartitionKey,mark", ""))),
    "max_messages": lambda draw, _: draw(st.sampled_from(("1", "32", "0"))),
    "visibility_timeout": lambda draw, _: draw(st.sampled_from(("60", "0"))),
    "upload_id": lambda draw, _: draw(st.sampled_from((UPLOAD_SYMBOL, "0" * 32, "x"))),
    "part": lambda draw, _: draw(st.sampled_from(("1", "0"))),
    "expires": lambda draw, _: draw(st.sampled_from(("4102444800", "x"))),
    "ip": lambda draw, _: "0.0.0.0-255.255.255.255",
    "type": lambda draw, _: "text/plain",
    "max": lambda draw, _: "100",
    "maker": lambda draw, _: draw(st.sampled_from(("key:root", "anonymous", "x"))),
    "kid": lambda draw, _: draw(st.sampled_from(("00000000", "x"))),
    "sig": lambda draw, _: draw(st.sampled_from(("A" * 43, "x"))),
    "participant": lambda draw, _: draw(st.sampled_from((*AGENTS, "none"))),
    "topic": lambda draw, _: draw(st.sampled_from(("mine", "none"))),
    "last": lambda draw, _: draw(st.sampled_from(("5", "0", "x"))),
    "after": lambda draw, _: draw(st.sampled_from(("0", "1", "x"))),
    "before": lambda draw, _: draw(st.sampled_from(("2", "x"))),
    "receipt": lambda draw, _: draw(
        st.sampled_from((*(message_symbol(queue, "receipt") for queue in QUEUES), "x"))
    ),
}
"""What is tried for each query parameter."""


def _task(draw: st.DrawFn) -> str:
    agent, n = draw(st.sampled_from(AGENTS)), draw(st.integers(0, 2))
    return draw(st.sampled_from((task_symbol(agent, n), task_symbol(agent, n), UNKNOWN_ID, f"of-{agent}")))


IN_PATHS: Mapping[str, Callable[[st.DrawFn, Rights], str]] = {
    "*key": lambda draw, rights: draw(st.one_of(st.just(quote), st.sampled_from(SPELLINGS)))(
        _names(draw, rights)
    ),
    "asset": lambda draw, _: draw(st.sampled_from(("console.js", "none", "..%2Fassets.py"))),
    "task_id": lambda draw, _: draw(
        st.sampled_from(("{}", "{}", "{}", "{}", "{}/", "%2e/{}", "{}%00", "../tasks/{}", "{}%2Fcancel"))
    ).format(_task(draw)),
    "table": lambda draw, _: _named(draw, (*TABLES, *_OWN_TABLES)),
    "partition": lambda draw, _: draw(st.sampled_from(("p", "p", "x", "p%2F..%2Fp", "..", "%00"))),
    "row": lambda draw, _: draw(st.sampled_from(("r", "r", "x", "r/", "..", "../../notes/p/r"))),
    "queue": lambda draw, _: _named(draw, (*QUEUES, *_OWN_QUEUES)),
    "message_id": lambda draw, _: draw(
        st.sampled_from((*(message_symbol(queue, "id") for queue in QUEUES), UNKNOWN_ID, "x"))
    ),
}
"""What is tried for each part of a path."""
_OWN_TABLES = ("tasks", "taskkeys", "audit", "auditheads", "n03devtasks", "conversationlog")
_OWN_QUEUES = ("agent-tasks", "agent-tasks-high-poison", "agent-events", "dev-agent-tasks")


def _named(draw: st.DrawFn, names: Sequence[str]) -> str:
    """A table or a queue."""
    name = draw(st.sampled_from(names))
    forms = (
        name,
        name,
        name,
        name.upper(),
        f"{name}/",
        f"x/../{name}",
        f"%2e%2e/{name}",
        f"{name}%00",
        f"{name}%20",
    )
    return draw(st.sampled_from((*forms, name.replace("-", "_"), f"{name}%2F", quote(name[:-1]))))


def _value(draw: st.DrawFn, rights: Rights) -> bytes:
    return draw(st.sampled_from((b'{"mark": "mine"}', b"1", b"", b"{")))


def _change(draw: st.DrawFn, rights: Rights) -> bytes:
    changes = b"{}", b'{"metadata": {"of": "mine"}}', b'{"ttl_seconds": 60}', b'{"mark": null}'
    return draw(st.sampled_from(changes))


def _submission(draw: st.DrawFn, rights: Rights) -> dict[str, Any]:
    agent = draw(st.sampled_from((*AGENTS, "CEO", "*")))
    payload = {"from": _key(draw, rights), "to": _key(draw, rights), "list": _prefix(draw, rights)}
    made: dict[str, Any] = {"action": ACTION, "agent_id": agent, "payload": payload}
    if draw(st.booleans()):
        made["idempotency_key"] = f"key-{agent}-{draw(st.integers(0, 2))}"
    if draw(st.booleans()):
        made["correlation_id"] = f"of-{agent}"
    if draw(st.integers(0, 9)) == 0:
        made["submitter"] = "key:root"
    return made


def _operation(draw: st.DrawFn, rights: Rights) -> dict[str, Any]:
    op = draw(st.sampled_from(("save", "load", "delete", "exists", "copy", "move")))
    made: dict[str, Any] = {"op": op, "key": _key(draw, rights)}
    if op == "save":
        made["value"] = {"mark": "mine"}
    if op in ("copy", "move"):
        made["to"] = _key(draw, rights)
    elif draw(st.booleans()):
        made[draw(st.sampled_from(("if_match", "if_none_match")))] = _condition(draw, rights)
    return made


def _message(draw: st.DrawFn, rights: Rights) -> dict[str, Any]:
    """One of the Model Context Protocol that might reach objects."""
    method, params = (
        draw(st.sampled_from(("tools/call", "resources/read", "resources/list", "tools/list"))),
        {},
    )
    if method == "resources/read":
        params = {"uri": f"agentstorage:///{draw(st.sampled_from(SPELLINGS))(_names(draw, rights))}"}
    if method == "tools/call":
        made = _operation(draw, rights)
        name, key = f"{made.pop('op')}_object", made["key"]
        calls = (
            {"name": name, "arguments": made},
            {"name": "patch_object", "arguments": {"key": key, "patch": {"mark": "mine"}}},
            {"name": "make_link", "arguments": {"key": key, "method": draw(st.sampled_from(("GET", "PUT")))}},
            {"name": "list_objects", "arguments": {"prefix": _prefix(draw, rights)}},
        )
        params = draw(st.sampled_from(calls))
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


def _of_prefix(draw: st.DrawFn, rights: Rights) -> dict[str, Any]:
    more = {}, {"dry_run": True}, {"limit": 1}, {"cursor": draw(st.sampled_from(KEYS))}
    return {"prefix": _prefix(draw, rights), **draw(st.sampled_from(more))}


def _entity(draw: st.DrawFn, rights: Rights) -> dict[str, Any]:
    keys = {"PartitionKey": "p", "RowKey": draw(st.sampled_from(("r", "new")))}
    return {"n": 1, **draw(st.sampled_from(({}, keys)))}


def _said(draw: st.DrawFn, rights: Rights) -> dict[str, Any]:
    own = {}, {"participants": [draw(st.sampled_from(AGENTS))], "topic": "mine"}, {"ttl_seconds": 60}
    return {"messages": [{"id": "m1", "mark": "mine"}], **draw(st.sampled_from(own))}


def _edit(draw: st.DrawFn, rights: Rights) -> dict[str, Any]:
    compact = {"do": "compact", "until": 1, "message": {"mark": "mine"}}
    fork = {"do": "fork", "to": _key(draw, rights)}
    return draw(st.sampled_from(({"do": "pop"}, {"do": "clear"}, compact, fork)))


def _selection(draw: st.DrawFn, rights: Rights) -> dict[str, Any]:
    names = draw(st.sets(st.sampled_from(("status", "agent_id", "action", "parent_id", "correlation_id"))))
    made: dict[str, Any] = {name: PARAMETERS[name](draw, rights) for name in sorted(names)}
    if draw(st.booleans()):
        made["dry_run"] = True
    return made


VERSION_CHANGES = {"labels": {"good": 1}}, {"current": 1}, {"current": "v2", "labels": {"good": None}}, {}

BODIES: Mapping[str, Callable[[st.DrawFn, Rights], bytes | dict[str, Any]]] = {
    "": lambda draw, rights: b"",
    "bytes": _value,
    "ObjectChange": _change,
    "MergePatch": _change,
    "LinkRequest": lambda draw, _: {"method": draw(st.sampled_from(("GET", "PUT"))), "expires_in": 60},
    "UploadRequest": lambda draw, _: {"content_type": "text/plain"},
    "UploadCompletion": lambda draw, _: {"parts": [1]},
    "McpMessage": lambda draw, rights: _message(draw, rights),
    "Batch": lambda draw, rights: {
        "operations": [_operation(draw, rights) for _ in range(draw(st.integers(1, 3)))]
    },
    "PrefixDelete": lambda draw, rights: _of_prefix(draw, rights),
    "PrefixTransfer": lambda draw, rights: {
        "to": _prefix(draw, rights),
        **_of_prefix(draw, rights),
        **draw(st.sampled_from(({}, {"skip_existing": True}))),
    },
    "NewMessages": _said,
    "ConversationChange": lambda draw, _: draw(st.sampled_from(({"topic": "mine"}, {"metadata": {}}))),
    "ConversationEdit": _edit,
    "VersionsChange": lambda draw, _: draw(st.sampled_from(VERSION_CHANGES)),
    "EntityProperties": _entity,
    "NewEntity": _entity,
    "NewMessage": lambda draw, _: {"body": "mine"},
    "NewBinaryMessage": lambda draw, _: {"body": "bWluZQ==", "encoding": "base64"},
    "TaskSelection": _selection,
    "TaskSubmission": _submission,
    "TaskSubmissions": lambda draw, rights: {
        "tasks": [_submission(draw, rights) for _ in range(draw(st.integers(1, 2)))]
    },
}
"""What is sent as a body, by the name of its schema."""
CONTENT_TYPES = {"MergePatch": "application/merge-patch+json"}


def _condition(draw: st.DrawFn, _: Rights) -> str:
    etag = etag_symbol(draw(st.sampled_from(KEYS)))
    return draw(st.sampled_from(("*", f'"{etag}"', f'"x", "{etag}"', f'W/"{etag}"', '"x"')))


HEADERS: Mapping[str, Callable[[st.DrawFn, Rights], str]] = {
    "If-Match": _condition,
    "If-None-Match": _condition,
    "If-Modified-Since": lambda draw, _: draw(st.sampled_from(("Fri, 01 Jan 2100 00:00:00 GMT", "x"))),
    "If-Unmodified-Since": lambda draw, _: draw(st.sampled_from(("Thu, 01 Jan 1970 00:00:10 GMT", "x"))),
    "If-Range": _condition,
    "Range": lambda draw, _: draw(st.sampled_from(("bytes=0-0", "bytes=9999-", "bytes=-1", "bytes=0-,0-"))),
    "Cache-Control": lambda draw, _: "no-cache",
    "Content-Type": lambda draw, _: draw(st.sampled_from(("application/json", "text/plain"))),
    "Idempotency-Key": lambda draw, _: draw(st.sampled_from([f"key-{agent}-0" for agent in AGENTS])),
    "Prefer": lambda draw, _: draw(st.sampled_from(("wait=0", "respond-async"))),
    "Last-Event-ID": lambda draw, _: "x",
    "Origin": lambda draw, _: "null",
    "MCP-Protocol-Version": lambda draw, _: draw(st.sampled_from(("2025-11-25", "2026-07-28", "x"))),
    "Mcp-Method": lambda draw, _: "tools/call",
    "Mcp-Name": lambda draw, _: "load_object",
    "Accept": lambda draw, _: draw(st.sampled_from(("*/*", "application/json", "text/event-stream"))),
    "Accept-Encoding": lambda draw, _: draw(st.sampled_from(("gzip, zstd", "identity;q=0"))),
    "Want-Content-Digest": lambda draw, _: "sha-256=1",
    "Want-Repr-Digest": lambda draw, _: "md5=1",
    "Content-Digest": lambda draw, _: f"sha-256=:{'A' * 43}=:",
    "Content-MD5": lambda draw, _: "AAAAAAAAAAAAAAAAAAAAAA==",
    "Repr-Digest": lambda draw, _: f"sha-256=:{'A' * 43}=:",
    "Content-Disposition": lambda draw, _: "attachment",
    "Content-Language": lambda draw, _: "en",
    "x-ttl-seconds": lambda draw, _: draw(st.sampled_from(("60", "x"))),
    "x-expires-at": lambda draw, _: "2100-01-01T00:00:00Z",
    "x-meta-*": lambda draw, _: "mine",
}
"""What is tried for each header that a route reads, such as conditions with the true ETags of others."""

TRIED: Mapping[str, Callable[[st.DrawFn, Rights], str]] = {
    "Origin": lambda draw, _: "https://pages.example",
    "X-Original-URL": lambda draw, rights: f"/api/objects/{quote(_names(draw, rights))}",
    "X-Rewrite-URL": lambda draw, rights: f"/api/objects/{quote(_names(draw, rights))}",
    "X-Forwarded-Prefix": lambda draw, _: "/api/objects/tenants/ab",
    "X-HTTP-Method-Override": lambda draw, _: draw(st.sampled_from(("GET", "PUT", "DELETE"))),
    "X-HTTP-Method": lambda draw, _: draw(st.sampled_from(("GET", "PUT", "DELETE"))),
    "X-Method-Override": lambda draw, _: draw(st.sampled_from(("GET", "PUT", "DELETE"))),
    "X-Forwarded-For": lambda draw, _: "127.0.0.1",
    "X-Forwarded-User": lambda draw, _: "root",
    "X-MS-CLIENT-PRINCIPAL-NAME": lambda draw, _: "root",
    "X-MS-TOKEN-AAD-ID-TOKEN": lambda draw, _: "root",
    "x-functions-clientid": lambda draw, _: "root",
    "x-correlation-id": lambda draw, _: "key:root",
    "traceparent": lambda draw, _: f"00-{'1' * 32}-{'1' * 16}-01",
    "Cookie": lambda draw, _: "AppServiceAuthSession=root; code=k-root",
}
"""Ways to be another, or to ask for another thing than the policy sees."""


SAMPLES: Mapping[str, tuple[str, Any]] = {
    "PUT objects/{*key}": ("objects/shared/a", 1),
    "GET objects/{*key}": ("objects/shared/a", None),
    "HEAD objects/{*key}": ("objects/shared/a", None),
    "PATCH objects/{*key}": ("objects/shared/a", {}),
    "DELETE objects/{*key}": ("objects/shared/a", None),
    "GET objects": ("objects?prefix=shared/", None),
    "HEAD objects": ("objects?key=shared/a", None),
    "PUT objects": ("objects?key=shared/a", 1),
    "PATCH objects": ("objects?key=shared/a", {}),
    "DELETE objects": ("objects?key=shared/a", None),
    "POST prefixes/delete": ("prefixes/delete", {"prefix": "shared/"}),
    "POST prefixes/copy": ("prefixes/copy", {"prefix": "shared/", "to": "copies/"}),
    "POST prefixes/move": ("prefixes/move", {"prefix": "shared/", "to": "moved/"}),
    **{
        f"{method} versions{in_path}": (
            f"versions{target}" + (f"{joint}keep_last=1" if method == "DELETE" else ""),
            body,
        )
        for in_path, target, joint in (("/{*key}", "/agents/ceo/w", "?"), ("", "?key=agents/ceo/w", "&"))
        for method, body in (
            ("GET", None),
            ("HEAD", None),
            ("POST", 1),
            ("PATCH", VERSION_CHANGES[0]),
            ("DELETE", None),
        )
    },
    **{
        f"{method} {route}{in_path}": (f"{route}{target}", body)
        for in_path, target in (("/{*key}", "/shared/a"), ("", "?key=shared/a"))
        for method, route, body in (
            ("GET", "conversations", None),
            ("HEAD", "conversations", None),
            ("POST", "conversations", {"messages": [{"mark": "x"}]}),
            ("PATCH", "conversations", {"topic": "x"}),
            ("DELETE", "conversations", None),
            ("POST", "conversation-edits", {"do": "clear"}),
        )
    },
    "GET tables": ("tables", None),
    "HEAD tables": ("tables", None),
    "GET queues": ("queues?prefix=a", None),
    "HEAD queues": ("queues", None),
    "POST links/{*key}": ("links/shared/a", {"method": "PUT", "expires_in": 60}),
    "POST links": ("links?key=shared/a", {}),
    **{
        f"{method} uploads{path}": (f"uploads{target}{query}", body)
        for path, target in (("/{*key}", "/shared/a?"), ("", "?key=shared/a&"))
        for method, query, body in (
            ("POST", f"upload_id={UPLOAD_SYMBOL}", None),
            ("PUT", f"upload_id={UPLOAD_SYMBOL}&part=2", 1),
            ("GET", f"upload_id={UPLOAD_SYMBOL}", None),
            ("HEAD", f"upload_id={UPLOAD_SYMBOL}", None),
            ("DELETE", f"upload_id={UPLOAD_SYMBOL}", None),
        )
    },
    "POST mcp": ("mcp", {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}),
    "POST batch": ("batch", {"operations": [{"op": "load", "key": "shared/a"}]}),
    **{
        f"{method} {route}": (target, body)
        for route, target in (
            ("tables/{table}/{partition}/{row}", "tables/notes/p/r"),
            ("tables/{table}", "tables/notes?partition=p&row=r"),
        )
        for method, body in (("GET", None), ("HEAD", None), ("PUT", {}), ("PATCH", {}), ("DELETE", None))
    },
    "POST tables/{table}": ("tables/notes", {"PartitionKey": "p", "RowKey": "new"}),
    "GET queues/{queue}": ("queues/inbox", None),
    "HEAD queues/{queue}": ("queues/inbox", None),
    "GET queues/{queue}/messages": ("queues/inbox/messages", None),
    "HEAD queues/{queue}/messages": ("queues/inbox/messages", None),
    "POST queues/{queue}/messages": ("queues/inbox/messages", {"body": "x"}),
    "POST queues/{queue}/receive": ("queues/inbox/receive", None),
    "DELETE queues/{queue}/messages/{message_id}": (
        f"queues/inbox/messages/{message_symbol('inbox', 'id')}?receipt={message_symbol('inbox', 'receipt')}",
        None,
    ),
    "GET tasks": ("tasks", None),
    "HEAD tasks": ("tasks?agent_id=ceo", None),
    "POST tasks": ("tasks", {"action": ACTION, "agent_id": "ceo", "payload": {"mark": "x"}}),
    "GET tasks/{task_id}": (f"tasks/{task_symbol('ceo', 0)}", None),
    "HEAD tasks/{task_id}": (f"tasks/{task_symbol('ceo', 0)}", None),
    "POST tasks/{task_id}/cancel": (f"tasks/{task_symbol('ceo', 2)}/cancel", None),
    "POST tasks/{task_id}/requeue": (f"tasks/{task_symbol('ceo', 1)}/requeue", None),
    "DELETE tasks/{task_id}": (f"tasks/{task_symbol('ceo', 1)}", None),
    "GET tasks/counts": ("tasks/counts?by=agent_id", None),
    "HEAD tasks/counts": ("tasks/counts?agent_id=ceo", None),
    "POST tasks/cancel": ("tasks/cancel", {"agent_id": "ceo"}),
    "POST tasks/requeue": ("tasks/requeue", {"agent_id": "ceo"}),
    "GET actions": ("actions", None),
    "HEAD actions": ("actions", None),
    "GET health/ready": ("health/ready", None),
    "HEAD health/ready": ("health/ready", None),
    "GET metrics": ("metrics", None),
    "HEAD metrics": ("metrics", None),
    "GET sizes": ("sizes", None),
    "HEAD sizes": ("sizes?limit=1", None),
}
"""A request to each route that is not open, which one with every right may make."""
OF_EVERYONE = {"GET me", "HEAD me", "GET docs", "HEAD docs", "GET openapi.json", "HEAD openapi.json"}
"""The same for everyone whom the host lets in: they tell of the app, and nothing of what is in it."""


def test_every_route_is_part_of_the_matrix() -> None:
    """For each part of a path, each parameter, header and body there is something to try. A new one needs an
    entry here, or this fails."""
    for route in routes().values():
        said = route.described
        bodies = (said.body,) if isinstance(said.body, str) else said.body
        assert set(re.findall(r"\{([^}]+)\}", route.path)) <= IN_PATHS.keys(), route.name
        assert set(said.parameters) <= PARAMETERS.keys(), route.name
        assert set(said.headers) <= HEADERS.keys(), route.name
        assert set(bodies) <= BODIES.keys(), route.name
        assert said.is_open or route.name in SAMPLES or route.name in OF_EVERYONE, route.name
    assert set(SAMPLES) <= set(routes())


# -- no answer tells of what does not concern the caller


@dataclass(frozen=True)
class Request:
    method: str
    target: str
    body: bytes
    headers: Mapping[str, str]


AREAS = ("objects", "tasks", "named")


def _area(route: str) -> str:
    first = route.partition("/")[0]
    areas = {"tasks": "tasks", "actions": "tasks", "tables": "named", "queues": "named"}
    return areas.get(first, "objects")


@st.composite
def requests(draw: st.DrawFn, rights: Rights, kind: str, area: str) -> Request:
    name = draw(
        st.sampled_from(
            [
                name
                for name, route in routes().items()
                if _area(route.path) == area and name not in OF_EVERYONE
            ]
        )
    )
    route, said = routes()[name], routes()[name].described
    target = "/api/" + re.sub(r"\{([^}]+)\}", lambda part: IN_PATHS[part[1]](draw, rights), route.path)
    asked = draw(st.sets(st.sampled_from(said.parameters), max_size=3)) if said.parameters else set[str]()
    if ("key" in asked and draw(st.integers(0, 3))) or ("*key" in route.path and not draw(st.integers(0, 7))):
        asked = {"key"}
    query = [
        f"{each}={quote(PARAMETERS[each](draw, rights), safe=draw(st.sampled_from(('', '/'))))}"
        for each in sorted(asked)
    ]
    shown, in_query = identity(kind)
    if in_query:
        query.append(in_query)
    if query:
        target += ("&" if "?" in target else "?") + "&".join(query)
    schema = said.body if isinstance(said.body, str) else draw(st.sampled_from(said.body))
    body = BODIES[schema](draw, rights)
    headers = {"Content-Type": CONTENT_TYPES.get(schema, "application/json")} if body else {}
    tried = TRIED | {name: HEADERS[name] for name in said.headers}
    for each in sorted(draw(st.sets(st.sampled_from(sorted(tried)), max_size=3))):
        headers[each.replace("*", "of")] = tried[each](draw, rights)
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Request(route.method, target, sent, headers | shown)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Rights, str, list[Request]]:
    rights = _rights(draw)
    kind, area = draw(st.sampled_from(IDENTITIES)), draw(st.sampled_from(AREAS))
    return rights, area, draw(st.lists(requests(rights, kind, area), min_size=1, max_size=5))


_VARYING = re.compile(
    r"(?P<trace>00-[0-9a-f]{32}-[0-9a-f]{16}-0[01])|(?P<uuid>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"
    r"|(?<![0-9a-f])(?P<etag>[0-9a-f]{32})(?![0-9a-f])"
    r"|(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|\+00:00))|\w{3}, \d\d \w{3} \d{4} [\d:]{8} GMT"
    r"|(?<=[?&])(?P<signature>expires=\d+|kid=[0-9a-f]{8}&sig=[\w-]{43})"
    r'|(?<="cursor":)"(?P<cursor>[^"]*)"|(?<="etag":)"(?P<tag>[^"]*)"|(?<="receipt":)"(?P<receipt>[^"]*)"'
)


def told(answer: AppAnswer) -> Any:
    """An answer without what is made anew each time, such as ids and times."""

    def same(text: str) -> str:
        return _VARYING.sub(lambda found: f"<{found.lastgroup or 'date'}>", text)

    body = answer.body.decode("utf-8", "backslashreplace")
    made = {"etag", *({"content-digest"} if not body or same(body) != body else ())}
    headers = {
        name: f"<{name}>" if name in made else same(value)
        for name, value in answer.headers.items()
        if name != "content-length" or not answer.body
    }
    return answer.status, headers, same(body)


def _secrets(rights: Rights) -> set[str]:
    """What must not stand in any answer."""
    found: set[str] = set()
    for name in KEYS:
        if not rights.loads(name):
            found.add(mark(name))
            own = name.removeprefix(rights.root)
            if not (name.startswith(rights.root) and rights.allows("list", own)):
                found.add(mark(f"{name} "))
    if not rights.operates:
        found |= {mark(agent) for agent in AGENTS if not rights.names("tasks", agent)}
    found |= {mark(name) for name in VERSIONED if not rights.loads(f"{name}/v1")}
    found |= {mark(table) for table in TABLES if not rights.names("tables", table)}
    return found | {mark(queue) for queue in QUEUES if not rights.names("queues", queue)}


@settings(
    deadline=None,
    max_examples=5000 if SOAK else 100,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(case=cases())
def test_no_answer_tells_of_what_does_not_concern_the_caller(
    policy_file: Path, case: tuple[Rights, str, list[Request]]
) -> None:
    """Two stores differ in that alone. Whatever the caller asks, the answers are the same, and what does not
    concern it stays as it was."""
    rights, area, asked = case

    async def check() -> None:
        async with worlds(
            rights, policy_file, memory(), memory(), tasks=area == "tasks", versions=area == "objects"
        ) as both:
            await _compare(rights, asked, both, "/api/tasks?limit=1000" if area == "tasks" else "")

    asyncio.run(check())


async def _compare(rights: Rights, asked: Sequence[Request], both: list[World], last: str) -> None:
    secrets = _secrets(rights)
    before = await both[0].hidden()

    async def ask(request: Request) -> None:
        found = [
            await each.ask(request.method, request.target, request.body, request.headers) for each in both
        ]
        for answer in found:
            shown = answer.body.decode("utf-8", "backslashreplace") + str(answer.headers)
            assert not (leaked := [secret for secret in secrets if secret in shown]), (leaked, request)
            assert answer.status < 500 or answer.status == 501, (request, answer.body)
        assert told(found[0]) == told(found[1]), request

    for request in asked:
        await ask(request)
    if last:
        for each in both:
            await each.run_tasks()
        headers, query = identity("key")
        assert not query
        await ask(Request("GET", last, b"", headers))
    assert await both[0].hidden() == before


# -- who may do what: the whole matrix


@dataclass(frozen=True)
class Deed:
    """Something to do to an object: the rights that it needs, and the request."""

    needs: tuple[str, ...]
    method: str
    target: str
    body: bytes = b""
    headers: Mapping[str, str] | None = None
    statuses: tuple[int, ...] = (200,)
    """With these rights, if the object is there."""
    to: tuple[str, ...] = ()
    """The rights to another object, whose name ends in ``.new``."""


_PATH, _QUERY = "/api/objects/{}", "/api/objects?key={}"
_MERGE = {"content-type": "application/merge-patch+json"}
DEEDS: Mapping[str, Deed] = {
    "load": Deed(("load",), "GET", _PATH),
    "load a part": Deed(("load",), "GET", _PATH, headers={"range": "bytes=0-0"}, statuses=(206,)),
    "load by query": Deed(("load",), "GET", _QUERY),
    "look": Deed(("load",), "HEAD", _PATH),
    "look by query": Deed(("load",), "HEAD", _QUERY),
    "load what is new": Deed(("load",), "GET", _PATH, headers={"if-none-match": "*"}, statuses=(304,)),
    "save": Deed(("save",), "PUT", _PATH, b"1"),
    "save by query": Deed(("save",), "PUT", _QUERY, b"1"),
    "create": Deed(("save",), "PUT", _PATH, b"1", {"if-none-match": "*"}, statuses=(412,)),
    "replace": Deed(("save",), "PUT", _PATH, b"1", {"if-match": "*"}),
    "touch": Deed(("save",), "PATCH", _PATH, b'{"ttl_seconds": 60}'),
    "touch by query": Deed(("save",), "PATCH", _QUERY, b'{"metadata": {}}'),
    **{
        f"{what} by MCP": Deed(
            (need,),
            "POST",
            "/api/mcp",
            json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode(),
        )
        for what, need, method, params in (
            ("load", "load", "tools/call", {"name": "load_object", "arguments": {"key": "KEY"}}),
            ("save", "save", "tools/call", {"name": "save_object", "arguments": {"key": "KEY", "value": 1}}),
            ("read", "load", "resources/read", {"uri": "agentstorage:///KEY"}),
        )
    },
    **{
        f"{made['op']} in a batch": Deed(
            needs, "POST", "/api/batch", json.dumps({"operations": [made]}).encode(), None, (status,), to
        )
        for made, needs, to, status in (
            ({"op": "load", "key": "KEY"}, ("load",), (), 200),
            ({"op": "exists", "key": "KEY"}, ("load",), (), 200),
            ({"op": "save", "key": "KEY", "value": 1}, ("save",), (), 200),
            ({"op": "delete", "key": "KEY", "if_match": "*"}, ("delete",), (), 204),
            ({"op": "copy", "key": "KEY", "to": "KEY.new"}, ("load",), ("save",), 201),
            ({"op": "move", "key": "KEY", "to": "KEY.new"}, ("load", "delete"), ("save",), 201),
        )
    },
    "patch": Deed(("load", "save"), "PATCH", _PATH, b'{"n": 1}', _MERGE),
    "patch by query": Deed(("load", "save"), "PATCH", _QUERY, b'{"n": 1}', _MERGE | {"if-match": "*"}),
    "delete": Deed(("delete",), "DELETE", _PATH, statuses=(204,)),
    "delete by query": Deed(("delete",), "DELETE", _QUERY, statuses=(204,)),
    "delete another version": Deed(
        ("delete",), "DELETE", _PATH, headers={"if-match": '"x"'}, statuses=(412,)
    ),
}


@pytest.fixture
def audit() -> Iterator[Audit]:
    handler, logger = Audit(), logging.getLogger("AOS.Audit")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


@settings(
    deadline=None,
    max_examples=500 if SOAK else 6,
    phases=UNSHRUNK,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(rights=st.composite(_rights)(), kind=st.sampled_from(IDENTITIES))
def test_each_deed_to_each_object_needs_its_rights(
    policy_file: Path, audit: Audit, rights: Rights, kind: str
) -> None:
    """With them it is done; without, it is a 403 whether or not the object is there, and the audit log says
    who was denied what."""

    async def check() -> None:
        shown, query = identity(kind)
        for deed in DEEDS.values():
            async with worlds(rights, policy_file, memory(audited=True)) as (world,):
                there = {each.key async for each in world.state.storage.list_objects()}
                for key in dict.fromkeys((*KEYS, *(name.removeprefix(rights.root) for name in KEYS), "gone")):
                    target = deed.target.format(quote(key)) + (
                        query and f"{'&' if '?' in deed.target else '?'}{query}"
                    )
                    audit.entries.clear()
                    answer = await world.ask(
                        deed.method,
                        target,
                        deed.body.replace(b"///KEY", f"///{quote(key)}".encode()).replace(
                            b"KEY", json.dumps(key)[1:-1].encode()
                        ),
                        {"content-type": "application/json", **(deed.headers or {}), **shown},
                    )
                    if deed.target == "/api/batch":
                        (result,) = answer.json["results"]
                        answer = replace(answer, status=result["status"])
                    if deed.target == "/api/mcp":
                        answer = replace(answer, status=_status_by_mcp(answer))
                    needs = [(need, key) for need in deed.needs] + [(need, f"{key}.new") for need in deed.to]
                    lacking = [need for need in needs if not rights.allows(*need)]
                    case = (deed.method, target, answer.status, answer.body)
                    # Nobody learns of the root that is theirs.
                    assert not rights.root or f"{rights.root}{key}".encode() not in answer.body, case
                    if lacking:
                        assert answer.status == 403, case
                        (denied,) = audit.denied()
                        assert denied in [
                            (principal(kind), f"access.{action}", f"objects/{rights.root}{name}")
                            for action, name in lacking
                        ], case
                    else:
                        assert audit.denied() == [], case
                        if rights.root + key in there:
                            assert answer.status in deed.statuses, case
                        else:
                            assert answer.status in (201, 404, 412), case

    asyncio.run(check())


def _status_by_mcp(answer: AppAnswer) -> int:
    """What the route would have answered that a message stands for."""
    if "error" in answer.json:
        return answer.json["error"]["data"]["status"]
    result = answer.json["result"]
    if result.get("isError"):
        return json.loads(result["content"][0]["text"])["status"]
    return result.get("structuredContent", {}).get("status", 200)


TRIPLES = (
    ("agents/ceo/a", "agents/ceo/new", "agents/ceo"),
    ("agents/ceo/a", "agents/ceo2/new", "agents/ceo"),
    ("agents/ceo2/a", "agents/ceo/new", ""),
    ("a", "new", "agents/"),
)
PREFIXES = ("", "a", "agents", "agents/", "agents/ceo", "agents/ceo/", "shared", "tenants/", "tenants/a", "z")


@settings(
    deadline=None,
    max_examples=1000 if SOAK else 25,
    phases=UNSHRUNK,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(rights=st.composite(_rights)(), kind=st.sampled_from(IDENTITIES))
def test_listings_tasks_and_the_apps_own_need_their_rights(
    policy_file: Path, audit: Audit, rights: Rights, kind: str
) -> None:
    shown, query = identity(kind)
    who = principal(kind)

    async def check() -> None:
        async with worlds(rights, policy_file, memory(audited=True), tasks=True) as (world,):

            async def ask(method: str, target: str, body: bytes = b"") -> AppAnswer:
                audit.entries.clear()
                target += query and f"{'&' if '?' in target else '?'}{query}"
                return await world.ask(method, target, body, {"content-type": "application/json", **shown})

            def denied(answer: AppAnswer, action: str, resource: str, status: int = 403) -> None:
                assert answer.status == status, (resource, answer.body)
                assert audit.denied() == [(who, f"access.{action}", resource)]

            async def ran(agent: str) -> None:
                """A task has the rights of whoever submitted it, and no others."""
                for source, target, prefix in TRIPLES:
                    payload = {"from": source, "to": target, "list": prefix}
                    task = {"action": ACTION, "agent_id": agent, "payload": payload}
                    record = (await ask("POST", "/api/tasks", json.dumps(task).encode())).json
                    await world.run_tasks()
                    record = (await ask("GET", f"/api/tasks/{record['task_id']}")).json
                    may = rights.lists_below(prefix) and rights.allows("load", source)
                    if may and rights.root + source not in KEYS:
                        assert record["error"]["code"] == "key-not-found"
                    elif may and rights.allows("save", target):
                        assert record["status"] == "succeeded"
                    else:
                        assert record["error"]["code"] == "forbidden"
                        assert audit.denied() == []

            own = [name.removeprefix(rights.root) for name in KEYS if name.startswith(rights.root)]
            for prefix in PREFIXES:
                listed = await ask("GET", f"/api/objects?prefix={prefix}")
                if not rights.lists_below(prefix):
                    denied(listed, "list", f"objects/{rights.root}{prefix}")
                    continue
                seen = [key for key in own if key.startswith(prefix) and rights.allows("list", key)]
                assert [each["key"] for each in listed.json["objects"]] == sorted(seen, key=str.encode)

            for agent in AGENTS:
                may = rights.names("tasks", agent)
                task = {"action": ACTION, "agent_id": agent, "payload": {"mark": "x"}}
                submitted = await ask("POST", "/api/tasks", json.dumps(task).encode())
                if may:
                    assert submitted.status == 202
                else:
                    # Who may use no tasks at all is refused before anybody reads of which agent this is.
                    denied(submitted, "tasks", f"tasks/{agent}" if rights.may["tasks"] else "tasks")
                for n, (method, more) in enumerate((("GET", ""), ("POST", "/cancel"), ("POST", "/requeue"))):
                    found = await ask(method, f"/api/tasks/{task_symbol(agent, n)}{more}")
                    if may:
                        assert found.status in (200, 202, 409)
                    else:
                        denied(found, "tasks", f"tasks/{world.tasks[f'{agent}{n}']}", 404)
                if may:
                    await ran(agent)
            tasks = await ask("GET", "/api/tasks?limit=1000")
            if rights.may["tasks"]:
                agents = {agent for agent in AGENTS if rights.names("tasks", agent)}
                assert {each["agent_id"] for each in tasks.json["tasks"]} == agents
            else:
                denied(tasks, "tasks", "tasks")

            for target in ("/api/health/ready", "/api/metrics", "/api/sizes"):
                found = await ask("GET", target)
                if rights.operates:
                    assert found.status in (200, 501)
                else:
                    denied(found, "operate", "app")

    asyncio.run(check())


# -- nobody


def _unproved() -> dict[str, tuple[dict[str, str], str]]:
    """Headers and query of those who claim to be somebody, and cannot prove it."""
    claims = {"auth_typ": "aad", "claims": [{"typ": "roles", "val": "Admin"}], "role_typ": "roles"}
    platform = {
        "x-ms-client-principal": base64.b64encode(json.dumps(claims).encode()).decode(),
        "x-ms-client-principal-id": "root",
        "x-ms-client-principal-idp": "aad",
        "x-ms-client-principal-name": "root",
    }
    forged = {
        "unsigned": signed(
            {"iss": ISSUER, "aud": "api://app", "oid": "root", "exp": 2**33}, "", "none", kid="1"
        ),
        "of another key": token(OTHER, oid="root"),
        "of another app": token(aud="api://other", oid="root"),
        "of another issuer": token(iss="https://login.example", oid="root"),
        "over": token(exp=time.time() - 3600, oid="root"),
        "nonsense": "root",
    }
    keys = (
        "",
        "k-nobody",
        "K-ROOT",
        "k-root ",
        "k-root\t",
        "k-roo",
        "key:root",
        "root",
        hashlib.sha256(b"k-root").hexdigest(),
    )
    return {
        "nothing": ({}, ""),
        **{f"the key {key!r}": ({"x-functions-key": key}, "") for key in keys},
        **{f"the code {key!r}": ({}, f"code={quote(key)}") for key in keys},
        "an empty header before the code": ({"x-functions-key": ""}, "code=k-root"),
        "a wrong header before the code": ({"x-functions-key": "x"}, "code=k-root"),
        "the code twice": ({}, "code=x&code=k-root"),
        "the key in another header": ({"x-api-key": "k-root", "authorization": "Basic k-root"}, ""),
        "the platform's headers": (platform, ""),
        **{f"a token, {what}": ({"authorization": f"Bearer {text}"}, "") for what, text in forged.items()},
        "a false token before a key": ({"authorization": "Bearer x", "x-functions-key": "k-root"}, ""),
    }


UNPROVED = _unproved()


@pytest.mark.parametrize("claim", UNPROVED)
async def test_nobody_gets_anything(
    policy_file: Path, audit: Audit, monkeypatch: pytest.MonkeyPatch, claim: str
) -> None:
    """On no route that is not open. The platform's headers count only where its authentication is on."""
    monkeypatch.delenv("WEBSITE_AUTH_ENABLED")
    shown, query = UNPROVED[claim]
    async with worlds(Rights(), policy_file, memory(audited=True), tasks=True, versions=True) as (world,):
        before = await world.hidden()
        for name, (target, body) in SAMPLES.items():
            audit.entries.clear()
            sent = b"" if body is None else json.dumps(body).encode()
            path = f"/api/{target}" + (query and f"{'&' if '?' in target else '?'}{query}")
            answer = await world.ask(
                name.partition(" ")[0], path, sent, {"content-type": "application/json", **shown}
            )
            status = answer.status
            if name == "POST batch" and status == 200:
                (status,) = (each["status"] for each in answer.json["results"])
            assert status in ((401, 403, 404) if "{task_id}" in name else (401, 403)), (
                name,
                answer.body,
            )
            assert audit.entries, name
            assert "root" not in str(audit.entries[-1]["actor"])
        assert await world.hidden() == before


async def test_one_with_every_right_may_make_each_of_these_requests(policy_file: Path) -> None:
    for name, (target, body) in SAMPLES.items():
        async with worlds(Rights(), policy_file, memory(), tasks=True, versions=True) as (world,):
            sent = b"" if body is None else json.dumps(body).encode()
            answer = await world.ask(
                name.partition(" ")[0],
                f"/api/{target}",
                sent,
                {"content-type": "application/json", **identity("key", "root")[0]},
            )
            assert answer.status < 300 or answer.status == 501, (name, answer.body)
