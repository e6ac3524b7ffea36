"""What can be wrong with a store, and the command that mends it."""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from storage_lib.cli.text import count_text, size_text

if TYPE_CHECKING:
    from storage_lib.config import StorageConfig
    from storage_lib.errors import StorageError
    from storage_lib.manager import StorageManager

Verdict = Literal["ok", "warning", "error", "skipped"]

ANSWER_SECONDS = 30.0
LISTING_SECONDS = 10.0
"""For what lists many objects; more time is given by ``thorough``."""
_SKEW_WARNING_SECONDS = 5.0
_SKEW_ERROR_SECONDS = 15 * 60.0
"""Azure and AWS refuse requests whose time differs by more."""
_BACKLOG_MARKERS = 10_000
_BACKLOG_SECONDS = 10 * 60.0
"""An expired object that is still there after so long was missed by ten sweeps."""
_LOW_DISK = 0.05
_PROBE = ".system/doctor/"
_PROBE_OF_AN_APP = "agent-storage-doctor/"
"""An app keeps what begins with ``.system`` to itself."""


@dataclass(frozen=True, slots=True)
class Check:
    """The outcome of a check. ``remedy`` is a command, or what else to do."""

    name: str
    verdict: Verdict
    message: str
    remedy: str | None = None


class Misspelt(logging.Handler):
    """Collects the warnings about settings that are read while it is there."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


async def diagnose(
    config: "Callable[[], StorageConfig]", *, read_only: bool = False, thorough: bool = False
) -> AsyncIterator[Check]:
    """Check a store, from its configuration to its contents. What cannot be checked after an earlier error is
    left out.

    :param config: reads the configuration.
    :param read_only: write nothing.
    :param thorough: list everything, however long it takes.
    """
    from storage_lib.errors import StorageError

    log, misspelt = logging.getLogger("AOS.Settings"), Misspelt()
    log.addHandler(misspelt)
    log.propagate = False
    try:
        chosen = config()
    except StorageError as error:
        yield _wrong("configuration", error)
        return
    finally:
        log.removeHandler(misspelt)
        log.propagate = True
    yield Check("configuration", "ok", described(chosen))
    for message in misspelt.messages:
        yield Check("configuration", "warning", message, "correct the name, or unset it")
    if chosen.storage_type == "file" and not os.path.isdir(chosen.base_path):
        yield Check(
            "connectivity",
            "warning",
            "this folder does not exist",
            "check its name; the first object that is saved creates it",
        )
        return
    from storage_lib.manager import StorageManager

    is_app = chosen.storage_type == "http"
    try:
        storage = StorageManager(chosen)
    except (StorageError, ImportError) as error:
        yield _wrong("configuration", error)
        return
    try:
        began = time.monotonic()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await storage.open()
        except TimeoutError:
            yield Check(
                "connectivity",
                "error",
                f"the store does not answer within {ANSWER_SECONDS:.0f} s",
                "check its address, the network and the firewall of the account",
            )
            return
        except StorageError as error:
            yield _wrong("connectivity", error)
            return
        yield Check("connectivity", "ok", f"the store answers, in {1000 * (time.monotonic() - began):.0f} ms")
        async for found in _permissions(storage, _PROBE_OF_AN_APP if is_app else _PROBE, read_only=read_only):
            yield found
        if not is_app:  # An app looks after these itself.
            async for found in _tables_and_queues(storage):
                yield found
            if thorough and (wrong := await _task_index(storage)) is not None:
                yield wrong
            for found in _disk(chosen):
                yield found
            yield await _backlog(storage)
            if (layer := storage.fallback) is not None:
                yield _second_store(layer.status)
        yield await _names(storage, None if thorough else LISTING_SECONDS)
    finally:
        with suppress(StorageError):
            await storage.close()


def described(config: "StorageConfig") -> str:
    """Where the configuration leads, without secrets."""
    from pathlib import Path

    from storage_lib.config import without_secrets

    match config.storage_type:
        case "file":
            where = f"files in {Path(config.base_path).absolute()}"
        case "s3":
            where = f"bucket {config.s3_bucket!r} on S3" + (
                f" at {config.s3_endpoint}" if config.s3_endpoint else ""
            )
        case "azure":
            from storage_lib.names import container_name

            mapped = container_name(config.container)
            named = "" if mapped == config.container else f", which Azure would refuse, as {mapped!r}"
            where = f"container {config.container!r}{named} on Azure"
        case "http":
            where = f"the app at {without_secrets(config.http_url or '')}"
        case _:
            where = "memory of this process"
    if config.namespace:
        where += f"; tables and queues in the namespace {config.namespace}"
    layers = [
        name
        for name in ("metrics", "audit", "validation", "caching", "compression", "encryption", "fallback")
        if getattr(config, name) is not None
    ]
    return where + (f"; layers: {', '.join(layers)}" if layers else "")


def _wrong(name: str, error: BaseException) -> Check:
    from storage_lib.errors import StorageError

    if isinstance(error, StorageError):
        return Check(name, "error", _with_limit(error), error.remedy or _remedy(error))
    return Check(name, "error", f"{type(error).__name__}: {error}", None)


def _with_limit(error: "StorageError") -> str:
    return error.message + (f" (limit: {error.limit})" if error.limit else "")


def _remedy(error: "StorageError", role: str = "Blob") -> str | None:
    from storage_lib.errors import AccessDeniedError, TransientStorageError

    if isinstance(error, AccessDeniedError):
        return (
            "check the credentials. For an identity on Azure: az role assignment create"
            f" --role 'Storage {role} Data Contributor' --assignee PRINCIPAL --scope ACCOUNT"
        )
    if isinstance(error, TransientStorageError):
        return (
            "check the address, the network and the firewall of the account;"
            " make run BACKEND=azurite starts Azurite"
        )
    return None


async def _permissions(storage: "StorageManager", below: str, *, read_only: bool) -> AsyncIterator[Check]:
    """Whether objects can be listed, written, read, compared and deleted; and the clock, by the way."""
    from storage_lib.errors import PreconditionFailedError, StorageError

    try:
        await storage.list_page(limit=1)
    except StorageError as error:
        yield _wrong("permissions", error)
        return
    if read_only:
        yield Check("permissions", "ok", "objects can be listed; nothing was written")
        return
    import secrets

    objects, key, data = storage.backend.objects, below + secrets.token_hex(8), b"doctor"
    doing = "written"
    try:
        sent = datetime.now(UTC)
        await objects.put(key, data, content_type="application/octet-stream", if_absent=True)
        doing = "read"
        found = await objects.get(key, fresh=True)
        if found is None or found.data != data:
            yield Check("permissions", "error", "an object that was just written is read with other bytes")
            return
        doing = "written conditionally"
        try:
            await objects.put(key, data, content_type="application/octet-stream", if_absent=True)
        except PreconditionFailedError:
            pass
        else:
            yield Check(
                "permissions",
                "error",
                "the store replaces an object although it was to be created only",
                "use a store with conditional writes; without them concurrent writers lose updates",
            )
        doing = "deleted"
        await objects.delete(key)
    except StorageError as error:
        wrong = _wrong("permissions", error)
        yield Check(wrong.name, "error", f"objects cannot be {doing}: {wrong.message}", wrong.remedy)
        if doing != "written":
            with suppress(StorageError):
                await objects.delete(key)
        return
    yield Check("permissions", "ok", "objects can be listed, written, read and deleted")
    yield _clock(found.info.last_modified, sent)


def _clock(theirs: datetime, ours: datetime) -> Check:
    # Some stores give whole seconds only, and the request takes a while.
    skew = abs((theirs - ours).total_seconds())
    if skew < _SKEW_WARNING_SECONDS:
        return Check("clock", "ok", "this clock and the store's agree")
    return Check(
        "clock",
        "error" if skew > _SKEW_ERROR_SECONDS else "warning",
        f"this clock and the store's differ by {skew:.0f} s; time to live and leases depend on them",
        "set this clock: sudo timedatectl set-ntp true",
    )


async def _task_index(storage: "StorageManager") -> Check | None:
    """Whether the records of tasks and the rows by which lists find them agree. None where the store has no
    tables, or does not answer, which others say."""
    from storage_lib.errors import StorageError
    from storage_lib.tasks.index_check import check_index

    with suppress(StorageError):
        wrong = await check_index(storage.backend.tables)
        if not wrong:
            return Check("tasks", "ok", "all records are in the index")
        return Check(
            "tasks",
            "warning",
            f"{count_text(len(wrong), 'wrong row')} of the index of tasks: {wrong[0]}",
            "look again while no task runs; restore the table from a backup if it stays so",
        )
    return None


async def _tables_and_queues(storage: "StorageManager") -> AsyncIterator[Check]:
    from storage_lib.errors import KeyNotFoundError, StorageError, UnsupportedOperationError

    async def poison() -> list[str]:
        from storage_lib.tasks.queues import POISON, lengths

        found = await lengths(storage.backend.queues)
        return [
            f"{count_text(count, 'message')} in {queue}"
            for queue, count in found.items()
            if count and queue.endswith(POISON)
        ]

    async def table() -> None:
        with suppress(KeyNotFoundError):
            await storage.backend.tables.query("doctor", limit=1)

    probes: tuple[tuple[str, str, Callable[[], Awaitable[Any]]], ...] = (
        ("tables", "Table", table),
        ("queues", "Queue", poison),
    )
    for name, role, probe in probes:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                found = await probe()
        except UnsupportedOperationError as error:
            yield Check(
                name,
                "skipped",
                error.message,
                error.remedy or "tasks need them: set AGENT_STORAGE_TABLES_AND_QUEUES to file or azure",
            )
        except (StorageError, TimeoutError) as error:
            wrong = _wrong(name, error)
            remedy = _remedy(error, role) if isinstance(error, StorageError) else None
            yield Check(name, "error", wrong.message, remedy or wrong.remedy)
        else:
            yield Check(name, "ok", f"{name} answer")
            for each in found or []:
                yield Check(
                    name,
                    "warning",
                    f"{each}, which no worker could handle",
                    "agent-storage tasks list --status dead; the app records them while it runs",
                )


def _disk(config: "StorageConfig") -> list[Check]:
    if config.storage_type != "file":
        return []
    import shutil
    import stat

    found: list[Check] = []
    usage = shutil.disk_usage(config.base_path)
    free = f"{size_text(usage.free)} of {size_text(usage.total)} are free"
    low = usage.free < usage.total * _LOW_DISK
    found.append(
        Check(
            "disk",
            "warning" if low else "ok",
            free,
            "delete what is not needed, or move the folder" if low else None,
        )
    )
    mode = stat.S_IMODE(os.stat(config.base_path).st_mode)
    allowed = 0o770 if config.shared_group else 0o700
    if os.name == "posix" and mode & ~allowed & 0o777:
        found.append(
            Check(
                "permissions",
                "warning",
                f"the folder is open to others ({mode:o})",
                f"chmod {allowed:o} {config.base_path}",
            )
        )
    return found


async def _backlog(storage: "StorageManager") -> Check:
    """Whether objects whose time to live is over are removed."""
    from storage_lib.errors import StorageError
    from storage_lib.ports import expiry

    count, oldest = 0, None
    now = time.time()
    due = expiry.end_of(now, 0)
    try:
        async for found in storage.backend.objects.iterate(expiry.MARKERS):
            assert not isinstance(found, str)  # noqa: S101 - without a delimiter there are no prefixes
            if not expiry.is_due(found.key, due) or count == _BACKLOG_MARKERS:
                break
            if oldest is None:
                oldest = now - int(found.key.removeprefix(expiry.MARKERS).partition("/")[0]) / 1000
            count += 1
    except StorageError as error:
        return _wrong("time to live", error)
    if oldest is None or oldest < _BACKLOG_SECONDS:
        return Check("time to live", "ok", f"{count_text(count, 'object')} to remove")
    more = "more than " if count == _BACKLOG_MARKERS else ""
    return Check(
        "time to live",
        "warning",
        f"{more}{count_text(count, 'object')} expired and not removed, the first {_age(oldest)} ago",
        "agent-storage sweep; an app that runs does this every minute",
    )


def _age(seconds: float) -> str:
    for size, noun in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            return count_text(int(seconds // size), noun)
    return count_text(int(seconds), "second")


def _second_store(status: Any) -> Check:
    away = [
        name
        for name, since in (
            ("primary", status.primary_away_since),
            ("second store", status.secondary_away_since),
        )
        if since is not None
    ]
    if away:
        return Check("second store", "error", f"the {' and the '.join(away)} cannot be reached", None)
    if status.pending:
        return Check(
            "second store",
            "warning",
            f"{count_text(status.pending, 'object')} to be repaired",
            "start the app, which repairs every minute, or call StorageManager.repair()",
        )
    return Check("second store", "ok", "both stores answer")


async def _names(storage: "StorageManager", seconds: float | None) -> Check:
    """Whether every name in the store is a key."""
    from storage_lib.errors import StorageError

    try:
        async with asyncio.timeout(seconds):
            stats = await storage.stats()
    except TimeoutError:
        return Check(
            "names",
            "skipped",
            f"the store has too many objects to list in {seconds:.0f} s",
            "agent-storage doctor --thorough",
        )
    except StorageError as error:
        return _wrong("names", error)
    if stats.unlisted:
        shown = ", ".join(map(ascii, stats.unlisted[:3])) + (", …" if len(stats.unlisted) > 3 else "")
        return Check(
            "names",
            "warning",
            f"{len(stats.unlisted)} names of other programs are no keys, and appear in no listing: {shown}",
            "rename them with the program that made them: no //, no \\, and no segment that ends in a dot",
        )
    return Check(
        "names", "ok", f"{count_text(stats.count, 'object')} of {size_text(stats.bytes)}, all with valid keys"
    )
