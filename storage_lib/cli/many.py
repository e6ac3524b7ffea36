"""The same for many keys: some at a time, with an account of those that failed."""

from collections.abc import AsyncIterable, Awaitable, Callable
from typing import Annotated

import typer

from storage_lib.cli.command import Run
from storage_lib.cli.progress import Progress

JOBS = 16
Jobs = Annotated[int, typer.Option("--jobs", "-j", min=1, max=256, help="How many at a time.")]


async def each[T](
    run: Run,
    things: AsyncIterable[T],
    work: Callable[[T], Awaitable[None]],
    *,
    jobs: int,
    named: Callable[[T], str],
    progress: Progress | None = None,
) -> int:
    """Do ``work`` for each thing, and return for how many it succeeded. A `StorageError` or `OSError` is
    told, and the others go on.

    :param named: what a thing is called in an error.
    :param progress: counts the things; None if ``work`` does.
    """
    from storage_lib.errors import StorageError
    from storage_lib.several import Several

    succeeded = 0

    async def one(thing: T) -> None:
        nonlocal succeeded
        try:
            await work(thing)
            succeeded += 1
        except (StorageError, OSError) as error:
            run.failed(named(thing), error)
        if progress is not None:
            progress.advance()

    async with Several(jobs) as running:
        async for thing in things:
            await running.start(one(thing))
    return succeeded
