"""The data types of the queue port: messages and their encoding."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

MessageEncoding = Literal["base64", "none"]


@dataclass(frozen=True, slots=True)
class QueueMessage:
    """A received message. ``pop_receipt`` is the right to delete or update it until it is visible again.

    ``text`` is what is on the wire; ``body`` is the text decoded by the store's ``message_encoding``. A
    message that another program sent in another encoding has its ``text``, and ``body`` is None.
    """

    id: str
    text: str
    body: bytes | None
    dequeue_count: int
    pop_receipt: str
    inserted_at: datetime
    expires_at: datetime
    next_visible_at: datetime


def decoded(text: str, encoding: MessageEncoding) -> bytes | None:
    """The body of a message; None if it was sent in another encoding."""
    if encoding == "none":
        return text.encode()
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return None
