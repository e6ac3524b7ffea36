"""What `StorageManager` adds to the stores: values, updates, many at once, streams and what it hides."""

from __future__ import annotations

import asyncio
import io
from array import array
from pathlib import Path
from typing import Any

import pytest

from storage_lib import MemoryBackend, S3StorageBackend, StorageConfig, StorageManager
from storage_lib.backends.memory import MemoryObjects
from storage_lib.errors import (
    ConfigurationError,
    InvalidArgumentError,
    InvalidKeyError,
    KeyNotFoundError,
    PreconditionFailedError,
    SerializationError,
    StorageUnavailableError,
)
from storage_lib.ports.objects import ObjectStore
from storage_lib.testing.buffers import NOT_BYTES


@pytest.fixture
def storage() -> StorageManager:
    return StorageManager(backend=MemoryBackend())


async def test_the_first_steps(storage: StorageManager) -> None:
    await storage.save("configs/ceo.json", {"model": "large"}, metadata={"author": "me"})
    assert await storage.load("configs/ceo.json") == {"model": "large"}
    assert await storage.exists("configs/ceo.json")
    assert not await storage.exists("configs/cfo.json")
    assert dict((await storage.info("configs/ceo.json")).metadata) == {"author": "me"}
    assert [key async for key in storage.list_keys("configs/")] == ["configs/ceo.json"]
    await storage.delete("configs/ceo.json")
    with pytest.raises(KeyNotFoundError):
        await storage.load("configs/ceo.json")


async def test_data_is_named_so_and_a_listing_is_a_list_when_awaited(storage: StorageManager) -> None:
    await storage.save(key="configs/ceo", data={"model": "large"}, content_type="application/json")
    await storage.save("configs/cfo", data=b"raw")
    await storage.save("other", 1)
    assert await storage.load(key="configs/ceo") == {"model": "large"}
    assert await storage.list_keys(prefix="configs/") == ["configs/ceo", "configs/cfo"]
    assert await storage.list_keys() == ["configs/ceo", "configs/cfo", "other"]
    assert [key async for key in storage.list_keys(prefix="o")] == ["other"]
    with pytest.raises(InvalidKeyError):
        await storage.list_keys(prefix="../")


async def test_each_listing_begins_anew(storage: StorageManager) -> None:
    await storage.backend.tables.insert("t", "p", "r", {})
    await storage.save("a", 1)
    listing = storage.list_keys()
    assert await listing == ["a"]
    await storage.save("b", 1)
    assert await listing == [key async for key in listing] == ["a", "b"]
    async for _ in listing:
        break
    assert await asyncio.gather(listing, storage.list_keys("b")) == [["a", "b"], ["b"]]
    backend = storage.backend
    assert [getattr(entry, "key", entry) for entry in await backend.objects.iterate()] == ["a", "b"]
    assert [entity.row_key for entity in await backend.tables.iterate("t")] == ["r"]


async def test_a_listing_goes_where_a_coroutine_goes(storage: StorageManager, tmp_path: Path) -> None:
    await storage.save("a", 1)
    listing = storage.list_keys()
    for _ in range(2):
        assert await asyncio.create_task(listing) == ["a"]
        assert await asyncio.wait_for(listing, 120) == ["a"]
        several = [asyncio.create_task(listing) for _ in range(3)]
        assert await asyncio.gather(*several, listing) == [["a"]] * 4
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(storage.list_keys(prefix)) for prefix in ("", "b")]
        assert [task.result() for task in tasks] == [["a"], []]
        with pytest.raises(InvalidKeyError):
            await asyncio.create_task(storage.list_keys("../"))
    loop = asyncio.get_running_loop()

    def elsewhere() -> list[str]:
        return asyncio.run_coroutine_threadsafe(storage.list_keys(), loop).result(120)

    assert await asyncio.to_thread(elsewhere) == ["a"]
    async with StorageManager(StorageConfig(base_path=tmp_path)) as files:
        await files.save("a", 1)
        task = asyncio.create_task(listing := files.list_keys())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.create_task(listing) == ["a"], "one that was cancelled lists anew"
        unused = files.list_keys()
        unused.close()
    assert await asyncio.to_thread(lambda: asyncio.run(MemoryBackend().objects.iterate())) == []


async def test_a_listing_that_is_streamed_holds_a_page() -> None:
    """Reading stops where the reader stops, and nothing is read for a listing that is not used."""

    class Counting(MemoryObjects):
        given = 0

        async def scan(self, *arguments: Any) -> Any:
            async for found in super().scan(*arguments):
                self.given += 1
                yield found

    backend = MemoryBackend()
    counting = Counting()
    backend.objects = ObjectStore(counting)
    storage = StorageManager(backend=backend)
    await storage.save_many({f"k{n:03}": n for n in range(200)})
    counting.given = 0
    listing = storage.list_keys()
    assert counting.given == 0
    async for _ in listing:
        break
    assert counting.given <= 2


async def test_concurrent_updates_lose_nothing(storage: StorageManager) -> None:
    async def add(total: int) -> int:
        await asyncio.sleep(0)
        return total + 1

    await asyncio.gather(*(storage.update("n", add, initial=0) for _ in range(20)))
    assert await storage.load("n") == 20
    assert await storage.update("n", lambda n: n * 2) == 40
    with pytest.raises(KeyNotFoundError):
        await storage.update("missing", lambda n: n)
    with pytest.raises(SerializationError):
        await storage.update("n", lambda n: object())
    assert await storage.load("n") == 40


async def test_an_update_keeps_metadata_and_the_end_of_life(storage: StorageManager) -> None:
    await storage.save("n", 1, metadata={"author": "me"}, ttl=3600)
    before = await storage.info("n")
    await storage.update("n", lambda n: n + 1)
    after = await storage.info("n")
    assert dict(after.metadata) == {"author": "me"}
    assert before.expires_at is not None
    assert after.expires_at is not None
    assert abs((after.expires_at - before.expires_at).total_seconds()) < 120


@pytest.mark.parametrize(
    ("content_type", "data", "new", "kept"),
    [
        ("application/ld+json", b"[1]", [1, 2], "application/ld+json"),
        ("application/json; charset=utf-8", b"1", None, "application/json; charset=utf-8"),
        ("text/markdown", b"# a", "# b", "text/markdown"),
        ("image/png", b"a", b"b", "image/png"),
        ("image/png", b"a", "b", "text/plain; charset=utf-8"),
        ("text/markdown", b"# a", {"a": 1}, "application/json"),
        ("text/html; charset=latin-1", b"\xe9", "é€", "text/plain; charset=utf-8"),
        ("application/json", b"[]", (1, b""), "application/vnd.agent-storage.value+msgpack"),
    ],
)
async def test_an_update_keeps_the_content_type_that_still_fits(
    storage: StorageManager, content_type: str, data: bytes, new: Any, kept: str
) -> None:
    await storage.write("k", data, content_type=content_type)
    await storage.update("k", lambda old: old if new is None else new)
    assert (await storage.info("k")).content_type == kept
    if new is not None:
        assert await storage.load("k") == new


@pytest.mark.parametrize("once", [None, ("task-id", "t")])
async def test_a_change_that_forgets_to_return_is_refused(
    storage: StorageManager, once: tuple[str, str] | None
) -> None:
    async def forgets(turns: list[str]) -> None:
        turns.append("hello")

    await storage.save("turns", ["hi"])
    before = await storage.info("turns")
    for change in (lambda turns: turns.append("hello"), forgets):
        for key in ("turns", "new"):
            with pytest.raises(InvalidArgumentError) as refused:
                await storage.update(key, change, initial=[], once=once)
            assert refused.value.field == "change"
            assert "return the new value" in (refused.value.remedy or "")
    assert await storage.info("turns") == before
    assert not await storage.exists("new")
    await storage.save("turns", None)
    assert await storage.update("turns", lambda nothing: nothing) is None


async def test_many_at_once_each_with_its_own_result(storage: StorageManager) -> None:
    saved = await storage.save_many({"a": 1, "b": b"2", "../c": 3, "d": object()}, metadata={"m": "1"})
    assert [type(result).__name__ for result in saved.values()] == [
        "PutResult",
        "PutResult",
        "InvalidKeyError",
        "SerializationError",
    ]
    assert list(saved) == ["a", "b", "../c", "d"]
    loaded = await storage.load_many(["b", "missing", "a", "a"], concurrency=2)
    assert loaded["a"] == 1
    assert loaded["b"] == b"2"
    assert isinstance(loaded["missing"], KeyNotFoundError)
    deleted = await storage.delete_many(["a", "missing"])
    assert deleted["a"] is None
    assert isinstance(deleted["missing"], KeyNotFoundError)
    assert await storage.load_many([]) == {}
    with pytest.raises(InvalidArgumentError):
        await storage.load_many(["a"], concurrency=0)


async def test_many_are_bounded() -> None:
    class Counting(MemoryObjects):
        running = most = 0

        async def head(self, key: str) -> Any:
            raise NotImplementedError

        async def get(self, *arguments: Any) -> Any:
            self.running += 1
            self.most = max(self.most, self.running)
            await asyncio.sleep(0)
            self.running -= 1
            return await super().get(*arguments)

    backend = MemoryBackend()
    counting = Counting()
    backend.objects = ObjectStore(counting)
    storage = StorageManager(backend=backend)
    await storage.save_many({f"k{n}": n for n in range(50)})
    assert await storage.load_many([f"k{n}" for n in range(50)], concurrency=5) == {
        f"k{n}": n for n in range(50)
    }
    assert counting.most == 5


async def test_streams_copies_and_stats(storage: StorageManager) -> None:
    await storage.write_stream("big", io.BytesIO(b"x" * 100_000), content_type="text/x-big", if_absent=True)
    with pytest.raises(PreconditionFailedError):
        await storage.write_stream("big", [b"y"], if_absent=True)
    async with storage.open_reader("big") as reader:
        assert sum([len(chunk) async for chunk in reader]) == reader.info.size == 100_000
    await storage.copy("big", "copy")
    await storage.move("copy", "moved")
    assert [key async for key in storage.list_keys()] == ["big", "moved"]
    stats = await storage.stats()
    assert (stats.count, stats.bytes) == (2, 200_000)


async def test_write_takes_bytes_like_objects_as_bytes(storage: StorageManager) -> None:
    await storage.write("k", memoryview(array("d", [1.0, 2.0, 3.0])))
    assert (await storage.read("k")).data == array("d", [1.0, 2.0, 3.0]).tobytes()
    await storage.write("json", bytearray(b'{"a": 1}'), content_type="application/json")
    assert await storage.load("json") == {"a": 1}
    for wrong in NOT_BYTES:
        for content_type in ("application/octet-stream", "application/json", "text/plain"):
            with pytest.raises(InvalidArgumentError) as refused:
                await storage.write("json", wrong, content_type=content_type)
            assert refused.value.field == "data"
            assert refused.value.remedy
    with pytest.raises(SerializationError, match="bytearray"):
        await storage.save("json", bytearray(b"would come back as bytes"))
    assert await storage.load("json") == {"a": 1}


async def test_the_systems_own_keys_are_out_of_reach(storage: StorageManager) -> None:
    await storage.backend.objects.put(".system/tasks/x", b"secret")
    await storage.save("a", 1, ttl=3600)
    await storage.save("z", 1)
    key = ".system/tasks/x"
    for refused in (
        storage.save(key, 1),
        storage.load(key),
        storage.delete(key),
        storage.info(key),
        storage.write(key, b""),
        storage.read(key),
        storage.write_stream(key, [b""]),
        storage.copy(key, "mine"),
        storage.copy("z", key),
        storage.move(key, "mine"),
        storage.update(key, lambda value: value, initial=1),
        storage.read_if_changed(key, "tag"),
    ):
        with pytest.raises(InvalidKeyError):
            await refused
    with pytest.raises(InvalidKeyError):
        storage.open_reader(key)
    assert [name async for name in storage.list_keys()] == ["a", "z"]
    assert (await storage.list_page(delimiter="/")).prefixes == []
    assert (await storage.stats()).count == 2
    page = await storage.list_page(limit=1)
    page = await storage.list_page(limit=1, cursor=page.cursor)
    assert [entry.key for entry in page.entries] == ["z"]


async def test_an_unavailable_store_is_no_answer() -> None:
    class Away(MemoryObjects):
        async def head(self, key: str) -> Any:
            raise StorageUnavailableError("away")

    backend = MemoryBackend()
    backend.objects = ObjectStore(Away())
    with pytest.raises(StorageUnavailableError):
        await StorageManager(backend=backend).exists("a")


async def test_expired_objects_are_swept(storage: StorageManager) -> None:
    for n in range(3):
        await storage.save(f"k{n}", n, ttl=0)
    await storage.save("stays", 1, ttl=3600)
    assert await storage.sweep_expired(2) == 2
    assert await storage.sweep_expired() == 1
    assert await storage.sweep_expired() == 0
    left = [entry.key for entry in (await storage.backend.objects.list_page(".system/ttl/")).entries]
    # One that was saved in more than a millisecond has a second marker, which looks once more tomorrow.
    assert [key for key in left if "/.system/late/" not in key] == [left[0]]
    assert left[0].endswith("/stays")


# -- configuration


def test_the_environment_says_what_to_open() -> None:
    assert StorageConfig.from_env({}).storage_type == "file"
    assert StorageConfig.from_env({"AGENT_STORAGE_PATH": "x"}).base_path == "x"
    azure = StorageConfig.from_env({"AgentStorage": "UseDevelopmentStorage=true"})
    assert (azure.storage_type, azure.connection_string) == ("azure", "UseDevelopmentStorage=true")
    fallback = {"AGENT_STORAGE_TYPE": "azure", "AzureWebJobsStorage": "UseDevelopmentStorage=true"}
    assert StorageConfig.from_env(fallback).connection_string == "UseDevelopmentStorage=true"
    identity = StorageConfig.from_env(
        {
            "AgentStorage__blobServiceUri": "https://a.blob.core.windows.net",
            "AgentStorage__queueServiceUri": "https://a.queue.core.windows.net",
            "AgentStorage__tableServiceUri": "https://a.table.core.windows.net",
            "AgentStorage__clientId": "id",
        }
    )
    assert identity.storage_type == "azure"
    assert identity.blob_endpoint == "https://a.blob.core.windows.net"
    assert identity.client_id == "id"
    named = StorageConfig.from_env({"AgentStorage__accountName": "a"})
    assert named.account_url == "https://a.blob.core.windows.net"
    assert "secret" not in repr(StorageConfig(storage_type="azure", connection_string="AccountKey=secret"))


@pytest.mark.parametrize(
    "field", ["account_url", "blob_endpoint", "queue_endpoint", "table_endpoint", "s3_endpoint"]
)
@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://a.blob.core.windows.net/?sv=2026&sig=secret%3D", "https://a.blob.core.windows.net/…"),
        ("https://a.blob.core.windows.net?sig=secret", "https://a.blob.core.windows.net…"),
        ("https://user:secret@host:9000/path", "https://host:9000/path…"),
        ("//user:sec@ret:secret@host", "//host…"),
        ("https://host/p#secret", "https://host/p…"),
        ("https://host:9000/devstoreaccount1", "https://host:9000/devstoreaccount1"),
    ],
)
def test_no_secret_of_a_url_is_shown(field: str, url: str, shown: str) -> None:
    config = StorageConfig(storage_type="azure", **{"account_url": "https://a", field: url})  # pyright: ignore
    assert f"{field}={shown!r}" in repr(config)
    assert "secret" not in repr(config)
    assert getattr(config, field) == url


@pytest.mark.parametrize(
    "url", ["http://user:secret@host:9", "https://host?secret", "//u:secret@h", "secret@h"]
)
def test_no_secret_of_an_endpoint_is_in_an_error(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        S3StorageBackend("bucket", endpoint=url, access_key_id="a", secret_access_key="b")
    assert refused.value.field == "endpoint"
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("env", "field"),
    [
        ({"AGENT_STORAGE_TYPE": "floppy"}, "storage_type"),
        ({"AGENT_STORAGE_TYPE": "azure"}, "connection_string"),
        ({"WEBSITE_INSTANCE_ID": "i"}, "AgentStorage"),
        ({"AGENT_STORAGE_MESSAGE_ENCODING": "morse"}, "message_encoding"),
    ],
)
def test_a_configuration_that_can_not_work_names_the_setting(env: dict[str, str], field: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        StorageConfig.from_env(env)
    assert refused.value.field == field
