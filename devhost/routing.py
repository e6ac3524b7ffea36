"""HTTP routes as Functions matches them: templates as in ASP.NET Core, one after the other, and methods.

Of several templates that match, Functions takes that of the function whose name comes first, however literal
another one is (azure-functions-host, issue 9876).

Source of the other rules: "Routing in ASP.NET Core", route templates.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from devhost.errors import DevhostError
from devhost.runtime import Function


@dataclass(frozen=True, slots=True)
class Literal:
    """A segment that must be there, in any case."""

    text: str


@dataclass(frozen=True, slots=True)
class Parameter:
    """``{name}``, ``{name?}``, ``{name:int}`` or, over the rest of the path, ``{*name}``."""

    name: str
    optional: bool = False
    catch_all: bool = False
    checks: tuple[Callable[[str], bool], ...] = ()


Segment = Literal | Parameter


@dataclass(frozen=True, slots=True)
class Route:
    """One function at one template. ``methods`` is empty where the function takes all."""

    function: Function
    template: str
    segments: tuple[Segment, ...]
    methods: frozenset[str]
    auth_level: str


@dataclass(frozen=True, slots=True)
class Match:
    """The route for a request and the values of its parameters."""

    route: Route
    values: dict[str, str]


class RouteTable:
    """All HTTP functions of an app, by path and method, in the order of their names."""

    def __init__(self, functions: Iterable[Function], prefix: str) -> None:
        """:raises DevhostError: a template that devhost does not know to match; the text names it."""
        found = sorted(functions, key=lambda function: function.name.lower())
        self.routes = tuple(_route(function, prefix) for function in found if function.kind == "http")

    def resolve(self, method: str, path: str) -> Match | None:
        """The function for a decoded path and a method; None where no template matches, which is a 404.

        HEAD is a method like any other: Functions does not answer it with what GET would say. Where only the
        method is wrong, Functions answers 404 too (azure-functions-host, issue 10098).
        """
        for route in self.routes:
            if not route.methods or method in route.methods:
                values = match_segments(route.segments, path)
                if values is not None:
                    return Match(route, values)
        return None

    def methods(self, path: str) -> list[str]:
        """The methods that functions take at this path."""
        found = [route.methods for route in self.routes if match_segments(route.segments, path) is not None]
        return sorted(frozenset[str]().union(*found))


def parse_template(template: str, where: str) -> tuple[Segment, ...]:
    """The segments of a route template.

    :raises DevhostError: it is malformed, or uses what devhost does not support.
    """
    if template.startswith(("/", "~")):
        raise DevhostError(f'{where}: route "{template}" cannot start with "{template[0]}"')
    parts = template.rstrip("/").split("/") if template else []
    segments = tuple(_segment(part, template, where) for part in parts)
    for segment in segments[:-1]:
        if isinstance(segment, Parameter) and (segment.optional or segment.catch_all):
            raise DevhostError(f'{where}: route "{template}": {{{segment.name}}} must be its last segment')
    return segments


def match_segments(segments: tuple[Segment, ...], path: str) -> dict[str, str] | None:
    """The parameters' values where the path has these segments, else None.

    A trailing slash makes no segment, except within the rest that a catch-all takes; a parameter
    never matches an empty segment, nor does the first segment of a catch-all.
    """
    rest = path.removeprefix("/")
    parts = rest.split("/")
    if parts[-1] == "":
        parts.pop()
    values: dict[str, str] = {}
    for at, segment in enumerate(segments):
        if isinstance(segment, Parameter) and segment.catch_all:
            taken = "/".join(rest.split("/")[at:])
            if taken.startswith("/"):
                return None
            if taken and not all(check(taken) for check in segment.checks):
                return None
            return values | {segment.name: taken} if taken else values
        if at >= len(parts):
            return values if isinstance(segment, Parameter) and segment.optional else None
        if isinstance(segment, Literal):
            if segment.text.lower() != parts[at].lower():
                return None
        elif not parts[at] or not all(check(parts[at]) for check in segment.checks):
            return None
        else:
            values[segment.name] = parts[at]
    return values if len(parts) <= len(segments) else None


def _route(function: Function, prefix: str) -> Route:
    trigger: Any = function.trigger
    template = str(trigger.get("route", function.name))
    return Route(
        function=function,
        template="/".join(part for part in (prefix, template) if part),
        segments=(
            *parse_template(prefix, "host.json"),
            *parse_template(template, f"function {function.name}"),
        ),
        methods=frozenset(str(method).upper() for method in trigger.get("methods") or ()),
        auth_level=str(trigger.get("authLevel", "function")),
    )


def _segment(part: str, template: str, where: str) -> Segment:
    if "{" not in part and "}" not in part:
        if not part:
            raise DevhostError(f'{where}: route "{template}" has an empty segment')
        return Literal(part)
    match = re.fullmatch(r"\{(\*{0,2})([A-Za-z_]\w*)((?::[^:{}?]+)*)(\??)\}", part)
    if match is None or (match[1] and match[4]):
        raise DevhostError(f'{where}: route "{template}": devhost does not support the segment "{part}"')
    names = match[3].split(":")[1:]
    unknown = [name for name in names if name not in _CONSTRAINTS]
    if unknown:
        raise DevhostError(
            f'{where}: route "{template}": devhost knows the constraints '
            f"{', '.join(_CONSTRAINTS)}, not {unknown[0]}"
        )
    return Parameter(match[2], bool(match[4]), bool(match[1]), tuple(_CONSTRAINTS[name] for name in names))


def _integer_of(bits: int) -> Callable[[str], bool]:
    limit = 2 ** (bits - 1)

    def check(text: str) -> bool:
        return re.fullmatch(r"[+-]?[0-9]{1,20}", text) is not None and -limit <= int(text) < limit

    return check


def _is_guid(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


_CONSTRAINTS: dict[str, Callable[[str], bool]] = {
    "int": _integer_of(32),
    "long": _integer_of(64),
    "guid": _is_guid,
    "alpha": lambda text: re.fullmatch(r"[A-Za-z]*", text) is not None,
    "bool": lambda text: text.lower() in ("true", "false"),
}
