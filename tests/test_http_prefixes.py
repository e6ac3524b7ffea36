"""`POST /api/prefixes/delete|copy|move`: all objects below a prefix, told, bounded and gone on with."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from functions import prefixes
from storage_lib.backends.memory import MemoryBackend
from storage_lib.config import StorageConfig
from storage_lib.errors import IntegrityError, StorageUnavailableError
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


async def sent(app: PlatformApp, what: str, body: Any, **headers: str) -> AppAnswer:
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return await app("POST", f"/api/prefixes/{what}", json.dumps(body).encode(), JSON | named)


async def done(app: PlatformApp, what: str, body: Any, **headers: str) -> dict[str, Any]:
    answer = await sent(app, what, body, **headers)
    assert answer.status == 200, answer.body
    return answer.json


async def fill(app: PlatformApp, *keys: str) -> None:
    for key in keys:
        await app.storage.save(key, key, metadata={"m": key.replace("/", "-")})


async def test_a_prefix_is_tried_copied_moved_and_deleted(platform_anywhere: PlatformApp) -> None:
    app = platform_anywhere
    await fill(app, "p/a", "p/b/c", "pq", "q/a")
    keys = await app.storage.list_keys()
    whole = {"done": 2, "skipped": 0, "failures": 0, "failed": [], "is_complete": True, "cursor": None}
    for what in ("delete", "copy", "move"):
        tried = {"prefix": "p/", "dry_run": True} | ({} if what == "delete" else {"to": "r/"})
        assert await done(app, what, tried) == whole | {"dry_run": True}
    assert await app.storage.list_keys() == keys
    assert await done(app, "copy", {"prefix": "p/", "to": "r/"}) == whole | {"dry_run": False}
    assert await app.storage.load("r/b/c") == "p/b/c"
    assert dict((await app.storage.info("r/a")).metadata) == {"m": "p-a"}
    skipped = await done(app, "copy", {"prefix": "p/", "to": "r/", "skip_existing": True})
    assert (skipped["done"], skipped["skipped"]) == (0, 2)
    assert (await done(app, "move", {"prefix": "p/", "to": "s/"}))["done"] == 2
    assert (await done(app, "move", {"prefix": "p/", "to": "s/"}))["done"] == 0
    assert await app.storage.list_keys() == ["pq", "q/a", "r/a", "r/b/c", "s/a", "s/b/c"]
    assert (await done(app, "delete", {"prefix": "r/"}))["done"] == 2
    assert (await done(app, "delete", {"prefix": ""}))["done"] == 4
    assert await app.storage.list_keys() == []


@pytest.mark.parametrize("what", ["delete", "copy", "move"])
async def test_the_cursor_goes_on(app: PlatformApp, what: str) -> None:
    keys = [f"p/{n:02}" for n in range(25)]
    await fill(app, *keys)
    body: dict[str, Any] = {"prefix": "p/", "limit": 10.0} | ({} if what == "delete" else {"to": "t/"})
    counts: list[int] = []
    cursor: str | None = None
    while True:
        found = await done(app, what, body if cursor is None else body | {"cursor": cursor})
        counts.append(found["done"])
        if found["is_complete"]:
            break
        cursor = found["cursor"]
        assert cursor is not None
        assert "cursor" in found["remedy"]
    assert counts == [10, 10, 5]
    left = [] if what == "delete" else [key.replace("p/", "t/") for key in keys]
    assert await app.storage.list_keys() == (keys if what == "copy" else []) + left


class Faulty(Layer):
    """Fails, or never ends, where it is told to."""

    def __init__(self, inner: StorageBackend) -> None:
        super().__init__(inner)
        self.refused: dict[str, Exception] = {}
        self.endless: set[str] = set()

    async def around[T](self, operation: Operation, call: Any, /) -> T:
        if operation.name not in ("put", "head", "get"):
            if (error := self.refused.get(operation.target)) is not None:
                raise error
            if operation.target in self.endless:
                await asyncio.Event().wait()
        return await call()


@pytest.fixture
async def faulty(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[PlatformApp, Faulty]]:
    async with serve(monkeypatch, StorageConfig(storage_type="memory")) as app:
        layer = Faulty(MemoryBackend())
        app.state.storage = StorageManager(backend=layer)  # type: ignore[misc]
        yield app, layer


async def test_failures_are_counted_and_named(faulty: tuple[PlatformApp, Faulty]) -> None:
    app, layer = faulty
    await fill(app, *(f"p/{n:03}" for n in range(150)))
    for n in range(120):
        layer.refused[f"p/{n:03}"] = IntegrityError("broken")
    found = await done(app, "delete", {"prefix": "p/"})
    assert (found["done"], found["failures"], found["is_complete"]) == (30, 120, True)
    assert [each["key"] for each in found["failed"]] == [f"p/{n:03}" for n in range(100)]
    assert found["failed"][0]["problem"]["type"].endswith(":integrity-error")


async def test_what_was_done_is_told_if_the_store_goes_away(faulty: tuple[PlatformApp, Faulty]) -> None:
    app, layer = faulty
    await fill(app, *(f"p/{n:03}" for n in range(40)))
    layer.refused["p/030"] = StorageUnavailableError("the store is away", retry_after=3)
    found = await done(app, "delete", {"prefix": "p/"})
    assert (found["done"], found["is_complete"], found["cursor"]) == (30, False, "p/029")
    assert found["problem"]["status"] == 503
    layer.refused["p/031"] = layer.refused.pop("p/030")
    layer.refused["p/030"] = layer.refused["p/031"]
    answer = await sent(app, "delete", {"prefix": "p/", "cursor": found["cursor"]})
    assert (answer.status, answer.headers["retry-after"]) == (503, "3")
    layer.refused.clear()
    found = await done(app, "delete", {"prefix": "p/", "cursor": found["cursor"]})
    assert found["is_complete"]
    assert await app.storage.list_keys() == []


async def test_a_request_ends_in_time(
    faulty: tuple[PlatformApp, Faulty], monkeypatch: pytest.MonkeyPatch
) -> None:
    app, layer = faulty
    await fill(app, *(f"p/{n:03}" for n in range(40)))
    monkeypatch.setattr(prefixes, "END_SECONDS", 3)
    layer.endless.add("p/020")
    found = await done(app, "delete", {"prefix": "p/"})
    assert (found["done"], found["is_complete"], found["cursor"]) == (20, False, "p/019")
    assert "migrate" in found["problem"]["remedy"]
    answer = await sent(app, "delete", {"prefix": "p/020"})
    assert (answer.status, answer.problem["code"]) == (503, "transient-storage-error")
    # With no more time nothing else begins, and the same cursor leads on.
    monkeypatch.setattr(prefixes, "MAX_SECONDS", 0.0)
    found = await done(app, "delete", {"prefix": "p/", "cursor": "p/020"})
    assert (found["done"], found["is_complete"], found["cursor"]) == (0, False, "p/020")


@pytest.mark.parametrize(
    ("what", "body", "field"),
    [
        ("delete", {}, "prefix"),
        ("delete", {"prefix": None}, "prefix"),
        ("delete", {"prefix": "../a"}, "prefix"),
        ("delete", {"prefix": ".system/"}, "key"),
        ("delete", {"prefix": "a", "to": "b"}, "to"),
        ("delete", {"prefix": "a", "dryrun": True}, "dryrun"),
        ("delete", {"prefix": "a", "dry_run": "yes"}, "dry_run"),
        ("delete", {"prefix": "a", "limit": 0}, "limit"),
        ("delete", {"prefix": "a", "limit": True}, "limit"),
        ("delete", {"prefix": "a", "limit": 1.5}, "limit"),
        ("delete", {"prefix": "a", "seconds": 61}, "seconds"),
        ("delete", {"prefix": "a", "cursor": 1}, "cursor"),
        ("delete", {"prefix": "a", "cursor": "a//b"}, "cursor"),
        ("copy", {"prefix": "a"}, "to"),
        ("copy", {"prefix": "a", "to": "a"}, "to"),
        ("copy", {"prefix": "a/", "to": "//"}, "to"),
        ("move", {"prefix": "a", "to": "b", "skip_existing": 1}, "skip_existing"),
    ],
    ids=range(17),
)
async def test_what_makes_no_sense_is_refused(app: PlatformApp, what: str, body: Any, field: str) -> None:
    await fill(app, "a/b")
    answer = await sent(app, what, body)
    assert (answer.status, answer.problem["field"]) == (400, field)
    assert await app.storage.list_keys() == ["a/b"]


async def test_a_failure_names_the_field_as_it_was_sent(app: PlatformApp) -> None:
    await fill(app, "a/b/b/1")
    found = await done(app, "move", {"prefix": "a/b/", "to": "a/"})
    assert (found["failures"], found["failed"][0]["problem"]["field"]) == (1, "to")


async def test_a_caller_may_move_what_it_may_load_and_delete(
    policy_file: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rights = {"load": ["in/"], "list": ["in/"], "delete": ["in/"], "save": ["out/"]}
    policy = json.loads(policy_file.read_text())
    policy["principals"]["key:cto"]["may"] = rights
    policy_file.write_text(json.dumps(policy))
    async with serve(monkeypatch, StorageConfig(storage_type="memory")) as app:
        await app.storage.save_versioned("in/m", "one")
        await app.storage.copy("in/m/v1", "out/m/v1")  # By a move that was cut off.
        body = {"prefix": "in/", "to": "out/", "skip_existing": True}
        found = await done(app, "move", body, x_functions_key="k-cto")
        assert (found["done"], found["skipped"], found["failed"]) == (2, 0, [])
        assert await app.storage.list_keys() == ["out/m/current", "out/m/v1"]


@pytest.mark.parametrize("what", ["delete", "copy", "move"])
async def test_a_trial_tells_of_what_the_caller_may_not_do(
    policy_file: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    async with serve(monkeypatch, StorageConfig(storage_type="memory")) as app:
        await fill(app, "agents/ceo/a", "shared/a", "shared/b")
        before = await app.storage.list_keys()
        body = {"prefix": ""} | ({} if what == "delete" else {"to": "agents/ceo/b/"})
        tried = await done(app, what, body | {"dry_run": True}, x_functions_key="k-ceo")
        assert await app.storage.list_keys() == before
        made = await done(app, what, body, x_functions_key="k-ceo")
        for each in (tried, made):
            assert (each["done"], each["failures"]) == ((3, 0) if what == "copy" else (1, 2))
            assert {failed["problem"]["status"] for failed in each["failed"]} <= {403}


async def test_a_caller_reaches_what_it_may(
    policy_file: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serve(monkeypatch, StorageConfig(storage_type="memory")) as app:
        await fill(app, "agents/ceo/a", "agents/ceo2/a", "agents/cto/a", "shared/a", "tenants/acme/a", "a")
        ceo = {"x_functions_key": "k-ceo"}
        for what, body in (
            ("delete", {"prefix": "agents/cto/"}),
            ("delete", {"prefix": "agents/ceo2/"}),
            ("copy", {"prefix": "tenants/", "to": "agents/ceo/"}),
        ):
            answer = await sent(app, what, body, **ceo)
            assert (answer.status, answer.problem["code"]) == (403, "forbidden"), body
        # What it may not list is not there; what it may list and not delete fails, one by one.
        found = await done(app, "delete", {"prefix": ""}, **ceo)
        assert (found["done"], found["failures"]) == (1, 1)
        assert found["failed"][0]["key"] == "shared/a"
        assert found["failed"][0]["problem"]["status"] == 403
        found = await done(app, "copy", {"prefix": "shared/", "to": "agents/ceo2/"}, **ceo)
        assert (found["done"], found["failures"]) == (0, 1)
        found = await done(app, "copy", {"prefix": "shared/", "to": "agents/ceo/"}, **ceo)
        assert (found["done"], found["failures"]) == (1, 0)
        # So do versions of objects that it may load and not save.
        await app.storage.save_versioned("shared/v/m", "one", label="x")
        found = await done(app, "copy", {"prefix": "shared/v/", "to": "agents/ceo/v/"}, **ceo)
        assert (found["done"], found["failed"]) == (2, [])
        assert await app.storage.load_version("agents/ceo/v/m", "x") == "one"
        found = await done(app, "delete", {"prefix": "agents/ceo/v/"}, **ceo)
        assert (found["done"], found["failed"]) == (2, [])
        await app.storage.delete_prefix("shared/v/")
        left = ["a", "agents/ceo/a", "agents/ceo2/a", "agents/cto/a", "shared/a"]
        assert await app.storage.list_keys() == [*left, "tenants/acme/a"]
        # A tenant's whole store is its root.
        acme = {"x_functions_key": "k-acme"}
        found = await done(app, "move", {"prefix": "", "to": "b/", "limit": 1}, **acme)
        assert (found["done"], found["failed"]) == (1, [])
        found = await done(app, "delete", {"prefix": ""}, **acme)
        assert found["done"] == 1
        assert await app.storage.list_keys() == left
