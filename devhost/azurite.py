"""Azurite, Microsoft's storage emulator, as a child process on ports of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import ssl
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from devhost.errors import DevhostError
from devhost.node import ensure_installed, ensure_node, locked
from devhost.private import make_folder, open_file

# Every Azurite has this account; its key is published in its documentation.
ACCOUNT_NAME = "devstoreaccount1"
ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

PROJECT_ROOT = Path(__file__).resolve().parent.parent
_TIMEOUT_SECONDS = 60.0
"""To wait for the folder, and again for the services."""
_GUARD = Path(__file__).with_name("azurite_guard.cjs")
_LISTENING = re.compile(r"Azurite (Blob|Queue|Table) service is successfully listening at https?://.*:(\d+)")


class Azurite:
    """Blob, queue and table service over one folder. Use it as an async context manager.

    Azurite keeps its metadata in memory and writes it every 5 s and when it closes. Therefore it is always
    made to close: on `stop`, and by the end of its stdin when this process dies in any way. A lock on the
    folder, held as long as Azurite lives, makes the next one wait until everything is written.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        oauth: bool = False,
        cert: Path | None = None,
        key: Path | None = None,
    ) -> None:
        """:param data_dir: the folder of its data, made if missing. One Azurite at a time.
        :param oauth: take bearer tokens too; needs ``cert`` and ``key`` (PEM), with which it speaks https.
        """
        self.data_dir = data_dir
        self.blob_port = self.queue_port = self.table_port = 0
        self._oauth = oauth
        self._tls = (cert, key) if cert and key else None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def connection_string(self) -> str:
        """What the Azure SDKs take."""
        endpoints = (("Blob", self.blob_port), ("Queue", self.queue_port), ("Table", self.table_port))
        return (
            f"DefaultEndpointsProtocol={self._scheme};AccountName={ACCOUNT_NAME};AccountKey={ACCOUNT_KEY};"
            + "".join(f"{name}Endpoint={self.url(port)};" for name, port in endpoints)
        )

    def url(self, port: int) -> str:
        """The account's URL at one of the three ports."""
        return f"{self._scheme}://127.0.0.1:{port}/{ACCOUNT_NAME}"

    @property
    def _scheme(self) -> str:
        return "https" if self._tls else "http"

    async def start(self) -> None:
        """Install it if need be, start it, and return when all three services answer.

        :raises DevhostError: it cannot be installed or started, or does not answer in time.
        """
        package, node = await asyncio.to_thread(lambda: (ensure_installed(PROJECT_ROOT), ensure_node().node))
        command = [node, "--require", str(_GUARD), str(package / "dist" / "src" / "azurite.js")]
        command += ["--silent", "--skipApiVersionCheck", "--disableTelemetry"]
        command += ["--location", str(self.data_dir.resolve())]
        for service in ("blob", "queue", "table"):
            # Port 0: the system chooses, and Azurite says which it was.
            command += [f"--{service}Host", "127.0.0.1", f"--{service}Port", "0"]
            # Longer than any client keeps an idle connection. Node closes one after 5 s, which may be the
            # moment at which a request is sent on it.
            command += [f"--{service}KeepAliveTimeout", "120"]
        if self._oauth:
            command += ["--oauth", "basic"]
        if self._tls:
            command += ["--cert", str(self._tls[0]), "--key", str(self._tls[1])]
        await asyncio.to_thread(self._spawn, command)
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                await self._ready()
        except BaseException as error:
            await self.stop()
            if isinstance(error, TimeoutError):
                raise DevhostError(
                    f"Azurite did not answer within {_TIMEOUT_SECONDS:g} s:\n{self._output()}"
                ) from error
            raise

    async def stop(self, timeout: float = 20.0) -> None:
        """Make it close, wait so many seconds for it, then kill it."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        if process.stdin is not None:
            process.stdin.close()
        try:
            await asyncio.to_thread(process.wait, timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            await asyncio.to_thread(process.wait)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def _log(self) -> Path:
        return self.data_dir / "azurite.log"

    def _spawn(self, command: list[str]) -> None:
        try:
            make_folder(self.data_dir)
            lock_path = self.data_dir / "azurite.lock"
            # Output goes to a file: a pipe that breaks with this process would crash Azurite while it
            # closes. The lock's descriptor goes with it, so the lock stays held as long as Azurite runs.
            with (
                locked(lock_path, _TIMEOUT_SECONDS, "another Azurite") as lock,
                open_file(self._log, "wb") as log,
            ):
                self._process = subprocess.Popen(  # noqa: S603 - node and Azurite as found by node.py
                    command,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=(lock,),
                    # Not in the terminal's process group: Ctrl-C is for us, we close it in order.
                    start_new_session=True,
                    umask=0o077,
                    env={**os.environ, "NODE_OPTIONS": ""},
                )
        except OSError as error:
            raise DevhostError(f"Azurite cannot be started in {self.data_dir}: {error}") from error

    async def _ready(self) -> None:
        while True:
            process = self._process
            if process is None or process.poll() is not None:
                status = process.returncode if process else None
                raise DevhostError(f"Azurite ended with status {status}:\n{self._output()}")
            ports = {name: int(port) for name, port in _LISTENING.findall(self._output())}
            if len(ports) == 3 and all([await self._answers(port) for port in ports.values()]):
                self.blob_port, self.queue_port, self.table_port = (
                    ports[name] for name in ("Blob", "Queue", "Table")
                )
                return
            await asyncio.sleep(0.05)

    async def _answers(self, port: int) -> bool:
        context: ssl.SSLContext | None = None
        if self._tls:
            # Only whether it speaks is asked here; clients verify.
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        except OSError:
            return False
        try:
            writer.write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            return (await reader.read(5)).startswith(b"HTTP/")
        except OSError:
            return False
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _output(self) -> str:
        try:
            return self._log.read_text(errors="replace").strip()
        except OSError:
            return ""
