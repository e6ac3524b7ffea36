"""Objects as blobs: bytes by obstore, what it cannot do by azure-storage-blob.

obstore costs a fraction of the SDK's CPU per request and of its import, so get, put and head go through it;
deletes are requests of our own. The SDK is imported for the first listing (obstore's prefixes are whole
segments, one foreign blob named ``a//b`` breaks its listing, and its service version has no ``startFrom``),
the first stream up or copy, and to make the container.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any

from storage_lib.backends.azure.attributes import (
    bare,
    blob_metadata,
    object_info,
    quoted,
    touched_metadata,
)
from storage_lib.backends.azure.byte_clients import KeptClients
from storage_lib.backends.azure.clients import Clients
from storage_lib.backends.azure.container import Container
from storage_lib.backends.azure.copies import copy_blob, set_metadata
from storage_lib.backends.azure.deleting import Deleting
from storage_lib.backends.azure.errors import read
from storage_lib.backends.azure.listing import Page, behind, entries_of, in_key_order, without
from storage_lib.backends.azure.streams import is_ordered, put_blocks, staged
from storage_lib.backends.cloud.byte_stores import Use, use_of_put
from storage_lib.backends.cloud.creating import Creating
from storage_lib.backends.cloud.objects import (
    attributes_of,
    check_length,
    chunks_of,
    is_key,
    name_of,
    read_ahead,
    request_range,
    restless,
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
from storage_lib.ports.object_model import (
    ByteRange,
    ListEntry,
    ObjectInfo,
    PutResult,
    StoredObject,
    agrees,
)
from storage_lib.ports.sent import SentPart
from storage_lib.ports.streaming import Parts

MAX_PAGE = 5000
_PROBE = ".system/probe"
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

    async def open(self) -> None:
        """Make the container if it is not there, and see that the service answers and lets us in."""
        self._container.seen = False
        try:
            where = f"{self._container.clients.endpoints.blob}/{self._container.clients.container_name}"
            await self._container.open(_PROBE, {}, f"open {where}")
        except KeyNotFoundError:
            return  # the container answered for a blob that it has not

    async def put(self, key: str, data: bytes, options: PutOptions) -> PutResult:
        if options.tell_created:
            return await self._creating.put(key, data, options)
        from obstore import put_async

        attributes = attributes_of(options, blob_metadata(options.metadata, options.sha256))
        mode: Any = None
        if options.if_absent:
            mode = "create"
        elif options.if_match is not None:
            mode = {"e_tag": quoted(options.if_match)}
        # One Put Blob whatever the size (5,000 MiB at most): blocks of two racing uploads could mix.
        store = self._container.bytes.get(use_of_put(data))
        while True:
            try:
                result = await self._container.write(
                    key,
                    lambda: put_async(
                        store, key, data, attributes=attributes, mode=mode, use_multipart=False
                    ),
                    conditional=is_ordered(options),
                )
                break
            except Exception as error:
                await self._container.failed(error, f"put {key!r}", key, options.if_match)
        self._container.seen = True
        return PutResult(key, bare(result["e_tag"]), len(data), options.has_created)

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
        if stored is None:
            return await super().touch(source, metadata)
        etag = await set_metadata(self._container, source, stored)
        return PutResult(source.key, etag, source.size, created=False)

    async def delete(self, key: str, if_match: str | None) -> None:
        try:
            await self._deleting.delete(key, if_match)
        except PreconditionFailedError:
            # The emulator gives this answer for a missing blob too.
            await self.head(key)
            raise

    async def scan(self, prefix: str, options: ListOptions) -> AsyncGenerator[ListEntry | str]:
        def fetch(start: str | None) -> AsyncGenerator[Page]:
            pages = self._pages(prefix, options, start)
            return read_ahead(pages) if options.count is None else pages

        async with aclosing(in_key_order(fetch, prefix, options.after)) as listing:
            async for found in listing:
                if is_key(found):
                    yield found

    async def _pages(self, prefix: str, wanted: ListOptions, start: str | None) -> AsyncGenerator[Page]:
        size = MAX_PAGE if wanted.count is None else min(wanted.count + 1, MAX_PAGE)
        context: Any = None

        def keep(response: Any) -> None:
            nonlocal context
            context = response.context

        options: dict[str, Any] = {"raw_response_hook": keep}
        if prefix:
            options["name_starts_with"] = prefix
        if start is not None:
            options["start_from"] = start
        # The end of a life is metadata, and belongs to the ETag.
        include = "metadata" if wanted.details or wanted.ends else None
        parameters = {"delimiter": wanted.delimiter, "include": include}
        options["params"] = {name: value for name, value in parameters.items() if value is not None}
        marker, skip = None, wanted.skip
        while True:
            container = await self._container.clients.container()
            # The names-only listing is the one call whose answer the SDK does not turn into slow objects;
            # what it has parsed is in the context that the hook keeps, with size, ETag and time.
            pages: Any = container.list_blob_names(results_per_page=size, **options).by_page(marker)
            try:
                if await self._container.send(partial(anext, pages, None)) is None:
                    return
            except Exception as error:
                await self._container.failed(error, f"list {prefix!r}")
                continue
            self._container.seen = True
            marker = pages.continuation_token
            found = entries_of(context["deserialized_data"], details=wanted.details, ends=wanted.ends)
            is_inside = skip is not None and bool(found) and name_of(found[-1]).startswith(skip)
            yield Page(found if skip is None else without(found, skip), not marker)
            if not marker:
                return
            if skip is not None and is_inside and "start_from" not in options:
                # Go on behind all of it. A service that begins anew is not asked again.
                options["start_from"], marker = behind(skip), None
            else:
                size = MAX_PAGE  # What was asked for was not enough.

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
        raise restless(f"get {key!r}")
