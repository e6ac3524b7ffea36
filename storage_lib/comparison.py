"""Whether two values are the same, in every type and at every level."""

from __future__ import annotations

import functools
import sys
from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Any, Final

from storage_lib.errors import SerializationError
from storage_lib.limits import MAX_DEPTH


def is_array(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, (numpy.ndarray, numpy.generic))


_MISSING: Final[Any] = object()
_NOTHING: Final[dict[str, Any]] = {}
_ATOMS: Final = frozenset({str, int, bool, bytes, type(None), object})


def difference(value: Any, other: Any, depth: int) -> tuple[str, str] | None:
    """Where and how ``other`` differs from ``value``; None if they are equal, with the same types, at every
    level.

    ``==`` is not enough: it takes 1 for True, and a class may leave out a field. Comparing serialized
    forms is not enough either: serializers mask values and drop what a subclass adds.
    """
    kind = type(value)
    if kind is not type(other):
        return "", f"is a {kind.__qualname__} and would come back as a {type(other).__qualname__}"
    if kind in _ATOMS:
        return None if value == other else _ANOTHER
    if kind is float:
        return None if value == other != 0 or repr(value) == repr(other) else _ANOTHER
    if depth > MAX_DEPTH:
        raise SerializationError(
            "value is nested too deeply, or contains itself", limit=f"{MAX_DEPTH} levels", remedy="flatten it"
        )
    if (names := _field_names(kind)) is not None:
        return _field_difference(names, value, other, depth)
    if isinstance(value, dict):
        return _item_difference(value, other, depth)
    if isinstance(value, (list, tuple, deque)):
        if len(value) != len(other) or getattr(value, "maxlen", None) != getattr(other, "maxlen", None):
            return _ANOTHER
        for index, (item, its) in enumerate(zip(value, other, strict=True)):
            if (found := difference(item, its, depth + 1)) is not None:
                return f"[{index}]{found[0]}", found[1]
        return None
    if isinstance(value, (set, frozenset)):
        theirs = {_key(item): item for item in other}
        pairs = ((item, theirs.get(_key(item), _MISSING)) for item in value)
        same = len(value) == len(theirs) and all(difference(*pair, depth + 1) is None for pair in pairs)
    else:
        from storage_lib.codecs import codec_of
        from storage_lib.packing import SCALARS, pack

        # Equal moments may differ in their offsets, equal Decimals in their digits.
        exact = kind in SCALARS or is_array(value) or codec_of(kind) is not None
        same = pack(value) == pack(other) if exact else bool(value == other)
    return None if same else _ANOTHER


_ANOTHER: Final = ("", "would come back as another value")


def _field_difference(names: tuple[str, ...], value: Any, other: Any, depth: int) -> tuple[str, str] | None:
    # getattr is avoided where possible: a deprecated pydantic field warns when it is read.
    own: dict[str, Any] = getattr(value, "__dict__", _NOTHING)
    theirs: dict[str, Any] = getattr(other, "__dict__", _NOTHING)
    for name in names:
        item = own[name] if name in own else getattr(value, name, _MISSING)
        its = theirs[name] if name in theirs else getattr(other, name, _MISSING)
        if type(item) is type(its) in _ATOMS and item == its:
            continue  # Most are such, and a call costs more than this.
        if (found := difference(item, its, depth + 1)) is not None:
            return f".{name}{found[0]}", found[1]
    for more in ("__pydantic_extra__", "__pydantic_private__"):
        item, its = getattr(value, more, None), getattr(other, more, None)
        if item is not its and (found := difference(item, its, depth)) is not None:
            return found
    if len(own) > len(names):
        for name in own.keys() - set(names):
            if name not in theirs and not _is_cached(type(value), name):
                return f".{name}", "is not a declared field and would be lost"
            if name in theirs and (found := difference(own[name], theirs[name], depth + 1)) is not None:
                return f".{name}{found[0]}", found[1]
    return None


def _is_cached(kind: type, name: str) -> bool:
    """Whether an attribute is the cache of a cached property."""
    return any(isinstance(vars(base).get(name), functools.cached_property) for base in kind.__mro__)


def _key(item: Any) -> Any:
    """The key under which an item of a set is found: a NaN is not equal to itself."""
    return repr(item) if isinstance(item, float) and item != item else item


@functools.lru_cache(maxsize=1024)
def _field_names(kind: type) -> tuple[str, ...] | None:
    """The declared fields of a dataclass or pydantic model; None for any other class."""
    fields = getattr(kind, "__dataclass_fields__", None)
    if fields is None:
        fields = getattr(kind, "__pydantic_fields__", None)
    return None if fields is None else tuple(fields)


def _item_difference(value: dict[Any, Any], other: dict[Any, Any], depth: int) -> tuple[str, str] | None:
    if len(value) != len(other):
        return _ANOTHER
    theirs: Iterable[tuple[Any, Any]] = other.items()
    if list(value) != list(other) and not isinstance(value, OrderedDict):
        # A TypedDict is restored in the order in which it was declared.
        found_by = {name: (name, item) for name, item in other.items()}
        theirs = [found_by.get(name, (_MISSING, _MISSING)) for name in value]
    for (name, item), (its_name, its) in zip(value.items(), theirs, strict=True):
        found = difference(name, its_name, depth + 1)
        if found is None and not (type(item) is type(its) in _ATOMS and item == its):
            found = difference(item, its, depth + 1)
        if found is not None:
            return f".{name}{found[0]}", found[1]
    return None
