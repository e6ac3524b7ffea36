"""One SQLite file, used well from many coroutines, threads and processes.

A single writer thread takes whatever writes are waiting, runs each in a savepoint of its own and commits
them together: one fsync for many, and a failing one undoes only itself. Each is reported only after the
commit (``synchronous=FULL``). Readers run beside it, in threads, and see what is committed (WAL). A read of a
few rows takes less time than handing it to a thread, and is done at once.

sqlite3 is imported when tables or queues are first used, not before.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat
import threading
import time
import weakref
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from storage_lib import threads as own_threads
from storage_lib.backends.file import space
from storage_lib.backends.file.errors import (
    check_process,
    check_there,
    os_errors,
    sqlite_errors,
    thread_errors,
)
from storage_lib.backends.file.folder import OWNER, descriptor, of_group
from storage_lib.errors import (
    BackendClosedError,
    ConfigurationError,
    StorageUnavailableError,
    TransientStorageError,
)
from storage_lib.names import MappedName, given_name
from storage_lib.ports.drivers import NamePage
from storage_lib.threads import Job, Turns, resolve

if TYPE_CHECKING:
    from sqlite3 import Connection

BUSY_SECONDS = 10.0
MAX_BATCH = 256
LONGEST_LOG_BYTES = 16 * 1024 * 1024
"""Of the write-ahead log; what SQLite aims at by itself is 4 MiB (1,000 pages)."""
_LOG_PATIENCE_MS = 500
_LOG_STEP_BYTES = 256 * 1024
"""By so much the log grows at a time: a commit that makes a file longer waits for the file system's journal,
one that fills what the file has already does not, and takes about two thirds of the time."""
_ATTEMPTS = 5
READERS = 2
SCHEMA_VERSION = 1

SCHEMA = """
CREATE TABLE queues (name TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE messages (
    seq INTEGER PRIMARY KEY,
    queue TEXT NOT NULL,
    id TEXT NOT NULL UNIQUE,
    text TEXT NOT NULL,
    inserted INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    visible_at INTEGER NOT NULL,
    dequeue_count INTEGER NOT NULL,
    receipt TEXT NOT NULL
);
CREATE INDEX messages_visible ON messages (queue, visible_at);
CREATE INDEX messages_expiring ON messages (queue, expires) WHERE expires < 253402300799000000;
CREATE TABLE tables (name TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE entities (
    tbl TEXT NOT NULL, pk TEXT NOT NULL, rk TEXT NOT NULL,
    etag TEXT NOT NULL, ts INTEGER NOT NULL, props BLOB NOT NULL,
    PRIMARY KEY (tbl, pk, rk)
) WITHOUT ROWID;
"""
"""Times are microseconds since the epoch; text is compared by its UTF-8 bytes (BINARY)."""

type Work[T] = Callable[[Connection], T]


class _Job(Job):
    __slots__ = ("probe", "work")

    def __init__(self, work: Work[Any], probe: Work[Any] | None) -> None:
        super().__init__()
        self.work = work
        self.probe = probe


class _Opened(NamedTuple):
    """A connection, and the file that it is to."""

    connection: Connection
    path: str
    file: tuple[int, int]

    def is_current(self) -> bool:
        """Whether the file is still the one at its path: SQLite goes on with one that was removed, and what
        it commits there is lost. False where another has taken its place.

        :raises StorageUnavailableError: there is none.
        """
        try:
            status = os.stat(self.path)
        except OSError:
            with os_errors(None):
                status = check_there(self.path)
        return _identity(status) == self.file


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


class Database:
    """Runs closures on connections to the file at ``locate()``, which is asked on first use, in a thread.

    ``shared_group``: whether the group of the file's directory may use it too, and not its owner alone.
    """

    def __init__(self, locate: Callable[[], str], *, shared_group: bool = False) -> None:
        self._connector = _Connector(locate, (of_group(-1) if shared_group else OWNER).file)
        self._lock = threading.Lock()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._writer: threading.Thread | None = None
        self._readers: ThreadPoolExecutor | None = None
        self._idle: list[_Opened] = []
        self._prompt: list[_Opened] = []
        """Connections that do not wait for locks."""
        self._turns = Turns()
        self._closed = False
        self._pid = os.getpid()
        # One that is dropped without `close` ends its threads too.
        weakref.finalize(self, _abandon, self._jobs, self._idle, self._prompt).atexit = False

    async def write[T](self, work: Work[T], *, probe: Work[T | None] | None = None) -> T:
        """The result of ``work``, committed together with what else is waiting.

        ``probe`` runs before the transaction: a result other than None is the answer and no transaction
        is begun for it. ``work`` may run only once a call; what it raises undoes what it did, nothing else.
        """
        job = _Job(work, probe)
        with self._lock:
            self._check_open()
            if self._writer is None:
                run = _Writer(self._connector.connect, self._jobs).run
                writer = threading.Thread(target=run, name="storage-sqlite", daemon=True)
                with thread_errors():
                    writer.start()
                self._writer = writer
            done = job.awaited()
            self._jobs.put(job)
        return await done

    async def read[T](self, work: Work[T], *, few: bool = False) -> T:
        """The result of ``work``, which only reads.

        :param few: it looks at a few rows, by one statement. It is done on the event loop, unless a lock is
            in the way: then it is begun again in a thread.
        """
        if few and self._prompt and self._turns.is_over():
            await asyncio.sleep(0)
        if few and (opened := self._take_idle(self._prompt)) is not None:
            try:
                return self._read_now(opened, work)
            except TransientStorageError as error:
                import sqlite3

                if not isinstance(error.__cause__, sqlite3.Error):
                    raise  # Else it would have to wait for a lock.
        with self._lock:
            self._check_open()
            if self._readers is None:
                self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="storage-sqlite-read")
            readers = self._readers
        with thread_errors():
            reading = asyncio.get_running_loop().run_in_executor(readers, self._read, work, few)
        return await reading

    async def close(self) -> None:
        """Commit what is waiting, then end the threads and close the file."""
        with self._lock:
            self._closed = True
            writer, self._writer = self._writer, None
            readers, self._readers = self._readers, None
            self._jobs.put(None)
        if readers is not None:
            await own_threads.working.run(readers.shutdown)
            _close_all(self._idle, self._prompt)
        if writer is not None:
            await own_threads.working.run(writer.join)

    def _check_open(self) -> None:
        if self._closed:
            raise BackendClosedError
        check_process(self._pid)

    def _read_now[T](self, opened: _Opened, work: Work[T]) -> T:
        try:
            with sqlite_errors():
                self._check_open()
                return work(opened.connection)
        finally:
            self._give_back(opened, self._prompt)

    def _read[T](self, work: Work[T], few: bool) -> T:
        """:param few: whether reads such as this one need a connection on which they are done at once."""
        opened = self._take_idle(self._idle)
        if opened is None:
            opened = self._connector.connect()
            opened.connection.execute("PRAGMA query_only=1")
        try:
            with sqlite_errors():
                # All that is read is of one moment, though it takes several statements.
                opened.connection.execute("BEGIN")
                return work(opened.connection)
        finally:
            if opened.connection.in_transaction:
                opened.connection.execute("ROLLBACK")
            if few and not self._prompt:
                opened.connection.execute("PRAGMA busy_timeout=0")
                self._give_back(opened, self._prompt)
            else:
                self._give_back(opened, self._idle)

    def _take_idle(self, idle: list[_Opened]) -> _Opened | None:
        while idle:
            try:
                opened = idle.pop()
            except IndexError:  # Another thread was faster.
                break
            try:
                if opened.is_current():
                    return opened
            except BaseException:
                idle.append(opened)
                raise
            opened.connection.close()
        return None

    def _give_back(self, opened: _Opened, idle: list[_Opened]) -> None:
        idle.append(opened)
        if self._closed:  # Whoever closed the others may not have seen this one.
            _close_all(idle)


class _Connector:
    """Opens the file at ``locate()``, and makes it with ``mode`` the first time."""

    def __init__(self, locate: Callable[[], str], mode: int) -> None:
        self._locate = locate
        self._mode = mode
        self._made = False

    def connect(self) -> _Opened:
        import sqlite3

        path = self._locate()
        while True:
            with os_errors(None):
                if not self._made:  # made once, and never again in place of one that vanished
                    _make(path, self._mode)
                before = _identity(check_there(path))
            with sqlite_errors(), _reasons(path):
                connection = sqlite3.connect(
                    path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
                )
                try:
                    _configure(connection)
                except BaseException:
                    connection.close()
                    raise
            self._made = True
            with os_errors(None):
                file = _identity(check_there(path))
            if before == file:
                return _Opened(connection, path, file)
            connection.close()  # Another one was put in its place just now.


def _abandon(jobs: SimpleQueue[_Job | None], *idle: list[_Opened]) -> None:
    """End the writer, once it has done what is waiting, and close what the readers left open."""
    jobs.put(None)
    if not any(idle):
        return
    try:
        # The last one to close the file moves its log into it: too long for wherever the collector runs.
        threading.Thread(target=_close_all, args=idle, name="storage-sqlite-close", daemon=True).start()
    except RuntimeError:
        _close_all(*idle)


def _close_all(*idle: list[_Opened]) -> None:
    for connections in idle:
        with contextlib.suppress(IndexError):
            while True:
                connections.pop().connection.close()


def _make(path: str, mode: int) -> None:
    """Make an empty database if there is none: SQLite makes its other files with the mode of this one.

    Without opening it, for the reason that stands at `_reasons`. Where that is refused (macOS lets only root
    do it) a file is opened that did not exist a moment ago.
    """
    try:
        try:
            os.mknod(path, stat.S_IFREG | mode)
        except FileExistsError:
            raise
        except OSError:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode))
    except FileExistsError:
        return
    if stat.S_IMODE(os.stat(path).st_mode) != mode:  # the umask
        with contextlib.suppress(PermissionError):
            os.chmod(path, mode)


@contextlib.contextmanager
def _reasons(path: str) -> Generator[None]:
    """Raise why a database cannot be opened, in the system's own words: sqlite3 says "unable to open
    database file" for every reason.

    Without opening it: where a process closes a file, whichever of its descriptors, the system drops all of
    that process's locks on it (POSIX, fcntl), those of its SQLite connections too. Another process then takes
    itself for the last one and removes the log that this one goes on writing to.
    """
    import sqlite3

    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_CANTOPEN:
            with os_errors(None):
                folder = os.path.dirname(path)
                os.close(os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY))
                for name, mode in ((path, os.R_OK | os.W_OK), (folder, os.W_OK | os.X_OK)):
                    if os.path.lexists(name) and not os.access(name, mode):
                        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name) from error
                if os.path.isdir(path):
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path) from error
        raise


def _configure(connection: Connection) -> None:
    (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    if mode != "wal":  # it is new
        space.prepare(connection)
        # Changing the mode needs the file alone, and does not wait for it as other statements do:
        # an exclusive transaction first waits for the others, who are doing the same.
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("COMMIT")
        _use_log(connection)
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA temp_store=MEMORY")
    if _schema_version(connection) == SCHEMA_VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _schema_version(connection)
        if version not in (0, SCHEMA_VERSION):
            raise ConfigurationError(
                f"system/store.db has the schema version {version}; this library knows {SCHEMA_VERSION}",
                field="base_path",
                remedy="use the version of this library that made the folder, or a later one",
            )
        if version == 0:
            for statement in SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _schema_version(connection: Connection) -> int:
    return connection.execute("PRAGMA user_version").fetchone()[0]


def _use_log(connection: Connection) -> None:
    import sqlite3

    give_up = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").fetchone()
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > give_up:
                raise
            time.sleep(0.005)


class _Writer:
    """The writer thread. It knows nothing of `Database`, so that an abandoned one can be collected."""

    def __init__(self, connect: Callable[[], _Opened], jobs: SimpleQueue[_Job | None]) -> None:
        self._connect = connect
        self._jobs = jobs
        self._opened: _Opened | None = None
        self._log_bytes = 0
        """Before the last commit."""
        self._unused = space.UnusedSpace()
        self._next_step: float | None = None
        """In how many seconds without a job unused space is given back; None if there is none."""

    def run(self) -> None:
        while self._work_off():
            pass
        if self._opened is not None:
            self._opened.connection.close()

    def _work_off(self) -> bool:
        """Wait for jobs and do them; whether there may be more. Nothing is held of those that are done."""
        batch, more = self._take()
        if batch:
            self._run(batch)
            resolve(batch)
            self._next_step = space.IDLE_SECONDS
        return more

    def _take(self) -> tuple[list[_Job], bool]:
        batch: list[_Job] = []
        job = self._wait()
        while job is not None:
            # One that was cancelled while it waited has no effect.
            if not job.cancelled:
                batch.append(job)
            if len(batch) == MAX_BATCH:
                return batch, True
            if self._jobs.empty():  # Nobody else takes from it.
                return batch, True
            job = self._jobs.get_nowait()
        return batch, False

    def _wait(self) -> _Job | None:
        """The next job. While there is none, unused space is given back."""
        while self._next_step is not None:
            try:
                return self._jobs.get(timeout=self._next_step)
            except Empty:
                self._next_step = None
            # It is nobody's job, so nobody is told why it failed; the next job is.
            with contextlib.suppress(Exception):
                if self._opened is not None and self._opened.is_current():
                    self._next_step = self._unused.give_back(self._opened.connection)
        return self._jobs.get()

    def _run(self, batch: list[_Job]) -> None:
        waiting = batch
        try:
            for _ in range(_ATTEMPTS):
                opened = self._current()
                waiting = [job for job in waiting if not _answered(job, opened.connection)]
                if not waiting:
                    return
                with sqlite_errors():
                    if self._commit(waiting, opened):
                        if self._log_bytes >= LONGEST_LOG_BYTES:
                            _shorten_log(opened)
                        return
            raise TransientStorageError("tables and queues: store.db is being replaced all the time")
        except BaseException as error:
            for job in batch:
                if job.error is None:
                    job.error = error

    def _current(self) -> _Opened:
        if self._opened is not None and not self._opened.is_current():
            self._opened.connection.close()
            self._opened = None
        if self._opened is None:
            self._opened = self._connect()
        return self._opened

    def _commit(self, jobs: list[_Job], opened: _Opened) -> bool:
        """Do them in one transaction. False if the file was replaced before it began, and nothing is done."""
        connection = opened.connection
        connection.execute("BEGIN IMMEDIATE")  # may have to wait for other processes
        try:
            if not opened.is_current():
                return False
            alone = len(jobs) == 1
            for job in jobs:
                if not alone:
                    connection.execute("SAVEPOINT job")
                try:
                    with sqlite_errors():
                        job.result = job.work(connection)
                except Exception as error:
                    if not connection.in_transaction:
                        raise  # a full disk and the like end the whole transaction
                    connection.execute("ROLLBACK" if alone else "ROLLBACK TO job")
                    job.error = error
                if not alone:
                    connection.execute("RELEASE job")
            if not connection.in_transaction:
                return True  # The only one has failed.
            self._log_bytes = _lengthened_log(opened)
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        if not opened.is_current():
            raise StorageUnavailableError(
                "tables and queues: store.db was replaced just now; whether it has this change is not known",
                remedy="look at what is there now",
            )
        return True


def _lengthened_log(opened: _Opened) -> int:
    """Give the log room for what comes, up to the next whole step: one that ends there has been given it,
    by whichever process. SQLite ends the log at the first frame that is none, as zeros are; what is
    appended takes no place from what another process writes. The bytes that it had."""
    path, size = f"{opened.path}-wal", 0
    try:
        size = os.stat(path).st_size
        if size % _LOG_STEP_BYTES != 0 and size < LONGEST_LOG_BYTES // 2:
            with descriptor(path, os.O_WRONLY | os.O_APPEND) as fd:
                os.write(fd, bytes(-size % _LOG_STEP_BYTES))
    except OSError:
        pass  # A full disk is the commit's to report.
    return size


def _shorten_log(opened: _Opened) -> None:
    """Move a long log into the database. SQLite does so too, but only while nobody reads: where readers
    overlap it would grow without end."""
    # It is committed already: this is not to be waited for, nor to fail for.
    opened.connection.execute(f"PRAGMA busy_timeout={_LOG_PATIENCE_MS}")
    try:
        with contextlib.suppress(Exception):
            opened.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        opened.connection.execute(f"PRAGMA busy_timeout={BUSY_SECONDS * 1000:.0f}")


def _answered(job: _Job, connection: Connection) -> bool:
    if job.result is not None or job.error is not None:
        return True  # in a round before
    if job.probe is None:
        return False
    try:
        with sqlite_errors():
            job.result = job.probe(connection)
    except Exception as error:
        job.error = error
    return job.result is not None or job.error is not None


_PAGE = 1000

Kind = Literal["tables", "queues"]


def make_named(connection: Connection, kind: Kind, named: str, *, again: bool = False) -> None:
    """Add a table or queue if there is none.

    :param again: remember the name that it was given, too, if there is one of which that is not known.
    """
    name, given = named.lower(), given_name(named)
    made = connection.execute(f"INSERT OR IGNORE INTO {kind} (name) VALUES (?)", (name,))  # noqa: S608
    if given == name or not (again or made.rowcount):
        return
    # Made when it is first needed: versions of this library that do not know it use the same database.
    connection.execute(
        "CREATE TABLE IF NOT EXISTS given_names"
        " (kind TEXT NOT NULL, name TEXT NOT NULL, given TEXT NOT NULL, PRIMARY KEY (kind, name))"
        " WITHOUT ROWID"
    )
    connection.execute("INSERT OR IGNORE INTO given_names VALUES (?, ?, ?)", (kind, name, given))


def names_page(connection: Connection, kind: Kind, prefix: str, cursor: str | None) -> NamePage:
    """Names in order, the cursor being the last one."""
    rows = connection.execute(
        f"SELECT name FROM {kind} WHERE name > ? AND substr(name, 1, ?) = ? ORDER BY name LIMIT ?",  # noqa: S608
        (cursor or "", len(prefix), prefix, _PAGE),
    )
    names = [name for (name,) in rows]
    given: dict[str, str] = {}
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'given_names'").fetchone():
        for name in names:
            found = connection.execute(
                "SELECT given FROM given_names WHERE kind = ? AND name = ?", (kind, name)
            ).fetchone()
            if found is not None:
                given[name] = found[0]
    return NamePage(
        [MappedName(name, given[name]) if name in given else name for name in names],
        names[-1] if len(names) == _PAGE else None,
    )
