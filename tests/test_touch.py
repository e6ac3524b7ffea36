"""`touch` moves no bytes through any layer, and each layer does its part."""

from __future__ import annotations

from typing import Any

import pytest

from storage_lib import StorageManager
from storage_lib.backends.memory import MemoryBackend
from storage_lib.config.encryption import EncryptionOptions
from storage_lib.config.validation import Rule, ValidationOptions
from storage_lib.errors import (
    EncryptionError,
    IntegrityError,
    InvalidKeyError,
    KeyNotFoundError,
    PreconditionFailedError,
    RuleViolationError,
)
from storage_lib.layers.encryption import EncryptionLayer
from storage_lib.layers.validation import ValidationLayer
from storage_lib.ports.hints import CALL
from storage_lib.ports.object_model import StoredObject
from tests.gated import Gated
from tests.layer_stacks import STACKS, Stack, named, stacked

RING = EncryptionOptions(keys={"now": bytes(range(32))})


def stored(memory: MemoryBackend) -> dict[str, StoredObject]:
    return memory.objects.driver._objects  # type: ignore[attr-defined]


@pytest.mark.parametrize("stack", STACKS, ids=named)
async def test_no_layer_moves_the_bytes(stack: Stack) -> None:
    memory = MemoryBackend()
    below = Gated(memory)
    storage = StorageManager(backend=stacked(below, stack))
    await storage.save("k", "text " * 1000, metadata={"m": "1"})
    before = stored(memory)["k"].data
    below.calls.clear()
    await storage.touch("k", ttl=60, metadata={"m": "2"})
    assert below.calls.count("touch") == 1
    # A marker of the end is put; with a second store, its own calls are not seen here.
    assert set(below.calls) <= {"touch", "head", "put", "scan"}
    assert below.calls.count("put") <= 1
    assert stored(memory)["k"].data is before
    info = await storage.info("k")
    assert (dict(info.metadata), info.size, info.expires_at is not None) == ({"m": "2"}, 5000, True)
    assert await storage.load("k") == "text " * 1000


async def test_metadata_of_an_encrypted_object_stay_bound_to_it() -> None:
    memory = MemoryBackend()
    storage = StorageManager(backend=EncryptionLayer(memory, RING))
    await storage.save("k", "secret", metadata={"m": "1"})
    records: set[str] = set()
    for _ in range(3):
        await storage.touch("k", metadata={"m": "2"}, ttl=60)
        records.add(stored(memory)["k"].info.metadata["aos-encrypted"])
    assert len(records) == 3  # No nonce is used twice.
    assert await storage.load("k") == "secret"
    assert (await storage.rotate_keys()).encrypted == 0
    found = stored(memory)["k"].info.metadata
    for name, value in (("m", "3"), ("aos-expires", "99999999999999")):
        assert isinstance(found, dict)
        was, found[name] = found[name], value
        with pytest.raises(IntegrityError):
            await storage.load("k")
        with pytest.raises(IntegrityError):
            await storage.touch("k", ttl=60)
        found[name] = was
    assert await storage.load("k") == "secret"


async def test_an_encrypted_object_is_not_touched_where_encryption_is_off() -> None:
    memory = MemoryBackend()
    await StorageManager(backend=EncryptionLayer(memory, RING)).save("k", "secret")
    before = stored(memory)["k"]
    with pytest.raises(EncryptionError, match="encryption is off"):
        await StorageManager(backend=memory).touch("k", ttl=60)
    assert stored(memory)["k"] is before
    await StorageManager(backend=memory).save("plain", "text")
    with pytest.raises(EncryptionError, match="not encrypted"):
        await StorageManager(backend=EncryptionLayer(memory, RING)).touch("plain", ttl=60)


async def test_a_touch_keeps_the_rules() -> None:
    rules = ValidationOptions(rules=(Rule(name="told", prefix="k", required_metadata=("owner",)),))
    storage = StorageManager(backend=ValidationLayer(MemoryBackend(), rules))
    await storage.save("k", 1, metadata={"owner": "ceo"})
    await storage.touch("k", ttl=60)
    await storage.touch("k", metadata={"owner": "cfo"})
    with pytest.raises(RuleViolationError, match="owner"):
        await storage.touch("k", metadata={})
    assert dict((await storage.info("k")).metadata) == {"owner": "cfo"}


@pytest.mark.parametrize("stack", STACKS, ids=named)
async def test_a_call_that_comes_again_has_been_done(stack: Stack) -> None:
    storage = StorageManager(backend=stacked(MemoryBackend(), stack))
    etag = (await storage.save("k", 1)).etag
    call = CALL.set("one")
    try:
        first, again = [await storage.touch("k", metadata={"m": "1"}, if_match=etag) for _ in range(2)]
    finally:
        CALL.reset(call)
    assert first == again
    await storage.touch("k", metadata={"m": "2"})
    call = CALL.set("one")
    try:
        with pytest.raises(PreconditionFailedError):  # What it did is not there any more.
            await storage.touch("k", metadata={"m": "1"}, if_match=etag)
    finally:
        CALL.reset(call)
    assert dict((await storage.info("k")).metadata) == {"m": "2"}


@pytest.mark.parametrize("key", [".system/x", "../x", "", None])
async def test_only_keys_of_callers_are_touched(key: Any) -> None:
    with pytest.raises(InvalidKeyError):
        await StorageManager(backend=MemoryBackend()).touch(key, ttl=1)


async def test_versions_that_expired_are_not_renewed() -> None:
    now = 1e9
    storage = StorageManager(backend=MemoryBackend(clock=lambda: now))
    etag = (await storage.save("k", 1, ttl=5)).etag
    now += 5
    for condition in (None, "*", etag):
        with pytest.raises(KeyNotFoundError):
            await storage.touch("k", ttl=60, if_match=condition)
