"""What is measured of tasks, queues and what is stored, in the registry that /api/metrics shows."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from devhost.runtime import Datum, invoke
from functions.gauges import Gauges
from functions.state import AppState
from storage_lib.backends.memory import MemoryBackend
from storage_lib.config import StorageConfig
from storage_lib.config.metrics import MetricsOptions
from storage_lib.errors import ConfigurationError, StorageUnavailableError
from storage_lib.layers.metrics import MetricsLayer
from storage_lib.manager import StorageManager
from storage_lib.metrics import Registry
from storage_lib.sizes import Sizes
from storage_lib.tasks import registry as registry_module
from storage_lib.tasks.context import TaskContext
from storage_lib.tasks.engine import TaskEngine
from storage_lib.tasks.model import POISON_QUEUE, TASK_QUEUE
from storage_lib.tasks.registry import task
from storage_lib.tasks.retry import RetryPolicy
from tests.http_app import PlatformApp, config_of, serve


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def actions() -> Iterator[None]:
    registry_module.Registry().names()
    before = dict(registry_module._actions)

    @task("fine")
    async def fine(context: TaskContext, payload: Any) -> None:
        return None

    @task("fan_out")
    async def fan_out(context: TaskContext, payload: Any) -> None:
        for _ in range(2):
            await context.submit("fine")

    @task("flaky", retry=RetryPolicy(max_attempts=2, base_seconds=0))
    async def flaky(context: TaskContext, payload: Any) -> None:
        raise StorageUnavailableError("away")

    yield
    registry_module._actions.clear()
    registry_module._actions.update(before)


class Measured:
    """An engine in memory with a registry of its own."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.registry = clock, Registry()
        backend = MetricsLayer(MemoryBackend(clock=clock), MetricsOptions(), self.registry)
        self.engine = TaskEngine(StorageManager(backend=backend), clock=clock, lease_seconds=60)

    async def run_all(self) -> None:
        queues = self.engine.storage.backend.queues
        for _ in range(10):
            for message in await queues.receive(TASK_QUEUE, max_messages=32):
                await self.engine.deliver(message.text, queue=TASK_QUEUE, dequeue_count=message.dequeue_count)
                await queues.delete(TASK_QUEUE, message)
            self.clock.now += 1

    def __getitem__(self, name: str) -> dict[tuple[str, ...], float]:
        """The series of an instrument by the values of their tags; of a histogram how many values."""
        found = next(each for each in self.registry.instruments() if each.name == name)
        values: dict[tuple[str, ...], float] = {}
        for tags, series in found.series().items():
            key = tuple(value for _, value in tags)
            values[key] = sum(series.snapshot()[0]) if found.kind == "histogram" else series.value
        return values


@pytest.fixture
def measured() -> Measured:
    return Measured(Clock())


async def test_ends_runs_retries_and_waits_are_counted(measured: Measured) -> None:
    await measured.engine.submit("fine", "a")
    await measured.engine.submit("fan_out", "a")
    await measured.engine.submit("flaky", "a")
    cancelled = await measured.engine.submit("fine", "a", delay_seconds=500)
    await measured.engine.cancel(cancelled.task_id)
    await measured.run_all()
    assert measured["agent_task.ended"] == {
        ("fine", "succeeded"): 3,
        ("fan_out", "succeeded"): 1,
        ("flaky", "dead"): 1,
        ("fine", "cancelled"): 1,
    }
    assert measured["agent_task.run.duration"] == {
        ("fine", "succeeded"): 3,
        ("fan_out", "waiting"): 1,
        ("flaky", "retry"): 1,
        ("flaky", "dead"): 1,
    }
    assert measured["agent_task.retries"] == {("flaky",): 1}
    assert measured["agent_task.wait.duration"] == {("fine",): 3, ("fan_out",): 1, ("flaky",): 2}
    assert set(measured["agent_task.running"].values()) == {0}
    assert measured["agent_task.takeovers"] == {}


async def test_names_that_are_no_actions_are_one(measured: Measured) -> None:
    queues = measured.engine.storage.backend.queues
    await queues.create_queue(TASK_QUEUE)
    for n in range(5):
        message = {"task_id": f"t{n}", "agent_id": "a", "action": f"whatever_{n}"}
        await queues.send(TASK_QUEUE, json.dumps(message).encode())
    await measured.run_all()
    assert measured["agent_task.ended"] == {("_OTHER", "failed"): 5}
    assert measured["agent_task.run.duration"] == {("_OTHER", "failed"): 5}
    assert set(measured["agent_task.running"]) == set(measured["agent_task.wait.duration"]) == {("_OTHER",)}


async def test_the_wait_is_that_since_a_task_was_due(measured: Measured) -> None:
    await measured.engine.submit("fine", "a")
    await measured.engine.submit("fan_out", "a", delay_seconds=20)
    measured.clock.now += 30
    await measured.run_all()
    waits = next(each for each in measured.registry.instruments() if each.name == "agent_task.wait.duration")
    sums = {tags: series.snapshot()[1] for tags, series in waits.series().items()}
    assert sums[(("action", "fan_out"),)] == pytest.approx(10)
    assert sums[(("action", "fine"),)] >= 30


async def test_a_takeover_is_counted(measured: Measured) -> None:
    record = await measured.engine.submit("fine", "a")
    (message,) = await measured.engine.storage.backend.queues.receive(TASK_QUEUE)
    # A worker that claimed it and died.
    claimed = await measured.engine.worker._claim(record, message.text, TASK_QUEUE)
    assert claimed is not None
    measured.clock.now += 120
    await measured.engine.deliver(message.text, queue=TASK_QUEUE, dequeue_count=2)
    assert measured["agent_task.takeovers"] == {("fine",): 1}
    assert measured["agent_task.ended"] == {("fine", "succeeded"): 1}


async def test_poison_messages_are_counted(measured: Measured) -> None:
    from datetime import UTC, datetime

    await measured.engine.deliver_poison(
        "nonsense", queue=TASK_QUEUE, message_id="m", inserted_at=datetime(2027, 1, 15, tzinfo=UTC)
    )
    assert measured["agent_task.poison.messages"] == {(TASK_QUEUE,): 1}
    assert sum(measured["agent_task.ended"].values()) == 1


async def test_without_metrics_nothing_is_measured() -> None:
    engine = TaskEngine(StorageManager(backend=MemoryBackend()))
    await engine.submit("fine", "a")
    assert list(engine.worker._observers) == []


# -- gauges


@pytest.fixture
async def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PlatformApp]:
    config = await config_of("file", None, tmp_path)
    async with serve(monkeypatch, replace(config, metrics=MetricsOptions())) as served:
        yield served


class Shown:
    def __init__(self, app: PlatformApp) -> None:
        self.now, self.registry = 0.0, Registry()
        self.of = Gauges(app.state.storage, app.state.engine.queue_lengths, self.registry, lambda: self.now)

    def __getitem__(self, name: str) -> dict[str, float]:
        found = next(each for each in self.registry.instruments() if each.name == name)
        return {
            dict(tags).get("queue", dict(tags).get("prefix", "")): s.value
            for tags, s in found.series().items()
        }


async def test_queues_are_asked_when_metrics_are_shown_but_not_each_time(app: PlatformApp) -> None:
    gauges = Shown(app)
    await gauges.of.refresh()
    assert gauges["agent_task.queue.length"] == dict.fromkeys(
        ("agent-tasks", "agent-tasks-poison", "agent-tasks-high", "agent-tasks-high-poison"), 0
    )
    await app.storage.backend.queues.send(TASK_QUEUE, b"one")
    await app.storage.backend.queues.send(TASK_QUEUE, b"two")
    await app.storage.backend.queues.send(POISON_QUEUE, b"three")
    gauges.now += 10
    await gauges.of.refresh()
    assert gauges["agent_task.queue.length"][TASK_QUEUE] == 0
    gauges.now += 10
    await gauges.of.refresh()
    assert gauges["agent_task.queue.length"][TASK_QUEUE] == 2
    assert gauges["agent_task.queue.length"][POISON_QUEUE] == 1
    assert 0 <= gauges["agent_task.queue.age"][TASK_QUEUE] < 60


async def test_sizes_are_shown_as_they_were_measured_last(app: PlatformApp) -> None:
    gauges = Shown(app)
    await gauges.of.refresh()
    assert gauges["agent_storage.prefix.bytes"] == {}
    await app.storage.write("reports/a", b"12345")
    clock = Clock()
    assert await _measure(app, clock)
    gauges.now += 301
    await gauges.of.refresh()
    assert gauges["agent_storage.prefix.bytes"]["reports/"] == 5
    assert gauges["agent_storage.prefix.objects"]["reports/"] == 1
    assert gauges["agent_storage.prefix.growth"] == {}
    clock.now += 86_400
    await app.storage.delete("reports/a")
    await app.storage.write("notes/a", b"12")
    assert await _measure(app, clock)
    gauges.now += 301
    await gauges.of.refresh()
    assert "reports/" not in gauges["agent_storage.prefix.bytes"]
    assert gauges["agent_storage.prefix.growth"]["reports/"] == -5
    assert gauges["agent_storage.prefix.growth"]["notes/"] == 2


async def _measure(app: PlatformApp, clock: Clock) -> object:
    from datetime import timedelta

    return await Sizes(app.storage, clock).measure(timedelta(hours=1))


async def test_a_store_that_does_not_answer_leaves_no_stale_gauges(
    app: PlatformApp, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gauges = Shown(app)
    await gauges.of.refresh()

    async def away(*_: Any) -> Any:
        raise StorageUnavailableError("away")

    monkeypatch.setattr(app.storage.backend.queues.driver, "length", away)
    gauges.now += 60
    with caplog.at_level(logging.WARNING):
        await gauges.of.refresh()
    assert gauges["agent_task.queue.length"] == {}
    assert "metrics of queues are missing: away" in caplog.text
    monkeypatch.undo()
    await gauges.of.refresh()
    assert len(gauges["agent_task.queue.length"]) == 4


async def test_what_another_instance_refreshes_now_is_not_shown_for_ever(
    app: PlatformApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exporter sends each gauge again and again; the timer that asks the store may have moved on."""
    gauges = Shown(app)
    await app.storage.write("reports/a", b"12345")
    assert await _measure(app, Clock())
    await gauges.of.refresh()
    assert gauges["agent_task.queue.length"]
    assert gauges["agent_storage.prefix.bytes"]
    monkeypatch.setattr("functions.gauges.STALE_SECONDS", 0)
    gauges.now += 301
    await gauges.of.refresh()
    async with asyncio.timeout(120):
        while gauges["agent_task.queue.length"] or gauges["agent_storage.prefix.bytes"]:
            await asyncio.sleep(0)
    assert gauges["agent_storage.prefix.time"] == {}
    monkeypatch.undo()
    await gauges.of.refresh()
    assert len(gauges["agent_task.queue.length"]) == 4


async def test_a_store_that_hangs_is_not_waited_for(
    app: PlatformApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    gauges = Shown(app)

    async def hang(*_: Any) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr("functions.gauges.ASK_SECONDS", 0.05)
    monkeypatch.setattr(app.storage.backend.queues.driver, "length", hang)
    await asyncio.wait_for(gauges.of.refresh(), 120)
    assert gauges["agent_task.queue.length"] == {}


async def test_metrics_show_what_is_stored_and_what_waits(app: PlatformApp) -> None:
    await app.storage.write("reports/a", b"12345")
    await app.storage.backend.queues.send(TASK_QUEUE, b"one")
    await tick(app)
    text = (await app("GET", "/api/metrics")).body.decode()
    assert 'agent_storage_prefix_bytes{prefix="reports/"} 5\n' in text
    assert 'agent_storage_prefix_objects{prefix="reports/"} 1\n' in text
    assert 'agent_task_queue_length{queue="agent-tasks"} 1\n' in text


# -- the timer


async def tick(app: PlatformApp) -> None:
    function = next(each for each in app.index.functions if each.name == "measure_sizes")
    due = Datum(json.dumps({"Schedule": {}, "ScheduleStatus": None, "IsPastDue": False}), "json")
    result = await invoke(function, [("timer", due)])
    assert result.ok, result.error + result.traceback


@pytest.mark.parametrize(
    ("options", "measures"),
    [(None, False), (MetricsOptions(sizes_hours=0), False), (MetricsOptions(), True)],
    ids=["without metrics", "off", "on"],
)
async def test_the_timer_measures_with_metrics_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: MetricsOptions | None, measures: bool
) -> None:
    config = await config_of("file", None, tmp_path)
    async with serve(monkeypatch, replace(config, metrics=options)) as app:
        await app.storage.write("a/b", b"123")
        await tick(app)
        await tick(app)
        series = await Sizes(app.storage).read()
        assert len(series.recent) == (1 if measures else 0)
        await app.state.refresh_gauges()
        assert (app.state.gauges is None) == (options is None)


async def test_a_listing_that_takes_too_long_is_cut_off(
    app: PlatformApp, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def endless(self: Any) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr("functions.maintenance.MEASURE_SECONDS", 3)
    monkeypatch.setattr(Sizes, "_listed", endless)
    with caplog.at_level(logging.WARNING):
        await tick(app)
    assert "AGENT_STORAGE_METRICS_SIZES_HOURS=0" in caplog.text
    assert (await Sizes(app.storage).read()).measuring_since is None


@pytest.mark.parametrize("hours", ["-1", "0.5", "9000", "often"])
def test_hours_that_cannot_be_are_refused(hours: str) -> None:
    env = {"AGENT_STORAGE_METRICS": "true", "AGENT_STORAGE_METRICS_SIZES_HOURS": hours}
    with pytest.raises(ConfigurationError, match=r"(?i)sizes_hours"):
        StorageConfig.from_env(env)


def test_the_app_state_has_no_gauges_without_metrics() -> None:
    assert AppState(StorageConfig(storage_type="memory")).gauges is None
