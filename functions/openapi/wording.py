"""The texts of an operation, from the docstring of its function."""

from __future__ import annotations

import functools
import inspect

from storage_lib.patterns import pattern

_REQUEST = pattern(r"`[A-Z]+ /api[^`]*`(?: `[^`]*`)?:\s+")
"""How a docstring begins that says which request it is about."""
_SENTENCE = pattern(r"(?:`[^`]*`|\([^()]*\)|[^`(.;]|\.(?!\s|$))+")


@functools.cache
def described_text(docstring: str, name: str) -> tuple[str, str]:
    """Summary and description: the first clause, and what follows it, or all of it if the summary is only a
    part of a sentence.

    :param name: of the function, in place of a docstring.
    """
    text = inspect.cleandoc(docstring).replace("``", "`").strip()
    text = _REQUEST.sub("", text, count=1)
    if not text:
        return title_of(name), ""
    found = _SENTENCE.match(text)
    summary = " ".join((found[0] if found else text).split())
    whole = "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))
    rest = whole.removeprefix(summary)
    if rest == whole or rest[:1] not in ("", "."):
        rest = whole[0].upper() + whole[1:]
    return summary[0].upper() + summary[1:], rest.removeprefix(".").strip()


def title_of(name: str) -> str:
    """``list_objects`` as people write it."""
    return name.replace("_", " ").capitalize()
