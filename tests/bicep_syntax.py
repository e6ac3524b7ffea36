"""Bicep as text: its syntax tree by tree-sitter-bicep, its declarations, and what a string in it says."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import tree_sitter
import tree_sitter_bicep
from tree_sitter import Node

from tests.bicep_functions import BicepError

TAKEN = re.compile(rb"\bresourceInput<'[^'\n]+'>(?:\.\w+)*")


@functools.lru_cache(maxsize=4096)
def parse(source: bytes) -> Node:
    """:raises BicepError: the text is no Bicep; it begins with the line."""
    # tree-sitter-bicep does not know the types that are taken from a resource.
    source = TAKEN.sub(lambda taken: b"any".ljust(len(taken[0])), source)
    language = tree_sitter.Language(tree_sitter_bicep.language())
    root = tree_sitter.Parser(language).parse(source).root_node
    if root.has_error:
        bad = next(n for n in walk(root) if n.type == "ERROR" or n.is_missing)
        raise BicepError(f"{bad.start_point.row + 1}: syntax error: {text_of(bad)[:60]!r}")
    return root


def walk(node: Node) -> Iterator[Node]:
    left = [node]
    while left:
        yield (found := left.pop())
        left += reversed(found.children)


def text_of(node: Node) -> str:
    return (node.text or b"").decode()


def parts_of(node: Node) -> list[Node]:
    """What is in a node, without comments."""
    return [child for child in node.named_children if child.type not in ("comment", "diagnostic_comment")]


@dataclass(frozen=True)
class Declaration:
    """A declaration with its decorators: ``kind`` is param, var, resource, module, output, type…"""

    kind: str
    name: str
    node: Node
    decorators: Mapping[str, Node]

    @property
    def line(self) -> int:
        return self.node.start_point.row + 1

    @property
    def value(self) -> Node | None:
        """What stands behind the ``=``."""
        seen = False
        for child in self.node.children:
            if seen and child.type != "comment":
                return child
            seen = seen or child.type == "="
        return None

    @functools.cached_property
    def names(self) -> list[str]:
        """What it names, in the order of the text; no keys of objects and no properties."""
        keys = {
            pair.named_children[0].id
            for pair in walk(self.node)
            if pair.type == "object_property" and pair.named_children
        }
        return [text_of(n) for n in walk(self.node) if n.type == "identifier" and n.id not in keys]

    @property
    def type(self) -> Node | None:
        """Its type, where it is said."""
        return next((child for child in self.node.named_children if child.type == "type"), None)


# What is no declaration: it changes nothing of what is deployed.
_ASIDE = frozenset({"comment", "diagnostic_comment", "target_scope_assignment", "import_functionality"})


@functools.lru_cache(maxsize=4096)
def declarations(source: bytes) -> tuple[Declaration, ...]:
    """:raises BicepError: what is no Bicep, or none that is understood here; it begins with the line."""
    found: list[Declaration] = []
    for node, decorators in decorated(parse(source).named_children):
        kind, _, rest = node.type.partition("_")
        if rest == "declaration":
            kind = {"parameter": "param", "variable": "var"}.get(kind, kind)
            name = next(text_of(c) for c in node.named_children if c.type == "identifier")
            if kind != "output" and any(d.name == name and d.kind != "output" for d in found):
                raise BicepError(f"{node.start_point.row + 1}: {name} is declared twice")
            found.append(Declaration(kind, name, node, decorators))
        elif node.type not in _ASIDE:
            raise BicepError(f"{node.start_point.row + 1}: {node.type} is not understood here")
    return tuple(found)


@functools.lru_cache(maxsize=4096)
def imports(source: bytes) -> dict[str, str]:
    """The path of the file that each imported name comes from."""
    found: dict[str, str] = {}
    for node in parse(source).named_children:
        if node.type == "import_functionality":
            *names, path = parts_of(node)
            (text,) = pieces(path)
            found |= {text_of(name): str(text) for name in names}
    return found


def decorated(nodes: Iterable[Node]) -> Iterator[tuple[Node, dict[str, Node]]]:
    """Each node with the calls of the decorators before it."""
    decorators: dict[str, Node] = {}
    for node in nodes:
        if node.type == "decorators":
            for call in (n for n in walk(node) if n.type == "call_expression"):
                function = call.child_by_field_name("function")
                if function is not None and call.parent is not None and call.parent.type == "decorator":
                    decorators[text_of(function).removeprefix("sys.")] = call
            continue
        yield node, decorators
        if node.type != "comment":
            decorators = {}


ESCAPE = re.compile(r"\\(?:u\{([0-9A-Fa-f]+)\}|(\$\{)|([nrt\\'$]))")
PLAIN = re.compile(r"(?:[^\\'\n$]|\$(?!\{))+")
_NAMED = {"n": "\n", "r": "\r", "t": "\t"}


def pieces(node: Node) -> Iterator[str | Node]:
    """The texts of a string in turn with the expressions that are interpolated.

    They are read here, out of the whole: tree-sitter-bicep drops ``\\$`` and blanks before ``${``.
    """
    whole = node.text or b""
    if whole.startswith(b"'''"):
        # One line break behind the quotes is not part of it, and nothing in it is special.
        yield re.sub(r"\A\r?\n", "", whole[3:-3].decode())
        return
    start = 1
    for child in (c for c in node.named_children if c.type == "interpolation"):
        opening = child.start_byte - node.start_byte
        opening += (child.text or b"").index(b"${")
        yield unescaped(whole[start:opening].decode())
        inner = parts_of(child)
        if len(inner) != 1:
            raise BicepError(f"{text_of(child)} is not understood here")
        yield inner[0]
        start = child.end_byte - node.start_byte
    yield unescaped(whole[start:-1].decode())


@functools.lru_cache(maxsize=4096)
def unescaped(text: str) -> str:
    found, at = "", 0
    while at < len(text):
        match = ESCAPE.match(text, at)
        if match is None:
            plain = PLAIN.match(text, at)
            if plain is None:
                raise BicepError(f"{text!r} is not understood here")
            found, at = found + plain[0], plain.end()
            continue
        code, opening, single = match.groups()
        if code and (int(code, 16) > 0x10FFFF or 0xD800 <= int(code, 16) < 0xE000):
            raise BicepError(f"{match[0]} is no character")
        found += chr(int(code, 16)) if code else opening or _NAMED.get(single, single)
        at = match.end()
    return found
