"""Bytes to text, without guessing.

A byte order mark decides (UTF-8, UTF-16, UTF-32; the WHATWG Encoding standard gives it precedence too),
else the ``charset`` parameter of the content type, else UTF-8. Bytes that do not decode are refused with
their offset: a fallback to another charset would turn every wrong byte into a plausible wrong letter.
"""

from __future__ import annotations

import codecs
import io
from dataclasses import dataclass

from actions.report.errors import MalformedReportError, UnsupportedReportError

# UTF-32 first: its little-endian mark begins with the one of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Python knows these as text encodings, but no report is written in them.
_NOT_CHARSETS = frozenset(
    {"idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined", "mbcs", "oem"}
)
_AT_ONCE = frozenset({"utf-7"})
"""Their decoders keep an open sequence, however long, and begin it anew with each chunk."""
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Source:
    """The report's bytes with the encoding that was established for them (and checked over all bytes)."""

    data: bytes
    encoding: str
    bom: int
    """Length in bytes of the byte order mark, which is not part of the text."""
    warnings: tuple[str, ...] = ()

    def open(self) -> io.TextIOBase:
        """A fresh stream over the text. Line ends are left as they are, as `csv` wants them."""
        if self.encoding in _AT_ONCE:
            return io.StringIO(self.text(), newline="")
        raw = io.BytesIO(self.data)
        raw.seek(self.bom)
        return io.TextIOWrapper(raw, encoding=self.encoding, newline="")

    def text(self) -> str:
        return str(memoryview(self.data)[self.bom :], self.encoding)

    def utf8(self) -> bytes:
        """The text as UTF-8 without a mark, copied only when it is not that already."""
        if self.encoding in ("utf-8", "ascii"):
            return self.data[self.bom :]
        return self.text().encode("utf-8")


def decode(data: bytes, charset: str | None) -> Source:
    """Establish the encoding and prove that every byte decodes.

    Raises `UnsupportedReportError` for a charset nobody knows, `MalformedReportError` for an empty report
    and for bytes that are not text in that charset.
    """
    warnings: list[str] = []
    declared = _lookup(charset) if charset else None
    mark, marked = next(((mark, name) for mark, name in _MARKS if data.startswith(mark)), (b"", None))
    if marked and declared and declared not in (marked, "utf-16", "utf-32"):
        warnings.append(
            f"the byte order mark says {marked}, the content type says {charset}: read as {marked}"
        )
    encoding = marked or declared or "utf-8"
    if encoding in ("utf-16", "utf-32"):
        raise MalformedReportError(
            f"the content type says {charset}, but there is no byte order mark at byte 0; "
            f"say charset={encoding}le or charset={encoding}be",
            field="content_type",
            remedy=f"use charset={encoding}le or charset={encoding}be",
        )
    _check(data, len(mark), encoding)
    return Source(data, encoding, len(mark), tuple(warnings))


def _lookup(charset: str) -> str:
    try:
        info = codecs.lookup(charset)
        known = info.name not in _NOT_CHARSETS
        io.TextIOWrapper(io.BytesIO(), encoding=info.name)  # refuses base64 and other codecs of bytes
    except (LookupError, ValueError):
        known = False
    else:
        if known:
            return "utf-8" if info.name == "utf-8-sig" else info.name
    raise UnsupportedReportError(
        f"charset {charset[:40]!r} is not a known text encoding; save the report as UTF-8, "
        "or name its charset in the content type",
        field="content_type",
        remedy="save the report as UTF-8, or name its charset in the content type",
    )


def _check(data: bytes, start: int, encoding: str) -> None:
    decoder = codecs.getincrementaldecoder(encoding)()
    view = memoryview(data)
    blank = True
    position = start
    while position < len(data) or position == start:
        end = len(data) if encoding in _AT_ONCE else min(position + _CHUNK, len(data))
        pending = len(decoder.getstate()[0])
        try:
            text = decoder.decode(view[position:end], end == len(data))
        except UnicodeDecodeError as error:
            offset = position - pending + error.start
            raise MalformedReportError(
                f"byte {offset} (0x{data[offset]:02x}) is not {encoding}: {error.reason}; save the report as "
                "UTF-8 or name its charset in the content type, for example 'text/csv; charset=windows-1252'",
                field="data",
                remedy="save the report as UTF-8, or name its charset in the content type",
            ) from error
        except UnicodeError as error:
            raise MalformedReportError(
                f"the bytes from {position} on are not {encoding}: {error}; save the report as UTF-8",
                field="data",
                remedy="save the report as UTF-8, or name its charset in the content type",
            ) from error
        if "\0" in text:
            offset = data.find(b"\0", position) if encoding[:3] != "utf" or encoding == "utf-8" else position
            raise MalformedReportError(
                f"NUL character near byte {offset}: binary data, or UTF-16 without a byte order mark; save "
                "the report as UTF-8 or say charset=utf-16le in the content type",
                field="data",
                remedy="save the report as UTF-8, or name its charset in the content type",
            )
        blank = blank and not text.strip()
        position = end
        if end == len(data):
            break
    if blank:
        raise MalformedReportError(
            f"report is empty ({len(data)} bytes, no character but white space); save it with content",
            field="data",
            remedy="save the report with content",
        )
