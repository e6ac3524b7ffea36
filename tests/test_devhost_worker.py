"""The local host's worker: a process that ends, by itself or because a function takes too long, is replaced
as the platform replaces it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from devhost import invoker, worker_process
from devhost.errors import DevhostError
from devhost.invoker import Invoker
from devhost.outputs import QueueOutputs
from devhost.runtime import Datum, InvocationResult, http_datum
from devhost.worker import Worker
from devhost.worker_process import WorkerProcess
from storage_lib.backends.file import FileStorageBackend
from tests.local_host import DEADLINE, Running, serve, wait_for, write_app
from tests.test_devhost import base64_of, function_of, until

APP = """
import asyncio
import atexit
import enum
import multiprocessing
import os
import pathlib
import threading
import time

import azure.functions as func

app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)
HERE = pathlib.Path(__file__).parent
SETTING = os.environ.get("SETTING")
atexit.register((HERE / "finalized").touch)
with (HERE / "starts").open("a") as file:
    print(os.getpid(), file=file)


@app.route(route="ping", methods=["GET"])
async def ping(req: func.HttpRequest) -> str:
    return str(SETTING)


@app.route(route="pid", methods=["GET"])
def pid(req: func.HttpRequest) -> str:
    return str(os.getpid())


@app.route(route="die", methods=["GET"])
def die(req: func.HttpRequest) -> str:
    os._exit(int(req.params["code"]))


@app.route(route="hang/{name}", methods=["GET"])
async def hang(req: func.HttpRequest) -> str:
    (HERE / req.route_params["name"]).touch()
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        (HERE / "cancelled").touch()
        raise


@app.route(route="block/{name}", methods=["GET"])
async def block(req: func.HttpRequest) -> str:
    (HERE / req.route_params["name"]).touch()
    time.sleep(600)


@app.route(route="echo", methods=["PUT"])
def echo(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse(req.get_body())


class Kind(enum.StrEnum):
    MAIN = "main"


class Octets(bytes):
    pass


@app.route(route="kinds/{where}", methods=["GET"])
def kinds(req: func.HttpRequest):
    class Local(str):
        pass

    where = req.route_params["where"]
    if where == "value":
        return Local("main")
    given = {
        "body": {"body": Kind.MAIN},
        "octets": {"body": Octets(b"main")},
        "header": {"body": "main", "headers": {"X-Kind": Kind.MAIN, Kind.MAIN: "x"}},
        "type": {"body": "main", "mimetype": Local("text/plain")},
        "cookie": {"body": "main", "headers": {"Set-Cookie": Local("a=main")}},
    }
    return func.HttpResponse(**given[where])


@app.route(route="interrupt", methods=["GET"])
async def interrupt(req: func.HttpRequest) -> str:
    threading.Thread(target=time.sleep, args=(600,)).start()
    raise KeyboardInterrupt


@app.route(route="stop", methods=["GET"])
async def stop(req: func.HttpRequest) -> str:
    threading.Thread(target=time.sleep, args=(600,)).start()
    asyncio.get_running_loop().stop()
    await asyncio.sleep(600)


@app.route(route="garble", methods=["GET"])
def garble(req: func.HttpRequest) -> str:
    link = int(pathlib.Path("/proc/self/cmdline").read_text().split(chr(0))[-2])
    os.write(link, (1).to_bytes(8) + b"x")
    time.sleep(600)


@app.route(route="signal/{number}", methods=["GET"])
def signal(req: func.HttpRequest) -> str:
    os.kill(os.getpid(), int(req.route_params["number"]))
    time.sleep(600)


def noted(pid):
    with (HERE / "forked").open("a") as file:
        print(pid, file=file)


@app.route(route="fork/loop", methods=["GET"])
async def fork_in_the_loop(req: func.HttpRequest) -> str:
    child = os.fork()
    if child:
        noted(child)
        os.waitpid(child, 0)  # It ends where the loop would go on.
    return "parent" if child else "child"


@app.route(route="fork/thread", methods=["GET"])
def fork_in_a_thread(req: func.HttpRequest) -> str:
    child = os.fork()
    if child:
        noted(child)
    return "parent" if child else "child"


@app.route(route="fork/terminated", methods=["GET"])
def fork_and_terminate(req: func.HttpRequest) -> str:
    reading, writing = os.pipe()

    def work():
        os.write(writing, b"1")
        time.sleep(600)

    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    noted(child.pid)
    os.read(reading, 1)
    child.terminate()
    child.join(60)
    return str(child.exitcode)


@app.route(route="print", methods=["GET"])
def tell(req: func.HttpRequest) -> str:
    print("what was printed before the end")
    os._exit(3)


@app.queue_trigger(arg_name="message", queue_name="work", connection="S")
async def work(message: func.QueueMessage) -> None:
    if message.dequeue_count == 1:
        os._exit(7)
    (HERE / "worked").touch()


@app.timer_trigger(arg_name="timer", schedule="* * * * * *")
async def timer(timer: func.TimerRequest) -> None:
    if (HERE / "deadly").exists() and not (HERE / "killed").exists():
        (HERE / "killed").touch()
        os._exit(7)
    (HERE / "ticked").touch()
"""
HOST_JSON = {"version": "2.0", "extensions": {"queues": {"visibilityTimeout": "00:00:01"}}}
AT_ONCE = """
import sys
from devhost import invoker
invoker.Invoker.__init__.__kwdefaults__["grace"] = 0.5
from devhost.__main__ import main
from devhost.process import end
end(main(sys.argv[1:]))
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    return write_app(tmp_path, APP, json.dumps(HOST_JSON))


@pytest.fixture
def host(app: Path) -> Iterator[Running]:
    with serve(app) as running:
        yield running


@contextmanager
def under_way(host: Running, *paths: str) -> Iterator[list[Future[Any]]]:
    """Requests that have come to their functions."""
    with ThreadPoolExecutor() as pool:
        asked = [pool.submit(host.ask, "GET", f"/api/{path}") for path in paths]
        wait_for(lambda: host.reached(*(path.split("/")[1] for path in paths)))
        yield asked


def answered(host: Running) -> bytes | None:
    try:
        response, body = host.ask("GET", "/api/ping")
    except OSError:
        return None
    return body if response.status == 200 else None


def test_a_worker_that_dies_fails_what_it_does_and_is_replaced(host: Running) -> None:
    with under_way(host, "hang/first", "hang/second") as others:
        response, body = host.ask("GET", "/api/die?code=3")
        assert (response.status, body) == (500, b"")
        assert [other.result()[0].status for other in others] == [500, 500]
    # Held until the next one is up.
    assert host.ask("GET", "/api/ping")[0].status == 200
    assert "the worker ended by itself (exit code 3); as on the platform, what ran there fails" in host.log
    assert "the platform stops the host" not in host.log
    assert len((host.app / "starts").read_text().split()) == 2


@pytest.mark.parametrize("where", ["value", "body", "octets", "header", "type", "cookie"])
def test_text_and_octets_of_the_apps_own_classes_are_text_and_octets(host: Running, where: str) -> None:
    response, body = host.ask("GET", f"/api/kinds/{where}")
    assert (response.status, body) == (200, b"main")
    assert answered(host)
    # By the worker alone: the host has not imported the app to read an answer.
    assert len((host.app / "starts").read_text().split()) == 1
    if where == "header":
        assert (response.headers["X-Kind"], response.headers["main"]) == ("main", "x")


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("interrupt", "exit code 1"),
        ("stop", "exit code 1"),
        ("garble", "broke its connection"),
        ("signal/35", "signal 35"),
    ],
)
def test_however_a_worker_ends_it_is_replaced(host: Running, path: str, told: str) -> None:
    assert host.ask("GET", f"/api/{path}")[0].status == 500
    assert answered(host)
    assert told in host.log


def test_the_death_of_a_worker_loses_nothing_that_was_printed(app: Path) -> None:
    with serve(app, PYTHONUNBUFFERED="") as host:
        assert host.ask("GET", "/api/print")[0].status == 500
        host.process.terminate()
        assert host.process.stdout is not None
        assert "what was printed before the end" in host.process.stdout.read()


@pytest.mark.parametrize(("where", "told"), [("loop", "parent"), ("thread", "parent"), ("terminated", "-15")])
def test_a_process_that_a_function_forks_is_no_second_worker(app: Path, where: str, told: str) -> None:
    with serve(app) as host:
        for _ in range(3):
            response, body = host.ask("GET", f"/api/fork/{where}")
            assert (response.status, body.decode()) == (200, told)
            assert answered(host)
        assert len((host.app / "starts").read_text().split()) == 1
    # Those that do not end where they are end with the host.
    for pid in (app / "forked").read_text().split():
        wait_for(lambda pid=pid: not is_running(int(pid)))


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_worker_that_is_killed_is_replaced(host: Running) -> None:
    with under_way(host, "block/blocked") as (blocked,):
        (pid,) = (host.app / "starts").read_text().split()
        os.kill(int(pid), signal.SIGKILL)
        assert blocked.result()[0].status == 500
    assert host.ask("GET", "/api/pid")[1].decode() not in ("", pid)
    assert "the worker was killed (SIGKILL)" in host.log


def test_the_third_death_ends_the_host(app: Path) -> None:
    """What the process had of its settings is not handed on to the next one, which reads them again."""
    settings = app / "local.settings.json"
    settings.write_text('{"Values": {"SETTING": "old"}}')
    with serve(app) as host:
        assert answered(host) == b"old"
        settings.write_text('{"Values": {"SETTING": "new"}}')
        for code in (1, 2):
            assert host.ask("GET", f"/api/die?code={code}")[0].status == 500
        assert answered(host) == b"old"
        # Its request is answered if there is time.
        with contextlib.suppress(OSError):
            assert host.ask("GET", "/api/die?code=3")[0].status == 500
        stopped = "the platform stops the host here and starts it again: the worker ended by itself"
        wait_for(lambda: answered(host) == b"new")
        assert host.log.count(f"{stopped} (exit code 3), for the third time") == 1


async def test_the_message_of_a_dead_worker_comes_again_like_one_that_failed(app: Path) -> None:
    """After the visibilityTimeout of host.json, for it is the host that has the message, and lives."""
    async with FileStorageBackend(app / "data", message_encoding="none") as backend:
        await backend.queues.send("work", base64_of("x"))
        with serve(app) as host:
            await until(lambda: "n=2" in host.log)
            assert host.reached("worked")
            assert "queue work work failed" in host.log


def test_a_timer_whose_worker_dies_is_due_again(host: Running) -> None:
    wait_for(lambda: host.reached("ticked"))
    (host.app / "deadly").touch()
    wait_for(lambda: host.reached("killed"))
    (host.app / "ticked").unlink(missing_ok=True)
    wait_for(lambda: host.reached("ticked"))


def test_function_timeout_ends_the_worker_and_not_the_host(tmp_path: Path) -> None:
    app = write_app(tmp_path, APP, json.dumps(HOST_JSON | {"functionTimeout": "00:00:01"}))
    with serve(app, program=("-c", AT_ONCE)) as host, under_way(host, "hang/first", "hang/second") as others:
        assert [other.result()[0].status for other in others] == [500, 500]
        assert answered(host)
        assert "hang ran longer than functionTimeout, 1 s; its worker is ended" in host.log
        assert "the platform stops the host" not in host.log
        assert "ended by itself" not in host.log


@pytest.mark.parametrize("how", ["block/busy", "hang/busy"])
def test_a_worker_ends_with_its_host(host: Running, how: str) -> None:
    pid = int((host.app / "starts").read_text())
    with ThreadPoolExecutor() as pool:
        pool.submit(host.ask, "GET", f"/api/{how}")
        wait_for(lambda: host.reached("busy"))
        host.process.kill()
        wait_for(lambda: not Path(f"/proc/{pid}").exists() or is_zombie(pid))
    assert not host.reached("finalized")
    assert "Traceback" not in host.log


def is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_a_function_that_blocks_does_not_block_the_host(host: Running) -> None:
    with under_way(host, "block/blocked"):
        assert host.ask("GET", "/api/none")[0].status == 404
        os.kill(int((host.app / "starts").read_text()), signal.SIGKILL)


def test_large_bodies(host: Running) -> None:
    body = os.urandom(40_000_000)
    assert host.ask("PUT", "/api/echo", body)[1] == body


class Slow(Worker):
    """Runs until it is told to end, or is replaced."""

    def __init__(self) -> None:
        super().__init__(Path())
        self.done = asyncio.Event()
        self.replaced: list[str] = []

    async def invoke(self, *_: Any) -> InvocationResult:
        await self.done.wait()
        return InvocationResult(True, 0)

    def replace(self, reason: str) -> None:
        self.replaced.append(reason)


def timed(worker: Worker, grace: float) -> Any:
    run = Invoker(QueueOutputs([], "none"), worker, timeout=0.01, grace=grace).run(
        function_of(), Datum("x", "string")
    )
    return asyncio.create_task(run)


async def test_what_ends_after_its_time_has_failed_and_costs_no_worker() -> None:
    worker = Slow()
    run = timed(worker, DEADLINE)
    await asyncio.sleep(0.1)
    assert not run.done()
    worker.done.set()
    result = await run
    assert (result.ok, result.error) == (False, "f ran longer than functionTimeout, 0.01 s")
    assert worker.replaced == []


async def test_what_does_not_end_costs_its_worker() -> None:
    worker = Slow()
    assert not (await timed(worker, 0.01)).ok
    assert worker.replaced == [
        "f ran longer than functionTimeout, 0.01 s; its worker is ended, with all that runs there"
    ]


def test_times() -> None:
    """As they were measured."""
    assert invoker.GRACE_SECONDS == 12
    assert worker_process.MOST_DEATHS == 3


async def test_deaths_are_forgotten_after_half_an_hour(app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "FORGOTTEN_SECONDS", 0)
    worker, stops = WorkerProcess(app, 30), list[str]()
    await worker.start(stops.append)
    request = [("req", http_datum("GET", "http://x", params={"code": "1"}))]
    for _ in range(4):
        result = await worker.invoke("die", request, None)
        assert (result.ok, result.error) == (False, "the worker ended by itself (exit code 1)")
    assert stops == []
    await worker.stop()


async def test_what_runs_at_a_stop_is_cancelled_before_the_app_is_shut_down(app: Path) -> None:
    (app / "function_app.py").write_text(
        APP + "\n\nasync def shutdown():\n    (HERE / f'shut{(HERE / \"cancelled\").exists()}').touch()\n"
    )
    worker = WorkerProcess(app, 30)
    await worker.start()
    request = http_datum("GET", "http://x", route_params={"name": "running"})
    call = asyncio.create_task(worker.invoke("hang", [("req", request)], None))
    await until(lambda: (app / "running").exists())
    await worker.stop()
    call.cancel()
    assert (app / "shutTrue").exists()


async def test_a_function_that_is_no_longer_there(app: Path) -> None:
    worker = WorkerProcess(app, 30)
    await worker.start()
    (app / "function_app.py").write_text(APP.replace("def ping(", "def pong("))
    os.utime(app / "function_app.py", (1, 1))  # Byte code of a file of this size and second may be there.
    worker.replace("to see the next one read the app again")
    # Held until that is up.
    result = await worker.invoke("ping", [("req", http_datum("GET", "http://x"))], None)
    assert (result.ok, result.error) == (False, "the app has no such function any more")
    await worker.stop()


async def test_a_worker_that_can_not_load_the_app_any_more(app: Path) -> None:
    """It is tried as often as one that dies."""
    worker, stops = WorkerProcess(app, 30), list[str]()
    await worker.start(stops.append)
    (app / "function_app.py").write_text("raise SystemExit(9)")
    worker.replace("to see the next one fail")
    async with asyncio.timeout(DEADLINE):
        while not stops:
            await asyncio.sleep(0.01)
    assert "for the third time" in stops[0]
    await worker.stop()
    with pytest.raises(DevhostError, match=r"ended by itself \(exit code 9\)"):
        await WorkerProcess(app, 30).start()
