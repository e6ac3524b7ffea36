"""A copy of a conversation: its messages first, as those of a life that nobody knows, and then its head."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from storage_lib.conversations.chores import UNDER_WAY, Chores
from storage_lib.conversations.head import Head
from storage_lib.conversations.index import Index, facets_of
from storage_lib.conversations.messages import object_of, object_prefix
from storage_lib.conversations.model import existing, missing
from storage_lib.conversations.options import expiry
from storage_lib.conversations.retention import Retention
from storage_lib.conversations.rows import id_key, message_key, new_generation, partition_of, position_of
from storage_lib.conversations.store import Conflict, Plan, Store, afterwards
from storage_lib.errors import (
    IntegrityError,
    KeyNotFoundError,
    PreconditionFailedError,
    TransientStorageError,
)
from storage_lib.ports.entities import size_of
from storage_lib.ports.table_model import Entity, TableOperation, Upsert
from storage_lib.ports.tables import MAX_BATCH_OPERATIONS

_ATTEMPTS = 10
_MOST_BYTES = 3 * 1024 * 1024


async def fork(
    store: Store,
    index: Index,
    retention: Retention,
    chores: Chores,
    name: str,
    source: str,
    to: str,
    target: str,
    until: int | None,
) -> Head:
    """See `Conversations.fork`."""
    await _need_none(store, to, target)
    for _ in range(_ATTEMPTS):
        head = await store.head(source)
        if head is None or head.is_over(store.now()):
            raise missing(name)
        if until is not None and until > head.position:
            raise PreconditionFailedError(
                f"conversation {name!r} is at position {head.position}, before {until}",
                field="until",
                limit=f"0 to {head.position}",
            )
        made = await _copied(store, index, retention, chores, source, head, to, target, until)
        if made is not None:
            return made
    raise TransientStorageError(
        f"messages of conversation {name!r} were removed while it was copied", remedy="try again"
    )


async def _copied(
    store: Store,
    index: Index,
    retention: Retention,
    chores: Chores,
    source: str,
    head: Head,
    to: str,
    target: str,
    until: int | None,
) -> Head | None:
    """The head of the copy; None if messages were removed meanwhile."""
    now = store.now()
    generation = new_generation(now.timestamp())
    chore = await chores.add(target, generation)
    position = head.position if until is None else until
    first = await retention.first(source, head)
    count, lost = await _copy_rows(store, source, head.generation, target, generation, first, position)
    if store.now() - now > UNDER_WAY / 2:
        raise TransientStorageError(
            f"copying {count} messages took longer than {UNDER_WAY / 2}; what was copied is removed",
            remedy="compact the conversation, or fork it where the store is faster",
        )
    after = await store.head(source)
    if after is None or (after.generation, after.erased) != (head.generation, head.erased):
        await store.remove_generation(target, generation)
        await chores.done(chore)
        return None
    if lost is not None:
        await store.remove_generation(target, generation)
        await chores.done(chore)
        raise IntegrityError(
            f"the message at position {lost} is kept as an object, which is gone",
            field="conversation",
            remedy="bring back the object, or take the message away with clear or replace",
        )
    copy = msgspec.structs.replace(
        head,
        generation=generation,
        position=position,
        first=first,
        removed=first,
        count=count,
        created=now,
        updated=now,
        expires=expiry(now, head.ttl),
        revision=0,
        erased=0,
        calls="",
        etag="",
    )
    await index.add(target, generation, facets_of(copy.participants, copy.topic))
    await chores.watch(target, copy)

    async def plan(there: Head | None, token: str, conflict: Conflict | None) -> Plan[None]:
        if there is not None and not there.is_over(store.now()):
            raise existing(to)
        return there, copy.after(token, now), [], None

    try:
        async with store.turn(target):
            made, _ = await store.change(target, plan, fresh=True)
    except PreconditionFailedError:
        with afterwards(target):
            await store.remove_generation(target, generation)
            await chores.done(chore)
        raise
    with afterwards(target):
        await chores.done(chore)
    return made


async def _need_none(store: Store, to: str, target: str) -> None:
    there = await store.head(target)
    if there is not None and not there.is_over(store.now()):
        raise existing(to)


async def _copy_rows(
    store: Store, source: str, from_generation: str, target: str, to_generation: str, low: int, high: int
) -> tuple[int, int | None]:
    """Copy these messages, and return how many there were, and the position of one whose object is gone."""
    waiting: list[Entity] = []
    size = count = 0
    lost: int | None = None
    async for row in store.between(source, from_generation, low, high):
        waiting.append(row)
        size += 2 * size_of(row.properties)
        count += 1
        if 2 * len(waiting) + 2 > MAX_BATCH_OPERATIONS or size > _MOST_BYTES // 2:
            lost = await _write(store, target, to_generation, waiting) or lost
            waiting, size = [], 0
    lost = await _write(store, target, to_generation, waiting) or lost
    return count, lost


async def _write(store: Store, target: str, generation: str, rows: Sequence[Entity]) -> int | None:
    """The position of a message whose object is gone."""
    operations: list[TableOperation] = []
    prefix = object_prefix(partition_of(target), generation)

    async def copied(row: Entity) -> str | None:
        """The object of the copy; None if there is none."""
        if (key := object_of(row)) is None:
            return None
        copy = prefix + key.rpartition("/")[2]
        await store.objects.copy(key, copy)
        return copy

    async def attempt(row: Entity) -> tuple[Entity, str | None, bool]:
        try:
            return row, await copied(row), True
        except KeyNotFoundError:
            return row, None, False  # Removed meanwhile, or lost: the caller finds out.

    lost: int | None = None
    for row, key, is_there in await store.each(rows, attempt):
        found, position = dict(row.properties), position_of(row.row_key)
        if not is_there:
            lost = position
            continue
        if key is not None:
            found["object"] = key
        operations.append(Upsert(message_key(generation, position), found, "replace"))
        if found["given"]:
            where = {"position": position, "digest": found["digest"]}
            operations.append(Upsert(id_key(generation, found["id"]), where, "replace"))
    if operations:
        await store.tables.batch(store.table, partition_of(target), operations)
    return lost
