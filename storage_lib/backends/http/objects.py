"""Objects through the HTTP API of an app, which itself hides and removes what has expired."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec
from msgspec.structs import replace

from storage_lib.backends.cloud.requests import ALONE, BESIDE, Claim
from storage_lib.backends.http.answers import Listing, Saved, apart, decoded, info_of, not_ours, range_in
from storage_lib.backends.http.client import HttpClient, Response
from storage_lib.errors import (
    KeyNotFoundError,
    PreconditionFailedError,
    RangeNotSatisfiableError,
    StorageError,
    TransientStorageError,
    UnsupportedOperationError,
)
from storage_lib.keys import MAX_KEY_BYTES, MAX_SEGMENT_BYTES, encode_metadata_value
from storage_lib.ports import expiry, hidden, kept_headers
from storage_lib.ports.drivers import (
    GetOptions,
    ListOptions,
    ObjectCapabilities,
    ObjectDriver,
    PutOptions,
    Repeat,
    once,
)
from storage_lib.ports.errors import missing, unmet
from storage_lib.ports.hidden import ATTEMPT, SOURCE, is_own
from storage_lib.ports.object_model import ByteRange, ListEntry, ObjectInfo, PutResult, StoredObject
from storage_lib.ports.streaming import Parts, sha256_of

PART_BYTES = 8 * 1024 * 1024
MAX_BODY_BYTES = 100 * 1024 * 1024
"""The longest request that the host of an app accepts."""
UPLOADED_PART_BYTES = 4 * 1024 * 1024
"""Of an upload in parts: what an app takes whatever a part begins with."""
MAX_UPLOADED_BYTES = 10_000 * UPLOADED_PART_BYTES
WHOLE_BYTES = 4 * PART_BYTES
"""A stream that is longer is uploaded in parts."""
MAX_PAGE = 1000
_LAST = "\U0010fffd"
"""The greatest character of a key."""
_OF_THIS_STORE = hidden.ADDED_BELOW | {hidden.CALL}
"""Metadata that say how an object came here. The app has its own."""
_FRESH = {"Cache-Control": "no-cache"}
_HEADERS = {kept_headers.METADATA[name]: name for name in kept_headers.GIVEN}
_ENCODING = kept_headers.METADATA["Content-Encoding"]


class _Upload(msgspec.Struct):
    upload_id: str


class HttpObjects(ObjectDriver):
    """Keys are sent in the query: a path cannot carry each of them, and the host changes some."""

    capabilities = ObjectCapabilities(
        reports_created=True,
        lists_sizes=True,
        asks_for_details=True,
        ends_objects=True,
        max_object_bytes=MAX_BODY_BYTES,
        part_bytes=PART_BYTES,
        max_parts=MAX_UPLOADED_BYTES // PART_BYTES,
    )

    def __init__(self, client: HttpClient) -> None:
        self._client = client

    async def put(self, key: str, data: bytes, options: PutOptions) -> PutResult:
        doing = f"put {key!r}"
        headers = {"Content-Type": options.content_type, **_described(options.metadata)}
        headers |= _conditions(options)
        if options.sha256:
            headers |= _digest(options.sha256)
        if options.is_conditional:
            headers |= _repeated(options.metadata.get(ATTEMPT) or options.metadata.get(SOURCE))
        response = await self._send(
            "PUT",
            key,
            doing,
            options.if_match,
            headers=headers,
            body=data,
            claims=[self._claim(key, BESIDE if options.is_conditional else ALONE)],
            expected=(200, 201),
        )
        return PutResult(key, _etag(response, doing), len(data), response.status == 201)

    async def put_stream(
        self, key: str, parts: Parts, options: PutOptions, repeat: Repeat = once
    ) -> PutResult:
        held: list[bytes] = []
        stream = aiter(parts)
        while sum(map(len, held)) <= WHOLE_BYTES:
            if (part := await anext(stream, None)) is None:
                complete = parts.complete(options.metadata)
                whole = replace(options, metadata=complete, sha256=parts.sha256)
                return await self.put(key, b"".join(held), whole)
            held.append(part)
        return await self._upload(key, held, stream, parts, options, repeat)

    async def _upload(
        self,
        key: str,
        held: list[bytes],
        stream: AsyncIterator[bytes],
        parts: Parts,
        options: PutOptions,
        repeat: Repeat,
    ) -> PutResult:
        """In parts, of which an app makes the object when they are all there."""
        doing = f"put {key!r}"
        _described(options.metadata)  # :raises UnsupportedOperationError: an app does not take it.
        wanted = {
            "content_type": options.content_type,
            "metadata": _callers(options.metadata),
            "expires_at": _end(options.metadata),
        }
        for name in _HEADERS.keys() & options.metadata.keys():
            wanted[kept_headers.FIELDS[name]] = options.metadata[name]
        json = {"Content-Type": "application/json"}

        async def ask(method: str, query: dict[str, str], body: bytes, headers: dict[str, str]) -> Response:
            return await self._client.send(
                method,
                "uploads",
                doing=doing,
                query={"key": key, **query},
                headers=headers,
                body=body,
                expected=(200, 201, 204),
            )

        begun = await repeat(f"{doing}, begin", lambda: ask("POST", {}, msgspec.json.encode(wanted), json))
        named = {"upload_id": decoded(begun.body, _Upload, doing).upload_id}
        number = 0

        async def send(part: bytes) -> None:
            nonlocal number
            for start in range(0, len(part), UPLOADED_PART_BYTES):
                number += 1
                query = {**named, "part": str(number)}
                data = part[start : start + UPLOADED_PART_BYTES]
                headers = _digest(await sha256_of(data))
                await repeat(f"{doing}, a part", partial(ask, "PUT", query, data, headers))

        try:
            while held:
                await send(held.pop(0))
            async for part in stream:
                await send(part)
            conditions = _conditions(options)
            body = msgspec.json.encode({"sha256": parts.sha256})
            # The app knows a completion that comes again.
            done = await repeat(f"{doing}, complete", lambda: ask("POST", named, body, json | conditions))
        except BaseException as error:
            with suppress(StorageError):
                await ask("DELETE", named, b"", {})
            if isinstance(error, PreconditionFailedError):
                raise unmet(key, options.if_match) from error
            raise
        return PutResult(key, _etag(done, doing), parts.size, done.status == 201)

    async def get(self, key: str, options: GetOptions) -> StoredObject | None:
        doing = f"get {key!r}"
        headers = dict(_FRESH) if options.fresh else {}
        if options.if_match is not None:
            headers["If-Match"] = _tag(options.if_match)
        if options.if_none_match is not None:
            headers["If-None-Match"] = _tag(options.if_none_match)
        wanted = options.byte_range
        if wanted is not None:
            headers["Range"] = _range(wanted)
        response = await self._read("GET", key, headers, doing, options.if_match, wanted)
        if response.status == 304:
            return None
        data = response.body
        if response.status == 206:
            start, size = range_in(response.headers, doing)
            if wanted is None or (start, start + len(data)) != wanted.resolve(size):
                raise not_ours(doing)  # Of other bytes than those asked for.
            return StoredObject(info_of(key, response.headers, size, doing), data, start)
        info = info_of(key, response.headers, len(data), doing)
        if wanted is None:
            return StoredObject(info, data)
        start, end = wanted.resolve(len(data))
        return StoredObject(info, data[start:end], start)

    async def head(self, key: str) -> ObjectInfo:
        doing = f"head {key!r}"
        response = await self._read("HEAD", key, _FRESH, doing, None, None)
        length = response.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise not_ours(doing)
        return info_of(key, response.headers, int(length), doing)

    async def delete(self, key: str, if_match: str | None) -> None:
        headers = {} if if_match is None else {"If-Match": _tag(if_match)}
        claims = [self._claim(key, ALONE)]
        await self._send(
            "DELETE", key, f"delete {key!r}", if_match, headers=headers, claims=claims, expected=(204,)
        )

    async def scan(self, prefix: str, options: ListOptions) -> AsyncGenerator[ListEntry | str]:
        query = {"prefix": prefix} if prefix else {}
        if options.delimiter is not None:
            query["delimiter"] = options.delimiter
        if options.details:
            query["include"] = "metadata"
        query["limit"] = str(MAX_PAGE if options.count is None else min(options.count, MAX_PAGE))
        if options.after is not None:
            query["start_after"] = _behind(options.after, options.delimiter)
        while True:
            doing = f"list {prefix!r}"
            response = await self._client.send("GET", "objects", doing=doing, query=query)
            page = decoded(response.body, Listing, doing)
            entries = [entry.listed(options.details) for entry in page.objects]
            for found in sorted([*entries, *page.prefixes], key=_name) if page.prefixes else entries:
                yield found
            if page.cursor is None:
                return
            if page.cursor == query.get("cursor"):
                raise not_ours(doing)  # It would never end.
            query.pop("start_after", None)
            query["cursor"] = page.cursor

    async def read_stream(
        self, key: str, options: GetOptions
    ) -> tuple[ObjectInfo, int, AsyncGenerator[bytes]]:
        """In parts, which are requests of their own: the app has each of its answers in memory."""
        wanted, if_match = options.byte_range or ByteRange(0), options.if_match
        if wanted.start < 0:
            info = await self.head(key)
            if if_match is not None and info.etag != if_match:
                raise unmet(key, if_match)
            wanted, if_match = ByteRange(*wanted.resolve(info.size)), info.etag
        first = wanted.start + PART_BYTES
        try:
            part = ByteRange(wanted.start, first if wanted.end is None else min(first, wanted.end))
            found = await self.get(key, GetOptions(part, if_match, fresh=options.fresh))
        except RangeNotSatisfiableError:
            if options.byte_range is not None:
                raise
            found = await self.get(key, GetOptions(None, if_match, fresh=options.fresh))  # It is empty.
        assert found is not None  # noqa: S101 - only a get with if_none_match answers None
        end = found.info.size if wanted.end is None else min(wanted.end, found.info.size)
        return found.info, found.start, self._rest(found, end)

    async def _rest(self, found: StoredObject, end: int) -> AsyncGenerator[bytes]:
        info, at = found.info, found.start + len(found.data)
        yield found.data
        while at < end:
            part = ByteRange(at, min(at + PART_BYTES, end))
            try:
                more = await self.get(info.key, GetOptions(part, info.etag))
            except (PreconditionFailedError, KeyNotFoundError) as error:
                raise TransientStorageError(
                    f"read {info.key!r}: it was replaced or deleted while it was read", remedy="read it again"
                ) from error
            assert more is not None  # noqa: S101 - as above
            if more.start != at or not more.data:
                raise not_ours(f"read {info.key!r}")
            at += len(more.data)
            yield more.data

    async def copy(self, source: ObjectInfo, target: str, if_absent: bool) -> PutResult:
        if _ENCODING in source.metadata:
            raise _not_taken(_ENCODING)
        return await super().copy(source, target, if_absent)

    async def touch(self, source: ObjectInfo, metadata: dict[str, str]) -> PutResult:
        key, doing = source.key, f"touch {source.key!r}"
        change: dict[str, Any] = {}
        # What stays is not sent: another program may have given names that the app takes from nobody.
        if (given := _callers(metadata)) != _callers(source.metadata):
            change["metadata"] = given
        for name, field in kept_headers.FIELDS.items():
            if metadata.get(name) != source.metadata.get(name):
                if name == _ENCODING:
                    raise _not_taken(name)
                change[field] = metadata.get(name)
        if (end := _end(metadata)) != _end(source.metadata):
            change["expires_at"] = end
        headers = {"Content-Type": "application/json", "If-Match": _tag(source.etag)}
        headers |= _repeated(metadata.get(ATTEMPT))
        body, claims = msgspec.json.encode(change), [self._claim(key, BESIDE)]
        response = await self._send(
            "PATCH", key, doing, source.etag, headers=headers, body=body, claims=claims
        )
        return PutResult(key, _etag(response, doing), source.size, created=False)

    async def _read(
        self,
        method: str,
        key: str,
        headers: Mapping[str, str],
        doing: str,
        if_match: str | None,
        wanted: ByteRange | None,
    ) -> Response:
        expected = (200, 206, 304, 416) if wanted is not None else (200, 304)
        response = await self._send(method, key, doing, if_match, headers=headers, expected=expected)
        if response.status == 304 and "If-None-Match" not in headers:
            raise not_ours(doing)
        if response.status == 416 and wanted is not None:
            wanted.resolve(range_in(response.headers, doing)[1])
            raise not_ours(doing)  # It is satisfiable.
        return response

    async def _send(
        self, method: str, key: str, doing: str, if_match: str | None, **options: Any
    ) -> Response:
        """`HttpClient.send` of a request for an object, with the port's errors of it."""
        try:
            return await self._client.send(method, "objects", doing=doing, query={"key": key}, **options)
        except KeyNotFoundError as error:
            raise missing(key) from error
        except PreconditionFailedError as error:
            raise unmet(key, if_match) from error

    def _claim(self, key: str, want: int) -> Claim:
        return (self._client.url, key), want


def _described(metadata: Mapping[str, str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in metadata.items():
        if not is_own(name):
            headers[f"x-meta-{name}"] = encode_metadata_value(value)
        elif name == expiry.METADATA:
            end = datetime.fromtimestamp(expiry.end_in(metadata) or 0, UTC)
            headers["x-expires-at"] = end.isoformat(timespec="milliseconds")
        elif name in _HEADERS:
            headers[_HEADERS[name]] = value
        elif name not in _OF_THIS_STORE:
            raise _not_taken(name)
    return headers


def _end(metadata: Mapping[str, str]) -> datetime | None:
    end = expiry.end_in(metadata)
    return None if end is None else datetime.fromtimestamp(end, UTC)


def _conditions(options: PutOptions) -> dict[str, str]:
    if options.if_absent:
        return {"If-None-Match": "*"}
    return {} if options.if_match is None else {"If-Match": _tag(options.if_match)}


def _digest(sha256: str) -> dict[str, str]:
    return {"Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"}


def _repeated(mark: str | None) -> dict[str, str]:
    """Should the answer be lost, the app knows the same save when it comes again."""
    return {"Idempotency-Key": f'"{mark}"'} if mark else {}


def _etag(saved: Response, doing: str) -> str:
    return apart(decoded(saved.body, Saved, doing).etag)[0]


def _not_taken(name: str) -> UnsupportedOperationError:
    if name == _ENCODING:
        return UnsupportedOperationError(
            "it has a Content-Encoding, which an app takes from nobody",
            remedy="copy it with storage_lib where it is stored",
        )
    return UnsupportedOperationError(
        f"an app takes no {name!r} from others: it is one of its layers' own",
        remedy="set the layer in the app",
    )


def _callers(metadata: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in metadata.items() if not is_own(name)}


def _tag(etag: str) -> str:
    return etag if etag == "*" else f'"{etag}"'


def _range(wanted: ByteRange) -> str:
    if wanted.end is not None:
        return f"bytes={wanted.start}-{wanted.end - 1}"
    return f"bytes={wanted.start}" if wanted.start < 0 else f"bytes={wanted.start}-"


def _behind(after: str, delimiter: str | None) -> str:
    """What a listing of the app begins behind, to begin behind ``after`` and all that is below it."""
    if delimiter is not None or not after.endswith("/"):
        return after
    room = min(MAX_SEGMENT_BYTES, MAX_KEY_BYTES - len(after.encode())) // len(_LAST.encode())
    return after + _LAST * room


def _name(found: ListEntry | str) -> bytes:
    return (found if isinstance(found, str) else found.key).encode()
