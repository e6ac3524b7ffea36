"""Bytes made to do harm: they are refused or loaded, in linear time and with little memory, by one rule."""

from __future__ import annotations

import asyncio
import struct
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from storage_lib import values
from storage_lib.backends.memory import MemoryBackend
from storage_lib.errors import SerializationError
from storage_lib.manager import StorageManager
from storage_lib.packing import pack
from storage_lib.structure import check_packed
from tests.effort import calls, examples
from tests.test_values import json_values, rich_values

M = 2**61 - 1
"""What CPython takes the hash of an int modulo of, and of a UUID, a Decimal and a Fraction."""
N = 5_000


def ext(code: int, content: bytes) -> bytes:
    return b"\xc9" + len(content).to_bytes(4) + bytes([code]) + content


def array(items: list[bytes]) -> bytes:
    return b"\xdd" + len(items).to_bytes(4) + b"".join(items)


def uuid(i: int) -> bytes:
    return b"\xd8\x0a" + i.to_bytes(16)


def repeated(item: bytes, count: int) -> bytes:
    return b"\xdd" + count.to_bytes(4) + item * count


def within(code: int, levels: int, inner: bytes) -> bytes:
    for _ in range(levels):
        inner = ext(code, b"\x91" + inner)
    return inner


def scalar(number: complex) -> bytes:
    header = b"{'descr': '<c16', 'fortran_order': False, 'shape': (), }"
    header += b" " * (117 - len(header)) + b"\n"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    return ext(13, content + struct.pack("<dd", number.real, number.imag))


def both(data: bytes, content_type: str) -> list[Callable[[], Any]]:
    """The two ways by which bytes come in."""
    return [lambda: values.validate(data, content_type), lambda: values.decode(data, content_type)]


def taken(use: Callable[[], Any]) -> bool:
    try:
        use()
    except SerializationError:
        return False
    return True


COLLIDING = {
    "UUIDs in a set": ext(2, array([uuid(M * i) for i in range(N)])),
    "UUIDs in a frozenset": ext(3, array([uuid(M * i) for i in range(N)])),
    "UUIDs as keys": ext(4, array([b"\x92" + uuid(M * i) + b"\xc0" for i in range(N)])),
    "UUIDs as keys of a plain map": b"\xdf"
    + N.to_bytes(4)
    + b"".join(uuid(M * i) + b"\x00" for i in range(N)),
    "integers": ext(2, array([ext(5, str(M * (i + 9)).encode()) for i in range(N)])),
    "Decimals": ext(2, array([ext(11, str(M * (i + 1)).encode()) for i in range(N)])),
    "Decimals and integers": ext(
        2, array([ext(11 if i % 2 else 5, str(M * (i + 9)).encode()) for i in range(N)])
    ),
    "tuples": ext(2, array([ext(1, array([uuid(M * i), b"\x01"])) for i in range(N)])),
    "tuples that begin alike": ext(
        2, array([ext(1, array([b"\x01"] * 60 + [uuid(M * i)])) for i in range(1_000)])
    ),
    "arrays as keys of a plain map": b"\xdf"
    + N.to_bytes(4)
    + b"".join(b"\x91" + uuid(M * i) + b"\x00" for i in range(N)),
    "frozensets of two": ext(2, array([ext(3, array([uuid(i), uuid(i + M)])) for i in range(N)])),
    "frozensets with doubles": ext(
        2, array([ext(3, array([uuid(i), uuid(i), uuid(i + M)])) for i in range(N)])
    ),
    "frozensets in frozensets": ext(
        2, array([ext(3, array([ext(3, array([uuid(i), uuid(i + M)]))])) for i in range(N)])
    ),
    "many sets of many": array([ext(2, array([uuid(M * i) for i in range(400)])) for _ in range(150)]),
    "the inner of two sets": array(
        [b"\x01", ext(1, array([ext(3, array([uuid(M * i) for i in range(N)]))]))]
    ),
    "Decimals with exponents that take long": ext(
        2, array([ext(11, b"1E%d" % (10**17 + i)) for i in range(2_000)])
    ),
    "keys in keys in keys": array([within(3, 90, ext(1, array([b"\x01"] * 50))) for _ in range(1_000)]),
}


@pytest.mark.parametrize("data", COLLIDING.values(), ids=COLLIDING)
def test_keys_with_equal_hashes_are_refused_before_a_table_is_filled(data: bytes) -> None:
    for use in both(data, values.PACKED):
        start = time.process_time()
        with pytest.raises(SerializationError, match="equal hashes") as refused:
            use()
        assert time.process_time() - start < 30
        assert refused.value.limit
        assert refused.value.remedy


def test_the_work_of_keys_is_linear() -> None:
    """Of sixteen times the bytes, not 256 times the time: in CPU seconds, best of three."""

    def seconds(count: int) -> float:
        data = ext(2, array([uuid(M * i) for i in range(count)]))
        best = float("inf")
        for _ in range(3):
            start = time.process_time()
            with pytest.raises(SerializationError):
                values.decode(data, values.PACKED)
            best = min(best, time.process_time() - start)
        return best

    assert seconds(80_000) < 64 * max(seconds(5_000), 0.001)


@pytest.mark.parametrize(
    "value",
    [
        {2**n for n in range(4_000)},
        {float(2) ** n: n for n in range(-1000, 1000)},
        {UUID(int=i) for i in range(20_000)},
        {(i, str(i)) for i in range(5_000)},
        {frozenset({i, i + 1}): i for i in range(2_000)},
        {frozenset({(i, frozenset({i}))}) for i in range(500)},
        {UUID(int=M * i) for i in range(500)},
        [[] for _ in range(100_000)],
        [{"a": i} for i in range(100_000)],
        list(range(300_000)),
        dict.fromkeys(range(50_000)),
        {-1, -2, -(2**61)},
        {np.int64(i) for i in range(3_000)},
    ],
    ids=lambda value: f"{type(value).__name__} of {len(value)}",
)
def test_honest_values_of_any_shape_come_back(value: Any) -> None:
    for wrapped in (value, [value, b""]):
        encoded = values.encode(wrapped)
        values.validate(encoded.data, encoded.content_type)
        assert values.decode(encoded.data, encoded.content_type) == wrapped


def test_what_could_not_be_loaded_for_its_hashes_is_not_saved() -> None:
    with pytest.raises(SerializationError, match="equal hashes"):
        values.encode({UUID(int=M * i) for i in range(3_000)})


SIZED = {
    "90 extensions around 1 MiB": within(1, 90, b"\xc6" + (2**20).to_bytes(4) + bytes(2**20)),
    "one long text": b"\xdb" + (2**20).to_bytes(4) + "😀".encode() * 2**18,
    "an array": values.encode([np.zeros(2**17), b""]).data,
    "empty lists": repeated(b"\x90", 2**16),
    "empty dicts": repeated(b"\x80", 2**16),
    "lists of one": repeated(b"\x91\x01", 2**14),
    "dicts of one": repeated(b"\x81\xa1a\x01", 2**14),
    "texts": repeated(b"\xa2ab", 2**14),
    "sets of UUIDs": array([ext(2, array([uuid(i + j) for j in range(100)])) for i in range(100)]),
}


@pytest.mark.parametrize("data", SIZED.values(), ids=SIZED)
def test_a_body_is_checked_with_less_memory_than_its_own_size(data: bytes) -> None:
    values.validate(data, values.PACKED)  # imports what it needs
    tracemalloc.start()
    try:
        values.validate(data, values.PACKED)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < len(data)


JSONS = {
    "empty lists": b"[" + b"[]," * 2**19 + b"[]]",
    "empty dicts": b"[" + b"{}," * 2**19 + b"{}]",
    "one long text": b'"' + "😀".encode() * 2**18 + b'"',
    "a long name": b'{"' + b"\\ud83d\\ude00" * 2**17 + b'": 1}',
    "blanks": b"[1," + b" " * 2**20 + b"2" + b"\n" * 2**20 + b"]",
    "numbers": b"[" + b"1.5," * 2**18 + b"1]",
    "records": b"[" + b'{"role": "user", "content": "hello"},' * 2**15 + b"0]",
    "deep records": b"[" + (b"[" * 98 + b"1" + b"]" * 98 + b",") * 2**12 + b"0]",
}


@pytest.mark.parametrize("data", JSONS.values(), ids=JSONS)
def test_json_is_checked_with_less_memory_than_its_own_size(data: bytes) -> None:
    values.validate(data, values.JSON)
    tracemalloc.start()
    try:
        values.validate(data, values.JSON)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < max(len(data), 2**20)


@pytest.mark.parametrize("item", [b"\x90", b"\x80", b"\x91\x01", b"\xa2ab", b"\xd4\x02\x90"], ids=repr)
def test_tiny_items_that_would_take_gigabytes_are_refused(
    item: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage_lib.structure._ROOM", 4 * 2**20)
    monkeypatch.setattr("storage_lib.json_text._ROOM", 4 * 2**20)
    monkeypatch.setattr("storage_lib.json_text._SMALLEST_LARGE", 0)
    data = repeated(item, 200_000)
    for use in both(data, values.PACKED):
        with pytest.raises(SerializationError, match="more memory") as refused:
            use()
        assert refused.value.limit == "512 MiB and 8 times its stored size"
    if len(item) == 1:
        for use in both(b"[" + b"[]," * 200_000 + b"0]", values.JSON):
            with pytest.raises(SerializationError, match="more memory"):
                use()
        with pytest.raises(SerializationError, match="more memory"):
            values.encode([[] for _ in range(200_000)])


@pytest.mark.parametrize(
    ("content_type", "data"),
    [
        (values.PACKED, repeated(b"\x91\x01", 300_000)),
        (values.PACKED, ext(2, array([uuid(i) for i in range(100_000)]))),
        (values.JSON, b"[" + b"[]," * 2**20 + b"[]]"),
        (values.JSON, b'"' + b"\\n" * 2**22 + b'"'),
        ("text/plain", "ü".encode() * 2**22),
    ],
)
async def test_the_event_loop_goes_on_while_a_body_is_checked(content_type: str, data: bytes) -> None:
    storage = StorageManager(backend=MemoryBackend())
    turns = 0
    done = False

    async def tick() -> None:
        nonlocal turns
        while not done:
            turns += 1
            await asyncio.sleep(0)

    ticking = asyncio.create_task(tick())
    await storage.write("k", data, content_type=content_type)
    done = True
    await ticking
    assert turns > 20


# -- declared sizes


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xdf\x7f\xff\xff\xff\x01",
        b"\xdc\x00",
        b"\xc6\xff\xff\xff\xff1",
        b"\xdb\x00\x00\x00\x02a",
        b"\xa5abcd",
        b"\xcb1234567",
        b"\xc9\xff\xff\xff\xff\x01\x90",
        b"\xc7\x05\x01\x92\x01\x02",
        b"\xc7\x02\x01\x91\x01\x02",
        b"\x92" + b"\xc7\x02\x01\x92\x01" + b"\x02\x03",
        b"\x90\x90",
        b"\xc1",
        b"\xa1\xff",
        b"\xc7\x00\x63",
        b"\xc7\x00\x01",
        b"\xd4\x01\x80",
        b"\xd4\x01\x05",
        b"\xd4\x0a\x00",
        b"\xc7\x04\x04\x91\xa2ab",
        b"\xd5\x02\x91\x90",
        b"\xc7\x04\x02\x91\xd4\x02\x90",
        b"\xc7\x03\x04\x91\x92\x01",
        b"\x81\x90\x80\x01",
        b"\x81\x91\x80\x01",
        b"\x81\xd4\x02\x90\x01",
        ext(2, b"\x91" + ext(11, b"sNaN")),
        ext(2, b"\x91" + ext(1, b"\x91" + ext(11, b"sNaN"))),
        ext(2, b"\x91" + ext(1, b"\x91\x90")),
        ext(5, b"1" * 4301),
        ext(5, b"1" * 10**6),
        ext(5, b"x"),
        ext(6, b"2026-13-01"),
        ext(6, b"x" * 10**6),
        ext(9, b"\x93\xd3" + b"\x7f" + b"\xff" * 7 + b"\x00\x00"),
        ext(11, b"1" * 10**6 + b"x"),
        ext(11, b"1E" + b"9" * 30),
        ext(14, b"\x92\x01\x01"),
        ext(15, b""),
        ext(15, bytes(32)),
        ext(14, b"\x91\xa1a"),
        within(1, 101, b"\xc0"),
        within(1, 20_000, b"\xc0"),
        b"\x91" * 101 + b"\xc0",
        b"\x91" * 10**6 + b"\xc0",
        b"\x81\xa1a" * 101 + b"\xc0",
    ],
    ids=lambda data: repr(data[:16]),
)
def test_bytes_that_are_no_packed_value_are_refused_where_they_are_saved_and_loaded(data: bytes) -> None:
    for use in both(data, values.PACKED):
        start = time.process_time()
        with pytest.raises(SerializationError):
            use()
        assert time.process_time() - start < 20


def npy(header: str, content: bytes = b"", version: int = 1) -> bytes:
    text = header.encode("utf-8" if version == 3 else "latin-1")
    return (
        b"\x93NUMPY"
        + bytes([version, 0])
        + len(text).to_bytes(2 if version == 1 else 4, "little")
        + text
        + content
    )


def described(descr: str, shape: str, content: bytes = b"") -> bytes:
    return npy(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}", content)


@pytest.mark.parametrize(
    "data",
    [
        described("'<f8'", "(10000000000000,)"),
        described("'<f8'", "(10000000000000,)", bytes(64)),
        described("'<f8'", "(-1,)", bytes(8)),
        described("'<f8'", "(-1, -1)", bytes(8)),
        described("'<f8'", "(4294967296, 4294967296)"),
        described("'<f8'", "(0, 4611686018427387904)"),
        described("'<f8'", "(0, 18446744073709551616)"),
        described("'<f8'", f"({'9' * 4000},)"),
        described("'<f8'", "(1,)" + " " * 9 + "*2", bytes(8)),
        described("'<f8'", "(True,)", bytes(8)),
        described("'<f8'", "[1]", bytes(8)),
        described("'<f8'", "1", bytes(8)),
        described("'<f8'", "(" + "1," * 65 + ")", bytes(8)),
        described("'<f8'", "(1,)", bytes(9)),
        described("'<f8'", "(1,)", bytes(7)),
        described("'|O'", "(1,)", bytes(8)),
        described("[('a', '|O')]", "(1,)", bytes(8)),
        described("'<U600000000'", "(0,)"),
        described("'|V99999999999'", "(0,)"),
        described("'<f3'", "(1,)", bytes(3)),
        described("'<M8[parsec]'", "(1,)", bytes(8)),
        described("[('a', '<i4'), ('a', '<i4')]", "(1,)", bytes(8)),
        described("[('a', '<i4', (99999999999,))]", "(0,)"),
        described("('<i4', (2,))", "()", bytes(8)),
        described("('<i4', (0,))", "(2,)"),
        described("[('a', '|V0', (3,))]", "(2,)"),
        described("[('a', '<U0', ())]", "(0,)"),
        described("None", "()", bytes(8)),
        described("__import__('os')", "()", bytes(8)),
        npy("{'descr': '<f8', 'fortran_order': 1, 'shape': ()}", bytes(8)),
        npy("{'descr': '<f8', 'shape': ()}", bytes(8)),
        npy("[" * 9000),
        npy("-" * 9000),
        npy("(" * 5000 + ")" * 5000),
        npy("{" + "'a':" * 2000),
        npy("1" * 9999),
        npy("{}" + " " * 20_000),
        npy("x", version=9),
        b"\x93NUMPY\x01\x00\xff\xff",
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff",
        b"\x93NUMPY",
        b"",
        b"PK\x03\x04",
    ],
    ids=lambda data: repr(data[10:70]),
)
async def test_arrays_that_are_not_what_they_declare_are_refused(data: bytes) -> None:
    storage = StorageManager(backend=MemoryBackend())
    for content_type, body in ((values.NPY, data), (values.PACKED, ext(12, data))):
        for use in both(body, content_type):
            with pytest.raises(SerializationError):
                use()
        with pytest.raises(SerializationError):
            await storage.write("k", body, content_type=content_type)
        await storage.backend.objects.put("k", body, content_type=content_type)
        with pytest.raises(SerializationError, match="'k'"):
            await storage.load("k")
        await storage.delete("k")


ARRAYS = [
    np.zeros((0, 2**40)),
    np.zeros((2**40, 0), "<U3"),
    np.array(1.5),
    np.arange(6, dtype=">i4").reshape(2, 3).T,
    np.array(["ü", "ab"]),
    np.array([b"", b"a"]),
    np.zeros(3, "V0"),
    np.array([np.datetime64("2026-01-01", "25us")]),
    np.zeros(2, [("a", "<f4"), ("b", [("c", "<i2", (2, 3))], (4,)), (("title", "d"), "S3")]),
    np.zeros(2, np.dtype([("x", "i1"), ("y", "f8")], align=True)),
    np.zeros(2, [("größe", "<i4"), ("Ω", "<U2")]),
    np.zeros(2, "g"),
    np.zeros(2, "G"),
    np.array([True]),
]


@pytest.mark.parametrize("value", ARRAYS, ids=lambda value: f"{value.dtype}")
def test_arrays_are_taken_where_numpy_is_not_installed(value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    single, nested = (
        values.encode(value),
        values.encode({"a": [value], "s": np.float32(1), "k": {np.int64(1)}}),
    )
    assert (single.content_type, nested.content_type) == (values.NPY, values.PACKED)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "numpy", None)
        for encoded in (single, nested):
            values.validate(encoded.data, encoded.content_type)
            with pytest.raises(SerializationError, match="numpy is not installed") as refused:
                values.decode(encoded.data, encoded.content_type)
            assert refused.value.remedy == "pip install numpy"
    for back in (
        values.decode(single.data, single.content_type),
        values.decode(nested.data, nested.content_type)["a"][0],
    ):
        assert (back.dtype, back.shape) == (value.dtype, value.shape)
        assert (back == value).all()


# -- one rule where bytes are saved and where they are loaded


@given(json_values, st.data())
def test_json_that_is_taken_can_be_loaded_and_no_other(value: Any, data: st.DataObject) -> None:
    body = msgspec.json.encode(value)
    if data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(body)))
        inserted = st.sampled_from(
            [
                b"1e400",
                b"1" * 4301,
                b'"',
                b"\\",
                b",",
                b"[",
                b"]",
                b"{",
                b"}",
                b":",
                b"\xff",
                b'"\\ud800"',
                b"",
            ]
        )
        body = body[:at] + data.draw(inserted) + body[at + data.draw(st.integers(0, 2)) :]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("storage_lib.json_text._WINDOW", data.draw(st.sampled_from([16, 24, 50, 16384])))
        checked, loaded = (taken(use) for use in both(body, values.JSON))
    assert checked == loaded


@settings(max_examples=examples(300))
@given(rich_values, st.data())
def test_packed_bytes_that_are_taken_can_be_loaded_and_no_other(value: Any, data: st.DataObject) -> None:
    body = values.encode([value, b""]).data
    for _ in range(data.draw(st.integers(0, 2))):
        at = data.draw(st.integers(0, len(body)))
        body = body[:at] + data.draw(st.binary(max_size=2)) + body[at + data.draw(st.integers(0, 2)) :]
    checked, loaded = (taken(use) for use in both(body, values.PACKED))
    assert checked == loaded
    if loaded:
        values.decode(body, values.PACKED)


# Python's own codec for its escapes warns of those that it does not know.
@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")
@given(
    st.binary(max_size=40),
    st.sampled_from(
        [
            "utf-8",
            "ascii",
            "latin-1",
            "utf-16",
            "utf-7",
            "shift_jis",
            "gb18030",
            "utf-32",
            "iso-2022-jp",
            "hz",
            "cp1252",
            "unicode_escape",
            "utf-8-sig",
            "punycode",
            "base64",
            "klingon",
            "",
        ]
    ),
)
@example(b"\xff", "")
@example(b"\\\x00", "unicode_escape")
def test_text_that_is_taken_can_be_loaded_and_no_other(body: bytes, charset: str) -> None:
    content_type = f"text/plain; charset={charset}" if charset else "text/csv"
    checked, loaded = (taken(use) for use in both(body, content_type))
    assert checked == loaded


def test_packed_bytes_that_the_reader_takes_are_taken() -> None:
    """The other direction of the law: the check refuses nothing that has a value."""
    for body in (
        b"\x81\x91\x91\x01\x02",
        b"\x82\xc0\x01\xc3\x02",
        b"\xd6\xff\x00\x00\x00\x01",
        b"\xdd\x00\x00\x00\x01\x01",
        b"\xdf\x00\x00\x00\x01\xd9\x01a\xda\x00\x01b",
        ext(1, b"\xdc\x00\x01\x01"),
        ext(4, b"\x91\xdd\x00\x00\x00\x02\x01\x02"),
        ext(11, b"NaN"),
        ext(2, b"\x92\x01\x01"),
    ):
        values.validate(body, values.PACKED)
        assert values.decode(body, values.PACKED) is not None


@pytest.mark.parametrize(
    ("body", "place"),
    [
        (b'{"n":1e400}', "n"),
        (b'{"n":-1e400}', "n"),
        (b'{"a": [0, {"b": 1.8e308}]}', "a[1].b"),
        (b'{"a": "1e400", "c": [[], [1, ' + b"1" * 5001 + b"]]}", "c[1][1]"),
        (b"-" + b"1" * 4300, "the top"),
        (b"[" + b'{"a": 1, "s": "x"},' * 2000 + b"[1e999]]", "[2000][0]"),
        (b"[" + b'"' + b"x" * 40_000 + b'",' + b"2e308]", "[1]"),
    ],
    ids=lambda value: repr(value[:30]),
)
async def test_a_number_that_python_can_not_hold_is_named_by_its_place(body: bytes, place: str) -> None:
    storage = StorageManager(backend=MemoryBackend())
    with pytest.raises(SerializationError) as refused:
        await storage.write("k", body, content_type="application/problem+json")
    assert refused.value.field == place
    assert f"a number at {place} is beyond" in str(refused.value)
    assert refused.value.limit
    assert refused.value.remedy
    assert not await storage.exists("k")
    await storage.backend.objects.put("k", body, content_type=values.JSON)
    for model in (None, dict[str, Any], list[Any], float, Any):
        with pytest.raises(SerializationError, match="'k'"):
            await storage.load("k", model)


def test_a_number_far_behind_is_told_by_its_byte_for_its_name_takes_long_to_find() -> None:
    items = b"[" + b"0," * 1_500_000

    def refusal() -> None:
        with pytest.raises(SerializationError, match=r"a number behind byte 29\d{5} is beyond") as refused:
            values.validate(items + b"1e400]", values.JSON)
        assert refused.value.field == "data"

    assert calls(refusal) < calls(lambda: values.validate(items + b"0]", values.JSON)) + 1000


async def test_numbers_up_to_the_limit_are_taken() -> None:
    storage = StorageManager(backend=MemoryBackend())
    for body in (
        b"1.7976931348623157e308",
        b"1" * 4300,
        b"-" + b"1" * 4299,
        b"0e999",
        b"1e-400",
        b"0." + b"0" * 9999,
    ):
        await storage.write("k", body, content_type=values.JSON)
        assert await storage.load("k") == msgspec.json.decode(body)


@pytest.mark.parametrize("brackets", ["[]", "{}"])
async def test_a_hundred_levels_are_the_limit_on_every_way(brackets: str) -> None:
    storage = StorageManager(backend=MemoryBackend())
    opening = "[" if brackets == "[]" else '{"[{\\"":'
    for levels in (100, 101):
        body = (opening * (levels - 1) + brackets + brackets[1] * (levels - 1)).encode()
        value: Any = msgspec.json.decode(body)
        uses: list[Callable[[], Any]] = [
            lambda body=body: storage.write("k", body, content_type=values.JSON),
            lambda value=value: storage.save("k", value),
            lambda value=value: storage.save(
                "k", [b"", *value] if isinstance(value, list) else {**value, "b": b""}
            ),
            lambda: storage.load("k"),
            lambda: storage.load("k", Any),
        ]
        if levels == 101:
            await storage.backend.objects.put("k", body, content_type=values.JSON)
        for use in uses:
            if levels == 100:
                await use()
            else:
                with pytest.raises(SerializationError, match="nested too deeply") as refused:
                    await use()
                assert refused.value.limit == "100 levels"


@pytest.mark.parametrize(
    ("content_type", "body", "words"),
    [
        ("text/plain", b"caf\xe9", "utf-8"),
        ("text/plain; charset=utf-8", b"x" * 70_000 + b"\xe2\x82", "utf-8"),
        ("text/plain; charset=ascii", "ü".encode(), "ascii"),
        ("text/plain; charset=utf-16", b"odd", "utf-16"),
        ("text/csv; charset=klingon", b"x", "klingon"),
        ("text/csv; charset=base64", b"eA==", "base64"),
        ("text/csv; charset=zlib", b"x", "zlib"),
        ("text/csv; charset=punycode", b"x", "punycode"),
        ("text/csv; charset=idna", b"x", "idna"),
    ],
)
async def test_text_that_is_not_in_its_charset_is_refused(content_type: str, body: bytes, words: str) -> None:
    storage = StorageManager(backend=MemoryBackend())
    with pytest.raises(SerializationError, match=words) as refused:
        await storage.write("k", body, content_type=content_type)
    assert refused.value.remedy
    assert not await storage.exists("k")
    await storage.backend.objects.put("k", body, content_type=content_type)
    with pytest.raises(SerializationError, match="'k'"):
        await storage.load("k")


async def test_text_in_another_charset_is_taken_where_that_is_declared_or_marked() -> None:
    storage = StorageManager(backend=MemoryBackend())
    for content_type, body in (
        ("text/plain; charset=iso-8859-1", "café".encode("latin-1")),
        ('text/plain; charset="windows-1252"', "café".encode("cp1252")),
        ("text/csv", "café".encode("utf-16")),
        ("text/csv", "café".encode("utf-32")),
        ("text/csv; charset=u16", "café".encode(f"utf-16-{sys.byteorder[0]}e")),
        ("text/csv; charset=utf-16be", "café".encode("utf-16-be")),
        ('text/html; charset=""', "café".encode()),
    ):
        await storage.write("k", body, content_type=content_type)
        assert await storage.load("k") == "café"


STRUCTURE = described(f"[{','.join(f"('f{i}','<f4')" for i in range(600))}]", "(0,)")
"""An empty array whose header takes milliseconds."""


@pytest.mark.parametrize(
    "data",
    [
        repeated(b"\x91\x01", 20_000),
        repeated(ext(12, STRUCTURE), 100),
        repeated(b"\xda\xff\xfe" + "ü".encode() * 32_767, 100),
        repeated(ext(11, b"1" * 60_000), 100),
    ],
    ids=["lists", "structures", "texts", "decimals"],
)
def test_the_check_pauses(data: bytes) -> None:
    assert sum(1 for _ in check_packed(data, lambda _: None)) > 10


class Keyed(BaseModel):
    ids: set[UUID] = set()
    numbers: frozenset[int] = frozenset()
    prices: dict[Decimal, int] = {}
    pairs: set[tuple[int, UUID]] = set()
    names: dict[str, int] = {}


@pytest.mark.parametrize(
    "fields",
    [
        {"ids": [str(UUID(int=M * i)) for i in range(N)]},
        {"numbers": [M * i for i in range(N)]},
        {"prices": {str(M * i): 1 for i in range(N)}},
        {"pairs": [[1, UUID(int=M * i).hex] for i in range(N)]},
    ],
    ids=lambda fields: next(iter(fields)),
)
@pytest.mark.parametrize("more", [{}, {"names": {"packed": 2**70}}], ids=["", "large"])
def test_a_model_does_not_fill_tables_with_equal_hashes(fields: dict[str, Any], more: dict[str, Any]) -> None:
    value = {**fields, **more}
    for data, content_type in (
        (msgspec.json.encode(value), values.JSON),
        (pack(value), values.PACKED),
    ):
        start = time.process_time()
        with pytest.raises(SerializationError, match="equal hashes"):
            values.decode_as(data, content_type, Keyed)
        assert time.process_time() - start < 30
        assert values.decode(data, content_type) == value


def test_models_with_many_honest_keys_come_back() -> None:
    value = Keyed(
        ids={UUID(int=i) for i in range(3_000)},
        numbers=frozenset(2**n for n in range(3_000)),
        prices={Decimal(n) / 100: n for n in range(3_000)},
        names=dict.fromkeys(map(str, range(3_000)), 7),
    )
    encoded = values.encode(value)
    assert values.decode_as(encoded.data, encoded.content_type, Keyed) == value
    assert values.decode_as(b"[" + b"7," * 20_000 + b"7]", values.JSON, set[int]) == {7}


def test_a_model_that_could_not_be_loaded_for_its_keys_is_not_saved() -> None:
    with pytest.raises(SerializationError, match="equal hashes"):
        values.encode(Keyed(numbers=frozenset(M * i for i in range(2_000))))


@dataclass
class Keys:
    """What hashes the values that it is loaded with."""

    uuids: set[UUID] = field(default_factory=set[UUID])
    numbers: frozenset[int] = frozenset()
    decimals: dict[str, dict[Decimal, int]] = field(default_factory=dict[str, dict[Decimal, int]])
    pairs: list[set[tuple[int, str]]] = field(default_factory=list[set[tuple[int, str]]])


IDS = [str(UUID(int=i * M)) for i in range(N)]
NUMBERS = [i * M for i in range(N)]


@pytest.mark.parametrize(
    "stored",
    [
        {"uuids": IDS},
        {"uuids": [f"urn:uuid:{each}" for each in IDS]},
        {"uuids": [each.replace("-", "") for each in IDS]},
        {"uuids": [UUID(each) for each in IDS]},
        {"numbers": NUMBERS},
        {"numbers": [str(each) for each in NUMBERS]},
        {"decimals": {"a": {str(each): 0 for each in NUMBERS}}},
        {"decimals": {"a": {f"{each // 10}.{each % 10}": 0 for each in NUMBERS}}},
        {"pairs": [[[each, ""] for each in NUMBERS]]},
    ],
    ids=lambda stored: repr(stored)[:50],
)
async def test_equal_hashes_are_refused_where_a_model_makes_keys_of_plain_values(stored: Any) -> None:
    storage = StorageManager(backend=MemoryBackend())
    await storage.save("k", stored)
    start = time.process_time()
    with pytest.raises(SerializationError, match="equal hashes"):
        await storage.load("k", Keys)
    assert time.process_time() - start < 10
    assert await storage.load("k") == stored
    assert await storage.load("k", dict[str, Any]) == stored


@pytest.mark.parametrize(
    "data", [b"[%s]", b"[1.%s]", b'{"a":-%s}', b"[1   , %s", b"%s"], ids=lambda data: data.decode()
)
def test_a_number_of_many_digits_is_refused_before_it_is_read(data: bytes) -> None:
    body = data % (b"1" * 3_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(SerializationError, match="too many characters"):
            values.validate(body, values.JSON)
        assert tracemalloc.get_traced_memory()[1] < len(body) / 2
    finally:
        tracemalloc.stop()


async def test_a_large_packed_value_is_built_while_the_event_loop_goes_on() -> None:
    """Thousands of small arrays, each with a long header, take numpy seconds."""
    storage = StorageManager(backend=MemoryBackend())
    fields = [(f"a{n}", "<f8") for n in range(40)]
    await storage.save("x", [np.zeros(0, np.dtype([(f"n{each}", "<i4"), *fields])) for each in range(1500)])
    assert (await storage.info("x")).size > 1_000_000
    turns = 0
    loading = asyncio.create_task(storage.load("x"))
    while not loading.done():
        await asyncio.sleep(0.001)
        turns += 1
    assert len(await loading) == 1500
    assert turns > 10
