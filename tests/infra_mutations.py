"""Everything that can be taken out of a template, one thing at a time, found in its syntax."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tree_sitter import Node

from tests.bicep import Files, declarations, text_of, walk


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


def mutations(files: Files) -> Iterator[Mutation]:
    """Each property of an object and each element of a list removed, each boolean turned round, and each
    resource and module removed; not what parameters default to, for that is a choice."""
    for path, source in files.items():
        if not path.endswith(".bicep"):
            continue
        for declaration in declarations(source):
            if declaration.kind == "param":
                continue
            top = declaration.node
            if declaration.kind in ("resource", "module"):
                yield _removed(path, source, top, f"{declaration.kind} {declaration.name}")
            for node in walk(top):
                name = f"{declaration.name}: {_trail(node, top)}"
                element = node.is_named and node.parent is not None and node.parent.type == "array"
                if node.type == "object_property" or (element and node.type != "comment"):
                    yield _removed(path, source, node, name)
                elif node.type == "boolean":
                    other = b"false" if text_of(node) == "true" else b"true"
                    changed = source[: node.start_byte] + other + source[node.end_byte :]
                    yield Mutation(path, f"{name} is {other.decode()}", node.start_point.row + 1, changed)
                elif node.type == "for_statement":
                    items = next(
                        child
                        for before, child in zip(node.children, node.children[1:], strict=False)
                        if before.type == "in"
                    )
                    changed = source[: items.start_byte] + b"[]" + source[items.end_byte :]
                    yield Mutation(path, f"{name} for nothing", node.start_point.row + 1, changed)


def _removed(path: str, source: bytes, node: Node, name: str) -> Mutation:
    changed = source[: node.start_byte] + source[node.end_byte :]
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
