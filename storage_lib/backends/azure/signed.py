"""Signed requests of our own to the blob service, for deletes: obstore has none but in batches and without a
condition, and the SDK takes half a second to import and half a millisecond for each part of a batch.

Sources: "Authorize with Shared Key", "Versioning for the Azure Storage services" (Azure Storage REST).
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Mapping
from email.utils import formatdate
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from storage_lib.backends.azure.clients import Clients
from storage_lib.errors import StorageUnavailableError

_VERSION = "2023-11-03"
_SIGNED = ("Content-Type", "", "", "If-Match", "", "", "")
"""What follows the length and the MD5: type, date, modified since, match, none match, unmodified since and
range."""


def now() -> str:
    """The date of a request."""
    return formatdate(usegmt=True)


class Response(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes


class SignedRequests:
    """:param clients: whose session, endpoint and secret are used."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        endpoints = clients.endpoints
        self._account, self._sas = endpoints.account_name, endpoints.sas
        self._key = None if endpoints.account_key is None else base64.b64decode(endpoints.account_key)
        parts = urlsplit(endpoints.blob)
        self._base = f"{parts.scheme}://{parts.netloc}"
        self._path = f"{parts.path}/{clients.container_name}"

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
            lines = [method, "", "", str(length or ""), "", *(signed.get(name, "") for name in _SIGNED)]
            lines += sorted(f"{name}:{value}" for name, value in signed.items() if name.startswith("x-ms-"))
            lines.append(f"/{self._account}{path}")
            lines += [f"{name}:{value}" for name, value in sorted((query or {}).items())]
            digest = hmac.digest(self._key, "\n".join(lines).encode(), "sha256")
            signed["Authorization"] = f"SharedKey {self._account}:{base64.b64encode(digest).decode()}"
        return signed

    async def send(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        *,
        query: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> Response:
        """The whole answer, whatever it says.

        :raises StorageUnavailableError: there was none, or not to its end.
        """
        import aiohttp
        from yarl import URL

        bearer = await self.authorization()
        versioned = {**headers, "x-ms-version": _VERSION}
        signed = self.headers(method, path, versioned, bearer, query=query, length=len(body))
        given = "&".join(f"{name}={value}" for name, value in (query or {}).items())
        asked = "&".join(part for part in (given, self._sas) if part)
        url = URL(f"{self._base}{path}{'?' if asked else ''}{asked}", encoded=True)
        session = await self._clients.session()
        try:
            async with session.request(
                method,
                url,
                headers=signed,
                data=body or None,
                skip_auto_headers=("Content-Type", "User-Agent"),
                allow_redirects=False,
                ssl=self._clients.trust(),
            ) as response:
                return Response(response.status, response.headers, await response.read())
        except (aiohttp.ClientError, TimeoutError) as error:
            raise StorageUnavailableError(f"{method} {path}: {error or type(error).__name__}") from error
