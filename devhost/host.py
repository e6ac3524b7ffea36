"""The host: one app, its routes, listeners and timers, started and stopped together."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import socket
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from devhost.errors import MEMORY_REFUSED, DevhostError
from devhost.hostjson import HostJson, is_disabled, load_host_json
from devhost.origins import Cors
from devhost.sockets import bind

if TYPE_CHECKING:
    from devhost.http import HttpServer
    from devhost.invoker import Invoker
    from devhost.keys import HostKeys
    from devhost.queues import QueueListener
    from devhost.routing import Route
    from devhost.runtime import Function
    from devhost.timers import TimerRunner, Timers
    from devhost.worker import Worker
    from devhost.worker_process import WorkerProcess
    from storage_lib.ports.backend import StorageBackend
    from storage_lib.ports.queues import QueueStore

logger = logging.getLogger("devhost")

# How long invocations may run on when the host is asked to stop.
STOP_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class HostConfig:
    """What to serve and where. ``lease_seconds`` is how long a received message stays hidden, and
    ``timer_lease_seconds`` how long a host's right to run the timers outlives it; without keys,
    ``hosts`` are names of this machine that are served besides loopback ones, and ``cors`` says which other
    sites' pages may ask. ``streams`` says that large objects go by links of the app past it."""

    app: Path
    data: Path
    host: str = "127.0.0.1"
    port: int = 7071
    require_keys: bool = False
    lease_seconds: float = 600.0
    timer_lease_seconds: float = 60.0
    hosts: frozenset[str] = frozenset()
    cors: Cors = field(default_factory=Cors)
    streams: bool = False


class Host:
    """Serves the app of ``config.app`` until stopped.

    ``queues`` is the store of queue triggers and outputs, opened and with ``message_encoding="none"``;
    without it, one is built from the environment as the app builds its own. ``bound`` is a socket from
    `sockets.bind`, for callers that want the port checked before anything else. ``worker`` runs the
    functions; without it they run in this process, which can serve one app only.
    """

    def __init__(
        self,
        config: HostConfig,
        *,
        queues: QueueStore | None = None,
        bound: socket.socket | None = None,
        worker: WorkerProcess | None = None,
    ) -> None:
        self.config = config
        self.port = config.port
        self._queues = queues
        self._bound = bound
        self._worker = worker
        self._cleanup = AsyncExitStack()
        self.listeners: list[QueueListener] = []
        self.timers: list[TimerRunner] = []
        self._timers: Timers | None = None
        self.failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Why the platform would stop this host and start another, once it would."""
        self.routes: tuple[Route, ...] = ()
        self.keys: HostKeys | None = None

    @property
    def url(self) -> str:
        """Where it listens, without a trailing slash."""
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        return f"http://{host}:{self.port}"

    async def start(self) -> None:
        """Load the app and serve it; when this returns, requests are answered.

        :raises DevhostError: the port, the folder, host.json, the app or a binding cannot be used.
        """
        try:
            await self._start()
        except BaseException:
            await self._cleanup.aclose()
            raise

    async def stop(self) -> None:
        """Take nothing new, let what runs end (10 s at most), shut the app down, release everything."""
        await self._cleanup.aclose()

    async def kill(self) -> None:
        """End the worker with all that runs there, before this process ends."""
        if self._worker is not None:
            await self._worker.stop(0)

    async def _start(self) -> None:
        bound = self._bound or bind(self.config.host, self.config.port)
        self._cleanup.callback(bound.close)
        self.port = bound.getsockname()[1]
        settings = load_host_json(self.config.app)
        worker = self._worker or _worker_here(self.config.app)
        functions = await self._load(worker)
        invoker = await self._connect(functions, settings, worker)
        if self.config.streams:
            self._cleanup.push_async_callback(_close_direct)
        server = self._http(functions, settings, invoker)
        self._cleanup.push_async_callback(self._stop_triggers, server, invoker)
        await server.start(bound)
        for listener in self.listeners:
            listener.start()
        if self._timers is not None:
            self._timers.start()

    async def _load(self, worker: Worker | WorkerProcess) -> list[Function]:
        """Start the worker; the functions of the app that are not disabled."""
        starting = asyncio.create_task(worker.start(self._fail))
        await asyncio.sleep(0)
        # These take a while, in which another process can load the app.
        for name in ("http", "queues", "timers"):
            importlib.import_module(f"devhost.{name}")
        functions = await starting
        self._cleanup.push_async_callback(worker.stop)
        disabled = [function.name for function in functions if is_disabled(function.name)]
        if disabled:
            logger.info("disabled by app settings: %s", ", ".join(disabled))
        return [function for function in functions if function.name not in disabled]

    async def _connect(
        self, functions: Sequence[Function], settings: HostJson, worker: Worker | WorkerProcess
    ) -> Invoker:
        """Check every binding, open the queue store if one is needed, and make listeners and timers."""
        from devhost.invoker import Invoker
        from devhost.outputs import QueueOutputs, queue_name
        from devhost.timers import FOLDER, TimerLease, TimerRunner, Timers
        from storage_lib.namespaces import namespace_of

        triggers = [function for function in functions if function.kind == "queue"]
        encoding = settings.queues.message_encoding
        outputs = QueueOutputs(functions, encoding)
        if triggers or outputs.used:
            outputs.store = self._queues or await self._open_store()
        invoker = Invoker(outputs, worker, timeout=settings.function_timeout)
        if outputs.store is not None and triggers:
            from devhost.queues import QueueListener

            self.listeners = [
                QueueListener(
                    outputs.store,
                    queue_name(function.trigger, function),
                    function,
                    invoker,
                    settings.queues,
                    lease_seconds=self.config.lease_seconds,
                    stop_host=self._fail,
                )
                for function in triggers
            ]
        # Apps with namespaces of their own share a folder, and each has its timers.
        folder = self.config.data / FOLDER / namespace_of()
        self.timers = [
            TimerRunner(function, invoker, folder) for function in functions if function.kind == "timer"
        ]
        if self.timers:
            seconds = self.config.timer_lease_seconds
            self._timers = Timers(self.timers, TimerLease(folder, seconds), renew_seconds=seconds / 2)
        return invoker

    def _http(self, functions: Sequence[Function], settings: HostJson, invoker: Invoker) -> HttpServer:
        from devhost.http import DEFAULT_BODY_LIMIT, HttpServer
        from devhost.keys import load_or_create
        from devhost.routing import RouteTable

        routes = RouteTable(functions, settings.route_prefix)
        self.routes = routes.routes
        self.keys = load_or_create(self.config.data) if self.config.require_keys else None
        limit = os.environ.get("FUNCTIONS_REQUEST_BODY_SIZE_LIMIT", str(DEFAULT_BODY_LIMIT))
        if not limit.isdecimal():
            raise DevhostError(f"FUNCTIONS_REQUEST_BODY_SIZE_LIMIT must be bytes, not {limit!r}")
        return HttpServer(
            routes,
            invoker,
            keys=self.keys,
            body_limit=int(limit),
            prefix=settings.route_prefix,
            hosts=self.config.hosts,
            cors=self.config.cors,
            streams=self.config.streams,
        )

    async def _open_store(self) -> QueueStore:
        from storage_lib.config import LAYERS, StorageConfig
        from storage_lib.errors import StorageError
        from storage_lib.factory import build

        try:
            config = StorageConfig.from_env()
            if config.storage_type == "memory":
                raise DevhostError(MEMORY_REFUSED)
            # A listener tries again by itself, and is not to be kept from stopping.
            # The layers and the namespace are the app's: its triggers name queues as they are stored.
            once = replace(config, retry_attempts=1, namespace="", **dict.fromkeys(LAYERS))
            backend: StorageBackend = build(once, message_encoding="none")
            self._cleanup.push_async_callback(backend.close)
            await backend.open()
        except StorageError as error:
            raise DevhostError(f"the storage cannot be opened: {error.explained()}") from error
        return backend.queues

    def _fail(self, reason: str) -> None:
        if not self.failed.done():
            self.failed.set_result(reason)

    async def _stop_triggers(self, server: HttpServer, invoker: Invoker) -> None:
        # All at once: each stops taking work and waits for its own, and the limit is one for all. As on the
        # platform, queue functions have none, and timers are cut off.
        if self._timers is not None:
            await self._timers.stop()
        await asyncio.gather(server.stop(), *(listener.stop() for listener in self.listeners))
        # What slipped in while the server closed, and timer runs, which nothing above waits for.
        await invoker.drain(STOP_SECONDS)


async def _close_direct() -> None:
    if (direct := sys.modules.get("devhost.direct")) is not None:  # Else nothing was large.
        await direct.close()


def _worker_here(app: Path) -> Worker:
    from devhost.worker import Worker

    return Worker(app)
