"""Answers with an object: whole or in parts, encoded or as it was saved, with the digests asked for."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import azure.functions as func

from functions import access, codings, conditional, digests
from functions.answers import object_headers
from functions.codings import Coding
from functions.conditions import Preconditions
from functions.paths import object_key
from functions.problems import range_problem
from functions.ranges import byte_ranges
from storage_lib.errors import RangeNotSatisfiableError

if TYPE_CHECKING:
    from storage_lib.ports.backend import ObjectInfo, StoredObject

_STORED = "sha-256"
"""The algorithm of the digests that are stored with objects."""


async def load(req: func.HttpRequest) -> func.HttpResponse:
    """The answer to a GET."""
    key = object_key(req)
    storage = access.storage()
    wanted = byte_ranges(req)
    try:
        if len(wanted) > 1:
            found = await conditional.read_parts(req, storage, key, wanted)
            part = None
        else:
            found, part = await conditional.read(req, storage, key, wanted[0] if wanted else None)
    except RangeNotSatisfiableError:
        size = (await storage.info(key, fresh=True)).size
        if size or not any(each.start < 0 for each in wanted):
            return range_problem(size)
        # The last bytes of an empty object are all of it (RFC 9110, 14.1.2), but no Content-Range says so.
        found, part = await conditional.read(req, storage, key, None)
    from storage_lib.ports.backend import ObjectInfo

    if isinstance(found, ObjectInfo):
        return _not_modified(req, found)
    info, parts = found if isinstance(found, tuple) else (found.info, [found])
    coding = codings.chosen(req, info)
    if coding is not None and (part is not None or isinstance(found, tuple)):
        # The client takes nothing that is not encoded, and a part is of what is not.
        found, part = await conditional.read(req, storage, key, None)
        if isinstance(found, ObjectInfo):
            return _not_modified(req, found)
        info, parts = found.info, [found]
        coding = codings.chosen(req, info)
    if isinstance(found, tuple) or part is not None:
        return _in_parts(_headers(req, info, None), info, parts)
    return await _whole(req, info, parts[0].data, coding)


async def head(req: func.HttpRequest) -> func.HttpResponse:
    """The answer to a HEAD: what a GET of the same headers would have, without ``Range``."""
    key, conditions = object_key(req), Preconditions.of(req)
    info = await access.storage().info(key, fresh=conditional.wants_fresh(req) or not conditions.none)
    if not conditions.is_modified(info):
        return _not_modified(req, info)
    coding = codings.chosen(req, info)
    headers = _headers(req, info, coding)
    if coding is None:
        headers["Content-Length"] = str(info.size)
        if digests.wanted(req, digests.CONTENT) == _STORED and info.sha256 is not None:
            headers[digests.CONTENT] = digests.spelled(_STORED, bytes.fromhex(info.sha256))
    return func.HttpResponse(status_code=200, headers=headers)


def _not_modified(req: func.HttpRequest, info: ObjectInfo) -> func.HttpResponse:
    """With the ETag that the client has, if it says so; else with that of the answer it would get."""
    has = "If-None-Match" in req.headers and "*" not in req.headers["If-None-Match"]
    coding = codings.known(req, info) if has else codings.chosen(req, info)
    headers = _headers(req, info, coding)
    headers.pop("Content-Encoding", None)
    return func.HttpResponse(status_code=304, headers=headers)


async def _whole(
    req: func.HttpRequest, info: ObjectInfo, data: bytes, coding: Coding | None
) -> func.HttpResponse:
    headers = _headers(req, info, coding)
    if coding is not None:
        data = await codings.encoded(coding, data)
    algorithm = digests.wanted(req, digests.REPRESENTATION)
    is_there = headers.get(digests.REPRESENTATION, "").startswith(f"{algorithm}=")
    if algorithm is not None and not is_there:
        headers[digests.REPRESENTATION] = await digests.digest_of(algorithm, data)
    return func.HttpResponse(data, status_code=200, headers=headers)


def _headers(req: func.HttpRequest, info: ObjectInfo, coding: Coding | None) -> dict[str, str]:
    headers = object_headers(info)
    if info.content_encoding is None:
        vary = headers.get("Vary")
        headers["Vary"] = f"Accept-Encoding, {vary}" if vary else "Accept-Encoding"
    if coding is not None:
        headers["ETag"] = f'"{codings.coded(info.etag, coding)}"'
        headers["Content-Encoding"] = coding
        # It is that of the bytes without the coding.
        headers.pop(digests.REPRESENTATION, None)
    elif not digests.admits(req, digests.REPRESENTATION, _STORED):
        headers.pop(digests.REPRESENTATION, None)
    return headers


def _in_parts(headers: dict[str, str], info: ObjectInfo, parts: list[StoredObject]) -> func.HttpResponse:
    """206 with one part, or with several as ``multipart/byteranges`` (RFC 9110, 14.6)."""
    if len(parts) == 1:
        headers["Content-Range"] = _content_range(parts[0], info)
        return func.HttpResponse(parts[0].data, status_code=206, headers=headers)
    boundary = secrets.token_hex(16)
    lines: list[bytes] = []
    for part in parts:
        about = (
            f"--{boundary}\r\nContent-Type: {headers['Content-Type']}\r\n"
            f"Content-Range: {_content_range(part, info)}\r\n\r\n"
        )
        lines += [about.encode(), part.data, b"\r\n"]
    lines.append(f"--{boundary}--\r\n".encode())
    headers["Content-Type"] = f"multipart/byteranges; boundary={boundary}"
    return func.HttpResponse(b"".join(lines), status_code=206, headers=headers)


def _content_range(part: StoredObject, info: ObjectInfo) -> str:
    return f"bytes {part.start}-{part.start + len(part.data) - 1}/{info.size}"
