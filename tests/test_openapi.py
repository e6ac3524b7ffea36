"""The OpenAPI document: valid, complete, true, made once; and its page."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openapi_spec_validator import validate

from devhost.runtime import load_app
from functions.openapi import parameters
from functions.openapi.examples import Example, all_examples, read
from functions.openapi.operations import Route, routes_of
from functions.openapi.schemas import schema_types
from functions.openapi.wording import described_text
from functions.problems import CODES
from tests.conftest import PROJECT
from tests.described_answers import DescribedApp, UndescribedError, described_app
from tests.http_app import AppAnswer, PlatformApp
from tests.openapi_snapshot import SNAPSHOT, current

MODULE = load_app(PROJECT).module
ROUTES: dict[str, Route] = {route.name: route for route in routes_of(MODULE.app)}
DOCUMENT: dict[str, Any] = described_app(MODULE).document
OPERATIONS: dict[str, tuple[str, str, dict[str, Any]]] = {
    operation["operationId"]: (method.upper(), path, operation)
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
}
FILES = sorted((PROJECT / "functions" / "openapi" / "examples").glob("*.json"))


def examples_of(operation: str) -> tuple[Example, ...]:
    """Those of a HEAD are those of its GET, without what is answered there."""
    found = all_examples().examples
    if operation in found or not operation.startswith("head_"):
        return found.get(operation, ())
    return tuple(
        msgspec.structs.replace(each, answer=None) for each in found.get(operation.removeprefix("head_"), ())
    )


EXAMPLES = [
    pytest.param(name, n, id=f"{name}-{n}")
    for name in sorted(OPERATIONS)
    for n in range(len(examples_of(name)))
]


def test_the_document_is_valid() -> None:
    validate(DOCUMENT)


def test_the_document_is_that_of_the_snapshot() -> None:
    assert current() == json.loads(SNAPSHOT.read_text()), "python -m tests.openapi_snapshot writes it anew"


def test_every_route_is_in_it() -> None:
    registered = {(method, route.template) for route in ROUTES.values() for method in route.methods}
    assert {(method, path) for method, path, _ in OPERATIONS.values()} == registered
    assert len(registered) > 20


@pytest.mark.parametrize("name", sorted(ROUTES))
def test_every_route_says_what_it_does(name: str) -> None:
    route = ROUTES[name]
    found = route.described
    assert found is not None, "it is registered without `Blueprint.http`"
    assert found.answers, "`Blueprint.http` is not told what it answers"
    assert route.docstring, "it has no docstring"
    summary, _ = described_text(route.docstring, name)
    assert re.match(r"[A-Z]\w*[ ,]", summary), summary
    assert not summary[0].isdigit()
    named = [found.body, *found.answers.values()]
    schemas = [each for names in named for each in ((names,) if isinstance(names, str) else names)]
    assert {each for each in schemas if each not in ("", "bytes")} <= schema_types().keys()
    assert set(found.parameters) <= {*parameters.QUERY, *parameters.UNNAMED_QUERY}, (
        "functions/openapi/parameters.py"
    )
    assert set(found.headers) <= {*parameters.HEADERS, *parameters.UNNAMED_HEADERS, "Content-Type"}
    assert set(re.findall(r"\{(\w+)\}", route.template)) <= parameters.PATH.keys()
    assert set(found.problems) <= CODES.keys() | {429}


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_every_operation_has_an_example(name: str) -> None:
    assert examples_of(name), "functions/openapi/examples"


def test_nothing_is_said_twice() -> None:
    for name, (method, _, operation) in OPERATIONS.items():
        assert not operation.get("description", "").startswith(operation["summary"] + "."), name
        assert not re.search("[Ll]ike the key", operation["summary"]), name
        if (twin := name.replace("by_query_", "")) != name and method != "HEAD":
            assert operation["summary"].startswith(OPERATIONS[twin][2]["summary"])


@pytest.mark.parametrize("name", ["load_object", "stat_object", "load_by_link", "head_by_link"])
@pytest.mark.parametrize("status", ["200", "304"])
def test_the_headers_of_an_object_are_in_it(name: str, status: str) -> None:
    headers = OPERATIONS[name][2]["responses"][status]["headers"]
    assert {"ETag", "Last-Modified", "Repr-Digest", "Vary", "x-expires-at"} <= headers.keys()


def test_the_objects_come_first() -> None:
    assert next(iter(DOCUMENT["paths"])) == "/objects"
    assert DOCUMENT["tags"][0]["name"] == "objects"


def test_every_example_and_link_is_of_an_operation() -> None:
    assert all_examples().examples.keys() <= OPERATIONS.keys()
    for (name, status), found in all_examples().links.items():
        assert str(status) in OPERATIONS[name][2]["responses"]
        for link in found.values():
            named = {
                each["name"] for each in OPERATIONS[link["operationId"]][2]["parameters"] if "name" in each
            }
            assert link["parameters"].keys() <= named


@pytest.mark.parametrize(("name", "n"), EXAMPLES)
async def test_every_example_is_answered_as_it_says(name: str, n: int, platform: PlatformApp) -> None:
    await Conversation(platform).send(name, examples_of(name)[n])


class Conversation:
    """Examples that are sent one after the other. What the document shows of an answer stands for what was
    answered: its id is that of the requests that follow."""

    def __init__(self, app: PlatformApp) -> None:
        self.app = app
        self._sent: set[str] = set()
        self._real: dict[str, str] = {}

    async def send(self, name: str, example: Example) -> AppAnswer:
        for earlier in example.after:
            if earlier not in self._sent:
                await self.send(earlier, examples_of(earlier)[0])
        method, path, operation = OPERATIONS[name]
        answer = await self.app(
            method,
            self._worded(example.target(path)),
            self._worded(example.content().decode()).encode(),
            {header: self._worded(value) for header, value in example.sent_headers().items()},
        )
        assert answer.function in (name, name.removeprefix("head_"))
        assert answer.status == example.status, answer
        self._sent.add(name)
        if example.answer is not None:
            if answer.headers["content-type"] == "application/json":
                self._compare(example.answer, answer.json)
            content = operation["responses"][str(example.status)]["content"]
            media = content.get("application/json") or content["*/*"]
            schema = media.get("schema", True)
            self.app.described.validator(schema).validate(example.answer)
        return answer

    def _worded(self, text: str) -> str:
        for shown, real in self._real.items():
            text = text.replace(shown, real)
        return text

    def _compare(self, shown: Any, real: Any) -> None:
        """That both have the same form."""
        if isinstance(shown, dict):
            assert isinstance(real, dict)
            assert shown.keys() == real.keys()
            for name, value in shown.items():
                self._compare(value, real[name])
        elif isinstance(shown, list):
            assert len(shown) == len(real)
            for one, other in zip(shown, real, strict=True):
                self._compare(one, other)
        else:
            assert type(shown) is type(real)
            if isinstance(shown, str) and len(shown) >= 16:
                self._real[shown] = real


async def test_examples_are_valid_requests() -> None:
    for name, (_, _, operation) in OPERATIONS.items():
        named = {each["name"]: each["schema"] for each in operation["parameters"] if "name" in each}
        app = DescribedApp(DOCUMENT)
        for example in examples_of(name):
            for parameter, value in (*example.path.items(), *example.query.items()):
                schema = named.get(parameter, {"type": "string"})
                assert parameter in named or parameter.startswith("@")
                is_text = schema.get("type") not in ("integer", "boolean")
                app.validator(schema).validate(value if is_text else json.loads(value))
            if example.body is not None:
                content = operation["requestBody"]["content"]
                media = content.get(example.media_type) or content["*/*"]
                app.validator(media.get("schema", True)).validate(example.body)


def test_nothing_stands_twice_in_the_files_of_examples() -> None:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs), [name for name, _ in pairs]
        return dict(pairs)

    found = [json.loads(path.read_bytes(), object_pairs_hook=once) for path in FILES]
    assert sum(len(each["examples"]) for each in found) == len(all_examples().examples) > 60
    for each in found:
        for name in each.get("shared", {}):
            assert json.dumps(each).count(f'"$like": "{name}"') > 1, name


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            '{"examples": {"save_object": [{"name": "a", "staus": 201}]}}',
            "mine.json, save_object: .*unknown field `staus`",
        ),
        (
            '{"examples": {"save_object": [{"name": "a", "path": {"key": 1}}]}}',
            r"mine.json, save_object: .*\[0\].path",
        ),
        (
            '{"examples": {"save_object": [{"name": "a", "body": {"$like": "b"}}]}}',
            "mine.json, save_object: .*'b' is not in `shared`",
        ),
        (
            '{"shared": {"a": {"$like": "b"}, "b": {}}, "examples": {}}',
            "mine.json, shared 'a': .*'b' is not in `shared`, or stands behind this",
        ),
        ('{"examples": {}, "link": {}}', "mine.json: .*unknown field `link`"),
        (
            '{"examples": {}, "links": {"get_task": {"200": {"a": {"operation": "b", "parameters": {}}}}}}',
            "mine.json, links of get_task: .*unknown field `operation`",
        ),
        (
            '{"examples": {}, "links": {"get_task": {"good": {"a": {"operationId": "b"}}}}}',
            "mine.json, links of get_task: Expected `int`",
        ),
        ('{"examples": {}', "mine.json: Input data was truncated"),
    ],
)
def test_a_file_of_examples_of_another_form_is_refused(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=told):
        read(path)


def test_what_is_like_another_has_its_members_where_it_says_so(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(
        """{
        "shared": {"pair": {"a": 1, "b": 2}, "more": {"$like": "pair", "b": 3, "c": 4}},
        "examples": {
            "o": [{"name": "n", "body": [{"z": 0, "$like": "more", "a": 5}], "answer": {"$like": "pair"}}]
        }
        }"""
    )
    (found,) = read(path).examples["o"]
    assert json.dumps(found.body) == '[{"z": 0, "a": 5, "b": 3, "c": 4}]'
    assert found.answer == {"a": 1, "b": 2}


def test_every_code_of_a_problem_is_in_it() -> None:
    found: set[str] = set()
    for folder in ("storage_lib", "functions"):
        for path in (PROJECT / folder).rglob("*.py"):
            found |= set(re.findall(r'^    code = "([a-z-]+)"$', path.read_text(), re.MULTILINE))
    of_tasks = {
        "deadline-exceeded",
        "isolated-error",
        "lease-expired",
        "memory-exceeded",
        "not-portable",
        "process-died",
        "retry-task",
        "task-id-taken",
    }
    listed = {code for codes in DOCUMENT["x-problem-codes"].values() for code in codes}
    assert found - of_tasks <= listed
    assert listed - found <= {"internal-error", "rate-limited"}


async def test_it_is_served_and_not_sent_twice(platform: PlatformApp) -> None:
    answer = await platform("GET", "/api/openapi.json")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "private, no-cache"
    assert answer.json == DOCUMENT
    known = {"If-None-Match": f"W/{answer.headers['etag']}"}
    again = await platform("GET", "/api/openapi.json", headers=known)
    assert (again.status, again.body) == (304, b"")
    assert again.headers["etag"] == answer.headers["etag"]
    other = await platform("GET", "/api/openapi.json", headers={"If-None-Match": '"another"'})
    assert other.status == 200
    head = await platform("HEAD", "/api/openapi.json")
    assert head.headers["content-length"] == str(len(answer.body))


async def test_it_is_made_once(platform: PlatformApp, monkeypatch: pytest.MonkeyPatch) -> None:
    await platform("GET", "/api/docs")

    def made(*_: Any) -> Any:
        raise AssertionError("it is made again")

    for name in ("document", "routes_of"):
        monkeypatch.setattr(f"functions.openapi.document.{name}", made)
    monkeypatch.setattr("functions.openapi.page.page", made)
    assert (await platform("GET", "/api/openapi.json")).status == 200
    assert (await platform("GET", "/api/docs")).status == 200


_MEASURED = """
import sys, time
import function_app
assert not [name for name in sys.modules if name.startswith("functions.openapi.")], "imported at the start"
from functions.openapi.document import document_of
begun = time.process_time()
document_of(function_app.app)
print(time.process_time() - begun)
"""


def test_nothing_of_it_is_made_or_imported_at_the_start() -> None:
    run = subprocess.run(
        [sys.executable, "-c", _MEASURED], cwd=PROJECT, capture_output=True, check=True, text=True
    )
    assert float(run.stdout) < 30


class Read(HTMLParser):
    """What a page refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.references: list[str] = []
        self.tags: set[str] = set()
        self.styled: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.tags.add(tag)
        if "id" in found:
            assert found["id"] not in self.ids, f"{found['id']} is there twice"
            self.ids.add(found["id"])
        self.references += [found[name] for name in ("href", "src", "srcset", "action") if name in found]
        self.styled += [name for name in found if name == "style" or name.startswith("on")]


async def test_the_page_shows_all_of_it_and_loads_nothing(platform: PlatformApp) -> None:
    answer = await platform("GET", "/api/docs")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    text = answer.body.decode()
    read = Read(text)
    assert {name for name, (method, _, _) in OPERATIONS.items() if method != "HEAD"} <= read.ids
    assert {f"schema-{name}" for name in DOCUMENT["components"]["schemas"]} <= read.ids
    assert {each.removeprefix("#") for each in read.references} <= read.ids, "nothing but itself"
    assert read.tags.isdisjoint({"script", "link", "img", "iframe", "form", "object"})
    assert read.styled == []
    policy = dict(each.strip().split(" ", 1) for each in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert "unsafe" not in answer.headers["content-security-policy"]
    (style,) = re.findall("<style>(.*?)</style>", text, re.DOTALL)
    assert digest(style) in policy["style-src"]
    assert len(answer.body) < 500_000


def digest(text: str) -> str:
    import base64
    import hashlib

    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


async def test_the_page_escapes_what_it_shows() -> None:
    from functions.openapi.page import page

    found: dict[str, Any] = json.loads(json.dumps(DOCUMENT))
    operation = found["paths"]["/objects"]["get"]
    operation["summary"] = operation["description"] = "<script>alert(1)</script> `<b>`"
    operation["x-codeSamples"] = [{"label": "<i>", "source": "curl '<script>'"}]
    assert "<script" not in page(found)


@given(st.text())
def test_any_docstring_has_a_summary(text: str) -> None:
    summary, _ = described_text(text, "list_objects")
    assert summary or not text.strip()


async def test_what_is_not_described_is_told(platform: PlatformApp) -> None:
    """The check that each HTTP test makes fails where it should."""
    check = platform.described.check
    page: Mapping[str, str] = {"content-type": "application/json"}
    check("list_tasks", "GET", 200, page, b'{"tasks": [], "cursor": null}')
    with pytest.raises(UndescribedError, match="answers 418"):
        check("list_tasks", "GET", 418, page, b"{}")
    with pytest.raises(UndescribedError, match="'cursor' is a required property"):
        check("list_tasks", "GET", 200, page, b'{"tasks": []}')
    with pytest.raises(UndescribedError, match="as 'text/plain'"):
        check("list_tasks", "GET", 200, {"content-type": "text/plain"}, b"{}")
    with pytest.raises(UndescribedError, match="x-new"):
        check("list_tasks", "GET", 200, {**page, "X-New": "1"}, b'{"tasks": [], "cursor": null}')
    with pytest.raises(UndescribedError, match="with a body"):
        check("delete_object", "DELETE", 204, {}, b"gone")


def test_somebodys_own_function_is_in_the_document(tmp_path: Path) -> None:
    import azure.functions as func

    from functions.openapi.document import document

    app = func.FunctionApp()

    @app.route(route="mine/{name}", methods=["GET"])
    def mine(req: func.HttpRequest) -> str:
        """Tell something."""
        return ""

    found = document(routes_of(app))
    validate(found)
    assert found["paths"]["/mine/{name}"]["get"]["summary"] == "Tell something"


def test_locally_no_key_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    from functions.openapi.document import document

    monkeypatch.delenv("AZURE_FUNCTIONS_ENVIRONMENT", raising=False)
    assert {} not in document(ROUTES.values())["security"]
    monkeypatch.setenv("AZURE_FUNCTIONS_ENVIRONMENT", "Development")
    assert {} in document(ROUTES.values())["security"]


def test_tokens_are_in_it_where_they_are_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    from functions.openapi.document import document

    monkeypatch.delenv("AGENT_STORAGE_ACCESS_ISSUER", raising=False)
    assert "token" not in document(ROUTES.values())["components"]["securitySchemes"]
    monkeypatch.setenv("AGENT_STORAGE_ACCESS_ISSUER", "https://issuer.example")
    found = document(ROUTES.values())
    validate(found)
    assert {"functionKey": [], "token": []} in found["security"]
