"""The expressions of a Bicep file: each is evaluated to a value of JSON, a resource or a function."""

from __future__ import annotations

import contextlib
import json
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tree_sitter import Node

from tests.bicep_functions import (
    OPERATORS,
    SHORT,
    BicepError,
    Runtime,
    has_runtime,
    known,
    listed,
    number,
    shown,
    text,
    truth,
)
from tests.bicep_model import Resource
from tests.bicep_syntax import parts_of, pieces, text_of, walk

_HANDS_DOWN = frozenset(
    f"{kind}_expression" for kind in ("binary", "lambda", "member", "subscript", "ternary", "unary")
)
Scope = dict[str, Any]
"""The values of the names of lambdas and loops."""
Then = Callable[[Any], Any]


class Expressions:
    """Of one file, ``path`` of ``files``, with the functions that it may call."""

    files: Mapping[str, bytes]
    path: str
    functions: Mapping[str, Callable[..., Any]]

    def value(self, name: str) -> Any:
        """Of what the file declares."""
        raise NotImplementedError

    @contextlib.contextmanager
    def located(self, line: int, what: str = "") -> Iterator[None]:
        """Whatever goes wrong in it is a `BicepError` that says where, the innermost place of all."""
        try:
            yield
        except Exception as error:
            if isinstance(error, BicepError) and error.located:
                raise
            raise self.placed(error, line, what) from error

    def placed(self, error: Exception, line: int, what: str = "") -> BicepError:
        kind = "" if isinstance(error, BicepError) else f"{type(error).__name__}: "
        return self.error(line, f"{what}{kind}{error}")

    def error(self, line: int, message: str) -> BicepError:
        error = BicepError(f"{self.path}:{line}: {message}")
        error.located = True
        return error

    def iterate(self, node: Node, scope: Scope) -> Iterator[tuple[Node, Scope]]:
        names = [
            text_of(n)
            for n in walk(node)
            if n.type in ("loop_variable", "loop_enumerator") and n.parent and n.parent.parent == node
        ]
        initializer = node.child_by_field_name("initializer")
        if initializer is not None:
            names = [text_of(initializer)]
        parts = [c for c in parts_of(node) if c.type != "for_loop_parameters"]
        items, body = [c for c in parts if c != initializer]
        for index, item in enumerate(listed(self.expression(items, scope))):
            yield body, scope | dict(zip(names, (item, index), strict=False))

    def expression(self, node: Node | None, scope: Scope, then: Then | None = None) -> Any:
        """:param then: what is done with the value. tree-sitter-bicep takes `a ? b : c.d` for
        `(a ? b : c).d`, and `x => x.d` for `(x => x).d`; so `.d` is handed down to what it belongs to."""
        if node is None:
            raise BicepError("an expression is missing")
        kind = node.type
        try:
            rule = getattr(self, f"_{kind}", None)
            if rule is None:
                raise BicepError(f"{kind} is not understood here")
            if kind in _HANDS_DOWN:
                return rule(node, scope, then)
            value = rule(node, scope)
            return then(value) if then else value
        except Exception as error:
            if isinstance(error, BicepError) and error.located:
                raise
            raise self.placed(error, node.start_point.row + 1) from error

    def _identifier(self, node: Node, scope: Scope) -> Any:
        name = text_of(node)
        return scope[name] if name in scope else self.value(name)

    def _number(self, node: Node, scope: Scope) -> int:
        if int(text_of(node)) >= 1 << 63:
            raise BicepError(f"{text_of(node)} is too large")
        return int(text_of(node))

    def _boolean(self, node: Node, scope: Scope) -> bool:
        return text_of(node) == "true"

    def _null(self, node: Node, scope: Scope) -> None:
        return None

    def _string(self, node: Node, scope: Scope) -> str:
        parts: list[str] = []
        runtime = False
        for piece in pieces(node):
            value = piece if isinstance(piece, str) else self.expression(piece, scope)
            runtime = runtime or has_runtime(value)
            parts.append(shown(value))
        return Runtime("".join(parts)) if runtime else "".join(parts)

    def _array(self, node: Node, scope: Scope) -> list[Any]:
        return [self.expression(child, scope) for child in parts_of(node)]

    def _object(self, node: Node, scope: Scope) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for pair in parts_of(node):
            key, value = parts_of(pair)
            name = self._string(key, scope) if key.type == "string" else text_of(key)
            if name in found:
                raise self.error(pair.start_point.row + 1, f"{name} is there twice")
            found[name] = self.expression(value, scope)
        return found

    def _for_statement(self, node: Node, scope: Scope) -> list[Any]:
        return [self.expression(body, inner) for body, inner in self.iterate(node, scope)]

    def _parenthesized_expression(self, node: Node, scope: Scope) -> Any:
        return self.expression(parts_of(node)[0], scope)

    def _ternary_expression(self, node: Node, scope: Scope, then: Then | None) -> Any:
        if truth(self.part(node, "condition", scope)):
            return self.part(node, "consequence", scope)
        return self.expression(node.child_by_field_name("alternative"), scope, then)

    def _unary_expression(self, node: Node, scope: Scope, then: Then | None) -> Any:
        value = self.expression(node.child_by_field_name("argument"), scope, then)
        return not truth(value) if text_of(node).startswith("!") else -number(value)

    def _binary_expression(self, node: Node, scope: Scope, then: Then | None) -> Any:
        operator, right = node.child_by_field_name("operator"), node.child_by_field_name("right")
        sign = text_of(operator) if operator else ""
        left = self.part(node, "left", scope)
        if sign in SHORT:
            if SHORT[sign](left):
                return left
            value = self.expression(right, scope, then)
            return value if sign == "??" else truth(value)
        if sign in OPERATORS:
            return OPERATORS[sign](left, self.expression(right, scope, then))
        raise BicepError(f"the operator {sign} is not understood here")

    def _lambda_expression(self, node: Node, scope: Scope, then: Then | None) -> Callable[..., Any]:
        head, body = parts_of(node)
        names = [text_of(n) for n in walk(head) if n.type == "identifier"]
        return lambda *values: self.expression(body, scope | dict(zip(names, values, strict=True)), then)

    def _member_expression(self, node: Node, scope: Scope, then: Then | None) -> Any:
        name = node.child_by_field_name("property")
        return self.access(node, text_of(name) if name else "", scope, then)

    def _subscript_expression(self, node: Node, scope: Scope, then: Then | None) -> Any:
        return self.access(node, self.part(node, "index", scope), scope, then)

    def access(self, node: Node, name: Any, scope: Scope, then: Then | None) -> Any:
        def found(value: Any) -> Any:
            member = self.member(node, value, name)
            return then(member) if then else member

        return self.expression(node.child_by_field_name("object"), scope, found)

    def member(self, node: Node, target: Any, name: Any) -> Any:
        optional = any(c.type in ("?", ".?") for c in node.children)
        known(name)
        if isinstance(target, Resource):
            own = {"id": target.id, "name": target.name, "type": target.type, "apiVersion": target.api}
            if name in own:
                return own[name]
            if target.skipped:
                raise BicepError(f"{text_of(node)} is of what is not deployed")
            return Runtime(f"{{{target.type}/{target.full_name}}}.{name}")
        if isinstance(target, Runtime):
            return Runtime(f"{target}.{name}")
        if isinstance(target, dict) and isinstance(name, str) and name in target:
            return target[name]
        if isinstance(target, list) and type(name) is int and 0 <= name < len(target):
            return target[name]
        other = isinstance(target, dict) and [key for key in target if key.lower() == str(name).lower()]
        if optional and not other and isinstance(target, dict | list | None):
            return None
        raise BicepError(f"{text_of(node)} has no {name}{f', but {other[0]}' if other else ''}")

    def _call_expression(self, node: Node, scope: Scope) -> Any:
        function, arguments = node.child_by_field_name("function"), node.child_by_field_name("arguments")
        name = text_of(function).removeprefix("az.").removeprefix("sys.") if function else ""
        given = [self.expression(a, scope) for a in (parts_of(arguments) if arguments else [])]
        if name in ("loadJsonContent", "loadTextContent"):
            return self.content(name == "loadJsonContent", *map(text, given))
        if name not in self.functions:
            raise BicepError(f"the function {name} is not understood here")
        with self.located(node.start_point.row + 1, f"{name}: "):
            return self.functions[name](*given)

    def content(self, is_json: bool, file: str, where: str = "$") -> Any:
        """Of a file beside this one; of JSON that part which ``where`` says, as ``$.names[0].first``."""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(self.path), file))
        if path not in self.files:
            raise BicepError(f"there is no {path}")
        content = self.files[path].decode("utf-8-sig")
        if not is_json:
            if where != "$":
                raise BicepError(f"the encoding {where} is not understood here")
            return content
        found = json.loads(content)
        steps = re.compile(r"\.([A-Za-z_]\w*)|\[(?:(\d+)|'([^'\\]*)')\]")
        if not re.fullmatch(rf"\$?({steps.pattern})*", where if where[:1] in "$.[" else f".{where}"):
            raise BicepError(f"the path {where} is not understood here")
        for member, index, quoted in steps.findall(where if where[:1] in "$.[" else f".{where}"):
            step = int(index) if index else member or quoted
            there = (
                step < len(found)
                if isinstance(step, int) and isinstance(found, list)
                else (isinstance(step, str) and isinstance(found, dict) and step in found)
            )
            if not there:
                raise BicepError(f"{path} has nothing at {where}")
            found = found[step]
        return found

    def part(self, node: Node, name: str, scope: Scope) -> Any:
        return self.expression(node.child_by_field_name(name), scope)
