"""py-key-value: `KeyValueStore`, an ``AsyncKeyValue`` over a `StorageManager`. FastMCP, and everything else
that takes an ``AsyncKeyValue``, can keep its state in it.

    store = KeyValueStore(storage)
    await store.put("ann", {"theme": "dark"}, collection="users", ttl=3600)
    assert await store.get("ann", collection="users") == {"theme": "dark"}

An entry is an object, ``key-value/COLLECTION/KEY``, with its value as readable JSON; the end of its life is
the object's. So every layer of the storage (encryption, caching, a second store) applies to it, and one store
serves any number of processes. Collections and keys are any text: `storage_lib.to_segment` says how they are
written in the object's key. What is too long for that is written as its SHA-256, and the object holds the
names beside the value.

Beside the protocol there is compare-and-set: `KeyValueStore.entry`, `compare_and_set`, `compare_and_delete`
and `update`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import lru_cache
from itertools import batched
from typing import Any, SupportsFloat, cast

from key_value.aio.errors import DeserializationError, InvalidTTLError, SerializationError

from storage_lib import (
    InvalidArgumentError,
    InvalidKeyError,
    KeyNotFoundError,
    Loaded,
    StorageManager,
    from_segment,
    to_segment,
)
from storage_lib import SerializationError as NotStorableError
from storage_lib.keys import MAX_KEY_BYTES, validate_user_key
from storage_lib.values import JSON, encode

__all__ = ["Entry", "KeyValueStore"]

DEFAULT_COLLECTION = "default_collection"
"""That of the package's own stores."""
_HASHED = "=="
"""What a hash begins with; `to_segment` makes no such segment."""
_TOGETHER = 16
_SWEPT_TOGETHER = 1000
_NOTHING: Any = object()


@dataclass(frozen=True, slots=True)
class Entry:
    """A value, with the ETag of this version of it and the seconds that are left of its life; None means that
    it does not end."""

    value: dict[str, Any]
    etag: str
    ttl: float | None


class KeyValueStore:
    """An ``AsyncKeyValue`` that can also enumerate its keys and collections, destroy them, and remove what
    has expired.

    Values are what JSON holds, and come back as by JSON: a tuple as a list. The errors are those of
    `storage_lib.errors`, except for the package's own ``SerializationError``, ``DeserializationError`` and
    ``InvalidTTLError``.

    :param storage: where the entries are kept. Its creator closes it.
    :param prefix: of the keys of their objects.
    :param default_collection: of calls that name none.
    """

    def __init__(
        self,
        storage: StorageManager,
        *,
        prefix: str = "key-value",
        default_collection: str = DEFAULT_COLLECTION,
    ) -> None:
        self._storage = storage
        self._prefix = validate_user_key(prefix) + "/"
        self._default = default_collection

    # -- one entry

    async def get(self, key: str, *, collection: str | None = None) -> dict[str, Any] | None:
        """The value, or None if there is none."""
        name = self._key(key, collection)
        found = await self._storage.load(name, default=_NOTHING)
        return None if found is _NOTHING else _unwrapped(name, found)

    async def ttl(
        self, key: str, *, collection: str | None = None
    ) -> tuple[dict[str, Any] | None, float | None]:
        """The value and the seconds that are left of its life: ``(None, None)`` if there is none, ``(value,
        None)`` if it does not end."""
        found = await self._entry(self._key(key, collection), fresh=False)
        return (None, None) if found is None else (found.value, found.ttl)

    async def put(
        self,
        key: str,
        value: Mapping[str, Any],
        *,
        collection: str | None = None,
        ttl: SupportsFloat | None = None,
    ) -> None:
        """Store a value, whatever was there before; it is durable when this returns.

        :param ttl: seconds after which it is gone; None means never.
        """
        name = self._key(key, collection)
        await self._storage.save(name, self._wrapped(name, key, collection, value), ttl=_seconds(ttl))

    async def delete(self, key: str, *, collection: str | None = None) -> bool:
        """Delete a value; False if there was none."""
        try:
            await self._storage.delete(self._key(key, collection))
        except KeyNotFoundError:
            return False
        return True

    # -- many

    async def get_many(
        self, keys: Sequence[str], *, collection: str | None = None
    ) -> list[dict[str, Any] | None]:
        """`get` of each key."""
        names = self._keys(keys, collection)
        found = await self._storage.load_many(names, default=None, raise_errors=True)
        return [None if found[name] is None else _unwrapped(name, found[name]) for name in names]

    async def ttl_many(
        self, keys: Sequence[str], *, collection: str | None = None
    ) -> list[tuple[dict[str, Any] | None, float | None]]:
        """`ttl` of each key."""
        found: list[Entry | None] = []
        for some in batched(self._keys(keys, collection), _TOGETHER, strict=False):
            found += await asyncio.gather(*(self._entry(name, fresh=False) for name in some))
        return [(None, None) if each is None else (each.value, each.ttl) for each in found]

    async def put_many(
        self,
        keys: Sequence[str],
        values: Sequence[Mapping[str, Any]],
        *,
        collection: str | None = None,
        ttl: SupportsFloat | None = None,
    ) -> None:
        """`put` each value under its key; of equal keys the last one counts. Nothing is stored if one of them
        is not JSON, or if there are not as many values as keys."""
        if len(keys) != len(values):
            raise InvalidArgumentError(
                f"there are {len(keys)} keys and {len(values)} values",
                field="values",
                limit="as many as keys",
            )
        items = {
            name: self._wrapped(name, key, collection, value)
            for name, key, value in zip(self._keys(keys, collection), keys, values, strict=True)
        }
        await self._storage.save_many(items, raise_errors=True, ttl=_seconds(ttl))

    async def delete_many(self, keys: Sequence[str], *, collection: str | None = None) -> int:
        """`delete` each key; return how many values there were."""
        results = await self._storage.delete_many(self._keys(keys, collection))
        for error in results.values():
            if error is not None and not isinstance(error, KeyNotFoundError):
                raise error
        return sum(error is None for error in results.values())

    # -- compare-and-set

    async def entry(self, key: str, *, collection: str | None = None) -> Entry | None:
        """The value that the store has now, with the ETag for `compare_and_set`; None if there is none."""
        return await self._entry(self._key(key, collection), fresh=True)

    async def compare_and_set(
        self,
        key: str,
        value: Mapping[str, Any],
        *,
        etag: str | None,
        collection: str | None = None,
        ttl: SupportsFloat | None = None,
    ) -> str:
        """Store a value if nobody has changed the entry since; return its new ETag.

            found = await store.entry("session")
            await store.compare_and_set("session", changed(found.value), etag=found.etag)

        :param etag: of the version to replace; None stores the value only if there is none.
        :param ttl: seconds after which it is gone; None means never, whatever the replaced one had.
        :raises PreconditionFailedError: another version is there, or none; nothing was changed.
        """
        name = self._key(key, collection)
        saved = await self._storage.save(
            name,
            self._wrapped(name, key, collection, value),
            ttl=_seconds(ttl),
            if_match=etag,
            if_absent=etag is None,
        )
        return saved.etag

    async def compare_and_delete(self, key: str, *, etag: str, collection: str | None = None) -> None:
        """Delete a value if nobody has changed it since.

        :raises PreconditionFailedError: another version is there; it stays.
        :raises KeyNotFoundError: there is none.
        """
        await self._storage.delete(self._key(key, collection), if_match=etag)

    async def update(
        self,
        key: str,
        change: Callable[[dict[str, Any]], Mapping[str, Any]],
        *,
        collection: str | None = None,
        initial: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Replace a value with ``change(value)`` and return the new one. If another writer was faster,
        ``change`` is called again with the newer value, so that no update is lost. The end of its life stays.

        :param initial: what ``change`` gets if there is no value.
        :raises KeyNotFoundError: there is none, and no ``initial``.
        """
        name = self._key(key, collection)

        def changed(found: Any) -> dict[str, Any]:
            return self._wrapped(name, key, collection, change(_unwrapped(name, found)))

        if initial is None:
            new = await self._storage.update(name, changed)
        else:
            first = self._wrapped(name, key, collection, initial)
            new = await self._storage.update(name, changed, initial=first)
        return _unwrapped(name, new)

    # -- the whole

    async def keys(self, collection: str | None = None, *, limit: int | None = None) -> list[str]:
        """The keys of a collection, in the order of the keys of their objects; all of them without a
        ``limit``."""
        names = self._storage.list_keys(self._collection(collection) + "/")
        return await self._texts(aiter(names), "key", limit)

    async def collections(self, *, limit: int | None = None) -> list[str]:
        """The collections that have entries, in the same order."""
        return await self._texts(self._folders(), "collection", limit)

    async def destroy_collection(self, collection: str) -> bool:
        """Delete all entries of a collection; False if there were none."""
        return await self._destroy(self._collection(collection) + "/")

    async def destroy(self) -> bool:
        """Delete all entries of all collections; False if there were none."""
        return await self._destroy(self._prefix)

    async def cull(self) -> None:
        """Remove what has expired: of the whole storage, not only of this prefix. Nobody sees it before, so
        this only frees its room; the app's timer does the same."""
        while await self._storage.sweep_expired(_SWEPT_TOGETHER) == _SWEPT_TOGETHER:
            pass

    async def _destroy(self, prefix: str) -> bool:
        done = await self._storage.delete_prefix(prefix)
        for error in done.failed.values():
            raise error
        return done.done > 0

    async def _folders(self) -> AsyncGenerator[str]:
        """An object of each collection."""
        cursor = None
        while True:
            page = await self._storage.list_page(self._prefix, delimiter="/", cursor=cursor)
            for folder in page.prefixes:
                if not folder.startswith(self._prefix + _HASHED):
                    yield folder
                    continue
                first = await self._storage.list_page(folder, limit=1)
                for entry in first.entries:
                    yield entry.key
            if (cursor := page.cursor) is None:
                return

    async def _texts(self, names: AsyncGenerator[str], what: str, limit: int | None) -> list[str]:
        texts: list[str] = []
        async with aclosing(names):
            async for name in names:
                if limit is not None and len(texts) >= limit:
                    break
                if (text := await self._text(name, what)) is not None:
                    texts.append(text)
        return texts

    async def _text(self, name: str, what: str) -> str | None:
        """The key or the collection of the entry in this object; None if it is none, or gone meanwhile."""
        collection, _, key = name.removeprefix(self._prefix).partition("/")
        segment = key if what == "key" else collection
        if segment.startswith(_HASHED):
            found = await self._storage.load(name, default=None)
            return found.get(what) if type(found) is dict else None
        try:
            return from_segment(segment)
        except InvalidArgumentError:
            return None  # Another program's.

    # -- names and values

    def _collection(self, collection: str | None) -> str:
        return self._prefix + _segment(collection or self._default, "collection")

    def _key(self, key: str, collection: str | None) -> str:
        folder = self._collection(collection)
        name = f"{folder}/{_segment(key, 'key')}"
        if len(name) > MAX_KEY_BYTES // 4 and len(name.encode()) > MAX_KEY_BYTES:
            return f"{folder}/{_hashed(key)}"
        return name

    def _keys(self, keys: Iterable[str], collection: str | None) -> list[str]:
        return [self._key(key, collection) for key in keys]

    def _wrapped(
        self, name: str, key: str, collection: str | None, value: Mapping[str, Any]
    ) -> dict[str, Any]:
        """A value as it is stored under this name."""
        plain = _plain(value)
        if not _is_hashed(name):
            return plain
        return {"collection": collection or self._default, "key": key, "value": plain}

    async def _entry(self, name: str, *, fresh: bool) -> Entry | None:
        try:
            found: Loaded[Any] = await self._storage.load_with_info(name, fresh=fresh)
        except KeyNotFoundError:
            return None
        ends = found.info.expires_at
        left = None if ends is None else max(ends.timestamp() - self._storage.backend.objects.clock(), 0.0)
        return Entry(_unwrapped(name, found.value), found.etag, left)


def _segment(text: str, field: str) -> str:
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise InvalidArgumentError(f"{field} is a {type(text).__name__}", field=field, limit="a str")
    try:
        return _known_segment(text)
    except InvalidKeyError:
        return _hashed(text)


# Most of what a small get costs here; collections, and many keys, come again and again.
_known_segment = lru_cache(maxsize=1024)(to_segment)


def _hashed(text: str) -> str:
    return _HASHED + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _is_hashed(name: str) -> bool:
    return f"/{_HASHED}" in name


def _unwrapped(name: str, stored: Any) -> dict[str, Any]:
    """The value of what is stored under this name."""
    value = stored.get("value") if _is_hashed(name) and type(stored) is dict else stored
    if type(value) is not dict:
        raise DeserializationError(f"the object {name!r} is no entry of a key-value store")
    return cast("dict[str, Any]", value)


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """A value as JSON gives it back.

    :raises SerializationError: it has no form in JSON.
    """
    if not isinstance(value, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise SerializationError(f"a value is a mapping, not a {type(value).__name__}")
    plain: dict[str, Any] = dict(value)
    try:
        if encode(plain).content_type == JSON:
            return plain
    except NotStorableError:
        pass  # JSON may have a form of it, as of an enum of texts.
    try:
        plain = json.loads(json.dumps(plain))
        encode(plain)
    except (TypeError, ValueError, RecursionError, NotStorableError) as error:
        raise SerializationError(f"the value cannot be stored as JSON: {error}") from error
    return plain


def _seconds(ttl: SupportsFloat | None) -> float | None:
    """:raises InvalidTTLError: it is not a number of seconds greater than zero."""
    if ttl is None:
        return None
    try:
        seconds = float(ttl)
    except (TypeError, ValueError) as error:
        raise InvalidTTLError(ttl=ttl) from error
    if isinstance(ttl, bool | str) or not 0 < seconds < float("inf"):
        raise InvalidTTLError(ttl=ttl)
    return seconds
