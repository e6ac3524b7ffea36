"""Listings with a delimiter show a prefix where there is a key below it, and nowhere else."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from azure.storage.blob.aio import ContainerClient

from storage_lib.backends.azure import AzureStorageBackend
from storage_lib.backends.s3 import S3StorageBackend
from storage_lib.layers.retry import RetryBackend
from storage_lib.manager import StorageManager
from storage_lib.ports import listing
from storage_lib.ports.backend import ObjectStore, StorageBackend
from storage_lib.ports.objects import ListEntry
from tests.effort import SOAK
from tests.s3_servers import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY

MANY = 20 if SOAK else 8


@pytest.fixture(params=["azurite", "moto", "seaweedfs"])
def server(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


@pytest.fixture
async def place(server: Any) -> AsyncIterator[tuple[StorageBackend, Any]]:
    """A backend, and a function that stores a name of any kind."""
    name = f"c-{uuid.uuid4().hex[:12]}"
    if hasattr(server, "connection_string"):
        async with (
            AzureStorageBackend(server.connection_string, container=name) as azure,
            ContainerClient.from_connection_string(server.connection_string, name) as raw,
        ):

            async def upload(key: str) -> None:
                await raw.upload_blob(key, b"", overwrite=True)

            yield azure, upload
        return
    keys = {"access_key_id": ACCESS_KEY_ID, "secret_access_key": SECRET_ACCESS_KEY}
    async with S3StorageBackend(
        name, create_bucket=True, endpoint=server.endpoint, region=REGION, **keys
    ) as s3:

        async def put(key: str) -> None:
            response = await s3._client.request("PUT", key, body=b"")
            assert response.status == 200

        yield s3, put


async def names(objects: ObjectStore, prefix: str = "", **options: Any) -> list[str]:
    found = [one async for one in objects.iterate(prefix, delimiter="/", **options)]
    return [one.key if isinstance(one, ListEntry) else one for one in found]


@pytest.mark.parametrize(("names_at_first", "retried"), [(2, True), (500, False)])
async def test_a_prefix_is_shown_where_there_is_a_key(
    place: tuple[StorageBackend, Any],
    monkeypatch: pytest.MonkeyPatch,
    names_at_first: int,
    retried: bool,
) -> None:
    monkeypatch.setattr(listing, "NAMES", names_at_first)
    backend, put_raw = place
    objects = (RetryBackend(backend) if retried else backend).objects
    for marker in ("empty/", "full/", "deep/empty/", "deep/full/", "zz/"):
        await put_raw(marker)
    for odd in ("dot./x", "both/ends./x"):
        await put_raw(odd)
    for n in range(MANY):
        await objects.put(f"many{n:02}/key", b"")
    for key in ("a", "both/key", "full/key", "deep/full/key", "last", "gone/key"):
        await objects.put(key, b"")
    await objects.delete("gone/key")
    many = [f"many{n:02}/" for n in range(MANY)]
    expected = ["a", "both/", "deep/", "full/", "last", *many]
    assert await names(objects) == expected
    assert await names(objects, "deep/") == ["deep/full/"]
    assert await names(objects, "empty/") == []
    assert await names(objects, "z") == []
    # Page by page, also where a page ends with what is not shown.
    for limit in (1, 2, 7):
        seen: list[str] = []
        cursor = None
        for _ in range(100):
            page = await objects.list_page(delimiter="/", limit=limit, cursor=cursor)
            assert len(page.entries) + len(page.prefixes) <= limit
            seen += sorted([entry.key for entry in page.entries] + page.prefixes, key=str.encode)
            if (cursor := page.cursor) is None:
                break
        assert seen == expected
    # The manager leaves out what is the system's, whatever there is of it.
    await objects.put(".system/x/y", b"")
    page = await StorageManager(backend=backend).list_page(delimiter="/")
    assert page.prefixes == [name for name in expected if name.endswith("/")]


async def test_looking_costs_little(
    place: tuple[StorageBackend, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One more reading for the prefixes of a small listing, not one for each of them."""
    objects = place[0].objects
    driver = objects.driver.core
    for n in range(40):
        await objects.put(f"folder{n:02}/key", b"")
    scans = 0
    scan = driver.scan

    def counting(*arguments: Any) -> Any:
        nonlocal scans
        scans += 1
        return scan(*arguments)

    monkeypatch.setattr(driver, "scan", counting)
    assert len(await names(objects)) == 40
    folded, scans = scans, 0
    assert len([entry async for entry in objects.iterate()]) == 40
    assert folded <= scans + 1
