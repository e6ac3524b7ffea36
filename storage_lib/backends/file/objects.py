"""Objects of the file backend: what runs on the event loop, what in a thread, and listings."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

from storage_lib import threads as own_threads
from storage_lib.backends.file.caches import KeptNames, KnownEntries
from storage_lib.backends.file.errors import check_process, os_errors, thread_errors
from storage_lib.backends.file.files import (
    INLINE_BYTES,
    ObjectFiles,
    OpenObject,
    TooLargeError,
)
from storage_lib.backends.file.layout import Layout
from storage_lib.backends.file.listing import Walk
from storage_lib.backends.file.writes import (
    Delete,
    LateWrites,
    ObjectWriter,
    Put,
    PutBytes,
    PutCopy,
    PutParts,
    Write,
    upload_name,
)
from storage_lib.errors import BackendClosedError, TransientStorageError
from storage_lib.ports.drivers import (
    GetOptions,
    ListOptions,
    ObjectCapabilities,
    ObjectDriver,
    PutOptions,
    Repeat,
    once,
)
from storage_lib.ports.object_model import ListEntry, ObjectInfo, PutResult, StoredObject
from storage_lib.ports.streaming import Parts, SentPart
from storage_lib.threads import Turns, resolve

THREADS = 16
WRITERS = 2
"""Threads that work off waiting small writes: while one waits for the disk, the other prepares. More of them
mostly wait for each other (four took up to twice the processor time, for the same number of saves)."""
MAX_BATCH = 16
"""Writes that one of them takes at once: the more, the fewer waits for the disk, and the longer each."""
LIST_CHUNK = 1024
"""Names that a thread reads at a time: a page of 1,000 and the one that tells of a next page."""
READ_CHUNK = 1024 * 1024
"""Of a stream: how many bytes are read at a time, one chunk ahead."""


class FileObjects(ObjectDriver):
    """Objects as files. ``prepare`` makes or checks the folder; it runs before the first operation.
    ``clock`` (seconds since the epoch) decides what has expired."""

    capabilities = ObjectCapabilities(resumes_streams=True, is_local=True)

    def __init__(self, prepare: Callable[[], Layout], clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self._prepare = prepare
        self._opened: tuple[ObjectFiles, ObjectWriter] | None = None
        self._lock = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None
        self._waiting: deque[Write] = deque()
        self._writers = 0
        self._turns = Turns()
        self._late = LateWrites()
        self._closed = False
        self._pid = os.getpid()
        self._names = KeptNames()
        self._known = KnownEntries()

    async def open(self) -> None:
        """Make the folder, or check the one that is there."""

        def prepare() -> tuple[ObjectFiles, ObjectWriter]:
            layout = self._prepare()
            files = ObjectFiles(layout)
            return files, ObjectWriter(layout, files, self._submit)

        self._opened = await self._in_thread(prepare)

    async def close(self) -> None:
        """Wait for what is being written, and end the threads."""
        with self._lock:
            self._closed = True
            threads, self._threads = self._threads, None
        if threads is not None:
            await own_threads.working.run(threads.shutdown)
            await own_threads.working.run(self._late.close)
        self._names.close()

    async def _open(self) -> tuple[ObjectFiles, ObjectWriter]:
        if self._opened is None or self._closed:
            await self.open()
        assert self._opened is not None  # noqa: S101 - told to the type checker
        return self._opened

    def _executor(self) -> ThreadPoolExecutor:
        if self._closed:
            raise BackendClosedError
        check_process(self._pid)
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="storage-files")
        return self._threads

    def _submit(self, work: Callable[[], None]) -> Future[None]:
        with self._lock:
            return self._executor().submit(work)

    def _in_thread[T](self, work: Callable[[], T]) -> asyncio.Future[T]:
        with self._lock:
            threads = self._executor()
        with thread_errors():
            return asyncio.get_running_loop().run_in_executor(threads, work)

    # -- writing

    async def _write(self, write: Write) -> Any:
        """Have it done: by itself if it is large, else together with the others that wait. However it ends,
        it is discarded."""
        try:
            _, writer = await self._open()
            done = write.awaited()
            with self._lock:
                threads = self._executor()
                if write.is_large:
                    threads.submit(self._run, writer, [write])
                else:
                    self._waiting.append(write)
                    if self._writers < WRITERS:
                        self._writers += 1
                        try:
                            threads.submit(self._write_waiting, writer)
                        except BaseException:
                            self._writers -= 1
                            raise
        except BaseException:
            if write.future is not None:
                write.future.cancel()  # It may wait in a queue all the same, and must not be done later.
            write.discard()
            with thread_errors():
                raise
        return await done

    async def _save(self, put: Put) -> PutResult:
        result: PutResult = await self._write(put)
        if put.replaces_until is not None and put.replaces_until <= self.clock():
            return replace(result, created=True)
        return result

    def _write_waiting(self, writer: ObjectWriter) -> None:
        while True:
            with self._lock:
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_BATCH))]
                if not batch:
                    # One that could not be given a thread is not counted, but done by another all the same.
                    self._writers = max(self._writers - 1, 0)
                    return
            self._run(writer, batch)

    def _run(self, writer: ObjectWriter, batch: list[Write]) -> None:
        writes: list[Write] = []
        late: list[Write] = []
        for write in batch:
            if write.cancelled:
                write.discard()
            else:
                writes.append(write)
        try:
            late = writer.run(writes)
        except BaseException as error:
            for write in writes:
                write.error = write.error or error
        resolve(write for write in writes if write not in late)
        for write in late:
            self._late.add(write.key, partial(_finish, writer, write))

    async def put(self, key: str, data: bytes, options: PutOptions) -> PutResult:
        return await self._save(PutBytes(key, data, options))

    async def put_stream(
        self, key: str, parts: Parts, options: PutOptions, repeat: Repeat = once
    ) -> PutResult:
        _, writer = await self._open()
        put = PutParts(key, options, is_late=parts.is_late)
        try:
            await self._in_thread(lambda: writer.begin(put, parts.start))
            if parts.start:
                parts.precede(await self._in_thread(put.digest))
            appended: asyncio.Future[None] | None = None
            async for part in parts:  # The next part is fetched while this one is written.
                if appended is not None:
                    await appended
                if put.error is not None:
                    raise put.error
                appended = self._in_thread(lambda part=part: put.append(part))
            if appended is not None:
                await appended
            await self._in_thread(lambda: put.finish(parts))
        except BaseException as error:
            if options.upload is not None:
                put.is_kept = isinstance(error, asyncio.CancelledError | TransientStorageError)
            # In a thread, because it waits for what is being appended; to its end, because it must be done.
            await asyncio.shield(own_threads.working.run(put.discard))
            raise
        return await self._save(put)

    async def uploaded(self, key: str, upload: str) -> dict[int, SentPart]:
        # What they are is seen when they are read again, by `put_stream`.
        _, writer = await self._open()
        size = self.capabilities.part_bytes
        with os_errors(key):
            count = await self._in_thread(lambda: writer.uploaded(key, upload, size))
        return {index: SentPart("", size) for index in range(count)}

    async def give_up(self, key: str, upload: str) -> None:
        _, writer = await self._open()
        with os_errors(key):
            # Unless another process goes on with it.
            await self._in_thread(lambda: writer.temporary.drop(upload_name(key, upload)))

    async def copy(self, source: ObjectInfo, target: str, if_absent: bool) -> PutResult:
        file = await self._open_object(source.key, source.etag)
        return await self._save(PutCopy(file, target, None, if_absent=if_absent))

    async def touch(self, source: ObjectInfo, metadata: dict[str, str]) -> PutResult:
        file = await self._open_object(source.key, source.etag)
        return await self._save(PutCopy(file, source.key, source.etag, metadata=metadata))

    async def delete(self, key: str, if_match: str | None) -> None:
        await self._write(Delete(key, if_match))

    # -- reading

    async def get(self, key: str, options: GetOptions) -> StoredObject | None:
        # Without the coroutine where it is open: this is the one hot path.
        if self._turns.is_over():
            await asyncio.sleep(0)
        files, _ = self._opened if self._opened and not self._closed else await self._open()
        try:
            return files.read(key, options, limit=INLINE_BYTES)
        except TooLargeError:
            pass
        except OSError as error:
            with os_errors(key, absent=True):
                raise error
        with os_errors(key, absent=True):
            return await self._in_thread(lambda: files.read(key, options))

    async def head(self, key: str) -> ObjectInfo:
        if self._turns.is_over():
            await asyncio.sleep(0)
        files, _ = await self._open()
        with os_errors(key, absent=True):
            return files.head(key)

    async def read_stream(
        self, key: str, options: GetOptions
    ) -> tuple[ObjectInfo, int, AsyncGenerator[bytes]]:
        file = await self._open_object(key, options.if_match)
        try:
            size, wanted = file.info.size, options.byte_range
            start, end = (0, size) if wanted is None else wanted.resolve(size)
        except BaseException:
            file.close()
            raise
        chunks = self._chunks(file, start, end)
        await anext(chunks)
        return file.info, start, chunks

    async def _chunks(self, file: OpenObject, start: int, end: int) -> AsyncGenerator[bytes]:
        """An empty chunk, then the bytes from ``start`` to ``end``; the next chunk is read while one is used.

        A generator that was never started does not close what it was given: hence the empty chunk.
        """

        def read(start: int) -> bytes:
            with os_errors(file.info.key):
                return file.read(start, min(READ_CHUNK, end - start))

        with closing(file):
            yield b""
            if end - start <= INLINE_BYTES:
                if start < end:
                    yield read(start)
                return
            ahead = self._ahead(lambda: read(start))
            try:
                for following in range(start + READ_CHUNK, end, READ_CHUNK):
                    chunk = await ahead
                    ahead = self._ahead(lambda following=following: read(following))
                    yield chunk
                yield await ahead
            finally:
                ahead.cancel()

    def _ahead[T](self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Start work whose result may never be asked for; then nobody wants to hear that it failed either."""
        future = self._in_thread(work)
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        return future

    async def _open_object(self, key: str, if_match: str | None) -> OpenObject:
        files, _ = await self._open()
        with os_errors(key, absent=True):
            return files.open(key, if_match)

    # -- listing

    async def remove_stale(self) -> None:
        _, writer = await self._open()
        await self._in_thread(writer.temporary.remove_stale)

    async def scan(self, prefix: str, options: ListOptions) -> AsyncGenerator[ListEntry | str]:
        files, _ = await self._open()
        walk = iter(Walk(files, prefix, options, self._names))
        left = options.count or 0

        def chunk(size: int) -> tuple[list[ListEntry | str], bool]:
            with os_errors(None):
                names = list(islice(walk, size))
                found: list[ListEntry | str] = (
                    self._known.entries(files, names)
                    if options.details
                    else [name if name.endswith("/") else ListEntry(name) for name in names]
                )
            return found, len(names) == size

        more = True
        while more:
            # No more than what is asked for, unless the caller then does not take what was found.
            size = min(left, LIST_CHUNK) if left > 0 else LIST_CHUNK
            left -= size
            entries, more = await self._in_thread(partial(chunk, size))
            for entry in entries:
                yield entry


def _finish(writer: ObjectWriter, write: Write, patience: float) -> None:
    try:
        if write.cancelled:
            write.discard()
        else:
            writer.finish(write, patience)
    except BaseException as error:
        write.error = write.error or error
    resolve([write])
