"""`AgentStorageSaver`: the checkpoints of LangGraph's threads."""

from __future__ import annotations

import asyncio
import random
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, override
from uuid import uuid4

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    PendingWrite,
    get_checkpoint_id,
    get_checkpoint_metadata,
)
from langgraph.checkpoint.serde.base import SerializerProtocol

from integrations.langgraph import chains, rows, runs
from integrations.langgraph.rows import Group, History, Raw, Rows, Write, behind, key_of, names_in, row_of
from integrations.langgraph.runs import Place, Recent, Seen, Underway
from integrations.langgraph.serializer import StrictSerializer
from storage_lib import (
    Entity,
    Insert,
    InvalidArgumentError,
    KeyNotFoundError,
    PreconditionFailedError,
    StorageManager,
    Update,
    Upsert,
)
from storage_lib.blocking import Blocking, awaited, iterated
from storage_lib.ports.table_model import TableOperation

_ATTEMPTS = 20
_FILTERED = {"source": str, "step": int, "run_id": str}
"""Metadata that stand in a row's own properties, so that the store filters by them."""


class ThreadConflictError(PreconditionFailedError):
    """Another writer has continued the thread from the same checkpoint, so this step was not stored. What the
    run stored before is in the thread."""

    code = "thread-conflict"


class AgentStorageSaver(BaseCheckpointSaver[str]):
    """A checkpointer on a `StorageManager`, for `invoke` as well as `ainvoke`, in any number of processes.

        async with StorageManager(StorageConfig(base_path="data")) as storage:
            graph = builder.compile(checkpointer=AgentStorageSaver(storage))
            await graph.ainvoke(question, {"configurable": {"thread_id": "ann@example.com/1"}})

    A checkpoint is one transaction of a table, and so are the writes of a task; reading a thread's state is
    one query. A value of more than ``large`` bytes is an object, written once for all its checkpoints.

    Two runs that continue one thread at the same time would fork it, and the state of one of them would be
    lost. The second gets a `ThreadConflictError`. A fork that is meant is none: a run from an older
    ``checkpoint_id``, or an `update_state` there.
    """

    def __init__(
        self,
        storage: StorageManager,
        *,
        table: str = "checkpoints",
        prefix: str = "langgraph",
        on_conflict: Literal["error", "last_writer_wins"] = "error",
        allowed_types: Iterable[type | tuple[str, ...]] = (),
        serde: SerializerProtocol | None = None,
        large: int = 32 * 1024,
        ttl: float | None = None,
    ) -> None:
        """
        :param storage: it needs tables; with objects on S3 these are elsewhere (``tables_and_queues``).
        :param table: the table of the checkpoints.
        :param prefix: that of the keys of large values.
        :param on_conflict: ``"last_writer_wins"`` lets two writers fork a thread; the newest one counts.
        :param allowed_types: your own classes that states may hold: see `StrictSerializer`.
        :param serde: a serializer of yours instead, such as LangGraph's `EncryptedSerializer`.
        :param large: bytes of a value from which on it is an object; 32 KiB at most.
        :param ttl: seconds after its last write when a thread is gone; `asweep` removes such threads.
        """
        super().__init__(serde=serde or StrictSerializer(allowed_types))
        if on_conflict not in ("error", "last_writer_wins"):
            raise InvalidArgumentError(
                f"on_conflict is {on_conflict!r}", field="on_conflict", limit='"error" or "last_writer_wins"'
            )
        if not 0 <= large <= rows.PIECE // 2:
            limit = f"0 to {rows.PIECE // 2} bytes"
            raise InvalidArgumentError(f"large is {large}", field="large", limit=limit)
        self._rows = Rows(storage, table, prefix, large)
        self._strict = on_conflict == "error"
        self._ttl = None if ttl is None else timedelta(seconds=ttl)
        self._blocking = Blocking()
        self._underway = Underway()
        self._empty = Recent[Place, bool]()
        """Namespaces that a reader was told are empty: they can be begun once."""
        self._name = uuid4().hex
        self._indexed = Recent[Place, bool]()
        self._values = Recent[Place, dict[str, tuple[Any, Raw]]]()
        """Large values of checkpoints and their versions: who goes on there need not write them again."""

    # -- reading

    @override
    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        found, place, is_older, seen = await self._found(config)
        runs.mark(place, is_older)
        runs.note(seen)
        return found

    async def _found(
        self, config: RunnableConfig
    ) -> tuple[CheckpointTuple | None, Place | None, bool, dict[tuple[str, Place], Seen]]:
        """A checkpoint, whether going on from its place means to fork, and what a run that does has seen."""
        thread, namespace, checkpoint = _addressed(config)
        partition = key_of(thread)
        start, end = _range(namespace, checkpoint)
        await self._underway.ended((partition, namespace))
        group = await self._first(partition, start, end)
        for _ in range(_ATTEMPTS):
            if group is None or not await self._is_over(partition, group):
                break
            await self._end(partition)
            group = await self._first(partition, start, end)
        if group is None:
            if checkpoint is None:
                self._empty[partition, row_of(namespace, None)] = True
            place = partition, row_of(namespace, checkpoint)
            return None, None, False, {(self._name, place): Seen(runs.run_id())}
        if (found := await self._tuple(partition, group)) is None:
            return await self._found(config)
        place = partition, group.prefix
        seen = {(self._name, place): Seen(runs.run_id(), group.writes)}
        if checkpoint is None or group.claim is not None:
            return found, place, checkpoint is not None, seen
        return found, None, False, seen

    async def _first(self, partition: str, start: str, end: str) -> Group | None:
        async with aclosing(self._rows.groups(partition, start, end, first=rows.FIRST_PAGE)) as groups:
            async for _, group in groups:
                return group
        return None

    async def _tuple(
        self, partition: str, group: Group, wanted: Callable[[str, dict[str, Any]], bool] | None = None
    ) -> CheckpointTuple | None:
        """None: it is not wanted, or was deleted since its rows were read."""
        assert group.checkpoint is not None  # noqa: S101 - see Rows.groups
        try:
            return await self._whole(partition, group, wanted)
        except KeyNotFoundError:
            place = self._rows.table, partition, group.checkpoint.row_key
            if await self._rows.tables.get(*place, default=None) is not None:
                raise
            return None

    async def _whole(
        self, partition: str, group: Group, wanted: Callable[[str, dict[str, Any]], bool] | None
    ) -> CheckpointTuple | None:
        assert group.checkpoint is not None  # noqa: S101 - see Rows.groups
        thread, found = (
            group.checkpoint.properties["thread"],
            await self._rows.content(group.checkpoint, rows.Checkpoint),
        )
        checkpoint, metadata = await self._value(partition, found.body)
        if wanted is not None and not wanted(found.id, metadata):
            return None
        raws = found.values.values()
        if any(name is not None for _, _, name in raws):
            values = await asyncio.gather(*(self._value(partition, raw) for raw in raws))
        else:
            values = [await self._value(partition, raw) for raw in raws]
        checkpoint["channel_values"] = dict(zip(found.values, values, strict=True))
        self._remember((partition, group.prefix), found.values, checkpoint["channel_versions"])
        place = {"thread_id": thread, "checkpoint_ns": found.namespace}
        return CheckpointTuple(
            config={"configurable": place | {"checkpoint_id": found.id}},
            checkpoint=checkpoint,
            metadata=metadata,
            parent_config={"configurable": place | {"checkpoint_id": found.parent}} if found.parent else None,
            pending_writes=[await self._write(partition, write) for write in await self._rows.writes(group)],
        )

    async def _value(self, partition: str, raw: Raw) -> Any:
        return self.serde.loads_typed(await self._rows.typed(partition, raw))

    async def _write(self, partition: str, write: Write) -> PendingWrite:
        return write.task, write.channel, await self._value(partition, write.value)

    def _remember(self, place: Place, values: Mapping[str, Raw], versions: ChannelVersions) -> None:
        if large := {name: (versions.get(name), raw) for name, raw in values.items() if raw[2] is not None}:
            self._values[place] = large

    @override
    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """The checkpoints of a thread, of each namespace the newest first; without ``config`` of all threads,
        one after another. Only as many are read as are taken."""
        async with aclosing(self._listed(config, filter, before, limit)) as listed:
            async for each, older in listed:
                runs.mark(older, True)
                if each is not None:
                    yield each

    async def _listed(
        self,
        config: RunnableConfig | None,
        filter: dict[str, Any] | None,
        before: RunnableConfig | None,
        limit: int | None,
    ) -> AsyncGenerator[tuple[CheckpointTuple | None, Place | None]]:
        """The checkpoints, and the places from which a replay means to fork."""
        partition, namespace, chosen, (start, end) = None, None, None, ("c!", 'c"')
        older = get_checkpoint_id(before) if before else None
        if config is not None:
            thread, _, chosen = _addressed(config)
            partition, namespace = key_of(thread), config.get("configurable", {}).get("checkpoint_ns")
            if namespace is not None:
                start, end = _range(namespace, chosen)
                start = behind(row_of(namespace, older)) if older and not chosen else start
        filter = filter or {}

        def wanted(checkpoint: str, metadata: dict[str, Any]) -> bool:
            if (chosen and checkpoint != chosen) or (older and checkpoint >= older):
                return False
            return all(metadata.get(name) == value for name, value in filter.items())

        conditions = _columns(filter)
        where = " and ".join(f"(kind ne 'c' or {name} eq @{name})" for name in conditions)
        first = 1000 if limit is None else 2 * limit + rows.FIRST_PAGE
        taken, over = 0, dict[str, bool]()
        if limit is None or limit > 0:
            found = self._rows.groups(partition, start, end, first=first, where=where, **conditions)
            async with aclosing(found) as groups:
                async for at, group in groups:
                    if at not in over:
                        over[at] = await self._is_over(at, group)
                    if over[at] or (each := await self._tuple(at, group, wanted)) is None:
                        continue
                    taken += 1
                    yield each, (at, group.prefix) if older and group.claim is not None else None
                    if taken == limit:
                        break
        if older and not taken and partition is not None and namespace is not None:
            yield None, (partition, row_of(namespace, None))  # A replay from before the first.

    @override
    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """See `BaseCheckpointSaver`. It is one query for 32 checkpoints, and reads only these channels."""
        if not channels:
            return {}
        thread, namespace, checkpoint = _addressed(config)
        partition, start = key_of(thread), _range(namespace, checkpoint)[0]
        found = await chains.histories(self._rows, partition, start, channels)
        return {channel: await self._history(partition, history) for channel, history in found.items()}

    async def _history(self, partition: str, history: History) -> DeltaChannelHistory:
        entry = DeltaChannelHistory(writes=[await self._write(partition, each) for each in history.writes])
        if history.seed is not None:
            entry["seed"] = await self._value(partition, history.seed)
        return entry

    # -- writing

    @override
    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """See `BaseCheckpointSaver`.

        :raises ThreadConflictError: another checkpoint follows the same one, or it was deleted and there are
            large values; this one was not stored.
        """
        with self._underway.write(_thread_of(config)):
            return await self._put(config, checkpoint, metadata, new_versions)

    async def _put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        thread, namespace, parent = _addressed(config)
        partition, key, before = (
            key_of(thread),
            row_of(namespace, checkpoint["id"]),
            row_of(namespace, parent),
        )
        metadata = get_checkpoint_metadata(config, metadata)
        versions = checkpoint["channel_versions"]
        known = self._values.get((partition, before), {})
        values: dict[str, Raw] = {}
        for name, value in checkpoint["channel_values"].items():
            version, raw = known.get(name, (None, None))
            if raw is None or name in new_versions or version != versions.get(name):
                raw = await self._raw(partition, value)
            values[name] = raw
        rest = {name: value for name, value in checkpoint.items() if name != "channel_values"}
        body = await self._raw(partition, (rest, metadata))
        content = rows.Checkpoint(namespace, checkpoint["id"], parent, body, values)
        properties = await self._rows.properties(partition, content, (body, *values.values()))
        properties |= {"kind": "c", "thread": thread, "parent": before if parent else None}
        properties |= _columns(metadata)
        if (run := properties.get("run_id")) is not None:
            await self._index(run, thread)
        place, claim = (partition, before), {"kind": "n", "next": key}
        seen = self._of_run(place)
        if seen is not None:
            if seen.is_lost:
                raise _conflict(thread, parent)
            properties["by"] = ",".join(sorted(seen.runs))
        operations: list[TableOperation] = [Upsert(key, properties, "replace")]
        if parent and names_in(properties):
            # Who deletes a thread deletes its large values: none of a checkpoint that stays.
            operations.append(Update(before, {}))
        try:
            if self._strict:
                operations += await self._claims(place, parent, claim, metadata.get("source") == "fork", seen)
            else:
                operations.append(Upsert(f"{before}!>", claim, "replace"))
            await self._rows.tables.batch(self._rows.table, partition, operations)
        except (PreconditionFailedError, KeyNotFoundError) as error:
            there = await self._rows.tables.get(self._rows.table, partition, f"{before}!>", default=None)
            if there is None or there.properties["next"] != key:
                raise _conflict(thread, parent) from error
            # It is this very checkpoint, stored again.
            await self._rows.tables.upsert(self._rows.table, partition, key, properties, mode="replace")
        if seen is not None:
            seen.is_over = True
        if (of_run := runs.seen_by.get(None)) is not None:
            of_run[self._name, (partition, key)] = Seen(runs.run_id() if seen is None else seen.run)
            while len(of_run) > runs.STEPS:
                del of_run[next(iter(of_run))]
        self._remember((partition, key), values, versions)
        return {
            "configurable": {
                "thread_id": thread,
                "checkpoint_ns": namespace,
                "checkpoint_id": checkpoint["id"],
            }
        }

    async def _claims(
        self, place: Place, parent: str | None, claim: dict[str, Any], is_fork: bool, seen: Seen | None
    ) -> list[TableOperation]:
        """What makes sure, in the transaction of a checkpoint, that no other follows the same one."""
        partition, before = place
        is_first = before.endswith("!z")
        if not is_fork and place not in runs.older_read.get() and (not is_first or place in self._empty):
            claims: list[TableOperation] = [Insert(f"{before}!>", claim)]
            if seen is not None and seen.others:
                # What an earlier run was given: who changes it and is late, or has done so since, loses.
                given = [key for key in seen.others if runs.is_given(key.removeprefix(f"{before}!t"), parent)]
                claims += [Update(key, {}, seen.etags[key]) for key in sorted(given)]
            return claims
        claims = [Upsert(f"{before}!>", claim, "replace")]
        if not is_first or is_fork:
            # Whoever is about to go on from the newest one has lost, too.
            newest = await self._first(partition, *_range_of(before))
            if newest is not None and newest.claim is None and newest.prefix not in (before, claim["next"]):
                claims.append(Insert(f"{newest.prefix}!>", claim))
        return claims

    async def _raw(self, partition: str, value: Any) -> Raw:
        return await self._rows.raw(partition, self.serde.dumps_typed(value))

    @override
    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """See `BaseCheckpointSaver`: one transaction; what a task has written already stays as it is."""
        with self._underway.write(_thread_of(config)):
            await self._put_writes(config, writes, task_id, task_path)

    async def _put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str
    ) -> None:
        thread, namespace, checkpoint = _addressed(config)
        if checkpoint is None:
            raise InvalidArgumentError("writes belong to a checkpoint", field="checkpoint_id", limit="its id")
        partition, group = key_of(thread), row_of(namespace, checkpoint)
        key = f"{group}!t{key_of(task_id)}"
        regular: list[Write] = []
        special: dict[str, TableOperation] = {}
        for index, (channel, value) in enumerate(writes):
            fixed = WRITES_IDX_MAP.get(channel)
            raw = await self._raw(partition, value)
            write = Write(task_path, task_id, index if fixed is None else fixed, channel, raw)
            if fixed is None:
                regular.append(write)
            else:
                row = f"{key}!{fixed}"
                special[row] = Upsert(row, await self._written(partition, [write]), "replace")
        place = partition, group
        of_input = runs.is_input(task_id, checkpoint)
        seen = self._of_run(place)
        change: TableOperation | None = None
        if regular:
            change = Insert(key, await self._written(partition, regular, seen))
        for _ in range(_ATTEMPTS):
            changes = [*special.values(), *([change] if change is not None else [])]
            try:
                etags = await self._rows.tables.batch(self._rows.table, partition, changes)
            except PreconditionFailedError:
                there = await self._rows.tables.get(self._rows.table, partition, key, default=None)
                # Of a checkpoint that was still being stored it was not known.
                seen = seen or self._of_run(place)
            else:
                if seen is not None and change is not None:
                    seen.etags[key] = etags[-1] or ""
                    seen.others.discard(key)
                return
            if there is None:
                change = Insert(key, await self._written(partition, regular, seen))
                continue
            had = await self._rows.content(there, list[Write])
            new = [write for write in regular if write.index not in {each.index for each in had}]
            by = there.properties.get("by")
            if all(write in had for write in regular):
                if seen is not None and by:
                    seen.runs.add(by)
                change = None
                continue
            if seen is not None and by != seen.run and there.etag != seen.etags.get(key):
                # Another run does the same task, with another result: only one of the two can go on.
                if seen.is_over:
                    return
                seen.is_lost = True
                raise _conflict(thread, checkpoint)
            if self._strict and of_input:
                # What a run is given is part of the state that its first checkpoint stands for.
                if await self._rows.tables.get(self._rows.table, partition, f"{group}!>", default=None):
                    raise _conflict(thread, checkpoint)
                change = Update(key, await self._written(partition, regular, seen), there.etag, "replace")
            elif new:
                change = Update(key, await self._written(partition, had + new, seen), there.etag, "replace")
            else:
                change = None
        raise _conflict(thread, checkpoint)

    def _of_run(self, place: Place) -> Seen | None:
        """None where forks are meant, or the run has not read the thread."""
        if not self._strict or place in runs.older_read.get():
            return None
        return runs.seen_by.get({}).get((self._name, place))

    async def _written(self, partition: str, writes: list[Write], seen: Seen | None = None) -> dict[str, Any]:
        properties = await self._rows.properties(partition, writes, [each.value for each in writes])
        return {"kind": "w", "by": None if seen is None else seen.run} | properties

    # -- whole threads

    @override
    async def adelete_thread(self, thread_id: str) -> None:
        await self._delete(key_of(thread_id))

    async def _end(self, partition: str) -> bool:
        """Delete a thread whose time is over, but nothing that is written to it meanwhile; whether it was."""
        assert self._ttl is not None  # noqa: S101 - asked by its callers
        end = datetime.now(UTC) - self._ttl
        select = ["run_id", *rows.NAME_PROPERTIES]
        found = [row async for row in self._rows.found(partition, "c!", 'c"', select=select)]
        if any(row.timestamp >= end for row in found):
            return False
        if not await self._rows.delete_unchanged(partition, found):
            return False
        left = [row async for row in self._rows.found(partition, "c!", 'c"', select=rows.NAME_PROPERTIES)]
        await self._rows.delete_objects(partition, rows.names_of(found) - rows.names_of(left))
        await self._forget({run for row in found if (run := row.properties.get("run_id"))}, partition)
        return bool(found)

    async def _delete(self, partition: str) -> None:
        found = [row async for row in self._rows.found(partition, "c!", 'c"', select=["run_id"])]
        runs = {run for row in found if (run := row.properties.get("run_id")) is not None}
        await self._rows.delete(partition, [row.row_key for row in found])
        await self._rows.delete_objects(partition)
        await self._forget(runs, partition)

    async def _forget(self, runs: Iterable[str], partition: str) -> None:
        for run in runs:
            place = f"r!{key_of(run)}", f"r!{partition}"
            await self._rows.tables.delete(self._rows.table, *place, missing_ok=True)
            self._indexed.pop(place)

    async def _index(self, run: str, thread: str) -> None:
        """Make the thread one that is found by this run, before it has anything of it."""
        place = f"r!{key_of(run)}", f"r!{key_of(thread)}"
        if place not in self._indexed:
            await self._rows.tables.upsert(self._rows.table, *place, {"kind": "r", "thread": thread})
            self._indexed[place] = True

    @override
    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints of these runs and their writes, in all threads. What delta channels of the
        checkpoints that stay need of them is kept with these."""
        for run in run_ids:
            found = [row async for row in self._rows.found(f"r!{key_of(run)}", "r!", 'r"')]

            def chosen(listed: list[Entity], run: str = run) -> set[str]:
                return {row.row_key for row in listed if row.properties.get("run_id") == run}

            for row in found:
                partition = row.row_key.removeprefix("r!")
                await chains.remove(self._rows, partition, chosen)
                await self._forget([run], partition)

    @override
    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Keep the newest checkpoint of each namespace, with what its delta channels need of its ancestors;
        with ``strategy="delete"`` nothing. For threads that nobody writes at the moment."""
        if strategy not in ("keep_latest", "delete"):
            limit = '"keep_latest" or "delete"'
            raise InvalidArgumentError(f"strategy is {strategy!r}", field="strategy", limit=limit)

        def older(listed: list[Entity]) -> set[str]:
            newest = {row.row_key.rpartition("!")[0]: row.row_key for row in reversed(listed)}
            return {row.row_key for row in listed} - set(newest.values())

        for thread in thread_ids:
            if strategy == "delete":
                await self.adelete_thread(thread)
            else:
                runs = await chains.remove(self._rows, key_of(thread), older)
                await self._forget(runs, key_of(thread))

    @override
    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy a thread with its whole history.

        :raises PreconditionFailedError: the target has checkpoints.
        """
        source, target = key_of(source_thread_id), key_of(target_thread_id)
        await chains.copy(self._rows, source, target, target_thread_id, self._index)

    async def asweep(self) -> int:
        """Delete the threads that nothing was written to for ``ttl`` seconds; return how many."""
        if self._ttl is None:
            return 0
        old = self._rows.found(
            None, "c!", 'c"', where="Timestamp lt @end", select=["kind"], end=datetime.now(UTC) - self._ttl
        )
        over = dict.fromkeys([row.partition_key async for row in old])
        return sum([await self._end(partition) for partition in over if await self._is_idle(partition)])

    async def _is_idle(self, partition: str) -> bool:
        assert self._ttl is not None  # noqa: S101 - asked by its callers
        end = datetime.now(UTC) - self._ttl
        recent = self._rows.found(partition, "c!", 'c"', first=1, where="Timestamp ge @end", end=end)
        async with aclosing(recent) as rows_:
            return await anext(rows_, None) is None

    async def _is_over(self, partition: str, group: Group) -> bool:
        """Whether the time of a thread with this checkpoint is over."""
        assert group.checkpoint is not None  # noqa: S101 - see Rows.groups
        if self._ttl is None or group.checkpoint.timestamp + self._ttl >= datetime.now(UTC):
            return False
        return await self._is_idle(partition)

    # -- without async

    def close(self) -> None:
        """Close what calls without async have opened; the storage stays open."""
        self._blocking.close()

    def _call[T](self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._blocking.call(coroutine)

    @override
    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        found, place, is_older, seen = self._call(self._found(config))
        runs.mark(place, is_older)  # In the context of the caller.
        runs.note(seen)
        return found

    @override
    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        for each, older in iterated(self._blocking, self._listed(config, filter, before, limit)):
            runs.mark(older, True)
            if each is not None:
                yield each

    def sweep(self) -> int:
        """`asweep` without async."""
        return self._call(self.asweep())

    if not TYPE_CHECKING:  # The types are those of the base class.
        put = awaited(aput)
        put_writes = awaited(aput_writes)
        get_delta_channel_history = awaited(aget_delta_channel_history)
        delete_thread = awaited(adelete_thread)
        delete_for_runs = awaited(adelete_for_runs)
        copy_thread = awaited(acopy_thread)
        prune = awaited(aprune)

    @override
    def get_next_version(self, current: str | None, channel: None) -> str:
        """A number that counts up, and chance: two branches of a thread never share a version."""
        number = 0 if current is None else int(str(current).partition(".")[0])
        return f"{number + 1:032}.{random.random():016}"  # noqa: S311 - no secret


def _addressed(config: RunnableConfig) -> tuple[str, str, str | None]:
    """Thread, namespace, checkpoint."""
    place = config.get("configurable", {})
    if (thread := place.get("thread_id")) is None:
        raise InvalidArgumentError(
            "the config names no thread",
            field="configurable.thread_id",
            remedy='{"configurable": {"thread_id": "..."}}',
        )
    return str(thread), place.get("checkpoint_ns", ""), get_checkpoint_id(config) or None


def _thread_of(config: RunnableConfig) -> Place:
    thread, namespace, _ = _addressed(config)
    return key_of(thread), namespace


def _range(namespace: str, checkpoint: str | None) -> tuple[str, str]:
    """The rows of a checkpoint, or of all."""
    if checkpoint is not None:
        key = row_of(namespace, checkpoint)
        return key, behind(key)
    return _range_of(row_of(namespace, None))


def _range_of(row: str) -> tuple[str, str]:
    """All rows of its namespace."""
    namespace = row.rpartition("!")[0]
    return f"{namespace}!", behind(namespace)


def _columns(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, kind in _FILTERED.items() if type(value := metadata.get(name)) is kind}


def _conflict(thread: str, checkpoint: str | None) -> ThreadConflictError:
    where = "its beginning" if checkpoint is None else f"checkpoint {checkpoint}"
    return ThreadConflictError(
        f"another writer has continued thread {thread!r} from {where}, or deleted it; this was not stored",
        field="thread_id",
        remedy="look at the state and go on from there, or let runs of a thread wait for "
        'each other; AgentStorageSaver(on_conflict="last_writer_wins") lets them fork it',
    )
