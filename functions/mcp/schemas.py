"""The JSON Schemas of what tools take and give, made of those of the OpenAPI document."""

from __future__ import annotations

import functools
import json
import re
from typing import Any

from functions.mcp.tools import CONDITION, WAIT, Tool
from functions.openapi import parameters, registered
from functions.openapi.operations import Route, routes_of
from functions.openapi.schemas import schemas
from functions.openapi.wording import described_text
from functions.preferences import MAX_WAIT_SECONDS

_REFERENCE = "#/components/schemas/"
_CONDITION = {"type": "string", "description": "The ETag that it must have; otherwise nothing is changed."}
_WAIT = {
    "type": "integer",
    "minimum": 0,
    "maximum": MAX_WAIT_SECONDS,
    "default": MAX_WAIT_SECONDS,
    "description": "How many seconds to wait for the end.",
}
_AGENT = {"description": "The agent on whose behalf it is done; yours, unless you have several."}
_FORMATS = ("date-time", "uri")
"""What models' vendors know; others they refuse."""


@functools.cache
def routes() -> dict[str, Route]:
    """The routes of the app, by the names of their functions."""
    return {route.name: route for route in routes_of(registered())}


@functools.cache
def _components() -> dict[str, Any]:
    return schemas()


def described(tool: Tool) -> str:
    """What a model is told of a tool."""
    if tool.describes or tool.operation:
        return tool.describes
    name = tool.route.removeprefix("by_query_")
    summary, more = described_text(routes()[name].docstring, name)
    return f"{summary}. {more}".strip()


def taken(tool: Tool, payload: dict[str, Any] | None = None) -> dict[str, Any]:
    """The schema of a tool's arguments.

    :param payload: that of the payload of its action.
    """
    schema: dict[str, Any] = {"type": "object", "properties": {}, "required": []}
    if tool.operation:
        schema |= _members(f"{tool.operation.title()}Operation", without=("op",))
    elif tool.action:
        schema |= payload or {}
        schema["properties"] = {**schema["properties"], "agent_id": _submitted("agent_id") | _AGENT}
    else:
        _add_route(schema, tool)
    if tool.runs:
        schema["properties"] = {**schema["properties"], WAIT: _WAIT}
    schema["additionalProperties"] = False
    if not schema["required"]:
        del schema["required"]
    return _closed(schema)


def given(tool: Tool) -> dict[str, Any]:
    """The schema of a tool's result."""
    name = tool.gives
    if not name:
        described = routes()[tool.route].described
        names = next(iter(described.answers.values())) if described else ""
        name = names if isinstance(names, str) else names[0]
    return _closed(dict(_components()[name]))


def _add_route(schema: dict[str, Any], tool: Tool) -> None:
    route = routes()[tool.route]
    found, required, described = schema["properties"], schema["required"], route.described
    for name in re.findall(r"\{(\w+)\}", route.template):
        found[name] = _told(parameters.PATH[name])
        required.append(name)
    for name in described.parameters if described else ():
        if name not in tool.without:
            found[name] = _told(parameters.QUERY_OF.get((route.name, name)) or parameters.QUERY[name])
            if route.name.startswith("by_query_") and name in parameters.PATH:
                required.append(name)
    if described and "If-Match" in described.headers and CONDITION not in tool.without:
        found[CONDITION] = _CONDITION
    if tool.whole:
        found[tool.whole] = _components()[tool.body]
        required.append(tool.whole)
    elif tool.body:
        members = _members(tool.body)
        found |= members["properties"]
        required += members.get("required", ())


def _members(name: str, without: tuple[str, ...] = ()) -> dict[str, Any]:
    schema = _components()[name]
    return {
        "properties": {key: each for key, each in schema["properties"].items() if key not in without},
        "required": [each for each in schema.get("required", ()) if each not in without],
    }


def _submitted(name: str) -> dict[str, Any]:
    return _components()["TaskSubmission"]["properties"][name]


def _told(described: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    text, schema = described
    return {**schema, "description": text}


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """With all that it refers to, and without what only readers of the document understand."""
    needed: dict[str, Any] = {}
    waiting = _referred(schema)
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed[name] = _components()[name]
            waiting += _referred(needed[name])
    text = json.dumps(schema | ({"$defs": needed} if needed else {}))
    return _plain(json.loads(text.replace(_REFERENCE, "#/$defs/")))


def _referred(schema: Any) -> list[str]:
    return re.findall(rf'"{_REFERENCE}(\w+)"', json.dumps(schema))


def _plain(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_plain(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: _plain(value)
        for name, value in schema.items()
        if not (
            isinstance(value, str)
            and ((name == "format" and value not in _FORMATS) or (name == "pattern" and "(?" in value))
        )
    }
