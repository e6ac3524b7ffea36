"""Instruments and their registry: nothing counted is lost, quantiles are near the truth, and tags and names
cannot break what is shown."""

from __future__ import annotations

import asyncio
import math
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage_lib.backends.memory import MemoryBackend
from storage_lib.errors import InvalidArgumentError
from storage_lib.layers.combined import CombinedBackend
from storage_lib.layers.metrics.meters import Meter, Meters
from storage_lib.layers.retry import RetryBackend
from storage_lib.metrics import MetricsCollector, Registry, default_registry
from storage_lib.metrics.exposition import exposition
from storage_lib.metrics.families import families
from storage_lib.metrics.instruments import MAX_SERIES, OVERFLOW
from storage_lib.ports.backend import statistics_of
from storage_lib.ports.statistics import Statistic
from tests.layers import PassThrough

THREADS = 8
EACH = 20_000


def test_no_increment_is_lost_between_threads_and_event_loops() -> None:
    registry = Registry()
    counter = registry.counter("c").bound({"a": "b"})
    up_down = registry.updowncounter("u").bound()
    histogram = registry.histogram("h").bound()

    async def count() -> None:
        for _ in range(EACH // 4):
            counter.add()
            up_down.add()
            up_down.add(-1)
            histogram.record(0.5)
        await asyncio.sleep(0)

    async def several() -> None:
        await asyncio.gather(*(count() for _ in range(4)))

    def loop() -> None:
        asyncio.run(several())

    threads = [threading.Thread(target=loop) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter.value == THREADS * EACH
    assert up_down.value == 0
    counts, total = histogram.snapshot()
    assert sum(counts) == THREADS * EACH
    assert total == THREADS * EACH * 0.5


def test_threads_that_begin_together_count_into_the_meter_that_is_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry = Registry()
    meters = Meters(registry)
    made = Meter.__init__
    others = threading.Event()

    def slowly(meter: Meter, *arguments: Any) -> None:
        others.wait(0.2)  # Until another thread has made one, too, if that is possible.
        made(meter, *arguments)
        others.set()

    monkeypatch.setattr(Meter, "__init__", slowly)

    def count() -> None:
        meter = meters.of("memory", "objects", "get")
        meter.succeeded(meter.numbers(), 0.001)

    threads = [threading.Thread(target=count) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts = [series.value for series in registry.counter("agent_storage.operations").series().values()]
    assert counts == [THREADS]


def test_what_is_read_while_others_count_never_falls() -> None:
    counter = Registry().counter("c").bound()
    ended = threading.Event()

    def count() -> None:
        while not ended.is_set():
            for _ in range(100):
                counter.add()

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        seen = [counter.value for _ in range(2_000)]
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert seen == sorted(seen)


@given(st.lists(st.floats(1.1e-5, 49), min_size=1, max_size=200), st.sampled_from([0.5, 0.95, 0.99]))
def test_a_quantile_is_within_its_bucket(values: list[float], part: float) -> None:
    series = Registry().histogram("h").bound()
    for value in values:
        series.record(value)
    true = sorted(values)[math.ceil(part * len(values)) - 1]
    assert true / 1.27 <= series.quantile(part) <= true * 1.27


def test_a_quantile_of_nothing_is_no_number() -> None:
    assert math.isnan(Registry().histogram("h").bound().quantile(0.5))


def test_a_value_on_a_bound_belongs_to_it() -> None:
    histogram = Registry().histogram("h", bounds=[1, 2, 4])
    for value in (0, 1, 2, 2.1, 4, 5):
        histogram.record(value)
    counts, total = histogram.bound().snapshot()
    assert histogram.buckets(counts) == [2, 3, 5]
    assert (sum(counts), total) == (6, 14.1)


def test_an_instrument_is_found_by_its_name_and_tags_in_any_order() -> None:
    registry = Registry()
    registry.counter("c").add(2, {"a": "1", "b": True})
    registry.counter("c").add(3, {"b": "true", "a": 1})
    assert [series.value for series in registry.counter("c").series().values()] == [5]


@pytest.mark.parametrize("kind", ["updowncounter", "gauge", "histogram"])
def test_a_name_is_of_one_kind(kind: str) -> None:
    registry = Registry()
    registry.counter("requests")
    with pytest.raises(InvalidArgumentError, match="requests is a counter") as caught:
        getattr(registry, kind)("requests")
    assert caught.value.field == "name"


@pytest.mark.parametrize("other", ["a_b", "a.b.total", "a-b", "a/b"])
def test_names_that_prometheus_could_not_tell_apart_are_refused(other: str) -> None:
    registry = Registry()
    registry.counter("a.b")
    with pytest.raises(InvalidArgumentError, match=r"a\.b would be the same"):
        registry.counter(other)
    registry.counter("a.b")


@pytest.mark.parametrize("name", ["", "1a", "a b", "ä", "a" * 256, "a\n", 5, None])
def test_what_is_no_name_is_refused(name: Any) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        Registry().gauge(name)
    assert caught.value.field == "name"


@pytest.mark.parametrize(
    "tags",
    [
        {"": "a"},
        {"le": "1"},
        {"quantile": "1"},
        {"a b": "1"},
        {"__name__": "x"},
        {"a": None},
        {1: "a"},
        ["a"],
    ],
)
def test_tags_that_cannot_be_shown_are_refused(tags: Any) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        MetricsCollector(Registry()).increment("c", tags=tags)
    assert caught.value.field == "tags"


def test_memory_is_bounded_whatever_the_tags_are() -> None:
    registry = Registry()
    for n in range(MAX_SERIES + 500):
        registry.counter("c").add(1, {"id": n})
    series = registry.counter("c").series()
    assert len(series) == MAX_SERIES + 1
    assert series[OVERFLOW].value == 500
    assert sum(each.value for each in series.values()) == MAX_SERIES + 500


def test_a_series_can_be_forgotten() -> None:
    gauge = Registry().gauge("g")
    gauge.set(1, {"prefix": "a"})
    gauge.set(2, {"prefix": "b"})
    gauge.forget({"prefix": "a"})
    gauge.forget({"prefix": "never there"})
    assert list(gauge.series()) == [(("prefix", "b"),)]


def test_a_counter_never_falls() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        Registry().counter("c").add(-1)
    assert caught.value.field == "amount"


def test_the_collector_of_the_usual_names() -> None:
    metrics = MetricsCollector(Registry())
    metrics.increment("storage.operations.total", tags={"operation": "write"})
    metrics.increment("storage.operations.total", tags={"operation": "write"})
    metrics.timing("storage.latency", 12.5, tags={"operation": "read"})
    metrics.gauge("storage.size.bytes", 1024)
    registry = metrics.registry
    assert registry.counter("storage.operations.total").bound({"operation": "write"}).value == 2
    assert registry.histogram("storage.latency").unit == "ms"
    assert registry.histogram("storage.latency").bound({"operation": "read"}).snapshot()[1] == 12.5
    assert registry.gauge("storage.size.bytes").bound().value == 1024


def test_a_collector_records_into_the_registry_of_the_process() -> None:
    assert MetricsCollector().registry is default_registry() is MetricsCollector().registry


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, "1", None, True, 10**400, -(10**400)], ids=lambda v: str(v)[:6]
)
@pytest.mark.parametrize("method", ["increment", "timing", "gauge"])
def test_a_collector_refuses_what_is_no_number(method: str, value: Any) -> None:
    metrics = MetricsCollector(Registry())
    with pytest.raises(InvalidArgumentError) as caught:
        getattr(metrics, method)("m", value)
    assert caught.value.field == ("ms" if method == "timing" else "value")
    assert all(not each.series() for each in metrics.registry.instruments())


def test_what_is_counted_can_be_shown_however_much_it_is() -> None:
    metrics = MetricsCollector(Registry())
    for _ in range(3):
        metrics.increment("m", 2**1023)
    assert b"m_total +Inf" in exposition(families(metrics.registry))


@pytest.mark.parametrize("call", [("increment", -1), ("timing", -0.1)])
def test_a_collector_refuses_what_runs_backwards(call: tuple[str, float]) -> None:
    with pytest.raises(InvalidArgumentError):
        getattr(MetricsCollector(Registry()), call[0])("m", call[1])


def test_a_collector_keeps_off_the_names_of_the_storage() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        MetricsCollector(Registry()).increment("agent_storage.operations")
    assert caught.value.field == "name"


def test_listeners_learn_of_every_instrument_and_series() -> None:
    registry = Registry()
    registry.counter("before")
    heard: list[str] = []
    registry.on_instrument(lambda instrument: heard.append(instrument.name))
    registry.gauge("after")
    registry.gauge("after")
    assert heard == ["before", "after"]


# -- statistics of what is inside


class Counting(PassThrough):
    """Counts, and is around another that counts."""

    def statistics(self) -> list[Statistic]:
        return [Statistic("agent_storage.test.things", 2)]


def told(backend: Any) -> list[tuple[tuple[tuple[str, str], ...], float]]:
    return [(each.tags, each.value) for each in statistics_of(backend) if each.name.endswith("things")]


def test_the_statistics_of_every_layer_are_found() -> None:
    backend = PassThrough(Counting(RetryBackend(Counting(MemoryBackend()))))
    assert told(backend) == [((), 2), ((), 2)]


def test_statistics_of_several_stores_are_told_apart() -> None:
    backend = Counting(CombinedBackend(Counting(MemoryBackend()), Counting(MemoryBackend())))
    assert told(backend) == [((), 2), ((("store", "objects"),), 2), ((("store", "tables_and_queues"),), 2)]


def test_a_registry_adds_up_what_its_sources_tell() -> None:
    class Source:
        def measured(self) -> list[Statistic]:
            return list(statistics_of(Counting(Counting(MemoryBackend()))))

    registry, sources = Registry(), [Source(), Source()]
    for source in sources:
        registry.add_source(source)
    assert [(each.name, each.value) for each in registry.statistics()] == [("agent_storage.test.things", 8)]
    del sources, source
    assert registry.statistics() == []
