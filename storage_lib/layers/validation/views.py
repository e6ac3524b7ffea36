"""Values as JSON Schema sees them: of what the packed form has beyond JSON, the JSON that stands for it."""

from __future__ import annotations

import base64
import math
import sys
from collections.abc import Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID


class NoViewError(ValueError):
    """No JSON stands for a part of the value.

    ``pointer`` is a JSON pointer to it.
    """

    def __init__(self, pointer: str, what: str) -> None:
        super().__init__(f"{what} has no form in JSON")
        self.pointer = pointer


_SHOWN = 200


def pointer_of(path: Iterable[object]) -> str:
    """The JSON pointer (RFC 6901) of a path of names and indices; of a very long one only the beginning."""
    text = "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def json_view(value: Any, path: tuple[object, ...] = ()) -> Any:
    """What stands for ``value`` in JSON: an array for a tuple, a set or a numpy array, base64 for bytes, ISO
    8601 for a date or a time, seconds for a timedelta, the text of a UUID, the number of a Decimal.

    :raises NoViewError: there is none, as for NaN.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float | Decimal):
        if not math.isfinite(value):
            raise NoViewError(pointer_of(path), f"the number {value}")
        return value if isinstance(value, float) else _number(value)
    if isinstance(value, dict):
        return {_name(name, path): json_view(item, (*path, name)) for name, item in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, list | tuple | set | frozenset):
        return [json_view(item, (*path, place)) for place, item in enumerate(value)]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, UUID):
        return str(value)
    # A value can only hold what numpy is imported for.
    if (numpy := sys.modules.get("numpy")) is not None:
        if isinstance(value, numpy.datetime64 | numpy.timedelta64):
            return str(value)
        if isinstance(value, numpy.ndarray) and value.dtype.kind in "mM":
            return json_view(value.astype(str).tolist(), path)
        if isinstance(value, numpy.ndarray | numpy.generic):
            plain = value.tolist()
            if not isinstance(plain, numpy.ndarray | numpy.generic):
                return json_view(plain, path)
    raise NoViewError(pointer_of(path), f"a {type(value).__name__}")


def _number(value: Decimal) -> int | float:
    # A huge exponent makes digits that nobody sent.
    return int(value) if value.adjusted() < 400 and value == value.to_integral_value() else float(value)


def _name(name: object, path: tuple[object, ...]) -> str:
    if not isinstance(name, str):
        raise NoViewError(pointer_of(path), f"a dict with a key of type {type(name).__name__}")
    return name
