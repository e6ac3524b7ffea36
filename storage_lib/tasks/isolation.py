"""Running a function in a separate process, which can be ended at any time.

A thread does not help against code that holds the interpreter, such as a regular expression or a parser on
untrusted bytes: nothing else runs meanwhile, no lease is renewed, and it cannot be stopped. Here it runs in
another process, one of a few that are reused and end when they have been idle for a while.

They are started with ``sys.executable``, never forked, and get this process's ``sys.path`` but not its
settings: everything that a function needs is in its arguments.
"""

from __future__ import annotations

import asyncio
import atexit
import builtins
import contextlib
import inspect
import json
import os
import pickle
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import cache
from pathlib import Path
from typing import IO, Any

import msgspec

from storage_lib import values
from storage_lib.errors import ConfigurationError, InvalidArgumentError, StorageError, TransientStorageError
from storage_lib.tasks.isolated import Answer, read_frame, write_frame

IDLE_SECONDS = 30.0
MEMORY_SHARE = 0.75
"""Of the machine's memory, for all processes together."""
LEAST_MEMORY_BYTES = 512 * 1024 * 1024
_OUT_OF_BAND_BYTES = 64 * 1024
"""Longer bytes among the arguments are written as they are, not copied into a pickle before."""
_ENVIRONMENT = ("PATH", "HOME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONHOME")
_PROGRAM = (
    "import json,sys; sys.path[:]=json.loads(sys.argv[1]);"
    "from storage_lib.tasks.isolated import serve; serve(int(sys.argv[2]), int(sys.argv[3]))"
)
_GIGANTIC = 1 << 40


class IsolatedError(StorageError):
    """A function in a separate process failed with an error that only that process knows."""

    code = "isolated-error"


class ProcessDiedError(StorageError):
    """The separate process of a function has died. This is not retried, because the function is most
    likely the cause."""

    code = "process-died"


class MemoryExceededError(StorageError):
    """A function in a separate process needed more memory than it may use."""

    code = "memory-exceeded"


class _RemoteError(Exception):
    """Shows, as a cause, the traceback of the other process."""

    def __init__(self, trace: str) -> None:
        super().__init__(trace)
        self.trace = trace

    def __str__(self) -> str:
        return f"\n{self.trace}"


async def run(function: Callable[..., Any], /, *args: Any, **named: Any) -> Any:
    """Call ``function`` in another process and return its result. Cancelling the call ends the process.

    :param function: defined at the top of a module, so that the other process can import it; not ``async``.
    :param args: arguments that can be pickled, like ``named``. The result must be a value that can be saved
        (`storage_lib.values`).
    :raises InvalidArgumentError: the function cannot be imported, or an argument cannot be pickled.
    :raises MemoryExceededError: it needed more than its share of three quarters of the machine's memory.
    :raises ProcessDiedError: its process has died (a crash in a library, or killed for lack of memory).
    :raises TransientStorageError: no process could be started.
    :raises IsolatedError: it failed with an exception class that is not known here. Built-in exceptions and
        `StorageError`s are raised as they are.
    """
    job = _Job(*_packed(function, args, named))
    _pool(os.getpid()).submit(job)
    try:
        return await asyncio.wrap_future(job.future)
    finally:
        job.stop()


def _packed(
    function: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]
) -> tuple[str, bytes, list[memoryview]]:
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    found: Any = sys.modules.get(module or "")
    for part in name.split("."):
        found = getattr(found, part, None)
    if module in (None, "__main__") or found is not function or inspect.iscoroutinefunction(function):
        raise InvalidArgumentError(
            f"{module}.{name or function!r} cannot run in another process",
            field="function",
            limit="a function that is not async, by the name that its module gives it",
            remedy="define it by def at the top of a module that can be imported",
        )
    buffers: list[pickle.PickleBuffer] = []

    def apart(value: Any) -> Any:
        return (
            pickle.PickleBuffer(value) if type(value) is bytes and len(value) > _OUT_OF_BAND_BYTES else value
        )

    call = (module, name, tuple(map(apart, args)), {key: apart(value) for key, value in named.items()})
    try:
        data = pickle.dumps(call, protocol=5, buffer_callback=buffers.append)
    except (pickle.PicklingError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidArgumentError(
            f"an argument of {name} cannot be sent to another process: {error}", field="args"
        ) from error
    return f"{module}.{name}", data, [buffer.raw() for buffer in buffers]


class _Job:
    """One call, from when it is submitted until its process has answered."""

    def __init__(self, name: str, call: bytes, buffers: list[memoryview]) -> None:
        self.name = name
        self.call = call
        self.buffers = buffers
        self.future: Future[Any] = Future()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self.stopped = False

    def begin(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._process = process
            if self.stopped:
                process.kill()

    def end(self) -> None:
        with self._lock:
            self._process = None

    def stop(self) -> None:
        """Nobody waits any more. Does nothing once it has been answered."""
        with self._lock:
            if self.future.done():
                return
            self.stopped = True
            if self._process is not None:
                self._process.kill()


class _Pool:
    """At most as many processes as there are CPUs, each with a thread that talks to it."""

    def __init__(self, most: int, idle_seconds: float = IDLE_SECONDS) -> None:
        self._pid = os.getpid()
        self._most = most
        self._idle_seconds = idle_seconds
        self._memory = max(int(_memory() * MEMORY_SHARE / most), LEAST_MEMORY_BYTES)
        self._changed = threading.Condition()
        self._pending: deque[_Job] = deque()
        self._threads = self._waiting = 0
        self._processes: set[subprocess.Popen[bytes]] = set()

    def submit(self, job: _Job) -> None:
        with self._changed:
            self._pending.append(job)
            if self._waiting < len(self._pending) and self._threads < self._most:
                self._threads += 1
                threading.Thread(target=self._serve, name="isolation", daemon=True).start()
            self._changed.notify()

    def close(self) -> None:
        if os.getpid() != self._pid:
            return  # forked off: they are not its own
        for process in list(self._processes):
            process.kill()
            process.wait()

    def _next(self) -> _Job | None:
        """The next job; None where none has come for a while, and then the thread is counted no more."""
        with self._changed:
            self._waiting += 1
            self._changed.wait_for(lambda: self._pending, self._idle_seconds)
            self._waiting -= 1
            if self._pending:
                return self._pending.popleft()
            self._threads -= 1
            return None

    def _serve(self) -> None:
        process: subprocess.Popen[bytes] | None = None
        while (job := self._next()) is not None:
            if not job.future.set_running_or_notify_cancel():
                continue
            try:
                if process is not None and process.poll() is not None:
                    process = self._ended(process)  # while it was idle
                if process is None:
                    process = self._start()
                result = self._call(process, job)
            except BaseException as error:
                if isinstance(error, ProcessDiedError | MemoryExceededError):
                    process = self._ended(process)
                job.future.set_exception(error)
            else:
                job.future.set_result(result)
            if job.stopped:  # perhaps just as it had answered
                process = self._ended(process)
            del job  # It may hold a whole report.
        self._ended(process)

    def _start(self) -> subprocess.Popen[bytes]:
        if not sys.executable:
            raise ConfigurationError("no process can be started: sys.executable is not set")
        path = [os.path.abspath(entry) for entry in sys.path]
        environment = {name: value for name, value in os.environ.items() if _passed_on(name)}
        arguments = [json.dumps(path), str(self._memory), str(os.getpid())]
        try:
            process = subprocess.Popen(  # noqa: S603 - Python itself, with the program above
                [sys.executable, "-P", "-c", _PROGRAM, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise TransientStorageError(f"no process could be started: {error}") from error
        self._processes.add(process)
        return process

    def _call(self, process: subprocess.Popen[bytes], job: _Job) -> Any:
        requests, answers = _pipes(process)
        job.begin(process)
        try:
            write_frame(requests, job.call)
            write_frame(requests, len(job.buffers).to_bytes(4))
            for buffer in job.buffers:
                write_frame(requests, buffer)
            requests.flush()
            answer = msgspec.json.decode(read_frame(answers), type=Answer)
            data = read_frame(answers)
        except (EOFError, OSError, msgspec.MsgspecError) as error:
            process.kill()
            raise ProcessDiedError(
                f"the process that ran {job.name} has ended: {_how(process.wait())}"
            ) from error
        finally:
            job.end()
        if not answer.types:
            return values.decode(data, answer.content_type)
        if answer.types[0] == ("builtins", "MemoryError"):
            raise MemoryExceededError(
                f"{job.name} needed more memory than it may have",
                limit=f"{self._memory >> 20} MiB",
                remedy="give it less at once, or use a larger instance",
            ) from _RemoteError(answer.traceback)
        raise _error(answer, job.name) from _RemoteError(answer.traceback)

    def _ended(self, process: subprocess.Popen[bytes] | None) -> None:
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in _pipes(process):
            with contextlib.suppress(OSError):  # What was not written yet has nobody to read it.
                pipe.close()
        self._processes.discard(process)


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    assert process.stdin is not None  # noqa: S101 - both are pipes
    assert process.stdout is not None  # noqa: S101
    return process.stdin, process.stdout


def _passed_on(name: str) -> bool:
    return name in _ENVIRONMENT or name.startswith("LC_")


def _error(answer: Answer, name: str) -> Exception:
    """The nearest known class of an error, with its text. No other class is ever imported or built."""
    for place, (module, qualified) in enumerate(answer.types):
        found: Any = builtins if module == "builtins" else sys.modules.get(module)
        for part in qualified.split("."):
            found = getattr(found, part, None)
        if not isinstance(found, type) or not issubclass(found, Exception) or found is Exception:
            continue
        message = answer.message if place == 0 else f"{answer.types[0][1]}: {answer.message}"
        try:
            if issubclass(found, StorageError):
                details = {key: answer.details.get(key) for key in ("field", "limit", "remedy")}
                error: Exception = found(message, **details)  # pyright: ignore[reportArgumentType]
                if isinstance(error, TransientStorageError) and "retry_after" in answer.details:
                    error.retry_after = answer.details["retry_after"]  # pyright: ignore[reportAttributeAccessIssue]
                return error
            if module == "builtins":
                return found(message)
        except TypeError:  # Its constructor takes something else: then the class above it.
            continue
    what = answer.types[0][1]
    return IsolatedError(
        f"{name} failed with {what}: {answer.message}" if answer.message else f"{name}: {what}"
    )


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    return f"signal {-code}" + (", perhaps for want of memory" if code == -9 else "")


def _memory() -> int:
    """Bytes that this machine or container has."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(limit).read_text().strip()
        except OSError:
            continue
        if text.isdecimal() and int(text) < _GIGANTIC:
            found = min(found, int(text))
    return found


@cache
def _pool(pid: int) -> _Pool:
    """That of this process: one that was forked off has threads and children of its own."""
    pool = _Pool(os.process_cpu_count() or 1)
    atexit.register(pool.close)
    return pool
