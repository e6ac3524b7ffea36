"""Stores with a bit of everything, and archives of them, also as nobody should write them."""

from __future__ import annotations

import io
import random
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from storage_lib.archive import BackupReport, RestoreReport, backup, restore
from storage_lib.archive.cutting import Cut
from storage_lib.archive.entries import END_OF_TAR, FORMAT, About, tar_header
from storage_lib.archive.frames import FrameWriter
from storage_lib.backends.memory import MemoryBackend
from storage_lib.manager import StorageManager

ENTITY: dict[str, Any] = {
    "text": "json:{ä", "whole": 2**40, "small": 1, "true": True, "float": 1.0, "bytes": b"\x00\xff",
    "when": datetime(2026, 1, 2, 3, 4, 5, 678901, UTC), "id": UUID(int=7), "json": {"bytes": ["x", None]},
}  # fmt: skip


def memory() -> StorageManager:
    return StorageManager(backend=MemoryBackend())


async def fill(storage: StorageManager, *, large: int = 1_200_000) -> None:
    """Save a bit of everything."""
    noise = random.Random(14)
    for n in range(6):
        value = {"n": n, "text": "wort " * noise.randrange(300)}
        await storage.save(f"configs/{n}.json", value, metadata={"owner": f"Zoë {n}"})
    await storage.save("configs", "the object has the name of a folder")
    await storage.save("brief.txt", "it ends", ttl=5000, metadata={"kind": "note"})
    await storage.save("con/a: b?.txt", "a name that Windows refuses")
    await storage.write("empty", b"")
    await storage.write("zeros", bytes(large))
    await storage.write("noise", noise.randbytes(large), content_type="image/png")
    await storage.save_versioned("models/ceo", {"rank": 8}, saved_by="trainer")
    await storage.save_versioned("models/ceo", {"rank": 16}, label="production")
    await storage.save_versioned("models/ceo", {"rank": 32})
    await storage.rollback("models/ceo", "production")


async def content(storage: StorageManager) -> dict[str, Any]:
    """All that callers see of a store's objects, but when they were stored."""
    seen: dict[str, Any] = {}
    for key in await storage.list_keys():
        found = await storage.read(key)
        info = found.info
        seen[key] = (
            found.data,
            info.content_type,
            dict(info.metadata),
            info.expires_at,
            info.content_encoding,
        )
    return seen


async def archive_of(storage: StorageManager, **options: Any) -> tuple[bytes, BackupReport]:
    target = io.BytesIO()
    report = await backup(storage, target, **options)
    return target.getvalue(), report


async def restored(archive: bytes, **options: Any) -> tuple[StorageManager, RestoreReport]:
    """What an archive gives in an empty store."""
    storage = memory()
    return storage, await restore(storage, io.BytesIO(archive), **options)


async def made(*entries: tuple[About, bytes] | bytes, sealed: bool = False) -> bytes:
    """An archive of these entries; bytes are a frame as it is."""
    return b"".join([frame async for frame in _made(entries, sealed)])


async def _made(entries: tuple[tuple[About, bytes] | bytes, ...], sealed: bool) -> AsyncGenerator[bytes]:
    frames = FrameWriter(3)
    first = tar_header(About("archive", "", 0, format=FORMAT, sealed=sealed), "archive")
    yield await frames.last(first, "archive", "")
    for entry in entries:
        if isinstance(entry, bytes):
            yield await frames.last(entry, "of another program", "")
            continue
        about, data = entry
        cut = Cut(tar_header(about, "objects/x"), len(data))
        async for part in cut.take(data):
            yield await frames.part(part, about.label)
        yield await frames.last(cut.rest(), about.label, cut.digest.hexdigest())
    report = tar_header(About("report", "", 0), "report.json")
    yield await frames.last(report + END_OF_TAR, "report", "")
    yield frames.end()


async def pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]
