"""The byte layout of what is encrypted, which never changes: vectors, and the layout written once more."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, settings
from hypothesis import strategies as st

from storage_lib.backends.memory import MemoryBackend
from storage_lib.config.encryption import EncryptionOptions
from storage_lib.errors import IntegrityError
from storage_lib.layers.encryption import EncryptionLayer, Envelopes
from storage_lib.layers.encryption.envelope import (
    CHUNK_BYTES,
    HEADER_BYTES,
    SEALED_BYTES,
    VALUE,
    Header,
    plain_size,
    stored_size,
)
from storage_lib.layers.encryption.keys import GivenKeys
from storage_lib.layers.encryption.objects import _largest_plain
from storage_lib.ports.backend import ByteRange, ObjectStore
from storage_lib.ports.drivers import PLAIN_GET, PutOptions
from storage_lib.ports.object_model import StoredObject
from tests.conftest import PROJECT

SOAK = os.environ.get("SOAK") == "1"
EXAMPLES = 5000 if SOAK else 150
VECTORS = json.loads((PROJECT / "tests" / "data" / "encryption_1.json").read_text())


def unhex(text: str) -> bytes:
    return bytes.fromhex(text)


def plaintext(vector: dict[str, Any]) -> bytes:
    return hashlib.shake_128(vector["plaintext_shake128_of"].encode()).digest(vector["plaintext_bytes"])


def lengths_and(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def derived(vector: dict[str, Any], label: bytes, *info: bytes) -> bytes:
    form, key_id = bytes([vector["form"]]), vector["key_id"].encode()
    hkdf = HKDF(SHA256(), 32, unhex(vector["salt"]), lengths_and(label, form, key_id, *info))
    return hkdf.derive(unhex(vector["key"]))


def written_once_more(vector: dict[str, Any]) -> tuple[bytes, str]:
    """The envelope and the record of a vector, made from docs/layers.md alone."""
    data, key_id = plaintext(vector), vector["key_id"].encode()
    commitment = derived(vector, b"agent storage encryption 1: commitment")
    aead = AESGCM(
        derived(
            vector,
            b"agent storage encryption 1: chunks",
            vector["context"].encode(),
            vector["name"].encode(),
        )
    )
    start = bytes([vector["form"], len(key_id)])
    envelope = b"AOSENC1\n" + start + key_id.ljust(32, b"\0") + unhex(vector["salt"]) + commitment
    count = max(1, -(-len(data) // 65536))
    for n in range(count):
        nonce = n.to_bytes(11, "big") + bytes([n == count - 1])
        envelope += aead.encrypt(nonce, data[n * 65536 : (n + 1) * 65536], None)
    if vector["form"] == 2:
        return envelope, ""
    metadata = sorted(vector["metadata"].items())
    bound = lengths_and(
        vector["content_type"].encode(), *(text.encode() for pair in metadata for text in pair)
    )
    outer = vector.get("of_outer_layer")
    sha256 = unhex(outer["sha256"]) if outer else hashlib.sha256(data).digest()
    content = bytes([3 if outer else 2]) + len(data).to_bytes(8, "big") + sha256
    content += vector.get("content_encoding", "").encode()
    record = start + key_id + unhex(vector["salt"]) + commitment
    record += aead.encrypt(bytes(11) + b"\2", content, bound)
    return envelope, base64.urlsafe_b64encode(record).decode().rstrip("=")


def told(vector: dict[str, Any]) -> tuple[bytes, str]:
    envelope, record = written_once_more(vector)
    if "envelope" in vector:
        assert envelope.hex() == vector["envelope"]
    assert hashlib.sha256(envelope).hexdigest() == vector["envelope_sha256"]
    assert record == vector.get("record", "")
    return envelope, record


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["about"])
async def test_vectors(vector: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    envelope, record = told(vector)
    monkeypatch.setattr(secrets, "token_bytes", lambda count: unhex(vector["salt"])[:count])
    keys = {vector["key_id"]: unhex(vector["key"])}
    name, data = vector["name"], plaintext(vector)
    if vector["form"] == VALUE:
        envelopes = Envelopes(GivenKeys(tuple(keys.items())), vector["context"])
        assert await envelopes.seal(data, name) == envelope
        assert await envelopes.unseal(envelope, name) == data
        return
    memory = MemoryBackend()
    layer = EncryptionLayer(memory, EncryptionOptions(keys=keys, context=vector["context"]))
    stored = {**vector["metadata"], "aos-encrypted": record}
    given = dict(vector["metadata"])
    if outer := vector.get("of_outer_layer"):
        given["aos-original-sha256"] = outer["sha256"]
    else:
        del given["aos-original-size"]
    if "content_encoding" in vector:
        given["aos-content-encoding"] = vector["content_encoding"]
    sha256 = hashlib.sha256(data).hexdigest()
    # Written as it is told.
    await layer.objects.driver.put(name, data, PutOptions(vector["content_type"], dict(given), sha256))
    found = await memory.objects.driver.get(name, PLAIN_GET)
    assert found is not None
    assert (found.data, dict(found.info.metadata)) == (envelope, stored)
    # Read as it is told.
    await memory.objects.driver.put(name, envelope, PutOptions(vector["content_type"], stored, "0" * 64))
    read = await layer.objects.driver.get(name, PLAIN_GET)
    assert read is not None
    assert (read.data, read.info.size, dict(read.info.metadata)) == (data, len(data), given)
    assert read.info.sha256 == (None if outer else sha256)


# -- laws


@given(st.integers(0, 2**50))
def test_sizes_follow_from_each_other(size: int) -> None:
    assert plain_size(stored_size(size)) == size
    assert stored_size(_largest_plain(stored_size(size))) == stored_size(size)
    assert stored_size(_largest_plain(stored_size(size) - 1)) < stored_size(size)


@given(st.integers(-10, 10**6))
def test_what_no_envelope_has_is_no_size(stored: int) -> None:
    size = plain_size(stored)
    assert size is None or stored_size(size) == stored


KEY = {"k": bytes(range(32))}
LONG = hashlib.shake_128(b"law").digest(2 * CHUNK_BYTES + 100)


async def _put(size: int) -> tuple[MemoryBackend, ObjectStore, StoredObject]:
    memory = MemoryBackend()
    objects = EncryptionLayer(memory, EncryptionOptions(keys=KEY)).objects
    await objects.put("k", LONG[:size], metadata={"a": "1"})
    found = await memory.objects.driver.get("k", PLAIN_GET)
    assert found is not None
    return memory, objects, found


SIZES = st.sampled_from([0, 1, 100, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, len(LONG)])


@settings(max_examples=EXAMPLES, deadline=None)
@given(SIZES, st.data())
async def test_any_changed_byte_or_chunk_is_detected(size: int, data: st.DataObject) -> None:
    memory, objects, stored = await _put(size)
    whole = stored.data
    at = data.draw(st.integers(0, len(whole) - 1), "at")
    chunks = [whole[n : n + SEALED_BYTES] for n in range(HEADER_BYTES, len(whole), SEALED_BYTES)]
    n = data.draw(st.integers(0, len(chunks) - 1), "chunk")
    kind = data.draw(st.sampled_from(["flip", "remove", "repeat", "insert", "cut", "drop", "double", "swap"]))
    match kind:
        case "flip":
            bit = data.draw(st.integers(0, 7), "bit")
            changed = whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :]
        case "remove":
            changed = whole[:at] + whole[at + 1 :]
        case "repeat":
            changed = whole[: at + 1] + whole[at:]
        case "insert":
            changed = whole[:at] + data.draw(st.binary(min_size=1, max_size=3)) + whole[at:]
        case "cut":
            changed = whole[:at]
        case "drop":
            changed = whole[:HEADER_BYTES] + b"".join(chunks[:n] + chunks[n + 1 :])
        case "double":
            changed = whole[:HEADER_BYTES] + b"".join(chunks[: n + 1] + chunks[n:])
        case _:
            chunks[0], chunks[n] = chunks[n], chunks[0]
            changed = whole[:HEADER_BYTES] + b"".join(chunks)
    if changed == whole:
        return
    info = stored.info
    await memory.objects.driver.put(
        "k", changed, PutOptions(info.content_type, dict(info.metadata), "0" * 64)
    )
    with pytest.raises(IntegrityError):
        await objects.get("k")
    given_: list[bytes] = []
    with pytest.raises(IntegrityError):
        async with objects.open_reader("k") as reader:
            given_.extend([chunk async for chunk in reader])
    assert LONG[:size].startswith(b"".join(given_))
    # A range returns the right bytes or none.
    start = data.draw(st.integers(0, max(size - 1, 0)), "start")
    byte_range = ByteRange(start, start + data.draw(st.integers(1, 2 * CHUNK_BYTES), "length"))
    if size:
        try:
            found = await objects.get("k", byte_range=byte_range)
        except IntegrityError:
            return
        assert found is not None
        assert found.data == LONG[:size][byte_range.start : byte_range.end]


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.data())
async def test_any_changed_character_of_the_record_is_detected(data: st.DataObject) -> None:
    memory, objects, stored = await _put(100)
    metadata = dict(stored.info.metadata)
    name = data.draw(st.sampled_from(sorted(metadata)), "name")
    text = metadata[name]
    at = data.draw(st.integers(0, len(text) - 1), "at")
    # Not drawn by the text, which differs each time.
    other = chr((ord(text[at]) - 33 + data.draw(st.integers(1, 93), "shift")) % 94 + 33)
    changed = data.draw(
        st.sampled_from([text[:at] + other + text[at + 1 :], text[:at] + text[at + 1 :], text + other, None])
    )
    metadata.pop(name)
    if changed is not None:
        metadata[name] = changed
    await memory.objects.driver.put(
        "k", stored.data, PutOptions(stored.info.content_type, metadata, "0" * 64)
    )
    for call in (objects.get, objects.head):
        with pytest.raises(IntegrityError):
            await call("k")


@settings(max_examples=EXAMPLES, deadline=None)
@given(SIZES, st.data())
async def test_a_range_is_that_part_of_the_whole(size: int, data: st.DataObject) -> None:
    _, objects, _ = await _put(size)
    if not size:
        return
    borders = st.sampled_from([0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, size - 1])
    start = min(data.draw(borders | st.integers(0, size - 1), "start"), size - 1)
    end = data.draw(st.none() | st.integers(start + 1, size + 10), "end")
    suffix = data.draw(st.integers(1, size + 10), "suffix")
    for byte_range, expected in (
        (ByteRange(start, end), LONG[:size][start:end]),
        (ByteRange(-suffix), LONG[:size][-suffix:]),
    ):
        found = await objects.get("k", byte_range=byte_range)
        assert found is not None
        assert found.data == expected
        async with objects.open_reader("k", byte_range=byte_range) as reader:
            assert (reader.start, reader.info.size) == (found.start, size)
            assert await reader.read() == expected


@given(st.binary(max_size=200))
def test_no_bytes_are_taken_for_a_header_that_are_none(data: bytes) -> None:
    for text in (data, b"AOSENC1\n" + data):
        header = Header.read(text)
        assert header is None or text.startswith(bytes(header))
