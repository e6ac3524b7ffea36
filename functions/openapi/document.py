"""The OpenAPI document, made from what is registered: routes, methods, who may ask, docstrings, and what
`functions.endpoint.Blueprint.http` was told. It and its page are made once in a process."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

import azure.functions as func
import msgspec

from functions.limits import HOST_JSON
from functions.openapi import parameters, responses
from functions.openapi.operations import Route, area, header, operations, problem, rank, routes_of
from functions.openapi.schemas import schemas
from functions.openapi.wording import described_text
from functions.problems import CODES
from functions.served import Served

_SUMMARY = "Storage and tasks for agents."
_ABOUT = """\
Save, load and list objects, and run tasks. An unknown query parameter or field is refused (400) with the
nearest known one. Errors are problems (RFC 9457): `type` is `urn:agent-storage:problem:` and a code that
stays the same, which `x-problem-codes` lists by status; `field`, `limit` and `remedy` say what to change.

The host itself answers an unknown route or a wrong method (404), a malformed URL (400) and a missing key
(401), without a body."""
_TOKENS = "AGENT_STORAGE_ACCESS_ISSUER"


@functools.cache
def document_of(app: func.FunctionApp) -> Served:
    """The OpenAPI document of what ``app`` registers."""
    return Served.of(
        msgspec.json.encode(document(routes_of(app))),
        {"Content-Type": "application/json"},
    )


@functools.cache
def page_of(app: func.FunctionApp) -> Served:
    """The page that shows it."""
    from functions.openapi.page import page, policy

    return Served.of(
        page(msgspec.json.decode(document_of(app).body)).encode(),
        {
            "Content-Type": "text/html; charset=utf-8",
            "Content-Security-Policy": policy(),
            "Referrer-Policy": "no-referrer",  # Its own URL may have a key.
        },
    )


def document(routes: Iterable[Route]) -> dict[str, Any]:
    """The document: the same for the same routes and settings."""
    prefix = _prefix()
    found = [operation for route in _told(list(routes)) for operation in operations(route, prefix)]
    paths: dict[str, dict[str, Any]] = {}
    for path, method, operation in sorted(found, key=lambda each: rank(each[0])):
        paths.setdefault(path, {})[method] = operation
    areas = dict.fromkeys(area(path) for path in paths)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Agent storage", "version": "1", "summary": _SUMMARY, "description": _ABOUT},
        "servers": [{"url": prefix or "/"}],
        "security": _security(),
        "tags": [{"name": name} for name in areas],
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "parameters": {name: header(name) for name in parameters.EVERYWHERE},
            "headers": {
                name: {"description": text, "schema": responses.SCHEMAS.get(name, {"type": "string"})}
                for name, text in responses.HEADERS.items()
            },
            "responses": {
                f"Problem{status}": problem(status) for status in sorted({*CODES, *responses.EVERY_PROBLEM})
            },
            "securitySchemes": _schemes(),
        },
        "x-problem-codes": {str(status): list(codes) for status, codes in CODES.items()},
    }


def _told(routes: list[Route]) -> Iterator[Route]:
    """Each ``by_query_…`` says what the route with the key in the path does."""
    by_name = {route.name: route for route in routes}
    for route in routes:
        twin = by_name.get(route.name.removeprefix("by_query_"), route)
        if twin is not route:
            summary, _ = described_text(twin.docstring, twin.name)
            keys = "keys" if twin.template.count("{") > 1 else "key"
            docstring = f"{summary}, with the {keys} in the query.\n\nFor keys that a path cannot carry."
            route = route._replace(docstring=docstring)
        yield route


def _prefix() -> str:
    """The path below which the host serves the routes (host.json)."""
    found: Any = "api"
    if HOST_JSON.exists():
        root: Any = json.loads(HOST_JSON.read_text(encoding="utf-8-sig"))
        found = root.get("extensions", {}).get("http", {}).get("routePrefix", found)
    return f"/{found}".rstrip("/")


def _security() -> list[dict[str, Any]]:
    """How to show who one is: any of these."""
    keys: list[dict[str, Any]] = [{"functionKey": []}, {"functionKeyInQuery": []}]
    if os.environ.get(_TOKENS):
        keys += [{**key, "token": []} for key in keys]
    # Locally the host asks for no key unless it is told to.
    return [*keys, {}] if os.environ.get("AZURE_FUNCTIONS_ENVIRONMENT") == "Development" else keys


def _schemes() -> dict[str, Any]:
    found: dict[str, Any] = {
        "functionKey": {
            "type": "apiKey",
            "in": "header",
            "name": "x-functions-key",
            "description": "A function key or a host key of the app. Locally none is needed, unless the host"
            " was started with --require-keys.",
        },
        "functionKeyInQuery": {
            "type": "apiKey",
            "in": "query",
            "name": "code",
            "description": "The same key, for clients that cannot set headers. URLs end up in logs.",
        },
    }
    if os.environ.get(_TOKENS):
        found["token"] = {
            "type": "http",
            "scheme": "bearer",
            "description": f"A token of {os.environ[_TOKENS]}, besides a key.",
        }
    return found
