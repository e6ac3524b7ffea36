"""Entities of tables as JSON, without a loss: the form of OData, as Azure Tables speaks it.

======================  =====================================================================================
property                JSON
======================  =====================================================================================
str, bool               text, true or false
int                     a number without a fraction; beyond ±(2^53 - 1), where JavaScript loses digits, its
                        digits as text with ``"NAME@odata.type": "Edm.Int64"``
float                   a number; one without a fraction with ``Edm.Double``, and so ``"NaN"``, ``"INF"`` and
                        ``"-INF"``, which another program may have stored
datetime                text in ISO 8601 with ``Edm.DateTime``
UUID, bytes             text with ``Edm.Guid``; base64 with ``Edm.Binary``
dict, list              objects and lists
======================  =====================================================================================

An annotation may come before or after its property, and may be given where it is not needed. `Edm.Int32` is
understood, too. ``null`` is a property that is not set.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote
from uuid import UUID

from storage_lib.errors import InvalidArgumentError
from storage_lib.patterns import pattern

if TYPE_CHECKING:
    from storage_lib.ports.table_model import Entity

KEYS = ("PartitionKey", "RowKey")
OF_SYSTEM = (*KEYS, "Timestamp", "etag")
_TYPE = "@odata.type"
_SAFE_INTEGER = 2**53 - 1
_IN_TAGS = "!#$&'()*+,/:;<=>?@[]^`{|}~"
_GUID = pattern(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_INTEGER = pattern(r"-?[0-9]{1,19}")
_DOUBLE = pattern(r"[+-]?[0-9]{1,400}(?:\.[0-9]{0,400})?(?:[eE][+-]?[0-9]{1,4})?")
_MOMENT = pattern(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6}0*)?)?(?:Z|[+-][0-9]{2}:[0-9]{2})",
    re.IGNORECASE,
)
_NOT_FINITE = {
    "NaN": math.nan,
    "INF": math.inf,
    "Infinity": math.inf,
    "-INF": -math.inf,
    "-Infinity": -math.inf,
}


def shown(entity: Entity) -> dict[str, Any]:
    """The entity as JSON, with its keys, ETag and time."""
    document: dict[str, Any] = {
        "PartitionKey": entity.partition_key,
        "RowKey": entity.row_key,
        "Timestamp": _text_of(entity.timestamp),
        "etag": tag_of(entity.etag),
    }
    for name, value in entity.properties.items():
        document[name], kind = _written(value)
        if kind is not None:
            document[name + _TYPE] = kind
    return document


def tag_of(etag: str) -> str:
    """The ETag as one of HTTP, without its quotes. Azure's own is a weak one, with which no update could be
    conditional (RFC 9110, 13.1.1); within quotes it is any text."""
    return quote(etag, safe=_IN_TAGS)


def etag_of(tag: str) -> str:
    """The ETag that `tag_of` has made a tag of."""
    return unquote(tag)


def properties_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """The properties of an entity in a request; the keys and what the service sets are left out.

    :raises InvalidArgumentError: one is not of its type, or an annotation is of none.
    """
    kinds: dict[str, Any] = {}
    properties: dict[str, Any] = {}
    for name, value in document.items():
        of = name.removesuffix(_TYPE)
        if of != name:
            kinds[of] = value
        elif name not in OF_SYSTEM:
            properties[name] = value
    for name, kind in kinds.items():
        if name in OF_SYSTEM:
            continue
        read = _READ.get(kind) if isinstance(kind, str) else None
        if read is None:
            raise _wrong(name + _TYPE, kind, f"one of {', '.join(_READ)}")
        if name not in properties:
            raise InvalidArgumentError(
                f"{name[:80]!r} has a type and no value",
                field=name + _TYPE,
                remedy="give the property too, or leave out its type",
            )
        if properties[name] is not None:
            properties[name] = read(name, properties[name])
    return properties


def _written(value: Any) -> tuple[Any, str | None]:
    match value:
        case bool() | str():
            return value, None
        case int():
            return (value, None) if abs(value) <= _SAFE_INTEGER else (str(value), "Edm.Int64")
        case float() if not math.isfinite(value):
            return ("NaN" if value != value else "INF" if value > 0 else "-INF"), "Edm.Double"
        case float():
            return value, "Edm.Double" if value.is_integer() else None
        case datetime():
            return _text_of(value), "Edm.DateTime"
        case UUID():
            return str(value), "Edm.Guid"
        case bytes():
            return base64.b64encode(value).decode(), "Edm.Binary"
        case _:
            return value, None


def _text_of(moment: datetime) -> str:
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(name, value, "text")
    return value


def _boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, value, "true or false")
    return value


def _integer(bits: int) -> Callable[[str, Any], int]:
    def read(name: str, value: Any) -> int:
        if isinstance(value, str) and _INTEGER.fullmatch(value):
            value = int(value)
        if type(value) is not int or not -(2 ** (bits - 1)) <= value < 2 ** (bits - 1):
            raise _wrong(name, value, f"an integer of {bits} bits, as a number or its digits")
        return value

    return read


def _double(name: str, value: Any) -> float:
    if isinstance(value, str):
        if value in _NOT_FINITE:
            return _NOT_FINITE[value]  # The table says that it cannot hold it.
        found = float(value) if _DOUBLE.fullmatch(value) else None
        value = None if found is None or math.isinf(found) else found
    if type(value) is int and not (abs(value) < 2**1024 - 2**970 and float(value) == value):
        raise _wrong(name, value, "a double: this integer is not exactly one", "Edm.Int64, or text")
    if type(value) not in (int, float):
        raise _wrong(name, value, "a number, or its digits")
    return float(value)


def _moment(name: str, value: Any) -> datetime:
    try:
        if isinstance(value, str) and _MOMENT.fullmatch(value):
            return datetime.fromisoformat(value)
    except ValueError:
        pass
    raise _wrong(name, value, "ISO 8601 to the microsecond with a time zone, as 2026-01-31T12:00:00Z")


def _guid(name: str, value: Any) -> UUID:
    if not isinstance(value, str) or not _GUID.fullmatch(value):
        raise _wrong(name, value, "a GUID, as 5f1f3f0e-6d5c-4b0e-9d5b-0c8f6f6f2a11")
    return UUID(value)


def _binary(name: str, value: Any) -> bytes:
    try:
        if isinstance(value, str):
            return base64.b64decode(value, validate=True)
    except ValueError:
        pass
    raise _wrong(name, value, "base64 (RFC 4648, 4)")


_READ: dict[str, Callable[[str, Any], Any]] = {
    "Edm.String": _text,
    "Edm.Boolean": _boolean,
    "Edm.Int32": _integer(32),
    "Edm.Int64": _integer(64),
    "Edm.Double": _double,
    "Edm.DateTime": _moment,
    "Edm.Guid": _guid,
    "Edm.Binary": _binary,
}


def _wrong(name: str, value: Any, limit: str, remedy: str | None = None) -> InvalidArgumentError:
    return InvalidArgumentError(f"{name[:80]} is {ascii(value)[:80]}", field=name, limit=limit, remedy=remedy)
