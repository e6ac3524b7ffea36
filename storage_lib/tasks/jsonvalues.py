"""Payloads, progress and results are JSON: a value that JSON cannot hold is refused, not changed."""

from __future__ import annotations

import math
from itertools import count
from typing import Any, cast

import msgspec

from storage_lib.errors import SerializationError
from storage_lib.limits import MAX_DEPTH

_REMEDY = "convert it, or save it as an object and give the object's key"
_BYTES = (bytes, bytearray, memoryview)


def json_of(value: Any, name: str) -> bytes:
    """``value`` as JSON. Dataclasses, dates, tuples and the like become their JSON equivalents.

    :param name: the value's name, for the error's ``field``.
    :raises SerializationError: JSON cannot hold it (NaN and infinity, bytes, names that are equal as
        text), or it is nested more than 100 levels deep.
    """
    try:
        data = msgspec.json.encode(value)
        back = msgspec.json.decode(data)
        check_depth(data, back, name)
        if back == value:
            return data
        plain = msgspec.to_builtins(value, builtin_types=_BYTES)
        fault = _fault(plain, back, name)
    except SerializationError:
        raise
    except Exception as error:  # of a class of the user's, whatever it is
        raise SerializationError(
            f"the {name} is not JSON: {told(error)}", field=name, remedy=_REMEDY
        ) from error
    if fault is not None:
        path, what = fault
        raise SerializationError(f"the {name} is not JSON: {path} {what}", field=path, remedy=_REMEDY)
    return data


def check_depth(data: bytes, value: Any, name: str) -> None:
    """:param data: the JSON of ``value``, or more than that.
    :raises SerializationError: it is nested more than 100 levels deep.
    """
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return  # The usual case.
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for part in level
            for item in (part.values() if isinstance(part, dict) else part)
            if isinstance(item, dict | list)
        ]
        if not level:
            return
    raise SerializationError(
        f"the {name} is nested too deeply", field=name, limit=f"{MAX_DEPTH} levels", remedy="flatten it"
    )


def _fault(value: Any, back: Any, path: str) -> tuple[str, str] | None:
    """Where ``value``, which became ``back``, is not JSON, and what it is there."""
    if isinstance(value, float) and not math.isfinite(value):
        return path, f"is {value}"
    if isinstance(value, _BYTES):
        return path, f"is {type(value).__name__}"
    if isinstance(value, dict):
        items = cast("dict[Any, Any]", value)
        if len(items) != len(back):
            return path, "has names that are the same as text"
        both = zip(back, items.values(), back.values(), strict=True)
        pairs = [(f"{path}.{name}", item, its) for name, item, its in both]
    elif isinstance(value, list | tuple | set | frozenset):
        both = zip(count(), cast("list[Any]", value), back, strict=False)
        pairs = [(f"{path}[{n}]", item, its) for n, item, its in both]
    else:
        return None
    for where, item, its in pairs:
        if (fault := _fault(item, its, where)) is not None:
            return fault
    return None


def told(error: BaseException) -> str:
    """The text of an error; the name of its class if it has none, or fails to give one."""
    try:
        text = str(error)
    except BaseException:  # whatever a class of the user's does
        text = ""
    return text or type(error).__name__
