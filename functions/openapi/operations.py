"""One operation of the OpenAPI document: what a route says of itself, in the words of OpenAPI."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import azure.functions as func

from functions.endpoint import Described
from functions.openapi import parameters, responses
from functions.openapi.examples import Example, all_examples
from functions.openapi.schemas import REFERENCE, media_types
from functions.openapi.wording import described_text

if TYPE_CHECKING:
    from azure.functions.decorators.function_app import Function

BYTES: dict[str, Any] = {
    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    "*/*": {},
}
"""A body of any media type; clients that are generated know one of them."""
_OF_NO_CLASS = {"application/octet-stream", "application/merge-patch+json"}
COMPONENTS = "#/components/"
BY_QUERY = "by_query_"
"""How the name of a route begins that has in the query what another has in its path."""


class Route(NamedTuple):
    """A function of the app that answers HTTP."""

    name: str
    template: str
    """As in OpenAPI: without a star, and with a slash first."""
    methods: tuple[str, ...]
    is_open: bool
    described: Described | None
    docstring: str
    handler: Any = None
    """What answers it: without what `functions.endpoint.endpoint` does around it, its ``__wrapped__``."""


def routes_of(app: func.FunctionApp) -> list[Route]:
    """The routes of ``app``, in the order they were registered."""
    app.functions_bindings = {}  # What it has seen: it takes each for a second one of the name.
    return [route for function in app.get_functions() if (route := _route(function)) is not None]


def _route(function: Function) -> Route | None:
    trigger: Any = function.get_trigger()
    if trigger is None or trigger.get_binding_name() != "httpTrigger":
        return None
    handler: Any = function.get_user_function()
    return Route(
        str(function.get_function_name()),
        "/" + str(trigger.route).strip("/").replace("{*", "{"),
        tuple(str(getattr(each, "value", each)).upper() for each in trigger.methods or ("GET", "POST")),
        trigger.auth_level is func.AuthLevel.ANONYMOUS,
        vars(handler).get("described") if hasattr(handler, "__dict__") else None,
        handler.__doc__ or "",
        handler,
    )


_OBJECTS = ("objects", "batch", "prefixes", "versions", "links", "signed", "uploads")
_SERVICE = ("health", "metrics", "openapi.json", "docs")


def area(path: str) -> str:
    """What a route is about: its tag."""
    first = path.split("/")[1]
    if first == "conversation-edits":
        return "conversations"
    return "objects" if first in _OBJECTS else "service" if first in _SERVICE else first


def rank(path: str) -> tuple[int, str, int, str]:
    """Where a route stands: objects first, what is the app's own last."""
    name, first = area(path), path.split("/")[1]
    within = _OBJECTS.index(first) if name == "objects" else 0
    return {"objects": 0, "service": 2}.get(name, 1), name, within, path


def operations(route: Route, prefix: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Its path, method and description, for each of its methods.

    :param prefix: the path below which the host serves the routes.
    """
    for method in route.methods:
        yield route.template, method.lower(), _operation(route, method, prefix)


def _operation(route: Route, method: str, prefix: str) -> dict[str, Any]:
    found = route.described
    summary, description = described_text(route.docstring, route.name)
    # HEAD beside GET is one function, and each operation needs a name of its own.
    is_head = method == "HEAD" and "GET" in route.methods
    operation: dict[str, Any] = {
        "operationId": f"head_{route.name}" if is_head else route.name,
        "tags": [area(route.template)],
        "summary": f"The headers of: {summary[0].lower()}{summary[1:]}" if is_head else summary,
    }
    if route.is_open:
        operation["security"] = []
    names = re.findall(r"\{(\w+)\}", route.template)
    given = all_examples().examples.get(route.name, ())
    if found is None:  # Somebody's own function, which says nothing of itself.
        operation["parameters"] = [_path(name, given) for name in names]
        operation["responses"] = {"default": {"description": "What this function answers."}}
        return _cleaned(operation | {"description": description})
    families = parameters.UNNAMED_HEADERS | parameters.UNNAMED_QUERY
    for name in (*found.headers, *found.parameters):
        if text := families.get(name):
            description = f"{description}\n\n{text}" if description else text
    operation["description"] = description
    operation["parameters"] = [
        *(_path(name, given) for name in names),
        *(_query(route.name, name, given) for name in found.parameters if name not in families),
        *(header(name) for name in found.headers if name not in ("Content-Type", *families)),
        *({"$ref": f"{COMPONENTS}parameters/{name}"} for name in parameters.EVERYWHERE),
    ]
    if found.body and method not in ("GET", "HEAD"):
        operation["requestBody"] = {"required": True, "content": _requested(found.body, given)}
    operation["responses"] = dict(sorted(_responses(route, found, method, given).items()))
    if method != "HEAD" and given:
        operation["x-codeSamples"] = [
            {"lang": "Shell", "label": each.name, "source": each.curl(method, route.template, prefix)}
            for each in given
        ]
    return _cleaned(operation)


def _cleaned(operation: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in operation.items() if value or name == "security"}


def _path(name: str, given: Iterable[Example]) -> dict[str, Any]:
    text, schema = parameters.PATH.get(name, ("", {"type": "string"}))
    found: dict[str, Any] = {"name": name, "in": "path", "required": True, "schema": schema}
    if text:
        found["description"] = text
    for each in given:
        if name in each.path:
            return found | {"example": each.path[name]}
    return found


def _query(route: str, name: str, given: Iterable[Example]) -> dict[str, Any]:
    text, schema = parameters.QUERY_OF.get((route, name)) or parameters.QUERY.get(
        name, ("", {"type": "string"})
    )
    found: dict[str, Any] = {"name": name, "in": "query", "schema": schema}
    if text:
        found["description"] = text
    in_place_of_path = route.startswith(BY_QUERY) and name in parameters.PATH
    if in_place_of_path or name in parameters.REQUIRED_QUERY.get(route.removeprefix(BY_QUERY), ()):
        found["required"] = True
        for each in given:
            if name in each.query:
                found["example"] = each.query[name]
    return found


def header(name: str) -> dict[str, Any]:
    """A header of requests."""
    unknown: tuple[str, dict[str, Any]] = ("", {"type": "string"})
    text, schema = parameters.HEADERS.get(name) or parameters.EVERYWHERE.get(name) or unknown
    found: dict[str, Any] = {"name": name, "in": "header", "schema": schema}
    return found | {"description": text} if text else found


def _content(names: str | tuple[str, ...]) -> dict[str, Any]:
    """Of a body, by media type: schemas of one media type are alternatives."""
    by_type: dict[str, list[Any]] = {}
    found: dict[str, Any] = {}
    for name in (names,) if isinstance(names, str) else names:
        if name == "bytes":
            found |= {media_type: dict(media) for media_type, media in BYTES.items()}
        elif name:
            media_type = media_types().get(name, "application/json")
            by_type.setdefault(media_type, []).append({"$ref": REFERENCE.format(name=name)})
    for media_type, several in by_type.items():
        if "*/*" in found and media_type == "application/json":
            several.append({"description": "The bytes of an object that is JSON itself."})
        found[media_type] = {"schema": several[0] if len(several) == 1 else {"anyOf": several}}
    # Generated clients read the first media type that they know.
    return dict(sorted(found.items(), key=lambda each: each[0] in BYTES))


def _requested(names: str | tuple[str, ...], given: Iterable[Example]) -> dict[str, Any]:
    content = _content(names)
    if "*/*" in content:
        content: dict[str, Any] = {
            "application/json": {"schema": {}},
            "text/plain": {"schema": {"type": "string"}},
        } | content
    if len(content) > 1:
        # Of several bodies, generated Python clients find out by its class which one is given, and fail for
        # those that can be anything. They leave out a body without a schema, which means the same.
        for media_type in _OF_NO_CLASS & content.keys():
            content[media_type] = {}
    for each in given:
        if each.body is None:
            continue
        media_type = each.media_type if each.media_type in content else "*/*"
        if media_type in content and media_type != "*/*":
            content[media_type].setdefault("examples", {})[each.name] = {"value": each.body}
    return content


def _responses(
    route: Route, found: Described, method: str, given: Iterable[Example]
) -> dict[str, dict[str, Any]]:
    result: dict[str, dict[str, Any]] = {}
    for status, names in found.answers.items():
        # What the client has is described by the headers that came with it (RFC 9110, 15.4.5).
        whole = found.answers.get(200, names) if status == 304 else names
        several = (whole,) if isinstance(whole, str) else whole
        headers = [
            *responses.OF_STATUS.get(status, ()),
            *responses.OF_OPERATION.get((route.name.removeprefix(BY_QUERY), status), ()),
            *(header for name in several for header in responses.OF_SCHEMA.get(name, ())),
        ]
        answer: dict[str, Any] = {"description": responses.described(status)}
        if headers:
            answer["headers"] = {
                name: {"$ref": f"{COMPONENTS}headers/{name}"} for name in dict.fromkeys(headers)
            }
        if method != "HEAD" and (content := _content(names)):
            answer["content"] = content
            for each in given:
                if each.status == status and each.answer is not None:
                    content["application/json" if "application/json" in content else "*/*"].setdefault(
                        "examples", {}
                    )[each.name] = {"value": each.answer}
            if followed := all_examples().links.get((route.name, status)):
                answer["links"] = followed
        result[str(status)] = answer
    of_body = responses.OF_BODIES if found.body else ()
    of_condition = (412,) if "If-Match" in found.headers else ()
    for status in {*responses.EVERY_PROBLEM, *of_body, *of_condition, *found.problems}:
        if route.is_open and status in (401, 429) and status not in found.problems:
            continue
        if (own := result.get(str(status))) is not None:  # Its errors have a form of their own, too.
            own["content"] = own.get("content", {}) | _content("Problem")
            continue
        result[str(status)] = (
            problem(status, content=False)
            if method == "HEAD"
            else {"$ref": f"{COMPONENTS}responses/Problem{status}"}
        )
    return result


def problem(status: int, *, content: bool = True) -> dict[str, Any]:
    """The problems with a status."""
    answer: dict[str, Any] = {"description": responses.described(status)}
    if headers := responses.OF_STATUS.get(status):
        answer["headers"] = {name: {"$ref": f"{COMPONENTS}headers/{name}"} for name in headers}
    # The host's own 401 has no body.
    return answer | {"content": _content("Problem")} if content and status != 401 else answer
