"""Bicep without a compiler: the resources that a template would deploy, for chosen parameters.

tree-sitter-bicep gives the syntax; here it is evaluated: parameters and their limits, variables, loops,
conditions, lambdas, functions, modules with their outputs. What only Azure knows (an address, a client id)
becomes a `Runtime`, a text that says what it is. Anything that a compiler would refuse for a name, a missing
parameter or an unknown function is a `BicepError`, and so is all that is not understood here: it names
the file and the line.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tree_sitter import Node

from tests.bicep_expressions import Expressions, Scope
from tests.bicep_functions import (
    FUNCTIONS,
    SUBSCRIPTION,
    TENANT,
    BicepError,
    Runtime,
    keyed,
    known,
    listed,
    text,
    truth,
)
from tests.bicep_model import GROUP, Deployment, Resource, joined, resource_id
from tests.bicep_syntax import Declaration, declarations, imports, parse, parts_of, text_of, walk
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


class _Template(Expressions):
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
