"""Payloads of Temporal outside of its history: a driver that Temporal brings and ours, by the same calls."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from temporalio.api.common.v1 import Payload
from temporalio.contrib.gcp.gcsdriver import GCSStorageDriver, GCSStorageDriverClient
from temporalio.converter import (
    DataConverter,
    ExternalStorage,
    StorageDriver,
    StorageDriverActivityInfo,
    StorageDriverClaim,
    StorageDriverRetrieveContext,
    StorageDriverStoreContext,
    StorageDriverWorkflowInfo,
)

from integrations.temporal import AgentStorageDriver
from storage_lib import (
    BackendClosedError,
    IntegrityError,
    InvalidArgumentError,
    KeyNotFoundError,
    MemoryBackend,
    StorageConfig,
    StorageManager,
)
from tests.framework_stores import Place, on, storage_on

RETRIEVE = StorageDriverRetrieveContext()
WORKFLOW = StorageDriverWorkflowInfo(namespace="default", id="order/42", run_id="run-1", type="Order")
TARGETS = [
    None,
    WORKFLOW,
    StorageDriverWorkflowInfo(namespace="default"),
    StorageDriverActivityInfo(namespace="default", id="a", type="Ship"),
    StorageDriverWorkflowInfo(namespace="ü" * 100, id="i" * 1000, run_id="..", type="漢" * 333),
]


class Bucket(GCSStorageDriverClient):
    """What Temporal's driver for Google's storage asks of it."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    async def put_object(self, *, bucket: str, object_name: str, data: bytes) -> None:
        self.objects.setdefault(object_name, data)

    async def object_exists(self, *, bucket: str, object_name: str) -> bool:
        return object_name in self.objects

    async def get_object(self, *, bucket: str, object_name: str) -> bytes:
        return self.objects[object_name]


@pytest.fixture(params=["memory", "file", "moto", "azurite"])
def place(request: pytest.FixtureRequest) -> Place:
    return on(request)


@pytest.fixture(params=["GCS", "memory", "file", "moto", "azurite"])
def any_place(request: pytest.FixtureRequest) -> Place:
    return on(request)


@pytest.fixture
async def driver(any_place: Place, tmp_path: Path) -> AsyncIterator[StorageDriver]:
    if any_place[0] == "GCS":
        yield GCSStorageDriver(Bucket(), "bucket")
        return
    async with storage_on(any_place, tmp_path) as storage:
        yield AgentStorageDriver(storage)


@pytest.fixture
async def storage(place: Place, tmp_path: Path) -> AsyncIterator[StorageManager]:
    async with storage_on(place, tmp_path) as storage:
        yield storage


def payloads(*data: bytes) -> list[Payload]:
    return [Payload(metadata={"encoding": b"binary/plain", "more": b"\xff"}, data=each) for each in data]


async def test_payloads_come_back_in_their_order(driver: StorageDriver) -> None:
    assert driver.name()
    assert driver.type()
    for target in TARGETS:
        context = StorageDriverStoreContext(target=target)
        stored = payloads(b"one", b"", b"two" * 100_000, b"one", *(bytes([n]) for n in range(40)))
        claims = await driver.store(context, stored)
        assert len(claims) == len(stored)
        assert await driver.retrieve(RETRIEVE, claims) == stored
        assert await driver.retrieve(RETRIEVE, claims[::-1]) == stored[::-1]
    assert await driver.store(StorageDriverStoreContext(), []) == []
    assert await driver.retrieve(RETRIEVE, []) == []


async def test_a_payload_is_stored_once(storage: StorageManager) -> None:
    driver = AgentStorageDriver(storage)
    context = StorageDriverStoreContext(target=WORKFLOW)
    first = await driver.store(context, payloads(b"same", b"same"))
    assert await driver.store(context, payloads(b"same")) == first[:1]
    (key,) = await storage.list_keys()
    assert key.startswith("temporal/workflows/default/Order/order=2F42/run-1/")
    # What one workflow has stored is not that of another.
    other = dataclasses.replace(WORKFLOW, id="order")
    await driver.store(StorageDriverStoreContext(target=other), payloads(b"same"))
    assert len(await storage.list_keys("temporal/workflows/default/Order/order/")) == 1
    await storage.delete_prefix("temporal/workflows/default/Order/order=2F42/")
    with pytest.raises(KeyNotFoundError):
        await driver.retrieve(RETRIEVE, first)


async def test_only_claims_of_the_driver_are_retrieved(storage: StorageManager) -> None:
    driver = AgentStorageDriver(storage)
    (claim,) = await driver.store(StorageDriverStoreContext(), payloads(b"one"))
    await storage.write("secret", payloads(b"two")[0].SerializeToString())
    for wrong in (
        {},
        {"key": "secret", "sha256": claim.claim_data["sha256"]},
        {"key": claim.claim_data["key"]},
    ):
        with pytest.raises(InvalidArgumentError, match="claim"):
            await driver.retrieve(RETRIEVE, [claim, StorageDriverClaim(wrong)])
    await storage.write(claim.claim_data["key"], b"other")
    with pytest.raises(IntegrityError):
        await driver.retrieve(RETRIEVE, [claim])
    with pytest.raises(InvalidArgumentError, match="name"):
        AgentStorageDriver(storage, name="")


async def test_a_converter_stores_what_is_large(storage: StorageManager) -> None:
    def converter(*, prefix: str = "temporal") -> DataConverter:
        drivers = [AgentStorageDriver(storage, prefix=prefix)]
        external = ExternalStorage(drivers=drivers, payload_size_threshold=1000)
        return dataclasses.replace(DataConverter.default, external_storage=external)

    value = {"document": "0123456789" * 1000}
    encoded = await converter().encode([value, "small"])
    assert sum(each.ByteSize() for each in encoded) < 1000
    assert len(await storage.list_keys("temporal/")) == 1
    # Another process has another converter.
    assert await converter().decode(encoded) == [value, "small"]
    await storage.delete_prefix("temporal/")
    with pytest.raises(Exception, match="does not exist"):
        await converter().decode(encoded)


async def test_the_life_of_a_payload_begins_again_when_it_is_stored_again() -> None:
    now = [1_000_000.0]
    async with StorageManager(backend=MemoryBackend(clock=lambda: now[0])) as storage:
        driver = AgentStorageDriver(storage, ttl=60)
        for _ in range(3):
            claims = await driver.store(StorageDriverStoreContext(), payloads(b"one"))
            now[0] += 50
        assert await driver.retrieve(RETRIEVE, claims) == payloads(b"one")
        now[0] += 11
        with pytest.raises(KeyNotFoundError):
            await driver.retrieve(RETRIEVE, claims)


async def test_the_first_error_is_raised_and_a_cancelled_store_ends(tmp_path: Path) -> None:
    storage = StorageManager(StorageConfig(storage_type="file", base_path=tmp_path))
    driver = AgentStorageDriver(storage)
    claims = await driver.store(StorageDriverStoreContext(), payloads(b"one", b"two"))
    storing = asyncio.create_task(driver.store(StorageDriverStoreContext(), payloads(b"x" * 10**7, b"y")))
    await asyncio.sleep(0)
    storing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await storing
    await storage.close()
    with pytest.raises(BackendClosedError):
        await driver.store(StorageDriverStoreContext(), payloads(b"three", b"four"))
    with pytest.raises(BackendClosedError):
        await driver.retrieve(RETRIEVE, claims)


@pytest.mark.parametrize("prefix", ["", "/", "a/b/"])
async def test_any_prefix_will_do(prefix: str) -> None:
    async with StorageManager(StorageConfig(storage_type="memory")) as storage:
        driver = AgentStorageDriver(storage, prefix=prefix)
        payload = Payload(data=b"x")
        for target in TARGETS:
            claims = await driver.store(StorageDriverStoreContext(target=target), [payload])
            assert await driver.retrieve(RETRIEVE, claims) == [payload]
