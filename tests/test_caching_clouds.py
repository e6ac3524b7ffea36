"""The caching layer on Azure and S3, whose ETags and conditions are their own."""

from __future__ import annotations

from typing import Any

import pytest

from storage_lib.backends.azure import AzureStorageBackend
from storage_lib.config.caching import CachingOptions
from storage_lib.errors import KeyNotFoundError, PreconditionFailedError
from storage_lib.factory import retrying
from storage_lib.layers.caching import CachingLayer
from storage_lib.manager import StorageManager
from storage_lib.ports.backend import ByteRange, StorageBackend
from tests import test_azure_backend as azure
from tests import test_s3_backend as s3
from tests.gated import Gated
from tests.s3_servers import S3Server


async def _unchanged_costs_no_body(inner: StorageBackend) -> None:
    now = [0.0]
    gated = Gated(retrying(inner, 2))
    storage = StorageManager(
        backend=CachingLayer(gated, CachingOptions(ttl=10, negative_ttl=10), clock=lambda: now[0])
    )
    others = StorageManager(backend=inner)
    key = "k"
    assert not await storage.exists(key)
    saved = await storage.save(key, {"a": 1}, metadata={"m": "ü"}, ttl=3600)
    gated.calls.clear()
    assert await storage.load(key) == {"a": 1}
    assert gated.calls == []
    for _ in range(2):
        assert await storage.read(key) == await others.read(key)
        assert (await storage.read(key, if_match=saved.etag)).data == b'{"a":1}'
        assert await storage.read_if_changed(key, saved.etag) is None
        assert (await storage.read(key, byte_range=ByteRange(-2))).data == b"1}"
        now[0] += 10
    # The time of its last change was asked for, and then whether it is still the same.
    assert gated.calls == ["head", "get"]
    assert gated.answers[-1] is None
    now[0] += 10
    new = await others.save(key, {"a": 2})
    with pytest.raises(PreconditionFailedError):
        await storage.read(key, if_match=saved.etag)
    assert await storage.load(key) == {"a": 2}
    assert (await storage.info(key)).etag == new.etag
    await storage.copy(key, f"{key}2")
    await storage.delete(key)
    with pytest.raises(KeyNotFoundError):
        await storage.load(key)
    async with storage.open_reader(f"{key}2") as reader:
        assert await reader.read() == b'{"a":2}'
    gated.calls.clear()
    assert await storage.load(f"{key}2") == {"a": 2}
    assert gated.calls == []


async def test_on_azure_an_unchanged_object_costs_no_body(azurite: Any) -> None:
    async with AzureStorageBackend(azurite.connection_string, container=azure.a_container()) as backend:
        await _unchanged_costs_no_body(backend)


async def test_on_s3_an_unchanged_object_costs_no_body(moto: S3Server) -> None:
    async with s3.backend_of(moto, s3.a_bucket(), create_bucket=True) as backend:
        await _unchanged_costs_no_body(backend)
