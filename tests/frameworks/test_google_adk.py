"""Sessions of Google ADK: its own service in memory and ours, by the same calls."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.adk.agents import BaseAgent
from google.adk.errors.already_exists_error import AlreadyExistsError
from google.adk.errors.session_not_found_error import SessionNotFoundError
from google.adk.events.event import Event
from google.adk.events.event_actions import EventActions
from google.adk.runners import Runner
from google.adk.sessions import BaseSessionService, InMemorySessionService, Session
from google.adk.sessions.base_session_service import GetSessionConfig
from google.genai import types
from hypothesis import given, settings
from hypothesis import strategies as st

from integrations.google_adk import StorageSessionService
from storage_lib import BackendClosedError, StorageConfig, StorageManager
from tests.framework_stores import Place, on, storage_on

WHO = {"app_name": "shop", "user_id": "ann"}


@pytest.fixture(params=["memory", "file", "azurite"])
def place(request: pytest.FixtureRequest) -> Place:
    return on(request)


@pytest.fixture(params=["InMemory", "memory", "file", "azurite"])
def any_place(request: pytest.FixtureRequest) -> Place:
    return on(request)


@pytest.fixture
async def storage(place: Place, tmp_path: Path) -> AsyncIterator[StorageManager]:
    async with storage_on(place, tmp_path) as storage:
        yield storage


@pytest.fixture
async def service(any_place: Place, tmp_path: Path) -> AsyncIterator[BaseSessionService]:
    if any_place[0] == "InMemory":
        yield InMemorySessionService()
        return
    async with storage_on(any_place, tmp_path) as storage:
        yield StorageSessionService(storage)


_numbers = itertools.count(1)


def event(text: str, **delta: Any) -> Event:
    content = types.Content(role="user", parts=[types.Part(text=text)])
    number = next(_numbers)
    return Event(
        id=f"e{number}",
        author="user",
        content=content,
        timestamp=1_700_000_000.0 + number,
        actions=EventActions(state_delta=delta),
    )


async def got(service: BaseSessionService, identity: str = "chat", **config: Any) -> Session:
    found = await service.get_session(
        **WHO, session_id=identity, config=GetSessionConfig(**config) if config else None
    )
    assert found is not None
    return found


async def test_events_come_back_in_order(service: BaseSessionService) -> None:
    assert await service.get_session(**WHO, session_id="chat") is None
    session = await service.create_session(**WHO, session_id=" chat ", state={"n": 1})
    assert (session.id, session.state, session.events) == ("chat", {"n": 1}, [])
    image = types.Part(inline_data=types.Blob(data=b"\x00\xff" * 100, mime_type="image/png"))
    call = types.Part(function_call=types.FunctionCall(id="c", name="f", args={"a": [1, None, "ä"]}))
    rich = Event(
        id="r", author="model", content=types.Content(role="model", parts=[image, call]), timestamp=9.5
    )
    events = [event("one"), rich, event("two")]
    for each in events:
        await service.append_event(session, each)
    found = await got(service)
    assert found.events == events == session.events
    assert found.last_update_time == events[-1].timestamp == session.last_update_time
    with pytest.raises(AlreadyExistsError):
        await service.create_session(**WHO, session_id="chat")
    assert (await service.create_session(**WHO)).id != "chat"


async def test_a_part_of_the_events(service: BaseSessionService) -> None:
    session = await service.create_session(**WHO, session_id="chat")
    events = [event(str(n)) for n in range(5)]
    for each in events:
        await service.append_event(session, each)
    for number in (0, 1, 3, 5, 9):
        assert (await got(service, num_recent_events=number)).events == events[max(0, 5 - number) :]
    for n, each in enumerate(events):
        assert (await got(service, after_timestamp=each.timestamp)).events == events[n:]
    both = await got(service, num_recent_events=4, after_timestamp=events[3].timestamp)
    assert both.events == events[3:]


async def test_states_are_of_the_session_the_user_and_the_app(service: BaseSessionService) -> None:
    session = await service.create_session(
        **WHO, session_id="chat", state={"a": 1, "user:u": 1, "app:p": 1, "temp:t": 1}
    )
    assert session.state == {"a": 1, "user:u": 1, "app:p": 1}
    await service.append_event(
        session, event("one", **{"a": 2, "b": [1], "user:v": 2, "app:p": 2, "temp:t": 2})
    )
    assert session.state == {"a": 2, "b": [1], "user:u": 1, "user:v": 2, "app:p": 2, "temp:t": 2}
    assert (await got(service)).state == {"a": 2, "b": [1], "user:u": 1, "user:v": 2, "app:p": 2}
    assert "temp:t" not in (await got(service)).events[0].actions.state_delta
    other = await service.create_session(**WHO, session_id="other")
    assert other.state == {"user:u": 1, "user:v": 2, "app:p": 2}
    stranger = await service.create_session(app_name="shop", user_id="bob", session_id="chat")
    assert stranger.state == {"app:p": 2}
    assert await service.get_user_state(**WHO) == {"u": 1, "v": 2}
    assert await service.get_user_state(app_name="shop", user_id="bob") == {}


async def test_sessions_are_listed_the_last_changed_last(service: BaseSessionService) -> None:
    assert (await service.list_sessions(**WHO)).sessions == []
    sessions = {
        name: await service.create_session(**WHO, session_id=name, state={"s": name}) for name in "abc"
    }
    await service.create_session(app_name="shop", user_id="bob", session_id="d", state={"user:x": 1})
    await service.create_session(app_name="shop2", user_id="ann", session_id="e")
    for name in "cab":
        await service.append_event(sessions[name], event(name))
    listed = (await service.list_sessions(**WHO)).sessions
    assert [each.id for each in listed] == ["c", "a", "b"]
    assert [each.state for each in listed] == [{"s": "c"}, {"s": "a"}, {"s": "b"}]
    assert all(each.events == [] for each in listed)
    everybody = (await service.list_sessions(app_name="shop")).sessions
    assert sorted((each.user_id, each.id) for each in everybody) == [
        *(("ann", name) for name in "abc"),
        ("bob", "d"),
    ]
    await service.delete_session(**WHO, session_id="a")
    await service.delete_session(**WHO, session_id="a")
    assert await service.get_session(**WHO, session_id="a") is None
    with pytest.raises(SessionNotFoundError):
        await service.append_event(sessions["a"], event("late"))
    again = await service.create_session(**WHO, session_id="a")
    assert (again.state, (await got(service, "a")).events) == ({}, [])


async def test_an_event_that_is_appended_again_is_one(service: BaseSessionService) -> None:
    session = await service.create_session(**WHO, session_id="chat")
    once = event("one", n=1)
    await service.append_event(session, once)
    await service.append_event(await got(service), once.model_copy(deep=True))
    assert (await got(service)).events == [once]
    await service.append_event(session, event("two", n=2))
    await service.append_event(session, once.model_copy(deep=True))
    found = await got(service)
    assert len(found.events) == 2
    assert found.state == {"n": 2}
    same_id = event("other").model_copy(update={"id": once.id})
    await service.append_event(session, same_id)
    assert len((await got(service)).events) == 3
    partial = event("partial").model_copy(update={"partial": True})
    await service.append_event(session, partial)
    assert len((await got(service)).events) == 3


class _Ended(BaseException):
    """A process ends here."""


async def _append_and_end(service: StorageSessionService, session: Session, *events: Event) -> None:
    """Append events as a process that ends before it changes a state."""

    async def end(*_: Any) -> None:
        raise _Ended

    ending = StorageSessionService(service._storage)
    ending._change_shared = end  # type: ignore[method-assign]
    for each in events:
        with pytest.raises(_Ended):
            await ending.append_event(session, each)


async def test_changes_of_states_outlive_a_process_that_ends(storage: StorageManager) -> None:
    service = StorageSessionService(storage)
    session = await service.create_session(**WHO, session_id="chat", state={"n": 0})
    lost = [event("one", n=1, m=1, **{"app:a": 1, "user:u": 1}), event("two", n=2)]
    await _append_and_end(service, session.model_copy(deep=True), *lost)
    expected = {"n": 2, "m": 1, "app:a": 1, "user:u": 1}
    for config in ({}, {"num_recent_events": 0}, {"num_recent_events": 1}):
        found = await got(service, **config)
        assert (found.state, found.last_update_time) == (expected, lost[1].timestamp)
    await service.append_event(session, event("three", l=3))
    # Made again by the one that has started anew: what came meanwhile stays.
    await service.append_event(await got(service), lost[0].model_copy(deep=True))
    found = await got(service)
    assert found.state == expected | {"l": 3}
    assert [each.id for each in found.events] == [*(each.id for each in lost), session.events[0].id]
    other = await service.create_session(**WHO, session_id="other")
    assert other.state == {"app:a": 1, "user:u": 1}


async def test_an_event_whose_append_failed_half_way_is_in_the_session_when_it_is_appended_again(
    storage: StorageManager,
) -> None:
    service = StorageSessionService(storage)
    session = await service.create_session(**WHO, session_id="chat")
    once = event("one", n=1)
    await _append_and_end(service, session, once)
    await service.append_event(session, once)
    assert (session.events, session.state) == ([once], {"n": 1})
    assert (await got(service)).events == [once]


async def test_what_is_appended_while_a_session_is_created_stays(storage: StorageManager) -> None:
    service = StorageSessionService(storage)
    # Left behind by an append to an earlier session that was deleted meanwhile.
    await service._log.append(
        service._key("sessions", "shop", "ann", "chat"), [event("old").model_dump(mode="json")]
    )
    appended = event("new")
    created, save = asyncio.Event(), storage.save

    async def slow(*args: Any, **options: Any) -> Any:
        saved = await save(*args, **options)
        created.set()
        await StorageSessionService(storage).append_event(await got(service), appended)
        return saved

    storage.save = slow  # type: ignore[method-assign]
    try:
        session = await service.create_session(**WHO, session_id="chat")
    finally:
        storage.save = save  # type: ignore[method-assign]
    assert created.is_set()
    for config in ({}, {"num_recent_events": 9}):
        assert (await got(service, **config)).events == [appended]
    await service.append_event(session, event("next", n=1))
    assert (await got(service)).state == {"n": 1}
    await service.delete_session(**WHO, session_id="chat")
    assert (
        (await service.create_session(**WHO, session_id="chat")).events == (await got(service)).events == []
    )


async def test_runs_at_the_same_time_lose_nothing(storage: StorageManager) -> None:
    await StorageSessionService(storage).create_session(**WHO, session_id="chat")

    async def run(name: str) -> None:
        service = StorageSessionService(storage)  # As of another process.
        session = await got(service)
        for n in range(6):
            await service.append_event(
                session, event(f"{name} {n}", **{f"{name}{n}": n, f"user:{name}{n}": n})
            )

    await asyncio.gather(*map(run, "abc"))
    found = await got(StorageSessionService(storage))
    assert len(found.events) == 18
    assert len(found.state) == 36


IDS = ["a b", "a/b", "../up", ".", "ü", "u\u0308", "漢字🎉", "a\\b", "a%2Fb", "x=2Fy", "=", "A", "a"]


async def test_ids_are_any_text(service: BaseSessionService) -> None:
    for text in IDS:
        session = await service.create_session(
            app_name=text, user_id=text, session_id=text, state={"t": text}
        )
        await service.append_event(session, event(text))
    for text in IDS:
        found = await service.get_session(app_name=text, user_id=text, session_id=text)
        assert found is not None
        assert (found.state, len(found.events)) == ({"t": text}, 1)
        (listed,) = (await service.list_sessions(app_name=text)).sessions
        assert (listed.user_id, listed.id) == (text, text)


async def test_large_events_and_states(storage: StorageManager) -> None:
    service = StorageSessionService(storage)
    session = await service.create_session(**WHO, session_id="chat")
    large = event("x" * 2_000_000, document="y" * 2_000_000)
    await service.append_event(session, large)
    found = await got(service)
    assert found.events == [large]
    assert found.state == {"document": "y" * 2_000_000}


async def test_a_closed_storage_says_so(tmp_path: Path) -> None:
    storage = StorageManager(StorageConfig(storage_type="file", base_path=tmp_path))
    service = StorageSessionService(storage)
    session = await service.create_session(**WHO, session_id="chat")
    await storage.close()
    for call in (service.get_session(**WHO, session_id="chat"), service.append_event(session, event("one"))):
        with pytest.raises(BackendClosedError):
            await call


class Counting(BaseAgent):
    """Says how many events there were before."""

    async def _run_async_impl(self, ctx: Any) -> Any:
        content = types.Content(role="model", parts=[types.Part(text=f"{len(ctx.session.events)} events")])
        yield Event(author=self.name, invocation_id=ctx.invocation_id, content=content)


async def test_an_agent_goes_on_in_another_process(storage: StorageManager) -> None:
    await StorageSessionService(storage).create_session(**WHO, session_id="chat")
    said: list[str] = []
    for turn in range(3):
        runner = Runner(
            agent=Counting(name="counting"), app_name="shop", session_service=StorageSessionService(storage)
        )
        message = types.Content(role="user", parts=[types.Part(text=f"turn {turn}")])
        async for each in runner.run_async(user_id="ann", session_id="chat", new_message=message):
            said += [part.text for part in each.content.parts]
    assert said == ["1 events", "3 events", "5 events"]


# -- the same calls to both

SESSIONS = st.sampled_from("ab")
DELTAS = st.dictionaries(st.sampled_from(["n", "user:n", "app:n", "temp:n"]), st.integers(0, 9), max_size=3)
CALLS = st.one_of(
    st.tuples(st.just("create"), SESSIONS, DELTAS),
    st.tuples(st.just("append"), SESSIONS, DELTAS),
    st.tuples(st.just("get"), SESSIONS, st.none() | st.integers(0, 3)),
    st.tuples(st.just("delete"), SESSIONS),
    st.tuples(st.just("list")),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(CALLS, max_size=20))
def test_any_calls_have_the_results_of_adk_s_own(calls: list[tuple[Any, ...]]) -> None:
    async def outcome(service: BaseSessionService, call: tuple[Any, ...], appended: Event) -> Any:
        match call:
            case ("create", name, state):
                return (await service.create_session(**WHO, session_id=name, state=state)).state
            case ("append", name, _):
                session = Session(**WHO, id=name)
                await service.append_event(session, appended)
                return session.state
            case ("get", name, last):
                config = None if last is None else GetSessionConfig(num_recent_events=last)
                found = await service.get_session(**WHO, session_id=name, config=config)
                return found and (found.events, found.state)
            case ("delete", name):
                return await service.delete_session(**WHO, session_id=name)
            case _:
                return sorted(
                    (each.id, str(each.state)) for each in (await service.list_sessions(**WHO)).sessions
                )

    async def compare() -> None:
        async with StorageManager(StorageConfig(storage_type="memory")) as storage:
            services = InMemorySessionService(), StorageSessionService(storage)
            for call in calls:
                made = event("said", **(call[2] if call[0] == "append" else {}))
                results: list[Any] = []
                for service in services:
                    try:
                        results.append(await outcome(service, call, made.model_copy(deep=True)))
                    except (AlreadyExistsError, SessionNotFoundError) as error:
                        results.append(type(error))
                assert results[0] == results[1], call

    asyncio.run(compare())
