"""numpy arrays in the .npy format: written and read with numpy, checked without it (NEP 1, version 3)."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator
from typing import Any, Final

from storage_lib.errors import SerializationError

_VERSIONS: Final = (b"\x01\x00", b"\x02\x00", b"\x03\x00")
_MAX_HEADER: Final = 10_000
"""Characters; numpy refuses longer headers in files that it does not trust."""
_MAX_ITEM: Final = 2**31 - 1
_MAX_BYTES: Final = 2**63 - 1
_MAX_DIMENSIONS: Final = 64
_MAX_NESTING: Final = 20

_SIZES: Final = {
    "b": {1},
    "i": {1, 2, 4, 8},
    "u": {1, 2, 4, 8},
    "f": {2, 4, 8, 16},
    "c": {8, 16, 32},
    "M": {8},
    "m": {8},
}
_TYPE: Final = re.compile(
    r"[<>|=]?([biufcSUVMm])(\d{1,10})(\[(?:\d{1,9}(?:[YMWDhms]|[munpfa]s)|[YMWDhms]|[munpfa]s|generic)\])?"
)
_NUMBER: Final = "(?:0|[1-9][0-9]{0,17})"
_PLAIN: Final = re.compile(
    r"\{'descr': '([^'\\]{1,40})', 'fortran_order': (?:True|False), "
    rf"'shape': \(((?:{_NUMBER}, ?)*(?:{_NUMBER})?)\), \}} *\n?"
)
"""What numpy writes for a plain type, which can be read without a parser."""
_BRACKETS: Final = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|([\[({])|([\])}])")


def check_npy(data: memoryview, *, scalar: bool = False) -> None:
    """Check that `unpack_npy` can read ``data``: that its header is valid, and that the declared shape and
    type take exactly the bytes that follow.

    :param scalar: it must have no dimensions.
    :raises SerializationError: it cannot be read.
    """
    start, header = _header(data)
    descr, shape = header["descr"], header["shape"]
    if isinstance(descr, tuple):
        raise _malformed("its type has a shape, which only those of fields have")
    if scalar and shape:
        raise _malformed("a scalar has dimensions")
    size = _item_size(descr)
    whole = _product([n for n in shape if n], size)
    declared = 0 if 0 in shape else whole
    if declared != len(data) - start:
        raise _malformed(f"its header declares {declared} bytes of items, and there are {len(data) - start}")
    if scalar and isinstance(descr, str) and "U" in descr[:2]:
        _check_text(bytes(data[start:]), descr)


def _header(data: memoryview) -> tuple[int, dict[str, Any]]:
    begin = bytes(data[:12])
    start = 10 if begin[6:7] == b"\x01" else 12
    if begin[:6] != b"\x93NUMPY" or begin[6:8] not in _VERSIONS or len(begin) < start:
        raise _malformed("it does not begin as one")
    length = int.from_bytes(begin[8:start], "little")
    if length > _MAX_HEADER:
        raise _malformed(f"its header has {length} bytes", limit=f"{_MAX_HEADER} bytes")
    if start + length > len(data):
        raise _malformed("its header is cut off")
    text = bytes(data[start : start + length]).decode("utf-8" if begin[6] == 3 else "latin-1")
    if (plain := _PLAIN.fullmatch(text)) is not None:
        shape = tuple(int(n) for n in plain[2].split(",") if n.strip())
        if _is_shape(shape) and ("," in plain[2] or not shape):
            return start + length, {"descr": plain[1], "shape": shape}
    header = _literal(text)
    if not isinstance(header, dict) or set(header) != {"descr", "fortran_order", "shape"}:
        raise _malformed("its header has other fields than descr, fortran_order and shape")
    if not isinstance(header["fortran_order"], bool) or not _is_shape(header["shape"]):
        raise _malformed("fortran_order or shape are not what they should be")
    return start + length, header


def _literal(text: str) -> Any:
    import ast

    depth = deepest = 0
    for found in _BRACKETS.finditer(text):
        depth += (found[1] is not None) - (found[2] is not None)
        deepest = max(deepest, depth)
    try:
        if deepest > _MAX_NESTING:
            raise ValueError("nested too deeply")
        try:
            return ast.literal_eval(text)
        except SyntaxError:
            # Python 2 wrote shapes as 10L; numpy reads them too.
            return ast.literal_eval(re.sub(r"(\d)L\b", r"\1", text))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise _malformed(f"its header is not a literal: {type(error).__name__}") from None


def _is_shape(shape: Any) -> bool:
    return (
        isinstance(shape, tuple)
        and len(shape) <= _MAX_DIMENSIONS
        and all(type(n) is int and 0 <= n <= _MAX_BYTES for n in shape)
    )


def _product(shape: list[int], size: int) -> int:
    whole = math.prod(shape)
    if whole > _MAX_BYTES or whole * size > _MAX_BYTES:
        raise _malformed("its shape is beyond what an address can hold")
    return whole * size


def _item_size(descr: Any, depth: int = 0) -> int:
    """The size in bytes of one item of a type as the format spells it: text, or a list of fields."""
    if isinstance(descr, str):
        found = _TYPE.fullmatch(descr)
        if found is None:
            raise _malformed(f"the type {descr[:40]!r} is none of the format")
        kind, size = found[1], int(found[2])
        if size not in _SIZES.get(kind, {size}) or (found[3] and kind not in "Mm"):
            raise _malformed(f"the type {descr[:40]!r} is none of the format")
        size *= 4 if kind == "U" else 1
    elif isinstance(descr, tuple) and len(descr) == 2 and _is_shape(descr[1]):
        size = _product(list(descr[1]), _item_size(descr[0], depth + 1))
    elif isinstance(descr, list):
        size = sum(_field_size(field, depth + 1) for field in descr)
        names = [field[0] if isinstance(field[0], str) else field[0][1] for field in descr if field[0]]
        if len(set(names)) != len(names):
            raise _malformed("two of its fields have one name")
    else:
        raise _malformed("its type is none of the format")
    if size > _MAX_ITEM:
        raise _malformed(f"its items have {size} bytes", limit=f"{_MAX_ITEM} bytes")
    return size


def _field_size(field: Any, depth: int) -> int:
    if not isinstance(field, tuple) or not 2 <= len(field) <= 3 or not _is_name(field[0]):
        raise _malformed("a field of its type is none")
    if len(field) == 3:
        shape = (field[2],) if type(field[2]) is int else field[2]
        if not _is_shape(shape):
            raise _malformed("the shape of a field is none")
        size = _item_size(field[1], depth)
        if not size:
            raise _malformed("a field without bytes has a shape")
        return _product(list(shape), size)
    return _item_size(field[1], depth)


def _is_name(name: Any) -> bool:
    parts = name if isinstance(name, tuple) and len(name) == 2 else (name,)
    return all(isinstance(part, str) for part in parts)


def _check_text(content: bytes, descr: str) -> None:
    try:
        content.decode("utf-32-be" if descr[0] == ">" else "utf-32-le", "surrogatepass")
    except UnicodeDecodeError as error:
        raise _malformed(f"its text is none: {error.reason}") from None


def _malformed(problem: str, limit: str | None = None) -> SerializationError:
    return SerializationError(f"the bytes are not a .npy array: {problem}", limit=limit)


def pack_npy(value: Any) -> bytes:
    """A numpy array or scalar as .npy bytes.

    :raises SerializationError: it holds Python objects, or the format has no name for its type.
    """
    import numpy as np

    array = np.asarray(value)
    dtype = array.dtype
    if dtype.hasobject:
        raise SerializationError(
            f"a numpy array of dtype {dtype} holds Python objects and would need pickle",
            remedy="convert it to a numeric, string or datetime dtype, or to a list",
        )
    if dtype.isbuiltin != 1 or dtype.metadata:
        _check_spelt(dtype)
    if not isinstance(value, np.ndarray) and _scalar_type(dtype) is not type(value):
        raise SerializationError(
            f"a numpy scalar of the type {type(value).__name__} would come back as"
            f" {_scalar_type(dtype).__name__}",
            remedy=f"convert it to {_scalar_type(dtype).__name__}",
        )
    buffer = io.BytesIO()
    try:
        np.lib.format.write_array(buffer, array, version=(1, 0), allow_pickle=False)
    except ValueError:  # a field's name that is not Latin-1, or very many fields
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, array, version=(3, 0), allow_pickle=False)
    data = buffer.getvalue()
    if dtype.names:
        check_npy(memoryview(data))  # are there so many fields that the header is too long?
    return data


def _scalar_type(dtype: Any) -> Any:
    """The type of a scalar after a round trip: C's long long is read as int64."""
    import numpy as np

    return np.dtype(dtype.str).type if dtype.isbuiltin == 1 else dtype.type


def _check_spelt(dtype: Any) -> None:
    """Refuse a type that does not survive a round trip.

    :raises SerializationError: the .npy format reads ``dtype`` back as another type, or not at all.
    """
    import numpy as np

    try:
        for part in _parts(dtype):
            if part.metadata:
                raise ValueError("it has metadata")
            if issubclass(part.type, np.record):
                raise ValueError("its records would come back as plain structures")
            if not getattr(type(part), "_legacy", True):
                raise ValueError("the format has no name for it")
        back = np.lib.format.descr_to_dtype(np.lib.format.dtype_to_descr(dtype))
        if back != dtype:
            raise ValueError(f"it would come back as {back}")
    except (ValueError, TypeError) as error:
        raise SerializationError(
            f"a numpy array of dtype {dtype} cannot be stored: {error}",
            remedy="convert it to a dtype of numpy's own with astype(), such as float32 for bfloat16 and a"
            " plain structure for records, or save its bytes beside the name of its dtype",
        ) from None


def _parts(dtype: Any) -> Iterator[Any]:
    yield dtype
    if dtype.subdtype is not None:
        yield from _parts(dtype.base)
    for field in (dtype.fields or {}).values():
        yield from _parts(field[0])


def unpack_npy(data: bytes | memoryview) -> Any:
    """The array in .npy bytes; the declared size is compared with the bytes before any are read.

    :raises SerializationError: it is malformed, or numpy is missing.
    """
    check_npy(memoryview(data))
    try:
        import numpy as np
    except ImportError as error:
        raise SerializationError(
            "the value holds a numpy array and numpy is not installed", remedy="pip install numpy"
        ) from error
    try:
        return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except (ValueError, TypeError, EOFError, SyntaxError, OverflowError, MemoryError) as error:
        raise SerializationError(f"stored bytes are not a .npy array: {error}") from error
