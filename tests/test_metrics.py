"""The metrics layer: what each operation counts, how long it took, what it logs, and what that costs."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from storage_lib.backends.file import FileStorageBackend
from storage_lib.backends.memory import MemoryBackend, MemoryObjects
from storage_lib.config import StorageConfig
from storage_lib.config.metrics import MetricsOptions, from_env
from storage_lib.errors import (
    AccessDeniedError,
    ConfigurationError,
    IntegrityError,
    KeyNotFoundError,
    PreconditionFailedError,
    StorageUnavailableError,
    TransientStorageError,
)
from storage_lib.layers.combined import CombinedBackend
from storage_lib.layers.metrics import MetricsLayer
from storage_lib.layers.retry import RetryBackend, RetryOptions
from storage_lib.layers.retry.breaker import PATIENCE_SECONDS, THRESHOLD
from storage_lib.manager import StorageManager
from storage_lib.metrics import Registry
from storage_lib.ports.backend import ObjectStore, StorageBackend
from storage_lib.ports.drivers import GetOptions, ListOptions, PutOptions
from storage_lib.ports.object_model import ListEntry, ObjectInfo, PutResult, StoredObject
from tests.conftest import PROJECT
from tests.effort import awaited, calls
from tests.layers import DeflatingLayer
from tests.test_layers import CALLS

LARGE = b"x" * 20_000_000


class Failing(MemoryObjects):
    """Raises ``error`` if it is set, from a stream or listing after its first part."""

    error: BaseException | None = None
    waiting: asyncio.Event | None = None

    async def _check(self) -> None:
        if self.waiting is not None:
            await self.waiting.wait()
        if self.error is not None:
            raise self.error

    async def put(self, key: str, data: bytes, options: PutOptions) -> PutResult:
        await self._check()
        return await super().put(key, data, options)

    async def get(self, key: str, options: GetOptions) -> StoredObject | None:
        await self._check()
        return await super().get(key, options)

    async def read_stream(
        self, key: str, options: GetOptions
    ) -> tuple[ObjectInfo, int, AsyncGenerator[bytes]]:
        found = await super().get(key, options)
        assert found is not None

        async def chunks() -> AsyncGenerator[bytes]:
            for at in range(0, len(found.data), 8_000_000):
                yield found.data[at : at + 8_000_000]
                await self._check()

        return found.info, found.start, chunks()

    async def scan(self, prefix: str, options: ListOptions) -> AsyncGenerator[ListEntry | str]:
        async for found in super().scan(prefix, options):
            yield found
            await self._check()


class Measured:
    """A measured store, and what was measured."""

    def __init__(self, inner: StorageBackend | None = None, **options: Any) -> None:
        self.failing = Failing()
        if inner is None:
            inner = MemoryBackend()
            inner.objects = ObjectStore(self.failing)
        self.registry = Registry()
        self.backend = MetricsLayer(inner, MetricsOptions(**options), self.registry)
        self.storage = StorageManager(backend=self.backend)

    def counted(self, name: str, *shown: str) -> dict[tuple[str, ...], float]:
        """The series of an instrument that are not 0, by these tags."""
        found: dict[tuple[str, ...], float] = {}
        (instrument,) = [each for each in self.registry.instruments() if each.name == name]
        for key, series in instrument.series().items():
            values = tuple(dict(key).get(tag, "") for tag in shown)
            if series.value:
                found[values] = found.get(values, 0) + series.value
        return found

    @property
    def operations(self) -> dict[tuple[str, ...], float]:
        return self.counted("agent_storage.operations", "port", "operation", "outcome")

    @property
    def bytes(self) -> dict[tuple[str, ...], float]:
        return self.counted("agent_storage.io", "operation", "direction")

    def durations(self) -> dict[tuple[str, str], tuple[int, float]]:
        """The count and sum of each kind of operation and of error."""
        found: dict[tuple[str, str], tuple[int, float]] = {}
        for key, series in self.registry.histogram("db.client.operation.duration").series().items():
            counts, total = series.snapshot()
            if any(counts):
                tags = dict(key)
                found[tags["db.operation.name"], tags.get("error.type", "")] = sum(counts), total
        return found

    def statistic(self, name: str, **tags: str) -> float:
        (found,) = [
            each.value
            for each in self.registry.statistics()
            if each.name == name and tags.items() <= dict(each.tags).items()
        ]
        return found


@pytest.fixture
def measured() -> Measured:
    return Measured()


# -- operations and outcomes


@pytest.mark.parametrize("name", CALLS)
async def test_each_call_of_a_caller_is_one_operation(name: str, measured: Measured) -> None:
    inner = measured.backend.inner
    await inner.objects.put("k", b"1")
    await inner.objects.put("short", b"1", ttl=60)
    await inner.objects.put("z/k", b"1")
    await inner.tables.insert("t", "p", "r", {"n": 1})
    await inner.queues.send("q", b"1")
    await CALLS[name](measured.backend)
    assert sum(measured.operations.values()) == 1, measured.operations
    assert sum(count for count, _ in measured.durations().values()) == 1
    assert measured.counted("agent_storage.in_flight") == {}


async def test_operations_are_counted_by_port_name_and_outcome(measured: Measured) -> None:
    storage = measured.storage
    put = await storage.save("k", 1)
    await storage.load("k")
    await storage.list_keys()
    with pytest.raises(KeyNotFoundError):
        await storage.load("missing")
    with pytest.raises(PreconditionFailedError):
        await storage.save("k", 2, if_absent=True)
    await storage.delete("k", if_match=put.etag)
    await measured.backend.queues.send("q", "1")
    await measured.backend.tables.insert("t", "p", "r", {})
    assert measured.operations == {
        ("objects", "write", "ok"): 1,
        ("objects", "read", "ok"): 1,
        ("objects", "list", "ok"): 1,
        ("objects", "read", "not-found"): 1,
        ("objects", "write", "precondition-failed"): 1,
        ("objects", "delete", "ok"): 1,
        ("queues", "send", "ok"): 1,
        ("tables", "insert", "ok"): 1,
    }
    assert measured.counted("agent_storage.errors") == {}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (StorageUnavailableError("away"), "storage-unavailable"),
        (TransientStorageError("busy"), "transient-storage-error"),
        (AccessDeniedError("no"), "access-denied"),
        (IntegrityError("damaged"), "integrity-error"),
        (ValueError("a fault"), "ValueError"),
    ],
    ids=["unavailable", "transient", "denied", "damaged", "fault"],
)
async def test_errors_are_counted_by_kind(error: Exception, kind: str, measured: Measured) -> None:
    await measured.storage.save("k", 1)
    measured.failing.error = error
    with pytest.raises(type(error)):
        await measured.storage.load("k")
    with pytest.raises(type(error)):
        await measured.storage.list_keys()
    with pytest.raises(type(error)):
        async with measured.storage.open_reader("k") as reader:
            await reader.read()
    errors = measured.counted("agent_storage.errors", "method", "error")
    assert errors == {("get", kind): 1, ("scan", kind): 1, ("read_stream", kind): 1}
    assert measured.operations["objects", "read", "error"] == 2
    assert measured.durations()["get", kind][0] == 1


async def test_a_cancelled_operation_is_neither_an_error_nor_left_in_flight(measured: Measured) -> None:
    measured.failing.waiting = asyncio.Event()
    saving = asyncio.ensure_future(measured.storage.save("k", 1))
    await asyncio.sleep(0)
    assert measured.counted("agent_storage.in_flight", "method") == {("put",): 1}
    saving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await saving
    assert measured.counted("agent_storage.in_flight") == {}
    assert measured.operations == {("objects", "write", "cancelled"): 1}
    assert measured.counted("agent_storage.errors") == {}


async def test_operations_in_flight_are_seen(measured: Measured) -> None:
    measured.failing.waiting = asyncio.Event()
    saves = [asyncio.ensure_future(measured.storage.save(f"k{n}", 1)) for n in range(7)]
    await asyncio.sleep(0)
    assert measured.counted("agent_storage.in_flight", "port", "operation") == {("objects", "write"): 7}
    measured.failing.waiting.set()
    await asyncio.gather(*saves)
    assert measured.counted("agent_storage.in_flight") == {}


# -- bytes, streams and listings


async def test_bytes_are_those_of_the_caller_whatever_is_stored() -> None:
    measured = Measured(DeflatingLayer(MemoryBackend()))
    await measured.storage.write("k", b"x" * 10_000)
    await measured.storage.read("k")
    await measured.storage.write_stream("s", [LARGE])
    async with measured.storage.open_reader("s") as reader:
        await reader.read()
    await measured.backend.queues.send_text("q", "12345")
    await measured.backend.queues.receive("q")
    assert measured.bytes == {
        ("write", "in"): 10_000 + len(LARGE),
        ("read", "out"): 10_000 + len(LARGE),
        ("send", "in"): 5,
        ("receive", "out"): 5,
    }


async def test_bytes_of_a_range_and_of_what_is_unchanged(measured: Measured) -> None:
    from storage_lib.ports.backend import ByteRange

    put = await measured.storage.write("k", b"x" * 100)
    await measured.storage.read("k", byte_range=ByteRange(10, 30))
    assert await measured.storage.read_if_changed("k", put.etag) is None
    assert measured.bytes["read", "out"] == 20


async def test_bytes_of_a_stream_are_counted_as_they_pass(measured: Measured) -> None:
    seen: list[float] = []

    async def source() -> AsyncGenerator[bytes]:
        for _ in range(4):
            yield b"x" * 10_000_000
            seen.append(measured.bytes.get(("write", "in"), 0))

    await measured.storage.write_stream("s", source())
    assert len(set(seen)) > 2
    assert seen == sorted(seen)
    seen = []
    async with measured.storage.open_reader("s") as reader:
        async for _ in reader:
            seen.append(measured.bytes.get(("read", "out"), 0))
    assert len(set(seen)) > 2
    assert measured.bytes == {("write", "in"): 40_000_000, ("read", "out"): 40_000_000}


async def test_a_stream_is_in_flight_until_it_is_closed(measured: Measured) -> None:
    await measured.storage.write("s", LARGE)
    async with measured.storage.open_reader("s") as reader:
        assert measured.counted("agent_storage.in_flight", "method") == {("read_stream",): 1}
        await anext(aiter(reader))
    assert measured.counted("agent_storage.in_flight") == {}
    assert measured.operations["objects", "read", "ok"] == 1
    async with measured.storage.open_reader("s"):
        pass  # Not a byte of it was read.
    assert measured.counted("agent_storage.in_flight") == {}
    assert measured.operations["objects", "read", "ok"] == 2


async def test_the_time_of_a_stream_or_listing_is_that_of_the_store(
    measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    await measured.storage.write("s", LARGE)
    await measured.storage.save("t", 1)
    now = 0.0
    for name in ("layer", "objects"):
        monkeypatch.setattr(f"storage_lib.layers.metrics.{name}.perf_counter", lambda: now)
    async with measured.storage.open_reader("s") as reader:
        async for _ in reader:
            now += 100  # The reader is slow, not the store.
    async for _ in measured.storage.list_keys():
        now += 100
    durations = measured.durations()
    assert now == 500
    assert durations["read_stream", ""][0] == durations["scan", ""][0] == 1
    assert durations["read_stream", ""][1] == durations["scan", ""][1] == 0


async def test_a_failed_upload_is_one_error(measured: Measured) -> None:
    async def source() -> AsyncGenerator[bytes]:
        yield LARGE
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="gone"):
        await measured.storage.write_stream("s", source())
    assert measured.operations == {("objects", "write", "error"): 1}
    assert measured.counted("agent_storage.errors", "error") == {("OSError",): 1}
    assert measured.counted("agent_storage.in_flight") == {}


async def test_a_listing_that_is_not_read_to_its_end_is_whole(measured: Measured) -> None:
    for n in range(5):
        await measured.storage.save(f"k{n}", n)
    page = await measured.storage.list_page(limit=2)
    assert len(page.entries) == 2
    assert measured.operations["objects", "list", "ok"] == 1
    assert measured.counted("agent_storage.in_flight") == {}


# -- durations and availability


async def test_durations_are_those_of_the_operations(
    measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(MemoryObjects):
        async def get(self, key: str, options: GetOptions) -> StoredObject | None:
            nonlocal now
            now += 2
            return await super().get(key, options)

    now = 0.0
    monkeypatch.setattr("storage_lib.layers.metrics.layer.perf_counter", lambda: now)
    inner = measured.backend.inner
    inner.objects = ObjectStore(Slow())
    measured = Measured(inner)
    await measured.storage.save("k", 1)
    for _ in range(3):
        await measured.storage.load("k")
    histogram = measured.registry.histogram("db.client.operation.duration")
    tags = {"agent_storage.port": "objects", "db.operation.name": "get", "db.system.name": "memory"}
    series = histogram.bound(tags)
    counts, total = series.snapshot()
    assert sum(counts) == 3
    assert total == 6
    assert 1 < series.quantile(0.5) <= series.quantile(0.99) < 5


async def test_whether_the_store_answers(measured: Measured) -> None:
    def up() -> dict[str, float]:
        gauge = measured.registry.gauge("agent_storage.up")
        return {dict(key)["port"]: series.value for key, series in gauge.series().items()}

    assert up() == {}
    await measured.backend.open()
    assert up() == {"objects": 1}
    measured.failing.error = StorageUnavailableError("away")
    for _ in range(2):
        with pytest.raises(StorageUnavailableError):
            await measured.storage.load("k")
        assert up() == {"objects": 0}
    measured.failing.error = None
    with pytest.raises(KeyNotFoundError):
        await measured.storage.load("k")
    assert up() == {"objects": 1}
    await measured.backend.queues.create_queue("q")
    assert up() == {"objects": 1, "queues": 1}


async def test_readiness_tells_whether_the_store_answers() -> None:
    class Away(MemoryBackend):
        async def open(self) -> None:
            raise StorageUnavailableError("away")

    measured = Measured(Away())
    with pytest.raises(StorageUnavailableError):
        await measured.backend.open()
    assert measured.counted("agent_storage.up") == {}
    assert len(measured.registry.gauge("agent_storage.up").series()) == 1


# -- which store


async def test_each_port_has_the_name_of_its_own_store(tmp_path: Path) -> None:
    inner = CombinedBackend(RetryBackend(MemoryBackend()), FileStorageBackend(tmp_path))
    measured = Measured(inner)
    await measured.storage.save("k", 1)
    await measured.backend.queues.create_queue("q")
    assert measured.counted("agent_storage.operations", "port", "backend") == {
        ("objects", "memory"): 1,
        ("queues", "file"): 1,
    }
    await measured.backend.close()


@pytest.mark.parametrize("kind", ["memory", "file"])
async def test_metrics_are_switched_on_by_configuration_alone(kind: Any, tmp_path: Path) -> None:
    config = StorageConfig(storage_type=kind, base_path=tmp_path, metrics=MetricsOptions())
    async with StorageManager(config) as storage:
        registry = storage.backend.metrics
        assert registry is not None
        counter = registry.counter("agent_storage.operations")
        tags = {
            "backend": kind,
            "port": "objects",
            "operation": "write",
            "method": "put",
            "outcome": "ok",
        }
        before = counter.bound(tags).value
        await storage.save("k", 1)
        assert counter.bound(tags).value == before + 1


async def test_two_managers_of_a_process_count_together() -> None:
    registry = Registry()
    storages = [
        StorageManager(backend=MetricsLayer(MemoryBackend(), MetricsOptions(), registry)) for _ in range(2)
    ]
    for storage in storages:
        await storage.save("k", 1)
    series = registry.counter("agent_storage.operations").series()
    assert [each.value for key, each in series.items() if ("outcome", "ok") in key] == [2]


# -- what the layers inside count


async def test_retries_and_the_breaker_are_shown() -> None:
    now = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    failing, memory = Failing(), MemoryBackend()
    memory.objects = ObjectStore(failing)
    retries = RetryBackend(memory, RetryOptions(attempts=4), clock=lambda: now, sleep=sleep)
    measured = Measured(retries)
    assert measured.statistic("agent_storage.retries", port="objects") == 0
    failing.error = StorageUnavailableError("away")
    with pytest.raises(StorageUnavailableError):
        await measured.storage.load("k")
    assert measured.statistic("agent_storage.retries", port="objects") == 3
    assert measured.statistic("agent_storage.retries", port="tables") == 0
    assert measured.operations == {("objects", "read", "error"): 1}
    assert measured.statistic("agent_storage.breaker.open", port="objects") == 0
    for _ in range(THRESHOLD):
        now += PATIENCE_SECONDS
        with pytest.raises(StorageUnavailableError):
            await measured.storage.load("k")
    assert measured.statistic("agent_storage.breaker.open", port="objects") == 1
    assert measured.statistic("agent_storage.breaker.trips", port="objects") == 1
    failing.error = None
    now += 60
    with pytest.raises(KeyNotFoundError):
        await measured.storage.load("k")
    assert measured.statistic("agent_storage.breaker.open", port="objects") == 0


# -- logs


def logged(caplog: pytest.LogCaptureFixture) -> list[Any]:
    """Nothing of what tests before left behind in this process."""
    return [record for record in caplog.records if record.name == "AOS.Storage"]


async def test_each_operation_is_logged(measured: Measured, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "AOS.Storage")
    await measured.storage.write("k", b"x" * 100)
    await measured.storage.read("k")
    await measured.storage.delete("k")
    shown = [(r.levelname, r.message, r.operation, r.key, r.size_bytes, r.backend) for r in logged(caplog)]
    assert shown == [
        ("DEBUG", "Storage operation completed", "write", "k", 100, "memory"),
        ("DEBUG", "Storage operation completed", "read", "k", 100, "memory"),
        ("DEBUG", "Storage operation completed", "delete", "k", 0, "memory"),
    ]
    assert all(0 <= record.duration_ms < 600_000 for record in logged(caplog))


async def test_a_stream_is_logged_with_its_whole_size(
    measured: Measured, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "AOS.Storage")
    await measured.storage.write_stream("s", [LARGE])
    async with measured.storage.open_reader("s") as reader:
        await reader.read()
    assert [(r.operation, r.size_bytes) for r in logged(caplog)] == [
        ("write", len(LARGE)),
        ("read", len(LARGE)),
    ]


async def test_failures_are_warnings_and_answers_are_none(
    measured: Measured, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "AOS.Storage")
    with pytest.raises(KeyNotFoundError):
        await measured.storage.load("missing")
    measured.failing.error = StorageUnavailableError("away")
    with pytest.raises(StorageUnavailableError):
        await measured.storage.load("k")
    shown = [(r.levelname, r.message, r.outcome, getattr(r, "error_type", None)) for r in logged(caplog)]
    assert shown == [
        ("DEBUG", "Storage operation completed", "not-found", None),
        ("WARNING", "Storage operation failed", "error", "storage-unavailable"),
    ]


async def test_the_levels_of_the_log_are_chosen(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "AOS.Storage")
    measured = Measured(log_level="INFO", failure_log_level="OFF")
    await measured.storage.save("k", 1)
    measured.failing.error = AccessDeniedError("no")
    with pytest.raises(AccessDeniedError):
        await measured.storage.load("k")
    assert [record.levelname for record in logged(caplog)] == ["INFO"]


async def test_nothing_is_logged_below_the_level_of_the_logger(
    measured: Measured, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "AOS.Storage")
    await measured.storage.save("k", 1)
    assert logged(caplog) == []


async def test_values_are_never_logged(measured: Measured, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await measured.storage.save("k", {"password": "hunter2"}, metadata={"note": "hunter2"})
    await measured.storage.load("k")
    await measured.backend.queues.send_text("q", "hunter2")
    await measured.backend.tables.insert("t", "p", "r", {"password": "hunter2"})
    assert len(caplog.records) >= 4
    assert all("hunter2" not in str(vars(record)) for record in caplog.records)


# -- options


def test_settings() -> None:
    assert from_env({}) is None
    assert from_env({"AGENT_STORAGE_METRICS": "true"}) == MetricsOptions()
    settings = {
        "AGENT_STORAGE_METRICS": "1",
        "AGENT_STORAGE_METRICS_OPENTELEMETRY": "false",
        "AGENT_STORAGE_METRICS_LOG_LEVEL": "info",
        "AGENT_STORAGE_METRICS_FAILURE_LOG_LEVEL": "Error",
    }
    options = MetricsOptions(opentelemetry=False, log_level="INFO", failure_log_level="ERROR")
    assert from_env(settings) == options
    assert StorageConfig.from_env(settings).metrics == options


@pytest.mark.parametrize("name", ["OPENTELEMETRY", "LOG_LEVEL", "FAILURE_LOG_LEVEL"])
def test_a_setting_that_cannot_work_is_refused_by_name(name: str) -> None:
    setting = f"AGENT_STORAGE_METRICS_{name}"
    with pytest.raises(ConfigurationError) as caught:
        from_env({"AGENT_STORAGE_METRICS": "true", setting: "loud"})
    assert caught.value.field == setting
    assert caught.value.limit


@pytest.mark.parametrize(
    "options", [{"opentelemetry": 1}, {"log_level": "debug"}, {"failure_log_level": None}], ids=str
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        MetricsOptions(**options)
    assert caught.value.field == next(iter(options))


# -- what it costs


def _imported(code: str) -> list[str]:
    run = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print('\\n'.join(sys.modules))"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    return run.stdout.split()


def test_what_is_off_is_not_imported() -> None:
    off = _imported(
        "import function_app; from storage_lib import StorageConfig, StorageManager;"
        "StorageManager(StorageConfig(storage_type='memory'))"
    )
    wrong = [
        n for n in off if n.startswith(("storage_lib.metrics", "storage_lib.layers.metrics", "opentelemetry"))
    ]
    assert wrong == []


def test_opentelemetry_is_imported_only_if_it_is_wanted() -> None:
    code = (
        "from storage_lib import StorageConfig, StorageManager\n"
        "from storage_lib.config.metrics import MetricsOptions\n"
        "options = MetricsOptions(opentelemetry={})\n"
        "StorageManager(StorageConfig(storage_type='memory', metrics=options))"
    )
    assert "opentelemetry.metrics" not in _imported(code.format(False))
    assert "opentelemetry.metrics" in _imported(code.format(True))
    assert "opentelemetry.sdk.metrics" not in _imported(code.format(True))


def test_an_operation_costs_a_few_calls() -> None:
    """Beside what the layer passes on; benchmarks/layers.py has the microseconds."""

    class Instant(MemoryObjects):
        async def put(self, key: str, data: bytes, options: PutOptions) -> PutResult:
            return PutResult(key, "e", 1, True)

    memory = MemoryBackend()
    memory.objects = ObjectStore(Instant())
    layer = MetricsLayer(memory, MetricsOptions(), Registry())
    options = PutOptions("text/plain", {})

    def cost(driver: Any) -> int:
        return calls(lambda: awaited(driver.put("k", b"1", options)))

    assert cost(layer.objects.driver) - cost(memory.objects.driver) <= 16
