"""Signed requests to one bucket, for what obstore has not: listings, conditional deletes, multipart uploads
with a condition, copies with new metadata."""

from __future__ import annotations

import io
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TypedDict
from urllib.parse import quote, urlencode, urlsplit
from xml.etree import ElementTree

from storage_lib import threads
from storage_lib.backends.cloud import sessions
from storage_lib.backends.cloud.requests import ALONE, BESIDE, Claim, Requests
from storage_lib.backends.cloud.sessions import INLINE_BYTES, exchange, open_sessions
from storage_lib.backends.s3.credentials import Credential, Credentials
from storage_lib.backends.s3.errors import Answer, read_response
from storage_lib.errors import StorageUnavailableError
from storage_lib.ports.link_model import LinkOptions, NoStoreLink, StoreLink


class Response(sessions.Response):
    """The whole answer to a request."""

    __slots__ = ()

    @property
    def answer(self) -> Answer:
        return read_response(self.status, self.headers, self.body)


class RequestOptions(TypedDict, total=False):
    """What a request has besides its method and key; `S3Client.request` says what each means."""

    query: Mapping[str, str] | None
    headers: Mapping[str, str] | None
    body: bytes
    content: Callable[[], tuple[Mapping[str, str], bytes]] | None
    claims: Sequence[Claim]


class S3Client:
    """:param url: of the bucket, without a slash at the end."""

    def __init__(self, url: str, region: str, credentials: Credentials, requests: Requests) -> None:
        self.url = url
        self.region = region
        self.credentials = credentials
        self.requests = requests
        self.sessions = open_sessions(requests)

    async def request(
        self,
        method: str,
        key: str = "",
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        content: Callable[[], tuple[Mapping[str, str], bytes]] | None = None,
        claims: Sequence[Claim] = (),
    ) -> Response:
        """The answer, whatever its status. Without a ``key`` the bucket itself is asked.

        :param content: makes headers and body when it is the request's turn.
        :param claims: what the request writes; see `claim`.
        :raises StorageUnavailableError: there was none, or not to its end.
        """

        def call() -> Awaitable[Response]:
            return self._request(method, key, query, *((headers, body) if content is None else content()))

        return await self.requests.send(call, claims)

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
        url = f"{self.url}/{encode_path(key)}" if key else self.url + "/"
        if query:
            url = f"{url}?{urlencode(query, quote_via=quote, safe='')}"
        credential = await self.credentials.get()
        arguments = (method, url, headers or {}, body, credential, self.region)
        content: bytes | io.BytesIO | None = body or None
        if len(body) > INLINE_BYTES:
            signed = await threads.working.run(_signed, *arguments)
            content = io.BytesIO(body)  # shares the bytes; aiohttp sends it piece by piece
        else:
            signed = _signed(*arguments)
        # S3 wants a type only where it keeps one; aiohttp would send one with every body.
        session = await self.sessions.get()
        skipped = ("Content-Type", "User-Agent")
        doing = f"{method} {url}"
        return Response(
            *await exchange(session, method, url, signed, content, doing=doing, skip_auto_headers=skipped)
        )

    async def link(self, key: str, options: LinkOptions) -> StoreLink | NoStoreLink:
        """A presigned URL ("Authenticating requests: using query parameters", Amazon S3 API reference). It
        binds the method, the key, the end, and the type of an upload; neither addresses nor sizes."""
        if options.ip is not None:
            return NoStoreLink("S3 does not bind a link to addresses")
        if options.max_bytes is not None:
            return NoStoreLink("S3 does not bound the size of what is uploaded by a link")
        credential = await self.credentials.get()
        ends = options.expires_at
        if credential.ends_at is not None:
            ends = min(ends, credential.ends_at.replace(microsecond=0))
        # The service counts from the date of the signature.
        left = math.floor((ends - datetime.now(UTC)).total_seconds())
        if left < 1:
            raise StorageUnavailableError("the credentials are about to end", remedy="try again")
        given = {} if options.content_type is None else {"Content-Type": options.content_type}
        url = f"{self.url}/{encode_path(key)}"
        signed = await threads.working.run(
            _presigned, options.method, url, given, credential, self.region, left
        )
        return StoreLink(signed, ends, given)

    async def close(self) -> None:
        await self.sessions.close()


def encode_path(key: str) -> str:
    """A key as it stands in the path of a URL."""
    return quote(key, safe="/")


def _signed(
    method: str, url: str, headers: Mapping[str, str], body: bytes, credential: Credential, region: str
) -> dict[str, str]:
    """The headers to send: ``headers`` with date, hash of the body and signature."""
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest

    # botocore would sign the host in lower case and without the usual port, which is not always what is sent.
    request = AWSRequest(method, url, {"host": urlsplit(url).netloc, **headers}, body)
    S3SigV4Auth(credential, "s3", region).add_auth(request)
    return dict(request.headers.items())


def _presigned(
    method: str, url: str, headers: Mapping[str, str], credential: Credential, region: str, seconds: int
) -> str:
    from botocore.auth import S3SigV4QueryAuth
    from botocore.awsrequest import AWSRequest

    request = AWSRequest(method, url, {"host": urlsplit(url).netloc, **headers})
    S3SigV4QueryAuth(credential, "s3", region, expires=seconds).add_auth(request)
    return str(request.url)


def children_of(body: bytes, name: str) -> list[dict[str, str]]:
    """The texts inside each element of this name, by the names of theirs."""
    return [
        {child.tag.rpartition("}")[2]: child.text or "" for child in node} for node in _elements(body, name)
    ]


def text_of(body: bytes, name: str) -> str:
    """The text of the first element of this name. :raises StorageUnavailableError: there is none."""
    for node in _elements(body, name):
        if node.text:
            return node.text
    raise StorageUnavailableError(f"this is no answer of S3: there is no {name} in it")


def _elements(body: bytes, name: str) -> list[ElementTree.Element]:
    try:
        nodes = ElementTree.fromstring(body.strip()).iter()  # noqa: S314 - the service's own answer
    except ElementTree.ParseError as error:
        raise StorageUnavailableError(f"this is no answer of S3: {error}") from error
    return [node for node in nodes if node.tag.rpartition("}")[2] == name]
