"""Objects as blobs: bytes by obstore, what it can not do by azure-storage-blob.

obstore costs a fraction of the SDK's CPU per request and of its import, so get, put, head and the
unconditional delete go through it. The SDK is imported for the first listing (obstore's prefixes are whole
segments, one foreign blob named ``a//b`` breaks its listing, and its service version has no ``startFrom``),
the first delete with a condition or a SAS, and to make the container.

On a blob, user metadata ``some-name`` is ``some_name`` (names are C# identifiers there; ours have no ``_``),
values are as `encode_metadata_value` leaves them, and the checksum is ``aos_sha256``. Metadata of other
programs is given with lower-case names and ``-`` for ``_``; names outside our grammar are left out.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from storage_lib.backends.azure.clients import CONNECT_SECONDS, READ_SECONDS, Clients
from storage_lib.backends.azure.errors import CONTAINER_MISSING, read
from storage_lib.backends.azure.listing import Page, in_key_order, parse
from storage_lib.backends.objects import (
    ByteRange,
    ListEntry,
    ObjectInfo,
    ObjectStore,
    PutResult,
    StoredObject,
)
from storage_lib.errors import (
    AccessDeniedError,
    IntegrityError,
    InvalidKeyError,
    KeyNotFoundError,
    PreconditionFailedError,
    TransientStorageError,
)
from storage_lib.keys import (
    decode_metadata_value,
    encode_metadata_value,
    validate_key,
    validate_prefix,
)

if TYPE_CHECKING:
    from obstore.store import AzureStore, ClientConfig

DEFAULT_CONTENT_TYPE = "application/octet-stream"
CHECKSUM = "aos_sha256"
MAX_PAGE = 5000
# Uploads of more go through a second client without a read timeout: the service answers only at their end.
LARGE_UPLOAD_BYTES = 16 * 1024 * 1024
_PROBE = ".system/probe"


class AzureObjectStore(ObjectStore):
    """A container. It is made by `open`, or when the first operation finds that it is not there; once it
    has been seen, its absence is an error of its own and never reads as "key not found"."""

    reports_created: ClassVar[bool] = False

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._container_seen = False
        self._stores: dict[bool, AzureStore] = {}

    async def open(self) -> None:
        """Make the container if it is not there, and see that the service answers and lets us in."""
        self._container_seen = False
        try:
            where = f"{self._clients.endpoints.blob}/{self._clients.container_name}"
            await self._open(_PROBE, {}, f"open {where}")
        except KeyNotFoundError:
            return  # the container answered for a blob that it has not

    def close(self) -> None:
        """Drop obstore's connections."""
        self._stores.clear()

    # -- hooks

    async def _put(
        self,
        key: str,
        data: bytes,
        content_type: str,
        metadata: dict[str, str],
        sha256: str,
        if_match: str | None,
        if_absent: bool,
    ) -> PutResult:
        attributes = {"Content-Type": content_type, CHECKSUM: sha256}
        for name, value in metadata.items():
            attributes[name.replace("-", "_")] = _encode_value(value)
        mode: Any = None
        if if_absent:
            mode = "create"
        elif if_match is not None:
            mode = {"e_tag": _quoted(if_match, key)}
        # One Put Blob whatever the size (5,000 MiB at most): blocks of two racing uploads could mix.
        store = self._store(large=len(data) > LARGE_UPLOAD_BYTES)
        while True:
            try:
                result = await store.put_async(
                    key, data, attributes=attributes, mode=mode, use_multipart=False
                )
                break
            except Exception as error:
                await self._failed(error, f"put {key!r}", "if_absent" if if_absent else "if_match")
        self._container_seen = True
        created = True if if_absent else None if if_match is None else False
        return PutResult(key, _bare(result["e_tag"]), len(data), created)

    async def _get(
        self, key: str, byte_range: ByteRange | None, if_match: str | None, if_none_match: str | None
    ) -> StoredObject | None:
        options: dict[str, Any] = {}
        if if_match is not None:
            options["if_match"] = _quoted(if_match, key)
        if if_none_match is not None and _is_etag(if_none_match):
            options["if_none_match"] = f'"{if_none_match}"'
        if byte_range is not None:
            if byte_range.start < 0 or (byte_range.end is not None and byte_range.end <= byte_range.start):
                return await self._get_resolved(key, byte_range, if_match, if_none_match)
            options["range"] = (
                {"offset": byte_range.start} if byte_range.end is None else (byte_range.start, byte_range.end)
            )
        try:
            return await self._read(key, options)
        except PreconditionFailedError:
            # The emulator gives this answer for a missing blob too.
            await self._head(key)
            raise

    async def _get_resolved(
        self, key: str, byte_range: ByteRange, if_match: str | None, if_none_match: str | None
    ) -> StoredObject | None:
        """A range that needs the size first: Azure knows no suffix ranges. The second request insists on
        the object that the first one saw."""
        for _ in range(5):
            info = await self._head(key)
            if if_match is not None and info.etag != if_match:
                raise PreconditionFailedError(
                    f"get {key!r}: its ETag is {info.etag}, not {if_match}", field="if_match"
                )
            if if_none_match is not None and info.etag == if_none_match:
                return None
            options = {"range": byte_range.resolve(info.size), "if_match": f'"{info.etag}"'}
            try:
                return await self._read(key, options)
            except PreconditionFailedError:
                continue
        raise TransientStorageError(f"get {key!r}: it is being replaced all the time")

    async def _head(self, key: str) -> ObjectInfo:
        doing = f"head {key!r}"
        try:
            result = await self._store().get_async(key, options={"head": True})
        except FileNotFoundError:
            # The answer to HEAD has no body: only GET tells a missing blob from a missing container. Its
            # body is not read.
            result = await self._open(key, {}, doing)
        except Exception as error:
            await self._failed(error, doing)
            raise
        return _info(key, result)

    async def _delete(self, key: str, if_match: str | None) -> None:
        doing = f"delete {key!r}"
        while True:
            try:
                if if_match is None and self._clients.endpoints.sas is None:
                    await self._store().delete_async(key)
                else:
                    # obstore knows no condition, and deletes by a batch, for which a SAS may not be made.
                    await self._delete_by_sdk(key, if_match)
                break
            except Exception as error:
                try:
                    await self._failed(error, doing)
                except PreconditionFailedError:
                    # The emulator gives this answer for a missing blob too.
                    await self._head(key)
                    raise
        self._container_seen = True

    async def _delete_by_sdk(self, key: str, if_match: str | None) -> None:
        condition: dict[str, Any] = {}
        if if_match is not None:
            from azure.core import MatchConditions

            condition = {"etag": _quoted(if_match, key), "match_condition": MatchConditions.IfNotModified}
        blob = (await self._clients.container()).get_blob_client(key)
        await blob.delete_blob(**condition)

    async def _scan(
        self, prefix: str, delimiter: str | None, after: str | None, count: int | None, details: bool
    ) -> AsyncIterator[ListEntry | str]:
        size = MAX_PAGE if count is None else min(count + 1, MAX_PAGE)

        def fetch(start: str | None) -> AsyncIterator[Page]:
            return self._pages(prefix, delimiter, start, size, details)

        async for found in in_key_order(fetch, prefix, after):
            try:
                if isinstance(found, str):
                    validate_prefix(found)
                else:
                    validate_key(found.key)
            except InvalidKeyError:
                continue
            yield found

    async def _pages(
        self, prefix: str, delimiter: str | None, start: str | None, size: int, details: bool
    ) -> AsyncIterator[Page]:
        body = b""

        def keep(response: Any) -> None:
            nonlocal body
            body = response.http_response.body()

        options: dict[str, Any] = {"raw_response_hook": keep, "results_per_page": size}
        if prefix:
            options["name_starts_with"] = prefix
        if start is not None:
            options["start_from"] = start
        if delimiter is not None:
            options["params"] = {"delimiter": delimiter}
        while True:
            container = await self._clients.container()
            # The names-only listing is the one call whose answer the SDK does not turn into slow objects;
            # the hook keeps it to be parsed once, with size, ETag and time.
            pages: Any = container.list_blob_names(**options).by_page()
            try:
                async for _ in pages:
                    self._container_seen = True
                    yield Page(parse(body, details=details), not pages.continuation_token)
                return
            except Exception as error:
                await self._failed(error, f"list {prefix!r}")

    # -- requests

    async def _read(self, key: str, options: dict[str, Any]) -> StoredObject | None:
        result = await self._open(key, options, f"get {key!r}")
        if result is None:
            return None
        try:
            data = bytes(await result.bytes_async())
        except Exception as error:
            await self._failed(error, f"get {key!r}")
            raise
        start, end = result.range
        if len(data) != end - start:
            raise IntegrityError(
                f"get {key!r}: {len(data)} bytes arrived, the service announced {end - start}"
            )
        return StoredObject(_info(key, result), data, start)

    async def _open(self, key: str, options: Any, doing: str) -> Any:
        """The answer to GET, its body not yet read; None if it is "not modified"."""
        while True:
            try:
                result = await self._store().get_async(key, options=options)
            except Exception as error:
                if type(error).__name__ == "NotModifiedError":
                    return None
                await self._failed(error, doing)
            else:
                self._container_seen = True
                return result

    async def _failed(self, error: Exception, doing: str, condition: str = "if_match") -> None:
        """Raise what ``error`` means. Return if the container has just been made: try again then."""
        answer = read(error)
        if answer is None:
            raise error
        if answer.code == CONTAINER_MISSING and not self._container_seen:
            await self._create_container()
            return
        if answer.code == "BlobNotFound":
            self._container_seen = True
        failure = answer.as_error(doing)
        if isinstance(failure, PreconditionFailedError):
            failure.field = condition
        raise failure from error

    async def _create_container(self) -> None:
        name = self._clients.container_name
        try:
            await (await self._clients.container()).create_container()
        except Exception as error:
            answer = read(error)
            if answer is None:
                raise
            if answer.code != "ContainerAlreadyExists":
                failure = answer.as_error(f"create container {name!r}")
                if isinstance(failure, AccessDeniedError):
                    failure.remedy = f"create the container {name!r}, or allow these credentials to do it"
                raise failure from error
        self._container_seen = True

    def _store(self, *, large: bool = False) -> AzureStore:
        store = self._stores.get(large)
        if store is None:
            self._clients.check_open()
            store = self._stores[large] = self._make_store(large=large)
        return store

    def _make_store(self, *, large: bool) -> AzureStore:
        from obstore.store import AzureStore

        endpoints = self._clients.endpoints
        client: dict[str, Any] = {
            "allow_http": endpoints.blob.startswith("http:"),
            "connect_timeout": f"{CONNECT_SECONDS}s",
            # The whole request; a connection that stalls is ended by the read timeout.
            "timeout": "1h",
        }
        if not large:
            client["read_timeout"] = f"{READ_SECONDS}s"
        if self._clients.verify is not None:
            client["root_certificate"] = Path(self._clients.verify).read_bytes()
        options: dict[str, Any] = {
            "account_name": endpoints.account_name,
            "endpoint": endpoints.blob,
            # obstore reads AZURE_… variables for what is not given, and would prefer some of them.
            "use_emulator": False,
            "use_fabric_endpoint": False,
            "skip_signature": False,
        }
        if endpoints.account_key is not None:
            options |= {"account_key": endpoints.account_key, "credential_type": "access_key"}
        elif endpoints.sas is not None:
            options |= {"sas_key": endpoints.sas, "credential_type": "sas_token"}
        else:
            options["credential_provider"] = self._token
        return AzureStore(
            self._clients.container_name,
            client_options=cast("ClientConfig", client),
            retry_config={"max_retries": 0},
            **options,
        )

    async def _token(self) -> Any:
        token = await self._clients.token()
        return {"token": token.token, "expires_at": datetime.fromtimestamp(token.expires_on, UTC)}


# -- what is on the wire

_METADATA_NAME = re.compile(r"[a-z][a-z0-9-]{0,63}")
_HTTP_ATTRIBUTES = frozenset(
    {
        "Cache-Control",
        "Content-Disposition",
        "Content-Encoding",
        "Content-Language",
        "Content-Type",
        "Storage-Class",
    }
)
# Some proxies and old clients drop a header without a value. No value of ours contains U+0000.
_EMPTY_VALUE = "%00"


def _encode_value(value: str) -> str:
    # The service signs header values with runs of spaces folded into one; encoded ones are left alone.
    return encode_metadata_value(value).replace("  ", "%20%20") or _EMPTY_VALUE


def _decode_value(value: str) -> str:
    return "" if value == _EMPTY_VALUE else decode_metadata_value(value)


def _info(key: str, result: Any) -> ObjectInfo:
    meta = result.meta
    content_type = DEFAULT_CONTENT_TYPE
    sha256 = None
    metadata: dict[str, str] = {}
    for name, value in result.attributes.items():
        if name == "Content-Type":
            content_type = value or DEFAULT_CONTENT_TYPE
        elif name == CHECKSUM:
            sha256 = value
        elif name not in _HTTP_ATTRIBUTES:
            ours = name.lower().replace("_", "-")
            if _METADATA_NAME.fullmatch(ours):
                metadata[ours] = _decode_value(value)
    return ObjectInfo(
        key, meta["size"], _bare(meta["e_tag"]), meta["last_modified"], content_type, metadata, sha256
    )


def _bare(etag: str | None) -> str:
    return (etag or "").strip('"')


def _is_etag(text: str) -> bool:
    return text.isascii() and text.isprintable() and '"' not in text


def _quoted(etag: str, key: str) -> str:
    if not _is_etag(etag):
        raise PreconditionFailedError(f"{key!r} can not have the ETag {etag!r}", field="if_match")
    return f'"{etag}"'
