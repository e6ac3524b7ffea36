"""Tables, tried again."""

from __future__ import annotations

from typing import Any

from storage_lib.errors import KeyNotFoundError, PreconditionFailedError
from storage_lib.layers.retry.retrier import Retrier
from storage_lib.layers.retry.unknown import unknown
from storage_lib.ports.tables import (
    Entity,
    EntityPage,
    TableOperation,
    TableStore,
    UpdateMode,
    Upsert,
)


class RetryingTableStore(TableStore):
    """The hooks of another store, each tried again.

    Entities have no room for a mark that their readers would not see. So an insert, or an update with an
    ETag, that meets a conflict after an answer was lost raises `TransientStorageError`, not a conflict.
    """

    def __init__(self, inner: TableStore, retrier: Retrier) -> None:
        self._inner = inner
        self.etags = inner.etags
        self._retrier = retrier

    async def _create_table(self, table: str) -> None:
        await self._retrier.small(f"create table {table!r}", lambda: self._inner._create_table(table))

    async def _insert(self, table: str, pk: str, rk: str, properties: dict[str, Any]) -> str:
        doing = f"insert {pk!r}, {rk!r} into table {table!r}"

        async def insert(unsure: bool) -> str:
            try:
                return await self._inner._insert(table, pk, rk, properties)
            except PreconditionFailedError as error:
                if unsure:
                    raise unknown(doing) from error
                raise

        return await self._retrier.call(doing, insert, small=True)

    async def _upsert(
        self, table: str, pk: str, rk: str, properties: dict[str, Any], mode: UpdateMode
    ) -> str:
        return await self._retrier.small(
            f"upsert {pk!r}, {rk!r} in table {table!r}",
            lambda: self._inner._upsert(table, pk, rk, properties, mode),
        )

    async def _update(
        self, table: str, pk: str, rk: str, properties: dict[str, Any], etag: str | None, mode: UpdateMode
    ) -> str:
        doing = f"update {pk!r}, {rk!r} in table {table!r}"

        async def update(unsure: bool) -> str:
            try:
                return await self._inner._update(table, pk, rk, properties, etag, mode)
            except (PreconditionFailedError, KeyNotFoundError) as error:
                if unsure:
                    raise unknown(doing) from error
                raise

        return await self._retrier.call(doing, update, small=True)

    async def _get(self, table: str, pk: str, rk: str) -> Entity:
        return await self._retrier.small(
            f"get {pk!r}, {rk!r} of table {table!r}", lambda: self._inner._get(table, pk, rk)
        )

    async def _delete(self, table: str, pk: str, rk: str, etag: str | None) -> None:
        async def delete(unsure: bool) -> None:
            try:
                await self._inner._delete(table, pk, rk, etag)
            except (KeyNotFoundError, PreconditionFailedError) as error:
                if not unsure:
                    raise
                if etag is not None:
                    raise unknown(doing) from error

        doing = f"delete {pk!r}, {rk!r} of table {table!r}"
        await self._retrier.call(doing, delete, small=True)

    async def _query(
        self,
        table: str,
        filter: str | None,
        parameters: dict[str, Any],
        select: list[str] | None,
        limit: int,
        cursor: str | None,
    ) -> EntityPage:
        return await self._retrier.small(
            f"query table {table!r}",
            lambda: self._inner._query(table, filter, parameters, select, limit, cursor),
        )

    async def _batch(self, table: str, pk: str, operations: list[TableOperation]) -> list[str | None]:
        doing = f"batch of partition {pk!r} of table {table!r}"
        repeatable = all(isinstance(operation, Upsert) for operation in operations)

        async def batch(unsure: bool) -> list[str | None]:
            try:
                return await self._inner._batch(table, pk, operations)
            except (PreconditionFailedError, KeyNotFoundError) as error:
                if unsure and not repeatable:
                    raise unknown(doing) from error
                raise

        return await self._retrier.call(doing, batch, small=True)
