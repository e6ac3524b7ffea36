"""How the storage is used, in the forms that people write first: each runs, with just these names."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import os
import pickle
import stat
import uuid
from collections.abc import AsyncIterator, Awaitable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

import numpy
import pytest
from azure.storage.blob.aio import ContainerClient
from cryptography.fernet import Fernet, InvalidToken
from tenacity import RetryError, retry, stop_after_attempt, wait_exponential

from storage_lib.azure_backend import AzureStorageBackend
from storage_lib.backend import StorageBackend, StorageError
from storage_lib.backends.memory import MemoryBackend, MemoryObjects
from storage_lib.config.storage import StorageConfig
from storage_lib.errors import ConfigurationError, InvalidArgumentError, StorageUnavailableError
from storage_lib.file_backend import FileStorageBackend
from storage_lib.manager import StorageManager
from storage_lib.names import container_name
from storage_lib.ports.objects import ObjectStore
from storage_lib.s3_backend import S3StorageBackend
from tests.s3_servers import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY

# azure-data-tables reads error bodies so.
pytestmark = pytest.mark.filterwarnings("ignore:Testing an element's truth value:DeprecationWarning")

logger = logging.getLogger("AOS.Storage")


def unique() -> str:
    return f"usage-{uuid.uuid4().hex[:12]}"


@pytest.fixture(params=["memory", "file", "azure", "s3"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> StorageConfig:
    match request.param:
        case "memory":
            return StorageConfig(storage_type="memory")
        case "file":
            return StorageConfig(storage_type="file", base_path=tmp_path / "data")
        case "azure":
            connection_string = request.getfixturevalue("azurite").connection_string
            return StorageConfig(
                storage_type="azure", connection_string=connection_string, container=unique()
            )
        case _:
            return StorageConfig(
                storage_type="s3",
                s3_bucket=unique(),
                s3_endpoint=request.getfixturevalue("moto").endpoint,
                s3_region=REGION,
                s3_access_key_id=ACCESS_KEY_ID,
                s3_secret_access_key=SECRET_ACCESS_KEY,
            )


@pytest.fixture
async def storage(config: StorageConfig) -> AsyncIterator[StorageManager]:
    if config.s3_bucket:
        async with S3StorageBackend(
            config.s3_bucket,
            endpoint=config.s3_endpoint,
            access_key_id=ACCESS_KEY_ID,
            secret_access_key=SECRET_ACCESS_KEY,
            create_bucket=True,
        ):
            pass
    storage = StorageManager(config)
    yield storage
    await storage.close()


@pytest.fixture
async def backend(azurite: Any) -> AsyncIterator[AzureStorageBackend]:
    backend = AzureStorageBackend(azurite.connection_string)
    yield backend
    await backend.close()


@pytest.fixture(params=["memory", "file", "azure"])
def tables_and_queues(request: pytest.FixtureRequest) -> StorageBackend:
    match request.param:
        case "memory":
            return MemoryBackend()
        case "file":
            return request.getfixturevalue("files")
        case _:
            return request.getfixturevalue("backend")


@pytest.fixture
async def files(tmp_path: Path) -> AsyncIterator[FileStorageBackend]:
    backend = FileStorageBackend(base_path=tmp_path / "data")
    yield backend
    await backend.close()


# -- core operations


async def test_core_operations(storage: StorageManager, tmp_path: Path) -> None:
    await storage.save(
        key="agent_configs/ceo",
        data={"name": "CEO", "role": "executive", "status": "active"},
        content_type="application/json",
    )
    (tmp_path / "model.pkl").write_bytes(os.urandom(10_000))
    with open(tmp_path / "model.pkl", "rb") as f:  # noqa: ASYNC230
        await storage.save(key="models/ceo_adapter", data=f.read(), content_type="application/octet-stream")
    await storage.save("agent_configs/cfo", {"name": "CFO"})
    await storage.save("agent_configs/old_config", {})

    config = await storage.load("agent_configs/ceo")
    assert config == {"name": "CEO", "role": "executive", "status": "active"}
    model_data = await storage.load("models/ceo_adapter")
    assert model_data == (tmp_path / "model.pkl").read_bytes()

    await storage.delete("agent_configs/old_config")
    agent_configs = await storage.list_keys(prefix="agent_configs/")
    assert agent_configs == ["agent_configs/ceo", "agent_configs/cfo"]
    exists = await storage.exists("agent_configs/ceo")
    assert exists is True
    assert await storage.exists("agent_configs/old_config") is False


def test_a_setting_that_is_missing_is_named() -> None:
    with pytest.raises(ConfigurationError) as refused:
        StorageConfig(storage_type="azure", connection_string=os.getenv("A_VARIABLE_THAT_IS_NOT_SET"))
    assert refused.value.field == "connection_string"


# -- the file backend


async def test_the_file_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    backend = FileStorageBackend(base_path="./data")
    data: Any = {"name": "CEO"}
    await backend.write("path/to/file.json", data)
    assert await backend.read("path/to/file.json") == data
    await backend.write("path/to/other", b"raw")
    await backend.write("elsewhere", "text")
    files = await backend.list_files(prefix="path/to/")
    assert files == ["path/to/file.json", "path/to/other"]
    await backend.delete("path/to/file.json")
    assert await backend.list_files(prefix="path/to/") == ["path/to/other"]
    await backend.close()


TREE = [
    "agent_configs/ceo.json",
    "agent_configs/cfo.json",
    "agent_configs/coo.json",
    "conversations/conv_001.json",
    "conversations/conv_002.json",
    "models/ceo_adapter.pkl",
    "models/cfo_adapter.pkl",
]


async def test_the_folders_are_those_of_the_keys(tmp_path: Path) -> None:
    """One folder for each segment, so that a key's file is found with `find`."""
    async with StorageManager(StorageConfig(storage_type="file", base_path=tmp_path)) as storage:
        for key in TREE:
            await storage.save(key, {"k": key} if key.endswith(".json") else key.encode())
        assert await storage.list_keys() == TREE
    for key in TREE:
        (file,) = tmp_path.rglob(key + "*")
        assert file.parent.name == key.split("/")[0]


async def test_permissions_of_a_file_may_be_restricted(tmp_path: Path) -> None:
    async with FileStorageBackend(base_path=tmp_path) as backend:
        await backend.write("secrets/token", "s")
        (file_path,) = tmp_path.rglob("token*")
        os.chmod(file_path, 0o600)
        assert await backend.read("secrets/token") == "s"
        assert stat.S_IMODE(file_path.stat().st_mode) == 0o600
        await backend.write("secrets/token", "t")
        assert await backend.read("secrets/token") == "t"
        await backend.delete("secrets/token")


# -- blobs


async def test_blobs(backend: AzureStorageBackend) -> None:
    models = unique()
    model_data = os.urandom(1000)
    await backend.upload_blob(container=models, blob_name="ceo_adapter.pkl", data=model_data)
    data = await backend.download_blob(container=models, blob_name="ceo_adapter.pkl")
    assert data == model_data
    await backend.upload_blob(models, "adapters/cfo", b"x")
    assert await backend.download_blob(models, "adapters/cfo") == b"x"
    blobs = await backend.list_blobs(container=models, prefix="adapters/")
    assert blobs == ["adapters/cfo"]


async def test_a_private_container(backend: AzureStorageBackend, azurite: Any) -> None:
    name = f"sensitive_data_{uuid.uuid4().hex[:8]}"
    await backend.create_container(name=name, access_level="private")
    async with ContainerClient.from_connection_string(
        azurite.connection_string, container_name(name)
    ) as client:
        assert (await client.get_container_properties()).public_access is None


async def test_connections() -> None:
    connection_string = (
        "DefaultEndpointsProtocol=https;"
        "AccountName=youraccount;"
        "AccountKey=eW91cmtleQ==;"
        "EndpointSuffix=core.windows.net"
    )
    backend = AzureStorageBackend(connection_string)
    assert "youraccount.blob.core.windows.net" in repr(backend)
    assert "eW91cmtleQ" not in repr(backend)
    await backend.close()

    from azure.identity.aio import DefaultAzureCredential

    async with DefaultAzureCredential() as credential:
        backend = AzureStorageBackend(
            account_url="https://youraccount.blob.core.windows.net", credential=credential
        )
        assert "https://youraccount.blob.core.windows.net" in repr(backend)
        await backend.close()


# -- tables and queues


async def test_tables(tables_and_queues: StorageBackend) -> None:
    backend = tables_and_queues
    conversations = unique().replace("-", "_")
    messages = [{"role": "ceo", "content": "What's the forecast?"}]
    stored = {
        "PartitionKey": "agent_ceo",
        "RowKey": "conv_001",
        "timestamp": "2025-12-25T00:00:00Z",
        "messages": json.dumps(messages),
    }
    await backend.insert_entity(table_name=conversations, entity=stored)
    await backend.insert_entity(conversations, {"PartitionKey": "agent_cfo", "RowKey": "conv_002"})
    entity = await backend.get_entity(table_name=conversations, partition_key="agent_ceo", row_key="conv_001")
    assert entity == stored == await backend.get_entity(conversations, "agent_ceo", "conv_001")
    assert json.loads(entity["messages"]) == messages
    entities = await backend.query_entities(table_name=conversations, filter="PartitionKey eq 'agent_ceo'")
    assert entities == [stored]
    assert await backend.query_entities(conversations, "PartitionKey eq 'agent_ceo'") == [stored]


async def test_queues(tables_and_queues: StorageBackend) -> None:
    backend = tables_and_queues
    agent_tasks = unique().replace("-", "_")
    task = {"task_id": "task_001", "agent_id": "ceo", "action": "analyze_report"}
    await backend.send_message(queue_name=agent_tasks, message=json.dumps(task))
    message = await backend.receive_message(queue_name=agent_tasks)
    assert message is not None
    assert json.loads(message.body or b"") == task
    await backend.delete_message(queue_name=agent_tasks, message=message)

    await backend.send_message(agent_tasks, json.dumps(task))
    message = await backend.receive_message(agent_tasks)
    assert message is not None
    await backend.delete_message(agent_tasks, message)
    message = await backend.receive_message(agent_tasks)
    assert message is None
    with pytest.raises(InvalidArgumentError) as refused:
        await backend.delete_message(agent_tasks, cast("Any", message))
    assert refused.value.field == "message"
    assert "None" in refused.value.message


# -- what people store


class SomeModel:
    def __init__(self) -> None:
        self.weights = [0.1, 0.2]


async def test_serialization(storage: StorageManager) -> None:
    data = {"key": "value"}
    await storage.save("data_key", data)
    assert await storage.load("data_key") == data
    await storage.save("json_text", json.dumps(data))
    assert json.loads(await storage.load("json_text")) == data
    model = SomeModel()
    await storage.save("pickled", pickle.dumps(model))
    found = pickle.loads(await storage.load("pickled"))  # noqa: S301 - this test has written it
    assert found.weights == model.weights


KEYS = [
    "agent_configs/ceo/current",
    "conversations/boardroom/session_001",
    "knowledge/documents/policy_handbook",
    "metrics/performance/2025-12",
    "models/lora_adapters/ceo/v1.2",
    "training_data/ceo/dataset_001",
]


async def test_keys(storage: StorageManager) -> None:
    for key in KEYS:
        await storage.save(key, key)
    assert await storage.list_keys() == KEYS
    assert [await storage.load(key) for key in KEYS] == KEYS
    assert await storage.list_keys(prefix="models/lora_adapters/ceo/") == ["models/lora_adapters/ceo/v1.2"]


async def test_configurations_models_conversations_and_documents(storage: StorageManager) -> None:
    agent_config = {
        "agent_id": "ceo",
        "name": "Chief Executive Officer",
        "role": "executive",
        "capabilities": ["strategy", "decision_making"],
        "model_config": {"adapter_name": "ceo_adapter", "model_version": "v1.2"},
    }
    await storage.save(key=f"agent_configs/{agent_config['agent_id']}", data=agent_config)
    config = await storage.load("agent_configs/ceo")
    assert config == agent_config

    weights_binary = os.urandom(50_000)
    model_data = {
        "model_type": "lora_adapter",
        "base_model": "llama-3.1-8b",
        "adapter_weights": weights_binary,
        "hyperparameters": {"r": 16, "lora_alpha": 32},
        "training_metrics": {"accuracy": 0.95, "loss": 0.05},
        "created_at": "2025-12-25T00:00:00Z",
    }
    await storage.save(key="models/lora_adapters/ceo/v1.2", data=model_data)
    assert await storage.load("models/lora_adapters/ceo/v1.2") == model_data

    conversation = {
        "conversation_id": "conv_001",
        "participants": ["ceo", "cfo"],
        "messages": [
            {"role": "ceo", "content": "What's the Q2 forecast?", "timestamp": "..."},
            {"role": "cfo", "content": "Revenue projection is $5M", "timestamp": "..."},
        ],
        "metadata": {"topic": "financial_planning", "created_at": "2025-12-25T00:00:00Z"},
    }
    await storage.save(key=f"conversations/{conversation['conversation_id']}", data=conversation)
    all_ceo_conversations = await storage.list_keys(prefix="conversations/")
    assert all_ceo_conversations == ["conversations/conv_001"]
    assert await storage.load(all_ceo_conversations[0]) == conversation

    for number, embedding_vector in enumerate(
        [[0.25, -1.5e-7, 3.0], numpy.linspace(0, 1, 384, dtype=numpy.float32)], 1
    ):
        document = {
            "document_id": f"doc_{number:03}",
            "title": "Q2 Strategy Document",
            "content": "Full document text...",
            "embedding": embedding_vector,
            "metadata": {"category": "strategy", "author": "ceo", "tags": ["Q2", "strategy", "planning"]},
        }
        await storage.save(key=f"knowledge/documents/{document['document_id']}", data=document)
        found = await storage.load(f"knowledge/documents/{document['document_id']}")
        assert type(found["embedding"]) is type(embedding_vector)
        assert list(found.pop("embedding")) == list(document.pop("embedding"))  # pyright: ignore
        assert found == document


# -- speed


class CachedStorageManager:
    def __init__(self, storage_manager: StorageManager) -> None:
        self.storage = storage_manager
        self.cache: dict[str, Any] = {}

    async def load(self, key: str) -> Any:
        if key in self.cache:
            return self.cache[key]
        data = await self.storage.load(key)
        self.cache[key] = data
        return data

    async def save(self, key: str, data: Any) -> None:
        await self.storage.save(key, data)
        self.cache[key] = data


class TTLCache:
    def __init__(self, ttl_seconds: float = 300) -> None:
        self.cache: dict[str, tuple[Any, datetime]] = {}
        self.ttl = ttl_seconds

    def get(self, key: str) -> Any:
        if key in self.cache:
            data, timestamp = self.cache[key]
            if datetime.now() - timestamp < timedelta(seconds=self.ttl):
                return data
            del self.cache[key]
        return None

    def set(self, key: str, data: Any) -> None:
        self.cache[key] = (data, datetime.now())


async def test_caches_around_it(storage: StorageManager) -> None:
    cached = CachedStorageManager(storage)
    await cached.save("a", {"n": 1})
    await storage.delete("a")
    assert await cached.load("a") == {"n": 1}
    await storage.save("b", b"2")
    assert [await cached.load("b"), await cached.load("b")] == [b"2", b"2"]
    for ttl, expected in ((300, {"n": 1}), (0, None)):
        cache = TTLCache(ttl)
        cache.set("a", await cached.load("a"))
        assert cache.get("a") == expected


async def test_batches(storage: StorageManager) -> None:
    items = [("key1", {"n": 1}), ("key2", b"2"), ("key3", "three")]
    await asyncio.gather(*[storage.save(key, data) for key, data in items])
    keys = ["key1", "key2", "key3"]
    results = await asyncio.gather(*[storage.load(key) for key in keys])
    assert results == [data for _, data in items]
    assert await asyncio.gather(storage.list_keys("key1"), storage.list_keys()) == [["key1"], keys]


async def test_compression(storage: StorageManager) -> None:
    def compress_data(data: Any) -> bytes:
        json_str = json.dumps(data)
        return gzip.compress(json_str.encode())

    def decompress_data(compressed: bytes) -> Any:
        json_str = gzip.decompress(compressed).decode()
        return json.loads(json_str)

    large_dataset = [{"n": n} for n in range(5000)]
    compressed = compress_data(large_dataset)
    await storage.save("large_dataset", compressed)
    assert await storage.load("large_dataset") == compressed
    assert decompress_data(await storage.load("large_dataset")) == large_dataset
    assert (await storage.info("large_dataset")).size == len(compressed)


# -- errors


async def load_or(storage: StorageManager, key: str, default_data: Any) -> Any:
    try:
        data = await storage.load(key)
    except KeyError:
        logger.warning("Key not found, using default")
        data = default_data
    except StorageError as e:
        logger.error(f"Storage error: {e}")
        raise
    except Exception as e:
        logger.error(f"Unexpected error: {e}")
        raise
    return data


async def test_errors(storage: StorageManager, caplog: pytest.LogCaptureFixture) -> None:
    assert await load_or(storage, "some_key", {"default": True}) == {"default": True}
    await storage.save("some_key", 1)
    assert await load_or(storage, "some_key", None) == 1
    await storage.write("broken", b"{}", content_type="application/json")
    with pytest.raises(StorageError):
        await load_or(storage, "../some_key", None)
    assert "Storage error: " in caplog.text
    assert "Unexpected" not in caplog.text


class Failing(MemoryObjects):
    """Fails so many times, and then is as it should be."""

    left = 0

    async def _failing[T](self, call: Awaitable[T]) -> T:
        if self.left:
            self.left -= 1
            cast("Any", call).close()
            raise StorageUnavailableError("away")
        return await call

    async def put(self, *arguments: Any) -> Any:
        return await self._failing(super().put(*arguments))

    async def get(self, *arguments: Any) -> Any:
        return await self._failing(super().get(*arguments))


def failing(times: int) -> StorageManager:
    backend = MemoryBackend()
    store = Failing()
    store.left = times
    backend.objects = ObjectStore(store)
    return StorageManager(backend=backend)


class ResilientStorageManager:
    def __init__(self, storage_manager: StorageManager) -> None:
        self.storage = storage_manager

    @retry(stop=stop_after_attempt(3), wait=wait_exponential(multiplier=0.001, min=0, max=0.01))
    async def save(self, key: str, data: Any) -> Any:
        return await self.storage.save(key, data)

    @retry(stop=stop_after_attempt(3), wait=wait_exponential(multiplier=0.001, min=0, max=0.01))
    async def load(self, key: str) -> Any:
        return await self.storage.load(key)


async def test_retries_around_it() -> None:
    resilient = ResilientStorageManager(failing(2))
    await resilient.save("k", {"n": 1})
    cast("Any", resilient.storage.backend.objects).left = 2
    assert await resilient.load("k") == {"n": 1}
    with pytest.raises(RetryError) as refused:
        await ResilientStorageManager(failing(3)).save("k", 1)
    assert isinstance(refused.value.last_attempt.exception(), StorageUnavailableError)


async def test_a_fallback(storage: StorageManager, caplog: pytest.LogCaptureFixture) -> None:
    primary_storage, fallback_storage = failing(1), storage

    async def load_with_fallback(key: str) -> Any:
        try:
            return await primary_storage.load(key)
        except Exception as e:
            logger.warning(f"Primary storage failed: {e}, trying fallback")
            return await fallback_storage.load(key)

    await fallback_storage.save("k", "the other's")
    assert await load_with_fallback("k") == "the other's"
    assert "Primary storage failed: away, trying fallback" in caplog.text
    cast("Any", primary_storage.backend.objects).left = 0
    await primary_storage.save("k", "its own")
    assert await load_with_fallback("k") == "its own"


# -- security and operation


class EncryptedStorage:
    def __init__(self, storage_manager: StorageManager, encryption_key: bytes) -> None:
        self.storage = storage_manager
        self.cipher = Fernet(encryption_key)

    async def save_encrypted(self, key: str, data: Any) -> None:
        encrypted = self.cipher.encrypt(json.dumps(data).encode())
        await self.storage.save(key, encrypted)

    async def load_encrypted(self, key: str) -> Any:
        encrypted = await self.storage.load(key)
        decrypted = self.cipher.decrypt(encrypted)
        return json.loads(decrypted.decode())


async def test_encryption_around_it(storage: StorageManager) -> None:
    encrypted = EncryptedStorage(storage, Fernet.generate_key())
    await encrypted.save_encrypted("secret", {"token": "not in hex"})
    assert await encrypted.load_encrypted("secret") == {"token": "not in hex"}
    assert b"not in hex" not in await storage.load("secret")
    with pytest.raises(InvalidToken):
        await EncryptedStorage(storage, Fernet.generate_key()).load_encrypted("secret")


async def test_structured_logs(storage: StorageManager, caplog: pytest.LogCaptureFixture) -> None:
    key, data = "k", b"data"
    with caplog.at_level(logging.INFO, logger="AOS.Storage"):
        await storage.save(key, data)
        logger.info(
            "Storage operation completed",
            extra={
                "operation": "write",
                "key": key,
                "size_bytes": len(data),
                "backend": type(storage.backend).__name__,
                "duration_ms": 1.5,
            },
        )
    assert [record for record in caplog.records if getattr(record, "size_bytes", None) == 4]


async def test_migration(storage: StorageManager, tmp_path: Path) -> None:
    async def migrate_storage(source_storage: StorageManager, dest_storage: StorageManager) -> None:
        keys = await source_storage.list_keys()
        for key in keys:
            data = await source_storage.load(key)
            await dest_storage.save(key, data)
            logger.info(f"Migrated {key}")

    source = StorageManager(StorageConfig(storage_type="file", base_path=tmp_path / "source"))
    values = {"a/json": {"n": [1, None]}, "a/raw": b"\x00", "text": "ü", "tuple": (1, b"2")}
    for key, value in values.items():
        await source.save(key, value)
    await migrate_storage(source, storage)
    assert {key: await storage.load(key) for key in await storage.list_keys()} == values
    await source.close()


async def test_versions_by_key(storage: StorageManager) -> None:
    async def save_versioned(key: str, data: Any, version: int | None = None) -> int:
        if version is None:
            versions = await storage.list_keys(prefix=f"{key}/v")
            version = len(versions) + 1
        versioned_key = f"{key}/v{version}"
        await storage.save(versioned_key, data)
        await storage.save(f"{key}/current", {"version": version})
        return version

    assert [await save_versioned("models/ceo", data) for data in (b"one", b"two")] == [1, 2]
    assert await save_versioned("models/ceo", b"nine", version=9) == 9
    assert await storage.load("models/ceo/current") == {"version": 9}
    assert await storage.load("models/ceo/v2") == b"two"


# -- names


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("storage_lib.manager", ["StorageManager"]),
        ("storage_lib.backend", ["StorageBackend", "StorageError"]),
        ("storage_lib.file_backend", ["FileStorageBackend"]),
        ("storage_lib.azure_backend", ["AzureStorageBackend"]),
        ("storage_lib.s3_backend", ["S3StorageBackend"]),
        ("storage_lib.config", ["StorageConfig"]),
        ("storage_lib.config.storage", ["StorageConfig"]),
    ],
)
def test_a_name_is_one_thing_wherever_it_is_imported_from(module: str, names: list[str]) -> None:
    import importlib

    import storage_lib

    for name in names:
        assert getattr(importlib.import_module(module), name) is getattr(storage_lib, name)


def test_the_modules_import_no_vendor() -> None:
    import subprocess
    import sys

    code = (
        "import sys, storage_lib.manager, storage_lib.backend, storage_lib.file_backend,"
        " storage_lib.azure_backend, storage_lib.s3_backend, storage_lib.config.storage;"
        " print([n for n in sys.modules if n.partition('.')[0] in ('azure', 'aiohttp', 'obstore', 'numpy')])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
