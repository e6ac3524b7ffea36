"""Changing many entities in few requests: entity group transactions of up to 100 in one partition."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import batched

from storage_lib.errors import KeyNotFoundError, PreconditionFailedError
from storage_lib.ports.backend import Entity
from storage_lib.ports.tables import MAX_BATCH_OPERATIONS, Delete, TableOperation, TableStore, Update

CONCURRENT_BATCHES = 8


async def delete_unchanged(tables: TableStore, table: str, entities: Iterable[Entity]) -> list[Entity]:
    """Delete entities that were not changed since they were read, and return those that are gone now."""
    return await _in_batches(tables, table, entities, lambda each: Delete(each.row_key, each.etag))


async def mark_unchanged(
    tables: TableStore, table: str, entities: Iterable[Entity], mark: str
) -> list[Entity]:
    """Set a property to true in entities that were not changed since they were read, and return those that
    have it now, with their new ETags."""
    return await _in_batches(
        tables, table, entities, lambda each: Update(each.row_key, {mark: True}, each.etag)
    )


async def _in_batches(
    tables: TableStore, table: str, entities: Iterable[Entity], operation: Callable[[Entity], TableOperation]
) -> list[Entity]:
    partitions: defaultdict[str, list[Entity]] = defaultdict(list)
    for entity in entities:
        partitions[entity.partition_key].append(entity)
    places = asyncio.Semaphore(CONCURRENT_BATCHES)

    async def batch(partition: str, some: tuple[Entity, ...]) -> list[Entity]:
        async with places:
            try:
                etags = await tables.batch(table, partition, [operation(each) for each in some])
            except (KeyNotFoundError, PreconditionFailedError):
                # Of one of them, or the response to what was done has been lost.
                return [each for one in some for each in await alone(partition, one)]
        return [_now(each, etag) for each, etag in zip(some, etags, strict=True)]

    async def alone(partition: str, one: Entity) -> list[Entity]:
        change = operation(one)
        try:
            (etag,) = await tables.batch(table, partition, [change])
        except PreconditionFailedError:
            return []
        except KeyNotFoundError:
            return [one] if isinstance(change, Delete) else []
        return [_now(one, etag)]

    done: list[Entity] = []
    failed: BaseException | None = None
    for result in await asyncio.gather(
        *(
            batch(partition, some)
            for partition, each in partitions.items()
            for some in batched(each, MAX_BATCH_OPERATIONS, strict=False)
        ),
        return_exceptions=True,
    ):
        if isinstance(result, BaseException):
            failed = failed or result
        else:
            done += result
    if failed is not None:
        raise failed
    return done


def _now(entity: Entity, etag: str | None) -> Entity:
    return entity if etag is None else replace(entity, etag=etag)
