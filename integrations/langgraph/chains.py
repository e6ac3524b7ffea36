"""The chain of a thread's checkpoints, and changes of threads that keep what delta channels need of it.

A delta channel has its value in few checkpoints; at the others it is the last one before and what tasks have
written since. Where ancestors are removed, those values and writes move to the first checkpoint that stays
(the row ``!<``), so its state and that of its descendants are what they were.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import aclosing
from typing import Any

from integrations.langgraph.rows import (
    NAME_PROPERTIES,
    Checkpoint,
    Group,
    History,
    Raw,
    Rows,
    Write,
    behind,
    group_of,
    names_in,
    names_of,
    row_of,
)
from storage_lib import Entity, Insert, PreconditionFailedError

_FIRST = 32
_COPIED = 8
"""Rows of a transaction, which has 4 MiB at most."""


async def chain(rows: Rows, partition: str, start: str) -> AsyncGenerator[tuple[Group, Checkpoint]]:
    """A checkpoint and its ancestors, as far as they are there.

    :param start: the checkpoint's row; its beginning, as far as the namespace, for the newest.
    """
    end, seen, wanted = behind("!".join(start.split("!")[:2])), set[str](), start
    while wanted not in seen:
        found = None
        async with aclosing(rows.groups(partition, wanted, end, first=_FIRST)) as groups:
            async for _, group in groups:
                if not group.prefix.startswith(wanted):
                    if group.prefix > wanted:
                        return  # It was removed.
                    continue
                assert group.checkpoint is not None  # noqa: S101 - see Rows.groups
                found = await rows.content(group.checkpoint, Checkpoint)
                yield group, found
                if found.parent is None:
                    return
                seen.add(group.prefix)
                wanted = row_of(found.namespace, found.parent)
                if wanted < group.prefix:
                    break  # Its ids are not in the order of time.
        if found is None:
            return


async def histories(
    rows: Rows, partition: str, start: str, channels: Collection[str] | None = None
) -> dict[str, History]:
    """What each channel was given before a checkpoint, which itself does not count; without ``channels``,
    each of which the checkpoint has no value of its own."""
    seeds: dict[str, Raw] = {}
    writes: dict[str, list[Write]] = {}
    own: Collection[str] | None = None
    runs: Collection[str] | None = None

    def is_open(channel: str) -> bool:
        if channels is None:
            return channel not in seeds and channel not in (own or ()) and not _is_internal(channel)
        return channel not in seeds and channel in channels

    async with aclosing(chain(rows, partition, start)) as ancestors:
        async for group, found in ancestors:
            if own is None:
                own = found.values
            else:
                for write in reversed(await rows.writes(group, runs)):
                    if is_open(write.channel):
                        writes.setdefault(write.channel, []).append(write)
                seeds |= {channel: raw for channel, raw in found.values.items() if is_open(channel)}
            if group.history is not None:
                for channel, before in (await rows.content(group.history, dict[str, History])).items():
                    if is_open(channel):
                        writes.setdefault(channel, []).extend(reversed(before.writes))
                        if before.seed is not None:
                            seeds[channel] = before.seed
                break
            if channels is not None and seeds.keys() >= set(channels):
                break
            runs = _continued(group)
    wanted: Iterable[str] = channels if channels is not None else writes.keys() | seeds.keys()
    return {channel: History(seeds.get(channel), writes.get(channel, [])[::-1]) for channel in wanted}


def _continued(group: Group) -> Collection[str] | None:
    """The runs whose writes before it a checkpoint continues; None: all."""
    assert group.checkpoint is not None  # noqa: S101 - see Rows.groups
    by: str | None = group.checkpoint.properties.get("by")
    return by.split(",") if by else None


def _is_internal(channel: str) -> bool:
    """A channel of LangGraph itself: emptied by the step that it is written for, so never a delta channel."""
    return channel.startswith(("__", "branch:"))


async def remove(rows: Rows, partition: str, choose: Callable[[list[Entity]], set[str]]) -> set[str]:
    """Remove checkpoints of a thread; ``choose`` is given their rows, without content, and returns keys.
    Returns the runs that have none left."""
    select = ["kind", "parent", "run_id", "next", *NAME_PROPERTIES]
    listed = [row async for row in rows.found(partition, "c!", 'c"', select=select)]
    checkpoints = {row.row_key: row for row in listed if row.properties.get("kind") == "c"}
    gone = choose(list(checkpoints.values()))
    kept: set[str] = set()
    for key in checkpoints.keys() - gone:
        if checkpoints[key].properties.get("parent") in gone:
            found = await histories(rows, partition, key)
            writes = [write.value for history in found.values() for write in history.writes]
            raws = [*writes, *(history.seed for history in found.values() if history.seed is not None)]
            properties: dict[str, Any] = {"kind": "h"} | await rows.properties(partition, found, raws)
            await rows.tables.upsert(rows.table, partition, f"{key}!<", properties, mode="replace")
            kept |= names_in(properties)
    living_keys = checkpoints.keys() - gone
    living = {_namespace(key) for key in living_keys}
    doomed: list[Entity] = []
    for row in listed:
        # A claim is freed where what it names goes. That of the root stays while there are checkpoints: who
        # saw no thread must not begin it again.
        freed = row.properties.get("next") in gone and not (
            group_of(row) == f"{_namespace(row.row_key)}!z" and _namespace(row.row_key) in living
        )
        if freed or group_of(row) in gone:
            doomed.append(row)
        else:
            kept |= names_in(row.properties)
    await rows.delete(partition, [row.row_key for row in doomed])
    await rows.delete_objects(partition, names_of(doomed) - kept)
    return _runs(checkpoints, gone) - _runs(checkpoints, living_keys)


def _runs(checkpoints: Mapping[str, Entity], keys: Iterable[str]) -> set[str]:
    return {run for key in keys if (run := checkpoints[key].properties.get("run_id")) is not None}


def _namespace(row_key: str) -> str:
    return "!".join(row_key.split("!")[:2])


async def copy(
    rows: Rows, source: str, target: str, thread: str, index: Callable[[str, str], Awaitable[None]]
) -> None:
    """Copy a thread, the oldest rows first, so that what can be seen is whole; ``index`` its runs before.

    :raises PreconditionFailedError: there is a target.
    """
    async with aclosing(rows.found(target, "c!", 'c"', first=1)) as existing:
        async for _ in existing:
            raise PreconditionFailedError(
                f"the thread {thread!r} has checkpoints",
                field="target_thread_id",
                remedy="delete it first, also where an earlier copy was cut off",
            )
    select = ["kind", "run_id", *NAME_PROPERTIES]
    listed = [row async for row in rows.found(source, "c!", 'c"', select=select)]
    await rows.copy_objects(names_of(listed), source, target)
    for run in {run for row in listed if (run := row.properties.get("run_id")) is not None}:
        await index(run, thread)
    keys = [row.row_key for row in listed]
    while keys:
        keys, part = keys[:-_COPIED], keys[-_COPIED:]
        copied: list[Insert] = []
        async for row in rows.found(source, part[0], part[-1] + "!"):
            named = {"thread": thread} if "thread" in row.properties else {}
            copied.append(Insert(row.row_key, dict(row.properties) | named))
        await rows.tables.batch(rows.table, target, copied)
