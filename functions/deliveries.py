"""What the host says about a message, as far as it can be trusted."""

from __future__ import annotations

import json
import re
from collections.abc import Set
from datetime import UTC, datetime
from typing import Any, Self, cast

import azure.functions as func
from msgspec import Struct

from storage_lib.patterns import pattern

_DECIDING = frozenset({"id", "dequeuecount", "insertiontime"})
_OWN = pattern(rf"\b(?:{'|'.join(sorted(_DECIDING))})\b|\\", re.IGNORECASE)
"""A name, or a character that may be part of one in another form."""


class Delivery(Struct, frozen=True):
    """One delivery of a message.

    The host lets the top-level properties of a JSON message override the message's own: a message with an
    ``id`` chooses the id that the function sees. Such values are the sender's, so nothing depends on them.

    :param message_id: None if the sender may have written it.
    :param inserted_at: when it was put into the queue; the present if the sender may have written it.
    :param dequeue_count: how often it was delivered, 1 or more; 2 if the sender may have written it, because
        treating a first delivery as a repeated one does no harm.
    """

    text: str
    message_id: str | None
    inserted_at: datetime
    dequeue_count: int

    @classmethod
    def of(cls, message: func.QueueMessage) -> Self:
        """Decode a delivery.

        :raises UnicodeDecodeError: the message is not text, which the app's queues never carry.
        """
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
    """The lower-case names of a message's properties, if one may be a name that the host uses."""
    if "{" not in text or not _OWN.search(text):
        return frozenset()
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError):
        return _DECIDING  # The host's parser accepts more than JSON: unquoted names, comments, …
    if not isinstance(content, dict):
        return frozenset()
    return {name.lower() for name in cast("dict[str, Any]", content)}
