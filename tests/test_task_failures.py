"""Whatever an action raises is the failure of its own attempt, and the record says which."""

from __future__ import annotations

import asyncio
import http.client
import math
import socket
import sys
import types
import urllib.error
from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from storage_lib.errors import (
    IntegrityError,
    InvalidArgumentError,
    ObjectTooLargeError,
    StorageError,
    TransientStorageError,
)
from storage_lib.manager import StorageManager
from storage_lib.tasks import registry as registry_module
from storage_lib.tasks.context import TaskContext
from storage_lib.tasks.engine import TaskEngine
from storage_lib.tasks.model import TASK_QUEUE, TASK_TABLE, TaskRecord, TaskStatus
from storage_lib.tasks.records import record_keys
from storage_lib.tasks.registry import task
from storage_lib.tasks.retry import LONGEST_SECONDS, RetryPolicy, RetryTaskError, is_transient
from tests.task_worker import Worker

type Raise = Callable[[], Any]


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    registry_module.Registry().names()
    before = dict(registry_module._actions)
    yield
    registry_module._actions.clear()
    registry_module._actions.update(before)


@pytest.fixture
def worker() -> Worker:
    return Worker()


async def attempt(worker: Worker, action: Any, **options: Any) -> TaskRecord:
    """One attempt of an action, which runs in this loop beside the test."""
    task("subject", **options)(action)
    submitted = await worker.engine.submit("subject", "a")
    await worker.run(await worker.take())
    return await worker.get(submitted.task_id)


class Stop(BaseException):
    pass


def exits() -> None:
    sys.exit("enough")


def interrupts() -> None:
    raise KeyboardInterrupt("ctrl-c")


def stops() -> None:
    raise Stop("of my own")


def closes() -> None:
    raise GeneratorExit("closed")


async def directly(raises: Raise) -> None:
    raises()


async def after_a_while(raises: Raise) -> None:
    await asyncio.sleep(0)
    raises()


async def in_a_task(raises: Raise) -> None:
    await asyncio.create_task(after_a_while(raises))


async def in_a_task_of_a_task(raises: Raise) -> None:
    await asyncio.gather(in_a_task(raises), asyncio.sleep(60))


async def in_a_group(raises: Raise) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(after_a_while(raises))
        group.create_task(asyncio.sleep(60))


async def in_a_thread(raises: Raise) -> None:
    await asyncio.to_thread(raises)


@pytest.mark.parametrize(
    "way", [directly, after_a_while, in_a_task, in_a_task_of_a_task, in_a_group, in_a_thread]
)
@pytest.mark.parametrize(
    ("raises", "code", "message"),
    [
        (exits, "SystemExit", "enough"),
        (interrupts, "KeyboardInterrupt", "ctrl-c"),
        (stops, "Stop", "of my own"),
        (closes, "GeneratorExit", "closed"),
    ],
)
async def test_what_is_no_exception_fails_its_own_attempt_only(
    worker: Worker, way: Any, raises: Raise, code: str, message: str
) -> None:
    neighbour = asyncio.create_task(asyncio.sleep(0, "alive"))

    async def action(context: TaskContext, payload: Any) -> None:
        await way(raises)

    record = await attempt(worker, action)
    assert await neighbour == "alive"
    assert record.status is TaskStatus.FAILED
    assert record.error is not None
    assert (record.error.code, record.error.message) == (code, message)
    assert raises.__name__ in record.error.traceback
    assert [a.outcome for a in record.history] == ["failed"]


async def test_a_task_of_an_action_that_nobody_awaits_ends_no_loop(worker: Worker) -> None:
    left: list[Any] = []

    async def action(context: TaskContext, payload: Any) -> str:
        left.append(asyncio.create_task(after_a_while(exits)))
        await asyncio.sleep(0.01)
        return "done"

    record = await attempt(worker, action)
    assert (record.status, record.result) == (TaskStatus.SUCCEEDED, "done")
    assert left[0].exception() is not None


async def test_tasks_of_others_are_made_as_before(worker: Worker) -> None:
    async def action(context: TaskContext, payload: Any) -> None:
        started = asyncio.create_task(asyncio.sleep(60), name="inner")
        assert started.get_name() == "inner"
        assert "sleep" in repr(started)
        started.cancel()
        with pytest.raises(asyncio.CancelledError):
            await started

    assert (await attempt(worker, action)).status is TaskStatus.SUCCEEDED
    coroutine = asyncio.sleep(0)
    ordinary = asyncio.get_running_loop().create_task(coroutine)
    assert ordinary.get_coro() is coroutine
    await ordinary


async def test_the_cancellation_of_the_host_is_no_failure(worker: Worker) -> None:
    begun = asyncio.Event()

    async def action(context: TaskContext, payload: Any) -> None:
        begun.set()
        await asyncio.sleep(60)

    task("subject")(action)
    submitted = await worker.engine.submit("subject", "a")
    running = asyncio.create_task(worker.run(await worker.take()))
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    record = await worker.get(submitted.task_id)
    assert (record.status, record.attempts) == (TaskStatus.QUEUED, 0)
    assert [a.outcome for a in record.history] == ["interrupted"]


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class ExitingError(Exception):
    def __str__(self) -> str:
        sys.exit(0)


class NumberedError(StorageError):
    code = 404  # pyright: ignore[reportAssignmentType]


class NamelessError(StorageError):
    code = ""


class FailingError(StorageError):
    @property
    def code(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        raise RuntimeError("no code")


class EndlessError(StorageError):
    code = "c" * 100_000


def noted() -> BaseException:
    error = ValueError("noted")
    error.__notes__ = 5  # pyright: ignore[reportAttributeAccessIssue]
    return error


def circular() -> BaseException:
    error, other = ValueError("round"), ValueError("and round")
    error.__cause__, other.__cause__ = other, error
    return error


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (MuteError, "MuteError"),
        (ExitingError, "ExitingError"),
        (lambda: NumberedError("of the web"), "404"),
        (lambda: NamelessError("of nothing"), "NamelessError"),
        (lambda: FailingError("of a property"), "FailingError"),
        (lambda: EndlessError("of a hundred thousand"), "c" * 128),
        (lambda: StorageError(5, remedy=6), "storage-error"),  # pyright: ignore[reportArgumentType]
        (lambda: ValueError("caf\udce9"), "ValueError"),
        (lambda: ValueError("\0 and \x1f"), "ValueError"),
        (lambda: ValueError("\U0001f600" * 100_000), "ValueError"),
        (noted, "ValueError"),
        (circular, "ValueError"),
        (lambda: ExceptionGroup("two", [MuteError(), NumberedError("x")]), "ExceptionGroup"),
    ],
)
@pytest.mark.parametrize("store", ["memory", "file"])
async def test_no_exception_is_too_odd_to_be_recorded(
    store: str, tmp_path: Path, make: Callable[[], BaseException], code: str
) -> None:
    worker = worker_of(store, tmp_path)

    async def action(context: TaskContext, payload: Any) -> None:
        raise make()

    record = await attempt(worker, action)
    assert record.status is TaskStatus.FAILED
    assert record.error is not None
    assert record.error.code == code
    assert record.error.message
    assert (await worker.engine.records.list()).records[0].error is not None
    await worker.engine.storage.backend.close()


def worker_of(store: str, folder: Path) -> Worker:
    worker = Worker()
    if store == "file":
        from storage_lib.backends.file import FileStorageBackend

        worker.backend = FileStorageBackend(folder)  # pyright: ignore[reportAttributeAccessIssue]
        worker.engine = TaskEngine(StorageManager(backend=worker.backend))
    return worker


@pytest.mark.parametrize(
    ("asked", "waits"),
    [
        ("30", 30),
        (" 30.5 ", 30.5),
        (timedelta(minutes=1), 60),
        (Decimal(7), 7),
        (-5, 0),
        (0, 0),
        (1e12, LONGEST_SECONDS),
        (10**400, LONGEST_SECONDS),
        (math.nan, None),
        (math.inf, None),
        (-math.inf, None),
        ("1e999", None),
        ("soon", None),
        (True, None),
        (object(), None),
        (["30"], None),
        (None, None),
    ],
)
async def test_what_retry_after_can_be(worker: Worker, asked: Any, waits: float | None) -> None:
    async def action(context: TaskContext, payload: Any) -> None:
        raise RetryTaskError("later", retry_after=asked)

    async def together(context: TaskContext, payload: Any) -> None:
        raise ExceptionGroup("several", [RetryTaskError("a", retry_after=asked), RetryTaskError("b")])

    policy = RetryPolicy(base_seconds=100, max_seconds=100)
    for one in (action, together):
        registry_module._actions.pop("subject", None)
        record = await attempt(worker, one, retry=policy)
        assert record.status is TaskStatus.QUEUED
        assert record.error is not None
        assert record.error.code == "retry-task"
        assert record.due_at is not None
        delay = record.due_at.timestamp() - worker.clock.now
        if waits is None:
            assert 49 < delay < 101
        else:
            assert delay == pytest.approx(waits, abs=0.01)


@pytest.mark.parametrize("attempts", [1, 64, 1024, 1025, 1_000_000])
@pytest.mark.parametrize("longest", [300.0, math.inf, 1e300])
def test_a_policy_decides_at_any_attempt(attempts: int, longest: float) -> None:
    policy = RetryPolicy(max_attempts=2_000_000, base_seconds=10, max_seconds=longest)
    delay = policy.decide(attempts, RetryTaskError("again")).delay
    assert delay is not None
    assert 5 <= delay <= LONGEST_SECONDS
    timedelta(seconds=delay)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_attempts": 0},
        {"max_attempts": 2.5},
        {"max_attempts": True},
        {"max_attempts": "3"},
        {"base_seconds": math.nan},
        {"base_seconds": "2"},
        {"max_seconds": -1},
        {"max_seconds": None},
        {"retry_on": 5},
        {"retry_on": (ValueError, "KeyError")},
        {"retry_on": (int,)},
    ],
)
def test_a_policy_that_cannot_work_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        RetryPolicy(**wrong)
    assert refused.value.limit


async def test_a_policy_that_fails_itself_loses_no_failure(worker: Worker) -> None:
    class Broken(RetryPolicy):
        def decide(self, attempts: int, error: BaseException) -> Any:
            raise RuntimeError("no decision")

    async def action(context: TaskContext, payload: Any) -> None:
        raise RetryTaskError("again")

    record = await attempt(worker, action, retry=Broken())
    assert record.status is TaskStatus.FAILED
    assert record.error is not None
    assert record.error.code == "retry-task"


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (math.nan, ""),
        ({"a": [1, math.inf]}, ".a[1]"),
        ({"a": (0.5, -math.inf)}, ".a[1]"),
        (b"bytes", ""),
        ({"x": {"y": bytearray(b"z")}}, ".x.y"),
        ({1: "a", "1": "b"}, ""),
        ({"deep": [{2: 0, "2": 0}]}, ".deep[0]"),
        (nested(101), ""),
        (nested(5000), ""),
        ({None: 1}, ""),
        ("caf\udce9", ""),
        (10**5000, ""),
        (object(), ""),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_what_json_has_not_is_refused_with_its_place(worker: Worker, value: Any, where: str) -> None:
    async def result(context: TaskContext, payload: Any) -> Any:
        return value

    async def progress(context: TaskContext, payload: Any) -> None:
        await context.progress(value)

    for action in (result, progress):
        registry_module._actions.pop("subject", None)
        record = await attempt(worker, action)
        assert record.status is TaskStatus.FAILED
        assert record.error is not None
        assert record.error.code == "serialization-error"
        assert action.__name__ + where in record.error.message
    with pytest.raises(InvalidArgumentError) as refused:
        await worker.engine.submit("subject", "a", value)
    assert refused.value.field == "payload" + where
    assert len((await worker.engine.records.list()).records) == 2


@pytest.mark.parametrize(
    "value",
    [None, 0, -0.0, 10**20, "é", [], {}, {"a": [1, {"b": None}]}, nested(100), {"n": {1: 2}}, (1, 2), {3}],
    ids=str,
)
async def test_what_json_has_is_kept(worker: Worker, value: Any) -> None:
    async def action(context: TaskContext, payload: Any) -> Any:
        return value

    record = await attempt(worker, action)
    assert record.error is None
    assert record.status is TaskStatus.SUCCEEDED


async def test_a_result_that_the_store_refuses_is_a_failure(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def action(context: TaskContext, payload: Any) -> str:
        return "x" * 50_000

    async def refuses(*_: Any) -> Any:
        raise ObjectTooLargeError("too large for this store")

    monkeypatch.setattr(worker.engine.records, "store", refuses)
    record = await attempt(worker, action)
    assert record.status is TaskStatus.FAILED
    assert record.error is not None
    assert record.error.code == "object-too-large"


async def test_an_error_that_the_store_refuses_is_recorded_by_its_code(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = worker.engine.records.change

    async def strict(record: TaskRecord, **changes: Any) -> TaskRecord:
        if changes.get("error") is not None and changes["error"].traceback:
            raise InvalidArgumentError("this store takes no such text")
        return await change(record, **changes)

    monkeypatch.setattr(worker.engine.records, "change", strict)

    async def action(context: TaskContext, payload: Any) -> None:
        raise ValueError("strange")

    record = await attempt(worker, action)
    assert record.status is TaskStatus.FAILED
    assert record.error is not None
    assert record.error.code == "ValueError"


@pytest.mark.parametrize("store", ["memory", "file"])
@pytest.mark.parametrize(
    "damage",
    [
        {"status": "sleeping"},
        {"result": "{"},
        {"history": "[1"},
        {"history": '[{"number": "x"}]'},
        {"children": 3, "children_done": "zz", "children_failed": "0"},
        {"progress": "nul"},
        {"priority": "highest"},
    ],
    ids=str,
)
async def test_one_unreadable_record_does_not_break_a_list(
    store: str, tmp_path: Path, damage: dict[str, Any]
) -> None:
    worker = worker_of(store, tmp_path)

    async def action(context: TaskContext, payload: Any) -> None:
        return None

    good = await attempt(worker, action)
    bad = await worker.engine.submit("subject", "a")
    await worker.backend.tables.update(TASK_TABLE, *record_keys(bad.task_id), damage)
    page = await worker.engine.records.list()
    assert [record.task_id for record in page.records] == [good.task_id]
    assert [unreadable.task_id for unreadable in page.unreadable] == [bad.task_id]
    with pytest.raises(IntegrityError, match=bad.task_id):
        await worker.engine.records.get(bad.task_id)
    # Nor what goes through all of them.
    worker.clock.now += 90 * 24 * 3600
    await worker.engine.repair.run()
    await worker.engine.records.expire(worker.engine.worker._now(), 100)
    # Its message is kept, with the reason.
    for text in await worker.take():
        assert await worker.engine.worker.process(text, queue=TASK_QUEUE) == []
    await worker.backend.close()


async def test_a_payload_type_that_exits_refuses_the_payload(worker: Worker) -> None:
    import dataclasses

    @dataclasses.dataclass
    class Exits:
        n: int

        def __post_init__(self) -> None:
            sys.exit(0)

    async def action(context: TaskContext, payload: Any) -> None:
        return None

    task("subject", payload=Exits)(action)
    with pytest.raises(InvalidArgumentError, match="SystemExit"):
        await worker.engine.submit("subject", "a", {"n": 1})


# -- what is tried again


def of_library(module: str, *names: str, base: type[BaseException] = Exception, **attributes: Any) -> Any:
    """An error of a library that is not installed here: of a class with the names of its own."""
    kind: type[BaseException] = base
    for name in names:
        kind = type(name, (kind,), {"__module__": module})
    error = kind("it broke")
    for name, value in attributes.items():
        setattr(error, name, value)
    return error


def answer(status: int) -> Any:
    return types.SimpleNamespace(status_code=status, headers={})


def aiohttp_status(status: int) -> Any:
    import aiohttp

    info = aiohttp.RequestInfo("http://x/", "GET", {}, "http://x/")  # pyright: ignore
    return aiohttp.ClientResponseError(info, (), status=status)


def requests_error(name: str, status: int | None = None) -> Any:
    import requests

    response = None
    if status is not None:
        response = requests.Response()
        response.status_code = status
    return getattr(requests.exceptions, name)("it broke", response=response)


def aiohttp_error(name: str, *arguments: Any) -> Any:
    import aiohttp

    return getattr(aiohttp, name)(*arguments)


REFUSED = "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed"


@pytest.mark.parametrize(
    "make",
    [
        lambda: socket.gaierror(-2, "Name or service not known"),
        lambda: socket.gaierror(-3, "Temporary failure in name resolution"),
        lambda: TimeoutError("timed out"),
        lambda: ConnectionResetError("reset"),
        lambda: OSError(101, "Network is unreachable"),
        lambda: OSError(113, "No route to host"),
        lambda: urllib.error.URLError(socket.gaierror(-2, "unknown")),
        lambda: urllib.error.URLError(ConnectionRefusedError(111, "refused")),
        lambda: urllib.error.URLError(TimeoutError()),
        lambda: urllib.error.ContentTooShortError("short", b""),
        lambda: urllib.error.HTTPError("http://x", 503, "busy", Message(), None),
        lambda: urllib.error.HTTPError("http://x", 429, "slowly", Message(), None),
        lambda: http.client.IncompleteRead(b""),
        lambda: asyncio.IncompleteReadError(b"", 1),
        lambda: http.client.RemoteDisconnected("gone"),
        lambda: requests_error("ConnectionError"),
        lambda: requests_error("ConnectTimeout"),
        lambda: requests_error("ReadTimeout"),
        lambda: requests_error("ChunkedEncodingError"),
        lambda: requests_error("ProxyError"),
        lambda: requests_error("HTTPError", 500),
        lambda: requests_error("HTTPError", 502),
        lambda: requests_error("HTTPError", 408),
        lambda: requests_error("HTTPError", 429),
        lambda: aiohttp_error("ClientConnectionError", "broken"),
        lambda: aiohttp_error("ServerDisconnectedError"),
        lambda: aiohttp_error("ServerTimeoutError", "slow"),
        lambda: aiohttp_error("ClientPayloadError", "short"),
        lambda: aiohttp_status(503),
        lambda: aiohttp_status(425),
        lambda: of_library(
            "httpx", "HTTPError", "RequestError", "TransportError", "NetworkError", "ConnectError"
        ),
        lambda: of_library("httpx", "TransportError", "TimeoutException", "PoolTimeout"),
        lambda: of_library("httpx", "RemoteProtocolError"),
        lambda: of_library("httpx", "HTTPStatusError", response=answer(503)),
        lambda: of_library("httpx", "HTTPStatusError", response=answer(429)),
        lambda: of_library("urllib3.exceptions", "HTTPError", "ProtocolError"),
        lambda: of_library("openai", "APIConnectionError"),
        lambda: of_library("anthropic", "APIStatusError", status_code=529),
        lambda: of_library("azure.core.exceptions", "ServiceRequestError"),
        lambda: type("Mine", (socket.gaierror,), {})("derived"),
    ],
)
async def test_errors_of_network_libraries_are_tried_again(worker: Worker, make: Any) -> None:
    assert is_transient(make())

    async def action(context: TaskContext, payload: Any) -> None:
        raise make()

    record = await attempt(worker, action)
    assert (record.status, record.attempts) == (TaskStatus.QUEUED, 1)
    assert [a.outcome for a in record.history] == ["retry"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: urllib.error.URLError("unknown url type: foo"),
        lambda: urllib.error.URLError(ssl_refused()),
        lambda: urllib.error.HTTPError("http://x", 404, "none", Message(), None),
        lambda: http.client.InvalidURL("bad"),
        lambda: requests_error("HTTPError", 400),
        lambda: requests_error("HTTPError", 401),
        lambda: requests_error("HTTPError", 409),
        lambda: requests_error("HTTPError"),
        lambda: requests_error("TooManyRedirects", 302),
        lambda: requests_error("InvalidURL"),
        lambda: requests_error("MissingSchema"),
        lambda: type(requests_error("SSLError"))(REFUSED),
        lambda: aiohttp_status(404),
        lambda: aiohttp_status(200),
        lambda: aiohttp_error("InvalidURL", "x"),
        lambda: of_library("httpx", "HTTPStatusError", response=answer(403)),
        lambda: of_library("httpx", "TransportError", "UnsupportedProtocol"),
        lambda: of_library("httpx", "TransportError", "ProtocolError", "LocalProtocolError"),
        lambda: of_library("openai", "APIStatusError", status_code=401),
        lambda: of_library("mine", "ConnectError"),
        lambda: FileNotFoundError(2, "none"),
        lambda: OSError("of a disk"),
        lambda: PermissionError(13, "denied"),
        lambda: ssl_refused(),
    ],
)
async def test_what_would_fail_again_is_not(worker: Worker, make: Any) -> None:
    assert not is_transient(make())

    async def action(context: TaskContext, payload: Any) -> None:
        raise make()

    assert (await attempt(worker, action)).status is TaskStatus.FAILED


def ssl_refused() -> Exception:
    import ssl

    return ssl.SSLCertVerificationError(1, REFUSED)


def test_no_network_library_is_imported_to_tell() -> None:
    import subprocess

    code = (
        "import sys; from storage_lib.tasks.retry import is_transient; is_transient(ValueError());"
        "print([n for n in ('requests','httpx','aiohttp','urllib3','azure') if n in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


class BusyError(Exception):
    pass


@pytest.mark.parametrize(
    "options",
    [
        {"retry_on": BusyError},
        {"retry_on": (KeyError, BusyError)},
        {"retry": RetryPolicy(retry_on=(BusyError,))},
        {"retry": RetryPolicy(retry_on=BusyError)},  # pyright: ignore[reportArgumentType]
        {"retry": RetryPolicy(max_attempts=9, retry_on=(KeyError,)), "retry_on": (BusyError,)},
    ],
)
async def test_an_action_names_errors_of_its_own(worker: Worker, options: dict[str, Any]) -> None:
    async def action(context: TaskContext, payload: Any) -> None:
        raise BusyError("later")

    async def several(context: TaskContext, payload: Any) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(action(context, payload))
            group.create_task(action(context, payload))

    for one in (action, several):
        registry_module._actions.pop("subject", None)
        record = await attempt(worker, one, **options)
        assert record.status is TaskStatus.QUEUED
        assert record.error is not None
        assert record.error.code == "BusyError"
    # What is not named is not.
    registry_module._actions.pop("subject", None)

    async def other(context: TaskContext, payload: Any) -> None:
        raise LookupError

    assert (await attempt(worker, other, **options)).status is TaskStatus.FAILED


async def test_retry_on_may_name_what_is_no_exception(worker: Worker) -> None:
    async def action(context: TaskContext, payload: Any) -> None:
        sys.exit(75)

    record = await attempt(worker, action, retry_on=SystemExit)
    assert record.status is TaskStatus.QUEUED
    with pytest.raises(InvalidArgumentError, match="retry_on"):
        task("other", retry_on="BusyError")  # pyright: ignore[reportArgumentType]


async def test_an_exhausted_error_of_ones_own_is_dead(worker: Worker) -> None:
    async def action(context: TaskContext, payload: Any) -> None:
        raise BusyError

    record = await attempt(worker, action, retry=RetryPolicy(max_attempts=1), retry_on=BusyError)
    assert record.status is TaskStatus.DEAD
    assert isinstance(TransientStorageError("x"), StorageError)


@pytest.mark.parametrize("raises", [exits, interrupts, stops])
async def test_a_result_whose_class_ends_the_process_fails_its_own_attempt(
    worker: Worker, raises: Raise
) -> None:
    class Odd(dict[str, int]):
        def __eq__(self, other: object) -> bool:
            raises()
            return False

        __hash__ = None  # pyright: ignore[reportAssignmentType]

    async def action(context: TaskContext, payload: Any) -> Any:
        return Odd(a=1)

    record = await attempt(worker, action)
    assert record.status is TaskStatus.FAILED
    assert record.error is not None
    assert record.error.code in ("SystemExit", "KeyboardInterrupt", "Stop")
