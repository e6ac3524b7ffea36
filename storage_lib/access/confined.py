"""A storage that can do only what one caller may, and that shows it its root as the whole store.

Everything that is refused is refused before anything is touched, so it tells nothing of what is there.
"""

from __future__ import annotations

import re
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Buffer,
    Callable,
    Generator,
    Iterable,
    Mapping,
)
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any, Literal, NoReturn, Unpack, cast

from storage_lib import base64url
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
from storage_lib.ports import cursors
from storage_lib.ports.backend import QuotaUsage, StorageBackend
from storage_lib.ports.drivers import NamePage, ObjectDriver
from storage_lib.ports.link_model import LinkOptions, NoStoreLink, StoreLink
from storage_lib.ports.listed import Listed
from storage_lib.ports.object_model import (
    ListEntry,
    ListingOptions,
    ListPage,
    ObjectInfo,
    ObjectStats,
    PageOptions,
    PutResult,
    ReadOptions,
    SaveOptions,
    StoredObject,
)
from storage_lib.ports.objects import DELETED_TOGETHER, ObjectReader, ObjectStore, ObjectWriter
from storage_lib.ports.queues import QueueStore
from storage_lib.ports.reach import Reach
from storage_lib.ports.streaming import ByteSource
from storage_lib.ports.tables import TableStore
from storage_lib.reserved_names import TASKS, audit_tables, has_conversations, owner_of_queue, owner_of_table

type Denied = Callable[[str, str], Awaitable[None]]
"""Told of each refusal: the action, and the resource by its name in the store."""


async def _unnoticed(action: str, resource: str) -> None: ...


def confined(
    storage: StorageManager,
    grant: Grant,
    *,
    denied: Denied = _unnoticed,
    looks: str = "load",
) -> StorageManager:
    """``storage`` for a caller who has ``grant``. It shares its connections, and need not be closed.

    Whatever the grant does not allow raises `ForbiddenError`; listings leave it out.

    :param denied: awaited before the error is raised; what it raises is raised instead.
    :param looks: the right that lets the caller see an object's properties.
    """
    own = StorageManager(backend=ConfinedBackend(storage.backend, grant, denied, looks))
    own._pickling = storage._pickling  # pyright: ignore[reportPrivateUsage]
    return own


class ConfinedBackend(StorageBackend):
    """A backend for one caller. What is inside it is out of reach: there are no layers to be found."""

    def __init__(self, inner: StorageBackend, grant: Grant, denied: Denied, looks: str = "load") -> None:
        self.traced = inner.traced
        self.metrics = inner.metrics
        self._inner, self._grant, self._denied = inner, grant, denied
        self.objects = self._objects = ConfinedObjects(inner.objects, grant, denied, looks)
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

    def reach(self) -> Reach:
        return _ConfinedReach(self._inner, self._objects)

    def quotas(self) -> list[QuotaUsage]:
        return []

    async def _named[T](self, operation: Operation, call: Callable[[], Awaitable[T]], /) -> T:
        port, name = operation.port, operation.target
        if operation.name in ("list_tables", "list_queues"):
            page = await call()
            assert isinstance(page, NamePage)  # noqa: S101 - that is what both return
            shown = [each for each in page.names if self._may(port, each, is_read=True)]
            return cast("T", NamePage(shown, page.cursor))
        await self._need(port, name, is_read=operation.name in _READS)
        return await call()

    async def need_to_write(self, port: Literal["tables", "queues"], name: str) -> None:
        """:raises ForbiddenError: the caller may not write to this table, or use this queue."""
        await self._need(port, table_name(name) if port == "tables" else queue_name(name), is_read=False)

    async def _need(self, port: str, name: str, *, is_read: bool) -> None:
        if not self._may(port, name, is_read=is_read):
            await self._denied(port, f"{port}/{name}")
            if self._grant.operates and (owner := self.owner(port, name)) is not None:
                raise ForbiddenError(
                    f"{port[:-1]} {name!r} is the app's own ({owner}), which nobody changes from outside",
                    field=_FIELD[port],
                    remedy="use another name; tasks have routes of their own" if owner == TASKS else None,
                )
            raise _forbidden(port, name)

    def _may(self, port: str, name: str, *, is_read: bool) -> bool:
        if self.owner(port, name) is not None:
            return is_read and self._grant.operates
        allowed = self._allowed[port]
        return allowed is None or name.lower() in allowed

    def owner(self, port: str, name: str) -> str | None:
        """What of the app's own it belongs to; names of tables are the same in any case."""
        if port == "tables" and has_conversations(name.lower()):
            return "conversations"
        return owner_of_table(name.lower(), self._logs) if port == "tables" else owner_of_queue(name.lower())


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

    def __init__(self, inner: ObjectStore, grant: Grant, denied: Denied, looks: str = "load") -> None:
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

    async def stored(self, key: str, *actions: str) -> str:
        """The name in the store of an object to which all of this is allowed."""
        name = self._root + user_key(_text(key))
        for action in actions:
            if not self._grant.allows(action, key):
                validate_key(key)  # It goes into logs.
                await self._denied(action, f"objects/{name}")
                raise _forbidden(action, key)
        return name

    async def need(self, key: str, *actions: str) -> None:
        """:raises ForbiddenError: the caller may not do all of this to the object."""
        await self.stored(key, *actions)

    async def stored_prefix(self, prefix: str) -> str:
        """The longest prefix in the store of all that may be listed below this one."""
        await self._may_list(prefix)
        if self._grant.covers("list", prefix):
            return self._root + prefix
        return self._root + _begins(self._grant.areas("list", prefix))

    def shown(self, stored: str) -> str | None:
        """What the caller calls an object; None if it may not list it."""
        key = stored.removeprefix(self._root)
        return key if stored.startswith(self._root) and self._grant.allows("list", key) else None

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

    async def _saved(self, saving: Awaitable[PutResult]) -> PutResult:
        with self._told():
            return self._result(await saving)

    async def put(self, key: str, data: Buffer, **options: Unpack[SaveOptions]) -> PutResult:
        return await self._saved(self._inner.put(await self.stored(key, "save"), data, **options))

    async def put_stream(self, key: str, source: ByteSource, **options: Unpack[SaveOptions]) -> PutResult:
        return await self._saved(self._inner.put_stream(await self.stored(key, "save"), source, **options))

    @asynccontextmanager
    async def open_writer(self, key: str, **options: Unpack[SaveOptions]) -> AsyncGenerator[ObjectWriter]:
        name = await self.stored(key, "save")
        with self._told():
            async with self._inner.open_writer(name, **options) as writer:
                yield writer
            if writer.result is not None:
                writer.result = self._result(writer.result)

    async def adopt(self, key: str, *_: Any, **__: Any) -> NoReturn:
        """:raises UnsupportedOperationError: always: what it stores is not what callers see."""
        raise UnsupportedOperationError("objects are copied from another store below the surface of this one")

    async def touch(self, key: str, **changes: Any) -> PutResult:
        return await self._saved(self._inner.touch(await self.stored(key, "save"), **changes))

    async def delete(self, key: str, *, if_match: str | None = None, missing_ok: bool = False) -> None:
        name = await self.stored(key, "delete")
        with self._told():
            await self._inner.delete(name, if_match=if_match, missing_ok=missing_ok)

    async def delete_listed(self, key: str) -> None:
        name = await self.stored(key, "delete")
        with self._told():
            await self._inner.delete_listed(name)

    async def delete_many(
        self, keys: Iterable[str], *, missing_ok: bool = False, together: int = DELETED_TOGETHER
    ) -> dict[str, StorageError | None]:
        results: dict[str, StorageError | None] = dict.fromkeys(keys)
        names: dict[str, str] = {}
        for key in results:
            try:
                names[await self.stored(key, "delete")] = key
            except (ForbiddenError, InvalidKeyError) as error:
                results[key] = error
        done = await self._inner.delete_many(names, missing_ok=missing_ok, together=together)
        for name, error in done.items():
            if error is not None and self._root:
                _without(self._root, error)
            results[names[name]] = error
        return results

    async def copy(self, source: str, target: str, *, if_absent: bool = False) -> PutResult:
        names = await self.stored(source, "load"), await self.stored(target, "save")
        return await self._saved(self._inner.copy(*names, if_absent=if_absent))

    async def move(self, source: str, target: str, *, if_absent: bool = False) -> PutResult:
        names = await self.stored(source, "load", "delete"), await self.stored(target, "save")
        return await self._saved(self._inner.move(*names, if_absent=if_absent))

    async def mark(self, key: str, metadata: Mapping[str, str]) -> None:
        await self._inner.mark(await self.stored(key, "save"), metadata)

    async def mark_again(self, key: str, metadata: Mapping[str, str]) -> None:
        await self._inner.mark_again(await self.stored(key, "save"), metadata)

    async def sweep_expired(self, limit: int = 1000, *, seconds: float | None = None) -> int:
        """:raises UnsupportedOperationError: always: a sweep is of the whole store."""
        raise UnsupportedOperationError("expired objects are removed from the whole store, not by one caller")

    async def link(self, key: str, options: LinkOptions) -> StoreLink | NoStoreLink:
        name = await self.stored(key, "load" if options.method == "GET" else "save")
        with self._told():
            return await self._inner.link(name, options)

    # -- reading

    async def get(self, key: str, **options: Any) -> StoredObject | None:
        name = await self.stored(key, "load")
        with self._told():
            found = await self._inner.get(name, **options)
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

    @asynccontextmanager
    async def open_reader(self, key: str, **options: Unpack[ReadOptions]) -> AsyncGenerator[ObjectReader]:
        name = await self.stored(key, "load")
        with self._told():
            async with self._inner.open_reader(name, **options) as reader:
                reader.info = self._info(reader.info)
                yield reader

    async def head(self, key: str, *, fresh: bool = False) -> ObjectInfo:
        name = await self.stored(key, self._looks)
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

    async def list_page(self, prefix: str = "", **options: Unpack[PageOptions]) -> ListPage:
        await self._may_list(prefix)
        start_after = options.get("start_after")
        if start_after is not None:
            validate_prefix(start_after, "start_after")
        if not self._grant.covers("list", prefix):
            return await self._page(prefix, **options)
        options["start_after"] = None if start_after is None else self._root + start_after
        options["skip"] = self._skipped(options.get("skip"))
        with self._told():
            page = await self._inner.list_page(self._root + prefix, **options)
        if not self._root:
            return page
        shown = [each.removeprefix(self._root) for each in page.prefixes]
        return ListPage([self._entry(each) for each in page.entries], shown, page.cursor)

    async def _page(
        self,
        prefix: str,
        *,
        limit: int = 1000,
        cursor: str | None = None,
        cheap: bool = False,
        **options: Unpack[ListingOptions],
    ) -> ListPage:
        """A page of areas, one behind the other. Its cursor is the last name."""
        can = self._inner.driver.capabilities
        details = options.get("details", False)
        is_bare = details and cheap and can.asks_for_details
        options["details"] = details and not is_bare
        delimiter = options.get("delimiter")
        limit = whole("limit", limit, 1, 5000)
        bound = ("confined", self._root, prefix, delimiter)
        if cursor is not None:
            last = _decoded(cursors.unbound(cursor, *bound))
            options["start_after"] = max(options.get("start_after") or "", last, key=str.encode)
        entries: list[ListEntry] = []
        prefixes: list[str] = []
        last = ""
        async for found in self.iterate(prefix, **options):
            if len(entries) + len(prefixes) == limit:
                return ListPage(entries, prefixes, cursors.bound(_encoded(last), *bound))
            if isinstance(found, str):
                prefixes.append(last := found)
            else:
                entries.append(replace(found, size=None) if is_bare and not can.lists_sizes else found)
                last = found.key
        return ListPage(entries, prefixes, None)

    def iterate(self, prefix: str = "", **options: Unpack[ListingOptions]) -> Listed[ListEntry | str]:
        delimiter, start_after = options.get("delimiter"), options.get("start_after")

        async def found() -> AsyncGenerator[ListEntry | str]:
            await self._may_list(prefix)
            if start_after is not None:
                validate_prefix(start_after, "start_after")
            if self._grant.covers("list", prefix):
                async for each in self._below(prefix, False, **options):
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
                async for each in self._below(area, is_key, **options):
                    yield each

        return Listed(found)

    async def _below(
        self,
        area: str,
        is_key: bool,
        delimiter: str | None = None,
        start_after: str | None = None,
        details: bool = False,
        skip: str | None = None,
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
        async for _ in self._below(area, not area.endswith("/")):
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


class _ConfinedReach(Reach):
    """What the library keeps by names, by the rules for objects of these names."""

    def __init__(self, inner: StorageBackend, objects: ConfinedObjects) -> None:
        super().__init__(inner.tables, inner.objects)
        self._names = objects

    async def stored(self, name: str, *actions: str) -> str:
        return await self._names.stored(validate_key(name), *actions)

    async def stored_prefix(self, prefix: str) -> str:
        return await self._names.stored_prefix(prefix)

    def shown(self, stored: str) -> str | None:
        return self._names.shown(stored)


def _text(key: str) -> str:
    """:raises InvalidKeyError: it is none. Other faults are found by the store."""
    return key if isinstance(key, str) else validate_key(key)  # pyright: ignore[reportUnnecessaryIsInstance]


def _folded(area: str, prefix: str) -> str:
    """The common prefix that all names of an area below ``prefix`` have; empty for a single key."""
    at = area.find("/", len(prefix))
    return "" if at < 0 else area[: at + 1]


def _begins(areas: list[str]) -> str:
    """How all of these begin."""
    first, last = min(areas), max(areas)
    same = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[:same]


def _encoded(name: str) -> str:
    return base64url.encoded(name.encode())


def _decoded(text: str) -> str:
    try:
        return base64url.decoded(text).decode()
    except ValueError as error:
        raise cursors.refused() from error


def _without(root: str, error: StorageError) -> None:
    """Take the root from the keys that an error names."""
    named = re.compile(rf"(?<![\w/.-]){re.escape(root)}")
    for name in ("message", "limit", "remedy"):
        if (text := getattr(error, name)) is not None:
            setattr(error, name, named.sub("", text))
    error.args = (error.message,)
