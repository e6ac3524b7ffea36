"""Small saves and loads on Azure (Azurite): the processor time of the client, beside the bare libraries.

All of them move the same JSON document under the same keys and do its encoding and decoding with msgspec.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import msgspec
from azure.storage.blob import ContentSettings
from azure.storage.blob.aio import ContainerClient
from obstore.store import AzureStore

from benchmarks.bare import CONTAINER, bare_store
from benchmarks.turns import cpu_ratio, in_turn, side_by_side
from devhost.azurite import Azurite
from storage_lib import StorageConfig, StorageManager

DOCUMENT = {"name": "ceo", "notes": ["n" * 80] * 10}
COUNT = 64
CONCURRENCY = 8
JSON = "application/json"


def measure(runs: int) -> list[tuple[str, str, str]]:
    return asyncio.run(_measure(runs))


async def _measure(runs: int) -> list[tuple[str, str, str]]:
    with tempfile.TemporaryDirectory() as folder:
        async with Azurite(Path(folder)) as server:
            config = StorageConfig(
                storage_type="azure", connection_string=server.connection_string, container=CONTAINER
            )
            sdk = ContainerClient.from_connection_string(server.connection_string, CONTAINER, retry_total=0)
            async with StorageManager(config) as ours, sdk:
                return await _compare(runs, ours, bare_store(server.url(server.blob_port)), sdk)


async def _compare(
    runs: int, ours: StorageManager, store: AzureStore, sdk: ContainerClient
) -> list[tuple[str, str, str]]:
    async def save(n: int) -> None:
        await ours.save(f"small/{n}", DOCUMENT)

    async def load(n: int) -> None:
        assert await ours.load(f"small/{n}") == DOCUMENT

    async def obstore_save(n: int) -> None:
        await store.put_async(
            f"small/{n}",
            msgspec.json.encode(DOCUMENT),
            attributes={"Content-Type": JSON},
            use_multipart=False,
        )

    async def obstore_load(n: int) -> None:
        found = await store.get_async(f"small/{n}")
        assert msgspec.json.decode(bytes(await found.bytes_async())) == DOCUMENT

    settings = ContentSettings(content_type=JSON)

    async def sdk_save(n: int) -> None:
        await sdk.get_blob_client(f"small/{n}").upload_blob(
            msgspec.json.encode(DOCUMENT), overwrite=True, content_settings=settings
        )

    async def sdk_load(n: int) -> None:
        found = await sdk.get_blob_client(f"small/{n}").download_blob()
        assert msgspec.json.decode(await found.readall()) == DOCUMENT

    rows: list[tuple[str, str, str]] = []
    for what, works in (
        ("save", {"ours": save, "obstore": obstore_save, "sdk": sdk_save}),
        ("load", {"ours": load, "obstore": obstore_load, "sdk": sdk_load}),
    ):
        costs = await in_turn(
            runs,
            {name: lambda work=work: side_by_side(COUNT, CONCURRENCY, work) for name, work in works.items()},
        )
        for other, name, aim in (
            ("obstore", "bare obstore", "at most 1.4 x"),
            ("sdk", "bare azure-storage-blob", "at most 0.4 x"),
        ):
            ratio = cpu_ratio(costs, "ours", other)
            rows.append((f"client CPU of a small {what} on Azure / {name}", f"{ratio:.2f} x", aim))
    return rows
