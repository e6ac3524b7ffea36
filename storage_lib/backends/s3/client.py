"""Signed requests to one bucket, for what obstore has not: listings, conditional deletes, multipart uploads
with a condition, copies with new metadata.

An aiohttp session belongs to the event loop it was made in, so each loop has its own, closed with it.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote, urlencode

from storage_lib import threads
from storage_lib.backends.cloud.dropped import when_dropped
from storage_lib.backends.cloud.lookups import Resolver, has_proxy
from storage_lib.backends.cloud.requests import ALONE, BESIDE, Claim, Requests
from storage_lib.backends.s3.credentials import Credential, Credentials
from storage_lib.backends.s3.errors import Answer, read_response
from storage_lib.errors import StorageError, StorageUnavailableError

if TYPE_CHECKING:
    import aiohttp

CONNECT_SECONDS = 5
READ_SECONDS = 60
_INLINE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Response:
    """The whole answer to a request."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def answer(self) -> Answer:
        return read_response(self.status, self.headers, self.body)


class S3Client:
    """:param url: of the bucket, without a slash at the end."""

    def __init__(self, url: str, region: str, credentials: Credentials, requests: Requests) -> None:
        self.url = url
        self.region = region
        self.credentials = credentials
        self.requests = requests
        self._sessions: dict[asyncio.AbstractEventLoop, tuple[aiohttp.ClientSession, Any]] = {}
        self._closed = False

    async def request(
        self,
        method: str,
        key: str = "",
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        claims: Sequence[Claim] = (),
    ) -> Response:
        """The answer, whatever its status. Without a ``key`` the bucket itself is asked.

        :param claims: what the request writes; see `claim`.
        :raises StorageUnavailableError: there was none, or not to its end.
        """
        return await self.requests.send(lambda: self._request(method, key, query, headers, body), claims)

    def claim(self, key: str, *, conditional: bool = False) -> Claim:
        """That a request writes ``key``.

        :param conditional: it changes nothing once the object has another ETag, or is there.
        """
        return (self.url, key), BESIDE if conditional else ALONE

    async def _request(
        self,
        method: str,
        key: str,
        query: Mapping[str, str] | None,
        headers: Mapping[str, str] | None,
        body: bytes,
    ) -> Response:
        import aiohttp
        from yarl import URL

        url = f"{self.url}/{encode_path(key)}" if key else self.url + "/"
        if query:
            url = f"{url}?{urlencode(query, quote_via=quote, safe='')}"
        credential = await self.credentials.get()
        arguments = (method, url, headers or {}, body, credential, self.region)
        content: bytes | io.BytesIO | None = body or None
        if len(body) > _INLINE_BYTES:
            signed = await threads.working.run(_signed, *arguments)
            content = io.BytesIO(body)  # shares the bytes; aiohttp sends it piece by piece
        else:
            signed = _signed(*arguments)
        # S3 wants a type only where it keeps one; aiohttp would send one with every body.
        session = await self._session()
        try:
            async with session.request(
                method,
                URL(url, encoded=True),
                headers=signed,
                data=content,
                skip_auto_headers=("Content-Type", "User-Agent"),
                allow_redirects=False,
            ) as response:
                return Response(response.status, response.headers, await response.read())
        except (aiohttp.ClientError, TimeoutError) as error:
            raise StorageUnavailableError(f"{method} {url}: {error or type(error).__name__}") from error

    def check_open(self) -> None:
        if self._closed:
            raise StorageError("the storage backend is closed", remedy="make a new one")

    async def close(self) -> None:
        """Close what was made in this loop; a loop that is run to its end by asyncio closes its own."""
        self._closed = True
        await self.requests.settle()
        here = self._sessions.pop(asyncio.get_running_loop(), None)
        if here is not None:
            await here[1].aclose()

    async def _session(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        here = self._sessions.get(loop)
        if here is None:
            self.check_open()
            for other in [other for other in self._sessions if other.is_closed()]:
                del self._sessions[other]
            session = self._make()
            lifetime = self._lifetime(session)
            here = self._sessions[loop] = (session, lifetime)
            # asyncio finishes async generators before it closes a loop, and with this one the session.
            await anext(lifetime)
        return here[0]

    def _make(self) -> aiohttp.ClientSession:
        import aiohttp

        return aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS),
            connector=aiohttp.TCPConnector(
                limit=0, resolver=cast("Any", Resolver())
            ),  # `Requests` bounds how many there are.
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=has_proxy(),
        )

    async def _lifetime(self, session: aiohttp.ClientSession) -> AsyncGenerator[None]:
        requests = self.requests

        async def close() -> None:
            # What goes on without its caller needs its connection.
            await requests.settle()
            await session.close()

        dropped = when_dropped(self, close)
        try:
            yield
        finally:
            self._sessions.pop(asyncio.get_running_loop(), None)
            await close()
            dropped.detach()


def encode_path(key: str) -> str:
    """A key as it stands in the path of a URL."""
    return quote(key, safe="/")


def _signed(
    method: str, url: str, headers: Mapping[str, str], body: bytes, credential: Credential, region: str
) -> dict[str, str]:
    """The headers to send: ``headers`` with date, hash of the body and signature."""
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest

    request = AWSRequest(method, url, headers, body)
    S3SigV4Auth(credential, "s3", region).add_auth(request)
    return dict(request.headers.items())
