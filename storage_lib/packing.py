"""Rich Python values as msgpack, for everything that plain JSON would change.

Extension types (application-specific codes of msgpack):

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
14    object with a registered codec              msgpack array [name of the codec, encoded value]
15    pickled object, where that is allowed       HMAC-SHA-256 (32 bytes), pickle
====  ==========================================  =====================================================
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Callable, Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from storage_lib.codecs import Codec, codec_named, codec_of
from storage_lib.errors import SerializationError
from storage_lib.limits import MAX_DEPTH
from storage_lib.npy import pack_npy, unpack_npy
from storage_lib.structure import (
    ARRAY,
    BIG,
    CODEC,
    DATE,
    DATETIME,
    DECIMAL,
    DELTA,
    FROZENSET,
    PAIRS,
    PICKLE,
    SCALAR,
    SET,
    TIME,
    TUPLE,
    UUID_,
    check_packed,
)

if TYPE_CHECKING:
    from storage_lib.pickling import Pickling

_Ext = msgspec.msgpack.Ext
_encode = msgspec.msgpack.Encoder().encode
_LARGE = 4 * 1024 * 1024
"""Bytes; anything smaller can exceed a limit of structure.py only by its keys."""
_REMEDY = "convert it to a dict, list, str, number, bytes, datetime, UUID, Decimal or numpy array"


class _RefusedError(Exception):
    """An item that could not be restored; carries the path to it, built while unwinding."""

    def __init__(self, problem: str, remedy: str | None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy
        self.path = ""


def pack(value: Any, *, enum_values: bool = False, pickling: Pickling | None = None) -> bytes:
    """The packed form of ``value``.

    :param enum_values: store the ``value`` of an Enum member, which a model turns back into the member;
        otherwise it is refused.
    :param pickling: pickles what has no other form; None refuses it.
    :raises SerializationError: part of it cannot be packed; the error names the place.
    """
    packer = _Packer(enum_values, pickling)
    try:
        data = _encode(packer.pack(value, 0))
    except _RefusedError as refused:
        raise SerializationError(
            f"value{refused.path} {refused.problem}",
            field=refused.path.lstrip(".") or None,
            remedy=refused.remedy,
        ) from None
    except SerializationError:
        raise
    except (ValueError, OverflowError, RecursionError) as error:
        raise SerializationError(f"value cannot be packed: {error}") from error
    if len(data) > _LARGE or packer.keys * len(data) > _LARGE:
        for _ in check(data):
            pass  # A value that could not be loaded is not stored.
    if packer.codecs:
        _check_codecs(data, packer.codecs, packer.pickled, enum_values, pickling)
    return data


def _check_codecs(
    data: bytes, codecs: set[str], pickled: bool, enum_values: bool, pickling: Pickling | None
) -> None:
    # Objects of a user's class may not be comparable; that the restored one is stored alike is proof enough.
    back = unpack(data, pickling=pickling)
    again = _Packer(enum_values, pickling)
    if not pickled and _encode(again.pack(back, 0)) != data:
        raise SerializationError(
            "value would not be restored as it is: one of these codecs does not decode what it encodes:"
            f" {', '.join(sorted(codecs))}",
            remedy="let decode(encode(x)) be equal to x",
        )


class _Packer:
    def __init__(self, enum_values: bool, pickling: Pickling | None) -> None:
        self._enum_values = enum_values
        self._pickling = pickling
        self.codecs: set[str] = set()
        self.keys = 0
        self.pickled = False

    def pack(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if kind in _NATIVE or value is None:
            return value
        if kind is int:
            return value if -(2**63) <= value < 2**64 else _Ext(BIG, str(value).encode())
        if (scalar := SCALARS.get(kind)) is not None:
            code, content = scalar
            return _Ext(code, content(value))
        if depth >= MAX_DEPTH:
            raise SerializationError(
                "value is nested too deeply, or contains itself", limit=f"{MAX_DEPTH} levels"
            )
        if kind is list:
            return self._items(value, depth)
        if kind is dict:
            if all(type(name) is str for name in value):
                packed: dict[str, Any] = {}
                for name, item in value.items():
                    try:
                        packed[name] = self.pack(item, depth + 1)
                    except _RefusedError as refused:
                        refused.path = f".{name}{refused.path}"
                        raise
                return packed
            self.keys += sum(type(key) not in _NATIVE for key in value)
            return _Ext(PAIRS, _encode(self._items([[k, v] for k, v in value.items()], depth)))
        if kind is tuple:
            return _Ext(TUPLE, _encode(self._items(value, depth)))
        if kind is set or kind is frozenset:
            self.keys += sum(type(key) not in _NATIVE for key in value)
            items = sorted(_encode(item) for item in self._items(value, depth))
            return _Ext(SET if kind is set else FROZENSET, _encode([msgspec.Raw(item) for item in items]))
        if (codec := codec_of(kind)) is not None:
            return self._by_codec(codec, value, depth)
        numpy = sys.modules.get("numpy")
        if numpy is not None and (kind is numpy.ndarray or isinstance(value, numpy.generic)):
            return self._array(numpy, value)
        if self._enum_values and isinstance(value, enum.Enum):
            return self.pack(value.value, depth + 1)
        return self._pickle(
            value, f"has the type {kind.__name__}, which could not be restored as it is", None
        )

    def _items(self, values: Any, depth: int) -> list[Any]:
        packed: list[Any] = []
        for index, item in enumerate(values):
            try:
                packed.append(self.pack(item, depth + 1))
            except _RefusedError as refused:
                refused.path = f"[{index}]{refused.path}"
                raise
        return packed

    def _by_codec(self, codec: Codec, value: Any, depth: int) -> Any:
        try:
            encoded = codec.encode(value)
        except Exception as error:  # The user's own function may raise anything.
            raise _RefusedError(f"was not encoded by the codec {codec.name!r}: {error!r}", None) from error
        if _is_lost(codec, value, encoded):
            raise _RefusedError(
                f"would not be restored as it is: the codec {codec.name!r} does not decode what it encodes",
                "let decode(encode(x)) be equal to x",
            )
        self.codecs.add(codec.name)
        return _Ext(CODEC, _encode([codec.name, self.pack(encoded, depth + 1)]))

    def _array(self, numpy: Any, value: Any) -> Any:
        kind = type(value)
        if kind in (numpy.str_, numpy.bytes_) and numpy.asarray(value)[()] != value:
            # numpy takes trailing NULs for padding.
            return self._pickle(value, f"has the type {kind.__name__} and ends in NUL", None)
        try:
            return _Ext(ARRAY if kind is numpy.ndarray else SCALAR, pack_npy(value))
        except SerializationError as error:
            return self._pickle(value, f"is {error.message}", error.remedy)

    def _pickle(self, value: Any, problem: str, remedy: str | None) -> Any:
        if self._pickling is None:
            more = "or register a codec for its type (storage_lib.codecs)"
            raise _RefusedError(problem, remedy or f"{_REMEDY}; {more}")
        try:
            signed = self._pickling.dump(value)
        except SerializationError as error:
            raise _RefusedError(f"is {error.message}", error.remedy) from error
        self.pickled = True
        return _Ext(PICKLE, signed)


def _is_lost(codec: Codec, value: Any, encoded: Any) -> bool:
    """Whether the class's own ``==`` says that the restored object differs."""
    if type(value).__eq__ is object.__eq__:
        return False
    try:
        back = codec.decode(encoded)
        return type(back) is type(value) and bool(back != value)
    except Exception:
        return False  # `_check_codecs` reports an error of the codec; an error of == proves nothing.


_NATIVE = frozenset({str, bool, float, bytes})
SCALARS: dict[type, tuple[int, Callable[[Any], bytes]]] = {
    datetime: (DATETIME, lambda v: _iso(v)),
    date: (DATE, lambda v: v.isoformat().encode()),
    time: (TIME, lambda v: _iso(v)),
    timedelta: (DELTA, lambda v: _encode([v.days, v.seconds, v.microseconds])),
    UUID: (UUID_, lambda v: v.bytes),
    Decimal: (DECIMAL, lambda v: str(v).encode()),
}


def unpack(data: bytes | memoryview, *, pickling: Pickling | None = None) -> Any:
    """Restore the value of `pack` from bytes whose structure was checked.

    :raises SerializationError: the bytes are not a packed value, or hold what cannot be restored here.
    """
    return _guarded((_reader if pickling is None else _Reader(pickling)).decode, data)


def check(data: bytes, *, strangers: bool = False) -> Iterator[None]:
    """`check_packed`, as a generator that yields after some work.

    :param strangers: run no codec, because anyone may have written the bytes.
    """
    decode = (_plain_reader if strangers else _reader).decode
    return check_packed(data, lambda item: _guarded(decode, item), keys_alone=not strangers)


def _guarded(decode: Callable[[bytes | memoryview], Any], data: bytes | memoryview) -> Any:
    try:
        return decode(data)
    except SerializationError:
        raise
    except (ValueError, TypeError, ArithmeticError, RecursionError, MemoryError) as error:
        raise SerializationError(f"stored bytes are not a packed value: {error}") from error


def _iso(value: datetime | time) -> bytes:
    # ISO 8601 cannot express the second of two equal wall-clock times; Python calls it fold.
    data = (value.isoformat() + ("fold" if value.fold else "")).encode()
    back = _from_iso(datetime, data) if isinstance(value, datetime) else _from_iso(time, data)
    if back.utcoffset() != value.utcoffset():
        # Offsets of less than a second are legal, but not every Python version reads them correctly.
        raise ValueError(f"the UTC offset of {value!r} would not be restored as it is")
    return data


def _from_iso[T: (datetime, time)](kind: type[T], data: bytes | memoryview) -> T:
    text = str(data, "utf-8")
    value = kind.fromisoformat(text.removesuffix("fold"))
    return value.replace(fold=1) if text.endswith("fold") else value


class _Reader:
    """Builds the values of extensions; their contents are read in place, without a copy."""

    def __init__(self, pickling: Pickling | None = None, *, codecs: bool = True) -> None:
        self._pickling = pickling
        self._codecs = codecs
        self.decode = msgspec.msgpack.Decoder(ext_hook=self._build).decode
        array = self.decode
        self._builders: dict[int, Callable[[memoryview], Any]] = {
            TUPLE: lambda data: tuple(array(data)),
            SET: lambda data: set(array(data)),
            FROZENSET: lambda data: frozenset(array(data)),
            PAIRS: lambda data: dict(array(data)),
            BIG: lambda data: int(bytes(data)),
            DATETIME: lambda data: _from_iso(datetime, data),
            DATE: lambda data: date.fromisoformat(str(data, "utf-8")),
            TIME: lambda data: _from_iso(time, data),
            DELTA: lambda data: timedelta(*array(data)),
            UUID_: lambda data: UUID(bytes=bytes(data)),
            DECIMAL: lambda data: Decimal(str(data, "utf-8")),
            ARRAY: unpack_npy,
            SCALAR: lambda data: unpack_npy(data)[()],
            CODEC: self._by_codec,
            PICKLE: self._unpickle,
        }

    def _build(self, code: int, content: memoryview) -> Any:
        try:
            build = self._builders[code]
        except KeyError:
            raise SerializationError(
                f"packed value has the unknown extension type {code}", remedy="read it with a newer version"
            ) from None
        return build(content)

    def _by_codec(self, content: memoryview) -> Any:
        name, encoded = self.decode(content)
        codec = codec_named(name) if self._codecs else None
        if codec is None:
            raise SerializationError(
                f"the value holds an object of the codec {name!r}, which is not registered here",
                remedy="import the module that registers it (storage_lib.codecs.register_codec) first",
            )
        try:
            value = codec.decode(encoded)
        except Exception as error:  # The user's own function may raise anything.
            raise SerializationError(f"the codec {name!r} could not decode a value: {error!r}") from error
        if type(value) is not codec.kind:
            raise SerializationError(
                f"the codec {name!r} of {codec.kind.__name__} gave a {type(value).__name__}"
            )
        return value

    def _unpickle(self, content: memoryview) -> Any:
        if self._pickling is None:
            raise SerializationError(
                "the value holds a pickled object, which this configuration does not read",
                field="allow_pickle",
                remedy="if you trust all who hold the signing key, open the storage with"
                " StorageConfig(allow_pickle=True, signing_key=…), the key that it was saved with",
            )
        return self._pickling.load(bytes(content))


_reader = _Reader()
_plain_reader = _Reader(codecs=False)
