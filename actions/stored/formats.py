"""Which format an object has: its content type decides, else its extension, else its first bytes.

``text/plain`` and ``application/octet-stream`` only say "text" and "bytes"; a known extension is more precise
and wins over them. Everything else in the content type is believed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from actions.stored.errors import UnsupportedReportError

_CONTENT_TYPES = {
    "csv": "text/csv application/csv text/tab-separated-values",
    "json": "application/json text/json",
    "jsonl": "application/x-ndjson application/ndjson application/jsonl application/x-jsonl"
    " application/jsonlines application/x-jsonlines application/json-lines",
    "parquet": "application/vnd.apache.parquet application/x-parquet application/parquet",
    "markdown": "text/markdown text/x-markdown",
    "text": "text/plain",
}
_EXTENSIONS = {
    "csv": "csv tsv tab",
    "json": "json geojson",
    "jsonl": "jsonl ndjson",
    "parquet": "parquet pq",
    "markdown": "md markdown",
    "text": "txt text log",
}
_BY_TYPE = {name: kind for kind, names in _CONTENT_TYPES.items() for name in names.split()}
_BY_EXTENSION = {name: kind for kind, names in _EXTENSIONS.items() for name in names.split()}
_OTHER_EXTENSIONS = """
    html htm xhtml xml pdf doc docx xls xlsx ods ppt pptx feather arrow avro orc sqlite db npy npz
    pkl zip gz bz2 xz zst tar 7z png jpg jpeg gif webp svg mp3 mp4 wav bin exe
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
    (b"SQLite format 3", "an SQLite database"),
    (b"\x93NUMPY", "a numpy array"),
    (b"\xd0\xcf\x11\xe0", "an old Office document"),
)
_PARQUET = b"PAR1"
_REMEDY = "store it as CSV, TSV, JSON, JSON Lines, Parquet, Markdown or plain text"
_PARAMETER = re.compile(r';\s*([!#$%&\'*+.^_`|~\w-]+)\s*=\s*(?:"([^"]*)"|([^;\s]*))')
_HTML = re.compile(r"\s*<(?:!doctype html|html|head|body)\b", re.IGNORECASE)
_MARKDOWN = re.compile(
    r"^(?:#{1,6} +\S|```|~~~|[-*+] \[[ xX]\] |\|.*\|\s*$)"
    r"|\[[^\]\n]{1,200}+\]\([^)\s]{1,500}+\)"
    r"|^[^\n]+\n(?:={3,}|-{3,})\s*$",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Declared:
    """What content type and name say: a format ("" if they say none), and the parameters."""

    format: str = ""
    delimiter: str = ""
    parameters: dict[str, str] = field(default_factory=dict[str, str])


def declared(content_type: str | None, name: str, head: bytes) -> Declared:
    """
    :param head: the first bytes, at least 16 if there are as many.
    :raises UnsupportedReportError: it is declared to be, or is, something else than a format of ours.
    """
    essence, _, rest = (content_type or "").partition(";")
    essence = essence.strip().lower()
    found = {m[1].lower(): m[3] if m[2] is None else m[2] for m in _PARAMETER.finditer(";" + rest)}
    leaf = name.replace("\\", "/").rpartition("/")[2]
    extension = leaf.rpartition(".")[2].lower() if "." in leaf else ""
    if essence not in _VAGUE:
        kind = _BY_TYPE.get(essence, "json" if essence.endswith("+json") else "")
        if not kind:
            raise _unsupported(f"content type {essence[:100]!r} is none that can be read", "content_type")
    else:
        if extension in _OTHERS:
            raise _unsupported(f"a .{extension} file cannot be read", "name")
        kind = _BY_EXTENSION.get(extension, "") or _BY_TYPE.get(essence, "")
    for signature, what in _SIGNATURES:
        if head.startswith(signature):
            raise _unsupported(f"the bytes from 0 on are {what}", "data")
    if kind in ("", "text") and head.startswith(_PARQUET):
        kind = "parquet"
    if kind not in ("", "parquet") and head.startswith(_PARQUET):
        raise _unsupported(f"the bytes from 0 on are a Parquet file, not {kind}", "data")
    tabs = essence == "text/tab-separated-values" or (essence in _VAGUE and extension in ("tsv", "tab"))
    return Declared(kind, "\t" if tabs else "", found)


def sniffed(head: str, is_table: bool) -> str:
    """The format of text that nothing declares, by its beginning.

    :param is_table: whether a delimiter splits all its first rows alike.
    :raises UnsupportedReportError: it is HTML.
    """
    if _HTML.match(head):
        raise _unsupported("the text begins as an HTML document", "data")
    start = head.lstrip()
    if start[:1] in ("{", "["):
        first, _, rest = start.partition("\n")
        whole = first.rstrip().endswith("}" if start[0] == "{" else "]")
        return "jsonl" if whole and rest.lstrip()[:1] in ("{", "[") else "json"
    if _MARKDOWN.search(head):
        return "markdown"
    return "csv" if is_table else "text"


def _unsupported(problem: str, field: str) -> UnsupportedReportError:
    return UnsupportedReportError(problem, field=field, remedy=_REMEDY)
