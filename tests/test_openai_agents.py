"""Sessions of the OpenAI Agents SDK: its own on SQLite and ours, by the same calls."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from agents import SQLiteSession
from agents.memory import Session, SessionSettings
from hypothesis import given, settings
from hypothesis import strategies as st

from integrations.openai_agents import PLACEHOLDER_ID, StorageSession
from storage_lib import (
    BackendClosedError,
    InvalidKeyError,
    MemoryBackend,
    SerializationError,
    StorageConfig,
    StorageManager,
)
from storage_lib.conversations import Conversations
from tests.conftest import PROJECT
from tests.framework_stores import Place, on, storage_on

type Maker = Callable[..., Any]

# azure-data-tables reads error bodies so.
pytestmark = pytest.mark.filterwarnings("ignore:Testing an element's truth value:DeprecationWarning")


@pytest.fixture(params=["memory", "file", "azurite"])
def place(request: pytest.FixtureRequest) -> Place:
    return on(request)


@pytest.fixture(params=["SQLite", "memory", "file", "azurite"])
def any_place(request: pytest.FixtureRequest) -> Place:
    return on(request)


@pytest.fixture
async def storage(place: Place, tmp_path: Path) -> AsyncIterator[StorageManager]:
    async with storage_on(place, tmp_path) as storage:
        yield storage


@pytest.fixture
async def session_of(any_place: Place, tmp_path: Path) -> AsyncIterator[Maker]:
    """Makes the session with an id: the SDK's own, and ours on each backend."""
    if any_place[0] == "SQLite":
        made: list[SQLiteSession] = []

        def sqlite(identity: str, **more: Any) -> SQLiteSession:
            made.append(SQLiteSession(identity, tmp_path / "sessions.db", **more))
            return made[-1]

        yield sqlite
        for each in made:
            each.close()
        return
    async with storage_on(any_place, tmp_path) as storage:
        yield lambda identity, **more: StorageSession(identity, storage, **more)


def user(text: str) -> Any:
    return {"role": "user", "content": text}


def answer(text: str, identity: str = "msg_1") -> Any:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {"id": identity, "type": "message", "role": "assistant", "status": "completed", "content": content}


async def test_items_come_back_in_order(session_of: Maker) -> None:
    session: Session = session_of("chat")
    assert isinstance(session, Session)
    assert session.session_id == "chat"
    assert await session.get_items() == []
    await session.add_items([])
    assert await session.get_items() == []
    await session.add_items([user("one"), answer("two")])
    await session.add_items([user("ä 漢字 🎉")])
    call = {"id": "fc_1", "type": "function_call", "call_id": "c", "name": "f", "arguments": '{"a": 1}'}
    odd = {
        "type": "reasoning",
        "id": "rs",
        "summary": [],
        "more": {"n": [1, 2.5, None, True, 2**60], "$": {}},
    }
    await session.add_items([call, {"type": "function_call_output", "call_id": "c", "output": ""}, odd])
    everything = await session_of("chat").get_items()
    assert everything == [
        *(user("one"), answer("two"), user("ä 漢字 🎉"), call),
        *({"type": "function_call_output", "call_id": "c", "output": ""}, odd),
    ]
    everything.clear()
    assert len(await session.get_items()) == 6


async def test_a_limit_is_that_of_the_newest_in_order(session_of: Maker) -> None:
    session = session_of("chat")
    items = [user(str(n)) for n in range(5)]
    await session.add_items(items)
    for limit in (0, 1, 3, 5, 6, 10**9, -1, None):
        expected = items if limit is None or limit < 0 else items[max(0, 5 - limit) :]
        assert await session.get_items(limit) == expected
    bounded = session_of("chat", session_settings=SessionSettings(limit=2))
    assert await bounded.get_items() == items[-2:]
    assert await bounded.get_items(limit=4) == items[-4:]
    assert await bounded.get_items(limit=0) == []


async def test_the_newest_is_popped_and_a_session_is_cleared(session_of: Maker) -> None:
    session = session_of("chat")
    assert await session.pop_item() is None
    await session.clear_session()
    items = [user("one"), answer("two"), answer("three", "msg_2")]
    await session.add_items(items)
    assert await session.pop_item() == items[2]
    assert await session.pop_item() == items[1]
    # What the SDK takes back when it makes a turn again, and then adds.
    await session.add_items(items[1:])
    assert await session.get_items() == items
    await session.clear_session()
    assert await session.get_items() == []
    assert await session.pop_item() is None
    await session.add_items(items)
    assert await session.get_items() == items
    assert await session_of("other").get_items() == []


IDS = [
    "",
    "a b",
    "a/b",
    "../up",
    ".",
    "ü",
    "u\u0308",
    "漢字🎉",
    "a\\b",
    "a%2Fb",
    "x=2Fy",
    "=",
    "\t\n",
    "A",
    "a",
    "'",
]


async def test_ids_are_any_text(session_of: Maker) -> None:
    for text in IDS:
        await session_of(text).add_items([user(text)])
    for text in IDS:
        assert await session_of(text).get_items() == [user(text)]


async def test_what_cannot_be_stored_is_refused(storage: StorageManager) -> None:
    with pytest.raises(InvalidKeyError, match="256"):
        StorageSession("i" * 256, storage)
    session = StorageSession("chat", storage)
    for wrong in ({"role": "user", "content": object()}, {"role": "user", "content": b"bytes"}):
        with pytest.raises(SerializationError):
            await session.add_items([user("fine"), wrong])  # type: ignore[list-item]
    assert await session.get_items() == []


async def test_an_append_that_is_made_again_is_one(storage: StorageManager) -> None:
    session = StorageSession("chat", storage)
    turn: list[Any] = [user("weather?"), answer("sunny", "msg_7")]
    await session.add_items(turn)
    await session.add_items([user("other")])
    await StorageSession("chat", storage).add_items([dict(item) for item in turn])
    assert await session.get_items() == [*turn, user("other")]
    # What users say twice they said twice, and models may give one id to all that they say.
    await session.add_items([user("other")])
    await session.add_items([answer("rainy", "msg_7")])
    await session.add_items([answer("same", PLACEHOLDER_ID)])
    await session.add_items([answer("same", PLACEHOLDER_ID)])
    assert [*turn, user("other")] == (await session.get_items())[:3]
    assert len(await session.get_items()) == 7


async def test_runs_at_the_same_time_lose_nothing(session_of: Maker) -> None:
    async def run(name: str) -> None:
        session = session_of("shared")
        for n in range(10):
            await session.add_items([user(f"{name} {n}"), answer(f"{name} {n}", f"msg_{name}_{n}")])

    await asyncio.gather(*map(run, "abc"))
    items = await session_of("shared").get_items()
    assert len(items) == 60
    for name in "abc":
        said = [
            item["content"] for item in items if item.get("role") == "user" and item["content"][0] == name
        ]
        assert said == [f"{name} {n}" for n in range(10)]
    # Each append is together.
    for asked, answered in zip(items[::2], items[1::2], strict=True):
        assert answered["content"][0]["text"] == asked["content"]


APPENDS = 500 if os.environ.get("SOAK") == "1" else 20
APPENDING = """
import asyncio, sys
from integrations.openai_agents import StorageSession
from storage_lib import StorageConfig, StorageManager

async def main(name, count, place):
    async with StorageManager(StorageConfig(storage_type="file", base_path=place)) as storage:
        session = StorageSession("shared", storage)
        for n in range(int(count)):
            await session.add_items([{"role": "user", "content": f"{name} {n}"}])

asyncio.run(main(*sys.argv[1:]))
"""


async def test_processes_that_append_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", APPENDING, "a", str(APPENDS), tmp_path]
    other = await asyncio.create_subprocess_exec(*command, cwd=PROJECT)
    async with StorageManager(StorageConfig(storage_type="file", base_path=tmp_path)) as storage:
        session = StorageSession("shared", storage)
        while other.returncode is None and not await session.get_items():
            await asyncio.sleep(0.01)
        for n in range(APPENDS):
            await session.add_items([user(f"b {n}")])
        assert await other.wait() == 0
        said = [item["content"] for item in await session.get_items()]  # type: ignore[typeddict-item]
    assert len(said) == 2 * APPENDS
    for name in "ab":
        assert [text for text in said if str(text)[0] == name] == [f"{name} {n}" for n in range(APPENDS)]


async def test_large_items_and_long_histories(storage: StorageManager) -> None:
    session = StorageSession("chat", storage)
    image: Any = {"role": "user", "content": [{"type": "input_image", "image_url": "x" * 3_000_000}]}
    await session.add_items([user("look"), image])
    assert await session.get_items() == [user("look"), image]
    assert await session.pop_item() == image
    await session.clear_session()
    many = [user(str(n)) for n in range(1200)]
    await session.add_items(many)
    assert await session.get_items() == many
    assert await session.get_items(limit=1100) == many[-1100:]


async def test_more_items_than_one_append_takes() -> None:
    async with StorageManager(StorageConfig(storage_type="memory")) as storage:
        session = StorageSession("chat", storage)
        many = [answer(str(n), f"msg_{n}") for n in range(5003)]
        await session.add_items(many)
        await session.add_items(many)
        assert await session.get_items() == many


async def test_a_session_ends_with_its_time_to_live() -> None:
    now = [1_000_000.0]
    async with StorageManager(backend=MemoryBackend(clock=lambda: now[0])) as storage:
        session = StorageSession("chat", storage, ttl=60)
        await session.add_items([user("one")])
        now[0] += 50
        await session.add_items([user("two")])
        now[0] += 50
        assert await session.get_items() == [user("one"), user("two")]
        now[0] += 11
        assert await session.get_items() == []
        assert await session.pop_item() is None
        await session.clear_session()
        await session.add_items([user("three")])
        assert await session.get_items() == [user("three")]


async def test_other_programs_read_the_conversation(storage: StorageManager) -> None:
    log = Conversations(storage)
    session = StorageSession("ann@example.com/1", log, prefix="assistants/support/")
    await session.add_items([user("one")])
    assert session.conversation == "assistants/support/ann@example.com=2F1"
    assert [entry.message for entry in await log.read(session.conversation)] == [user("one")]
    await log.append(session.conversation, [user("from elsewhere")])
    assert await session.get_items() == [user("one"), user("from elsewhere")]


async def test_a_cancelled_append_is_all_there_or_not_at_all(storage: StorageManager) -> None:
    session = StorageSession("chat", storage)
    for n in range(8):
        adding = asyncio.create_task(session.add_items([user(f"{n} a"), user(f"{n} b")]))
        await asyncio.sleep(0.0005 * n)
        adding.cancel()
        await asyncio.gather(adding, return_exceptions=True)
    await session.add_items([user("last")])
    said = [item["content"] for item in await session.get_items()]  # type: ignore[typeddict-item]
    assert said.pop() == "last"
    assert [str(text)[0] for text in said[::2]] == [str(text)[0] for text in said[1::2]]
    assert {str(text)[2:] for text in said[::2]} <= {"a"}


async def test_a_closed_storage_says_so(tmp_path: Path) -> None:
    storage = StorageManager(StorageConfig(storage_type="file", base_path=tmp_path))
    session = StorageSession("chat", storage)
    await session.add_items([user("one")])
    await storage.close()
    for call in (
        session.get_items(),
        session.add_items([user("two")]),
        session.pop_item(),
        session.clear_session(),
    ):
        with pytest.raises(BackendClosedError):
            await call


# -- the same calls to both

CALLS = st.one_of(
    st.tuples(st.just("add"), st.integers(0, 3)),
    st.tuples(st.just("get"), st.none() | st.integers(-1, 6)),
    st.tuples(st.just("pop")),
    st.tuples(st.just("clear")),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), CALLS), max_size=30))
def test_any_calls_have_the_results_of_the_sdk_s_own(calls: list[tuple[str, tuple[Any, ...]]]) -> None:
    async def outcome(session: Session, call: tuple[Any, ...], number: int) -> Any:
        match call:
            case ("add", count):
                items = [
                    answer(f"{number} {n}", f"msg_{number}") if n % 2 else user(f"{number} {n}")
                    for n in range(count)
                ]
                return await session.add_items(items)
            case ("get", limit):
                return await session.get_items(limit)
            case ("pop",):
                return await session.pop_item()
            case _:
                return await session.clear_session()

    async def compare() -> None:
        async with StorageManager(StorageConfig(storage_type="memory")) as storage:
            theirs = {name: SQLiteSession(name) for name in "ab"}
            ours = {name: StorageSession(name, storage) for name in "ab"}
            for number, (name, call) in enumerate(calls):
                expected = await outcome(theirs[name], call, number)
                assert await outcome(ours[name], call, number) == expected, call
            for each in theirs.values():
                each.close()

    asyncio.run(compare())
