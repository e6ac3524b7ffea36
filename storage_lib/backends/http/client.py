"""Requests to the HTTP API of an app."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from storage_lib.backends.cloud.requests import Claim, Requests
from storage_lib.backends.cloud.sessions import (
    INLINE_BYTES,
    Response,
    exchange,
    open_sessions,
)
from storage_lib.backends.http.errors import error_of
from storage_lib.config import check_http_key, check_http_url
from storage_lib.errors import StorageError


class HttpClient:
    """
    :param url: of the API; a slash at its end does not matter.
    :param kinds: the errors of the API's codes that errors.py does not know.
    """

    def __init__(
        self,
        url: str,
        key: str | None,
        concurrent_requests: int,
        kinds: Mapping[str, type[StorageError]] | None = None,
    ) -> None:
        self.kinds = kinds
        self.url = check_http_url(url)
        self._key = None if key is None else check_http_key(key)
        self._requests = Requests("http", concurrent_requests)
        self._sessions = open_sessions(self._requests)

    async def send(
        self,
        method: str,
        path: str,
        *,
        doing: str,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        claims: Sequence[Claim] = (),
        expected: Sequence[int] = (200,),
    ) -> Response:
        """The answer, if its status is one of those that are expected.

        :param doing: what the request is for, in errors.
        :param claims: what it writes (`Requests.send`).
        :raises StorageError: there was no answer, or another one (`error_of`).
        """
        url = f"{self.url}/{path}"
        if query:
            url = f"{url}?{urlencode(query, quote_via=quote, safe='/')}"
        sent = {"Accept-Encoding": "identity", **(headers or {})}
        if self._key is not None:
            sent["x-functions-key"] = self._key
        response = await self._requests.send(lambda: self._send(method, url, sent, body, doing), claims)
        if response.status not in expected:
            raise error_of(response.status, response.headers, response.body, doing, self.kinds)
        return response

    async def close(self) -> None:
        await self._sessions.close()

    async def _send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, doing: str
    ) -> Response:
        # A large body is sent piece by piece. An app gets none that is sent without a length.
        content: Any = io.BytesIO(body) if len(body) > INLINE_BYTES else body
        return await exchange(
            await self._sessions.get(),
            method,
            url,
            headers,
            content if method in ("PUT", "POST", "PATCH") else None,
            doing=f"{doing}: {self.url} does not answer",
            remedy="check that the URL is the app's and that it runs",
        )
