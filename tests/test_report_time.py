"""A report costs time in proportion to its length, whatever it is made of."""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections.abc import Callable

import pytest

from actions.report import profile
from storage_lib.errors import StorageError

START = 1 << 14
LARGEST = 1 << 19
ENOUGH_SECONDS = 0.05
"""Shorter measurements are mostly noise: the report is made longer first."""
MOST_RATIO = 2.7
"""Of the times of a report and of one twice as long."""
MOST_SECONDS_A_MEGABYTE = 15.0

Maker = Callable[[int], str]


def repeated(piece: str, before: str = "", after: str = "") -> Maker:
    return lambda size: before + piece * (size // len(piece)) + after


def numbered(template: str, before: str = "", after: str = "") -> Maker:
    def make(size: int) -> str:
        pieces: list[str] = []
        length = n = 0
        while length < size:
            pieces.append(template.replace("%", str(n)))
            length += len(pieces[-1])
            n += 1
        return before + "".join(pieces) + after

    return make


def nested(opening: str, closing: str, inner: Maker, depth: int = 300) -> Maker:
    return lambda size: opening * depth + inner(size) + closing * depth


def colliding_integers(template: str, before: str = "", after: str = "") -> Maker:
    """Integers that Python gives the same hash."""

    def make(size: int) -> str:
        count = size // 24
        return (
            before
            + "".join(template.replace("%", str(n * (2**61 - 1) << 12)) for n in range(1, count))
            + after
        )

    return make


def two(first: Maker, second: Maker) -> Maker:
    return lambda size: first(size // 2) + second(size // 2)


MARKDOWN: dict[str, Maker] = {
    "heading, spaces, letter": repeated(" ", "# a", "b"),
    "heading, signs": repeated(" #", "# a", "b"),
    "heading, tabs": repeated("\t", "# a", "b"),
    "heading of signs": repeated("#", "# a ", " b"),
    "fence, letters": repeated("a", "```", "`"),
    "fence, spaces": repeated(" ", "```", "`"),
    "fence of tildes": repeated("~", "", "`"),
    "fence of backticks": repeated("`", "", "a`"),
    "fences never closed": numbered("~~~%\n"),
    "fences of growing length": lambda size: "\n".join("`" * (n % 300 + 3) for n in range(size // 150)),
    "table rule, spaces first": repeated(" ", "a|b\n", "x|"),
    "table rule, spaces last": repeated(" ", "a|b\n|-", "x"),
    "table rule, dashes": repeated("-", "a|b\n|", "x"),
    "table rule, columns": repeated("|-", "a|b\n", "x"),
    "table rows": repeated("|a\n", "a|b\n-|-\n"),
    "rule, dashes": repeated("- ", "", "x"),
    "rule, spaces": repeated(" ", "- - -", "x"),
    "underline, spaces": repeated(" ", "a\n===", "x"),
    "definition, spaces": repeated(" ", "[a]:", ""),
    "definition, letters": repeated("a", "[a]:", " "),
    "definitions": numbered("[%]: http://a/%\n"),
    "items, spaces": repeated(" ", "- ", "[x]"),
    "quotes": repeated("> ", "", "a"),
    "brackets": repeated("["),
    "brackets, closed": repeated("[]"),
    "images": repeated("!["),
    "targets": repeated("[]("),
    "target, spaces": repeated(" ", "[](", "x"),
    "target, title": repeated(" ", "[](a", "("),
    "targets, spaces": repeated("[](   "),
    "targets, parentheses": repeated("[](a(b)"),
    "target, parentheses": repeated("(a)", "[](", " "),
    "angle brackets": repeated("<a"),
    "angle brackets, long": repeated("<a" + "b" * 1990),
    "addresses": repeated("<http:"),
    "addresses, bare": repeated("http://a"),
    "emphasis": repeated("*a **b "),
    "emphasis, opening": repeated("*"),
    "emphasis, underscores": repeated("_"),
    "emphasis, words": repeated("a_"),
    "strikethrough": repeated("~~a "),
    "code spans": lambda size: " ".join("`" * (n % 500 + 1) for n in range(size // 250)),
    "code spans, single": repeated("`a "),
    "comment, open": repeated("a\n", "<!--\n"),
    "comments": repeated("<!-- -->\n"),
    "front matter, open": repeated("a: b\n", "---\n"),
    "headings": repeated("# a\n"),
    "underlined": repeated("a\n=\n"),
    "one paragraph": repeated("a\n"),
    "blank lines": repeated("\n", "a", "b"),
    "lines of spaces": repeated("   \n", "a", "b"),
}
TEXT: dict[str, Maker] = {
    "dots": repeated(".", "", "a"),
    "dots and quotes": repeated('."', "", "a"),
    "full stops": repeated("。", "", "a"),
    "ellipses": repeated("…", "", "a"),
    "mixed stops": repeated(".!?", "", "a"),
    "stop, spaces": repeated(" ", "a.", "b"),
    "stop, then line ends": repeated("\n", "a.", "b"),
    "stops, spaces": repeated(". "),
    "abbreviations": repeated("e.g. "),
    "initials": repeated("A. "),
    "short sentences": repeated("A b. "),
    "apostrophes": repeated("a'"),
    "hyphens": repeated("-"),
    "one word": repeated("a"),
    "words": numbered("w% "),
    "Han": repeated("漢"),
    "Han and letters": repeated("漢a"),
    "marks": repeated("e\u0301"),
    "carriage returns": repeated("\r"),
    "line ends": repeated("a\r\n\r"),
    "spaces": repeated(" ", "a", "b"),
    "spaces and line ends": repeated(" \n", "a", "b"),
    "no-break spaces": repeated("\u00a0\n", "a", "b"),
}
CSV: dict[str, Maker] = {
    "commas": repeated(","),
    "commas, two lines": two(repeated(",", "", "\n"), repeated(",")),
    "semicolons and pipes": repeated(";|"),
    "names that repeat": repeated("a,", "", "a\n1,2\n"),
    "names that collide": lambda size: (
        ",".join(f"a_{n}" if n % 2 else "a" for n in range(size // 6)) + "\n1,2\n"
    ),
    "wide header, narrow rows": two(repeated("a,", "", "b\n"), repeated("1\n")),
    "a thousand columns, narrow rows": repeated("1\n", ",".join(f"c{n}" for n in range(1000)) + "\n"),
    "a thousand columns, few cells": repeated("1,2,3\n", ",".join(f"c{n}" for n in range(1000)) + "\n"),
    "rows of growing length": lambda size: "\n".join("," * (n % 700) for n in range(size // 350)),
    "a preamble": repeated("a\n", "", "a,b\n1,2\n"),
    "quotes": repeated('"'),
    "quotes, closed": repeated('""', '"', '"'),
    "quotes, cells": repeated('"a",'),
    "quotes, open": repeated("a,b\n", '"'),
    "quotes, out of place": repeated('a"b,c\n'),
    "blank lines": repeated("\n", "a,b\n1,2\n"),
    "zeros": repeated("0", "a,b\n1,", "x"),
    "dots": repeated("0.", "a,b\n1,", "x"),
    "phone number": repeated("1", "a,b\n1,+", "x"),
    "digits": repeated("1", "a,b\n1,", "x"),
    "exponents": repeated("1e5", "a,b\n1,"),
    "long cells": repeated("1" * 50_000 + "\n", "a\n"),
    "numbers": numbered("%,%.5\n", "a,b\n"),
    "numbers with holes": repeated("1,,3,\n,2,3,\n", "a,b,c,d\n"),
    "many numeric columns with holes": repeated(
        ("1,2,," * 25) + "\n" + (",,3,4" * 25) + "\n", ",".join(f"c{n}" for n in range(100)) + "\n"
    ),
    "numbers that share a hash": colliding_integers("%\n", "a\n"),
    "decimals that share a hash": colliding_integers("%.0\n", "a\n"),
    "dates": repeated("2024-01-01,01.02.2024,Feb 29 2024\n", "a,b,c\n"),
    "times": numbered("2024-01-01 10:%\n", "a\n"),
    "nearly dates": repeated("1-Febfebfebf-2024\n", "a\n"),
    "booleans": repeated("yes\nno\n", "a\n"),
    "codes": numbered("00%\n", "a\n"),
    "mixed": numbered("%\nx%\n2024-01-01\n", "a\n"),
    "padded": repeated(" " * 500 + "1\n", "a\n"),
    "one long line": numbered("c%,"),
    "carriage returns": repeated("1,2\r", "a,b\r"),
    "separator line": repeated("1;2\n", "sep=;\n"),
}
JSON: dict[str, Maker] = {
    "records, all keys differ": numbered('{"k%":1},', "[", "{}]"),
    "records, a thousand keys in turn": lambda size: (
        "[" + ",".join(f'{{"k{n % 1000}":{n}}}' for n in range(size // 12)) + "]"
    ),
    "records, a hundred numeric keys in turn": lambda size: (
        "[" + ",".join(f'{{"k{n % 100}":{n},"k{n * 7 % 100}":{n}}}' for n in range(size // 24)) + "]"
    ),
    "records, pairs": repeated('{"a":{"b":1,"c":null}},', "[", "{}]"),
    "one record of many keys": numbered('"k%":1,', "[{", '"k":1}]'),
    "one record of many inner keys": numbered('"k%":1,', '[{"a":{', '"k":1}}]'),
    "names that repeat": lambda size: (
        "[{" + ",".join(f'"{"." * (n % 100)}":{{"{"." * (n // 100)}":1}}' for n in range(size // 100)) + "}]"
    ),
    "integers that share a hash": colliding_integers("%,", "[", "1]"),
    "records, integers that share a hash": colliding_integers('{"a":%},', "[", "{}]"),
    "long integers": repeated("1" * 300 + ",", "[", "1]"),
    "numbers": numbered("%.5,", "[", "1]"),
    "strings": numbered('"s%",', "[", '""]'),
    "one long string": repeated("0.", '["', '"]'),
    "dates": repeated('"2024-01-01",', "[", '""]'),
    "arrays": repeated("[],", "[", "[]]"),
    "deep, wide at the bottom": nested(f'{{"{"k" * 100}":', "}", numbered('"k%":1,', "{", '"k":1}')),
    "deep, many": lambda size: "[" + ",".join(["[" * 200 + "]" * 200] * (size // 401)) + "]",
    "objects of many keys": numbered('"k%":{"a":1},', "{", '"k":1}'),
    "open string after many brackets": repeated('\\"', "[" * 5000 + '"'),
    "open string with an end": repeated('\\"', "[" * 5000 + '"', "\\"),
    "open string after a huge number": repeated('\\"', '[1e999, "'),
    "broken at the end": numbered('{"k%":1},', "["),
    "broken at the beginning": repeated('"a",', "[}"),
    "spaces": repeated(" ", "[", "]"),
    "quotes": repeated('"'),
}
LINES: dict[str, Maker] = {
    "all keys differ": numbered('{"k%":1}\n'),
    "blank lines": repeated("\n", "1\n"),
    "open brackets": repeated("[\n"),
    "scalars": numbered("%\n"),
    "integers that share a hash": colliding_integers('{"a":%}\n'),
    "arrays": repeated("[1]\n"),
    "last line broken": repeated('{"a":1}\n', "", "{"),
}
CASES = [
    pytest.param(content_type, maker, id=f"{content_type}: {name}")
    for content_type, makers in (
        ("text/markdown", MARKDOWN),
        ("text/plain", TEXT),
        ("text/csv", CSV),
        ("application/json", JSON),
        ("application/jsonl", LINES),
    )
    for name, maker in makers.items()
]


def seconds(data: bytes, content_type: str | None) -> float:
    """Of the processor, so that other processes do not count."""
    started = time.process_time()
    with contextlib.suppress(StorageError):  # Refused is fine: in time.
        profile(data, content_type=content_type)
    return time.process_time() - started


def check(make: Callable[[int], bytes], content_type: str | None) -> None:
    """Doubles the report until its time can be measured; then once more."""
    size = START
    taken = seconds(make(size), content_type)
    while taken < ENOUGH_SECONDS and size < LARGEST:
        size *= 2
        taken = seconds(make(size), content_type)
    assert taken <= MOST_SECONDS_A_MEGABYTE * max(size / 1e6, 0.1), f"{taken:.2f} s for {size:,} characters"
    if taken < ENOUGH_SECONDS / 2:
        return
    # One step up is no slope: where a sketch takes over from exact counting, or a measurement went wrong.
    for _ in range(3):
        twice = min(seconds(make(2 * size), content_type) for _ in range(2))
        ratio = twice / min(taken, seconds(make(size), content_type))
        if ratio <= MOST_RATIO:
            return
        size, taken = 2 * size, twice
    pytest.fail(f"twice {size // 2:,} characters take {ratio:.1f} times as long")


@pytest.mark.parametrize(("content_type", "make"), CASES)
def test_time_is_in_proportion_to_the_length(content_type: str, make: Maker) -> None:
    check(lambda size: make(size).encode(), content_type)


@pytest.mark.parametrize("charset", ["utf-8", "utf-7", "utf-16le", "utf-32be", "gb18030", "iso2022_jp", "hz"])
@pytest.mark.parametrize("piece", [b"+AAAA", b"+", b"~{", b"\x1b$B", b"A\x00", b"\x00\x00\x00A", b"\xe2"])
def test_decoding_is_in_proportion_to_the_length(charset: str, piece: bytes) -> None:
    def make(size: int) -> bytes:
        return (
            piece[:1] + piece[1:] * (size // len(piece))
            if piece[0] in b"+" and piece[1:]
            else piece * (size // len(piece))
        )

    for content_type in ("text/csv", "text/plain"):
        check(make, f"{content_type}; charset={charset}")


@pytest.mark.parametrize("seed", range(24))
def test_time_of_random_repetitions(seed: int) -> None:
    """Pieces of the characters that mean something, repeated between others, in every format."""
    chosen = random.Random(seed)
    alphabet = "#`~*_-+=|<>[]()!{}\"'\\,;.:?/&0123456789aAzZ \t\n\r\u00a0é漢。…"
    for _ in range(6):
        piece = "".join(chosen.choices(alphabet, k=chosen.randint(1, 6)))
        before, after = ("".join(chosen.choices(alphabet, k=chosen.randint(0, 12))) for _ in range(2))
        content_type = chosen.choice(
            ["text/markdown", "text/plain", "text/csv", "application/json", "application/jsonl", None]
        )
        make = repeated(piece, before, after)
        taken = seconds(make(1 << 15).encode(), content_type)
        assert taken < 1.0, json.dumps([piece, before, after, content_type])
