"""OData filters as Azure Tables speaks them: bound to parameters, and evaluated on an entity.

What is allowed is what Azure allows ("Querying tables and entities"): ``eq ne gt ge lt le``, ``and or not``,
parentheses, property names and literals; no functions, no arithmetic, no ``null``. Literals are ``'text'``
(quotes doubled), ``5``, ``5L``, ``1.5``, ``true``, ``datetime'2026-01-02T03:04:05Z'``,
``X'0aff'`` or ``binary'0aff'``, ``guid'…'``; ``@name`` stands for a parameter.

The meaning, as observed on Azurite 3.37 where the documentation is silent:

* a comparison with a property that the entity does not have is false, ``ne`` as well; ``not`` turns it into
  true: ``not (status eq 'done')`` holds for an entity without a status;
* a comparison of different types is false, again with ``ne`` (Azurite, but not Azure, says true there);
  integers of 32 and 64 bits and doubles are all numbers and compare by value;
* text is compared ordinally, by code points; ``not`` binds looser than a comparison, tighter than ``and``.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

from storage_lib.errors import InvalidArgumentError

if TYPE_CHECKING:
    from storage_lib.backends.tables import Entity

MAX_FILTER_CHARACTERS = 32 * 1024
MAX_DEPTH = 64
"""Of parentheses and ``not``, so that no filter can exhaust the stack."""

type KeyBound = tuple[Literal["PartitionKey", "RowKey"], Literal["=", "<", "<=", ">", ">="], str]


class Filter:
    """A filter with its parameters; call it with an entity.

    ``key_bounds`` are conditions on the keys that every entity it holds for fulfils: a store that has an
    index can look at these entities only.
    """

    __slots__ = ("_holds", "key_bounds")

    def __init__(self, holds: Callable[[Entity], bool], key_bounds: list[KeyBound]) -> None:
        self._holds = holds
        self.key_bounds = key_bounds

    def __call__(self, entity: Entity) -> bool:
        return self._holds(entity)


def compile_filter(filter: str | None, parameters: Mapping[str, Any]) -> Filter:
    """The filter ready to evaluate; None and blank text hold for every entity.

    :raises InvalidArgumentError: it does not parse, uses what Azure does not know, or its parameters are
        not exactly those given.
    """
    node = _parse(filter) if filter is not None and not filter.isspace() and filter else None
    for value in parameters.values():
        _literal(value)
    _check_names(set(_names(node)), parameters)
    if node is None:
        return Filter(lambda _: True, [])
    return Filter(_predicate(node, parameters), list(_key_bounds(node, parameters)))


def bind(filter: str, parameters: Mapping[str, Any]) -> str:
    """The filter with every ``@name`` outside of text replaced by the literal of ``parameters[name]``.

    :raises InvalidArgumentError: a parameter is missing, not used, or of a type that has no literal.
    """
    used: set[str] = set()

    def replaced(found: re.Match[str]) -> str:
        name = found["name"]
        if name is None:
            return found[0]
        used.add(name)
        return _literal(parameters[name]) if name in parameters else found[0]

    bound = _TEXT_OR_NAME.sub(replaced, filter)
    _check_names(used, parameters)
    return bound


_TEXT_OR_NAME = re.compile(r"'(?:[^']|'')*(?:'|\Z)|@(?P<name>[A-Za-z_][A-Za-z0-9_]*)")


def _check_names(used: set[str], parameters: Mapping[str, Any]) -> None:
    if missing := used - parameters.keys():
        raise _wrong(f"parameters are missing: {', '.join(sorted(missing))}", field="parameters")
    if unused := parameters.keys() - used:
        raise _wrong(f"parameters are not used: {', '.join(sorted(unused))}", field="parameters")


def _literal(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int() if -(2**63) <= value < 2**63:
            return str(value) if -(2**31) <= value < 2**31 else f"{value}L"
        case float() if math.isfinite(value):
            return repr(float(value))
        case str() if not any("\ud800" <= ch <= "\udfff" for ch in value):
            return "'" + value.replace("'", "''") + "'"
        case datetime() if value.tzinfo is not None:
            moment = value.astimezone(UTC).replace(tzinfo=None)
            return f"datetime'{moment.isoformat(timespec='microseconds')}Z'"
        case bytes():
            return f"X'{value.hex()}'"
        case UUID():
            return f"guid'{value}'"
        case _:
            raise InvalidArgumentError(
                f"a filter has no literal for {ascii(value)[:80]} of type {type(value).__name__}",
                field="parameters",
                limit="str, bool, int (64 bits), finite float, datetime with a time zone, bytes or UUID",
            )


# -- the filter as a tree


@dataclass(frozen=True, slots=True)
class _Property:
    name: str


@dataclass(frozen=True, slots=True)
class _Parameter:
    name: str


@dataclass(frozen=True, slots=True)
class _Value:
    value: Any


type _Operand = _Property | _Parameter | _Value


@dataclass(frozen=True, slots=True)
class _Compare:
    operator: str
    left: _Operand
    right: _Operand


@dataclass(frozen=True, slots=True)
class _Not:
    node: _Node


@dataclass(frozen=True, slots=True)
class _Junction:
    """``and`` or ``or`` of many, flat: filters that programs write can have hundreds of terms."""

    every: bool
    nodes: tuple[_Node, ...]


type _Node = _Compare | _Not | _Junction | _Operand


@lru_cache(maxsize=256)
def _parse(filter: str) -> _Node:
    """Cached by the text before its parameters are bound, so that one query is parsed once."""
    if len(filter) > MAX_FILTER_CHARACTERS:
        raise _wrong(f"it has {len(filter)} characters", limit=f"{MAX_FILTER_CHARACTERS} characters")
    from odata_query.exceptions import ODataException

    lexer, parser, convert = _grammar()
    try:
        tree = parser().parse(lexer().tokenize(filter.strip()))
    except ODataException as error:
        at: int | None = getattr(getattr(error, "token", None), "index", None)
        raise _wrong(f"it does not parse{f' from character {at}' if at is not None else ''}") from error
    except ValueError as error:
        raise _wrong(f"a literal is malformed: {error}") from error
    return convert(tree, 0)


@cache
def _grammar() -> tuple[Any, Any, Callable[[Any, int], _Node]]:
    """odata-query's grammar of OData 4 with the literals of OData 3, which Azure Tables speaks.

    Made on first use: importing it builds the tables of its parser, about 0.1 s.
    """
    from odata_query import ast
    from odata_query.grammar import ODataLexer, ODataParser

    def _(pattern: str) -> Callable[[Any], Any]:  # what sly puts into a class body, told to the type checker
        raise NotImplementedError(pattern)

    # Redefined tokens keep their place in the order in which they are tried. DURATION, which Azure does not
    # have, is the first, so it takes the prefixed literals; each is given to the parser as a STRING whose
    # value is already the node of this module. Base tokens without a word boundary would break
    # property names such as `allowed` or `trueish` into two.
    class Lexer(ODataLexer):
        tokens = ODataLexer.tokens

        @_(r"(?:datetime|guid|binary|x)'[^']*'|@[a-z_][a-z0-9_]*")
        def DURATION(self, t: Any) -> Any:  # noqa: N802
            t.type = "STRING"
            t.value = _prefixed(t.value)
            return t

        @_(r"[+-]?\d+L?(?![\w.'])")
        def INTEGER(self, t: Any) -> Any:  # noqa: N802
            value = int(t.value.rstrip("lL"))
            if not -(2**63) <= value < 2**63:
                raise ValueError(f"{t.value} is outside 64 bits")
            t.value = _Value(value)
            return t

        @_(r"(?:true|false)(?!\w)")
        def BOOLEAN(self, t: Any) -> Any:  # noqa: N802
            t.value = _Value(t.value.lower() == "true")
            return t

        @_(r"null(?!\w)")
        def NULL(self, t: Any) -> Any:  # noqa: N802
            raise ValueError("null is not supported by Azure Tables")

        @_(r"not(?:\s+|(?=\())")
        def NOT(self, t: Any) -> Any:  # noqa: N802
            t.value = ast.Not()
            return t

        @_(r"(?!)any")
        def ANY(self, t: Any) -> Any:  # noqa: N802
            return t

        @_(r"(?!)all")
        def ALL(self, t: Any) -> Any:  # noqa: N802
            return t

        @_(r"[a-z_]\w{0,254}")
        def ODATA_IDENTIFIER(self, t: Any) -> Any:  # noqa: N802
            t.value = ast.Identifier(t.value)
            return t

    def operand(node: Any) -> _Operand:
        match node:
            case _Value() | _Parameter():
                return node
            case ast.String():
                return _Value(node.val)
            case ast.Float():
                return _Value(_finite(node.val))
            case ast.Identifier():
                return _Property(node.name)
            case _:
                raise _wrong(f"{type(node).__name__} is not supported by Azure Tables")

    def convert(node: Any, depth: int) -> _Node:
        if depth > MAX_DEPTH:
            raise _wrong("it is nested too deeply", limit=f"{MAX_DEPTH} levels")
        match node:
            case ast.BoolOp():
                return junction(node, depth)
            case ast.UnaryOp(op=ast.Not()):
                return _Not(convert(node.operand, depth + 1))
            case ast.Compare(left=ast.UnaryOp(op=ast.Not(), operand=left)):
                # OData 4 reads `not a eq 1` as `(not a) eq 1`, which has no meaning here.
                inner = ast.Compare(node.comparator, left, node.right)
                return _Not(convert(inner, depth + 1))
            case ast.Compare():
                name = type(node.comparator).__name__
                if name not in _OPERATORS:
                    raise _wrong(f"the operator {name.lower()} is not supported by Azure Tables")
                return _Compare(name, operand(node.left), operand(node.right))
            case _:
                return operand(node)

    def junction(node: Any, depth: int) -> _Node:
        kind, nodes, rest = type(node.op), list[Any](), [node]
        while rest:
            term = rest.pop()
            if isinstance(term, ast.BoolOp) and isinstance(term.op, kind):
                rest += (term.right, term.left)
            else:
                nodes.append(term)
        return _Junction(kind is ast.And, tuple(convert(term, depth + 1) for term in nodes))

    return Lexer, ODataParser, convert


def _prefixed(text: str) -> _Operand:
    if text.startswith("@"):
        return _Parameter(text[1:])
    prefix, _, rest = text.partition("'")
    content = rest[:-1]
    match prefix.lower():
        case "datetime":
            moment = datetime.fromisoformat(content)
            return _Value(moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment)
        case "guid":
            return _Value(UUID(content))
        case _:
            return _Value(bytes.fromhex(content))


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _wrong(f"{text} is larger than a double can be")
    return value


# -- its meaning

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "Eq": operator.eq,
    "NotEq": operator.ne,
    "Lt": operator.lt,
    "LtE": operator.le,
    "Gt": operator.gt,
    "GtE": operator.ge,
}
_MIRRORED = {"Eq": "Eq", "Lt": "Gt", "LtE": "GtE", "Gt": "Lt", "GtE": "LtE"}
_SQL: dict[str, Literal["=", "<", "<=", ">", ">="]] = {
    "Eq": "=",
    "Lt": "<",
    "LtE": "<=",
    "Gt": ">",
    "GtE": ">=",
}


def _predicate(node: _Node, parameters: Mapping[str, Any]) -> Callable[[Entity], bool]:
    match node:
        case _Junction():
            terms = [_predicate(term, parameters) for term in node.nodes]
            if node.every:
                return lambda entity: all(holds(entity) for holds in terms)
            return lambda entity: any(holds(entity) for holds in terms)
        case _Not():
            inner = _predicate(node.node, parameters)
            return lambda entity: not inner(entity)
        case _Compare():
            return _comparison(node, parameters)
        case _:
            read = _reader(node, parameters)
            return lambda entity: read(entity) is True


def _comparison(node: _Compare, parameters: Mapping[str, Any]) -> Callable[[Entity], bool]:
    compare = _OPERATORS[node.operator]
    left, right = _reader(node.left, parameters), _reader(node.right, parameters)

    def holds(entity: Entity) -> bool:
        a, b = left(entity), right(entity)
        kind = _kind(a)
        return kind is not None and kind is _kind(b) and compare(a, b)

    return holds


def _kind(value: Any) -> type | None:
    """Values are comparable if they are of one kind; None is of no kind."""
    match value:
        case bool():
            return bool
        case int() | float():
            return float
        case str():
            return str
        case datetime():
            return datetime
        case bytes():
            return bytes
        case UUID():
            return UUID
        case _:
            return None


def _reader(node: _Operand, parameters: Mapping[str, Any]) -> Callable[[Entity], Any]:
    match node:
        case _Property(name="PartitionKey"):
            return lambda entity: entity.partition_key
        case _Property(name="RowKey"):
            return lambda entity: entity.row_key
        case _Property(name="Timestamp"):
            return lambda entity: entity.timestamp
        case _Property(name=name):
            return lambda entity: entity.properties.get(name)
        case _:
            value = parameters[node.name] if isinstance(node, _Parameter) else node.value
            return lambda entity: value


def _key_bounds(node: _Node, parameters: Mapping[str, Any]) -> Iterator[KeyBound]:
    for term in node.nodes if isinstance(node, _Junction) and node.every else (node,):
        if not isinstance(term, _Compare) or term.operator not in _MIRRORED:
            continue
        name, left, right = term.operator, term.left, term.right
        if not isinstance(left, _Property):
            name, left, right = _MIRRORED[name], right, left
        if isinstance(left, _Property) and not isinstance(right, _Property):
            value = parameters[right.name] if isinstance(right, _Parameter) else right.value
            if left.name in ("PartitionKey", "RowKey") and isinstance(value, str):
                yield ("PartitionKey" if left.name == "PartitionKey" else "RowKey"), _SQL[name], value


def _names(node: _Node | None) -> Iterator[str]:
    match node:
        case _Parameter():
            yield node.name
        case _Not():
            yield from _names(node.node)
        case _Compare():
            yield from _names(node.left)
            yield from _names(node.right)
        case _Junction():
            for term in node.nodes:
                yield from _names(term)
        case _:
            return


def _wrong(why: str, *, field: str = "filter", limit: str | None = None) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"the filter can not be used: {why}",
        field=field,
        limit=limit,
        remedy="write it as Azure Tables does, for example PartitionKey eq @day and status eq 'done'",
    )
