"""Spans: of operations, of HTTP requests and of runs of tasks, as an SDK exports them."""

from __future__ import annotations

import asyncio
import json
import pickle
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

from devhost.runtime import Function, invoke, queue_datum, timer_datum
from storage_lib import tracing
from storage_lib.backends.memory import MemoryBackend
from storage_lib.config import StorageConfig
from storage_lib.config.metrics import MetricsOptions
from storage_lib.errors import KeyNotFoundError, PreconditionFailedError, StorageUnavailableError
from storage_lib.factory import build
from storage_lib.layers.base import Layer, Operation
from storage_lib.layers.retry import RetryBackend, RetryOptions
from storage_lib.layers.tracing import TracingLayer
from storage_lib.manager import StorageManager
from storage_lib.ports.backend import StorageBackend
from storage_lib.ports.table_model import Upsert
from storage_lib.tasks import registry as registry_module
from storage_lib.tasks.context import TaskContext
from storage_lib.tasks.engine import TaskEngine
from storage_lib.tasks.model import HIGH_QUEUE, TASK_QUEUE, Priority
from storage_lib.tasks.registry import task
from storage_lib.tasks.retry import RetryPolicy
from tests.conftest import PROJECT
from tests.http_app import PlatformApp, config_of, serve
from tests.spans import Spans, context, is_below, spans

__all__ = ["spans"]

CLIENT_TRACE = "0af7651916cd43dd8448eb211c80319c"
CLIENT = f"00-{CLIENT_TRACE}-b7ad6b7169203331-01"
HOST = f"00-{CLIENT_TRACE}-00f067aa0ba902b7-01"
JSON = {"content-type": "application/json"}
TRACED = MetricsOptions(traces=True)
SECRET = "s3cret-value"
BINDINGS: dict[str, list[dict[str, Any]]] = json.loads(
    (PROJECT / "tests/snapshots/bindings.json").read_text()
)
# Removing what has expired passes by all layers, and is no span.
TIMERS = sorted(
    name for name, found in BINDINGS.items() if found[0]["type"] == "timerTrigger" and name != "sweep_expired"
)


@pytest.fixture(autouse=True)
def actions() -> Iterator[None]:
    registry_module.Registry().names()
    before = dict(registry_module._actions)

    @task("note")
    async def note(context: TaskContext, payload: Any) -> str:
        await context.storage.save(f"notes/{payload['key']}", SECRET)
        await asyncio.sleep(0)
        return SECRET

    @task("fan_out")
    async def fan_out(context: TaskContext, payload: Any) -> None:
        for n in range(payload["children"]):
            await context.submit("note", {"key": f"child-{n}"})

    @task("broken", retry=RetryPolicy(max_attempts=2, base_seconds=0))
    async def broken(context: TaskContext, payload: Any) -> None:
        raise StorageUnavailableError(SECRET)

    @task("wrong")
    async def wrong(context: TaskContext, payload: Any) -> None:
        raise RuntimeError(SECRET)

    yield
    registry_module._actions.clear()
    registry_module._actions.update(before)


class TracedApp:
    """The real app with traces on, and its queue functions."""

    def __init__(self, app: PlatformApp) -> None:
        self.send = app
        self.host = app.host
        self.storage = app.storage
        self._functions: dict[str, Function] = {each.name: each for each in app.index.functions}

    async def deliver(self, queue: str = TASK_QUEUE, function: str = "process_task") -> int:
        """Hand the visible messages to the function, all at once, and return how many there were."""
        queues = self.storage.backend.queues
        messages = await queues.receive(queue, max_messages=32)

        async def one(message: Any) -> None:
            value, metadata = queue_datum(message, message.text.encode())
            result = await invoke(
                self._functions[function], [("message", value)], metadata, trace_parent=self.host.trace_parent
            )
            assert result.ok, result.error + result.traceback
            await queues.delete(queue, message)

        # A host runs each invocation in a task of its own.
        await asyncio.gather(*(asyncio.create_task(one(message)) for message in messages))
        return len(messages)

    async def tick(self, timer: str) -> None:
        """Run a timer's function, as a host does in a task of its own."""
        running = invoke(
            self._functions[timer], [("timer", timer_datum())], trace_parent=self.host.trace_parent
        )
        result = await asyncio.create_task(running)
        assert result.ok, result.error + result.traceback


@pytest.fixture
async def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spans: Spans) -> AsyncIterator[TracedApp]:
    config = await config_of("file", None, tmp_path)
    from dataclasses import replace

    async with serve(monkeypatch, replace(config, metrics=TRACED)) as served:
        yield TracedApp(served)


def attributes(span: Any) -> dict[str, Any]:
    return dict(span.attributes or {})


# -- operations


async def test_an_operation_is_a_span_by_the_conventions(spans: Spans) -> None:
    backend = TracingLayer(MemoryBackend(), "memory")
    await backend.objects.put("a/b", SECRET.encode(), metadata={"mark": SECRET})
    await backend.objects.get("a/b")
    await backend.tables.upsert("letters", "p-key", "r-key", {"said": SECRET})
    await backend.tables.batch("letters", "p-key", [Upsert("r2", {}), Upsert("r3", {})])
    await backend.queues.send("agent-tasks", SECRET)
    assert len(await backend.queues.receive("agent-tasks")) == 1
    put, get = spans.one("put objects"), spans.one("get objects")
    assert attributes(put) == {
        "db.system.name": "memory",
        "db.operation.name": "put",
        "db.collection.name": "objects",
        "agent_storage.object.key": "a/b",
        "agent_storage.object.size": len(SECRET),
    }
    assert attributes(get)["agent_storage.object.size"] == len(SECRET)
    assert attributes(spans.one("upsert letters")) == {
        "db.system.name": "memory",
        "db.operation.name": "upsert",
        "db.collection.name": "letters",
    }
    assert attributes(spans.one("batch letters"))["db.operation.batch.size"] == 2
    assert attributes(spans.one("send agent-tasks")) == {
        "messaging.system": "memory",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "agent-tasks",
    }
    assert attributes(spans.one("receive agent-tasks"))["messaging.batch.message_count"] == 1
    assert {span.kind for span in spans.all} == {SpanKind.CLIENT}
    assert {span.status.status_code for span in spans.all} == {StatusCode.UNSET}
    shown = json.dumps([json.loads(span.to_json()) for span in spans.all])
    assert SECRET not in shown
    assert "p-key" not in shown
    assert "r-key" not in shown


async def test_expected_answers_are_no_failures_and_others_are(spans: Spans) -> None:
    backend = TracingLayer(MemoryBackend(), "memory")
    with pytest.raises(KeyNotFoundError):
        await backend.objects.head("none")
    await backend.objects.put("a", b"")
    with pytest.raises(PreconditionFailedError):
        await backend.objects.put("a", b"", if_absent=True)

    class Away(Layer):
        async def around[T](self, operation: Operation, call: Any, /) -> T:
            raise StorageUnavailableError(f"away: {SECRET}")

    with pytest.raises(StorageUnavailableError):
        await TracingLayer(Away(MemoryBackend()), "memory").objects.get("a")
    missing, refused = spans.one("head objects"), spans.named("put objects")[1]
    assert attributes(missing)["error.type"] == KeyNotFoundError.code
    assert attributes(refused)["error.type"] == PreconditionFailedError.code
    assert missing.status.status_code is refused.status.status_code is StatusCode.UNSET
    failed = spans.one("get objects")
    assert failed.status.status_code is StatusCode.ERROR
    assert attributes(failed)["error.type"] == StorageUnavailableError.code
    assert SECRET not in failed.to_json()
    assert not failed.events


class FailsAtFirst(Layer):
    """Every operation fails this often."""

    def __init__(self, inner: StorageBackend, times: int) -> None:
        super().__init__(inner)
        self.left = times

    async def around[T](self, operation: Operation, call: Any, /) -> T:
        if self.left:
            self.left -= 1
            raise StorageUnavailableError("away", refused=True)
        return await call()


@pytest.mark.parametrize("port", ["objects", "tables", "queues"])
async def test_attempts_are_events_of_one_span(spans: Spans, port: str) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    retrying = RetryBackend(FailsAtFirst(MemoryBackend(), 2), RetryOptions(attempts=4), sleep=sleep)
    backend = TracingLayer(retrying, "memory")
    match port:
        case "objects":
            await backend.objects.put("a", b"1")
        case "tables":
            await backend.tables.create_table("letters")
        case _:
            await backend.queues.send("letters", "x")
    span = spans.all[0]
    assert [event.name for event in span.events] == ["retry", "retry"]
    assert [dict(event.attributes or {}) for event in span.events] == [
        {"agent_storage.attempt": n + 1, "agent_storage.delay": waits[n], "error.type": "storage-unavailable"}
        for n in range(2)
    ]
    assert span.status.status_code is StatusCode.UNSET


async def test_a_layer_lets_no_context_out(spans: Spans) -> None:
    """Not even of a listing that is left half-way, a failure or a cancellation."""
    backend = TracingLayer(MemoryBackend(), "memory")
    for n in range(5):
        await backend.objects.put(f"k/{n}", b"")
        assert not trace.get_current_span().get_span_context().is_valid
    async for _ in backend.objects.iterate("k/"):
        assert not trace.get_current_span().get_span_context().is_valid
        break
    with pytest.raises(KeyNotFoundError):
        await backend.objects.get("none")
    assert not trace.get_current_span().get_span_context().is_valid


async def test_a_traced_backend_is_copied_with_its_traces(tmp_path: Path, spans: Spans) -> None:
    config = StorageConfig(storage_type="file", base_path=tmp_path / "data", metrics=TRACED)
    copied = pickle.loads(pickle.dumps(build(config)))  # noqa: S301 - our own
    assert copied.traced
    await copied.objects.put("a", b"")
    await copied.close()
    assert attributes(spans.one("put objects"))["db.system.name"] == "file"


def test_nothing_is_imported_when_traces_are_off(tmp_path: Path) -> None:
    """Neither by the app nor by what stores, submits and runs."""
    code = """
import asyncio, sys
import function_app
MARKS = (".tracing", ".spans", ".monitor")
from storage_lib.config import StorageConfig
from storage_lib.config.metrics import MetricsOptions
from storage_lib.manager import StorageManager
from storage_lib.tasks.engine import TaskEngine

async def use():
    async with StorageManager(StorageConfig(storage_type="memory")) as storage:
        await storage.save("a", 1)
        TaskEngine(storage)

asyncio.run(use())
print(sorted(n for n in sys.modules if n.startswith("opentelemetry") or n.endswith(MARKS)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True, timeout=120
    )
    assert [name for name in eval(done.stdout) if not name.startswith("azure")] == []  # noqa: S307


# -- requests


async def test_a_request_is_a_span_with_its_operations_below(app: TracedApp, spans: Spans) -> None:
    answer = await app.send("PUT", "/api/objects/a/b?code=function-key", b"1", {"traceparent": CLIENT})
    assert answer.status == 201
    request, put = spans.one("PUT /api/objects/{*key}"), spans.one("put objects")
    assert f"{context(request).trace_id:032x}" == CLIENT_TRACE
    assert request.parent is not None
    assert request.parent.is_remote
    assert is_below(put, request)
    assert request.kind is SpanKind.SERVER
    found = attributes(request)
    assert found.pop("faas.invocation_id")
    assert found == {
        "http.request.method": "PUT",
        "http.route": "/api/objects/{*key}",
        "http.response.status_code": 201,
        "url.path": "/api/objects/a/b",
        "url.scheme": "http",
        "faas.trigger": "http",
        "faas.name": found["faas.name"],
    }
    assert "function-key" not in request.to_json()


async def test_the_platforms_span_is_the_parent_if_there_is_one(app: TracedApp, spans: Spans) -> None:
    """And ours is then no second request."""
    app.host.trace_parent = HOST
    await app.send("GET", "/api/objects/none", headers={"traceparent": CLIENT})
    request = spans.one("GET /api/objects/{*key}")
    assert request.parent is not None
    assert f"{request.parent.span_id:016x}" == HOST.split("-")[2]
    assert request.kind is SpanKind.INTERNAL
    # What the platform hands on from the client is no span of the platform's.
    spans.clear()
    app.host.trace_parent = CLIENT
    await app.send("GET", "/api/objects/none", headers={"traceparent": CLIENT})
    assert spans.one("GET /api/objects/{*key}").kind is SpanKind.SERVER


@pytest.mark.parametrize(
    "header", ["", "nonsense", f"00-{'0' * 32}-b7ad6b7169203331-01", f"ff-{CLIENT_TRACE}-b7ad6b7169203331-01"]
)
async def test_a_malformed_header_begins_a_new_trace(app: TracedApp, spans: Spans, header: str) -> None:
    assert (await app.send("GET", "/api/tasks", headers={"traceparent": header})).status == 200
    request = spans.one("GET /api/tasks")
    assert request.parent is None
    assert f"{context(request).trace_id:032x}" != CLIENT_TRACE


async def test_an_unsampled_trace_stays_unsampled(app: TracedApp, spans: Spans) -> None:
    """Also across the queue."""
    unsampled = CLIENT[:-2] + "00"
    body = json.dumps({"action": "note", "agent_id": "a", "payload": {"key": "k"}}).encode()
    answer = await app.send("POST", "/api/tasks", body, {**JSON, "traceparent": unsampled})
    assert answer.json["traceparent"].startswith(f"00-{CLIENT_TRACE}-")
    assert answer.json["traceparent"].endswith("-00")
    spans.clear()
    assert await app.deliver() == 1
    assert not [s for s in spans.all if f"{context(s).trace_id:032x}" == CLIENT_TRACE]
    assert await app.storage.load("notes/k") == SECRET
    assert not spans.named("process agent-tasks")
    assert not [s for s in spans.named("put objects") if "notes/k" in s.to_json()]


@pytest.mark.parametrize(
    ("target", "status", "failed"),
    [
        ("/api/objects/none", 404, False),
        ("/api/objects/a?nonsense=1", 400, False),
        ("/api/tasks/x", 404, False),
    ],
)
async def test_the_status_of_an_answer(
    app: TracedApp, spans: Spans, target: str, status: int, failed: bool
) -> None:
    assert (await app.send("GET", target)).status == status
    (request,) = [span for span in spans.all if span.kind is SpanKind.SERVER]
    assert attributes(request)["http.response.status_code"] == status
    assert (request.status.status_code is StatusCode.ERROR) == failed


async def test_a_failure_of_the_server_is_one_of_the_span(
    app: TracedApp, spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any, **__: Any) -> Any:
        raise StorageUnavailableError(SECRET)

    monkeypatch.setattr(app.storage.backend.tables.driver, "query", away)
    answer = await app.send("GET", "/api/tasks")
    request = spans.one("GET /api/tasks")
    assert answer.status == 503
    assert request.status.status_code is StatusCode.ERROR
    assert attributes(request)["error.type"] == "503"
    assert SECRET not in request.to_json()


# -- tasks


@pytest.mark.parametrize("timer", TIMERS)
async def test_what_a_timer_does_belongs_to_its_invocation(app: TracedApp, spans: Spans, timer: str) -> None:
    app.host.trace_parent = HOST
    await app.tick(timer)
    made = spans.all
    assert made
    assert {(context(span).trace_id, span.parent and span.parent.span_id) for span in made} == {
        (int(CLIENT_TRACE, 16), 0x00F067AA0BA902B7)
    }
    assert tracing.current() is None
    spans.clear()
    app.host.trace_parent = ""
    await app.storage.write("timers/none", b"1")
    await app.tick(timer)
    assert int(CLIENT_TRACE, 16) not in {context(span).trace_id for span in spans.all}


@pytest.mark.parametrize("host", ["", HOST.replace(CLIENT_TRACE, "f" * 32)])
async def test_one_trace_from_the_request_across_the_queue(app: TracedApp, spans: Spans, host: str) -> None:
    body = json.dumps({"action": "note", "agent_id": "a", "payload": {"key": "k"}}).encode()
    answer = await app.send("POST", "/api/tasks", body, {**JSON, "traceparent": CLIENT})
    assert answer.status == 202
    app.host.trace_parent = host
    assert await app.deliver() == 1
    request, created = spans.one("POST /api/tasks"), spans.one("create agent-tasks")
    run = spans.one("process agent-tasks")
    (saved,) = [
        s for s in spans.named("put objects") if attributes(s)["agent_storage.object.key"] == "notes/k"
    ]
    assert is_below(created, request)
    assert is_below(run, created)
    assert is_below(saved, run)
    assert is_below(spans.one("send agent-tasks"), created)
    assert {f"{context(s).trace_id:032x}" for s in (request, created, run, saved)} == {CLIENT_TRACE}
    linked = [f"{link.context.span_id:016x}" for link in run.links]
    assert linked[0] == f"{context(created).span_id:016x}"
    assert linked[1:] == ([host.split("-")[2]] if host else [])
    assert created.kind is SpanKind.PRODUCER
    assert run.kind is (SpanKind.INTERNAL if host else SpanKind.CONSUMER)
    assert attributes(run) == {
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "agent-tasks",
        "messaging.message.id": answer.json["task_id"],
        "agent_storage.task.action": "note",
        "agent_storage.task.attempt": 1,
        "agent_storage.task.outcome": "succeeded",
    }
    shown = answer.json["traceparent"].split("-")
    assert shown[1:3] == [CLIENT_TRACE, f"{context(created).span_id:016x}"]
    assert SECRET not in "".join(span.to_json() for span in spans.all)


async def test_invocations_at_once_do_not_mix(app: TracedApp, spans: Spans) -> None:
    """Each of many requests and runs is in the trace of its own client."""

    def client(n: int) -> str:
        return f"{n + 1:032x}"

    async def submit(n: int) -> None:
        body = json.dumps({"action": "note", "agent_id": "a", "payload": {"key": f"k{n}"}}).encode()
        headers = {**JSON, "traceparent": f"00-{client(n)}-{n + 1:016x}-01"}
        assert (await app.send("POST", "/api/tasks", body, headers)).status == 202
        assert (await app.send("PUT", f"/api/objects/o{n}", b"1", headers)).status == 201

    await asyncio.gather(*(asyncio.create_task(submit(n)) for n in range(24)))
    delivered = 0
    while count := await app.deliver():
        delivered += count
    assert delivered == 24
    by_key = {
        attributes(span)["agent_storage.object.key"]: span
        for span in spans.named("put objects")
        if "tasks/" not in attributes(span)["agent_storage.object.key"]
    }
    for n in range(24):
        for key in (f"o{n}", f"notes/k{n}"):
            assert f"{context(by_key[key]).trace_id:032x}" == client(n), key
    known = {context(span).span_id for span in spans.all} | {n + 1 for n in range(24)}
    ours = [span for span in spans.all if context(span).trace_id <= 24]
    assert len(ours) >= 24 * 6
    assert all(span.parent is not None and span.parent.span_id in known for span in ours)


async def engine_of(spans: Spans) -> TaskEngine:
    return TaskEngine(StorageManager(backend=TracingLayer(MemoryBackend(), "memory")))


async def run_all(engine: TaskEngine, queue: str = TASK_QUEUE) -> None:
    for _ in range(10):
        messages = await engine.storage.backend.queues.receive(queue, max_messages=32)
        if not messages:
            return
        for message in messages:
            await engine.deliver(message.text, queue=queue, dequeue_count=message.dequeue_count)
            await engine.storage.backend.queues.delete(queue, message)


async def test_children_are_in_the_trace_of_the_run_that_submitted_them(spans: Spans) -> None:
    engine = await engine_of(spans)
    record = await engine.submit("fan_out", "a", {"children": 3})
    await run_all(engine)
    assert (await engine.get(record.task_id)).status == "succeeded"
    runs = spans.named("process agent-tasks")
    parent = next(s for s in runs if attributes(s)["agent_storage.task.action"] == "fan_out")
    assert attributes(parent)["agent_storage.task.outcome"] == "waiting"
    created = [s for s in spans.named("create agent-tasks") if is_below(s, parent)]
    assert len(created) == 3
    for child in created:
        assert len([s for s in runs if is_below(s, child)]) == 1


async def test_each_attempt_is_a_span_and_the_failed_ones_say_so(spans: Spans) -> None:
    engine = await engine_of(spans)
    record = await engine.submit("broken", "a")
    await engine.submit("wrong", "a", priority=Priority.HIGH)
    await run_all(engine)
    await run_all(engine, HIGH_QUEUE)
    assert (await engine.get(record.task_id)).status == "dead"
    runs = spans.named("process agent-tasks")
    assert [attributes(s)["agent_storage.task.outcome"] for s in runs] == ["retry", "dead"]
    assert [attributes(s)["agent_storage.task.attempt"] for s in runs] == [1, 2]
    assert [attributes(s)["error.type"] for s in runs] == [StorageUnavailableError.code] * 2
    wrong = spans.one("process agent-tasks-high")
    assert attributes(wrong)["agent_storage.task.outcome"] == "failed"
    assert attributes(wrong)["error.type"] == "RuntimeError"
    assert {s.status.status_code for s in (*runs, wrong)} == {StatusCode.ERROR}
    assert SECRET not in "".join(span.to_json() for span in spans.all)


async def test_messages_and_records_of_others_are_traced_too(spans: Spans) -> None:
    """A message without a trace begins one; one with a trace goes on in it."""
    engine = await engine_of(spans)
    message = {"task_id": "t1", "agent_id": "a", "action": "note", "payload": {"key": "k1"}}
    await engine.deliver(json.dumps(message), queue=TASK_QUEUE)
    await engine.deliver(json.dumps({**message, "task_id": "t2", "traceparent": CLIENT}), queue=TASK_QUEUE)
    await engine.deliver(
        json.dumps({**message, "task_id": "t3", "traceparent": "nonsense"}), queue=TASK_QUEUE
    )
    by_id = {attributes(s)["messaging.message.id"]: s for s in spans.named("process agent-tasks")}
    assert by_id["t1"].parent is None
    assert by_id["t3"].parent is None
    assert f"{context(by_id['t2']).trace_id:032x}" == CLIENT_TRACE
    assert not by_id["t1"].links


async def test_a_submitters_own_span_is_the_parent(spans: Spans) -> None:
    engine = await engine_of(spans)
    with trace.get_tracer("mine").start_as_current_span("mine"):
        await engine.submit("note", "a", {"key": "k"})
        await engine.submit("note", "a", {"key": "k"}, trace_parent=CLIENT)
    first, second = spans.named("create agent-tasks")
    assert is_below(first, spans.one("mine"))
    assert f"{context(second).trace_id:032x}" == CLIENT_TRACE


def test_without_the_api_the_option_is_refused_with_a_remedy() -> None:
    code = """
import sys
sys.modules["opentelemetry"] = None
from storage_lib.config import StorageConfig
from storage_lib.config.metrics import MetricsOptions
from storage_lib.errors import ConfigurationError
from storage_lib.factory import build
try:
    build(StorageConfig(storage_type="memory", metrics=MetricsOptions(traces=True, opentelemetry=False)))
except ConfigurationError as error:
    print(error.field, error.remedy)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.startswith("traces pip install agent-storage[metrics]")
