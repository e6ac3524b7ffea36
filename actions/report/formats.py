"""Which format a report is in: content type, else extension, else its first characters.

``text/plain`` and ``application/octet-stream`` only say "text" and "bytes"; a known extension is more precise
and wins over them. Everything else in the content type is believed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import msgspec

from actions.report.dialect import sniff
from actions.report.encoding import Source
from actions.report.errors import UnsupportedReportError

Format = Literal["csv", "json", "jsonl", "markdown", "text"]

_CONTENT_TYPES: dict[str, tuple[Format, str | None]] = {
    "text/csv": ("csv", None),
    "application/csv": ("csv", None),
    "text/tab-separated-values": ("csv", "\t"),
    "application/json": ("json", None),
    "text/json": ("json", None),
    "application/x-ndjson": ("jsonl", None),
    "application/ndjson": ("jsonl", None),
    "application/jsonl": ("jsonl", None),
    "application/x-jsonl": ("jsonl", None),
    "application/jsonlines": ("jsonl", None),
    "application/x-jsonlines": ("jsonl", None),
    "application/json-lines": ("jsonl", None),
    "text/markdown": ("markdown", None),
    "text/x-markdown": ("markdown", None),
    "text/plain": ("text", None),
}
_EXTENSIONS: dict[str, tuple[Format, str | None]] = {
    "csv": ("csv", None),
    "tsv": ("csv", "\t"),
    "tab": ("csv", "\t"),
    "json": ("json", None),
    "geojson": ("json", None),
    "jsonl": ("jsonl", None),
    "ndjson": ("jsonl", None),
    "md": ("markdown", None),
    "markdown": ("markdown", None),
    "txt": ("text", None),
    "text": ("text", None),
    "log": ("text", None),
}
_OTHER_EXTENSIONS = """
    html htm xhtml xml pdf doc docx xls xlsx ods ppt pptx parquet feather arrow avro orc sqlite db npy npz pkl
    zip gz bz2 xz zst tar 7z png jpg jpeg gif webp svg mp3 mp4 wav bin exe
"""
_OTHERS = frozenset(_OTHER_EXTENSIONS.split())
_VAGUE = frozenset({"", "text/plain", "application/octet-stream", "binary/octet-stream"})
_SIGNATURES = (
    (b"PK\x03\x04", "a ZIP archive (also .xlsx and .docx)"),
    (b"%PDF-", "a PDF document"),
    (b"\x89PNG\r\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"\x1f\x8b", "gzip-compressed"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed"),
    (b"PAR1", "a Parquet file"),
    (b"SQLite format 3", "an SQLite database"),
    (b"\x93NUMPY", "a numpy array"),
    (b"\xd0\xcf\x11\xe0", "an old Office document"),
)
_REMEDY = "store it as CSV, TSV, JSON, JSON Lines, Markdown or plain text"
_PARAMETER = re.compile(r';\s*([!#$%&\'*+.^_`|~\w-]+)\s*=\s*(?:"([^"]*)"|([^;\s]*))')
_HTML = re.compile(r"\s*<(?:!doctype html|html|head|body)\b", re.IGNORECASE)
_MARKDOWN = re.compile(
    r"^(?:#{1,6} +\S|```|~~~|[-*+] \[[ xX]\] |\|.*\|\s*$)"
    r"|\[[^\]\n]{1,200}+\]\([^)\s]{1,500}+\)"
    r"|^[^\n]+\n(?:={3,}|-{3,})\s*$",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class ContentType:
    essence: str
    parameters: dict[str, str]


def parse_content_type(value: str | None) -> ContentType:
    essence, _, rest = (value or "").partition(";")
    found = {m[1].lower(): (m[2] if m[2] is not None else m[3]) for m in _PARAMETER.finditer(";" + rest)}
    return ContentType(essence.strip().lower(), found)


def declared_format(content_type: ContentType, name: str) -> tuple[Format, str | None] | None:
    """The format (and the delimiter it implies) that content type or name declare, or None if neither does.

    Raises `UnsupportedReportError` when they declare something that is no report.
    """
    essence = content_type.essence
    leaf = name.replace("\\", "/").rpartition("/")[2]
    extension = leaf.rpartition(".")[2].lower() if "." in leaf else ""
    if essence not in _VAGUE:
        if essence in _CONTENT_TYPES:
            return _CONTENT_TYPES[essence]
        if essence.endswith("+json"):
            return "json", None
        raise _unsupported(f"content type {essence[:100]!r} is not one of a report", "content_type")
    if extension in _EXTENSIONS:
        return _EXTENSIONS[extension]
    if extension in _OTHERS:
        raise _unsupported(f"a .{extension} file can not be profiled", "name")
    return _CONTENT_TYPES.get(essence)


def refuse_binary(data: bytes) -> None:
    """Name well-known binary formats, whatever they are declared as; other bytes are left to `decode`."""
    for signature, what in _SIGNATURES:
        if data.startswith(signature):
            raise _unsupported(f"the bytes from 0 on are {what}, not text", "data")


def sniff_format(source: Source) -> tuple[Format, str | None]:
    """The format of text that nothing declares."""
    with source.open() as stream:
        head = stream.read(1 << 16)
    if _HTML.match(head):
        raise _unsupported("the text begins as an HTML document", "data")
    start = head.lstrip()
    if start[:1] in ("{", "["):
        return ("jsonl", None) if _is_json_lines(start) else ("json", None)
    _, rows, share = sniff(source)
    if len(rows) > 1 and share == 1.0 and not _MARKDOWN.search(head):
        return "csv", None
    return ("markdown", None) if _MARKDOWN.search(head) else ("text", None)


def _is_json_lines(start: str) -> bool:
    first, _, rest = start.partition("\n")
    if not rest.strip():
        return False
    try:
        msgspec.json.decode(first)
    except (ValueError, RecursionError):
        return False
    return True


def _unsupported(problem: str, field: str) -> UnsupportedReportError:
    return UnsupportedReportError(f"{problem}; {_REMEDY}", field=field, remedy=_REMEDY)
