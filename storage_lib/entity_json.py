"""Entities as JSON with the types of their properties: in archives, and to compare them."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any, cast
from uuid import UUID

import msgspec


def written(value: Any) -> Any:
    """A property as plain JSON. What is no str, int, float or bool is an object with the name of its type; so
    is a float that JSON does not have, which another program may have stored."""
    match value:
        case datetime():
            return {"datetime": value.isoformat()}
        case UUID():
            return {"uuid": str(value)}
        case bytes():
            return {"bytes": base64.b64encode(value).decode()}
        case dict() | list():
            return {"json": value}
        case float() if not math.isfinite(value):
            return {"float": str(value)}
        case _:
            return value


def read(value: Any) -> Any:
    """The property that was `written`.

    :raises ValueError: it is none, or of a type that is not known.
    :raises TypeError: likewise.
    """
    if not isinstance(value, dict):
        return value
    (kind, content), *more = cast("dict[str, Any]", value).items()
    match kind:
        case "json" if not more:
            return content
        case "datetime" if not more:
            return datetime.fromisoformat(content)
        case "uuid" if not more:
            return UUID(content)
        case "float" if not more:
            return float(content)
        case "bytes" if not more:
            return base64.b64decode(content, validate=True)
        case _:
            raise ValueError(f"a property of the type {kind!r}")


def is_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether they have the same values of the same types: 1 is not True, and not 1.0."""
    return not differences(one, other)


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The names of the properties that are not the same."""
    return sorted(
        name
        for name in {*one, *other}
        if name not in one or name not in other or not _is_same(one[name], other[name])
    )


def _is_same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if type(one) in (dict, list):
        return _text(one) == _text(other)
    return one == other or (one != one and other != other)  # NaN is not equal to itself.


def _text(value: Any) -> bytes:
    return msgspec.json.encode(value, order="sorted")
