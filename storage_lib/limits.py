"""Limits of stored values that several modules share."""

from __future__ import annotations

from typing import Final

MAX_DEPTH: Final = 100
"""Levels of nesting: more than any document needs, fewer than the parsers accept."""
