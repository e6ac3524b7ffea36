"""Markdown (CommonMark with GitHub's tables and task lists): outline, links, code, and the prose between.

Line by line, so that it is linear; blocks inside other blocks are taken for what their own lines look like.
Prose is paragraphs, quotes and list items without their markup; headings, tables, code, HTML comments and
front matter are not prose. Nothing inside code is a heading, a link or a task.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from actions.report.prose import Prose, count_lines

LISTED = 100
"""How many headings, links, images and code blocks are listed each; all are counted."""
SHOWN = 200

# Repetitions are possessive or bounded: none gives back what the rest of the pattern would try again.
_FENCE = re.compile(r"([ \t]*+)(?:(?:[-*+]|\d{1,9}[.)])[ \t]++)?(`{3,}+|~{3,}+)[ \t]*+([^\s`{]*+)[^`]*+$")
_HEADING = re.compile(r" {0,3}(#{1,6}+)(?=[ \t]|$)")
_UNDERLINE = re.compile(r" {0,3}(=++|-++)[ \t]*+$")
_RULE = re.compile(r" {0,3}(?:(?:-[ \t]*+){3,}+|(?:\*[ \t]*+){3,}+|(?:_[ \t]*+){3,}+)$")
_TABLE_RULE = re.compile(r"[ \t]*+(?:\|[ \t]*+)?+:?-++:?[ \t]*+(?:\|[ \t]*+:?-++:?[ \t]*+)*+(?:\|[ \t]*+)?+$")
_ITEM = re.compile(r"\s*+(?:[-*+]|\d{1,9}[.)])(?:[ \t]++|$)(?:\[([ xX])\](?=\s|$))?")
_QUOTE = re.compile(r" {0,3}(?:>[ \t]?)+")
_DEFINITION = re.compile(r" {0,3}\[([^\]\[]{1,999}+)\]:[ \t]*+<?(\S{1,2000}?)>?(?:[ \t].*)?$")
_BACKTICKS = re.compile(r"`+")
_TARGET = r"\([ \t]*+<?((?:[^\s()<>]|\([^\s()]{0,500}+\)){0,2000}+)>?(?:[ \t]++[^()]{0,1000}+)?\)"
_IMAGE = re.compile(r"!\[([^\[\]]{0,1000}+)\](?:" + _TARGET + r"|\[([^\[\]]{0,500})\])")
_LINK = re.compile(r"\[([^\[\]]{0,1000}+)\](?:" + _TARGET + r"|\[([^\[\]]{0,500})\])")
_AUTOLINK = re.compile(
    r"<((?:https?|mailto|ftp):[^\s<>]{1,2000}+)>|(?<![\w/(<\"'=])(https?://[^\s<>\"')\]]{1,2000})"
)
_TAG = re.compile(r"</?[A-Za-z][^<>]{0,2000}+>")
_EMPHASIS = re.compile(r"\*{1,3}|~~|(?<!\w)_{1,3}|_{1,3}(?!\w)")


class _Document:
    def __init__(self) -> None:
        self.prose = Prose()
        self.counts: Counter[str] = Counter()
        self.headings: list[dict[str, Any]] = []
        self.links: list[dict[str, Any]] = []
        self.images: list[dict[str, Any]] = []
        self.code: list[dict[str, Any]] = []
        self.languages: Counter[str] = Counter()
        self.definitions: dict[str, str] = {}
        self.in_list = False
        self._paragraph: list[str] = []
        self._start = 0

    def heading(self, level: int, text: str, line: int) -> None:
        self.flush()
        self.counts["headings"] += 1
        if len(self.headings) < LISTED:
            self.headings.append({"level": level, "text": self.inline(text, line)[:SHOWN], "line": line})
        else:
            self.inline(text, line)

    def text(self, text: str, line: int) -> None:
        if not self._paragraph:
            self._start = line
        self._paragraph.append(text)

    def take_last(self) -> str | None:
        """The last line of an open paragraph, which turned out to be a heading."""
        return self._paragraph.pop() if self._paragraph else None

    @property
    def open(self) -> bool:
        return bool(self._paragraph)

    def flush(self) -> None:
        if self._paragraph:
            lines = [self.inline(text, self._start + i) for i, text in enumerate(self._paragraph)]
            self._paragraph = []
            if any(line.strip() for line in lines):
                self.prose.add("\n".join(lines), self._start)

    def fenced(self, language: str, first: int, last: int) -> None:
        self.counts["code_blocks"] += 1
        self.languages[language] += 1
        if len(self.code) < LISTED:
            self.code.append({"language": language or None, "line": first, "lines": last - first - 1})

    def inline(self, text: str, line: int) -> str:
        """Count links and images in a line, and return it as a reader sees it."""
        text = _without_code(text)

        def image(match: re.Match[str]) -> str:
            self._reference("images", self.images, match, line)
            return match[1]

        def link(match: re.Match[str]) -> str:
            self._reference("links", self.links, match, line)
            return match[1]

        def bare(match: re.Match[str]) -> str:
            self._note(
                "links", self.links, {"text": "", "url": match[1] or match[2].rstrip(".,;:!?"), "line": line}
            )
            return ""

        # Images first: they may stand inside a link.
        text = _AUTOLINK.sub(bare, _LINK.sub(link, _IMAGE.sub(image, text)))
        return _EMPHASIS.sub("", _TAG.sub("", text))

    def _reference(self, kind: str, items: list[dict[str, Any]], match: re.Match[str], line: int) -> None:
        item: dict[str, Any] = {"text": match[1][:SHOWN], "url": match[2], "line": line}
        if match[2] is None:
            item["reference"] = (match[3] or match[1])[:SHOWN]
        self._note(kind, items, item)

    def _note(self, kind: str, items: list[dict[str, Any]], item: dict[str, Any]) -> None:
        self.counts[kind] += 1
        if len(items) < LISTED:
            items.append(item)


def profile_markdown(text: str) -> dict[str, Any]:
    """The ``text`` part for Markdown: that of plain text over the prose, and ``markdown`` for the rest."""
    document = _Document()
    normal = text.replace("\r\n", "\n").replace("\r", "\n")
    lines = normal.split("\n")
    index = _front_matter(lines)
    if index:
        document.counts["front_matter_lines"] = index
    while index < len(lines):
        index = _block(document, lines, index)
    document.flush()
    for item in document.links + document.images:
        if item["url"] is None:
            item["url"] = document.definitions.get(item["reference"].casefold())
    counts = document.counts
    return {
        "characters": len(text),
        "lines": count_lines(normal),
        **document.prose.summary(),
        "markdown": {
            "headings": {"count": counts["headings"], "outline": document.headings},
            "links": {"count": counts["links"], "items": document.links},
            "images": {"count": counts["images"], "items": document.images},
            "code_blocks": {
                "count": counts["code_blocks"],
                "languages": {k: n for k, n in document.languages.most_common(20) if k},
                "items": document.code,
            },
            "tables": {"count": counts["tables"], "rows": counts["table_rows"]},
            "list_items": counts["list_items"],
            "tasks": {"open": counts["tasks_open"], "done": counts["tasks_done"]},
            "quote_lines": counts["quote_lines"],
            "front_matter_lines": counts["front_matter_lines"],
        },
    }


def _block(document: _Document, lines: list[str], index: int) -> int:
    """Take the block or line at ``index``; returns where the next begins."""
    line = lines[index]
    number = index + 1
    if not line.strip():
        document.flush()
        return index + 1
    item = _ITEM.match(line)
    if not item and not document.open and not line[0].isspace():
        document.in_list = False
    # Within a list, indentation only says to which item a line belongs.
    if (fence := _FENCE.match(line)) and (document.in_list or len(fence[1]) < 4):
        document.flush()
        if item:
            _count_item(document, item)
        end = _fence_end(lines, index, fence[2])
        document.fenced(fence[3][:SHOWN], number, end + 1)
        return end + 1
    if not document.open and not document.in_list and _indented(line):
        end = index
        while end < len(lines) and (_indented(lines[end]) or not lines[end].strip()):
            end += 1
        document.counts["code_blocks"] += 1
        document.languages[""] += 1
        return end
    if line.lstrip().startswith("<!--"):
        document.flush()
        while index < len(lines) and "-->" not in lines[index]:
            index += 1
        return index + 1
    if quote := _QUOTE.match(line):
        document.counts["quote_lines"] += 1
        document.text(line[quote.end() :], number)
        return index + 1
    if heading := _HEADING.match(line.lstrip() if document.in_list else line):
        document.heading(len(heading[1]), _title(heading.string[heading.end() :]), number)
        return index + 1
    underline = None if document.in_list else _UNDERLINE.match(line)
    if underline and (title := document.take_last()) is not None:
        document.heading(1 if underline[1][0] == "=" else 2, title, number - 1)
        return index + 1
    if _RULE.match(line):
        document.flush()
        return index + 1
    if (
        "|" in line
        and index + 1 < len(lines)
        and "|" in lines[index + 1]
        and _TABLE_RULE.match(lines[index + 1])
    ):
        return _table(document, lines, index)
    if definition := _DEFINITION.match(line):
        document.definitions.setdefault(definition[1].casefold(), definition[2])
        return index + 1
    if item:
        document.flush()
        _count_item(document, item)
        line = line[item.end() :]
    document.text(line.strip(), number)
    return index + 1


def _title(text: str) -> str:
    """The text of a heading without the signs that may close it (``## Title ##``)."""
    text = text.strip(" \t")
    opened = text.rstrip("#")
    return opened.rstrip(" \t") if not opened or opened[-1] in " \t" else text


def _count_item(document: _Document, item: re.Match[str]) -> None:
    document.in_list = True
    document.counts["list_items"] += 1
    if item[1]:
        document.counts["tasks_open" if item[1] == " " else "tasks_done"] += 1


def _table(document: _Document, lines: list[str], index: int) -> int:
    document.flush()
    document.counts["tables"] += 1
    document.inline(lines[index], index + 1)
    index += 2
    while index < len(lines) and "|" in lines[index] and lines[index].strip():
        document.counts["table_rows"] += 1
        document.inline(lines[index], index + 1)
        index += 1
    return index


def _fence_end(lines: list[str], index: int, fence: str) -> int:
    """The line of the closing fence, or one behind the last line if it is never closed."""
    for end in range(index + 1, len(lines)):
        stripped = lines[end].strip()
        if len(stripped) >= len(fence) and not stripped.strip(fence[0]):
            return end
    return len(lines)


def _indented(line: str) -> bool:
    return line.startswith(("    ", "\t")) and bool(line.strip())


def _front_matter(lines: list[str]) -> int:
    if lines[0].rstrip() != "---":
        return 0
    for index in range(1, len(lines)):
        if lines[index].rstrip() in ("---", "..."):
            # A rule, text and another rule are not front matter: YAML has a key in its first line.
            return index + 1 if ":" in lines[1] else 0
    return 0


def _without_code(text: str) -> str:
    """Inline code blanked out: its words are not prose, its brackets no links."""
    if "`" not in text:
        return text
    runs = [(m.start(), m.end()) for m in _BACKTICKS.finditer(text)]
    later: dict[int, list[int]] = {}
    for i in reversed(range(len(runs))):
        later.setdefault(runs[i][1] - runs[i][0], []).append(i)
    pieces: list[str] = []
    position = i = 0
    while i < len(runs):
        start, end = runs[i]
        same = later[end - start]
        while same and same[-1] <= i:
            same.pop()
        if same:
            close = same[-1]
            pieces.append(text[position:start])
            position, i = runs[close][1], close
        i += 1
    pieces.append(text[position:])
    return "".join(pieces)
