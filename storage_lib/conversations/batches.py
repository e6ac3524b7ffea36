"""Ids for messages that have none of their own, or none that are theirs alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any


def batch_ids(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """Ids by which the same messages, appended again together, are known; for `Conversations.append`.

        await log.append(conversation, messages, ids=batch_ids(messages))

    An append whose answer was lost can be made again so, if two that are meant differ in something: an id
    or a time in one of the messages.
    """
    text = json.dumps([dict(each) for each in messages], default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return [f"{digest}-{n}" for n in range(len(messages))]
