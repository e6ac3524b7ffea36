"""Types of parameters and outputs: whether a value fits, as the compiler and Azure see it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tree_sitter import Node

from tests.bicep_functions import BicepError, same
from tests.bicep_syntax import decorated, parts_of, pieces, text_of

Named = Callable[[str], tuple[Node, "Named"]]
"""The type of a name, and how names are understood where it is declared."""

PRIMITIVES: dict[str, type] = {"string": str, "int": int, "bool": bool, "array": list, "object": dict}


def mismatch(value: Any, node: Node, named: Named) -> str:
    """What is wrong with a value for a type, empty for nothing.

    :raises BicepError: the type is not understood here.
    """
    match node.type:
        case "type" | "parenthesized_type" | "parenthesized_expression":
            return mismatch(value, parts_of(node)[0], named)
        case "primitive_type":
            wanted = PRIMITIVES[text_of(node)]
            fits = isinstance(value, wanted) and isinstance(value, bool) == (wanted is bool)
            return "" if fits else f"{value!r} is no {text_of(node)}"
        case "array_type":
            if not isinstance(value, list):
                return f"{value!r} is no array"
            return next(filter(None, (mismatch(each, parts_of(node)[0], named) for each in value)), "")
        case "nullable_type":
            return "" if value is None else mismatch(value, parts_of(node)[0], named)
        case "union_type" | "binary_expression" if all(
            c.type == "|" for c in node.children if not c.is_named
        ):
            fits = any(not mismatch(value, each, named) for each in parts_of(node))
            return "" if fits else f"{value!r} is not {text_of(node)}"
        case "string" | "number" | "boolean" | "null":
            return "" if same(value, literal(node)) else f"{value!r} is not {text_of(node)}"
        case "identifier" if text_of(node) == "any":  # What stands for a type that is taken from a resource.
            return ""
        case "identifier":
            inner, names = named(text_of(node))
            return mismatch(value, inner, names)
        case "object":
            return _object(value, node, named)
        case _:
            raise BicepError(f"the type {text_of(node)} is not understood here")


def literal(node: Node) -> Any:
    if node.type == "string":
        (found,) = pieces(node)
        return found
    return (
        {"true": True, "false": False, "null": None}.get(text_of(node))
        if node.type != "number"
        else int(text_of(node))
    )


def _object(value: Any, node: Node, named: Named) -> str:
    if not isinstance(value, dict):
        return f"{value!r} is no object"
    others: Node | None = None
    left = dict(value)
    for pair, decorators in decorated(node.named_children):
        if pair.type != "object_property":
            continue
        key, kind = pair.children[0], parts_of(pair)[-1]
        if text_of(key) == "*":
            others = kind
            continue
        name = literal(key) if key.type == "string" else text_of(key)
        if name not in left and kind.type != "nullable_type":
            return f"{name} is missing in {value!r}"
        each = left.pop(name, None)
        wrong = mismatch(each, kind, named) or beyond(each, decorators)
        if wrong:
            return f"{name}: {wrong}"
    for name, each in left.items():
        wrong = mismatch(each, others, named) if others else "it has no such property"
        if wrong:
            return f"{name}: {wrong}"
    return ""


def beyond(value: Any, decorators: dict[str, Node]) -> str:
    """How a value is outside of the limits that its decorators say, empty for not."""
    if value is None:
        return ""
    for name, call in decorators.items():
        arguments = call.child_by_field_name("arguments")
        given = parts_of(arguments) if arguments else []
        size = value if isinstance(value, int) else len(value)
        match name:
            case "allowed":
                values = [literal(each) for each in parts_of(given[0])]
                if not any(same(value, each) for each in values):
                    return f"{value!r} is not one of {values}"
            case "minValue" | "minLength":
                if size < _number(given[0]):
                    return f"{value!r} is below {_number(given[0])}"
            case "maxValue" | "maxLength":
                if size > _number(given[0]):
                    return f"{value!r} is above {_number(given[0])}"
            case "description" | "metadata" | "secure" | "export" | "sealed" | "batchSize":
                pass
            case _:
                raise BicepError(f"the decorator {name} is not understood here")
    return ""


def _number(node: Node) -> int:
    return int(text_of(node).replace(" ", ""))
