"""What the compiler leaves in a snapshot: expressions as ``[reference('…', '2025-01-01').properties.x]``.

They are evaluated as far as they can be, to the same values that `tests.bicep` has for them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.bicep import GROUP, Runtime, resource_id
from tests.bicep_functions import FUNCTIONS, SUBSCRIPTION, BicepError, equals, has_runtime, shown, truth


class Unknown(Runtime):
    """A value of which it is not known here what it would be: its text is the expression."""

    __slots__ = ()


TOKEN = re.compile(r"\s*(?:'((?:[^']|'')*)'|(-?\d+)|([A-Za-z_]\w*)|([\[\]().,?]))")


def resolved(value: Any, group: str = "") -> Any:
    """A value of a snapshot with its expressions evaluated, and without what is null.

    :param group: the resource group that it is in.
    """
    if isinstance(value, dict):
        found = {resolved(key, group): resolved(each, group) for key, each in value.items()}
        return {key: each for key, each in found.items() if each is not None}
    if isinstance(value, list):
        return [resolved(each, group) for each in value]
    if not isinstance(value, str) or not value.startswith("[") or not value.endswith("]"):
        return value
    if value.startswith("[["):
        return value[1:]
    try:
        tokens = _Tokens(value[1:-1])
        found = _Expression(tokens, group).value()
        left = next(tokens, None)
        if left is not None:
            raise BicepError(f"{left} is too much")
    except (BicepError, StopIteration, LookupError, TypeError, ValueError):
        return Unknown(value)
    return found


class _Tokens(Iterator[re.Match[str]]):
    """The tokens of an expression, the next of which may be looked at."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    def peek(self) -> str:
        match = TOKEN.match(self.text, self.at)
        return match[4] or "" if match else ""

    def __next__(self) -> re.Match[str]:
        match = TOKEN.match(self.text, self.at)
        if match is None:
            if self.text[self.at :].strip():
                raise BicepError(f"{self.text!r} is no expression")
            raise StopIteration
        self.at = match.end()
        return match


@dataclass
class _Expression:
    tokens: _Tokens
    group: str

    def value(self) -> Any:
        text, digits, name, sign = next(self.tokens).groups()
        if text is not None:
            return text.replace("''", "'")
        if digits is not None:
            return int(digits)
        if name is None:
            raise BicepError(f"{sign} is no beginning")
        value = self.call(name)
        while self.tokens.peek() in (".", "["):
            if next(self.tokens)[4] == ".":
                key: Any = next(self.tokens)[3]
            else:
                key = self.value()
                self.expect("]")
            value = Runtime(f"{value}.{key}") if isinstance(value, Runtime) else value[key]
        return value

    def call(self, name: str) -> Any:
        self.expect("(")
        arguments: list[Any] = []
        while self.tokens.peek() != ")":
            arguments.append(self.value())
            if self.tokens.peek() != ")":
                self.expect(",")
        self.expect(")")
        if name == "resourceGroup" and not arguments and self.group:
            return {"id": resource_id(GROUP, self.group), "name": self.group}
        if name not in KNOWN:
            raise BicepError(f"{name} is not understood here")
        return KNOWN[name](*arguments)

    def expect(self, sign: str) -> None:
        if next(self.tokens)[4] != sign:
            raise BicepError(f"there is no {sign}")


def _reference(resource: str, api: str = "", full: str = "") -> Runtime:
    """As `tests.bicep` names what only Azure knows."""
    provider, *pairs = resource.rpartition("/providers/")[2].split("/")
    kind, name = "/".join([provider, *pairs[::2]]), "/".join(pairs[1::2])
    if not name or kind == "Microsoft.Resources/deployments":
        raise BicepError(f"what is known of {resource} is not in the expression")
    return Runtime(f"{{{kind}/{name}}}{'' if full else '.properties'}")


def _format(pattern: str, *values: Any) -> str:
    found = re.sub(r"\{(\d+)\}|\{\{|\}\}", lambda m: shown(values[int(m[1])]) if m[1] else m[0][0], pattern)
    return Runtime(found) if has_runtime([*values]) else found


def _create_object(*parts: Any) -> dict[str, Any]:
    return dict(zip(parts[::2], parts[1::2], strict=True))


KNOWN: dict[str, Callable[..., Any]] = {
    **FUNCTIONS,
    "createArray": lambda *values: [*values],
    "createObject": _create_object,
    "equals": equals,
    "false": lambda: False,
    "format": _format,
    "if": lambda condition, one, other: one if truth(condition) else other,
    "not": lambda value: not truth(value),
    "null": lambda: None,
    "reference": _reference,
    "subscriptionResourceId": lambda kind, name: f"/subscriptions/{SUBSCRIPTION}/providers/{kind}/{name}",
    "true": lambda: True,
}
