"""What Prometheus and OpenTelemetry are given: text that their own readers understand, whatever was measured,
and numbers that are those of the registry."""

from __future__ import annotations

import asyncio
import math
import os
import string
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_prometheus

from functions.metrics import wants_openmetrics
from storage_lib.backends.memory import MemoryBackend
from storage_lib.config import StorageConfig
from storage_lib.config.metrics import MetricsOptions
from storage_lib.errors import InvalidArgumentError, KeyNotFoundError, StorageUnavailableError
from storage_lib.layers.metrics import MetricsLayer
from storage_lib.layers.retry import RetryBackend
from storage_lib.manager import StorageManager
from storage_lib.metrics import MetricsCollector, Registry
from storage_lib.metrics.exposition import OPENMETRICS, PROMETHEUS, exposition
from storage_lib.metrics.families import Family, families
from storage_lib.metrics.opentelemetry import export
from storage_lib.metrics.process import process_families
from storage_lib.ports.backend import ObjectStore
from storage_lib.ports.statistics import Statistic
from tests.http_app import PlatformApp, serve
from tests.layer_stacks import FULL, SOAK, stacked
from tests.layers import PassThrough
from tests.test_metrics import Failing

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]

READERS = {False: read_prometheus, True: read_openmetrics}


def read(text: bytes, openmetrics: bool = False) -> Samples:
    """The samples of a text, as Prometheus' own client reads it."""
    found: Samples = {}
    for family in READERS[openmetrics](text.decode()):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, f"{key} is there twice"
            found[key] = sample.value
    return found


def shown(registry: Registry, *, openmetrics: bool = False) -> Samples:
    return read(exposition(families(registry), openmetrics=openmetrics), openmetrics)


def labelled(samples: Samples, name: str, **labels: str) -> list[float]:
    return [
        value
        for (found, tags), value in samples.items()
        if found == name and labels.items() <= dict(tags).items()
    ]


async def used(registry: Registry) -> StorageManager:
    """A store that something happened to: 4 saves, 2 loads, one of them of nothing, one failure."""
    memory, failing = MemoryBackend(), Failing()
    memory.objects = ObjectStore(failing)
    storage = StorageManager(backend=MetricsLayer(RetryBackend(memory), MetricsOptions(), registry))
    for n in range(4):
        await storage.write(f"k{n}", b"x" * 100)
    await storage.load("k0")
    with pytest.raises(KeyNotFoundError):
        await storage.load("missing")
    failing.error = ValueError("a fault")
    with pytest.raises(ValueError, match="fault"):
        await storage.load("k0")
    failing.error = None
    return storage


@pytest.mark.parametrize("openmetrics", [False, True], ids=["prometheus", "openmetrics"])
async def test_what_happened_is_shown(openmetrics: bool) -> None:
    registry = Registry()
    storage = await used(registry)
    samples = shown(registry, openmetrics=openmetrics)
    writes = {"backend": "memory", "port": "objects", "operation": "write"}
    reads = {**writes, "operation": "read"}
    assert labelled(samples, "agent_storage_operations_total", **writes, outcome="ok") == [4]
    assert labelled(samples, "agent_storage_operations_total", **reads, outcome="not-found") == [1]
    assert labelled(samples, "agent_storage_errors_total", **reads, error="ValueError") == [1]
    assert labelled(samples, "agent_storage_io_bytes_total", **writes, direction="in") == [400]
    assert labelled(samples, "agent_storage_error_ratio", **writes) == [0]
    assert labelled(samples, "agent_storage_error_ratio", **reads) == [pytest.approx(1 / 3)]
    assert labelled(samples, "agent_storage_up", port="objects") == [1]
    assert labelled(samples, "agent_storage_retries_total", port="objects") == [0]
    assert labelled(samples, "agent_storage_breaker_open", port="objects") == [0]
    puts = {"db_operation_name": "put", "db_system_name": "memory", "agent_storage_port": "objects"}
    assert labelled(samples, "db_client_operation_duration_seconds_count", **puts) == [4]
    assert labelled(samples, "db_client_operation_duration_seconds_bucket", **puts, le="+Inf") == [4]
    quantiles = [
        labelled(samples, "db_client_operation_duration_seconds_summary", **puts, quantile=part)[0]
        for part in ("0.5", "0.95", "0.99")
    ]
    assert 0 < quantiles[0] <= quantiles[1] <= quantiles[2] < 10
    await storage.close()


async def test_the_buckets_of_a_histogram_agree_with_its_count() -> None:
    registry = Registry()
    await used(registry)
    samples = shown(registry)
    buckets: dict[tuple[tuple[str, str], ...], list[tuple[float, float]]] = {}
    for (name, tags), value in samples.items():
        if name == "db_client_operation_duration_seconds_bucket":
            others = tuple(each for each in tags if each[0] != "le")
            buckets.setdefault(others, []).append((float(dict(tags)["le"]), value))
    assert len(buckets) >= 3
    for tags, found in buckets.items():
        assert found == sorted(found)
        assert [value for _, value in found] == sorted(value for _, value in found)
        assert found[-1] == (math.inf, samples["db_client_operation_duration_seconds_count", tags])


async def test_the_hit_ratio_of_a_cache() -> None:
    class Caching(PassThrough):
        def statistics(self) -> list[Statistic]:
            names = {"hits": 6, "misses": 3, "stale": 1, "evictions": 5}
            return [Statistic(f"agent_storage.cache.{name}", value) for name, value in names.items()]

    registry = Registry()
    layer = MetricsLayer(Caching(MemoryBackend()), MetricsOptions(), registry)
    samples = shown(registry)
    assert labelled(samples, "agent_storage_cache_hits_total") == [6]
    assert labelled(samples, "agent_storage_cache_hit_ratio") == [0.6]
    await layer.close()


@pytest.mark.parametrize("openmetrics", [False, True], ids=["prometheus", "openmetrics"])
async def test_what_every_layer_counts_is_shown(openmetrics: bool) -> None:
    registry = Registry()
    inner = stacked(RetryBackend(MemoryBackend()), [name for name in FULL if name != "metrics"])
    storage = StorageManager(backend=MetricsLayer(inner, MetricsOptions(), registry))
    await storage.save("k", 1)
    for _ in range(3):
        await storage.load("k")
    samples = shown(registry, openmetrics=openmetrics)
    reads = {"backend": "memory", "operation": "read", "outcome": "ok"}
    assert labelled(samples, "agent_storage_operations_total", **reads) == [3]
    assert labelled(samples, "agent_storage_cache_hits_total") == [2]
    assert labelled(samples, "agent_storage_cache_hit_ratio") == [pytest.approx(2 / 3)]
    assert labelled(samples, "agent_storage_retries_total", port="objects") == [0]
    assert labelled(samples, "agent_storage_fallback_reads_total") == [0]
    assert labelled(samples, "agent_storage_quota_used_objects", rule="generous") == [1]
    await storage.backend.close()


# -- text

NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9_.\-/]{0,20}", fullmatch=True)
TAG_NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.\-]{0,10}", fullmatch=True)
TEXTS = st.text(max_size=20) | st.sampled_from(
    ['"', "\\", "\n", '\\n"', "a\\", "}", "{a=", "é\u2028\x85", "\ud800"]
)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**60), 2**60)
RECORDS = st.lists(
    st.tuples(
        st.sampled_from(["increment", "timing", "gauge"]),
        NAMES,
        NUMBERS,
        st.dictionaries(TAG_NAMES, TEXTS, max_size=4),
    ),
    max_size=12,
)


@pytest.mark.parametrize("openmetrics", [False, True], ids=["prometheus", "openmetrics"])
@settings(max_examples=1000 if SOAK else 30, deadline=None)
@given(records=RECORDS)
def test_whatever_is_measured_can_be_read(
    openmetrics: bool, records: list[tuple[str, str, float, dict[str, str]]]
) -> None:
    registry = Registry()
    metrics = MetricsCollector(registry)
    taken = 0
    for method, name, value, tags in records:
        try:
            getattr(metrics, method)(name, value, tags=tags)
        except InvalidArgumentError:
            continue  # A negative count, a name of another kind, or a reserved tag.
        taken += 1
    text = exposition(families(registry), openmetrics=openmetrics)
    samples = read(text, openmetrics)
    assert bool(samples) == bool(taken)


@pytest.mark.parametrize("openmetrics", [False, True], ids=["prometheus", "openmetrics"])
@pytest.mark.parametrize("value", ['"', "\\", "\n", '\\n"', "a\\", "}", "é", "", " "], ids=ascii)
def test_the_value_of_a_tag_comes_back(value: str, openmetrics: bool) -> None:
    registry = Registry()
    registry.gauge("g", description=f"said {value}").set(1.5, {"tag": value, "other": "x"})
    samples = shown(registry, openmetrics=openmetrics)
    assert samples == {("g", (("other", "x"), ("tag", value))): 1.5}


@pytest.mark.parametrize(
    "value", [0, 1, -1, 0.1, 1e-9, 1e300, 2**53, -(2**60), math.inf, -math.inf, math.nan]
)
def test_a_number_comes_back(value: float) -> None:
    registry = Registry()
    registry.gauge("g").set(value)
    for openmetrics in (False, True):
        (found,) = shown(registry, openmetrics=openmetrics).values()
        assert found == value or (math.isnan(value) and math.isnan(found))


@pytest.mark.parametrize("openmetrics", [False, True], ids=["prometheus", "openmetrics"])
def test_labels_that_prometheus_reserves_get_another_name(openmetrics: bool) -> None:
    registry = Registry()
    registry.gauge("g").set(1, {"_-": "x", "_.n": "y"})
    assert shown(registry, openmetrics=openmetrics) == {("g", (("tag__", "x"), ("tag__n", "y"))): 1}


def test_tags_that_become_the_same_label_are_joined() -> None:
    registry = Registry()
    registry.counter("c").add(1, {"a.b": "x", "a_b": "y"})
    assert shown(registry) == {("c_total", (("a_b", "x;y"),)): 1}


@pytest.mark.parametrize(
    ("name", "unit", "expected"),
    [
        ("storage.operations.total", "", "storage_operations_total"),
        ("requests", "{request}", "requests_total"),
        ("read", "By", "read_bytes_total"),
        ("read.bytes", "By", "read_bytes_total"),
        ("busy", "s", "busy_seconds_total"),
        ("a-b/c.d", "", "a_b_c_d_total"),
    ],
)
def test_names_follow_the_rules_of_opentelemetry(name: str, unit: str, expected: str) -> None:
    registry = Registry()
    registry.counter(name, unit=unit).add(1)
    assert [found for found, _ in shown(registry)] == [expected]


def test_what_would_be_there_twice_is_left_out() -> None:
    """Prometheus refuses the whole text for it."""
    registry = Registry()
    registry.histogram("a", unit="").record(1)
    registry.gauge("a.count").set(99)
    samples = shown(registry)
    assert labelled(samples, "a_count") == [1]
    other = [Family("a", "gauge", samples=[("", (), 5.0)])]
    assert read(exposition([*families(registry), *other])) == samples


def test_the_process_is_shown() -> None:
    samples = read(exposition(process_families()))
    assert labelled(samples, "process_cpu_seconds_total")[0] > 0
    assert labelled(samples, "python_info", implementation="CPython") == [1]
    if Path("/proc/self").exists():
        assert labelled(samples, "process_resident_memory_bytes")[0] > 1_000_000
        assert labelled(samples, "process_open_fds")[0] >= 3
        assert labelled(samples, "process_threads")[0] >= 1
        began = labelled(samples, "process_start_time_seconds")[0]
        assert 1.6e9 < began <= Path("/proc/self").stat().st_ctime + 100 or os.getpid() == 1
    read(exposition(process_families(), openmetrics=True), True)


# -- OpenTelemetry


def exported(reader: InMemoryMetricReader) -> dict[str, list[tuple[dict[str, Any], Any]]]:
    data = reader.get_metrics_data()
    if data is None:
        return {}
    return {
        metric.name: [
            (dict(point.attributes), getattr(point, "value", None) or getattr(point, "count", 0))
            for point in metric.data.data_points
        ]
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


async def test_opentelemetry_is_given_the_same() -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader])
    registry = Registry()
    registry.counter("before").add(2, {"a": "b"})
    registry.histogram("times").record(0.1)
    export(registry, provider.get_meter("test"))
    export(registry, provider.get_meter("test"))
    storage = await used(registry)
    registry.gauge("after", unit="By").set(5)
    registry.histogram("times").record(0.2)
    found = exported(reader)
    assert found["before"] == [({"a": "b"}, 2)]
    assert found["after"] == [({}, 5)]
    assert found["times"] == [({}, 1)]  # What was recorded before is not known to it.
    puts = {"db.operation.name": "put", "db.system.name": "memory", "agent_storage.port": "objects"}
    assert (puts, 4) in found["db.client.operation.duration"]
    failed = {**puts, "db.operation.name": "get", "error.type": "ValueError"}
    assert (failed, 1) in found["db.client.operation.duration"]
    writes = {"backend": "memory", "port": "objects", "operation": "write", "method": "put", "outcome": "ok"}
    assert (writes, 4) in found["agent_storage.operations"]
    assert {tuple(tags) for tags, _ in found["agent_storage.retries"]} == {("port",)}
    assert {tags["port"] for tags, _ in found["agent_storage.breaker.open"]} == {
        "objects",
        "tables",
        "queues",
    }
    await storage.close()
    provider.shutdown()


# -- over HTTP


@pytest.fixture
async def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PlatformApp]:
    config = StorageConfig(storage_type="file", base_path=tmp_path / "data", metrics=MetricsOptions())
    async with serve(monkeypatch, config) as found:
        yield found


async def test_metrics_over_http(app: PlatformApp) -> None:
    put = await app("PUT", "/api/objects/a", b"12345", {"Content-Type": "text/plain"})
    assert put.status == 201
    found = await app("GET", "/api/metrics")
    assert found.status == 200
    assert found.headers["content-type"] == PROMETHEUS
    assert found.headers["cache-control"] == "no-store"
    samples = read(found.body)
    writes = {"backend": "file", "port": "objects", "operation": "write", "outcome": "ok"}
    assert labelled(samples, "agent_storage_operations_total", **writes)[0] >= 1
    assert labelled(samples, "agent_storage_up", backend="file", port="objects") == [1]
    assert labelled(samples, "process_cpu_seconds_total")[0] > 0


async def test_tasks_and_queues_over_http(app: PlatformApp) -> None:
    task = b'{"action": "analyze_report", "agent_id": "ceo", "payload": {"report": "r"}}'
    await app("POST", "/api/tasks", task, {"Content-Type": "application/json"})
    samples = read((await app("GET", "/api/metrics")).body)
    assert labelled(samples, "agent_task_queue_length", queue="agent-tasks") == [1]


async def test_openmetrics_over_http(app: PlatformApp) -> None:
    await app("PUT", "/api/objects/a", b"12345", {"Content-Type": "text/plain"})
    accept = (
        "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
        "text/plain;version=0.0.4;q=0.3,*/*;q=0.1"
    )
    found = await app("GET", "/api/metrics", headers={"Accept": accept})
    assert found.headers["content-type"] == OPENMETRICS
    assert found.body.endswith(b"\n# EOF\n")
    assert labelled(read(found.body, True), "agent_storage_up", backend="file", port="objects") == [1]


async def test_the_head_of_the_metrics(app: PlatformApp) -> None:
    found = await app("HEAD", "/api/metrics")
    assert (found.status, found.body) == (200, b"")
    assert found.headers["content-type"] == PROMETHEUS


async def test_a_store_that_is_away_is_down_and_the_metrics_are_there(
    app: PlatformApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away() -> None:
        raise StorageUnavailableError("away")

    layer: Any = app.storage.backend
    monkeypatch.setattr(layer.inner, "open", away)
    found = await app("GET", "/api/metrics")
    assert found.status == 200
    assert labelled(read(found.body), "agent_storage_up", backend="file", port="objects") == [0]


async def test_a_store_that_does_not_answer_delays_the_metrics_by_seconds_only(
    app: PlatformApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent() -> None:
        await asyncio.Event().wait()

    layer: Any = app.storage.backend
    monkeypatch.setattr(layer.inner, "open", silent)
    found = await asyncio.wait_for(app("GET", "/api/metrics"), 120)
    assert found.status == 200
    assert labelled(read(found.body), "agent_storage_up", backend="file", port="objects") == [0]


async def test_metrics_that_are_off_are_a_problem_that_names_the_setting(platform: PlatformApp) -> None:
    problem = (await platform("GET", "/api/metrics")).problem
    assert problem["status"] == 501
    assert problem["code"] == "unsupported-operation"
    assert problem["field"] == "AGENT_STORAGE_METRICS"
    assert "AGENT_STORAGE_METRICS=true" in problem["remedy"]


async def test_metrics_take_no_parameters(app: PlatformApp) -> None:
    assert (await app("GET", "/api/metrics?format=json")).problem["field"] == "format"


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("application/openmetrics-text", True),
        ("Application/OpenMetrics-Text; version=1.0.0", True),
        ("application/openmetrics-text;q=0.5, text/plain;q=0.3", True),
        ("application/openmetrics-text;q=0.2, text/plain;q=0.3", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=x", False),
        ("application/openmetrics-text;q=nan", False),
        (",;,;q=,", False),
    ],
)
def test_openmetrics_is_for_those_who_prefer_it(accept: str, wanted: bool) -> None:
    assert wants_openmetrics(accept) is wanted


@given(st.text(string.printable, max_size=60))
def test_any_accept_header_has_an_answer(accept: str) -> None:
    assert wants_openmetrics(accept) in (True, False)
