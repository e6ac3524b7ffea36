"""Bytes-like objects of all kinds, and what only looks like some."""

from __future__ import annotations

import ctypes
from array import array
from mmap import mmap
from typing import Any


def buffers() -> list[tuple[Any, bytes]]:
    """Bytes-like objects, and the bytes that each of them holds."""
    numbers = array("d", [1.5, -2.0, 3.25])
    mapped = mmap(-1, 16)
    mapped[:] = b"mapped in memory"
    return [
        (bytearray(b"x\x00y"), b"x\x00y"),
        (memoryview(b"abc"), b"abc"),
        (memoryview(b"abcdef")[::-2], b"fdb"),
        (memoryview(numbers), numbers.tobytes()),
        (numbers, numbers.tobytes()),
        (memoryview(numbers)[1:], numbers[1:].tobytes()),
        (memoryview(b"abcdef").cast("B", (2, 3)), b"abcdef"),
        ((ctypes.c_uint16 * 2)(1, 2), bytes((ctypes.c_uint16 * 2)(1, 2))),
        (memoryview(mapped), b"mapped in memory"),
        (type("Bytes", (bytes,), {})(b"sub"), b"sub"),
        (bytearray(), b""),
    ]


def _released() -> memoryview:
    view = memoryview(b"x")
    view.release()
    return view


NOT_BYTES: list[Any] = ["text", None, 5, 1.5, {}, object(), (ctypes.c_char_p * 2)(b"a", b"b"), _released()]
