"""The program of the separate processes of isolation.py.

It reads calls from standard input, one after another, and ends when that closes, or with the process that
started it. A frame is eight bytes with its length, followed by that many bytes.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import queue
import signal
import sys
import threading
import traceback
from typing import IO, Any, NoReturn

import msgspec

MAX_ANSWER_BYTES = 256 * 1024 * 1024
MAX_TEXT = 16 * 1024
"""Characters of an error's message, and of its traceback."""
NICENESS = 5
"""Separate processes yield to the host, whose leases and responses are urgent."""
_PR_SET_PDEATHSIG = 1


class Answer(msgspec.Struct, omit_defaults=True):
    """Goes before the bytes of a result, or says why there is none."""

    content_type: str = ""
    """Of the result (`storage_lib.values`); empty for an error."""
    types: list[tuple[str, str]] = []
    """Module and qualified name of the error's class and of those that it inherits from."""
    message: str = ""
    details: dict[str, Any] = {}
    """Of a `StorageError`: field, limit, remedy, retry_after."""
    traceback: str = ""


def write_frame(stream: IO[bytes], data: bytes | memoryview) -> None:
    stream.write(len(data).to_bytes(8))
    stream.write(data)


def read_frame(stream: IO[bytes]) -> bytes:
    """:raises EOFError: the other side has ended."""
    head = stream.read(8)
    if len(head) < 8:
        raise EOFError
    length = int.from_bytes(head)
    data = stream.read(length)
    if len(data) < length:
        raise EOFError
    return data


def serve(memory_bytes: int, parent: int) -> NoReturn:
    """Answer calls until the process that started this one is gone."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # What the function prints must not get between the answers.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The host's to decide.
    _end_with(parent)
    _limit(memory_bytes)
    calls: queue.SimpleQueue[bytes | MemoryError] = queue.SimpleQueue()
    buffers: queue.SimpleQueue[list[bytes]] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(requests, calls, buffers), daemon=True).start()
    while True:
        call = calls.get()
        answer, data = _answered(call, buffers)
        try:
            write_frame(answers, msgspec.json.encode(answer))
            write_frame(answers, data)
            answers.flush()
        except BrokenPipeError:
            os._exit(0)


def _read(
    requests: IO[bytes],
    calls: queue.SimpleQueue[bytes | MemoryError],
    buffers: queue.SimpleQueue[list[bytes]],
) -> NoReturn:
    """In a thread of its own, so that the end of the input is seen while a function runs."""
    try:
        while True:
            call = read_frame(requests)
            count = int.from_bytes(read_frame(requests))
            buffers.put([read_frame(requests) for _ in range(count)])
            calls.put(call)
    except MemoryError as error:
        calls.put(error)
        threading.Event().wait()
        raise AssertionError from error
    except (EOFError, OSError):
        os._exit(0)


def _answered(
    call: bytes | MemoryError, buffers: queue.SimpleQueue[list[bytes]]
) -> tuple[Answer, bytes | memoryview]:
    try:
        if isinstance(call, MemoryError):
            raise call
        module, name, args, named = pickle.loads(call, buffers=buffers.get())  # noqa: S301 - the host's own
        function: Any = importlib.import_module(module)
        for part in name.split("."):
            function = getattr(function, part)
        result = function(*args, **named)
        from storage_lib import values
        from storage_lib.errors import ObjectTooLargeError

        encoded = values.encode(result)
        if len(encoded.data) > MAX_ANSWER_BYTES:
            raise ObjectTooLargeError(
                f"the result is {len(encoded.data)} bytes", limit=f"{MAX_ANSWER_BYTES} bytes"
            )
        return Answer(content_type=encoded.content_type), encoded.data
    except BaseException as error:
        return _told(error), b""


def _told(error: BaseException) -> Answer:
    try:
        message = str(error)
    except Exception as broken:  # An error of the user's may not even have a text.
        message = f"its text cannot be had: {type(broken).__name__}"
    found = {name: getattr(error, name, None) for name in ("field", "limit", "remedy", "retry_after")}
    details = {name: value for name, value in found.items() if isinstance(value, str | int | float)}
    trace = ""
    with contextlib.suppress(Exception):
        trace = "".join(traceback.format_exception(error))
    return Answer(
        types=[(each.__module__, each.__qualname__) for each in type(error).__mro__],
        message=_storable(message[:MAX_TEXT]),
        details=details,
        traceback=_storable(trace[-MAX_TEXT:]),
    )


def _storable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def _end_with(parent: int) -> None:
    """A function that never lets another thread run does not notice that its input has ended; the kernel
    does."""
    if sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # It was gone before.
        os._exit(0)


def _limit(memory_bytes: int) -> None:
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    if sys.platform != "linux":
        return
    # If memory runs out nevertheless, this process is killed first, not the host.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    if most != resource.RLIM_INFINITY:
        memory_bytes = min(memory_bytes, most)
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
