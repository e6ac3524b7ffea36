"""What listings of tables and queues do, whatever is behind them."""

from __future__ import annotations

import uuid

import pytest

from storage_lib.errors import InvalidArgumentError, InvalidKeyError
from storage_lib.names import queue_name, table_name
from storage_lib.ports.backend import Insert, QueueStore, TableStore


class ListedTables:
    """A part of `TableStoreContract`."""

    async def test_tables_are_listed_by_the_names_they_were_given(self, tables: TableStore) -> None:
        tail = uuid.uuid4().hex[:8]
        made, inserted, upserted, batched = (f"{kind}{tail}" for kind in ("Made", "ins", "ups", "bat"))
        mapped = [f"{made}_x", f"{inserted} ü", f"{upserted}-z" * 9, f"{batched}.a", f"1{tail}"]
        await tables.create_table(made)
        await tables.create_table(mapped[0])
        for name in (inserted, mapped[1]):
            await tables.insert(name, "p", "r", {})
        for name in (upserted, mapped[2]):
            await tables.upsert(name, "p", "r", {})
        for name in (batched, mapped[3]):
            await tables.batch(name, "p", [Insert("r", {}), Insert("s", {})])
        await tables.create_table(mapped[4])
        expected = sorted([made, inserted, upserted, batched, *mapped])
        assert [name for name in await tables.list_tables() if tail in name] == expected
        assert [name async for name in tables.list_tables() if tail in name] == expected
        assert await tables.list_tables(made) == [made, mapped[0]]
        assert await tables.list_tables(f"1{tail}") == [f"1{tail}"]
        assert await tables.list_tables(f"no{tail}") == []
        # A table has one name, that of whoever made it.
        await tables.create_table(made.upper())
        await tables.create_table(mapped[1])
        assert [name for name in await tables.list_tables() if tail in name.lower()] == expected
        for name in expected:
            await tables.query(name, limit=1)

    async def test_a_table_whose_given_name_is_not_known_is_reached_by_the_name_in_the_list(
        self, tables: TableStore
    ) -> None:
        name = f"older_{uuid.uuid4().hex[:8]}"
        stored = str(table_name(name))
        await tables.driver.create_table(stored)  # as versions did that remembered no name
        await tables.insert(name, "p", "r", {"n": 1})
        assert [each for each in await tables.list_tables("=") if each[1:] == stored] == [f"={stored}"]
        assert (await tables.get(f"={stored}", "p", "r")).properties == {"n": 1}
        await tables.create_table(name)
        assert await tables.list_tables(name) == [name]
        with pytest.raises(InvalidKeyError):
            await tables.create_table("=/")

    async def test_a_prefix_of_tables_is_a_text(self, tables: TableStore) -> None:
        with pytest.raises(InvalidArgumentError) as refused:
            await tables.list_tables(None)  # pyright: ignore[reportArgumentType]
        assert refused.value.field == "prefix"


class ListedQueues:
    """A part of `QueueStoreContract`."""

    async def test_queues_are_listed_by_the_names_they_were_given(self, queues: QueueStore) -> None:
        tail = uuid.uuid4().hex[:8]
        made, sent = f"made-{tail}", f"sent-{tail}"
        mapped = [f"Made_{tail}", f"sent {tail} ü", f"{tail}--" * 9]
        await queues.create_queue(made)
        await queues.create_queue(mapped[0])
        for name in (sent, *mapped[1:]):
            await queues.send(name, "x")
        await queues.create_queue(mapped[1])
        expected = sorted([made, sent, *mapped])
        assert [name for name in await queues.list_queues() if tail in name] == expected
        assert [name async for name in queues.list_queues() if tail in name] == expected
        assert await queues.list_queues(made) == [made]
        assert await queues.list_queues(f"no-{tail}") == []
        for name in expected:
            await queues.length(name)

    async def test_a_queue_whose_given_name_is_not_known_is_reached_by_the_name_in_the_list(
        self, queues: QueueStore
    ) -> None:
        name = f"older_{uuid.uuid4().hex[:8]}"
        stored = str(queue_name(name))
        await queues.driver.create_queue(stored)  # as versions did that remembered no name
        await queues.send(name, "x")
        assert [each for each in await queues.list_queues("=") if each[1:] == stored] == [f"={stored}"]
        assert await queues.length(f"={stored}") == 1

    async def test_a_prefix_of_queues_is_a_text(self, queues: QueueStore) -> None:
        with pytest.raises(InvalidArgumentError) as refused:
            await queues.list_queues(3)  # pyright: ignore[reportArgumentType]
        assert refused.value.field == "prefix"
