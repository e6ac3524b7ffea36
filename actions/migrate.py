"""`migrate`: copies objects and tables between stores, shared out over all instances of the app."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import msgspec

from storage_lib.errors import (
    AccessDeniedError,
    ForbiddenError,
    PreconditionFailedError,
    StorageError,
    StorageUnavailableError,
    TransientStorageError,
)
from storage_lib.keys import SYSTEM_PREFIX
from storage_lib.reserved_names import MESSAGES, has_conversations
from storage_lib.tasks.context import TaskContext
from storage_lib.tasks.model import MAX_CHILDREN, content_prefix
from storage_lib.tasks.registry import task
from storage_lib.tasks.retry import RetryPolicy, RetryTaskError

if TYPE_CHECKING:
    from storage_lib.manager import StorageManager
    from storage_lib.migration import Migration, MigrationOptions, MigrationReport

ALLOWED = "AGENT_MIGRATION_STORES"
RANGE_KEYS = 1000
RANGE_BYTES = 512 * 1024 * 1024
_MOST_RANGES = MAX_CHILDREN // 2
_MOST_TABLE_TASKS = 100
RANGE_SECONDS = 480.0
"""After this time another task goes on with a range, and after half of it with keys that are still to be cut
into ranges. The rest of the time limit is for what is under way."""
_CHECK_SECONDS = 5.0
_PATIENT = RetryPolicy(max_attempts=10)
_PASSING = frozenset({TransientStorageError.code, StorageUnavailableError.code})


@dataclass(frozen=True, slots=True)
class Migrate:
    """:param source: the URL of a store; None is the app's own.
    :param target: likewise. A URL must be one of the setting ``AGENT_MIGRATION_STORES``.

    The others are those of `storage_lib.migration.MigrationOptions`; ``resumed`` is for the action's own use.
    """

    source: str | None = None
    target: str | None = None
    prefix: str = ""
    target_prefix: str | None = None
    include: list[str] = field(default_factory=list[str])
    exclude: list[str] = field(default_factory=list[str])
    tables: list[str] | None = None
    update: bool = False
    delete: bool = False
    verify: bool = False
    sealed: bool = False
    after: str | None = None
    until: str | None = None
    bytes_per_second: float | None = None
    resumed: int | None = None

    def __post_init__(self) -> None:
        self.options()

    def options(self, *, objects: bool = True) -> MigrationOptions:
        """What each part of it does. :raises InvalidArgumentError: an option is out of range."""
        from storage_lib.migration import MigrationOptions

        given = {name: value for name, value in asdict(self).items() if name not in _OWN}
        return MigrationOptions(**given, objects=objects, layers="sealed" if self.sealed else "open")


_OWN = ("source", "target", "sealed", "resumed")
"""What is no option of a migration by this name."""


class _Plan(msgspec.Struct, frozen=True):
    """The last key of each range but the last. ``is_cut``: the keys behind them are still to be cut. And the
    tables. ``messages``: there are large messages of conversations, and none of these tables is known to be
    theirs; they go with all of them."""

    ends: list[str]
    is_cut: bool = False
    tables: list[str] = []
    messages: bool = False


class MigrationFailedError(StorageError):
    """Some objects could not be copied; the others were."""

    code = "migration-failed"


@task("migrate", payload=Migrate, retry=_PATIENT, whole_store=True)
async def migrate(context: TaskContext, payload: Migrate) -> dict[str, Any]:
    """Cut the keys of the source into ranges, and submit a task for each, and for tables. It ends when they
    all have. What cannot be listed in its time is cut by another task.

    A run after a retry submits the same ranges: they are kept in an object when they are first cut.

    :raises AccessDeniedError: a URL is not allowed by the setting.
    """
    from storage_lib.migration import Migration

    async with _stores(context, payload) as (source, target):
        whole = Migration(source, target, payload.options())  # Refuses a store that would be its own source.
        plan = await _plan(context, payload, whole)
    after = payload.after
    part = replace(payload, tables=[])
    for until in plan.ends:
        await context.submit("migrate_range", asdict(replace(part, after=after, until=until)))
        after = until
    rest = "migrate" if plan.is_cut else "migrate_range"
    await context.submit(rest, asdict(replace(part, after=after)))
    shared_out = _shared_out(plan.tables)
    for some in [None] if plan.messages else shared_out:
        await context.submit("migrate_tables", asdict(replace(payload, tables=some)))
    return {"ranges": len(plan.ends) + (not plan.is_cut), "tables": len(plan.tables)}


@task("migrate_range", payload=Migrate, retry=_PATIENT, timeout=540, whole_store=True)
async def migrate_range(context: TaskContext, payload: Migrate) -> dict[str, Any]:
    """Copy the objects of one range, a part of `migrate`. Run again, it goes on where it was; one that takes
    longer is gone on with by another task.

    :raises MigrationFailedError: some could not be copied; its text names the first of them. Or one takes
        longer than a task may, and cannot be continued.
    """
    has_ended, report = await _part(context, payload, objects=True)
    if not has_ended:
        resumed = None if report.copied or report.updated or report.deleted else report.bytes_resumed
        if resumed is not None and payload.resumed is not None and resumed <= payload.resumed:
            raise MigrationFailedError(
                f"no object of the range was copied within {RANGE_SECONDS:g} s, and none can be continued",
                remedy="run the migration from the command line, which has no such limit",
            )
        await context.submit("migrate_range", asdict(replace(payload, resumed=resumed)))
    elif not report.ok:
        raise _failed(report)
    return msgspec.to_builtins(report)


@task("migrate_tables", payload=Migrate, retry=_PATIENT, timeout=540, whole_store=True)
async def migrate_tables(context: TaskContext, payload: Migrate) -> dict[str, Any]:
    """Copy some tables, a part of `migrate`; likewise.

    :raises MigrationFailedError: some entities could not be copied; or there are more than a task can look
        at, and all of those were there.
    """
    has_ended, report = await _part(context, payload, objects=False)
    if not has_ended:
        messages = report.copied or report.updated or report.deleted or report.bytes_resumed
        if not (messages or report.entities_copied or report.entities_updated or report.entities_deleted):
            raise MigrationFailedError(
                f"no entity was copied within {RANGE_SECONDS:g} s",
                remedy="run the migration from the command line, which has no such limit",
            )
        await context.submit("migrate_tables", asdict(payload))
    elif not report.ok:
        raise _failed(report)
    return msgspec.to_builtins(report)


async def _part(context: TaskContext, payload: Migrate, *, objects: bool) -> tuple[bool, MigrationReport]:
    """Whether it came to its end in its time, and what it did."""
    from storage_lib.migration import Migration

    async with _stores(context, payload) as (source, target):
        migration = Migration(source, target, payload.options(objects=objects))
        return await _run(context, migration), migration.report


def _failed(report: MigrationReport) -> StorageError:
    first = "; ".join(f"{each.name}: {each.message}" for each in report.failed[:10])
    told = f"{report.failures} failed: {first}"
    if any(each.code in _PASSING for each in report.failed):
        return RetryTaskError(told)
    return MigrationFailedError(told)


def _shared_out(tables: list[str]) -> list[list[str]]:
    """Tables by the task that copies them."""
    return [tables[n::_MOST_TABLE_TASKS] for n in range(min(len(tables), _MOST_TABLE_TASKS))]


async def _run(context: TaskContext, migration: Migration) -> bool:
    """Whether it came to its end in its time."""
    running = asyncio.ensure_future(migration.run())
    end, report = time.monotonic() + RANGE_SECONDS, migration.report
    try:
        while (left := end - time.monotonic()) > 0:
            if (await asyncio.wait({running}, timeout=min(left, _CHECK_SECONDS)))[0]:
                running.result()
                return True
            done = {
                "copied": report.copied + report.updated + report.entities_copied + report.entities_updated,
                "skipped": report.skipped + report.entities_skipped,
            }
            await context.progress(done | {"bytes": report.bytes_copied})
        return False
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def _plan(context: TaskContext, payload: Migrate, whole: Migration) -> _Plan:
    from storage_lib.migration.tables import messages_of

    key, objects = f"{content_prefix(context.task.task_id)}ranges", context.storage.backend.objects
    tables, stores = await whole.chosen_tables(), (whole.source, whole.target)
    messages = False
    if not any(map(has_conversations, tables)) and messages_of(whole.options, tables, *stores):
        messages = any([await _has(storage, MESSAGES) for storage in stores])
    cut = await _cut(context, whole.source, payload)
    plan = msgspec.structs.replace(cut, tables=tables, messages=messages)
    try:
        await objects.put(key, msgspec.json.encode(plan), content_type="application/json", if_absent=True)
    except PreconditionFailedError:
        kept = await objects.get(key)
        assert kept is not None  # noqa: S101 - only a get with if_none_match answers None
        found = msgspec.json.decode(kept.data, type=_Plan | list[str])
        return _Plan(found) if isinstance(found, list) else found
    return plan


async def _has(storage: StorageManager, prefix: str) -> bool:
    page = await storage.backend.objects.list_page(prefix, limit=1)
    return bool(page.entries)


async def _cut(context: TaskContext, source: StorageManager, payload: Migrate) -> _Plan:
    ends: list[str] = []
    keys = size = 0
    most_keys, most_bytes = RANGE_KEYS, RANGE_BYTES
    until = time.monotonic() + RANGE_SECONDS / 2
    listing = source.backend.objects.iterate(
        payload.prefix, start_after=payload.after, details=True, skip=SYSTEM_PREFIX
    )
    async for entry in listing:
        if isinstance(entry, str) or (payload.until is not None and entry.key > payload.until):
            break
        keys, size = keys + 1, size + (entry.size or 0)
        if keys >= most_keys or size >= most_bytes:
            ends.append(entry.key)
            keys = size = 0
            await context.checkpoint()
            if time.monotonic() > until:
                return _Plan(ends, is_cut=True)
            if len(ends) > _MOST_RANGES:
                # Fewer and larger ones: a task has so many children at most.
                ends, most_keys, most_bytes = ends[1::2], most_keys * 2, most_bytes * 2
    return _Plan(ends)


@asynccontextmanager
async def _stores(
    context: TaskContext, payload: Migrate
) -> AsyncGenerator[tuple[StorageManager, StorageManager]]:
    if context.is_confined:
        raise ForbiddenError(
            "you may not migrate: that works below the surface of whole stores",
            remedy="use copy_prefix, or submit it as one whom the access policy allows everything",
        )
    async with (
        _store(context, payload.source, "source") as source,
        _store(context, payload.target, "target") as target,
    ):
        yield source, target


@asynccontextmanager
async def _store(context: TaskContext, url: str | None, name: str) -> AsyncGenerator[StorageManager]:
    """The app's own store, or one that the setting allows: who may submit tasks may not read and write any
    folder, or send the app's identity to any host."""
    if url is None:
        yield context.storage
        return
    if url not in os.environ.get(ALLOWED, "").replace(",", " ").split():
        raise AccessDeniedError(
            f"the store {url[:200]!r} is not open to tasks",
            field=f"payload.{name}",
            remedy=f"add its URL to the setting {ALLOWED}, exactly as it is written here",
        )
    from storage_lib.urls import open_store

    async with open_store(url) as storage:
        yield storage
