"""A worker in a process of its own, ended and replaced as the platform does it.

Host and worker send each other pickles, each with its length before it.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import logging
import os
import pickle
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devhost.errors import DevhostError
from devhost.process import STOPPING, begin_logging, end

if TYPE_CHECKING:
    from devhost.runtime import Datum, Function, InvocationResult

logger = logging.getLogger("devhost")

MOST_DEATHS = 3
"""The last one ends the host."""
FORGOTTEN_SECONDS = 30 * 60.0
"""After so long without one, deaths are counted anew (``RpcFunctionInvocationDispatcher``)."""
STOP_SECONDS = 10.0
_BUFFER = 2**24


class WorkerProcess:
    """As `Worker`, but when its process ends, what runs there fails, what comes is held, and the next one is
    started."""

    def __init__(self, app: Path, log_level: int) -> None:
        """:param log_level: of what the app logs."""
        self._command = (sys.executable, "-m", "devhost.worker_process", str(app), str(log_level))
        self._stop_host: Callable[[str], None] = lambda reason: None
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[InvocationResult]] = {}
        self._up = asyncio.Event()
        self._deaths: list[float] = []
        self._why = ""
        self._keeping: asyncio.Task[None] | None = None

    async def start(self, stop_host: Callable[[str], None] = lambda reason: None) -> tuple[Function, ...]:
        """As `Worker.start`."""
        self._stop_host = stop_host
        functions = await self._spawn()
        self._keeping = asyncio.create_task(self._keep(), name="worker")
        return functions

    async def ready(self) -> None:
        """Return when a worker is up."""
        await self._up.wait()

    async def invoke(
        self, function: str, inputs: list[tuple[str, Datum]], trigger_metadata: Mapping[str, Datum] | None
    ) -> InvocationResult:
        """As `Worker.invoke`."""
        await self.ready()
        number = next(self._numbers)
        self._waiting[number] = result = asyncio.get_running_loop().create_future()
        _send(self._writer, (number, function, inputs, trigger_metadata))
        return await result

    def replace(self, reason: str) -> None:
        """As `Worker.replace`. One that has just ended has been replaced already."""
        if self._up.is_set():
            self._why = reason
            self._up.clear()
            self._kill()

    async def stop(self, seconds: float = STOP_SECONDS) -> None:
        """As `Worker.stop`; one that does not stop in so many seconds is killed, with all that runs there."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        if seconds and self._up.is_set():
            _send(self._writer, None)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), seconds)
        await self._end()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def _end(self) -> int:
        """Its exit code."""
        self._kill()
        code = await self._process.wait()
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()
        return code

    async def _spawn(self) -> tuple[Function, ...]:
        """:raises DevhostError: it cannot load the app."""
        ours, theirs = socket.socketpair()
        # It hears signals once it knows what to do with them.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
        try:
            with theirs:
                command = (*self._command, str(theirs.fileno()))
                self._process = await asyncio.create_subprocess_exec(*command, pass_fds=(theirs.fileno(),))
            self._reader, self._writer = await asyncio.open_connection(sock=ours, limit=_BUFFER)
        except BaseException:
            ours.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        try:
            found = await _receive(self._reader)
        except EOFError:
            found = DevhostError(f"the worker {_told(await self._process.wait())} while it loaded the app")
        except asyncio.CancelledError:
            await self._end()
            raise
        if isinstance(found, DevhostError):
            await self._end()
            raise found
        self._up.set()
        return found

    async def _keep(self) -> None:
        """Have a worker, until the third has died."""
        while True:
            reason = await self._ended()
            if len(self._deaths) == MOST_DEATHS:
                self._stop_host(f"{reason}, for the third time")
                return
            logger.error("%s; as on the platform, what ran there fails, and another one is started", reason)
            try:
                await self._spawn()
            except (DevhostError, OSError) as error:
                logger.error("%s", error)

    async def _ended(self) -> str:
        """Hand results on until the worker has ended, and fail what it had in work. How it ended."""
        from devhost.runtime import InvocationResult

        reading = asyncio.create_task(self._read())
        ending = asyncio.create_task(self._process.wait())
        try:
            await asyncio.wait({reading, ending}, return_when=asyncio.FIRST_COMPLETED)
            self._up.clear()
            # A process that the app left behind may keep the socket open, and one that breaks it may run on.
            await asyncio.wait({reading, ending}, timeout=1)
            gone = ending.done()
        finally:
            reading.cancel()
            ending.cancel()
        code = await self._end()
        reason, self._why = self._why, ""
        if not reason:
            how = _told(code) if gone else "broke its connection to the host"
            reason, now = f"the worker {how}", time.monotonic()
            if self._deaths and now - self._deaths[-1] > FORGOTTEN_SECONDS:
                self._deaths.clear()
            self._deaths.append(now)
        waiting, self._waiting = self._waiting, {}
        for result in waiting.values():
            if not result.done():
                result.set_result(InvocationResult(ok=False, duration=0, error=reason))
        return reason

    async def _read(self) -> None:
        with contextlib.suppress(EOFError):
            while True:
                number, result = await _receive(self._reader)
                waiting = self._waiting.pop(number)
                if not waiting.done():
                    waiting.set_result(result)


def _told(code: int) -> str:
    if code >= 0:
        return f"ended by itself (exit code {code})"
    # Not each of the real-time signals has a name.
    name = next((each.name for each in signal.Signals if each == -code), f"signal {-code}")
    return f"was killed ({name})"


class _Pickler(pickle.Pickler):
    """What a function gave may be of classes of the app, which the host does not have: on the platform's wire
    a subclass of ``str`` is text."""

    def reducer_override(self, value: Any, /) -> Any:
        if isinstance(value, str):
            return str, (str.__str__(value),)
        if isinstance(value, bytes):
            return bytes, (bytes(memoryview(value)),)
        if isinstance(value, int):
            return int, (int.__index__(value),)
        if isinstance(value, type) and not value.__module__.startswith(_SHARED):
            raise TypeError(f"the host cannot be given a {value.__module__}.{value.__qualname__}")
        return NotImplemented


_SHARED = ("builtins", "datetime", "http.cookies", "devhost.", "azure.functions.", "azure_functions_runtime.")


def _dumps(value: Any) -> bytes:
    file = io.BytesIO()
    _Pickler(file).dump(value)
    return file.getvalue()


def _send(writer: asyncio.StreamWriter, value: Any) -> None:
    _write(writer, pickle.dumps(value))


def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(len(data).to_bytes(8))
    writer.write(data)


async def _receive(reader: asyncio.StreamReader) -> Any:
    """:raises EOFError: the other process is gone."""
    try:
        size = int.from_bytes(await reader.readexactly(8))
        return pickle.loads(await reader.readexactly(size))  # noqa: S301 - what the other half of this file sent
    except ConnectionError as error:
        raise EOFError from error


async def _serve(app: Path, link: socket.socket) -> None:
    """The worker's side."""
    for number in STOPPING:
        # It is the host that is asked, and that ends its worker.
        asyncio.get_running_loop().add_signal_handler(number, lambda: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    from devhost.runtime import InvocationResult
    from devhost.worker import Worker

    reader, writer = await asyncio.open_connection(sock=link, limit=_BUFFER)
    worker = Worker(app)
    running: set[asyncio.Task[None]] = set()

    async def run(
        number: int, function: str, inputs: list[tuple[str, Datum]], metadata: Mapping[str, Datum] | None
    ) -> None:
        result = await worker.invoke(function, inputs, metadata)
        try:
            data = _dumps((number, result))
        except Exception as error:
            # Of what the app made, anything can come out.
            trace = traceback.format_exc()
            failed = InvocationResult(ok=False, duration=result.duration, error=repr(error), traceback=trace)
            data = pickle.dumps((number, failed))
        _write(writer, data)

    try:
        _send(writer, await worker.start())
        while (call := await _receive(reader)) is not None:
            task = asyncio.create_task(run(*call))
            running.add(task)
            task.add_done_callback(running.discard)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await worker.stop()
    except EOFError:
        # The host was killed, and so is what runs here: it must not see an interpreter that is taken down.
        os._exit(1)
    except DevhostError as error:
        _send(writer, error)
        writer.close()
        await writer.wait_closed()


def _end_with_host(link: int) -> None:
    """End when the other end of the socket is closed, whatever runs here."""
    poll = select.poll()
    poll.register(link, 0)
    poll.poll()
    os._exit(1)


def _forked(link: int) -> None:
    """In a process that a function forks: it is no second worker, hears signals as any process does, and ends
    with the host."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    watched = os.dup(link)
    ended, other = socket.socketpair()
    with ended, other:
        # What the event loop, if the function returns to it, writes is for nobody, and there it ends.
        os.dup2(ended.fileno(), link, inheritable=False)
    threading.Thread(target=_end_with_host, args=(watched,), daemon=True).start()


def main() -> None:
    """``python -m devhost.worker_process APP LOG_LEVEL SOCKET``"""
    app, level, link = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    os.set_inheritable(link, False)
    threading.Thread(target=_end_with_host, args=(link,), daemon=True).start()
    os.register_at_fork(after_in_child=lambda: _forked(link))
    # Into a file or a pipe too, so that the death of the process loses nothing that was printed.
    sys.stdout.reconfigure(line_buffering=True)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]  # a TextIO by its stub
    begin_logging(level)
    try:
        asyncio.Runner().run(_serve(Path(app), socket.socket(fileno=link)))
    except SystemExit as asked:
        if asked.code is not None and not isinstance(asked.code, int):
            print(asked.code, file=sys.stderr)
        end(asked.code if isinstance(asked.code, int) else int(bool(asked.code)))
    except BaseException:
        # A function's KeyboardInterrupt, or a loop that it stopped.
        traceback.print_exc()
        end(1)
    end(0)


if __name__ == "__main__":
    main()
