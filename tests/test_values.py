"""What goes in comes out: every storable value, with its type, or a refusal and nothing stored."""

from __future__ import annotations

import enum
import functools
import json
import math
import zoneinfo
from collections import OrderedDict, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, TypedDict
from uuid import UUID, uuid4

import numpy as np
import pydantic.dataclasses
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    computed_field,
    field_serializer,
)

from storage_lib import values
from storage_lib.backends.memory import MemoryBackend
from storage_lib.errors import InvalidArgumentError, KeyNotFoundError, SerializationError
from storage_lib.manager import StorageManager
from tests.effort import examples

text = st.text(st.characters(exclude_categories=["Cs"]))
json_leaves = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text
)
json_values = st.recursive(
    json_leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4)
)
offsets = st.integers(-23 * 3600, 23 * 3600).map(lambda seconds: timezone(timedelta(seconds=seconds)))
hashable = (
    json_leaves
    | st.binary()
    | st.uuids()
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.datetimes(timezones=st.none() | offsets)
    | st.decimals(allow_nan=False)
)
arrays = hnp.arrays(
    hnp.scalar_dtypes().filter(lambda dtype: dtype.kind not in "O"), hnp.array_shapes(min_dims=0, max_dims=3)
)
rich_values = st.recursive(
    hashable | st.floats() | arrays,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(text, inner, max_size=4)
        | st.dictionaries(hashable, inner, max_size=3)
        | st.sets(hashable, max_size=4)
        | st.frozensets(hashable, max_size=4)
    ),
)


def same(a: Any, b: Any) -> bool:
    """Equal, with the same types all the way down; NaN is NaN, -0.0 is not 0.0."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, np.generic):
        return a.dtype == b.dtype and a.tobytes() == b.tobytes()
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return len(a) == len(b) and all(
            same(ka, kb) and same(va, vb) for (ka, va), (kb, vb) in zip(a.items(), b.items(), strict=True)
        )
    if isinstance(a, (set, frozenset)):
        return sorted(map(repr, a)) == sorted(map(repr, b))
    if isinstance(a, datetime):
        return a == b and a.utcoffset() == b.utcoffset()
    return a == b


@given(json_values)
def test_plain_json_comes_back_and_is_readable_by_anyone(value: Any) -> None:
    encoded = values.encode(value)
    assert same(values.decode(encoded.data, encoded.content_type), value)
    if isinstance(value, str):
        assert encoded.content_type == values.TEXT
    else:
        assert encoded.content_type == "application/json"
        assert same(json.loads(encoded.data), value)


@settings(max_examples=examples(300))
@given(rich_values)
def test_rich_values_come_back_with_their_types(value: Any) -> None:
    encoded = values.encode(value)
    assert same(values.decode(encoded.data, encoded.content_type), value)


@given(st.binary())
def test_bytes_that_were_never_packed_are_refused_or_a_value_but_never_a_crash(data: bytes) -> None:
    for content_type in (
        values.PACKED,
        values.NPY,
        values.JSON,
        "text/plain",
        "text/plain; charset=nonsense",
    ):
        try:
            values.decode(data, content_type)
        except SerializationError:
            continue


def test_a_nested_agent_document_comes_back() -> None:
    document = {
        "adapter_weights": b"\x00\x01",
        "embedding": np.arange(6, dtype=np.float32).reshape(2, 3),
        "id": uuid4(),
        "trained_at": datetime(2026, 1, 2, 3, 4, 5, 6, UTC),
        "cost": Decimal("0.10"),
        "nested": [{"tuple": (1, "two", None)}],
    }
    encoded = values.encode(document)
    assert encoded.content_type == values.PACKED
    assert same(values.decode(encoded.data, encoded.content_type), document)


def test_an_array_by_itself_is_a_npy_file() -> None:
    array = np.asfortranarray(np.eye(3))
    encoded = values.encode(array)
    assert encoded.content_type == "application/x-npy"
    assert same(values.decode(encoded.data, encoded.content_type), array)
    assert encoded.data.startswith(b"\x93NUMPY")


class Colour(enum.Enum):
    RED = "red"


class Point(tuple[int, int]):
    pass


class Opaque:
    """What no format holds; its name is the same in every process."""

    def __repr__(self) -> str:
        return "opaque"


OPAQUE = Opaque()


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (OPAQUE, ""),
        ({"a": [1, {"b": OPAQUE}]}, ".a[1].b"),
        (Colour.RED, ""),
        ({"colour": Colour.RED}, ".colour"),
        (OrderedDict(a=1), ""),
        ({"d": defaultdict(int)}, ".d"),
        (Point((1, 2)), ""),
        (bytearray(b"x"), ""),
        (1j, ""),
        (np.array([OPAQUE]), None),
        ("\ud800", None),
        ({"\ud800": 1}, None),
        (["\ud800"], None),
        (SecretStr("x"), ""),
        (print, ""),
        (int, ""),
        (np.str_("a\0"), ""),
        ({"n": [np.bytes_(b"a\0")]}, ".n[0]"),
    ],
    ids=repr,
)
def test_what_would_not_come_back_is_refused(value: Any, place: str | None) -> None:
    with pytest.raises(SerializationError) as refused:
        values.encode(value)
    if place is not None:
        assert f"value{place} has the type" in str(refused.value)
        assert refused.value.remedy


def test_numpy_texts_that_come_back_are_taken() -> None:
    for value in (np.str_("a\0b"), np.str_(""), np.bytes_(b""), np.bytes_(b"\0a")):
        encoded = values.encode(value)
        assert same(values.decode(encoded.data, encoded.content_type), value)


def test_values_that_contain_themselves_are_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(SerializationError, match="contains itself"):
        values.encode(loop)
    rich: dict[str, Any] = {"b": b""}
    rich["self"] = rich
    with pytest.raises(SerializationError, match="contains itself"):
        values.encode(rich)


def test_integers_of_any_size_stay_exact() -> None:
    for value in (2**53 + 1, 2**63, -(2**64), 10**300, 10**4300 - 1, 1 - 10**4299, -(10**4299), 1 - 10**4300):
        for wrapped in (value, {"n": value}, {"n": value, "b": b""}):
            encoded = values.encode(wrapped)
            assert same(values.decode(encoded.data, encoded.content_type), wrapped)
    for value in (10**4300, -(10**4300)):
        with pytest.raises(SerializationError):
            values.encode([value])


# -- models


class Tool(BaseModel):
    name: str
    colour: Colour = Colour.RED


class Agent(BaseModel):
    id: UUID
    created: datetime
    tools: list[Tool]
    budget: Decimal | None = None
    limits: tuple[int, float] = (1, 2.5)
    secret: bytes = b""
    score: float = 0.0

    @computed_field
    @property
    def tool_count(self) -> int:
        return len(self.tools)


class Hidden(BaseModel):
    visible: int
    hidden: int = Field(default=0, exclude=True)


class Secretive(BaseModel):
    key: SecretStr


@dataclass
class Note:
    title: str
    day: date
    tags: set[str] = field(default_factory=set)


@dataclass
class Vector:
    __pydantic_config__ = {"arbitrary_types_allowed": True}  # noqa: RUF012
    values: np.ndarray


@dataclass
class NotFromInit:
    a: int
    b: int = field(init=False, default=0)


def agent(**changes: Any) -> Agent:
    return Agent(
        id=uuid4(), created=datetime.now(UTC), tools=[Tool(name="search")], budget=Decimal("1.20"), **changes
    )


@pytest.mark.parametrize(
    ("value", "content_type"),
    [
        (agent(), values.JSON),
        (agent(secret=b"text"), values.JSON),
        (agent(secret=b"\xff\x00"), values.PACKED),
        (agent(score=float("inf")), values.PACKED),
        (Note("t", date(2026, 1, 1), {"a", "b"}), values.JSON),
        (Hidden(visible=1), values.JSON),
    ],
    ids=lambda v: v if isinstance(v, str) else type(v).__name__,
)
async def test_models_and_dataclasses_come_back_by_their_class(value: Any, content_type: str) -> None:
    storage = StorageManager(backend=MemoryBackend())
    await storage.save("m", value)
    assert (await storage.info("m")).content_type == content_type
    loaded = await storage.load("m", type(value))
    assert type(loaded) is type(value)
    assert loaded == value


async def test_a_dataclass_with_an_array_comes_back() -> None:
    storage = StorageManager(backend=MemoryBackend())
    await storage.save("v", Vector(np.arange(3)))
    assert same((await storage.load("v", Vector)).values, np.arange(3))


@pytest.mark.parametrize(
    "value", [Hidden(visible=1, hidden=5), Secretive(key=SecretStr("k")), print], ids=repr
)
async def test_a_model_that_would_lose_something_is_refused_and_nothing_is_stored(value: Any) -> None:
    storage = StorageManager(backend=MemoryBackend())
    with pytest.raises(SerializationError):
        await storage.save("m", value)
    changed = NotFromInit(1)
    changed.b = 5
    with pytest.raises(SerializationError):
        await storage.save("m", changed)
    with pytest.raises(KeyNotFoundError):
        await storage.load("m")


class Base(BaseModel):
    a: int = 1


class Derived(Base):
    b: int = 2


class Twin(BaseModel):
    a: int = 1


@dataclass
class Loose:
    v: Any


class Team(BaseModel):
    lead: Base | None = None
    either: Base | Twin | None = None
    members: list[Any] = []
    by_name: dict[str, Any] = {}


class Open(BaseModel, extra="allow"):
    a: int = 1


class Counting(BaseModel):
    a: int = 1
    _count: int = PrivateAttr(default=0)

    def counted(self) -> Counting:
        self._count += 1
        return self


class Masked(BaseModel):
    key: str

    @field_serializer("key")
    def mask(self, _: str) -> str:
        return "***"


class Places(BaseModel):
    folder: Path
    address: IPv4Address
    ordered: OrderedDict[str, int]
    flags: list[Any] = []


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (Team(lead=Derived(b=7)), "lead"),
        (Team(either=Twin(a=5)), "either"),
        (Team(members=[{}, Base()]), "members[1]"),
        (Team(by_name={"x": {"y": Base()}}), "by_name.x.y"),
        (Loose(Loose(1)), "v"),
        (Loose([Loose(1)]), "v[0]"),
        (Loose([Colour.RED]), "v[0]"),
        (Open(more=Base()), "more"),  # pyright: ignore[reportCallIssue]
        (Counting().counted(), "_count"),
        (Masked(key="secret"), "key"),
        (NotFromInit("1"), "a"),  # pyright: ignore[reportArgumentType]
        (NotFromInit(True), "a"),
    ],
    ids=repr,
)
async def test_a_model_that_would_come_back_with_other_types_is_refused(value: Any, place: str) -> None:
    storage = StorageManager(backend=MemoryBackend())
    with pytest.raises(SerializationError) as refused:
        await storage.save("m", value)
    assert refused.value.field == place
    assert "secret" not in str(refused.value)
    assert not await storage.exists("m")


@pytest.mark.parametrize(
    "value",
    [
        Team(lead=Base(a=2), either=Base(a=3), members=[1, 1.0, True, None, "x", [], {}]),
        Loose([(1, b"\xff"), {1: Decimal("1.20")}, float("nan"), -0.0, {1, 2.5}]),
        Open(more=[1, {"a": None}], z=datetime(2026, 1, 1)),  # pyright: ignore[reportCallIssue]
        Counting(),
        Places(folder=Path("/x"), address=IPv4Address("10.0.0.1"), ordered=OrderedDict(b=1, a=2)),
    ],
    ids=lambda v: type(v).__name__,
)
async def test_a_model_comes_back_with_every_type_that_it_holds(value: Any) -> None:
    storage = StorageManager(backend=MemoryBackend())
    await storage.save("m", value)
    assert repr(await storage.load("m", type(value))) == repr(value)


def test_models_that_contain_themselves_are_refused() -> None:
    loop = Loose(None)
    loop.v = loop
    deep = Loose(None)
    for _ in range(150):
        deep = Loose([deep])
    for value in (loop, deep):
        with pytest.raises(SerializationError):
            values.encode(value)


async def test_json_that_was_sent_as_something_else_is_told_so() -> None:
    storage = StorageManager(backend=MemoryBackend())
    for content_type in (values.BYTES, "text/plain"):
        await storage.write("c", b'{"name": "ceo"}', content_type=content_type)
        for model in (dict, Tool):
            with pytest.raises(SerializationError, match=content_type) as refused:
                await storage.load("c", model)
            assert "Content-Type: application/json" in (refused.value.remedy or "")


def _local_class() -> Any:
    @dataclass
    class Inner:
        x: int

    @dataclass
    class Outer:
        inner: Inner  # a name that nobody can look up, since annotations are text here

    return Outer(Inner(1))


def test_an_annotation_that_can_not_be_resolved_is_named() -> None:
    value = _local_class()
    for use in (
        lambda: values.encode(value),
        lambda: values.decode_as(b"{}", values.JSON, type(value)),
    ):
        with pytest.raises(SerializationError, match=r"Outer cannot be resolved: .*'Inner'") as refused:
            use()
        assert "top of a module" in (refused.value.remedy or "")


async def test_a_mismatch_names_the_field() -> None:
    storage = StorageManager(backend=MemoryBackend())
    await storage.save("agents/x", {"id": "not a uuid", "created": "2026-01-01T00:00:00Z", "tools": [{}]})
    with pytest.raises(SerializationError) as refused:
        await storage.load("agents/x", Agent)
    assert "agents/x" in str(refused.value)
    assert refused.value.field == "id"
    assert "tools.0.name" in str(refused.value)
    assert await storage.load("agents/x", dict[str, Any]) == await storage.load("agents/x")


# -- content types


async def test_a_content_type_that_would_change_the_value_is_refused() -> None:
    storage = StorageManager(backend=MemoryBackend())
    for value, content_type in (
        (b"x", "text/plain"),
        (b"{}", "application/json"),
        ("x", "application/json"),
        ("ü", "text/plain; charset=latin-1"),
        ({"a": 1}, "text/plain"),
        ((1,), "application/json"),
    ):
        with pytest.raises(InvalidArgumentError) as refused:
            await storage.save("k", value, content_type=content_type)
        assert refused.value.field == "content_type"
    assert not await storage.exists("k")
    for value, content_type in (
        ("# Title", "text/markdown"),
        ({"a": 1}, "application/problem+json"),
        (b"%PDF", "application/pdf"),
    ):
        await storage.save("k", value, content_type=content_type)
        assert await storage.load("k") == value
        assert (await storage.info("k")).content_type == content_type


async def test_bytes_load_by_the_content_type_they_were_written_with() -> None:
    storage = StorageManager(backend=MemoryBackend())
    await storage.write("a", '{"ü": 1}'.encode(), content_type="application/json")
    assert await storage.load("a") == {"ü": 1}
    await storage.write("a", b"\xef\xbb\xbf[1]", content_type="application/json; charset=utf-8")
    assert await storage.load("a") == [1]
    await storage.write("a", "ü".encode("latin-1"), content_type="text/plain; charset=iso-8859-1")
    assert await storage.load("a") == "ü"
    await storage.write("a", b"\x00", content_type="image/png")
    assert await storage.load("a") == b"\x00"
    await storage.backend.objects.put("a", b"\xff", content_type="text/plain")
    with pytest.raises(SerializationError, match="'a'"):
        await storage.load("a")
    for body, content_type in ((b"{", "application/json"), (b"", "application/json"), (b"x", values.NPY)):
        with pytest.raises(SerializationError):
            await storage.write("b", body, content_type=content_type)
    assert not await storage.exists("b")


def test_an_offset_that_would_come_back_as_another_is_refused() -> None:
    moment = datetime(2026, 1, 1, tzinfo=timezone(timedelta(microseconds=1)))
    with pytest.raises(SerializationError, match="offset"):
        values.encode([moment])


async def test_json_is_checked_for_its_syntax_alone() -> None:
    storage = StorageManager(backend=MemoryBackend())
    for data in (b"[1e30]", b"1" * 4300, b'\xef\xbb\xbf{"title": "t", "day": "2026-01-01"}'):
        await storage.write("k", data, content_type="application/json")
        assert (await storage.read("k")).data == data
    assert await storage.load("k", Note) == Note("t", date(2026, 1, 1))
    for data in (b'{"a": 1,}', b'"\xff"', b"[" * 100_000 + b"]" * 100_000, b"nul"):
        with pytest.raises(SerializationError) as refused:
            await storage.write("k", data, content_type="application/json")
        assert refused.value.field == "data"
        assert "the data is not valid" in str(refused.value)


def test_named_time_zones_keep_the_instant_and_the_offset() -> None:
    moment = datetime(2026, 7, 1, 12, tzinfo=zoneinfo.ZoneInfo("Europe/Paris"))
    encoded = values.encode([moment, time(1, 2)])
    loaded = values.decode(encoded.data, encoded.content_type)
    assert loaded == [moment, time(1, 2)]
    assert loaded[0].utcoffset() == timedelta(hours=2)


class Turn(TypedDict):
    role: str
    content: str


@dataclass
class Conversation:
    turns: list[Turn]

    @functools.cached_property
    def length(self) -> int:
        return len(self.turns)


class Aliased(BaseModel):
    model_config = ConfigDict(alias_generator=lambda name: f"{name}X")
    a: int
    b: int = Field(default=0, validation_alias=AliasChoices("q", "r"))


class Outdated(BaseModel):
    a: int = Field(default=1, deprecated=True)


class Floats(BaseModel):
    s: set[float]


@pydantic.dataclasses.dataclass(config=ConfigDict(extra="allow"))
class Open:
    a: int


@pytest.mark.filterwarnings("error")
async def test_models_of_many_a_kind_come_back() -> None:
    storage = StorageManager(backend=MemoryBackend())
    remembered = Conversation([{"content": "hi", "role": "user"}])
    assert remembered.length == 1
    for value in (
        remembered,
        Aliased.model_validate({"aX": 1, "q": 2}),
        Outdated(),
        Floats(s={float("nan")}),
    ):
        await storage.save("m", value)
        back = await storage.load("m", type(value))
        assert type(back) is type(value)
        assert repr(back) == repr(value) or isinstance(value, Conversation)
    await storage.save("m", remembered)
    assert await storage.load("m", Conversation) == remembered
    await storage.write("sent", b'{"aX": 3, "r": 4}', content_type="application/json")
    assert await storage.load("sent", Aliased) == Aliased.model_validate({"aX": 3, "q": 4})


def test_what_a_class_does_not_declare_is_not_dropped() -> None:
    stray = Conversation([])
    stray.note = "kept?"  # type: ignore[attr-defined]
    for value in (stray, Open(a=1, z=5)):  # type: ignore[call-arg]
        with pytest.raises(SerializationError, match="is not a declared field"):
            values.encode(value)
