"""Pickled and copied: everything travels as what it was built with, or says what to do instead."""

from __future__ import annotations

import asyncio
import copy
import multiprocessing
import os
import pickle
import uuid
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from storage_lib import (
    AzureStorageBackend,
    FileStorageBackend,
    MemoryBackend,
    S3StorageBackend,
    StorageBackend,
    StorageConfig,
    StorageManager,
    errors,
)
from storage_lib.errors import NotPortableError, StorageError
from storage_lib.factory import build
from tests.http_app import config_of

SECRET = "c2VjcmV0LWtleQ=="
CONNECTION = f"AccountName=team1;AccountKey={SECRET};EndpointSuffix=core.windows.net"


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))  # noqa: S301 - this test has written it


WAYS: list[Callable[[Any], Any]] = [pickled, copy.copy, copy.deepcopy]


def configs(folder: Path) -> list[StorageConfig]:
    keys = {"s3_bucket": "bucket", "s3_access_key_id": "id", "s3_secret_access_key": SECRET}
    azure = StorageConfig(storage_type="azure", connection_string=CONNECTION, container="agents")
    return [
        StorageConfig(storage_type="file", base_path=str(folder)),
        azure,
        StorageConfig(storage_type="azure", connection_string=CONNECTION, retry_attempts=1),
        StorageConfig(storage_type="s3", **keys),  # pyright: ignore[reportArgumentType]
        StorageConfig(storage_type="s3", tables_and_queues="file", base_path=str(folder), **keys),  # pyright: ignore[reportArgumentType]
    ]


def backends(folder: Path) -> list[StorageBackend]:
    named = [
        FileStorageBackend(folder),
        FileStorageBackend(base_path=str(folder), message_encoding="none"),
        AzureStorageBackend(CONNECTION, container="agents"),
        AzureStorageBackend(account_url="https://team1.blob.core.windows.net", credential=SECRET),
        S3StorageBackend("bucket", access_key_id="id", secret_access_key=SECRET, retry_attempts=2),
    ]
    return [*named, *(build(config) for config in configs(folder))]


@pytest.mark.parametrize("way", WAYS)
async def test_a_manager_travels_as_its_configuration(way: Callable[[Any], Any], tmp_path: Path) -> None:
    for config in configs(tmp_path):
        assert way(config) == config
        storage = StorageManager(config)
        other = way(storage)
        assert type(other) is StorageManager
        assert other.backend is not storage.backend
        assert repr(other.backend) == repr(storage.backend)
        assert pickled(other)._config == config
        for shown in (config, storage, storage.backend, other, other.backend):
            assert SECRET not in repr(shown)
            assert SECRET not in str(vars(shown) if hasattr(shown, "__dict__") else "")


@pytest.mark.parametrize("way", WAYS)
async def test_a_backend_travels_as_its_arguments(way: Callable[[Any], Any], tmp_path: Path) -> None:
    for backend in backends(tmp_path):
        other = way(backend)
        assert (type(other), repr(other)) == (type(backend), repr(backend))
        assert other is not backend
        storage = StorageManager(backend=backend)
        passed = way(storage)
        assert repr(passed.backend) == repr(backend)
        assert (passed.backend is backend) == (way is copy.copy)


@pytest.mark.parametrize("way", WAYS)
async def test_a_copy_that_is_closed_leaves_the_first_open(
    way: Callable[[Any], Any], any_store: tuple[str, Any], tmp_path: Path
) -> None:
    """Through each layer. The first operation comes after it, when connections are made."""
    config = await config_of(*any_store, tmp_path)
    async with StorageManager(config) as storage:
        async with way(storage.backend) as other:
            await other.objects.put("a", b"theirs")
            await other.tables.upsert("copies", "p", "r", {"n": 1})
            await other.queues.send("copies", b"theirs")
        assert (await storage.backend.objects.get("a")).data == b"theirs"
        assert (await storage.backend.tables.get("copies", "p", "r")).properties == {"n": 1}
        await storage.backend.queues.send("copies", b"ours")


@pytest.mark.parametrize("way", WAYS)
async def test_what_cannot_travel_says_what_can(way: Callable[[Any], Any], tmp_path: Path) -> None:
    class Credential:
        async def get_token(self, *scopes: str) -> Any:
            raise NotImplementedError

    class Own(FileStorageBackend):
        def __init__(self) -> None:
            super().__init__(tmp_path)

    files = FileStorageBackend(tmp_path)
    refused: list[Any] = [
        MemoryBackend(),
        StorageManager(StorageConfig(storage_type="memory")),
        files.objects,
        files.tables,
        files.queues,
        MemoryBackend().objects,
        S3StorageBackend("bucket").tables,
        AzureStorageBackend(account_url="https://team1.blob.core.windows.net", credential=Credential()),
        S3StorageBackend("bucket", credential_provider=lambda: {}),  # pyright: ignore
        FileStorageBackend(tmp_path, clock=lambda: 0.0),
        Own(),
        files.list_files(),
    ]
    if way is not copy.copy:  # which shares the backend
        refused += [StorageManager(backend=MemoryBackend()), StorageManager(backend=Own())]
    for value in refused:
        with pytest.raises(NotPortableError) as error:
            way(value)
        assert isinstance(error.value, TypeError)
        assert isinstance(error.value, StorageError)
        assert error.value.remedy
        assert SECRET not in str(error.value)


class Named(StorageManager):
    """A manager of someone's own."""

    def __init__(self, folder: Path, name: str) -> None:
        super().__init__(StorageConfig(base_path=folder))
        self.name = name


@pytest.mark.parametrize("way", WAYS)
async def test_a_manager_of_ones_own_keeps_what_it_adds(way: Callable[[Any], Any], tmp_path: Path) -> None:
    async with Named(tmp_path, "ceo") as storage:
        await storage.save("k", {"n": 1})
        async with way(storage) as other:
            assert (type(other), other.name) == (Named, "ceo")
            assert await other.load("k") == {"n": 1}
        assert await storage.load("k") == {"n": 1}, "closing the copy leaves the original open"


def save(storage: StorageManager) -> str:
    async def run() -> str:
        async with storage:
            await storage.save(f"from/{os.getpid()}", {"pid": os.getpid()})
            return os.getcwd()

    os.chdir("/")
    return asyncio.run(run())


@pytest.fixture(params=["file", "azure"])
def config(request: pytest.FixtureRequest) -> StorageConfig:
    if request.param == "file":
        return StorageConfig(base_path="data")
    connection_string = request.getfixturevalue("azurite").connection_string
    return StorageConfig(
        storage_type="azure", connection_string=connection_string, container=f"c-{uuid.uuid4().hex[:8]}"
    )


async def test_a_manager_is_given_to_other_processes(
    config: StorageConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They find the same store, though the folder's path was relative and they work elsewhere."""
    monkeypatch.chdir(tmp_path)
    async with StorageManager(config) as storage:
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
            for where in await asyncio.gather(
                *(asyncio.get_running_loop().run_in_executor(pool, save, storage) for _ in range(2))
            ):
                assert where == "/"
        assert await storage.list_keys("from/")


async def test_what_it_answers_can_be_pickled(tmp_path: Path) -> None:
    async with StorageManager(StorageConfig(base_path=tmp_path)) as storage:
        answers: list[Any] = [await storage.save("k", 1, metadata={"a": "b"}, ttl=60)]
        answers += [
            await storage.info("k"),
            await storage.read("k"),
            await storage.list_page(details=True),
            await storage.stats(),
        ]
        await storage.backend.insert_entity("t", {"PartitionKey": "p", "RowKey": "r", "n": 1})
        await storage.backend.send_message("q", "hello")
        answers += [await storage.backend.tables.query("t"), await storage.backend.receive_message("q")]
    for answer in answers:
        assert pickled(answer) == copy.deepcopy(answer) == answer


KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, StorageError)]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_keeps_what_it_says(kind: type[StorageError]) -> None:
    error = kind("words", field="key", limit="9", remedy="do it")
    for way in WAYS:
        other = way(error)
        assert type(other) is kind
        assert (str(other), other.field, other.limit, other.remedy) == ("words", "key", "9", "do it")
        assert vars(other) == vars(error)
