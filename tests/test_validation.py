"""The validation layer: what breaks a rule is refused on every way in, and nothing is stored."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import gzip
import json
import math
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage_lib.backends.file import FileStorageBackend
from storage_lib.backends.memory import MemoryBackend
from storage_lib.config import StorageConfig
from storage_lib.config.validation import Rule, ValidationOptions, from_env
from storage_lib.errors import (
    ConfigurationError,
    EncryptionError,
    IntegrityError,
    KeyNotFoundError,
    RuleViolationError,
)
from storage_lib.layers.validation import ValidationLayer
from storage_lib.layers.validation.schemas import Schema
from storage_lib.manager import StorageManager
from storage_lib.ports.backend import StorageBackend
from tests.effort import awaited, calls, examples
from tests.http_app import PlatformApp, serve
from tests.layer_stacks import LAYERS

CONFIG = {
    "type": "object",
    "properties": {
        "model": {"type": "string", "minLength": 1},
        "temperature": {"type": "number", "minimum": 0, "maximum": 2},
        "tools": {"type": "array", "items": {"$ref": "#/$defs/tool"}, "uniqueItems": True},
    },
    "required": ["model"],
    "additionalProperties": False,
    "$defs": {"tool": {"type": "object", "required": ["na/me"]}},
}


class Config(pydantic.BaseModel, extra="forbid"):
    model: str
    steps: list[int] = []


@dataclasses.dataclass
class Note:
    text: str


@pytest.fixture(params=["memory", "file"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> StorageBackend:
    return MemoryBackend() if request.param == "memory" else FileStorageBackend(tmp_path)


def manager(backend: StorageBackend, *rules: Rule, **options: Any) -> StorageManager:
    return StorageManager(backend=ValidationLayer(backend, ValidationOptions(rules=rules, **options)))


async def refused(work: Awaitable[Any]) -> RuleViolationError:
    with pytest.raises(RuleViolationError) as caught:
        await work
    error = caught.value
    assert error.rule
    assert repr(error.rule) in error.message
    assert error.field
    assert error.remedy
    return error


# -- every way in

WAYS: dict[str, Callable[[StorageManager, str, Any], Awaitable[Any]]] = {
    "save": lambda s, key, value: s.save(key, value),
    "write": lambda s, key, value: s.write(key, json.dumps(value).encode(), content_type="application/json"),
    "write_stream": lambda s, key, value: s.write_stream(
        key, iter([json.dumps(value).encode()]), content_type="application/json"
    ),
    "update": lambda s, key, value: s.update(key, lambda _: value, initial={}),
    "copy": lambda s, key, value: _copied(s, key, value),
    "move": lambda s, key, value: _moved(s, key, value),
    "put": lambda s, key, value: s.backend.objects.put(
        key, json.dumps(value).encode(), content_type="application/vnd.config+json"
    ),
    "save_many": lambda s, key, value: _saved_many(s, key, value),
}


async def _copied(storage: StorageManager, key: str, value: Any) -> None:
    await storage.save("elsewhere/x", value)
    await storage.copy("elsewhere/x", key)


async def _moved(storage: StorageManager, key: str, value: Any) -> None:
    await storage.save("elsewhere/x", value)
    try:
        await storage.move("elsewhere/x", key)
    except RuleViolationError:
        assert await storage.load("elsewhere/x") == value
        raise


async def _saved_many(storage: StorageManager, key: str, value: Any) -> None:
    found = (await storage.save_many({key: value}))[key]
    if isinstance(found, Exception):
        raise found


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"model": 5}, "/model"),
        ({}, "/model"),
        ({"model": "m", "temperature": 3}, "/temperature"),
        ({"model": "m", "tools": [{"na/me": 1}, {"na~me": 2}]}, "/tools/1/na~1me"),
        ({"model": "m", "more": 1}, "/more"),
        (["model"], "value"),
        (5, "value"),
    ],
    ids=["type", "required", "maximum", "in a reference", "additional", "array", "number"],
)
async def test_a_value_that_breaks_the_schema_is_refused_on_every_way_in(
    backend: StorageBackend, way: str, value: Any, field: str
) -> None:
    storage = manager(backend, Rule(prefix="configs/", schema=CONFIG, max_value_bytes=16_000_000))
    error = await refused(WAYS[way](storage, "configs/a", value))
    assert (error.rule, error.requirement, error.field) == ("configs/", "schema", field)
    assert "configs/a" in error.message
    assert not await storage.exists("configs/a")
    good = {"model": "large", "temperature": 0.5, "tools": [{"na/me": 1}]}
    await WAYS[way](storage, "configs/a", good)
    assert await storage.load("configs/a") == good
    if way != "update":
        await refused(WAYS[way](storage, "configs/a", value))
        assert await storage.load("configs/a") == good


async def test_a_long_stream_is_checked_before_it_is_sent(backend: StorageBackend) -> None:
    storage = manager(backend, Rule(prefix="configs/", schema=CONFIG, max_value_bytes=16_000_000))

    async def write(value: bytes) -> None:
        spaces = [b" " * 1_000_000] * 9
        await storage.write_stream("configs/a", iter([*spaces, value]), content_type="application/json")

    assert (await refused(write(b'{"model": 1}'))).field == "/model"
    assert await storage.list_keys() == []
    await write(b'{"model": "m"}')
    assert await storage.load("configs/a") == {"model": "m"}


async def test_http_puts_are_refused_with_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = (
        Rule(prefix="configs/", schema=CONFIG),
        Rule(prefix="texts/", content_types=("text/*",), max_bytes=10, required_metadata=("owner",)),
    )
    config = StorageConfig(base_path=str(tmp_path), validation=ValidationOptions(rules=rules))
    async with serve(monkeypatch, config) as app:
        await _http_puts(app)


async def _http_puts(app: PlatformApp) -> None:
    as_json, as_text = {"content-type": "application/json"}, {"content-type": "text/plain"}
    answer = await app("PUT", "/api/objects/configs/a", b'{"model": []}', as_json)
    problem = answer.problem
    assert (answer.status, problem["code"], problem["field"]) == (422, "rule-violation", "/model")
    assert problem["rule"] == "configs/"
    assert problem["limit"] == "type string"
    assert problem["remedy"]
    assert problem["title"] == "Unprocessable Content"
    assert (await app("GET", "/api/objects/configs/a")).status == 404
    assert (await app("PUT", "/api/objects/configs/a", b'{"model": "m"}', as_json)).status == 201
    for headers, body, status, field in (
        (as_json, b"1", 415, "Content-Type"),
        (as_text, b"12345678901", 422, "x-meta-*"),
        ({**as_text, "x-meta-owner": "me"}, b"12345678901", 413, "body"),
    ):
        answer = await app("PUT", "/api/objects/texts/a", body, headers)
        assert (answer.status, answer.problem["field"]) == (status, field)
        assert answer.problem["limit"]
    good = await app("PUT", "/api/objects/texts/a", b"1234567890", {**as_text, "x-meta-owner": "me"})
    assert good.status == 201


async def test_broken_stored_objects_are_an_error_of_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await StorageManager(StorageConfig(base_path=str(tmp_path))).save("configs/a", {"model": 1})
    rule = Rule(prefix="configs/", schema=CONFIG, on_read=True)
    config = StorageConfig(base_path=str(tmp_path), validation=ValidationOptions(rules=(rule,)))
    async with serve(monkeypatch, config) as app:
        answer = await app("GET", "/api/objects/configs/a")
        assert (answer.status, answer.problem["code"]) == (500, "rule-violation")


# -- which rules count


async def test_every_rule_counts_whose_prefix_the_key_starts_with() -> None:
    storage = manager(
        MemoryBackend(), Rule(max_bytes=100, name="all"), Rule(prefix="a/", content_types=("text/plain",))
    )
    assert (await refused(storage.save("a/x", 1))).rule == "a/"
    assert (await refused(storage.save("a/x", "y" * 101))).rule == "all"
    assert (await refused(storage.save("b", "y" * 101))).rule == "all"
    await storage.save("a/x", "y" * 100)
    await storage.save("b", 1)


async def test_the_librarys_own_objects_have_no_rules() -> None:
    layer = ValidationLayer(MemoryBackend(), ValidationOptions(rules=(Rule(schema=False, quota_objects=0),)))
    await layer.objects.put(".system/tasks/payload", b"1")
    await layer.objects.put_stream(".system/tasks/long", iter([b"1" * 9_000_000]))
    await layer.objects.copy(".system/tasks/payload", ".system/tasks/copy")
    await refused(layer.objects.put("system", b"1"))


@pytest.mark.parametrize(
    ("demand", "value"),
    [
        ({"schema": CONFIG}, {"model": "a"}),
        ({"model": Config}, {"model": "a"}),
        ({"content_types": ("text/plain",)}, "text"),
        ({"required_metadata": ("owner",), "allowed_metadata": ("saved-at",)}, 1),
        ({"max_bytes": 20}, {"model": "a"}),
    ],
    ids=["schema", "model", "content type", "metadata", "size"],
)
async def test_rules_are_for_versions_and_not_for_the_record_of_which_is_current(
    backend: StorageBackend, demand: dict[str, Any], value: Any
) -> None:
    storage = manager(backend, Rule(prefix="configs/", on_read=True, **demand))
    metadata = {"owner": "me"}
    assert await storage.save_versioned("configs/a", value, metadata=metadata) == 1
    assert await storage.save_versioned("configs/a", value, metadata=metadata) == 2
    assert await storage.load_version("configs/a") == value
    await refused(storage.save_versioned("configs/a", {"temperature": 3, "long": "x" * 50}))
    assert len(await storage.list_versions("configs/a")) == 2
    # Others cannot use its name to get round the rule.
    await refused(storage.write("configs/a/current", b'{"v":1, "long": "xxxxxxxxxxxxxxxxxxxx"}'))


async def test_reads_and_deletions_are_never_refused(backend: StorageBackend) -> None:
    await StorageManager(backend=backend).save("a", {"x": 1})
    storage = manager(
        backend, Rule(schema=False, content_types=("text/plain",), max_bytes=0, quota_objects=0)
    )
    assert await storage.load("a") == {"x": 1}
    assert (await storage.info("a")).size == 7
    async with storage.open_reader("a") as reader:
        assert await reader.read() == b'{"x":1}'
    assert await storage.list_keys() == ["a"]
    await storage.delete("a")
    assert not await storage.exists("a")


# -- types, metadata, sizes


async def test_content_types() -> None:
    storage = manager(MemoryBackend(), Rule(content_types=["application/json", "text/*"]))  # type: ignore[arg-type]
    await storage.save("a", {})
    await storage.write("a", b"x", content_type="text/html; charset=utf-8")
    await storage.write("a", b"{}", content_type="Application/JSON")
    for kind in ("application/problem+json", "image/png", "texts/plain"):
        error = await refused(storage.write("a", b"{}", content_type=kind))
        assert (error.requirement, error.field) == ("content_types", "content_type")
        assert error.limit == "application/json, text/*"


async def test_metadata() -> None:
    storage = manager(
        MemoryBackend(),
        Rule(required_metadata=("owner",), allowed_metadata=("class",)),
        Rule(prefix="x/", max_bytes=9),
    )
    await storage.save("x/a", 1, metadata={"owner": "me"}, ttl=60)
    await storage.save("x/a", 1, metadata={"owner": "me", "class": "public"}, if_match="*")
    assert (
        await refused(storage.save("x/a", 1, metadata={"class": "public"}))
    ).requirement == "required_metadata"
    error = await refused(storage.save("x/a", 1, metadata={"owner": "me", "other": "1"}))
    assert (error.requirement, error.field, error.limit) == ("allowed_metadata", "metadata", "class, owner")
    assert "'other'" in error.message
    await storage.copy("x/a", "x/b")


async def test_a_stream_is_cut_off_at_the_limit_and_leaves_nothing(backend: StorageBackend) -> None:
    storage = manager(backend, Rule(max_bytes=20_000_000))
    taken = 0

    async def source() -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(1000):
            taken += 1_000_000
            yield b"x" * 1_000_000

    error = await refused(storage.write_stream("a", source()))
    assert (error.requirement, error.limit) == ("max_bytes", "20000000 bytes")
    assert taken < 45_000_000
    assert await storage.list_keys() == []
    assert [name async for name in backend.objects.iterate()] == []
    await storage.write_stream("a", iter([b"x" * 1_000_000] * 20))
    assert (await storage.info("a")).size == 20_000_000


async def test_a_stream_too_long_for_the_schema_is_refused() -> None:
    storage = manager(MemoryBackend(), Rule(schema={"type": "array"}, max_value_bytes=9_000_000))
    parts = [b"[", *[b"0," * 500_000] * 9, b"0]"]
    error = await refused(storage.write_stream("a", iter(parts), content_type="application/json"))
    assert (error.requirement, error.limit) == ("max_value_bytes", "9000000 bytes")
    assert (await refused(storage.save("a", [0] * 5_000_000))).requirement == "max_value_bytes"
    assert await storage.list_keys() == []


# -- values beyond JSON


@pytest.mark.parametrize(
    ("value", "schema"),
    [
        ({"v": (1, 2)}, {"type": "array", "items": {"type": "integer"}}),
        ({"v": {3}}, {"type": "array", "minItems": 1}),
        ({"v": b"abc"}, {"const": "YWJj"}),
        (
            {"v": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)},
            {"type": "string", "format": "date-time"},
        ),
        ({"v": datetime.date(2026, 1, 2)}, {"const": "2026-01-02"}),
        ({"v": datetime.timedelta(minutes=1)}, {"type": "number", "maximum": 60}),
        ({"v": uuid.UUID(int=5)}, {"type": "string", "format": "uuid"}),
        ({"v": Decimal("12.50")}, {"type": "number", "multipleOf": 0.5}),
        ({"v": Decimal("1e30")}, {"type": "integer"}),
        ({"v": np.array([[1.5, 2.5]])}, {"type": "array", "items": {"type": "array", "maxItems": 2}}),
        ({"v": np.float32(1.5)}, {"type": "number", "minimum": 1}),
        ({"v": np.array(["2026-01-01"], dtype="datetime64[D]")}, {"items": {"const": "2026-01-01"}}),
        ({"v": 10**30}, {"type": "integer"}),
    ],
    ids=lambda value: type(value["v"]).__name__ if "v" in value else "",
)
async def test_packed_values_are_checked_as_the_json_that_stands_for_them(value: Any, schema: Any) -> None:
    rules = (
        Rule(schema={"properties": {"v": schema}}, formats=True),
        Rule(prefix="not/", schema={"properties": {"v": {"not": schema}}}),
    )
    storage = manager(MemoryBackend(), *rules)
    await storage.save("a", value)
    assert type(await storage.load("a")) is dict
    assert (await refused(storage.save("not/a", value))).field == "/v"


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"v": [0.0, math.nan]}, "/v/1"),
        ({"v": np.array([1.0, math.inf])}, "/v/1"),
        ({"v": Decimal("NaN")}, "/v"),
        ({"v": {1: 2}}, "/v"),
        ({"v": np.array([1j])}, "/v/0"),
    ],
    ids=["nan", "infinite in an array", "decimal", "keys", "complex"],
)
async def test_what_json_cannot_express_is_refused_by_a_schema(value: Any, field: str) -> None:
    storage = manager(
        MemoryBackend(), Rule(prefix="a", schema={"type": "object", "properties": {"v": {"maximum": 5}}})
    )
    await storage.save("b", value)
    assert (await refused(storage.save("a", value))).field == field
    assert (await refused(storage.copy("b", "a"))).field == field


async def test_other_types_cannot_evade_a_schema() -> None:
    """Most keywords say nothing about a text: ``required`` holds for every one."""
    storage = manager(MemoryBackend(), Rule(schema={"required": ["model"]}))
    for kind in ("text/plain", "application/octet-stream", "application/x-yaml", "application/x-npy"):
        error = await refused(storage.backend.objects.put("a", b"{}", content_type=kind))
        assert (error.requirement, error.field) == ("schema", "content_type")
    await refused(storage.save("a", b"{}"))
    names = manager(
        MemoryBackend(), Rule(schema={"type": ["string", "array"], "maxLength": 3, "maxItems": 2})
    )
    await names.save("a", "Ann")
    await names.save("a", np.array([1, 2]))
    await refused(names.save("a", "Anna"))
    await refused(names.save("a", np.array([1, 2, 3])))
    await refused(names.save("a", b"Ann"))


async def test_bytes_that_are_not_json_are_refused() -> None:
    layer = ValidationLayer(MemoryBackend(), ValidationOptions(rules=(Rule(schema=True),)))
    for data in (b"", b"{", b'{"a": NaN}', b"[" * 1000):
        assert (
            await refused(layer.objects.put("a", data, content_type="application/json"))
        ).requirement == "schema"


# -- models


@pytest.mark.parametrize("way", WAYS)
async def test_models(backend: StorageBackend, way: str) -> None:
    storage = manager(backend, Rule(prefix="configs/", model=Config))
    for value, field in (
        ({"model": "m", "steps": [1, "x"]}, "/steps/1"),
        ({}, "/model"),
        ({"model": "m", "z": 1}, "/z"),
        (5, "value"),
    ):
        error = await refused(WAYS[way](storage, "configs/a", value))
        assert (error.requirement, error.field) == ("model", field)
    await WAYS[way](storage, "configs/a", {"model": "m", "steps": [1]})
    assert await storage.load("configs/a", Config) == Config(model="m", steps=[1])


async def test_dataclasses_and_saved_models() -> None:
    storage = manager(MemoryBackend(), Rule(prefix="n/", model=Note), Rule(prefix="c/", model=Config))
    await storage.save("n/a", Note("x"))
    await storage.save("c/a", Config(model="m"))
    assert (await refused(storage.save("n/a", Config(model="m")))).requirement == "model"
    assert (await refused(storage.save("n/a", b"x"))).field == "content_type"


# -- on read


@pytest.mark.parametrize("by_type", [False, True])
async def test_reads_check_by_choice(backend: StorageBackend, by_type: bool) -> None:
    rule = Rule(content_types=("text/plain",), on_read=True) if by_type else Rule(schema=CONFIG, on_read=True)
    plain, storage = StorageManager(backend=backend), manager(backend, rule)
    await plain.save("bad", {"model": 1})
    await plain.save("gone", {"model": 1}, ttl=0)
    for read in (storage.load("bad"), storage.read("bad"), _streamed(storage, "bad")):
        error = await refused(read)
        assert error.stored
        assert "stored" in error.message
    with pytest.raises(KeyNotFoundError):
        await storage.load("gone")
    await storage.delete("bad")
    good: Any = "text" if by_type else {"model": "m"}
    await storage.save("good", good)
    assert await storage.load("good") == good
    assert await _streamed(storage, "good") == (await storage.read("good")).data
    etag = (await storage.info("good")).etag
    assert await storage.read_if_changed("good", etag) is None


@pytest.mark.parametrize("layer", ["compression", "encryption"])
async def test_reads_check_what_a_layer_has_stored_that_is_off_now(
    backend: StorageBackend, layer: str
) -> None:
    then, storage = (
        StorageManager(backend=LAYERS[layer](backend)),
        manager(backend, Rule(schema=CONFIG, on_read=True)),
    )
    await then.save("good", {"model": "m" * 5000})
    await then.save("bad", {"model": 1, "more": "m" * 5000})
    for read in (storage.load, lambda key: _streamed(storage, key)):
        if layer == "encryption":
            for key in ("good", "bad"):
                with pytest.raises(EncryptionError):
                    await read(key)
        else:
            assert await read("good")
            assert (await refused(read("bad"))).stored


async def _streamed(storage: StorageManager, key: str) -> bytes:
    async with storage.open_reader(key) as reader:
        return await reader.read()


async def test_damage_is_told_before_a_broken_rule() -> None:
    backend = MemoryBackend()
    storage = manager(backend, Rule(schema=CONFIG, on_read=True))
    await storage.save("a", {"model": "m"})
    stored: Any = backend.objects.driver
    stored._objects["a"] = dataclasses.replace(stored._objects["a"], data=b'{"model":5}!')
    for read in (storage.load("a"), _streamed(storage, "a"), storage.copy("a", "b")):
        with pytest.raises(IntegrityError):
            await read


async def test_encoded_objects_of_other_programs_are_decoded_for_their_copy() -> None:
    from storage_lib.ports.drivers import PutOptions

    backend = MemoryBackend()
    storage = manager(backend, Rule(prefix="in/", schema=CONFIG))
    for name, value in (("good", {"model": "m"}), ("bad", {})):
        data = gzip.compress(json.dumps(value).encode())
        await backend.objects.driver.put(
            name,
            data,
            PutOptions("application/json", {"aos-content-encoding": "gzip"}, sha256(data).hexdigest()),
        )
    await storage.copy("good", "in/good")
    assert await storage.load("in/good") == {"model": "m"}
    assert (await refused(storage.copy("bad", "in/bad"))).field == "/model"


# -- hostile values and schemas


async def test_unique_items_take_time_proportional_to_the_array() -> None:
    rule = Rule(schema={"items": {"type": "object"}, "uniqueItems": True})
    storage = manager(MemoryBackend(), rule)
    value: list[Any] = [{"n": n} for n in range(30_000)]
    began = time.process_time()
    await storage.save("a", value)
    assert time.process_time() - began < 60  # jsonschema alone takes many minutes
    await refused(storage.save("a", [*value, {"n": 5.0}]))


def test_unique_items_mean_what_json_schema_says() -> None:
    unique = Schema({"uniqueItems": True}, formats=False, field="s")
    for same in (
        [1, 1.0],
        [[1], [1.0]],
        [{"a": 1, "b": 2}, {"b": 2, "a": 1}],
        [10**30, 10**30],
        ["x", "x"],
        [None, None],
    ):
        assert unique.problem(same) is not None, same
    for other in (
        [1, True],
        [0, False],
        ["1", 1],
        [10**30, str(10**30)],
        [[], {}],
        [{"a": None}, {}],
        [None, "null"],
    ):
        assert unique.problem(other) is None, other


EXPRESSION = {
    "$ref": "#/$defs/expression",
    "$defs": {
        "expression": {
            "anyOf": [
                {"type": "number"},
                *(
                    {"properties": {"op": {"const": op}, "of": {"$ref": "#/$defs/expression"}}}
                    for op in ("minus", "root")
                ),
            ]
        }
    },
}


async def test_a_small_value_that_takes_for_ever_to_check_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage_lib.layers.validation.allowance.SECONDS", 0.5)
    storage = manager(MemoryBackend(), Rule(schema=EXPRESSION))

    def nested(depth: int) -> Any:
        return {"op": "root", "of": nested(depth - 1)} if depth else 1

    await storage.save("shallow", nested(4))
    turns = 0
    saving = asyncio.create_task(refused(storage.save("deep", nested(40))))
    while not saving.done():
        await asyncio.sleep(0.001)
        turns += 1
    assert "too long" in (await saving).message
    assert turns > 5  # The event loop was free meanwhile.


async def test_ordinary_values_with_many_references_are_checked_to_their_end() -> None:
    storage = manager(
        MemoryBackend(), Rule(schema={"items": {"$ref": "#/$defs/n"}, "$defs": {"n": {"type": "number"}}})
    )
    for count in (50, 150, 2000):
        await storage.save("a", [0] * count)
        error = await refused(storage.save("a", [*[0] * count, "x"]))
        assert error.field == f"/{count}"


async def test_large_values_leave_the_event_loop_free() -> None:
    storage = manager(MemoryBackend(), Rule(schema={"items": {"type": "integer", "minimum": 0}}))
    done = asyncio.ensure_future(storage.save("a", list(range(30_000))))
    turns = 0
    while not done.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 20


async def test_deep_values_are_checked_or_refused() -> None:
    value: Any = {}
    for _ in range(98):
        value = {"c": value}
    nested = {"properties": {"c": {"allOf": [{"anyOf": [{"$ref": "#"}]}]}}, "additionalProperties": False}
    storage = manager(MemoryBackend(), Rule(schema=nested))
    before = sys.getrecursionlimit()
    await storage.save("a", value)
    sys.setrecursionlimit(500)  # As a schema of more levels would need.
    try:
        error = await refused(storage.save("b", value))
    finally:
        sys.setrecursionlimit(before)
    assert "nested" in error.message


@pytest.mark.parametrize("demand", [{"schema": CONFIG}, {"model": Config}], ids=["schema", "model"])
async def test_errors_are_short_whatever_the_names_in_the_value(demand: dict[str, Any]) -> None:
    storage = manager(MemoryBackend(), Rule(**demand))
    error = await refused(storage.save("a", {"model": "a", "k" * 1_000_000: 1}))
    assert len(str(error)) < 2000
    assert len(error.field or "") <= 200


async def test_errors_do_not_carry_the_value() -> None:
    storage = manager(
        MemoryBackend(), Rule(schema={"properties": {"k": {"maxLength": 3}, "o": {"enum": ["x" * 9999]}}})
    )
    error = await refused(storage.save("a", {"k": "secret-value" * 1000}))
    assert "secret" not in f"{error.message} {error.limit} {error.remedy}"
    assert len((await refused(storage.save("a", {"o": 1}))).limit or "") < 300


# -- configuration


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"type": "objekt"}, "rules[0].schema/type"),
        ({"properties": {"a": {"minimum": "1"}}}, "rules[0].schema/properties/a/minimum"),
        ({"properties": {"a": {"pattern": "("}}}, "rules[0].schema/properties/a/pattern"),
        ({"$schema": "https://example.com/mine"}, "rules[0].schema/$schema"),
        ({"$schema": {}}, "rules[0].schema/$schema"),
        ({"$ref": "https://example.com/other.json"}, "rules[0].schema"),
        ({"properties": {"a": {"items": {"$ref": "other.json#/x"}}}}, "rules[0].schema"),
        ({"$ref": "#/$defs/missing"}, "rules[0].schema"),
        ({"$ref": "file:///etc/passwd"}, "rules[0].schema"),
        ({"$ref": "#"}, "rules[0].schema"),
        *(
            (
                {
                    "$schema": f"http://json-schema.org/draft-0{draft}/schema#",
                    "items": {"patternProperties": {"(": {}}},
                },
                place,
            )
            for draft, place in (
                (3, "rules[0].schema"),
                (4, "rules[0].schema"),
                (7, "rules[0].schema/items"),
            )
        ),
        ({"format": "isbn"}, "rules[0].schema"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_schema_that_cannot_work_is_refused_at_the_start(schema: Any, place: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ValidationLayer(MemoryBackend(), ValidationOptions(rules=(Rule(schema=schema, formats=True),)))
    assert caught.value.field == place


async def test_nothing_is_fetched_for_a_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr("socket.socket.connect", fail)
    schema = {
        "$id": "https://example.com/config",
        "$schema": "http://json-schema.org/draft-07/schema#",
        "properties": {"a": {"$ref": "config#/definitions/n"}, "b": {"$ref": "#named"}},
        "definitions": {"n": {"type": "number"}, "m": {"$id": "#named", "type": "string"}},
    }
    storage = manager(MemoryBackend(), Rule(schema=schema))
    await storage.save("a", {"a": 1, "b": "x"})
    assert (await refused(storage.save("a", {"a": "1"}))).field == "/a"
    assert (await refused(storage.save("a", {"b": 1}))).field == "/b"


@pytest.mark.parametrize(
    "dialect",
    [
        "http://json-schema.org/draft-03/schema#",
        "http://json-schema.org/draft-04/schema#",
        "http://json-schema.org/draft-06/schema#",
        "http://json-schema.org/draft-07/schema",
        "https://json-schema.org/draft/2019-09/schema",
        "https://json-schema.org/draft/2020-12/schema",
    ],
)
def test_every_draft_is_understood(dialect: str) -> None:
    schema = {
        "$schema": dialect,
        "definitions": {"n": {"type": "integer"}},
        "properties": {"a": {"$ref": "#/definitions/n"}, "b": {"uniqueItems": True}},
    }
    ready = Schema(schema, formats=True, field="s")
    assert ready.problem({"a": 1, "b": [1, 2]}) is None
    assert (found := ready.problem({"a": "1"})) is not None
    assert found.pointer == "/a"
    assert ready.problem({"b": [1, 1.0]}) is not None


@pytest.mark.parametrize(
    ("format", "good", "bad"),
    [
        ("date-time", "2026-01-02T03:04:05.5Z", "2026-01-02 03:04:05Z"),
        ("date-time", "2016-12-31T23:59:60Z", "2026-02-30T00:00:00Z"),
        ("date-time", "2026-01-02t03:04:05+02:00", "2026-01-02T03:60:05Z"),
        ("time", "03:04:05Z", "25:00:00Z"),
        ("date", "2026-01-02", "2026-13-02"),
        ("uri", "https://example.com/a?b=c#d", "not a uri"),
        ("email", "a@example.com", "a"),
        ("uuid", "12345678-1234-1234-1234-123456789abc", "1234"),
        ("ipv4", "127.0.0.1", "300.0.0.1"),
        ("ipv6", "::1", "::g"),
    ],
)
def test_formats_are_checked_by_choice_whatever_is_installed(format: str, good: str, bad: str) -> None:
    checked, unchecked = (Schema({"format": format}, formats=on, field="s") for on in (True, False))
    assert checked.problem(good) is None
    assert checked.problem(5) is None
    assert checked.problem(bad) is not None
    assert unchecked.problem(bad) is None


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({}, "prefix"),
        ({"prefix": "/a", "max_bytes": 1}, "prefix"),
        ({"prefix": ".system/", "max_bytes": 1}, "prefix"),
        ({"max_bytes": -1}, "max_bytes"),
        ({"max_bytes": True}, "max_bytes"),
        ({"max_bytes": "1"}, "max_bytes"),
        ({"quota_bytes": 1.5}, "quota_bytes"),
        ({"quota_objects": 1, "warn_at": 0}, "warn_at"),
        ({"quota_objects": 1, "warn_at": 80}, "warn_at"),
        ({"content_types": ["json"]}, "content_types"),
        ({"content_types": ["text/plain; charset=utf-8"]}, "content_types"),
        ({"content_types": "text/*"}, "content_types"),
        ({"required_metadata": ["Owner"]}, "required_metadata"),
        ({"allowed_metadata": ["aos-x"]}, "allowed_metadata"),
        ({"schema": "{}"}, "schema"),
        ({"model": "module"}, "model"),
        ({"schema": True, "max_value_bytes": 0}, "max_value_bytes"),
        ({"schema": True, "on_read": 1}, "on_read"),
    ],
    ids=str,
)
def test_options_that_cannot_work_are_named(options: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Rule(**options)
    assert caught.value.field == field
    assert caught.value.limit


def test_rules_need_names_of_their_own() -> None:
    with pytest.raises(ConfigurationError, match="'a/'"):
        ValidationOptions(rules=(Rule(prefix="a/", max_bytes=1), Rule(prefix="a/", max_bytes=2)))
    ValidationOptions(rules=(Rule(prefix="a/", max_bytes=1), Rule(prefix="a/", max_bytes=2, name="b")))


RULES = '{"rules": [{"prefix": "configs/", "schema": {"type": "object"}, "max_bytes": 1000}]}'


@pytest.mark.parametrize("form", ["inline", "list", "file"])
def test_rules_come_from_a_setting(form: str, tmp_path: Path) -> None:
    file = tmp_path / "rules.json"
    file.write_text("\ufeff" + RULES)
    setting = {"inline": f"  {RULES}\n", "list": RULES[len('{"rules":') : -1], "file": str(file)}[form]
    found = from_env({"AGENT_STORAGE_VALIDATION": setting})
    assert found == ValidationOptions(
        rules=(Rule(prefix="configs/", schema={"type": "object"}, max_bytes=1000),)
    )
    config = StorageConfig.from_env({"AGENT_STORAGE_VALIDATION": setting, "AGENT_STORAGE_TYPE": "memory"})
    assert config.validation == found


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("/nowhere/rules.json", "/nowhere/rules.json"),
        ("true", "'true'"),
        ('{"rules": [}', "JSON"),
        ('{"rules": [{"prefix": 5}]}', "rules[0].prefix"),
        ('{"rules": [{"max_bytes": 1}, {"prefix": "a", "max_byte": 1}]}', "rules[1]"),
        ('{"rules": [{"max_bytes": 1}, {"prefix": "a", "max_bytes": -1}]}', "rules[1].max_bytes"),
        ('{"rules": [{"prefix": "a"}]}', "rules[0].prefix"),
        ('{"rules": {}}', "rules"),
        ('{"rule": []}', "rule"),
        ('{"rules": [], "modules": ["os"]}', "modules"),
        ('{"rules": [{"model": "os:system"}]}', "rules[0].model"),
        ('{"rules": [], "refresh_seconds": 0}', "refresh_seconds"),
    ],
)
def test_rules_that_cannot_be_read_are_refused_with_the_place(text: str, place: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        StorageConfig.from_env({"AGENT_STORAGE_VALIDATION": text, "AGENT_STORAGE_TYPE": "memory"})
    assert caught.value.field == "AGENT_STORAGE_VALIDATION"
    assert place in caught.value.message
    assert caught.value.remedy


def test_the_layer_is_off_without_its_setting() -> None:
    assert from_env({}) is None
    assert from_env({"AGENT_STORAGE_VALIDATION": "false"}) is None
    with pytest.raises(ConfigurationError):
        from_env({"AGENT_STORAGE_VALIDATION_MODULES": "a"})


async def test_models_are_imported_only_from_allowed_modules() -> None:
    text = '[{"model": "tests.test_validation:Config"}]'
    with pytest.raises(ConfigurationError, match=r"rules\[0\].model"):
        from_env({"AGENT_STORAGE_VALIDATION": text})
    with pytest.raises(ConfigurationError):
        from_env(
            {"AGENT_STORAGE_VALIDATION": text, "AGENT_STORAGE_VALIDATION_MODULES": "test, tests.test_val"}
        )
    with pytest.raises(ConfigurationError):
        Rule(model="tests.test_validation:Config.model_validate")
    options = from_env({"AGENT_STORAGE_VALIDATION": text, "AGENT_STORAGE_VALIDATION_MODULES": "x, tests"})
    assert options is not None
    storage = StorageManager(backend=ValidationLayer(MemoryBackend(), options))
    assert (await refused(storage.save("a", {}))).field == "/model"
    missing = ValidationOptions(rules=(Rule(model="tests.nothing:Config"),), modules=("tests",))
    for options in (missing, ValidationOptions(rules=(Rule(model=5),))):
        with pytest.raises(ConfigurationError, match="cannot be imported or is no model"):
            ValidationLayer(MemoryBackend(), options)


def test_no_schema_imports_no_jsonschema() -> None:
    import subprocess

    code = (
        "import sys, function_app; from storage_lib.factory import build;"
        "from storage_lib.config import StorageConfig; from storage_lib.config.validation import *;"
        "rules = (Rule(max_bytes=1, quota_objects=5),);"
        "build(StorageConfig(storage_type='memory', validation=ValidationOptions(rules=rules)));"
        "assert not {'jsonschema', 'referencing', 'pydantic'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# -- laws

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-5, 5) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "c"]), inner, max_size=3)
    ),
    max_leaves=8,
)
SCHEMAS: list[Any] = [
    {"type": "object", "required": ["a"]},
    {"type": ["array", "number"], "minimum": 0, "minItems": 1},
    {"anyOf": [{"type": "string"}, {"properties": {"a": {"type": "integer"}}, "required": ["a"]}]},
    {"not": {"type": "object"}},
    {"items": {"$ref": "#"}, "uniqueItems": True, "maxItems": 2},
    {"additionalProperties": {"type": "number"}},
]


@settings(max_examples=examples(60), deadline=None)
@given(value=JSON_VALUES, schema=st.sampled_from(SCHEMAS), old=st.booleans())
def test_a_refused_write_changes_nothing_and_an_accepted_one_satisfies_the_rule(
    value: Any, schema: Any, old: bool
) -> None:
    import jsonschema

    async def check() -> None:
        backend = MemoryBackend()
        if old:
            await StorageManager(backend=backend).save("k", {"old": 1}, metadata={"m": "1"})
            before = await StorageManager(backend=backend).read("k")
        storage = manager(backend, Rule(schema=schema))
        valid = not isinstance(value, str) and jsonschema.Draft202012Validator(schema).is_valid(value)
        try:
            await storage.save("k", value)
        except RuleViolationError:
            assert not valid
            if old:
                assert await StorageManager(backend=backend).read("k") == before
            else:
                assert not await storage.exists("k")
        else:
            assert valid
            assert await storage.load("k") == value

    asyncio.run(check())


# -- cost


def test_a_key_without_rules_costs_a_few_calls() -> None:
    """Two microseconds at most."""
    from storage_lib.ports.drivers import PutOptions

    inner = MemoryBackend()
    layer = ValidationLayer(
        inner, ValidationOptions(rules=tuple(Rule(prefix=f"{n}/", max_bytes=9) for n in range(20)))
    )
    options = PutOptions("text/plain", {}, "x")

    class Null:
        capabilities = inner.objects.driver.capabilities

        async def put(self, key: str, data: bytes, options: PutOptions) -> None:
            return None

    driver: Any = layer.objects.driver
    driver.inner = null = Null()

    def cost(put: Any) -> int:
        return calls(lambda: awaited(put("some/key", b"1", options)))

    assert cost(driver.put) - cost(null.put) <= 5


async def test_schemas_are_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import jsonschema

    storage = manager(MemoryBackend(), Rule(schema=CONFIG))
    monkeypatch.setattr(jsonschema.Draft202012Validator, "check_schema", None)
    for _ in range(3):
        await storage.save("a", {"model": "m"})


def test_options_travel() -> None:
    import copy
    import pickle

    options = ValidationOptions(rules=(Rule(schema=CONFIG, model=Config), Rule(prefix="q/", quota_objects=5)))
    assert pickle.loads(pickle.dumps(options)) == options  # noqa: S301
    assert msgspec.structs.asdict(copy.deepcopy(options))["rules"] == options.rules
