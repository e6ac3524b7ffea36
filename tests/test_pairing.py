"""Two listings side by side, each read ahead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage_lib.errors import StorageUnavailableError
from storage_lib.migration.pairing import Pair, paired
from storage_lib.ports.object_model import ListEntry


async def listing(keys: list[str], error: Exception | None = None) -> AsyncGenerator[ListEntry]:
    for key in keys:
        yield ListEntry(key)
    if error is not None:
        raise error


async def pairs_of(source: AsyncGenerator[ListEntry], target: AsyncGenerator[ListEntry]) -> list[Pair]:
    async with asyncio.timeout(120):
        return [pair async for pair in paired(source, target, "a/", "b/")]


@given(st.sets(st.text("abc", max_size=3)), st.sets(st.text("abc", max_size=3)))
def test_each_name_comes_once_in_order_with_what_either_side_has(ours: set[str], theirs: set[str]) -> None:
    source, target = (
        listing([f"{at}/{name}" for name in sorted(names)]) for at, names in (("a", ours), ("b", theirs))
    )
    pairs = asyncio.run(pairs_of(source, target))
    assert [(name, one is not None, other is not None) for name, one, other in pairs] == [
        (name, name in ours, name in theirs) for name in sorted(ours | theirs)
    ]
    for name, one, other in pairs:
        assert one is None or one.key == f"a/{name}"
        assert other is None or other.key == f"b/{name}"


async def test_long_ones_are_read_in_batches() -> None:
    names = [f"{n:05}" for n in range(5_001)]
    pairs = await pairs_of(
        listing([f"a/{name}" for name in names]), listing([f"b/{name}" for name in names[1::2]])
    )
    assert [pair.name for pair in pairs] == names
    assert sum(pair.target is not None for pair in pairs) == 2_500


async def test_both_begin_at_once() -> None:
    begun = asyncio.Event()

    async def far() -> AsyncGenerator[ListEntry]:
        begun.set()
        yield ListEntry("b/1")

    async def near() -> AsyncGenerator[ListEntry]:
        await begun.wait()
        yield ListEntry("a/1")

    assert [pair.name for pair in await pairs_of(near(), far())] == ["1"]


@pytest.mark.parametrize("side", ["source", "target"])
async def test_an_error_comes_behind_what_was_listed_before_it(side: str) -> None:
    away = StorageUnavailableError("away")
    ours = listing(["a/1", "a/2"], away if side == "source" else None)
    theirs = listing(["b/1", "b/2"], away if side == "target" else None)
    pairs = paired(ours, theirs, "a/", "b/")
    assert [(await anext(pairs)).name, (await anext(pairs)).name] == ["1", "2"]
    with pytest.raises(StorageUnavailableError, match="away"):
        await anext(pairs)


async def test_nobody_reads_on_for_one_who_has_left() -> None:
    before = asyncio.all_tasks()
    ended: list[str] = []

    async def endless(at: str) -> AsyncGenerator[ListEntry]:
        try:
            n = 0
            while True:
                yield ListEntry(f"{at}/{n:09}")
                n += 1
        finally:
            ended.append(at)

    pairs = paired(endless("a"), endless("b"), "a/", "b/")
    assert (await anext(pairs)).name == "000000000"
    await pairs.aclose()
    await asyncio.sleep(0)
    others = asyncio.all_tasks() - before
    assert not others
