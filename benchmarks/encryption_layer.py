"""Encryption, against the AES-GCM of `cryptography` alone."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from storage_lib.backends.memory import MemoryBackend
from storage_lib.config.encryption import EncryptionOptions
from storage_lib.layers.encryption import EncryptionLayer, Envelopes
from storage_lib.layers.encryption.envelope import CHUNK_BYTES, pieces
from storage_lib.layers.encryption.keys import GivenKeys
from storage_lib.layers.encryption.objects import _decrypted_stream, _encrypted_stream, _Span
from storage_lib.ports.streaming import Parts

KEY = bytes(range(32))
PART = 8 * 1024 * 1024
STREAM = 8 * PART
SMALL = 2000

Rows = list[tuple[str, str, str]]


def measure(runs: int) -> Rows:
    return asyncio.run(_measure(runs))


async def _measure(runs: int) -> Rows:
    return [*await _small(runs), *await _streams(runs)]


async def _best(runs: int, *ways: Callable[[], Awaitable[None]]) -> list[float]:
    """The shortest time of each of the ways, which take turns, in seconds of CPU time."""
    best = [9e9] * len(ways)
    for _ in range(runs):
        for number, way in enumerate(ways):
            begun = time.process_time()
            await way()
            best[number] = min(best[number], time.process_time() - begun)
    return best


async def _small(runs: int) -> Rows:
    data, aead = os.urandom(1024), AESGCM(KEY)
    envelopes = Envelopes(GivenKeys((("k", KEY),)))
    plain = MemoryBackend().objects
    layered = EncryptionLayer(MemoryBackend(), EncryptionOptions(keys={"k": KEY})).objects
    sealed = await envelopes.seal(data, "k")

    async def bare() -> None:
        for _ in range(SMALL):
            aead.encrypt(os.urandom(12), data, None)

    async def seal() -> None:
        for _ in range(SMALL):
            await envelopes.seal(data, "k")

    async def unseal() -> None:
        for _ in range(SMALL):
            await envelopes.unseal(sealed, "k")

    async def save() -> None:
        for _ in range(SMALL):
            await plain.put("k", data)

    async def save_encrypted() -> None:
        for _ in range(SMALL):
            await layered.put("k", data)

    async def load() -> None:
        for _ in range(SMALL):
            await plain.get("k")

    async def load_encrypted() -> None:
        for _ in range(SMALL):
            await layered.get("k")

    ways = (bare, seal, unseal, save, save_encrypted, load, load_encrypted)
    b, s, u, w, we, r, re = (one / SMALL * 1e6 for one in await _best(runs, *ways))
    return [
        ("encryption: AES-GCM alone, 1 KiB", f"{b:.1f} µs", ""),
        ("encryption: an envelope of 1 KiB, with a key of its own", f"{s:.1f} µs", "at most 25 µs"),
        ("encryption: that envelope opened", f"{u:.1f} µs", "at most 25 µs"),
        ("encryption: a save of 1 KiB costs more by", f"{we - w:.1f} µs", "at most 60 µs"),
        ("encryption: a load of 1 KiB costs more by", f"{re - r:.1f} µs", "at most 60 µs"),
    ]


async def _streams(runs: int) -> Rows:
    aead, part = AESGCM(KEY), os.urandom(PART)
    envelopes = Envelopes(GivenKeys((("k", KEY),)))
    cipher = await envelopes.begin("k")
    chunks = [c async for c in _encrypted_stream(cipher, Parts(_parts(part), PART, STREAM))]
    stored = b"".join(chunks)
    reads = [stored[n : n + PART] for n in range(0, len(stored), PART)]
    # As much memory as the envelope has: where it comes from counts as much as what is done with it.
    sealed = [
        aead.encrypt(bytes(12), chunk, None)
        for _ in range(STREAM // PART)
        for chunk in pieces(part, CHUNK_BYTES)
    ]

    async def bare_encrypt() -> None:
        for _ in range(STREAM // PART):
            for chunk in pieces(part, CHUNK_BYTES):
                aead.encrypt(bytes(12), chunk, None)

    async def encrypt() -> None:
        async for _ in _encrypted_stream(cipher, Unhashed(part)):  # pyright: ignore[reportArgumentType]
            pass

    async def bare_decrypt() -> None:
        for chunk in sealed:
            aead.decrypt(bytes(12), chunk, None)

    async def decrypt() -> None:
        span = _Span(None, STREAM, len(stored))
        async for _ in _decrypted_stream(cipher, _stored(reads), 0, span):
            pass

    be, e, bd, d = await _best(runs, bare_encrypt, encrypt, bare_decrypt, decrypt)
    aim = "at least 0.7 x"
    return [
        ("encryption: speed of a stream / AES-GCM alone", f"{be / e:.2f} x", aim),
        ("encryption: speed of a stream that is read / AES-GCM alone", f"{bd / d:.2f} x", aim),
        ("encryption: a stream", f"{STREAM / e / 1e9:.1f} GB/s", ""),
    ]


class Unhashed:
    """The parts of a stream, without the checksum that every stream has, encrypted or not."""

    def __init__(self, part: bytes) -> None:
        self._part = part

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for _ in range(STREAM // PART):
            yield self._part


async def _parts(part: bytes) -> AsyncIterator[bytes]:
    for _ in range(STREAM // PART):
        yield part


async def _stored(reads: list[bytes]) -> AsyncGenerator[bytes]:
    for read in reads:
        yield read
