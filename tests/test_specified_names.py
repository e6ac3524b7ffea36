"""The names that the specification gives, exactly as it writes them, and the mapping of names."""

from __future__ import annotations

import io
import re
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy
import pytest
from azure.storage.blob.aio import BlobServiceClient
from hypothesis import given, settings
from hypothesis import strategies as st

from storage_lib import AzureStorageBackend, FileStorageBackend, MemoryBackend, StorageBackend
from storage_lib.errors import (
    InvalidArgumentError,
    InvalidKeyError,
    KeyNotFoundError,
    PreconditionFailedError,
    SerializationError,
)
from storage_lib.names import container_name, queue_name, table_name
from storage_lib.ports.backend import Insert
from storage_lib.testing.buffers import buffers
from tests.effort import examples

# azure-data-tables reads error bodies so.
pytestmark = pytest.mark.filterwarnings("ignore:Testing an element's truth value:DeprecationWarning")


@pytest.fixture(scope="module")
async def azure(azurite: Any) -> AsyncIterator[AzureStorageBackend]:
    async with AzureStorageBackend(azurite.connection_string) as backend:
        yield backend


@pytest.fixture
async def files(tmp_path: Path) -> AsyncIterator[FileStorageBackend]:
    async with FileStorageBackend(tmp_path / "data") as backend:
        yield backend


@pytest.fixture(params=["memory", "file", "azure"])
def backend(request: pytest.FixtureRequest) -> StorageBackend:
    match request.param:
        case "memory":
            return MemoryBackend()
        case "file":
            return request.getfixturevalue("files")
        case _:
            return request.getfixturevalue("azure")


@pytest.fixture
def name() -> str:
    """One that Azure takes neither for a table, nor for a queue, nor for a container."""
    return f"sensitive_data_{uuid.uuid4().hex[:8]}"


# -- tables


async def test_entities(backend: StorageBackend, name: str) -> None:
    entity = {
        "PartitionKey": "ceo",
        "RowKey": "config-1",
        "model": "large",
        "id": uuid.UUID(int=9),
        "tags": ["a", {"b": None}],
        "n": 2**40,
    }
    etag = await backend.insert_entity(table_name=name, entity=entity)
    assert etag
    assert list(entity) == ["PartitionKey", "RowKey", "model", "id", "tags", "n"], (
        "the caller's is left alone"
    )
    assert await backend.get_entity(table_name=name, partition_key="ceo", row_key="config-1") == entity
    with pytest.raises(PreconditionFailedError):
        await backend.insert_entity(table_name=name, entity=entity)
    with pytest.raises(InvalidArgumentError, match="RowKey"):
        await backend.insert_entity(table_name=name, entity={"PartitionKey": "p"})
    with pytest.raises(InvalidKeyError):
        await backend.insert_entity(table_name=name, entity={"PartitionKey": "a/b", "RowKey": "r"})
    with pytest.raises(KeyNotFoundError):
        await backend.get_entity(table_name=name, partition_key="ceo", row_key="other")

    other = {"PartitionKey": "ceo", "RowKey": "config-2", "model": "it's small"}
    await backend.insert_entity(table_name=name, entity=other)
    found = await backend.query_entities(table_name=name, filter="model eq 'large'")
    assert found == [entity]
    found = await backend.query_entities(
        table_name=name, filter="model eq @model", parameters={"model": "it's small"}, select=["model"]
    )
    assert found == [other]
    assert [e async for e in backend.query_entities(table_name=name)] == [entity, other]
    with pytest.raises(InvalidArgumentError):
        await backend.query_entities(table_name=name, filter="model like 'x'")
    with pytest.raises(KeyNotFoundError):
        await backend.query_entities(table_name=name + "x")


async def test_a_query_goes_over_pages(files: FileStorageBackend) -> None:
    for n in range(0, 2200, 100):
        await files.tables.batch("pages", "p", [Insert(f"r{n + k:04}") for k in range(100)])
    rows = [entity["RowKey"] async for entity in files.query_entities(table_name="pages")]
    assert rows == [f"r{n:04}" for n in range(2200)]


# -- queues


async def test_messages(backend: StorageBackend, name: str) -> None:
    with pytest.raises(KeyNotFoundError):
        await backend.receive_message(queue_name=name)
    for message, body in (
        ("text ü", "text ü".encode()),
        (b"\x00\xff", b"\x00\xff"),
        (
            {"task_id": "1", "agent_id": "ä", "n": [1.5, None]},
            '{"task_id":"1","agent_id":"ä","n":[1.5,null]}'.encode(),
        ),
        ([1], b"[1]"),
    ):
        sent = await backend.send_message(queue_name=name, message=message)
        received = await backend.receive_message(queue_name=name)
        assert received is not None
        assert (received.id, received.body, received.dequeue_count) == (sent, body, 1)
        assert await backend.receive_message(queue_name=name) is None
        await backend.delete_message(queue_name=name, message=received)
        with pytest.raises(KeyNotFoundError, match="receipt"):
            await backend.delete_message(queue_name=name, message=received)
    await backend.send_message(queue_name=name, message="later", delay=100, ttl=1000)
    assert await backend.receive_message(queue_name=name, visibility_timeout=5) is None
    for bad in ({"a": b"x"}, {1: 2}, [float("nan")], object(), None):
        with pytest.raises(SerializationError):
            await backend.send_message(queue_name=name, message=bad)  # pyright: ignore[reportArgumentType]
    assert await backend.queues.length(name) == 1


# -- files


async def test_files(files: FileStorageBackend) -> None:
    values = {"a/bytes": b"\x00\xff", "a/text.txt": "ü", "a.json": {"n": [1, 2.5]}, "b": {"raw": b"x"}}
    for path, value in values.items():
        await files.write(path, value)
        assert await files.read(path) == value
    await files.write("a/streamed", io.BytesIO(b"chunks"))
    assert await files.read("a/streamed") == b"chunks"
    assert await files.list_files("a/") == ["a/bytes", "a/streamed", "a/text.txt"]
    assert [path async for path in files.list_files()] == [
        "a.json",
        "a/bytes",
        "a/streamed",
        "a/text.txt",
        "b",
    ]
    await files.delete("a/bytes")
    for call in (files.read, files.delete):
        with pytest.raises(KeyNotFoundError):
            await call("a/bytes")
    for path in ("../x", "/x", "", "a//b", ".system/x"):
        with pytest.raises(InvalidKeyError):
            await files.write(path, b"x")
    with pytest.raises(SerializationError):
        await files.write("c", object())
    assert "c" not in await files.list_files()


# -- blobs


async def test_blobs(azure: AzureStorageBackend, name: str) -> None:
    values = {"configs/ceo.json": {"model": "large"}, "configs/raw": b"\x00\xff", "note": "ü"}
    for blob, value in values.items():
        await azure.upload_blob(container=name, blob_name=blob, data=value)
        assert await azure.download_blob(container=name, blob_name=blob) == value
    await azure.upload_blob(container=name, blob_name="streamed", data=io.BytesIO(b"chunks"))
    assert await azure.download_blob(container=name, blob_name="streamed") == b"chunks"
    assert await azure.list_blobs(container=name, prefix="configs/") == ["configs/ceo.json", "configs/raw"]
    assert [blob async for blob in azure.list_blobs(container=name)] == [*sorted([*values, "streamed"])]
    with pytest.raises(PreconditionFailedError):
        await azure.upload_blob(container=name, blob_name="note", data="other", overwrite=False)
    await azure.upload_blob(container=name, blob_name="note", data=bytearray(b"other"))
    assert await azure.download_blob(container=name, blob_name="note") == b"other"
    other = name + "_2"
    with pytest.raises(KeyNotFoundError):
        await azure.download_blob(container=other, blob_name="note")
    assert azure.container(name) is azure.container(name)
    assert azure.container(name) is not azure.container(other)
    assert azure.container("agent-storage") is azure.objects


async def test_containers_have_the_access_level_that_was_asked_for(
    azure: AzureStorageBackend, azurite: Any, name: str
) -> None:
    async with BlobServiceClient.from_connection_string(azurite.connection_string) as service:
        for level, expected in (
            (None, None),
            ("private", None),
            ("blob", "blob"),
            ("container", "container"),
        ):
            this = f"{name}-{level}"
            assert await azure.create_container(name=this, access_level=level)  # pyright: ignore
            found = await service.get_container_client(container_name(this)).get_container_properties()
            assert found.public_access == expected
            assert not await azure.create_container(name=this, access_level="private")
            found = await service.get_container_client(container_name(this)).get_container_properties()
            assert found.public_access == expected, "one that is there is left as it is"
    with pytest.raises(InvalidArgumentError):
        await azure.create_container(name=name, access_level="public")  # pyright: ignore
    with pytest.raises(InvalidKeyError):
        await azure.create_container(name="a/b")


async def test_a_closed_backend_closes_its_containers(azurite: Any, name: str) -> None:
    backend = AzureStorageBackend(azurite.connection_string)
    await backend.upload_blob(container=name, blob_name="k", data=b"x")
    await backend.close()
    for call in (
        backend.download_blob(container=name, blob_name="k"),
        backend.create_container(name=name),
        backend.list_blobs(container=name),
    ):
        with pytest.raises(Exception, match="closed"):
            await call


def test_the_own_container_is_mapped_too() -> None:
    key = "a2V5"
    backend = AzureStorageBackend(
        account_url="https://acct.blob.core.windows.net", credential=key, container="My_data"
    )
    assert repr(backend).endswith(f"/{container_name('My_data')})")


async def test_what_is_bytes_like_is_bytes_by_every_name(
    files: FileStorageBackend, azure: AzureStorageBackend, name: str
) -> None:
    for buffer, expected in buffers():
        await files.write("k", buffer)
        assert await files.read("k") == expected
        await azure.upload_blob(name, "k", buffer)
        assert await azure.download_blob(name, "k") == expected
        await files.send_message(name, buffer)
        message = await files.receive_message(name)
        assert message is not None
        assert message.body == expected
        await files.delete_message(name, message)
    array = numpy.arange(3.0)
    await files.write("k", array)
    assert (await files.read("k")).dtype == array.dtype, "an array is a value"
    for wrong in (None, 5, {1, 2}, object(), [(1, 2)]):
        with pytest.raises(SerializationError) as refused:
            await files.send_message(name, wrong)  # pyright: ignore[reportArgumentType]
        assert refused.value.field == "message"


# -- the mapping

RULES = {
    queue_name: r"(?=.{3,63}$)[a-z0-9]+(-[a-z0-9]+)*",
    table_name: r"[A-Za-z][A-Za-z0-9]{2,62}",
    container_name: r"(?=.{3,63}$)[a-z0-9]+(-[a-z0-9]+)*|\$(root|web)",
}


@pytest.mark.parametrize("mapped", RULES)
def test_a_valid_name_stands_for_itself(mapped: Any) -> None:
    names = ["abc", "x" * 63, "tasks", "a1b2c3d4e5"]
    names += ["Tasks", "aTABLE9"] if mapped is table_name else ["agent-tasks", "0-1", "logs-2026010203"]
    names += ["$web", "$root"] if mapped is container_name else []
    assert [mapped(name) for name in names] == names


def test_known_names_stay_where_they_are() -> None:
    # What is stored under a name must be found by every later version.
    assert queue_name("agent_tasks") == "agent-tasks-x49f5ba5cb6"
    assert table_name("agent_tasks") == "agenttasksx49f5ba5cb6"
    assert container_name("agent_tasks") == "agent-tasks-x49f5ba5cb6"
    assert table_name("tables") == "tablesxd98a034f5c"
    assert queue_name("---") == "queue-xcb3f91d54e"


@settings(max_examples=examples(100), deadline=None)
@given(
    st.sets(
        st.one_of(
            st.text(
                st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/"),
                min_size=1,
                max_size=255,
            ),
            st.text("aA-_ü0$", min_size=1, max_size=70),
        ),
        min_size=2,
        max_size=20,
    )
)
def test_every_name_is_mapped_to_one_of_its_own(names: set[str]) -> None:
    for mapped, rule in RULES.items():
        results = {mapped(name): name for name in names}
        assert len(results) == len(names)
        assert all(re.fullmatch(rule, result) for result in results)
        # What a name is mapped to can itself be taken as a name, and then is another one.
        for result, name in results.items():
            assert result == name or mapped(result) != result
            assert len(mapped(result)) <= 63


@pytest.mark.parametrize("mapped", RULES)
@pytest.mark.parametrize(
    "name", ["", "a/b", "/", "a\x00", "a\n", "a\x7f", "\ud800", "x" * 256, None, 5, b"abc"], ids=repr
)
def test_what_can_not_be_a_name_is_refused(mapped: Any, name: Any) -> None:
    with pytest.raises(InvalidKeyError):
        mapped(name)


async def test_table_names_are_the_same_in_any_case(files: FileStorageBackend) -> None:
    for backend in (files, MemoryBackend()):
        await backend.tables.insert("AgentState", "p", "r", {"n": 1})
        assert (await backend.tables.get("agentstate", "p", "r")).properties == {"n": 1}
        assert len((await backend.tables.query("AGENTSTATE")).entities) == 1
        await backend.tables.upsert("agentState", "p", "r", {"n": 2})
        await backend.tables.delete("AgentState", "p", "r")
        await backend.tables.insert("Agent_State", "p", "r", {})
        with pytest.raises(KeyNotFoundError):
            await backend.tables.get("agent_state", "p", "r")
