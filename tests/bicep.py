"""Bicep without a compiler: the resources that a template would deploy, for chosen parameters.

tree-sitter-bicep gives the syntax; here it is evaluated: parameters and their limits, variables, loops,
conditions, lambdas, functions, modules with their outputs. What only Azure knows (an address, a client id)
becomes a `Runtime`, a text that says what it is. Anything that a compiler would refuse for a name, a missing
parameter or an unknown function is a `BicepError`, and so is all that is not understood here: it names
the file and the line.
"""

from __future__ import annotations

import contextlib
import json
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tree_sitter import Node

from tests.bicep_functions import (
    FUNCTIONS,
    OPERATORS,
    SHORT,
    SUBSCRIPTION,
    TENANT,
    BicepError,
    Runtime,
    has_runtime,
    keyed,
    known,
    listed,
    number,
    shown,
    text,
    truth,
)
from tests.bicep_syntax import Declaration, declarations, imports, parse, parts_of, pieces, text_of, walk
from tests.bicep_types import Named, beyond, mismatch

__all__ = [
    "GROUP",
    "SUBSCRIPTION",
    "TENANT",
    "BicepError",
    "Declaration",
    "Deployment",
    "Files",
    "Resource",
    "Runtime",
    "declarations",
    "deploy",
    "parse",
    "read_folder",
    "resource_id",
    "text_of",
    "walk",
]

Files = Mapping[str, bytes]
"""The content of every file of a folder by its path in it, with ``/``."""


@dataclass
class Resource:
    """One resource as it would be sent: ``body`` without name, parent and scope. ``group`` is its resource
    group, empty for what is in none; ``module`` is the name of the module that it is in, empty for the main
    template; ``depends`` is what it says it waits for. One that is ``skipped``, for its condition is false,
    has a name and an id, but nothing that only a deployed one has."""

    type: str
    api: str
    name: str
    file: str
    body: dict[str, Any] = field(default_factory=dict[str, Any])
    parent: Resource | None = None
    scope: Resource | None = None
    existing: bool = False
    skipped: bool = False
    group: str = ""
    subscription: str = SUBSCRIPTION
    module: str = ""
    depends: list[Resource] = field(default_factory=list["Resource"])

    @property
    def full_name(self) -> str:
        return joined(self.parent.full_name, "/", self.name) if self.parent else self.name

    @property
    def id(self) -> str:
        at = self
        while at.parent:
            at = at.parent
        if at.scope is None:
            return resource_id(self.type, self.full_name, self.group, self.subscription)
        return joined(at.scope.id, resource_id(self.type, self.full_name, subscription=""))

    @property
    def properties(self) -> dict[str, Any]:
        return self.body.get("properties") or {}


@dataclass
class Deployment:
    """All that one template deploys, modules included."""

    resources: list[Resource] = field(default_factory=list[Resource])
    waits: dict[str, set[str]] = field(default_factory=dict[str, set[str]])
    """For each module, by its name, the modules that come before it because it says so or uses them."""
    outputs: dict[str, Any] = field(default_factory=dict[str, Any])
    ids: set[str] = field(default_factory=set[str])

    def of(self, kind: str) -> list[Resource]:
        """The resources of a type that are deployed (not the ``existing`` ones), in the order of the text."""
        return [r for r in self.resources if r.type.lower() == kind.lower() and not r.existing]


GROUP = "Microsoft.Resources/resourceGroups"


def resource_id(kind: str, name: str, group: str = "", subscription: str = SUBSCRIPTION) -> str:
    """Without a subscription, it is of the tenant, or the end of the id of what has the scope of another."""
    home = f"/subscriptions/{subscription}" if subscription else ""
    if kind.lower() == GROUP.lower():
        return f"{home}/resourceGroups/{name}"
    provider, *types = kind.split("/")
    names = name.split("/")
    if not types or len(types) != len(names):
        raise BicepError(f"{name!r} is no name for {kind}")
    pairs = "/".join(f"{t}/{n}" for t, n in zip(types, names, strict=True))
    found = f"{home}{f'/resourceGroups/{group}' if group else ''}/providers/{provider}/{pairs}"
    return Runtime(found) if isinstance(name, Runtime) else found


def joined(*texts: str) -> str:
    """Texts as one, which is known when all of them are."""
    return (Runtime if has_runtime([*texts]) else str)("".join(texts))


def read_folder(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def deploy(files: Files, parameters: Mapping[str, Any], main: str = "main.bicep") -> Deployment:
    """What ``main`` deploys with these parameters.

    :raises BicepError: it cannot be compiled, or a parameter is outside of its limits.
    """
    deployment = Deployment()
    deployment.outputs = _Template(files, main, deployment).run(parameters)
    return deployment


_HANDS_DOWN = frozenset(
    f"{kind}_expression" for kind in ("binary", "lambda", "member", "subscript", "ternary", "unary")
)
Scope = dict[str, Any]
Then = Callable[[Any], Any]


class _Template:
    """One file with its parameters; everything in it is evaluated when it is first asked for."""

    def __init__(
        self, files: Files, path: str, deployment: Deployment, module: str = "", group: Resource | None = None
    ) -> None:
        self.files, self.path, self.deployment = files, path, deployment
        self.name, self.group = module, group
        self.functions = FUNCTIONS | {
            "extensionResourceId": self.extension_resource_id,
            "resourceGroup": self.resource_group,
            "resourceId": self.resource_id,
            "subscriptionResourceId": self.subscription_resource_id,
        }
        self.statements = self.read(path)
        self.declared = {
            d.name: d for d in self.statements if d.kind in ("param", "var", "resource", "module")
        }
        self.values: dict[str, Any] = {}
        self.busy: set[str] = set()

    def run(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        parameters_known = [name for name, d in self.declared.items() if d.kind == "param"]
        for name in parameters:
            if name not in parameters_known:
                raise self.error(1, f"there is no parameter {name}")
        self.given = parameters
        for name in self.declared:
            self.value(name)
        return {d.name: self.output(d) for d in self.statements if d.kind == "output"}

    def read(self, path: str) -> tuple[Declaration, ...]:
        if path not in self.files:
            raise BicepError(f"there is no {path}")
        try:
            return declarations(self.files[path])
        except (BicepError, UnicodeError) as error:
            line = "" if isinstance(error, BicepError) else "1: "
            found = BicepError(f"{path}:{line}{error}")
            found.located = True
            raise found from error

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

    def parameter(self, declaration: Declaration) -> Any:
        value = self.given.get(declaration.name)
        kind = declaration.type
        if value is None and declaration.value is not None:
            value = self.expression(declaration.value, {})
        if kind is None:
            raise BicepError("it has no type")
        if value is None and mismatch(None, kind, self.named):
            raise BicepError("it is required")
        wrong = mismatch(value, kind, self.named)
        if not wrong and not isinstance(value, Runtime):
            wrong = beyond(value, declaration.decorators)
        if wrong:
            raise BicepError(wrong)
        return value

    def output(self, declaration: Declaration) -> Any:
        with self.located(declaration.line, f"output {declaration.name}: "):
            value = self.expression(declaration.value, {})
            kind = declaration.type
            wrong = mismatch(value, kind, self.named) if kind else "it has no type"
            if wrong:
                raise BicepError(wrong)
            return value

    def named(self, name: str) -> tuple[Node, Named]:
        """A type by its name, declared here or in the file that it is imported from."""
        return self.type_of(name, self.path)

    def type_of(self, name: str, path: str, exported: bool = False) -> tuple[Node, Named]:
        for declaration in self.read(path):
            if declaration.kind == "type" and declaration.name == name and declaration.value is not None:
                if exported and "export" not in declaration.decorators:
                    break
                return declaration.value, lambda other: self.type_of(other, path)
        source = imports(self.files[path]).get(name)
        if source is None or exported:
            raise BicepError(f"there is no type {name} in {path}")
        return self.type_of(name, posixpath.normpath(posixpath.join(posixpath.dirname(path), source)), True)

    def value(self, name: str) -> Any:
        if name in self.values:
            return self.values[name]
        if name not in self.declared:
            raise BicepError(f"there is no {name}")
        if name in self.busy:
            raise BicepError(f"{name} needs itself")
        self.busy.add(name)
        declaration = self.declared[name]
        node = declaration.value
        with self.located(declaration.line, f"{declaration.kind} {name}: "):
            if declaration.kind == "param":
                value = self.parameter(declaration)
            elif node is None:
                raise BicepError("it has no value")
            elif declaration.kind == "var":
                value = self.expression(node, {})
            else:
                value = self.looped(declaration, node, {})
        self.values[name] = value
        return value

    def looped(self, declaration: Declaration, node: Node, scope: Scope, wanted: bool = True) -> Any:
        if node.type == "for_statement":
            return [self.looped(declaration, body, inner) for body, inner in self.iterate(node, scope)]
        if node.type == "if_statement":
            condition, body = parts_of(node)
            with self.located(condition.start_point.row + 1):
                holds = truth(self.expression(condition, scope))
            return self.looped(declaration, body, scope, holds)
        build = self.resource if declaration.kind == "resource" else self.module
        return build(declaration, node, scope, wanted)

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

    def resource(self, declaration: Declaration, node: Node, scope: Scope, wanted: bool) -> Resource:
        kind = next(c for c in declaration.node.named_children if c.type == "string")
        kind, _, api = self.expression(kind, {}).partition("@")
        # Azure also looks at the names of what it does not deploy, before anything is deployed.
        body = self.expression(node, scope) if wanted else self.head(node, scope)
        existing = any(c.type == "existing" for c in declaration.node.children)
        name, parent, outer = (body.pop(key, None) for key in ("name", "parent", "scope"))
        depends = listed(body.pop("dependsOn", []))
        if not isinstance(name, str):
            raise BicepError(f"the name of {declaration.name} is {name!r}")
        for each in (parent, outer):
            if not isinstance(each, Resource | None):
                raise BicepError(f"the parent or scope of {declaration.name} is {each!r}")
        self.plain(body)
        found = Resource(kind, api, name, self.path, body, parent, existing=existing, skipped=not wanted)
        group = outer if outer is not None and outer.type.lower() == GROUP.lower() else None
        found.scope = None if group else outer
        home = group or self.group
        found.group = parent.group if parent else home.name if home else ""
        found.subscription = parent.subscription if parent else home.subscription if home else SUBSCRIPTION
        found.module = self.name
        found.depends = [each for each in self.awaited(depends) if not each.skipped]
        if kind.count("/") > 1 and parent is None:
            raise BicepError(f"{declaration.name} has no parent")
        if parent is not None and parent.type.lower() != kind.rpartition("/")[0].lower():
            raise BicepError(f"{declaration.name} is no child of {parent.type}")
        if not all(found.full_name.split("/")) or found.full_name.count("/") + 1 != kind.count("/"):
            raise BicepError(f"the name of {declaration.name} is {found.full_name!r}")
        if not wanted:
            return found
        if any(each is not None and each.skipped and not each.existing for each in (parent, outer)):
            raise BicepError(f"{declaration.name} is in what is not deployed")
        if not existing and found.id.lower() in self.deployment.ids:
            raise BicepError(f"{found.id} is deployed twice")
        if not existing:
            self.deployment.ids.add(found.id.lower())
        self.deployment.resources.append(found)
        return found

    def awaited(self, values: list[Any]) -> Iterator[Resource]:
        """The resources of ``dependsOn``; of modules see `waits`."""
        for value in values:
            if isinstance(value, list):
                yield from self.awaited(value)
            elif isinstance(value, Resource):
                yield value
            elif value is not None and not (isinstance(value, dict) and "outputs" in value):
                raise BicepError(f"nothing can wait for {value!r}")

    def plain(self, value: Any) -> None:
        """:raises BicepError: there is more in it than JSON has."""
        if isinstance(value, dict | list):
            for each in value.values() if isinstance(value, dict) else value:
                self.plain(each)
        elif not isinstance(value, str | int | float | None):
            raise BicepError(f"{value!r} is no value")

    def head(self, node: Node, scope: Scope) -> dict[str, Any]:
        """Where something would be: the part of it that is looked at even where its condition is false."""
        pairs = [pair for pair in node.named_children if pair.type == "object_property"]
        named = [pair for pair in pairs if text_of(pair.named_children[0]) in ("name", "parent", "scope")]
        return {text_of(p.named_children[0]): self.expression(parts_of(p)[-1], scope) for p in named}

    def module(
        self, declaration: Declaration, node: Node, scope: Scope, wanted: bool
    ) -> dict[str, Any] | None:
        source = self.expression(next(c for c in declaration.node.named_children if c.type == "string"), {})
        path = posixpath.normpath(posixpath.join(posixpath.dirname(self.path), source))
        body = self.expression(node, scope) if wanted else self.head(node, scope)
        group = body.get("scope")
        if not isinstance(group, Resource) or group.type.lower() != GROUP.lower():
            raise BicepError(f"module {declaration.name} has no scope")
        name = text(body.get("name", f"{declaration.name}-{len(self.deployment.waits)}-of-{self.path}"))
        if not name:
            raise BicepError(f"the name of module {declaration.name} is empty")
        if not wanted:
            return None
        [*self.awaited(listed(body.get("dependsOn", [])))]
        parameters = keyed(body.get("params", {}))
        self.plain(parameters)
        if name in self.deployment.waits:
            raise BicepError(f"two modules are called {name}")
        waits = self.deployment.waits[name] = set[str]()
        for other in self.modules_in(declaration, {declaration.name}):
            built = self.value(other)
            for one in built if isinstance(built, list) else [built] if built else []:
                waits |= {one["name"]} | self.deployment.waits[one["name"]]
        template = _Template(self.files, path, self.deployment, name, group)
        return {"name": name, "outputs": template.run(parameters)}

    def modules_in(self, declaration: Declaration, seen: set[str]) -> list[str]:
        """The modules that a declaration names, itself or through variables, in the order of the text."""
        found: list[str] = []
        for name in declaration.names:
            if name in seen or name not in self.declared:
                continue
            seen.add(name)
            other = self.declared[name]
            if other.kind == "module":
                found.append(name)
            found += self.modules_in(other, seen) if other.kind == "var" else []
        return found

    def resource_group(self, *names: str) -> Any:
        """Of this template, or the one called so, of another subscription where that is said first."""
        if not names:
            if self.group is None:
                raise BicepError("there is no resource group")
            return {"id": self.group.id, "name": self.group.name}
        *subscription, name = map(text, names)
        if not name:
            raise BicepError("the name of a resource group is empty")
        found = Resource(GROUP, "", name, self.path, existing=True, module=self.name)
        found.subscription, *more = subscription or [SUBSCRIPTION]
        if more:
            raise BicepError(f"{len(names)} names are too many")
        return found

    def resource_id(self, *parts: str) -> str:
        """``(subscription, group, type, names…)``, the first two of which may be left out."""
        known(*parts)
        start = next((i for i, part in enumerate(parts) if "/" in text(part)), len(parts))
        if start > 2 or len(parts) < start + 2:
            raise BicepError(f"{parts} are no parts of an id")
        group = parts[start - 1] if start else self.group.name if self.group else ""
        own = self.group.subscription if self.group else SUBSCRIPTION
        subscription = parts[0] if start == 2 else own
        return resource_id(parts[start], "/".join(parts[start + 1 :]), group, subscription)

    def subscription_resource_id(self, *parts: str) -> str:
        """``(subscription, type, names…)``, the first of which may be left out."""
        known(*parts)
        subscription = SUBSCRIPTION if "/" in text(parts[0]) else parts[0]
        kind, *names = parts if "/" in parts[0] else parts[1:]
        return resource_id(kind, "/".join(map(text, names)), "", subscription)

    def extension_resource_id(self, scope: str, kind: str, *names: str) -> str:
        known(kind, *names)
        return joined(scope, resource_id(kind, "/".join(names), "", ""))

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
