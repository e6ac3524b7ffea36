"""All layers at once, as a configuration switches them on, over the bare store and the bare libraries."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from statistics import median
from typing import Any

from benchmarks.turns import Work, cpu_ratio, in_turn

Rows = list[tuple[str, str, str]]

SAVES = 1000
PIECE = 1024 * 1024
STREAM = 32
_KEY = bytes(range(32))


def measure(runs: int) -> Rows:
    return asyncio.run(_measure(runs))


async def _measure(runs: int) -> Rows:
    return [*await _small(runs), *await _streams(max(3, runs // 3))]


def _layers(*names: str) -> dict[str, Any]:
    from storage_lib.config import StorageConfig
    from storage_lib.config.audit import AuditOptions
    from storage_lib.config.caching import CachingOptions
    from storage_lib.config.compression import CompressionOptions
    from storage_lib.config.encryption import EncryptionOptions
    from storage_lib.config.fallback import FallbackOptions
    from storage_lib.config.metrics import MetricsOptions
    from storage_lib.config.validation import Rule, ValidationOptions

    every: dict[str, Any] = {
        "metrics": MetricsOptions(),
        "audit": AuditOptions(sink="log"),
        "validation": ValidationOptions(rules=(Rule(prefix="configs/", max_bytes=10**6),)),
        "caching": CachingOptions(),
        "compression": CompressionOptions(),
        "encryption": EncryptionOptions(keys={"now": _KEY}),
        "fallback": FallbackOptions(secondary=StorageConfig(storage_type="memory")),
    }
    return {name: every[name] for name in names or every}


async def _small(runs: int) -> Rows:
    from storage_lib.config import StorageConfig
    from storage_lib.manager import StorageManager

    value = {"model": "large", "prompt": "You are the CEO. " * 59, "n": 7}
    assert 1024 <= len(json.dumps(value, separators=(",", ":"))) <= 1060

    def saving(*names: str, off: bool = False) -> Work:
        layers = {} if off else _layers(*names)
        storage = StorageManager(StorageConfig(storage_type="memory", **layers))

        async def save() -> None:
            for _ in range(SAVES):
                await storage.save("configs/ceo", value)

        return save

    works = {"bare": saving(off=True), "full": saving()}
    works |= {name: saving(name) for name in _layers()}
    costs = await in_turn(runs, works)
    bare = median(cost.cpu for cost in costs["bare"])

    def more(name: str) -> str:
        return f"{(median(cost.cpu for cost in costs[name]) - bare) / SAVES * 1e6:.1f} µs"

    rows = [("all layers: CPU of a save of 1 KiB, more than of the bare store", more("full"), "<= 100 µs")]
    return rows + [(f"  {name} alone", more(name), "") for name in _layers()]


async def _streams(runs: int) -> Rows:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    from storage_lib.config import StorageConfig
    from storage_lib.manager import StorageManager
    from storage_lib.zstandard import zstd

    chance = random.Random(1)  # noqa: S311 - the same data in each run
    text = json.dumps(
        [{"id": chance.randrange(10**6), "score": chance.random()} for _ in range(STREAM * 30_000)]
    )
    pieces = [text.encode()[at : at + PIECE] for at in range(0, STREAM * PIECE, PIECE)]
    storage = StorageManager(StorageConfig(storage_type="memory", **_layers("compression", "encryption")))
    aead, sealed = AESGCM(_KEY), list[bytes]()

    async def source() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    async def bare_save() -> None:
        compressor = zstd.ZstdCompressor(level=3)
        sealed.clear()
        for n, piece in enumerate(pieces):
            mode = compressor.FLUSH_BLOCK if n < len(pieces) - 1 else compressor.FLUSH_FRAME
            sealed.append(aead.encrypt(n.to_bytes(12), compressor.compress(piece, mode), None))

    async def bare_load() -> None:
        decompressor = zstd.ZstdDecompressor()
        for n, piece in enumerate(sealed):
            decompressor.decompress(aead.decrypt(n.to_bytes(12), piece, None))

    async def save() -> None:
        await storage.write_stream("models/ceo", source())

    async def load() -> None:
        async with storage.open_reader("models/ceo") as reader:
            async for _ in reader:
                pass

    works: dict[str, Work] = {"bare_save": bare_save, "save": save, "bare_load": bare_load, "load": load}
    costs = await in_turn(runs, works)

    def speed(one: str, other: str) -> str:
        return f"{median(b.wall / a.wall for a, b in zip(costs[one], costs[other], strict=True)):.2f} x"

    return [
        (
            "zstd and AES-GCM: a stream saved, speed by that of the two libraries",
            speed("save", "bare_save"),
            ">= 0.7 x",
        ),
        ("  and its processor time by theirs", f"{cpu_ratio(costs, 'bare_save', 'save'):.2f} x", ""),
        ("zstd and AES-GCM: the same read and verified", speed("load", "bare_load"), ">= 0.7 x"),
        ("  and its processor time by theirs", f"{cpu_ratio(costs, 'bare_load', 'load'):.2f} x", ""),
    ]
