"""Bytes to UTF-8, proved over all bytes.

A byte order mark decides (the WHATWG Encoding standard gives it precedence too), else the ``charset`` of the
content type, else UTF-8. Only text that declares nothing and is not UTF-8 is guessed, and a warning says so.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable
from pathlib import Path

from actions.stored.errors import MalformedReportError, UnsupportedReportError

# UTF-32 first: its little-endian mark begins with the one of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# No report is written in them, or their decoders are slow where somebody wants them to be.
_NOT_CHARSETS = (
    "idna",
    "punycode",
    "unicode_escape",
    "raw_unicode_escape",
    "undefined",
    "mbcs",
    "oem",
    "utf-7",
)
_CHUNK = 1 << 20
# What browsers know (WHATWG): a few letters fit many a code page that nobody uses any more.
_GUESSES = """
    cp1252 cp1250 cp1251 cp1253 cp1254 cp1255 cp1256 cp1257 cp1258 cp866 cp874 cp932 cp949
    iso8859_2 iso8859_3 iso8859_4 iso8859_5 iso8859_6 iso8859_7 iso8859_8 iso8859_10 iso8859_13 iso8859_14
    iso8859_15 iso8859_16 koi8_r koi8_u mac_roman mac_cyrillic gb18030 big5 euc_jp shift_jis euc_kr
"""
_GUESSED = 1 << 15
"""Bytes on either side of the first that is not UTF-8: what is looked at for a guess."""
_REMEDY = "save it as UTF-8, or name its charset in the content type, for example 'text/csv; charset=cp1252'"


def to_utf8(path: Path, charset: str | None, warn: Callable[[str], None]) -> tuple[Path, str]:
    """A file with the same text in UTF-8 without a mark, which is ``path`` if that is one; and its encoding.

    :raises UnsupportedReportError: the charset is unknown.
    :raises MalformedReportError: the text is empty, or a byte is not in its encoding; names the byte.
    """
    with path.open("rb") as file:
        head = file.read(4)
    mark, marked = next(((mark, name) for mark, name in _MARKS if head.startswith(mark)), (b"", ""))
    named = _lookup(charset) if charset else ""
    if marked and named and named not in (marked, "utf-16", "utf-32"):
        warn(f"the byte order mark says {marked}, the content type says {charset}: read as {marked}")
    if not marked and named in ("utf-16", "utf-32"):
        raise MalformedReportError(
            f"{charset} has no byte order mark", field="content_type", remedy=f"say {named}le or {named}be"
        )
    encoding = marked or named or "utf-8"
    try:
        return _recoded(path, encoding, len(mark)), encoding
    except _WrongByteError as wrong:
        guess = "" if marked or named or wrong.nul else _guess(path, wrong.at)
        if not guess:
            raise MalformedReportError(str(wrong), field="data", remedy=_REMEDY) from wrong
    try:
        found = _recoded(path, guess, 0), guess
    except _WrongByteError as wrong:
        raise MalformedReportError(f"{wrong}, a guess", field="data", remedy=_REMEDY) from wrong
    warn(f"nothing declares the encoding, and it is not UTF-8: read as {guess}, which is a guess")
    return found


class _WrongByteError(Exception):
    def __init__(self, problem: str, at: int, *, nul: bool = False) -> None:
        super().__init__(problem)
        self.at = at
        self.nul = nul


def _recoded(path: Path, encoding: str, start: int) -> Path:
    decoder = codecs.getincrementaldecoder(encoding)()
    target = path if encoding in ("utf-8", "ascii") and not start else path.with_suffix(f".{encoding}.utf8")
    blank, at, chunk = True, start, b"-"
    with path.open("rb") as source, target.open("rb" if target == path else "wb") as copy:
        source.seek(start)
        while chunk:
            chunk = source.read(_CHUNK)
            pending = len(decoder.getstate()[0])
            try:
                text = decoder.decode(chunk, not chunk)
            except UnicodeError as error:
                offset = at - pending + getattr(error, "start", 0)
                source.seek(offset)
                raise _WrongByteError(
                    f"byte {offset} (0x{source.read(1).hex()}) is not {encoding}", offset
                ) from error
            if "\0" in text:
                near = at + max(0, chunk.find(b"\0"))
                raise _WrongByteError(
                    f"NUL character near byte {near}: binary data, or UTF-16 without a byte order mark",
                    near,
                    nul=True,
                )
            blank = blank and not text.strip()
            if target != path:
                copy.write(text.encode())
            at += len(chunk)
    if blank:
        raise MalformedReportError("the report is empty", field="data", remedy="store some content")
    return target


def _guess(path: Path, at: int) -> str:
    from charset_normalizer import from_bytes

    with path.open("rb") as file:
        file.seek(max(0, at - _GUESSED) & ~3)
        data = file.read(2 * _GUESSED)
    wide = ["utf_16_le", "utf_16_be"] if b"\0" in data else []
    best = from_bytes(data, cp_isolation=[*_GUESSES.split(), *wide]).best()
    if best is None or best.encoding in ("utf_8", "ascii", *_NOT_CHARSETS):
        return ""
    # Among those that fit alike: what browsers take where nothing is declared.
    return "cp1252" if "cp1252" in best.could_be_from_charset else _lookup(best.encoding)


def _lookup(charset: str) -> str:
    try:
        info = codecs.lookup(charset)
    except (LookupError, ValueError):
        info = None
    if info is None or not info._is_text_encoding or info.name in _NOT_CHARSETS:  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
        raise UnsupportedReportError(
            f"charset {charset[:40]!r} is not a known text encoding",
            field="content_type",
            remedy=_REMEDY,
        )
    return "utf-8" if info.name == "utf-8-sig" else info.name
