"""Large objects by links of the app, which go between a client and the store part by part, as they do at the
endpoints of Azure and S3: through this process, whatever an ordinary request may carry.

The app's own code checks the link before the body is looked at, and answers; only the bytes do not go to the
worker. What a request may carry goes through the app as on the platform.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import azure.functions as func
from aiohttp import hdrs, web

from devhost import kestrel
from devhost.answers import Answer
from functions import access, links, loading
from functions.bodies import Arriving
from functions.conditional import always_replaced
from functions.endpoint import endpoint
from functions.paths import object_key
from functions.problems import range_problem
from functions.ranges import byte_ranges, range_holds
from functions.state import AppState, shutdown, state
from storage_lib.errors import (
    ConfigurationError,
    InvalidArgumentError,
    RangeNotSatisfiableError,
    StorageError,
)
from storage_lib.ports.backend import ByteRange

if TYPE_CHECKING:
    from storage_lib.manager import StorageManager

SILENCE_SECONDS = 60.0
"""How long nothing of a body may come."""
_SAVES = ("save_by_link", "by_query_save_by_link")
_BY_LINK = endpoint("key", *links.SIGNED, is_open=True)


@dataclass(eq=False)
class _Part:
    """What an answer has of an object."""

    storage: StorageManager
    key: str
    etag: str
    start: int
    end: int

    async def sent(self) -> AsyncIterator[bytes]:
        wanted = ByteRange(self.start, self.end)
        async with self.storage.open_reader(self.key, byte_range=wanted, if_match=self.etag) as reader:
            async for part in reader:
                yield part


async def answer(
    request: web.BaseRequest,
    name: str,
    url: str,
    headers: Mapping[str, str],
    query: Mapping[str, str],
    values: Mapping[str, str],
) -> Answer | None:
    """The answer to a request for the function ``name``; None if it is for the app."""
    try:
        app = state()
    except ConfigurationError:
        return None  # The app says so.
    req = func.HttpRequest(
        method=request.method, url=url, headers=headers, params=query, route_params=values, body=b""
    )
    if name in _SAVES:
        size = request.content_length or 0
        if size <= app.max_body_bytes or hdrs.TRANSFER_ENCODING in request.headers:
            return None
        source = Arriving(size, _arriving(request))

        @_BY_LINK
        async def save(req: func.HttpRequest) -> func.HttpResponse:
            return await links.save(req, source)

        return _answer(await save(req), close=not request.content.at_eof())
    if request.method != "GET" or not await _is_large(req, app):
        return None
    parts: list[_Part] = []

    @_BY_LINK
    async def load(req: func.HttpRequest) -> func.HttpResponse:
        return await links.load(req, lambda req: _read(req, parts))

    return _answer(await load(req), parts)


async def close() -> None:
    """Close what it has opened."""
    await shutdown()


def _answer(response: func.HttpResponse, parts: list[_Part] | None = None, *, close: bool = False) -> Answer:
    made = Answer(response.status_code, dict(response.headers), response.get_body(), close=close)
    if parts:
        made.body = parts[0].sent()
    return made


async def _arriving(request: web.BaseRequest) -> AsyncIterator[bytes]:
    """:raises InvalidArgumentError: it does not arrive whole; a part is never taken for the whole."""
    missing = request.content_length or 0
    try:
        async for part in kestrel.parts_of_body(request, silence=SILENCE_SECONDS):
            missing -= len(part)
            yield part
    except kestrel.BodyTooSlowError as error:
        raise InvalidArgumentError(
            "the body comes too slowly", field="body", remedy="send it again"
        ) from error
    except (web.RequestPayloadError, ConnectionError, asyncio.IncompleteReadError) as error:
        raise InvalidArgumentError("the body did not arrive whole", field="body") from error
    if missing:
        raise InvalidArgumentError("the body did not arrive whole", field="body")


async def _is_large(req: func.HttpRequest, app: AppState) -> bool:
    """Whether it is a load of more than a request may carry; what is wrong with it, the app says."""
    try:
        key = object_key(req)
        await app.link_signer.check(req.method, key, req.params)
        return (await app.storage.info(key)).size > app.max_body_bytes
    except StorageError:
        return False


async def _read(req: func.HttpRequest, parts: list[_Part]) -> func.HttpResponse:
    """All of it, or one range; of several, the whole object (RFC 9110, 14.2), and never encoded."""
    storage, key = access.storage(), object_key(req)
    plain = {name: value for name, value in req.headers.items() if name.lower() != "accept-encoding"}
    params, route = req.params, req.route_params
    asked = func.HttpRequest(
        method="HEAD", url=req.url, headers=plain, params=params, route_params=route, body=b""
    )
    found = await loading.head(asked)
    if found.status_code != 200:
        return found
    info = await storage.info(key, fresh=True)
    if found.headers["ETag"] != f'"{info.etag}"':
        raise always_replaced(key)
    wanted = byte_ranges(req)
    start, end, headers, status = 0, info.size, dict(found.headers), 200
    if len(wanted) == 1 and range_holds(req, info):
        try:
            start, end = wanted[0].resolve(info.size)
        except RangeNotSatisfiableError:
            return range_problem(info.size)
        headers["Content-Range"], status = f"bytes {start}-{end - 1}/{info.size}", 206
    headers["Content-Length"] = str(end - start)
    parts.append(_Part(storage, key, info.etag, start, end))
    return func.HttpResponse(status_code=status, headers=headers)
