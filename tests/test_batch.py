"""`POST /api/batch`: each operation does and answers what its own route would, and none harms another."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from functions import batch
from storage_lib.backends.memory import MemoryBackend
from storage_lib.config import StorageConfig
from storage_lib.errors import (
    KeyNotFoundError,
    PreconditionFailedError,
    StorageUnavailableError,
)
from storage_lib.layers.base import Layer, Operation
from storage_lib.manager import StorageManager
from storage_lib.ports.backend import StorageBackend
from tests.http_app import AppAnswer, PlatformApp, config_of, serve
from tests.test_access_http import policy_file  # noqa: F401

JSON = {"Content-Type": "application/json"}


@pytest.fixture(params=["memory", "file"])
async def app(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[PlatformApp]:
    async with serve(monkeypatch, await config_of(request.param, None, tmp_path)) as app:
        yield app


async def sent(app: PlatformApp, operations: list[Any], **headers: str) -> AppAnswer:
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return await app("POST", "/api/batch", json.dumps({"operations": operations}).encode(), JSON | named)


async def results(app: PlatformApp, operations: list[Any], **headers: str) -> list[dict[str, Any]]:
    answer = await sent(app, operations, **headers)
    assert answer.status == 200, answer.body
    found = answer.json["results"]
    assert len(found) == len(operations)
    for each in found:
        assert ("problem" in each) == (each["status"] >= 400)
        if "problem" in each:
            assert each["problem"]["status"] == each["status"]
    return found


async def test_each_operation(platform_anywhere: PlatformApp) -> None:
    app = platform_anywhere
    operations: list[dict[str, Any]] = [
        {"op": "save", "key": "a/json", "value": {"n": 1}, "metadata": {"who": "Zoë"}, "ttl_seconds": 3600},
        {"op": "save", "key": "a/text", "text": "grüße"},
        {"op": "save", "key": "a/bytes", "base64": "AP8=", "content_type": "image/png"},
        {"op": "save", "key": "a/json", "value": [1.10], "if_none_match": "*"},
        {"op": "load", "key": "a/json"},
        {"op": "load", "key": "a/text"},
        {"op": "load", "key": "a/bytes"},
        {"op": "copy", "key": "a/text", "to": "a/copy"},
        {"op": "copy", "key": "a/text", "to": "a/copy"},
        {"op": "copy", "key": "a/text", "to": "a/copy", "if_none_match": "*"},
        {"op": "move", "key": "a/copy", "to": "a/moved"},
        {"op": "exists", "key": "a/copy"},
        {"op": "exists", "key": "a/moved"},
        {"op": "delete", "key": "a/moved"},
        {"op": "delete", "key": "a/moved"},
        {"op": "save", "key": "a/text", "text": "again"},
    ]
    found = await results(app, operations)
    statuses = [each["status"] for each in found]
    assert statuses == [201, 201, 201, 412, 200, 200, 200, 201, 200, 412, 201, 404, 200, 204, 404, 200]
    assert found[0]["location"] == "/api/objects/a/json"
    loaded = found[4]
    assert loaded["value"] == {"n": 1}
    assert loaded["etag"] == found[0]["etag"]
    assert (loaded["content_type"], loaded["metadata"], loaded["size"]) == (
        "application/json",
        {"who": "Zoë"},
        8,
    )
    assert "expires_at" in loaded
    assert (found[5]["text"], found[5]["content_type"]) == ("grüße", "text/plain; charset=utf-8")
    assert (found[6]["base64"], found[6]["content_type"]) == ("AP8=", "image/png")
    assert (found[7]["key"], found[7]["location"]) == ("a/copy", "/api/objects/a/copy")
    assert found[12]["key"] == "a/moved"
    assert found[3]["problem"]["field"] == "If-None-Match"
    assert await app.storage.load("a/text") == "again"


KEYS = ("a", "b", "a/c", "", "x//y")
CONDITIONS = st.sampled_from([None, "*", "first of a", "first of b", "other", '"other", W/"other"', '"'])
FIELDS = {
    "save": {
        "value": st.sampled_from([1, None, {"a": [1.5]}]),
        "text": st.sampled_from(["t", ""]),
        "base64": st.sampled_from(["AP8=", "AP8", "?"]),
        "content_type": st.sampled_from(["text/plain", "application/json", "image/png", "nonsense"]),
        "metadata": st.sampled_from([{}, {"m": "ü"}]),
        "ttl_seconds": st.sampled_from([0, 3600, -1, 1e300]),
        "expires_at": st.sampled_from(["2099-01-01T00:00:00Z", "soon"]),
        "content_language": st.sampled_from(["de", "\n"]),
    },
    "load": {},
    "exists": {},
    "delete": {},
}
FORMS = ("value", "text", "base64")


@st.composite
def operations(draw: st.DrawFn) -> dict[str, Any]:
    name = draw(st.sampled_from(sorted(FIELDS)))
    made: dict[str, Any] = {"op": name, "key": draw(st.sampled_from(KEYS))}
    form = draw(st.sampled_from(FORMS))
    for field, values in FIELDS[name].items():
        if field == form or (field not in FORMS and draw(st.integers(0, 3)) == 0):
            made[field] = draw(values)
    for field in ("if_match", "if_none_match"):
        if (condition := draw(CONDITIONS)) is not None and draw(st.booleans()):
            made[field] = condition
    return made


async def singly(app: PlatformApp, made: dict[str, Any]) -> dict[str, Any]:
    """The same by the route of its own, and its answer as a batch has it."""
    headers: dict[str, str] = {}
    body = b""
    for field, name in (("if_match", "If-Match"), ("if_none_match", "If-None-Match")):
        if field in made:
            quoted = made[field] if made[field] == "*" or '"' in made[field] else f'"{made[field]}"'
            headers[name] = quoted
    if made["op"] == "save":
        form = next(form for form in FORMS if form in made)
        kind = {"value": "application/json", "text": "text/plain; charset=utf-8"}
        headers["Content-Type"] = made.get("content_type", kind.get(form, "application/octet-stream"))
        if form == "base64":
            try:
                body = base64.b64decode(made[form], validate=True)
            except ValueError:
                return {"status": 400, "field": "base64"}
        else:
            body = made[form].encode() if form == "text" else json.dumps(made[form]).encode()
        for name, value in made.get("metadata", {}).items():
            headers[f"x-meta-{name}"] = "".join(f"%{byte:02X}" for byte in value.encode())
        if "ttl_seconds" in made:
            seconds = made["ttl_seconds"]
            headers["x-ttl-seconds"] = f"{seconds:.9f}" if isinstance(seconds, float) else str(seconds)
        if "expires_at" in made:
            headers["x-expires-at"] = made["expires_at"]
        if "content_language" in made:
            headers["Content-Language"] = made["content_language"]
    method = {"save": "PUT", "load": "GET", "exists": "HEAD", "delete": "DELETE"}[made["op"]]
    answer = await app(method, f"/api/objects?key={made['key']}", body, headers)
    if answer.status >= 400:
        if method == "HEAD":
            answer = await app("GET", f"/api/objects?key={made['key']}", body, headers)
        return {"status": answer.status, "problem": answer.json}
    if method == "PUT":
        location = answer.headers.get("location")
        return {"status": answer.status} | answer.json | ({"location": location} if location else {})
    if method == "DELETE":
        return {"status": answer.status}
    shown = {"status": answer.status, "etag": answer.headers["etag"].strip('"')}
    shown["content_type"] = answer.headers["content-type"]
    return shown | ({"body": answer.body} if answer.status == 200 and method == "GET" else {})


def comparable(result: dict[str, Any], etags: dict[str, str]) -> dict[str, Any]:
    """A result with the ETags by names, and a body as its bytes."""
    if "problem" in result and result["problem"].get("field") == "base64":
        return {"status": 400, "field": "base64"}
    shown = dict(result)
    for form in FORMS:
        if form in shown:
            content = shown.pop(form)
            if form == "base64":
                shown["body"] = base64.b64decode(content)
            else:
                shown["body"] = content.encode() if form == "text" else json.dumps(content).encode()
    if shown["status"] in (200, 304) and "content_type" in shown:
        shown = {name: shown[name] for name in ("status", "etag", "content_type", "body") if name in shown}
    text = json.dumps(shown, default=repr)
    if "etag" in shown:
        etags.setdefault(shown["etag"], f"etag {len(etags)}")
    for etag, name in etags.items():
        text = text.replace(etag, name)
    return json.loads(text)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(operations(), min_size=1, max_size=8))
async def test_a_batch_is_its_operations_one_by_one(made: list[dict[str, Any]]) -> None:
    shown: list[list[dict[str, Any]]] = []
    for together in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            async with serve(patch, StorageConfig(storage_type="memory")) as app:
                first = {f"first of {key}": (await app.storage.save(key, key)).etag for key in "ab"}
                etags = {etag: name for name, etag in first.items()}
                wanted = [{name: first.get(text, text) if isinstance(text, str) else text
                           for name, text in each.items()} for each in made]  # fmt: skip
                found = (
                    await results(app, wanted) if together else [await singly(app, each) for each in wanted]
                )
                left = [(entry.key, (await app.storage.read(entry.key)).data, dict(entry.info.metadata),
                         entry.info.content_language)
                        for entry in await app.storage.list_objects() if entry.info]  # fmt: skip
                shown.append([comparable(each, etags) for each in found] + [{"left": repr(left)}])
    assert shown[0] == shown[1]


@pytest.mark.parametrize(
    ("body", "content_type", "form"),
    [
        (b'{"pi": 3.14159265358979323846,  "n": 123456789012345678901, "a": 1}', "application/json", "value"),
        (b"null", "application/json", "value"),
        (b'{"type": "Point"}', "application/geo+json", "value"),
        (b'\xef\xbb\xbf{"a": 1}', "application/json", "base64"),
        ("grüße\n\"'".encode(), "text/html", "text"),
        (b"", "text/plain", "text"),
        ("\ufeffa".encode(), "text/plain; charset=UTF-8", "base64"),
        (b"gr\xfc\xdfe", "text/plain; charset=iso-8859-1", "base64"),
        ("a".encode("utf-16"), "text/plain", "base64"),
        (b"\x01" * 100, "text/plain", "base64"),
        (bytes(range(256)), "application/octet-stream", "base64"),
        (b"", "application/octet-stream", "base64"),
    ],
    ids=range(12),
)  # fmt: skip
async def test_what_is_loaded_can_be_saved_again_to_the_byte(
    app: PlatformApp, body: bytes, content_type: str, form: str
) -> None:
    assert (await app("PUT", "/api/objects/one", body, {"Content-Type": content_type})).status == 201
    answer = await sent(app, [{"op": "load", "key": "one"}])
    loaded = answer.json["results"][0]
    assert [each for each in FORMS if each in loaded] == [form]
    # With the very text of its JSON: a client in Python would round the number.
    raw = answer.body[answer.body.index(f'"{form}":'.encode()) : answer.body.rindex(b"}]}")]
    again = (
        b'{"operations":[{"op":"save","key":"two","content_type":"'
        + content_type.encode()
        + b'",'
        + raw
        + b"}]}"
    )
    assert (await app("POST", "/api/batch", again, JSON)).json["results"][0]["status"] == 201
    found = await app("GET", "/api/objects/two")
    assert (found.body, found.headers["content-type"]) == (body, content_type)


async def test_what_is_not_json_of_another_program_is_loaded_as_bytes(app: PlatformApp) -> None:
    await app.storage.backend.objects.put("broken", b'"\xff"}', content_type="application/json")
    await app.storage.backend.objects.put("empty", b"", content_type="application/json")
    found = await results(app, [{"op": "load", "key": key} for key in ("broken", "empty")])
    assert [base64.b64decode(each["base64"]) for each in found] == [b'"\xff"}', b""]


MALFORMED: list[tuple[bytes, dict[str, str], int]] = [
    (b"", JSON, 400),
    (b"[]", JSON, 400),
    (b"{", JSON, 400),
    (b"{}", JSON, 400),
    (b'{"operations": []}', JSON, 400),
    (b'{"operations": null}', JSON, 400),
    (b'{"operations": {"op": "save"}}', JSON, 400),
    (b'{"operations": [{"op": "save", "key": "done", "value": 1}], "dry_run": true}', JSON, 400),
    (b'{"operations": [{"op": "save", "key": "done", "value": 1}, {]}', JSON, 400),
    (b'{"operations": [{"op": "save", "key": "done", "value": 1}]} {', JSON, 400),
    (b'{"operations": [{"op": "save", "key": "done", "text": "\xff"}]}', JSON, 400),
    (b'{"operations": [{"op": "save", "key": "done", "value": ' + b"[" * 200_000, JSON, 400),
    (b'{"operations": [{"op": "save", "key": "done", "value": 1}]}', {"Content-Type": "text/plain"}, 415),
    (b'{"operations": [{"op": "save", "key": "done", "value": 1}]}', JSON | {"Idempotency-Key": ""}, 400),
    (
        json.dumps({"operations": [{"op": "save", "key": "done", "value": 1}] * 1001}).encode(),
        JSON,
        400,
    ),
    (
        json.dumps({"operations": [{"op": "save", "key": "done", "text": "a" * 5_000_000}]}).encode(),
        JSON,
        413,
    ),
]


@pytest.mark.parametrize("n", range(len(MALFORMED)))
async def test_nothing_is_done_of_a_malformed_batch(app: PlatformApp, n: int) -> None:
    body, headers, status = MALFORMED[n]
    answer = await app("POST", "/api/batch", body, headers)
    assert answer.status == status, answer.body
    assert answer.problem["detail"]
    assert await app.storage.list_keys() == []


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (1, "operation"),
        ([], "operation"),
        ({}, "op"),
        ({"op": "sav", "key": "k"}, "op"),
        ({"op": 1, "key": "k"}, "op"),
        ({"op": "load"}, "key"),
        ({"op": "load", "key": 1}, "key"),
        ({"op": "load", "key": "../k"}, "key"),
        ({"op": "load", "key": ".system/k"}, "key"),
        ({"op": "load", "key": "k", "value": 1}, "value"),
        ({"op": "load", "key": "k", "if_mach": "*"}, "if_mach"),
        ({"op": "load", "key": "k", "if_match": 1}, "If-Match"),
        ({"op": "save", "key": "k"}, "body"),
        ({"op": "save", "key": "k", "value": 1, "text": "1"}, "text"),
        ({"op": "save", "key": "k", "text": 1}, "text"),
        ({"op": "save", "key": "k", "text": None}, "text"),
        ({"op": "save", "key": "k", "text": "ü", "content_type": "text/a; charset=latin-1"}, "Content-Type"),
        ({"op": "save", "key": "k", "base64": "AA=A"}, "base64"),
        ({"op": "save", "key": "k", "base64": "ü"}, "base64"),
        ({"op": "save", "key": "k", "value": 1, "content_type": "a\r\nb: c"}, "Content-Type"),
        ({"op": "save", "key": "k", "value": 1, "metadata": {"m": 1}}, "x-meta-*"),
        ({"op": "save", "key": "k", "value": 1, "metadata": {"M": "1"}}, "x-meta-*"),
        ({"op": "save", "key": "k", "value": 1, "metadata": {"m": "\n"}}, "x-meta-*"),
        ({"op": "save", "key": "k", "value": 1, "ttl_seconds": "1"}, "ttl_seconds"),
        ({"op": "save", "key": "k", "value": 1, "ttl_seconds": True}, "ttl_seconds"),
        ({"op": "save", "key": "k", "value": 1, "ttl_seconds": 10**40}, "x-ttl-seconds"),
        ({"op": "save", "key": "k", "value": 1, "ttl_seconds": 1, "expires_at": "2099"}, "x-expires-at"),
        ({"op": "copy", "key": "old"}, "to"),
        ({"op": "copy", "key": "old", "to": "old"}, "to"),
        ({"op": "copy", "key": "old", "to": "a//b"}, "to"),
        ({"op": "move", "key": "old", "to": ".system/x"}, "to"),
        ({"op": "move", "key": "old", "to": "k", "if_none_match": "x"}, "If-None-Match"),
        ({"op": "move", "key": "old", "to": "k", "if_match": "x"}, "if_match"),
        ({"op": "delete", "key": "k", "metadata": {}}, "metadata"),
    ],
    ids=range(34),
)  # fmt: skip
async def test_a_bad_operation_harms_no_other(app: PlatformApp, bad: Any, field: str) -> None:
    await app.storage.save("old", 1)
    good = [{"op": "save", "key": "before", "value": 1}, {"op": "save", "key": "after", "value": 1}]
    before, refused, after = await results(app, [good[0], bad, good[1]])
    assert (before["status"], refused["status"], after["status"]) == (201, 400, 201)
    assert refused["problem"]["field"] == field
    assert await app.storage.list_keys() == ["after", "before", "old"]


class Watched(Layer):
    """Counts what is under way at once, and fails where it is told to."""

    def __init__(self, inner: StorageBackend) -> None:
        super().__init__(inner)
        self.refused: dict[str, Exception] = {}
        self.at_once = self.most = 0
        self.full = asyncio.Event()

    async def around[T](self, operation: Operation, call: Any, /) -> T:
        if (error := self.refused.get(operation.target)) is not None:
            raise error
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        if self.at_once == 16:
            self.full.set()
        try:
            if operation.target.startswith("wait/"):
                await asyncio.wait_for(self.full.wait(), 120)
            return await call()
        finally:
            self.at_once -= 1


@pytest.fixture
async def watched(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[PlatformApp, Watched]]:
    async with serve(monkeypatch, StorageConfig(storage_type="memory")) as app:
        layer = Watched(MemoryBackend())
        app.state.storage = StorageManager(backend=layer)  # type: ignore[misc]
        yield app, layer


async def test_different_keys_at_once_and_one_key_in_order(watched: tuple[PlatformApp, Watched]) -> None:
    app, layer = watched
    apart = await results(app, [{"op": "save", "key": f"wait/{n}", "value": n} for n in range(40)])
    assert {each["status"] for each in apart} == {201}
    assert layer.most == 16
    made: list[dict[str, Any]] = []
    for n in range(30):
        made += [
            {"op": "save", "key": "one", "value": n},
            {"op": "load", "key": "one"},
            {"op": "copy", "key": "one", "to": "two"},
            {"op": "load", "key": "two"},
        ]
    found = await results(app, made)
    assert [each["value"] for each in found if "value" in each] == [n for n in range(30) for _ in range(2)]


async def test_an_error_of_the_server_is_of_one_operation(watched: tuple[PlatformApp, Watched]) -> None:
    app, layer = watched
    layer.refused["away"] = StorageUnavailableError("the store is away", retry_after=7)
    layer.refused["bug"] = RuntimeError("secret")
    found = await results(app, [{"op": "save", "key": key, "value": 1} for key in ("away", "bug", "fine")])
    assert [each["status"] for each in found] == [503, 500, 201]
    assert found[0]["retry_after"] == 7
    assert found[1]["problem"]["type"].endswith(":internal-error")
    assert "secret" not in json.dumps(found)


async def test_an_answer_is_bounded_in_the_order_of_the_operations(
    app: PlatformApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "MAX_LOADED_BYTES", 100)
    for key, size in (("a", 60), ("b", 50), ("c", 40), ("d", 1), ("e", 0)):
        await app.storage.save(key, b"x" * size)
    made = [{"op": "load", "key": key} for key in ("missing", "a", "b", "c", "d", "e")]
    for _ in range(5):
        found = await results(app, made)
        assert [each["status"] for each in found] == [404, 200, 413, 200, 413, 200]
        assert found[2]["problem"]["type"].endswith(":answer-too-large")
        assert "GET /api/objects/" in found[2]["problem"]["remedy"]
    # What is not read takes no room.
    etag = (await app.storage.info("b")).etag
    found = await results(app, [{"op": "load", "key": "b", "if_none_match": etag}, *made[1:2]])
    assert [each["status"] for each in found] == [304, 200]


async def test_a_batch_ends_in_time(app: PlatformApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "MAX_SECONDS", -1.0)
    found = await results(app, [{"op": "save", "key": f"k{n}", "value": 1} for n in range(40)])
    assert {each["status"] for each in found} == {503}
    assert found[0]["retry_after"] == 1
    assert await app.storage.list_keys() == []


async def test_a_batch_whose_answer_was_lost_may_come_again(platform_anywhere: PlatformApp) -> None:
    app = platform_anywhere
    etag = (await app.storage.save("old", 1)).etag
    made = [
        {"op": "save", "key": "new", "value": 1, "if_none_match": "*"},
        {"op": "save", "key": "new", "value": 1, "if_none_match": "*"},
        {"op": "save", "key": "old", "value": 2, "if_match": etag},
    ]
    first = await results(app, made, Idempotency_Key="call-1")
    again = await results(app, made, Idempotency_Key="call-1")
    assert [each["status"] for each in first] == [each["status"] for each in again] == [201, 412, 200]
    assert [each.get("etag") for each in first] == [each.get("etag") for each in again]
    other = await results(app, made, Idempotency_Key="call-2")
    without = await results(app, made)
    assert [each["status"] for each in other] == [each["status"] for each in without] == [412] * 3


async def test_each_operation_needs_its_rights(
    policy_file: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serve(monkeypatch, StorageConfig(storage_type="memory")) as app:
        for key in ("agents/ceo/a", "agents/ceo2/a", "shared/a", "tenants/acme/a"):
            await app.storage.save(key, 1)
        made: list[tuple[dict[str, Any], int]] = [
            ({"op": "save", "key": "agents/ceo/b", "value": 1}, 201),
            ({"op": "save", "key": "agents/ceo2/b", "value": 1}, 403),
            ({"op": "load", "key": "agents/ceo/a"}, 200),
            ({"op": "load", "key": "agents/ceo2/a"}, 403),
            ({"op": "load", "key": "agents/ceo2/none"}, 403),
            ({"op": "exists", "key": "agents/ceo2/a"}, 403),
            ({"op": "delete", "key": "agents/ceo2/a"}, 403),
            ({"op": "delete", "key": "shared/a"}, 403),
            ({"op": "copy", "key": "shared/a", "to": "agents/ceo/c"}, 201),
            ({"op": "copy", "key": "agents/ceo/a", "to": "shared/b"}, 403),
            ({"op": "copy", "key": "agents/ceo2/a", "to": "agents/ceo/d"}, 403),
            ({"op": "move", "key": "shared/a", "to": "agents/ceo/d"}, 403),
            ({"op": "move", "key": "agents/ceo/a", "to": "agents/ceo/e"}, 201),
        ]
        found = await results(app, [each for each, _ in made], x_functions_key="k-ceo")
        assert [each["status"] for each in found] == [status for _, status in made]
        kept = ["agents/ceo/b", "agents/ceo/c", "agents/ceo/e", "agents/ceo2/a", "shared/a", "tenants/acme/a"]
        assert await app.storage.list_keys() == kept
        # A tenant sees its root as the whole store.
        made = [
            ({"op": "load", "key": "a"}, 200),
            ({"op": "load", "key": "tenants/acme/a"}, 404),
            ({"op": "load", "key": "../acme/a"}, 400),
            ({"op": "copy", "key": "a", "to": "b"}, 201),
        ]
        found = await results(app, [each for each, _ in made], x_functions_key="k-acme")
        assert [each["status"] for each in found] == [status for _, status in made]
        assert "tenants" not in json.dumps([found[0], found[3]])
        assert found[3]["location"] == "/api/objects/b"
        with pytest.raises(KeyNotFoundError):
            await app.storage.info("b")
        with pytest.raises(PreconditionFailedError):
            await app.storage.save("tenants/acme/b", 1, if_absent=True)
