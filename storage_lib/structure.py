"""The structure of packed bytes, checked without building the value.

What passes can be loaded: the bytes are as long as declared, nesting and memory are within limits, text is
UTF-8, keys can be hashed, and no hash table gets so many equal hashes that filling it takes more than linear
time (hashes of numbers and UUIDs are predictable: integers that are equal modulo 2**61-1 have the same hash).
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterator
from typing import Any, Final

from storage_lib.errors import SerializationError
from storage_lib.json_text import too_deep, too_much
from storage_lib.limits import MAX_DEPTH
from storage_lib.npy import check_npy

(
    TUPLE,
    SET,
    FROZENSET,
    PAIRS,
    BIG,
    DATETIME,
    DATE,
    TIME,
    DELTA,
    UUID_,
    DECIMAL,
    ARRAY,
    SCALAR,
    CODEC,
    PICKLE,
) = range(1, 16)
TIMESTAMP: Final = -1
"""The extension types; see packing.py. The last one is defined by MessagePack."""

_LIST, _KEY, _MAP, _PAIR, _SET, _FROZENSET, _TUPLE, _PAIRS, _CODEC = range(9)
"""Kinds of containers. _KEY is an array used as a map's key, which becomes a tuple."""
_WITHIN: Final = {TUPLE: _TUPLE, SET: _SET, FROZENSET: _FROZENSET, PAIRS: _PAIRS, CODEC: _CODEC}
_UNHASHABLE: Final = frozenset({_LIST, _MAP, _SET, _PAIRS})
_HASHABLE_WITH_ITEMS: Final = frozenset({_KEY, _TUPLE})

_ROOM: Final = 512 * 1024 * 1024
_RATIO: Final = 8
_COSTS: Final = {_MAP: 192, _SET: 224, _FROZENSET: 224, _PAIRS: 192}
"""Bytes of memory that a small container takes, if not 64."""
_ITEM_COST: Final = 48
_ENTRY_COST: Final = 40
_LEAF_COST: Final = 120

_WORK: Final = 4 * 1024 * 1024
_WORK_RATIO: Final = 4
"""How much work keys may cause, in bytes compared or built, in addition to `_WORK_RATIO` times the
stored size."""
_COMPARISON: Final = 8
_COSTLY: Final = 4096
_COSTLY_EXPONENT: Final = 1_000_000
"""Hashing a Decimal raises 10 to its exponent; most contexts do not exceed this one."""
_TURN: Final = 1024
_LONG: Final = 64 * 1024
_LIMITS: Final = {BIG: 4301, DATETIME: 64, DATE: 64, TIME: 64, DELTA: 64, UUID_: 16, TIMESTAMP: 12}
_SIGNATURE_BYTES: Final = 32
_DECIMAL_TEXT: Final = re.compile(rb"-?\d+(?:\.\d*)?(?:E[+-]?\d{1,18})?", re.ASCII)

_RUN: Final = re.compile(rb"[\x00-\x7f\xa0\xc0\xc2\xc3\xe0-\xff]++")
"""One-byte items: small numbers, empty text, None, True, False."""
_RUN_IN_LIST: Final = re.compile(rb"[\x00-\x80\x90\xa0\xc0\xc2\xc3\xe0-\xff]++")
"""One-byte items where there are no keys: also the empty dict and list."""


def _sizes() -> list[int]:
    """Bytes after the first byte of an item; -1 if the first byte does not tell."""
    sizes = [-1] * 256
    sizes[0x00:0x80] = [0] * 0x80
    sizes[0xE0:0x100] = [0] * 0x20
    sizes[0xA0:0xC0] = range(0x20)
    for first, size in ((0xC0, 0), (0xC2, 0), (0xC3, 0), (0xCA, 4), (0xCB, 8)):
        sizes[first] = size
    for first in (0xCC, 0xD0):
        sizes[first : first + 4] = [1, 2, 4, 8]
    return sizes


_SIZES: Final = _sizes()
_LENGTHS: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xC7: 1, 0xC8: 2, 0xC9: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
"""Size in bytes of the length field of a bin, ext or str."""
_EXT: Final = frozenset({0xC7, 0xC8, 0xC9, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8})
_STR: Final = frozenset({0xD9, 0xDA, 0xDB, *range(0xA0, 0xC0)})


def check_packed(data: bytes, build: Callable[[Any], Any], *, keys_alone: bool = False) -> Iterator[None]:
    """Check that `unpack` can read ``data``, as a generator that yields after some work.

    :param build: returns the value of one item that may be a key.
    :param keys_alone: leave other items that hold text, such as dates, to `unpack`.
    :raises SerializationError: it cannot be read.
    """
    return _Walk(data, build, keys_alone).steps()


class _Walk:
    def __init__(self, data: bytes, build: Callable[[Any], Any], keys_alone: bool) -> None:
        self._data = data
        self._keys_alone = keys_alone
        self._view = memoryview(data)
        self._build = build
        self._work = _WORK + _WORK_RATIO * len(data)
        self._room = _ROOM + _RATIO * len(data)
        self._buckets: array[int] | None = None

    def steps(self) -> Iterator[None]:
        data, sizes = self._data, _SIZES
        stack: list[tuple[int, int, int, bool, int, int]] = []
        # The innermost container: its kind, how many items are missing, where it must end at the latest,
        # whether it is hashable so far, where it begins, and its number.
        kind, left, limit, hashable, begin, number = _LIST, 1, len(data), True, 0, 0
        pos = turn = opened = 0
        while True:
            while left == 0 and stack:
                if kind >= _SET and limit != pos:
                    raise _malformed(pos, "an extension goes on behind its items")
                ended, start, good = kind, begin, hashable and kind not in _UNHASHABLE
                kind, left, limit, hashable, begin, number = stack.pop()
                if kind != _LIST:
                    if _is_key(kind, left):
                        self._add_compound(ended, start, pos, good, number)
                    elif not good and kind in _HASHABLE_WITH_ITEMS:
                        hashable = False
                left -= 1
            if left == 0:
                break
            turn += 1
            if turn >= _TURN:
                turn = 0
                yield
            if pos >= limit:
                raise _malformed(pos, "it is cut off")
            first = data[pos]
            if kind >= _PAIRS and not self._fits(kind, left, pos):
                raise _malformed(pos, "an entry of a dict is not a pair, or a codec has no name")
            after = sizes[first]
            if after >= 0 or (first in (0x80, 0x90) and kind == _LIST):
                if after <= 0:
                    in_list = kind == _LIST
                    run = (_RUN_IN_LIST if in_list else _RUN).match(
                        data, pos, min(limit, pos + left, pos + _LONG)
                    )
                    assert run is not None  # noqa: S101 - the first one is there
                    end = run.end()
                    if in_list:
                        self._room -= 64 * (data.count(b"\x80", pos, end) + data.count(b"\x90", pos, end))
                        if self._room < 0:
                            raise too_much()
                    turn += (end - pos) // 64
                    left -= end - pos
                    pos = end
                    continue
                end = pos + 1 + after
                if end > limit:
                    raise _malformed(pos, "it is cut off")
                if 0xA0 < first < 0xC0 and not (text := data[pos + 1 : end]).isascii():
                    _decoded(text, pos + 1)
                self._room -= _ITEM_COST
                left -= 1
                pos = end
                continue
            if 0x80 <= first < 0xA0:
                inner = _LIST if first >= 0x90 else _MAP
                items = first & 0x0F if first >= 0x90 else 2 * (first & 0x0F)
                content, end = pos + 1, limit
                if items > limit - content:
                    raise _malformed(pos, f"it declares {items} items, and there are {limit - content} bytes")
            else:
                inner, items, content, end = self._open(pos, limit)
            if inner is None:
                good = first not in _EXT or self._check_leaf(pos, content, end, kind, left, number)
                if not good and kind in _HASHABLE_WITH_ITEMS:
                    hashable = False
                turn += (end - pos) // 32  # texts are decoded, headers of arrays parsed
                left -= 1
                pos = end
                continue
            if len(stack) >= MAX_DEPTH:
                raise too_deep()
            self._room -= _COSTS.get(inner, 64) + items * (_ENTRY_COST if inner in _COSTS else 8)
            if self._room < 0:
                raise too_much()
            stack.append((kind, left, limit, hashable, begin, number))
            if kind == _PAIRS:
                inner = _PAIR  # its key is one of the dict's
            else:
                opened += 1
                number = opened
                if inner == _LIST and (kind == _KEY or (kind == _MAP and left % 2 == 0)):
                    inner = _KEY
            kind, left, limit, hashable, begin = inner, items, end, True, pos
            pos = content
        if pos != len(data):
            raise _malformed(pos, "it goes on behind the value")
        if self._room < 0:
            raise too_much()

    def _fits(self, kind: int, left: int, pos: int) -> bool:
        """Whether the next item of a dict's pairs is a pair, or of a codec's the name."""
        first = self._data[pos]
        if kind == _PAIRS:
            return (
                first == 0x92
                or self._data[pos : pos + 3] == b"\xdc\x00\x02"
                or self._data[pos : pos + 5] == b"\xdd\x00\x00\x00\x02"
            )
        return left != 2 or first in _STR

    def _open(self, pos: int, limit: int) -> tuple[int | None, int, int, int]:
        """The header at ``pos``: the kind of container or None, the number of items, where they begin,
        and where they end (for a container that is not an extension: where the enclosing one ends)."""
        first = self._data[pos]
        if 0x80 <= first < 0xA0:
            return self._items(_LIST if first >= 0x90 else _MAP, first & 0x0F, pos + 1, limit)
        if 0xDC <= first <= 0xDF:
            length = 2 if first % 2 == 0 else 4
            count = self._number(pos + 1, length, limit)
            return self._items(_LIST if first < 0xDE else _MAP, count, pos + 1 + length, limit)
        if first in _EXT:
            length = _LENGTHS.get(first, 0)
            size = self._number(pos + 1, length, limit) if length else 1 << (first - 0xD4)
            content = pos + 2 + length
        elif first in _LENGTHS:
            length = _LENGTHS[first]
            size = self._number(pos + 1, length, limit)
            content = pos + 1 + length
        else:
            raise _malformed(pos, f"no item begins with the byte {first:#x}")
        end = content + size
        if end > limit:
            raise _malformed(pos, f"it declares {size} bytes, and there are {max(0, limit - content)}")
        if first in _STR:
            self._check_text(content, end)
        elif first in _EXT and (kind := _WITHIN.get(self._data[content - 1])) is not None:
            inner, items, content, end = self._open(content, end) if size else (None, 0, content, end)
            if inner != _LIST or (kind == _CODEC and items != 2):
                raise _malformed(pos, "an extension does not hold what it should")
            return kind, items, content, end
        self._room -= _LEAF_COST if first in _EXT else _ITEM_COST
        return None, 0, content, end

    def _items(self, kind: int, count: int, content: int, limit: int) -> tuple[int, int, int, int]:
        items = 2 * count if kind == _MAP else count
        if items > limit - content:
            raise _malformed(content, f"it declares {items} items, and there are {limit - content} bytes")
        return kind, items, content, limit

    def _number(self, pos: int, length: int, limit: int) -> int:
        if pos + length > limit:
            raise _malformed(pos, "it is cut off")
        return int.from_bytes(self._data[pos : pos + length])

    def _check_text(self, start: int, end: int) -> None:
        data = self._data
        if end - start <= _LONG:
            if not (text := data[start:end]).isascii():
                _decoded(text, start)
            return
        while start < end:
            stop = min(start + _LONG, end)
            while stop < end and start < stop and data[stop] & 0xC0 == 0x80:
                stop -= 1  # never within a character: none has more than four bytes
            if stop == start:
                raise _malformed(start, "a text is not UTF-8")
            _decoded(data[start:stop], start)
            start = stop

    def _check_leaf(self, start: int, content: int, end: int, kind: int, left: int, number: int) -> bool:
        """Whether an extension that holds no items can be hashed."""
        is_key = _is_key(kind, left)
        code, size = self._data[content - 1], end - content
        code -= 256 if code > 127 else 0
        if code in (ARRAY, SCALAR):
            check_npy(self._view[content:end], scalar=code == SCALAR)
            if not is_key:
                return code == SCALAR
            if code == ARRAY:
                raise _not_hashable(start)
        elif code == PICKLE:
            if size <= _SIGNATURE_BYTES:
                raise _malformed(start, "a pickled object is not signed")
            return True  # What is signed was not written by a stranger.
        elif code == DECIMAL and size > _LONG:
            if _DECIMAL_TEXT.fullmatch(self._view[content:end]) is None:
                raise _malformed(start, "a Decimal is none")
            return True
        elif code != DECIMAL and code not in _LIMITS:
            raise SerializationError(
                f"packed value has the unknown extension type {code}", remedy="read it with a newer version"
            )
        elif size > _LIMITS.get(code, _LONG):
            raise _malformed(start, f"an extension of the type {code} has {size} bytes")
        if self._keys_alone and not is_key and kind not in _HASHABLE_WITH_ITEMS:
            return True
        try:
            value = self._build(self._view[start:end])
        except SerializationError:
            if code == SCALAR:
                return True  # numpy is not installed; it was checked above
            raise
        if code == DECIMAL and (is_key or kind in _HASHABLE_WITH_ITEMS):
            if value.is_snan() and not is_key:
                return False
            if abs(value.adjusted()) > _COSTLY_EXPONENT:
                self._spend(_COSTLY)
        if is_key:
            try:
                self._add(hash(value), number, _COMPARISON)
            except TypeError:
                raise _not_hashable(start) from None
        return True

    def _add_compound(self, kind: int, start: int, end: int, good: bool, number: int) -> None:
        """Count a container used as a key or an item of a set."""
        if not good:
            raise _not_hashable(start)
        size = end - start
        if size > max(_LONG, len(self._data) // 80):
            return  # There are too few of them to matter.
        self._spend(size)
        try:
            if kind == _KEY:
                (value,) = self._build(b"\x81" + self._data[start:end] + b"\xc0")
            else:
                value = self._build(self._view[start:end])
        except SerializationError:
            return  # It cannot be built here: numpy is not installed, or a codec is not registered.
        try:
            self._add(hash(value), number, max(size, _COMPARISON))
        except TypeError:
            raise _not_hashable(start) from None

    def _add(self, key: int, number: int, comparison: int) -> None:
        """Count a key of the container ``number`` by its hash; comparing it costs ``comparison``."""
        if self._buckets is None:
            self._buckets = array("H", [0]) * (1024 + len(self._data) // 4)
        bucket = hash((key, number)) % len(self._buckets)
        others = self._buckets[bucket]
        self._buckets[bucket] = others + 1
        self._spend(others * comparison)

    def _spend(self, work: int) -> None:
        self._work -= work
        if self._work < 0:
            raise SerializationError(
                "too many keys or items of sets have equal hashes, or contain one another",
                limit=f"{_WORK // 2**20} MiB of comparisons, and {_WORK_RATIO} times the stored size",
                remedy="store them as a list",
            )


def _is_key(kind: int, left: int) -> bool:
    return kind in (_SET, _FROZENSET) or (kind in (_MAP, _PAIR) and left % 2 == 0)


def _decoded(text: bytes, start: int) -> None:
    try:
        text.decode()
    except UnicodeDecodeError as error:
        raise _malformed(start + error.start, "a text is not UTF-8") from None


def _not_hashable(pos: int) -> SerializationError:
    return _malformed(pos, "a key or an item of a set cannot be hashed")


def _malformed(pos: int, problem: str) -> SerializationError:
    return SerializationError(f"the bytes are not a packed value: at byte {pos}: {problem}")
