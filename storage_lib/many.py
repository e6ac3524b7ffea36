"""The same work for many keys, several at a time: a result or an error for each."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping
from traceback import clear_frames
from typing import Any, cast

from storage_lib.arguments import whole
from storage_lib.errors import StorageError, StorageUnavailableError

_NOTES = 10
"""How many errors are noted at the one that is raised."""


async def for_each[T](
    keys: Iterable[str], work: Callable[[str], Awaitable[T]], concurrency: int, raise_errors: bool = False
) -> dict[str, T | StorageError]:
    """Do ``work`` once for each key; an error other than a `StorageError` ends them all."""
    concurrency = whole("concurrency", concurrency, 1)
    results: dict[str, T | StorageError] = dict.fromkeys(keys, cast("T", None))
    waiting = iter(list(results))

    async def worker() -> None:
        for key in waiting:
            try:
                results[key] = await work(key)
            except StorageError as error:
                results[key] = error

    async with asyncio.TaskGroup() as group:
        for _ in range(min(concurrency, len(results))):
            group.create_task(worker())
    if raise_errors:
        raise_first(results)
    return results


async def in_order[T](
    keys: AsyncIterable[str],
    work: Callable[[str], Awaitable[T]],
    concurrency: int,
    told: Callable[[str, T | StorageError], object],
) -> None:
    """Do ``work`` for each key, and tell its result or its error, in the order of the keys.

    :raises StorageUnavailableError: the others would fail alike; what was told stays done.
    """
    running: deque[tuple[str, asyncio.Future[T]]] = deque()

    async def settle() -> None:
        key, task = running[0]
        outcome: T | StorageError
        try:
            outcome = await task
        except StorageUnavailableError:
            raise
        except StorageError as error:
            clear_frames(error.__traceback__)  # They may hold parts of the object.
            outcome = error
        running.popleft()
        told(key, outcome)

    try:
        async for key in keys:
            running.append((key, asyncio.ensure_future(work(key))))
            if len(running) == concurrency:
                await settle()
        while running:
            await settle()
    finally:
        for _, task in running:
            task.cancel()
        await asyncio.gather(*(task for _, task in running), return_exceptions=True)


def raise_first(results: Mapping[str, Any]) -> None:
    """:raises StorageError: the first that is among the results, with notes about the others."""
    failed = {key: error for key, error in results.items() if isinstance(error, StorageError)}
    if not failed:
        return
    (key, first), *others = failed.items()
    first.add_note(f"{len(failed)} of {len(results)} failed; this is the error of {key!r}")
    for key, error in others[:_NOTES]:
        first.add_note(f"{key!r}: {type(error).__name__}: {error}")
    raise first
