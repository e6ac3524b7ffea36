"""A manager that is dropped, not closed, keeps no thread and no descriptor, and warns of none."""

from __future__ import annotations

import asyncio
import gc
import os
import time
import uuid
import warnings
import weakref
from pathlib import Path
from typing import Any

import pytest

from storage_lib import AzureStorageBackend, S3StorageBackend, StorageConfig, StorageManager
from tests.s3_servers import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY

# azure-data-tables reads error bodies so.
pytestmark = pytest.mark.filterwarnings("ignore:Testing an element's truth value:DeprecationWarning")

ROUNDS = 5


@pytest.fixture(params=["memory", "file", "azure", "s3", "s3 and files"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> StorageConfig:
    unique = f"dropped-{uuid.uuid4().hex[:12]}"
    match request.param:
        case "memory":
            return StorageConfig(storage_type="memory")
        case "file":
            return StorageConfig(base_path=tmp_path)
        case "azure":
            connection_string = request.getfixturevalue("azurite").connection_string
            return StorageConfig(storage_type="azure", connection_string=connection_string, container=unique)
        case kind:
            return StorageConfig(
                storage_type="s3",
                s3_bucket=unique,
                s3_endpoint=request.getfixturevalue("moto").endpoint,
                s3_region=REGION,
                s3_access_key_id=ACCESS_KEY_ID,
                s3_secret_access_key=SECRET_ACCESS_KEY,
                tables_and_queues=None if kind == "s3" else "file",
                base_path=tmp_path,
            )


async def used(config: StorageConfig) -> StorageManager:
    """A manager that has done something of everything."""
    storage = StorageManager(config)
    await storage.save("k", {"n": 1})
    assert await storage.load("k") == {"n": 1}
    await storage.write_stream("stream", [bytes(9_000_000)])
    async with storage.open_reader("stream") as reader:
        async for _ in reader:
            break  # its connection is given up in the middle
    assert await storage.list_keys() == ["k", "stream"]
    if config.storage_type != "s3" or config.tables_and_queues:
        backend = storage.backend
        await backend.tables.upsert("dropped", "p", "r", {"n": 1})
        assert await backend.query_entities("dropped")
        await backend.send_message("tasks", "hello")
        assert await backend.receive_message("tasks", visibility_timeout=1)
    return storage


def held() -> tuple[int, int]:
    """Descriptors and threads of this process."""
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))


async def settled(most: tuple[int, int]) -> tuple[int, int]:
    """What is held once it is no more than ``most``, or after a while."""
    until = time.monotonic() + 120
    while True:
        gc.collect()
        await asyncio.sleep(0.05)
        now = held()
        if (now[0] <= most[0] and now[1] <= most[1]) or time.monotonic() > until:
            return now


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts by /proc")
async def test_nothing_is_kept_for_one_that_was_dropped(config: StorageConfig) -> None:
    if config.s3_bucket:
        keys = {"access_key_id": ACCESS_KEY_ID, "secret_access_key": SECRET_ACCESS_KEY}
        backend = S3StorageBackend(
            config.s3_bucket, endpoint=config.s3_endpoint, region=REGION, create_bucket=True, **keys
        )
        await backend.open()
        await backend.close()
    for _ in range(2):
        await (await used(config)).close()
    gc.collect()
    await asyncio.sleep(0)
    before = held()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(ROUNDS):
            await used(config)
        after = await settled((before[0] + 2, before[1] + 2))
    assert after[0] <= before[0] + 2, "descriptors"
    assert after[1] <= before[1] + 2, "threads"
    assert [warning for warning in caught if issubclass(warning.category, ResourceWarning)] == []


async def test_what_one_was_told_before_it_was_dropped_is_done(tmp_path: Path) -> None:
    storage = StorageManager(StorageConfig(base_path=tmp_path))
    await storage.backend.send_message("tasks", "first")
    writes = [asyncio.ensure_future(storage.backend.send_message("tasks", f"{n}")) for n in range(50)]
    del storage
    gc.collect()
    await asyncio.gather(*writes)
    async with StorageManager(StorageConfig(base_path=tmp_path)) as other:
        assert await other.backend.queues.length("tasks") == 51


class Credential:
    async def get_token(self, *scopes: str, **options: Any) -> Any:
        raise NotImplementedError


async def test_a_credential_keeps_nothing_alive() -> None:
    """obstore asks for tokens by a function of ours; the collector does not see into obstore."""
    backend = AzureStorageBackend(
        account_url="https://team1.blob.core.windows.net", credential=Credential(), retry_attempts=1
    )
    with pytest.raises(NotImplementedError):
        await backend._driver._clients.token()
    store: Any = backend._driver.objects.driver
    assert store._container.bytes.get("request")
    alive = [weakref.ref(backend), weakref.ref(store)]
    del backend, store
    gc.collect()
    assert [reference() for reference in alive] == [None, None]


async def test_one_that_was_closed_closes_nothing_again(azurite: Any) -> None:
    storage = await used(
        StorageConfig(
            storage_type="azure",
            connection_string=azurite.connection_string,
            container=f"dropped-{uuid.uuid4().hex[:12]}",
        )
    )
    await storage.close()
    driver: Any = storage.backend
    end = weakref.ref(driver.inner._clients.loops)
    assert weakref.getweakrefcount(end()) == 1, "ours alone: nothing waits for its end"
