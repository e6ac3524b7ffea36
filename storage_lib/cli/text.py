"""Text that is safe to show: what is stored must not control a terminal."""

from datetime import UTC, datetime

_NAMES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
# Control characters (C0, DEL, C1), line separators, and what turns the direction of text around.
_UNSAFE = [
    *range(0x20),
    *range(0x7F, 0xA0),
    *(0x61C, 0x200E, 0x200F, 0x2028, 0x2029),
    *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
    *range(0xD800, 0xE000),
]


def _escape(code: int) -> str:
    return _NAMES.get(chr(code)) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


_ESCAPES = {code: _escape(code) for code in _UNSAFE}
_ESCAPES_OF_LINES = {code: text for code, text in _ESCAPES.items() if chr(code) not in "\n\t"}
_ESCAPES_OF_JSON = {code: f"\\u{code:04x}" for code in _UNSAFE if code >= 0x7F}


def printable(text: str, *, lines: bool = False) -> str:
    r"""``text`` with its control characters written out, as ``\x1b``; with ``lines``, line ends and tabs
    stay."""
    if text.isascii() and text.isprintable():
        return text
    return text.translate(_ESCAPES_OF_LINES if lines else _ESCAPES)


def printable_json(text: str) -> str:
    """The same JSON without the control characters that JSON allows in its strings."""
    return text.translate(_ESCAPES_OF_JSON)


_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def size_text(size: float) -> str:
    """A number of bytes for people: ``1.5 MiB``."""
    unit = 0
    while size >= 1023.95 and unit < len(_UNITS) - 1:
        size /= 1024
        unit += 1
    return f"{size:.1f} {_UNITS[unit]}" if unit else f"{size:.0f} B"


def time_text(moment: datetime | None) -> str:
    """In UTC, to the second: ``2026-11-25T03:00:31Z``."""
    if moment is None:
        return ""
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def count_text(count: int, noun: str) -> str:
    """``1 object``, ``1,000 objects``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
