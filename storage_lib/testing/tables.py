"""What a table store does, whatever is behind it."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from storage_lib.errors import (
    InvalidArgumentError,
    InvalidKeyError,
    KeyNotFoundError,
    ObjectTooLargeError,
    PreconditionFailedError,
    StorageError,
)
from storage_lib.ports.backend import Delete, Insert, TableStore, Update, Upsert
from storage_lib.ports.odata import compile_filter
from storage_lib.testing.cancellation import CancelledTableWrites
from storage_lib.testing.explained import explained
from storage_lib.testing.filters import CORPUS, ROWS, generated
from storage_lib.testing.named import ListedTables

NO_ETAGS = [
    *("", '""', '"*"', " ", "*, *", "x", '"x"', 'W/"x"', "W/\"datetime'2022'\"", "a b", "line\nbreak", "ü"),
    *("\ud800", "nul\x00", "x" * 100_000),
]
"""Texts that no entity has as its ETag."""

GENERATED = 250
"""Filters from the seed; each is one request to the store."""

PROPERTIES: dict[str, Any] = {
    "text": "päck 🙂 'quoted' <&>\r\n",
    "empty": "",
    "yes": True,
    "no": False,
    "small": -5,
    "large": 2**62 + 1,
    "number": 0.1,
    "least_number": 5e-324,
    "largest_number": 1.7976931348623157e308,
    "beyond_int": 1e22,
    "control": "\x00\x01\x7f\ufffe\u2028 ",
    "like_a_moment": "2026-01-01T00:00:00Z",
    "whole_number": 3.0,
    "moment": datetime(2026, 2, 3, 4, 5, 6, 789_012, UTC),
    "first_moment": datetime(1601, 1, 1, tzinfo=UTC),
    "binary": bytes(range(256)),
    "no_binary": b"",
    "id": uuid.UUID("00112233-4455-6677-8899-aabbccddeeff"),
    "settings": {"z": 1, "a": {"list": [1, 2.0, None, True, "ü 🙂 'x'"], "large": 10**30}},
    "tags": ["a", "b"],
    "no_tags": [],
    "no_settings": {},
    "like_json": 'json:{"a":1}',
    "like_escaped": "text:json:[1]",
    "nearly_json": 'json: {"a":1}',
    "plain_json": '{"a":1}',
}


class TableStoreContract(ListedTables, CancelledTableWrites):
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

    async def test_what_is_missing_has_a_default_and_may_be_deleted(
        self, tables: TableStore, table: str
    ) -> None:
        etag = await tables.insert(table, "p", "r", {"n": 1})
        await tables.delete(table, "p", "r", missing_ok=True)
        for name in (table, f"{table}none"):
            assert await tables.get(name, "p", "r", default=None) is None
            for condition in (None, "*", etag, "another"):
                await tables.delete(name, "p", "r", etag=condition, missing_ok=True)
        await tables.insert(table, "p", "r", {"n": 2})
        found = await tables.get(table, "p", "r", default=None)
        assert found is not None
        assert found.properties["n"] == 2
        with pytest.raises(PreconditionFailedError):
            await tables.delete(table, "p", "r", etag=etag, missing_ok=True)
        with pytest.raises(InvalidKeyError):
            await tables.get("", "p", "r", default=None)

    async def test_insert_adds_once(self, tables: TableStore, table: str) -> None:
        await tables.insert(table, "p", "r", {"n": 1})
        with pytest.raises(PreconditionFailedError):
            await tables.insert(table, "p", "r", {"n": 2})
        assert dict((await tables.get(table, "p", "r")).properties) == {"n": 1}

    async def test_a_dict_is_stored_as_text_that_others_can_read(
        self, tables: TableStore, table: str
    ) -> None:
        settings = {"mödel": "large", "n": [1, {"deep": None}]}
        await tables.insert(table, "p", "dict", {"v": settings})
        await tables.insert(table, "p", "text", {"v": 'json:{"mödel":1}'})
        stored = 'json:{"mödel":"large","n":[1,{"deep":null}]}'
        for filter, parameters, expected in (
            (f"v eq '{stored}'", {}, {"dict"}),
            ("v ge 'json:' and v lt 'json;'", {}, {"dict"}),
            ("v eq @v", {"v": 'json:{"mödel":1}'}, {"text"}),
            ("v eq 'text:json:{\"mödel\":1}'", {}, {"text"}),
        ):
            page = await tables.query(table, filter, parameters=parameters)
            assert {entity.row_key for entity in page.entities} == expected, filter
            assert all(
                entity.properties["v"] == (settings if entity.row_key == "dict" else 'json:{"mödel":1}')
                for entity in page.entities
            )
        with pytest.raises(InvalidArgumentError, match="literal"):
            await tables.query(table, "v eq @v", parameters={"v": settings})
        # A merge changes the value and what it is in one.
        await tables.update(table, "p", "dict", {"v": "plain"})
        assert dict((await tables.get(table, "p", "dict")).properties) == {"v": "plain"}

    async def test_there_is_no_negative_zero(self, tables: TableStore, table: str) -> None:
        """Services do not keep the sign; filters never saw it."""
        await tables.insert(table, "p", "r", {"f": -0.0, "j": [-0.0]})
        await tables.batch(table, "p", [Upsert("b", {"f": -0.0})])
        for row in ("r", "b"):
            found = (await tables.get(table, "p", row)).properties
            assert (type(found["f"]), str(found["f"])) == (float, "0.0")
        assert str((await tables.get(table, "p", "r")).properties["j"]) == "[-0.0]"
        assert len((await tables.query(table, "f eq @f", parameters={"f": -0.0})).entities) == 2

    async def test_what_no_entity_has_as_its_etag_is_never_met(self, tables: TableStore, table: str) -> None:
        await tables.insert(table, "p", "there", {"n": 1})
        for etag in NO_ETAGS:
            with explained(etag[:20]):
                await self._is_never_met(tables, table, etag)

    async def _is_never_met(self, tables: TableStore, table: str, etag: str) -> None:
        for call in (
            tables.update(table, "p", "gone", {"n": 2}, etag=etag),
            tables.delete(table, "p", "gone", etag=etag),
            tables.batch(table, "p", [Update("gone", {"n": 2}, etag=etag)]),
            tables.batch(table, "p", [Delete("gone", etag=etag)]),
            tables.update(f"{table}gone", "p", "there", {"n": 2}, etag=etag),
        ):
            with pytest.raises(KeyNotFoundError):
                await call
        for call in (
            tables.update(table, "p", "there", {"n": 2}, etag=etag),
            tables.update(table, "p", "there", {"n": 2}, etag=etag, mode="replace"),
            tables.delete(table, "p", "there", etag=etag),
            tables.batch(table, "p", [Update("there", {"n": 2}, etag=etag)]),
            tables.batch(table, "p", [Insert("new"), Delete("there", etag=etag)]),
        ):
            with pytest.raises(PreconditionFailedError):
                await call
        (entity,) = (await tables.query(table)).entities
        assert (entity.row_key, dict(entity.properties)) == ("there", {"n": 1})

    async def test_a_star_is_any_version_of_an_entity(self, tables: TableStore, table: str) -> None:
        for call in (
            tables.update(table, "p", "r", {"n": 2}, etag="*"),
            tables.delete(table, "p", "r", etag="*"),
            tables.batch(table, "p", [Update("r", {"n": 2}, etag="*")]),
        ):
            with pytest.raises(KeyNotFoundError):
                await call
        await tables.insert(table, "p", "r", {"n": 1})
        await tables.update(table, "p", "r", {"n": 2}, etag="*")
        await tables.batch(table, "p", [Update("r", {"m": 3}, etag="*")])
        assert dict((await tables.get(table, "p", "r")).properties) == {"n": 2, "m": 3}
        await tables.delete(table, "p", "r", etag="*")
        await tables.insert(table, "p", "r", {})
        await tables.batch(table, "p", [Delete("r", etag="*")])
        assert (await tables.query(table)).entities == []
        for wrong in (5, b"x", True, ["a"]):
            for call in (
                tables.update(table, "p", "r", {}, etag=wrong),  # pyright: ignore[reportArgumentType]
                tables.delete(table, "p", "r", etag=wrong),  # pyright: ignore[reportArgumentType]
                tables.batch(table, "p", [Delete("r", etag=wrong)]),  # pyright: ignore[reportArgumentType]
            ):
                with pytest.raises(InvalidArgumentError):
                    await call

    async def test_none_is_nothing_however_it_is_written(self, tables: TableStore, table: str) -> None:
        await tables.upsert(table, "p", "r", {"a": 1, "b": None})
        for change in (tables.upsert, tables.update):
            await change(table, "p", "r", {"a": None, "c": 2})
            assert dict((await tables.get(table, "p", "r")).properties) == {"a": 1, "c": 2}
        await tables.update(table, "p", "r", {"a": None, "d": 3}, mode="replace")
        assert dict((await tables.get(table, "p", "r")).properties) == {"d": 3}
        await tables.upsert(table, "p", "r", {"a": None}, mode="replace")
        assert dict((await tables.get(table, "p", "r")).properties) == {}

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

    async def test_errors_read_alike_on_every_backend(self, tables: TableStore, table: str) -> None:
        none = f"t{uuid.uuid4().hex[:12]}"
        old = await tables.insert(table, "p", "r", {})
        await tables.update(table, "p", "r", {"n": 1})
        for name, row in ((table, "gone"), (none, "r")):
            for call in (
                tables.get(name, "p", row),
                tables.update(name, "p", row, {}),
                tables.update(name, "p", row, {}, etag=old),
                tables.delete(name, "p", row),
                tables.delete(name, "p", row, etag=old),
            ):
                with pytest.raises(KeyNotFoundError) as missing:
                    await call
                assert str(missing.value) == f"entity 'p', {row!r} does not exist in table {name!r}"
            with pytest.raises(KeyNotFoundError) as missing:
                await tables.batch(name, "p", [Update(row, {})])
            assert str(missing.value) == f"operation 0: entity 'p', {row!r} does not exist in table {name!r}"
        with pytest.raises(KeyNotFoundError) as missing:
            await tables.query(none)
        assert (str(missing.value), missing.value.field) == (f"table {none!r} does not exist", "table")
        for call in (tables.update(table, "p", "r", {}, etag=old), tables.delete(table, "p", "r", etag=old)):
            with pytest.raises(PreconditionFailedError) as unmet:
                await call
            words = f"entity 'p', 'r' of table {table!r} does not have the ETag {old!r}"
            assert (str(unmet.value), unmet.value.field) == (words, "etag")
        with pytest.raises(PreconditionFailedError) as unmet:
            await tables.batch(table, "p", [Upsert("s"), Delete("r", etag=old)])
        assert str(unmet.value) == f"operation 1: {words}"
        with pytest.raises(PreconditionFailedError) as unmet:
            await tables.insert(table, "p", "r", {})
        assert str(unmet.value) == f"entity 'p', 'r' exists in table {table!r}"

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
        found = [entity.properties["n"] async for entity in tables.iterate(table, "even eq true")]
        assert found == [rows.index(row) for row in sorted(rows) if rows.index(row) % 2 == 0]

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

    async def test_what_a_table_can_not_hold_is_refused(self, tables: TableStore, table: str) -> None:
        wrong: list[dict[Any, Any]] = [
            {"n": 2**63},
            {"n": float("nan")},
            {"n": datetime(2026, 1, 1)},
            {"n": datetime(1600, 12, 31, tzinfo=UTC)},
            {"n": datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5)))},
            {"n": ...},
            {"n": (1, 2)},
            {"n": {1: 2}},
            {"n": {"a": b"x"}},
            {"n": [float("inf")]},
            {"n": ["\ud800"]},
            {"n": "\ud800"},
            {"etag": "x"},
            {3: "x"},
            {"PartitionKey": "x"},
            {"with-dash": 1},
            {"1st": 1},
        ]
        for properties in wrong:
            with explained(properties), pytest.raises(InvalidArgumentError):
                await tables.insert(table, "p", "r", properties)
            with explained(properties), pytest.raises(KeyNotFoundError):
                await tables.get(table, "p", "r")

    async def test_limits(self, tables: TableStore, table: str) -> None:
        for properties in (
            {"s": "x" * 32_769},
            {"s": "🙂" * 16_385},
            {"j": ["x" * 32_760]},
            {"b": b"x" * 65_537},
            {f"p{n}": b"x" * 65_536 for n in range(17)},
            {f"p{n}": 1 for n in range(253)},
        ):
            with pytest.raises(ObjectTooLargeError):
                await tables.insert(table, "p", "r", properties)
        await tables.insert(table, "🙂" * 256, "x" * 512, {"s": "🙂" * 16_384, "j": ["x" * 32_759]})
        nested: list[Any] = []
        for _ in range(100):
            nested = [nested]
        with pytest.raises(InvalidArgumentError):
            await tables.insert(table, "p", "r", {"nested": nested})
        bad_keys: list[Any] = ["a/b", "a\\b", "a#b", "a?b", "a\tb", "x" * 513, "🙂" * 257, "\ud800", 3]
        for key in bad_keys:
            with pytest.raises(InvalidKeyError):
                await tables.insert(table, key, "r", {})
            with pytest.raises(InvalidKeyError):
                await tables.get(table, "p", key)
        for mode in ("merged", None):
            with pytest.raises(InvalidArgumentError):
                await tables.upsert(table, "p", "r", {}, mode=mode)  # pyright: ignore[reportArgumentType]
        for limit in (0, 1001, -1, 2.5, True):
            with pytest.raises(InvalidArgumentError):
                await tables.query(table, limit=limit)  # pyright: ignore[reportArgumentType]

    async def test_names_that_azure_refuses_are_mapped_to_tables_of_their_own(
        self, tables: TableStore
    ) -> None:
        tail = uuid.uuid4().hex[:8]
        names = [f"my_table_{tail}", f"my-table-{tail}", f"My_table_{tail}", f"1{tail}", f"{tail} ü" * 20]
        for name in names:
            await tables.create_table(name)
            await tables.insert(name, "p", "r", {"name": name})
        for name in names:
            assert (await tables.get(name, "p", "r")).properties == {"name": name}
            assert [dict(e.properties) for e in (await tables.query(name)).entities] == [{"name": name}]
            await tables.delete(name, "p", "r")
        for name in ("", "a/b", "a\n", "a\x00", "\ud800", "x" * 256, None):
            with pytest.raises(InvalidKeyError):
                await tables.insert(name, "p", "r", {})  # pyright: ignore[reportArgumentType]
            with pytest.raises(InvalidKeyError):
                await tables.query(name)  # pyright: ignore[reportArgumentType]

    async def test_a_cursor_that_no_query_gave_is_refused(self, tables: TableStore, table: str) -> None:
        cursors: list[Any] = ["no cursor", "", "AAAA", "eyJ9", "W10", "WzEsMl0", "ü", "a\x00", "=", 5]
        for cursor in cursors:
            with explained(cursor), pytest.raises(InvalidArgumentError):
                await tables.query(table, cursor=cursor)

    async def test_a_cursor_belongs_to_its_query(self, tables: TableStore, table: str) -> None:
        other = f"{table}x"
        for name in (table, other):
            for n in range(4):
                await tables.insert(name, "p", f"r{n}", {"n": n, "s": "a"})
        moment = datetime(2026, 1, 1, tzinfo=UTC)
        queries: list[tuple[str, str | None, dict[str, Any]]] = [
            (table, None, {}),
            (other, None, {}),
            (table, "n ge 0", {}),
            (table, "n ge @n", {"n": 0}),
            (table, "n ge @n", {"n": -1}),
            (table, "s eq @s", {"s": "a"}),
            (table, "Timestamp ge @s", {"s": moment}),
            (table, "Timestamp ge @s", {"s": moment + timedelta(microseconds=1)}),
        ]
        cursors = [
            (await tables.query(name, filter, parameters=parameters, limit=1)).cursor
            for name, filter, parameters in queries
        ]
        assert all(cursors)
        for at, (name, filter, parameters) in enumerate(queries):
            for given_by, cursor in enumerate(cursors):
                if given_by == at:
                    for select in (None, ["n"]):
                        page = await tables.query(
                            name, filter, parameters=parameters, select=select, cursor=cursor
                        )
                        assert [entity.row_key for entity in page.entities] == ["r1", "r2", "r3"]
                    continue
                with pytest.raises(InvalidArgumentError) as refused:
                    await tables.query(name, filter, parameters=parameters, cursor=cursor)
                assert refused.value.field == "cursor"

    async def test_a_filter_that_azure_does_not_know_is_refused(self, tables: TableStore, table: str) -> None:
        wrong: list[tuple[Any, dict[str, Any]]] = [
            ("n eq", {}),
            ("n eq 1 and", {}),
            ("n = 1", {}),
            ("n eq n", {}),
            ("n eq PartitionKey", {}),
            ("PartitionKey eq RowKey", {}),
            ("null eq null", {}),
            ("1", {}),
            ("n eq null", {}),
            ("n eq NaN", {}),
            ("n eq 1e999", {}),
            ("n eq 9223372036854775808", {}),
            ("n eq 'open", {}),
            ("startswith(s, 'a')", {}),
            ("n eq @missing", {}),
            ("n eq 1", {"unused": 1}),
            ("n eq @n", {"n": float("nan")}),
            ("n eq @n", {"n": None}),
            ("n eq @n", {"n": 2**63}),
            (5, {}),
        ]
        for filter, parameters in wrong:
            with explained(filter, parameters), pytest.raises(InvalidArgumentError):
                await tables.query(table, filter, parameters=parameters)

    @pytest.fixture
    async def rows(self, tables: TableStore, table: str) -> str:
        for (pk, rk), properties in ROWS.items():
            await tables.insert(table, pk, rk, properties)
        return table

    async def test_a_filter_means_the_same_everywhere(self, tables: TableStore, rows: str) -> None:
        wrong: list[str] = []
        for filter, parameters, expected in CORPUS:
            page = await tables.query(rows, filter, parameters=parameters)
            found = {entity.row_key for entity in page.entities}
            if found != expected or page.cursor is not None:
                wrong.append(
                    f"{filter} {parameters}: too many {found - expected}, missing {expected - found}"
                )
            assert all(
                dict(entity.properties) == ROWS[entity.partition_key, entity.row_key]
                for entity in page.entities
            )
        assert wrong == []

    async def test_generated_filters_mean_the_same_everywhere(self, tables: TableStore, rows: str) -> None:
        everything = (await tables.query(rows)).entities
        # Judged as it is stored; of these rows only JSON is stored as something else.
        everything = [entity for entity in everything if "j" not in entity.properties]
        wrong: list[str] = []
        for filter, parameters in generated(2026, GENERATED):
            holds = compile_filter(filter, parameters)
            expected = {entity.row_key for entity in everything if holds(entity)}
            page = await tables.query(rows, filter, parameters=parameters)
            found = {entity.row_key for entity in page.entities if "j" not in entity.properties}
            if found != expected:
                wrong.append(
                    f"{filter} {parameters}: too many {found - expected}, missing {expected - found}"
                )
        assert wrong == []

    async def test_a_filter_may_have_hundreds_of_terms(self, tables: TableStore, rows: str) -> None:
        terms = " or ".join(f"n eq {n}" for n in range(500))
        assert len((await tables.query(rows, terms)).entities) == 2
        page = await tables.query(rows, f"PartitionKey eq @p and ({terms})", parameters={"p": "q"})
        assert page.entities == []
        page = await tables.query(rows, "s eq @s", parameters={"s": "ü" * 16_000})
        assert page.entities == []

    async def test_pages_of_a_filter_are_the_whole_in_order(self, tables: TableStore, rows: str) -> None:
        for filter, limit in (("d ge datetime'2026-01-01'", 2), ("not (n gt 0)", 3), ("b eq false", 1)):
            whole = await tables.query(rows, filter, select=["s", "nothing"])
            seen: list[tuple[str, str]] = []
            cursor = None
            while True:
                page = await tables.query(rows, filter, select=["s", "nothing"], limit=limit, cursor=cursor)
                assert len(page.entities) <= limit
                seen += [(entity.partition_key, entity.row_key) for entity in page.entities]
                for entity in page.entities:
                    row = ROWS[entity.partition_key, entity.row_key]
                    assert dict(entity.properties) == {name: row[name] for name in ("s",) if name in row}
                if (cursor := page.cursor) is None:
                    break
            assert seen == [(entity.partition_key, entity.row_key) for entity in whole.entities]
            assert len(seen) > limit

    async def test_select_gives_the_named_properties_only(self, tables: TableStore, table: str) -> None:
        await tables.insert(table, "p", "r", {"a": 1, "b": [2], "c": "x"})
        for select, expected in (
            (["b"], {"b": [2]}),
            (["b", "nope"], {"b": [2]}),
            (["PartitionKey"], {}),
            ([], {}),
        ):
            (entity,) = (await tables.query(table, "c eq 'x'", select=select)).entities
            assert (dict(entity.properties), entity.partition_key, entity.row_key) == (expected, "p", "r")
            assert entity.etag == (await tables.get(table, "p", "r")).etag
        with pytest.raises(InvalidArgumentError):
            await tables.query(table, select="a")
        for name in ("*", "", "a b", "a,b", "a;b", "1", "a/b", "é'", 5, None):
            with pytest.raises(InvalidArgumentError, match="select") as refused:
                await tables.query(table, select=["a", name])  # pyright: ignore[reportArgumentType]
            assert refused.value.field == "select"
        assert (await tables.query(table, select=["é"])).entities[0].properties == {}

    async def test_large_entities_are_listed_once_each(self, tables: TableStore, table: str) -> None:
        """Wherever pages end for their sake."""
        large = {f"p{n}": bytes(60_000) for n in range(15)} | {"n": 1}
        rows = [f"{n:02}" for n in range(14)]
        for row in rows:
            await tables.insert(table, "p", row, large if row < "10" else {"n": 2})
        for select, limit in ((None, 1000), (["n"], 1000), (None, 3), (["p1"], 5)):
            seen: list[str] = []
            cursor = None
            while True:
                page = await tables.query(table, "n ge 1", select=select, limit=limit, cursor=cursor)
                assert len(page.entities) <= limit
                assert sum(60_000 * len(entity.properties) for entity in page.entities) < 7_000_000
                seen += [entity.row_key for entity in page.entities]
                if (cursor := page.cursor) is None:
                    break
            assert seen == rows

    @pytest.mark.parametrize("operations", [None, 5, "text"])
    async def test_a_batch_is_a_list(self, tables: TableStore, operations: Any) -> None:
        with pytest.raises(InvalidArgumentError) as raised:
            await tables.batch("t", "p", operations)
        assert raised.value.field == "operations"

    async def test_a_batch_does_everything(self, tables: TableStore, table: str) -> None:
        kept = await tables.insert(table, "p", "kept", {"n": 1, "m": 1})
        gone = await tables.insert(table, "p", "gone", {})
        await tables.insert(table, "p", "old", {"a": 1})
        etags = await tables.batch(
            table,
            "p",
            [
                Insert("new", {"j": {"a": [1]}, "id": uuid.UUID(int=5)}),
                Upsert("old", {"b": 2}),
                Update("kept", {"n": 2}, etag=kept, mode="replace"),
                Delete("gone", etag=gone),
                Upsert("made", {"c": None}),
            ],
        )
        entities = (await tables.query(table)).entities
        assert {entity.row_key: dict(entity.properties) for entity in entities} == {
            "new": {"j": {"a": [1]}, "id": uuid.UUID(int=5)},
            "old": {"a": 1, "b": 2},
            "kept": {"n": 2},
            "made": {},
        }
        by_row = {entity.row_key: entity.etag for entity in entities}
        assert etags == [by_row["new"], by_row["old"], by_row["kept"], None, by_row["made"]]
        assert await tables.batch(table, "p", []) == []
        many = await tables.batch(table, "p's ü", [Insert(f"r{n:02} %", {"n": n}) for n in range(100)])
        assert len(many) == 100
        assert all(many)
        await tables.batch(table, "p's ü", [Delete(f"r{n:02} %") for n in range(100)])

    async def test_an_entity_is_written_with_others(self, tables: TableStore, table: str) -> None:
        other = await tables.insert(table, "p", "other", {"n": 1})
        etag = await tables.insert(
            table, "p", "r", {"n": 1}, also=[Insert("index", {}), Delete("other", other)]
        )
        assert (await tables.get(table, "p", "r")).etag == etag
        changed = await tables.update(
            table, "p", "r", {"m": 2}, etag=etag, also=[Upsert("index", {"m": 2}, "replace")]
        )
        found = await tables.get(table, "p", "r")
        assert (dict(found.properties), found.etag) == ({"n": 1, "m": 2}, changed)
        assert [each.row_key for each in await tables.iterate(table)] == ["index", "r"]

    @pytest.mark.parametrize("blamed", [0, 2])
    async def test_nothing_is_written_if_one_of_the_others_fails(
        self, tables: TableStore, table: str, blamed: int
    ) -> None:
        etag = await tables.insert(table, "p", "r", {"n": 1})
        also = [Insert("index"), Delete("missing") if blamed else Insert("another")]
        calls = [
            lambda: tables.update(table, "p", "r", {"n": 2}, etag=etag if blamed else '"old"', also=also),
            lambda: tables.insert(table, "p", "s" if blamed else "r", {}, also=also),
        ]
        for call in calls:
            with pytest.raises(KeyNotFoundError if blamed else PreconditionFailedError) as caught:
                await call()
            assert not blamed or caught.value.field == "operations[2]"
        assert [(each.row_key, each.etag) for each in await tables.iterate(table)] == [("r", etag)]

    async def test_a_batch_does_nothing_if_one_operation_fails(self, tables: TableStore, table: str) -> None:
        etag = await tables.insert(table, "p", "there", {"n": 1})
        other = await tables.update(table, "p", "there", {"n": 1})
        failures: list[tuple[Any, type[StorageError]]] = [
            (Insert("there"), PreconditionFailedError),
            (Update("missing", {"n": 2}), KeyNotFoundError),
            (Delete("missing"), KeyNotFoundError),
            (Update("there", {"n": 2}, etag=etag), PreconditionFailedError),
            (Delete("there", etag=etag), PreconditionFailedError),
            (Upsert("bad", {"n": object()}), InvalidArgumentError),  # pyright: ignore[reportArgumentType]
            (Upsert("large", {"n": "x" * 40_000}), ObjectTooLargeError),
            (Insert("bad/key"), InvalidKeyError),
            (Insert("fine"), InvalidArgumentError),
            ("Insert", InvalidArgumentError),
        ]
        for failing, kind in failures:
            operations = [Upsert("fine", {"n": 2}), Insert("fine too"), failing, Upsert("last")]
            with pytest.raises(kind, match="operation 2") as failed:
                await tables.batch(table, "p", operations)
            assert failed.value.field == "operations[2]"
            (entity,) = (await tables.query(table)).entities
            assert (entity.row_key, dict(entity.properties), entity.etag) == ("there", {"n": 1}, other)

    async def test_limits_of_a_batch(self, tables: TableStore, table: str) -> None:
        with pytest.raises(InvalidArgumentError):
            await tables.batch(table, "p", [Insert(f"r{n}") for n in range(101)])
        large = {f"b{n}": b"x" * 65_536 for n in range(11)}
        with pytest.raises(ObjectTooLargeError):
            await tables.batch(table, "p", [Insert(f"r{n}", large) for n in range(5)])
        with pytest.raises(InvalidKeyError):
            await tables.batch(table, "a/b", [Insert("r")])
        assert (await tables.query(table)).entities == []
        await tables.batch(table, "p", [Insert(f"r{n}", large) for n in range(4)])

    async def test_a_batch_makes_a_missing_table_if_it_may_add(self, tables: TableStore) -> None:
        name = f"t{uuid.uuid4().hex[:12]}"
        with pytest.raises(KeyNotFoundError, match="operation 0"):
            await tables.batch(name, "p", [Update("r", {"n": 1})])
        with pytest.raises(KeyNotFoundError):
            await tables.query(name)
        await tables.batch(name, "p", [Insert("r", {"n": 1}), Upsert("s", {})])
        assert len((await tables.query(name)).entities) == 2
