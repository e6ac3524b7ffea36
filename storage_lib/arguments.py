"""Checks of arguments that callers may get wrong; each error names the field and the limit."""

from __future__ import annotations

import operator
from collections.abc import Buffer, Iterable, Mapping
from numbers import Real
from typing import Any

from storage_lib.errors import InvalidArgumentError


def whole(field: str, value: Any, low: int, high: int | None = None) -> int:
    """Return ``value`` if it is a whole number from ``low`` to ``high``."""
    limit = f"{low} or more" if high is None else f"{low} to {high}"
    try:
        number = operator.index(value)
    except TypeError as error:
        raise _wrong(field, value, f"a whole number, {limit}") from error
    if isinstance(value, bool) or number < low or (high is not None and number > high):
        raise InvalidArgumentError(f"{field} {value} is out of range", field=field, limit=limit)
    return number


def seconds(field: str, value: Any, low: float, high: float) -> float:
    """Return ``value`` if it is a number of seconds from ``low`` to ``high``."""
    if type(value) is bool or not isinstance(value, Real):
        raise _wrong(field, value, f"a number, {low} to {high} seconds")
    number = value if isinstance(value, int | float) else float(value)
    if not low <= number <= high:
        raise InvalidArgumentError(
            f"{field} {value} is out of range", field=field, limit=f"{low} to {high} seconds"
        )
    return number


def mapping(field: str, value: Any) -> dict[str, Any]:
    """Return a copy of the mapping ``value`` as a dict."""
    if not isinstance(value, Mapping):
        raise _wrong(field, value, "a dict or another mapping")
    return dict(value)


def several(field: str, value: Any) -> list[Any]:
    """Return the items of the iterable ``value``. A str is refused, as it is one item, not its letters; so is
    a mapping, whose values would be lost."""
    if isinstance(value, str | Buffer | Mapping) or not isinstance(value, Iterable):
        raise _wrong(field, value, "a list or another iterable", "put a single item into a list")
    return list(value)


def _wrong(field: str, value: object, limit: str, remedy: str | None = None) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"{field} is a {type(value).__name__}", field=field, limit=limit, remedy=remedy
    )
