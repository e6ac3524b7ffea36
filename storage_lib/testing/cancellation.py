"""What becomes of writes whose callers were cancelled: once a later write of the same thing is acknowledged,
they have happened before it, or never will."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from storage_lib.errors import KeyNotFoundError, StorageError, TransientStorageError
from storage_lib.ports.backend import Delete, ObjectStore, QueueStore, TableStore, Upsert

ROUNDS = 200 if os.environ.get("SOAK") == "1" else 12
FRACTIONS = (0.05, 0.2, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Of the time that the write takes: when its caller is cancelled."""


async def _cancel_after(seconds: float, write: Awaitable[Any]) -> None:
    with suppress(TimeoutError, StorageError):
        async with asyncio.timeout(seconds):
            await write


async def _seconds(write: Awaitable[Any]) -> float:
    begun = time.monotonic()
    await write
    return max(time.monotonic() - begun, 0.0005)


class CancelledObjectWrites:
    """Part of `ObjectStoreContract`."""

    small_part = 256 * 1024
    """A part size for tests; S3 needs 5 MiB."""

    @pytest.mark.parametrize("first", ["put", "create", "replace", "stream", "copy", "touch", "delete"])
    async def test_a_cancelled_write_does_not_come_back(
        self, objects: ObjectStore, unique: str, monkeypatch: pytest.MonkeyPatch, first: str
    ) -> None:
        monkeypatch.setattr(objects, "part_bytes", self.small_part)
        await objects.put(f"{unique}/source", b"copied")
        parts = [b"x" * self.small_part, b"end"]

        def write(key: str, etag: str) -> Awaitable[Any]:
            match first:
                case "put":
                    return objects.put(key, b"v1")
                case "create":
                    return objects.put(key, b"v1", if_absent=True)
                case "replace":
                    return objects.put(key, b"v1", if_match=etag)
                case "stream":
                    return objects.put_stream(key, parts)
                case "copy":
                    return objects.copy(f"{unique}/source", key)
                case "touch":
                    return objects.touch(key, metadata={"touched": "1"}, if_match=etag)
                case _:
                    return objects.delete(key)

        async def prepared(key: str) -> str:
            return "" if first == "create" else (await objects.put(key, b"old")).etag

        took = await _seconds(write(f"{unique}/timed", await prepared(f"{unique}/timed")))
        expected: dict[str, bytes | None] = {}
        for n in range(ROUNDS if first != "stream" else ROUNDS // 2):
            key = f"{unique}/{n}"
            etag = await prepared(key)
            await _cancel_after(took * FRACTIONS[n % len(FRACTIONS)], write(key, etag))
            if n % 3 == 2:
                with suppress(KeyNotFoundError):
                    await objects.delete(key)
                expected[key] = None
            else:
                await objects.put(key, b"v2")
                expected[key] = b"v2"
            assert await self._found(objects, key) == expected[key]
        for key, data in expected.items():
            assert await self._found(objects, key) == data

    async def _found(self, objects: ObjectStore, key: str) -> bytes | None:
        try:
            found = await objects.get(key)
        except KeyNotFoundError:
            return None
        assert found is not None
        return found.data

    async def test_of_many_cancelled_writes_none_comes_back(self, objects: ObjectStore, unique: str) -> None:
        key = f"{unique}/k"
        took = await _seconds(objects.put(key, b"old"))
        for n in range(ROUNDS // 3):
            tasks = [asyncio.ensure_future(objects.put(key, b"%d" % at)) for at in range(4)]
            await asyncio.sleep(took * FRACTIONS[n % len(FRACTIONS)])
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await objects.put(key, b"last")
            for _ in range(3):
                assert await self._found(objects, key) == b"last"


class CancelledTableWrites:
    """Part of `TableStoreContract`."""

    @pytest.mark.parametrize("first", ["insert", "upsert", "update", "batch", "delete"])
    async def test_a_cancelled_write_of_an_entity_does_not_come_back(
        self, tables: TableStore, table: str, first: str
    ) -> None:
        def write(row: str, etag: str) -> Awaitable[Any]:
            match first:
                case "insert":
                    return tables.insert(table, "p", row, {"n": 1})
                case "upsert":
                    return tables.upsert(table, "p", row, {"n": 1})
                case "update":
                    return tables.update(table, "p", row, {"n": 1}, etag=etag)
                case "batch":
                    return tables.batch(table, "p", [Upsert(row, {"n": 1}), Upsert(f"{row}-other")])
                case _:
                    return tables.delete(table, "p", row)

        async def prepared(row: str) -> str:
            return "" if first == "insert" else await tables.upsert(table, "p", row, {"n": 0})

        async def found(row: str) -> int | None:
            try:
                return (await tables.get(table, "p", row)).properties["n"]
            except KeyNotFoundError:
                return None

        laters: list[tuple[Callable[[str], Awaitable[Any]], int | None]] = [
            (lambda row: tables.upsert(table, "p", row, {"n": 2}), 2),
            (lambda row: tables.batch(table, "p", [Upsert(row, {"n": 3})]), 3),
            (lambda row: tables.delete(table, "p", row), None),
            (lambda row: tables.batch(table, "p", [Delete(row)]), None),
        ]
        took = await _seconds(write("timed", await prepared("timed")))
        expected: dict[str, int | None] = {}
        for n in range(ROUNDS):
            row = f"r{n}"
            etag = await prepared(row)
            await _cancel_after(took * FRACTIONS[n % len(FRACTIONS)], write(row, etag))
            later, expected[row] = laters[n % len(laters)]
            with suppress(KeyNotFoundError):
                await later(row)
            assert await found(row) == expected[row]
        for row, value in expected.items():
            assert await found(row) == value


class CancelledQueueWrites:
    """Part of `QueueStoreContract`."""

    async def test_a_cancelled_message_does_not_come_after_the_queue_was_cleared(
        self, queues: QueueStore
    ) -> None:
        took = 0.0
        names: list[str] = []
        for n in range(ROUNDS // 2):
            names.append(f"q-{uuid.uuid4().hex[:12]}")
            took = took or await _seconds(queues.send(names[-1], b"x"))
            await _cancel_after(took * FRACTIONS[n % len(FRACTIONS)], queues.send(names[-1], b"y"))
            with suppress(KeyNotFoundError):
                await queues.clear(names[-1])
            await queues.create_queue(names[-1])
            assert await queues.length(names[-1]) == 0
        for name in names:
            assert await queues.length(name) == 0

    @pytest.mark.parametrize("first", ["update", "delete"])
    async def test_a_cancelled_update_of_a_message_comes_before_the_next_one(
        self, queues: QueueStore, queue: str, first: str
    ) -> None:
        took = 0.0
        for n in range(ROUNDS // 2):
            await queues.send(queue, b"x")
            (message,) = await queues.receive(queue, visibility_timeout=300)
            if not took:
                took = await _seconds(queues.update(queue, message, visibility_timeout=300))
                await queues.clear(queue)
                continue
            write = (
                queues.delete(queue, message)
                if first == "delete"
                else queues.update(queue, message, visibility_timeout=300, body=b"late")
            )
            await _cancel_after(took * FRACTIONS[n % len(FRACTIONS)], write)
            try:
                updated = await queues.update(queue, message, visibility_timeout=0, body=b"new")
            except (KeyNotFoundError, TransientStorageError):
                # The cancelled one was carried out, and took the receipt.
                await queues.clear(queue)
            else:
                assert [found.body for found in await queues.peek(queue)] == [b"new"]
                assert updated.body == b"new"
                await queues.clear(queue)
