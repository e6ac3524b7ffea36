"""The Model Context Protocol at ``/api/mcp``: messages as they are sent, in each revision, to the app in this
process. test_mcp_clients.py has those of others' clients, to the local host."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest

from functions.mcp.tools import TOOLS
from functions.state import check_settings
from storage_lib.errors import ConfigurationError
from tests.access_world import Rights, identity, memory, registered, worlds
from tests.http_app import AppAnswer, PlatformApp

MODERN, CORE = "2026-07-28", "2025-11-25"
VERSIONS = [MODERN, CORE, "2025-06-18", "2025-03-26", "2024-11-05"]
TASKS = "io.modelcontextprotocol/tasks"
BINARY = bytes(range(256))
NO_IDS = (b"null", b"1.5", b"true", b"{}", b"[1]")


def message(
    method: str, params: dict[str, Any] | None = None, version: str = MODERN, **capabilities: Any
) -> tuple[bytes, dict[str, str]]:
    """A request as a client of this revision sends it."""
    params = dict(params or {})
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": version,
    }
    if version == MODERN:
        params["_meta"] = params.get("_meta", {}) | {
            "io.modelcontextprotocol/protocolVersion": version,
            "io.modelcontextprotocol/clientCapabilities": capabilities,
        }
        headers["Mcp-Method"] = method
        if (name := params.get("name", params.get("uri", params.get("taskId")))) is not None:
            headers["Mcp-Name"] = name
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    return json.dumps(body).encode(), headers


class Speaker:
    """A client of one revision."""

    def __init__(self, app: PlatformApp, version: str, **capabilities: Any) -> None:
        self.app, self.version, self.capabilities = app, version, capabilities

    async def ask(self, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        body, headers = message(method, params, self.version, **self.capabilities)
        answer = await self.app("POST", "/api/mcp", body, headers)
        return answer.json

    async def result(self, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        answer = await self.ask(method, params)
        assert "error" not in answer, answer
        return answer["result"]

    async def call(self, name: str, **arguments: Any) -> dict[str, Any]:
        return await self.result("tools/call", {"name": name, "arguments": arguments})

    async def done(self, name: str, **arguments: Any) -> dict[str, Any]:
        found = await self.call(name, **arguments)
        assert not found.get("isError"), found
        return found["structuredContent"]

    async def problem(self, name: str, **arguments: Any) -> dict[str, Any]:
        found = await self.call(name, **arguments)
        assert found["isError"], found
        return json.loads(found["content"][0]["text"])


@pytest.fixture(params=VERSIONS)
def speaker(request: pytest.FixtureRequest, platform: PlatformApp) -> Speaker:
    return Speaker(platform, request.param)


@pytest.fixture
def modern(platform: PlatformApp) -> Speaker:
    return Speaker(platform, MODERN)


async def test_a_session_is_begun_without_one(speaker: Speaker) -> None:
    if speaker.version == MODERN:
        found = await speaker.result("server/discover")
        assert found["supportedVersions"] == [MODERN]
        assert found["capabilities"]["extensions"] == {TASKS: {}}
        return
    asked = {
        "protocolVersion": speaker.version,
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    }
    found = await speaker.result("initialize", asked)
    assert found["protocolVersion"] == speaker.version
    assert found["serverInfo"]["name"] == "agent-storage"
    assert found["capabilities"]["tasks"]["requests"] == {"tools": {"call": {}}}
    body = b'{"jsonrpc": "2.0", "method": "notifications/initialized"}'
    _, headers = message("", version=speaker.version)
    answer = await speaker.app("POST", "/api/mcp", body, headers)
    assert (answer.status, answer.body) == (202, b"")


@pytest.mark.parametrize("version", ["1999-01-01", "2099-01-01", ""])
async def test_an_unknown_revision_is_answered_with_one_that_is_known(
    platform: PlatformApp, version: str
) -> None:
    asked = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": asked}).encode()
    answer = await platform("POST", "/api/mcp", body, {"Content-Type": "application/json"})
    assert answer.json["result"]["protocolVersion"] == CORE
    body, headers = message("tools/list")
    unknown = body.replace(MODERN.encode(), b"2099-01-01")
    answer = await platform("POST", "/api/mcp", unknown, headers | {"MCP-Protocol-Version": "2099-01-01"})
    assert (answer.status, answer.json["error"]["data"]["supported"]) == (400, [MODERN])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "method", ["notifications/cancelled", "notifications/progress", "notifications/none"]
)
async def test_a_notification_changes_nothing(platform: PlatformApp, version: str, method: str) -> None:
    """There are no sessions: of a request that another one answers, nothing is known."""
    params = {"requestId": 1, "reason": "x", "progressToken": "no", "progress": "no number"}
    body, headers = message(method, params, version)
    sent = json.loads(body)
    del sent["id"]
    answer = await platform("POST", "/api/mcp", json.dumps(sent).encode(), headers)
    assert (answer.status, answer.body) == (202, b"")


@pytest.mark.parametrize("identity_of_request", ["i" * 100_000, "", -5, 10**30])
async def test_an_answer_has_the_id_of_its_request(
    platform: PlatformApp, identity_of_request: str | int
) -> None:
    body, headers = message("tools/list", version=CORE)
    sent = json.loads(body) | {"id": identity_of_request}
    answer = await platform("POST", "/api/mcp", json.dumps(sent).encode(), headers)
    assert answer.json["id"] == identity_of_request
    assert answer.json["result"]["tools"]


async def test_tools_say_what_they_take_give_and_do(speaker: Speaker) -> None:
    tools = {each["name"]: each for each in (await speaker.result("tools/list"))["tools"]}
    assert list(tools) == [tool.name for tool in TOOLS]
    for each in tools.values():
        assert each["description"], each["name"]
        assert each["inputSchema"]["type"] == "object"
        assert each["outputSchema"]["type"] == "object"
        assert "#/components" not in json.dumps(each)
        hints = each["annotations"]
        assert not (hints["readOnlyHint"] and hints["destructiveHint"])
    assert tools["load_object"]["annotations"]["readOnlyHint"]
    assert tools["delete_object"]["annotations"]["destructiveHint"]
    assert tools["save_object"]["inputSchema"]["required"] == ["key"]
    assert set(tools["run_task"]["inputSchema"]["required"]) == {"action", "agent_id"}
    support = {"taskSupport": "optional"} if speaker.version == CORE else None
    assert tools["run_task"].get("execution") in (support, {"taskSupport": "optional"}, None)


async def test_objects_from_their_save_to_their_end(speaker: Speaker) -> None:
    made = await speaker.done("save_object", key="a/b.json", value={"n": 1, "keep": [1.5, None]})
    assert made["status"] == 201
    patched = await speaker.done(
        "patch_object", key="a/b.json", patch={"n": None, "m": "ä"}, if_match=made["etag"]
    )
    loaded = await speaker.done("load_object", key="a/b.json")
    assert loaded["value"] == {"keep": [1.5, None], "m": "ä"}
    assert loaded["etag"] == patched["etag"]
    problem = await speaker.problem("patch_object", key="a/b.json", patch={}, if_match=made["etag"])
    assert (problem["status"], problem["field"]) == (412, "if_match")
    await speaker.done("save_object", key="a/c.txt", text="text", ttl_seconds=60, metadata={"author": "me"})
    listed = await speaker.done("list_objects", prefix="a/", limit=1)
    assert [each["key"] for each in listed["objects"]] == ["a/b.json"]
    rest = await speaker.done("list_objects", prefix="a/", cursor=listed["cursor"], include="metadata")
    assert rest["objects"][0]["metadata"] == {"author": "me"}
    await speaker.done("copy_object", key="a/c.txt", to="a/d.txt")
    await speaker.done("move_object", key="a/d.txt", to="a/e.txt")
    assert (await speaker.done("load_object", key="a/e.txt"))["text"] == "text"
    assert (await speaker.done("delete_object", key="a/e.txt"))["status"] == 204
    assert (await speaker.problem("load_object", key="a/e.txt"))["field"] == "key"


async def test_conversations(speaker: Speaker) -> None:
    said = [{"role": "user", "content": "hello", "id": "m1"}, {"role": "assistant", "content": ["ä"]}]
    made = await speaker.done("append_messages", key="chats/1", messages=said, topic="greeting")
    assert made["positions"] == [1, 2]
    again = await speaker.done("append_messages", key="chats/1", messages=said[:1])
    assert (again["added"], again["position"]) == (0, 2)
    await speaker.done("append_messages", key="chats/1", messages=[{"n": 3}], if_match="2")
    late = await speaker.problem("append_messages", key="chats/1", messages=[{"n": 4}], if_match="2")
    assert (late["status"], late["field"]) == (412, "if_match")
    read = await speaker.done("read_conversation", key="chats/1", last=2)
    assert [each["position"] for each in read["entries"]] == [2, 3]
    assert read["entries"][0]["message"] == said[1]
    rest = await speaker.done("read_conversation", key="chats/1", after=2)
    assert [each["message"] for each in rest["entries"]] == [{"n": 3}]
    await speaker.done("append_messages", key="odd/a b%41ä", messages=[{"n": 1}])
    assert (await speaker.done("read_conversation", key="odd/a b%41ä"))["conversation"]["position"] == 1
    listed = await speaker.done("list_conversations", topic="greeting")
    assert [each["id"] for each in listed["conversations"]] == ["chats/1"]
    assert (await speaker.problem("read_conversation", key="none"))["status"] == 404
    assert (await speaker.problem("append_messages", key="chats/1"))["field"] == "messages"


@pytest.mark.parametrize(
    "text", ["0.10000000000000000555", "1E5", "-0", '{"a":1.0,"b":[12345678901234567890123]}', '"\\u00e4"']
)
async def test_what_is_sent_is_saved_to_the_last_digit(speaker: Speaker, text: str) -> None:
    body, headers = message(
        "tools/call", {"name": "save_object", "arguments": {"key": "n", "value": "HERE"}}, speaker.version
    )
    answer = await speaker.app("POST", "/api/mcp", body.replace(b'"HERE"', text.encode()), headers)
    assert answer.json["result"]["structuredContent"]["status"] == 201
    assert (await speaker.app("GET", "/api/objects/n")).body == text.encode()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("save_object", {"key": "n", "value": [float("inf")]}),
        ("patch_object", {"key": "n", "patch": {"a": float("inf")}}),
        ("append_messages", {"key": "n", "messages": [{"a": float("inf")}]}),
        (
            "submit_task",
            {"action": "analyze_report", "agent_id": "a", "payload": {"report": "n", "output": float("inf")}},
        ),
    ],
)
async def test_numbers_that_are_none_are_not_saved_as_null(
    speaker: Speaker, name: str, arguments: dict[str, Any]
) -> None:
    await speaker.app.storage.save("n", {"a": 1})
    body, headers = message("tools/call", {"name": name, "arguments": arguments}, speaker.version)
    answer = await speaker.app("POST", "/api/mcp", body, headers)
    assert (answer.status, answer.json["error"]["code"]) == (400, -32700)  # Infinity is no JSON.
    large = await speaker.app("POST", "/api/mcp", body.replace(b"Infinity", b"1e400"), headers)
    assert large.json["result"]["isError"] is True
    assert json.loads(large.json["result"]["content"][0]["text"])["status"] == 400
    assert await speaker.app.storage.load("n") == {"a": 1}
    assert (await speaker.problem("read_conversation", key="n"))["status"] == 404
    assert (await speaker.done("list_tasks"))["tasks"] == []


async def test_without_progress_the_answer_is_json(speaker: Speaker) -> None:
    params = {"name": "list_actions", "arguments": {}, "_meta": {"progressToken": 1}}
    body, headers = message("tools/call", params, speaker.version)
    before = asyncio.all_tasks()
    answer = await speaker.app("POST", "/api/mcp", body, headers)
    assert answer.headers["content-type"] == "application/json"
    assert not asyncio.all_tasks() - before


async def test_structures_stand_as_text_beside_them(modern: Speaker) -> None:
    found = await modern.call("save_object", key="a", value=1)
    assert json.loads(found["content"][0]["text"]) == found["structuredContent"]


@pytest.mark.parametrize(
    ("content_type", "kind"),
    [
        ("application/octet-stream", "resource"),
        ("image/png", "image"),
        ("image/jpeg; q=1", "image"),
        ("image/svg+xml", "resource"),
        ("image/tiff", "resource"),
        ("audio/wav", "audio"),
    ],
)
async def test_bytes_come_once_as_what_they_are(modern: Speaker, content_type: str, kind: str) -> None:
    import base64

    text = base64.b64encode(BINARY).decode()
    await modern.done("save_object", key="b", base64=text, content_type=content_type)
    found = await modern.call("load_object", key="b")
    described, data = found["content"]
    assert data["type"] == kind
    held = data["resource"] if kind == "resource" else data
    assert (held["mimeType"], held["blob" if kind == "resource" else "data"]) == (content_type, text)
    assert text not in described["text"]
    assert "base64" not in found["structuredContent"]
    if kind == "resource":
        read = await modern.result("resources/read", {"uri": held["uri"]})
        assert read["contents"] == [held]


async def test_a_large_object_comes_by_a_link(modern: Speaker) -> None:
    large = b"x" * (1024 * 1024 + 1)
    await modern.app.storage.save("large.txt", large.decode())
    found = await modern.call("load_object", key="large.txt")
    shown = found["structuredContent"]
    assert (shown["size"], "text" in shown) == (len(large), False)
    link = found["content"][1]
    assert (link["type"], link["uri"], link["size"]) == ("resource_link", shown["link"]["url"], len(large))
    target = "/api/" + link["uri"].partition("/api/")[2]
    assert (await modern.app("GET", target)).body == large
    refused = (await modern.ask("resources/read", {"uri": "agentstorage:///large.txt"}))["error"]
    assert refused["data"]["limit"] == "1048576 bytes in a message"
    assert "make_link" in refused["data"]["remedy"]


@pytest.mark.parametrize(
    ("name", "arguments", "field"),
    [
        ("save_object", {"key": "a"}, "value"),
        ("save_object", {"value": 1}, "key"),
        ("save_object", {"key": "../a", "value": 1}, "key"),
        ("save_object", {"key": "a", "value": 1, "ttl_seconds": -1}, "ttl_seconds"),
        ("save_object", {"key": "a", "base64": "?"}, "base64"),
        ("save_object", {"key": 1, "value": 1}, "key"),
        ("load_object", {"key": "a", "kee": 1}, "kee"),
        ("load_object", {"key": "a", "if_match": "\n"}, "if_match"),
        ("patch_object", {"key": "a"}, "patch"),
        ("list_objects", {"limit": 0}, "limit"),
        ("list_objects", {"limit": [1]}, "limit"),
        ("list_objects", {"prefix": {"a": 1}}, "prefix"),
        ("make_link", {"key": "a", "method": "POST"}, "method"),
        ("run_task", {"action": "none", "agent_id": "a", "wait_seconds": 31}, "wait_seconds"),
        ("run_task", {"action": "none", "agent_id": "a", "wait_seconds": True}, "wait_seconds"),
        ("submit_task", {"action": "none", "agent_id": "a"}, "action"),
        ("query_objects", {"tables": {}}, "sql"),
        ("get_task", {"task_id": "none"}, "task_id"),
        ("get_task", {"task_id": "none", "wait": 31}, "wait"),
        ("list_tasks", {"status": "none"}, "status"),
        ("list_objects", {"limit": 10**400}, "limit"),
        ("read_conversation", {"key": "a", "after": -(10**400)}, "after"),
        ("query_objects", {"sql": 5, "tables": {"t": "a"}}, "sql"),
        ("submit_task", {"action": "query", "agent_id": "a", "payload": {"sql": 5}}, "payload.sql"),
    ],
)
async def test_a_wrong_argument_is_named(
    modern: Speaker, name: str, arguments: dict[str, Any], field: str
) -> None:
    problem = await modern.problem(name, **arguments)
    assert 400 <= problem["status"] < 500
    assert problem["field"] == field, problem


@pytest.mark.parametrize("key", ["x-key", "prefix-key", "If-Match", "body.value", "it's x-text If-Match"])
async def test_keys_stay_as_they_are_in_problems(modern: Speaker, key: str) -> None:
    problem = await modern.problem("load_object", key=key)
    assert problem["detail"] == f"object {key!r} does not exist"


@pytest.mark.parametrize(
    ("method", "params", "field"),
    [
        ("tools/call", {"name": "save_object", "arguments": []}, "params.arguments"),
        ("tools/call", {"name": 5}, "params.name"),
        ("resources/read", {"uri": 5}, "params.uri"),
        ("tasks/get", {}, "params.taskId"),
    ],
)
async def test_wrong_parameters_are_named(
    speaker: Speaker, method: str, params: dict[str, Any], field: str
) -> None:
    body, headers = message(method, params, speaker.version)
    headers.pop("Mcp-Name", None)
    error = (await speaker.app("POST", "/api/mcp", body, headers)).json["error"]
    if speaker.version == MODERN and error["code"] == -32020:
        return  # There the header is missed first.
    assert (error["code"], error["data"]) == (-32602, {"field": field})
    assert error["message"].startswith(field)


@pytest.mark.parametrize("method", ["tools/list", "resources/list", "resources/templates/list", "tasks/list"])
async def test_a_cursor_that_no_page_gave_is_refused(speaker: Speaker, method: str) -> None:
    if (method, speaker.version) == ("tasks/list", MODERN):
        return  # It has no such method.
    error = (await speaker.ask(method, {"cursor": "nonsense"}))["error"]
    assert (error["code"], error["data"]["field"]) == (-32602, "cursor")
    assert "error" not in await speaker.ask(method, {})


RESERVED = "%:/?#[]@!$&'()*+,;="


def strict(value: str) -> str:
    """What RFC 6570 makes of a value in ``{+key}``: reserved characters stay, and so does what is encoded."""
    return "".join(
        part if part.startswith("%") and len(part) == 3 else quote(part, safe=RESERVED[1:])
        for part in re.split("(%[0-9A-Fa-f]{2})", value)
    )


@pytest.mark.parametrize(
    "key",
    ["a b+c", "ä/\u20ac/😀", "q?a=b&c#d", "a:b@c!$&'()*,;=", "[x]", "50%", "%zz", "~-._", "a%41", "a%2541"],
)
async def test_every_key_is_reached_however_its_uri_is_encoded(speaker: Speaker, key: str) -> None:
    await speaker.app.storage.save(key, "right")
    for other in {unquote(key), quote(key)} - {key}:
        await speaker.app.storage.save(other, "wrong")
    # Triplets in a key stand for themselves in no `{+key}`, where they are encoded once more.
    escaped = re.sub("%(?=[0-9A-Fa-f]{2})", "%25", key)
    encoded = {quote(key), quote(key, safe=""), strict(escaped), "".join(f"%{b:02x}" for b in key.encode())}
    for each in encoded:
        read = await speaker.result("resources/read", {"uri": f"agentstorage:///{each}"})
        assert read["contents"][0]["text"] == "right", each
        assert read["contents"][0]["uri"] == f"agentstorage:///{each}"


async def test_what_there_is_not_is_an_error_of_the_protocol(speaker: Speaker) -> None:
    unknown = (await speaker.ask("tools/call", {"name": "none"}))["error"]
    assert (unknown["code"], "none" in unknown["message"]) == (-32602, True)
    gone = (await speaker.ask("resources/read", {"uri": "agentstorage:///none"}))["error"]
    assert gone["code"] == (-32602 if speaker.version == MODERN else -32002)
    assert gone["data"]["field"] == "key"
    for uri in ("file:///etc/passwd", "agentstorage:///", "agentstorage:///..%2fa", "agentstorage:///%FF"):
        assert (await speaker.ask("resources/read", {"uri": uri}))["error"]["code"] == -32602, uri


async def test_resources_have_pages_types_and_keys_to_complete(speaker: Speaker) -> None:
    for n in range(103):
        await speaker.app.storage.save(f"many/{n:03}.json", n)
    odd = "odd/ä #?%zz+&.txt"
    await speaker.app.storage.save(odd, "text")
    first = await speaker.result("resources/list")
    assert len(first["resources"]) == 100
    rest = await speaker.result("resources/list", {"cursor": first["nextCursor"]})
    assert rest.get("nextCursor") is None
    found = [*first["resources"], *rest["resources"]]
    assert len({each["uri"] for each in found}) == 104
    assert found[0] | {"annotations": None} == {
        "uri": "agentstorage:///many/000.json",
        "name": "000.json",
        "title": "many/000.json",
        "mimeType": "application/json",
        "size": 1,
        "annotations": None,
    }
    (last,) = (each for each in found if each["title"] == odd)
    read = await speaker.result("resources/read", {"uri": last["uri"]})
    assert read["contents"][0]["text"] == "text"
    (template,) = (await speaker.result("resources/templates/list"))["resourceTemplates"]
    assert template["uriTemplate"] == "agentstorage:///{+key}"

    async def completed(value: str) -> dict[str, Any]:
        asked = {
            "ref": {"type": "ref/resource", "uri": template["uriTemplate"]},
            "argument": {"name": "key", "value": value},
        }
        return (await speaker.result("completion/complete", asked))["completion"]

    assert (await completed(""))["values"] == ["many/", "odd/"]
    assert (await completed("many/00"))["values"] == [f"many/{n:03}.json" for n in range(10)]
    assert len((await completed("many/"))["values"]) == 100
    assert (await completed("many/"))["hasMore"] is True


# -- messages that are none


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", -32700),
        (b"{", -32700),
        (b"\xff", -32700),
        (b"[" * 100_000, -32700),
        (b"1", None),
        (b"[]", -32600),
        (b'[{"jsonrpc": "2.0", "id": 1, "method": "ping"}]', -32600),
        (b' [{"jsonrpc": "2.0", "method": "notifications/initialized"}, 1]', -32600),
        (b'{"jsonrpc": "1.0", "id": 1, "method": "ping"}', None),
        (b'{"jsonrpc": "2.0", "id": {}}', None),
        *((b'{"jsonrpc": "2.0", "id": %s, "method": "ping"}' % each, -32600) for each in NO_IDS),
        (b'{"jsonrpc": "2.0", "id": 1, "method": 1}', None),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": []}', None),
    ],
    ids=range(12 + len(NO_IDS)),
)
async def test_a_malformed_message_is_an_error_of_json_rpc(
    platform: PlatformApp, version: str, body: bytes, code: int | None
) -> None:
    _, headers = message("", version=version)
    answer = await platform("POST", "/api/mcp", body, headers)
    assert answer.status == 400
    assert answer.headers["content-type"] == "application/json"
    error = answer.json["error"]
    assert error["code"] in ({code} if code is not None else {-32600, -32602})
    assert answer.json["jsonrpc"] == "2.0"


async def test_headers_have_to_agree_with_the_message(platform: PlatformApp) -> None:
    body, headers = message("tools/call", {"name": "load_object", "arguments": {"key": "a"}})
    for name, value in (("Mcp-Method", "tools/list"), ("Mcp-Name", "save_object")):
        answer = await platform("POST", "/api/mcp", body, headers | {name: value})
        assert (answer.status, answer.json["error"]["code"]) == (400, -32020), name


async def test_a_method_that_there_is_not(speaker: Speaker) -> None:
    for method in ("none", "subscriptions/listen" if speaker.version == MODERN else "resources/subscribe"):
        body, headers = message(method, {"uri": "agentstorage:///a"}, speaker.version)
        if speaker.version == MODERN:
            body, headers = message(method, {"notifications": {}}, speaker.version)
        answer = await speaker.app("POST", "/api/mcp", body, headers)
        assert answer.status == (404 if speaker.version == MODERN else 200)
        assert answer.json["error"]["code"] == -32601


# -- what is refused before the message


async def refused(platform: PlatformApp, status: int, body: bytes = b"", **headers: str) -> dict[str, Any]:
    sent, usual = message("tools/list")
    changed = usual | {name.replace("_", "-"): value for name, value in headers.items()}
    answer: AppAnswer = await platform("POST", "/api/mcp", body or sent, changed)
    assert answer.status == status
    return answer.problem


async def test_other_media_types_are_refused(platform: PlatformApp) -> None:
    assert (await refused(platform, 415, Content_Type="text/plain"))["field"] == "Content-Type"
    assert (await refused(platform, 415, Content_Encoding="gzip"))["field"] == "Content-Encoding"
    assert (await refused(platform, 406, Accept="text/html"))["code"] == "not-acceptable"


@pytest.mark.parametrize("begin", [b"{", b"[", b" "])
async def test_a_large_message_is_refused_whatever_it_is(platform: PlatformApp, begin: bytes) -> None:
    problem = await refused(platform, 413, begin + b"x" * (4 * 1024 * 1024))
    assert problem["field"] == "body"
    assert "make_link" in problem["remedy"]


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "http://localhost.evil.example", "http://evil.example:7071", "["],
)
async def test_pages_of_other_sites_are_refused(platform: PlatformApp, origin: str) -> None:
    """Even one whose name leads here (DNS rebinding): the header Host is not believed."""
    host = origin.rpartition("/")[2]
    assert (await refused(platform, 403, Origin=origin, Host=host))["field"] == "Origin"


async def test_pages_that_are_admitted(platform: PlatformApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENT_STORAGE_MCP_ORIGINS", "https://pages.example, https://other.example:8443")
    monkeypatch.setenv("AGENT_STORAGE_PUBLIC_URL", "https://proxy.example/store/api")
    monkeypatch.setenv("WEBSITE_HOSTNAME", "app.azurewebsites.net")
    monkeypatch.setenv("AZURE_FUNCTIONS_ENVIRONMENT", "Development")
    body, headers = message("tools/list")
    for origin in (
        "https://pages.example",
        "https://OTHER.example:8443",
        "https://proxy.example",
        "https://app.azurewebsites.net",
        "http://localhost:3000",
        "http://127.0.0.1:7071",
        "http://[::1]:7071",
    ):
        answer = await platform("POST", "/api/mcp", body, headers | {"Origin": origin})
        assert answer.status == 200, origin
    monkeypatch.setenv("AZURE_FUNCTIONS_ENVIRONMENT", "Production")
    await refused(platform, 403, Origin="http://localhost:3000")
    monkeypatch.setenv("AGENT_STORAGE_MCP_ORIGINS", "https://pages.example/path")
    assert (await refused(platform, 500, Origin="https://pages.example"))[
        "field"
    ] == "AGENT_STORAGE_MCP_ORIGINS"


@pytest.mark.parametrize(
    "text", ["pages.example", "*", "https://a.example/b", "ftp://a.example", "https://["]
)
def test_origins_that_are_none_end_the_start(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("AGENT_STORAGE_MCP_ORIGINS", text)
    with pytest.raises(ConfigurationError, match="AGENT_STORAGE_MCP_ORIGINS"):
        check_settings()


async def test_there_is_no_stream_and_no_session(platform: PlatformApp) -> None:
    for method in ("GET", "DELETE"):
        answer = await platform(method, "/api/mcp", b"", {"Accept": "text/event-stream"})
        assert (answer.status, answer.headers["allow"]) == (405, "POST")
        assert answer.problem["remedy"] == "send messages by POST"


# -- one principal


@pytest.fixture
def policy_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "policy.json"
    monkeypatch.setenv("AGENT_STORAGE_ACCESS_POLICY", str(path))
    return path


@pytest.mark.parametrize("version", [MODERN, CORE])
async def test_a_principal_sees_its_prefix_as_the_whole_store(policy_file: Path, version: str) -> None:
    everything = dict.fromkeys(("load", "list", "save", "delete"), ("",))
    rights = Rights("tenants/a/", everything | {"tasks": ("ceo",)})
    shown, _ = identity("key")
    with registered():
        async with worlds(rights, policy_file, memory(), tasks=True) as (world,):

            async def ask(method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
                body, headers = message(method, params, version)
                return (await world.ask("POST", "/api/mcp", body, headers | shown)).json

            async def call(name: str, **arguments: Any) -> dict[str, Any]:
                answer = await ask("tools/call", {"name": name, "arguments": arguments})
                return answer["result"]

            await call("save_object", key="mine.json", value=1)
            assert await world.state.storage.load("tenants/a/mine.json") == 1
            found = (await ask("resources/list"))["result"]["resources"]
            listed = (await call("list_objects"))["structuredContent"]["objects"]
            own = sorted(each["key"] for each in listed)
            there = [each.key async for each in world.state.storage.list_objects()]
            root = "tenants/a/"
            assert own == sorted(key.removeprefix(root) for key in there if key.startswith(root))
            assert len(own) < len(there)
            assert sorted(each["title"] for each in found) == own
            assert "error" in await ask("resources/read", {"uri": "agentstorage:///../ab/a"})
            other = {"ref": {"type": "ref/resource", "uri": "agentstorage:///{+key}"}}
            asked = other | {"argument": {"name": "key", "value": ""}}
            completed = (await ask("completion/complete", asked))["result"]["completion"]["values"]
            assert {each.partition("/")[0] for each in completed} == {key.partition("/")[0] for key in own}

            tasks = (await call("list_tasks"))["structuredContent"]["tasks"]
            assert {each["agent_id"] for each in tasks} == {"ceo"}
            foreign = next(task for name, task in world.tasks.items() if name[:-1] != "ceo")
            assert (await call("get_task", task_id=foreign))["isError"]
            for method in ("tasks/get", "tasks/cancel", *(() if version == MODERN else ("tasks/result",))):
                error = (await ask(method, {"taskId": foreign}))["error"]
                assert (error["code"], error["data"]["status"]) == (-32602, 404) or error["code"] == -32002


async def test_a_cursor_leads_nobody_to_another_prefix(policy_file: Path) -> None:
    everything = dict.fromkeys(("load", "list", "save", "delete"), ("",))
    async with worlds(Rights("tenants/a/", everything), policy_file, memory()) as (world,):
        shown, _ = identity("key")
        storage = world.state.storage
        for tenant in "ab":
            await storage.save_many({f"tenants/{tenant}/k{n:03}": n for n in range(120)}, raise_errors=True)

        async def page(cursor: str | None) -> dict[str, Any]:
            body, headers = message("resources/list", {"cursor": cursor} if cursor else {})
            return (await world.ask("POST", "/api/mcp", body, headers | shown)).json

        first = (await page(None))["result"]
        rest = (await page(first["nextCursor"]))["result"]["resources"]
        own = [key.removeprefix("tenants/a/") for key in await storage.list_keys("tenants/a/")]
        assert [each["title"] for each in (*first["resources"], *rest)] == own
        for prefix in ("tenants/b/", "tenants/", ""):
            stolen = (await storage.list_page(prefix, limit=100)).cursor
            assert (await page(stolen))["error"]["data"]["field"] == "cursor"


async def test_one_who_may_nothing_gets_nothing(policy_file: Path) -> None:
    async with worlds(Rights(), policy_file, memory()) as (world,):
        body, headers = message("tools/list")
        shown, _ = identity("key")
        answer = await world.ask("POST", "/api/mcp", body, headers | shown)
        assert (answer.status, answer.problem["code"]) == (403, "forbidden")


# -- many at once


async def test_calls_at_the_same_time_do_not_meet(platform: PlatformApp) -> None:
    speakers = [Speaker(platform, VERSIONS[n % len(VERSIONS)]) for n in range(40)]

    async def one(n: int, speaker: Speaker) -> None:
        await speaker.done("save_object", key=f"each/{n}", value=n)
        assert (await speaker.done("load_object", key=f"each/{n}"))["value"] == n
        await speaker.done("patch_object", key=f"each/{n}", patch={"n": n})

    await asyncio.gather(*(one(n, each) for n, each in enumerate(speakers)))


async def test_a_caller_has_its_rate(platform: PlatformApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENT_STORAGE_RATE_PER_SECOND", "0.001")
    monkeypatch.setenv("AGENT_STORAGE_RATE_BURST", "2")
    body, headers = message("tools/call", {"name": "save_object", "arguments": {"key": "a", "value": 1}})
    answers = [await platform("POST", "/api/mcp", body, headers) for _ in range(3)]
    assert [each.status for each in answers] == [200, 200, 429]
