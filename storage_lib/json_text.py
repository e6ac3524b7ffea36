"""JSON checked one window at a time: it is never built as a value, and other work goes on meanwhile.

Each window is cut where a value or a name may begin, completed with the brackets that are open around it, and
given to the parser that `load` uses, so what passes here can be loaded.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from itertools import accumulate
from typing import Final

import msgspec

from storage_lib.errors import SerializationError
from storage_lib.limits import MAX_DEPTH

_WINDOW: Final = 16 * 1024
"""Bytes; checking a window takes about 25 times as much memory."""
_LONGEST: Final = 8 * 1024
"""Characters of a number and the brackets after it."""
_NAMED: Final = 1024 * 1024
"""Bytes; beyond them a place is given as a byte offset, because finding its path takes long."""
_SPACE: Final = b" \t\r\n"
_SPACES: Final = re.compile(rb"[ \t\r\n]{2,}+")
_BOM: Final = b"\xef\xbb\xbf"
_STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_WHOLE_STRINGS: Final = re.compile(rb'[^"]*+(?:' + _STRING + rb'[^"]*+)*+', re.DOTALL)
_STRINGS: Final = re.compile(_STRING, re.DOTALL)
_PAIR: Final = rb"u[dD][89abAB]..\\u.{4}"
_ESCAPE: Final = rb"\\(?:" + _PAIR + rb"|u(?![dD][89abAB]).{4}|[^u])"
_IN_STRING: Final = re.compile(rb'[^"\\]*+(?:' + _ESCAPE + rb'[^"\\]*+)*+', re.DOTALL)
_TO_BEGINNING: Final = re.compile(rb'[^",:\[{]*+')
_TOKENS: Final = re.compile(_STRING + rb'|[\[\]{},:]|[^\s\[\]{},:"]++|"', re.DOTALL)
_LARGE_NUMBER: Final = re.compile(rb"[eE]\+?\d{3}|\d{308}")
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_NOT_MARKS: Final = bytes(set(range(256)) - set(b'[]{}"'))
_ITEMS: Final = (b"[", b"{", b":")
_NOT_ITEMS: Final = bytes(set(range(256)) - set(b'[{:"'))
_PLAIN_STRINGS: Final = re.compile(rb'"[^"]*+"')
_STEPS: Final = bytes.maketrans(b"[]{}", b"\x01\xff\x01\xff")
_CLOSING: Final = {"[": b"]", "{": b"}"}
_BYTE: Final = re.compile(r"\(byte (\d+)\)")

_ROOM: Final = 512 * 1024 * 1024
"""Bytes that a value may take in memory, in addition to `_RATIO` times its stored size."""
_RATIO: Final = 8
_SHORT: Final = 4096
_SMALLEST_LARGE: Final = _ROOM // (25 - _RATIO)
TOO_MUCH: Final = "512 MiB and 8 times its stored size"


def check_json(data: bytes) -> Iterator[None]:
    """Check that ``data`` can be loaded, as a generator that yields after some work.

    :raises SerializationError: it cannot be loaded; a number that Python cannot hold is named by its place.
    :raises ValueError: it is not JSON.
    """
    check_room(data)
    start, end = 3 if data.startswith(_BOM) else 0, len(data)
    if end - start <= _WINDOW:
        yield from _check_window(data, data[start:], start)
        check_depth(data)
        return
    opened, prefix = "", b""
    head = b""
    turns = 0
    while True:
        turns += 1
        if turns % 4 == 0:
            yield
        stop = _WHOLE_STRINGS.match(data, start, min(start + _WINDOW, end)).end()  # pyright: ignore[reportOptionalMemberAccess]
        if not head and stop == start < end and data[start] == 0x22:
            start, head = (yield from _check_string(data, start)), b'""'
            continue
        if stop == min(start + _WINDOW, end) < end:
            stop = yield from _to_beginning(data, stop)
            if stop < end and data[stop] != 0x22:
                stop += 1
        piece = head + data[start:stop]
        if len(piece) > 4 * _WINDOW:
            piece = _SPACES.sub(b" ", piece)
        last = stop == end
        if not last and not piece.strip(_SPACE):
            start = stop
            continue
        changed, depth = _bracket_changes(piece)
        if depth + len(opened) > MAX_DEPTH:
            raise too_deep()
        after = _after(opened, changed)
        ending = b"" if last else _ending(piece, after)
        yield from _check_window(data, b"".join((prefix, piece, ending)), start - len(prefix) - len(head))
        if last:
            return
        prefix = _beginning(piece, after)
        opened, start, head = after, stop, b""


def _to_beginning(data: bytes, start: int) -> Generator[None, None, int]:
    """Return (by `yield from`) where the next value, name or separator is; white space is skipped."""
    while True:
        stop = _TO_BEGINNING.match(data, start, start + _WINDOW).end()  # pyright: ignore[reportOptionalMemberAccess]
        if stop < start + _WINDOW:
            return stop
        if len(_SPACES.sub(b" ", data[start:stop])) > _LONGEST:
            raise SerializationError(
                f"a number near byte {start} has too many characters",
                limit=f"{_LONGEST} characters",
                remedy="send it as a text",
            )
        start = stop
        yield


def _check_window(data: bytes, text: bytes, offset: int) -> Generator[None]:
    try:
        msgspec.json.decode(text)
    except msgspec.ValidationError as error:
        place = (yield from _place(data)) if offset < _NAMED else None
        raise SerializationError(
            f"a number {f'at {place}' if place else f'behind byte {offset}'} is beyond what Python can hold:"
            f" {error}",
            field=place,
            limit="4,300 digits, and up to 1.8e308 with a fraction or an exponent",
            remedy="send it as a text",
        ) from None
    except msgspec.DecodeError as error:
        message = _BYTE.sub(lambda found: f"(byte {max(0, int(found[1]) + offset)})", str(error))
        raise ValueError(message) from None


def _check_string(data: bytes, start: int) -> Generator[None, None, int]:
    """Check a string of any length in parts and return (by `yield from`) where it ends."""
    start += 1
    while True:
        stop = _IN_STRING.match(data, start, start + _WINDOW).end()  # pyright: ignore[reportOptionalMemberAccess]
        if stop >= len(data) or (stop == start and data[start] != 0x22):
            raise ValueError("Input data was truncated")
        if data[stop] == 0x22:
            yield from _check_window(data, b'"' + data[start:stop] + b'"', start - 1)
            return stop + 1
        back = 0
        while back < 3 and data[stop - back] & 0xC0 == 0x80:
            back += 1
        stop -= back
        yield from _check_window(data, b'"' + data[start:stop] + b'"', start - 1)
        yield
        start = stop


def _bracket_changes(piece: bytes) -> tuple[str, int]:
    """The brackets that a piece closes and opens, such as ``]}[``, and how deep it goes."""
    brackets = _STRINGS.sub(b"", piece).translate(None, _NOT_BRACKETS)
    depth = _deepest(brackets)
    while True:
        shorter = brackets.replace(b"[]", b"").replace(b"{}", b"")
        if len(shorter) == len(brackets):
            return brackets.decode(), depth
        brackets = shorter


def _deepest(brackets: bytes) -> int:
    return max(accumulate(memoryview(brackets.translate(_STEPS)).cast("b")), default=0)


def _after(opened: str, changed: str) -> str:
    opening = changed.lstrip("]}")
    closed = len(changed) - len(opening)
    if closed > len(opened) or "]" in opening or "}" in opening:
        raise ValueError("JSON is malformed: brackets do not match")
    return opened[: len(opened) - closed] + opening


def _ending(piece: bytes, opened: str) -> bytes:
    """What completes a piece that ends before a value or a name."""
    last = piece.rstrip(_SPACE)[-1:]
    if last not in (b",", b":", b"[", b"{") or not opened:
        raise ValueError("JSON is malformed: values stand side by side")
    more = b"" if last in b"[{" else b"0" if last == b":" or opened[-1] == "[" else b'"":0'
    return more + b"".join(_CLOSING[bracket] for bracket in reversed(opened))


def _beginning(piece: bytes, opened: str) -> bytes:
    """The context of the piece after ``piece``, as far as it matters."""
    last = piece.rstrip(_SPACE)[-1:]
    around = b"".join(b"[" if bracket == "[" else b'{"":' for bracket in opened[:-1])
    inner = b"[" if opened[-1] == "[" else b"{"
    if last == b":":
        inner += b'"":'
    elif last == b",":
        inner += b"0," if opened[-1] == "[" else b'"":0,'
    return around + inner


def check_depth(data: bytes) -> None:
    """Check the nesting of valid JSON.

    :raises SerializationError: it is too deep.
    """
    if len(data) <= 2 * MAX_DEPTH or (len(data) <= _SHORT and _brackets(data) <= MAX_DEPTH):
        return
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    marks = data.translate(None, _NOT_MARKS).replace(b'""', b"")
    if b'"' in marks:
        marks = _PLAIN_STRINGS.sub(b"", marks)
    if _deepest(marks) > MAX_DEPTH:
        raise too_deep()


def has_more_items(data: bytes, most: int) -> bool:
    """Whether there are more than ``most`` lists, objects and names: what makes JSON slow to build.

    Cheap: a value is counted, not read."""
    if len(data) <= 2 * most or sum(map(data.count, _ITEMS)) <= most:
        return False
    # Not those within strings.
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    marks = data.translate(None, _NOT_ITEMS).replace(b'""', b"")
    if b'"' in marks:
        marks = _PLAIN_STRINGS.sub(b"", marks)
    return sum(map(marks.count, _ITEMS)) > most


def _brackets(data: bytes) -> int:
    """How many open. Removing them is several times as fast as counting them, if they are few."""
    return 2 * len(data) - len(data.replace(b"[", b"")) - len(data.replace(b"{", b""))


def check_room(data: bytes) -> None:
    """Check the memory that a value would take.

    :raises SerializationError: it is far more than the size of its JSON.
    """
    if len(data) < _SMALLEST_LARGE:
        return
    for text in (data, None):
        text = _STRINGS.sub(b"", data) if text is None else text
        taken = 64 * text.count(b"[") + 192 * text.count(b"{") + 8 * text.count(b",")
        if taken <= _ROOM + _RATIO * len(data):
            return
    raise too_much()


def has_large_number(data: bytes) -> bool:
    """Whether a number may be too large for a float; cheap, with false positives."""
    return _LARGE_NUMBER.search(data) is not None


def too_deep() -> SerializationError:
    return SerializationError(
        "the value is nested too deeply", limit=f"{MAX_DEPTH} levels", remedy="flatten it"
    )


def too_much() -> SerializationError:
    return SerializationError(
        "the value holds so many small items that it would take far more memory than its size",
        limit=TOO_MUCH,
        remedy="split it into several objects, or keep numbers as a numpy array",
    )


def _place(data: bytes) -> Generator[None, None, str]:
    """Return (by `yield from`) the place of the first number that cannot be loaded, such as ``.a[2]``."""
    path: list[str | int] = []
    name = ""
    for count, found in enumerate(_TOKENS.finditer(data)):
        if count % 4096 == 4095:
            yield
        token = found[0]
        first = token[:1]
        if first == b"[":
            path.append(0)
        elif first == b"{":
            path.append("")
        elif first in (b"]", b"}"):
            path = path[:-1]
        elif first == b",":
            if path and isinstance(path[-1], int):
                path[-1] += 1
        elif first == b":":
            path[-1:] = [name]
        elif first == b'"':
            name = token[1:-1].decode(errors="replace")[:100]
        elif first in b"-0123456789":
            try:
                msgspec.json.decode(token)
            except msgspec.DecodeError:
                break
    place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return place.lstrip(".") or "the top"
