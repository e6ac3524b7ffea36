"""The compression layer: streams against zstd alone, in one run."""

from __future__ import annotations

import asyncio
import json
import random
import time
from statistics import median

from storage_lib.backends.memory import MemoryBackend
from storage_lib.layers.compression import CompressionLayer
from storage_lib.zstandard import zstd

Rows = list[tuple[str, str, str]]

_PIECES = 24
_PIECE_BYTES = 1024 * 1024


def measure(runs: int) -> Rows:
    chance = random.Random(1)  # noqa: S311 - the same data in each run
    rows = [{"id": chance.randrange(10**6), "score": chance.random()} for _ in range(_PIECES * 30_000)]
    data = json.dumps(rows).encode()[: _PIECES * _PIECE_BYTES]
    pieces = [data[at : at + _PIECE_BYTES] for at in range(0, len(data), _PIECE_BYTES)]
    saves, loads = [], []
    for _ in range(runs):
        bare_save, bare_load = _bare(pieces)
        save, load = asyncio.run(_layer(pieces))
        saves.append(bare_save / save)
        loads.append(bare_load / load)
    return [
        (
            "compression: a stream of JSON saved, speed by that of zstd alone",
            f"{median(saves):.2f} x",
            "0.7 x",
        ),
        ("compression: the same read and verified", f"{median(loads):.2f} x", "0.7 x"),
    ]


def _bare(pieces: list[bytes]) -> tuple[float, float]:
    began = time.perf_counter()
    compressor = zstd.ZstdCompressor(level=3)
    stored = [compressor.compress(piece) for piece in pieces] + [compressor.flush()]
    saved = time.perf_counter()
    decompressor = zstd.ZstdDecompressor()
    assert sum(len(decompressor.decompress(chunk)) for chunk in stored) == sum(map(len, pieces))
    return saved - began, time.perf_counter() - saved


async def _layer(pieces: list[bytes]) -> tuple[float, float]:
    objects = CompressionLayer(MemoryBackend()).objects
    began = time.perf_counter()
    await objects.put_stream("k", pieces)
    saved = time.perf_counter()
    async with objects.open_reader("k") as reader:
        assert sum([len(chunk) async for chunk in reader]) == sum(map(len, pieces))
    return saved - began, time.perf_counter() - saved
