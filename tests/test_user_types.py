"""Objects of users' own classes: by a codec, or pickled and signed where that is allowed; else refused."""

from __future__ import annotations

import enum
import pickle
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict

from storage_lib import values
from storage_lib.backends.memory import MemoryBackend
from storage_lib.codecs import register_codec, unregister_codec
from storage_lib.config import StorageConfig
from storage_lib.errors import ConfigurationError, InvalidArgumentError, KeyNotFoundError, SerializationError
from storage_lib.manager import StorageManager

KEY = "of sixteen bytes or more"


class Money:
    def __init__(self, amount: Decimal, currency: str) -> None:
        self.amount, self.currency = amount, currency

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((self.amount, self.currency))


class Vector:
    """Has no equality of its own."""

    def __init__(self, items: Any) -> None:
        self.items = items


@dataclass(frozen=True)
class Point:
    x: int
    y: int


class Invoice(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    net: Money
    weights: Vector | None = None


@pytest.fixture
def codecs() -> Iterator[None]:
    register_codec(
        Money, "types.money", encode=lambda m: [m.amount, m.currency], decode=lambda stored: Money(*stored)
    )
    register_codec(Vector, "types.vector", encode=lambda v: v.items, decode=Vector)
    yield
    unregister_codec("types.money")
    unregister_codec("types.vector")


@pytest.fixture
def storage() -> StorageManager:
    return StorageManager(backend=MemoryBackend())


PRICE = Money(Decimal("9.90"), "EUR")


@pytest.mark.usefixtures("codecs")
@pytest.mark.parametrize(
    "value",
    [
        PRICE,
        {"net": PRICE, "all": [PRICE, (PRICE, {"a": PRICE})]},
        {PRICE: 1},
        {PRICE, Money(Decimal(1), "USD")},
        frozenset({(PRICE, 1)}),
        Invoice(net=PRICE),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_an_object_with_a_codec_comes_back_wherever_it_is(storage: StorageManager, value: Any) -> None:
    await storage.save("k", value)
    assert (await storage.info("k")).content_type == values.PACKED
    back = await (storage.load("k", Invoice) if isinstance(value, Invoice) else storage.load("k"))
    assert back == value
    assert type(back) is type(value)
    # What was saved can be sent over HTTP as well, to a process that has no such codec.
    found = await storage.read("k")
    unregister_codec("types.money")
    try:
        await storage.write("copy", found.data, content_type=values.PACKED)
        with pytest.raises(SerializationError, match=r"'types\.money', which is not registered") as refused:
            await storage.load("copy")
        assert "register" in (refused.value.remedy or "")
    finally:
        register_codec(
            Money, "types.money", encode=lambda m: [m.amount, m.currency], decode=lambda s: Money(*s)
        )
    assert (await storage.load("copy")) == (await storage.load("k"))


@pytest.mark.usefixtures("codecs")
async def test_codecs_within_codecs_and_without_an_equality(storage: StorageManager) -> None:
    await storage.save("v", Vector([Vector(np.arange(3)), PRICE]))
    back = await storage.load("v")
    assert type(back) is Vector
    assert back.items[0].items.tolist() == [0, 1, 2]
    assert back.items[1] == PRICE
    await storage.save("i", Invoice(net=PRICE, weights=Vector((1, b"\xff"))))
    assert (await storage.load("i", Invoice)).weights.items == (1, b"\xff")


async def test_a_dataclass_with_a_codec_comes_back_without_its_class_named(storage: StorageManager) -> None:
    register_codec(Point, "shop.point", encode=lambda p: (p.x, p.y), decode=lambda stored: Point(*stored))
    try:
        await storage.save("p", [Point(1, 2)])
        assert await storage.load("p") == [Point(1, 2)]
        await storage.save("p", Point(1, 2))
        assert await storage.load("p") == Point(1, 2)
    finally:
        unregister_codec("shop.point")


def test_two_codecs_of_a_type_or_a_name_are_refused(codecs: None) -> None:
    def register(kind: Any, name: Any) -> None:
        register_codec(kind, name, encode=vars, decode=lambda stored: stored)

    for kind, name, field in (
        (Money, "shop.other", "kind"),
        (Point, "types.money", "name"),
        (dict, "shop.dict", "kind"),
        (UUID, "shop.uuid", "kind"),
        (np.ndarray, "shop.array", "kind"),
        (Point, "", "name"),
        (Point, "a\n", "name"),
        (Point, 5, "name"),
        ("Point", "shop.point", "kind"),
    ):
        with pytest.raises(InvalidArgumentError) as refused:
            register(kind, name)
        assert refused.value.field == field
    with pytest.raises(InvalidArgumentError, match="no codec is registered"):
        unregister_codec("shop.none")


class Subclass(Money):
    pass


@pytest.mark.usefixtures("codecs")
@pytest.mark.parametrize(
    "value", [Subclass(Decimal(1), "EUR"), [Vector(object())], {"a": Vector(Vector(1j))}]
)
async def test_what_a_codec_does_not_bring_back_is_refused(storage: StorageManager, value: Any) -> None:
    with pytest.raises(SerializationError):
        await storage.save("k", value)
    assert not await storage.exists("k")


@pytest.mark.parametrize(
    ("encode", "decode", "words"),
    [
        (lambda p: p.x, lambda stored: Point(stored, 0), "does not decode what it encodes"),
        (lambda p: p.x, lambda stored: stored, "gave a int"),
        (lambda p: p.x, lambda stored: Point(), "could not decode"),
        (lambda p: p.z, lambda stored: Point(stored, 0), "was not encoded"),
    ],
)
async def test_a_codec_that_is_wrong_is_told_at_the_save(
    storage: StorageManager, encode: Any, decode: Any, words: str
) -> None:
    register_codec(Point, "shop.wrong", encode=encode, decode=decode)
    try:
        with pytest.raises(SerializationError, match=words) as refused:
            await storage.save("k", {"a": [Point(1, 2)]})
        assert "shop.wrong" in str(refused.value)
    finally:
        unregister_codec("shop.wrong")
    assert not await storage.exists("k")


async def test_objects_with_equal_hashes_do_not_fill_a_table(storage: StorageManager) -> None:
    register_codec(Point, "shop.point", encode=lambda p: UUID(int=p.x), decode=lambda u: Point(u.int, 0))
    try:
        items = [b"\xd8\x0a" + ((2**61 - 1) * i).to_bytes(16) for i in range(3_000)]
        points = [
            msgspec.msgpack.encode(msgspec.msgpack.Ext(14, b"\x92\xaashop.point" + item)) for item in items
        ]
        content = b"\xdd" + len(points).to_bytes(4) + b"".join(points)
        data = msgspec.msgpack.encode(msgspec.msgpack.Ext(2, content))
        await storage.write("k", data, content_type=values.PACKED)
        with pytest.raises(SerializationError, match="equal hashes"):
            await storage.load("k")
    finally:
        unregister_codec("shop.point")


# -- pickle


def pickling(key: str | bytes = KEY, backend: MemoryBackend | None = None) -> StorageManager:
    config = StorageConfig(storage_type="memory", allow_pickle=True, signing_key=key)
    return StorageManager(config, backend=backend)


class Colour(enum.Enum):
    RED = "red"


PICKLED = [
    PRICE,
    {"net": [PRICE, (1, b"x")], "n": 1},
    Colour.RED,
    OrderedDict(b=1, a=2),
    defaultdict(list, a=[1]),
    1 + 2j,
    {Colour.RED: 1},
    [None, 1, Path("/x")],
    Exception("words"),
    range(5),
]


@pytest.mark.parametrize("value", PICKLED, ids=lambda value: type(value).__name__)
async def test_what_has_no_form_is_pickled_where_that_is_allowed(storage: StorageManager, value: Any) -> None:
    allowed = pickling()
    await allowed.save("k", value)
    back = await allowed.load("k")
    assert type(back) is type(value)
    assert back == value or (isinstance(value, Exception) and back.args == value.args)
    with pytest.raises(SerializationError) as refused:
        await storage.save("k", value)
    assert "codec" in (refused.value.remedy or "")
    assert not await storage.exists("k")
    found = await allowed.read("k")
    await storage.write("k", found.data, content_type=found.info.content_type)
    with pytest.raises(SerializationError, match="pickled object") as unread:
        await storage.load("k")
    assert "allow_pickle=True" in (unread.value.remedy or "")


async def test_plain_values_stay_readable_where_pickle_is_allowed() -> None:
    allowed = pickling()
    for value, content_type in (
        ({"a": 1}, values.JSON),
        ("x", values.TEXT),
        (b"x", values.BYTES),
        (Point(1, 2), values.JSON),
    ):
        await allowed.save("k", value)
        assert (await allowed.info("k")).content_type == content_type
    await allowed.save("k", np.arange(3))
    assert (await allowed.load("k")).tolist() == [0, 1, 2]
    await allowed.update("k", lambda _: Colour.RED)
    assert await allowed.load("k") is Colour.RED


async def test_records_and_models_that_would_be_refused_are_pickled() -> None:
    allowed = pickling()
    record = np.rec.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")])
    await allowed.save("k", {"r": record, "s": record[0]})
    back = await allowed.load("k")
    assert type(back["r"]) is np.recarray
    assert back["r"].a.tolist() == [1]
    await allowed.save("m", Invoice(net=PRICE))
    assert (await allowed.load("m", Invoice)).net == PRICE


calls: list[str] = []


class Trap:
    def __reduce__(self) -> Any:
        return calls.append, ("sprung",)


def packed(signature: bytes, data: bytes) -> bytes:
    return msgspec.msgpack.encode([msgspec.msgpack.Ext(15, signature + data)])


async def test_foreign_bytes_are_never_unpickled() -> None:
    """Not unsigned ones, not those of another key, not changed ones; with and without allow_pickle."""
    trap = pickle.dumps(Trap())
    backend = MemoryBackend()
    await pickling("another key of many bytes", backend).save("foreign", [PRICE])
    own = pickling(backend=backend)
    await own.save("own", [PRICE])
    foreign = (await own.read("foreign")).data
    signed = (await own.read("own")).data
    changed = bytearray(signed)
    changed[-3] ^= 1
    bodies = [
        packed(bytes(32), trap),
        packed(signed[4:36], trap),
        packed(b"", trap),
        packed(b"", b""),
        packed(trap, b""),
        foreign,
        bytes(changed),
        signed[:-1],
    ]
    calls.clear()
    for body in bodies:
        await own.backend.objects.put("k", body, content_type=values.PACKED)
        for manager in (own, StorageManager(backend=backend)):
            for model in (None, list[Any]):
                with pytest.raises(SerializationError):
                    await manager.load("k", model)
    for content_type in ("application/octet-stream", "application/x-pickle", "application/python-pickle"):
        await own.write("raw", trap, content_type=content_type)
        assert await own.load("raw") == trap
    assert calls == []
    assert await own.load("own") == [PRICE]


@pytest.mark.parametrize(
    "value", [lambda: None, (n for n in "ab"), Trap()], ids=["function", "generator", "other"]
)
async def test_what_can_not_be_pickled_is_refused_with_its_place(value: Any) -> None:
    allowed = pickling()
    with pytest.raises(SerializationError, match=r"value\.a\[0\] is an object") as refused:
        await allowed.save("k", {"a": [value]})
    assert refused.value.field == "a[0]"
    with pytest.raises(KeyNotFoundError):
        await allowed.load("k")


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"allow_pickle": True}, "signing_key"),
        ({"allow_pickle": True, "signing_key": ""}, "signing_key"),
        ({"allow_pickle": True, "signing_key": "short"}, "signing_key"),
        ({"signing_key": b"short"}, "signing_key"),
        ({"allow_pickle": "yes", "signing_key": KEY}, "allow_pickle"),
        ({"allow_pickle": 1, "signing_key": KEY}, "allow_pickle"),
        ({"allow_pickle": True, "signing_key": 5}, "signing_key"),
    ],
)
def test_pickle_without_a_key_is_no_configuration(options: Any, field: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        StorageConfig(**options)
    assert refused.value.field == field
    assert refused.value.remedy or refused.value.limit


def test_pickle_by_settings() -> None:
    settings = {"AGENT_STORAGE_ALLOW_PICKLE": "true", "AGENT_STORAGE_SIGNING_KEY": KEY}
    config = StorageConfig.from_env(settings)
    assert config.allow_pickle is True
    assert KEY not in repr(config)
    assert not StorageConfig.from_env({}).allow_pickle
    assert not StorageConfig.from_env({"AGENT_STORAGE_ALLOW_PICKLE": "0"}).allow_pickle
    for wrong in ({"AGENT_STORAGE_ALLOW_PICKLE": "true"}, {"AGENT_STORAGE_ALLOW_PICKLE": "perhaps"}):
        with pytest.raises(ConfigurationError):
            StorageConfig.from_env(wrong)


async def test_text_and_bytes_are_one_key() -> None:
    backend = MemoryBackend()
    await pickling(KEY, backend).save("k", Colour.RED)
    assert await pickling(KEY.encode(), backend).load("k") is Colour.RED
