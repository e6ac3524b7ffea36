"""Regular expressions that are compiled at their first use, so that importing a module costs nothing."""

from __future__ import annotations

import re
from typing import Any, cast


class _Pattern:
    """Becomes the result of `re.compile`, method by method; each is kept, so a second use costs nothing
    more."""

    def __init__(self, pattern: str | bytes, flags: int) -> None:
        self.pattern, self.flags = pattern, flags

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # such as __isabstractmethod__, which classes ask their attributes for
            raise AttributeError(name)
        found = getattr(re.compile(self.pattern, self.flags), name)
        setattr(self, name, found)
        return found


def pattern[T: (str, bytes)](text: T, flags: int = 0) -> re.Pattern[T]:
    """Like `re.compile`, but errors appear at the first use. For module constants."""
    return cast("re.Pattern[T]", _Pattern(text, flags))
