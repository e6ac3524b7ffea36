"""Requests by an HTTP client that knows nothing of this project."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener


class Plain(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes


async def fetch(
    method: str,
    url: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    *,
    cafile: str | None = None,
) -> Plain:
    return await asyncio.to_thread(_fetch, method, url, body, headers or {}, cafile)


def _fetch(
    method: str, url: str, body: bytes | None, headers: Mapping[str, str], cafile: str | None
) -> Plain:
    trusted = ssl.create_default_context(cafile=cafile)
    opener = build_opener(ProxyHandler({}), HTTPSHandler(context=trusted))
    # urllib would name a type of its own.
    given = {"Content-Type": "application/octet-stream", **headers} if body is not None else headers
    request = Request(url, data=body, method=method, headers=dict(given))  # noqa: S310 - the test's own
    try:
        with opener.open(request, timeout=120) as answer:
            return Plain(answer.status, dict(answer.headers), answer.read())
    except HTTPError as error:
        with error:
            return Plain(error.code, dict(error.headers), error.read())
