"""Queues: process tasks, and record what cannot be processed."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Set
from datetime import UTC, datetime
from typing import Any, Self, cast

import azure.functions as func
from msgspec import Struct

from functions.invocations import invocation
from functions.state import state
from storage_lib.config import CONNECTION
from storage_lib.errors import ConfigurationError
from storage_lib.namespaces import namespace_of, queue_in
from storage_lib.patterns import pattern
from storage_lib.tasks.model import Priority
from storage_lib.tasks.queues import POISON, queue_count, queue_name

blueprint = func.Blueprint()

_DECIDING = frozenset({"id", "dequeuecount", "insertiontime"})
_OWN = pattern(rf"\b(?:{'|'.join(sorted(_DECIDING))})\b|\\", re.IGNORECASE)
"""A name, or a character that may be part of one in another form."""

type _Handler = Callable[[func.QueueMessage, str, func.Context], Awaitable[None]]


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


async def _process(message: func.QueueMessage, queue: str, context: func.Context) -> None:
    """Handle one delivery of a task queue; after an error the message is delivered again."""
    delivery = Delivery.of(message)
    with invocation(context):
        # Its events do not go through an output binding: that is sent after the function, and nobody is told
        # whether it was.
        await state().engine.deliver(delivery.text, queue=queue, dequeue_count=delivery.dequeue_count)


async def _process_poison(
    message: func.QueueMessage, queue: str, context: func.Context | None = None
) -> None:
    """Turn a message of the poison queue of ``queue`` that could not be handled into an inspectable dead
    record."""
    delivery = Delivery.of(message)
    with invocation(context):
        await state().engine.deliver_poison(
            delivery.text,
            queue=queue,
            message_id=delivery.message_id,
            inserted_at=delivery.inserted_at,
            dequeue_count=delivery.dequeue_count,
        )


def _on_queue(name: str, queue: str, ending: str, handle: _Handler) -> None:
    """Add the function of that name, triggered by the queue, by its name in the store: the platform knows
    nothing of namespaces."""

    async def function(message: func.QueueMessage, context: func.Context) -> None:
        await handle(message, queue, context)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = handle.__doc__
    triggered = blueprint.queue_trigger(
        arg_name="message", queue_name=queue_in(namespace_of(), queue + ending), connection=CONNECTION
    )
    blueprint.function_name(name)(triggered(function))


def _on_every_queue() -> None:
    """Add one for each queue and each poison queue of tasks.

    :raises ConfigurationError: the namespace or the number of queues cannot be one. Then there is no app,
        whose functions would take the messages of another.
    """
    try:
        for number in range(1, queue_count() + 1):
            ending = "" if number == 1 else f"_{number}"
            for priority, high in ((Priority.NORMAL, ""), (Priority.HIGH, "high_")):
                queue = queue_name(priority, number)
                for of, poison, handle in (("", "", _process), ("poison_", POISON, _process_poison)):
                    _on_queue(f"process_{high}{of}task{ending}", queue, poison, handle)
    except ConfigurationError as error:
        raise ConfigurationError(error.explained(), field=error.field) from error


_on_every_queue()
