"""An outage and its repair on each kind of store, on either side, and behind layers that change the bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from storage_lib.backends.file import FileStorageBackend
from storage_lib.config import StorageConfig
from storage_lib.config.compression import CompressionOptions
from storage_lib.config.encryption import EncryptionOptions
from storage_lib.config.fallback import FallbackOptions
from storage_lib.errors import KeyNotFoundError, PreconditionFailedError, StorageUnavailableError
from storage_lib.factory import build
from storage_lib.layers.compression import CompressionLayer
from storage_lib.layers.encryption import EncryptionLayer
from storage_lib.layers.fallback import FallbackLayer
from storage_lib.ports.backend import ObjectStore, StorageBackend
from tests.http_app import config_of
from tests.outages import Switched, refused
from tests.test_fallback import BIG, SOAK, Stores, keys, marks, streamed, value

SIDES = [("fallback", True), ("mirror", False), *([("fallback", False), ("mirror", True)] if SOAK else [])]


@pytest.mark.parametrize(("mode", "swapped"), SIDES)
async def test_an_outage_and_its_repair(
    any_store: tuple[str, object], mode: str, swapped: bool, tmp_path: Path
) -> None:
    kind, server = any_store
    tested = build(await config_of(kind, server, tmp_path))
    other: StorageBackend = FileStorageBackend(tmp_path / "other")
    primary = Switched(tested if swapped else other)
    primary.error = refused
    secondary = Switched(other if swapped else tested)
    options = FallbackOptions(
        secondary=StorageConfig(),
        mode=mode,  # type: ignore[arg-type]
        writes="secondary",
        check_seconds=0,
        complete=True,
    )
    async with FallbackLayer(primary, secondary, options) as layer:
        await outage(layer, primary, secondary, is_mirror=mode == "mirror")


async def outage(layer: FallbackLayer, primary: Switched, secondary: Switched, *, is_mirror: bool) -> None:
    objects = layer.objects
    metadata = {"note": "ä" * 50, "more": "x" * 1000}
    for key in ("changed", "deleted", "ü/é", "read"):
        for store in (objects, *([] if is_mirror else [secondary.objects])):
            await store.put(key, b"1", metadata=metadata)
    await objects.put("for an hour", b"1", ttl=3600)
    etag = (await objects.head("changed")).etag
    primary.away = True
    assert ((await objects.head("changed")).etag == etag) is is_mirror
    etag = (await objects.head("changed")).etag
    put = await objects.put("changed", b"2", content_type="text/plain", metadata=metadata, if_match=etag)
    with pytest.raises(PreconditionFailedError):
        await objects.put("changed", b"3", if_match=etag)
    put = await objects.put("changed", b"3", content_type="text/plain", metadata=metadata, if_match=put.etag)
    await objects.put("new", b"3", ttl=3600, if_absent=True)
    with pytest.raises(PreconditionFailedError):
        await objects.put("new", b"4", if_absent=True)
    await objects.delete("deleted")
    with pytest.raises(KeyNotFoundError):
        await objects.delete("deleted")
    await objects.copy("ü/é", "ü/copy")
    await objects.put_stream("big", [BIG, b"end"])
    expected = ["big", "changed", "new", "read", "ü/copy", "ü/é"]
    if is_mirror:
        expected.insert(2, "for an hour")
    for _ in range(2):  # during the outage, and after it
        assert await keys(objects, skip=".system/") == expected
        assert await keys(objects, "ü", delimiter="/") == ["ü/"]
        found = await objects.get("changed")
        assert found is not None
        assert (found.data, found.info.etag, found.info.content_type) == (b"3", put.etag, "text/plain")
        assert found.info.metadata == metadata
        assert await streamed(objects, "big") == BIG + b"end"
        assert await value(objects, "deleted") is None
        assert (await objects.head("new")).expires_at is not None
        primary.away = False
        expected = sorted({*expected, "for an hour"}, key=str.encode)
    result = await layer.repair()
    assert (result.failed, result.conflicts, result.pending) == ((), (), 0)
    for store in (primary, secondary):
        assert await value(store.objects, "changed") == b"3"
        assert (await store.objects.head("changed")).metadata == metadata
        assert await value(store.objects, "deleted") is None
        assert await value(store.objects, "new") == b"3"
        assert await streamed(store.objects, "big") == BIG + b"end"
        assert await marks(store.objects) == []
    assert await keys(objects, skip=".system/") == expected
    # A conflict: another process reaches the primary.
    primary.away = True
    await objects.put("changed", b"loses")
    primary.away = False
    later = ObjectStore(primary.inner.objects.driver)
    await later.put("changed", b"between")
    primary.away = True
    await objects.put("read", b"wins")
    primary.away = False
    result = await layer.repair()
    (conflict,) = result.conflicts
    assert conflict.key == "changed"
    loser = {"primary": b"loses", "secondary": b"between"}[conflict.winner]  # Some stores have whole seconds.
    assert await value(primary.objects, conflict.kept or "") == loser
    winner = {b"loses": b"between", b"between": b"loses"}[loser]
    for store in (primary, secondary):
        assert await value(store.objects, "changed") == winner
        assert await value(store.objects, "read") == b"wins"


async def test_behind_encryption_and_compression() -> None:
    stores = Stores(mode="mirror")
    keyring: Any = {"now": bytes(range(32))}
    outer = CompressionLayer(
        EncryptionLayer(stores.layer, EncryptionOptions(keys=keyring)), CompressionOptions()
    )
    objects = outer.objects
    text = b"compressible " * 1000
    await objects.put("k", text)
    await objects.put("lost", text + b"0")
    stores.primary.away = True
    assert await value(objects, "k") == text
    await objects.put("k", text + b"2", metadata={"a": "b"}, ttl=3600)
    await objects.put_stream("s", [BIG, text])
    await objects.put("lost", text + b"loses")
    stores.primary.away = False
    other = CompressionLayer(
        EncryptionLayer(stores.other(check_seconds=3600), EncryptionOptions(keys=keyring)),
        CompressionOptions(),
    )
    stores.other()
    another = CompressionLayer(
        EncryptionLayer(stores.primary, EncryptionOptions(keys=keyring)), CompressionOptions()
    )
    await another.objects.put("lost", text + b"newer")
    assert await value(other.objects, "k") == text + b"2"
    assert await value(objects, "k") == text + b"2"
    assert await streamed(objects, "s") == BIG + text
    result = await stores.layer.repair()
    assert result.failed == ()
    assert await value(objects, "k") == text + b"2"
    assert (await objects.head("k")).size == len(text) + 1
    assert await streamed(objects, "s") == BIG + text
    assert await value(objects, "lost") == text + b"newer"
    stores.primary.away = True  # The copies in the second store are whole, too.
    assert await value(objects, "k") == text + b"2"
    assert await streamed(objects, "s") == BIG + text
    stores.primary.away = False
    (conflict,) = result.conflicts
    assert conflict.key == "lost"
    await stores.layer.restore(conflict)
    assert await value(objects, "lost") == text + b"loses"


async def test_a_folder_that_is_away_is_an_outage(tmp_path: Path) -> None:
    second = FallbackOptions(secondary=StorageConfig(base_path=tmp_path / "second"), mode="mirror")
    backend = build(StorageConfig(base_path=tmp_path / "first", fallback=second))
    async with backend:
        await backend.objects.put("k", b"1")
        (tmp_path / "first").rename(tmp_path / "away")
        assert await value(backend.objects, "k") == b"1"
        with pytest.raises(StorageUnavailableError):
            await backend.objects.put("k", b"2")
        (tmp_path / "away").rename(tmp_path / "first")
        assert await value(backend.objects, "k") == b"1"
