"""Bytes-like objects, copied once: what is stored is what they held when they were passed in."""

from __future__ import annotations

from collections.abc import Buffer, Iterator
from typing import Any

from storage_lib.errors import InvalidArgumentError

_FORMATS = frozenset("cbB?hHiIlLqQnNefdg")
"""Item formats (of struct) that are plain bytes: no pointers, no records."""


def as_bytes(data: Any, field: str = "data", *, remedy: str = "use save for text or a value") -> bytes:
    """Return ``data`` if it is bytes, else a copy of the bytes that it holds now.

    :param field: the name of the argument, for the error.
    :param remedy: what to pass instead, for the error.
    :raises InvalidArgumentError: it is not bytes-like, or its items are not plain numbers.
    """
    if type(data) is bytes:
        return data
    name = type(data).__name__
    if not isinstance(data, Buffer):
        raise InvalidArgumentError(
            f"{field} is a {name}, not bytes",
            field=field,
            limit="bytes or a bytes-like object",
            remedy=remedy,
        )
    try:
        with memoryview(data) as view:
            if view.format.lstrip("@=<>!") in _FORMATS:
                return view.tobytes()
            items = view.format
    except (ValueError, BufferError, NotImplementedError) as error:
        raise InvalidArgumentError(
            f"{field} is a {name} that gives no bytes: {error}", field=field, remedy="give bytes"
        ) from error
    raise InvalidArgumentError(
        f"{field} is a {name} of items that are not numbers (format {items!r})",
        field=field,
        remedy="give bytes",
    )


def is_bytes_like(value: Any) -> bool:
    """Whether ``value`` stands for its bytes: any buffer except numpy's, which are values with a type."""
    return isinstance(value, Buffer) and type(value).__module__ != "numpy"


def slices(data: Buffer, size: int) -> Iterator[memoryview]:
    """``data`` in views of ``size`` bytes, the last one shorter."""
    view = memoryview(data)
    for at in range(0, len(view), size):
        yield view[at : at + size]
