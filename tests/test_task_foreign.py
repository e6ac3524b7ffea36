"""Messages of other programs that say of themselves what the host tells of messages: none is lost or taken
for another, and none comes back for ever."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import azure.functions as func
import pytest

from functions import state as state_module
from functions import task_messages as tasks
from functions.state import AppState
from functions.task_messages import Delivery
from storage_lib.backends.azure import AzureStorageBackend
from storage_lib.backends.file import FileStorageBackend
from storage_lib.config import StorageConfig
from storage_lib.manager import StorageManager
from storage_lib.ports.backend import StorageBackend
from storage_lib.tasks import engine as engine_module
from storage_lib.tasks.engine import TaskEngine
from storage_lib.tasks.model import POISON_QUEUE, TASK_QUEUE, Priority
from tests.test_end_to_end import devhost

INSERTED = datetime(2026, 11, 29, 8, 0, tzinfo=UTC)


class Message(func.QueueMessage):
    """As the worker makes it of what the host tells."""

    def __init__(self, text: str, **told: Any) -> None:
        super().__init__(id=told.pop("id", "real"), body=text)
        self._told = {"dequeue_count": 1, "insertion_time": INSERTED, **told}

    dequeue_count = property(lambda self: self._told["dequeue_count"])
    insertion_time = property(lambda self: self._told["insertion_time"])


@pytest.mark.parametrize(
    ("text", "told", "expected"),
    [
        ("plain", {}, ("real", INSERTED, 1)),
        ('{"task_id": "t"}', {"dequeue_count": 3}, ("real", INSERTED, 3)),
        ('{"x": {"id": 1}}', {}, ("real", INSERTED, 1)),
        ('["id"]', {}, ("real", INSERTED, 1)),
        ('{"id": "mine"}', {"id": "mine"}, (None, INSERTED, 1)),
        ('{"Id": 7}', {"id": "7"}, (None, INSERTED, 1)),
        ('{"DEQUEUECOUNT": 99}', {"dequeue_count": 99}, ("real", INSERTED, 2)),
        ('{"dequeueCount": -1}', {"dequeue_count": -1}, ("real", INSERTED, 2)),
        ('{"popReceipt": "x"}', {}, ("real", INSERTED, 1)),
        # The host's parser takes more than JSON.
        ('{"\\u0069d": "mine"}', {"id": "mine"}, (None, INSERTED, 1)),
        ('{"dequeue\\u0043ount": 7}', {"dequeue_count": 7}, ("real", INSERTED, 2)),
        ("{'dequeueCount': 7, task: 1}", {"dequeue_count": 7}, (None, None, 2)),
        ("{id: 'mine'}", {"id": "mine"}, (None, None, 2)),
        ('{"x": "a\\nb"}', {"dequeue_count": 3}, ("real", INSERTED, 3)),
        ('{"id": 1, "x": ' + "[" * 30_000 + "]" * 30_000 + "}", {}, (None, None, 2)),
        # A text in base64 is not looked into by the host.
        ("eyJpZCI6ICJtaW5lIn0=", {}, ("real", INSERTED, 1)),
    ],
)
def test_what_is_believed(text: str, told: dict[str, Any], expected: tuple[Any, ...]) -> None:
    found = Delivery.of(Message(text, **told))
    if expected[1] is None:
        assert found.inserted_at > INSERTED, "now"
        expected = (expected[0], found.inserted_at, expected[2])
    assert (found.message_id, found.inserted_at, found.dequeue_count) == expected


def test_a_time_that_the_sender_wrote_is_not_believed() -> None:
    far = datetime(2999, 1, 1, tzinfo=UTC)
    found = Delivery.of(Message('{"insertionTime": "2999-01-01T00:00:00Z"}', insertion_time=far))
    assert abs(found.inserted_at - datetime.now(UTC)) < timedelta(minutes=1)


@pytest.fixture
async def files(tmp_path: Path) -> AsyncIterator[StorageBackend]:
    async with FileStorageBackend(tmp_path) as backend:
        yield backend


@pytest.fixture
async def azure(azurite: Any) -> AsyncIterator[StorageBackend]:
    async with AzureStorageBackend(azurite.connection_string) as backend:
        yield backend


@pytest.fixture(params=["files", "azure"])
def engine(request: pytest.FixtureRequest) -> TaskEngine:
    return TaskEngine(StorageManager(backend=request.getfixturevalue(request.param)))


@pytest.fixture
def app(engine: TaskEngine, monkeypatch: pytest.MonkeyPatch) -> TaskEngine:
    """The functions on this engine."""
    made = AppState(StorageConfig(storage_type="memory"))
    made.__dict__ |= {"storage": engine.storage, "engine": engine}
    monkeypatch.setattr(state_module, "_states", {asyncio.get_event_loop_policy: made})
    monkeypatch.setattr(tasks, "state", lambda: made)
    return engine


async def dead(engine: TaskEngine, text: str) -> list[str]:
    """The ids of the dead records that hold this message."""
    found: list[str] = []
    cursor = None
    while True:
        page = await engine.records.list(status="dead", cursor=cursor)
        found += [record.task_id for record in page.records if record.raw_message == text]
        if (cursor := page.cursor) is None:
            return found


async def test_two_messages_that_give_themselves_one_id_are_two_records(app: TaskEngine) -> None:
    text = json.dumps({"id": "order-1", "unique": str(datetime.now(UTC))})
    for _ in range(2):
        await tasks._process_poison(Message(text, id="order-1"), TASK_QUEUE)
    assert len(await dead(app, text)) == 2


async def test_two_deliveries_of_one_message_are_one_record(app: TaskEngine) -> None:
    text = json.dumps({"unique": str(datetime.now(UTC))})
    for count in (1, 2):
        await tasks._process_poison(Message(text, dequeue_count=count), TASK_QUEUE)
    await tasks._process_poison(Message(text, id="another"), TASK_QUEUE)
    assert len(await dead(app, text)) == 2


async def test_what_no_function_takes_is_recorded_and_removed(
    engine: TaskEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "SIFT_PAUSE", 0.01)
    monkeypatch.setattr(engine_module, "SIFT_SECONDS", 30)
    queues = engine.storage.backend.queues
    texts = [json.dumps({"dequeueCount": "many", "unique": f"{n} {datetime.now(UTC)}"}) for n in range(2)]
    for text in [*texts, texts[0]]:
        await queues.send_text(POISON_QUEUE, text)
    # The host has taken one and failed; it is hidden for some time.
    (held,) = await queues.receive(POISON_QUEUE, visibility_timeout=2)
    assert await engine.sift(Priority.NORMAL) >= 3
    assert await queues.length(POISON_QUEUE) == 0
    assert [len(await dead(engine, text)) for text in texts] == [2, 1]
    assert held.text in texts


async def test_the_function_and_the_port_give_one_message_one_record(
    app: TaskEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host was killed after the record, and the message came back: the host tells whole seconds."""
    monkeypatch.setattr(engine_module, "SIFT_PAUSE", 0.01)
    text = json.dumps({"unique": str(datetime.now(UTC))})
    queues = app.storage.backend.queues
    await queues.send_text(POISON_QUEUE, text)
    (held,) = await queues.receive(POISON_QUEUE, visibility_timeout=1)
    told = held.inserted_at.replace(microsecond=0)
    await tasks._process_poison(Message(text, id=held.id, insertion_time=told), TASK_QUEUE)
    await app.sift(Priority.NORMAL)
    assert len(await dead(app, text)) == 1


async def test_a_message_that_the_worker_cannot_read_does_not_come_back_for_ever(tmp_path: Path) -> None:
    text = '{"dequeueCount": "many"}'
    async with FileStorageBackend(tmp_path) as backend, devhost("file", tmp_path) as host:
        await backend.queues.send_text(POISON_QUEUE, text)
        async with asyncio.timeout(600):
            while not (await host.json("tasks?status=dead"))["tasks"]:
                await asyncio.sleep(0.5)
        (record,) = (await host.json("tasks?status=dead"))["tasks"]
        assert record["raw_message"] == text
        assert await backend.queues.length(POISON_QUEUE) == 0
