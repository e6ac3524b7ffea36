"""Answers that are lost, and answers of a store that is behind: what the layers make of them, one at a time.

test_layers_faults.py has them at random.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import product
from typing import Any

import pytest

from storage_lib.backends.memory import MemoryBackend
from storage_lib.config.caching import CachingOptions
from storage_lib.config.encryption import EncryptionOptions
from storage_lib.errors import (
    KeyNotFoundError,
    PreconditionFailedError,
    StorageUnavailableError,
    TransientStorageError,
)
from storage_lib.layers.base import Operation
from storage_lib.layers.caching import CachingLayer
from storage_lib.layers.encryption import EncryptionLayer
from storage_lib.layers.retry import RetryBackend, RetryOptions
from storage_lib.ports.backend import ObjectStore, StorageBackend
from storage_lib.ports.object_model import ByteRange
from tests.outages import Switched, down
from tests.test_fallback import Stores, marks, streamed, value

OLD, NEW = b"older", b"the newest"
ENCRYPTION = EncryptionOptions(keys={"k": bytes(32)})
MODES: dict[str, dict[str, Any]] = {
    "mirror": {"mode": "mirror", "writes": "primary"},
    "mirror that takes writes": {"mode": "mirror"},
    "second store that takes writes": {},
}


async def behind(mode: str, *, encrypted: bool = False) -> tuple[Stores, StorageBackend]:
    """Two stores of which the second has an older version of ``k``, as after a failure in the middle of a
    save; and the layers around them."""
    stores = Stores(**MODES[mode])
    backend, second = stores.layer, stores.second
    if encrypted:
        backend, second = EncryptionLayer(backend, ENCRYPTION), EncryptionLayer(second, ENCRYPTION)
    await backend.objects.put("k", OLD)
    if "mirror" not in mode:
        await second.objects.put("k", OLD)
    stores.secondary.away = True
    await backend.objects.put("k", NEW)
    stores.secondary.away = False
    assert await value(second.objects, "k") == OLD
    return stores, backend


def flicker(stores: Stores, pattern: tuple[bool, ...]) -> None:
    """Which of the primary's next requests find it away."""
    turns = iter(pattern)

    def before() -> None:
        stores.primary.away = next(turns, False)

    stores.primary.before = before


def lose_the_first(stores: Stores, name: str, pattern: tuple[bool, ...]) -> list[str]:
    """The answer to the primary's first such operation is lost; then it flickers. Whose that was."""
    lost: list[str] = []

    async def around(operation: Operation, call: Callable[[], Awaitable[Any]]) -> Any:
        if lost or operation.name != name:
            return await Switched.around(stores.primary, operation, call)
        await call()
        lost.append(operation.target)
        flicker(stores, pattern)
        raise down()

    stores.primary.objects.driver._around = around  # type: ignore[attr-defined]
    return lost


# -- copies


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
@pytest.mark.parametrize("mode", MODES)
async def test_a_copy_without_a_condition_meets_no_conflict_whichever_store_answers(
    mode: str, encrypted: bool
) -> None:
    copied = set[bytes | None]()
    for pattern in product((False, True), repeat=7):
        stores, backend = await behind(mode, encrypted=encrypted)
        objects = backend.objects
        flicker(stores, pattern)
        try:
            await objects.copy("k", "target")
        except TransientStorageError:
            continue
        finally:
            flicker(stores, ())
        copied.add(await value(objects, "target"))
    assert NEW in copied
    assert copied <= {OLD, NEW}


@pytest.mark.parametrize("mode", MODES)
async def test_a_copy_whose_answer_was_lost_meets_no_conflict_with_itself(mode: str) -> None:
    for pattern in product((False, True), repeat=4):
        stores = Stores(**MODES[mode])
        await stores.objects.put("k", NEW)
        lost = lose_the_first(stores, "copy", pattern)
        with suppress(TransientStorageError):
            await stores.objects.copy("k", "target", if_absent=True)
        flicker(stores, ())
        assert lost == ["k"]
        assert await value(stores.objects, "target") == NEW
        assert (await stores.layer.repair()).conflicts == ()
        assert await value(stores.first.objects, "target") == NEW


# -- creations


async def test_a_creation_that_the_primary_may_have_taken_is_not_refused_because_of_a_mirror_behind() -> None:
    stores = Stores(mode="mirror")
    await stores.objects.put("k", OLD)
    stores.secondary.away = True
    await stores.objects.delete("k")
    stores.secondary.away = False
    assert await stores.both("k") == (None, OLD)
    stores.primary.lose_responses = 1
    with pytest.raises(StorageUnavailableError, match="not known"):
        await stores.objects.put("k", NEW, if_absent=True)
    assert await value(stores.objects, "k") == NEW


async def test_a_mirror_that_is_not_behind_decides_about_a_creation() -> None:
    stores = Stores(mode="mirror")
    await stores.objects.put("k", OLD)
    stores.primary.away = True
    with pytest.raises(PreconditionFailedError):
        await stores.objects.put("k", NEW, if_absent=True)
    stores.primary.away = False
    await stores.layer.repair()
    assert await stores.both("k") == (OLD, OLD)


# -- retries


@pytest.mark.parametrize("attempts", [2, 3])
async def test_a_refusal_after_a_lost_answer_does_not_say_that_nothing_was_done(attempts: int) -> None:
    store = Switched(MemoryBackend())
    store.lose_responses = 1
    outcomes = iter([False, True, True])

    def before() -> None:
        store.away = next(outcomes)
        store.error = (lambda: StorageUnavailableError("busy", refused=True)) if store.away else down

    store.before = before

    async def sleep(seconds: float) -> None:
        return

    retried = RetryBackend(store, RetryOptions(attempts=attempts), sleep=sleep)
    with pytest.raises(StorageUnavailableError) as caught:
        await retried.objects.put("k", NEW)
    assert not caught.value.refused
    assert await value(store.inner.objects, "k") == NEW


# -- a mirror's marks


class Killed(BaseException):
    pass


AWAY, LOST, KILLED = "the second store is away", "the answer is lost", "killed"


# A repair cannot tell a writer that is about to be killed from one that was.
@pytest.mark.parametrize(
    ("end", "meanwhile"),
    [(AWAY, "write"), (LOST, "write"), (KILLED, "write"), (AWAY, "repair"), (LOST, "repair")],
)
async def test_what_a_mirror_missed_is_repaired_whatever_else_was_done_meanwhile(
    end: str, meanwhile: str
) -> None:
    """A write is marked. Before it is done, the mark is removed by whoever is through with the key."""
    stores = Stores(mode="mirror", writes="primary")
    other = stores.other(mode="mirror", writes="primary")
    await stores.objects.put("k", b"0")
    own: list[str] = []

    async def around(operation: Operation, call: Callable[[], Awaitable[Any]]) -> Any:
        if own or operation.name != "put":
            return await call()
        own.append(operation.target)
        if meanwhile == "write":
            await other.objects.put("k", OLD)
        else:
            await other.repair()
        result = await call()
        if end == KILLED:
            raise Killed
        if end == LOST:
            raise down()
        stores.secondary.away = True
        return result

    stores.primary.objects.driver._around = around  # type: ignore[attr-defined]
    with suppress(Killed, TransientStorageError):
        await stores.objects.put("k", NEW)
    stores.secondary.away = False
    assert own == ["k"]
    assert await value(stores.first.objects, "k") == NEW
    await other.repair()
    assert await stores.both("k") == (NEW, NEW)
    assert [*await marks(stores.first.objects), *await marks(stores.second.objects)] == []


# -- a cache over two stores


async def whole(objects: ObjectStore) -> bytes:
    found = await objects.get("k")
    assert found is not None
    return found.data


async def changed(objects: ObjectStore) -> bytes:
    found = await objects.get("k", if_none_match="another")
    assert found is not None
    return found.data


async def ranged(objects: ObjectStore) -> bytes:
    found = await objects.get("k", byte_range=ByteRange(0, 100))
    assert found is not None
    return found.data


async def size(objects: ObjectStore) -> bytes:
    return {len(OLD): OLD, len(NEW): NEW}[(await objects.head("k")).size]


READS: dict[str, Callable[[ObjectStore], Awaitable[bytes]]] = {
    "whole": whole,
    "if changed": changed,
    "range": ranged,
    "stream": lambda objects: streamed(objects, "k"),
    "info": size,
}


@pytest.mark.parametrize("kept", [False, True], ids=["not kept", "kept and stale"])
@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("mode", MODES)
async def test_a_cache_does_not_keep_what_a_store_behind_has_answered(
    mode: str, read: str, kept: bool
) -> None:
    stores, backend = await behind(mode)
    now = 0.0
    cached = CachingLayer(backend, CachingOptions(), clock=lambda: now).objects
    if kept:
        assert await whole(cached) == NEW
        now += 1000
    stores.primary.away = True
    assert await READS[read](cached) == OLD
    stores.primary.away = False
    for again in READS:
        assert await READS[again](cached) == NEW, again


@pytest.mark.parametrize("read", READS)
async def test_a_cache_does_not_keep_that_a_store_behind_lacks_an_object(read: str) -> None:
    stores = Stores(complete=True)
    await stores.first.objects.put("k", NEW)
    cached = CachingLayer(stores.layer, CachingOptions()).objects
    stores.primary.away = True
    with pytest.raises(KeyNotFoundError):
        await READS[read](cached)
    stores.primary.away = False
    assert await whole(cached) == NEW


# -- sweeps


@pytest.mark.parametrize("mode", ["mirror that takes writes", "second store that takes writes"])
async def test_a_sweep_does_not_remove_what_has_expired_only_in_a_store_behind(mode: str) -> None:
    """The delete would be newer than the save, and repair would do it in the primary, too."""
    stores = Stores(**MODES[mode])
    await stores.objects.put("k", OLD, ttl=60)
    if "mirror" not in mode:
        await stores.second.objects.put("k", OLD, ttl=60)
    stores.secondary.away = True
    await stores.objects.put("k", NEW)
    stores.secondary.away = False
    stores.now += 100
    stores.primary.away = True
    assert await stores.objects.sweep_expired() == 0
    stores.primary.away = False
    assert await value(stores.objects, "k") == NEW
    await stores.layer.repair()
    assert await stores.objects.sweep_expired() == 0
    assert await value(stores.first.objects, "k") == NEW
