"""`AgentStorageSaver`: LangGraph's own suite, threads that nobody forks silently, and states that survive
what removes and copies checkpoints."""

from __future__ import annotations

import asyncio
import operator
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID, uuid4, uuid5

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver, empty_checkpoint
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Overwrite, interrupt
from typing_extensions import TypedDict

from integrations.langgraph import AgentStorageSaver, ThreadConflictError
from storage_lib import (
    InvalidArgumentError,
    InvalidKeyError,
    KeyNotFoundError,
    MemoryBackend,
    PreconditionFailedError,
    SerializationError,
    StorageConfig,
    StorageManager,
)
from tests.counting_proxy import counted
from tests.framework_table import table
from tests.http_app import config_of

# azure-data-tables reads error bodies so.
pytestmark = pytest.mark.filterwarnings("ignore:Testing an element's truth value:DeprecationWarning")


@pytest.fixture(params=["memory", "file"])
async def storage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StorageManager]:
    async with StorageManager(StorageConfig(storage_type=request.param, base_path=tmp_path)) as opened:
        yield opened


@pytest.fixture
async def any_storage(kind: tuple[str, Any], tmp_path: Path) -> AsyncIterator[StorageManager]:
    async with StorageManager(await config_of(*kind, tmp_path)) as opened:
        yield opened


def config(thread: str, checkpoint: str | None = None, namespace: str = "") -> Any:
    place = {"thread_id": thread, "checkpoint_ns": namespace}
    return {"configurable": place | ({"checkpoint_id": checkpoint} if checkpoint else {})}


async def put(
    saver: BaseCheckpointSaver[Any],
    parent: Any,
    values: dict[str, Any] | None = None,
    *,
    step: int = 0,
    **metadata: Any,
) -> Any:
    """A checkpoint after ``parent``."""
    versions = dict.fromkeys(values or {}, f"{step + 1:032}.{step}")
    checkpoint = empty_checkpoint() | {
        "id": str(uuid6()),
        "channel_values": values or {},
        "channel_versions": versions,
    }
    described: Any = {"source": "loop", "step": step, "parents": {}} | metadata
    return await saver.aput(parent, checkpoint, described, versions)  # type: ignore[arg-type]


# -- the framework's own suite


@pytest.mark.parametrize(
    ("kind", "large"),
    [("memory", 32_768), ("memory", 0), ("file", 32_768), ("file", 0), ("azurite", 32_768), ("moto", 0)],
    indirect=["kind"],
)
async def test_it_passes_the_conformance_suite(any_storage: StorageManager, large: int) -> None:

    @checkpointer_test(name="AgentStorageSaver")
    async def saver() -> AsyncIterator[AgentStorageSaver]:
        yield AgentStorageSaver(any_storage, large=large)

    report = await validate(saver)
    failures = [failure for result in report.results.values() for failure in result.failures]
    assert failures == []
    assert [name for name, result in report.results.items() if not result.passed] == []
    assert len(report.results) == 8
    assert sum(result.tests_passed for result in report.results.values()) == table()["LangGraph"].suite


# -- runs that are cancelled


class Log(TypedDict):
    log: Annotated[list[str], operator.add]


async def turns_of_the_loop() -> None:
    """Whatever can go on without another's doing has gone on; what is done in threads is not waited for."""
    for _ in range(500):
        await asyncio.sleep(0)


async def test_a_cancelled_run_is_followed_by_another_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """LangGraph leaves the last writes of a run behind that is cancelled while it waits for them."""
    saver = AgentStorageSaver(StorageManager(backend=MemoryBackend()))
    built = StateGraph(Log)
    for name in "abc":

        async def node(state: Log, name: str = name) -> Log:
            return {"log": [name]}

        built.add_node(name, node)
    for edge in ((START, "a"), ("a", "b"), ("b", "c")):
        built.add_edge(*edge)
    graph = built.compile(checkpointer=saver)
    assert len((await graph.ainvoke({"log": ["first"]}, config("t")))["log"]) == 4

    opened, waiting = asyncio.Event(), 0
    batch = saver._rows.tables.batch

    async def gated(*arguments: Any) -> Any:
        nonlocal waiting
        waiting += 1
        await opened.wait()
        return await batch(*arguments)

    monkeypatch.setattr(saver._rows.tables, "batch", gated)
    run = asyncio.ensure_future(graph.ainvoke({"log": ["second"]}, config("t")))
    await turns_of_the_loop()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert waiting
    again = asyncio.ensure_future(graph.ainvoke({"log": ["third"]}, config("t")))
    await turns_of_the_loop()
    opened.set()
    assert (await again)["log"] == [*("first", *"abc"), *("second", *"abc"), *("third", *"abc")]


# -- delta channels


def appended(state: list[str], writes: list[list[str]]) -> list[str]:
    return [*state, *(item for write in writes for item in write)]


class State(TypedDict):
    log: Annotated[list[str], DeltaChannel(appended, snapshot_frequency=7)]
    count: int


def graph(saver: BaseCheckpointSaver[Any]) -> Any:
    """Two nodes after each other and two beside each other."""

    def node(name: str) -> Any:
        async def run(state: State) -> dict[str, Any]:
            return {"log": [f"{name}{len(state['log'])}"]} | (
                {"count": state.get("count", 0) + 1} if name == "a" else {}
            )

        return run

    built = StateGraph(State)
    for name in "abcd":
        built.add_node(name, node(name))
    built.add_edge(START, "a")
    built.add_edge("a", "b")
    built.add_edge("a", "c")
    built.add_edge(["b", "c"], "d")
    built.add_edge("d", END)
    return built.compile(checkpointer=saver)


def run_config(thread: str, run: int) -> Any:
    return {"configurable": {"thread_id": thread, "run_id": f"{thread}/run {run}"}}


async def state_of(built: Any, thread: str) -> Any:
    state = await built.aget_state(config(thread))
    return state.values, state.next, state.config, state.metadata


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("turn"), st.integers(0, 2)),
        st.tuples(st.just("prune"), st.just(0)),
        st.tuples(st.just("delete run"), st.integers(0, 5)),
        st.tuples(st.just("copy"), st.just(0)),
        st.tuples(st.just("overwrite"), st.just(0)),
    ),
    min_size=3,
    max_size=12,
)


@settings(max_examples=200 if os.environ.get("SOAK") else 12, deadline=None)
@given(steps=STEPS, large=st.sampled_from([0, 32_768]), durability=st.sampled_from(["sync", "async", "exit"]))
@example(
    steps=[("turn", 0), ("delete run", 1), ("prune", 0), ("turn", 0), ("copy", 0), ("prune", 0)],
    large=0,
    durability="sync",
)
async def test_a_state_with_delta_channels_survives_what_removes_and_copies(
    steps: list[tuple[str, int]], large: int, durability: str
) -> None:
    """The same turns with `InMemorySaver`, from which nothing is removed, have the same state."""
    async with StorageManager(StorageConfig(storage_type="memory")) as storage:
        saver = AgentStorageSaver(storage, large=large)
        ours, theirs = graph(saver), graph(InMemorySaver())
        thread, runs = "t", 0
        for step, number in [("turn", 0), *steps, ("turn", 1)]:
            before = await state_of(ours, thread)
            if step in ("turn", "overwrite"):
                given: Any = {"log": [f"in{runs}"] if step == "turn" else Overwrite([f"new{runs}"])}
                runs += 1
                await ours.ainvoke(given, run_config(thread, runs), durability=durability)
                await theirs.ainvoke(given, run_config("t", runs), durability=durability)
            elif step == "prune":
                await saver.aprune([thread])
                assert await state_of(ours, thread) == before
                assert len([each async for each in saver.alist(config(thread))]) == 1
            elif step == "delete run" and number < runs:  # Not the last, which is the state.
                await saver.adelete_for_runs([f"{name}/run {number}" for name in ("t", thread)])
                assert await state_of(ours, thread) == before
            elif step == "copy":
                source, thread = thread, f"{thread}'"
                await saver.acopy_thread(source, thread)
                assert (await state_of(ours, thread))[0] == before[0]
                await saver.adelete_thread(source)
                assert await ours.aget_state(config(source)) != before
                assert (await state_of(ours, thread))[0] == before[0]
            expected = await theirs.aget_state(config("t"))
            assert (await state_of(ours, thread))[0] == expected.values
        await saver.adelete_thread(thread)
        assert await storage.list_keys("langgraph/") == []
        assert [row.row_key async for row in storage.backend.tables.iterate("checkpoints")] == []


async def test_ancestors_that_go_leave_what_their_channels_were_given(storage: StorageManager) -> None:
    """Without it 12 messages would be gone, and no error would tell."""
    saver = AgentStorageSaver(storage)
    at, head = config("t"), None
    for step in range(14):
        values = {"log": _DeltaSnapshot(["begun"])} if step == 0 else {}
        at = head = await put(saver, at, values, step=step)
        await saver.aput_writes(head, [("log", [f"m{step}"])], str(uuid4()))
    before = await saver.aget_delta_channel_history(config=head, channels=["log"])
    assert len(before["log"]["writes"]) == 13
    await saver.aprune(["t"])
    assert await saver.aget_delta_channel_history(config=head, channels=["log"]) == before
    later = await put(saver, head, step=14)
    after = await saver.aget_delta_channel_history(config=later, channels=["log"])
    assert [write[2] for write in after["log"]["writes"]] == [[f"m{step}"] for step in range(14)]
    await saver.aprune(["t"])
    assert await saver.aget_delta_channel_history(config=later, channels=["log"]) == after


@pytest.mark.parametrize(
    ("kind", "large"),
    [("memory", 32_768), ("file", 32_768), ("file", 0), ("azurite", 32_768), ("moto", 0)],
    indirect=["kind"],
)
async def test_the_history_of_delta_channels_keeps_its_contract(
    any_storage: StorageManager, large: int
) -> None:
    """What LangGraph's repository asks of it, and its package of the suite does not yet."""
    saver = AgentStorageSaver(any_storage, large=large)
    snapshot = _DeltaSnapshot("snapshot")
    # Before each step the values of its checkpoint; then the writes there: channel, value, task, path.
    steps: list[tuple[dict[str, Any], list[tuple[str, Any, str, str]]]] = [
        ({"plain": ["oldest"]}, [("plain", "hidden", "t", "p"), ("bare", 0, "t", "p")]),
        ({"plain": ["older"], "delta": snapshot}, [("plain", 1, "t", "p"), ("delta", 1, "t", "p")]),
        ({}, [("plain", "last", "a", "~pull, 02"), ("plain", "first", "z", "~pull, 01")]),
        ({"late": snapshot}, [("plain", "task", "a", "~pull, 01"), ("plain", "input", "z", "")]),
        ({}, [("bare", 4, "t", "p"), ("late", 4, "t", "p")]),
        ({}, [("plain", "pending", "t", "p"), ("late", "pending", "t", "p")]),
    ]
    at, places = config(uuid4().hex), []
    for step, (values, writes) in enumerate(steps):
        at = await put(saver, at, values, step=step)
        places.append(at)
        for channel, value, task, path in writes:
            await saver.aput_writes(at, [(channel, value)], task + channel, path)

    async def history(place: Any, *channels: str) -> dict[str, Any]:
        found = await saver.aget_delta_channel_history(config=place, channels=channels)
        assert list(found) == list(channels)
        return {
            name: (entry.get("seed", "none"), [write[2] for write in entry["writes"]])
            for name, entry in found.items()
        }

    everything = await history(at, "plain", "delta", "late", "bare", "unknown")
    assert everything == {
        "plain": (["older"], [1, "first", "last", "input", "task"]),
        "delta": (snapshot, [1]),
        "late": (snapshot, [4]),
        "bare": ("none", [0, 4]),
        "unknown": ("none", []),
    }
    for channel, entry in everything.items():  # Each ends by itself.
        assert await history(at, channel) == {channel: entry}
    assert await history(at) == {}
    assert await history(places[1], "plain", "delta") == {
        "plain": (["oldest"], ["hidden"]),
        "delta": ("none", []),
    }
    assert await history(places[0], "plain") == {"plain": ("none", [])}
    await saver.aprune([at["configurable"]["thread_id"]])
    assert await history(at, *everything) == everything


def _histories() -> st.SearchStrategy[list[tuple[int, bool, int]]]:
    """Checkpoints: how far before each its parent is, whether it has a value, how many tasks wrote."""
    return st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.integers(0, 3)), min_size=2, max_size=12)


@settings(max_examples=600 if os.environ.get("SOAK") else 30, deadline=None)
@given(shape=_histories(), large=st.sampled_from([0, 32_768]))
async def test_the_history_of_a_channel_is_what_the_saver_in_memory_says(
    shape: list[tuple[int, bool, int]], large: int
) -> None:
    async with StorageManager(StorageConfig(storage_type="memory")) as storage:
        savers = (
            AgentStorageSaver(storage, on_conflict="last_writer_wins", large=large),
            InMemorySaver(),
        )
        at: list[Any] = [config("t")]
        for number, (back, has_value, tasks) in enumerate(shape):
            parent = at[-1 - min(back, len(at) - 1)]
            checkpoint = empty_checkpoint() | {"id": f"{number:05}"}
            versions: Any = {}
            if has_value:
                checkpoint |= {"channel_values": {"ch": [number]}, "channel_versions": {"ch": number + 1}}
                versions = {"ch": number + 1}
            for saver in savers:
                stored = await saver.aput(parent, checkpoint, {"step": number}, versions)  # type: ignore[arg-type]
                for task in range(tasks):
                    writes = [("ch", (number, task)), ("other", task)]
                    await saver.aput_writes(stored, writes, f"task{9 - task}", f"path{task % 2}")
            at.append(stored)
        for place in at[1:]:
            mine, other = [
                await saver.aget_delta_channel_history(config=place, channels=["ch", "other", "none"])
                for saver in savers
            ]
            assert mine == other
            tuples = [await saver.aget_tuple(place) for saver in savers]
            assert tuples[0].pending_writes == tuples[1].pending_writes  # type: ignore[union-attr]
            assert tuples[0].parent_config == tuples[1].parent_config  # type: ignore[union-attr]


# -- two writers


async def test_two_writers_of_a_thread_do_not_fork_it_silently(storage: StorageManager) -> None:
    """Two processes, each with a saver of its own."""
    one, other = AgentStorageSaver(storage), AgentStorageSaver(storage)
    first = await put(one, config("t"), {"a": 1})
    for saver in (one, other):
        assert await saver.aget_tuple(config("t"))
    kept = await put(one, first, {"a": 2}, step=1)
    with pytest.raises(ThreadConflictError, match="another writer has continued thread 't'") as refused:
        await put(other, first, {"a": 3}, step=1)
    assert isinstance(refused.value, PreconditionFailedError)
    assert refused.value.field == "thread_id"
    assert "last_writer_wins" in (refused.value.remedy or "")
    listed = [each.config async for each in one.alist(config("t"))]
    assert listed == [kept, first]
    # It reads again, and may go on.
    again = await other.aget_tuple(config("t"))
    assert again is not None
    assert (await put(other, again.config, {"a": 4}, step=2))["configurable"]["thread_id"] == "t"


@pytest.mark.parametrize("look", ["by id", "before"])
async def test_who_looks_at_an_old_checkpoint_lets_nobody_fork_by_accident(
    storage: StorageManager, look: str
) -> None:
    """Two runs and a page that shows the history, in a process with one saver."""
    saver = AgentStorageSaver(storage)
    first = await put(saver, config("t"), {"a": 1})
    looked, stored = asyncio.Event(), asyncio.Event()

    async def slow() -> Any:
        read = await saver.aget_tuple(config("t"))
        assert read is not None
        stored.set()
        await looked.wait()
        return await put(saver, read.config, {"a": 3}, step=1)

    async def page() -> None:
        if look == "by id":
            assert await saver.aget_tuple(first)
        else:
            assert [each.config async for each in saver.alist(config("t"), before=kept)] == [first]
        looked.set()

    late = asyncio.create_task(slow())
    await stored.wait()
    kept = await put(saver, first, {"a": 2}, step=1)
    await asyncio.create_task(page())
    with pytest.raises(ThreadConflictError):
        await late
    assert [each.config async for each in saver.alist(config("t"))] == [kept, first]


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
def test_a_replay_without_async_is_no_conflict(tmp_path: Path, durability: Any) -> None:
    storage = StorageManager(StorageConfig(base_path=tmp_path))
    saver = AgentStorageSaver(storage)
    built = StateGraph(State)
    for name in "ab":
        built.add_node(name, lambda state, name=name: {"log": [name]})
    compiled = built.add_edge(START, "a").add_edge("a", "b").compile(checkpointer=saver)
    for turn in range(2):
        compiled.invoke({"log": [f"in{turn}"]}, config("t"))
    old = next(
        state
        for state in compiled.get_state_history(config("t"))
        if state.next == ("b",) and state.values["log"] == ["in0", "a"]
    )
    for _ in range(2):
        replayed = list(compiled.stream(None, old.config, stream_mode="values", durability=durability))[-1]
        assert replayed == {"log": ["in0", "a", "b"]}
        assert compiled.get_state(config("t")).values == replayed
    saver.close()
    asyncio.run(storage.close())


async def test_a_thread_that_is_deleted_during_a_run_is_not_left_broken(storage: StorageManager) -> None:
    """Its large values are gone, so a checkpoint that goes on with them is refused."""
    saver, large = AgentStorageSaver(storage), {"a": "x" * 100_000}
    first = await put(saver, config("t"), large)
    assert await saver.aget_tuple(config("t"))
    await AgentStorageSaver(storage).adelete_thread("t")
    checkpoint = empty_checkpoint() | {
        "id": str(uuid6()),
        "channel_values": large,
        "channel_versions": {"a": f"{1:032}.0"},
    }
    with pytest.raises(ThreadConflictError, match="or deleted it"):
        await saver.aput(first, checkpoint, {"step": 1}, {})  # type: ignore[arg-type]
    assert await saver.aget_tuple(config("t")) is None
    again = await put(saver, config("t"), large)
    found = await AgentStorageSaver(storage).aget_tuple(config("t"))
    assert found is not None
    assert (found.config, found.checkpoint["channel_values"]) == (again, large)


@pytest.mark.parametrize("how", ["delete", "prune"])
async def test_who_reads_what_is_deleted_meanwhile_reads_what_is_left(
    storage: StorageManager, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    saver, other = AgentStorageSaver(storage), AgentStorageSaver(storage)
    at = await put(saver, config("t"), {"a": "x" * 100_000})
    load, newest = saver._rows._load, None

    async def late(*given: Any) -> bytes:
        nonlocal newest
        if newest is None:
            newest = await put(other, at, {"a": "y" * 100_000}, step=1)
            await (other.aprune(["t"]) if how == "prune" else other.adelete_thread("t"))
        return await load(*given)

    monkeypatch.setattr(saver._rows, "_load", late)
    found = await saver.aget_tuple(config("t"))
    assert (found and found.config) == (newest if how == "prune" else None)
    newest, at = None, newest if how == "prune" else await put(other, config("t"), {"a": "x" * 100_000})
    assert [each async for each in saver.alist(config("t"))] == []
    await storage.delete_prefix("langgraph/")
    if how == "prune":
        with pytest.raises(KeyNotFoundError):
            await saver.aget_tuple(config("t"))


async def test_two_writers_do_not_begin_a_thread_twice(storage: StorageManager) -> None:
    one, other = AgentStorageSaver(storage), AgentStorageSaver(storage)
    for saver in (one, other):
        assert await saver.aget_tuple(config("t")) is None
    await put(one, config("t"), step=-1)
    with pytest.raises(ThreadConflictError, match="its beginning"):
        await put(other, config("t"), step=-1)


async def test_the_last_writer_wins_where_that_was_chosen(storage: StorageManager) -> None:
    savers = [AgentStorageSaver(storage, on_conflict="last_writer_wins") for _ in range(2)]
    first = await put(savers[0], config("t"))
    await put(savers[0], first, step=1)
    last = await put(savers[1], first, step=1)
    latest = await savers[0].aget_tuple(config("t"))
    assert latest is not None
    assert latest.config == last
    with pytest.raises(InvalidArgumentError) as refused:
        AgentStorageSaver(storage, on_conflict="first")  # type: ignore[arg-type]
    assert refused.value.field == "on_conflict"
    for large in (-1, 32_769):
        with pytest.raises(InvalidArgumentError) as refused:
            AgentStorageSaver(storage, large=large)
        assert refused.value.field == "large"


async def test_a_checkpoint_that_is_stored_again_is_no_conflict(storage: StorageManager) -> None:
    saver = AgentStorageSaver(storage)
    first = await put(saver, config("t"))
    checkpoint = empty_checkpoint() | {"id": str(uuid6())}
    for _ in range(2):
        await saver.aput(first, checkpoint, {"step": 1}, {})  # type: ignore[arg-type]
    assert len([each async for each in saver.alist(config("t"))]) == 2


@pytest.mark.parametrize("writers", [2, 5])
async def test_runs_at_the_same_time_end_in_one_line(storage: StorageManager, writers: int) -> None:
    """All but one of the graphs that begin together are told; what is stored is the one's."""
    graphs = [graph(AgentStorageSaver(storage)) for _ in range(writers)]
    await graphs[0].ainvoke({"log": ["begun"]}, config("t"))
    results = await asyncio.gather(
        *(each.ainvoke({"log": [f"by{number}"]}, config("t")) for number, each in enumerate(graphs)),
        return_exceptions=True,
    )
    told = [result for result in results if isinstance(result, ThreadConflictError)]
    stored = [result for result in results if isinstance(result, dict)]
    assert len(told) + len(stored) == writers
    state = await graphs[0].aget_state(config("t"))
    assert len(stored) <= 1
    if stored:
        assert state.values == stored[0]
    parents = [each.parent_config async for each in AgentStorageSaver(storage).alist(config("t"))]
    ids = [parent["configurable"]["checkpoint_id"] for parent in parents if parent]
    assert len(ids) == len(set(ids)) == len(parents) - 1


async def test_a_fork_that_is_meant_is_no_conflict(storage: StorageManager) -> None:
    ours = graph(AgentStorageSaver(storage))
    await ours.ainvoke({"log": ["one"]}, config("t"))
    await ours.ainvoke({"log": ["two"]}, config("t"))
    history = [state async for state in ours.aget_state_history(config("t"))]
    old = next(state for state in history if state.next == ("a",) and state.values["log"] == ["one"])
    replayed = await ours.ainvoke(None, old.config)
    assert replayed["log"][:2] == ["one", "a1"]
    assert (await ours.aget_state(config("t"))).values == replayed
    branched = await ours.ainvoke({"log": ["else"]}, old.config)
    assert branched["log"][:2] == ["one", "else"]
    changed = await ours.aupdate_state(old.config, {"log": ["edited"]}, as_node="a")
    assert (await ours.aget_state(changed)).values["log"] == ["one", "edited"]
    assert (await ours.ainvoke(None, changed))["log"][:2] == ["one", "edited"]
    # Whoever was about to go on from what was the newest has lost.
    late = graph(AgentStorageSaver(storage))
    before = await late.checkpointer.aget_tuple(config("t"))
    await ours.aupdate_state(old.config, {"log": ["again"]}, as_node="a")
    with pytest.raises(ThreadConflictError):
        await put(late.checkpointer, before.config)


async def test_an_interrupted_run_goes_on_in_another_process(storage: StorageManager) -> None:
    def asked(saver: Any) -> Any:
        def ask(state: State) -> dict[str, Any]:
            return {"log": [f"said {interrupt('well?')}"]}

        built = StateGraph(State).add_node("ask", ask)
        return built.add_edge(START, "ask").add_edge("ask", END).compile(checkpointer=saver)

    stopped = await asked(AgentStorageSaver(storage)).ainvoke({"log": ["hello"]}, config("t"))
    assert stopped["__interrupt__"][0].value == "well?"
    resumed = await asked(AgentStorageSaver(storage)).ainvoke(Command(resume="yes"), config("t"))
    assert resumed["log"] == ["hello", "said yes"]


class Talk(TypedDict):
    log: Annotated[list[str], DeltaChannel(appended, snapshot_frequency=50)]
    who: str


def talk(saver: Any, name: str, both: asyncio.Barrier) -> Any:
    """A graph that asks, and goes on when two runs of it have been answered."""

    async def ask(state: Talk) -> dict[str, Any]:
        said = interrupt("well?")
        await both.wait()
        return {"log": [f"{name} {said}"], "who": name}

    async def after(state: Talk) -> dict[str, Any]:
        return {"log": [f"after {name}"], "who": name}

    built = StateGraph(Talk).add_node("ask", ask).add_node("after", after)
    return built.add_edge(START, "ask").add_edge("ask", "after").compile(checkpointer=saver)


@pytest.mark.parametrize("saver_for_both", [False, True])
@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Command(resume="yes"), Command(resume="no")),
        (Command(resume="yes"), Command(resume="no", update={"log": ["by the way"]})),
        (Command(resume="yes", update={"log": ["so"]}), Command(resume="no", update={"log": ["or so"]})),
    ],
)
async def test_of_two_that_resume_an_interrupt_at_once_the_state_has_what_one_wrote(
    storage: StorageManager, one: Any, other: Any, durability: str, saver_for_both: bool
) -> None:
    both = asyncio.Barrier(2)
    savers = (
        [AgentStorageSaver(storage)] * 2 if saver_for_both else [AgentStorageSaver(storage) for _ in "ab"]
    )
    graphs = [talk(saver, name, both) for saver, name in zip(savers, "ab", strict=True)]
    await graphs[0].ainvoke({"log": ["hello"]}, config("t"))
    results = await asyncio.gather(
        *(
            each.ainvoke(given, config("t"), durability=durability)
            for each, given in zip(graphs, (one, other), strict=True)
        ),
        return_exceptions=True,
    )
    told = [result for result in results if isinstance(result, ThreadConflictError)]
    stored = [result for result in results if isinstance(result, dict)]
    assert len(told) + len(stored) == 2
    assert told
    state = (await graphs[0].aget_state(config("t"))).values
    names = {text[-1] if "after" in text else text[0] for text in state["log"] if text[0] in "ab"}
    assert len(names) <= 1, state
    if stored:
        assert state == stored[0]
    # Who comes later goes on with it.
    later = talk(AgentStorageSaver(storage), "c", asyncio.Barrier(1))
    result = await later.ainvoke(Command(resume="late") if not stored else {"log": ["more"]}, config("t"))
    assert (await later.aget_state(config("t"))).values.get("log") == result["log"]


async def test_runs_after_each_other_add_to_what_a_failed_one_was_given(storage: StorageManager) -> None:
    """The second has read what the first one left, so it is no conflict; as with the saver in memory."""
    states: list[Any] = []
    for saver in (AgentStorageSaver(storage), InMemorySaver()):
        failures = 2

        def ask(state: Talk) -> dict[str, Any]:
            nonlocal failures
            said = interrupt("well?")
            if (failures := failures - 1) >= 0:
                raise ValueError("not yet")
            return {"log": [said]}

        built = StateGraph(Talk).add_node("ask", ask).add_edge(START, "ask").compile(checkpointer=saver)
        await built.ainvoke({"log": ["hello"]}, config("t"))
        for attempt in range(2):
            with pytest.raises(ValueError, match="not yet"):
                await built.ainvoke(Command(resume="a", update={"log": [f"try {attempt}"]}), config("t"))
        result = await built.ainvoke(Command(resume="b", update={"log": ["third"]}), config("t"))
        state = (await built.aget_state(config("t"))).values
        assert state == result
        states.append(state)
    assert states[0] == states[1]


async def test_what_another_run_wrote_at_a_checkpoint_is_no_part_of_its_successor(
    storage: StorageManager,
) -> None:
    """Each step of two runs, in an order in which the loser writes first and last."""
    saver, other = AgentStorageSaver(storage), AgentStorageSaver(storage)
    first = await put(saver, config("t"), {"log": _DeltaSnapshot(["begun"])})
    earlier = [("log", ["earlier"])]
    await saver.aput_writes(first, earlier, "done before")

    async def run(
        name: str, steps: dict[str, asyncio.Event], saver: AgentStorageSaver, tasks: list[str]
    ) -> Any:
        assert await saver.aget_tuple(config("t"))
        steps["read"].set()
        for task in tasks:
            await steps[f"write {task}"].wait()
            await saver.aput_writes(first, [("log", [f"{name} {task}"])], task)
            steps[f"written {task}"].set()
        await steps["put"].wait()
        return await put(saver, first, step=1)

    class Steps(dict[str, asyncio.Event]):
        def __missing__(self, step: str) -> asyncio.Event:
            return self.setdefault(step, asyncio.Event())

    loser, winner = Steps(), Steps()
    late = asyncio.create_task(run("loser", loser, other, ["x", "z"]))
    won = asyncio.create_task(run("winner", winner, saver, ["y"]))
    await loser["read"].wait()
    await winner["read"].wait()
    for steps, step in ((loser, "x"), (winner, "y")):
        steps[f"write {step}"].set()
        await steps[f"written {step}"].wait()
    winner["put"].set()
    head = await won
    loser["write z"].set()
    await loser["written z"].wait()
    loser["put"].set()
    with pytest.raises(ThreadConflictError):
        await late

    async def history(saver: AgentStorageSaver, at: Any) -> list[Any]:
        found = await saver.aget_delta_channel_history(config=at, channels=["log"])
        return [write[2] for write in found["log"]["writes"]]

    expected = [["earlier"], ["winner y"]]
    assert sorted(await history(saver, head)) == expected
    await saver.acopy_thread("t", "copy")
    assert sorted(await history(saver, config("copy", head["configurable"]["checkpoint_id"]))) == expected
    await saver.aprune(["t"])
    assert sorted(await history(other, head)) == expected


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("what", ["input", "command"])
async def test_what_an_earlier_run_was_given_is_changed_by_none_but_who_goes_on(
    storage: StorageManager, what: str, when: str
) -> None:
    earlier, one, other = (AgentStorageSaver(storage) for _ in range(3))
    first = await put(earlier, config("t"), {"log": _DeltaSnapshot([])})
    place: Any = first["configurable"]["checkpoint_id"]
    task = str(uuid5(UUID(place), "__input__") if what == "input" else UUID(int=0))
    assert await earlier.aget_tuple(config("t"))
    await earlier.aput_writes(first, [("log", ["earlier"])], task)
    for saver in (one, other):
        assert await saver.aget_tuple(config("t"))
    # An input takes the place of an earlier one; what a command writes is added.
    given = [("log", ["mine"])] if what == "input" else [("log", ["earlier"]), ("log", ["mine"])]
    if when == "before":
        await other.aput_writes(first, given, task)
        with pytest.raises(ThreadConflictError):
            await put(one, first, step=1)
        head, expected = await put(other, first, step=1), [value for _, value in given]
    else:
        head, expected = await put(one, first, step=1), [["earlier"]]
        with pytest.raises(ThreadConflictError):
            await other.aput_writes(first, given, task)
        with pytest.raises(ThreadConflictError):
            await put(other, first, step=1)
    found = await one.aget_delta_channel_history(config=head, channels=["log"])
    assert [write[2] for write in found["log"]["writes"]] == expected


@pytest.mark.parametrize("first", ["one", "other"])
async def test_a_task_has_the_result_of_one_run(storage: StorageManager, first: str) -> None:
    """The second one to store a result of a task is told, and cannot go on as if it had."""
    savers = {name: AgentStorageSaver(storage) for name in ("one", "other")}
    start = await put(savers["one"], config("t"))
    second = "other" if first == "one" else "one"

    async def of(name: str, *given: Any) -> None:
        await savers[name].aput_writes(start, [("log", list(given)), ("who", name)], "task")

    for saver in savers.values():
        assert await saver.aget_tuple(config("t"))
    await of(first, "x")
    await of(first, "x")  # A repeated call is none of another.
    with pytest.raises(ThreadConflictError):
        await of(second, "y")
    with pytest.raises(ThreadConflictError):
        await put(savers[second], start, step=1)
    await put(savers[first], start, step=1)
    await of(first, "z")  # Late: the checkpoint that it belongs to has a successor.


async def test_a_task_that_ends_before_its_checkpoint_is_stored_has_the_result_of_one_run(
    storage: StorageManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ``durability="async"`` its result may be on the way first, and another run be faster."""
    one, other = AgentStorageSaver(storage), AgentStorageSaver(storage)
    start = await put(one, config("t"))
    assert await one.aget_tuple(config("t"))
    at = str(uuid6())
    batch = storage.backend.tables.batch

    async def run_of_other() -> None:
        assert await other.aget_tuple(config("t"))
        await other.aput_writes(config("t", at), [("log", ["other"])], "task")

    async def late(*given: Any) -> Any:
        monkeypatch.undo()
        checkpoint = empty_checkpoint() | {"id": at}
        await one.aput(start, checkpoint, {"source": "loop", "step": 1, "parents": {}}, {})  # type: ignore[arg-type]
        await asyncio.create_task(run_of_other())
        return await batch(*given)

    monkeypatch.setattr(storage.backend.tables, "batch", late)
    with pytest.raises(ThreadConflictError):
        await one.aput_writes(config("t", at), [("log", ["one"])], "task")
    with pytest.raises(ThreadConflictError):
        await put(one, config("t", at), step=2)


# -- states


class Inner(TypedDict):
    log: Annotated[list[str], DeltaChannel(appended)]


async def test_subgraphs_have_namespaces_of_their_own(storage: StorageManager) -> None:
    saver = AgentStorageSaver(storage)
    inner = StateGraph(Inner).add_node("leaf", lambda state: {"log": ["leaf"]})
    inner.add_edge(START, "leaf").add_edge("leaf", END)
    outer = StateGraph(State).add_node("child", inner.compile(checkpointer=True))
    built = outer.add_edge(START, "child").add_edge("child", END).compile(checkpointer=saver)
    for turn in range(2):
        result = await built.ainvoke({"log": [f"in{turn}"]}, config("t"))
        namespaces = {
            each.config["configurable"]["checkpoint_ns"]
            async for each in saver.alist({"configurable": {"thread_id": "t"}})
        }
        assert namespaces == {"", "child"}
    await saver.aprune(["t"])
    assert len([each async for each in saver.alist({"configurable": {"thread_id": "t"}})]) == 2
    assert (await built.aget_state(config("t"))).values["log"] == result["log"]
    again = await built.ainvoke({"log": ["in2"]}, config("t"))
    assert again["log"][: len(result["log"])] == result["log"]


THREADS = [
    "",
    "a/b#?\\c",
    "A" * 5000,
    "a",
    "A",
    "=41",
    "sne☃man",
    "e\u0301",
    "\u00e9",
    "x\x00y",
    "..",
    "c!x",
]


async def test_any_text_is_a_thread(storage: StorageManager) -> None:
    saver = AgentStorageSaver(storage)
    for number, thread in enumerate(THREADS):
        stored = await put(saver, config(thread, namespace=thread), {"n": number})
        await saver.aput_writes(stored, [("ch", thread)], thread, thread)
    for number, thread in enumerate(THREADS):
        found = await saver.aget_tuple(config(thread, namespace=thread))
        assert found is not None
        assert found.config["configurable"]["thread_id"] == thread  # type: ignore[typeddict-item]
        assert found.config["configurable"]["checkpoint_ns"] == thread  # type: ignore[typeddict-item]
        assert found.checkpoint["channel_values"] == {"n": number}
        assert found.pending_writes == [(thread, "ch", thread)]
    assert len([each async for each in saver.alist(None)]) == len(THREADS)
    with pytest.raises(SerializationError, match="no valid text"):
        await put(saver, config("\ud800", namespace="\ud800"))
    for thread in THREADS[::2]:
        await saver.adelete_thread(thread)
    assert len([each async for each in saver.alist(None)]) == len(THREADS[1::2])


async def test_ids_of_any_text_have_their_order(storage: StorageManager) -> None:
    ours, theirs = AgentStorageSaver(storage, on_conflict="last_writer_wins"), InMemorySaver()
    ids = ["1", "10", "9", "2", "a", "ab", "é", "A-b", "z!"]
    for saver in (ours, theirs):
        for name in ids:
            await saver.aput(config("t"), empty_checkpoint() | {"id": name}, {}, {})  # type: ignore[arg-type]
    for before in (None, config("t", "ab"), config("t", "9"), config("t", "5")):
        mine = [each.checkpoint["id"] async for each in ours.alist(config("t"), before=before)]
        assert mine == [each.checkpoint["id"] async for each in theirs.alist(config("t"), before=before)]
    with pytest.raises(InvalidKeyError) as refused:
        await ours.aget_tuple(config("t", "x" * 101))
    assert refused.value.field == "checkpoint_id"
    with pytest.raises(InvalidArgumentError) as nameless:
        await ours.aget_tuple({"configurable": {}})
    assert nameless.value.field == "configurable.thread_id"


async def test_large_values_are_stored_once_and_leave_nothing_behind(storage: StorageManager) -> None:
    saver = AgentStorageSaver(storage)
    large, small = {"a": "x" * 3_000_000, "b": b"y" * 100_000}, {"c": 1}
    versions = {"a": "1", "b": "1", "c": "1"}
    at = config("t")
    for step in range(4):
        new = versions if step == 0 else {"c": str(step)}
        checkpoint = empty_checkpoint() | {
            "id": str(uuid6()),
            "channel_values": large | small,
            "channel_versions": versions | new,
        }
        at = await saver.aput(at, checkpoint, {"step": step}, new)  # type: ignore[arg-type]
    assert len(await storage.list_keys("langgraph/")) == 2
    await saver.aput_writes(at, [("a", large["a"]), ("c", 2)], "task")
    assert len(await storage.list_keys("langgraph/")) == 3
    found = await AgentStorageSaver(storage).aget_tuple(config("t"))
    assert found is not None
    assert found.checkpoint["channel_values"] == large | small
    assert found.pending_writes == [("task", "a", large["a"]), ("task", "c", 2)]
    await saver.aprune(["t"])
    assert len(await storage.list_keys("langgraph/")) == 3
    await saver.acopy_thread("t", "u")
    await saver.adelete_thread("t")
    assert len(await storage.list_keys("langgraph/")) == 3
    copied = await saver.aget_tuple(config("u"))
    assert copied is not None
    assert copied.checkpoint["channel_values"] == large | small
    with pytest.raises(PreconditionFailedError, match="has checkpoints"):
        await saver.acopy_thread("u", "u")
    await saver.adelete_thread("u")
    assert await storage.list_keys("langgraph/") == []


async def test_a_write_that_was_cut_off_is_not_seen(
    storage: StorageManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Objects first, then one transaction: a process that dies between them has stored no checkpoint."""
    saver = AgentStorageSaver(storage, large=0)
    first = await put(saver, config("t"), {"a": 1})

    async def cut(*_: Any) -> Any:
        raise asyncio.CancelledError

    with monkeypatch.context() as patched:
        patched.setattr(storage.backend.tables.driver, "batch", cut)
        patched.setattr(storage.backend.tables.driver, "write", cut)
        with pytest.raises(asyncio.CancelledError):
            await put(saver, first, {"a": 2}, step=1)
    for each in (saver, AgentStorageSaver(storage)):
        found = await each.aget_tuple(config("t"))
        assert found is not None
        assert found.config == first
    await saver.adelete_thread("t")
    assert await storage.list_keys("langgraph/") == []


async def test_a_listing_reads_no_more_than_is_taken(
    storage: StorageManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    saver = AgentStorageSaver(storage)
    at = config("t")
    for step in range(300):
        at = await put(saver, at, {"n": "x" * 100}, step=step, source="input" if step % 100 == 0 else "loop")
    read = 0
    query = storage.backend.tables.driver.query

    async def counted(*given: Any) -> Any:
        nonlocal read
        page = await query(*given)
        read += len(page.entities)
        return page

    monkeypatch.setattr(storage.backend.tables.driver, "query", counted)
    assert [each.metadata["step"] async for each in saver.alist(config("t"), limit=3)] == [299, 298, 297]
    assert read < 20
    found = saver.alist(config("t"), filter={"source": "input"}, limit=2)
    assert [each.metadata["step"] async for each in found] == [200, 100]
    older = [each.metadata["step"] async for each in saver.alist(config("t"), before=at, limit=1)]
    assert older == [298]


# -- requests


@pytest.mark.parametrize("kind", ["azurite"], indirect=True)
async def test_a_turn_takes_few_requests(kind: tuple[str, Any]) -> None:
    """azure-functions-langgraph needs 37 to 52 for a turn of two nodes, and 17 for the state."""
    parts = dict(part.split("=", 1) for part in kind[1].connection_string.split(";") if part)
    async with (
        counted(parts["BlobEndpoint"]) as (blobs, blob_requests),
        counted(parts["TableEndpoint"]) as (tables, table_requests),
    ):
        parts |= {"BlobEndpoint": blobs, "TableEndpoint": tables}
        account = ";".join(f"{name}={value}" for name, value in parts.items())
        name = f"turns-{uuid4().hex[:12]}"
        settings = StorageConfig(storage_type="azure", connection_string=account, container=name)
        async with StorageManager(settings) as storage:
            built = StateGraph(State)
            for node in ("first", "second"):
                built.add_node(node, lambda state, node=node: {"log": [node], "count": 1})
            built.add_edge(START, "first").add_edge("first", "second").add_edge("second", END)
            compiled = built.compile(checkpointer=AgentStorageSaver(storage, table=name.replace("-", "")))

            def taken() -> int:
                return sum(
                    count
                    for requests in (blob_requests, table_requests)
                    for count in requests.taken().values()
                )

            await compiled.ainvoke({"log": ["warm"]}, config("warm"), durability="sync")
            turns: list[int] = []
            for _ in range(3):
                taken()
                await compiled.ainvoke({"log": ["in"]}, config("t"), durability="sync")
                turns.append(taken())
            state = await compiled.aget_state(config("t"))
            assert state.values["log"] == ["in", "first", "second"] * 3
            reads = taken()
    assert max(turns) <= 10, turns
    assert reads <= 2


# -- types


@dataclass
class Order:
    number: int


async def test_a_type_that_is_not_allowed_is_refused_when_it_is_stored(storage: StorageManager) -> None:
    saver = AgentStorageSaver(storage)
    for value in (Order(1), [{"deep": Order(1)}], _DeltaSnapshot([Order(1)])):
        with pytest.raises(SerializationError, match=r"Order, a type that is not allowed") as refused:
            await put(saver, config("t"), {"order": value})
        assert "allowed_types" in (refused.value.remedy or "")
    with pytest.raises(SerializationError, match="cannot be stored"):
        await put(saver, config("t"), {"lambda": lambda: None})
    assert await saver.aget_tuple(config("t")) is None
    allowing = AgentStorageSaver(storage, allowed_types=[Order])
    await put(allowing, config("t"), {"order": Order(1)})
    found = await allowing.aget_tuple(config("t"))
    assert found is not None
    assert found.checkpoint["channel_values"] == {"order": Order(1)}
    with pytest.raises(SerializationError, match="Order"):
        await saver.aget_tuple(config("t"))


# -- without async, and for a time


def test_it_works_without_async_and_in_a_running_loop(tmp_path: Path) -> None:
    storage = StorageManager(StorageConfig(base_path=tmp_path))
    saver = AgentStorageSaver(storage)

    def step(state: State) -> dict[str, Any]:
        return {"log": ["did"], "count": 1}

    built = StateGraph(State).add_node("step", step).add_edge(START, "step").add_edge("step", END)
    compiled = built.compile(checkpointer=saver)
    for turn in range(2):
        compiled.invoke({"log": [f"in{turn}"]}, config("t"))

    async def notebook() -> Any:
        return compiled.get_state(config("t")).values

    assert asyncio.run(notebook())["log"] == ["in0", "did", "in1", "did"]
    assert [each.metadata["step"] for each in saver.list(config("t"), limit=2)] == [4, 3]
    saver.copy_thread("t", "u")
    saver.prune(["u"])
    saver.delete_for_runs(["none"])
    assert compiled.get_state(config("u")).values["log"] == ["in0", "did", "in1", "did"]
    saver.delete_thread("u")
    assert saver.get_tuple(config("u")) is None
    assert saver.sweep() == 0
    saver.close()
    asyncio.run(storage.close())


async def test_a_thread_is_gone_when_its_time_is_over(storage: StorageManager) -> None:
    """A ttl of nothing is over at once, one of an hour is not."""
    lasting, short = AgentStorageSaver(storage, ttl=3600), AgentStorageSaver(storage, ttl=-60)
    for thread in ("t", "u"):
        stored = await put(lasting, config(thread), {"a": "x" * 100_000})
        await lasting.aput_writes(stored, [("ch", 1)], "task")
    assert await lasting.asweep() == 0
    assert await lasting.aget_tuple(config("t"))
    assert await short.aget_tuple(config("t")) is None
    assert await short.asweep() == 1
    assert await lasting.aget_tuple(config("u")) is None
    assert await storage.list_keys("langgraph/") == []
    await put(short, config("t"))  # And begins anew.
    assert [each async for each in short.alist(config("t"))] == []
    assert [each async for each in short.alist(None)] == []
    assert len([each async for each in lasting.alist(config("t"))]) == 1


async def test_who_writes_while_a_thread_ends_loses_nothing(
    storage: StorageManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = {"a": "x" * 100_000}
    writing, ending = AgentStorageSaver(storage), AgentStorageSaver(storage, ttl=-60)
    at = await put(writing, config("t"), large)
    delete = ending._rows.delete_unchanged

    async def late(*given: Any) -> bool:
        nonlocal at
        at = await put(writing, at, large, step=1)
        return await delete(*given)

    monkeypatch.setattr(ending._rows, "delete_unchanged", late)
    assert await ending.asweep() == 0
    found = await writing.aget_tuple(config("t"))
    assert found is not None
    assert (found.config, found.checkpoint["channel_values"]) == (at, large)
    monkeypatch.undo()
    assert await ending.asweep() == 1
    assert await storage.list_keys("langgraph/") == []
