"""What conversations do, whatever backend has their tables."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest

from storage_lib.conversations import Conversations
from storage_lib.errors import (
    InvalidArgumentError,
    InvalidKeyError,
    KeyNotFoundError,
    ObjectTooLargeError,
    PreconditionFailedError,
    SerializationError,
    StorageError,
)
from storage_lib.manager import StorageManager


def said(*texts: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text} for text in texts]


class ConversationsContract:
    """Subclass it and give the fixture ``storage``: a manager whose store may be shared with other tests."""

    @pytest.fixture
    def table(self) -> str:
        return f"c{uuid.uuid4().hex[:12]}"

    @pytest.fixture
    def log(self, storage: StorageManager, table: str) -> Conversations:
        return Conversations(storage, table=table)

    # -- append and read

    async def test_messages_come_back_as_they_went_in(self, log: Conversations) -> None:
        messages: list[dict[str, Any]] = [
            {"role": "ceo", "content": 'päck 🙂 "quoted" \\ \x00 <&>\r\n', "n": [1, 2.5, None, True, 2**70]},
            {},
            {"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
        ]
        appended = await log.append("boardroom/session_001", messages)
        assert (appended.position, appended.positions, appended.added) == (3, (1, 2, 3), 3)
        entries = await log.read("boardroom/session_001")
        assert [each.message for each in entries] == messages
        assert [each.position for each in entries] == [1, 2, 3]
        assert [each.id for each in entries] == list(appended.ids)

    async def test_reads_are_ranges(self, log: Conversations) -> None:
        await log.append("c", [{"n": n} for n in range(1, 11)])

        async def numbers(**wanted: int) -> list[int]:
            return [each.position for each in await log.read("c", **wanted)]

        assert await numbers() == list(range(1, 11))
        assert await numbers(last=3) == [8, 9, 10]
        assert await numbers(last=100) == list(range(1, 11))
        assert await numbers(last=0) == []
        assert await numbers(after=7) == [8, 9, 10]
        assert await numbers(after=2, limit=3) == [3, 4, 5]
        assert await numbers(limit=2) == [1, 2]
        assert await numbers(limit=0) == []
        assert await numbers(before=3) == [1, 2]
        assert await numbers(before=6, last=2) == [4, 5]
        assert await numbers(after=2, before=9, last=2) == [7, 8]
        assert await numbers(after=10) == []
        assert await numbers(after=99) == []
        with pytest.raises(InvalidArgumentError) as refused:
            await log.read("c", last=1, limit=1)
        assert refused.value.field == "limit"

    @pytest.mark.parametrize("size", [10_000, 40_000, 200_000, 1_200_000])
    async def test_large_messages_come_back(self, log: Conversations, size: int) -> None:
        message = {"id": "large", "content": "x" * size, "more": "ü" * 10}
        await log.append("c", [message])
        assert (await log.append("c", [message])).added == 0
        assert [each.message for each in await log.read("c", last=5)] == [message]
        await log.fork("c", "copy")
        await log.delete("c")
        assert [each.message for each in await log.read("copy")] == [message]

    async def test_an_append_of_many_is_whole(self, log: Conversations) -> None:
        messages = [{"id": f"m{n}", "n": n} for n in range(120)]
        appended = await log.append("c", messages)
        assert appended.positions == tuple(range(1, 121))
        again = await log.append("c", [*messages, {"id": "new"}])
        assert (again.position, again.added, again.positions[-1]) == (121, 1, 121)
        assert [each.message["n"] for each in await log.read("c", limit=120)] == list(range(120))

    async def test_a_conversation_that_is_not_there(self, log: Conversations) -> None:
        for call in (
            log.read("none"),
            log.read("none", after=1),
            log.describe("none"),
            log.pop("none"),
            log.clear("none"),
            log.delete("none"),
            log.fork("none", "other"),
            log.change("none", topic="x"),
            log.export("none"),
            log.compact("none", lambda messages: {}, keep=1),
        ):
            with pytest.raises(KeyNotFoundError) as refused:
                await call
            assert refused.value.field == "conversation"
        assert await log.pop("none", default=None) is None
        assert await log.list() == []
        await log.delete("none", missing_ok=True)

    # -- compare-and-set, and exactly once

    async def test_the_position_is_compared(
        self, log: Conversations, storage: StorageManager, table: str
    ) -> None:
        other = Conversations(storage, table=table)
        assert (await log.append("c", said("a"), if_position=0)).position == 1
        assert (await other.append("c", said("b"), if_position=1)).position == 2
        for expected in (0, 1, 3, 1000):
            with pytest.raises(PreconditionFailedError) as refused:
                await log.append("c", said("x"), if_position=expected)
            assert refused.value.field == "if_position"
        with pytest.raises(PreconditionFailedError):
            await log.append("none", said("x"), if_position=1)
        assert [each.message["content"] for each in await log.read("c")] == ["a", "b"]

    async def test_a_message_with_an_id_is_appended_once(
        self, log: Conversations, storage: StorageManager, table: str
    ) -> None:
        first = [{"id": "a", "n": 1}, {"id": "b", "n": 2}]
        appended = await log.append("c", first, if_position=0)
        for handle in (log, Conversations(storage, table=table)):
            again = await handle.append("c", first, if_position=0)
            assert (again.positions, again.added, again.position) == (appended.positions, 0, 2)
        part = await log.append("c", [{"id": "b", "n": 2}, {"id": "c", "n": 3}, {"n": 4}])
        assert (part.positions, part.added) == ((2, 3, 4), 2)
        assert [each.message["n"] for each in await log.read("c")] == [1, 2, 3, 4]
        with pytest.raises(PreconditionFailedError):
            await log.append("c", [{"id": "b", "n": 2}, {"id": "d"}], if_position=2)

    async def test_an_id_is_of_one_message(self, log: Conversations) -> None:
        await log.append("c", [{"id": "a", "n": 1, "x": {"y": 1, "z": 2}}])
        assert (await log.append("c", [{"x": {"z": 2, "y": 1}, "n": 1, "id": "a"}])).added == 0
        with pytest.raises(PreconditionFailedError) as refused:
            await log.append("c", [{"n": 1}, {"id": "a", "n": 2}])
        assert (refused.value.field, bool(refused.value.remedy)) == ("messages[1].id", True)
        with pytest.raises(InvalidArgumentError) as twice:
            await log.append("c", [{"id": "b"}, {"id": "b"}])
        assert twice.value.field == "messages[1].id"
        assert (await log.append("c", [{"id": "a", "n": 2}] * 2, ids=[None, None])).added == 2
        assert (await log.append("c", [{"n": 3}], ids=["a3"])).ids == ("a3",)
        assert (await log.append("c", [{"n": 3}], ids=["a3"])).added == 0
        assert (await log.append("c", [{"id": None}, {"id": ""}, {"id": {}}])).added == 3

    async def test_two_handles_lose_and_double_nothing(
        self, log: Conversations, storage: StorageManager, table: str
    ) -> None:
        other = Conversations(storage, table=table)

        async def work(handle: Conversations, name: str) -> list[int]:
            return [(await handle.append("c", [{"by": name, "n": n}])).position for n in range(12)]

        found = await asyncio.gather(work(log, "a"), work(other, "b"), work(other, "c"))
        assert sorted(position for each in found for position in each) == list(range(1, 37))
        entries = await log.read("c")
        assert [each.position for each in entries] == list(range(1, 37))
        for name in "abc":
            assert [each.message["n"] for each in entries if each.message["by"] == name] == list(range(12))

    # -- pop, clear, delete

    async def test_pop_takes_the_newest(self, log: Conversations) -> None:
        await log.append("c", [{"id": "a"}, {"id": "b"}])
        with pytest.raises(PreconditionFailedError):
            await log.pop("c", if_position=1)
        popped = await log.pop("c", if_position=2)
        assert (popped.position, popped.id, popped.message) == (2, "b", {"id": "b"})
        again = await log.append("c", [{"id": "b"}])
        assert (again.position, again.added) == (3, 1)
        assert [each.position for each in await log.read("c")] == [1, 3]
        assert [each.position for each in await log.read("c", limit=2)] == [1, 3]
        assert (await log.describe("c")).count == 2
        assert [(await log.pop("c")).id, (await log.pop("c")).id] == ["b", "a"]
        with pytest.raises(KeyNotFoundError):
            await log.pop("c")
        assert await log.pop("c", default="none") == "none"
        assert (await log.append("c", said("x"))).position == 4

    async def test_clear_keeps_the_conversation(self, log: Conversations) -> None:
        await log.append("c", [{"id": "a"}, {"id": "b"}], participants=["ceo"], topic="t", metadata={"k": 1})
        assert await log.clear("c") == 2
        assert await log.clear("c") == 0
        found = await log.describe("c")
        assert (found.count, found.position, found.topic, found.metadata) == (0, 2, "t", {"k": 1})
        assert await log.read("c") == await log.read("c", last=3) == []
        again = await log.append("c", [{"id": "b"}, {"id": "a"}], if_position=2)
        assert (again.positions, again.added) == ((3, 4), 2)

    async def test_what_is_deleted_is_gone_and_may_be_made_again(self, log: Conversations) -> None:
        await log.append("a/c", [{"id": f"m{n}"} for n in range(60)], participants=["ceo"])
        await log.delete("a/c")
        with pytest.raises(KeyNotFoundError):
            await log.read("a/c")
        assert await log.list() == await log.list(participant="ceo", prefix="a/") == []
        appended = await log.append("a/c", [{"id": "m1"}], if_position=0)
        assert (appended.position, appended.added) == (1, 1)
        assert [each.id for each in await log.read("a/c", last=10)] == ["m1"]

    # -- fork and compact

    async def test_a_fork_goes_its_own_way(self, log: Conversations) -> None:
        await log.append("c", [{"id": f"m{n}"} for n in range(1, 61)], participants=["ceo"], topic="t")
        await log.pop("c")
        copy = await log.fork("c", "d/copy", until=55)
        assert (copy.id, copy.position, copy.count, copy.topic) == ("d/copy", 55, 55, "t")
        whole = await log.fork("c", "whole")
        assert (whole.position, whole.count) == (60, 59)
        assert (await log.append("d/copy", [{"id": "m55"}, {"id": "m56"}])).positions == (55, 56)
        assert [each.id for each in await log.read("d/copy", last=2)] == ["m55", "m56"]
        assert [each.id for each in await log.read("c", last=1)] == ["m59"]
        assert {each.id for each in await log.list(participant="ceo")} == {"c", "d/copy", "whole"}
        with pytest.raises(PreconditionFailedError) as taken:
            await log.fork("c", "whole")
        assert taken.value.field == "to"
        with pytest.raises(PreconditionFailedError) as beyond:
            await log.fork("c", "other", until=61)
        assert beyond.value.field == "until"

    async def test_compaction_spares_what_comes_meanwhile(
        self, log: Conversations, storage: StorageManager, table: str
    ) -> None:
        other = Conversations(storage, table=table)
        await log.append("c", [{"n": n} for n in range(1, 9)])
        told: list[list[dict[str, Any]]] = []

        async def summarise(messages: list[dict[str, Any]]) -> dict[str, Any]:
            told.append(messages)
            await other.append("c", [{"n": 9}])
            return {"summary": [each["n"] for each in messages]}

        done = await log.compact("c", summarise, keep=3)
        assert done is not None
        assert (done.replaced, done.summary.position) == (5, 5)
        assert told == [[{"n": n} for n in range(1, 6)]]
        entries = await log.read("c")
        assert [each.position for each in entries] == [5, 6, 7, 8, 9]
        assert entries[0].message == done.summary.message == {"summary": [1, 2, 3, 4, 5]}
        assert (await log.describe("c")).count == 5
        assert await log.compact("c", lambda messages: {}, keep=5) is None

    # -- the conversation itself

    @pytest.mark.parametrize("expected", [{}, {"if_match": "*"}, {"if_match": "x"}], ids=str)
    async def test_what_needs_a_conversation_says_that_there_is_none(
        self, storage: StorageManager, expected: dict[str, Any]
    ) -> None:
        """Whatever is expected of it; only an append, which could make it, says that this does not hold."""
        log = Conversations(storage)
        calls = (
            lambda: log.pop("c", **expected),
            lambda: log.clear("c", **expected),
            lambda: log.replace("c", {"summary": "none"}, until=1, **expected),
            lambda: log.change("c", topic="t", **expected),
            lambda: log.delete("c", **expected),
        )
        for call in calls:
            with pytest.raises(KeyNotFoundError):
                await call()
        assert await log.pop("c", default=None, **expected) is None
        await log.delete("c", missing_ok=True, **expected)
        if expected:
            with pytest.raises(PreconditionFailedError):
                await log.append("c", [{"n": 1}], **expected)
            with pytest.raises(KeyNotFoundError):
                await log.describe("c")

    async def test_a_conversation_says_what_it_is(self, log: Conversations) -> None:
        appended = await log.append(
            "c", said("x"), participants=["ceo", "cfo", "ceo"], topic="money", metadata={"a": 1, "b": [2]}
        )
        found = await log.describe("c")
        assert (found.id, found.position, found.count) == ("c", 1, 1)
        assert (found.participants, found.topic, found.metadata) == (
            ("ceo", "cfo"),
            "money",
            {"a": 1, "b": [2]},
        )
        assert found.etag == appended.etag
        assert found.created_at <= found.updated_at
        assert found.expires_at is None
        await log.append("c", [], participants=["coo"], metadata={"b": 3})
        joined = await log.describe("c")
        assert (joined.participants, joined.metadata) == (("ceo", "cfo", "coo"), {"a": 1, "b": 3})
        with pytest.raises(PreconditionFailedError) as stale:
            await log.change("c", topic="x", if_match=found.etag)
        assert stale.value.field == "if_match"
        changed = await log.change("c", topic=None, participants=["cfo"], metadata={}, if_match=joined.etag)
        assert (changed.topic, changed.participants, changed.metadata) == (None, ("cfo",), {})
        assert changed.etag != joined.etag
        assert await log.list(participant="ceo") == await log.list(topic="money") == []
        assert [each.id for each in await log.list(participant="cfo")] == ["c"]

    async def test_conversations_are_listed_newest_first(self, log: Conversations) -> None:
        for n in range(5):
            await log.append(f"a/{n}", [], participants=["ceo" if n % 2 else "cfo", "all"], topic=f"t{n % 2}")
        await log.append("b", said("x"), participants=["all"])
        await log.append("a/0", said("x"))

        async def names(**wanted: Any) -> list[str]:
            return [each.id for each in await log.list(**wanted)]

        assert await names() == ["b", "a/4", "a/3", "a/2", "a/1", "a/0"]
        assert await names(participant="ceo") == ["a/3", "a/1"]
        assert await names(topic="t0") == ["a/4", "a/2", "a/0"]
        assert await names(participant="all", topic="t1") == ["a/3", "a/1"]
        assert await names(participant="cfo", prefix="a/") == ["a/4", "a/2", "a/0"]
        assert await names(prefix="a/1") == ["a/1"]
        assert await names(prefix="b/") == await names(participant="nobody") == []
        first = await log.page(participant="all", limit=4)
        rest = await log.page(participant="all", limit=4, cursor=first.cursor)
        assert [each.id for each in (*first.conversations, *rest.conversations)] == await names()
        with pytest.raises(InvalidArgumentError):
            await log.page(participant="ceo", cursor=first.cursor)

    async def test_an_export_is_one_document(self, log: Conversations) -> None:
        await log.append("c", said("x"), participants=["ceo"], topic="money", metadata={"k": 1})
        found = await log.export("c")
        created = (await log.describe("c")).created_at.isoformat()
        assert found == {
            "conversation_id": "c",
            "participants": ["ceo"],
            "messages": said("x"),
            "metadata": {"k": 1, "topic": "money", "created_at": created},
        }

    # -- what is refused

    @pytest.mark.parametrize(
        ("messages", "error", "field"),
        [
            ({"role": "user"}, InvalidArgumentError, "messages"),
            ("text", InvalidArgumentError, "messages"),
            (["text"], InvalidArgumentError, "messages[0]"),
            ([{}, {"x": b"bytes"}], SerializationError, "messages[1]"),
            ([{"x": float("nan")}], SerializationError, "messages[0]"),
            ([{"x": "\ud800"}], SerializationError, "messages[0]"),
            ([{"id": "x" * 2000}], InvalidArgumentError, "messages[0].id"),
            ([{}] * 5001, InvalidArgumentError, "messages"),
        ],
        ids=["dict", "text", "texts", "bytes", "nan", "surrogate", "id", "many"],
    )
    async def test_messages_that_cannot_be(
        self, log: Conversations, messages: Any, error: type[StorageError], field: str
    ) -> None:
        with pytest.raises(error) as refused:
            await log.append("c", messages)
        assert refused.value.field == field
        with pytest.raises(KeyNotFoundError):
            await log.describe("c")

    async def test_names_that_cannot_be(self, log: Conversations) -> None:
        for name in ("", "a//b", ".system/x", "../x", "x" * 301, "/".join("x" * 60), "ü" * 200, 5):
            with pytest.raises(InvalidKeyError):
                await log.append(name, said("x"))  # type: ignore[arg-type]
        with pytest.raises(InvalidArgumentError) as names:
            await log.append("c", [], participants=[f"p{n}" for n in range(51)])
        assert names.value.field == "participants"
        with pytest.raises(InvalidArgumentError) as name:
            await log.append("c", [], participants=["ceo", ""])
        assert name.value.field == "participants[1]"
        lone: list[tuple[dict[str, Any], str]] = [
            ({"participants": ["ceo", "\ud800"]}, "participants[1]"),
            ({"topic": "\ud800"}, "topic"),
            ({"ids": ["\ud800"]}, "ids[0]"),
        ]
        for given, field in lone:
            with pytest.raises(InvalidArgumentError, match="surrogate") as surrogate:
                await log.append("c", said("x"), **given)
            assert surrogate.value.field == field
        with pytest.raises(ObjectTooLargeError) as large:
            await log.append("c", [], metadata={"x": "y" * 40_000})
        assert large.value.field == "metadata"
        for wanted in ({"ttl": -1}, {"max_messages": 0}, {"max_age": "x"}):
            with pytest.raises(InvalidArgumentError) as refused:
                await log.change("c", **wanted)  # type: ignore[arg-type]
            assert refused.value.field == next(iter(wanted))
