"""Conversations of Pydantic AI: its own store in memory and ours, by the same calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_ai import Agent, BinaryContent
from pydantic_ai.conversation import Conversation
from pydantic_ai.conversation_store import (
    ConversationConflict,
    ConversationEntry,
    ConversationRecord,
    ConversationStore,
    InMemoryConversationStore,
)
from pydantic_ai.exceptions import UserError
from pydantic_ai.messages import ModelRequest, ModelResponse, TextPart, ToolCallPart, UserPromptPart
from pydantic_ai.models.test import TestModel

from integrations.pydantic_ai import StorageConversations
from storage_lib import BackendClosedError, StorageConfig, StorageManager
from tests.framework_stores import Place, on, storage_on


@pytest.fixture(params=["memory", "file", "moto", "azurite"])
def place(request: pytest.FixtureRequest) -> Place:
    return on(request)


@pytest.fixture(params=["InMemory", "memory", "file", "moto", "azurite"])
def any_place(request: pytest.FixtureRequest) -> Place:
    return on(request)


@pytest.fixture
async def storage(place: Place, tmp_path: Path) -> AsyncIterator[StorageManager]:
    async with storage_on(place, tmp_path) as storage:
        yield storage


@pytest.fixture
async def store(any_place: Place, tmp_path: Path) -> AsyncIterator[ConversationStore]:
    if any_place[0] == "InMemory":
        yield InMemoryConversationStore()
        return
    async with storage_on(any_place, tmp_path) as storage:
        yield StorageConversations(storage)


WHEN = datetime(2026, 11, 30, 12, tzinfo=UTC)


def asked(text: Any) -> ModelRequest:
    return ModelRequest(parts=[UserPromptPart(content=text, timestamp=WHEN)], timestamp=WHEN)


def answered(text: str) -> ModelResponse:
    return ModelResponse(parts=[TextPart(content=text)], timestamp=WHEN)


async def reload(store: ConversationStore, identity: str = "chat") -> Conversation:
    found = await store.load(identity)
    assert found is not None
    return found


async def test_a_conversation_comes_back_with_its_messages(store: ConversationStore) -> None:
    assert await store.load("chat") is None
    picture = BinaryContent(data=b"\x00\xff", media_type="application/pdf")
    messages = [
        asked(["look", picture]),
        ModelResponse(parts=[ToolCallPart("f", {"a": [1, None]}, "c1"), TextPart("ä 🎉")], timestamp=WHEN),
    ]
    conversation = Conversation(conversation_id="chat", messages=messages)
    entries = await store.save(conversation)
    found = await reload(store)
    assert found.messages == messages
    assert found.revision == conversation.revision is not None
    assert [entry.parent_id for entry in entries] == [None, entries[0].id]
    assert await store.read_entry(entries[1].id) == entries[1]
    assert await store.load_entries("chat") == entries
    assert [entry.message for entry in await store.load_entries("chat", limit=1) or []] == messages[1:]
    with pytest.raises(LookupError):
        await store.read_entry("nothing")


async def test_only_what_is_new_is_stored(store: ConversationStore) -> None:
    conversation = Conversation(conversation_id="chat", messages=[asked("1"), answered("2")])
    assert len(await store.save(conversation)) == 2
    assert await store.save(conversation) == []
    conversation.messages.append(asked("3"))
    (entry,) = await store.save(conversation)
    assert entry.message == asked("3")
    assert (await reload(store)).messages == [asked("1"), answered("2"), asked("3")]


async def test_a_save_by_somebody_else_is_a_conflict(store: ConversationStore) -> None:
    await store.save(Conversation(conversation_id="chat", messages=[asked("1")]))
    with pytest.raises(ConversationConflict):
        await store.save(Conversation(conversation_id="chat", messages=[asked("other")]))
    one, other = await reload(store), await reload(store)
    one.messages.append(answered("one"))
    other.messages.append(answered("other"))
    await store.save(one)
    with pytest.raises(ConversationConflict):
        await store.save(other)
    assert (await reload(store)).messages == [asked("1"), answered("one")]
    await store.delete("chat")
    with pytest.raises(ConversationConflict):
        await store.save(one)
    assert await store.load("chat") is None
    await store.delete("chat")


async def test_of_saves_at_the_same_time_one_wins(storage: StorageManager) -> None:
    await StorageConversations(storage).save(Conversation(conversation_id="chat", messages=[asked("0")]))

    all_have_read = asyncio.Barrier(6)

    async def save(n: int) -> bool:
        store = StorageConversations(storage)  # As of another process.
        conversation = await reload(store)
        conversation.messages.append(answered(str(n)))
        await all_have_read.wait()
        try:
            await store.save(conversation)
        except ConversationConflict:
            return False
        return True

    won = await asyncio.gather(*map(save, range(6)))
    assert won.count(True) == 1
    messages = (await reload(StorageConversations(storage))).messages
    assert messages == [asked("0"), answered(str(won.index(True)))]


async def test_a_save_whose_answer_was_lost_leaves_its_messages_to_who_went_on_from_it(
    storage: StorageManager,
) -> None:
    store, save = StorageConversations(storage), storage.save

    async def lost(key: str, *args: Any, **options: Any) -> Any:
        if "/records/" not in key:
            return await save(key, *args, **options)
        storage.save = save  # type: ignore[method-assign]
        await save(key, *args, **options)
        other = await reload(store)
        other.messages.append(answered("other"))
        await store.save(other)
        return await save(key, *args, **options)

    storage.save = lost  # type: ignore[method-assign]
    with pytest.raises(ConversationConflict):
        await store.save(Conversation(conversation_id="chat", messages=[asked("one")]))
    assert (await reload(store)).messages == [asked("one"), answered("other")]


async def test_branches_and_forks_share_their_beginning(store: ConversationStore) -> None:
    first = Conversation(
        conversation_id="chat", messages=[asked("1"), answered("2"), asked("3"), answered("4")]
    )
    await store.save(first)
    branched = await store.branch("chat", at=2, expected_revision=first.revision)
    assert branched.messages == [asked("1"), answered("2")]
    branched.messages += [asked("3b"), answered("4b")]
    await store.save(branched)
    record = await store.read_record("chat")
    assert record is not None
    assert len(record.branches) == 1
    back = await store.branch("chat", from_entry=record.branches[0], expected_revision=branched.revision)
    assert back.messages == first.messages
    fork = await store.fork("chat", at=1, new_conversation_id="fork", scope="ann")
    assert fork.messages == [asked("1")]
    fork.messages.append(answered("forked"))
    await store.save(fork)
    assert (await reload(store, "fork")).messages == [asked("1"), answered("forked")]
    assert (await reload(store)).messages == first.messages
    with pytest.raises(ConversationConflict):
        await store.fork("chat", new_conversation_id="fork")
    with pytest.raises(ConversationConflict):
        await store.branch("chat", at=0, expected_revision=first.revision)
    with pytest.raises(UserError):
        await store.branch("nothing", at=0, expected_revision=None)


async def test_a_head_that_is_not_there_is_a_conflict(store: ConversationStore) -> None:
    with pytest.raises(ConversationConflict):
        await store.write_record(
            ConversationRecord(conversation_id="a", head_id="none"), expected_revision=None
        )
    entry = ConversationEntry(parent_id=None, message=asked("1"))
    record = ConversationRecord(conversation_id="a", head_id=entry.id)
    await store.write_record(record, new_entries=[entry], expected_revision=None)
    with pytest.raises(ConversationConflict):
        await store.delete_record("a", expected_revision="other")
    with pytest.raises(ConversationConflict):
        await store.delete_record("b", expected_revision=record.revision)
    await store.delete_record("a", expected_revision=record.revision)


SCOPES = ["ann", "a/b", "", "ü 🎉", "a=2Fb"]


async def test_conversations_are_listed_by_scope_the_last_saved_first(store: ConversationStore) -> None:
    for n, scope in enumerate(SCOPES):
        for name in ("one", "two"):
            await store.save(Conversation(conversation_id=f"{name} {n}", messages=[asked("1")]), scope=scope)
    await store.save(Conversation(conversation_id="nobody's", messages=[asked("1")]))
    again = await reload(store, "one 0")
    again.messages.append(answered("2"))
    await store.save(again)
    listed = [each.conversation_id for each in await store.list_conversations()]
    expected = [
        "one 0",
        "nobody's",
        *(f"{name} {n}" for n in (4, 3, 2, 1) for name in ("two", "one")),
        "two 0",
    ]
    assert listed == expected
    assert [each.conversation_id for each in await store.list_conversations(limit=2)] == expected[:2]
    for n, scope in enumerate(SCOPES):
        listed = [each.conversation_id for each in await store.list_conversations(scope=scope)]
        assert sorted(listed) == [f"one {n}", f"two {n}"]
    assert await store.list_conversations(scope="other") == []
    assert await store.load("one 1", scope="ann") is None
    await store.delete("one 1", scope="ann")
    assert await store.load("one 1", scope="a/b") is not None


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
]


async def test_ids_are_any_text(store: ConversationStore) -> None:
    for text in IDS:
        await store.save(Conversation(conversation_id=text, messages=[asked(text)]))
    for text in IDS:
        assert (await reload(store, text)).messages == [asked(text)]


async def test_a_long_history_takes_few_rounds(storage: StorageManager) -> None:
    store = StorageConversations(storage)
    conversation = Conversation(conversation_id="chat")
    for n in range(4):
        conversation.messages += [asked(f"{n} {m}") for m in range(40)]
        await store.save(conversation)
    assert (await reload(store)).messages == conversation.messages
    for limit in (0, 1, 64, 65, 66, 130, 160, 500):
        found = await store.load("chat", limit=limit)
        assert found is not None
        assert found.messages == (conversation.messages[-limit:] if limit else [])


async def test_an_agent_goes_on_in_another_process(storage: StorageManager) -> None:
    for turn in range(1, 4):
        store = StorageConversations(storage)
        conversation = await store.load("ann") or Conversation(conversation_id="ann")
        result = await Agent(TestModel()).run(f"turn {turn}", conversation=conversation)
        assert len(await store.save(result, scope="team")) == 2
        found = await reload(store, "ann")
        assert len(found.messages) == 2 * turn
        assert found.usage.requests == turn


async def test_a_closed_storage_says_so(tmp_path: Path) -> None:
    storage = StorageManager(StorageConfig(storage_type="file", base_path=tmp_path))
    store = StorageConversations(storage)
    await store.save(Conversation(conversation_id="chat", messages=[asked("1")]))
    await storage.close()
    for call in (store.load("chat"), store.list_conversations(), store.delete("chat")):
        with pytest.raises(BackendClosedError):
            await call


# -- the same calls to both

NAMES = st.sampled_from("ab")
CALLS = st.one_of(
    st.tuples(st.just("extend"), NAMES, st.integers(1, 2)),
    st.tuples(st.just("rewrite"), NAMES, st.integers(0, 3)),
    st.tuples(st.just("stale"), NAMES),
    st.tuples(st.just("branch"), NAMES, st.integers(0, 3)),
    st.tuples(st.just("fork"), NAMES, st.sampled_from("abcd"), st.integers(0, 3)),
    st.tuples(st.just("load"), st.sampled_from("abcd"), st.none() | st.integers(0, 4)),
    st.tuples(st.just("delete"), st.sampled_from("cd")),
    st.tuples(st.just("list")),
)


async def outcome(store: ConversationStore, call: tuple[Any, ...], number: int) -> Any:
    match call:
        case ("extend" | "rewrite" | "stale" as kind, name, *count):
            found = await store.load(name) or Conversation(conversation_id=name)
            conversation = Conversation(
                conversation_id=name, messages=list(found.messages), revision=found.revision
            )
            if kind == "rewrite":
                del conversation.messages[count[0] :]
            conversation.messages.append(asked(f"{number}"))
            if kind == "stale":
                conversation.revision = "old"
            return len(await store.save(conversation))
        case ("branch", name, at):
            found = await store.load(name)
            branched = await store.branch(name, at=at, expected_revision=found and found.revision)
            return branched.messages
        case ("fork", name, to, at):
            return (await store.fork(name, at=at, new_conversation_id=to)).messages
        case ("load", name, limit):
            found = await store.load(name, limit=limit)
            return found and found.messages
        case ("delete", name):
            return await store.delete(name)
        case _:
            return [(each.conversation_id, len(each.branches)) for each in await store.list_conversations()]


@settings(max_examples=60, deadline=None)
@given(st.lists(CALLS, max_size=20))
def test_any_calls_have_the_results_of_pydantic_ai_s_own(calls: list[tuple[Any, ...]]) -> None:
    async def compare() -> None:
        async with StorageManager(StorageConfig(storage_type="memory")) as storage:
            stores = InMemoryConversationStore(), StorageConversations(storage)
            for number, call in enumerate(calls):
                results: list[Any] = []
                for store in stores:
                    try:
                        results.append(await outcome(store, call, number))
                    except UserError as error:
                        results.append(type(error))
                assert results[0] == results[1], call

    asyncio.run(compare())
