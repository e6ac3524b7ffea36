"""Messages that are objects: all of them where encryption is to cover them, and whose they are."""

from __future__ import annotations

from typing import Any

import pytest

from storage_lib import MemoryBackend, StorageManager
from storage_lib.config import EncryptionOptions
from storage_lib.conversations import Conversations
from storage_lib.errors import IntegrityError, KeyNotFoundError
from storage_lib.layers.encryption import EncryptionLayer
from storage_lib.ports.drivers import PLAIN_GET
from storage_lib.ports.table_model import Entity
from storage_lib.reserved_names import CONVERSATIONS, MESSAGES

SECRET = "the forecast of the second quarter"


async def rows(storage: StorageManager) -> list[Entity]:
    return [row async for row in storage.backend.tables.iterate(CONVERSATIONS)]


async def objects(storage: StorageManager) -> int:
    return (await storage.backend.objects.stats(MESSAGES)).count


async def test_messages_as_objects_behave_like_others() -> None:
    storage = StorageManager(backend=MemoryBackend())
    log = Conversations(storage, messages_as_objects=True)
    await log.append("c", [{"id": f"m{n}", "n": n} for n in range(450)])
    assert (await log.append("c", [{"id": "m7", "n": 7}, {"n": 450}])).positions == (8, 451)
    assert [each.message["n"] for each in await log.read("c")] == list(range(451))
    assert (await log.pop("c")).message == {"n": 450}
    copy = await log.fork("c", "copy", until=300)
    assert (copy.count, await objects(storage)) == (300, 750)
    assert [each.message["n"] for each in await log.read("copy", last=2)] == [298, 299]
    made = await log.compact("c", lambda messages: {"of": len(messages)}, keep=50)
    assert made is not None
    assert made.summary.message == {"of": 400}
    assert [each.message for each in await log.read("c", limit=1)] == [{"of": 400}]
    assert await objects(storage) == 351
    await log.clear("c")
    await log.delete("copy")
    assert await objects(storage) == 0


async def test_with_encryption_no_message_is_in_clear() -> None:
    inner = MemoryBackend()
    options = EncryptionOptions(keys={"a": b"k" * 32})
    storage = StorageManager(backend=EncryptionLayer(inner, options))
    log = Conversations(storage, messages_as_objects=True)
    await log.append("c", [{"role": "ceo", "content": SECRET}])
    await log.append("c", [{"id": "m2", "role": "cfo", "content": SECRET}])
    await log.append("c", [{"role": "ceo", "content": SECRET}])
    await log.replace("c", {"summary": SECRET}, until=2)
    await log.fork("c", "copy")
    seen = [repr(row).encode() for row in await rows(storage)]
    async for entry in inner.objects.iterate(MESSAGES):
        assert not isinstance(entry, str)
        found = await inner.objects.driver.get(entry.key, PLAIN_GET)
        assert found is not None
        seen.append(found.data)
    assert len(seen) > 8
    assert [each for each in seen if SECRET.encode() in each] == []
    assert [each.message for each in await log.read("copy")] == [
        {"summary": SECRET},
        {"role": "ceo", "content": SECRET},
    ]


async def test_a_row_reaches_no_object_that_is_not_its_own() -> None:
    """Tables may come from an archive that others have written."""
    storage = StorageManager(backend=MemoryBackend())
    log = Conversations(storage, messages_as_objects=True)
    await storage.backend.objects.put(".system/links/secrets.json", b'{"secret": 1}')
    await log.append("other", [{"n": 1}])
    (theirs,) = [str(row.properties["object"]) for row in await rows(storage) if "object" in row.properties]
    for key in (".system/links/secrets.json", theirs):
        await log.append("c", [{"n": 1}, {"n": 2}])
        newest, *_ = [
            row for row in await rows(storage) if row.partition_key == "c:c" and row.row_key[0] == "m"
        ]
        await storage.backend.tables.upsert(
            CONVERSATIONS, newest.partition_key, newest.row_key, {**newest.properties, "object": key}
        )
        reads: list[Any] = [log.read("c"), log.pop("c"), log.fork("c", "copy")]
        for call in reads:
            with pytest.raises(IntegrityError):
                await call
        assert await log.clear("c") > 0
        assert await log.read("c") == []
        await storage.backend.objects.head(key)  # It is still there.
    with pytest.raises(KeyNotFoundError):
        await log.read("copy")


async def test_a_fork_never_leaves_out_a_message() -> None:
    storage = StorageManager(backend=MemoryBackend())
    log = Conversations(storage, messages_as_objects=True)
    await log.append("c", [{"n": 1}, {"n": 2}])
    (key, *_) = [str(row.properties["object"]) for row in await rows(storage) if "object" in row.properties]
    await storage.backend.objects.delete(key)
    with pytest.raises(IntegrityError, match="position 2"):
        await log.fork("c", "copy")
    with pytest.raises(KeyNotFoundError):
        await log.describe("copy")
    assert (await log.fork("c", "copy", until=1)).count == 1
