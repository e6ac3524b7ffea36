"""The rows of a conversation: where each stands in the table, so that the newest messages come first.

All rows of a conversation are in one partition, so one transaction can change several. Row keys:

=================================  ========================================================================
``head``                           what `Head` says: the position, the participants, …
``m`` generation position          a message; positions count down, as in the log tail pattern of Azure's
                                   table design guide, so the newest is first behind the head
``x`` generation id                where the message with an id of its caller's is
=================================  ========================================================================

The generation is of one life of the conversation: if it is deleted and made again, what may still be there of
the former one has other keys.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from secrets import token_hex

from storage_lib.patterns import pattern
from storage_lib.segments import newest_first, to_table_key

HEAD = "head"
MAX_POSITION = 10**12
BEHIND_MESSAGES = "n"
"""Sorts behind the keys of messages, and before those of ids."""

_PLAIN = pattern(r"[A-Za-z0-9_.:@+,-]{1,200}")
_SHORT = 400


def partition_of(stored: str) -> str:
    """The partition of the conversation that is called so in the store."""
    return f"c:{to_table_key(stored)}"


def new_generation(now: float) -> str:
    """A later one sorts first."""
    return newest_first(datetime.fromtimestamp(now, UTC)) + token_hex(4)


def message_key(generation: str, position: int) -> str:
    return f"m{generation}{MAX_POSITION - position:013}"


def position_of(row_key: str) -> int:
    """The position of a message, by its row key."""
    return MAX_POSITION - int(row_key[-13:])


def generation_of(row_key: str) -> str:
    return row_key[1:-13]


def id_key(generation: str, message_id: str) -> str:
    return f"x{generation}{_named(message_id, _PLAIN)}"


def facet_key(kind: str, name: str) -> str:
    """The partition of the index that has all conversations, or those of a participant or a topic."""
    text = to_table_key(name) if len(name) <= _SHORT // 12 else ""
    return f"{kind}:{text}" if text else f"{kind}:h:{_digest(name)}"


def scope_key(scope: str) -> str:
    """How the rows of the index begin that are of conversations below a folder."""
    return _digest(scope)[:16] if scope else "0" * 16


def _named(text: str, plain: re.Pattern[str]) -> str:
    return f"={text}" if plain.fullmatch(text) else f"h{_digest(text)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:40]
