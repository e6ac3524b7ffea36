"""Entries in JSON Lines files: ``WRITER.000001.jsonl``, ``WRITER.000002.jsonl``, …

Every entry is written at once, so a process that is killed loses none. A thread makes them durable and then
seals the head, at the latest after ``sync_ms``: what a head tells is on the disk, always. A crash in between
leaves a head that is behind, never one that is ahead.
"""

from __future__ import annotations

import atexit
import logging
import os
import queue
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from storage_lib import threads
from storage_lib.config.audit import AuditOptions
from storage_lib.layers.audit.entries import FORMAT, Chain, Entry, Seal
from storage_lib.layers.audit.heads import known_heads, sync_folder, write_head
from storage_lib.layers.audit.journal import AuditUnavailableError, Journal

_log = logging.getLogger("AOS.Storage")
_DAY_SECONDS = 24 * 3600
_SEAL_SECONDS = 1.0
"""How often the head is sealed if each operation waits for its own entry."""


class FileJournal(Journal):
    """The files of one writer. Any thread and any event loop may add to them; a forked process begins a chain
    of its own."""

    def __init__(self, options: AuditOptions) -> None:
        super().__init__(Seal(options.key))
        self._options = options
        self._folder = options.path
        self._heads = options.heads or os.path.join(options.path, "heads")
        self.waits = options.sync_ms == 0
        self._seconds = options.sync_ms / 1000 or _SEAL_SECONDS
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self.lock = threading.Lock()
        self._syncing = threading.RLock()
        self._fd: int | None = None
        self._old: list[int] = []
        self._path = ""
        self._segment = 0
        self._bytes = 0
        self._day_ends = 0.0
        self._torn = False
        self._new_names = False
        self._known: list[tuple[str, int]] | None = None
        self._synced = (0, "")
        self._sealed = 0
        self._closed = True
        self._dirty = False
        self._thread: threading.Thread | None = None
        # Its put may be called by a finalizer at any point, unlike that of a lock or an event.
        self._wake: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def add(self, *entries: Entry) -> int:
        if self._pid != os.getpid():
            for fd in (self._fd, *self._old):
                if fd is not None:
                    os.close(fd)
            self.chain = Chain(self.seal)
            self._reset()
        return super().add(*entries)

    async def start(self) -> None:
        if self._segment == 0:
            await threads.waiting.run(self._started)

    def _started(self) -> None:
        with self.lock:
            if self._fd is None:
                self._open()
                self._touched()

    async def recorded(self, seq: int) -> None:
        try:
            await threads.waiting.run(self._sync, seq)
        except OSError as error:
            raise AuditUnavailableError("the audit log cannot be made durable") from error

    # -- writing, with the lock held

    def _put(self, entries: Sequence[Entry]) -> None:
        if self._fd is None or self._is_full():
            self._open()
        self._write(b"\n".join((*self.chain.link(entries), b"")))
        self._touched()

    def _is_full(self) -> bool:
        return self._bytes >= self._options.rotate_bytes or time.time() >= self._day_ends

    def _write(self, data: bytes) -> None:
        assert self._fd is not None  # noqa: S101 - `_open` was called
        try:
            written = os.write(self._fd, data)
            while written < len(data):
                written += os.write(self._fd, data[written:])
        except OSError:
            self._take_back()
            raise
        self._bytes += len(data)
        self.chain.advance()

    def _take_back(self) -> None:
        """Remove what was written of an entry; if that fails, the file ends here."""
        assert self._fd is not None  # noqa: S101
        try:
            os.ftruncate(self._fd, self._bytes)
        except OSError:
            self._torn = True
            self._leave()

    def _leave(self) -> None:
        if self._fd is not None:
            self._old.append(self._fd)
            self._fd = None

    def _open(self) -> None:
        """Begin the next file."""
        self._leave()
        if self._segment == 0:
            for folder in (self._folder, self._heads):
                os.makedirs(folder, mode=0o700, exist_ok=True)
        if self._known is None:
            known = known_heads(self._heads, self.seal)
            self._known = [each for each in known if each[0] != self.chain.writer]
        if self._closed:
            # Before the first entry: a log without a head was tampered with.
            self._seal_head(*self._synced, closed=False)
        path = os.path.join(self._folder, f"{self.chain.writer}.{self._segment + 1:06}.jsonl")
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._path, self._bytes, self._new_names = path, 0, True
        self._segment += 1
        now = time.time()
        self._day_ends = (
            (now // _DAY_SECONDS + 1) * _DAY_SECONDS if self._options.rotate_daily else float("inf")
        )
        context = {
            "format": FORMAT,
            "key": self.seal.name,
            "file": self._segment,
            "pid": self._pid,
            "known": self._known,
        }
        if self._torn:
            context["torn"] = True
        begin = Entry(time=datetime.now(UTC), kind="begin", actor="system", context=context)
        try:
            self._write(self.chain.link([begin])[0] + b"\n")
        except OSError:
            os.unlink(path)
            self._segment -= 1
            self._leave()
            raise
        self._torn = False

    def _touched(self) -> None:
        if not self._dirty:
            self._dirty = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="storage-audit", daemon=True)
                self._thread.start()
                atexit.register(self._finish)
            self._wake.put(True)

    # -- making it durable

    def _sync(self, seq: int = 0) -> tuple[int, str]:
        """Make what was written durable, at least up to entry ``seq``; how far it is durable now."""
        with self._syncing:
            if seq and self._synced[0] >= seq:
                return self._synced
            with self.lock:
                target = self.chain.seq, self.chain.last
                new_names, self._new_names = self._new_names, False
                old, self._old = self._old, []
                fd = self._fd
            try:
                for each in (*old, *(() if fd is None else (fd,))):
                    os.fsync(each)
                if new_names:
                    sync_folder(self._folder)
            except OSError as error:
                with self.lock:
                    # The system may have dropped it: fsync tells that only once.
                    self.miss(0, error, unsure=target[0] - self._synced[0])
                    self._leave()
                raise
            finally:
                for each in old:
                    os.close(each)
            self._synced = target
            return target

    def _seal_head(self, count: int, last: str, *, closed: bool) -> None:
        write_head(self._heads, self.chain.head(count, last, closed=closed), self.seal)
        self._sealed, self._closed = count, closed

    def _seal(self, *, closed: bool = False) -> None:
        with self._syncing:
            durable = self._sync()
            if durable[0] != self._sealed or closed != self._closed:
                self._seal_head(*durable, closed=closed)

    def _run(self) -> None:
        """In a thread of its own, so that a busy event loop delays nothing."""
        failing = False
        while self._wake.get():
            until = time.monotonic() + self._seconds
            more = True
            while more and (left := until - time.monotonic()) > 0:
                try:
                    more = self._wake.get(timeout=left)
                except queue.Empty:
                    break
            with self.lock:
                self._dirty = False
            if not more:
                break
            try:
                self._seal()
                self._check_place()
                failing = False
            except OSError as error:
                if not failing:  # An outage is told once.
                    _log.error("the audit log cannot be sealed: %s", error)
                failing = True
                with self.lock:
                    self._touched()
        with self.lock:
            self._leave()
            self._thread = None
            atexit.unregister(self._finish)
        try:
            self._seal(closed=True)
        except OSError as error:
            _log.error("the audit log cannot be sealed: %s", error)

    def _check_place(self) -> None:
        """Begin another file if somebody has removed this one."""
        with self.lock:
            if self._fd is None:
                return
            try:
                found = os.stat(self._path).st_ino
            except FileNotFoundError:
                found = -1
            if found != os.fstat(self._fd).st_ino:
                _log.error("the audit log %s was removed while it was written", self._path)
                self._leave()

    # -- the end

    async def end(self) -> None:
        await threads.waiting.run(self._finish)

    def _finish(self) -> None:
        if self._pid != os.getpid():
            return
        with self.lock:
            if self.missed:
                try:
                    self._put([self._gap()])
                    self._recovered()
                except OSError as error:
                    _log.error("the audit log ends without %d entries: %s", self.missed, error)
        if (thread := self._thread) is not None:
            self._wake.put(False)
            thread.join()

    def drop(self) -> None:
        """Let the thread end by itself; called when the layer is dropped without `end`, at any point of any
        thread."""
        if self._thread is not None and self._pid == os.getpid():
            self._wake.put(False)
