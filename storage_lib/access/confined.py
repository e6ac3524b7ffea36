"""A storage that can do only what one caller may, and that shows it its root as the whole store.

Everything that is refused is refused before anything is touched, so it tells nothing of what is there.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Buffer,
    Callable,
    Generator,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any, NoReturn, cast

from storage_lib.access.policy import Grant
from storage_lib.arguments import whole
from storage_lib.errors import (
    ForbiddenError,
    InvalidArgumentError,
    InvalidKeyError,
    StorageError,
    UnsupportedOperationError,
)
from storage_lib.keys import SYSTEM_PREFIX, user_key, validate_key, validate_prefix
from storage_lib.layers.base import Operation, QueueLayer, TableLayer
from storage_lib.manager import StorageManager
from storage_lib.names import queue_name, table_name
from storage_lib.own_names import audit_tables, owner_of_queue, owner_of_table
from storage_lib.ports import cursors
from storage_lib.ports.backend import QuotaUsage, StorageBackend
from storage_lib.ports.drivers import NamePage, ObjectDriver
from storage_lib.ports.listed import Listed
from storage_lib.ports.object_model import (
    DEFAULT_CONTENT_TYPE,
    KEPT,
    ByteRange,
    Kept,
    ListEntry,
    ListPage,
    ObjectInfo,
    ObjectStats,
    PutResult,
    StoredObject,
)
from storage_lib.ports.objects import DELETED_TOGETHER, ObjectReader, ObjectStore, ObjectWriter
from storage_lib.ports.queues import QueueStore
from storage_lib.ports.streaming import ByteSource, Parts
from storage_lib.ports.tables import TableStore

type Denied = Callable[[str, str], Awaitable[None]]
"""Told of each refusal: the action, and the resource by its name in the store."""


async def _unnoticed(action: str, resource: str) -> None: ...


def confined(
    storage: StorageManager,
    grant: Grant,
    *,
    denied: Denied = _unnoticed,
    looks: Sequence[str] = ("load",),
) -> StorageManager:
    """``storage`` for a caller who has ``grant``. It shares its connections, and need not be closed.

    Whatever the grant does not allow raises `ForbiddenError`; listings leave it out.

    :param denied: awaited before the error is raised; what it raises is raised instead.
    :param looks: the rights of which any lets the caller see an object's properties.
    """
    own = StorageManager(backend=ConfinedBackend(storage.backend, grant, denied, looks))
    own._pickling = storage._pickling  # pyright: ignore[reportPrivateUsage]
    return own


class ConfinedBackend(StorageBackend):
    """A backend for one caller. What is inside it is out of reach: there are no layers to be found."""

    def __init__(
        self, inner: StorageBackend, grant: Grant, denied: Denied, looks: Sequence[str] = ("load",)
    ) -> None:
        self.traced = inner.traced
        self.metrics = inner.metrics
        self._inner, self._grant, self._denied = inner, grant, denied
        self.objects = ConfinedObjects(inner.objects, grant, denied, looks)
        self.tables = TableStore(TableLayer(inner.tables.driver, self._named))
        self.queues = QueueStore(QueueLayer(inner.queues.driver, self._named))
        self._logs = audit_tables(inner)
        self._allowed = {
            port: None if (names := grant.listed(port)) is None else _stored(port, names)
            for port in ("tables", "queues")
        }

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._grant.principal!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("the storage of one caller is neither pickled nor copied")

    async def open(self) -> None:
        await self._inner.open()

    def system(self, port: str) -> str:
        return self._inner.system(port)

    def quotas(self) -> list[QuotaUsage]:
        return []

    async def _named[T](self, operation: Operation, call: Callable[[], Awaitable[T]], /) -> T:
        port, name = operation.port, operation.target
        if operation.name in ("list_tables", "list_queues"):
            page = await call()
            assert isinstance(page, NamePage)  # noqa: S101 - that is what both return
            shown = [each for each in page.names if self._may(port, each, is_read=True)]
            return cast("T", NamePage(shown, page.cursor))
        if not self._may(port, name, is_read=operation.name in _READS):
            await self._denied(port, f"{port}/{name}")
            raise _forbidden(port, name)
        return await call()

    def _may(self, port: str, name: str, *, is_read: bool) -> bool:
        name = name.lower()  # Names of tables are the same in any case.
        if (owner_of_table(name, self._logs) if port == "tables" else owner_of_queue(name)) is not None:
            return is_read and self._grant.operates
        allowed = self._allowed[port]
        return allowed is None or name in allowed


_READS = ("get", "query", "peek", "length")


def _stored(port: str, names: Iterable[str]) -> frozenset[str]:
    """The names by which tables or queues are stored."""
    of_store = table_name if port == "tables" else queue_name
    return frozenset(of_store(each).lower() for each in names)


def _forbidden(action: str, what: str) -> ForbiddenError:
    return ForbiddenError(
        f"you may not {_DOING[action]} {what!r}",
        field=_FIELD.get(action, "key"),
        remedy="ask those who keep the access policy for the right",
    )


_DOING = {
    "load": "load",
    "list": "list what is below",
    "save": "save",
    "delete": "delete",
    "tables": "use the table",
    "queues": "use the queue",
}
_FIELD = {"list": "prefix", "tables": "table", "queues": "queue"}


class ConfinedObjects(ObjectStore):
    """The objects that one caller may use, by the names that it knows: those in the store without the
    root."""

    def __init__(
        self, inner: ObjectStore, grant: Grant, denied: Denied, looks: Sequence[str] = ("load",)
    ) -> None:
        self._inner, self._grant, self._denied, self._looks = inner, grant, denied, looks
        self._root = grant.root
        self.reports_created = inner.reports_created
        self.tells_created = inner.tells_created
        self.max_object_bytes = inner.max_object_bytes
        self.part_bytes = inner.part_bytes
        self.max_stream_bytes = inner.max_stream_bytes

    @property
    def driver(self) -> ObjectDriver:  # pyright: ignore[reportIncompatibleVariableOverride]
        """:raises UnsupportedOperationError: always: there is no way round the checks."""
        raise UnsupportedOperationError(
            "what works on a store below its surface needs a storage that is not confined to one caller"
        )

    @property
    def clock(self) -> Callable[[], float]:
        return self._inner.clock

    @clock.setter
    def clock(self, clock: Callable[[], float]) -> NoReturn:
        raise AttributeError("the clock is the store's")

    # -- what a caller may do

    async def _may(self, key: str, *actions: str) -> str:
        """The name in the store of an object to which all of this is allowed."""
        name = self._root + user_key(_text(key))
        for action in actions:
            if not self._grant.allows(action, key):
                validate_key(key)  # It goes into logs.
                await self._denied(action, f"objects/{name}")
                raise _forbidden(action, key)
        return name

    @contextmanager
    def _told(self) -> Generator[None]:
        """Have errors name keys as the caller knows them."""
        try:
            yield
        except StorageError as error:
            if self._root:
                _without(self._root, error)
            raise

    def _info(self, info: ObjectInfo) -> ObjectInfo:
        return replace(info, key=info.key.removeprefix(self._root)) if self._root else info

    def _result(self, result: PutResult) -> PutResult:
        return replace(result, key=result.key.removeprefix(self._root)) if self._root else result

    def _entry(self, entry: ListEntry) -> ListEntry:
        if not self._root:
            return entry
        info = None if entry.info is None else self._info(entry.info)
        return replace(entry, key=entry.key.removeprefix(self._root), info=info)

    # -- writing

    async def put(
        self,
        key: str,
        data: Buffer,
        *,
        content_type: str = DEFAULT_CONTENT_TYPE,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_absent: bool = False,
        ttl: float | datetime | None = None,
    ) -> PutResult:
        name = await self._may(key, "save")
        with self._told():
            return self._result(
                await self._inner.put(
                    name,
                    data,
                    content_type=content_type,
                    metadata=metadata,
                    if_match=if_match,
                    if_absent=if_absent,
                    ttl=ttl,
                )
            )

    async def put_stream(
        self,
        key: str,
        source: ByteSource,
        *,
        content_type: str = DEFAULT_CONTENT_TYPE,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_absent: bool = False,
        ttl: float | datetime | None = None,
    ) -> PutResult:
        name = await self._may(key, "save")
        with self._told():
            return self._result(
                await self._inner.put_stream(
                    name,
                    source,
                    content_type=content_type,
                    metadata=metadata,
                    if_match=if_match,
                    if_absent=if_absent,
                    ttl=ttl,
                )
            )

    @asynccontextmanager
    async def open_writer(self, key: str, **options: Any) -> AsyncGenerator[ObjectWriter]:
        name = await self._may(key, "save")
        with self._told():
            async with self._inner.open_writer(name, **options) as writer:
                yield writer
            if writer.result is not None:
                writer.result = self._result(writer.result)

    async def adopt(
        self,
        key: str,
        data: bytes | Parts,
        content_type: str,
        metadata: Mapping[str, str],
        *,
        sha256: str | None = None,
        if_match: str | None = None,
        if_absent: bool = False,
        upload: str | None = None,
    ) -> PutResult:
        """:raises UnsupportedOperationError: always: what it stores is not what callers see."""
        raise UnsupportedOperationError("objects are copied from another store below the surface of this one")

    async def touch(
        self,
        key: str,
        *,
        ttl: float | datetime | Kept | None = KEPT,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
    ) -> PutResult:
        name = await self._may(key, "save")
        with self._told():
            return self._result(await self._inner.touch(name, ttl=ttl, metadata=metadata, if_match=if_match))

    async def delete(self, key: str, *, if_match: str | None = None, missing_ok: bool = False) -> None:
        name = await self._may(key, "delete")
        with self._told():
            await self._inner.delete(name, if_match=if_match, missing_ok=missing_ok)

    async def delete_listed(self, key: str) -> None:
        name = await self._may(key, "delete")
        with self._told():
            await self._inner.delete_listed(name)

    async def delete_many(
        self, keys: Iterable[str], *, missing_ok: bool = False, together: int = DELETED_TOGETHER
    ) -> dict[str, StorageError | None]:
        results: dict[str, StorageError | None] = dict.fromkeys(keys)
        names: dict[str, str] = {}
        for key in results:
            try:
                names[await self._may(key, "delete")] = key
            except (ForbiddenError, InvalidKeyError) as error:
                results[key] = error
        done = await self._inner.delete_many(names, missing_ok=missing_ok, together=together)
        for name, error in done.items():
            if error is not None and self._root:
                _without(self._root, error)
            results[names[name]] = error
        return results

    async def copy(self, source: str, target: str, *, if_absent: bool = False) -> PutResult:
        names = await self._may(source, "load"), await self._may(target, "save")
        with self._told():
            return self._result(await self._inner.copy(*names, if_absent=if_absent))

    async def move(self, source: str, target: str, *, if_absent: bool = False) -> PutResult:
        names = await self._may(source, "load", "delete"), await self._may(target, "save")
        with self._told():
            return self._result(await self._inner.move(*names, if_absent=if_absent))

    async def mark(self, key: str, metadata: Mapping[str, str]) -> None:
        await self._inner.mark(await self._may(key, "save"), metadata)

    async def mark_again(self, key: str, metadata: Mapping[str, str]) -> None:
        await self._inner.mark_again(await self._may(key, "save"), metadata)

    async def sweep_expired(self, limit: int = 1000, *, seconds: float | None = None) -> int:
        """:raises UnsupportedOperationError: always: a sweep is of the whole store."""
        raise UnsupportedOperationError("expired objects are removed from the whole store, not by one caller")

    # -- reading

    async def get(
        self,
        key: str,
        *,
        byte_range: ByteRange | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
        fresh: bool = False,
        dated: bool = True,
    ) -> StoredObject | None:
        name = await self._may(key, "load")
        with self._told():
            found = await self._inner.get(
                name,
                byte_range=byte_range,
                if_match=if_match,
                if_none_match=if_none_match,
                fresh=fresh,
                dated=dated,
            )
        return None if found is None else self._stored(found)

    def at_hand(self, key: str) -> StoredObject | None:
        if type(key) is not str or not self._grant.allows("load", key):
            return None  # `get` refuses it.
        found = self._inner.at_hand(self._root + key)
        return None if found is None else self._stored(found)

    def _stored(self, found: StoredObject) -> StoredObject:
        if not self._root:
            return found
        return StoredObject(self._info(found.info), found.data, found.start, found.verified)

    def open_reader(
        self,
        key: str,
        *,
        byte_range: ByteRange | None = None,
        if_match: str | None = None,
        fresh: bool = False,
    ) -> AbstractAsyncContextManager[ObjectReader]:
        return self._reading(key, byte_range, if_match, fresh)

    @asynccontextmanager
    async def _reading(
        self, key: str, byte_range: ByteRange | None, if_match: str | None, fresh: bool
    ) -> AsyncGenerator[ObjectReader]:
        name = await self._may(key, "load")
        with self._told():
            async with self._inner.open_reader(
                name, byte_range=byte_range, if_match=if_match, fresh=fresh
            ) as reader:
                reader.info = self._info(reader.info)
                yield reader

    async def head(self, key: str, *, fresh: bool = False) -> ObjectInfo:
        by = next((each for each in self._looks if self._grant.allows(each, _text(key))), self._looks[0])
        name = await self._may(key, by)
        with self._told():
            return self._info(await self._inner.head(name, fresh=fresh))

    # -- listing

    async def stats(self, prefix: str = "", *, skip: str | None = None) -> ObjectStats:
        await self._may_list(prefix)
        if self._grant.covers("list", prefix):
            with self._told():
                return await self._inner.stats(self._root + prefix, skip=self._skipped(skip))
        count = total = 0
        async for entry in self.iterate(prefix, details=True, skip=skip):
            assert isinstance(entry, ListEntry)  # noqa: S101 - there is no delimiter
            count += 1
            total += entry.size or 0
        return ObjectStats(count, total)

    async def list_page(
        self,
        prefix: str = "",
        *,
        delimiter: str | None = None,
        limit: int = 1000,
        cursor: str | None = None,
        start_after: str | None = None,
        details: bool = False,
        skip: str | None = None,
    ) -> ListPage:
        await self._may_list(prefix)
        if start_after is not None:
            validate_prefix(start_after, "start_after")
        if self._grant.covers("list", prefix):
            with self._told():
                page = await self._inner.list_page(
                    self._root + prefix,
                    delimiter=delimiter,
                    limit=limit,
                    cursor=cursor,
                    start_after=None if start_after is None else self._root + start_after,
                    details=details,
                    skip=self._skipped(skip),
                )
            if not self._root:
                return page
            shown = [each.removeprefix(self._root) for each in page.prefixes]
            return ListPage([self._entry(each) for each in page.entries], shown, page.cursor)
        return await self._page(prefix, delimiter, limit, cursor, start_after, details)

    async def _page(
        self,
        prefix: str,
        delimiter: str | None,
        limit: int,
        cursor: str | None,
        start_after: str | None,
        details: bool,
    ) -> ListPage:
        """A page of areas, one behind the other. Its cursor is the last name."""
        limit = whole("limit", limit, 1, 5000)
        bound = ("confined", self._root, prefix, delimiter)
        if cursor is not None:
            last = _decoded(cursors.unbound(cursor, *bound))
            start_after = max(start_after or "", last, key=str.encode)
        entries: list[ListEntry] = []
        prefixes: list[str] = []
        last = ""
        async for found in self.iterate(
            prefix, delimiter=delimiter, start_after=start_after, details=details
        ):
            if len(entries) + len(prefixes) == limit:
                return ListPage(entries, prefixes, cursors.bound(_encoded(last), *bound))
            if isinstance(found, str):
                prefixes.append(last := found)
            else:
                entries.append(found)
                last = found.key
        return ListPage(entries, prefixes, None)

    def iterate(
        self,
        prefix: str = "",
        *,
        delimiter: str | None = None,
        start_after: str | None = None,
        details: bool = False,
        skip: str | None = None,
    ) -> Listed[ListEntry | str]:
        async def found() -> AsyncGenerator[ListEntry | str]:
            await self._may_list(prefix)
            if start_after is not None:
                validate_prefix(start_after, "start_after")
            if self._grant.covers("list", prefix):
                async for each in self._below(prefix, False, delimiter, start_after, details, skip):
                    yield each
                return
            if delimiter not in (None, "/"):
                raise InvalidArgumentError(
                    f"delimiter {delimiter!r} is not supported", field="delimiter", limit="'/' or none"
                )
            folded = ""
            for area in self._grant.areas("list", prefix):
                name = "" if delimiter is None else _folded(area, prefix)
                if name:
                    if name == folded or (start_after is not None and name.encode() <= start_after.encode()):
                        continue
                    if await self._holds(area):
                        folded = name
                        yield name
                    continue
                is_key = not area.endswith("/")
                async for each in self._below(area, is_key, delimiter, start_after, details, skip):
                    yield each

        return Listed(found)

    async def _below(
        self,
        area: str,
        is_key: bool,
        delimiter: str | None,
        start_after: str | None,
        details: bool,
        skip: str | None,
    ) -> AsyncGenerator[ListEntry | str]:
        """The names in an area, behind ``start_after``."""
        after = None
        if start_after:
            if not is_key and start_after.startswith(area):
                after = self._root + start_after
            elif start_after.encode() >= area.encode():
                return  # All of it is before, or at, `start_after`.
        with self._told():
            async for each in self._inner.iterate(
                self._root + area,
                delimiter=delimiter,
                start_after=after,
                details=details,
                skip=self._skipped(skip),
            ):
                if isinstance(each, str):
                    if not is_key:
                        yield each.removeprefix(self._root)
                    continue
                entry = self._entry(each)
                if not is_key or entry.key == area:
                    yield entry
                if is_key:
                    return  # The key itself comes first.

    async def _holds(self, area: str) -> bool:
        async for _ in self._below(area, not area.endswith("/"), None, None, False, None):
            return True
        return False

    async def _may_list(self, prefix: str) -> None:
        validate_prefix(prefix)
        user_key(prefix)
        if not self._grant.covers("list", prefix) and not self._grant.areas("list", prefix):
            await self._denied("list", f"objects/{self._root}{prefix}")
            raise _forbidden("list", prefix)

    def _skipped(self, skip: str | None) -> str | None:
        """The library's own objects are in the store's root, and in no other."""
        return None if self._root else skip or SYSTEM_PREFIX


def _text(key: str) -> str:
    """:raises InvalidKeyError: it is none. Other faults are found by the store."""
    return key if isinstance(key, str) else validate_key(key)  # pyright: ignore[reportUnnecessaryIsInstance]


def _folded(area: str, prefix: str) -> str:
    """The common prefix that all names of an area below ``prefix`` have; empty for a single key."""
    at = area.find("/", len(prefix))
    return "" if at < 0 else area[: at + 1]


def _encoded(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode().rstrip("=")


def _decoded(text: str) -> str:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise cursors.refused() from error


def _without(root: str, error: StorageError) -> None:
    """Take the root from the keys that an error names."""
    named = re.compile(rf"(?<![\w/.-]){re.escape(root)}")
    for name in ("message", "limit", "remedy"):
        if (text := getattr(error, name)) is not None:
            setattr(error, name, named.sub("", text))
    error.args = (error.message,)
