"""What the host tells of a message, as far as it can be believed."""

from __future__ import annotations

import json
import re
from collections.abc import Set
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self, cast

import azure.functions as func

from storage_lib.patterns import pattern

_DECIDING = frozenset({"id", "dequeuecount", "insertiontime"})
_OWN = pattern(rf"\b(?:{'|'.join(sorted(_DECIDING))})\b|\\", re.IGNORECASE)
"""A name, or a character that may be part of one in another form."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One delivery of a message.

    The host binds the top-level properties of a JSON message after the message's own: one that has an ``id``
    says by itself which id the function is told. Such values are the sender's; nothing is decided by them.

    :param message_id: None where the sender may have written it.
    :param inserted_at: when it was put into the queue; the present where the sender may have written it.
    :param dequeue_count: how often it was delivered, 1 or more; 2 where the sender may have written it, for
        what is done with a repeated delivery does no harm to a first.
    """

    text: str
    message_id: str | None
    inserted_at: datetime
    dequeue_count: int

    @classmethod
    def of(cls, message: func.QueueMessage) -> Self:
        """:raises UnicodeDecodeError: the message is no text, which no queue of ours carries."""
        text = message.get_body().decode()
        written = _written(text)
        now = datetime.now(UTC)
        inserted = now if "insertiontime" in written else message.insertion_time or now
        return cls(
            text,
            None if "id" in written else str(message.id),
            inserted if inserted.tzinfo is not None else inserted.replace(tzinfo=UTC),
            2 if "dequeuecount" in written else message.dequeue_count or 1,
        )


def _written(text: str) -> Set[str]:
    """The names, in lower case, of the message's own properties, if one may be a name of the host's."""
    if "{" not in text or not _OWN.search(text):
        return frozenset()
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError):
        return _DECIDING  # The host's parser takes more than JSON: names without quotes, comments, …
    if not isinstance(content, dict):
        return frozenset()
    return {name.lower() for name in cast("dict[str, Any]", content)}
