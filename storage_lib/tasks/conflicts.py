"""Concurrent writers of one record: a loser tries again after a pause that separates the losers."""

from __future__ import annotations

import asyncio
import random

_FIRST_SECONDS = 0.01
"""About as long as it takes to read a record and write it back; a shorter pause separates nobody."""
_LONGEST_SECONDS = 1.0


class Conflicts:
    """The consecutive conflicts of one writer: create one before its loop, and call `pause` after each
    conflict.

    Without pauses, n concurrent writers need about n² / 2 writes; with them, a few each.
    """

    def __init__(self) -> None:
        self._longest = _FIRST_SECONDS

    async def pause(self) -> None:
        """Wait a random time: up to 10 ms at first, up to twice that each time after, at most a second."""
        await asyncio.sleep(random.uniform(0, self._longest))  # noqa: S311 - spreads load, hides nothing
        self._longest = min(self._longest * 2, _LONGEST_SECONDS)
