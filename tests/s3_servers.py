"""S3 servers for the tests: moto, which is exact, and SeaweedFS, which is real.

Each runs on free ports of 127.0.0.1 under a shell that waits for the end of its own stdin and then kills the
server it has started: stopping closes that pipe, and so does the death of the tests in any way.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from urllib.error import HTTPError
from urllib.request import urlopen

from tests.ports import free_ports

ACCESS_KEY_ID = "test-access-key"
SECRET_ACCESS_KEY = "test-secret-access-key"
REGION = "us-east-1"
START_SECONDS = 180.0

_BIN = Path(sys.executable).parent
_GUARD = '"$@" </dev/null & child=$!; read -r _; kill -9 "$child" 2>/dev/null; wait'


class S3Server:
    """A server over the folder ``data``; ``endpoint`` tells where it listens. An async context manager.

    After a `kill` it can be started again, on the same data and ports.
    """

    def __init__(self, data: Path) -> None:
        self.data = data
        self.endpoint = ""
        self._ports = free_ports(8)
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    async def start(self) -> None:
        """Start it, and return when it answers as it should."""
        self._spawn()
        try:
            async with asyncio.timeout(START_SECONDS):
                while not await asyncio.to_thread(self.is_ready):
                    await asyncio.sleep(0.1)
        except BaseException:
            await self.kill()
            sys.stderr.write((self.data / "server.log").read_text(errors="replace")[-2000:])
            raise

    async def kill(self) -> None:
        """SIGKILL: what is not on the disk is lost."""
        process, self._process = self._process, None
        if process is None or process.stdin is None or self._log is None:
            return
        process.stdin.close()
        await asyncio.to_thread(process.wait)
        self._log.close()

    def _spawn(self) -> None:
        self.data.mkdir(parents=True, exist_ok=True)
        self.endpoint = f"http://127.0.0.1:{self._ports[0]}"
        self._log = (self.data / "server.log").open("wb")
        self._process = subprocess.Popen(
            ["sh", "-c", _GUARD, "guard", *self.command(self._ports)],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def command(self, ports: list[int]) -> list[str]:
        raise NotImplementedError

    def is_ready(self) -> bool:
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.kill()


class Moto(S3Server):
    """Takes any credentials; keeps everything in memory."""

    def command(self, ports: list[int]) -> list[str]:
        return [str(_BIN / "moto_server"), "-H", "127.0.0.1", "-p", str(ports[0])]

    def is_ready(self) -> bool:
        return _status(self.endpoint + "/moto-api/") == 200


class SeaweedFS(S3Server):
    """Checks signatures; keeps everything on disk."""

    def command(self, ports: list[int]) -> list[str]:
        identity = {
            "name": "tests",
            "credentials": [{"accessKey": ACCESS_KEY_ID, "secretKey": SECRET_ACCESS_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        (self.data / "s3.json").write_text(json.dumps({"identities": [identity]}))
        (self.data / "files").mkdir(exist_ok=True)
        s3, master, volume, filer, s3_grpc, master_grpc, volume_grpc, filer_grpc = ports
        options: dict[str, object] = {
            "dir": self.data / "files",
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "master.port": master,
            "master.port.grpc": master_grpc,
            "master.telemetry": "false",
            "master.electionTimeout": "1s",
            "master.volumeSizeLimitMB": 64,
            "volume.port": volume,
            "volume.port.grpc": volume_grpc,
            "volume.max": 10_000,  # every bucket takes some
            "filer.port": filer,
            "filer.port.grpc": filer_grpc,
            "filer.localSocket": self.data / "filer.sock",
            "s3": "true",
            "s3.port": s3,
            "s3.port.grpc": s3_grpc,
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "s3.localSocket": self.data / "s3.sock",
            "s3.autoCreateBucket": "false",
            "s3.config": self.data / "s3.json",
        }
        return [str(_BIN / "weed"), "server", *(f"-{name}={value}" for name, value in options.items())]

    def is_ready(self) -> bool:
        # An unsigned request is refused as soon as the server knows its identities.
        return _status(self.endpoint + "/") == 403


def _status(url: str) -> int | None:
    try:
        with urlopen(url, timeout=10) as answer:  # noqa: S310 - a server of ours
            return answer.status
    except HTTPError as error:
        with error:
            return error.code
    except OSError:
        return None
