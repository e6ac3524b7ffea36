"""What an entity may hold, how it is stored, and its size: the same on every backend.

====================================  =============================================================
property                              stored as
====================================  =============================================================
str, bool, float, bytes               Edm.String, Edm.Boolean, Edm.Double (-0.0 as 0.0), Edm.Binary
int                                   Edm.Int32 where it fits, else Edm.Int64
datetime with a time zone             Edm.DateTime, in UTC, to the microsecond
UUID                                  Edm.Guid
dict, list (plain JSON)               Edm.String: ``json:`` and the JSON text, ``json:{"a":[1,2]}``
None                                  nothing
====================================  =============================================================

Text is read as JSON only if it begins with ``json:{`` or ``json:[``. An ordinary str that does (or that
begins with ``text:json:{`` and so on) is stored with the prefix ``text:``, which reading removes, so
neither is ever mistaken for the other. The mark is part of the value, not a second property, because a
merge must not change one without the other. Filters compare a dict or list as the stored text.

Sources of the limits: "Understanding the Table service data model" (Azure Storage REST).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, cast
from uuid import UUID

from storage_lib.errors import InvalidArgumentError, InvalidKeyError, ObjectTooLargeError
from storage_lib.patterns import pattern

MAX_ENTITY_PROPERTIES = 252
MAX_PROPERTY_CHARACTERS = 32 * 1024
MAX_PROPERTY_BYTES = 64 * 1024
MAX_ENTITY_BYTES = 1024 * 1024
MAX_TABLE_KEY_CHARACTERS = 512
MAX_JSON_DEPTH = 100
FIRST_MOMENT = datetime(1601, 1, 1, tzinfo=UTC)
"""The first one that an Edm.DateTime can be."""

type EntityValue = str | int | float | bool | datetime | bytes | UUID | dict[str, Any] | list[Any] | None

_PLAIN_KEY = pattern(r"[ !\x22$-.0->@-\[\]-~]{0,512}")
"""The keys that nearly all are: ASCII, and allowed."""
_KEY_FORBIDDEN = pattern(r"[/\\#?\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_PROPERTY_NAME = pattern(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
_SYSTEM_PROPERTIES = frozenset({"PartitionKey", "RowKey", "Timestamp", "etag"})
_SURROGATE = pattern("[\ud800-\udfff]")
_JSON_MARK = pattern(r"json:(?=[{\[])")
_ESCAPED_OR_MARKED = pattern(r"(?:text:)*json:[{\[]")
_ESCAPE = "text:"
_FIRST = ("j", "t")
"""How a text begins that either of them may match; few do."""
_KEY_BYTES = 4 + 4 * MAX_TABLE_KEY_CHARACTERS
_PROPERTY_BYTES = 8 + 2 * 255 + 16
"""The longest name, and the largest value that is neither text nor bytes."""


def check_keys(partition_key: str, row_key: str) -> tuple[str, str]:
    """The keys, if a table can have them: text of at most 512 UTF-16 units, without ``/ \\ # ?``, control
    characters and surrogates.

    :raises InvalidKeyError: else.
    """
    for name, value in (("partition_key", partition_key), ("row_key", row_key)):
        if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidKeyError(f"{name} must be a str, not {type(value).__name__}", field=name)
        if _PLAIN_KEY.fullmatch(value):
            continue
        if _KEY_FORBIDDEN.search(value):
            raise InvalidKeyError(
                f"{name} {value[:80]!a} contains a character that a table key may not have",
                field=name,
                limit="no '/', '\\', '#', '?', control characters or surrogates",
                remedy="percent-encode it first",
            )
        if _units(value) > MAX_TABLE_KEY_CHARACTERS:
            raise InvalidKeyError(
                f"{name} has {_units(value)} characters",
                field=name,
                limit=f"{MAX_TABLE_KEY_CHARACTERS} characters (UTF-16 units)",
            )
    return partition_key, row_key


def to_stored(properties: Mapping[str, EntityValue]) -> dict[str, Any]:
    """The properties as backends store them: a dict or list as marked JSON text, None left out,
    everything else unchanged.

    :raises InvalidArgumentError: a table cannot hold a name or a value.
    :raises ObjectTooLargeError: a value, or the whole entity, is too large.
    """
    if not isinstance(properties, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidArgumentError(
            f"properties must be a mapping, not {type(properties).__name__}", field="properties"
        )
    # Before any is looked at: whatever a caller sends, that takes no time in proportion to it.
    if len(properties) > MAX_ENTITY_PROPERTIES:
        _check_count(sum(value is not None for value in properties.values()))
    stored: dict[str, Any] = {}
    for name, value in properties.items():
        if not isinstance(name, str) or not _is_property(name):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidArgumentError(
                f"property name {str(name)[:80]!a} is not valid",
                field="properties",
                limit="letters, digits and _, not starting with a digit, none of the system's names",
            )
        if value is not None:
            stored[name] = _stored(name, value)
    return check_size(stored)


def from_stored(properties: Mapping[str, Any]) -> Mapping[str, Any]:
    """The properties as they were given to `to_stored`: the same mapping where all are stored as they are."""
    for value in properties.values():
        if type(value) is str and value[:1] in _FIRST:
            break
    else:
        return properties
    return {
        name: _read_text(value) if type(value) is str and value[:1] in _FIRST else value
        for name, value in properties.items()
    }


def stored_text(value: str) -> str:
    """A str as it is stored, for a filter that compares with it."""
    return _ESCAPE + value if value[:1] in _FIRST and _ESCAPED_OR_MARKED.match(value) else value


@lru_cache(1024)
def _is_property(name: str) -> bool:
    """Whether one can be called so; programs have few such names."""
    return bool(_PROPERTY_NAME.fullmatch(name)) and name not in _SYSTEM_PROPERTIES


def check_size(stored: dict[str, Any]) -> dict[str, Any]:
    """``stored``, if it is not too large for one entity. Keys of the greatest length are allowed for.

    :raises ObjectTooLargeError: more than 252 properties, or than 1 MiB.
    """
    _check_count(len(stored))
    if _most_bytes(stored) <= MAX_ENTITY_BYTES:
        return stored
    total = _KEY_BYTES + size_of(stored)
    if total > MAX_ENTITY_BYTES:
        raise ObjectTooLargeError(
            f"entity is {total} bytes",
            field="properties",
            limit=f"{MAX_ENTITY_BYTES} bytes (text counts two bytes a character)",
            remedy="save it as an object and store its key",
        )
    return stored


def _most_bytes(stored: Mapping[str, Any]) -> int:
    """What is easily counted, and never less than `size_of` and the keys."""
    return _KEY_BYTES + _PROPERTY_BYTES * len(stored) + 4 * contents_of(stored)


def contents_of(stored: Mapping[str, Any]) -> int:
    """The characters of all text and the bytes."""
    return sum([len(value) for value in stored.values() if type(value) is str or type(value) is bytes])


def _check_count(properties: int) -> None:
    if properties > MAX_ENTITY_PROPERTIES:
        raise ObjectTooLargeError(
            f"entity has {properties} properties",
            field="properties",
            limit=f"{MAX_ENTITY_PROPERTIES} properties",
        )


def size_of(stored: Mapping[str, Any]) -> int:
    """The bytes of these properties, as Azure counts them."""
    return sum(8 + 2 * len(name) + _size(value) for name, value in stored.items())


def _size(value: Any) -> int:
    match value:
        case bool():
            return 1
        case str():
            return 4 + 2 * _units(value)
        case bytes():
            return 4 + len(value)
        case UUID():
            return 16
        case _:
            return 8


def _units(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2


def _stored(name: str, value: Any) -> Any:
    kind = type(value)
    if kind is str:
        if value.isascii() and value[:1] not in _FIRST and 2 * len(value) <= MAX_PROPERTY_BYTES:
            return value  # As most is.
        return _checked_text(name, stored_text(value))
    if kind is bool or kind is UUID:
        return value
    if kind is int:
        if not -(2**63) <= value < 2**63:
            raise InvalidArgumentError(
                f"property {name!r} is an integer outside 64 bits", field=name, remedy="store it as a str"
            )
        return value
    if kind is float:
        if not math.isfinite(value):
            raise InvalidArgumentError(
                f"property {name!r} is not a finite number", field=name, remedy="store it as a str"
            )
        return value or 0.0  # Services drop the sign of a zero.
    if kind is datetime:
        return _moment(name, value)
    if kind is dict or kind is list:
        return _checked_text(name, "json:" + _json(name, value))
    if kind is bytes:
        return _checked_size(name, value, len(value))
    raise InvalidArgumentError(
        f"property {name!r} has the type {kind.__name__}, which a table cannot hold",
        field=name,
        limit="str, bool, int, float, datetime, bytes, UUID, dict, list or None",
        remedy="store it as text, or save it as an object and store its key",
    )


def _checked_text(name: str, text: str) -> str:
    if text.isascii():
        return _checked_size(name, text, 2 * len(text))
    if _SURROGATE.search(text):
        raise InvalidArgumentError(f"property {name!r} contains a lone surrogate", field=name)
    return _checked_size(name, text, 2 * _units(text))


def _moment(name: str, value: datetime) -> datetime:
    if value.tzinfo is None:
        raise InvalidArgumentError(
            f"property {name!r} is a datetime without a time zone",
            field=name,
            remedy="give it one, for example datetime.now(UTC)",
        )
    try:
        moment = value.astimezone(UTC)
    except OverflowError:
        moment = None
    if moment is None or moment < FIRST_MOMENT:
        raise InvalidArgumentError(
            f"property {name!r} is a datetime that a table cannot hold",
            field=name,
            limit="1601-01-01 to 9999-12-31 in UTC",
        )
    return moment


def _checked_size[T](name: str, value: T, size: int) -> T:
    if size > MAX_PROPERTY_BYTES:
        raise _too_large(name, f"{size} bytes")
    return value


def _too_large(name: str, what: str) -> ObjectTooLargeError:
    return ObjectTooLargeError(
        f"property {name!r} is {what}",
        field=name,
        limit=f"{MAX_PROPERTY_BYTES} bytes (text counts two bytes a character)",
        remedy="save it as an object and store its key",
    )


def _json(name: str, value: Any) -> str:
    if _left(value, MAX_PROPERTY_CHARACTERS, MAX_JSON_DEPTH) < 0:
        raise _too_large(name, "larger than its JSON may be")
    if not _is_plain(value, MAX_JSON_DEPTH):
        raise InvalidArgumentError(
            f"property {name!r} is not plain JSON, so it would not come back as it is",
            field=name,
            limit="dict with str keys, list, str, int, float (finite), bool, None; at most"
            f" {MAX_JSON_DEPTH} levels",
            remedy="save it as an object and store its key",
        )
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _left(value: Any, most: int, levels: int) -> int:
    """How many of ``most`` values are left; below 0 if there are more in it, each of which has a character of
    JSON at least. It looks at no more than that."""
    most -= 1
    items: Any = value.values() if type(value) is dict else value if type(value) is list else ()
    if len(items) > most or not levels:
        return most - len(items)
    for item in items:
        if most < 0:
            break
        most = _left(item, most, levels - 1) if type(item) in (dict, list) else most - 1
    return most


def _is_plain(value: Any, levels: int) -> bool:
    kind = type(value)
    if kind is dict:
        return levels > 0 and all(
            type(key) is str and _is_plain(item, levels - 1)
            for key, item in cast("dict[Any, Any]", value).items()
        )
    if kind is list:
        return levels > 0 and all(_is_plain(item, levels - 1) for item in cast("list[Any]", value))
    if kind is float:
        return math.isfinite(value)
    return value is None or kind in (str, int, bool)


def _read_text(text: str) -> Any:
    if mark := _JSON_MARK.match(text):
        try:
            return json.loads(text[mark.end() :])
        except (ValueError, RecursionError):
            return text  # another program's, for which the mark has no meaning
    return text[len(_ESCAPE) :] if _ESCAPED_OR_MARKED.match(text) else text
