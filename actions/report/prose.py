"""Running text: words, sentences, paragraphs.

* A word is a run of letters, digits and combining marks of any script, with inner apostrophes and hyphens;
  each Chinese or Japanese character counts as a word, since those scripts put no spaces between words.
* A sentence ends at ``.``, ``!``, ``?`` or ``…`` before white space and no lower-case letter, at ``。！？।``,
  and at the end of a paragraph; not after an initial or a common abbreviation (Mr., Dr., e.g., …).
* The most frequent words leave out English stop-words and words of one letter or of digits only.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from heapq import heappush, heappushpop
from pathlib import Path
from typing import Any

READING_SPEED = 200
"""Words a minute, for ``reading_minutes``."""
TOP_WORDS = 20
LONGEST = 3
SHOWN = 300

_STOP_WORDS = """
    a about above after again all also am an and any are as at be because been before being below
    between both but by can could did do does doing down during each few for from further had has
    have having he her here hers him his how i if in into is it its just me more most my no nor not
    now of off on once only or other our ours out over own same she should so some such than that
    the their theirs them then there these they this those through to too under until up very was we
    were what when where which while who whom why will with would you your yours
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())
# Marks that belong to a word although \w does not cover them, for the scripts that need them to be read.
_MARKS = (
    "\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed"
    "\u0900-\u0963\u0966-\u0dff\u0e31\u0e34-\u0e3a\u0e47-\u0e4e"
)
_HAN = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_LETTER = rf"(?:(?![{_HAN}])[\w{_MARKS}])"
_WORD = re.compile(rf"[{_HAN}]|{_LETTER}++(?:['\u2019\-]{_LETTER}++)*+")
_FULL_STOPS = "\u3002\uff01\uff1f\u0964"
_END = re.compile(
    r"(?<![.!?…])[.!?…]++[\"'”\u2019»)\]]{0,3}(?=\s)\s*+(?=[^\s])" + rf"|[{_FULL_STOPS}]++[」』”]?\s*+"
)
_ABBREVIATION = re.compile(
    r"\b(?:[A-Z]|Mrs?|Ms|Drs?|Prof|St|Jr|Sr|vs|cf|etc|approx|resp|Inc|Ltd|Co|No|Nr|Fig|Vol|pp?"
    r"|e\.g|i\.e|z\.B|d\.h)\.$"
)


class Prose:
    """Accumulates paragraphs; `summary` gives the figures as plain JSON values."""

    def __init__(self) -> None:
        self._words: Counter[str] = Counter()
        self._paragraphs = self._sentences = 0
        self._longest: list[tuple[int, int, str]] = []

    def add(self, paragraph: str, line: int) -> None:
        """Add a paragraph that begins on ``line``."""
        self._paragraphs += 1
        for sentence in _sentences(paragraph):
            count = 0
            for match in _WORD.finditer(sentence):
                # Case folding keeps Straße and STRASSE one word.
                self._words[match[0].casefold()] += 1
                count += 1
            if count:
                self._sentences += 1
                first = line + sentence[: len(sentence) - len(sentence.lstrip())].count("\n")
                entry = (count, -first, " ".join(sentence[: 4 * SHOWN].split()))
                (heappush if len(self._longest) < LONGEST else heappushpop)(self._longest, entry)
            line += sentence.count("\n")

    def summary(self) -> dict[str, Any]:
        words = self._words.total()
        common = (
            (word, n)
            for word, n in self._words.most_common()
            if word not in STOP_WORDS and not word.isnumeric() and (len(word) > 1 or word >= "\u3040")
        )
        return {
            "words": words,
            "unique_words": len(self._words),
            "paragraphs": self._paragraphs,
            "sentences": self._sentences,
            "average_sentence_words": words / self._sentences if self._sentences else None,
            "reading_minutes": words / READING_SPEED,
            "top_words": [
                {"word": w[:SHOWN], "count": n} for (w, n), _ in zip(common, range(TOP_WORDS), strict=False)
            ],
            "longest_sentences": [
                {"words": n, "line": -line, "text": text if len(text) <= SHOWN else text[:SHOWN] + "…"}
                for n, line, text in sorted(self._longest, reverse=True)
            ],
        }


def summary(source: Path) -> dict[str, Any]:
    """The ``text`` part for plain text. Characters are code points, lines end at LF, CR LF or CR."""
    prose = Prose()
    paragraph: list[str] = []
    characters = lines = start = 0
    with source.open(encoding="utf-8", newline="") as file:
        characters = sum(map(len, iter(lambda: file.read(1 << 16), "")))
    with source.open(encoding="utf-8") as file:
        for lines, line in enumerate(file, start=1):
            if line.strip():
                start = start if paragraph else lines
                paragraph.append(line)
            elif paragraph:
                prose.add("".join(paragraph).strip(), start)
                paragraph = []
    if paragraph:
        prose.add("".join(paragraph).strip(), start)
    return {"characters": characters, "lines": lines, **prose.summary()}


def _sentences(paragraph: str) -> Iterator[str]:
    """Consecutive pieces of ``paragraph`` that together are all of it."""
    start = 0
    for match in _END.finditer(paragraph):
        if match[0][0] not in _FULL_STOPS:
            before = paragraph[max(start, match.start() - 8) : match.start() + 1]
            if paragraph[match.end()].islower() or (match[0][0] == "." and _ABBREVIATION.search(before)):
                continue
        yield paragraph[start : match.end()]
        start = match.end()
    if start < len(paragraph):
        yield paragraph[start:]
