"""Versions: numbers that are never given twice, a current one, labels, what is pruned and what is not."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonpatch
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage_lib import comparison, patches
from storage_lib.backends.memory import MemoryBackend
from storage_lib.comparison import difference
from storage_lib.config.caching import CachingOptions
from storage_lib.errors import (
    IntegrityError,
    InvalidArgumentError,
    InvalidKeyError,
    KeyNotFoundError,
    PreconditionFailedError,
    SerializationError,
    StorageUnavailableError,
    TransientStorageError,
)
from storage_lib.factory import build
from storage_lib.layers.base import Layer, Operation
from storage_lib.layers.caching import CachingLayer
from storage_lib.layers.retry import RetryBackend, RetryOptions
from storage_lib.manager import StorageManager
from storage_lib.ports.backend import StorageBackend
from storage_lib.versioning import Versions
from tests.competing import at_once, told
from tests.http_app import config_of

SOAK = os.environ.get("SOAK") == "1"
PROCESSES, EACH = 8, 100


@pytest.fixture
async def storage(any_store: tuple[str, object], tmp_path: Path) -> AsyncIterator[StorageManager]:
    async with StorageManager(await config_of(*any_store, tmp_path)) as storage:
        yield storage


@pytest.fixture
def memory() -> StorageManager:
    return StorageManager(backend=MemoryBackend())


async def numbers(storage: StorageManager, key: str) -> list[int]:
    return [version.number for version in await storage.list_versions(key)]


async def test_a_life_of_versions(storage: StorageManager) -> None:
    """Saved, loaded, listed, labelled, rolled back, pruned."""
    key = "models/ceo"
    assert await storage.list_versions(key) == []
    for lack in (storage.current_version(key), storage.load_version(key), storage.rollback(key, 1)):
        with pytest.raises(KeyNotFoundError, match="no version"):
            await lack
    for n in range(1, 12):
        assert await storage.save_versioned(key, {"n": n}, saved_by="trainer") == n
    assert await storage.load_version(key) == {"n": 11}
    assert await storage.load_version(key, 2) == await storage.load_version(key, "v2") == {"n": 2}
    assert await storage.load(f"{key}/v2") == {"n": 2}, "a version is an ordinary object"
    assert (await storage.load(f"{key}/current"))["version"] == 11

    assert await storage.label_version(key, 3, "production") == 3
    assert await storage.label_version(key, "production", "v1.2") == 3
    assert await storage.load_version(key, "v1.2") == {"n": 3}
    assert await storage.label_version(key, 4, "production") == 4
    assert await storage.rollback(key, "production") == 4
    assert await storage.load_version(key) == {"n": 4}
    assert await storage.save_versioned(key, {"n": 12}) == 12
    assert await storage.current_version(key) == 12

    listed = await storage.list_versions(key, details=True)
    assert [version.number for version in listed] == list(range(1, 13)), "in the order of the numbers"
    assert [version.number for version in listed if version.is_current] == [12]
    assert {version.number: version.labels for version in listed if version.labels} == {
        3: ("v1.2",),
        4: ("production",),
    }
    assert listed[0].saved_by == "trainer"
    assert listed[11].saved_by is None
    assert abs(listed[0].saved_at - datetime.now(UTC)) < timedelta(minutes=5)
    assert listed[0].size == len(b'{"n":1}')

    planned = await storage.prune_versions(key, keep_last=3, dry_run=True)
    assert len(await storage.list_versions(key)) == 12
    assert await storage.prune_versions(key, keep_last=3) == planned == [1, 2, 5, 6, 7, 8, 9]
    assert await numbers(storage, key) == [3, 4, 10, 11, 12]
    with pytest.raises(KeyNotFoundError, match="no version 5"):
        await storage.load_version(key, 5)
    await storage.unlabel_version(key, "v1.2")
    with pytest.raises(KeyNotFoundError, match="label"):
        await storage.load_version(key, "v1.2")
    assert await storage.prune_versions(key, keep_last=0, younger_than=timedelta(hours=1)) == []
    assert await storage.prune_versions(key, keep_last=0) == [3, 10, 11]


async def test_a_number_is_never_given_twice(storage: StorageManager) -> None:
    for _ in range(3):
        await storage.save_versioned("k", "x")
    await storage.rollback("k", 1)
    await storage.delete("k/v3")
    await storage.prune_versions("k", keep_last=0)
    assert await storage.save_versioned("k", "new") == 4
    assert await storage.load_version("k") == "new"


async def test_a_version_is_never_replaced(storage: StorageManager) -> None:
    assert await storage.save_versioned("k", "three", 3) == 3
    with pytest.raises(PreconditionFailedError, match="has a version 3 already"):
        await storage.save_versioned("k", "other", 3)
    assert await storage.save_versioned("k", "four") == 4
    assert await storage.save_versioned("k", "one", 1) == 1, "an earlier one, brought in later"
    assert await storage.load_version("k") == "four"
    assert await storage.load_version("k", 3) == "three"
    assert await numbers(storage, "k") == [1, 3, 4]


async def test_a_writer_that_died_leaves_no_more_than_a_version(memory: StorageManager) -> None:
    await memory.save_versioned("k", 1)
    for n in range(2, 40):  # Saved, and never made current.
        await memory.save(f"k/v{n}", "lost")
    assert await memory.load_version("k") == 1
    assert await memory.save_versioned("k", 40) == 40
    assert await memory.load_version("k") == 40


async def test_versions_as_written_by_hand_are_taken_on(memory: StorageManager) -> None:
    for n in (1, 2):
        await memory.save(f"k/v{n}", {"n": n})
        await memory.save("k/current", {"version": n})
    assert await memory.load_version("k") == {"n": 2}
    assert await memory.save_versioned("k", {"n": 3}) == 3
    assert await memory.load("k/current") == {"version": 3, "highest": 3}
    await memory.delete("k/current")
    assert await numbers(memory, "k") == [1, 2, 3]
    assert await memory.save_versioned("k", {"n": 4}) == 4


async def test_what_is_no_version_is_left_alone(memory: StorageManager) -> None:
    for key in ("k/v1/deeper", "k/v01", "k/v0", "k/v1.2", "k/vx", "k/v", "k2/v9"):
        await memory.save(key, "mine")
    assert await memory.save_versioned("k", 1) == 1
    assert await numbers(memory, "k") == [1]
    assert await memory.prune_versions("k", keep_last=0) == []
    await memory.save("own/current", {"name": "an object of the user's"})
    for refused in (memory.save_versioned("own", 1), memory.load_version("own")):
        with pytest.raises(IntegrityError, match="own/current"):
            await refused
    assert await memory.load("own/current") == {"name": "an object of the user's"}
    assert await numbers(memory, "own/x") == []


async def test_a_difference_is_a_json_patch(memory: StorageManager) -> None:
    await memory.save_versioned("k", {"r": 8, "layers": ["a", "b"], "old": 1})
    await memory.save_versioned("k", {"r": 16, "layers": ["a", "b", "c"]})
    patch = await memory.diff_versions("k", 1)
    assert sorted(patch, key=lambda step: step["path"]) == [
        {"op": "add", "path": "/layers/2", "value": "c"},
        {"op": "remove", "path": "/old"},
        {"op": "replace", "path": "/r", "value": 16},
    ]
    assert await memory.diff_versions("k", 2) == []
    await memory.save_versioned("k", b"weights")
    with pytest.raises(SerializationError, match="is a bytes, not JSON"):
        await memory.diff_versions("k", 1)


ATOMS = st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.0, -0.0, 1.0, "", "a", "~/"])
JSON_VALUES = st.recursive(
    ATOMS,
    lambda inner: (
        st.lists(inner, max_size=6)
        | st.dictionaries(st.sampled_from(["", "a", "~1", "x/y", "é"]), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(JSON_VALUES, JSON_VALUES, st.sampled_from([1, 3, 1000]))
def test_a_patch_of_large_values_makes_the_one_of_the_other(before: Any, after: Any, most: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(patches, "_MOST_STEPS", most)
        found = list(patches.steps(before, after))
    assert difference(after, jsonpatch.apply_patch(before, found), 0) is None
    assert (found == []) == (difference(before, after, 0) is None)


@pytest.mark.parametrize(
    ("after", "count"),
    [
        (list(reversed(range(100_000))), 1),
        ([n + 1 for n in range(100_000)], 1),
        (list(range(1, 100_000)), 1),
        ([*range(50_000), "x", *range(50_000, 100_000)], 1),
        ([*range(50_000), *range(50_003, 100_000)], 3),
        ([-1 if n % 10_000 == 5 else n for n in range(100_000)], 10),
        ([], 1),
    ],
    ids=["reversed", "all others", "without the first", "one more", "three less", "ten others", "none"],
)
async def test_long_lists_are_compared_without_looking_for_the_shortest_patch(
    memory: StorageManager, after: list[Any], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {"kept": [{"a": 1}], "long": list(range(100_000))}
    await memory.save_versioned("k", before)
    await memory.save_versioned("k", before | {"long": after})
    monkeypatch.setattr(jsonpatch, "make_patch", None)
    patch = await memory.diff_versions("k", 1)
    assert len(patch) == count
    assert jsonpatch.apply_patch(before, patch) == before | {"long": after}


def test_nested_lists_are_compared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []

    def counted(value: Any, other: Any, depth: int) -> Any:
        compared.append(depth)
        return compare(value, other, depth)

    compare = comparison.difference
    for module in (comparison, patches):
        monkeypatch.setattr(module, "difference", counted)

    def nested(levels: int, last: int) -> list[Any]:
        found: list[Any] = [*range(100), last]
        for level in range(levels):
            found = [found, *range(level % 3)]
        return found

    path = "/0" * 50 + "/100"
    assert list(patches.steps(nested(50, 1), nested(50, 2))) == [{"op": "replace", "path": path, "value": 2}]
    assert len(compared) < 500  # 50 times as many, were each level compared before it is descended into.
    after = [nested(49, 2), "more"]
    assert jsonpatch.apply_patch(nested(50, 1), list(patches.steps(nested(50, 1), after))) == after


@pytest.mark.parametrize("label", ["", "3", "v3", "x" * 101, "a\nb", 5, "007", ["x"], {"x": 1}])
async def test_what_cannot_be_a_label(memory: StorageManager, label: Any) -> None:
    await memory.save_versioned("k", 1)
    for refused in (memory.label_version("k", 1, label), memory.save_versioned("k", 2, label=label)):
        with pytest.raises(InvalidArgumentError, match="label"):
            await refused
    assert await numbers(memory, "k") == [1]


async def test_a_label_that_was_forgotten_makes_no_version_current(memory: StorageManager) -> None:
    for value in (1, 2):
        await memory.save_versioned("k", value)
    forgotten: Any = None
    with pytest.raises(InvalidArgumentError, match="'None' cannot be a label"):
        await memory.label_version("k", 1, forgotten)
    assert await memory.current_version("k") == 2


@pytest.mark.parametrize("number", [0, -1, True, 1.0, 10**16])
async def test_what_cannot_be_a_number(memory: StorageManager, number: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="version"):
        await memory.save_versioned("k", 1, number)
    assert [key async for key in memory.list_keys()] == []


async def test_bad_input_stores_nothing(memory: StorageManager) -> None:
    for key in ("", "a//b", "k/", ".system/k", "x" * 256):
        with pytest.raises(InvalidKeyError):
            await memory.save_versioned(key, 1)
    with pytest.raises(SerializationError):
        await memory.save_versioned("k", object())
    await memory.save_versioned("k", 1)
    wrong: list[Any] = [{}, {"keep_last": -1}, {"keep_last": 1.5}]
    for arguments in wrong:
        with pytest.raises(InvalidArgumentError) as error:
            await memory.prune_versions("k", **arguments)
        assert error.value.field == "keep_last"
    for missing in (memory.rollback("k", 7), memory.label_version("k", 7, "x"), memory.rollback("k", "none")):
        with pytest.raises(KeyNotFoundError):
            await missing
    assert await memory.load("k/current") == {"version": 1, "highest": 1}


# -- at the same time


class Pausing(Layer):
    """Lets something else happen before an operation."""

    def __init__(self, inner: MemoryBackend) -> None:
        super().__init__(inner)
        self.before: dict[tuple[str, str], Callable[[], Awaitable[Any]]] = {}

    async def around[T](self, operation: Operation, call: Callable[[], Awaitable[T]], /) -> T:
        if (happening := self.before.pop((operation.name, operation.target), None)) is not None:
            await happening()
        return await call()


async def prepared() -> tuple[StorageManager, StorageManager, Pausing]:
    memory = MemoryBackend()
    other, pausing = StorageManager(backend=memory), Pausing(memory)
    for n in range(1, 5):
        await other.save_versioned("k", n)
    return StorageManager(backend=pausing), other, pausing


@pytest.mark.parametrize("pointing", ["label", "rollback"])
@pytest.mark.parametrize("moment", [("head", "k/v2"), ("put", "k/current")], ids=lambda moment: moment[0])
async def test_a_version_that_is_pruned_meanwhile_gets_no_label(
    pointing: str, moment: tuple[str, str]
) -> None:
    storage, other, pausing = await prepared()
    pausing.before[moment] = lambda: other.prune_versions("k", keep_last=1)
    with pytest.raises(KeyNotFoundError, match="no version 2"):
        await (storage.label_version("k", 2, "x") if pointing == "label" else storage.rollback("k", 2))
    assert await numbers(other, "k") == [4]
    assert await other.load_version("k") == 4


async def test_a_version_that_gets_a_label_meanwhile_is_not_pruned() -> None:
    storage, other, pausing = await prepared()
    pausing.before["put", "k/current"] = lambda: other.label_version("k", 2, "x")
    assert await storage.prune_versions("k", keep_last=1) == [1, 3]
    assert await storage.load_version("k", "x") == 2


async def test_a_prune_that_was_cut_off_is_ended_by_the_next() -> None:
    storage, other, pausing = await prepared()

    async def die() -> None:
        raise ConnectionError

    pausing.before["delete", "k/v2"] = die
    with pytest.raises((ConnectionError, ExceptionGroup)):
        await storage.prune_versions("k", keep_last=1)
    assert await numbers(other, "k") == [4], "what is being removed is not offered any more"
    with pytest.raises(KeyNotFoundError, match="no version 2"):
        await other.label_version("k", 2, "x")
    assert 2 in await other.prune_versions("k", keep_last=4)
    with pytest.raises(KeyNotFoundError):
        await other.info("k/v2")


async def test_a_number_given_again_by_hand_is_not_pruned_as_what_it_was() -> None:
    storage, other, pausing = await prepared()

    async def given_again() -> None:
        await other.prune_versions("k", keep_last=1)
        assert await other.save_versioned("k", "mine", 2) == 2

    pausing.before["put", "k/current"] = given_again  # after the prune has listed the old one
    assert await storage.prune_versions("k", keep_last=1) == [1, 3]
    assert await other.load_version("k", 2) == "mine"


async def test_a_number_that_is_being_removed_is_not_given() -> None:
    storage, other, pausing = await prepared()

    async def die() -> None:
        raise ConnectionError

    pausing.before["delete", "k/v2"] = die
    with pytest.raises(ConnectionError):
        await storage.prune_versions("k", keep_last=1)
    await other.backend.objects.delete("k/v2")
    with pytest.raises(PreconditionFailedError, match="being removed"):
        await other.save_versioned("k", "mine", 2)
    assert await numbers(other, "k") == [4]


async def test_a_late_writer_does_not_take_back_the_current_version() -> None:
    storage, other, pausing = await prepared()
    pausing.before["put", "k/current"] = lambda: other.save_versioned("k", "faster")
    assert await storage.save_versioned("k", "slower") == 5
    assert await other.load_version("k") == "faster"
    assert (await other.load("k/current"))["highest"] == 6


async def test_a_new_version_that_is_pruned_before_it_gets_its_label_is_not_reported_as_saved() -> None:
    storage, other, pausing = await prepared()

    async def faster() -> None:
        await other.save_versioned("k", "faster")
        assert 5 in await other.prune_versions("k", keep_last=1)

    pausing.before["put", "k/current"] = faster
    with pytest.raises(TransientStorageError, match=r"version 5 .* was pruned before it got the label 'x'"):
        await storage.save_versioned("k", "slower", label="x")
    assert (await other.load("k/current")) == {"version": 6, "highest": 6}


async def test_a_version_with_one_label_too_many_is_not_saved() -> None:
    storage = StorageManager(backend=MemoryBackend())
    await storage.save_versioned("k", 1, label="first")
    for n in range(999):
        await storage.label_version("k", 1, f"label {n}")
    for attempt in (
        lambda: storage.save_versioned("k", 2, label="more"),
        lambda: storage.label_version("k", 1, "more"),
    ):
        with pytest.raises(InvalidArgumentError, match="has 1000 labels") as refused:
            await attempt()
        assert (refused.value.field, refused.value.limit) == ("label", "1,000")
        assert refused.value.remedy
    assert await numbers(storage, "k") == [1]
    assert await storage.save_versioned("k", 2, label="first") == 2


class Losing(Layer):
    """Loses the answer to the next change of ``k/current``, which it makes or does not. Then somebody else
    makes a change."""

    def __init__(self, inner: StorageBackend) -> None:
        super().__init__(inner)
        self.is_made = True
        self.then: Callable[[], Awaitable[Any]] | None = None

    async def around[T](self, operation: Operation, call: Callable[[], Awaitable[T]], /) -> T:
        if self.then is None or (operation.name, operation.target) != ("put", "k/current"):
            return await call()
        then, self.then = self.then, None
        if self.is_made:
            await call()
        await then()
        raise StorageUnavailableError("the answer was lost")


async def losing(
    is_made: bool, backend: StorageBackend | None = None
) -> tuple[StorageManager, StorageManager, Losing]:
    """Four versions, ``x`` is the second; one who loses an answer, another, and what loses it."""
    backend = backend or MemoryBackend()
    other, layer = StorageManager(backend=backend), Losing(backend)
    layer.is_made = is_made
    for n in range(1, 5):
        await other.save_versioned("k", n, label="x" if n == 2 else None)
    options = RetryOptions(base_seconds=0)
    return StorageManager(backend=RetryBackend(layer, options)), other, layer


made_or_not = pytest.mark.parametrize("is_made", [True, False], ids=["made", "not made"])


@made_or_not
@pytest.mark.parametrize("label", [None, "y"], ids=["plain", "labelled"])
@pytest.mark.parametrize("others", [1, 30])
async def test_a_save_whose_answer_was_lost_while_others_save_is_a_version_and_no_error(
    is_made: bool, label: str | None, others: int
) -> None:
    storage, other, layer = await losing(is_made)

    async def saved() -> None:
        for n in range(others):
            await other.save_versioned("k", f"other {n}")

    layer.then = saved
    assert await storage.save_versioned("k", "mine", label=label) == 5
    assert await numbers(other, "k") == list(range(1, 6 + others))
    assert await other.load_version("k", 5) == "mine"
    assert (await other.load("k/current")) == {
        "version": 5 + others,
        "highest": 5 + others,
        "labels": {"x": 2, **({} if label is None else {label: 5})},
    }


CHANGES: dict[str, tuple[Callable[[StorageManager], Awaitable[Any]], dict[str, Any]]] = {
    "label": (lambda storage: storage.label_version("k", 3, "x"), {"labels": {"x": 3}}),
    "labelled save": (
        lambda storage: storage.save_versioned("k", "mine", label="x"),
        {"version": 5, "highest": 5, "labels": {"x": 5}},
    ),
    "unlabel": (lambda storage: storage.unlabel_version("k", "x"), {"labels": None}),
    "rollback": (lambda storage: storage.rollback("k", 1), {"version": 1}),
    "prune": (lambda storage: storage.prune_versions("k", keep_last=1), {}),
    "several": (
        lambda storage: Versions(storage).change("k", current="v1", labels={"x": 3, "n": None}),
        {"version": 1, "labels": {"x": 3, "n": 4}},
    ),
    "several and less": (
        lambda storage: Versions(storage).change("k", current="x", labels={"y": "x"}, without=["x"]),
        {"version": 2, "labels": {"y": 2}},
    ),
    "save that may come again": (
        lambda storage: Versions(storage).add("k", "mine", once="call"),
        {"version": 5, "highest": 5, "calls": {"call": 5}},
    ),
}


def said(**changes: Any) -> dict[str, Any]:
    state: dict[str, Any] = {"version": 4, "highest": 4, "labels": {"x": 2}, **changes}
    return {name: value for name, value in state.items() if value is not None}


@made_or_not
@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_whose_answer_was_lost_is_made_whatever_else_changes(
    change: str, is_made: bool
) -> None:
    storage, other, layer = await losing(is_made)
    make, sets = CHANGES[change]
    layer.then = lambda: other.label_version("k", 4, "z")
    await make(storage)
    labels = {**(sets.get("labels", {"x": 2}) or {}), "z": 4}
    assert await other.load("k/current") == said(**{**sets, "labels": labels})


@made_or_not
async def test_what_lost_answers_change_is_the_same_on_every_store(
    is_made: bool, any_store: tuple[str, object], tmp_path: Path
) -> None:
    async with build(replace(await config_of(*any_store, tmp_path), retry_attempts=1)) as backend:
        storage, other, layer = await losing(is_made, backend)
        layer.then = lambda: other.save_versioned("k", "theirs")
        assert await storage.save_versioned("k", "mine", label="y") == 5
        layer.then = lambda: other.label_version("k", 1, "x")
        assert await storage.label_version("k", 3, "x") == 3
        layer.then = lambda: other.label_version("k", 4, "z")
        assert await storage.rollback("k", 2) == 2
        assert (await other.load("k/current")) == {
            "version": 2,
            "highest": 6,
            "labels": {"x": 1, "y": 5, "z": 4},
        }
        layer.then = lambda: other.unlabel_version("k", "z")
        assert await storage.prune_versions("k", keep_last=1) == [3, 4]
        assert await numbers(other, "k") == [1, 2, 5, 6]
        assert await other.load_version("k", 5) == "mine"
        assert await other.load_version("k", 6) == "theirs"
        assert (await other.load("k/current")).get("removing", []) == []


@made_or_not
@pytest.mark.parametrize("change", ["label", "labelled save", "unlabel", "several", "several and less"])
async def test_a_label_that_another_moves_after_a_lost_answer_stays_where_the_other_put_it(
    change: str, is_made: bool
) -> None:
    storage, other, layer = await losing(is_made)
    layer.then = lambda: other.label_version("k", 1, "x")
    await CHANGES[change][0](storage)
    labels = (await other.load("k/current"))["labels"]
    assert {label: labels[label] for label in labels if label not in ("n", "y")} == {"x": 1}


class Crowded(Layer):
    """The first answer to a change is lost and others make theirs, and then at each further attempt."""

    def __init__(self, inner: StorageBackend, others: Callable[[int], Awaitable[Any]]) -> None:
        super().__init__(inner)
        self.others, self.attempts = others, 0

    async def around[T](self, operation: Operation, call: Callable[[], Awaitable[T]], /) -> T:
        if (operation.name, operation.target) != ("put", "k/current"):
            return await call()
        self.attempts += 1
        if self.attempts == 1:
            await call()
        if self.attempts < 5:
            await self.others(self.attempts)
        if self.attempts == 1:
            raise StorageUnavailableError("the answer was lost")
        return await call()


async def test_a_change_that_was_made_takes_back_no_other_however_many_follow() -> None:
    backend = MemoryBackend()
    other = StorageManager(backend=backend)
    for n in range(1, 5):
        await other.save_versioned("k", n)
    await other.label_version("k", 1, "x")

    async def others(attempt: int) -> None:
        if attempt == 1:
            await other.label_version("k", 4, "x")
            await other.rollback("k", 3)
        await other.label_version("k", attempt % 4 + 1, "z")

    layer = Crowded(backend, others)
    storage = StorageManager(backend=RetryBackend(layer, RetryOptions(base_seconds=0)))
    await Versions(storage).change("k", current=2, labels={"x": 2})
    assert await other.current_version("k") == 3
    assert (await other.load("k/current"))["labels"]["x"] == 4


@pytest.mark.parametrize("number", [None, 7], ids=["next", "own number"])
async def test_a_save_that_was_cut_off_before_it_was_told_of_is_ended_by_the_same_call(
    storage: StorageManager, number: int | None
) -> None:
    await storage.save_versioned("k", "first")
    versions, whole = Versions(storage), Versions(storage)

    async def cut_off(*_: Any, **__: Any) -> bool:
        raise StorageUnavailableError("the instance has died")

    versions._set = cut_off  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(StorageUnavailableError, match="has died"):
        await versions.add("k", "mine", number, label="x", once="call")
    saved, put = await whole.add("k", "mine", number, label="x", once="call")
    assert saved == (number or 2)
    assert put.etag == (await storage.info(f"k/v{saved}")).etag
    assert await numbers(storage, "k") == [1, saved]
    assert await storage.load_version("k", "x") == await storage.load_version("k") == "mine"
    # Another call is in its way, as ever.
    with pytest.raises(PreconditionFailedError):
        await whole.add("k", "mine", saved, once="other call")


async def test_no_label_is_named_like_the_current_version(storage: StorageManager) -> None:
    for n in range(2):
        await storage.save_versioned("k", n)
    for attempt in (
        storage.label_version("k", 1, "current"),
        storage.save_versioned("k", 2, label="current"),
        Versions(storage).change("k", labels={"current": 1}),
    ):
        with pytest.raises(InvalidArgumentError, match="no label is named 'current'") as refused:
            await attempt
        assert refused.value.field == "label"
    assert await numbers(storage, "k") == [1, 2]
    # One that was given before can be moved no more, but removed.
    await storage.save("k/current", {"version": 2, "highest": 2, "labels": {"current": 1}})
    await storage.unlabel_version("k", "current")
    assert [version.labels for version in await storage.list_versions("k")] == [(), ()]


async def test_pages_lead_from_the_newest_to_the_oldest_over_gaps() -> None:
    storage = StorageManager(backend=MemoryBackend())
    for n in (*range(1, 40), 1000, 10**6):
        await storage.save_versioned("k", n, n)
    await storage.save(
        "k/current", {"version": 39, "highest": 10**6, "labels": {"x": 1000}, "removing": [38]}
    )
    versions, before, found = Versions(storage), None, list[int]()
    for _ in range(20):
        page = await versions.page("k", before=before, limit=7)
        assert len(page.versions) <= 7
        found += [each.number for each in page.versions]
        before = page.before
        if before is None:
            break
    assert found == [10**6, 1000, 39, *range(37, 0, -1)]


@made_or_not
async def test_a_rollback_after_a_lost_answer_takes_back_no_other(is_made: bool) -> None:
    storage, other, layer = await losing(is_made)
    layer.then = lambda: other.rollback("k", 3)
    assert await storage.rollback("k", 1) == 1
    assert await other.current_version("k") == 3


@made_or_not
async def test_a_rollback_whose_answer_was_lost_is_the_last_one_if_another_put_back_what_had_been(
    is_made: bool,
) -> None:
    storage, other, layer = await losing(is_made)

    async def undone() -> None:
        await other.rollback("k", 1)
        await other.rollback("k", 4)

    layer.then = undone
    assert await storage.rollback("k", 3) == 3
    assert await other.current_version("k") == 3


@made_or_not
async def test_a_version_named_by_a_label_that_another_moves_or_removes_is_the_one_that_was_set(
    is_made: bool,
) -> None:
    storage, other, layer = await losing(is_made)
    layer.then = lambda: other.label_version("k", 3, "x")
    number = await storage.rollback("k", "x")
    assert number == await other.current_version("k") == (2 if is_made else 3)

    layer.then = lambda: other.unlabel_version("k", "x")
    if is_made:
        assert await storage.label_version("k", "x", "y") == 3
        assert (await other.load("k/current"))["labels"] == {"y": 3}
    else:
        with pytest.raises(KeyNotFoundError, match="no version with the label 'x'"):
            await storage.label_version("k", "x", "y")


@made_or_not
async def test_a_labelled_version_whose_answer_was_lost_may_be_pruned_once_another_has_the_label(
    is_made: bool,
) -> None:
    storage, other, layer = await losing(is_made)

    async def replaced() -> None:
        await other.save_versioned("k", "newer", label="x")
        await other.prune_versions("k", keep_last=1)

    layer.then = replaced
    assert await storage.save_versioned("k", "mine", label="x") == 5
    assert (await other.load("k/current"))["labels"] == {"x": 6}


async def test_a_label_that_moves_during_a_load_is_followed() -> None:
    storage, other, pausing = await prepared()
    await other.label_version("k", 2, "production")

    async def moved() -> None:
        await other.label_version("k", 3, "production")
        await other.prune_versions("k", keep_last=1)

    pausing.before["get", "k/v2"] = moved
    assert await storage.load_version("k", "production") == 3


def cached(store: MemoryBackend) -> tuple[StorageManager, StorageManager]:
    """Two processes that keep objects in memory."""
    ours, theirs = (StorageManager(backend=CachingLayer(store, CachingOptions())) for _ in range(2))
    return ours, theirs


@pytest.mark.parametrize("read", ["info", "read"])
async def test_memory_gives_no_label_to_what_another_process_has_pruned(read: str) -> None:
    ours, theirs = cached(MemoryBackend())
    for n in range(1, 4):
        await ours.save_versioned("k", n)
    await getattr(ours, read)("k/v1")
    await theirs.prune_versions("k", keep_last=1)
    for refused in (ours.label_version("k", 1, "production"), ours.rollback("k", 1)):
        with pytest.raises(KeyNotFoundError, match="no version 1"):
            await refused


async def test_a_version_that_was_missing_a_moment_ago_is_found_once_it_is_there() -> None:
    ours, theirs = cached(MemoryBackend())
    await theirs.save_versioned("k", 1)
    with pytest.raises(KeyNotFoundError, match="no version 2"):
        await ours.load_version("k", 2)
    assert not await ours.exists("k/v2")
    await theirs.save_versioned("k", 2, label="production")
    assert [version.number for version in await ours.list_versions("k", details=True)] == [1, 2]
    for wanted in (None, "production", 2):
        assert await ours.load_version("k", wanted) == 2


async def test_saves_at_once_in_one_process(storage: StorageManager) -> None:
    given = await asyncio.gather(*(storage.save_versioned("k", n) for n in range(20)))
    assert sorted(given) == list(range(1, 21))
    assert await storage.current_version("k") == 20
    assert sorted(await asyncio.gather(*(storage.load_version("k", n) for n in given))) == list(range(20))


async def test_a_label_that_two_move_ends_at_one_of_them(storage: StorageManager) -> None:
    for n in range(4):
        await storage.save_versioned("k", n)
    await asyncio.gather(*(storage.label_version("k", n, "production") for n in (1, 2, 3, 4)))
    labelled = [version.number for version in await storage.list_versions("k") if version.labels]
    assert len(labelled) == 1
    assert await storage.load_version("k", "production") == labelled[0] - 1


WORKER = """
import asyncio, json, sys
from storage_lib.config import StorageConfig
from storage_lib.manager import StorageManager

config, me, each = json.loads(sys.argv[1])

async def main():
    async with StorageManager(StorageConfig(**config)) as storage:
        print("ready", flush=True)
        await asyncio.to_thread(input)
        given = await asyncio.gather(
            *(storage.save_versioned("k", [me, n], saved_by=f"process {me}") for n in range(each))
        )
        print(json.dumps(given))

asyncio.run(main())
"""


@pytest.mark.timeout(1200 if SOAK else 900)
async def test_processes_give_every_version_a_number_of_its_own(
    any_store: tuple[str, object], tmp_path: Path
) -> None:
    config = await config_of(*any_store, tmp_path)
    processes, each = (PROCESSES, EACH) if SOAK else (PROCESSES, 25) if any_store[0] == "file" else (4, 6)
    printed = await at_once(WORKER, [[told(config), me, each] for me in range(processes)])
    given = [number for output in printed for number in msgspec.json.decode(output)]
    async with StorageManager(config) as storage:
        listed = await numbers(storage, "k")
        assert sorted(given) == listed
        assert len(listed) == processes * each
        assert await storage.current_version("k") == listed[-1]
        values = [await storage.load_version("k", number) for number in listed]
    assert sorted(values) == [[me, n] for me in range(processes) for n in range(each)]
