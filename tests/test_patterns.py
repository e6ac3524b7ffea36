"""Regular expressions that are compiled at their first use."""

from __future__ import annotations

import re
from abc import ABC

import pytest

from storage_lib.patterns import pattern


def test_it_is_compiled_once_at_its_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    real = re.compile
    monkeypatch.setattr(re, "compile", lambda *given: compiled.append(given[0]) or real(*given))
    word = pattern("a(b)", re.IGNORECASE)
    assert compiled == []
    assert [word.fullmatch(text) is not None for text in ("AB", "ab", "abc")] == [True, True, False]
    assert word.sub("c", "abab") == "cc"
    assert compiled == ["a(b)", "a(b)"], "once for each method"
    assert (word.pattern, word.flags, word.groups) == ("a(b)", re.IGNORECASE, 1)


def test_bytes() -> None:
    assert [found[0] for found in pattern(rb"\d+").finditer(b"1 22")] == [b"1", b"22"]


def test_a_class_with_one_does_not_compile_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(re, "compile", lambda *given: pytest.fail("compiled"))

    class _Store(ABC):  # noqa: B024 - such a class asks its attributes whether they are abstract
        tag = pattern("a")

    assert _Store().tag.pattern == "a"
