"""Objects as blobs: small saves, deletes and listings by requests of our own, other bytes by obstore, and
the rest by azure-storage-blob.

obstore costs a fraction of the SDK's CPU per request and of its import, so gets, heads and large puts go
through it. Requests of our own (signed.py) cost a third of that again, and can what obstore cannot: its
prefixes are whole segments, one foreign blob named ``a//b`` breaks its listing, and its service version has
no ``startFrom``. The SDK is imported for the first stream up, copy or touch.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from storage_lib.backends.azure.attributes import (
    bare,
    blob_metadata,
    object_info,
    put_headers,
    quoted,
    touched_metadata,
)
from storage_lib.backends.azure.clients import Clients, KeptClients
from storage_lib.backends.azure.container import Container
from storage_lib.backends.azure.copies import copy_blob, set_metadata
from storage_lib.backends.azure.deleting import Deleting
from storage_lib.backends.azure.errors import check, etag_of, read
from storage_lib.backends.azure.links import Links
from storage_lib.backends.azure.listing import (
    Page,
    behind,
    end_of,
    entries_of,
    in_key_order,
    items_of,
    without,
)
from storage_lib.backends.azure.signed import place_of
from storage_lib.backends.azure.streams import is_ordered, put_blocks, staged
from storage_lib.backends.cloud.byte_stores import Use, use_of_put
from storage_lib.backends.cloud.connections import PIECE_BYTES
from storage_lib.backends.cloud.creating import Creating
from storage_lib.backends.cloud.objects import (
    attributes_of,
    check_length,
    chunks_of,
    contended,
    is_key,
    request_range,
)
from storage_lib.errors import (
    KeyNotFoundError,
    PreconditionFailedError,
)
from storage_lib.ports.drivers import (
    GetOptions,
    ListOptions,
    ObjectCapabilities,
    ObjectDriver,
    PutOptions,
    Repeat,
    once,
)
from storage_lib.ports.errors import unmet
from storage_lib.ports.kept_headers import headers_in
from storage_lib.ports.link_model import LinkOptions, NoStoreLink, StoreLink
from storage_lib.ports.object_model import (
    ByteRange,
    ListEntry,
    ObjectInfo,
    PutResult,
    StoredObject,
    agrees,
)
from storage_lib.ports.streaming import Parts, SentPart

MAX_PAGE = 5000
DETAILED_PAGE = 2500
"""The service makes the next page while one is read, and half a page takes half the memory."""
_LISTED = {"x-ms-version": "2026-02-06"}  # the first that knows startFrom
# How often an object may be replaced between two requests that are to see the same version.
_ATTEMPTS = 5


class AzureObjects(ObjectDriver):
    """A container. It is made by `open`, or when the first operation finds that it is not there; once it
    has been seen, its absence is an error of its own and never reads as "key not found"."""

    capabilities = ObjectCapabilities(
        reports_created=False,
        tells_created=True,
        folds_foreign_names=True,
        lists_ends=True,
        resumes_streams=True,
    )

    def __init__(self, clients: Clients, kept: KeptClients) -> None:
        self._container = Container(clients, kept)
        self._deleting = Deleting(self._container)
        self._creating = Creating(self, self._metadata)
        self._links = Links(self._container)

    async def open(self) -> None:
        """Make the container if it is not there, and see that the service answers and lets us in."""
        self._container.seen = False
        where = f"{self._container.clients.endpoints.blob}/{self._container.clients.container_name}"
        while not self._container.seen:
            try:
                check(await self._container.probe(), 200)
                self._container.seen = True
            except Exception as error:
                try:
                    await self._container.failed(error, f"open {where}")
                except KeyNotFoundError:
                    return  # the container answered for a blob that it has not

    async def put(self, key: str, data: bytes, options: PutOptions) -> PutResult:
        if options.tell_created:
            return await self._creating.put(key, data, options)
        # One Put Blob whatever the size (5,000 MiB at most): blocks of two racing uploads could mix.
        is_small = len(data) <= PIECE_BYTES and self._container.clients.is_direct
        put = self._put_signed if is_small or not _is_sorted_alike(options) else self._put_by_obstore
        etag = await self._container.until_made(
            lambda: put(key, data, options), f"put {key!r}", key, options.if_match
        )
        return PutResult(key, bare(etag), len(data), options.has_created)

    async def _put_signed(self, key: str, data: bytes, options: PutOptions) -> str:
        signed = self._container.signed
        path, headers = signed.path_of(key), put_headers(options)
        response = await self._container.write(
            key, lambda: signed.begin("PUT", path, headers, body=data), conditional=is_ordered(options)
        )
        return etag_of(check(response, 201), f"put {key!r}")

    async def _put_by_obstore(self, key: str, data: bytes, options: PutOptions) -> str:
        from obstore import put_async

        attributes = attributes_of(options, blob_metadata(options.metadata, options.sha256))
        mode: Any = None
        if options.if_absent:
            mode = "create"
        elif options.if_match is not None:
            mode = {"e_tag": quoted(options.if_match)}
        store = self._container.bytes.get(use_of_put(data))
        result = await self._container.write(
            key,
            lambda: put_async(store, key, data, attributes=attributes, mode=mode, use_multipart=False),
            conditional=is_ordered(options),
        )
        return str(result["e_tag"])

    async def get(self, key: str, options: GetOptions) -> StoredObject | None:
        opened = await self._open(key, options, whole=True)
        if opened is None:
            return None
        result, data = opened
        check_length(key, len(data), result)
        return StoredObject(object_info(key, result), data, result.range[0])

    async def read_stream(
        self, key: str, options: GetOptions
    ) -> tuple[ObjectInfo, int, AsyncGenerator[bytes]]:
        opened = await self._open(key, options, "stream")
        assert opened is not None  # noqa: S101 - only with if_none_match it is None
        result, _ = opened
        return object_info(key, result), result.range[0], chunks_of(key, result, read)

    async def head(self, key: str) -> ObjectInfo:
        info = await self._look(key)
        if info is None:
            # The answer to HEAD has no body: only GET tells a missing blob from a missing container. Its
            # body is not read.
            opened = await self._container.open(key, {}, f"head {key!r}")
            assert opened is not None  # noqa: S101 - there was no condition
            info = object_info(key, opened[0])
        return info

    async def _look(self, key: str) -> ObjectInfo | None:
        """`head`; None if it, or the container, is not there."""
        try:
            store = self._container.bytes.get()
            result = await self._container.send(lambda: store.get_async(key, options={"head": True}))
        except FileNotFoundError:
            return None
        except Exception as error:
            await self._container.failed(error, f"head {key!r}", key)
            raise
        return object_info(key, result)

    async def _metadata(self, key: str) -> Mapping[str, str] | None:
        return None if (found := await self._look(key)) is None else found.metadata

    async def put_stream(
        self, key: str, parts: Parts, options: PutOptions, repeat: Repeat = once
    ) -> PutResult:
        if (if_match := options.if_match) is not None:
            await repeat(f"head {key!r}", lambda: self._expect(key, if_match))
        etag = await put_blocks(self._container, key, parts, options, repeat)
        return PutResult(key, etag, parts.size, options.has_created)

    async def uploaded(self, key: str, upload: str) -> dict[int, SentPart]:
        # What is given up cannot be removed: it goes when another is committed, or after a week.
        return await staged(self._container, key, upload)

    async def _expect(self, key: str, if_match: str) -> None:
        """See that the object has this ETag before all is sent for nothing. What is sent and not committed
        stays for a week, too, and Azurite takes it for an object."""
        try:
            info = await self.head(key)
        except KeyNotFoundError as error:
            raise unmet(key, if_match) from error
        if not agrees(info.etag, if_match):
            raise unmet(key, if_match)

    async def copy(self, source: ObjectInfo, target: str, if_absent: bool) -> PutResult:
        etag = await copy_blob(self._container, source, target, if_absent)
        return PutResult(target, etag, source.size, True if if_absent else None)

    async def touch(self, source: ObjectInfo, metadata: dict[str, str]) -> PutResult:
        stored = touched_metadata(metadata, source.sha256)
        if stored is None or headers_in(metadata) != headers_in(source.metadata):
            # No request changes metadata and headers at once, and one after the other would show a mixture.
            return await super().touch(source, metadata)
        etag = await set_metadata(self._container, source, stored)
        return PutResult(source.key, etag, source.size, created=False)

    async def link(self, key: str, options: LinkOptions) -> StoreLink | NoStoreLink:
        if options.method == "PUT" and not self._container.seen:
            await self.open()  # Who uploads by a link cannot make the container.
            self._container.seen = True
        return await self._links.link(key, options)

    async def delete(self, key: str, if_match: str | None) -> None:
        try:
            await self._deleting.delete(key, if_match)
        except PreconditionFailedError:
            # The emulator gives this answer for a missing blob too.
            await self.head(key)
            raise

    async def scan(self, prefix: str, options: ListOptions) -> AsyncGenerator[ListEntry | str]:
        def fetch(start: str | None) -> AsyncGenerator[Page]:
            return self._pages(prefix, options, start)

        async with aclosing(in_key_order(fetch, prefix, options.after)) as listing:
            async for found in listing:
                if is_key(found):
                    yield found

    async def _pages(self, prefix: str, wanted: ListOptions, start: str | None) -> AsyncGenerator[Page]:
        page = DETAILED_PAGE if wanted.details else MAX_PAGE
        size = page if wanted.count is None else min(wanted.count + 1, page)
        query = {"restype": "container", "comp": "list"}
        if prefix:
            query["prefix"] = prefix
        if start is not None:
            query["startFrom"] = start
        if wanted.delimiter is not None:
            query["delimiter"] = wanted.delimiter
        if wanted.details or wanted.ends:
            query["include"] = "metadata"  # The end of a life is metadata, and belongs to the ETag.
        doing, skip, loop = f"list {prefix!r}", wanted.skip, asyncio.get_running_loop()
        query["maxresults"] = str(size)
        asked: asyncio.Task[bytes] | None = None
        try:
            while True:
                body = await (asked or self._listed(query, doing))
                asked, (last, marker) = None, end_of(body, doing)
                if marker:
                    if skip is not None and "startFrom" not in query and last.startswith(skip):
                        # Go on behind all of it. A service that begins anew is not asked again.
                        query = query | {"startFrom": behind(skip)}
                    else:
                        # What was asked for was not enough.
                        query = query | {"marker": marker, "maxresults": str(page)}
                    if wanted.count is None:
                        # The service makes the next page while this one is read. Eager: it is asked now.
                        asked = asyncio.Task(self._listed(query, doing), loop=loop, eager_start=True)
                found = entries_of(items_of(body, doing), details=wanted.details, ends=wanted.ends)
                del body
                yield Page(found if skip is None else without(found, skip), not marker)
                if not marker:
                    return
        finally:
            if asked is not None:
                asked.cancel()
                await asyncio.gather(asked, return_exceptions=True)

    async def _listed(self, query: Mapping[str, str], doing: str) -> bytes:
        """The answer to List Blobs."""
        signed = self._container.signed

        async def ask() -> bytes:
            response = await self._container.send(
                lambda: signed.begin("GET", signed.path_of(), _LISTED, query=query)
            )
            return check(response, 200).body

        return await self._container.until_made(ask, doing)

    # -- requests

    async def _open(
        self, key: str, wanted: GetOptions, use: Use = "request", *, whole: bool = False
    ) -> tuple[Any, bytes] | None:
        """The answer to GET and, with ``whole``, its body; None if the object's ETag still is
        ``if_none_match``."""
        options: dict[str, Any] = {}
        if wanted.if_match is not None:
            options["if_match"] = quoted(wanted.if_match)
        if wanted.if_none_match is not None:
            options["if_none_match"] = quoted(wanted.if_none_match)
        if (byte_range := wanted.byte_range) is not None:
            if (span := request_range(byte_range)) is None:
                return await self._open_resolved(key, byte_range, wanted, use, whole=whole)
            options["range"] = span
        try:
            return await self._container.open(key, options, f"get {key!r}", use, whole=whole)
        except PreconditionFailedError:
            # The emulator gives this answer for a missing blob too.
            await self.head(key)
            raise

    async def _open_resolved(
        self, key: str, byte_range: ByteRange, wanted: GetOptions, use: Use, *, whole: bool
    ) -> tuple[Any, bytes] | None:
        """A range that needs the size first: Azure knows no suffix ranges. The second request insists on
        the object that the first one saw."""
        for _ in range(_ATTEMPTS):
            info = await self.head(key)
            if wanted.if_match is not None and info.etag != wanted.if_match:
                raise unmet(key, wanted.if_match)
            if info.etag == wanted.if_none_match:
                return None
            options = {"range": byte_range.resolve(info.size), "if_match": f'"{info.etag}"'}
            try:
                return await self._container.open(key, options, f"get {key!r}", use, whole=whole)
            except PreconditionFailedError:
                continue
        raise contended(f"get {key!r}")


def _is_sorted_alike(options: PutOptions) -> bool:
    """Whether obstore, which signs headers in the order of their characters, has that of the service."""
    names = list(put_headers(options))
    return sorted(names) == sorted(names, key=place_of)
