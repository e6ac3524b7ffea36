"""A compaction: one message in the place of many."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from storage_lib.conversations.chores import Chores
from storage_lib.conversations.head import Head
from storage_lib.conversations.messages import (
    Message,
    object_prefix,
    put_objects,
    summary_message,
)
from storage_lib.conversations.model import Compacted, Entry, check_state, missing
from storage_lib.conversations.retention import Retention
from storage_lib.conversations.rows import message_key, partition_of, position_of
from storage_lib.conversations.store import Conflict, Plan, Store, afterwards
from storage_lib.errors import KeyNotFoundError, TransientStorageError
from storage_lib.ports.table_model import Entity, Upsert

_ATTEMPTS = 5


class _Gone(Exception):  # noqa: N818 - never leaves this module
    """Some of the messages were removed meanwhile."""


async def compact(
    store: Store,
    retention: Retention,
    chores: Chores,
    name: str,
    stored: str,
    summarise: Callable[[list[dict[str, Any]]], Awaitable[dict[str, Any]]],
    keep: int,
    most_inline: int,
) -> Compacted | None:
    """See `Conversations.compact`."""
    for _ in range(_ATTEMPTS):
        head = await store.head(stored)
        if head is None or head.is_over(store.now()):
            raise missing(name)
        first = await retention.first(stored, head)
        rows = [row async for row in store.between(stored, head.generation, first, head.position)]
        old = await store.entries(stored, rows[keep:][::-1])
        if len(old) < 2:
            return None  # One message in the place of one is no gain.
        summary = summary_message("summary", await summarise([each.message for each in old]), most_inline)
        try:
            return await _replaced(store, retention, chores, stored, head, rows[keep], len(old), summary)
        except _Gone:
            continue
    raise TransientStorageError(
        f"messages of conversation {name!r} were removed each time it was compacted", remedy="try again"
    )


async def replace(
    store: Store,
    retention: Retention,
    chores: Chores,
    name: str,
    stored: str,
    summary: Message,
    until: int,
    if_position: int | None,
    if_match: str | None,
) -> Compacted:
    """See `Conversations.replace`."""
    for _ in range(_ATTEMPTS):
        head = await store.head(stored)
        if head is None or head.is_over(store.now()):
            raise missing(name)
        check_state(name, head.position, head.public_etag, if_position, if_match)
        first = await retention.first(stored, head)
        last: Entity | None = None
        if first <= until <= head.position:
            key = message_key(head.generation, until)
            last = await store.tables.get(store.table, partition_of(stored), key, default=None)
        if last is None:
            raise KeyNotFoundError(
                f"conversation {name!r} has no message at position {until}",
                field="until",
                limit=f"the position of a message, {first} to {head.position}",
            )
        kept = store.between(stored, head.generation, until + 1, head.position, select=["id"])
        count = await retention.count(stored, head) - len([row async for row in kept])
        try:
            return await _replaced(store, retention, chores, stored, head, last, count, summary)
        except _Gone:
            continue
    raise store.beset(stored)


async def _replaced(
    store: Store,
    retention: Retention,
    chores: Chores,
    stored: str,
    before: Head,
    last: Entity,
    replaced: int,
    summary: Message,
) -> Compacted:
    """Put the summary where the ``last`` one of so many messages is.

    :raises _Gone: some of them are there no more.
    """
    position, at = position_of(last.row_key), last.properties["at"]
    chore = ""
    if summary.is_large:
        key = summary.name_object(object_prefix(partition_of(stored), before.generation))
        chore = await chores.add(stored, before.generation, objects=[key])
        await put_objects(store.objects, [summary])

    async def plan(head: Head | None, token: str, conflict: Conflict | None) -> Plan[None]:
        if head is None or head.generation != before.generation or head.first != before.first:
            raise _Gone
        if head.erased != before.erased:
            key = message_key(head.generation, position)
            there = await store.tables.get(store.table, partition_of(stored), key, default=None)
            if there is None or there.properties["id"] != last.properties["id"]:
                raise _Gone  # Messages are popped from the end: else all of the others are there.
        wanted = head.after(
            token,
            store.now(),
            first=position,
            count=head.count - (replaced - 1) - hidden,
            erased=head.erased + 1,
        )
        row = Upsert(message_key(head.generation, position), summary.properties(at), "replace")
        return head, wanted, [row], None

    hidden = before.count - await retention.count(stored, before)
    async with store.turn(stored):
        head, _ = await store.change(stored, plan, fresh=True)
        with afterwards(stored):
            await retention.removed(stored, head)
            if chore:
                await chores.done(chore)
            await store.forget(stored, head.generation, last)
    message = msgspec.json.decode(summary.data)
    entry = Entry(position=position, id=summary.id, message=message, at=at)
    return Compacted(summary=entry, replaced=replaced)
