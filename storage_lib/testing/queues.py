"""What a queue store does, whatever is behind it."""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from storage_lib.errors import InvalidArgumentError, InvalidKeyError, KeyNotFoundError, ObjectTooLargeError
from storage_lib.ports.backend import QueueMessage, QueueStore
from storage_lib.testing.buffers import NOT_BYTES, buffers
from storage_lib.testing.cancellation import CancelledQueueWrites
from storage_lib.testing.named import ListedQueues

CARRIED = ["", " ", "a\tb\nc", "<&>\"'", "\x7f\x85\u2028\ufdd0\ufffd", "🙂", "]]>", "&#0;", "line\r\nend\r"]
"""Texts that every queue carries unencoded."""
NOT_CARRIED = [
    "\x00",
    "a\x01",
    "\x08b",
    "\x0b",
    "\x0c",
    "\x1f",
    "\x1b[0m",
    "\ud800",
    "x\udfff",
    "\ufffe",
    "\uffff",
]
"""Texts that Azure refuses, and so every queue."""


class QueueStoreContract(ListedQueues, CancelledQueueWrites):
    """Subclass it and give the fixture ``queues`` (message encoding base64)."""

    @pytest.fixture
    async def queue(self, queues: QueueStore) -> str:
        name = f"q-{uuid.uuid4().hex[:12]}"
        await queues.create_queue(name)
        return name

    @pytest.mark.parametrize(
        "body", [b'{"a": 1}', b"", b"\x00\xff<&>\r\n", "päckchen 🙂 <tag> & more".encode(), b"x" * 49_152]
    )
    async def test_a_message_comes_back_as_it_was_sent(
        self, queues: QueueStore, queue: str, body: bytes
    ) -> None:
        before = datetime.now(UTC) - timedelta(seconds=5)
        await queues.send(queue, body)
        (message,) = await queues.receive(queue)
        assert message.body == body
        assert message.text == queues.encode(body)
        assert message.dequeue_count == 1
        assert message.pop_receipt
        assert before < message.inserted_at < datetime.now(UTC) + timedelta(seconds=5)
        assert message.next_visible_at > message.inserted_at

    async def test_bytes_like_objects_are_their_bytes(self, queues: QueueStore, queue: str) -> None:
        for buffer, expected in buffers():
            await queues.send(queue, buffer)
            (message,) = await queues.receive(queue)
            assert message.body == expected
            message = await queues.update(queue, message, visibility_timeout=30, body=buffer)
            assert message.body == expected
            await queues.delete(queue, message)

    async def test_what_is_no_message_is_refused(self, queues: QueueStore, queue: str) -> None:
        await queues.send(queue, b"old")
        (message,) = await queues.receive(queue)
        for wrong in NOT_BYTES[1:]:
            with pytest.raises(InvalidArgumentError) as refused:
                await queues.send(queue, wrong)
            assert refused.value.field == "body"
            assert refused.value.remedy
            for call in (queues.delete(queue, wrong), queues.update(queue, wrong, visibility_timeout=0)):
                with pytest.raises(InvalidArgumentError) as refused:
                    await call
                assert refused.value.field == "message"
        for wrong in NOT_BYTES[2:]:  # no text, and not None, which leaves the body as it is
            with pytest.raises(InvalidArgumentError):
                await queues.update(queue, message, visibility_timeout=30, body=wrong)
        await queues.delete(queue, message)
        assert await queues.length(queue) == 0

    async def test_a_received_message_is_hidden_until_deleted(self, queues: QueueStore, queue: str) -> None:
        await queues.send(queue, "one")
        (message,) = await queues.receive(queue, max_messages=32)
        assert await queues.receive(queue, max_messages=32) == []
        assert await queues.length(queue) == 1
        await queues.delete(queue, message)
        assert await queues.length(queue) == 0

    async def test_a_message_not_deleted_comes_again_and_the_old_receipt_is_lost(
        self, queues: QueueStore, queue: str
    ) -> None:
        await queues.send(queue, "one")
        (first,) = await queues.receive(queue, visibility_timeout=1)
        second = await _receive_soon(queues, queue)
        assert second.id == first.id
        assert second.dequeue_count == 2
        assert second.pop_receipt != first.pop_receipt
        with pytest.raises(KeyNotFoundError, match="receipt"):
            await queues.delete(queue, first)
        with pytest.raises(KeyNotFoundError, match="receipt"):
            await queues.update(queue, first, visibility_timeout=5)
        await queues.delete(queue, second)
        with pytest.raises(KeyNotFoundError, match="receipt"):
            await queues.delete(queue, second)

    async def test_only_the_receipt_deletes_or_updates(self, queues: QueueStore, queue: str) -> None:
        await queues.send(queue, "one")
        (peeked,) = await queues.peek(queue)
        (message,) = await queues.receive(queue)
        others = [
            peeked,
            replace(message, pop_receipt="garbage"),
            replace(message, id=str(uuid.uuid4())),
            replace(message, id="x"),
        ]
        for other in others:
            with pytest.raises(KeyNotFoundError, match="receipt") as lost:
                await queues.delete(queue, other)
            assert lost.value.field == "pop_receipt"
            assert repr(other.id) in str(lost.value)
            with pytest.raises(KeyNotFoundError, match="receipt"):
                await queues.update(queue, other, visibility_timeout=5, body="stolen")
        assert await queues.length(queue) == 1
        await queues.delete(queue, message)

    async def test_a_deleted_or_cleared_message_is_lost_to_its_receipt(
        self, queues: QueueStore, queue: str
    ) -> None:
        for n in range(2):
            await queues.send(queue, f"m{n}")
        first, second = await queues.receive(queue, max_messages=2)
        await queues.delete(queue, first)
        await queues.clear(queue)
        for message in (first, second):
            with pytest.raises(KeyNotFoundError, match="receipt"):
                await queues.update(queue, message, visibility_timeout=5)
            with pytest.raises(KeyNotFoundError, match="receipt"):
                await queues.delete(queue, message)

    async def test_update_hides_replaces_and_renews_the_receipt(self, queues: QueueStore, queue: str) -> None:
        await queues.send(queue, "one")
        (message,) = await queues.receive(queue)
        renewed = await queues.update(queue, message, visibility_timeout=60, body="two")
        assert renewed.pop_receipt != message.pop_receipt
        with pytest.raises(KeyNotFoundError, match="receipt"):
            await queues.delete(queue, message)
        assert await queues.receive(queue) == []
        await queues.update(queue, renewed, visibility_timeout=0)
        (again,) = await queues.receive(queue)
        assert again.body == b"two"
        assert again.dequeue_count == 2
        # Without a body the text stays, and every use of the newest receipt gives the next.
        extended = await queues.update(queue, again, visibility_timeout=30)
        assert (extended.body, extended.id, extended.dequeue_count) == (b"two", again.id, 2)
        assert extended.next_visible_at > datetime.now(UTC)
        extended = await queues.update(queue, extended, visibility_timeout=0, body=b"\x00three")
        (again,) = await queues.receive(queue)
        assert (again.body, again.dequeue_count) == (b"\x00three", 3)

    async def test_a_delayed_message_is_not_there_yet(self, queues: QueueStore, queue: str) -> None:
        for delay in (1, 10, 100):
            begun = time.monotonic()
            await queues.send(queue, "later", delay=delay)
            received = await queues.receive(queue)
            if time.monotonic() - begun < delay / 2:  # Not if the machine was busy with something else.
                break
            await queues.clear(queue)
        assert received == []
        assert (await _receive_soon(queues, queue)).body == b"later"

    async def test_many_are_received_at_once_each_by_one(self, queues: QueueStore, queue: str) -> None:
        await asyncio.gather(*(queues.send(queue, f"m{n}") for n in range(20)))
        assert len(await queues.peek(queue, max_messages=32)) == 20
        batches = await asyncio.gather(*(queues.receive(queue, max_messages=8) for _ in range(4)))
        received = [message.body for batch in batches for message in batch]
        assert all(len(batch) <= 8 for batch in batches)
        rest = await queues.receive(queue, max_messages=32)
        received += [message.body for message in rest]
        assert sorted(body for body in received if body) == sorted(b"m%d" % n for n in range(20))

    async def test_peek_leaves_messages_as_they_are(self, queues: QueueStore, queue: str) -> None:
        await queues.send(queue, "one")
        (peeked,) = await queues.peek(queue, max_messages=5)
        assert peeked.body == b"one"
        (message,) = await queues.receive(queue)
        assert message.dequeue_count == 1
        assert message.id == peeked.id

    async def test_clear_removes_everything(self, queues: QueueStore, queue: str) -> None:
        for n in range(3):
            await queues.send(queue, f"m{n}")
        await queues.receive(queue)
        await queues.send(queue, "hidden", delay=100)
        assert await queues.length(queue) == 4
        await queues.clear(queue)
        assert await queues.length(queue) == 0
        await queues.clear(queue)

    async def test_up_to_32_are_received_at_once(self, queues: QueueStore, queue: str) -> None:
        await asyncio.gather(*(queues.send(queue, f"m{n}") for n in range(33)))
        received = await queues.receive(queue, max_messages=32)
        assert len(received) == len({message.id for message in received}) == 32
        assert len(await queues.receive(queue, max_messages=32)) == 1

    async def test_an_expired_message_is_never_given(self, queues: QueueStore, queue: str) -> None:
        await queues.send(queue, "short", ttl=1)
        deadline = asyncio.get_running_loop().time() + 120
        while await queues.peek(queue):
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.1)
        assert await queues.receive(queue) == []

    async def test_a_missing_queue_is_made_by_send_and_not_found_by_receive(self, queues: QueueStore) -> None:
        name = f"q-{uuid.uuid4().hex[:12]}"
        for call in (queues.receive, queues.peek, queues.length, queues.clear):
            with pytest.raises(KeyNotFoundError) as missing:
                await call(name)
            assert (str(missing.value), missing.value.field) == (f"queue {name!r} does not exist", "queue")
        await queues.send(name, "one")
        assert len(await queues.receive(name)) == 1
        await queues.create_queue(name)

    async def test_names_that_azure_refuses_are_mapped_to_queues_of_their_own(
        self, queues: QueueStore
    ) -> None:
        tail = uuid.uuid4().hex[:8]
        names = [f"agent_tasks_{tail}", f"agent--tasks-{tail}", f"Agent_tasks_{tail}", f"-{tail}-"]
        names += [f"ü {tail}", f"{tail} " * 28]
        for name in names:
            await queues.create_queue(name)
            await queues.send(name, name)
        for name in names:
            (message,) = await queues.receive(name, max_messages=32)
            assert message.body == name.encode()
            assert [m.id for m in await queues.peek(name)] == []
            await queues.delete(name, await queues.update(name, message, visibility_timeout=9))
            assert await queues.length(name) == 0
        for name in ("", "a/b", "a\n", "a\x00", "\ud800", "x" * 256, None):
            with pytest.raises(InvalidKeyError):
                await queues.send(name, "x")  # pyright: ignore[reportArgumentType]
            with pytest.raises(InvalidKeyError):
                await queues.receive(name)  # pyright: ignore[reportArgumentType]

    @pytest.mark.parametrize("text", CARRIED, ids=ascii)
    async def test_a_text_is_carried_as_it_is(self, queues: QueueStore, queue: str, text: str) -> None:
        await queues.send_text(queue, text)
        (message,) = await queues.receive(queue)
        assert message.text == text
        # base64 of it carries anything.
        await queues.send(queue, text + "\x00\ufffe")
        (message,) = await queues.receive(queue)
        assert message.body == (text + "\x00\ufffe").encode()

    @pytest.mark.parametrize("text", NOT_CARRIED, ids=ascii)
    async def test_a_text_that_a_queue_can_not_carry_is_refused(
        self, queues: QueueStore, queue: str, text: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await queues.send(queue, "kept")
        (message,) = await queues.receive(queue)
        for plain in (False, True):
            if plain:
                monkeypatch.setattr(queues, "message_encoding", "none")
            elif not any("\ud800" <= character <= "\udfff" for character in text):
                continue  # base64 carries it.
            for call in (
                queues.send(queue, text),
                queues.update(queue, message, visibility_timeout=5, body=text),
            ):
                with pytest.raises(InvalidArgumentError) as refused:
                    await call
                assert refused.value.field == "body"
        for call in (
            queues.send_text(queue, text),
            queues.update(queue, replace(message, text=text), visibility_timeout=5),
        ):
            with pytest.raises(InvalidArgumentError) as refused:
                await call
            assert refused.value.field == "body"
            assert "base64" in (refused.value.remedy or "")
        assert await queues.length(queue) == 1

    async def test_limits_are_refused_before_anything_is_sent(self, queues: QueueStore, queue: str) -> None:
        with pytest.raises(ObjectTooLargeError):
            await queues.send(queue, b"x" * 49_153)
        for arguments in (
            {"delay": -1},
            {"delay": 8 * 24 * 3600},
            {"delay": float("nan")},
            {"ttl": 0},
            {"ttl": 2**31},
            {"ttl": float("nan")},
            {"delay": 9, "ttl": 3},
        ):
            with pytest.raises(InvalidArgumentError):
                await queues.send(queue, "x", **arguments)
        for arguments in ({"max_messages": 0}, {"max_messages": 33}, {"visibility_timeout": 0}):
            with pytest.raises(InvalidArgumentError):
                await queues.receive(queue, **arguments)
        for count in (0, 33):
            with pytest.raises(InvalidArgumentError):
                await queues.peek(queue, max_messages=count)
        await queues.send(queue, "x")
        (message,) = await queues.receive(queue, visibility_timeout=7 * 24 * 3600)
        for seconds in (-1, 7 * 24 * 3600 + 1):
            with pytest.raises(InvalidArgumentError):
                await queues.update(queue, message, visibility_timeout=seconds)
        with pytest.raises(ObjectTooLargeError):
            await queues.update(queue, message, visibility_timeout=5, body=b"x" * 49_153)
        await queues.delete(queue, message)
        assert await queues.length(queue) == 0


async def _receive_soon(queues: QueueStore, queue: str) -> QueueMessage:
    """Wait for a message that becomes visible by itself. Visibility is whole seconds on a real service."""
    deadline = asyncio.get_running_loop().time() + 120
    while not (received := await queues.receive(queue)):
        assert asyncio.get_running_loop().time() < deadline, "no message became visible"
        await asyncio.sleep(0.1)
    return received[0]
