"""``python -m devhost``: serve ``function_app.py`` on this machine."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from devhost.errors import DevhostError
from devhost.hostjson import apply_local_settings
from devhost.sockets import bind, is_loopback

if TYPE_CHECKING:
    from devhost.host import Host

logger = logging.getLogger("devhost")

EXIT_REFUSED = 2


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m devhost", description="Serve function_app.py on this machine."
    )
    result.add_argument(
        "--backend",
        choices=("file", "azurite"),
        help="where the app stores: a folder, or Azurite, started for it (default: AGENT_STORAGE_TYPE of"
        " the environment or local.settings.json, else file)",
    )
    result.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    result.add_argument("--port", type=int, default=7071, help="0 takes a free one (default: %(default)s)")
    result.add_argument("--data", type=Path, help="data folder (default: AGENT_STORAGE_PATH, else ./data)")
    result.add_argument(
        "--app", type=Path, default=Path(), help="folder of function_app.py (default: the current one)"
    )
    result.add_argument("--require-keys", action="store_true", help="ask for function keys, as Azure does")
    result.add_argument("--quiet", action="store_true", help="print warnings and errors only")
    result.add_argument("--hints", action="store_true", help="print requests to try")
    return result


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM. Exit code 2 says that something can not work, and what.

    The event loop is left as it is: closing it would wait, for minutes, for threads in which a function has
    not returned. The caller ends the process.
    """
    options = parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s.%(msecs)03d %(message)s", datefmt="%H:%M:%S"
    )
    logger.setLevel(logging.WARNING if options.quiet else logging.INFO)
    try:
        return asyncio.Runner().run(_main(options))
    except DevhostError as error:
        print(f"devhost: {error}", file=sys.stderr)
        return EXIT_REFUSED
    except KeyboardInterrupt:
        return 130


async def _main(options: argparse.Namespace) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, _on_signal, stop)
    async with AsyncExitStack() as stack:
        starting = asyncio.create_task(_start(options, stack))
        asked = asyncio.create_task(stop.wait())
        stack.callback(asked.cancel)
        await asyncio.wait({starting, asked}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.wait({starting})
        else:
            await starting
            await asked
    return 0


def _on_signal(stop: asyncio.Event) -> None:
    if stop.is_set():
        # Asked twice: what still runs is abandoned. Azurite closes by itself when its stdin ends.
        os._exit(130)
    stop.set()


async def _start(options: argparse.Namespace, stack: AsyncExitStack) -> None:
    """Serve; ``stack`` gets what must be stopped."""
    started = time.perf_counter()
    if not is_loopback(options.host) and not options.require_keys:
        raise DevhostError(
            f"--host {options.host} can be reached from other machines; add --require-keys, so that they"
            " need a key"
        )
    app: Path = options.app.resolve()
    apply_local_settings(app)
    data = _data_folder(options.data or Path(os.environ.get("AGENT_STORAGE_PATH") or "data"))
    bound = stack.enter_context(bind(options.host, options.port))
    await _configure_storage(options.backend, data, explicit=options.data is not None, stack=stack)

    # Late, so that a busy port or a wrong option is said at once.
    from devhost.host import Host, HostConfig

    config = HostConfig(app, data, options.host, options.port, options.require_keys, _lease_seconds())
    host = Host(config, bound=bound)
    await host.start()
    stack.push_async_callback(host.stop)
    _announce(host, options, time.perf_counter() - started)


async def _configure_storage(
    backend: str | None, data: Path, *, explicit: bool, stack: AsyncExitStack
) -> None:
    """Say in the environment where the app stores, before it is imported. A flag beats the environment."""
    if backend == "azurite":
        from devhost.azurite import Azurite

        logger.info("starting Azurite (the first time it is installed from npm, which takes a minute)")
        azurite = await stack.enter_async_context(Azurite(data / "azurite"))
        os.environ["AGENT_STORAGE_TYPE"] = "azure"
        os.environ["AgentStorage"] = azurite.connection_string  # noqa: SIM112 - the app's name for it
        os.environ["AzureWebJobsStorage"] = azurite.connection_string  # noqa: SIM112 - Functions' name
        return
    if backend == "file":
        os.environ["AGENT_STORAGE_TYPE"] = "file"
    elif "AgentStorage" not in os.environ:
        os.environ.setdefault("AGENT_STORAGE_TYPE", "file")
    if explicit or not os.environ.get("AGENT_STORAGE_PATH"):
        os.environ["AGENT_STORAGE_PATH"] = str(data)


def _data_folder(path: Path) -> Path:
    """The data folder, made if missing. :raises DevhostError: it can not be made or written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".devhost-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise DevhostError(
            f"the data folder {path} can not be written: {error.strerror}; choose another with --data"
        ) from error
    return path.resolve()


def _lease_seconds() -> float:
    """``DEVHOST_LEASE_SECONDS``: how long a message stays hidden after its host was killed."""
    text = os.environ.get("DEVHOST_LEASE_SECONDS", "30")
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 3600:
        raise DevhostError(f"DEVHOST_LEASE_SECONDS must be from 1 to 3600 seconds, not {text!r}")
    return seconds


def _announce(host: Host, options: argparse.Namespace, seconds: float) -> None:
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
        ]
    lines += [f"{name} key: {key}" for name, key in host.keys.items()]
    if options.backend == "azurite":
        # For other clients to look at the same storage; Azurite's account and key are everybody's.
        lines.append(f"AgentStorage={os.environ['AgentStorage']}")  # noqa: SIM112 - the app's name for it
    if options.hints:
        lines += _hints(host)
    print("\n".join([*lines, f"ready: {host.url} ({seconds:.2f} s)"]), flush=True)


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


def _exit(code: int) -> NoReturn:
    """End the process at once: neither a thread in which a function never returns nor a library's own
    threads, which can not bear that the interpreter is taken down under them, have a say."""
    sys.stdout.flush()
    sys.stderr.flush()
    logging.shutdown()
    os._exit(code)


if __name__ == "__main__":
    _exit(main())
