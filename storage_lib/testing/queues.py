"""What a queue store does, whatever is behind it."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime, timedelta

import pytest

from storage_lib.backends.base import QueueMessage, QueueStore
from storage_lib.errors import InvalidArgumentError, InvalidKeyError, KeyNotFoundError, ObjectTooLargeError


class QueueStoreContract:
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
        with pytest.raises(KeyNotFoundError):
            await queues.delete(queue, second)

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

    async def test_a_delayed_message_is_not_there_yet(self, queues: QueueStore, queue: str) -> None:
        await queues.send(queue, "later", delay=1)
        assert await queues.receive(queue) == []
        assert (await _receive_soon(queues, queue)).body == b"later"

    async def test_many_are_received_at_once_each_by_one(self, queues: QueueStore, queue: str) -> None:
        await asyncio.gather(*(queues.send(queue, f"m{n}") for n in range(20)))
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
        await queues.clear(queue)
        assert await queues.length(queue) == 0

    async def test_an_expired_message_is_never_given(self, queues: QueueStore, queue: str) -> None:
        await queues.send(queue, "short", ttl=1)
        deadline = asyncio.get_running_loop().time() + 15
        while await queues.peek(queue):
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.1)
        assert await queues.receive(queue) == []

    async def test_a_missing_queue_is_made_by_send_and_not_found_by_receive(self, queues: QueueStore) -> None:
        name = f"q-{uuid.uuid4().hex[:12]}"
        with pytest.raises(KeyNotFoundError):
            await queues.receive(name)
        await queues.send(name, "one")
        assert len(await queues.receive(name)) == 1
        await queues.create_queue(name)

    async def test_limits_are_refused_before_anything_is_sent(self, queues: QueueStore, queue: str) -> None:
        with pytest.raises(ObjectTooLargeError):
            await queues.send(queue, b"x" * 49_153)
        for arguments in ({"delay": -1}, {"delay": 8 * 24 * 3600}, {"ttl": 0}, {"delay": 9, "ttl": 3}):
            with pytest.raises(InvalidArgumentError):
                await queues.send(queue, "x", **arguments)
        for arguments in ({"max_messages": 0}, {"max_messages": 33}, {"visibility_timeout": 0}):
            with pytest.raises(InvalidArgumentError):
                await queues.receive(queue, **arguments)
        for name in ("ab", "Upper", "a_b", "-a-", "a--b", "x" * 64, "ä-queue", "a/b"):
            with pytest.raises(InvalidKeyError):
                await queues.send(name, "x")
        assert await queues.length(queue) == 0


async def _receive_soon(queues: QueueStore, queue: str) -> QueueMessage:
    """Wait for a message that becomes visible by itself. Visibility is whole seconds on a real service."""
    deadline = asyncio.get_running_loop().time() + 15
    while not (received := await queues.receive(queue)):
        assert asyncio.get_running_loop().time() < deadline, "no message became visible"
        await asyncio.sleep(0.1)
    return received[0]
