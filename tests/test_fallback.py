"""The fallback layer: who answers, what a write during an outage means, and how repair brings it back."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from storage_lib.backends.memory import MemoryBackend
from storage_lib.config import StorageConfig
from storage_lib.config.fallback import FallbackOptions
from storage_lib.errors import (
    AccessDeniedError,
    ConfigurationError,
    IntegrityError,
    KeyNotFoundError,
    PreconditionFailedError,
    StorageError,
    StorageUnavailableError,
    TransientStorageError,
    UnsupportedOperationError,
)
from storage_lib.layers.fallback import FallbackLayer
from storage_lib.layers.fallback.marks import JOURNALED, OWN, STALE
from storage_lib.layers.retry import RetryBackend, RetryOptions
from storage_lib.manager import StorageManager
from storage_lib.ports.backend import ObjectStore
from storage_lib.ports.drivers import ListOptions
from storage_lib.ports.errors import UnknownOutcomeError, UnknownPresenceError
from tests.outages import Switched, down, refused

SOAK = os.environ.get("SOAK") == "1"
SECONDARY = StorageConfig(storage_type="memory")
_ALL = ListOptions()
KEYS = ["a", "configs/ceo.json", "configs/x/y", "/".join(["z" * 200] * 5), "ü/é", "configs-b"]


class Stores:
    """Two stores that can be made unavailable, and the layer around them. Their clock is the test's."""

    def __init__(
        self, first: MemoryBackend | None = None, second: MemoryBackend | None = None, **more: Any
    ) -> None:
        self.now = 1_700_000_000.0
        self.first = MemoryBackend() if first is None else first
        self.second = MemoryBackend() if second is None else second
        self.primary = Switched(self.first)
        self.secondary = Switched(self.second)
        self.layer = self.other(**more)
        self.objects = self.layer.objects
        for store in (self.first, self.second, self.layer):
            store.objects.clock = self.clock

    def clock(self) -> float:
        self.now += 0.001
        return self.now

    def other(self, **more: Any) -> FallbackLayer:
        """The layer of another process."""
        chosen: dict[str, Any] = {"writes": "secondary", "check_seconds": 0, **more}
        return FallbackLayer(self.primary, self.secondary, FallbackOptions(secondary=SECONDARY, **chosen))

    async def both(self, key: str) -> tuple[bytes | None, bytes | None]:
        """What the two stores themselves hold."""
        return await value(self.first.objects, key), await value(self.second.objects, key)


async def value(objects: ObjectStore, key: str) -> bytes | None:
    try:
        found = await objects.get(key)
    except KeyNotFoundError:
        return None
    assert found is not None
    return found.data


async def streamed(objects: ObjectStore, key: str) -> bytes:
    async with objects.open_reader(key) as reader:
        return await reader.read()


async def marks(objects: ObjectStore) -> list[str]:
    """What waits for repair."""
    return [*await keys(objects, JOURNALED), *await keys(objects, STALE)]


async def keys(objects: ObjectStore, prefix: str = "", **more: Any) -> list[str]:
    return [found if isinstance(found, str) else found.key async for found in objects.iterate(prefix, **more)]


@pytest.fixture
def stores() -> Stores:
    return Stores()


# -- reads


@pytest.mark.parametrize("error", [StorageUnavailableError("down"), TransientStorageError("busy")])
async def test_reads_go_to_the_second_store_while_the_primary_is_away(
    stores: Stores, error: TransientStorageError, caplog: pytest.LogCaptureFixture
) -> None:
    await stores.first.objects.put("k", b"new")
    await stores.second.objects.put("k", b"older")
    assert await value(stores.objects, "k") == b"new"
    assert stores.layer.status().answers == "primary"
    stores.primary.away, stores.primary.error = True, lambda: error
    with caplog.at_level(logging.INFO, "AOS.Storage"):
        assert await value(stores.objects, "k") == b"older"
    assert "may be older" in caplog.text
    assert await streamed(stores.objects, "k") == b"older"
    assert (await stores.objects.head("k")).size == 5
    assert await keys(stores.objects) == ["k"]
    status = stores.layer.status()
    assert (status.answers, status.reads_from_secondary) == ("secondary", 4)
    assert status.primary_away_since is not None
    stores.primary.away = False
    assert await value(stores.objects, "k") == b"new"
    assert stores.layer.status().answers == "primary"
    assert stores.layer.status().primary_away_since is None


@pytest.mark.parametrize(
    "error",
    [
        AccessDeniedError("no"),
        IntegrityError("damaged"),
        ConfigurationError("wrong"),
        KeyNotFoundError("gone"),
    ],
)
async def test_no_other_error_is_a_reason_to_read_the_second_store(
    stores: Stores, error: StorageError
) -> None:
    await stores.second.objects.put("k", b"older")
    stores.primary.away, stores.primary.error = True, lambda: error  # type: ignore[assignment,return-value]
    for call in (value(stores.layer.objects, "x"), stores.objects.head("k"), streamed(stores.objects, "k")):
        if isinstance(error, KeyNotFoundError) and call.__name__ == "value":
            assert await call is None
            continue
        with pytest.raises(type(error)):
            await call
    assert stores.layer.status().reads_from_secondary == 0


async def test_not_found_in_the_primary_is_not_looked_up_in_the_second_store(stores: Stores) -> None:
    await stores.second.objects.put("deleted long ago", b"1")
    with pytest.raises(KeyNotFoundError):
        await stores.objects.get("deleted long ago")
    assert await keys(stores.objects) == []


async def test_what_an_incomplete_second_store_lacks_is_unavailable_not_missing(stores: Stores) -> None:
    await stores.first.objects.put("k", b"1")
    stores.primary.away = True
    for call in (stores.objects.get("k"), stores.objects.head("k"), stores.objects.delete("k")):
        with pytest.raises(StorageUnavailableError, match="second store does not have it"):
            await call
    complete = stores.other(complete=True)
    for call in (complete.objects.get("k"), complete.objects.head("k"), complete.objects.delete("k")):
        with pytest.raises(KeyNotFoundError):
            await call


async def test_both_away_is_unavailable_and_tells_of_both(stores: Stores) -> None:
    await stores.second.objects.put("k", b"1")
    stores.primary.away = stores.secondary.away = True
    calls: list[Awaitable[object]] = [
        stores.objects.get("k"),
        stores.objects.put("k", b"2"),
        stores.objects.delete("k"),
        keys(stores.objects),
        streamed(stores.objects, "k"),
    ]
    for call in calls:
        with pytest.raises(StorageUnavailableError, match=r"connection refused.*second store"):
            await call
    with pytest.raises(StorageUnavailableError):
        await stores.layer.open()
    stores.primary.away = stores.secondary.away = False
    assert await stores.both("k") == (None, b"1")


async def test_a_process_that_starts_during_an_outage_opens(stores: Stores) -> None:
    await stores.second.objects.put("k", b"1")
    stores.primary.away = True
    await stores.layer.open()
    assert stores.layer.status().answers == "secondary"
    assert await value(stores.objects, "k") == b"1"
    stores.primary.away, stores.secondary.away = False, True
    await stores.layer.open()
    assert stores.layer.status().answers == "primary"
    assert stores.layer.status().secondary_away_since is not None


# -- writes


@pytest.mark.parametrize("mode", ["fallback", "mirror"])
async def test_writes_may_be_refused_while_the_primary_is_away(mode: str) -> None:
    stores = Stores(mode=mode, writes="primary")
    await stores.objects.put("k", b"1")
    stores.primary.away = True
    before = await stores.second.objects.iterate()
    for call in (stores.objects.put("k", b"2"), stores.objects.delete("k"), stores.objects.copy("k", "l")):
        with pytest.raises(StorageUnavailableError):
            await call
    stores.primary.away = False
    assert await value(stores.objects, "k") == b"1"
    if mode == "fallback":
        assert await stores.second.objects.iterate() == before


@pytest.mark.parametrize("key", KEYS)
async def test_a_write_during_an_outage_is_read_during_it_after_it_and_after_repair(key: str) -> None:
    stores = Stores()
    await stores.objects.put(key, b"1", content_type="text/plain", metadata={"a": "1"})
    await stores.objects.put("other", b"1")
    stores.primary.away = True
    put = await stores.objects.put(key, b"2", content_type="application/json", metadata={"b": "2"})
    for _ in range(2):  # during the outage, and after it
        found = await stores.objects.get(key)
        assert found is not None
        assert (found.data, found.info.etag) == (b"2", put.etag)
        assert (found.info.content_type, found.info.metadata) == ("application/json", {"b": "2"})
        assert await streamed(stores.objects, key) == b"2"
        assert key in await keys(stores.objects)
        stores.primary.away = False
    assert await value(stores.other().objects, key) == b"2"  # for every process
    result = await stores.layer.repair()
    assert (result.repaired, result.conflicts, result.failed, result.pending) == (1, (), (), 0)
    assert await stores.both(key) == (b"2", b"2")
    info = await stores.first.objects.head(key)
    assert (info.content_type, info.metadata) == ("application/json", {"b": "2"})
    assert not [name async for name in stores.second.objects.iterate(OWN)]
    assert await value(stores.objects, key) == b"2"
    assert (await stores.layer.repair()).repaired == 0


@pytest.mark.parametrize("key", KEYS)
async def test_a_delete_during_an_outage_is_seen_at_once_and_after_repair(key: str) -> None:
    stores = Stores(mode="mirror")
    await stores.objects.put(key, b"1")
    stores.primary.away = True
    await stores.objects.delete(key)
    for _ in range(2):  # during the outage, and after it
        assert await value(stores.objects, key) is None
        with pytest.raises(KeyNotFoundError):
            await stores.objects.head(key)
        with pytest.raises(KeyNotFoundError):
            await stores.objects.delete(key)
        assert await keys(stores.objects) == []
        assert await keys(stores.objects, delimiter="/") == []
        assert await value(stores.second.objects, key) is None  # Who opens that store alone agrees.
        stores.primary.away = False
    result = await stores.layer.repair()
    assert (result.repaired, result.conflicts) == (1, ())
    assert await stores.both(key) == (None, None)
    assert not await marks(stores.second.objects)
    assert not await stores.first.objects.iterate()


async def test_a_deleted_object_can_be_created_again_during_the_outage() -> None:
    stores = Stores(mode="mirror")
    await stores.objects.put("k", b"1")
    stores.primary.away = True
    await stores.objects.delete("k")
    assert (await stores.objects.put("k", b"2", if_absent=True)).created
    with pytest.raises(PreconditionFailedError):
        await stores.objects.put("k", b"3", if_absent=True)
    stores.primary.away = False
    assert (await stores.layer.repair()).conflicts == ()
    assert await stores.both("k") == (b"2", b"2")


async def test_etags_of_one_store_never_match_the_other(stores: Stores) -> None:
    first = await stores.objects.put("k", b"1")
    second = await stores.second.objects.put("k", b"1")
    stores.primary.away = True
    stores.primary.error = lambda: StorageUnavailableError("too busy", refused=True)
    shown = (await stores.objects.head("k")).etag
    assert shown not in (first.etag, second.etag)
    for etag in (first.etag, second.etag):
        with pytest.raises(PreconditionFailedError):
            await stores.objects.put("k", b"2", if_match=etag)
        with pytest.raises(PreconditionFailedError):
            await stores.objects.delete("k", if_match=etag)
    assert await stores.objects.get("k", if_none_match=shown) is None
    assert await stores.objects.get("k", if_none_match=second.etag) is not None
    taken = await stores.objects.put("k", b"2", if_match=shown)
    with pytest.raises(PreconditionFailedError):
        await stores.objects.put("k", b"3", if_match=shown)
    stores.primary.away = False
    # Until it is repaired the object is where it was; then it is another one.
    taken = await stores.objects.put("k", b"3", if_match=taken.etag)
    await stores.layer.repair()
    with pytest.raises(PreconditionFailedError):
        await stores.objects.put("k", b"4", if_match=taken.etag)
    with pytest.raises(PreconditionFailedError):
        await stores.objects.put("k", b"4", if_match=first.etag)
    assert await stores.both("k") == (b"3", b"3")


async def test_a_mirrored_version_has_one_etag_in_both_stores() -> None:
    stores = Stores(mode="mirror")
    put = await stores.objects.put("k", b"1")
    stores.primary.away = True
    assert (await stores.objects.head("k")).etag == put.etag
    page = await stores.objects.list_page(details=True)
    assert [entry.etag for entry in page.entries] == [put.etag]
    assert await stores.objects.get("k", if_none_match=put.etag) is None
    await stores.objects.put("k", b"2", if_match=put.etag)
    with pytest.raises(StorageError):
        await stores.objects.put("k", b"3", if_match=put.etag)
    stores.primary.away = False
    assert (await stores.layer.repair()).conflicts == ()
    assert await stores.both("k") == (b"2", b"2")


async def test_a_conflict_is_not_invented_when_the_primary_may_have_taken_the_write(stores: Stores) -> None:
    put = await stores.objects.put("k", b"1")
    await stores.second.objects.put("k", b"0")
    stores.primary.lose_responses = 1
    with pytest.raises(StorageUnavailableError, match="not known"):
        await stores.objects.put("k", b"2", if_match=put.etag)
    assert await value(stores.objects, "k") == b"2"


async def test_a_creation_that_the_primary_may_have_taken_is_not_refused_because_of_an_old_copy(
    stores: Stores,
) -> None:
    """Someone who took a lock would believe that another has it."""
    await stores.second.objects.put("lock", b"of last week")
    stores.primary.lose_responses = 1
    with pytest.raises(StorageUnavailableError, match="not known") as caught:
        await stores.objects.put("lock", b"mine", if_absent=True)
    assert caught.value.field == "if_absent"
    assert await value(stores.objects, "lock") == b"mine"
    stores.primary.away, stores.primary.error = True, refused
    with pytest.raises(PreconditionFailedError):
        await stores.objects.put("lock", b"mine", if_absent=True)


@pytest.mark.parametrize("mode", ["fallback", "mirror"])
async def test_a_touch_that_the_primary_may_have_taken_is_no_conflict(mode: str) -> None:
    stores = Stores(mode=mode)
    put = await stores.objects.put("k", b"1")
    stores.primary.lose_responses = 1
    with pytest.raises(UnknownOutcomeError, match="not known"):
        await stores.objects.touch("k", metadata={"m": "1"}, if_match=put.etag)
    assert dict((await stores.objects.head("k")).metadata) == {"m": "1"}
    stores.primary.lose_responses = 1
    touched = await stores.objects.touch("k", metadata={"m": "2"})
    info = await stores.objects.head("k")
    assert (touched.etag, dict(info.metadata)) == (info.etag, {"m": "2"})
    assert await value(stores.objects, "k") == b"1"


async def test_a_touch_that_both_stores_have_taken_is_no_conflict_when_they_are_repaired() -> None:
    stores = Stores(mode="mirror")
    put = await stores.objects.put("k", b"1")

    def lost() -> TransientStorageError:
        stores.primary.away, stores.primary.error = True, refused
        return down()

    stores.primary.lose_responses, stores.primary.error = 1, lost
    await stores.objects.touch("k", metadata={"m": "1"}, if_match=put.etag)
    stores.primary.away = False
    assert dict((await stores.first.objects.head("k")).metadata) == {"m": "1"}
    result = await stores.layer.repair()
    assert not result.conflicts
    assert await stores.both("k") == (b"1", b"1")
    assert dict((await stores.objects.head("k")).metadata) == {"m": "1"}
    assert await marks(stores.second.objects) == []


async def test_a_mirror_is_not_sent_the_bytes_of_what_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    stores = Stores(mode="mirror")
    await stores.objects.put("k", b"x" * 1000, metadata={"m": "1"})
    driver = stores.second.objects.driver
    put, sent = driver.put, list[str]()

    async def told(key: str, *args: Any) -> Any:
        sent.append(key)
        return await put(key, *args)

    monkeypatch.setattr(driver, "put", told)
    touched = await stores.objects.touch("k", metadata={"m": "2"}, ttl=1000)
    assert sent
    assert "k" not in sent
    stores.primary.away = True
    info = await stores.objects.head("k")
    assert (info.etag, dict(info.metadata), info.expires_at is not None) == (touched.etag, {"m": "2"}, True)
    assert await value(stores.objects, "k") == b"x" * 1000
    stores.primary.away = False
    await stores.objects.put("k", b"y" * 1000)
    assert "k" in sent
    assert await stores.both("k") == (b"y" * 1000,) * 2
    assert await marks(stores.second.objects) == []


async def test_the_manager_updates_during_an_outage() -> None:
    stores = Stores(mode="mirror")
    storage = StorageManager(backend=stores.layer)
    await storage.save("n", 1)
    stores.primary.away = True
    await storage.update("n", lambda n: n + 1)
    await storage.update("new", lambda n: n + 1, initial=0)
    stores.primary.away = False
    assert await storage.update("n", lambda n: n + 1) == 3
    await stores.layer.repair()
    assert await storage.update("n", lambda n: n + 1) == 4
    assert (await storage.load("n"), await storage.load("new")) == (4, 1)


async def test_a_write_whose_response_was_lost_does_not_overwrite_a_newer_one(stores: Stores) -> None:
    stores.primary.lose_responses = 1
    await stores.objects.put("k", b"slow")  # the primary has it, and the journal, too
    assert await stores.both("k") == (b"slow", b"slow")
    await stores.first.objects.put("k", b"newer, by another process")
    result = await stores.layer.repair()
    assert await stores.both("k") == (b"newer, by another process",) * 2
    assert [(each.key, each.winner) for each in result.conflicts] == [("k", "primary")]


async def test_a_write_that_took_long_to_fail_is_as_old_as_its_begin(stores: Stores) -> None:
    """Another process wrote while this one waited for a response."""

    async def slow(*_: object) -> None:
        await stores.first.objects.put("k", b"by another process")

    original = stores.primary.around

    async def around(operation: Any, call: Callable[[], Awaitable[Any]]) -> Any:
        if operation.name == "put":
            await slow()
            raise StorageUnavailableError("no answer within 30 s")
        return await original(operation, call)

    stores.primary.objects.driver._around = around  # type: ignore[attr-defined]
    await stores.objects.put("k", b"mine")
    stores.primary.objects.driver._around = original  # type: ignore[attr-defined]
    result = await stores.layer.repair()
    assert [each.winner for each in result.conflicts] == ["primary"]
    assert await stores.both("k") == (b"by another process",) * 2


async def test_a_write_whose_response_was_lost_is_no_conflict(stores: Stores) -> None:
    stores.primary.lose_responses = 1
    await stores.objects.put("k", b"1", metadata={"a": "b"})
    result = await stores.layer.repair()
    assert (result.repaired, result.conflicts) == (1, ())
    assert await stores.both("k") == (b"1", b"1")


async def test_an_unknown_outcome_is_not_journaled(stores: Stores) -> None:
    stores.primary.away, stores.primary.error = True, lambda: UnknownOutcomeError("it is not known")
    with pytest.raises(UnknownOutcomeError):
        await stores.objects.put("k", b"1", if_match="x")
    stores.primary.away = False
    assert stores.layer.status().answers == "primary"
    assert not await stores.second.objects.iterate()


async def test_retries_come_first_and_an_open_breaker_falls_back() -> None:
    stores = Stores()

    async def no_sleep(_: float) -> None: ...

    retrying = RetryBackend(stores.primary, RetryOptions(attempts=3), sleep=no_sleep)
    layer = FallbackLayer(retrying, stores.secondary, FallbackOptions(secondary=SECONDARY))
    await stores.second.objects.put("k", b"2")
    await stores.first.objects.put("k", b"1")
    left = [2]

    def once_more() -> None:
        stores.primary.calls += 1
        if left[0]:
            left[0] -= 1
            raise StorageUnavailableError("reset")

    stores.primary.check = once_more  # type: ignore[method-assign]
    assert await value(layer.objects, "k") == b"1"
    assert layer.status().reads_from_secondary == 0
    left[0] = 3
    assert await value(layer.objects, "k") == b"2"
    retrier = retrying._retriers["objects"]
    retrier.breaker.failed(StorageUnavailableError("down"))
    retrier.breaker._next_at = retrier.clock() + 100
    calls = stores.primary.calls
    assert await value(layer.objects, "k") == b"2"
    assert stores.primary.calls == calls


# -- streams, copies, time to live, listings

BIG = bytes(range(256)) * 40_000  # more than one part


async def test_streams_go_to_the_second_store_and_come_back(stores: Stores) -> None:
    stores.primary.away = True
    put = await stores.objects.put_stream("k", [BIG, b"end"], if_absent=True, metadata={"a": "b"})
    assert put.size == len(BIG) + 3
    assert await streamed(stores.objects, "k") == BIG + b"end"
    stores.primary.away = False
    assert await streamed(stores.objects, "k") == BIG + b"end"
    put = await stores.objects.put_stream("k", [BIG, b"later"], if_match=put.etag)
    assert (await stores.layer.repair()).repaired == 1
    assert await stores.both("k") == (BIG + b"later",) * 2
    assert (await stores.first.objects.head("k")).sha256 is not None


async def test_a_stream_that_breaks_half_way_stores_nothing_and_says_what_to_do(stores: Stores) -> None:
    async def source() -> Any:
        yield BIG
        stores.primary.away = True
        yield BIG

    original = type(stores.first.objects.driver).put_stream

    async def put_stream(*arguments: Any, **more: Any) -> Any:
        result = await original(*arguments, **more)
        stores.primary.check()
        return result

    stores.first.objects.driver.put_stream = put_stream.__get__(stores.first.objects.driver)  # type: ignore[method-assign]
    with pytest.raises(StorageUnavailableError) as caught:
        await stores.objects.put_stream("k", source())
    assert "send it again" in str(caught.value.remedy)
    await stores.objects.put_stream("k", [BIG, b"again"])
    stores.primary.away = False
    await stores.layer.repair()
    assert await stores.both("k") == (BIG + b"again",) * 2


@pytest.mark.parametrize("mode", ["fallback", "mirror"])
async def test_copies_and_moves_during_an_outage_and_after_it(mode: str) -> None:
    stores = Stores(mode=mode)
    await stores.objects.put("before", b"1", metadata={"a": "b"})
    await stores.second.objects.put("before", b"1", metadata={"a": "b"}) if mode == "fallback" else None
    stores.primary.away = True
    await stores.objects.copy("before", "copied", if_absent=True)
    with pytest.raises(PreconditionFailedError):
        await stores.objects.copy("before", "copied", if_absent=True)
    await stores.objects.move("copied", "moved")
    stores.primary.away = False
    await stores.objects.copy("moved", "after")  # from the second store
    assert (await stores.objects.head("after")).metadata == {"a": "b"}
    with pytest.raises(KeyNotFoundError):
        await stores.objects.copy("copied", "nothing")
    assert await keys(stores.objects) == ["after", "before", "moved"]
    assert (await stores.layer.repair()).conflicts == ()
    for key in ("after", "before", "moved"):
        assert (await stores.both(key))[0] == b"1"
    assert await value(stores.first.objects, "copied") is None


@pytest.mark.parametrize("mode", ["fallback", "mirror"])
async def test_time_to_live_during_an_outage(mode: str) -> None:
    stores = Stores(mode=mode)
    await stores.objects.put("k", b"stays")
    await stores.objects.put("l", b"stays")
    stores.primary.away = True
    await stores.objects.put("k", b"for a minute", ttl=60)
    await stores.objects.put("m", b"for an hour", ttl=3600)
    stores.now += 61
    for _ in range(2):  # during the outage, and after it
        assert await value(stores.objects, "k") is None  # and not what the primary still has
        shown = ["m"] if mode == "fallback" and stores.primary.away else ["l", "m"]
        assert await keys(stores.objects, skip=".system/") == shown
        assert await stores.objects.sweep_expired() == (1 if stores.primary.away else 0)
        stores.primary.away = False
    assert (await stores.layer.repair()).failed == ()
    assert await stores.both("k") == (None, None)
    assert await stores.both("m") == (b"for an hour",) * 2
    stores.now += 3600
    assert await value(stores.objects, "m") is None
    assert await stores.objects.sweep_expired() == 1
    assert not [e async for e in stores.first.objects.driver.scan("m", _ALL)]


async def test_what_expired_before_repair_is_gone_in_both(stores: Stores) -> None:
    await stores.objects.put("k", b"stays")
    stores.primary.away = True
    await stores.objects.put("k", b"for a minute", ttl=60)
    stores.primary.away = False
    stores.now += 61
    assert await value(stores.objects, "k") is None
    result = await stores.layer.repair()
    assert result.failed == ()
    assert await stores.both("k") == (None, None)
    assert await value(stores.objects, "k") is None


async def test_listings_are_merged_with_the_journal_until_repair(stores: Stores) -> None:
    for key in ("a/1", "a/2", "b/1", "c", "d/1"):
        await stores.objects.put(key, b"1")
        await stores.second.objects.put(key, b"0")
    stores.primary.away = True
    for key in ("b/1", "c", "a/1"):
        await stores.objects.delete(key)
    for key in ("a/0", "e/1", "bb"):
        await stores.objects.put(key, b"22")
    await stores.objects.put("a/2", b"22")
    for repaired in (False, False, True):
        assert await keys(stores.objects) == ["a/0", "a/2", "bb", "d/1", "e/1"]
        assert await keys(stores.objects, delimiter="/") == ["a/", "bb", "d/", "e/"]
        assert await keys(stores.objects, "a/", delimiter="/") == ["a/0", "a/2"]
        assert await keys(stores.objects, "b") == ["bb"]
        seen, cursor = [], None
        while True:
            page = await stores.objects.list_page(limit=2, cursor=cursor, details=True)
            for entry in page.entries:
                info = await stores.objects.head(entry.key)
                assert (entry.etag, entry.size, entry.last_modified) == (
                    info.etag,
                    info.size,
                    info.last_modified,
                )
            seen += [entry.key for entry in page.entries]
            if (cursor := page.cursor) is None:
                break
        assert seen == ["a/0", "a/2", "bb", "d/1", "e/1"]
        assert (await stores.objects.stats()).count == 5
        stores.primary.away = False
        if not repaired:
            await stores.layer.repair() if await value(stores.objects, "bb") and repaired else None
    await stores.layer.repair()
    assert await keys(stores.first.objects) == ["a/0", "a/2", "bb", "d/1", "e/1"]


# -- other processes, and the journal


async def test_another_process_sees_the_journal_after_its_seconds_at_the_latest(stores: Stores) -> None:
    other = stores.other(check_seconds=5)
    at = [100.0]
    other._journal._clock = lambda: at[0]
    await stores.objects.put("k", b"1")
    assert await value(other.objects, "k") == b"1"
    stores.primary.away = True
    await stores.objects.put("k", b"2")
    stores.primary.away = False
    at[0] += 5
    assert await value(other.objects, "k") == b"2"


async def test_an_empty_journal_costs_nothing(stores: Stores) -> None:
    layer = stores.other(check_seconds=60)
    await layer.objects.put("k", b"1")
    before = stores.secondary.calls
    for _ in range(100):
        await layer.objects.get("k")
        await layer.objects.put("k", b"1")
        await layer.objects.list_page()
    assert stores.secondary.calls == before


async def test_a_dead_second_store_does_no_harm_while_the_primary_responds(stores: Stores) -> None:
    stores.secondary.away = True
    await stores.objects.put("k", b"1")
    assert await value(stores.objects, "k") == b"1"
    assert await keys(stores.objects) == ["k"]
    await stores.objects.delete("k")


async def test_an_older_value_is_not_read_while_the_newest_cannot_be(stores: Stores) -> None:
    await stores.objects.put("k", b"1")
    await stores.objects.put("l", b"1")
    stores.primary.away = True
    await stores.objects.put("k", b"2")
    stores.primary.away, stores.secondary.away = False, True
    with pytest.raises(StorageUnavailableError, match="newest version"):
        await stores.objects.get("k")
    with pytest.raises(StorageUnavailableError, match="newest version"):
        await stores.objects.put("k", b"3")
    assert await value(stores.objects, "l") == b"1"


async def test_a_write_that_lost_its_mark_is_marked_by_who_meets_it(stores: Stores) -> None:
    await stores.objects.put("k", b"1")
    stores.primary.away = True
    await stores.objects.put("k", b"2")
    await stores.objects.put("l", b"2")
    stores.primary.away = False
    await stores.second.objects.delete(f"{OWN}journal/key/k")  # as if its writer was killed in a race
    layer = stores.other()
    assert await value(layer.objects, "k") == b"2"
    assert (await layer.repair()).repaired == 2
    assert await stores.both("k") == (b"2", b"2")


# -- repair


async def outage(stores: Stores, key: str, first: bytes | None, second: bytes | None) -> None:
    """While this process finds the primary away and writes ``second``, another one writes ``first`` there."""
    stores.primary.away = True
    if second is None:
        await stores.objects.delete(key)
    else:
        await stores.objects.put(key, second)
    stores.primary.away = False
    if first is None:
        await stores.first.objects.delete(key)
    else:
        await stores.first.objects.put(key, first)


async def test_the_newer_wins_and_the_other_is_kept_and_listed(stores: Stores) -> None:
    for key in ("primary", "secondary", "deleted there", "deleted here"):
        await stores.objects.put(key, b"0")
        await stores.second.objects.put(key, b"0")
    await outage(stores, "primary", b"newer in the primary", b"older in the second")
    await outage(stores, "deleted there", b"changed after the delete", None)
    stores.primary.away = True
    await stores.objects.put("secondary", b"first")
    await stores.first.objects.put("secondary", b"older in the primary")
    await stores.objects.put("secondary", b"newer in the second")
    await stores.first.objects.put("deleted here", b"deleted unseen")
    await stores.objects.delete("deleted here")
    stores.primary.away = False
    result = await stores.layer.repair()
    found = {each.key: each for each in result.conflicts}
    assert {key: each.winner for key, each in found.items()} == {
        "primary": "primary",
        "secondary": "secondary",
        "deleted there": "primary",
        "deleted here": "secondary",
    }
    assert await stores.both("primary") == (b"newer in the primary",) * 2
    assert await stores.both("secondary") == (b"newer in the second",) * 2
    assert await stores.both("deleted there") == (b"changed after the delete",) * 2
    assert await stores.both("deleted here") == (None, None)
    kept = {key: each.kept and await value(stores.first.objects, each.kept) for key, each in found.items()}
    assert kept == {
        "primary": b"older in the second",
        "secondary": b"older in the primary",
        "deleted there": None,
        "deleted here": b"deleted unseen",
    }
    assert {each.key async for each in stores.layer.conflicts()} == set(found)
    assert (await stores.layer.repair()).conflicts == result.conflicts  # until they are dismissed
    assert stores.layer.status().conflicts == 4


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("mine", [b"off", None])
@pytest.mark.parametrize("mode", ["fallback", "mirror"])
async def test_a_newer_write_of_the_old_content_wins(
    mode: str, mine: bytes | None, conditional: bool
) -> None:
    """A switch that is set off in the outage, and on again by one who does not see it."""
    stores = Stores(mode=mode)
    await stores.objects.put("switch", b"on")
    if mode == "fallback":
        await stores.second.objects.put("switch", b"on")
    stores.primary.away = True
    etag = (await stores.objects.head("switch")).etag if conditional else None
    if mine is None:
        await stores.objects.delete("switch", if_match=etag)
    else:
        await stores.objects.put("switch", mine, if_match=etag)
    await stores.first.objects.put("switch", b"on")
    stores.primary.away = False
    result = await stores.layer.repair()
    assert [each.winner for each in result.conflicts] == ["primary"]
    kept = result.conflicts[0].kept
    assert (kept and await value(stores.first.objects, kept)) == mine
    assert await stores.both("switch") == (b"on", b"on")


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("before", [b"0", None])
async def test_two_equal_updates_are_a_conflict_unless_they_are_one(before: bytes | None, lost: bool) -> None:
    """Two processes count from the same number, or take the same lock, one in each store."""
    stores = Stores(mode="mirror")
    put = None if before is None else await stores.objects.put("n", before)
    condition: dict[str, Any] = {"if_absent": True} if put is None else {"if_match": put.etag}
    if lost:
        stores.primary.lose_responses = 1
        await stores.objects.put("n", b"1", **condition)
    else:
        stores.primary.away, stores.primary.error = True, refused
        await stores.objects.put("n", b"1", **condition)
        await stores.first.objects.put("n", b"1", **condition)
        stores.primary.away = False
    result = await stores.layer.repair()
    assert [each.winner for each in result.conflicts] == ([] if lost else ["primary"])
    assert await stores.both("n") == (b"1", b"1")


async def test_a_kept_version_can_be_restored_and_dismissed(stores: Stores) -> None:
    await stores.objects.put("k", b"0")
    await outage(stores, "k", b"winner", b"loser")
    (conflict,) = (await stores.layer.repair()).conflicts
    now = (await stores.objects.head("k")).etag
    with pytest.raises(PreconditionFailedError):
        await stores.layer.restore(conflict, if_match="another")
    await stores.layer.restore(conflict, if_match=now)
    assert await value(stores.objects, "k") == b"loser"
    await stores.layer.dismiss(conflict)
    await stores.layer.dismiss(conflict)
    assert (await stores.layer.repair()).conflicts == ()
    with pytest.raises(KeyNotFoundError):
        await stores.layer.restore(conflict)


async def test_a_conditional_write_on_a_copy_of_unknown_age_is_a_conflict_if_the_primary_had_more(
    stores: Stores,
) -> None:
    await stores.objects.put("counter", b"10")
    await stores.objects.put("created", b"here already")
    await stores.second.objects.put("counter", b"7")
    stores.primary.away = True
    await stores.objects.put("counter", b"8", if_match=(await stores.objects.head("counter")).etag)
    await stores.objects.put("created", b"created", if_absent=True)
    stores.primary.away = False
    result = await stores.layer.repair()
    kept = {each.key: await value(stores.first.objects, each.kept or "") for each in result.conflicts}
    assert kept == {"counter": b"10", "created": b"here already"}


async def test_repair_may_be_limited_and_goes_on(stores: Stores) -> None:
    stores.primary.away = True
    for n in range(30):
        await stores.objects.put(f"k{n}", b"1")
    with pytest.raises(StorageUnavailableError):
        await stores.layer.repair()
    stores.primary.away = False
    first = await stores.layer.repair(limit=10)
    assert (first.repaired, first.pending) == (10, 20)
    assert (await stores.layer.repair(seconds=0)).repaired == 0
    rest = await stores.layer.repair()
    assert (rest.repaired, rest.pending) == (20, 0)


async def test_a_key_that_cannot_be_repaired_is_named_and_stays(stores: Stores) -> None:
    stores.primary.away = True
    await stores.objects.put("damaged", b"1")
    await stores.objects.put("fine", b"1")
    stores.primary.away = False
    held = stores.second.objects.driver._objects  # type: ignore[attr-defined]
    sound = held["damaged"]
    held["damaged"] = type(sound)(sound.info, b"2")
    result = await stores.layer.repair()
    assert [(each.key, each.code) for each in result.failed] == [("damaged", "integrity-error")]
    assert (result.repaired, result.pending) == (1, 1)
    with pytest.raises(IntegrityError):
        await stores.objects.get("damaged")
    held["damaged"] = sound
    assert (await stores.layer.repair()).repaired == 1
    assert await stores.both("damaged") == (b"1", b"1")


async def test_several_repairs_at_once_during_traffic_lose_nothing(stores: Stores) -> None:
    import asyncio

    stores.primary.away = True
    for n in range(40):
        await stores.objects.put(f"k{n}", b"0")
    stores.primary.away = False
    last: dict[str, bytes] = {}

    async def write(worker: int) -> None:
        for n in range(worker, 40, 4):
            for text in (b"1", b"2"):
                await stores.objects.put(f"k{n}", text)
                last[f"k{n}"] = text
                await asyncio.sleep(0)
                assert await value(stores.objects, f"k{n}") == text

    await asyncio.gather(*(write(n) for n in range(4)), *(stores.other().repair() for _ in range(4)))
    result = await stores.layer.repair()
    assert result.conflicts == ()
    for key, text in last.items():
        assert await stores.both(key) == (text, (await stores.both(key))[1])
        assert await value(stores.objects, key) == text


# -- mirror


async def test_a_mirror_writes_to_both_and_the_primary_decides() -> None:
    stores = Stores(mode="mirror")
    put = await stores.objects.put("k", b"1", metadata={"a": "b"}, ttl=60)
    assert await stores.both("k") == (b"1", b"1")
    assert (await stores.second.objects.head("k")).metadata == {"a": "b"}
    with pytest.raises(PreconditionFailedError):
        await stores.objects.put("k", b"2", if_absent=True)
    await stores.objects.put("k", b"2", if_match=put.etag)
    await stores.objects.put_stream("s", [BIG, b"end"])
    await stores.objects.copy("s", "t")
    await stores.objects.delete("s")
    assert await stores.both("k") == (b"2", b"2")
    assert await stores.both("t") == (BIG + b"end",) * 2
    assert await stores.both("s") == (None, None)
    assert not await marks(stores.first.objects)
    assert not await marks(stores.second.objects)


@pytest.mark.parametrize("calls", range(1, 6))
async def test_what_a_mirror_missed_is_repaired(calls: int) -> None:
    """The second store goes away at each point of a write."""
    stores = Stores(mode="mirror")
    await stores.objects.put("deleted", b"1")
    await stores.objects.put("k", b"1")
    for work in (lambda: stores.objects.put("k", b"2"), lambda: stores.objects.delete("deleted")):
        stores.secondary.calls = 0

        def later() -> None:
            stores.secondary.away = stores.secondary.calls + 1 >= calls
            Switched.check(stores.secondary)

        stores.secondary.check = later  # type: ignore[method-assign]
        await work()
        stores.secondary.check = lambda: Switched.check(stores.secondary)  # type: ignore[method-assign]
        stores.secondary.away = False
    assert await value(stores.objects, "k") == b"2"
    assert not [key for key in await keys(stores.objects) if key.startswith(OWN)]
    result = await stores.layer.repair()
    assert (result.conflicts, result.failed) == ((), ())
    assert await stores.both("k") == (b"2", b"2")
    assert await stores.both("deleted") == (None, None)
    assert not await marks(stores.first.objects)
    assert not await marks(stores.second.objects)


@pytest.mark.parametrize("refused", ["put", "put_stream", "delete"])
async def test_a_refused_write_does_not_hide_what_a_mirror_missed_before(refused: str) -> None:
    stores = Stores(mode="mirror", writes="primary")
    etag = (await stores.objects.put("k", b"1")).etag
    stores.primary.lose_responses = 1
    with pytest.raises(TransientStorageError):  # The primary has done it.
        await (stores.objects.delete("k") if refused == "delete" else stores.objects.put("k", b"2"))
    doings: dict[str, Callable[[], Awaitable[Any]]] = {
        "put": lambda: stores.objects.put("k", b"3", if_absent=True),
        "put_stream": lambda: stores.objects.put_stream("k", [BIG, b"end"], if_match=etag),
        "delete": lambda: stores.objects.delete("k"),
    }
    with pytest.raises((PreconditionFailedError, KeyNotFoundError)):
        await doings[refused]()
    assert (await stores.layer.repair()).failed == ()
    primary, secondary = await stores.both("k")
    assert primary == secondary == (None if refused == "delete" else b"2")
    assert not await marks(stores.second.objects)


async def test_a_mirror_that_begins_late_is_not_complete_until_a_full_repair() -> None:
    stores = Stores(mode="mirror")
    for n in range(20):
        await stores.first.objects.put(f"k{n}", b"before")
    await stores.second.objects.put("left over", b"1")
    await stores.objects.put("new", b"1")
    stores.primary.away = True
    for key in ("k1", "none"):
        with pytest.raises(StorageUnavailableError, match="does not have it"):
            await stores.objects.get(key)
    stores.primary.away = False
    for _ in range(3):
        assert (await stores.layer.repair(full=True, limit=5)).copied == 5
    assert len(await keys(stores.second.objects, "k")) == 15
    stores.primary.away = True
    with pytest.raises(StorageUnavailableError):
        await stores.objects.get("none")
    stores.primary.away = False
    assert (await stores.layer.repair(full=True)).failed == ()
    stores.primary.away = True
    assert await value(stores.objects, "k1") == b"before"
    for key in ("none", "left over"):
        with pytest.raises(KeyNotFoundError):
            await stores.objects.get(key)
    assert await keys(stores.objects) == sorted(["new", *(f"k{n}" for n in range(20))])
    with pytest.raises(UnsupportedOperationError):
        await stores.other().repair(full=True)


@pytest.mark.parametrize("marked", [True, False])
async def test_a_key_that_a_mirror_missed_is_unavailable_not_missing(marked: bool) -> None:
    """Whether the second store took the mark and went away, or was away from the beginning."""
    stores = Stores(mode="mirror", check_seconds=60)
    await stores.objects.put("first", b"1")
    calls = 0

    def later() -> None:
        nonlocal calls
        calls += 1
        stores.secondary.away = calls > 1

    if marked:
        stores.secondary.before = later
    else:
        stores.secondary.away = True
    await stores.objects.put("k", b"1")
    stores.secondary.before, stores.secondary.away = lambda: None, False
    await stores.objects.put("next", b"1")
    stores.primary.away = True
    for layer in (stores.layer, stores.other(mode="mirror")):
        with pytest.raises(StorageUnavailableError, match="does not have it"):
            await layer.objects.get("k")
    stores.primary.away = False
    assert (await stores.layer.repair()).copied == 1
    stores.primary.away = True
    assert await value(stores.objects, "k") == b"1"
    with pytest.raises(KeyNotFoundError):
        await stores.objects.get("none")


async def test_a_limited_full_repair_looks_at_every_key_before_the_mirror_is_complete() -> None:
    stores = Stores(mode="mirror")
    for n in range(8):
        await stores.first.objects.put(f"k{n}", b"1")
    stores.primary.away = True
    for n in range(5):
        await stores.objects.put(f"k{n}", b"2")
    stores.primary.away = False

    async def never(*_: object) -> bool:
        return False  # It is being replaced all the time.

    stores.layer._repair.key = never  # type: ignore[method-assign]
    await stores.layer.repair(full=True, limit=6)
    stores.primary.away = True
    for n in range(5, 8):
        with suppress(StorageUnavailableError):
            assert await value(stores.objects, f"k{n}") == b"1"


async def test_expired_copies_in_the_second_store_are_swept(stores: Stores) -> None:
    stores.primary.away = True
    await stores.objects.put("k", b"1", ttl=60)
    stores.primary.away = False
    await stores.layer.repair()
    stores.now += 61
    assert await stores.objects.sweep_expired() == 1
    for store in (stores.first, stores.second):
        assert [found async for found in store.objects.driver.scan("", _ALL)] == []


async def test_writers_that_overtake_each_other_leave_both_stores_the_same() -> None:
    import asyncio

    stores, chance = Stores(mode="mirror"), random.Random(7)

    async def write(n: int) -> None:
        for m in range(10):
            await stores.objects.put("k", f"{n} {m}".encode())

    async def around(operation: Any, call: Callable[[], Awaitable[Any]]) -> Any:
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        return await call()

    for store in (stores.primary, stores.secondary):
        store.objects.driver._around = around  # type: ignore[attr-defined]
    await asyncio.gather(*(write(n) for n in range(5)))
    await stores.layer.repair()
    one, other = await stores.both("k")
    assert one == other


async def test_a_mirror_does_not_overwrite_what_another_process_has_journaled() -> None:
    stores = Stores(mode="mirror")
    await stores.objects.put("k", b"0")
    other = stores.other(mode="mirror", check_seconds=3600)
    assert await value(other.objects, "k") == b"0"
    stores.primary.away = True
    await stores.objects.put("k", b"journaled")
    stores.primary.away = False
    await other.objects.put("k", b"later, by one that does not know")
    result = await stores.layer.repair()
    assert [each.winner for each in result.conflicts] == ["primary"]
    assert await value(stores.first.objects, result.conflicts[0].kept or "") == b"journaled"
    assert await stores.both("k") == (b"later, by one that does not know",) * 2


async def test_a_mirror_marks_a_journaled_write_that_lost_its_mark() -> None:
    stores = Stores(mode="mirror")
    await stores.objects.put("k", b"0")
    stores.primary.away = True
    await stores.objects.put("k", b"journaled")
    stores.primary.away = False
    (mark,) = await keys(stores.second.objects, JOURNALED)
    await stores.second.objects.delete(mark)
    other = stores.other(mode="mirror", check_seconds=3600)
    await other.objects.put("k", b"newer")
    assert (await other.repair()).failed == ()
    assert await stores.both("k") == (b"newer", b"newer")
    assert await marks(stores.second.objects) == []


@pytest.mark.parametrize("seed", range(300 if SOAK else 10))
async def test_any_order_of_operations_outages_and_repairs_reads_what_was_written_last(seed: int) -> None:
    """With a mirror the second store has everything, so no read may be older than the last write."""
    chance = random.Random(seed)
    stores = Stores(mode="mirror")
    layers = [stores.layer, stores.other(mode="mirror")]
    names = ["a", "a/b", "a/c", "b"]
    await stores.objects.put("b", b"0")
    model = {"b": b"0"}
    for step in range(120):
        objects = chance.choice(layers).objects
        key, other = chance.choice(names), chance.choice(names)
        act = chance.randrange(10)
        data = f"{step}".encode()
        if act < 3:
            stores.primary.lose_responses = int(chance.random() < 0.2)
            await objects.put(key, data)
            model[key] = data
        elif act == 3 and key in model:
            await objects.delete(key)
            del model[key]
        elif act == 4 and key in model:
            etag = (await objects.head(key)).etag
            await objects.put(key, data, if_match=etag)
            model[key] = data
        elif act == 5 and key in model and key != other:
            await objects.copy(key, other)
            model[other] = model[key]
        elif act == 6 and key not in model:
            await objects.put(key, data, if_absent=True)
            model[key] = data
        elif act == 7:
            stores.primary.away = not stores.primary.away
        elif act == 8 and not stores.primary.away:
            assert (await chance.choice(layers).repair(limit=chance.choice([None, 1]))).conflicts == ()
        stores.primary.lose_responses = 0
        for reader in layers:
            for name in names:
                try:
                    assert await value(reader.objects, name) == model.get(name)
                except UnknownPresenceError:
                    # A write whose response was lost has left its mark until the next complete repair.
                    assert name not in model
                    assert f"{STALE}key/{name}" in await marks(stores.second.objects)
            assert await keys(reader.objects) == sorted(model)
            folded = sorted({name[:2] if "/" in name else name for name in model})
            assert await keys(reader.objects, delimiter="/") == folded
    stores.primary.away = False
    assert (await stores.layer.repair()).conflicts == ()
    for store in (stores.first, stores.second):
        assert {name: await value(store.objects, name) for name in model} == model
        assert await keys(store.objects, skip=".system/") == sorted(model)


# -- tables and queues


async def test_tables_and_queues_do_not_pretend(stores: Stores) -> None:
    await stores.layer.tables.insert("t", "p", "r", {"n": 1})
    await stores.layer.queues.send("q", b"1")
    stores.primary.away = True
    for call in (
        stores.layer.tables.get("t", "p", "r"),
        stores.layer.tables.upsert("t", "p", "r", {"n": 2}),
        stores.layer.tables.query("t"),
        stores.layer.queues.send("q", b"2"),
        stores.layer.queues.receive("q"),
    ):
        with pytest.raises(StorageUnavailableError):
            await call  # type: ignore[misc]
    stores.primary.away = False
    assert (await stores.layer.tables.get("t", "p", "r")).properties["n"] == 1
    assert await stores.layer.queues.length("q") == 1


# -- statistics


async def test_statistics_have_the_same_names_each_time(stores: Stores) -> None:
    names = [each.name for each in stores.layer.statistics()]
    stores.primary.away = True
    await stores.objects.put("k", b"1")
    await stores.objects.get("k")
    found = {each.name: each.value for each in stores.layer.statistics()}
    assert list(found) == names
    assert found["agent_storage.fallback.journaled"] == 1
    assert found["agent_storage.fallback.pending"] == 1
    assert found["agent_storage.fallback.primary_away"] > 0
    status = stores.layer.status()
    assert (status.writes_journaled, status.pending, status.mode) == (1, 1, "fallback")
    assert status.primary_away_since is not None
    assert timedelta(0) < _moment(stores) - status.primary_away_since < timedelta(seconds=1)


def _moment(stores: Stores) -> Any:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(stores.now, UTC)
