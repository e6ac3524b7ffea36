"""Rich Python values as msgpack: the form of everything that plain JSON would change.

Extension types (application-specific codes of the msgpack specification):

====  ==========================================  =====================================================
code  type                                        content
====  ==========================================  =====================================================
1     tuple                                       msgpack array
2     set                                         msgpack array, ordered by encoded item
3     frozenset                                   msgpack array, ordered by encoded item
4     dict with keys that are not text            msgpack array of [key, value]
5     int outside 64 bits                         decimal digits
6     datetime                                    ISO 8601, followed by "fold" where fold is 1
7     date                                        ISO 8601
8     time                                        likewise
9     timedelta                                   msgpack array [days, seconds, microseconds]
10    UUID                                        16 bytes
11    Decimal                                     its decimal text
12    numpy array                                 the .npy format, without pickle
13    numpy scalar                                a 0-dimensional array in the .npy format
====  ==========================================  =====================================================
"""

from __future__ import annotations

import enum
import io
import sys
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec

from storage_lib.errors import SerializationError
from storage_lib.values import MAX_DEPTH

_TUPLE, _SET, _FROZENSET, _PAIRS, _BIG, _DATETIME, _DATE, _TIME, _DELTA, _UUID, _DECIMAL, _ARRAY, _SCALAR = (
    range(1, 14)
)
_Ext = msgspec.msgpack.Ext
_encode = msgspec.msgpack.Encoder().encode


class _RefusedError(Exception):
    """An item of a type that would not come back; carries the path to it, built while unwinding."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind
        self.path = ""


def pack(value: Any, *, enum_values: bool = False) -> bytes:
    """The packed form of ``value``. :raises SerializationError: names the place of what can not be packed.

    :param enum_values: take the ``value`` of an Enum member, where a model will make it a member again; else
        it is refused.
    """
    try:
        return _encode(_pack(value, 0, enum_values))
    except _RefusedError as refused:
        raise SerializationError(
            f"value{refused.path} has the type {refused.kind}, which would not come back as it is",
            field=refused.path.lstrip(".") or None,
            remedy="convert it to a dict, list, str, number, bytes, datetime, UUID, Decimal or numpy array",
        ) from None
    except (ValueError, OverflowError, RecursionError) as error:
        raise SerializationError(f"value can not be packed: {error}") from error


def _pack(value: Any, depth: int, enum_values: bool) -> Any:
    kind = type(value)
    if kind in _NATIVE or value is None:
        return value
    if kind is int:
        return value if -(2**63) <= value < 2**64 else _Ext(_BIG, str(value).encode())
    if (scalar := SCALARS.get(kind)) is not None:
        code, content = scalar
        return _Ext(code, content(value))
    if depth >= MAX_DEPTH:
        raise SerializationError(
            "value is nested too deeply, or contains itself", limit=f"{MAX_DEPTH} levels"
        )
    if kind is list:
        return _items(value, depth, enum_values)
    if kind is dict:
        if all(type(name) is str for name in value):
            packed: dict[str, Any] = {}
            for name, item in value.items():
                try:
                    packed[name] = _pack(item, depth + 1, enum_values)
                except _RefusedError as refused:
                    refused.path = f".{name}{refused.path}"
                    raise
            return packed
        return _Ext(_PAIRS, _encode(_items([[k, v] for k, v in value.items()], depth, enum_values)))
    if kind is tuple:
        return _Ext(_TUPLE, _encode(_items(value, depth, enum_values)))
    if kind is set or kind is frozenset:
        items = sorted(_encode(item) for item in _items(value, depth, enum_values))
        return _Ext(_SET if kind is set else _FROZENSET, _encode([msgspec.Raw(item) for item in items]))
    numpy = sys.modules.get("numpy")
    if numpy is not None and (kind is numpy.ndarray or isinstance(value, numpy.generic)):
        if kind in (numpy.str_, numpy.bytes_) and numpy.asarray(value)[()] != value:
            raise _RefusedError(f"{kind.__name__} with NUL at its end")  # which numpy takes for padding
        return _Ext(_ARRAY if kind is numpy.ndarray else _SCALAR, pack_npy(value))
    if enum_values and isinstance(value, enum.Enum):
        return _pack(value.value, depth + 1, enum_values)
    raise _RefusedError(kind.__name__)


def _items(values: Any, depth: int, enum_values: bool) -> list[Any]:
    packed: list[Any] = []
    for index, item in enumerate(values):
        try:
            packed.append(_pack(item, depth + 1, enum_values))
        except _RefusedError as refused:
            refused.path = f"[{index}]{refused.path}"
            raise
    return packed


_NATIVE = frozenset({str, bool, float, bytes})
SCALARS: dict[type, tuple[int, Callable[[Any], bytes]]] = {
    datetime: (_DATETIME, lambda v: _iso(v)),
    date: (_DATE, lambda v: v.isoformat().encode()),
    time: (_TIME, lambda v: _iso(v)),
    timedelta: (_DELTA, lambda v: _encode([v.days, v.seconds, v.microseconds])),
    UUID: (_UUID, lambda v: v.bytes),
    Decimal: (_DECIMAL, lambda v: str(v).encode()),
}


def unpack(data: bytes) -> Any:
    """The value of `pack`. :raises SerializationError: the bytes are not a packed value."""
    try:
        return _decoder.decode(data)
    except SerializationError:
        raise
    except (ValueError, TypeError, ArithmeticError, RecursionError) as error:
        raise SerializationError(f"stored bytes are not a packed value: {error}") from error


def _unpack_ext(code: int, content: memoryview) -> Any:
    data = bytes(content)
    try:
        build = _BUILDERS[code]
    except KeyError:
        raise SerializationError(
            f"packed value has the unknown extension type {code}", remedy="read it with a newer version"
        ) from None
    return build(data)


def _iso(value: datetime | time) -> bytes:
    # ISO 8601 has no word for the second of two equal wall-clock times; Python calls it fold.
    data = (value.isoformat() + ("fold" if value.fold else "")).encode()
    back = _from_iso(datetime, data) if isinstance(value, datetime) else _from_iso(time, data)
    if back.utcoffset() != value.utcoffset():
        # Offsets of less than a second are legal, and not read back right by every Python.
        raise ValueError(f"the UTC offset of {value!r} would come back as another")
    return data


def _from_iso[T: (datetime, time)](kind: type[T], data: bytes) -> T:
    text = data.decode()
    value = kind.fromisoformat(text.removesuffix("fold"))
    return value.replace(fold=1) if text.endswith("fold") else value


def _array_of(data: bytes) -> Any:
    return _decoder.decode(data)


_BUILDERS: dict[int, Callable[[bytes], Any]] = {
    _TUPLE: lambda data: tuple(_array_of(data)),
    _SET: lambda data: set(_array_of(data)),
    _FROZENSET: lambda data: frozenset(_array_of(data)),
    _PAIRS: lambda data: dict(_array_of(data)),
    _BIG: int,
    _DATETIME: lambda data: _from_iso(datetime, data),
    _DATE: lambda data: date.fromisoformat(data.decode()),
    _TIME: lambda data: _from_iso(time, data),
    _DELTA: lambda data: timedelta(*_array_of(data)),
    _UUID: lambda data: UUID(bytes=data),
    _DECIMAL: lambda data: Decimal(data.decode()),
    _ARRAY: lambda data: unpack_npy(data),
    _SCALAR: lambda data: unpack_npy(data)[()],
}
_decoder = msgspec.msgpack.Decoder(ext_hook=_unpack_ext)


def pack_npy(value: Any) -> bytes:
    """A numpy array or scalar in the .npy format. :raises SerializationError: it holds Python objects."""
    import numpy as np

    array = np.asarray(value)
    if array.dtype.hasobject:
        raise SerializationError(
            f"a numpy array of dtype {array.dtype} holds Python objects and would need pickle",
            remedy="convert it to a numeric, string or datetime dtype, or to a list",
        )
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def unpack_npy(data: bytes) -> Any:
    """The array of the .npy format. :raises SerializationError: it is malformed, or numpy is missing."""
    try:
        import numpy as np
    except ImportError as error:
        raise SerializationError(
            "the value holds a numpy array and numpy is not installed", remedy="pip install numpy"
        ) from error
    buffer = io.BytesIO(data)
    try:
        array = np.lib.format.read_array(buffer, allow_pickle=False)
    except (ValueError, EOFError, SyntaxError) as error:
        raise SerializationError(f"stored bytes are not a .npy array: {error}") from error
    if buffer.read(1):
        raise SerializationError("stored bytes go on behind the end of their .npy array")
    return array
