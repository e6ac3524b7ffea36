"""Tables over HTTP: entities come back with the types they had, conditions hold, keys that a path cannot
carry are reached, and the app's own tables are nobody's to write."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions import entities
from storage_lib.config import StorageConfig
from storage_lib.errors import InvalidArgumentError, ObjectTooLargeError
from storage_lib.ports.entities import from_stored, to_stored
from storage_lib.ports.odata import constant, literal
from storage_lib.ports.table_model import Entity, Insert
from storage_lib.tasks.model import KEY_TABLE, TASK_TABLE
from tests.effort import examples
from tests.http_app import AppAnswer, PlatformApp, config_of, serve

JSON = {"Content-Type": "application/json"}
EVERYTHING: dict[str, Any] = {
    "text": "naïve 'text' \U0001f600",
    "empty": "",
    "marked": 'json:{"a":1}',
    "yes": True,
    "small": 1,
    "large": 2**53 - 1,
    "larger": 2**53 + 1,
    "largest": 2**63 - 1,
    "least": -(2**63),
    "whole": 1.0,
    "part": 0.1,
    "huge": 1.7976931348623157e308,
    "tiny": 5e-324,
    "moment": datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC),
    "first": datetime(1601, 1, 1, tzinfo=UTC),
    "id": UUID("5f1f3f0e-6d5c-4b0e-9d5b-0c8f6f6f2a11"),
    "bytes": bytes(range(256)),
    "nothing": b"",
    "object": {"a": [1, 1.0, 2**70, None, True, {"b": "c"}]},
    "list": [],
}


@pytest.fixture(params=["memory", "file", "azurite"])
def store(request: pytest.FixtureRequest) -> tuple[str, object]:
    """A kind of store, and its server if it has one."""
    return request.param, request.getfixturevalue("azurite") if request.param == "azurite" else None


@pytest.fixture
async def app(
    store: tuple[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[PlatformApp]:
    async with serve(monkeypatch, await config_of(*store, tmp_path)) as app:
        yield app


@pytest.fixture
async def memory(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PlatformApp]:
    async with serve(monkeypatch, StorageConfig(storage_type="memory")) as app:
        yield app


async def send(
    app: PlatformApp, method: str, target: str, document: Any = None, **conditions: str
) -> AppAnswer:
    headers = {name.replace("_", "-"): value for name, value in conditions.items()}
    body = b"" if document is None else json.dumps(document).encode()
    return await app(method, f"/api/tables/{target}", body, headers | JSON)


def typed(properties: dict[str, Any]) -> list[tuple[str, type, str]]:
    return sorted((name, type(value), repr(value)) for name, value in properties.items())


async def test_an_entity_comes_back_as_it_was(app: PlatformApp) -> None:
    """What Python stored goes out and in again over HTTP, through a client that has only JSON, as it was."""
    tables = app.storage.backend.tables
    await tables.insert("httptypes", "a", "python", EVERYTHING)
    shown = await send(app, "GET", "httptypes/a/python")
    assert shown.status == 200
    given = {
        name: value for name, value in shown.json.items() if name.partition("@")[0] not in entities.OF_SYSTEM
    }
    # As JavaScript has it: one kind of number.
    as_text = json.dumps(given, ensure_ascii=False)
    again = json.loads(
        as_text, parse_float=lambda text: int(float(text)) if float(text).is_integer() else float(text)
    )
    again["object"], again["list"] = EVERYTHING["object"], EVERYTHING["list"]
    made = await send(app, "PUT", "httptypes/a/http", again)
    assert made.status == 201
    found = await tables.get("httptypes", "a", "http")
    assert typed(dict(found.properties)) == typed(EVERYTHING)
    assert made.headers["location"] == "/api/tables/httptypes/a/http"
    assert made.headers["etag"] == f'"{made.json["etag"]}"'


async def test_the_life_of_an_entity(app: PlatformApp) -> None:
    made = await send(app, "POST", "httpruns", {"PartitionKey": "mon", "RowKey": "1", "n": 1, "note": "x"})
    assert (made.status, made.headers["location"]) == (201, "/api/tables/httpruns/mon/1")
    again = await send(app, "POST", "httpruns", {"PartitionKey": "mon", "RowKey": "1"})
    assert (again.status, again.problem["code"]) == (409, "entity-exists")
    found = await send(app, "GET", "httpruns/mon/1")
    assert found.headers["etag"] == made.headers["etag"]
    assert found.json["etag"] == made.json["etag"]
    known = await send(app, "GET", "httpruns/mon/1", If_None_Match=found.headers["etag"])
    assert (known.status, known.body, known.headers["etag"]) == (304, b"", found.headers["etag"])
    assert (await send(app, "HEAD", "httpruns/mon/1")).headers["content-length"] == str(len(found.body))

    merged = await send(app, "PATCH", "httpruns/mon/1", {"n": 2}, If_Match=made.headers["etag"])
    assert merged.status == 200
    stale = await send(app, "PATCH", "httpruns/mon/1", {"n": 3}, If_Match=made.headers["etag"])
    assert (stale.status, stale.problem["code"], stale.problem["field"]) == (
        412,
        "precondition-failed",
        "If-Match",
    )
    both = {"n": 2, "note": "x", "etag": merged.json["etag"]}
    assert both.items() <= (await send(app, "GET", "httpruns/mon/1")).json.items()
    replaced = await send(app, "PUT", "httpruns/mon/1", {"n": 4}, If_Match=merged.headers["etag"])
    assert replaced.status == 200
    assert "note" not in (await send(app, "GET", "httpruns/mon/1")).json
    for method in ("DELETE", "PUT", "GET"):
        old = {"If_Match": made.headers["etag"]}
        answer = await send(app, method, "httpruns/mon/1", {} if method == "PUT" else None, **old)
        assert answer.status == 412, method
    assert (await send(app, "DELETE", "httpruns/mon/1", If_Match=replaced.headers["etag"])).status == 204
    for method in ("GET", "HEAD", "DELETE", "PATCH"):
        gone = await send(app, method, "httpruns/mon/1", {"n": 1} if method == "PATCH" else None)
        assert gone.status == 404, method
    assert (await send(app, "GET", "none/a/b")).status == 404


_TAG = "the ETag"


@pytest.mark.parametrize(
    ("conditions", "replaces", "creates"),
    [
        ({}, 200, 201),
        ({"If_Match": "*"}, 200, 412),
        ({"If_Match": _TAG}, 200, 412),
        ({"If_Match": '"other", ' + _TAG}, 200, 412),
        ({"If_Match": '"other"'}, 412, 412),
        ({"If_Match": '"*"'}, 412, 412),
        ({"If_Match": '"%2A"'}, 412, 412),
        ({"If_Match": '"%2a", "other"'}, 412, 412),
        ({"If_Match": "W/" + _TAG}, 412, 412),
        ({"If_Match": ""}, 412, 412),
        ({"If_None_Match": "*"}, 412, 201),
        ({"If_None_Match": _TAG}, 412, 201),
        ({"If_None_Match": '"other"'}, 200, 201),
        ({"If_None_Match": "*", "If_Match": _TAG}, 412, 412),
        ({"If_Unmodified_Since": "Thu, 01 Jan 1970 00:00:00 GMT"}, 412, 201),
        ({"If_Unmodified_Since": "Fri, 31 Dec 2100 00:00:00 GMT"}, 200, 201),
    ],
)
async def test_conditions(app: PlatformApp, conditions: dict[str, str], replaces: int, creates: int) -> None:
    """Of a write over an entity, and over none (RFC 9110, 13)."""
    tables, table = app.storage.backend.tables, f"t{uuid4().hex[:12]}"

    async def asked(method: str, row: str) -> int:
        tag = (await send(app, "PUT", f"{table}/p/there", {"n": 1})).headers["etag"]
        named = {name: value.replace(_TAG, tag) for name, value in conditions.items()}
        answer = await send(
            app, method, f"{table}/p/{row}", None if method == "DELETE" else {"n": 2}, **named
        )
        there = await tables.get(table, "p", row, default=None)
        if answer.status >= 400:
            assert there is None or there.properties == {"n": 1}
        elif method != "DELETE":
            assert there is not None
            assert there.properties == {"n": 2}
            assert answer.headers["etag"] == f'"{entities.tag_of(there.etag)}"'
        else:
            assert there is None
        return answer.status

    assert await asked("PUT", "there") == replaces
    assert await asked("PATCH", "there") == replaces
    assert await asked("DELETE", "there") == (204 if replaces == 200 else replaces)
    assert await asked("PUT", "absent") == creates
    assert await asked("PATCH", "absent2") == 404
    assert await asked("DELETE", "absent2") == 404


async def test_of_many_writers_each_counts(memory: PlatformApp) -> None:
    await send(memory, "PUT", "t/p/r", {"n": 0})

    async def add() -> None:
        for _ in range(200):
            found = await send(memory, "GET", "t/p/r")
            change = await send(
                memory, "PUT", "t/p/r", {"n": found.json["n"] + 1}, If_Match=found.headers["etag"]
            )
            if change.status == 200:
                return
            assert change.status == 412
        raise AssertionError("never")

    await asyncio.gather(*(add() for _ in range(20)))
    assert (await send(memory, "GET", "t/p/r")).json["n"] == 20
    created = await asyncio.gather(*(send(memory, "PUT", "t/p/new", {"n": n}) for n in range(20)))
    assert sorted(each.status for each in created) == [200] * 19 + [201]
    inserted = await asyncio.gather(*(send(memory, "PUT", "t/p/x", {}, If_None_Match="*") for _ in range(20)))
    assert sorted(each.status for each in inserted) == [201] + [412] * 19


async def test_a_query_with_parameters(app: PlatformApp) -> None:
    for row, who in enumerate(("o'neil", "x' or RowKey ne '", "5", "é+ü %41")):
        await send(app, "PUT", f"httppeople/p/{row}", {"who": who, "n": row, "half": row / 2})

    async def rows(filter: str, **parameters: Any) -> list[str]:
        query = "".join(f"&@{name}={quote(literal(value), safe='')}" for name, value in parameters.items())
        found = await send(app, "GET", f"httppeople?filter={quote(filter, safe='')}{query}")
        assert found.status == 200, found.body
        return [each["RowKey"] for each in found.json["entities"]]

    assert await rows("who eq @who", who="o'neil") == ["0"]
    assert await rows("who eq @who", who="x' or RowKey ne '") == ["1"]
    assert await rows("who eq @who", who="5") == ["2"]
    assert await rows("who eq @who", who="é+ü %41") == ["3"]
    assert await rows("n ge @low and n lt @high", low=1, high=3) == ["1", "2"]
    assert await rows("half gt @half", half=0.5) == ["2", "3"]
    assert await rows("PartitionKey eq @p and RowKey eq @r", p="p", r="3") == ["3"]

    page = await send(app, "GET", "httppeople?limit=3&select=n,who")
    assert [sorted(each) for each in page.json["entities"]] == [
        sorted(["PartitionKey", "RowKey", "Timestamp", "etag", "n", "who"])
    ] * 3
    more = await send(
        app, "GET", f"httppeople?limit=3&select=n,who&cursor={quote(page.json['cursor'], safe='')}"
    )
    assert ([each["RowKey"] for each in more.json["entities"]], more.json["cursor"]) == (["3"], None)
    assert (await send(app, "GET", "httpnobody")).status == 404


@pytest.mark.parametrize("kind", ["memory", "file"])
async def test_a_page_of_large_entities_ends_early(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Azure ends its pages itself. Small entities say nothing about those that follow."""
    large = {f"p{n}": "x" * 30_000 for n in range(10)}
    async with serve(monkeypatch, await config_of(kind, None, tmp_path)) as app:
        tables = app.storage.backend.tables
        await tables.batch("t", "p", [Insert(f"0{n:02}", {"n": n}) for n in range(100)])
        for n in range(25):
            await tables.insert("t", "p", f"1{n:02}", large)
        seen: list[str] = []
        cursor = ""
        while True:
            page = await send(app, "GET", f"t?limit=1000{cursor}")
            assert len(page.body) < 6 * 2**20
            seen += [each["RowKey"] for each in page.json["entities"]]
            if page.json["cursor"] is None:
                break
            cursor = f"&cursor={quote(page.json['cursor'], safe='')}"
        assert seen == [f"0{n:02}" for n in range(100)] + [f"1{n:02}" for n in range(25)]
        few = await send(app, "GET", "t?limit=1000&select=p1")
        assert (len(few.json["entities"]), few.json["cursor"]) == (125, None), (
            "what is not sent does not count"
        )


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("filter=n eq", "filter"),
        ("filter=n eq @n", "parameters"),
        ("filter=n eq 1&@n=1", "parameters"),
        ("filter=n eq @n&@n=5 or true", "@n"),
        ("filter=n eq @n&@n=other", "@n"),
        ("filter=n eq @n&@n='a' or 'b'", "@n"),
        ("filter=n eq @n&@n=@m", "@n"),
        ("filter=n eq @n&@n=99999999999999999999", "@n"),
        ("@1=1", "@1"),
        ("filters=x", "filters"),
        ("limit=0", "limit"),
        ("cursor=x", "cursor"),
        ("partition=a", "row"),
        ("partition=a&row=b&filter=x", "filter"),
        ("partition=a&row=b&@x=1", "@x"),
    ],
)
async def test_a_query_that_cannot_be_meant_names_what_is_wrong(
    memory: PlatformApp, query: str, field: str
) -> None:
    await send(memory, "PUT", "t/p/r", {"n": 1})
    refused = await send(memory, "GET", f"t?{quote(query, safe='=&@')}")
    assert (refused.status, refused.problem["field"]) == (400, field)


KEYS = ["a b", "a%2Fb", "a%252Fb", "a%FFb", "a+b", "é", "'", ".", "..", "", "%", "a&b=c", "~", "\U0001f600"]


@pytest.mark.parametrize("key", KEYS, ids=ascii)
async def test_every_key_has_a_url(app: PlatformApp, key: str) -> None:
    made = await send(app, "POST", "httpkeys", {"PartitionKey": key, "RowKey": f"{key}-", "n": 1})
    assert made.status == 201
    found = await app("GET", made.headers["location"])
    assert (found.json["PartitionKey"], found.json["RowKey"]) == (key, f"{key}-")
    by_query = f"httpkeys?partition={quote(key, safe='')}&row={quote(key, safe='')}-"
    assert (await send(app, "GET", by_query)).json == found.json
    assert (await send(app, "PATCH", by_query, {"n": 2})).status == 200
    assert (await send(app, "PUT", by_query, {"n": 3})).status == 200
    assert (await app("GET", made.headers["location"])).json["n"] == 3
    assert (await send(app, "DELETE", by_query)).status == 204
    assert (await app("GET", made.headers["location"])).status == 404


@pytest.mark.parametrize(
    "path", ["a%2Fb/r", "p/a%2fb", "p/a%252Fb", "p/%FF", "p/a%5Cb", "p/a%23b", "p/" + "x" * 513]
)
async def test_a_key_that_is_none_is_refused(memory: PlatformApp, path: str) -> None:
    for method in ("GET", "PUT", "PATCH", "DELETE"):
        document = None if method in ("GET", "DELETE") else {"n": 1}
        assert (await send(memory, method, f"t/{path}", document)).problem["code"] == "invalid-key"
    assert await memory.storage.backend.tables.list_tables() == []


@pytest.mark.parametrize(
    ("document", "field", "status"),
    [
        ({"RowKey": "r"}, "PartitionKey", 400),
        ({"PartitionKey": "p"}, "RowKey", 400),
        ({"PartitionKey": "p", "RowKey": 5}, "RowKey", 400),
        ({"PartitionKey": "a/b", "RowKey": "r"}, "PartitionKey", 400),
        ({"n": 2**63}, "n", 400),
        ({"n": "9223372036854775808", "n@odata.type": "Edm.Int64"}, "n", 400),
        ({"n": 1.5, "n@odata.type": "Edm.Int64"}, "n", 400),
        ({"n": True, "n@odata.type": "Edm.Int64"}, "n", 400),
        ({"n": 2**31, "n@odata.type": "Edm.Int32"}, "n", 400),
        ({"n": 2**53 + 1, "n@odata.type": "Edm.Double"}, "n", 400),
        ({"n": "NaN", "n@odata.type": "Edm.Double"}, "n", 400),
        ({"n": 10**400, "n@odata.type": "Edm.Double"}, "n", 400),
        ({"n": 2**1024 - 1, "n@odata.type": "Edm.Double"}, "n", 400),
        ({"n": 10**400}, "n", 400),
        ({"n": "1" * 400, "n@odata.type": "Edm.Double"}, "n", 400),
        ({"n": "+1_0", "n@odata.type": "Edm.Int64"}, "n", 400),
        ({"n": "\u0661", "n@odata.type": "Edm.Int64"}, "n", 400),
        ({"n": ["a"], "n@odata.type": "Edm.Guid"}, "n", 400),
        ({"@odata.type": "Edm.Guid"}, "@odata.type", 400),
        ({"odata.metadata": "x"}, "body", 400),
        ({"n": "1e999", "n@odata.type": "Edm.Double"}, "n", 400),
        ({"n": "x", "n@odata.type": "Edm.Guid"}, "n", 400),
        ({"n": "{5f1f3f0e-6d5c-4b0e-9d5b-0c8f6f6f2a11}", "n@odata.type": "Edm.Guid"}, "n", 400),
        ({"n": "a", "n@odata.type": "Edm.Binary"}, "n", 400),
        ({"n": "YQ==\n", "n@odata.type": "Edm.Binary"}, "n", 400),
        ({"n": "2026-01-31", "n@odata.type": "Edm.DateTime"}, "n", 400),
        ({"n": "2026-01-31T12:00:00", "n@odata.type": "Edm.DateTime"}, "n", 400),
        ({"n": "2026-02-31T12:00:00Z", "n@odata.type": "Edm.DateTime"}, "n", 400),
        ({"n": "2026-01-31T12:00:00.1234567Z", "n@odata.type": "Edm.DateTime"}, "n", 400),
        ({"n": "1600-01-01T00:00:00Z", "n@odata.type": "Edm.DateTime"}, "n", 400),
        ({"n": 1, "n@odata.type": "Edm.String"}, "n", 400),
        ({"n": 1, "n@odata.type": "Edm.Boolean"}, "n", 400),
        ({"n": 1, "n@odata.type": "Edm.Decimal"}, "n@odata.type", 400),
        ({"n": 1, "n@odata.type": None}, "n@odata.type", 400),
        ({"n@odata.type": "Edm.Int64"}, "n@odata.type", 400),
        ({"a-b": 1}, "body", 400),
        ({"n": "x" * 40000}, "n", 413),
        ({f"n{i}": i for i in range(253)}, "body", 413),
    ],
)
async def test_an_entity_that_cannot_be_stored_names_what_is_wrong(
    memory: PlatformApp, document: dict[str, Any], field: str, status: int
) -> None:
    keys = {} if {"PartitionKey", "RowKey"} & document.keys() else {"PartitionKey": "p", "RowKey": "r"}
    refused = await send(memory, "POST", "t", keys | document)
    assert (refused.status, refused.problem["field"]) == (status, field)
    assert await memory.storage.backend.tables.list_tables() == []


async def test_a_merge_says_that_it_removes_nothing(memory: PlatformApp) -> None:
    await send(memory, "PUT", "t/p/r", {"n": 1, "m": 1})
    refused = await send(memory, "PATCH", "t/p/r", {"n": None, "m": 2})
    assert (refused.status, refused.problem["field"]) == (400, "n")
    assert dict((await memory.storage.backend.tables.get("t", "p", "r")).properties) == {"n": 1, "m": 1}
    assert (await send(memory, "PUT", "t/p/r", {"n": None, "m": 2})).status == 200
    assert dict((await memory.storage.backend.tables.get("t", "p", "r")).properties) == {"m": 2}


async def test_what_was_read_can_be_sent_back(memory: PlatformApp) -> None:
    await send(memory, "PUT", "t/p/r", {"n": 1})
    found = await send(memory, "GET", "t/p/r")
    assert (await send(memory, "PUT", "t/p/r", found.json | {"n": 2})).status == 200
    other = await send(memory, "PUT", "t/p/other", found.json)
    assert (other.status, other.problem["field"]) == (400, "RowKey")


@pytest.mark.parametrize(
    "table",
    [TASK_TABLE, TASK_TABLE.upper(), KEY_TABLE, "audit", "AUDIT", f"n05alpha{TASK_TABLE}"],
)
async def test_the_apps_own_tables_are_read_only(memory: PlatformApp, table: str) -> None:
    """Without a policy everyone may see how the app works, and nobody may change it."""
    tables = memory.storage.backend.tables
    await tables.insert(table, "p", "r", {"n": 1})
    for method, target, document in (
        ("POST", table, {"PartitionKey": "p", "RowKey": "new"}),
        ("PUT", f"{table}/p/r", {"n": 2}),
        ("PUT", f"{table}?partition=p&row=r", {"n": 2}),
        ("PATCH", f"{table}/p/r", {"n": 2}),
        ("DELETE", f"{table}/p/r", None),
    ):
        refused = await send(memory, method, target, document)
        assert (refused.status, refused.problem["code"]) == (403, "forbidden"), method
        assert "the app's own" in refused.problem["detail"], "no right opens it"
        assert "access policy" not in refused.problem.get("remedy", "")
    assert [dict(each.properties) for each in await tables.iterate(table)] == [{"n": 1}]
    assert (await send(memory, "GET", f"{table}/p/r")).json["n"] == 1
    assert (await send(memory, "GET", table)).json["entities"][0]["n"] == 1


async def test_a_body_for_a_forbidden_table_is_not_looked_at(memory: PlatformApp) -> None:
    refused = await memory("POST", f"/api/tables/{TASK_TABLE}", b"{" * 1000, {"Content-Type": "text/plain"})
    assert refused.status == 403


_FLOATS = st.floats(allow_nan=False, allow_infinity=False).map(lambda value: value or 0.0)
_VALUES = (
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | _FLOATS
    | st.datetimes(datetime(1601, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC)).map(
        lambda moment: moment.replace(fold=0)
    )
    | st.uuids()
    | st.binary(max_size=50)
    | st.dictionaries(st.text("ab", max_size=3), st.integers() | _FLOATS | st.none(), max_size=3)
)
_NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True).filter(
    lambda name: name not in entities.OF_SYSTEM
)


@settings(max_examples=examples(200), deadline=None)
@given(st.dictionaries(_NAMES, _VALUES, max_size=6))
def test_json_loses_nothing(properties: dict[str, Any]) -> None:
    shown = entities.shown(Entity("p", "r", properties, "e", datetime(2026, 1, 1, tzinfo=UTC)))
    assert typed(entities.properties_of(json.loads(json.dumps(shown)))) == typed(properties)


@settings(max_examples=examples(200), deadline=None)
@given(
    st.text(st.characters(exclude_categories=["Cs"]))
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | _FLOATS
    | st.uuids()
    | st.binary()
)
def test_a_literal_is_read_as_it_was_written(value: Any) -> None:
    found = constant(literal(value), field="@x")
    assert (type(found), found) == (type(value), value)


@settings(max_examples=examples(200), deadline=None)
@given(st.text("W/\"'%:azAZ09~-_", max_size=30))
def test_an_etag_survives_being_a_tag(etag: str) -> None:
    tag = entities.tag_of(etag)
    assert entities.etag_of(tag) == etag
    assert '"' not in tag


@pytest.mark.parametrize(
    "far", [{f"p{n}": object() for n in range(253)}, {"a": [object()] * 40_000}], ids=["properties", "items"]
)
def test_what_is_far_too_large_is_not_looked_through(far: dict[str, Any]) -> None:
    """A body of a few MB would keep every other request waiting for seconds."""
    with pytest.raises(ObjectTooLargeError):
        to_stored(far)


@given(
    st.recursive(
        st.integers(0, 9) | st.just(""), lambda inner: st.lists(inner) | st.dictionaries(st.just("a"), inner)
    )
)
def test_what_fits_is_not_too_large(value: Any) -> None:
    """No value has less than a character of JSON."""
    from storage_lib.ports.entities import _left

    text = json.dumps(value, separators=(",", ":"))
    assert _left(value, len(text), 100) >= 0


def test_what_another_program_stored_is_shown() -> None:
    properties = {"a": math.nan, "b": math.inf, "c": -math.inf}
    entity = Entity("p", "r", properties, "e", datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))))
    shown = entities.shown(entity)
    assert json.loads(json.dumps(shown, allow_nan=False)) == {
        "PartitionKey": "p",
        "RowKey": "r",
        "Timestamp": "2026-01-01T00:00:00.000000Z",
        "etag": "e",
        **{"a": "NaN", "b": "INF", "c": "-INF"},
        **{f"{name}@odata.type": "Edm.Double" for name in "abc"},
    }


async def test_a_policy_says_who_uses_which_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    may = {
        "some": {"tables": ["mine", "my table"]},
        "all": {"tables": ["*"], "queues": ["*"], "*": [""], "tasks": ["*"]},
        "ops": {"operate": ["*"]},
    }
    policy = {
        "keys": {name: hashlib.sha256(name.encode()).hexdigest() for name in may},
        "principals": {f"key:{name}": {"may": rights} for name, rights in may.items()},
    }
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(policy))
    monkeypatch.setenv("AGENT_STORAGE_ACCESS_POLICY", str(path))
    async with serve(monkeypatch, StorageConfig(storage_type="memory")) as app:
        tables = app.storage.backend.tables
        for table in ("mine", "my table", "others", TASK_TABLE):
            await tables.insert(table, "p", "r", {"n": 1})

        async def statuses(key: str | None, table: str) -> list[int]:
            headers = JSON | ({} if key is None else {"x-functions-key": key})
            target = f"/api/tables/{quote(table)}"
            found: list[int] = []
            for method, where, body in (
                ("GET", f"{target}/p/r", b""),
                ("GET", target, b""),
                ("PUT", f"{target}/p/r", b'{"n": 2}'),
                ("PATCH", f"{target}/p/r", b'{"n": 3}'),
                ("POST", target, b'{"PartitionKey": "p", "RowKey": "new"}'),
                ("DELETE", f"{target}/p/new", b""),
            ):
                answer = await app(method, where, body, headers)
                assert answer.status != 403 or b'"n"' not in answer.body
                found.append(answer.status)
            return found

        fine, none, reads = [200, 200, 200, 200, 201, 204], [403] * 6, [200, 200, 403, 403, 403, 403]
        for table, wanted in (
            ("mine", {"some": fine, "all": fine, "ops": none, None: none}),
            ("my table", {"some": fine, "all": fine, "ops": none, None: none}),
            ("others", {"some": none, "all": fine, "ops": none, None: none}),
            ("absent", {"some": none, "ops": none, None: none}),
            (TASK_TABLE, {"some": none, "all": none, "ops": reads, None: none}),
        ):
            for key, expected in wanted.items():
                assert await statuses(key, table) == expected, (key, table)
        assert "may not tables tables/others" in caplog.text


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
_TEXTS = st.text("0123456789+-.eENaINFTZ:=/{} ", max_size=30) | st.integers(-(10**400), 10**400).map(str)
_KINDS = st.sampled_from(
    [f"Edm.{name}" for name in ("Int32", "Int64", "Double", "DateTime", "Guid", "Binary")]
)


@settings(max_examples=examples(300), deadline=None)
@given(st.lists(st.tuples(_NAMES, _JSON | _TEXTS, st.none() | _KINDS | _JSON), max_size=4))
def test_whatever_a_document_holds_it_is_an_entity_or_the_clients_fault(
    found: list[tuple[str, Any, Any]],
) -> None:
    document: dict[str, Any] = {}
    for name, value, kind in found:
        document[name] = value
        if kind is not None:
            document[f"{name}@odata.type"] = kind
    try:
        stored = to_stored(entities.properties_of(document))
    except (InvalidArgumentError, ObjectTooLargeError):
        return
    entity = Entity("p", "r", from_stored(stored), "e", datetime(2026, 1, 1, tzinfo=UTC))
    again = entities.properties_of(json.loads(json.dumps(entities.shown(entity), allow_nan=False)))
    assert typed(to_stored(again)) == typed(stored)
