"""Which keys a migration is about: patterns to include and to exclude."""

from __future__ import annotations

import re
from collections.abc import Sequence

from storage_lib.arguments import several
from storage_lib.errors import InvalidArgumentError

_WILD = re.compile(r"\*\*/|\*\*|\*|\?|\[!?\]?[^\]/]*\]")
_MAX_PATTERNS = 1000


class KeyFilter:
    """Keys that one of the ``include`` patterns matches, or all if there are none, and no ``exclude`` does.

    A pattern matches all of what follows the prefix in a key; one without a ``/`` matches its last segment.
    ``*`` stands for any characters but ``/``, ``**`` for any, ``?`` for one but ``/``, ``[a-z]`` for one of
    these, ``[!a-z]`` for one of no others. ``logs/`` is short for ``logs/**``. Case matters.

    :raises InvalidArgumentError: a pattern is empty, or no str.
    """

    def __init__(self, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> None:
        self._include = _compiled("include", include)
        self._exclude = _compiled("exclude", exclude)

    def __call__(self, name: str) -> bool:
        """Whether a key is wanted, of which this is what follows the prefix."""
        if self._include is not None and not self._include.fullmatch(name):
            return False
        return self._exclude is None or not self._exclude.fullmatch(name)


def _compiled(field: str, patterns: Sequence[str]) -> re.Pattern[str] | None:
    given: list[object] = several(field, patterns)
    if not all(isinstance(each, str) and each for each in given):
        raise InvalidArgumentError(f"{field} is {patterns!r}", field=field, limit="a list of patterns")
    if len(patterns) > _MAX_PATTERNS:
        raise InvalidArgumentError(
            f"{len(patterns)} patterns", field=field, limit=f"{_MAX_PATTERNS} patterns"
        )
    if not patterns:
        return None
    try:
        return re.compile("|".join(_expression(each) for each in patterns), re.DOTALL)
    except re.error as error:
        raise InvalidArgumentError(
            f"a pattern of {field} cannot be read: {error}", field=field, remedy="see the end of a range"
        ) from error


def _expression(pattern: str) -> str:
    if pattern.endswith("/"):
        pattern += "**"
    anywhere = "" if "/" in pattern else "(?:.*/)?"
    pieces: list[str] = []
    at = 0
    for found in _WILD.finditer(pattern):
        pieces += re.escape(pattern[at : found.start()]), _wild(found.group())
        at = found.end()
    return anywhere + "".join(pieces) + re.escape(pattern[at:])


def _wild(text: str) -> str:
    match text:
        case "**/":
            return "(?:.*/)?"
        case "**":
            return ".*"
        case "*":
            return "[^/]*"
        case "?":
            return "[^/]"
        case _:
            inner = text[1:-1].replace("\\", r"\\").replace("[", r"\[").replace("&&", r"&\&")
            if inner.startswith("!"):
                return f"[^/{inner[1:]}]"
            return f"(?!/)[{inner.replace('^', '\\^', 1) if inner.startswith('^') else inner}]"
