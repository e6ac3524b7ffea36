"""Everything that can be taken out of a template or turned round, one thing at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tree_sitter import Node

from tests.bicep import Declaration, Files, declarations, text_of, walk


@dataclass(frozen=True)
class Mutation:
    """One change: ``path`` is the file, ``name`` what was changed, with the declaration it is in."""

    path: str
    name: str
    line: int
    source: bytes

    def apply(self, files: Files) -> dict[str, bytes]:
        return {**files, self.path: self.source}

    def __str__(self) -> str:
        return f"{self.path}:{self.line} {self.name}"

    @property
    def place(self) -> str:
        """What was changed, without the line and the text that it became."""
        return f"{self.path} {re.sub(r" is '.*'$", ' is another', self.name)}"


UNNOTICED = {
    "main.bicep budgetStartDate defaults to 'x'",
    "main.bicep deploymentContainer:  is another",
    "main.bicep dataAccountName:  is another",
    "main.bicep hostAccountName:  is another",
    "main.bicep appName:  is another",
    "main.bicep keyVaultName:  is another",
    "main.bicep needsBudgetStart:  is another",
    "main.bicep identity: name",
    "main.bicep identity: name is another",
    "main.bicep identity: params.name is another",
    "main.bicep monitoring: name",
    "main.bicep monitoring: name is another",
    "main.bicep monitoring: params.workspaceName is another",
    "main.bicep storage: name is another",
    "main.bicep keyVault: name",
    "main.bicep keyVault: name is another",
    "main.bicep network: name",
    "main.bicep network: name is another",
    "main.bicep network: params.name is another",
    "main.bicep network: params.securityGroupPrefix is another",
    "main.bicep appAccess: name",
    "main.bicep appAccess: name is another",
    "main.bicep existingDataAccess: name",
    "main.bicep existingDataAccess: name is another",
    "main.bicep operatorAccess: name",
    "main.bicep operatorAccess: name is another",
    "main.bicep functionApp: name",
    "main.bicep functionApp: name is another",
    "main.bicep functionApp: params.planName is another",
    "main.bicep authentication: name",
    "main.bicep authentication: name is another",
    "main.bicep alerts: name",
    "main.bicep alerts: name is another",
    "modules/alerts.bicep queryAlerts: name is another",
    "modules/alerts.bicep queryAlerts: description is another",
    "modules/alerts.bicep actionGroup: name is another",
    "modules/alerts.bicep actionGroup: properties.emailReceivers.name is another",
    "modules/alerts.bicep queryRules: name is another",
    "modules/alerts.bicep queryRules: properties.displayName is another",
    "modules/alerts.bicep storageRules: name is another",
    "modules/alerts.bicep storageRules: properties.description is another",
    "modules/alerts.bicep storageRules: properties.criteria.allOf.name is another",
    "modules/alerts.bicep webTest: properties.Name is another",
    "modules/alerts.bicep webTestRule: name is another",
    "modules/alerts.bicep webTestRule: properties.description is another",
    "modules/alerts.bicep workbook: name is another",
    "modules/alerts.bicep workbook: properties.displayName is another",
    "modules/alerts.bicep budget: name is another",
    "modules/network.bicep securityGroups: name is another",
    "modules/network.bicep network: properties.subnets.properties.delegations.name is another",
    "modules/network.bicep endpoints: name is another",
    "modules/network.bicep endpointRecords: name is another",
    "modules/rbac.bicep applicationInsights: name is another",
    "modules/rbac.bicep keyVault: name is another",
    "modules/storage.bicep expireRule: name is another",
    "modules/storage.bicep coolRule: name is another",
}
"""What no check notices, and nothing else: the name of a module's deployment, for without one Bicep makes
one; the beginning of a budget, whose default is only there for who has none, as no day is right for all; and
another description, or another name where any will do."""


def mutations(files: Files) -> Iterator[Mutation]:
    """Each property of an object and each element of a list removed, each boolean and each condition turned
    round, each text and number another one, each resource and module removed, and each parameter with another
    default."""
    for path, source in files.items():
        if not path.endswith(".bicep"):
            continue
        for declaration in declarations(source):
            if declaration.kind == "param":
                yield from _other_default(path, source, declaration)
                continue
            top = declaration.node
            if declaration.kind in ("resource", "module"):
                yield _removed(path, source, top, f"{declaration.kind} {declaration.name}")
            for node in walk(top):
                name = f"{declaration.name}: {_trail(node, top)}"
                element = node.is_named and node.parent is not None and node.parent.type == "array"
                if node.type == "object_property" or (element and node.type != "comment"):
                    yield _removed(path, source, node, name)
                if node.type == "boolean":
                    other = "false" if text_of(node) == "true" else "true"
                    yield _replaced(path, source, node, other, f"{name} is {other}")
                elif node.type in ("string", "number"):
                    text = text_of(node)
                    other = text[:-1] + "x'" if node.type == "string" else f"({text}) + 1"
                    yield _replaced(path, source, node, other, f"{name} is {other}")
                elif node.type in ("if_statement", "ternary_expression"):
                    # Of a ternary it swaps the branches.
                    condition = node.child_by_field_name("condition") or node.named_children[0]
                    text = text_of(condition)
                    yield _replaced(path, source, condition, f"(!({text}))", f"{name} unless {text}")
                elif node.type == "for_statement":
                    items = next(
                        child
                        for before, child in zip(node.children, node.children[1:], strict=False)
                        if before.type == "in"
                    )
                    yield _replaced(path, source, items, "[]", f"{name} for nothing")


def _other_default(path: str, source: bytes, declaration: Declaration) -> Iterator[Mutation]:
    """The default turned round, one more, or another text, one that is allowed where that is limited."""
    node = declaration.value
    if node is None:
        return
    text = text_of(node)
    match node.type:
        case "boolean":
            other = "false" if text == "true" else "true"
        case "string":
            allowed = declaration.decorators.get("allowed")
            texts = [text_of(n) for n in walk(allowed) if n.type == "string"] if allowed else []
            other = next((each for each in texts if each != text), text[:-1] + "x'")
        case "array":
            other = "['x']"
        case "object":
            other = "{ x: 'x' }"
        case _:
            other = f"({text}) + 1"
    yield _replaced(path, source, node, other, f"{declaration.name} defaults to {other}")


def _removed(path: str, source: bytes, node: Node, name: str) -> Mutation:
    return _replaced(path, source, node, "", name)


def _replaced(path: str, source: bytes, node: Node, other: str, name: str) -> Mutation:
    changed = source[: node.start_byte] + other.encode() + source[node.end_byte :]
    return Mutation(path, name, node.start_point.row + 1, changed)


def _trail(node: Node, top: Node) -> str:
    """The way from the declaration to the node, by the names of properties and the texts of elements."""
    parts: list[str] = []
    at: Node | None = node
    while at is not None and at != top:
        if at.type == "object_property":
            parts.append(text_of(at.named_children[0]).strip("'"))
        elif at.parent is not None and at.parent.type == "array" and at.type != "object":
            parts.append(" ".join(text_of(at).split())[:60])
        at = at.parent
    return ".".join(reversed(parts))
