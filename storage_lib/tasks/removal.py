"""Changing many entities in few requests: entity group transactions of up to 100 in one partition."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from storage_lib.errors import KeyNotFoundError, PreconditionFailedError, StorageError
from storage_lib.ports.backend import Entity
from storage_lib.ports.tables import MAX_BATCH_OPERATIONS, Delete, TableOperation, TableStore

CONCURRENT_BATCHES = 8

type _Group = tuple[Entity, list[TableOperation]]
"""An entity, and what happens to it and, at the same time, to rows that belong to it."""


async def delete_unchanged(
    tables: TableStore,
    table: str,
    entities: Iterable[Entity],
    rows_of: Callable[[Entity], Iterable[str]] = lambda _: (),
) -> list[Entity]:
    """Delete entities that were not changed since they were read, and return those that are gone now.

    :param rows_of: the row keys of what belongs to one, in its partition, and is deleted with it.
    """
    groups: list[_Group] = [
        (each, [Delete(each.row_key, each.etag), *map(Delete, rows_of(each))]) for each in entities
    ]
    return await change_unchanged(tables, table, groups)


def index_of_blamed(error: StorageError) -> int | None:
    """The index of the operation of a batch that an error is about."""
    name = error.field or ""
    digits = name.removeprefix("operations[").removesuffix("]")
    return int(digits) if name == f"operations[{digits}]" and digits.isdecimal() else None


async def change_unchanged(tables: TableStore, table: str, groups: Iterable[_Group]) -> list[Entity]:
    """Do what is to be done with entities that were not changed since they were read, and return those,
    with their new ETags.

    :param groups: each with its operations; the first of them is that on the entity itself, with its ETag.
    """
    partitions: defaultdict[str, list[_Group]] = defaultdict(list)
    for group in groups:
        partitions[group[0].partition_key].append(group)
    places = asyncio.Semaphore(CONCURRENT_BATCHES)

    async def batch(partition: str, some: list[_Group]) -> list[Entity]:
        async with places:
            try:
                etags = await tables.batch(table, partition, [each for _, group in some for each in group])
            except (KeyNotFoundError, PreconditionFailedError):
                # Of one of them, or the response to what was done has been lost.
                return [each for group in some for each in await alone(partition, *group)]
        return list(_now(some, etags))

    async def alone(partition: str, one: Entity, operations: list[TableOperation]) -> list[Entity]:
        left = list(operations)
        while True:
            try:
                etags = await tables.batch(table, partition, left)
            except PreconditionFailedError:
                return []
            except KeyNotFoundError as error:
                if blamed := index_of_blamed(error):
                    del left[blamed]  # What belongs to it is gone already.
                    continue
                return [one] if isinstance(left[0], Delete) else []
            return list(_now([(one, left)], etags))

    done: list[Entity] = []
    failed: BaseException | None = None
    for result in await asyncio.gather(
        *(batch(partition, some) for partition, each in partitions.items() for some in _batched(each)),
        return_exceptions=True,
    ):
        if isinstance(result, BaseException):
            failed = failed or result
        else:
            done += result
    if failed is not None:
        raise failed
    return done


def _batched(groups: list[_Group]) -> Iterator[list[_Group]]:
    """As many groups at a time as have room in one batch."""
    some, size = list[_Group](), 0
    for group in groups:
        if some and size + len(group[1]) > MAX_BATCH_OPERATIONS:
            yield some
            some, size = [], 0
        some.append(group)
        size += len(group[1])
    if some:
        yield some


def _now(groups: Sequence[_Group], etags: Sequence[str | None]) -> Iterator[Entity]:
    at = 0
    for entity, operations in groups:
        etag, at = etags[at], at + len(operations)
        yield entity if etag is None else replace(entity, etag=etag)
