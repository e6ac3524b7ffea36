"""Tables by azure-data-tables. An int travels as Edm.Int32 where it fits and as Edm.Int64 else; what the SDK
wraps on the way back is unwrapped. The service filters as filters.py asks, the filter judges the answer."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, cast

import msgspec

from storage_lib.backends.azure.bounded import Bound, TooLongError
from storage_lib.backends.azure.clients import Clients
from storage_lib.backends.azure.errors import (
    ENTITY_EXISTS,
    TABLE_MISSING,
    Answer,
    Known,
    making,
    read,
    read_response,
    translated,
)
from storage_lib.backends.azure.filters import question
from storage_lib.backends.cloud.answers import told
from storage_lib.backends.cloud.requests import ALONE, BESIDE, Claim
from storage_lib.errors import KeyNotFoundError, StorageError
from storage_lib.names import MappedName
from storage_lib.ports import cursors
from storage_lib.ports.drivers import MAX_PAGE_BYTES, NamePage, QueryOptions, TableDriver
from storage_lib.ports.errors import (
    at_operation,
    existing_entity,
    missing_entity,
    missing_table,
    other_entity_etag,
)
from storage_lib.ports.table_model import Delete, Entity, EntityPage, Insert, TableOperation, Update, Upsert

if TYPE_CHECKING:
    from azure.data.tables.aio import TableClient

_KEYS = ("PartitionKey", "RowKey")
_GIVEN_NAMES = "agentstoragetablenames"
"""The table of the names that tables were given, where they are mapped. A table has no metadata."""
_LONGEST_NAME = 63
_ENTITY = b'"PartitionKey":'
"""Once in each of an answer."""
_NO_BOUND = 1 << 40
NAMES_A_PAGE = 1000
"""The service gives no more."""


class AzureTables(TableDriver):
    """Tables of one account."""

    etags = re.compile(r"""W/"datetime'[^'"\s\x00-\x1f\x7f-\U0010ffff]{1,64}'\"""")

    def __init__(self, clients: Clients) -> None:
        self._clients = clients

    async def create_table(self, table: str) -> None:
        if isinstance(table, MappedName):
            # First: a name without a table is not listed.
            await self.write(_GIVEN_NAMES, "", Upsert(table.lower(), {"name": table.given}))
        await self._create(table)

    async def _create(self, table: str) -> None:
        with translated(f"create table {table!r}"):
            try:
                client = await self._clients.table(table)
                await self._clients.table_requests.send(client.create_table)
            except Exception as error:
                answer = read(error)
                if answer is None or answer.code != "TableAlreadyExists":
                    raise

    async def list_tables(self, prefix: str, cursor: str | None) -> NamePage:
        with translated("list tables"):
            service = await self._clients.tables()
            # Whether or not the service tells cases apart here.
            within = f"TableName ge '{prefix}' and TableName le '{prefix.ljust(_LONGEST_NAME, 'z')}'"
            found = (
                service.query_tables(within, results_per_page=NAMES_A_PAGE)
                if prefix
                else service.list_tables(results_per_page=NAMES_A_PAGE)
            )
            pages: Any = found.by_page(continuation_token=cast("Any", cursor))
            page: Any = await self._clients.table_requests.send(lambda: anext(pages, None))
            if page is None:
                return NamePage([], None)
            names: list[str] = [table.name async for table in page]
            token: str | None = pages.continuation_token or None
        names = [name for name in names if name.lower().startswith(prefix.lower()) and name != _GIVEN_NAMES]
        given = await self._given_names(names)
        return NamePage(
            [MappedName(name, given[name.lower()]) if name.lower() in given else name for name in names],
            token,
        )

    async def _given_names(self, names: list[str]) -> dict[str, str]:
        """What tables were given, by their names in lower case; only where they are mapped."""
        from storage_lib.ports.odata import compile_filter

        found: dict[str, str] = {}
        if not names:
            return found
        rows = sorted(name.lower() for name in names)
        within = compile_filter(
            "PartitionKey eq '' and RowKey ge @first and RowKey le @last",
            {"first": rows[0], "last": rows[-1]},
        )
        options = QueryOptions(within, None, 1000, None)
        while True:
            try:
                page = await self.query(_GIVEN_NAMES, options)
            except KeyNotFoundError:
                return found
            found |= {each.row_key: str(each.properties["name"]) for each in page.entities}
            if page.cursor is None:
                return found
            options = msgspec.structs.replace(options, cursor=page.cursor)

    async def write(self, table: str, pk: str, operation: TableOperation) -> str | None:
        rk, claim = operation.row_key, self._claim(table, pk, operation)
        if isinstance(operation, Delete):
            return await self._delete(table, pk, rk, operation.etag, claim)
        etag = operation.etag if isinstance(operation, Update) else None
        doing = f"{type(operation).__name__.lower()} entity ({pk!r}, {rk!r}) in"
        name, entity, options = _operation(pk, operation)
        async with self._client(table, doing, _known(table, pk, rk, etag)) as client:
            call = partial(getattr(client, f"{name}_entity"), entity, **options)
            made: Any = await self._sent(table, call, [claim], makes=not isinstance(operation, Update))
        return str(made["etag"])

    async def get(self, table: str, pk: str, rk: str) -> Entity:
        async with self._client(table, f"get entity ({pk!r}, {rk!r}) of", _known(table, pk, rk)) as client:
            found = await self._clients.table_requests.send(lambda: client.get_entity(pk, rk))
            return _from_wire(found, pk, rk)

    async def _delete(self, table: str, pk: str, rk: str, etag: str | None, claim: Claim) -> None:
        last: Any = None

        def look(response: Any) -> None:
            nonlocal last
            last = response.http_response

        doing = f"delete entity ({pk!r}, {rk!r}) of"
        known = _known(table, pk, rk, etag)
        async with self._client(table, doing, known) as client:
            await self._clients.table_requests.send(
                lambda: client.delete_entity(pk, rk, raw_response_hook=look, **_condition(etag)),
                [claim],
            )
        if last is not None and last.status_code == 404:
            # The SDK takes "there is none" for success.
            answer = read_response(last)
            said = answer.as_error(f"{doing} table {table!r}")
            if failure := known(answer):
                raise failure from said
            raise said

    async def query(self, table: str, options: QueryOptions) -> EntityPage:
        token, most = (None, None) if options.cursor is None else _decode_cursor(options.cursor)
        top = min(options.limit, most or options.limit)
        while True:
            try:
                with Bound(2 * MAX_PAGE_BYTES if top > 1 else _NO_BOUND) as bound:
                    page, following = await self._page(table, options, token, top)
            except TooLongError as error:  # Fewer, of the size that those have which were read.
                top = max(1, min(top - 1, error.part.count(_ENTITY) // 2))
                most = top
                continue
            if most is not None and bound.size < MAX_PAGE_BYTES // 2:
                most = 2 * most if 2 * most < options.limit else None
            return options.page(page, _encode_cursor(following, most))

    async def _page(
        self, table: str, options: QueryOptions, token: dict[str, str | None] | None, top: int
    ) -> tuple[list[Entity], Any]:
        """A page of ``top`` entities at most, and the service's token of the next one."""
        holds = options.filter
        wanted: dict[str, Any] = {"results_per_page": top}
        if options.select is not None:
            wanted["select"] = sorted({*options.select, *holds.names, *_KEYS, "Timestamp"})
        asked = question(holds)
        async with self._client(table, "query", _known(table)) as client:
            found = client.query_entities(asked, **wanted) if asked else client.list_entities(**wanted)
            # Typed as a str in the SDK, but for tables the token is the pair of keys.
            pages: Any = found.by_page(continuation_token=cast("Any", token))
            page: Any = await self._clients.table_requests.send(lambda: anext(pages, None))
            if page is not None:
                entities = [_from_wire(entity) async for entity in page]
                return [entity for entity in entities if holds(entity)], pages.continuation_token
        return [], None

    async def batch(self, table: str, pk: str, operations: list[TableOperation]) -> list[str | None]:
        doing = f"batch in partition {pk!r} of table {table!r}"
        adds = any(isinstance(operation, Insert | Upsert) for operation in operations)
        transaction = [_operation(pk, operation) for operation in operations]
        claims = [self._claim(table, pk, operation) for operation in operations]
        try:
            client = await self._clients.table(table)
            call = partial(client.submit_transaction, transaction)
            answers = await self._sent(table, call, claims, makes=adds)
        except Exception as error:
            if (answer := read(error)) is None:
                raise
            raise _failed(error, answer, doing, table, pk, operations) from told(error)
        return [
            None if isinstance(operation, Delete) else str(answer["etag"])
            for operation, answer in zip(operations, answers, strict=True)
        ]

    async def _sent[T](
        self, table: str, call: Callable[[], Awaitable[T]], claims: list[Claim], *, makes: bool
    ) -> T:
        """What ``call`` returns. :param makes: the table, if it is missing."""
        send = partial(self._clients.table_requests.send, call, claims)
        return await (making(TABLE_MISSING, partial(self.create_table, table), send) if makes else send())

    def _claim(self, table: str, pk: str, operation: TableOperation) -> Claim:
        """An insert or an update with an ETag that lands late fails, unless a deletion was between."""
        ordered = isinstance(operation, Insert) or (
            isinstance(operation, Update) and operation.etag is not None
        )
        name = (self._clients.endpoints.table, table, pk, operation.row_key)
        return name, BESIDE if ordered else ALONE

    @asynccontextmanager
    async def _client(self, table: str, doing: str, known: Known) -> AsyncGenerator[TableClient]:
        with translated(f"{doing} table {table!r}", known):
            yield await self._clients.table(table)


def _known(table: str, pk: str = "", rk: str | None = None, etag: str | None = None) -> Known:
    """What may be wrong with an entity; without a row key, with a table."""

    def known(answer: Answer) -> StorageError | None:
        if answer.is_not_found:
            return missing_table(table) if rk is None else missing_entity(table, pk, rk)
        if rk is not None and answer.code == ENTITY_EXISTS:
            return existing_entity(table, pk, rk)
        if rk is not None and etag is not None and answer.is_conflict:
            return other_entity_etag(table, pk, rk, etag)
        return None

    return known


def _mode(mode: Literal["merge", "replace"]) -> Any:
    from azure.data.tables import UpdateMode

    return UpdateMode.MERGE if mode == "merge" else UpdateMode.REPLACE


def _condition(etag: str | None) -> dict[str, Any]:
    if etag is None:
        return {}
    from azure.core import MatchConditions

    return {"etag": etag, "match_condition": MatchConditions.IfNotModified}


def _operation(pk: str, operation: TableOperation) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The operation as the SDK's transactions have it: the name of its method, entity and options."""
    rk = operation.row_key
    match operation:
        case Insert():
            return "create", _to_wire(pk, rk, operation.properties), {}
        case Upsert():
            return "upsert", _to_wire(pk, rk, operation.properties), {"mode": _mode(operation.mode)}
        case Update():
            options = {"mode": _mode(operation.mode), **_condition(operation.etag)}
            return "update", _to_wire(pk, rk, operation.properties), options
        case Delete():
            return "delete", {"PartitionKey": pk, "RowKey": rk}, _condition(operation.etag)


def _failed(
    error: Exception, answer: Answer, doing: str, table: str, pk: str, operations: list[TableOperation]
) -> StorageError:
    """What the answer to a batch means, naming the operation that the service blames: its message begins
    with the index."""
    failure = answer.as_error(doing)
    index = str(getattr(error, "message", "")).partition(":")[0].strip()
    if not index.isdecimal() or int(index) >= len(operations):
        return failure
    blamed = operations[int(index)]
    etag = blamed.etag if isinstance(blamed, Update | Delete) else None
    return at_operation(int(index), _known(table, pk, blamed.row_key, etag)(answer) or failure)


def _to_wire(pk: str, rk: str, properties: Mapping[str, Any]) -> dict[str, Any]:
    from azure.data.tables import EdmType

    entity: dict[str, Any] = {"PartitionKey": pk, "RowKey": rk}
    for name, value in properties.items():
        if type(value) is int and not -(2**31) <= value < 2**31:
            entity[name] = (value, EdmType.INT64)
        elif isinstance(value, datetime):
            entity[name] = (value.isoformat(timespec="microseconds")[:-6] + "Z", EdmType.DATETIME)
        else:
            entity[name] = value
    return entity


def _from_wire(entity: Any, pk: str | None = None, rk: str | None = None) -> Entity:
    # A selected property that the entity does not have comes as null.
    properties = {
        name: _value(value) for name, value in entity.items() if name not in _KEYS and value is not None
    }
    metadata = entity.metadata
    return Entity(
        entity.get("PartitionKey", pk),
        entity.get("RowKey", rk),
        properties,
        metadata["etag"],
        _value(metadata["timestamp"]),
    )


def _value(value: Any) -> Any:
    if isinstance(value, datetime):
        # A subclass that also holds the service's own text, to 100 ns.
        return datetime.combine(value.date(), value.time(), UTC)
    return value[0] if isinstance(value, tuple) else value  # an EntityProperty: an Int64


def _encode_cursor(token: Any, most: int | None) -> str | None:
    """
    :param most: how many entities the next page has; None for as many as it may.
    """
    if not token:
        return None
    parts = [token.get(name) for name in _KEYS] + ([] if most is None else [most])
    return cursors.packed(*parts)


def _decode_cursor(cursor: str) -> tuple[dict[str, str | None], int | None]:
    partition, row, most = cursors.unpacked(cursor, _Cursor)
    return dict(zip(_KEYS, (partition, row), strict=True)), most


class _Cursor(NamedTuple):
    partition: str | None
    row: str | None
    most: Annotated[int, msgspec.Meta(ge=1)] | None = None
