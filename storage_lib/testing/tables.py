"""What a table store does, whatever is behind it."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from storage_lib.backends.base import TableStore
from storage_lib.errors import (
    InvalidArgumentError,
    InvalidKeyError,
    KeyNotFoundError,
    ObjectTooLargeError,
    PreconditionFailedError,
)

PROPERTIES: dict[str, Any] = {
    "text": "päck 🙂 'quoted' <&>\r\n",
    "empty": "",
    "yes": True,
    "no": False,
    "small": -5,
    "large": 2**62 + 1,
    "number": 0.1,
    "whole_number": 3.0,
    "moment": datetime(2026, 2, 3, 4, 5, 6, 789_012, UTC),
    "binary": bytes(range(256)),
}


class TableStoreContract:
    """Subclass it and give the fixture ``tables``."""

    @pytest.fixture
    async def table(self, tables: TableStore) -> str:
        name = f"t{uuid.uuid4().hex[:12]}"
        await tables.create_table(name)
        return name

    async def test_properties_come_back_as_they_went_in(self, tables: TableStore, table: str) -> None:
        etag = await tables.insert(table, "p", "r", PROPERTIES)
        entity = await tables.get(table, "p", "r")
        assert dict(entity.properties) == PROPERTIES
        assert {name: type(value) for name, value in entity.properties.items()} == {
            name: type(value) for name, value in PROPERTIES.items()
        }
        assert (entity.partition_key, entity.row_key, entity.etag) == ("p", "r", etag)
        assert abs(entity.timestamp - datetime.now(UTC)) < timedelta(minutes=1)

    async def test_moments_are_given_back_in_utc_and_none_is_absent(
        self, tables: TableStore, table: str
    ) -> None:
        local = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=5)))
        await tables.insert(table, "p", "r", {"moment": local, "nothing": None})
        entity = await tables.get(table, "p", "r")
        assert dict(entity.properties) == {"moment": local}
        assert entity.properties["moment"].utcoffset() == timedelta(0)

    async def test_insert_adds_once(self, tables: TableStore, table: str) -> None:
        await tables.insert(table, "p", "r", {"n": 1})
        with pytest.raises(PreconditionFailedError):
            await tables.insert(table, "p", "r", {"n": 2})
        assert dict((await tables.get(table, "p", "r")).properties) == {"n": 1}

    async def test_upsert_merges_or_replaces(self, tables: TableStore, table: str) -> None:
        await tables.upsert(table, "p", "r", {"a": 1, "b": 1})
        await tables.upsert(table, "p", "r", {"b": 2, "c": None})
        assert dict((await tables.get(table, "p", "r")).properties) == {"a": 1, "b": 2}
        await tables.upsert(table, "p", "r", {"d": 4}, mode="replace")
        assert dict((await tables.get(table, "p", "r")).properties) == {"d": 4}

    async def test_update_needs_the_entity_and_its_etag(self, tables: TableStore, table: str) -> None:
        with pytest.raises(KeyNotFoundError):
            await tables.update(table, "p", "r", {"n": 1})
        first = await tables.insert(table, "p", "r", {"n": 1, "kept": True})
        second = await tables.update(table, "p", "r", {"n": 2}, etag=first)
        assert second != first
        with pytest.raises(PreconditionFailedError):
            await tables.update(table, "p", "r", {"n": 3}, etag=first)
        with pytest.raises(PreconditionFailedError):
            await tables.delete(table, "p", "r", etag=first)
        assert dict((await tables.get(table, "p", "r")).properties) == {"n": 2, "kept": True}
        await tables.update(table, "p", "r", {"n": 4}, mode="replace")
        entity = await tables.get(table, "p", "r")
        assert dict(entity.properties) == {"n": 4}
        await tables.delete(table, "p", "r", etag=entity.etag)
        for call in (tables.get, tables.delete):
            with pytest.raises(KeyNotFoundError):
                await call(table, "p", "r")

    async def test_racing_updates_lose_nothing(self, tables: TableStore, table: str) -> None:
        await tables.insert(table, "p", "r", {"n": 0})

        async def increment() -> None:
            while True:
                entity = await tables.get(table, "p", "r")
                try:
                    await tables.update(table, "p", "r", {"n": entity.properties["n"] + 1}, etag=entity.etag)
                except PreconditionFailedError:
                    continue
                return

        await asyncio.gather(*(increment() for _ in range(8)))
        assert (await tables.get(table, "p", "r")).properties["n"] == 8

    async def test_queries_filter_select_and_page_in_order(self, tables: TableStore, table: str) -> None:
        rows = [(f"p{n % 3}", f"r{n:02}") for n in range(12)]
        for n, (pk, rk) in enumerate(rows):
            await tables.insert(table, pk, rk, {"n": n, "name": f"it's {n}", "even": n % 2 == 0})
        seen: list[tuple[str, str]] = []
        cursor = None
        while True:
            page = await tables.query(table, limit=5, cursor=cursor)
            assert len(page.entities) <= 5
            seen += [(entity.partition_key, entity.row_key) for entity in page.entities]
            if (cursor := page.cursor) is None:
                break
        assert seen == sorted(rows)

        async def numbers(filter: str, **parameters: Any) -> list[int]:
            page = await tables.query(table, filter, parameters=parameters)
            return sorted(entity.properties["n"] for entity in page.entities)

        assert await numbers("PartitionKey eq @pk", pk="p1") == [1, 4, 7, 10]
        assert await numbers("PartitionKey eq 'p1' and RowKey gt @rk", rk="r04") == [7, 10]
        assert await numbers("name eq @name", name="it's 3") == [3]
        assert await numbers("even eq @even and n lt @n", even=True, n=5) == [0, 2, 4]
        assert await numbers("not (even eq true) and (n ge 9 or n eq 1)") == [1, 9, 11]
        assert await numbers("n eq 99") == []
        selected = await tables.query(table, "n eq 3", select=["name"])
        assert [dict(entity.properties) for entity in selected.entities] == [{"name": "it's 3"}]
        assert selected.entities[0].row_key == "r03"

    async def test_a_missing_table_is_made_by_insert_and_not_found_by_query(self, tables: TableStore) -> None:
        name = f"t{uuid.uuid4().hex[:12]}"
        with pytest.raises(KeyNotFoundError):
            await tables.query(name)
        with pytest.raises(KeyNotFoundError):
            await tables.get(name, "p", "r")
        await tables.insert(name, "p", "r", {"n": 1})
        assert len((await tables.query(name)).entities) == 1
        await tables.create_table(name)

    @pytest.mark.parametrize(
        "properties",
        [
            {"n": 2**63},
            {"n": float("nan")},
            {"n": datetime(2026, 1, 1)},
            {"n": [1]},
            {"n": "\ud800"},
            {"PartitionKey": "x"},
            {"with-dash": 1},
            {"1st": 1},
        ],
        ids=repr,
    )
    async def test_what_a_table_can_not_hold_is_refused(
        self, tables: TableStore, table: str, properties: dict[str, Any]
    ) -> None:
        with pytest.raises(InvalidArgumentError):
            await tables.insert(table, "p", "r", properties)
        with pytest.raises(KeyNotFoundError):
            await tables.get(table, "p", "r")

    async def test_limits(self, tables: TableStore, table: str) -> None:
        for properties in (
            {"s": "x" * 32_769},
            {"b": b"x" * 65_537},
            {f"p{n}": b"x" * 65_536 for n in range(17)},
            {f"p{n}": 1 for n in range(253)},
        ):
            with pytest.raises(ObjectTooLargeError):
                await tables.insert(table, "p", "r", properties)
        for key in ("a/b", "a\\b", "a#b", "a?b", "a\tb", "x" * 513):
            with pytest.raises(InvalidKeyError):
                await tables.insert(table, key, "r", {})
            with pytest.raises(InvalidKeyError):
                await tables.get(table, "p", key)
        for name in ("ab", "1abc", "a-b", "x" * 64):
            with pytest.raises(InvalidKeyError):
                await tables.insert(name, "p", "r", {})
        with pytest.raises(InvalidArgumentError):
            await tables.query(table, limit=0)
        with pytest.raises(InvalidArgumentError):
            await tables.query(table, cursor="no cursor")
        with pytest.raises(InvalidArgumentError):
            await tables.query(table, "n eq")
        with pytest.raises(InvalidArgumentError):
            await tables.query(table, "n eq @missing", parameters={})
