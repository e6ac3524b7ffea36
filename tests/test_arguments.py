"""Arguments of the wrong kind: refused by name, before anything is done, and not by an error of Python."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy
import pytest

from storage_lib import MemoryBackend, StorageManager
from storage_lib.errors import InvalidArgumentError, InvalidKeyError, StorageError

NUMBERS: list[Any] = [True, "5", b"5", None, [5], {"a": 1}, object(), float("nan"), Decimal(5), -1, 2**80]
NO_MAPPINGS: list[Any] = [5, "text", b"bytes", ["a"], [("a", 1)], ("a", "b"), object(), 1.5]

Call = Callable[[StorageManager, Any], Awaitable[Any]]
NUMBER_ARGUMENTS: list[tuple[str, bool, Call]] = [
    ("limit", False, lambda storage, value: storage.list_page(limit=value)),
    ("limit", False, lambda storage, value: storage.backend.tables.query("t", limit=value)),
    ("max_messages", False, lambda storage, value: storage.backend.queues.receive("q", max_messages=value)),
    ("max_messages", False, lambda storage, value: storage.backend.queues.peek("q", max_messages=value)),
    ("ttl", True, lambda storage, value: storage.save("new", 1, ttl=value)),
    ("ttl", True, lambda storage, value: storage.backend.send_message("q", "new", ttl=value)),
    ("delay", False, lambda storage, value: storage.backend.send_message("q", "new", delay=value)),
    (
        "visibility_timeout",
        False,
        lambda storage, value: storage.backend.receive_message("q", visibility_timeout=value),
    ),
]
"""Each with the field that the error names, and whether None is allowed."""

OTHER_ARGUMENTS: list[tuple[str, list[Any], Call]] = [
    ("metadata", NO_MAPPINGS, lambda storage, value: storage.save("new", 1, metadata=value)),
    ("metadata", [{5: "x"}, {"x": 5}], lambda storage, value: storage.save("new", 1, metadata=value)),
    ("items", [None, *NO_MAPPINGS], lambda storage, value: storage.save_many(value)),
    ("entity", [None, *NO_MAPPINGS], lambda storage, value: storage.backend.insert_entity("t", value)),
    (
        "parameters",
        NO_MAPPINGS,
        lambda storage, value: storage.backend.query_entities("t", "PartitionKey eq @p", parameters=value),
    ),
    (
        "select",
        [5, "name", b"name"],
        lambda storage, value: storage.backend.query_entities("t", select=value),
    ),
    ("keys", [None, 5, "k", b"k"], lambda storage, value: storage.load_many(value)),
    ("keys", [None, 5, "k", b"k"], lambda storage, value: storage.delete_many(value)),
    (
        "concurrency",
        [0, -1, 1.5, "2", None, True],
        lambda storage, value: storage.load_many(["k"], concurrency=value),
    ),
    ("change", [None, 5, "x", {"n": 2}], lambda storage, value: storage.update("k", value)),
    ("limit", [-1, "5", None, 1.5], lambda storage, value: storage.sweep_expired(value)),
]


async def a_store() -> StorageManager:
    storage = StorageManager(backend=MemoryBackend())
    await storage.save("k", {"n": 1})
    await storage.backend.insert_entity("t", {"PartitionKey": "p", "RowKey": "r"})
    await storage.backend.send_message("q", "hello")
    return storage


async def unchanged(storage: StorageManager) -> None:
    assert await storage.list_keys() == ["k"]
    assert await storage.load("k") == {"n": 1}
    assert len(await storage.backend.query_entities("t")) == 1
    assert await storage.backend.queues.length("q") == 1
    assert (await storage.backend.queues.peek("q"))[0].body == b"hello"


@pytest.mark.parametrize(("field", "may_be_none", "call"), NUMBER_ARGUMENTS)
async def test_a_number_that_is_none_is_refused(field: str, may_be_none: bool, call: Call) -> None:
    storage = await a_store()
    for wrong in NUMBERS:
        if wrong is None and may_be_none:
            continue
        with pytest.raises(InvalidArgumentError) as refused:
            await call(storage, wrong)
        assert refused.value.field == field, wrong
        assert refused.value.limit, wrong
    await unchanged(storage)


@pytest.mark.parametrize(("field", "wrong", "call"), OTHER_ARGUMENTS)
async def test_what_is_of_another_kind_is_refused(field: str, wrong: list[Any], call: Call) -> None:
    storage = await a_store()
    for value in wrong:
        with pytest.raises(InvalidArgumentError) as refused:
            await call(storage, value)
        assert refused.value.field == field, value
    await unchanged(storage)


@pytest.mark.parametrize("wrong", [None, 5, b"x", ["x"], object()])
async def test_a_key_or_prefix_is_text(wrong: Any) -> None:
    storage = await a_store()
    for call in (
        storage.list_keys(wrong),
        storage.list_page(wrong),
        storage.stats(wrong),
        storage.backend.objects.iterate(wrong),
        storage.load(wrong),
        storage.save(wrong, 1),
    ):
        with pytest.raises(InvalidKeyError):
            await call


async def test_numbers_of_other_types_are_numbers() -> None:
    storage = await a_store()
    assert len((await storage.list_page(limit=numpy.int64(5))).entries) == 1  # pyright: ignore
    for ttl in (60, 60.5, numpy.float32(60), numpy.int64(60), Fraction(60)):
        await storage.save("k", {"n": 1}, ttl=ttl)  # pyright: ignore
        assert (await storage.info("k")).expires_at is not None
    with pytest.raises(StorageError):
        await storage.save("k", 1, ttl=numpy.float64("nan"))
