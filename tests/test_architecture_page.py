"""The recipes of docs/architecture.md: what a reader builds from that page alone keeps the contract."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import azure.functions as func
import pytest

from functions.state import shutdown, state
from storage_lib.ports.object_model import StoredObject
from storage_lib.ports.objects import ObjectStore
from storage_lib.testing import ObjectStoreContract
from tests.conftest import PROJECT
from tests.pages import blocks

PAGE = PROJECT / "docs" / "architecture.md"


def code(words: str) -> str:
    (found,) = [block.text for block in blocks(PAGE) if block.language == "python" and words in block.text]
    return found


def module(name: str, text: str) -> ModuleType:
    made = ModuleType(name)
    sys.modules[name] = made
    exec(compile(text, str(PAGE), "exec"), made.__dict__)  # noqa: S102 - the project's own page
    return made


@pytest.fixture(scope="module")
def backend() -> Iterator[Any]:
    name = "architecture_page_backend"
    yield module(name, code("class DictBackend")).DictBackend()
    del sys.modules[name]


class TestTheBackendOfThePage(ObjectStoreContract):
    # No other program can put anything into a dict.
    test_decomposed_names_are_listed_or_told = None  # type: ignore[assignment]

    @pytest.fixture
    def objects(self, backend: Any) -> ObjectStore:
        return backend.objects

    async def tamper(self, objects: ObjectStore, key: str, data: bytes) -> None:
        stored = objects.driver.stored  # type: ignore[attr-defined]
        stored[key] = replace(stored[key], data=data)

    async def put_foreign(self, objects: ObjectStore, key: str, data: bytes, content_type: str) -> None:
        await objects.put(key, data, content_type=content_type)
        stored = objects.driver.stored  # type: ignore[attr-defined]
        stored[key] = StoredObject(replace(stored[key].info, sha256=None), data)


def test_the_backend_of_the_page_is_short() -> None:
    lines = [line for line in code("class DictBackend").splitlines() if line]
    assert len(lines) < 80


async def test_the_route_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENT_STORAGE_TYPE", "file")
    monkeypatch.setenv("AGENT_STORAGE_PATH", str(tmp_path))
    app = func.FunctionApp()
    app.register_functions(module("architecture_page_route", code("blueprint = Blueprint()")).blueprint)
    (function,) = app.get_functions()
    try:
        await state().storage.save("reports/a.txt", "hello")
        for prefix, expected in (
            ("reports/", b'{"objects":1,"bytes":5}'),
            ("x", b'{"objects":0,"bytes":0}'),
        ):
            request = func.HttpRequest("GET", "/api/stats", params={"prefix": prefix}, body=b"")
            response = await function.get_user_function()(request)
            assert (response.status_code, response.get_body()) == (200, expected)
    finally:
        await shutdown()
        del sys.modules["architecture_page_route"]


def test_the_map_shows_every_room() -> None:
    text = PAGE.read_text()
    tops = [path.parent for path in PROJECT.glob("*/__init__.py")]
    for room in (".", "layers", "backends"):
        tops += [path.parent for path in (PROJECT / "storage_lib" / room).glob("*/__init__.py")]
    named = [path for path in tops if path.name not in ("tests", "benchmarks", "examples")]
    assert len(named) > 20
    assert [
        str(path) for path in named if f"`{path.name}/" not in text and f"/{path.name}/`" not in text
    ] == []
