"""Signed requests of our own to the blob service: saves of small objects, blocks, deletes, listings and the
making of the container. obstore has no delete but in batches and without a condition, and takes three times
the processor time for a save; the SDK takes half a second to import, and half a millisecond for each part of
a batch.

Sources: "Authorize with Shared Key", "Versioning for the Azure Storage services" (Azure Storage REST).
"""

from __future__ import annotations

import base64
import hmac
import time
from collections.abc import AsyncGenerator, Awaitable, Mapping
from email.utils import formatdate
from functools import lru_cache
from urllib.parse import quote, urlsplit

from storage_lib.backends.azure.clients import Clients
from storage_lib.backends.cloud.connections import PIECE_BYTES
from storage_lib.backends.cloud.sessions import CONNECT_SECONDS, READ_SECONDS, Response, exchange

_VERSION = "2023-11-03"
_SIGNED = ("Content-MD5", "Content-Type", "", "", "If-Match", "If-None-Match", "", "")
"""What follows the length: MD5, type, date, modified since, match, none match, unmodified since and
range."""


def now() -> str:
    """The date of a request."""
    return _date(int(time.time()))


@lru_cache(maxsize=2)
def _date(seconds: int) -> str:
    return formatdate(seconds, usegmt=True)


def place_of(name: str) -> str:
    """By which the service sorts the headers that are signed: it passes over ``-``, and ``_`` comes before
    digits, which come before letters. The SDK has tables of it."""
    return name.replace("-", "").replace("_", "!")


class SignedRequests:
    """:param clients: whose connections, endpoint and secret are used."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        endpoints = clients.endpoints
        self._account, self._sas = endpoints.account_name, endpoints.sas
        self._key = None if endpoints.account_key is None else base64.b64decode(endpoints.account_key)
        parts = urlsplit(endpoints.blob)
        self._base = f"{parts.scheme}://{parts.netloc}"
        self.service_path = f"{parts.path}/"
        self._path = f"{self.service_path}{clients.container_name}"

    def path_of(self, key: str = "") -> str:
        """The path of a blob, or of the container."""
        return f"{self._path}/{quote(key, safe='/')}" if key else self._path

    async def authorization(self) -> str | None:
        """The header with a token, where there is no key and no SAS to sign with."""
        if not self._clients.needs_token:
            return None
        return f"Bearer {(await self._clients.token()).token}"

    def headers(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        bearer: str | None,
        *,
        date: str | None = None,
        query: Mapping[str, str] | None = None,
        length: int = 0,
    ) -> dict[str, str]:
        """``headers`` with the date, which is now if it is not given, and what authorizes the request."""
        signed = {**headers, "x-ms-date": date or now()}
        if bearer is not None:
            signed["Authorization"] = bearer
        elif self._key is not None:
            lines = [method, "", "", str(length or ""), *[signed.get(name, "") for name in _SIGNED]]
            own = sorted([name for name in signed if name.startswith("x-ms-")], key=place_of)
            lines += [f"{name}:{signed[name]}" for name in own]
            lines.append(f"/{self._account}{path}")
            if query:
                lines += sorted([f"{name.lower()}:{value}" for name, value in query.items()])
            digest = hmac.digest(self._key, "\n".join(lines).encode(), "sha256")
            signed["Authorization"] = f"SharedKey {self._account}:{base64.b64encode(digest).decode()}"
        return signed

    def begin(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        query: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> Awaitable[Response]:
        """`send`, without a task where there is a connection: for requests of which there are many."""
        connections = None if self._clients.needs_token else self._clients.connected()
        if connections is None:
            return self.send(method, path, headers, query=query, body=body)
        target, signed = self._request(method, path, headers, None, query, body)
        return connections.send(method, target, signed, body)

    async def send(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        query: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> Response:
        """The whole answer, whatever it says. ``headers`` may name a version of the service.

        :raises StorageUnavailableError: there was none, or not to its end.
        """
        bearer = await self.authorization()
        connections = await self._clients.connections()
        target, signed = self._request(method, path, headers, bearer, query, body)
        if connections is not None:
            return await connections.send(method, target, signed, body)
        return await self._by_session(method, target, signed, body)

    def _request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        bearer: str | None,
        query: Mapping[str, str] | None,
        body: bytes,
    ) -> tuple[str, dict[str, str]]:
        versioned = {"x-ms-version": _VERSION, **headers}
        signed = self.headers(method, path, versioned, bearer, query=query, length=len(body))
        given = [f"{name}={quote(value, safe='')}" for name, value in query.items()] if query else []
        asked = "&".join(given if self._sas is None else [*given, self._sas])
        return f"{path}?{asked}" if asked else path, signed

    async def _by_session(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> Response:
        import aiohttp

        return await exchange(
            await self._clients.session(),
            method,
            f"{self._base}{target}",
            {**headers, "Content-Length": str(len(body))},
            _pieces(body) if body else None,
            doing=f"{method} {target.partition('?')[0]}",
            timeout=aiohttp.ClientTimeout(sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS),
            skip_auto_headers=("Content-Type", "User-Agent"),
            ssl=self._clients.trust(),
        )


async def _pieces(body: bytes) -> AsyncGenerator[memoryview]:
    """Views, so that nothing is copied and little waits in the socket."""
    view = memoryview(body)
    for start in range(0, len(body), PIECE_BYTES):
        yield view[start : start + PIECE_BYTES]
