"""The app as a client sees it: through Microsoft's runtime, over HTTP, on the file backend."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from multidict import CIMultiDict
from vega_datasets import local_data
from yarl import URL

from devhost.host import Host, HostConfig
from functions import service
from functions import state as state_module
from functions.state import AppState
from storage_lib.config import StorageConfig
from storage_lib.errors import KeyNotFoundError
from storage_lib.factory import build
from storage_lib.ports.backend import QueueMessage, StorageBackend
from storage_lib.tasks.model import EVENT_QUEUE, POISON_QUEUE, TASK_QUEUE
from storage_lib.tasks.records import TaskRecords
from tests.conftest import PROJECT

CARS = Path(local_data.cars.filepath)
WEATHER = Path(local_data.seattle_weather.filepath)


class Client:
    """Requests with the path exactly as written, and the answers whole."""

    def __init__(self, session: aiohttp.ClientSession, base: str) -> None:
        self._session = session
        self._base = base

    async def __call__(
        self, method: str, path: str, *, body: bytes | None = None, **headers: str
    ) -> tuple[int, CIMultiDict[str], bytes]:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        url = URL(self._base + path, encoded=True)
        async with self._session.request(
            method, url, data=body, headers=sent, skip_auto_headers=["Content-Type", "Accept-Encoding"]
        ) as response:
            return response.status, response.headers.copy(), await response.read()

    async def problem(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        status, headers, body = await self(method, path, **options)
        assert headers["Content-Type"] == "application/problem+json"
        document = json.loads(body)
        assert document["status"] == status
        assert document["title"]
        assert document["detail"]
        assert document["type"].startswith("urn:agent-storage:problem:")
        return {**document, "code": document["type"].rpartition(":")[2], "headers": headers}

    async def settled(self, task_id: str) -> dict[str, Any]:
        """The record of a task once it is final."""
        async with asyncio.timeout(120):
            while True:
                _, headers, body = await self("GET", f"/api/tasks/{task_id}")
                record = json.loads(body)
                if record["status"] not in ("queued", "running"):
                    return record
                assert headers["Retry-After"] == "1"
                await asyncio.sleep(0.05)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    data = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith(("AgentStorage", "AzureWebJobs", "AGENT_"))]:
            patch.delenv(name)
        patch.setenv("AGENT_STORAGE_TYPE", "file")
        patch.setenv("AGENT_STORAGE_PATH", str(data))
        patch.setenv("AGENT_STORAGE_MAX_BODY_BYTES", "200000")
        patch.setenv("AGENT_TASK_EVENTS", "true")
        # Other tests of this process may have opened another storage in this event loop.
        patch.setattr(state_module, "_states", {})
        yield data


@pytest.fixture(scope="module")
async def client(environment: Path) -> AsyncIterator[Client]:
    host = Host(HostConfig(PROJECT, environment, port=0))
    await host.start()
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        yield Client(session, host.url)
    await host.stop()


@pytest.fixture
async def store(environment: Path) -> AsyncIterator[StorageBackend]:
    """The same storage from outside, as another program would open it."""
    async with build(StorageConfig(base_path=environment)) as backend:
        yield backend


# -- objects


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b'{"name": "ceo",  "model": "large"}\n'),
        ("application/octet-stream", bytes(range(256))),
        ("text/plain; charset=utf-8", "päckchen".encode()),
        ("image/png", b"\x89PNG"),
        ("application/json", b"null"),
        ("text/html", b""),
    ],
)
async def test_what_was_saved_comes_back_to_the_byte(client: Client, content_type: str, body: bytes) -> None:
    path = f"/api/objects/round/trip-{len(body)}"
    status, saved, answer = await client(
        "PUT", path, body=body, Content_Type=content_type, x_meta_author="Zo%C3%AB"
    )
    assert status == 201
    assert saved["Location"] == path
    assert json.loads(answer) == {
        "key": f"round/trip-{len(body)}",
        "etag": saved["ETag"].strip('"'),
        "size": len(body),
    }
    status, loaded, data = await client("GET", path)
    assert (status, data) == (200, body)
    assert loaded["Content-Type"] == content_type
    assert loaded["ETag"] == saved["ETag"]
    assert loaded["x-meta-author"] == "Zo%C3%AB"
    assert loaded["X-Content-Type-Options"] == "nosniff"
    status, headed, nothing = await client("HEAD", path)
    assert (status, nothing) == (200, b"")
    for name in ("Content-Type", "ETag", "Last-Modified", "Content-Length", "x-meta-author"):
        assert headed[name] == loaded[name]
    status, again, _ = await client("PUT", path, body=b"[1]", Content_Type="application/json")
    assert status == 200
    assert "Location" not in again
    assert again["ETag"] != saved["ETag"]
    assert (await client("DELETE", path))[0] == 204
    for method in ("GET", "DELETE"):
        problem = await client.problem(method, path)
        assert (problem["status"], problem["code"]) == (404, "key-not-found")
    assert (await client("HEAD", path))[0] == 404


async def test_a_body_without_a_type_is_bytes(client: Client) -> None:
    await client("PUT", "/api/objects/untyped", body=b"x")
    _, headers, _ = await client("GET", "/api/objects/untyped")
    assert headers["Content-Type"] == "application/octet-stream"


async def test_keys_travel_percent_encoded(client: Client, store: StorageBackend) -> None:
    for path, key in (
        ("keys/a%20b%23c%3Fd", "keys/a b#c?d"),
        ("keys/100%25", "keys/100%"),
        ("keys/%C3%BCber", "keys/über"),
        ("keys/a+b", "keys/a+b"),
        ("keys%2Fwhole%2fencoded", "keys/whole/encoded"),
        ("keys/%2541", "keys/%41"),
    ):
        status, _, answer = await client("PUT", f"/api/objects/{path}", body=key.encode())
        assert (status, json.loads(answer)["key"]) == (201, key)
        assert (await client("GET", f"/api/objects/{path}"))[2] == key.encode()
        found = await store.objects.get(key)
        assert found is not None
        assert found.data == key.encode()


@pytest.mark.parametrize(
    "path",
    [
        "a/..%2fb",
        "..%2fb",
        "%2e%2e%2fetc%2fpasswd",
        "a/%2e%2e%2f%2e%2e%2fb",
        "a//b",
        "a/",
        "a%0Ab",
        "a%5Cb",
        "a%7f",
        "%E2%80%A6%2F..",
        "dot.",
        "e%CC%81",
        "s" * 256,
        "/".join(["long-segment-of-a-key"] * 50),
        ".system/tasks/x",
        ".system",
    ],
)
async def test_keys_outside_the_grammar_are_refused_on_every_route(
    client: Client, environment: Path, path: str
) -> None:
    before = sorted(p for p in environment.rglob("*") if p.is_file())
    for method in ("PUT", "GET", "DELETE"):
        problem = await client.problem(method, f"/api/objects/{path}", body=b"x")
        assert (problem["status"], problem["code"]) == (400, "invalid-key")
        assert problem["field"] == "key"
    assert (await client("HEAD", f"/api/objects/{path}"))[0] == 400
    assert sorted(p for p in environment.rglob("*") if p.is_file()) == before


@pytest.mark.parametrize(
    ("options", "status", "code", "field"),
    [
        ({"body": b"{not json", "Content_Type": "application/json"}, 400, "serialization-error", "body"),
        ({"body": b"", "Content_Type": "application/json"}, 400, "serialization-error", "body"),
        ({"body": b"\xff", "Content_Type": "application/ld+json"}, 400, "serialization-error", "body"),
        ({"body": b"x", "Content_Type": "no-slash"}, 400, "invalid-argument", "Content-Type"),
        ({"body": b"x", "Content_Range": "bytes 0-0/5"}, 400, "invalid-argument", "Content-Range"),
        ({"body": b"x", "Content_Encoding": "gzip"}, 415, "unsupported-media-type", "Content-Encoding"),
        ({"body": b"x", "x_meta_a": "%ff"}, 400, "invalid-argument", "x-meta-*"),
        ({"body": b"x" * 200_001}, 413, "object-too-large", "body"),
        ({"body": b"x", "x_meta_a": "y" * 2000}, 413, "object-too-large", "x-meta-*"),
        ({"body": b"x", "x_meta_under_score": "%00"}, 400, "invalid-argument", "x-meta-*"),
        ({"body": b"x", "If_Match": "unquoted"}, 400, "invalid-argument", "If-Match"),
        ({"body": b"x", "If_None_Match": "tag"}, 400, "invalid-argument", "If-None-Match"),
        ({"body": b"x", "If_Match": '"other"'}, 412, "precondition-failed", "If-Match"),
        ({"body": b"x", "If_Match": "*"}, 412, "precondition-failed", "If-Match"),
        ({"body": b"x", "x_ttl_seconds": "-5"}, 400, "invalid-argument", "x-ttl-seconds"),
        ({"body": b"x", "x_ttl_seconds": "soon"}, 400, "invalid-argument", "x-ttl-seconds"),
        ({"body": b"x", "x_ttl_seconds": "9999999999"}, 400, "invalid-argument", "x-ttl-seconds"),
    ],
)
async def test_a_save_that_can_not_be_right_stores_nothing(
    client: Client, options: dict[str, Any], status: int, code: str, field: str | None
) -> None:
    problem = await client.problem("PUT", "/api/objects/refused", **options)
    assert (problem["status"], problem["code"], problem.get("field")) == (status, code, field)
    assert (await client("HEAD", "/api/objects/refused"))[0] == 404


async def test_a_time_to_live(client: Client) -> None:
    path = "/api/objects/ttl/short"
    assert (await client("PUT", path, body=b"x", x_ttl_seconds="3600.5"))[0] == 201
    _, headers, _ = await client("GET", path)
    assert headers["x-expires-at"] > headers["Last-Modified"][-4:]
    assert (await client("GET", path, If_None_Match=headers["ETag"]))[0] == 304
    assert (await client("PUT", path, body=b"x", If_Match=headers["ETag"], x_ttl_seconds="0"))[0] == 200
    assert (await client.problem("GET", path))["code"] == "key-not-found"
    assert json.loads((await client("GET", "/api/objects?prefix=ttl/"))[2])["objects"] == []
    assert (await client("PUT", path, body=b"y", If_None_Match="*"))[0] == 201
    _, headers, body = await client("GET", path)
    assert body == b"y"
    assert "x-expires-at" not in headers


async def test_listed_etags_are_good_for_conditions(client: Client) -> None:
    path = "/api/objects/etags/x"
    await client("PUT", path, body=b"x", x_ttl_seconds="3600")
    for several in (False, True):
        for listed in (True, False):
            page = json.loads((await client("GET", "/api/objects?prefix=etags/"))[2])
            own = (await client("HEAD", path))[1]["ETag"]
            tag = f'"{page["objects"][0]["etag"]}"' if listed else own
            tag = f'"a", {tag}' if several else tag
            assert (await client("GET", path, If_Match=tag))[0] == 200
            assert (await client("GET", path, If_None_Match=tag))[0] == 304
            assert (await client("PUT", path, body=b"x", If_Match=tag, x_ttl_seconds="60"))[0] == 200


async def test_reads_and_any_writes_beside_writers_are_never_refused(client: Client) -> None:
    """412 is an answer to a condition that the client gave, never to a race of its own requests."""
    path = "/api/objects/raced"
    await client("PUT", path, body=b"x")

    async def repeat(count: int, *arguments: Any, **headers: Any) -> set[int]:
        return {(await client(*arguments, **headers))[0] for _ in range(count)}

    statuses = await asyncio.gather(
        repeat(60, "PUT", path, body=b"y"),
        repeat(60, "GET", path, If_None_Match='"other"'),
        repeat(60, "GET", path, If_Modified_Since="Mon, 01 Jan 2001 00:00:00 GMT"),
        repeat(60, "GET", path, Range="bytes=0-0", If_Range='"other"'),
        repeat(60, "PUT", path, body=b"z", If_Match="*"),
    )
    assert statuses == [{200}] * 5


async def test_conditional_writes(client: Client) -> None:
    path = "/api/objects/conditional"
    status, first, _ = await client("PUT", path, body=b"1", If_None_Match="*")
    assert status == 201
    assert (await client.problem("PUT", path, body=b"2", If_None_Match="*"))["status"] == 412
    status, second, _ = await client("PUT", path, body=b"2", If_Match=first["ETag"])
    assert status == 200
    assert (await client.problem("PUT", path, body=b"3", If_Match=first["ETag"]))["status"] == 412
    assert (await client.problem("PUT", path, body=b"3", If_Match=f"W/{second['ETag']}"))["status"] == 412
    several = f'"other", {second["ETag"]}'
    assert (await client("PUT", path, body=b"4", If_Match=several))[0] == 200
    assert (await client("PUT", path, body=b"5", If_Match="*"))[0] == 200
    assert (await client.problem("DELETE", path, If_Match=second["ETag"]))["status"] == 412
    assert (await client("GET", path))[2] == b"5"
    assert (await client("DELETE", path, If_Match="*"))[0] == 204


async def test_conditional_reads(client: Client) -> None:
    path = "/api/objects/cached"
    await client("PUT", path, body=b"x")
    _, headers, _ = await client("GET", path)
    tag, modified = headers["ETag"], headers["Last-Modified"]
    for conditions in (
        {"If_None_Match": tag},
        {"If_None_Match": f'"a", W/{tag}'},
        {"If_None_Match": "*"},
        {"If_Modified_Since": modified},
    ):
        for method in ("GET", "HEAD"):
            status, answer, body = await client(method, path, **conditions)
            assert (status, body) == (304, b"")
            assert answer["ETag"] == tag
    for conditions in (
        {"If_None_Match": '"a"'},
        {"If_None_Match": '"a"', "If_Modified_Since": modified},
        {"If_Modified_Since": "Mon, 01 Jan 2001 00:00:00 GMT"},
        {"If_Modified_Since": "nonsense"},
        {"If_Match": tag},
        {"If_Match": "*"},
    ):
        assert (await client("GET", path, **conditions))[0] == 200
    assert (await client.problem("GET", path, If_Match='"other"'))["status"] == 412


async def test_a_write_is_refused_where_it_was_modified_since(client: Client) -> None:
    path = "/api/objects/dated"
    past = "Mon, 01 Jan 2001 00:00:00 GMT"
    _, saved, _ = await client(
        "PUT", path, body=b"1", If_Unmodified_Since=past
    )  # what is not there has no date
    _, headers, _ = await client("GET", path)
    for method in ("PUT", "DELETE", "GET"):
        problem = await client.problem(method, path, If_Unmodified_Since=past)
        assert (problem["status"], problem["field"]) == (412, "If-Unmodified-Since")
        assert problem["remedy"] == "load it again and retry with its ETag"
    assert (await client("HEAD", path, If_Unmodified_Since=past))[0] == 412
    assert (await client("GET", path))[2] == b"1"
    assert (await client("GET", path, If_Unmodified_Since=past, If_Match=saved["ETag"]))[0] == 200
    assert (await client("GET", path, If_Unmodified_Since="nonsense"))[0] == 200
    date = headers["Last-Modified"]
    assert (await client("GET", path, If_Unmodified_Since=date))[2] == b"1"
    assert (await client("GET", path, If_Unmodified_Since=date, If_None_Match=saved["ETag"]))[0] == 304
    assert (await client.problem("PUT", path, If_Unmodified_Since=date, If_None_Match="*"))["status"] == 412
    status, again, _ = await client("PUT", path, body=b"2", If_Unmodified_Since=past, If_Match=saved["ETag"])
    assert status == 200
    assert (await client("PUT", path, body=b"3", If_Unmodified_Since="Fri, 01 Jan 2100 00:00:00 GMT"))[
        0
    ] == 200
    assert (await client.problem("DELETE", path, If_Match=again["ETag"]))["status"] == 412
    assert (await client("DELETE", path, If_Unmodified_Since="Fri, 01 Jan 2100 00:00:00 GMT"))[0] == 204
    assert (await client.problem("DELETE", path, If_Unmodified_Since=past))["status"] == 404


async def test_a_list_of_entity_tags_as_the_standard_has_it(client: Client) -> None:
    path = "/api/objects/tags"
    _, saved, _ = await client("PUT", path, body=b"1")
    quoted_star = '"*"'
    for method in ("PUT", "DELETE", "GET"):
        assert (await client.problem(method, path, If_Match=quoted_star))["status"] == 412
    assert (await client("PUT", "/api/objects/tags2", If_None_Match=quoted_star))[0] == 201
    assert (await client("GET", path, If_None_Match=quoted_star))[0] == 200
    for tags in (f",{saved['ETag']}", f'"a", ,{saved["ETag"]},,', f" , {saved['ETag']} , "):
        assert (await client("GET", path, If_None_Match=tags))[0] == 304
        assert (await client("GET", path, If_Match=tags))[0] == 200
    for tags in ("a", '"a" "b"', '"a', '*, "a"', '"a";'):
        assert (await client.problem("GET", path, If_Match=tags))["status"] == 400
    assert (await client.problem("GET", path, If_Match=","))["status"] == 412


@pytest.mark.parametrize(
    ("wanted", "status", "content_range", "body"),
    [
        ("bytes=0-3", 206, "bytes 0-3/10", b"0123"),
        ("bytes=4-", 206, "bytes 4-9/10", b"456789"),
        ("bytes=-3", 206, "bytes 7-9/10", b"789"),
        ("bytes=-99", 206, "bytes 0-9/10", b"0123456789"),
        ("BYTES=0-3", 206, "bytes 0-3/10", b"0123"),
        ("bytes=8-99", 206, "bytes 8-9/10", b"89"),
        ("bytes=0-1,2-4", 206, "bytes 0-4/10", b"01234"),
        ("bytes=0-1,3", 200, None, b"0123456789"),
        ("bytes=3-1", 200, None, b"0123456789"),
        ("lines=1-2", 200, None, b"0123456789"),
        ("bytes=-", 200, None, b"0123456789"),
    ],
)
async def test_ranges(
    client: Client, wanted: str, status: int, content_range: str | None, body: bytes
) -> None:
    path = "/api/objects/ranged"
    await client("PUT", path, body=b"0123456789")
    found = await client("GET", path, Range=wanted)
    assert (found[0], found[1].get("Content-Range"), found[2]) == (status, content_range, body)


async def test_ranges_outside_the_object_and_of_another_version(client: Client) -> None:
    path = "/api/objects/ranged"
    await client("PUT", path, body=b"0123456789")
    for wanted in ("bytes=10-", "bytes=10-20", "bytes=-0", "bytes=99999999999999999999-"):
        problem = await client.problem("GET", path, Range=wanted)
        assert (problem["status"], problem["code"]) == (416, "range-not-satisfiable")
        assert problem["headers"]["Content-Range"] == "bytes */10"
    tag = (await client("HEAD", path))[1]["ETag"]
    assert (await client("GET", path, Range="bytes=0-1", If_Range=tag))[0] == 206
    assert (await client("GET", path, Range="bytes=0-1", If_Range='"old"'))[2] == b"0123456789"


async def test_conditions_come_before_the_range(client: Client) -> None:
    path = "/api/objects/resumed"
    _, old, _ = await client("PUT", path, body=b"x" * 100)
    _, new, _ = await client("PUT", path, body=b"new")
    past = "Mon, 01 Jan 2001 00:00:00 GMT"
    for if_range in (old["ETag"], f"W/{new['ETag']}", past):
        assert (await client("GET", path, Range="bytes=50-", If_Range=if_range))[::2] == (200, b"new")
    for condition in ({"If_Match": old["ETag"]}, {"If_Unmodified_Since": past}):
        assert (await client.problem("GET", path, Range="bytes=50-", **condition))["status"] == 412
    assert (await client("GET", path, Range="bytes=50-", If_None_Match=new["ETag"]))[0] == 304
    for condition in ({"If_Range": new["ETag"]}, {"If_Match": new["ETag"]}, {"If_None_Match": old["ETag"]}):
        assert (await client.problem("GET", path, Range="bytes=50-", **condition))["status"] == 416
        assert (await client("GET", path, Range="bytes=1-", **condition))[::2] == (206, b"ew")


async def test_listing(client: Client) -> None:
    for name in ("a", "b/1", "b/2", "c"):
        await client("PUT", f"/api/objects/listed/{name}", body=name.encode())
    _, headers, body = await client("GET", "/api/objects?prefix=listed/")
    assert headers["Content-Type"] == "application/json"
    page = json.loads(body)
    assert [each["key"] for each in page["objects"]] == [f"listed/{n}" for n in ("a", "b/1", "b/2", "c")]
    assert page["objects"][0]["size"] == 1
    tag = (await client("HEAD", "/api/objects/listed/a"))[1]["ETag"]
    assert page["objects"][0]["etag"] == tag.strip('"')
    assert page["objects"][0]["last_modified"].endswith("Z")
    folded = json.loads((await client("GET", "/api/objects?prefix=listed/&delimiter=/"))[2])
    assert [each["key"] for each in folded["objects"]] == ["listed/a", "listed/c"]
    assert folded["prefixes"] == ["listed/b/"]
    seen: list[str] = []
    cursor = ""
    while cursor is not None:
        page = json.loads((await client("GET", f"/api/objects?prefix=listed/&limit=3&cursor={cursor}"))[2])
        seen += [each["key"] for each in page["objects"]]
        cursor = page["cursor"]
    assert seen == [f"listed/{n}" for n in ("a", "b/1", "b/2", "c")]
    for query, field in (
        ("limit=0", "limit"),
        ("limit=x", "limit"),
        ("limit=1001", "limit"),
        ("delimiter=-", "delimiter"),
        ("cursor=x", "cursor"),
    ):
        problem = await client.problem("GET", f"/api/objects?{query}")
        assert (problem["status"], problem["field"]) == (400, field)
    assert (await client.problem("GET", "/api/objects?prefix=a//b"))["code"] == "invalid-key"


# -- tasks


async def test_a_report_is_analysed(client: Client, store: StorageBackend) -> None:
    report = WEATHER.read_bytes()
    assert report.count(b"\n") > 1000
    await client("PUT", "/api/objects/reports/weather.csv", body=report, Content_Type="text/csv")
    submission = {
        "action": "analyze_report",
        "agent_id": "ceo",
        "payload": {"report": "reports/weather.csv"},
        "correlation_id": "run-7",
    }
    status, headers, body = await client(
        "POST", "/api/tasks", body=json.dumps(submission).encode(), Content_Type="application/json"
    )
    assert status == 202
    submitted = json.loads(body)
    assert headers["Location"] == f"/api/tasks/{submitted['task_id']}"
    record = await client.settled(submitted["task_id"])
    assert record["status"] == "succeeded"
    assert record["result"]["profile"] == "reports/weather.csv.profile.json"
    assert record["result"]["rows"] == 1461
    assert (record["agent_id"], record["correlation_id"]) == ("ceo", "run-7")
    _, headers, body = await client("GET", "/api/objects/reports/weather.csv.profile.json")
    assert headers["Content-Type"] == "application/json"
    profile = json.loads(body)
    columns = {column["name"]: column for column in profile["table"]["columns"]}
    assert columns["precipitation"]["max"] == 55.9
    async with asyncio.timeout(120):
        while True:
            events: list[QueueMessage] = []
            with contextlib.suppress(KeyNotFoundError):  # made by the first event, which follows the record
                events = await store.queues.peek(EVENT_QUEUE, max_messages=32)
            found = [json.loads(event.body) for event in events if event.body]
            if any(event["task_id"] == submitted["task_id"] for event in found):
                break
            await asyncio.sleep(0.05)
    (event,) = [event for event in found if event["task_id"] == submitted["task_id"]]
    assert (event["type"], event["correlation_id"]) == ("task.succeeded", "run-7")


async def test_a_profile_never_takes_the_place_of_something_else(client: Client) -> None:
    body = CARS.read_bytes()
    await client("PUT", "/api/objects/reports/own.json", body=body, Content_Type="application/json")
    await client("PUT", "/api/objects/mine", body=b"mine")
    for output, status, code in (("mine", "failed", "precondition-failed"), ("new", "succeeded", None)):
        for _ in range(2):  # its own profile it may replace
            task = analysis("reports/own.json")
            task["payload"]["output"] = output
            _, _, submitted = await post(client, "/api/tasks", task)
            record = await client.settled(submitted["task_id"])
            assert (record["status"], (record["error"] or {}).get("code")) == (status, code)
    assert (await client("GET", "/api/objects/mine"))[2] == b"mine"
    for output in ("reports/own.json", "../x", ".system/x"):
        task["payload"]["output"] = output
        problem = await client.problem(
            "POST", "/api/tasks", body=json.dumps(task).encode(), Content_Type="application/json"
        )
        assert problem["status"] == 400
    task["payload"] |= {"output": "mine", "overwrite": True}
    _, _, submitted = await post(client, "/api/tasks", task)
    assert (await client.settled(submitted["task_id"]))["status"] == "succeeded"


@pytest.mark.parametrize("encoded", [True, False])
async def test_a_message_of_another_program_is_processed(
    client: Client, store: StorageBackend, encoded: bool
) -> None:
    task_id = f"t1-{encoded}"
    await client(
        "PUT", "/api/objects/reports/cars.json", body=CARS.read_bytes(), Content_Type="application/json"
    )
    message = {
        "task_id": task_id,
        "agent_id": "ceo",
        "action": "analyze_report",
        "payload": {"report": "reports/cars.json", "output": "profiles/cars"},
    }
    text = json.dumps(message)
    await store.queues.send_text(TASK_QUEUE, store.queues.encode(text) if encoded else text)
    async with asyncio.timeout(120):
        while (await client("GET", f"/api/tasks/{task_id}"))[0] == 404:
            await asyncio.sleep(0.05)
    record = await client.settled(task_id)
    assert (record["status"], record["error"]) == ("succeeded", None)
    assert json.loads((await client("GET", "/api/objects/profiles/cars"))[2])["table"]["rows"] == 406


@pytest.mark.parametrize("encoded", [True, False])
async def test_a_garbage_message_ends_as_a_dead_record(
    client: Client, store: StorageBackend, encoded: bool
) -> None:
    garbage = f"no json at all, {'in base64' if encoded else 'plain'}"
    text = store.queues.encode(garbage) if encoded else garbage
    await store.queues.send_text(TASK_QUEUE, text)
    async with asyncio.timeout(120):
        while True:
            found = json.loads((await client("GET", "/api/tasks?status=dead&limit=1000"))[2])["tasks"]
            if dead := [record for record in found if record.get("raw_message") == text]:
                break
            await asyncio.sleep(0.05)
    (record,) = dead
    assert record["error"]["code"] == "serialization-error"
    assert (record["agent_id"], record["action"]) == ("unknown", "unknown")
    # Its place is that of its time, to the second, so the newest dead are found first.
    (newest,) = json.loads((await client("GET", "/api/tasks?status=dead&limit=1"))[2])["tasks"]
    assert newest["created_at"][:19] == record["created_at"][:19]
    again = json.loads((await client("GET", f"/api/tasks/{record['task_id']}"))[2])
    assert again["raw_message"] == text
    async with asyncio.timeout(120):
        while await store.queues.length(TASK_QUEUE) or await store.queues.length(POISON_QUEUE):
            await asyncio.sleep(0.05)


async def test_a_message_of_another_program_can_be_put_back_once_it_can_be_handled(
    client: Client, store: StorageBackend
) -> None:
    """Listed, inspected and requeued over HTTP."""
    await store.queues.send_text(TASK_QUEUE, "someone else's message")
    async with asyncio.timeout(120):
        while True:
            found = json.loads((await client("GET", "/api/tasks?status=dead&limit=1000"))[2])["tasks"]
            if dead := [each for each in found if each.get("raw_message") == "someone else's message"]:
                break
            await asyncio.sleep(0.05)
    (record,) = dead
    status, _, requeued = await post(client, f"/api/tasks/{record['task_id']}/requeue")
    assert (status, requeued["status"]) == (202, "dead")
    assert requeued["history"][-1]["outcome"] == "requeued"
    async with asyncio.timeout(120):  # still no task, so it comes back as another dead record
        while True:
            found = json.loads((await client("GET", "/api/tasks?status=dead&limit=1000"))[2])["tasks"]
            if len([e for e in found if e.get("raw_message") == "someone else's message"]) == 2:
                break
            await asyncio.sleep(0.05)


async def test_a_task_that_fails_says_why(client: Client) -> None:
    for payload, code, words in (
        ({"report": "reports/missing.csv"}, "key-not-found", "reports/missing.csv"),
        ({"report": "reports/missing.csv", "output": "reports/none"}, "key-not-found", "missing"),
    ):
        submission = {"action": "analyze_report", "agent_id": "a", "payload": payload}
        _, _, body = await client(
            "POST", "/api/tasks", body=json.dumps(submission).encode(), Content_Type="application/json"
        )
        record = await client.settled(json.loads(body)["task_id"])
        assert record["status"] == "failed"
        assert record["error"]["code"] == code
        assert words in record["error"]["message"]
        assert record["finished_at"] >= record["started_at"] >= record["created_at"]


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code", "field"),
    [
        (b"{", "application/json", 400, "serialization-error", "body"),
        (b"[]", "application/json", 400, "serialization-error", "body"),
        (b"\xff", "application/json", 400, "serialization-error", "body"),
        (b"{}", "text/plain", 415, "unsupported-media-type", "Content-Type"),
        (b"{}", None, 415, "unsupported-media-type", "Content-Type"),
        (b"{}", "application/json", 400, "invalid-argument", "action"),
        (b'{"action": "analyze_report"}', "application/json", 400, "invalid-argument", "agent_id"),
        (
            b'{"action": "no_such_action", "agent_id": "a"}',
            "application/json; charset=utf-8",
            400,
            "unknown-action",
            "action",
        ),
        (
            b'{"action": "analyze_report", "agent_id": "a"}',
            "application/json",
            400,
            "invalid-argument",
            "payload.report",
        ),
        (
            b'{"action": "analyze_report", "agent_id": "a", "priority": 1}',
            "application/json",
            400,
            "invalid-argument",
            "priority",
        ),
        (
            b'{"action": "analyze_report", "agent_id": "a", "urgent": true}',
            "application/json",
            400,
            "invalid-argument",
            "urgent",
        ),
        (
            b'{"action": "analyze_report", "agent_id": "a", "delay_seconds": true}',
            "application/json",
            400,
            "invalid-argument",
            "delay_seconds",
        ),
        (b"{" + b" " * 200_000 + b"}", "application/json", 413, "object-too-large", "body"),
    ],
)
async def test_a_submission_that_can_not_be_right_makes_no_task(
    client: Client, body: bytes, content_type: str | None, status: int, code: str, field: str
) -> None:
    before = json.loads((await client("GET", "/api/tasks?limit=1000"))[2])["tasks"]
    options = {} if content_type is None else {"Content_Type": content_type}
    problem = await client.problem("POST", "/api/tasks", body=body, **options)
    assert (problem["status"], problem["code"], problem["field"]) == (status, code, field)
    assert json.loads((await client("GET", "/api/tasks?limit=1000"))[2])["tasks"] == before


async def post(client: Client, path: str, document: Any = None, **headers: str) -> tuple[int, Any, Any]:
    body = b"" if document is None else json.dumps(document).encode()
    status, answer, data = await client("POST", path, body=body, Content_Type="application/json", **headers)
    return status, answer, json.loads(data)


def analysis(report: str, **fields: Any) -> dict[str, Any]:
    return {"action": "analyze_report", "agent_id": "ceo", "payload": {"report": report}, **fields}


async def test_waiting_for_a_task(client: Client) -> None:
    await client(
        "PUT", "/api/objects/reports/cars.json", body=CARS.read_bytes(), Content_Type="application/json"
    )
    for priority in ("high", "normal"):
        _, _, submitted = await post(client, "/api/tasks", analysis("reports/cars.json", priority=priority))
        status, headers, record = 0, CIMultiDict[str](), submitted
        while record["status"] in ("queued", "running"):
            status, headers, body = await client("GET", f"/api/tasks/{submitted['task_id']}?wait=30")
            record = json.loads(body)
        assert (status, record["status"], record["priority"]) == (200, "succeeded", priority)
        assert "Retry-After" not in headers
        assert [attempt["outcome"] for attempt in record["history"]] == ["succeeded"]
    _, _, delayed = await post(client, "/api/tasks", analysis("reports/cars.json", delay_seconds=3600))
    _, headers, body = await client("GET", f"/api/tasks/{delayed['task_id']}?wait=1")
    assert json.loads(body)["status"] == "queued"
    assert headers["Retry-After"] == "1"
    assert json.loads(body)["due_at"] > json.loads(body)["created_at"]
    assert (await client.problem("GET", f"/api/tasks/{delayed['task_id']}?wait=31"))["field"] == "wait"
    status, _, cancelled = await post(client, f"/api/tasks/{delayed['task_id']}/cancel")
    assert (status, cancelled["status"]) == (200, "cancelled")
    status, _, requeued = await post(client, f"/api/tasks/{delayed['task_id']}/requeue")
    assert (status, requeued["status"]) == (202, "queued")
    assert (await client.settled(delayed["task_id"]))["status"] == "succeeded"
    for path in ("cancel", "requeue"):
        problem = await client.problem("POST", f"/api/tasks/{delayed['task_id']}/{path}")
        assert (problem["status"], problem["code"]) == (409, "task-state")
        assert (await client.problem("POST", f"/api/tasks/nobody/{path}"))["status"] == 404


async def test_idempotency_keys_and_traces(client: Client) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    task = analysis("reports/none.csv", idempotency_key="once")
    first = await post(client, "/api/tasks", task, traceparent=trace)
    second = await post(client, "/api/tasks", task)
    assert first[2]["task_id"] == second[2]["task_id"]
    assert second[2]["traceparent"] == trace
    problem = await client.problem(
        "POST",
        "/api/tasks",
        body=json.dumps(analysis("reports/other.csv", idempotency_key="once")).encode(),
        Content_Type="application/json",
    )
    assert (problem["status"], problem["code"], problem["field"]) == (
        409,
        "idempotency-conflict",
        "idempotency_key",
    )


async def test_many_tasks_in_one_request(client: Client) -> None:
    tasks = [analysis("reports/none.csv", correlation_id=f"many-{n}") for n in range(5)]
    status, _, answer = await post(client, "/api/tasks", {"tasks": tasks})
    assert status == 202
    assert [task["correlation_id"] for task in answer["tasks"]] == [f"many-{n}" for n in range(5)]
    for task in answer["tasks"]:
        record = await client.settled(task["task_id"])
        assert (record["status"], record["error"]["code"]) == ("failed", "key-not-found")
        assert "KeyNotFoundError" in record["error"]["traceback"]
    for wrong, field in (
        ({"tasks": [*tasks, {"action": "analyze_report"}]}, "tasks[5].agent_id"),
        ({"tasks": [1]}, "tasks[0]"),
        ({"tasks": {}}, "tasks"),
        ({"tasks": tasks, "action": "x"}, "tasks"),
        ({"tasks": []}, "tasks"),
        ({"tasks": [analysis("r", priority="urgent")]}, "tasks[0].priority"),
    ):
        problem = await client.problem(
            "POST", "/api/tasks", body=json.dumps(wrong).encode(), Content_Type="application/json"
        )
        assert (problem["status"], problem["field"]) == (400, field)
    found = json.loads(
        (await client("GET", f"/api/tasks?created_after={answer['tasks'][0]['created_at']}"))[2]
    )
    assert len(found["tasks"]) >= 5
    assert json.loads((await client("GET", "/api/tasks?created_before=2020-01-01"))[2])["tasks"] == []
    assert (await client.problem("GET", "/api/tasks?created_after=now"))["field"] == "created_after"


async def test_reading_tasks_that_are_not_there(client: Client) -> None:
    problem = await client.problem("GET", "/api/tasks/nobody")
    assert (problem["status"], problem["code"]) == (404, "key-not-found")
    assert (await client.problem("GET", "/api/tasks/%20"))["field"] == "task_id"
    assert (await client.problem("GET", "/api/tasks?status=finished"))["field"] == "status"


# -- service and failures


async def test_health(client: Client) -> None:
    status, _, body = await client("GET", "/api/health/live")
    assert (status, json.loads(body)) == (200, {"status": "live"})
    status, _, body = await client("GET", "/api/health/ready")
    assert (status, json.loads(body)) == (200, {"status": "ready", "storage": "file"})


@pytest.fixture
def other_state(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give the app another configuration for one test."""

    def use(config: StorageConfig) -> AppState:
        app = AppState(config)
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(state_module, "_states", {loop: app})
        return app

    return use


async def test_an_unreachable_store_is_unavailable_never_not_found(client: Client, other_state: Any) -> None:
    key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
    app = other_state(
        StorageConfig(
            storage_type="azure",
            connection_string=f"AccountName=devstoreaccount1;AccountKey={key};"
            "BlobEndpoint=http://127.0.0.1:9/devstoreaccount1;QueueEndpoint=http://127.0.0.1:9/devstoreaccount1;"
            "TableEndpoint=http://127.0.0.1:9/devstoreaccount1",
        )
    )
    task = {"action": "analyze_report", "agent_id": "a", "payload": {"report": "r"}}
    for method, path, options in (
        ("GET", "/api/objects/k", {}),
        ("PUT", "/api/objects/k", {"body": b"x"}),
        ("DELETE", "/api/objects/k", {}),
        ("GET", "/api/objects", {}),
        ("GET", "/api/health/ready", {}),
        ("POST", "/api/tasks", {"body": json.dumps(task).encode(), "Content_Type": "application/json"}),
        ("GET", "/api/tasks/t", {}),
        ("GET", "/api/tasks", {}),
    ):
        problem = await client.problem(method, path, **options)
        assert (problem["status"], problem["code"]) == (503, "storage-unavailable"), path
        assert problem["headers"]["Retry-After"] == "1"
        assert key not in str(problem)
    assert (await client("GET", "/api/health/live"))[0] == 200
    await app.storage.close()


async def test_a_body_limit_beyond_the_hosts_is_a_configuration_error(
    client: Client, other_state: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit, status in (("104857600", 201), ("104857601", 500)):
        monkeypatch.setenv("AGENT_STORAGE_MAX_BODY_BYTES", limit)
        app = other_state(StorageConfig(base_path=tmp_path))
        assert (await client("PUT", "/api/objects/k", body=b"x"))[0] == status
        await app.storage.close()
    problem = await client.problem("PUT", "/api/objects/k", body=b"x")
    assert (problem["code"], problem["field"]) == ("configuration-error", "AGENT_STORAGE_MAX_BODY_BYTES")
    assert problem["limit"] == "104857600 bytes"


async def test_a_body_that_is_too_large_says_what_to_do(client: Client) -> None:
    problem = await client.problem("PUT", "/api/objects/large", body=b"x" * 200_001)
    assert problem["status"] == 413
    assert "raise AGENT_STORAGE_MAX_BODY_BYTES, up to 100 MB" in problem["remedy"]


async def test_a_data_folder_that_vanished_is_unavailable_and_never_made_anew(
    client: Client, other_state: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    app = other_state(StorageConfig(base_path=folder))
    assert (await client("PUT", "/api/objects/a/b", body=b"x"))[0] == 201
    assert (await client("GET", "/api/health/ready"))[0] == 200
    folder.rename(tmp_path / "away")
    for method, path in (
        ("GET", "/api/health/ready"),
        ("GET", "/api/objects/a/b"),
        ("GET", "/api/objects"),
        ("DELETE", "/api/objects/a/b"),
        ("GET", "/api/tasks"),
    ):
        problem = await client.problem(method, path)
        assert (problem["status"], problem["code"]) == (503, "storage-unavailable"), path
        assert "folder" in problem["remedy"]
    assert not folder.exists()
    (tmp_path / "away").rename(folder)
    assert (await client("GET", "/api/health/ready"))[0] == 200
    assert (await client("GET", "/api/objects/a/b"))[2] == b"x"
    await app.storage.close()


async def test_corrupt_bytes_are_an_error_never_data(client: Client, environment: Path) -> None:
    await client("PUT", "/api/objects/corrupt", body=b"precious bytes")
    (path,) = environment.glob("objects/corrupt*")
    path.write_bytes(path.read_bytes().replace(b"precious", b"preciouz"))
    problem = await client.problem("GET", "/api/objects/corrupt")
    assert (problem["status"], problem["code"]) == (500, "integrity-error")
    await client("PUT", "/api/objects/corrupt", body=b"mended")
    assert (await client("GET", "/api/objects/corrupt"))[2] == b"mended"


async def test_readiness_does_not_wait_for_a_storage_that_does_not_answer(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: Any, **__: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(service, "READY_SECONDS", 0.1)
    monkeypatch.setattr(TaskRecords, "list", never)
    problem = await client.problem("GET", "/api/health/ready")
    assert problem["status"] == 503
    assert "did not answer within" in problem["detail"]


@pytest.mark.parametrize(
    "date", ["Mon, 01 Jan 99999999999 00:00:00 GMT", "Mon, 01 Jan 2020 00:00:00 +99999999999999"]
)
async def test_a_date_that_is_none_is_ignored(client: Client, date: str) -> None:
    await client("PUT", "/api/objects/k", body=b"x")
    for header in ("If-Modified-Since", "If-Unmodified-Since"):
        for method in ("GET", "HEAD"):
            assert (await client(method, "/api/objects/k", **{header: date}))[0] == 200
    assert (await client("PUT", "/api/objects/k", body=b"y", **{"If-Unmodified-Since": date}))[0] == 200
