"""Any text as one segment of a key, as a key of a table, and moments that sort newest first.

    key = f"users/{to_segment('ann@example.com/eu')}/profile"   # users/ann@example.com=2Feu/profile
    assert from_segment(key.split("/")[1]) == "ann@example.com/eu"

ASCII letters and digits, ``- _ . @ : + ,`` and, in text that is in Unicode normalisation form C, characters
beyond ASCII stay readable. Everything else is ``=`` and two hex digits for each byte of its UTF-8. ``=``
alone is the empty text. Two different texts are never the same segment, and each segment has one text.

`to_path` does so with each part of a path, but leaves a part as it is where a key can have it and no ``=``
is in it: ``reports/q4 2026.md`` is its own key.

`newest_first` gives a moment as 18 digits that count down, so that a listing, which goes up, begins with the
newest. It fits both: a segment of a key and a key of a table ("Log tail pattern", Azure table design guide).
"""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, datetime, timedelta

from storage_lib.errors import InvalidArgumentError, InvalidKeyError
from storage_lib.keys import MAX_SEGMENT_BYTES, SYSTEM_SEGMENT, validate_key
from storage_lib.patterns import pattern

MAX_TABLE_KEY_CHARACTERS = 512

_KEPT = r"A-Za-z0-9\-_.@:+,"
_BEYOND = r"\xa0-\ud7ff\ue000-\ufdcf\ufdf0-\ufffd\U00010000-\U0010ffff"
_OUTSIDE = pattern(rf"[^{_KEPT}{_BEYOND}]+")
_OUTSIDE_ASCII = pattern(rf"[^{_KEPT}]+")
_DOTS = pattern(r"\A\.|\.\Z")
_ESCAPED = pattern(r"(?:=[0-9A-F]{2})+")
_LAST = datetime.max.replace(tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_DIGITS = 18
_MOMENT = pattern(rf"[0-9]{{{_DIGITS}}}")


def to_segment(text: str) -> str:
    """``text`` as a segment of a key; `from_segment` reverses it.

    :raises InvalidKeyError: the segment would be longer than 255 bytes.
    """
    segment = _encoded(text)
    if (size := len(segment.encode())) > MAX_SEGMENT_BYTES:
        raise _too_long(size, f"{MAX_SEGMENT_BYTES} bytes a segment")
    return segment


def from_segment(segment: str) -> str:
    """The text that `to_segment` made a segment of.

    :raises InvalidArgumentError: it made none like this.
    """
    return _decoded(segment)


def to_path(text: str) -> str:
    """A path of any text, with ``/`` between its parts, as a key or the end of one; `from_path` reverses
    it. The parts that a key can have, and that do not contain ``=``, stay as they are; the others are
    encoded as by `to_segment`.

    :raises InvalidKeyError: a part would be longer than 255 bytes.
    """
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise InvalidArgumentError(f"text is a {type(text).__name__}", field="text", limit="a str")
    return "/".join(map(_part, text.split("/")))


def from_path(key: str) -> str:
    """The path that `to_path` made a key of, or of which a key was made in any other way without a
    ``=``.

    :raises InvalidArgumentError: a part contains ``=``, and `to_path` made none like this.
    """
    if not isinstance(key, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise _not_ours(key, "to_path")
    return "/".join(_decoded(part) if "=" in part else part for part in key.split("/"))


def to_table_key(text: str) -> str:
    """``text`` as a partition key or row key; `from_table_key` reverses it. Its letters are those of
    `to_segment`, but it may have 512 characters (UTF-16 units).

    :raises InvalidKeyError: it would be longer.
    """
    key = _encoded(text)
    if (size := len(key.encode("utf-16-le")) // 2) > MAX_TABLE_KEY_CHARACTERS:
        raise _too_long(size, f"{MAX_TABLE_KEY_CHARACTERS} characters (UTF-16 units)")
    return key


def from_table_key(key: str) -> str:
    """The text that `to_table_key` made a key of.

    :raises InvalidArgumentError: it made none like this.
    """
    return _decoded(key)


def newest_first(when: datetime) -> str:
    """A moment as 18 digits, of which the later one sorts first; to the microsecond.

    :raises InvalidArgumentError: ``when`` is not a datetime, or has no time zone.
    """
    refused = InvalidArgumentError(
        f"{when!s:.80} is not a moment",
        field="when",
        limit="a datetime with a time zone, in the years 1 to 9999 of UTC",
        remedy="datetime.now(UTC)",
    )
    if not isinstance(when, datetime) or when.tzinfo is None:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise refused
    try:
        return f"{(_LAST - when.astimezone(UTC)) // _MICROSECOND:0{_DIGITS}}"
    except OverflowError as error:
        raise refused from error


def moment_of(segment: str) -> datetime:
    """The moment, in UTC, that `newest_first` gave.

    :raises InvalidArgumentError: it did not give this.
    """
    if not isinstance(segment, str) or not _MOMENT.fullmatch(segment):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise _not_ours(segment, "newest_first")
    try:
        return _LAST - int(segment) * _MICROSECOND
    except OverflowError as error:
        raise _not_ours(segment, "newest_first") from error


def _encoded(text: str) -> str:
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise InvalidArgumentError(f"text is a {type(text).__name__}", field="text", limit="a str")
    outside = _OUTSIDE if unicodedata.is_normalized("NFC", text) else _OUTSIDE_ASCII
    encoded = _DOTS.sub("=2E", outside.sub(_escaped, text)) or "="
    # A mark at the beginning of what is kept must not be taken for a part of something before it.
    return encoded if _is_kept(encoded) else _DOTS.sub("=2E", _OUTSIDE_ASCII.sub(_escaped, text))


def _is_kept(encoded: str) -> bool:
    if encoded.isascii():
        return True
    non_characters = any(ord(character) & 0xFFFE == 0xFFFE for character in encoded)
    return not non_characters and unicodedata.is_normalized("NFC", encoded)


def _escaped(found: re.Match[str]) -> str:
    return "".join(f"={byte:02X}" for byte in found[0].encode(errors="surrogatepass"))


def _part(text: str) -> str:
    if "=" in text or text == SYSTEM_SEGMENT:
        return to_segment(text)
    try:
        return validate_key(text)
    except InvalidKeyError:
        return to_segment(text)


def _decoded(segment: str) -> str:
    if not isinstance(segment, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise _not_ours(segment, "to_segment")
    try:
        text = "" if segment == "=" else _ESCAPED.sub(_unescaped, segment)
    except UnicodeDecodeError as error:
        raise _not_ours(segment, "to_segment") from error
    if _encoded(text) != segment:
        raise _not_ours(segment, "to_segment")
    return text


def _unescaped(found: re.Match[str]) -> str:
    return bytes.fromhex(found[0].replace("=", "")).decode(errors="surrogatepass")


def _too_long(size: int, limit: str) -> InvalidKeyError:
    return InvalidKeyError(
        f"the text would take {size}",
        field="text",
        limit=limit,
        remedy="shorten it, or use its SHA-256 and keep the text in the metadata",
    )


def _not_ours(segment: object, maker: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"{segment!r:.80} is nothing that {maker} gives", field="segment")
