"""Running text: words, sentences, paragraphs.

* A word is a run of letters, digits and combining marks of any script, with inner apostrophes and hyphens;
  each Chinese or Japanese character counts as a word, since those scripts put no spaces between words.
* A sentence ends at ``.``, ``!``, ``?`` or ``…`` before white space and no lower-case letter, at ``。！？।``,
  and at the end of a paragraph; not after an initial or a common abbreviation (Mr., Dr., e.g., …).
* The most frequent words leave out 118 English stop-words and words of one letter or digits only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from heapq import nlargest
from itertools import batched, chain
from typing import Any

from actions.report.sketch import ValueCounter

READING_SPEED = 200
"""Words a minute, for ``reading_minutes``."""
TOP_WORDS = 20
LONGEST = 3
SHOWN = 300
_EXACT_WORDS = 100_000
_PIECE = 1 << 16

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
_FULL_STOPS = "\u3002\uff01\uff1f\u0964"
_HAN = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_LETTER = rf"[\w{_MARKS}]"
_WORD = re.compile(rf"{_LETTER}++(?:['\u2019\-]{_LETTER}++)*+")
_WORD_OR_HAN = re.compile(
    rf"[{_HAN}]|(?:(?![{_HAN}]){_LETTER})++(?:['\u2019\-](?:(?![{_HAN}]){_LETTER})++)*+"
)
_HAS_HAN = re.compile(rf"[{_HAN}]")
_END = re.compile(
    r"(?<![.!?…])[.!?…]++[\"'”\u2019»)\]]{0,3}(?=\s)\s*+(?=[^\s])"
    rf"|[{_FULL_STOPS}]++[」』”]?\s*+"
)
_ABBREVIATION = re.compile(
    r"\b(?:[A-Z]|Mrs?|Ms|Drs?|Prof|St|Jr|Sr|vs|cf|etc|approx|resp|Inc|Ltd|Co|No|Nr|Fig|Vol|pp?"
    r"|e\.g|i\.e|z\.B|d\.h)\.$"
)
_BREAK = re.compile(r"\r\n|\r|\n")
_BLANK = re.compile(r"\n[^\S\n]*+(?:\n[^\S\n]*+)++")


class Prose:
    """Accumulates paragraphs. `summary` gives the figures as plain JSON values."""

    def __init__(self) -> None:
        self._words: ValueCounter[str] = ValueCounter(_EXACT_WORDS)
        self._count = 0
        self._sentences = 0
        self._sentence_words = 0
        self._paragraphs = 0
        self._longest: list[tuple[int, int, str]] = []

    def add(self, paragraph: str, line: int) -> None:
        """Add a paragraph that begins on ``line``."""
        self._paragraphs += 1
        at = line
        for sentence in split_sentences(paragraph):
            # Case folding keeps Straße and STRASSE one word.
            found = 0
            for batch in _batches(sentence):
                # Case folding keeps Straße and STRASSE one word.
                self._words.add([word.casefold() for word in batch])
                found += len(batch)
            if found:
                self._count += found
                self._sentences += 1
                first = at + _line_ends(sentence[: len(sentence) - len(sentence.lstrip())])
                self._longest.append((found, first, sentence))
                if len(self._longest) > 64:
                    self._keep_longest()
            at += _line_ends(sentence)

    def summary(self) -> dict[str, Any]:
        distinct, estimated = self._words.distinct()
        self._keep_longest()
        counts = {w: n for w, n in self._words.counts.items() if w not in STOP_WORDS and len(w) > 1 - _han(w)}
        counts = {w: n for w, n in counts.items() if not w.isnumeric()}
        return {
            "words": self._count,
            "unique_words": distinct,
            "unique_words_is_estimate": estimated,
            "paragraphs": self._paragraphs,
            "sentences": self._sentences,
            "average_sentence_words": self._count / self._sentences if self._sentences else None,
            "reading_minutes": self._count / READING_SPEED,
            "top_words": [
                {"word": w[:SHOWN], "count": n}
                for w, n in nlargest(TOP_WORDS, counts.items(), key=lambda item: item[1])
            ],
            "longest_sentences": [{"words": n, "line": at, "text": text} for n, at, text in self._longest],
        }

    def _keep_longest(self) -> None:
        self._longest = [
            (n, at, _shown(text))
            for n, at, text in nlargest(LONGEST, self._longest, key=lambda item: item[0])
        ]


def profile_text(text: str) -> dict[str, Any]:
    """The ``text`` part for plain text. Characters are code points, lines end at LF, CR LF or CR."""
    prose = Prose()
    normal = text.replace("\r\n", "\n").replace("\r", "\n")
    for line, paragraph in paragraphs(normal):
        prose.add(paragraph, line)
    return {"characters": len(text), "lines": count_lines(normal), **prose.summary()}


def paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """Blocks between blank lines, each with the line it begins on."""
    start, line = 0, 1
    for end, resume in chain((m.span() for m in _BLANK.finditer(text)), [(len(text), len(text))]):
        block = text[start:end]
        if block.strip():
            yield line + _leading_lines(block), block.strip()
        line += text.count("\n", start, resume)
        start = resume


def split_sentences(paragraph: str) -> Iterator[str]:
    """Consecutive pieces of ``paragraph`` that together are all of it."""
    start = 0
    for match in _END.finditer(paragraph):
        if match[0][0] in _FULL_STOPS:
            yield paragraph[start : match.end()]
            start = match.end()
            continue
        if paragraph[match.end()].islower():
            continue
        if match[0][0] == "." and _ABBREVIATION.search(
            paragraph[max(start, match.start() - 8) : match.start() + 1]
        ):
            continue
        yield paragraph[start : match.end()]
        start = match.end()
    if start < len(paragraph):
        yield paragraph[start:]


def _batches(text: str) -> Iterator[Sequence[str]]:
    pattern = _WORD_OR_HAN if _HAS_HAN.search(text) else _WORD
    if len(text) <= _PIECE:
        yield pattern.findall(text)
    else:
        yield from batched((match[0] for match in pattern.finditer(text)), _PIECE, strict=False)


def count_lines(text: str) -> int:
    """Lines of text whose line ends are LF; a last line without one counts."""
    return text.count("\n") + (not text.endswith("\n"))


def _leading_lines(block: str) -> int:
    return block[: len(block) - len(block.lstrip())].count("\n")


def _line_ends(text: str) -> int:
    return len(_BREAK.findall(text))


def _han(word: str) -> bool:
    return bool(_HAS_HAN.match(word))


def _shown(text: str) -> str:
    flat = " ".join(text[: 4 * SHOWN].split())
    return flat if len(flat) <= SHOWN else flat[:SHOWN] + "…"
