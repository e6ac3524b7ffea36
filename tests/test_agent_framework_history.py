"""Histories of Microsoft Agent Framework: its own on files and ours, by the same calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from agent_framework import (
    Agent,
    BaseChatClient,
    ChatResponse,
    Content,
    FileHistoryProvider,
    HistoryProvider,
    InMemoryHistoryProvider,
    Message,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from integrations.agent_framework import StorageHistory
from storage_lib import BackendClosedError, InvalidKeyError, MemoryBackend, StorageConfig, StorageManager
from storage_lib.conversations import Conversations
from tests.framework_stores import Place, on, storage_on

pytestmark = [
    # The framework's own are experimental and say so.
    pytest.mark.filterwarnings("ignore:.*is experimental:FutureWarning"),
    # azure-data-tables reads error bodies so.
    pytest.mark.filterwarnings("ignore:Testing an element's truth value:DeprecationWarning"),
]


@pytest.fixture(params=["memory", "file", "azurite"])
def place(request: pytest.FixtureRequest) -> Place:
    return on(request)


@pytest.fixture(params=["File", "memory", "file", "azurite"])
def any_place(request: pytest.FixtureRequest) -> Place:
    return on(request)


@pytest.fixture
async def storage(place: Place, tmp_path: Path) -> AsyncIterator[StorageManager]:
    async with storage_on(place, tmp_path) as storage:
        yield storage


@pytest.fixture
async def history(any_place: Place, tmp_path: Path) -> AsyncIterator[HistoryProvider]:
    if any_place[0] == "File":
        yield FileHistoryProvider(tmp_path)
        return
    async with storage_on(any_place, tmp_path) as storage:
        yield StorageHistory(storage)


def user(text: str, identity: str | None = None) -> Message:
    return Message("user", [text], message_id=identity)


def answer(text: str, identity: str | None = None) -> Message:
    return Message("assistant", [text], message_id=identity, author_name="ceo")


async def saved(history: HistoryProvider, session: str | None = "chat") -> list[dict[str, Any]]:
    return [message.to_dict() for message in await history.get_messages(session)]


def shown(*messages: Message) -> list[dict[str, Any]]:
    return [message.to_dict() for message in messages]


async def test_messages_come_back_in_order(history: HistoryProvider) -> None:
    assert await saved(history) == []
    await history.save_messages("chat", [])
    call = Message("assistant", [Content.from_function_call("c1", "weather", arguments={"city": "Ä 🎉"})])
    result = Message("tool", [Content.from_function_result("c1", result="sunny")])
    await history.save_messages("chat", [user("hi"), call])
    await history.save_messages("chat", [result, answer("sunny", "m1")])
    assert await saved(history) == shown(user("hi"), call, result, answer("sunny", "m1"))
    assert await saved(history, "other") == []
    await history.save_messages(None, [user("nobody")])
    assert await saved(history, None) == shown(user("nobody"))


async def test_a_transcript_that_is_saved_again_is_there_once(history: HistoryProvider) -> None:
    transcript = [user("one", "1"), answer("two", "2"), user("three"), answer("four")]
    for end in range(1, 5):
        await history.save_messages("chat", transcript[:end])
    await history.save_messages("chat", transcript[2:])
    assert await saved(history) == shown(*transcript)
    await history.save_messages("chat", [answer("four"), user("five")])
    assert await saved(history) == shown(*transcript, user("five"))
    # Somebody who says the same again has said it again.
    await history.save_messages("chat", [user("five")])
    assert await saved(history) == shown(*transcript, user("five"), user("five"))


IDS = [
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
    "CON",
]


async def test_ids_are_any_text(history: HistoryProvider) -> None:
    for text in IDS:
        await history.save_messages(text, [user(text)])
    for text in IDS:
        assert await saved(history, text) == shown(user(text))


async def test_runs_at_the_same_time_lose_nothing(history: HistoryProvider) -> None:
    async def run(name: str) -> None:
        for n in range(8):
            await history.save_messages("chat", [user(f"{name} {n}", f"u{name}{n}"), answer(f"{name} {n}")])

    await asyncio.gather(*map(run, "abc"))
    messages = await history.get_messages("chat")
    assert len(messages) == 48
    for name in "abc":
        said = [each.text for each in messages if each.role == "user" and each.text.startswith(name)]
        assert said == [f"{name} {n}" for n in range(8)]


async def test_a_save_that_is_made_again_after_others_is_one(storage: StorageManager) -> None:
    history, other = StorageHistory(storage), StorageHistory(storage)
    turn = [user("weather?"), answer("sunny", "m7")]
    await history.save_messages("chat", turn)
    await other.save_messages("chat", [user("meanwhile")])
    await history.save_messages("chat", turn)
    assert await saved(history) == shown(*turn, user("meanwhile"))


async def test_large_messages_and_long_histories(storage: StorageManager) -> None:
    history = StorageHistory(storage)
    large = user("x" * 2_000_000)
    await history.save_messages("chat", [large, answer("ok")])
    assert await saved(history) == shown(large, answer("ok"))
    many = [user(str(n), str(n)) for n in range(1100)]
    await history.save_messages("long", many)
    await history.save_messages("long", [*many[-10:], answer("end")])
    assert await saved(history, "long") == shown(*many, answer("end"))


async def test_what_a_compaction_has_excluded_can_be_left_out(history: HistoryProvider) -> None:
    excluded = Message("user", ["old"], additional_properties={"_excluded": True})
    await history.save_messages("chat", [excluded, user("new")])
    assert len(await saved(history)) == 2
    history.skip_excluded = True  # type: ignore[attr-defined]
    assert await saved(history) == shown(user("new"))


async def test_a_history_ends_with_its_time_to_live() -> None:
    now = [1_000_000.0]
    async with StorageManager(backend=MemoryBackend(clock=lambda: now[0])) as storage:
        history = StorageHistory(storage, ttl=60)
        await history.save_messages("chat", [user("one")])
        now[0] += 61
        assert await saved(history) == []
        await history.save_messages("chat", [user("two")])
        assert await saved(history) == shown(user("two"))


async def test_other_programs_read_the_conversation(storage: StorageManager) -> None:
    log = Conversations(storage)
    history = StorageHistory(log, prefix="assistants")
    await history.save_messages("a/b", [user("one")])
    entries = await log.read(history.conversation_of("a/b"))
    assert [entry.message["contents"][0]["text"] for entry in entries] == ["one"]
    with pytest.raises(InvalidKeyError, match="256"):
        await history.save_messages("i" * 256, [user("one")])


async def test_a_closed_storage_says_so(tmp_path: Path) -> None:
    storage = StorageManager(StorageConfig(storage_type="file", base_path=tmp_path))
    history = StorageHistory(storage)
    await history.save_messages("chat", [user("one")])
    await storage.close()
    for call in (history.get_messages("chat"), history.save_messages("chat", [user("two")])):
        with pytest.raises(BackendClosedError):
            await call


class Scripted(BaseChatClient):
    """Says how many messages it was given."""

    async def _inner_get_response(self, *, messages: Sequence[Message], **more: Any) -> ChatResponse:  # type: ignore[override]
        return ChatResponse(messages=[Message("assistant", [f"{len(messages)} messages"])])


async def test_an_agent_remembers_in_another_process(storage: StorageManager) -> None:
    for turn, expected in enumerate(("1 messages", "3 messages", "5 messages")):
        # Another process has another agent and another provider.
        agent = Agent(Scripted(), context_providers=[StorageHistory(storage)])
        session = agent.create_session(session_id="ann")
        assert (await agent.run(f"turn {turn}", session=session)).text == expected
    assert len(await saved(StorageHistory(storage), "ann")) == 6


# -- the same calls to both

MESSAGES = st.tuples(st.booleans(), st.sampled_from("abc"), st.sampled_from([None, "1", "2"]))
SAVES = st.lists(st.lists(MESSAGES, max_size=4), max_size=6)


@settings(max_examples=60, deadline=None)
@given(SAVES)
def test_any_saves_give_the_history_of_the_framework_s_own(
    saves: list[list[tuple[bool, str, str | None]]],
) -> None:
    """Except that a save with ids which was made before is known even if it is no longer the end."""

    async def compare() -> None:
        async with StorageManager(StorageConfig(storage_type="memory")) as storage:
            theirs, ours, state = InMemoryHistoryProvider(), StorageHistory(storage), dict[str, Any]()
            known: list[list[dict[str, Any]]] = []
            for number, save in enumerate(saves):
                messages = [
                    (user if is_user else answer)(text, identity and f"{identity} {number // 2}")
                    for is_user, text, identity in save
                ]
                before = list(state.get("messages", []))
                await theirs.save_messages("chat", messages, state=state)
                new = state.get("messages", [])[len(before) :]
                if any(each.message_id for each in new):
                    if shown(*new) in known:
                        state["messages"] = before
                    known.append(shown(*new))
                await ours.save_messages("chat", messages)
                expected = [each.to_dict() for each in await theirs.get_messages("chat", state=state)]
                assert await saved(ours) == expected

    asyncio.run(compare())
