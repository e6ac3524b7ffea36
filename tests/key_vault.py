"""A key vault that is none: HTTPS with a certificate of its own, RSA, and answers that one can spoil."""

from __future__ import annotations

import asyncio
import base64
import datetime
import json
import socket
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import NameOID

HOST = "stub.vault.azure.net"
OAEP = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
TOKEN = "token-of-the-identity"
_getaddrinfo = socket.getaddrinfo


def resolved_here(host: Any, *arguments: Any, **options: Any) -> Any:
    """`socket.getaddrinfo`, for which the vault is on this machine."""
    return _getaddrinfo("127.0.0.1" if host == HOST else host, *arguments, **options)


def error(status: int, code: str, inner: str = "", message: str = "Refused.", **headers: str) -> web.Response:
    content: dict[str, Any] = {"code": code, "message": message}
    if inner:
        content["innererror"] = {"code": inner}
    return web.json_response({"error": content}, status=status, headers=headers)


class StubVault:
    """A vault with the key ``data-keys``. An async context manager.

    ``seen`` has the operations of the requests with a token. ``spoil`` may answer instead of the vault: it
    gets the operation and the number of it, from 1, and returns a response, "cut", "hang", or None.
    """

    def __init__(self, folder: Path) -> None:
        self.certificate, self._key = certificate(folder)
        self.versions: dict[str, rsa.RSAPrivateKey] = {}
        self.enabled: dict[str, bool] = {}
        self.seen: list[str] = []
        self.spoil: Callable[[str, int], web.Response | str | None] = lambda _, __: None
        self.unchallenged = 0
        self.resource = ""
        self.latest = ""
        self.rotate()

    def rotate(self) -> str:
        """Make a new version of the key."""
        self.latest = f"{len(self.versions) + 1:032x}"
        self.versions[self.latest] = rsa.generate_private_key(65537, 2048)
        self.enabled[self.latest] = True
        return self.latest

    @property
    def key(self) -> str:
        return f"https://{HOST}:{self.port}/keys/data-keys"

    def count(self, operation: str) -> int:
        return self.seen.count(operation)

    async def __aenter__(self) -> Self:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self._key)
        app = web.Application()
        app.router.add_route("GET", "/keys/{name}/{version:.*}", self._get)
        app.router.add_route("POST", "/keys/{name}/{version}/{operation}", self._operate)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=context).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _before(self, request: web.Request, operation: str) -> web.Response | None:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            assert await request.read() == b"", "the first request of all has no body"
            self.unchallenged += 1
            challenge = (
                'Bearer authorization="https://login.microsoftonline.com/11111111-2222-3333-4444-555555555555",'
                f' resource="{self.resource or f"https://vault.azure.net:{self.port}"}"'
            )
            return web.Response(status=401, headers={"WWW-Authenticate": challenge})
        self.seen.append(operation)
        spoilt = self.spoil(operation, self.count(operation))
        if spoilt == "cut":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if spoilt == "hang":
            await asyncio.sleep(3600)
        if isinstance(spoilt, web.Response):
            return spoilt
        name, version = request.match_info["name"], request.match_info["version"] or self.latest
        if name != "data-keys" or version not in self.versions:
            return error(404, "KeyNotFound", message=f"A key with (name/id) {name}/{version} was not found.")
        return None

    async def _get(self, request: web.Request) -> web.Response:
        if (refused := await self._before(request, "get")) is not None:
            return refused
        version = request.match_info["version"] or self.latest
        return web.json_response(
            {
                "key": {"kid": f"{self.key}/{version}", "kty": "RSA"},
                "attributes": {"enabled": self.enabled[version]},
            }
        )

    async def _operate(self, request: web.Request) -> web.Response:
        operation, version = request.match_info["operation"], request.match_info["version"]
        if (refused := await self._before(request, operation)) is not None:
            return refused
        content = json.loads(await request.read())
        assert content["alg"] == "RSA-OAEP-256"
        value = base64.urlsafe_b64decode(content["value"] + "==")
        if operation == "wrapkey":
            result = self.versions[version].public_key().encrypt(value, OAEP)
        elif not self.enabled[version]:
            message = "Operation unwrapKey is not allowed on a disabled key."
            return error(403, "Forbidden", "KeyDisabled", message)
        else:
            try:
                result = self.versions[version].decrypt(value, OAEP)
            except ValueError:
                return error(400, "BadParameter", message="Error occurred while decoding OAEP padding.")
        encoded = base64.urlsafe_b64encode(result).rstrip(b"=").decode()
        return web.json_response({"kid": f"{self.key}/{version}", "value": encoded})


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for `HOST` that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "vault.pem", folder / "vault.key"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return paths


if __name__ == "__main__":  # A command of the library, for which the vault is on this machine.
    import runpy

    socket.getaddrinfo = resolved_here
    module, sys.argv = sys.argv[1], sys.argv[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
