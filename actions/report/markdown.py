"""Markdown (CommonMark with GitHub's tables and task lists): outline, links, code, and the prose between.

Prose is paragraphs, quotes and list items without their markup; headings, tables, code, HTML and front matter
are not prose. Nothing inside code is a heading, a link or a task.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actions.report.prose import Prose
from storage_lib.errors import ObjectTooLargeError

if TYPE_CHECKING:
    from markdown_it.token import Token

MAX_BYTES = 2 * 1024 * 1024
"""The parser needs some hundred times as much memory."""
LISTED = 100
"""How many headings, links, images and code blocks are listed each; all are counted."""
SHOWN = 200
_FRONT_MATTER = re.compile(r"---[ \t]*\n(?:.*\n)*?(?:---|\.\.\.)[ \t]*(?:\n|\Z)")
_ADDRESS = re.compile(r"https?://[^\s<>\"')\]]{1,2000}")
_TASK = re.compile(r"\[([ xX])\]\s")


def summary(source: Path) -> dict[str, Any]:
    """The ``text`` part for Markdown.

    :raises ObjectTooLargeError: it is larger than 2 MiB.
    """
    from markdown_it import MarkdownIt

    size = source.stat().st_size
    if size > MAX_BYTES:
        raise ObjectTooLargeError(
            f"the Markdown is {size} bytes",
            field="report",
            limit=f"{MAX_BYTES} bytes",
            remedy="split it, or store it as text/plain",
        )
    text = source.read_text("utf-8")
    with source.open(encoding="utf-8", newline="") as file:
        characters = len(file.read())
    front = _FRONT_MATTER.match(text)
    skipped = front[0].count("\n") if front else 0
    found = _Document(skipped)
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    found.read(parser.parse(text[front.end() :] if front else text))
    lines = text.count("\n") + (not text.endswith("\n"))
    return {"characters": characters, "lines": lines, **found.prose.summary(), "markdown": found.summary()}


class _Document:
    def __init__(self, skipped: int) -> None:
        self.prose = Prose()
        self._skipped = skipped
        self._counts: Counter[str] = Counter()
        self._languages: Counter[str] = Counter()
        self._items: dict[str, list[dict[str, Any]]] = {
            "headings": [],
            "links": [],
            "images": [],
            "code_blocks": [],
        }

    def read(self, tokens: list[Token]) -> None:
        quotes = 0
        container = ""
        for token in tokens:
            line = (token.map[0] if token.map else 0) + 1 + self._skipped
            match token.type:
                case "blockquote_open":
                    if not quotes and token.map:
                        self._counts["quote_lines"] += token.map[1] - token.map[0]
                    quotes += 1
                case "blockquote_close":
                    quotes -= 1
                case "list_item_open" | "table_open" | "tr_open":
                    self._counts[token.type] += 1
                case "fence" | "code_block":
                    language = token.info.split()[0][:SHOWN] if token.info.strip() else ""
                    if language:
                        self._languages[language] += 1
                    self._note("code_blocks", language=language, lines=token.content.count("\n"), line=line)
                case "inline":
                    text = self._inline(token, line)
                    if container == "heading_open":
                        self._note("headings", level=self._level, text=text[:SHOWN], line=line)
                    elif container not in ("th_open", "td_open") and text.strip():
                        if task := _TASK.match(text):
                            self._counts["open" if task[1] == " " else "done"] += 1
                            text = text[task.end() :]
                        self.prose.add(text.strip(), line)
                case _:
                    pass
            if token.nesting == 1:
                container = token.type
                self._level = int(token.tag[1]) if container == "heading_open" else 0

    def summary(self) -> dict[str, Any]:
        count = self._counts
        return {
            "headings": {"count": count["headings"], "outline": self._items["headings"]},
            "links": {"count": count["links"], "items": self._items["links"]},
            "images": {"count": count["images"], "items": self._items["images"]},
            "code_blocks": {
                "count": count["code_blocks"],
                "languages": dict(self._languages.most_common(LISTED)),
                "items": self._items["code_blocks"],
            },
            "tables": {"count": count["table_open"], "rows": count["tr_open"] - count["table_open"]},
            "list_items": count["list_item_open"],
            "tasks": {"open": count["open"], "done": count["done"]},
            "quote_lines": count["quote_lines"],
            "front_matter_lines": self._skipped,
        }

    def _inline(self, token: Token, line: int) -> str:
        """The text of a block without its markup; notes the links and images in it."""
        text: list[str] = []
        link: tuple[str, int, int] | None = None
        for child in token.children or []:
            match child.type:
                case "text" | "code_inline":
                    if child.type == "text" and link is None:
                        for match in _ADDRESS.finditer(child.content):
                            url = match[0].rstrip(".,;:!?")
                            self._note("links", text=url[:SHOWN], url=url[:2000], line=line)
                    text.append(child.content)
                case "softbreak" | "hardbreak":
                    text.append("\n")
                    line += 1
                case "link_open":
                    link = str(child.attrs.get("href", "")), len(text), line
                case "link_close" if link is not None:
                    url, start, at = link
                    self._note("links", text="".join(text[start:])[:SHOWN], url=url[:2000], line=at)
                    link = None
                case "image":
                    url = str(child.attrs.get("src", ""))
                    self._note("images", text=child.content[:SHOWN], url=url[:2000], line=line)
                case _:
                    pass
        return "".join(text)

    def _note(self, what: str, **item: Any) -> None:
        self._counts[what] += 1
        if len(self._items[what]) < LISTED:
            self._items[what].append(item)
