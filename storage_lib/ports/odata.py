"""OData filters as Azure Tables speaks them: parsed, bound to parameters, and evaluated on an entity.

What is allowed is what Azure allows ("Querying tables and entities", Azure Storage REST): comparisons
``eq ne gt ge lt le`` of a property with a constant, on either side, or of two constants; a boolean property
or constant by itself; ``and or not`` and parentheses; no functions, no arithmetic, no ``null``, no comparison
of two properties ("one side of the expression must be a constant"). Constants are
``'text'`` (quotes doubled), ``5``, ``5L``, ``1.5``, ``true``, ``datetime'2026-01-02T03:04:05Z'``,
``X'0aff'`` or ``binary'0aff'``, ``guid'…'``; ``@name`` stands for a parameter. Operators may be in capitals.

The meaning, the same on every backend:

* a comparison with a property that the entity does not have is false, ``ne`` as well (as Azure does, see
  Azure/Azurite#1929); ``not`` turns it into true: ``not (status eq 'done')`` holds for an entity without a
  status;
* so is a comparison of different types, again with ``ne`` (Azure asks for a constant of the property's type
  and does not say what else means); integers of 32 and 64 bits and doubles are all numbers, compare by value,
  and ``-0.0`` is ``0``;
* text is compared ordinally, by UTF-16 units as .NET does; bytes one by one; UUIDs as numbers;
* ``not`` binds looser than a comparison, tighter than ``and``, which binds tighter than ``or``.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

from storage_lib.errors import InvalidArgumentError
from storage_lib.patterns import pattern

if TYPE_CHECKING:
    from storage_lib.ports.table_model import Entity

MAX_FILTER_CHARACTERS = 32 * 1024
_FEW = 8
"""Parameters of a filter that is kept."""
MAX_DEPTH = 64
"""Of parentheses and ``not``, so that no filter can exhaust the stack."""

Operator = Literal["eq", "ne", "lt", "le", "gt", "ge"]
type KeyBound = tuple[Literal["PartitionKey", "RowKey"], Literal["=", "<", "<=", ">", ">="], str]


# -- the filter as a tree


@dataclass(frozen=True, slots=True)
class Parameter:
    """``@name``, until it is bound."""

    name: str


@dataclass(frozen=True, slots=True)
class Compare:
    """A property compared with a constant, which is a `Parameter` until it is bound. ``yes`` by itself is
    ``yes eq true``; a constant on the left has been moved to the right."""

    name: str
    operator: Operator
    value: Any


@dataclass(frozen=True, slots=True)
class Constants:
    """Two constants compared, which are `Parameter` until they are bound, and then give way to what that
    makes of the filter. ``true`` by itself is ``true eq true``."""

    left: Any
    operator: Operator
    right: Any


@dataclass(frozen=True, slots=True)
class Not:
    node: Node


@dataclass(frozen=True, slots=True)
class Junction:
    """``and`` (every) or ``or`` of many, flat: filters that programs write can have hundreds of terms."""

    every: bool
    nodes: tuple[Node, ...]


type Node = Compare | Constants | Not | Junction

NOTHING = Junction(False, ())
"""The filter that holds for no entity."""


class Filter:
    """A filter with its parameters bound; call it with an entity.

    ``node`` is its tree, None where it holds for every entity. ``key_bounds`` are conditions on the keys
    that every entity it holds for fulfils: a store that has an index can look at these entities only.
    ``of_keys`` tells whether they say all of it, so that it holds for each of these entities.
    """

    __slots__ = ("_holds", "key_bounds", "node", "of_keys")

    def __init__(self, node: Node | None) -> None:
        self.node = node
        self.key_bounds: list[KeyBound] = [] if node is None else list(_key_bounds(node))
        if node == NOTHING:
            self.key_bounds.append(("PartitionKey", "<", ""))
        self.of_keys = node is None or _is_of_keys(node)
        self._holds = _always if node is None else _predicate(node)

    def __call__(self, entity: Entity) -> bool:
        return self._holds(entity)

    @property
    def names(self) -> set[str]:
        """The properties that it looks at, keys and Timestamp included."""
        terms = () if self.node is None else _comparisons(self.node)
        return {term.name for term in terms if isinstance(term, Compare)}


def compile_filter(filter: str | None, parameters: Mapping[str, Any]) -> Filter:
    """The filter ready to evaluate; None and blank text hold for every entity.

    :raises InvalidArgumentError: it does not parse, uses what Azure does not know, or its parameters are
        not exactly those given.
    """
    if filter is not None and not isinstance(filter, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise _wrong(f"it is a {type(filter).__name__}, not a str")
    if len(parameters) <= _FEW and all(
        type(value) is str and len(value) < 256 for value in parameters.values()
    ):
        return _compiled_with_texts(filter, *parameters.items())
    return _compiled(filter, parameters)


@lru_cache(maxsize=256)
def _compiled_with_texts(filter: str | None, *parameters: tuple[str, str]) -> Filter:
    """Such filters come again and again: those of the rows of one partition."""
    return _compiled(filter, dict(parameters))


def _compiled(filter: str | None, parameters: Mapping[str, Any]) -> Filter:
    node = _parse(filter) if filter and not filter.isspace() else None
    terms = () if node is None else tuple(_comparisons(node))
    used = {
        constant.name for term in terms for constant in _constants(term) if isinstance(constant, Parameter)
    }
    if missing := used - parameters.keys():
        raise _wrong(f"parameters are missing: {', '.join(sorted(missing))}", field="parameters")
    if unused := parameters.keys() - used:
        raise _wrong(f"parameters are not used: {', '.join(sorted(map(str, unused)))}", field="parameters")
    for value in parameters.values():
        literal(value)
    if node is None or not (used or any(isinstance(term, Constants) for term in terms)):
        return Filter(node)
    match _bound(node, parameters):
        case bool() as always:
            return Filter(None if always else NOTHING)
        case bound:
            return Filter(bound)


def bind(filter: str, parameters: Mapping[str, Any]) -> str:
    """The filter as text, with every ``@name`` replaced by the literal of ``parameters[name]``.

    :raises InvalidArgumentError: as `compile_filter`.
    """
    node = compile_filter(filter, parameters).node
    return "" if node is None else text(node)


def text(node: Node) -> str:
    """A bound tree as a filter that Azure reads: operators in lower case, constants on the right."""
    match node:
        case Compare():
            return f"{node.name} {node.operator} {literal(node.value)}"
        case Constants():
            return f"{literal(node.left)} {node.operator} {literal(node.right)}"
        case Not():
            return f"not ({text(node.node)})"
        case Junction(nodes=()):
            return "true" if node.every else "false"
        case Junction():
            terms = (f"({text(term)})" if isinstance(term, Junction) else text(term) for term in node.nodes)
            return (" and " if node.every else " or ").join(terms)


def constant(text: str, *, field: str) -> Any:
    """The value of one literal: the inverse of `literal`.

    :param field: what the error names.
    :raises InvalidArgumentError: it is not one literal and nothing else.
    """
    if len(text) > MAX_FILTER_CHARACTERS:
        raise InvalidArgumentError(
            f"{field} has {len(text)} characters", field=field, limit=f"{MAX_FILTER_CHARACTERS} characters"
        )
    try:
        return _Parser(text).constant()
    except InvalidArgumentError as error:
        raise InvalidArgumentError(
            f"{field} is {ascii(text)[:80]}",
            field=field,
            limit="one literal: 'text' (its quotes doubled), 5, 5L, 1.5, true, datetime'…', guid'…' or X'…'",
            remedy="write text in quotes",
        ) from error


def literal(value: Any) -> str:
    """A constant as Azure's filters have it.

    :raises InvalidArgumentError: there is none for this value.
    """
    match value:
        case bool():
            return "true" if value else "false"
        case int() if -(2**63) <= value < 2**63:
            return str(value) if -(2**31) <= value < 2**31 else f"{value}L"
        case float() if math.isfinite(value):
            return _double(value)
        case str() if not _SURROGATE.search(value):
            return "'" + value.replace("'", "''") + "'"
        case datetime() if value.tzinfo is not None:
            return f"datetime'{_utc(value)}Z'"
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


def _utc(moment: datetime) -> str:
    try:
        return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds")
    except OverflowError as error:
        raise InvalidArgumentError(
            f"{moment} is outside the years 1 to 9999 in UTC", field="parameters"
        ) from error


_SURROGATE = pattern("[\ud800-\udfff]")


def _double(value: float) -> str:
    shortest = repr(float(value))
    if "e" not in shortest:
        return shortest
    # Azurite takes a number with an exponent for the name of a property.
    digits = format(Decimal(shortest), "f")
    return digits if "." in digits else digits + ".0"


# -- reading it

# The order matters: a prefixed literal before a word, a double before an integer. A number must end where
# its token does ("5x" is no number, and "5L" no integer followed by a name).
_TOKEN = pattern(
    r"""\s*(?:
      (?P<open>\() | (?P<close>\))
    | (?P<prefix>datetime|guid|binary|x)'(?P<content>[^']*)'
    | '(?P<text>(?:[^']|'')*)'
    | (?P<double>[+-]?[0-9]+(?:\.[0-9]+(?:e[+-]?[0-9]+)?|e[+-]?[0-9]+))(?![\w.'])
    | (?P<integer>[+-]?[0-9]+)L?(?![\w.'])
    | @(?P<parameter>[a-z_]\w*)
    | (?P<word>[^\W\d]\w{0,254})(?![\w/'.])
    | (?P<end>\Z)
    )""",
    re.VERBOSE | re.IGNORECASE,
)
_OPERATORS: frozenset[Any] = frozenset(("eq", "ne", "lt", "le", "gt", "ge"))
_MIRRORED: dict[Any, Operator] = {"eq": "eq", "ne": "ne", "lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}
_KEYWORDS = _OPERATORS | {"and", "or", "not", "true", "false", "null"}


@dataclass(frozen=True, slots=True)
class _Name:
    """A property's name, where a constant may stand as well."""

    name: str


@lru_cache(maxsize=256)
def _parse(filter: str) -> Node:
    """Cached by the text before its parameters are bound, so that one query is parsed once."""
    if len(filter) > MAX_FILTER_CHARACTERS:
        raise _wrong(f"it has {len(filter)} characters", limit=f"{MAX_FILTER_CHARACTERS} characters")
    return _Parser(filter).whole()


class _Parser:
    """Recursive descent: or < and < not < comparison."""

    def __init__(self, filter: str) -> None:
        self._filter = filter
        self._at = 0
        self._depth = 0
        self._next()

    def whole(self) -> Node:
        node = self._either()
        if self._kind != "end":
            raise self._unexpected()
        return node

    def constant(self) -> Any:
        value = self._operand()
        if self._kind != "end" or isinstance(value, _Name | Parameter):
            raise self._unexpected()
        return value

    def _either(self) -> Node:
        return self._junction("or", self._both, every=False)

    def _both(self) -> Node:
        return self._junction("and", self._negation, every=True)

    def _junction(self, word: str, term: Callable[[], Node], *, every: bool) -> Node:
        terms = [term()]
        while self._takes(word):
            terms.append(term())
        return terms[0] if len(terms) == 1 else Junction(every, tuple(terms))

    def _negation(self) -> Node:
        negated = self._takes("not")
        if not negated and self._kind != "open":
            return self._comparison()
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _wrong("it is nested too deeply", limit=f"{MAX_DEPTH} levels")
        if negated:
            node: Node = Not(self._negation())
        else:
            self._next()
            node = self._either()
            if self._kind != "close":
                raise self._unexpected()
            self._next()
        self._depth -= 1
        return node

    def _comparison(self) -> Node:
        left = self._operand()
        how: Any = self._word
        if how not in _OPERATORS:
            if isinstance(left, _Name):
                return Compare(left.name, "eq", True)
            if isinstance(left, bool | Parameter):
                return Constants(left, "eq", True)
            raise self._unexpected()
        self._next()
        right = self._operand()
        if isinstance(left, _Name) and not isinstance(right, _Name):
            return Compare(left.name, how, right)
        if isinstance(right, _Name) and not isinstance(left, _Name):
            return Compare(right.name, _MIRRORED[how], left)
        if isinstance(left, _Name):
            raise _wrong("two properties cannot be compared", limit="a constant on one side")
        return Constants(left, how, right)

    def _operand(self) -> Any:
        found = self._found
        match self._kind:
            case "word":
                if self._word in ("true", "false"):
                    value: Any = self._word == "true"
                elif self._word == "null":
                    raise _wrong("null is not supported by Azure Tables")
                elif self._word in _KEYWORDS:
                    raise self._unexpected()
                else:
                    value = _Name(found["word"])
            case "parameter":
                value = Parameter(found["parameter"])
            case "text":
                value = found["text"].replace("''", "'")
            case "integer":
                value = int(found["integer"])
                if not -(2**63) <= value < 2**63:
                    raise _wrong(f"{value} is outside 64 bits")
            case "double":
                value = float(found["double"])
                if not math.isfinite(value):
                    raise _wrong(f"{found['double']} is larger than a double can be")
            case "content":
                value = self._prefixed(found["prefix"].lower(), found["content"])
            case _:
                raise self._unexpected()
        self._next()
        return value

    def _prefixed(self, prefix: str, content: str) -> Any:
        try:
            match prefix:
                case "datetime":
                    moment = datetime.fromisoformat(content)
                    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
                case "guid":
                    return UUID(content)
                case _:
                    return bytes.fromhex(content)
        except (ValueError, OverflowError) as error:
            raise _wrong(f"a literal is malformed: {error}") from error

    def _takes(self, word: str) -> bool:
        taken = self._word == word
        if taken:
            self._next()
        return taken

    def _next(self) -> None:
        found = _TOKEN.match(self._filter, self._at)
        if found is None:
            raise self._unexpected()
        self._found = found
        self._kind = found.lastgroup
        self._start, self._at = self._at, found.end()
        self._word = found["word"].lower() if self._kind == "word" else None

    def _unexpected(self) -> InvalidArgumentError:
        at = self._at if self._kind is None else self._start
        return _wrong(f"it does not parse from character {at}")

    _kind: str | None = None
    _start = 0


def _bound(node: Node, parameters: Mapping[str, Any]) -> Node | bool:
    """The tree with its parameters bound; True or False where it holds for every entity or for none. Neither
    is within a tree."""

    def value(constant: Any) -> Any:
        return parameters[constant.name] if isinstance(constant, Parameter) else constant

    match node:
        case Compare():
            return Compare(node.name, node.operator, value(node.value))
        case Constants():
            left = value(node.left)
            return _comparison(lambda _: left, node.operator, value(node.right))(_NO_ENTITY)
        case Not():
            inner = _bound(node.node, parameters)
            return not inner if isinstance(inner, bool) else Not(inner)
        case Junction():
            terms: list[Node] = []
            for term in node.nodes:
                match _bound(term, parameters):
                    case bool() as always:
                        if always != node.every:
                            return always
                    case bound:
                        terms.append(bound)
            if len(terms) < 2:
                return terms[0] if terms else node.every
            return Junction(node.every, tuple(terms))


def _constants(term: Compare | Constants) -> tuple[Any, ...]:
    return (term.value,) if isinstance(term, Compare) else (term.left, term.right)


def _comparisons(node: Node) -> Iterator[Compare | Constants]:
    match node:
        case Compare() | Constants():
            yield node
        case Not():
            yield from _comparisons(node.node)
        case Junction():
            for term in node.nodes:
                yield from _comparisons(term)


# -- its meaning

_COMPARE: dict[Operator, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}
_SQL: dict[Operator, Literal["=", "<", "<=", ">", ">="]] = {
    "eq": "=",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
}
_KINDS: dict[type, type] = {
    bool: bool,
    int: float,
    float: float,
    str: str,
    datetime: datetime,
    bytes: bytes,
    UUID: UUID,
}
"""Values are comparable if they are of one kind."""


def _always(_: Entity) -> bool:
    return True


def _predicate(node: Node) -> Callable[[Entity], bool]:
    match node:
        case Junction():
            terms = [_predicate(term) for term in node.nodes]
            if node.every:
                return lambda entity: all(holds(entity) for holds in terms)
            return lambda entity: any(holds(entity) for holds in terms)
        case Not():
            inner = _predicate(node.node)
            return lambda entity: not inner(entity)
        case Compare():
            return _comparison(_reader(node.name), node.operator, node.value)
        case Constants():
            left = node.left
            return _comparison(lambda _: left, node.operator, node.right)


_NO_ENTITY: Any = None


def _comparison(read: Callable[[Entity], Any], how: Operator, value: Any) -> Callable[[Entity], bool]:
    compare = _COMPARE[how]
    kind = next(_KINDS[known] for known in type(value).__mro__ if known in _KINDS)
    if kind is str and not value.isascii() and how not in ("eq", "ne"):
        # Code points and UTF-16 units order two texts differently only where both have others than ASCII.
        units = _units(value)
        return lambda entity: isinstance(held := read(entity), str) and compare(_units(held), units)

    def holds(entity: Entity) -> bool:
        held = read(entity)
        return _KINDS.get(type(held)) is kind and compare(held, value)

    return holds


def _units(value: str) -> bytes:
    return value.encode("utf-16-be")


def _reader(name: str) -> Callable[[Entity], Any]:
    match name:
        case "PartitionKey":
            return lambda entity: entity.partition_key
        case "RowKey":
            return lambda entity: entity.row_key
        case "Timestamp":
            return lambda entity: entity.timestamp
        case _:
            return lambda entity: entity.properties.get(name)


def _key_bounds(node: Node) -> Iterator[KeyBound]:
    for term in node.nodes if isinstance(node, Junction) and node.every else (node,):
        if isinstance(term, Junction) and term.every:
            yield from _key_bounds(term)
        elif (bound := _key_bound(term)) is not None:
            yield bound


def _key_bound(term: Node) -> KeyBound | None:
    if not isinstance(term, Compare) or term.operator == "ne" or not isinstance(term.value, str):
        return None
    # Only these are the same range whether keys are in the order of UTF-8 or of UTF-16.
    if term.operator != "eq" and not term.value.isascii():
        return None
    match term.name:
        case "PartitionKey" | "RowKey" as name:
            return name, _SQL[term.operator], term.value
        case _:
            return None


def _is_of_keys(node: Node) -> bool:
    if isinstance(node, Junction) and node.every:
        return all(map(_is_of_keys, node.nodes))
    return _key_bound(node) is not None


def _wrong(why: str, *, field: str = "filter", limit: str | None = None) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"the filter cannot be used: {why}",
        field=field,
        limit=limit,
        remedy="write it as Azure Tables does, for example PartitionKey eq @day and status eq 'done'",
    )
