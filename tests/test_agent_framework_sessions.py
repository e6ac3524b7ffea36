"""Session snapshots of Microsoft Agent Framework: its own stores and ours, by the same calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from agent_framework import AgentSession, FileSessionStore, Message, SessionStore, register_state_type
from hypothesis import given, settings
from hypothesis import strategies as st

from integrations.agent_framework import StorageSessions
from storage_lib import BackendClosedError, MemoryBackend, SerializationError, StorageConfig, StorageManager
from tests.framework_stores import Place, on, storage_on

# The framework's own are experimental and say so.
pytestmark = pytest.mark.filterwarnings("ignore:.*is experimental:FutureWarning")


@dataclass
class Budget:
    """A state of the user's own."""

    left: int


register_state_type(
    Budget, type_id="tests.budget", encoder=asdict, decoder=lambda found: Budget(found["left"])
)


@pytest.fixture(params=["memory", "file", "moto", "azurite"])
def place(request: pytest.FixtureRequest) -> Place:
    return on(request)


@pytest.fixture(params=["InMemory", "File", "memory", "file", "moto", "azurite"])
def any_place(request: pytest.FixtureRequest) -> Place:
    return on(request)


@pytest.fixture
async def sessions(any_place: Place, tmp_path: Path) -> AsyncIterator[SessionStore]:
    match any_place[0]:
        case "InMemory":
            yield SessionStore()
        case "File":
            yield FileSessionStore(tmp_path)
        case _:
            async with storage_on(any_place, tmp_path) as storage:
                yield StorageSessions(storage)


@pytest.fixture
async def ours(place: Place, tmp_path: Path) -> AsyncIterator[StorageSessions]:
    async with storage_on(place, tmp_path) as storage:
        yield StorageSessions(storage)


def session(**state: Any) -> AgentSession:
    made = AgentSession(session_id="inner", service_session_id="resp_1")
    made.state.update(state)
    return made


async def test_a_session_comes_back_with_its_state(sessions: SessionStore) -> None:
    state = {
        "count": 3,
        "nested": {"list": [1, 2.5, None, True, "ä 🎉"], "$type": "x"},
        "messages": [Message("user", ["hello"], message_id="m1"), Message("assistant", ["hi"])],
        "budget": Budget(7),
    }
    saved = session(**state)
    await sessions.set("chat-1", saved)
    found = await sessions.get("chat-1")
    assert found is not None
    assert found is not saved
    assert (found.session_id, found.service_session_id) == ("inner", "resp_1")
    assert {**found.state, "messages": None} == {**state, "messages": None}
    assert [each.to_dict() for each in found.state["messages"]] == [
        each.to_dict() for each in state["messages"]
    ]
    found.state["count"] = 4
    again = await sessions.get("chat-1")
    assert again is not None
    assert again.state["count"] == 3


async def test_the_last_one_that_is_set_stays(sessions: SessionStore) -> None:
    await sessions.set("a", session(n=1))
    await sessions.set("a", session(n=2))
    await sessions.set("b", session(n=3))
    found = await sessions.get("a")
    assert found is not None
    assert found.state == {"n": 2}
    await sessions.delete("a")
    await sessions.delete("a")
    assert await sessions.get("a") is None
    assert await sessions.get("b") is not None


async def test_an_empty_id_is_refused(sessions: SessionStore) -> None:
    for call in (sessions.get(""), sessions.set("", session()), sessions.delete("")):
        with pytest.raises(ValueError, match="session_id"):
            await call


IDS = [
    "a b",
    "a/b",
    "../up",
    ".",
    "..",
    "CON",
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
]


async def test_ids_are_any_text(sessions: SessionStore) -> None:
    for n, text in enumerate(IDS):
        await sessions.set(text, session(n=n))
    for n, text in enumerate(IDS):
        found = await sessions.get(text)
        assert found is not None
        assert found.state == {"n": n}


async def test_what_does_not_fit_is_refused(ours: StorageSessions) -> None:
    with pytest.raises(ValueError, match="256"):
        await ours.set("i" * 256, session())

    class Special(AgentSession):
        pass

    with pytest.raises(TypeError, match="Special"):
        await ours.set("a", Special())
    with pytest.raises(SerializationError), pytest.warns(RuntimeWarning, match="unsupported type"):
        await ours.set("a", session(value=object()))
    assert await ours.get("a") is None


async def test_the_id_of_a_service_may_be_a_mapping(ours: StorageSessions) -> None:
    service = {"conversation": "c", "more": {"n": 1}}
    await ours.set("a", AgentSession(service_session_id=MappingProxyType(service)))
    found = await ours.get("a")
    assert found is not None
    assert found.service_session_id == service


async def test_what_is_not_a_session_is_an_error(place: Place, tmp_path: Path) -> None:
    async with storage_on(place, tmp_path) as storage:
        for other in ([1], {"state": {}}, "text"):
            await storage.save("agent-framework/sessions/a", other)
            with pytest.raises(ValueError, match="agent-framework/sessions/a"):
                await StorageSessions(storage).get("a")


async def test_large_sessions_and_many_at_once(ours: StorageSessions) -> None:
    large = session(text="0123456789" * 200_000)
    await asyncio.gather(ours.set("large", large), *(ours.set(f"s{n}", session(n=n)) for n in range(10)))
    found = await ours.get("large")
    assert found is not None
    assert found.state == large.state
    for n in range(10):
        found = await ours.get(f"s{n}")
        assert found is not None
        assert found.state == {"n": n}


async def test_a_time_to_live_begins_again_when_a_session_is_set() -> None:
    now = [1_000_000.0]
    async with StorageManager(backend=MemoryBackend(clock=lambda: now[0])) as storage:
        sessions = StorageSessions(storage, ttl=60)
        await sessions.set("a", session(n=1))
        now[0] += 50
        await sessions.set("a", session(n=2))
        now[0] += 50
        assert await sessions.get("a") is not None
        now[0] += 11
        assert await sessions.get("a") is None


async def test_a_closed_storage_says_so(tmp_path: Path) -> None:
    storage = StorageManager(StorageConfig(storage_type="file", base_path=tmp_path))
    sessions = StorageSessions(storage)
    await sessions.set("a", session())
    await storage.close()
    for call in (sessions.get("a"), sessions.set("a", session()), sessions.delete("a")):
        with pytest.raises(BackendClosedError):
            await call


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), JSON, max_size=4))
def test_any_state_comes_back_as_from_the_framework_s_own(state: dict[str, Any]) -> None:
    async def compare() -> None:
        async with StorageManager(StorageConfig(storage_type="memory")) as storage:
            saved = session()
            saved.state = state
            theirs, ours = SessionStore(), StorageSessions(storage)
            for sessions in (theirs, ours):
                await sessions.set("a", saved)
            found, expected = await ours.get("a"), await theirs.get("a")
            assert found is not None
            assert expected is not None
            assert found.state == expected.state

    asyncio.run(compare())
