"""Bicep without a compiler: the resources that a template would deploy, for chosen parameters.

tree-sitter-bicep gives the syntax; here it is evaluated: parameters and their limits, variables, loops,
conditions, lambdas, functions, modules with their outputs. What only Azure knows (an address, a client id)
becomes a `Runtime`, a text that says what it is. Anything that a compiler would refuse for a name, a missing
parameter or an unknown function is a `BicepError`.
"""

from __future__ import annotations

import functools
import hashlib
import ipaddress
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import tree_sitter
import tree_sitter_bicep
from tree_sitter import Node

Files = Mapping[str, bytes]
"""The content of every file of a folder by its path in it, with ``/``."""


class BicepError(Exception):
    """The template can not be compiled or deployed; the message says where and why."""


class Runtime(str):
    """What is known only once it is deployed. Its text says what: ``{type/name}.properties.hostName``."""

    __slots__ = ()


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
    module: str = ""
    depends: list[Resource] = field(default_factory=list["Resource"])

    @property
    def full_name(self) -> str:
        return f"{self.parent.full_name}/{self.name}" if self.parent else self.name

    @property
    def id(self) -> str:
        return resource_id(self.type, self.full_name, self.group)

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


def resource_id(kind: str, name: str, group: str = "") -> str:
    if kind == GROUP:
        return f"/subscriptions/SUB/resourceGroups/{name}"
    provider, *types = kind.split("/")
    pairs = "/".join(f"{t}/{n}" for t, n in zip(types, name.split("/"), strict=True))
    home = f"/resourceGroups/{group}" if group else ""
    return f"/subscriptions/SUB{home}/providers/{provider}/{pairs}"


def read_folder(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@functools.lru_cache(maxsize=4096)
def parse(source: bytes) -> Node:
    """:raises BicepError: the text is no Bicep."""
    language = tree_sitter.Language(tree_sitter_bicep.language())
    root = tree_sitter.Parser(language).parse(source).root_node
    if root.has_error:
        bad = next(n for n in walk(root) if n.type == "ERROR" or n.is_missing)
        raise BicepError(f"syntax error at line {bad.start_point.row + 1}: {text_of(bad)[:60]!r}")
    return root


def walk(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from walk(child)


def text_of(node: Node) -> str:
    return (node.text or b"").decode()


def deploy(files: Files, parameters: Mapping[str, Any], main: str = "main.bicep") -> Deployment:
    """What ``main`` deploys with these parameters.

    :raises BicepError: it can not be compiled, or a parameter is outside of its limits.
    """
    deployment = Deployment()
    deployment.outputs = _Template(files, main, deployment, "", "").run(parameters)
    return deployment


@dataclass(frozen=True)
class Declaration:
    """A declaration with its decorators: ``kind`` is param, var, resource, module or output."""

    kind: str
    name: str
    node: Node
    decorators: Mapping[str, Node]

    @property
    def value(self) -> Node | None:
        """What stands behind the ``=``."""
        seen = False
        for child in self.node.children:
            if seen and child.type != "comment":
                return child
            seen = seen or child.type == "="
        return None


@functools.lru_cache(maxsize=4096)
def declarations(source: bytes) -> tuple[Declaration, ...]:
    found: list[Declaration] = []
    decorators: dict[str, Node] = {}
    for node in parse(source).named_children:
        if node.type == "decorators":
            for call in (n for n in walk(node) if n.type == "call_expression"):
                function = call.child_by_field_name("function")
                if function is not None and call.parent is not None and call.parent.type == "decorator":
                    decorators[text_of(function).removeprefix("sys.")] = call
            continue
        kind, _, rest = node.type.partition("_")
        if rest == "declaration":
            kind = {"parameter": "param", "variable": "var"}.get(kind, kind)
            name = next(text_of(c) for c in node.named_children if c.type == "identifier")
            found.append(Declaration(kind, name, node, decorators))
        if node.type not in _COMMENTS:
            decorators = {}
    return tuple(found)


_ABSENT = object()
_COMMENTS = ("comment", "diagnostic_comment")
_HANDS_DOWN = frozenset(
    f"{kind}_expression" for kind in ("binary", "lambda", "member", "subscript", "ternary", "unary")
)
Scope = dict[str, Any]
Then = Callable[[Any], Any]


class _Template:
    """One file with its parameters; everything in it is evaluated when it is first asked for."""

    def __init__(self, files: Files, path: str, deployment: Deployment, module: str, group: str) -> None:
        if path not in files:
            raise BicepError(f"there is no {path}")
        self.files, self.path, self.deployment = files, path, deployment
        self.name, self.group = module, group
        self.functions = _FUNCTIONS | {"resourceGroup": self.resource_group, "resourceId": self.resource_id}
        self.declared = {d.name: d for d in declarations(files[path]) if d.kind != "output"}
        self.values: dict[str, Any] = {}
        self.busy: set[str] = set()

    def run(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        known = {name for name, d in self.declared.items() if d.kind == "param"}
        for name in parameters.keys() - known:
            raise BicepError(f"{self.path}: there is no parameter {name}")
        for name in known:
            self.values[name] = self.parameter(self.declared[name], parameters)
        for name in self.declared:
            self.value(name)
        return {
            d.name: self.expression(d.value, {})
            for d in declarations(self.files[self.path])
            if d.kind == "output" and d.value is not None
        }

    def parameter(self, declaration: Declaration, given: Mapping[str, Any]) -> Any:
        where = f"{self.path}: parameter {declaration.name}"
        value = given.get(declaration.name, _ABSENT)
        if value is _ABSENT:
            if declaration.value is None:
                raise BicepError(f"{where} is required")
            value = self.expression(declaration.value, {})
        kind = next(text_of(c) for c in declaration.node.named_children if c.type == "type")
        python = {"string": str, "int": int, "bool": bool, "array": list, "object": dict}[kind]
        if not isinstance(value, python) or (python is int and isinstance(value, bool)):
            raise BicepError(f"{where} is no {kind}: {value!r}")
        if isinstance(value, Runtime):
            return value
        for name, call in declaration.decorators.items():
            arguments = call.child_by_field_name("arguments")
            limit = self.expression(arguments.named_children[0], {}) if arguments else None
            if name == "allowed" and value not in limit:
                raise BicepError(f"{where} is {value!r}, not one of {limit}")
            size = value if isinstance(value, int) else len(value)
            if name in ("minValue", "minLength") and size < limit:
                raise BicepError(f"{where} is {value!r}, below {limit}")
            if name in ("maxValue", "maxLength") and size > limit:
                raise BicepError(f"{where} is {value!r}, above {limit}")
        return value

    def value(self, name: str) -> Any:
        if name in self.values:
            return self.values[name]
        if name not in self.declared:
            raise BicepError(f"{self.path}: there is no {name}")
        if name in self.busy:
            raise BicepError(f"{self.path}: {name} needs itself")
        self.busy.add(name)
        declaration = self.declared[name]
        node = declaration.value
        if node is None:
            raise BicepError(f"{self.path}: {name} has no value")
        value = self.expression(node, {}) if declaration.kind == "var" else self.looped(declaration, node, {})
        self.values[name] = value
        return value

    def looped(self, declaration: Declaration, node: Node, scope: Scope, wanted: bool = True) -> Any:
        if node.type == "for_statement":
            return [self.looped(declaration, body, inner) for body, inner in self.iterate(node, scope)]
        if node.type == "if_statement":
            condition, body = node.named_children
            return self.looped(declaration, body, scope, bool(self.expression(condition, scope)))
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
        parts = [c for c in node.named_children if c.type not in ("for_loop_parameters", "comment")]
        items, body = [c for c in parts if c != initializer]
        for index, item in enumerate(self.expression(items, scope)):
            yield body, scope | dict(zip(names, (item, index), strict=False))

    def resource(self, declaration: Declaration, node: Node, scope: Scope, wanted: bool) -> Resource:
        kind = next(c for c in declaration.node.named_children if c.type == "string")
        kind, _, api = self.expression(kind, {}).partition("@")
        # Azure also looks at the names of what it does not deploy, before anything is deployed.
        body = self.expression(node, scope) if wanted else self.head(node, scope)
        existing = any(c.type == "existing" for c in declaration.node.children)
        name, parent, outer = (body.pop(key, None) for key in ("name", "parent", "scope"))
        depends = body.pop("dependsOn", [])
        found = Resource(
            kind, api, name or "", self.path, body, parent, existing=existing, skipped=not wanted
        )
        group = outer if outer is not None and outer.type == GROUP else None
        found.scope = None if group else outer
        found.group = parent.group if parent else group.name if group else self.group
        found.module = self.name
        found.depends = [r for r in depends if isinstance(r, Resource) and not r.skipped]
        if kind.count("/") > 1 and parent is None:
            raise BicepError(f"{self.path}: {declaration.name} has no parent")
        if parent is not None and parent.type != kind.rpartition("/")[0]:
            raise BicepError(f"{self.path}: {declaration.name} is no child of {parent.type}")
        if not all(found.full_name.split("/")) or found.full_name.count("/") + 1 != kind.count("/"):
            raise BicepError(f"{self.path}: the name of {declaration.name} is {found.full_name!r}")
        if not wanted:
            return found
        if any(each is not None and each.skipped and not each.existing for each in (parent, outer)):
            raise BicepError(f"{self.path}: {declaration.name} is in what is not deployed")
        scoped = f"{found.scope.id}{found.id}" if found.scope else found.id
        if not existing and scoped in self.deployment.ids:
            raise BicepError(f"{self.path}: {scoped} is deployed twice")
        if not existing:
            self.deployment.ids.add(scoped)
        self.deployment.resources.append(found)
        return found

    def head(self, node: Node, scope: Scope) -> dict[str, Any]:
        """Where something would be: the part of it that is looked at even where its condition is false."""
        pairs = [pair for pair in node.named_children if pair.type == "object_property"]
        named = [pair for pair in pairs if text_of(pair.named_children[0]) in ("name", "parent", "scope")]
        return {text_of(p.named_children[0]): self.expression(p.named_children[-1], scope) for p in named}

    def module(
        self, declaration: Declaration, node: Node, scope: Scope, wanted: bool
    ) -> dict[str, Any] | None:
        path = self.expression(next(c for c in declaration.node.named_children if c.type == "string"), {})
        body = self.expression(node, scope) if wanted else self.head(node, scope)
        group = body.get("scope")
        if not isinstance(group, Resource):
            raise BicepError(f"{self.path}: module {declaration.name} has no scope")
        name = body.get("name", declaration.name)
        if not name:
            raise BicepError(f"{self.path}: the name of module {declaration.name} is empty")
        if not wanted:
            return None
        if name in self.deployment.waits:
            raise BicepError(f"{self.path}: two modules are called {name}")
        used = {text_of(n) for n in walk(declaration.node) if n.type == "identifier"} - {declaration.name}
        waits = self.deployment.waits[name] = set[str]()
        for other in used & self.declared.keys():
            if self.declared[other].kind == "module":
                built = self.value(other)
                for one in built if isinstance(built, list) else [built] if built else []:
                    waits |= {one["name"]} | self.deployment.waits[one["name"]]
        template = _Template(self.files, path, self.deployment, name, group.name)
        return {"name": name, "outputs": template.run(body.get("params", {}))}

    def resource_group(self, name: str | None = None) -> Any:
        """Of this template, or the one called so."""
        if name is None:
            return {"id": resource_id(GROUP, self.group), "name": self.group}
        if not name:
            raise BicepError(f"{self.path}: the name of a resource group is empty")
        return Resource(GROUP, "", name, self.path, existing=True, module=self.name)

    def resource_id(self, *parts: str) -> str:
        """``(subscription, group, type, names…)``, the first two of which may be left out."""
        start = next(i for i, part in enumerate(parts) if "/" in part)
        group = parts[start - 1] if start else self.group
        return resource_id(parts[start], "/".join(parts[start + 1 :]), group)

    def expression(self, node: Node | None, scope: Scope, then: Then | None = None) -> Any:
        """:param then: what is done with the value. tree-sitter-bicep takes `a ? b : c.d` for
        `(a ? b : c).d`, and `x => x.d` for `(x => x).d`; so `.d` is handed down to what it belongs to."""
        if node is None:
            raise BicepError(f"{self.path}: an expression is missing")
        rule = getattr(self, f"_{node.type}", None)
        if rule is None:
            raise BicepError(f"{self.path}:{node.start_point.row + 1}: {node.type} is not understood here")
        if node.type in _HANDS_DOWN:
            return rule(node, scope, then)
        value = rule(node, scope)
        return then(value) if then else value

    def _identifier(self, node: Node, scope: Scope) -> Any:
        name = text_of(node)
        return scope[name] if name in scope else self.value(name)

    def _number(self, node: Node, scope: Scope) -> int:
        return int(text_of(node))

    def _boolean(self, node: Node, scope: Scope) -> bool:
        return text_of(node) == "true"

    def _null(self, node: Node, scope: Scope) -> None:
        return None

    def _string(self, node: Node, scope: Scope) -> str:
        parts: list[str] = []
        runtime = False
        for child in node.named_children:
            if child.type == "string_content":
                parts.append(text_of(child))
            elif child.type == "escape_sequence":
                parts.append({"n": "\n", "t": "\t", "r": "\r"}.get(text_of(child)[1:], text_of(child)[1:]))
            else:
                value = self.expression(child.named_children[0], scope)
                if isinstance(value, dict | list | None):
                    raise BicepError(f"{self.path}:{node.start_point.row + 1}: a text is made of {value!r}")
                runtime = runtime or isinstance(value, Runtime)
                parts.append(str(value).lower() if isinstance(value, bool) else str(value))
        return Runtime("".join(parts)) if runtime else "".join(parts)

    def _array(self, node: Node, scope: Scope) -> list[Any]:
        return [self.expression(child, scope) for child in node.named_children if child.type != "comment"]

    def _object(self, node: Node, scope: Scope) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for pair in node.named_children:
            if pair.type in _COMMENTS:
                continue
            key, value = (c for c in pair.named_children if c.type != "comment")
            name = self._string(key, scope) if key.type == "string" else text_of(key)
            if name in found:
                raise BicepError(f"{self.path}:{pair.start_point.row + 1}: {name} is there twice")
            found[name] = self.expression(value, scope)
        return found

    def _for_statement(self, node: Node, scope: Scope) -> list[Any]:
        return [self.expression(body, inner) for body, inner in self.iterate(node, scope)]

    def _parenthesized_expression(self, node: Node, scope: Scope) -> Any:
        return self.expression(node.named_children[0], scope)

    def _ternary_expression(self, node: Node, scope: Scope, then: Then | None) -> Any:
        if self.part(node, "condition", scope):
            return self.part(node, "consequence", scope)
        return self.expression(node.child_by_field_name("alternative"), scope, then)

    def _unary_expression(self, node: Node, scope: Scope, then: Then | None) -> Any:
        value = self.expression(node.child_by_field_name("argument"), scope, then)
        return not value if text_of(node).startswith("!") else -value

    def _binary_expression(self, node: Node, scope: Scope, then: Then | None) -> Any:
        operator, right = node.child_by_field_name("operator"), node.child_by_field_name("right")
        sign = text_of(operator) if operator else ""
        left = self.part(node, "left", scope)
        if sign in _SHORT:
            return left if _SHORT[sign](left) else self.expression(right, scope, then)
        if sign in _COMPARE:
            return _COMPARE[sign](left, self.expression(right, scope, then))
        raise BicepError(f"{self.path}: the operator {sign} is not understood here")

    def _lambda_expression(self, node: Node, scope: Scope, then: Then | None) -> Callable[..., Any]:
        head, body = (c for c in node.named_children if c.type != "comment")
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
        if isinstance(target, Resource):
            if name in ("id", "name", "type"):
                return {"id": target.id, "name": target.name, "type": target.type}[name]
            if target.skipped:
                raise BicepError(f"{self.path}: {text_of(node)} is of what is not deployed")
            return Runtime(f"{{{target.type}/{target.full_name}}}.{name}")
        if isinstance(target, Runtime):
            return Runtime(f"{target}.{name}")
        try:
            return target[name]
        except (KeyError, IndexError, TypeError) as error:
            if optional:
                return None
            where = f"{self.path}:{node.start_point.row + 1}"
            raise BicepError(f"{where}: {text_of(node)} has no {name}") from error

    def _call_expression(self, node: Node, scope: Scope) -> Any:
        function, arguments = node.child_by_field_name("function"), node.child_by_field_name("arguments")
        name = text_of(function).removeprefix("az.").removeprefix("sys.") if function else ""
        given = [
            self.expression(a, scope)
            for a in (arguments.named_children if arguments else [])
            if a.type != "comment"
        ]
        if name in ("loadJsonContent", "loadTextContent"):
            path = (Path(self.path).parent / given[0]).as_posix()
            if path not in self.files:
                raise BicepError(f"{self.path}: there is no {path}")
            text = self.files[path].decode()
            return json.loads(text) if name == "loadJsonContent" else text
        if name not in self.functions:
            raise BicepError(f"{self.path}: the function {name} is not understood here")
        try:
            return self.functions[name](*given)
        except (StopIteration, TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            raise BicepError(f"{self.path}:{node.start_point.row + 1}: {name}: {error}") from error

    def part(self, node: Node, name: str, scope: Scope) -> Any:
        return self.expression(node.child_by_field_name(name), scope)


_SHORT: dict[str, Callable[[Any], bool]] = {
    "&&": lambda left: not left,
    "||": bool,
    "??": lambda left: left is not None,
}
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
}


def _hash(*parts: str) -> str:
    return hashlib.sha256("|".join(parts).encode()).hexdigest()


def _union(first: Any, *others: Any) -> Any:
    if isinstance(first, dict):
        merged: dict[str, Any] = dict(first)
        for other in others:
            for key, value in other.items():
                both = isinstance(value, dict) and isinstance(merged.get(key), dict)
                merged[key] = _union(merged[key], value) if both else value
        return merged
    found: list[Any] = []
    for item in (item for group in (first, *others) for item in group):
        if item not in found:
            found.append(item)
    return found


def _fail(message: str) -> Any:
    raise BicepError(message)


def _string(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _cidr_subnet(network: str, size: int, index: int) -> str:
    return str(list(ipaddress.ip_network(network).subnets(new_prefix=size))[index])


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "cidrSubnet": _cidr_subnet,
    "concat": lambda *lists: [*chain.from_iterable(lists)],
    "empty": lambda value: not value,
    "environment": lambda: {
        "suffixes": {"storage": "core.windows.net", "keyvaultDns": ".vault.azure.net"},
        "authentication": {"loginEndpoint": "https://login.microsoftonline.com/"},
    },
    "fail": _fail,
    "flatten": lambda lists: [*chain.from_iterable(lists)],
    "guid": lambda *parts: re.sub(r"(.{8})(.{4})(.{4})(.{4})(.{12}).*", r"\1-\2-\3-\4-\5", _hash(*parts)),
    "indexOf": lambda values, value: values.index(value),
    "items": lambda value: [{"key": k, "value": value[k]} for k in sorted(value)],
    "json": json.loads,
    "length": len,
    "map": lambda values, function: [function(value) for value in values],
    "max": max,
    "replace": lambda text, old, new: text.replace(old, new),
    "skip": lambda value, count: value[max(count, 0) :],
    "string": _string,
    "subscription": lambda: {"id": "/subscriptions/SUB", "subscriptionId": "SUB"},
    "subscriptionResourceId": lambda kind, name: f"/subscriptions/SUB/providers/{kind}/{name}",
    "tenant": lambda: {"tenantId": "TENANT"},
    "toLower": lambda text: text.lower(),
    "toObject": lambda values, key, value: {key(v): value(v) for v in values},
    "union": _union,
    "uniqueString": lambda *parts: _hash(*parts)[:13],
}
