"""``python -m devhost``: serve ``function_app.py`` on this machine."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import shlex
import signal
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, get_args

from devhost.errors import MEMORY_REFUSED, DevhostError
from devhost.hostjson import apply_local_settings, load_host_json
from devhost.keys import FILE_NAME as KEYS_FILE
from devhost.private import make_folder
from devhost.process import STOPPING, begin_logging, end
from devhost.sockets import bind, is_loopback, listens
from devhost.worker_process import WorkerProcess

if TYPE_CHECKING:
    from devhost.host import Host

logger = logging.getLogger("devhost")

EXIT_REFUSED = 2
# Set for a process that follows one which the platform would have stopped: the parent of the first of them.
RESTARTED = "DEVHOST_RESTARTED"
# How long it waits before it begins: its predecessor followed another one and had to stop soon.
PAUSE = "DEVHOST_PAUSE"
RESTART_SECONDS = 5.0
SOON_SECONDS = 30.0
PARENT_POLL_SECONDS = 0.5

MOST_LINK_BYTES = 5000 * 1024 * 1024
"""Of a save by a link of the app, like Azure's of one request."""
EMULATOR = "UseDevelopmentStorage=true"
EMULATOR_PORTS = (10000, 10001, 10002)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m devhost", description="Serve function_app.py on this machine."
    )
    result.add_argument(
        "--backend",
        choices=("file", "azurite"),
        help="where the app stores: a folder, or Azurite, started for it (default: what the environment or"
        " local.settings.json says, else file)",
    )
    result.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    result.add_argument("--port", type=int, default=7071, help="0 takes a free one (default: %(default)s)")
    result.add_argument("--data", type=Path, help="data folder (default: AGENT_STORAGE_PATH, else ./data)")
    result.add_argument(
        "--app", type=Path, default=Path(), help="folder of function_app.py (default: the current one)"
    )
    result.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="serve requests to this host name too; without keys, only loopback names are (may be repeated)",
    )
    result.add_argument(
        "--lease-seconds",
        type=_seconds,
        default=600,
        metavar="SECONDS",
        help="how long a message is hidden while it is in work (default: the platform's %(default)g)",
    )
    result.add_argument(
        "--timer-lease-seconds",
        type=_seconds,
        default=60,
        metavar="SECONDS",
        help="how long the right to run the timers outlives its host (default: %(default)g)",
    )
    result.add_argument("--require-keys", action="store_true", help="ask for function keys, as Azure does")
    result.add_argument("--quiet", action="store_true", help="print warnings and errors only")
    result.add_argument("--hints", action="store_true", help="print requests to try")
    result.add_argument(
        "--end-with-parent", action="store_true", help="stop when the process that started this one is gone"
    )
    return result


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM. Exit code 2 says that something cannot work, and what.

    The event loop is left as it is: closing it would wait, for minutes, for threads in which a function has
    not returned. The caller ends the process.
    """
    options = parser().parse_args(arguments)
    # Before settings are added: what is made here, such as an Azurite, is not there for the next process.
    given = dict(os.environ)
    again = RESTARTED in given
    given.setdefault(RESTARTED, str(os.getppid()))
    os.environ.setdefault("AZURE_FUNCTIONS_ENVIRONMENT", "Development")  # As Core Tools do.
    pause = float(given.pop(PAUSE, 0))
    started = time.monotonic()
    begin_logging(logging.WARNING)
    logger.setLevel(logging.WARNING if options.quiet else logging.INFO)
    try:
        # Here, where nothing is open and Ctrl-C ends the process, also one that came before this began.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
        time.sleep(pause)
        port = asyncio.Runner().run(_main(options))
    except DevhostError as error:
        print(f"devhost: {error}", file=sys.stderr)
        if not again:
            return EXIT_REFUSED
        port = options.port
    except KeyboardInterrupt:
        return 130
    if port is not None:
        if again and time.monotonic() - started < SOON_SECONDS + pause:
            given[PAUSE] = str(RESTART_SECONDS)
        _restart(port, given)
    return 0


def _restart(port: int, environment: dict[str, str]) -> NoReturn:
    """Become a new host, as the platform ends a process and starts another: what runs here is cut off.
    Azurite ends with this process, and starts again with the next."""
    sys.stdout.flush()
    command = sys.orig_argv
    if command[-2:] != ["--port", str(port)]:
        command = [*command, "--port", str(port)]
    os.execve(sys.executable, command, environment)  # noqa: S606 - the command that this is


async def _main(options: argparse.Namespace) -> int | None:
    """Serve until asked to stop: None. The port, if the platform would stop this host and start another."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in STOPPING:
        loop.add_signal_handler(number, _on_signal, stop)
    async with AsyncExitStack() as stack:
        starting = asyncio.create_task(_start(options, stack))
        asked = asyncio.create_task(stop.wait())
        stack.callback(asked.cancel)
        if options.end_with_parent:
            parent = int(os.environ.get(RESTARTED) or os.getppid())
            stack.callback(asyncio.create_task(_watch_parent(parent, stop)).cancel)
        await asyncio.wait({starting, asked}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.wait({starting})
            return None
        host = await starting
        await asyncio.wait({host.failed, asked}, return_when=asyncio.FIRST_COMPLETED)
        if not asked.done():
            # From here on one that comes is the next process's.
            signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
            print(
                f"devhost: the platform stops the host here and starts it again: {host.failed.result()}",
                file=sys.stderr,
            )
            stack.pop_all()
            await host.kill()
            for number in STOPPING:
                # A thread, which blocks none, may hear one until there is a new process: it ends this one.
                signal.signal(number, signal.SIG_DFL)
            for _ in range(2):  # What one has heard already, the loop has yet to be told.
                await asyncio.sleep(0)
            return None if stop.is_set() else host.port
    return None


def _on_signal(stop: asyncio.Event) -> None:
    if stop.is_set():
        # Asked twice: what still runs is abandoned. Azurite closes by itself when its stdin ends.
        os._exit(130)
    stop.set()


async def _watch_parent(parent: int, stop: asyncio.Event) -> None:
    """Stop when the parent has died: a SIGKILL of make reaches nobody else."""
    while os.getppid() == parent:  # noqa: ASYNC110 - nothing tells of a parent that died
        await asyncio.sleep(PARENT_POLL_SECONDS)
    stop.set()


async def _start(options: argparse.Namespace, stack: AsyncExitStack) -> Host:
    """Serve; ``stack`` gets what must be stopped."""
    started = time.perf_counter()
    if not is_loopback(options.host) and not options.require_keys:
        raise DevhostError(
            f"--host {options.host} can be reached from other machines; add --require-keys, so that they"
            " need a key"
        )
    app: Path = options.app.resolve()
    cors = apply_local_settings(app)
    if not options.quiet:
        begin_logging(load_host_json(app).log_level)
    _spare_loopback_from_proxies()
    data = _data_folder(options.data or Path(os.environ.get("AGENT_STORAGE_PATH") or "data"))
    bound = stack.enter_context(bind(options.host, options.port))
    explicit = options.data is not None
    azurite = await _configure_storage(options.backend, data, explicit=explicit, stack=stack)

    # Late, so that a busy port or a wrong option is said at once.
    from devhost.host import Host, HostConfig

    # An app that is told to be on the platform promises no more than that takes.
    streams = os.environ.get("AZURE_FUNCTIONS_ENVIRONMENT", "").lower() == "development"
    config = HostConfig(
        app,
        data,
        options.host,
        options.port,
        options.require_keys,
        options.lease_seconds,
        options.timer_lease_seconds,
        frozenset(map(_checked_host, options.allow_host)),
        cors,
        streams=streams,
    )
    if streams:  # The app signs links for as much as this process takes by them.
        os.environ.setdefault("AGENT_STORAGE_LINK_MAX_BYTES", str(MOST_LINK_BYTES))
    worker = WorkerProcess(app, logging.getLogger().level)
    host = Host(config, bound=bound, worker=worker)
    await host.start()
    stack.push_async_callback(host.stop)
    _announce(host, options, azurite=azurite, seconds=time.perf_counter() - started)
    return host


def _spare_loopback_from_proxies() -> None:
    """Keep requests to this machine, Azurite's among them, from a proxy that the environment names."""
    for name in ("NO_PROXY", "no_proxy"):
        named = [each for each in os.environ.get(name, "").split(",") if each]
        os.environ[name] = ",".join(dict.fromkeys([*named, "127.0.0.1", "localhost", "::1"]))


async def _configure_storage(
    backend: str | None, data: Path, *, explicit: bool, stack: AsyncExitStack
) -> bool:
    """Say in the environment where the app stores, before it is imported. A flag beats the settings.
    Whether Azurite was started."""
    if backend is not None:
        os.environ.pop("AGENT_STORAGE_TABLES_AND_QUEUES", None)
    if backend == "file":
        os.environ["AGENT_STORAGE_TYPE"] = "file"
    if explicit or not os.environ.get("AGENT_STORAGE_PATH"):
        os.environ["AGENT_STORAGE_PATH"] = str(data)
    if backend != "azurite":
        if not _asks_for_emulator():
            return False
        logger.info("%s, and there is none on ports 10000 to 10002", EMULATOR)
    from devhost.azurite import Azurite

    logger.info("starting Azurite (the first time it is installed from npm, which takes a minute)")
    azurite = await stack.enter_async_context(Azurite(data / "azurite"))
    if backend == "azurite":
        os.environ["AGENT_STORAGE_TYPE"] = "azure"
    os.environ["AgentStorage"] = azurite.connection_string  # noqa: SIM112 - the app's name for it
    os.environ["AzureWebJobsStorage"] = azurite.connection_string  # noqa: SIM112 - Functions' name
    return True


def _asks_for_emulator() -> bool:
    """Whether the settings name the storage emulator, and none runs.

    :raises DevhostError: the settings cannot work; the text names the one.
    """
    from storage_lib.config import StorageConfig, StorageType
    from storage_lib.errors import ConfigurationError

    kind = os.environ.get("AGENT_STORAGE_TYPE")
    if kind and kind not in get_args(StorageType):
        raise DevhostError(f"AGENT_STORAGE_TYPE is {kind!r}; it must be file, azure or s3")
    if kind == "memory":
        raise DevhostError(MEMORY_REFUSED)
    try:
        config = StorageConfig.from_env()
    except ConfigurationError as error:
        raise DevhostError(f"the settings cannot work: {error.explained()}") from error
    if config.storage_type == "s3" and config.tables_and_queues is None:
        raise DevhostError(
            "AGENT_STORAGE_TYPE=s3 keeps objects only; AGENT_STORAGE_TABLES_AND_QUEUES says"
            " where tables and queues are: file or azure"
        )
    used = "azure" in (config.storage_type, config.tables_and_queues)
    return used and config.connection_string == EMULATOR and not any(map(listens, EMULATOR_PORTS))


def _data_folder(path: Path) -> Path:
    """The data folder, made if missing. :raises DevhostError: it cannot be made or written."""
    try:
        if not path.is_dir():
            make_folder(path)
        probe = path / f".devhost-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise DevhostError(
            f"the data folder {path} cannot be written: {error.strerror}; choose another with --data"
        ) from error
    return path.resolve()


def _seconds(text: str) -> float:
    if not 1 <= (seconds := float(text)) <= 3600:
        raise argparse.ArgumentTypeError(f"must be from 1 to 3600 seconds, not {text}")
    return seconds


def _checked_host(name: str) -> str:
    """As a request names it, without a port."""
    from devhost.targets import BadTargetError, host_name

    try:
        found = host_name(f"[{name}]" if name.count(":") > 1 and "[" not in name else name, "").rstrip(".")
    except BadTargetError:
        found = ""
    if not found or "*" in found:
        raise DevhostError(
            f"--allow-host must be a host name or an address, not {name!r}; give each by itself"
        )
    return found


def _announce(host: Host, options: argparse.Namespace, *, azurite: bool, seconds: float) -> None:
    if options.quiet:
        lines: list[str] = []
    else:
        lines = [
            *(
                f"  {','.join(sorted(route.methods)) or 'any':<18} {host.url}/{route.template}"
                f"  {route.function.name}"
                for route in host.routes
            ),
            *(f"  {'queue':<18} {each.queue}  {each.function.name}" for each in host.listeners),
            *(f"  {'timer':<18} {each.schedule.text}  {each.function.name}" for each in host.timers),
            f"  {'storage':<18} {_storage(azurite)}",
        ]
    if host.keys and host.keys.new:
        lines += [f"host key: {host.keys.host}", f"master key: {host.keys.master}"]
    elif host.keys:
        lines.append(f"keys: those of {host.config.data / KEYS_FILE}")
    if azurite:
        # For other clients to look at the same storage; Azurite's account and key are everybody's.
        given = {"AGENT_STORAGE_TYPE": "azure", "AgentStorage": os.environ["AgentStorage"]}  # noqa: SIM112 - the app's name for it
        lines.append(f"export {' '.join(f'{name}={shlex.quote(value)}' for name, value in given.items())}")
    if options.hints:
        lines += _hints(host)
    print("\n".join([*lines, f"ready: {host.url} ({seconds:.2f} s)"]), flush=True)


def _storage(azurite: bool) -> str:
    """Where the app stores, for people: without keys."""
    from storage_lib.config import StorageConfig

    config = StorageConfig.from_env()
    kinds = {"azure": "Azurite" if azurite else "azure", "file": f"folder {Path(config.base_path).resolve()}"}
    objects = kinds.get(config.storage_type, f"{config.storage_type} {config.s3_bucket}")
    others = kinds.get(config.tables_and_queues or config.storage_type)
    return objects if others in (None, objects) else f"{objects}; tables and queues: {others}"


def _hints(host: Host) -> list[str]:
    key = " -H 'x-functions-key: HOST_KEY'" if host.keys else ""
    url = f"{host.url}/api"
    json = "-H 'Content-Type: application/json' -d"
    return [
        "try, from another terminal:",
        f'  curl{key} -X PUT {url}/objects/configs/ceo.json {json} \'{{"name":"ceo","model":"large"}}\'',
        f"  curl{key} {url}/objects/configs/ceo.json",
        f"  curl{key} '{url}/objects?prefix=configs/'",
        f"  curl{key} -X PUT {url}/objects/reports/weather.csv -H 'Content-Type: text/csv'"
        " --data-binary @samples/seattle-weather.csv",
        f'  curl{key} -X POST {url}/tasks {json} \'{{"action":"analyze_report","agent_id":"ceo",'
        """"payload":{"report":"reports/weather.csv"}}'""",
        f"  curl{key} {url}/tasks",
    ]


if __name__ == "__main__":
    end(main())
