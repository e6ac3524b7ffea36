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


ANY = "any name will do, for nothing and nobody looks it up"
WORDS = "what it says is checked for its cause and its remedy, and may say more"
ABSENT = "it stands for one that is not there, and must only be a name"

UNNOTICED: dict[str, str] = {
    "main.bicep budgetStartDate defaults to 'x'": "no day is right for all, nor is there a budget by default",
    "main.bicep needsBudgetStart:  is another": WORDS,
    "main.bicep needsIsolation:  is another": WORDS,
    "modules/alerts.bicep queryAlerts: description is another": WORDS,
    "modules/alerts.bicep storageRules: properties.description is another": WORDS,
    "modules/alerts.bicep webTestRule: properties.description is another": WORDS,
    "modules/alerts.bicep actionGroup: properties.emailReceivers.name is another": ANY,
    "modules/alerts.bicep storageRules: properties.criteria.allOf.name is another": ANY,
    "modules/network.bicep network: properties.subnets.properties.delegations.name is another": ANY,
    "modules/storage.bicep coolRule: name is another": ANY,
    "modules/rbac.bicep applicationInsights: name is another": ABSENT,
    "modules/rbac.bicep keyVault: name is another": ABSENT,
}
"""What no check notices, and nothing else, each with its reason."""


def mutations(files: Files) -> Iterator[Mutation]:
    """Each property of an object and each element of a list removed, each boolean and each condition turned
    round, each text another one, each number one more and one less, each type another one, each resource and
    module removed, and each parameter with another default."""
    for path, source in files.items():
        if not path.endswith(".bicep"):
            continue
        for declaration in declarations(source):
            top = declaration.node
            if declaration.type is not None:
                for node in walk(declaration.type):
                    if node.type == "primitive_type":
                        other = OTHER_TYPES[text_of(node)]
                        yield _replaced(path, source, node, other, f"{declaration.name} is of type {other}")
            if declaration.kind == "param":
                yield from _other_default(path, source, declaration)
                continue
            if declaration.kind in ("resource", "module"):
                yield _removed(path, source, top, f"{declaration.kind} {declaration.name}")
            said = {
                n.id for decorators in walk(top) if decorators.type == "decorators" for n in walk(decorators)
            }
            for node in walk(top):
                if node.id in said:  # What is said of the members of a type, as of parameters.
                    continue
                name = f"{declaration.name}: {_trail(node, top)}"
                element = node.is_named and node.parent is not None and node.parent.type == "array"
                if node.type == "object_property" or (element and node.type not in COMMENTS):
                    yield _removed(path, source, node, name)
                if node.type == "boolean":
                    other = "false" if text_of(node) == "true" else "true"
                    yield _replaced(path, source, node, other, f"{name} is {other}")
                elif node.type == "string" and node.is_named:
                    other = _other_text(text_of(node))
                    yield _replaced(path, source, node, other, f"{name} is {other}")
                elif node.type == "number":
                    for step in (1, -1):
                        # The 1 of -1 becomes a 2, and a 0 no -1, of which there would be two signs.
                        other = str(int(text_of(node)) + step)
                        if not other.startswith("-"):
                            yield _replaced(path, source, node, other, f"{name} is '{other}'")
                elif node.type == "primitive_type" and declaration.kind == "type":
                    other = OTHER_TYPES[text_of(node)]
                    yield _replaced(path, source, node, other, f"{name} is of type {other}")
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


OTHER_TYPES = {"string": "int", "int": "string", "bool": "string", "array": "object", "object": "array"}
COMMENTS = ("comment", "diagnostic_comment")


def _other_text(text: str) -> str:
    end = "'''" if text.startswith("'''") else "'"
    return f"{text.removesuffix(end)}x{end}"


def _other_default(path: str, source: bytes, declaration: Declaration) -> Iterator[Mutation]:
    """The default turned round, one more, or another text, one that is allowed where that is limited."""
    node = declaration.value
    if node is None:
        return
    text = text_of(node)
    allowed = declaration.decorators.get("allowed")
    values = [text_of(n) for n in walk(allowed) if n.is_named and n.type == node.type] if allowed else []
    others = [each for each in values if each != text]
    match node.type:
        case "boolean":
            other = "false" if text == "true" else "true"
        case "string":
            other = others[0] if others else _other_text(text)
        case "array":
            other = "['x']"
        case "object":
            other = "{ x: 'x' }"
        case "number" | "unary_expression":
            other = others[0] if others else str(int(text) + 1)
        case kind:
            raise ValueError(f"{path}: no other default of {declaration.name}, which is of type {kind}")
    yield _replaced(path, source, node, other, f"{declaration.name} defaults to {other}")


def _removed(path: str, source: bytes, node: Node, name: str) -> Mutation:
    """Without its decorators, and without the comma that would be one too many."""
    before, after = node.prev_sibling, node.next_sibling
    first = before if before is not None and before.type in ("decorators", ",") else node
    last = node
    if after is not None and after.type == ",":
        first, last = node, after
    changed = source[: first.start_byte] + source[last.end_byte :]
    return Mutation(path, name, node.start_point.row + 1, changed)


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
