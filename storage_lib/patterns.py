"""Regular expressions that are compiled at their first use: importing a module with one costs nothing."""

from __future__ import annotations

import re
from typing import Any, cast


class _Pattern:
    """Becomes what `re.compile` gives, method by method; each is kept, so that a second use costs no more."""

    def __init__(self, pattern: str | bytes, flags: int) -> None:
        self.pattern, self.flags = pattern, flags

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # such as __isabstractmethod__, which classes ask their attributes for
            raise AttributeError(name)
        found = getattr(re.compile(self.pattern, self.flags), name)
        setattr(self, name, found)
        return found


def pattern[T: (str, bytes)](text: T, flags: int = 0) -> re.Pattern[T]:
    """As `re.compile`, whose errors come at the first use. For constants of modules."""
    return cast("re.Pattern[T]", _Pattern(text, flags))
