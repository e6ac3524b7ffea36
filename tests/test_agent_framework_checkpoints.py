"""Workflow checkpoints of Microsoft Agent Framework: its own storages and ours, by the same calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from agent_framework import (
    AgentSession,
    CheckpointStorage,
    Executor,
    FileCheckpointStorage,
    InMemoryCheckpointStorage,
    WorkflowBuilder,
    WorkflowCheckpoint,
    WorkflowCheckpointException,
    WorkflowContext,
    handler,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from integrations.agent_framework import StorageCheckpoints, StorageSessions
from storage_lib import BackendClosedError, MemoryBackend, StorageConfig, StorageManager
from tests.framework_stores import Place, on, storage_on
from tests.gated import Gated

BEGIN = datetime(2026, 11, 30, 12, tzinfo=UTC)
OWN_TYPES = ["tests.test_agent_framework_checkpoints:Plan"]


@dataclass
class Plan:
    """A state of the user's own."""

    steps: list[str]
    done: int = 0


@pytest.fixture(params=["memory", "file", "moto", "azurite"])
def place(request: pytest.FixtureRequest) -> Place:
    return on(request)


@pytest.fixture(params=["InMemory", "File", "memory", "file", "moto", "azurite"])
def any_place(request: pytest.FixtureRequest) -> Place:
    return on(request)


@pytest.fixture
async def storage(place: Place, tmp_path: Path) -> AsyncIterator[StorageManager]:
    async with storage_on(place, tmp_path) as storage:
        yield storage


@pytest.fixture
async def checkpoints(any_place: Place, tmp_path: Path) -> AsyncIterator[CheckpointStorage]:
    match any_place[0]:
        case "InMemory":
            yield InMemoryCheckpointStorage()
        case "File":
            yield FileCheckpointStorage(tmp_path, allowed_checkpoint_types=OWN_TYPES)
        case _:
            async with storage_on(any_place, tmp_path) as storage:
                yield StorageCheckpoints(storage, allowed_checkpoint_types=OWN_TYPES)


def checkpoint(name: str = "flow", minutes: float = 0, **more: Any) -> WorkflowCheckpoint:
    when = (BEGIN + timedelta(minutes=minutes)).isoformat()
    return WorkflowCheckpoint(workflow_name=name, graph_signature_hash="hash", timestamp=when, **more)


STATE: dict[str, Any] = {
    "text": "ä 漢字 🎉",
    "numbers": [1, -2.5, True, None, 10**30],
    "nested": {"a": {"b": [{}]}},
    "tuple": (1, "two"),
    "set": {1, 2},
    "bytes": b"\x00\xff",
    "when": BEGIN,
    "id": UUID(int=7),
    "price": Decimal("1.20"),
    "keys": {1: "one", "1": "also"},
    "plan": Plan(["write", "test"], 1),
    "$type": "not ours",
    "aos": {"$": 1, "=": 2},
}


async def test_a_checkpoint_comes_back_as_it_was(checkpoints: CheckpointStorage) -> None:
    saved = checkpoint(state=STATE, iteration_count=3, metadata={"reason": "superstep"})
    assert await checkpoints.save(saved) == saved.checkpoint_id
    loaded = await checkpoints.load(saved.checkpoint_id)
    assert loaded == saved
    assert loaded is not saved
    loaded.state["text"] = "changed"
    assert (await checkpoints.load(saved.checkpoint_id)).state["text"] == STATE["text"]


async def test_an_unknown_id_is_an_error_of_the_framework(checkpoints: CheckpointStorage) -> None:
    for unknown in ("nothing", "", "a" * 200, "nothing/in/there"):
        with pytest.raises(WorkflowCheckpointException, match=r"No checkpoint found|Invalid"):
            await checkpoints.load(unknown)
        assert await checkpoints.delete(unknown) is False


async def test_the_latest_is_that_with_the_latest_timestamp(checkpoints: CheckpointStorage) -> None:
    assert await checkpoints.get_latest(workflow_name="flow") is None
    assert await checkpoints.list_checkpoints(workflow_name="flow") == []
    middle, last, first = (checkpoint(minutes=minutes) for minutes in (5, 9, 1))
    for each in (middle, last, first, checkpoint("other", 99), checkpoint("flow/2", 99)):
        await checkpoints.save(each)
    assert await checkpoints.get_latest(workflow_name="flow") == last
    listed = await checkpoints.list_checkpoints(workflow_name="flow")
    assert sorted(listed, key=lambda each: each.timestamp) == [first, middle, last]
    ids = await checkpoints.list_checkpoint_ids(workflow_name="flow")
    assert sorted(ids) == sorted(each.checkpoint_id for each in (first, middle, last))
    assert await checkpoints.delete(last.checkpoint_id) is True
    assert await checkpoints.delete(last.checkpoint_id) is False
    assert await checkpoints.get_latest(workflow_name="flow") == middle


async def test_the_offset_of_a_timestamp_counts(checkpoints: CheckpointStorage) -> None:
    earlier = WorkflowCheckpoint("flow", "hash", timestamp="2026-11-30T13:00:00+02:00")
    later = WorkflowCheckpoint("flow", "hash", timestamp="2026-11-30T12:00:00+00:00")
    await checkpoints.save(later)
    await checkpoints.save(earlier)
    assert await checkpoints.get_latest(workflow_name="flow") == later


async def test_saving_an_id_again_replaces_its_checkpoint(checkpoints: CheckpointStorage) -> None:
    old = checkpoint(minutes=5, checkpoint_id="one", state={"n": 1})
    other = checkpoint(minutes=3, checkpoint_id="two")
    new = checkpoint(minutes=1, checkpoint_id="one", state={"n": 2})
    for each in (old, other, new, new):
        await checkpoints.save(each)
    assert await checkpoints.load("one") == new
    assert await checkpoints.get_latest(workflow_name="flow") == other
    assert sorted(await checkpoints.list_checkpoint_ids(workflow_name="flow")) == ["one", "two"]
    moved = checkpoint("elsewhere", 7, checkpoint_id="one")
    await checkpoints.save(moved)
    assert await checkpoints.list_checkpoint_ids(workflow_name="flow") == ["two"]
    assert await checkpoints.get_latest(workflow_name="elsewhere") == moved


IDS = [
    "a b",
    "a/b",
    "../up",
    ".",
    "..",
    ".hidden",
    "ü",
    "u\u0308",
    "漢字🎉",
    "a\\b",
    "a%2Fb",
    "x=2Fy",
    "=",
    "\t\n",
]


async def test_ids_and_names_are_any_text(storage: StorageManager) -> None:
    checkpoints = StorageCheckpoints(storage)
    for text in IDS:
        await checkpoints.save(checkpoint(text, checkpoint_id=text))
    for text in IDS:
        assert (await checkpoints.load(text)).checkpoint_id == text
        assert await checkpoints.list_checkpoint_ids(workflow_name=text) == [text]
    too_long = checkpoint(checkpoint_id="i" * 256)
    with pytest.raises(WorkflowCheckpointException, match="256"):
        await checkpoints.save(too_long)


class Secret:
    """Not among the types that may be restored."""


async def test_what_could_not_be_restored_is_not_stored(storage: StorageManager) -> None:
    checkpoints = StorageCheckpoints(storage)
    for value in (Secret(), Plan([]), lambda: None, "\ud800"):
        refused = checkpoint(state={"value": value})
        with pytest.raises(WorkflowCheckpointException):
            await checkpoints.save(refused)
        assert await storage.list_keys() == []
    for when in ("yesterday", "", None):
        refused = WorkflowCheckpoint("flow", "hash", timestamp=when)  # type: ignore[arg-type]
        with pytest.raises(WorkflowCheckpointException):
            await checkpoints.save(refused)
    assert await storage.list_keys() == []


async def test_types_that_are_no_longer_allowed_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As by the framework's own storage of files."""
    plain, special = checkpoint(minutes=1), checkpoint(minutes=2, state={"plan": Plan([])})
    async with StorageManager(StorageConfig(storage_type="memory")) as storage:
        pairs = [
            (
                FileCheckpointStorage(tmp_path, allowed_checkpoint_types=OWN_TYPES),
                FileCheckpointStorage(tmp_path),
            ),
            (StorageCheckpoints(storage, allowed_checkpoint_types=OWN_TYPES), StorageCheckpoints(storage)),
        ]
        for wide, narrow in pairs:
            await wide.save(plain)
            await wide.save(special)
            assert await narrow.list_checkpoints(workflow_name="flow") == [plain]
            assert await narrow.list_checkpoint_ids(workflow_name="flow") == [plain.checkpoint_id]
            assert await narrow.get_latest(workflow_name="flow") == plain
            with pytest.raises(WorkflowCheckpointException, match="Plan"):
                await narrow.load(special.checkpoint_id)
            assert await wide.get_latest(workflow_name="flow") == special
    assert special.checkpoint_id in caplog.text


async def test_a_process_that_ended_between_two_writes_leaves_nothing_wrong() -> None:
    async with StorageManager(StorageConfig(storage_type="memory")) as storage:
        checkpoints = StorageCheckpoints(storage)
        await checkpoints.save(kept := checkpoint(minutes=1))
        await checkpoints.save(lost := checkpoint(minutes=2))
        (key,) = [key for key in await storage.list_keys() if key.endswith(f"/ids/{lost.checkpoint_id}")]
        await storage.delete(key)  # Its entry is still listed.
        assert await checkpoints.get_latest(workflow_name="flow") == kept
        assert await checkpoints.list_checkpoint_ids(workflow_name="flow") == [kept.checkpoint_id]
        listed = await storage.list_keys("agent-framework/checkpoints/workflows/")
        (entry,) = [key for key in listed if key.endswith(f"/{kept.checkpoint_id}")]
        await storage.delete(entry)  # Not listed, and yet there.
        await checkpoints.save(kept)
        assert await checkpoints.get_latest(workflow_name="flow") == kept


async def test_one_request_loads_and_two_find_the_latest() -> None:
    backend = Gated(MemoryBackend())
    async with StorageManager(backend=backend) as storage:
        checkpoints = StorageCheckpoints(storage)
        for minutes in range(50):
            await checkpoints.save(last := checkpoint(minutes=minutes))
        backend.calls.clear()
        assert await checkpoints.load(last.checkpoint_id) == last
        assert len(backend.calls) == 1
        assert await checkpoints.get_latest(workflow_name="flow") == last
        assert len(backend.calls) == 3
        await checkpoints.save(checkpoint(minutes=60))
        assert len(backend.calls) == 5


async def test_large_checkpoints(storage: StorageManager) -> None:
    checkpoints = StorageCheckpoints(storage)
    saved = checkpoint(state={"document": "0123456789" * 300_000})
    await checkpoints.save(saved)
    assert await checkpoints.get_latest(workflow_name="flow") == saved


async def test_saves_at_the_same_time_are_all_there(storage: StorageManager) -> None:
    checkpoints = StorageCheckpoints(storage)
    others = StorageCheckpoints(storage)
    saved = [checkpoint(minutes=minutes) for minutes in range(20)]
    await asyncio.gather(*((others if n % 2 else checkpoints).save(each) for n, each in enumerate(saved)))
    assert await checkpoints.list_checkpoints(workflow_name="flow") == saved
    same = [checkpoint(minutes=100 + n, checkpoint_id="same", state={"n": n}) for n in range(8)]
    await asyncio.gather(*(checkpoints.save(each) for each in same))
    winner = await checkpoints.load("same")
    assert winner in same
    assert (await checkpoints.list_checkpoint_ids(workflow_name="flow")).count("same") <= 1


async def test_checkpoints_end_with_their_time_to_live() -> None:
    now = [1_000_000.0]
    async with StorageManager(backend=MemoryBackend(clock=lambda: now[0])) as storage:
        checkpoints = StorageCheckpoints(storage, ttl=60)
        await checkpoints.save(saved := checkpoint())
        now[0] += 59
        assert await checkpoints.get_latest(workflow_name="flow") == saved
        now[0] += 2
        assert await checkpoints.get_latest(workflow_name="flow") is None
        assert await checkpoints.list_checkpoint_ids(workflow_name="flow") == []
        with pytest.raises(WorkflowCheckpointException):
            await checkpoints.load(saved.checkpoint_id)


@pytest.mark.parametrize("prefix", ["", "/", "a/b/"])
async def test_any_prefix_will_do(prefix: str) -> None:
    async with StorageManager(StorageConfig(storage_type="memory")) as storage:
        checkpoints = StorageCheckpoints(storage, prefix=prefix)
        saved = checkpoint()
        await checkpoints.save(saved)
        assert await checkpoints.get_latest(workflow_name="flow") == saved
        sessions = StorageSessions(storage, prefix=prefix)
        await sessions.set("ann", AgentSession())
        assert await sessions.get("ann") is not None


async def test_a_closed_storage_says_so(tmp_path: Path) -> None:
    storage = StorageManager(StorageConfig(storage_type="file", base_path=tmp_path))
    checkpoints = StorageCheckpoints(storage)
    await checkpoints.save(saved := checkpoint())
    await storage.close()
    for call in (
        checkpoints.save(saved),
        checkpoints.load(saved.checkpoint_id),
        checkpoints.get_latest(workflow_name="flow"),
        checkpoints.delete(saved.checkpoint_id),
    ):
        with pytest.raises(BackendClosedError):
            await call


# -- the same calls to both

NAMES = st.sampled_from(["flow", "other"])
CALLS = st.one_of(
    st.tuples(st.just("save"), st.sampled_from("abcd"), NAMES, st.integers(0, 5)),
    st.tuples(st.just("load"), st.sampled_from("abcd")),
    st.tuples(st.just("delete"), st.sampled_from("abcd")),
    st.tuples(st.just("list"), NAMES),
    st.tuples(st.just("latest"), NAMES),
)


async def outcome(checkpoints: CheckpointStorage, call: tuple[Any, ...], number: int) -> Any:
    match call:
        case ("save", identity, name, minutes):
            # No two have the same time: which of them was the latest would be left open.
            when = minutes + number / 1000
            return await checkpoints.save(checkpoint(name, when, checkpoint_id=identity, state={"n": number}))
        case ("load", identity):
            try:
                return await checkpoints.load(identity)
            except WorkflowCheckpointException:
                return "no checkpoint"
        case ("delete", identity):
            return await checkpoints.delete(identity)
        case ("list", name):
            listed = await checkpoints.list_checkpoints(workflow_name=name)
            ids = await checkpoints.list_checkpoint_ids(workflow_name=name)
            return sorted(listed, key=lambda each: each.timestamp), sorted(ids)
        case ("latest", name):
            return await checkpoints.get_latest(workflow_name=name)
        case _:
            raise AssertionError(call)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(calls=st.lists(CALLS, max_size=25))
def test_any_calls_have_the_results_of_the_framework_s_own(calls: list[tuple[Any, ...]]) -> None:
    async def compare() -> None:
        async with StorageManager(StorageConfig(storage_type="memory")) as storage:
            theirs, ours = InMemoryCheckpointStorage(), StorageCheckpoints(storage)
            for number, call in enumerate(calls):
                assert await outcome(ours, call, number) == await outcome(theirs, call, number), call

    asyncio.run(compare())


# -- a workflow


class Doubling(Executor):
    @handler
    async def double(self, number: int, context: WorkflowContext[int, int]) -> None:
        if number > 100:
            await context.yield_output(number)
        else:
            await context.send_message(number * 2)


async def test_a_workflow_goes_on_from_any_of_its_checkpoints(storage: StorageManager) -> None:
    def workflow() -> Any:
        first, second = Doubling(id="first"), Doubling(id="second")
        builder = WorkflowBuilder(
            start_executor=first, checkpoint_storage=StorageCheckpoints(storage), name="doubling"
        )
        return builder.add_edge(first, second).add_edge(second, first).build()

    result = await workflow().run(3)
    assert result.get_outputs() == [192]
    checkpoints = await StorageCheckpoints(storage).list_checkpoints(workflow_name="doubling")
    assert len(checkpoints) > 5
    for each in (checkpoints[0], checkpoints[3], checkpoints[-2]):
        assert (await workflow().run(checkpoint_id=each.checkpoint_id)).get_outputs() == [192]
