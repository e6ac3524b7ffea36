"""Files of this machine and the standard streams: what is read from them, and written to them."""

import asyncio
import contextlib
import errno
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path
from typing import IO

from storage_lib.cli.interrupts import interruptible

CHUNK_BYTES = 1 << 20


def type_of(*names: str) -> str | None:
    """The content type that the first of these names tells; None if none does."""
    from storage_lib.content_types import content_type_of

    return next(filter(None, map(content_type_of, names)), None)


async def chunks_of(path: Path, advance: Callable[[int], None]) -> AsyncIterator[bytes]:
    """The bytes of a file."""
    with await asyncio.to_thread(path.open, "rb") as file:
        while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
            advance(len(chunk))
            yield chunk


async def chunks_of_stdin(advance: Callable[[int], None]) -> AsyncIterator[bytes]:
    """The bytes of stdin. Waiting for them can be interrupted, unlike a read in a thread."""
    descriptor = sys.stdin.fileno()
    while True:
        await _readable(descriptor)
        chunk = await asyncio.to_thread(os.read, descriptor, CHUNK_BYTES)
        if not chunk:
            return
        advance(len(chunk))
        yield chunk


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    waiting: asyncio.Future[None] = loop.create_future()
    try:
        loop.add_reader(descriptor, lambda: waiting.done() or waiting.set_result(None))
    except (OSError, NotImplementedError):
        return  # A file, which never lets one wait.
    try:
        await waiting
    finally:
        loop.remove_reader(descriptor)


@contextlib.contextmanager
def replaced(path: Path) -> Generator[IO[bytes]]:
    """A file to write, which takes the place of ``path`` once it is whole. What is there already keeps its
    permissions; what is no regular file (``/dev/null``, a pipe) is written as it is."""
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    target = path.resolve()  # A link stays one.
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "No such folder", str(path.parent))
    handle, name = tempfile.mkstemp(prefix=f".{target.name[:100]}.", suffix=".part", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, target.stat().st_mode & 0o7777 if target.exists() else 0o666 & ~umask)
        os.replace(name, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def all_of_stdin() -> bytes:
    """What comes from stdin until it ends."""
    with interruptible():
        return sys.stdin.buffer.read()


def lines_of_stdin() -> Iterator[str]:
    """The lines of stdin that are not empty, without their ends."""
    while line := _line_of_stdin():
        if text := line.decode(errors="surrogateescape").removesuffix("\n").removesuffix("\r"):
            yield text


def _line_of_stdin() -> bytes:
    with interruptible():
        return sys.stdin.buffer.readline()
