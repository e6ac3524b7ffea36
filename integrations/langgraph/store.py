"""`AgentStorageStore`: LangGraph's long-term memory, with filters, times to live and search by meaning."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast, override

from langgraph.store.base import (
    BaseStore,
    GetOp,
    IndexConfig,
    Item,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    TTLConfig,
    ensure_embeddings,
    get_text_at_path,
    validate_op_namespace,
)

from integrations.langgraph.rows import PIECE, Rows, key_of, names_in
from storage_lib import (
    Entity,
    InvalidArgumentError,
    InvalidKeyError,
    KeyNotFoundError,
    PreconditionFailedError,
    SerializationError,
    StorageManager,
    from_segment,
    to_segment,
)
from storage_lib.blocking import Blocking

if TYPE_CHECKING:
    import numpy

_NEVER = datetime(9999, 12, 31, tzinfo=UTC)
_MAX_NAMESPACE = 512
_AT_ONCE = 16
_VECTORS = [f"v{number}" for number in range(12)]
"""Properties of 64 KiB: what is left of an entity beside its value."""
_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "$gt": lambda value, other: value > other,
    "$gte": lambda value, other: value >= other,
    "$lt": lambda value, other: value < other,
    "$lte": lambda value, other: value <= other,
}


class AgentStorageStore(BaseStore):
    """A `BaseStore` on a `StorageManager`, for code with and without async, in any number of processes.

        store = AgentStorageStore(storage, index={"dims": 384, "embed": embed, "fields": ["text"]})
        await store.aput(("users", "ann"), "tea", {"text": "She drinks green tea."}, ttl=60 * 24)
        found = await store.asearch(("users", "ann"), query="What does she drink?")

    An item is an entity of a table, its namespace the partition; a value of more than 256 KiB is an object. A
    search by meaning compares the query with each stored embedding below the prefix: it is exact, and takes
    time with their number, of which ``max_vectors`` is the limit.
    """

    supports_ttl = True

    def __init__(
        self,
        storage: StorageManager,
        *,
        table: str = "memories",
        prefix: str = "langgraph-store",
        index: IndexConfig | None = None,
        ttl: TTLConfig | None = None,
        max_vectors: int = 10_000,
    ) -> None:
        """
        :param storage: it needs tables.
        :param table: the table of the items.
        :param prefix: that of the keys of large values.
        :param index: how texts become vectors; without it ``query`` of a search is ignored, as by
            LangGraph's own stores.
        :param ttl: ``default_ttl`` in minutes, and whether reading an item begins its time anew
            (``refresh_on_read``, else True).
        :param max_vectors: the most that one search compares.
        """
        self._rows = Rows(storage, table, prefix, large=0)
        self._blocking = Blocking()
        self._dims = 0 if index is None else index.get("dims", 0)
        self._embeddings = ensure_embeddings(index.get("embed")) if index is not None else None
        self._fields = (index or {}).get("fields") or ["$"]
        self._max_vectors = max_vectors
        self.ttl_config = ttl

    def close(self) -> None:
        """Close what calls without async have opened; the storage stays open."""
        self._blocking.close()

    @override
    def batch(self, ops: Iterable[Op]) -> list[Result]:
        return self._blocking.call(self.abatch(ops))

    @override
    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Reads first, each of what was there before; then the last write to each item. Nothing is written
        where a value of any is refused, but the writes are no transaction."""
        asked, limit = list(ops), asyncio.Semaphore(_AT_ONCE)
        for op in asked:
            validate_op_namespace(op)

        async def done(op: Op) -> Result:
            async with limit:
                match op:
                    case GetOp():
                        return await self._get(op)
                    case SearchOp():
                        return cast("Result", await self._search(op))
                    case ListNamespacesOp():
                        return await self._namespaces(op)
                    case PutOp():
                        return await self._put(op, contents[op.namespace, op.key])

        reads = {at: op for at, op in enumerate(asked) if not isinstance(op, PutOp)}
        writes = {(op.namespace, op.key): op for op in asked if isinstance(op, PutOp)}
        contents = {item: _content(op) for item, op in writes.items()}
        results = dict(zip(reads, await _all(map(done, reads.values())), strict=True))
        for item, vectors in (await self._embedded(writes.values())).items():
            contents[item] |= _pieces(writes[item], vectors)
        await _all(map(done, writes.values()))
        return [results.get(at) for at in range(len(asked))]

    # -- items

    async def _get(self, op: GetOp) -> Item | None:
        row = await self._rows.tables.get(
            self._rows.table, _partition(op.namespace), key_of(op.key), default=None
        )
        if row is None or row.properties["expires"] <= datetime.now(UTC):
            return None
        if op.refresh_ttl:
            await self._refresh(row)
        parts = await self._parts(row)
        return None if parts is None else Item(**parts)

    async def _parts(self, row: Entity) -> dict[str, Any] | None:
        """None: it has been deleted since."""
        try:
            text = await self._rows.content(row, str, _home(row.partition_key))
        except KeyNotFoundError:
            # A large value goes when another takes its place.
            place = self._rows.table, row.partition_key, row.row_key
            newer = await self._rows.tables.get(*place, default=None)
            if newer is not None and newer.properties.get("at") == row.properties.get("at"):
                raise
            return None if newer is None else await self._parts(newer)
        return {
            "value": json.loads(text),
            "key": row.properties["key"],
            "namespace": _namespace(row.partition_key),
            "created_at": row.properties["created"],
            "updated_at": row.properties["updated"],
        }

    async def _refresh(self, row: Entity) -> None:
        """Begin its time to live anew; one per cent of it is not worth a request."""
        if (minutes := row.properties.get("ttl")) is None:
            return
        expires = _end(datetime.now(UTC), minutes)
        if expires - row.properties["expires"] > timedelta(minutes=minutes) / 100:
            # What was written or deleted meanwhile counts more.
            with suppress(PreconditionFailedError, KeyNotFoundError):
                await self._rows.tables.update(
                    self._rows.table, row.partition_key, row.row_key, {"expires": expires}, etag=row.etag
                )

    async def _put(self, op: PutOp, content: dict[str, Any]) -> None:
        partition, key = _partition(op.namespace), key_of(op.key)
        home = _home(partition)
        select = ["created", "expires", "o0"]
        found = self._rows.found(partition, key, key + "!", first=1, select=select)
        before = [row async for row in found]
        stale = {name for row in before for name in names_in(row.properties)}
        if op.value is None:
            await self._rows.tables.delete(self._rows.table, partition, key, missing_ok=True)
        else:
            now = datetime.now(UTC)
            living = [row.properties["created"] for row in before if row.properties["expires"] > now]
            properties = await self._rows.properties(home, content.pop("text"), ()) | content
            properties |= {"key": op.key, "created": living[0] if living else now, "updated": now}
            expires = _end(now, op.ttl)
            properties |= {"ttl": None if expires is _NEVER else op.ttl, "expires": expires}
            await self._rows.tables.upsert(self._rows.table, partition, key, properties, mode="replace")
        if stale:
            await self._rows.delete_objects(home, stale)

    async def asweep(self) -> int:
        """Delete the items whose time is over, which nobody sees any more; return how many."""
        count = 0
        found = self._living("", None, over=True, select=["o0"])
        async for row in found:
            try:
                await self._rows.tables.delete(
                    self._rows.table, row.partition_key, row.row_key, etag=row.etag
                )
            except (PreconditionFailedError, KeyNotFoundError):
                continue  # It was written anew.
            await self._rows.delete_objects(_home(row.partition_key), names_in(row.properties))
            count += 1
        return count

    # -- searching

    def _living(
        self, lower: str, upper: str | None, *, over: bool = False, first: int = 1000, select: Any = None
    ) -> AsyncGenerator[Entity]:
        """The items in the partitions from ``lower`` to before ``upper``."""
        where = f"expires {'le' if over else 'gt'} @now"
        more: dict[str, Any] = {"now": datetime.now(UTC)}
        if lower:
            where, more = f"{where} and PartitionKey ge @from", more | {"from": lower}
        if upper is not None:
            where, more = f"{where} and PartitionKey lt @to", more | {"to": upper}
        return self._rows.found(None, first=first, where=where, select=select, **more)

    async def _search(self, op: SearchOp) -> list[SearchItem]:
        lower = _partition(op.namespace_prefix)
        upper = f'{lower[:-1]}"' if lower else None
        if op.query and self._embeddings is not None:
            found = await self._nearest(op, lower, upper)
        else:
            first = 1000 if op.filter else op.offset + op.limit
            wanted = self._living(lower, upper, first=max(first, 1))
            found = [(row, None) async for row in self._filtered(wanted, op.filter, op.offset + op.limit)]
            found = found[op.offset :]
        if op.refresh_ttl:
            await asyncio.gather(*(self._refresh(row) for row, _ in found))
        parts = [(await self._parts(row), score) for row, score in found]
        return [SearchItem(**each, score=score) for each, score in parts if each is not None]

    async def _filtered(
        self, rows: AsyncGenerator[Entity], filter: Mapping[str, Any] | None, most: int
    ) -> AsyncGenerator[Entity]:
        count = 0
        async for row in rows:
            if count == most:
                break
            if not filter or ((parts := await self._parts(row)) and _fits(parts["value"], filter)):
                count += 1
                yield row
        await rows.aclose()

    async def _nearest(
        self, op: SearchOp, lower: str, upper: str | None
    ) -> list[tuple[Entity, float | None]]:
        """Each item by the best of its vectors, then those without."""
        import numpy

        assert self._embeddings is not None  # noqa: S101 - asked by its caller
        assert op.query is not None  # noqa: S101 - asked by its caller
        query = self._vector(await self._embeddings.aembed_query(op.query))
        # Values are read where a filter looks at them, and again of the few that are returned: all of them
        # do not have to fit into memory.
        select = None if op.filter else ["key", "expires", "dims", *_VECTORS]
        keys: list[tuple[str, str]] = []
        vectors: list[numpy.ndarray[Any, Any]] = []
        owners: list[int] = []
        async for row in self._filtered(self._living(lower, upper, select=select), op.filter, -1):
            if row.properties.get("dims", self._dims) != self._dims:
                raise InvalidArgumentError(
                    f"item {row.properties['key']!r:.80} has embeddings of {row.properties['dims']} numbers",
                    field="index.dims",
                    limit=f"{self._dims} numbers",
                    remedy="put the items again, or use another table for each model of embeddings",
                )
            own = b"".join(row.properties.get(name, b"") for name in _VECTORS)
            matrix = numpy.frombuffer(own, numpy.float32).reshape(-1, len(query))
            owners.extend([len(keys)] * len(matrix))
            keys.append((row.partition_key, row.row_key))
            vectors.append(matrix)
            if len(owners) > self._max_vectors:
                raise InvalidArgumentError(
                    f"there are more than {self._max_vectors} embeddings below {op.namespace_prefix}",
                    field="query",
                    limit=f"{self._max_vectors} vectors a search, each of which is compared",
                    remedy="search below a longer prefix, or with a filter, or raise max_vectors",
                )
        scores: list[float | None] = [None] * len(keys)
        if owners:
            every = numpy.concatenate(vectors)
            sizes = numpy.linalg.norm(every, axis=1) * numpy.linalg.norm(query)
            cosines = numpy.divide(every @ query, sizes, out=numpy.zeros_like(sizes), where=sizes != 0)
            for owner, score in zip(owners, cosines.tolist(), strict=True):
                best = scores[owner]
                scores[owner] = score if best is None or score > best else best
        ranked = sorted(range(len(keys)), key=lambda at: (scores[at] is None, -(scores[at] or 0)))
        rows = await asyncio.gather(
            *(
                self._rows.tables.get(self._rows.table, *keys[at], default=None)
                for at in ranked[op.offset : op.offset + op.limit]
            )
        )
        chosen = zip(ranked[op.offset :], rows, strict=False)
        return [(row, scores[at]) for at, row in chosen if row is not None]

    def _vector(self, numbers: Sequence[float]) -> Any:
        import numpy

        vector = numpy.asarray(numbers, numpy.float32)
        if vector.shape != (self._dims,):
            raise InvalidArgumentError(
                f"an embedding has the shape {vector.shape}",
                field="index.dims",
                limit=f"{self._dims} numbers",
            )
        return vector

    async def _embedded(self, ops: Iterable[PutOp]) -> dict[tuple[tuple[str, ...], str], list[bytes]]:
        """The vectors of each item that is to be found by meaning."""
        if self._embeddings is None:
            return {}
        texts: list[tuple[tuple[tuple[str, ...], str], str]] = []
        for op in ops:
            if op.value is not None and op.index is not False:
                for path in self._fields if op.index is None else op.index:
                    texts += [((op.namespace, op.key), text) for text in get_text_at_path(op.value, path)]
        found: dict[tuple[tuple[str, ...], str], list[bytes]] = {}
        if texts:
            vectors = await self._embeddings.aembed_documents([text for _, text in texts])
            for (item, _), vector in zip(texts, vectors, strict=True):
                found.setdefault(item, []).append(self._vector(vector).tobytes())
        return found

    # -- namespaces

    async def _namespaces(self, op: ListNamespacesOp) -> list[tuple[str, ...]]:
        """Those with items, in order: a request for each, or for a thousand items."""
        conditions = op.match_conditions or ()
        lower = max((_fixed(each) for each in conditions), key=len, default="")
        upper = f'{lower[:-1]}"' if lower else None
        found: set[tuple[str, ...]] = set()
        at, after = "", lower
        while True:
            count = 0
            async with aclosing(self._living(after, upper, select=["expires"])) as rows:
                async for row in rows:
                    if row.partition_key != at:
                        at = row.partition_key
                        namespace = _namespace(at)
                        if all(_matches(namespace, each) for each in conditions):
                            found.add(namespace[: op.max_depth])
                    if (count := count + 1) == 1000:
                        break
            if count < 1000:
                return sorted(found)[op.offset : op.offset + op.limit]
            after = at + "\x20"  # Behind the items of this one, and before the namespaces below it.


def _partition(namespace: tuple[str, ...]) -> str:
    """Each label and a ``!``, so that a prefix of a namespace is a prefix of the text."""
    partition = "".join(f"{to_segment(label)}!" for label in namespace)
    if len(partition.encode("utf-16-le")) // 2 > _MAX_NAMESPACE:
        raise InvalidKeyError(
            f"the namespace {namespace!r:.80} is too long",
            field="namespace",
            limit=f"{_MAX_NAMESPACE} characters in all",
            remedy="use shorter or fewer labels",
        )
    return partition


def _namespace(partition: str) -> tuple[str, ...]:
    return tuple(from_segment(label) for label in partition.split("!")[:-1])


def _home(partition: str) -> str:
    """Where the objects of a namespace are."""
    return hashlib.sha256(partition.encode()).hexdigest()[:32]


def _end(now: datetime, minutes: float | None) -> datetime:
    try:
        if minutes is not None and minutes <= 0:
            raise ValueError
        return _NEVER if minutes is None else now + timedelta(minutes=minutes)
    except OverflowError:
        return _NEVER
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(
            f"ttl is {minutes!r:.80}", field="ttl", limit="minutes, more than 0"
        ) from error


def _text_of(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
        text.encode()
        _check_names(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise SerializationError(
            f"the value is not JSON: {error}", field="value", limit="a dict of plain JSON values"
        ) from error
    return text


def _check_names(value: Any) -> None:
    """`json` makes a text of a number that is a name, and it would not come back."""
    if isinstance(value, dict):
        for name, each in cast("dict[Any, Any]", value).items():
            if not isinstance(name, str):
                raise TypeError(f"the name {name!r} is not a text")
            _check_names(each)
    elif isinstance(value, (list, tuple)):
        for each in cast("Sequence[Any]", value):
            _check_names(each)


def _content(op: PutOp) -> dict[str, Any]:
    """What is known of an item before anything is written."""
    _partition(op.namespace)
    _end(datetime.now(UTC), op.ttl)
    if not isinstance(op.value, dict | None):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise SerializationError(
            f"the value is a {type(op.value).__name__}", field="value", limit="a dict of plain JSON values"
        )
    return {} if op.value is None else {"text": _text_of(op.value)}


async def _all[T](coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """What they return, when each has ended: none goes on behind the error of another."""
    results = await asyncio.gather(*coroutines, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return cast("list[T]", results)


def _pieces(op: PutOp, vectors: list[bytes]) -> dict[str, Any]:
    data = b"".join(vectors)
    if len(data) > PIECE * len(_VECTORS):
        raise InvalidArgumentError(
            f"the {len(vectors)} embeddings of item {op.key!r} have {len(data)} bytes",
            field="index",
            limit=f"{PIECE * len(_VECTORS)} bytes an item",
            remedy="index fewer fields, or store the item in parts",
        )
    pieces = {f"v{at // PIECE}": data[at : at + PIECE] for at in range(0, len(data), PIECE)}
    return {"dims": len(vectors[0]) // 4} | pieces


def _fits(value: Any, wanted: Any) -> bool:
    """Whether a value has what a filter names, as Postgres' ``jsonb`` would have it."""
    if isinstance(wanted, Mapping):
        given = cast("Mapping[str, Any]", wanted)
        if any(name.startswith("$") for name in given):
            return all(_holds(value, operator, other) for operator, other in given.items())
        return isinstance(value, dict) and all(
            _fits(cast("dict[str, Any]", value).get(name), each) for name, each in given.items()
        )
    if isinstance(wanted, (list, tuple)):
        given, found = cast("Sequence[Any]", wanted), cast("Sequence[Any]", value)
        return isinstance(value, list) and len(found) == len(given) and all(map(_fits, found, given))
    return value == wanted


def _holds(value: Any, operator: str, other: Any) -> bool:
    if operator in ("$eq", "$ne"):
        return (value == other) is (operator == "$eq")
    if (holds := _ORDERS.get(operator)) is None:
        raise InvalidArgumentError(
            f"the filter has the operator {operator!r}",
            field="filter",
            limit="$eq, $ne, $gt, $gte, $lt, $lte",
        )
    if isinstance(value, str) and isinstance(other, str):
        return holds(value, other)
    try:
        return value is not None and holds(float(value), float(other))
    except (TypeError, ValueError):
        return False


def _matches(namespace: tuple[str, ...], condition: MatchCondition) -> bool:
    path = condition.path
    part = namespace[: len(path)] if condition.match_type == "prefix" else namespace[-len(path) :]
    return len(part) == len(path) and all(
        each in ("*", label) for label, each in zip(part, path, strict=True)
    )


def _fixed(condition: MatchCondition) -> str:
    """The beginning that the partitions of a prefix have."""
    if condition.match_type != "prefix":
        return ""
    path = tuple(condition.path)
    return _partition(path[: path.index("*")] if "*" in path else path)
