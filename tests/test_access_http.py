"""The access policy over HTTP: who may do what to which objects, on every route."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage_lib.access import Grant, source, tokens
from storage_lib.access.source import POLICY_KEY
from storage_lib.config import StorageConfig
from storage_lib.conversations import Conversations
from storage_lib.errors import StorageUnavailableError, TransientStorageError
from storage_lib.tasks import registry as registry_module
from storage_lib.tasks.context import TaskContext
from storage_lib.tasks.layout import key_of
from storage_lib.tasks.model import TASK_QUEUE
from storage_lib.tasks.registry import task
from tests.effort import awaited, calls
from tests.http_app import PlatformApp, serve
from tests.test_access_tokens import ISSUER, Issuer, token

ALL = {action: [""] for action in ("load", "list", "save", "delete")}


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


POLICY: dict[str, Any] = {
    "keys": {
        "ceo": digest("k-ceo"),
        "cto": digest("k-cto"),
        "cfo": digest("k-cfo"),
        "acme": [digest("k-acme")],
        "ops": digest("k-ops"),
    },
    "principals": {
        "key:ceo": {
            "may": {
                "load": ["agents/ceo", "shared/"],
                "list": ["agents/ceo", "shared/"],
                "save": ["agents/ceo"],
                "delete": ["agents/ceo"],
            }
        },
        "key:cto": {"may": {"save": ["agents/cto"]}},
        "key:cfo": {"may": {"save": ["agents/cto"], "delete": ["agents/cto"]}},
        "key:acme": {"root": "tenants/acme/", "may": {"*": [""]}},
        "key:ops": {"may": {"operate": ["*"]}},
        "aad:1": {"may": {"load": ["agents/aad"]}},
        "role:Reader": {"may": {"load": [""], "list": [""]}},
        "anonymous": {"may": {"load": ["public/"]}},
    },
}


@pytest.fixture
def policy_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(POLICY))
    monkeypatch.setenv("AGENT_STORAGE_ACCESS_POLICY", str(path))
    monkeypatch.delenv("WEBSITE_AUTH_ENABLED", raising=False)
    return path


@pytest.fixture
async def app(policy_file: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PlatformApp]:
    async with serve(monkeypatch, StorageConfig(storage_type="memory")) as app:
        for key in (
            "agents/ceo/a",
            "agents/ceo2/a",
            "agents/cto/a",
            "shared/a",
            "public/a",
            "tenants/acme/a",
        ):
            await app.storage.save(key, {"key": key})
        yield app


async def ask(app: PlatformApp, key: str | None, method: str, target: str, body: bytes = b"") -> Any:
    headers = {} if key is None else {"x-functions-key": key}
    return await app(method, target, body, headers | {"Content-Type": "application/json"})


async def test_listings_show_what_the_caller_may_see(app: PlatformApp) -> None:
    def keys(found: Any) -> list[str]:
        return [each["key"] for each in found.json["objects"]]

    assert keys(await ask(app, "k-ceo", "GET", "/api/objects")) == ["agents/ceo/a", "shared/a"]
    assert keys(await ask(app, "k-ceo", "GET", "/api/objects?prefix=agents/")) == ["agents/ceo/a"]
    assert keys(await ask(app, "k-ceo", "GET", "/api/objects?prefix=agents/ceo")) == ["agents/ceo/a"]
    folded = await ask(app, "k-ceo", "GET", "/api/objects?delimiter=/")
    assert folded.json["prefixes"] == ["agents/", "shared/"]
    assert (await ask(app, "k-ceo", "GET", "/api/objects?prefix=tenants/")).status == 403
    assert (await ask(app, "k-cto", "GET", "/api/objects")).status == 403
    first = await ask(app, "k-ceo", "GET", "/api/objects?limit=1")
    assert keys(first) == ["agents/ceo/a"]
    second = await ask(app, "k-ceo", "GET", f"/api/objects?limit=1&cursor={quote(first.json['cursor'])}")
    assert keys(second) == ["shared/a"]
    assert second.json["cursor"] is None


async def test_changing_a_conversation_does_not_show_it_to_who_may_not_load_it(app: PlatformApp) -> None:
    log = Conversations(app.storage)
    await log.append("agents/cto/c", [{"n": 1}, {"n": 2}], metadata={"m": "secret"})
    calls: list[tuple[str, str, dict[str, Any]]] = [
        ("PATCH", "conversations", {"topic": "x"}),
        ("POST", "conversation-edits", {"do": "clear"}),
        ("POST", "conversation-edits", {"do": "compact", "until": 2, "message": {}}),
    ]
    before = await log.describe("agents/cto/c")
    for method, route, body in calls:
        answer = await ask(app, "k-cfo", method, f"/api/{route}/agents/cto/c", json.dumps(body).encode())
        assert (answer.status, b"secret" in answer.body) == (403, False)
        assert await log.describe("agents/cto/c") == before
    appended = await ask(app, "k-cfo", "POST", "/api/conversations/agents/cto/c", b'{"messages": [{}]}')
    assert appended.json["position"] == 3


async def test_who_may_only_save_needs_no_other_right_for_it(app: PlatformApp) -> None:
    assert (await ask(app, "k-cto", "GET", "/api/objects/agents/cto/a")).status == 403
    assert (await ask(app, "k-cto", "HEAD", "/api/objects/agents/cto/a")).status == 403
    saved = await ask(app, "k-cto", "PUT", "/api/objects/agents/cto/a", b"2")
    assert saved.status == 200
    conditional = {"x-functions-key": "k-cto", "Content-Type": "application/json"}
    etag = saved.headers["etag"]
    for condition in ({"If-Match": etag}, {"If-None-Match": '"other"'}, {"If-Match": f'{etag}, "x"'}):
        found = await app("PUT", "/api/objects/agents/cto/a", b"3", conditional | condition)
        assert found.status == (200 if "If-None-Match" in condition or condition["If-Match"] == etag else 412)


async def test_a_tenant_sees_its_root_as_the_store(app: PlatformApp) -> None:
    saved = await ask(app, "k-acme", "PUT", "/api/objects/x/y", b"1")
    assert saved.json["key"] == "x/y"
    assert saved.headers["location"] == "/api/objects/x/y"
    listed = await ask(app, "k-acme", "GET", "/api/objects")
    assert [each["key"] for each in listed.json["objects"]] == ["a", "x/y"]
    for target in (
        "../other",
        "%2e%2e/ceo/a",
        "..%2f..%2fagents/ceo/a",
        "agents/ceo/a",
        ".system/x",
        "/agents/ceo/a",
    ):
        assert (await ask(app, "k-acme", "GET", f"/api/objects/{target}")).status in (400, 404)
    gone = await ask(app, "k-acme", "GET", "/api/objects/gone")
    assert "tenants" not in gone.body.decode()
    assert await app.storage.load("tenants/acme/x/y") == 1


async def test_those_without_a_name_have_the_rights_of_anonymous(app: PlatformApp) -> None:
    for key in (None, "unknown", "K-CEO"):
        assert (await ask(app, key, "GET", "/api/objects/public/a")).status == 200
        assert (await ask(app, key, "GET", "/api/objects/agents/ceo/a")).status == 403
    assert (await ask(app, None, "GET", "/api/objects/agents/ceo/a?code=k-ceo")).status == 200
    # The header counts before the parameter, even if it is empty.
    assert (await ask(app, "", "GET", "/api/objects/agents/ceo/a?code=k-ceo")).status == 403


async def test_a_key_that_there_cannot_be_is_refused_before_it_is_logged(
    app: PlatformApp, caplog: pytest.LogCaptureFixture
) -> None:
    for key in ("a%0Aforged%20line", "a%0D%0Aforged", "a%1B%5B2Kforged", "x" * 5000 + "forged", "forged//x"):
        for method, body in (("GET", b""), ("HEAD", b""), ("PUT", b"1"), ("PATCH", b"{}"), ("DELETE", b"")):
            assert (await ask(app, "k-ceo", method, f"/api/objects?key={key}", body)).status == 400
    assert (await ask(app, "k-ceo", "GET", "/api/objects?prefix=a%0Aforged")).status == 400
    assert "forged" not in caplog.text


def principal(**claims: Any) -> dict[str, str]:
    found = {
        "auth_typ": "aad",
        "role_typ": "roles",
        "claims": [{"typ": k, "val": v} for k, v in claims.items()],
    }
    return {
        "X-MS-CLIENT-PRINCIPAL-ID": "1",
        "X-MS-CLIENT-PRINCIPAL-IDP": "aad",
        "X-MS-CLIENT-PRINCIPAL": base64.b64encode(json.dumps(found).encode()).decode(),
    }


async def test_the_platforms_principal_counts_only_where_its_authentication_is_on(
    app: PlatformApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = principal(roles="Reader")
    assert (await app("GET", "/api/objects/agents/cto/a", b"", reader)).status == 403
    monkeypatch.setenv("WEBSITE_AUTH_ENABLED", "True")
    assert (await app("GET", "/api/objects/agents/cto/a", b"", reader)).status == 200
    assert (await app("GET", "/api/objects/agents/cto/a", b"", principal(name="x"))).status == 403
    assert (await app("GET", "/api/objects/agents/aad", b"", principal())).status == 404
    broken = principal() | {"X-MS-CLIENT-PRINCIPAL": "%%%"}
    assert (await app("GET", "/api/objects/agents/cto/a", b"", broken)).status == 403
    # Its own name wins over a key.
    both = reader | {"x-functions-key": "k-cto"}
    assert (await app("PUT", "/api/objects/agents/cto/a", b"1", both)).status == 403


@pytest.mark.parametrize("provider", ["key", "KEY", "role", "group", "oidc", "a:b", "a b"])
async def test_no_provider_vouches_for_principals_of_another_kind(
    app: PlatformApp, policy_file: Path, monkeypatch: pytest.MonkeyPatch, provider: str
) -> None:
    monkeypatch.setenv("WEBSITE_AUTH_ENABLED", "True")
    may = {"may": {"load": [""]}}
    names = (
        "key:ceo",
        "KEY:ceo",
        "role:ceo",
        "group:ceo",
        "oidc:ceo",
        "a:b:ceo",
        "a?b:ceo",
        "a%20b:ceo",
        "*",
    )
    policy_file.write_text(json.dumps({"principals": dict.fromkeys(names, may)}))
    headers = {"X-MS-CLIENT-PRINCIPAL-ID": "ceo", "X-MS-CLIENT-PRINCIPAL-IDP": provider}
    assert (await app("GET", "/api/objects/agents/ceo/a", b"", headers)).status == 403


async def test_principals_of_the_platform_are_told_apart(
    app: PlatformApp, policy_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEBSITE_AUTH_ENABLED", "True")
    may = {"may": {"save": [""]}}
    everyone = {"root": "of/{principal}/", "may": {"*": [""]}}
    policy_file.write_text(json.dumps({"principals": {"aad:ceo": may, "aad:a?b": may, "*": everyone}}))

    async def status(who: str, **more: str) -> Any:
        headers = {"X-MS-CLIENT-PRINCIPAL-ID": who, "X-MS-CLIENT-PRINCIPAL-IDP": "aad"} | more
        return (await app("PUT", "/api/objects/x", who.encode(), headers)).status

    assert await status("ceo") == 201
    # Each has a store of its own, however alike their ids are.
    for who in ("a b", "a\u00e9b", "a\u00e8b", "a%20b", "m" * 200 + "1", "m" * 200 + "2"):
        assert await status(who) == 201
    assert await status("m" * 300) == 403
    # A name is not an id: whoever calls themselves so is nobody.
    assert await status("", **{"X-MS-CLIENT-PRINCIPAL-NAME": "ceo"}) == 403


async def test_every_refusal_is_in_the_audit_log(
    policy_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from storage_lib.config.audit import AuditOptions

    monkeypatch.setenv("AGENT_STORAGE_ACCESS_ISSUER", ISSUER)
    monkeypatch.setenv("AGENT_STORAGE_ACCESS_AUDIENCE", "api://app")
    log = tmp_path / "audit"
    config = StorageConfig(storage_type="memory", audit=AuditOptions(sink="file", path=str(log)))
    async with serve(monkeypatch, config) as app:
        assert (await ask(app, "k-ceo", "GET", "/api/objects/agents/cto/a")).status == 403
        assert (await ask(app, "k-acme", "GET", "/api/objects/x")).status == 404
        assert (await app("GET", "/api/objects/x", b"", {"Authorization": "Bearer x"})).status == 401
        assert (await ask(app, "k-ceo", "PUT", "/api/objects/agents/ceo/z", b"1")).status == 201
    lines = [
        json.loads(line)
        for path in log.rglob("*")
        if path.is_file()
        for line in path.read_text().splitlines()
    ]
    found = {
        (each.get("actor"), each.get("action"), each.get("resource"), each.get("outcome")) for each in lines
    }
    assert ("key:ceo", "access.load", "objects/agents/cto/a", "forbidden") in found
    assert ("function-key", "access.authenticate", "app", "invalid-token") in found
    assert ("key:ceo", "objects.put", "objects/agents/ceo/z", "success") in found


async def test_a_changed_policy_comes_into_force_and_a_broken_one_does_not(
    app: PlatformApp, policy_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await ask(app, "k-cto", "GET", "/api/objects/agents/cto/a")).status == 403
    monkeypatch.setattr(source, "RELOAD_SECONDS", 0.0)
    principals = POLICY["principals"] | {"key:cto": {"may": {"load": ["agents/cto"]}}}
    changed = POLICY | {"principals": principals}
    policy_file.write_text(json.dumps(changed))
    assert (await ask(app, "k-cto", "GET", "/api/objects/agents/cto/a")).status == 200
    policy_file.write_text("{")
    assert (await ask(app, "k-cto", "GET", "/api/objects/agents/cto/a")).status == 200
    policy_file.unlink()
    assert (await ask(app, "k-cto", "GET", "/api/objects/agents/cto/a")).status == 200
    policy_file.write_text(json.dumps(POLICY))
    assert (await ask(app, "k-cto", "GET", "/api/objects/agents/cto/a")).status == 403


async def test_a_right_that_is_taken_while_a_token_is_checked_is_gone(
    app: PlatformApp, policy_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENT_STORAGE_ACCESS_ISSUER", ISSUER)
    monkeypatch.setenv("AGENT_STORAGE_ACCESS_AUDIENCE", "api://app")
    issuer, begun, go_on = Issuer(), asyncio.Event(), asyncio.Event()

    async def fetch(address: str) -> bytes:
        begun.set()
        await go_on.wait()
        return await issuer.fetch(address)

    monkeypatch.setattr(tokens, "_fetched", fetch)
    vars(app.state).pop("access", None)
    policy_file.write_text(json.dumps({"principals": {"aad:me": {"may": {"load": [""]}}}}))
    headers = {"Authorization": f"Bearer {token()}"}
    first = asyncio.create_task(app("GET", "/api/objects/shared/a", b"", headers))
    await asyncio.wait_for(begun.wait(), 120)
    policy_file.write_text(json.dumps({"principals": {}}))
    with monkeypatch.context() as soon:
        soon.setattr(source, "RELOAD_SECONDS", 0.0)
        assert (await ask(app, None, "GET", "/api/objects/shared/a")).status == 403
    go_on.set()
    assert (await first).status == 200  # It came before the change.
    assert (await app("GET", "/api/objects/shared/a", b"", headers)).status == 403


async def test_a_crowd_waits_once_for_a_policy_that_cannot_be_read(
    app: PlatformApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENT_STORAGE_ACCESS_POLICY", "store")
    vars(app.state).pop("access", None)
    reads = 0
    objects = app.storage.backend.objects
    get = objects.get

    async def failing(key: str, **options: Any) -> Any:
        nonlocal reads
        if key != POLICY_KEY:
            return await get(key, **options)
        reads += 1
        await asyncio.sleep(0)
        raise StorageUnavailableError("no store")

    with monkeypatch.context() as broken:
        broken.setattr(objects, "get", failing)
        crowd = [ask(app, "k-ceo", "GET", "/api/objects/agents/ceo/a") for _ in range(50)]
        assert {found.status for found in await asyncio.gather(*crowd)} == {503}
    assert reads < 5
    await app.storage.backend.objects.put(POLICY_KEY, json.dumps(POLICY).encode())
    assert (await ask(app, "k-ceo", "GET", "/api/objects/agents/ceo/a")).status == 200


async def test_a_repeated_call_is_one_of_the_same_caller(app: PlatformApp, policy_file: Path) -> None:
    both = {f"key:{name}": {"may": {"save": ["shared/"]}} for name in ("ceo", "cto")}
    policy_file.write_text(json.dumps(POLICY | {"principals": both}))

    async def put(key: str) -> Any:
        headers = {"x-functions-key": key, "If-None-Match": "*", "Idempotency-Key": "1"}
        return (await app("PUT", "/api/objects/shared/new", b"1", headers)).status

    assert await put("k-ceo") == 201
    assert await put("k-ceo") in (200, 201)
    assert await put("k-cto") == 412


async def test_without_a_valid_policy_nothing_is_let_through(
    app: PlatformApp, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for text in ("{", '{"principals": {"key:ceo": {"may": {"lode": [""]}}}}', None):
        path = tmp_path / "other.json"
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text)
        monkeypatch.setenv("AGENT_STORAGE_ACCESS_POLICY", str(path))
        vars(app.state).pop("access", None)
        found = await ask(app, "k-ceo", "GET", "/api/objects/public/a")
        assert found.status == 500
        assert found.problem["code"] == "configuration-error"
        assert b"key:ceo" not in found.body  # Who is let in is not for everybody to know.
        assert (await ask(app, None, "GET", "/api/health/live")).status == 200


async def test_the_policy_may_be_kept_in_the_store(app: PlatformApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "RELOAD_SECONDS", 0.0)
    monkeypatch.setenv("AGENT_STORAGE_ACCESS_POLICY", "store")
    vars(app.state).pop("access", None)
    found = await ask(app, "k-ceo", "GET", "/api/objects/agents/ceo/a")
    assert found.status == 500
    assert "agent-storage access set" in found.body.decode()
    objects = app.storage.backend.objects
    await objects.put(POLICY_KEY, json.dumps(POLICY).encode(), content_type="application/json")
    assert (await ask(app, "k-ceo", "GET", "/api/objects/agents/ceo/a")).status == 200
    await objects.put(POLICY_KEY, b'{"principals": {}}', content_type="application/json")
    assert (await ask(app, "k-ceo", "GET", "/api/objects/agents/ceo/a")).status == 403
    assert (await ask(app, "k-acme", "GET", f"/api/objects/{POLICY_KEY}")).status in (400, 403)


async def test_the_policy_costs_a_request_little(app: PlatformApp) -> None:
    from functions import access

    class Request:
        headers = {"x-functions-key": "k-ceo"}  # noqa: RUF012
        params: dict[str, str] = {}  # noqa: RUF012

    await app.state.access.sender(Request())  # type: ignore[arg-type]

    async def checked() -> None:
        sender = await app.state.access.sender(Request())  # type: ignore[arg-type]
        sender.grant.allows("load", "agents/ceo/conversations/2026/11/1.json")

    assert calls(lambda: awaited(checked())) < 50
    assert access.grant() is None


async def test_a_token_counts_before_a_key_and_a_false_one_is_a_401(
    app: PlatformApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer = Issuer()
    monkeypatch.setattr(tokens, "_fetched", issuer.fetch)
    monkeypatch.setenv("AGENT_STORAGE_ACCESS_ISSUER", ISSUER)
    monkeypatch.setenv("AGENT_STORAGE_ACCESS_AUDIENCE", "x, api://app")
    vars(app.state).pop("access", None)

    async def get(target: str, sent: str) -> Any:
        headers = {"Authorization": f"Bearer {sent}", "x-functions-key": "k-ceo"}
        return await app("GET", f"/api/objects/{target}", b"", headers)

    assert (await get("agents/aad", token(oid="1"))).status == 404
    assert (await get("agents/cto/a", token(roles=["Reader"]))).status == 200
    assert (await get("agents/ceo/a", token())).status == 403
    refused = await get("agents/ceo/a", "false")
    assert refused.problem["code"] == "invalid-token"
    assert refused.status == 401
    assert refused.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    issuer.broken = True
    vars(app.state).pop("access", None)
    assert (await get("agents/cto/a", token(roles=["Reader"]))).status == 503


# -- tasks


@pytest.fixture
async def tasks(policy_file: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PlatformApp]:
    of_agents = {
        "keys": {name: digest(f"k-{name}") for name in ("ceo", "two", "all", "root")},
        "principals": {
            "key:ceo": {"may": {"load": ["agents/ceo"], "save": ["agents/ceo"], "tasks": ["ceo"]}},
            "key:two": {"root": "tenants/two/", "may": {"*": [""], "tasks": ["ceo", "cto"]}},
            "key:all": {"may": {"tasks": ["*"]}},
            "key:root": {
                "may": {"*": [""], "tasks": ["*"], "tables": ["*"], "queues": ["*"], "operate": ["*"]}
            },
        },
    }
    policy_file.write_text(json.dumps(of_agents))
    registry_module.Registry().names()  # The built-in ones are registered once.
    before = dict(registry_module._actions)

    @task("copy_it")
    async def copy_it(context: TaskContext, payload: dict[str, str]) -> Any:
        value = await context.storage.load(payload["from"])
        if payload.get("children"):
            await context.submit("copy_it", {"from": payload["from"], "to": payload["children"]})
        await context.storage.save(payload["to"], value)
        return context.is_confined

    async with serve(monkeypatch, StorageConfig(storage_type="memory")) as app:
        await app.storage.save("agents/ceo/a", 1)
        await app.storage.save("agents/cto/a", 2)
        await app.storage.save("tenants/two/a", 3)
        yield app
    registry_module._actions.clear()
    registry_module._actions.update(before)


async def submitted(app: PlatformApp, key: str | None, agent: str, **payload: str) -> Any:
    body = json.dumps({"action": "copy_it", "agent_id": agent, "payload": payload}).encode()
    return await ask(app, key, "POST", "/api/tasks", body)


async def run(app: PlatformApp) -> None:
    queues, engine = app.storage.backend.queues, app.state.engine
    while messages := await queues.receive(TASK_QUEUE, max_messages=32):
        for message in messages:
            await engine.deliver(message.text, queue=TASK_QUEUE, dequeue_count=message.dequeue_count)
            await queues.delete(TASK_QUEUE, message)


async def test_a_task_has_the_rights_of_whoever_submitted_it(tasks: PlatformApp) -> None:
    async def outcome(key: str | None, **payload: str) -> tuple[str, str | None]:
        found = (await submitted(tasks, key, "ceo", **payload)).json
        await run(tasks)
        record = await tasks.state.engine.get(found["task_id"])
        return record.status, None if record.error is None else record.error.code

    assert await outcome("k-ceo", **{"from": "agents/ceo/a", "to": "agents/ceo/b"}) == ("succeeded", None)
    assert await outcome("k-ceo", **{"from": "agents/cto/a", "to": "agents/ceo/c"}) == ("failed", "forbidden")
    assert await outcome("k-ceo", **{"from": "agents/ceo/a", "to": "agents/cto/c"}) == ("failed", "forbidden")
    assert await outcome("k-all", **{"from": "agents/ceo/a", "to": "agents/ceo/d"}) == ("failed", "forbidden")
    assert await outcome("k-two", **{"from": "a", "to": "b"}) == ("succeeded", None)
    assert await tasks.storage.load("tenants/two/b") == 3
    found = (await submitted(tasks, "k-root", "cto", **{"from": "agents/cto/a", "to": "agents/ceo/e"})).json
    await run(tasks)
    assert (await tasks.state.engine.get(found["task_id"])).result is False
    keys = await tasks.storage.list_keys("agents/")
    assert keys == ["agents/ceo/a", "agents/ceo/b", "agents/ceo/e", "agents/cto/a"]


async def test_children_and_requeued_tasks_keep_the_rights(tasks: PlatformApp) -> None:
    parent = {"from": "agents/ceo/a", "to": "agents/ceo/p", "children": "agents/cto/c"}
    found = (await submitted(tasks, "k-ceo", "ceo", **parent)).json
    await run(tasks)
    child = (await tasks.state.engine.list(parent_id=found["task_id"])).records[0]
    assert (child.status, child.submitter) == ("failed", "key:ceo")
    await ask(tasks, "k-root", "POST", f"/api/tasks/{child.task_id}/requeue")
    await run(tasks)
    assert (await tasks.state.engine.get(child.task_id)).status == "failed"
    assert not await tasks.storage.exists("agents/cto/c")


@pytest.mark.parametrize("how", ["one", "several"])
async def test_a_requeued_task_has_the_rights_that_both_have(tasks: PlatformApp, how: str) -> None:
    async def requeued(key: str, task_id: str) -> tuple[str, str | None]:
        if how == "one":
            found = await ask(tasks, key, "POST", f"/api/tasks/{task_id}/requeue")
            assert found.status == 202
        else:
            found = await ask(tasks, key, "POST", "/api/tasks/requeue", b'{"agent_id": "ceo"}')
            assert [each["task_id"] for each in found.json["tasks"]] == [task_id]
        await run(tasks)
        record = await tasks.state.engine.get(task_id)
        assert record.requeued_by == f"key:{key.removeprefix('k-')}"
        return record.status, None if record.error is None else record.error.code

    # None of the sources is there yet, so that all fail at first.
    copy = {"from": "agents/cto/late", "to": "agents/cto/copy"}
    task_id = (await submitted(tasks, "k-root", "ceo", **copy)).json["task_id"]
    await run(tasks)
    assert (await tasks.state.engine.get(task_id)).requeued_by is None
    await tasks.storage.save("agents/cto/late", 4)
    for key in ("k-ceo", "k-all", "k-two"):
        assert await requeued(key, task_id) == ("failed", "forbidden")
        assert not await tasks.storage.exists("agents/cto/copy")
    assert await requeued("k-root", task_id) == ("succeeded", None)
    copy = {"from": "agents/ceo/late", "to": "agents/ceo/copy", "children": "agents/cto/child"}
    task_id = (await submitted(tasks, "k-root", "ceo", **copy)).json["task_id"]
    await run(tasks)
    await tasks.storage.save("agents/ceo/late", 5)
    assert await requeued("k-ceo", task_id) == ("failed", "children-failed")
    assert await tasks.storage.load("agents/ceo/copy") == 5
    child = (await tasks.state.engine.list(parent_id=task_id)).records[0]
    assert (child.status, child.requeued_by) == ("failed", "key:ceo")
    assert not await tasks.storage.exists("agents/cto/child")


async def test_a_requeued_task_has_no_rights_that_its_submitter_has_lost(
    tasks: PlatformApp, policy_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "RELOAD_SECONDS", 0.0)
    copy = {"from": "agents/ceo/late", "to": "agents/ceo/copy"}
    task_id = (await submitted(tasks, "k-ceo", "ceo", **copy)).json["task_id"]
    await run(tasks)
    await tasks.storage.save("agents/ceo/late", 5)
    policy = json.loads(policy_file.read_text())
    policy["principals"]["key:ceo"]["may"] = {"load": ["agents/ceo"], "tasks": ["ceo"]}
    policy_file.write_text(json.dumps(policy))
    for key in ("k-ceo", "k-root"):
        assert (await ask(tasks, key, "POST", f"/api/tasks/{task_id}/requeue")).status == 202
        await run(tasks)
        record = await tasks.state.engine.get(task_id)
        assert (record.status, record.error and record.error.code) == ("failed", "forbidden")


async def test_a_message_that_is_no_task_is_put_back_by_those_who_operate(tasks: PlatformApp) -> None:
    queues, engine = tasks.storage.backend.queues, tasks.state.engine
    await engine.deliver_poison("no task", queue=TASK_QUEUE, message_id="1", inserted_at=datetime.now(UTC))
    (record,) = (await engine.list(status="dead")).records
    one = await ask(tasks, "k-all", "POST", f"/api/tasks/{record.task_id}/requeue")
    assert one.problem["code"] == "forbidden"
    several = await ask(tasks, "k-all", "POST", "/api/tasks/requeue", b'{"status": "dead"}')
    assert [each["problem"]["status"] for each in several.json["failed"]] == [403]
    assert (await ask(tasks, "k-root", "POST", f"/api/tasks/{record.task_id}/requeue")).status == 202
    assert [each.text for each in await queues.receive(TASK_QUEUE)] == ["no task"]


RULES = st.sampled_from(["", "a", "a/", "a/b", "a/b/", "ab", "a/b/c", "r/", "r/a", "r/a/"])
GRANTS = st.builds(
    lambda root, load, tables: Grant("p", root, {"load": load, "tables": tables}),
    st.sampled_from(["", "a/", "r/", "a/b/"]),
    st.lists(RULES, max_size=3),
    st.lists(st.sampled_from(["*", "t", "u"]), max_size=2),
)
KEYS = ["a", "a/b", "ab", "a/b/c", "a/b/c/d", "a/c", "r/a", "r/a/b", "r/b", "a/a", "a/b/a", "a/b/a/b", "b"]


@given(GRANTS, GRANTS)
def test_what_two_may_is_what_each_of_them_may(one: Grant, other: Grant) -> None:
    def may(grant: Grant, key: str) -> bool:
        return key.startswith(grant.root) and grant.allows("load", key.removeprefix(grant.root))

    both = one.within(other)
    assert both.root == one.root
    for key in KEYS:
        assert may(both, key) == (may(one, key) and may(other, key)), key
    for table in ("t", "u", "v"):
        assert both.names("tables", table) == (one.names("tables", table) and other.names("tables", table))


async def test_a_message_of_another_program_has_the_rights_of_the_queue(
    tasks: PlatformApp, policy_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "RELOAD_SECONDS", 0.0)

    async def sent(task_id: str, **more: Any) -> str:
        payload = {"from": "agents/ceo/a", "to": "agents/ceo/q"}
        message = {"task_id": task_id, "agent_id": "ceo", "action": "copy_it", "payload": payload} | more
        await tasks.storage.backend.queues.send(TASK_QUEUE, json.dumps(message).encode())
        await run(tasks)
        return (await tasks.state.engine.get(task_id)).status

    assert await sent("foreign-1") == "failed"
    assert await sent("foreign-2", submitter="key:root") == "failed"
    policy = json.loads(policy_file.read_text())
    policy["principals"]["queue"] = {"may": {"*": ["agents/ceo"]}}
    policy_file.write_text(json.dumps(policy))
    assert await sent("foreign-3") == "succeeded"


async def test_tasks_are_seen_and_controlled_by_those_who_may(tasks: PlatformApp) -> None:
    copy = {"from": "agents/ceo/a", "to": "agents/ceo/b"}
    ids = {
        agent: (await submitted(tasks, "k-root", agent, **copy)).json["task_id"]
        for agent in ("ceo", "cto", "coo")
    }
    for agent, task_id in ids.items():
        for method, target in (
            ("GET", ""),
            ("HEAD", ""),
            ("GET", "?wait=1"),
            ("POST", "/cancel"),
            ("POST", "/requeue"),
        ):
            found = await ask(tasks, "k-ceo", method, f"/api/tasks/{task_id}{target}")
            if agent == "ceo":
                assert found.status != 404
            else:
                missing = await ask(tasks, "k-ceo", method, f"/api/tasks/no-such-task{target}")
                assert found.status == missing.status == 404
                assert found.body.replace(task_id.encode(), b"no-such-task") == missing.body
    assert (await submitted(tasks, "k-ceo", "cto", **copy)).status == 403
    several = {"tasks": [{"action": "copy_it", "agent_id": agent} for agent in ("ceo", "cto")]}
    refused = await ask(tasks, "k-ceo", "POST", "/api/tasks", json.dumps(several).encode())
    assert (refused.status, refused.problem["field"]) == (403, "tasks[1].agent_id")

    async def agents(key: str | None, query: str = "") -> Any:
        found: list[str] = []
        cursor = ""
        while True:
            page = await ask(tasks, key, "GET", f"/api/tasks?limit=1{query}{cursor}")
            if page.status != 200:
                return page.status
            found += [each["agent_id"] for each in page.json["tasks"]]
            if page.json["cursor"] is None:
                return sorted(found)
            cursor = f"&cursor={quote(page.json['cursor'])}"

    assert await agents("k-ceo") == ["ceo"]
    assert await agents("k-two") == ["ceo", "cto"]
    assert await agents("k-all") == ["ceo", "coo", "cto"]
    assert await agents("k-two", "&agent_id=cto") == ["cto"]
    assert await agents("k-two", "&agent_id=coo") == 403
    assert await agents(None) == 403


async def test_a_cursor_tells_nothing_of_tasks_that_are_not_seen(tasks: PlatformApp) -> None:
    copy = {"from": "agents/ceo/a", "to": "agents/ceo/b"}
    await submitted(tasks, "k-root", "ceo", **copy)
    hidden = [(await submitted(tasks, "k-root", "coo", **copy)).json["task_id"] for _ in range(12)]
    page = (await ask(tasks, "k-two", "GET", "/api/tasks?limit=1")).json
    assert page["tasks"] == []
    shown = page["cursor"] + repr(base64.urlsafe_b64decode(page["cursor"].rpartition("~")[2] + "=="))
    assert not any(told(task_id) in shown for task_id in hidden for told in (str, key_of))
    cursor = quote(page["cursor"])
    following = await ask(tasks, "k-two", "GET", f"/api/tasks?limit=1&cursor={cursor}")
    assert [each["agent_id"] for each in following.json["tasks"]] == ["ceo"]
    for wrong in (f"{cursor[:-6]}AAAA%3D%3D", cursor.partition("~")[2], "%C3%A4~", "a~b"):
        refused = await ask(tasks, "k-two", "GET", f"/api/tasks?limit=1&cursor={wrong}")
        assert (refused.status, refused.problem["field"]) == (400, "cursor")


async def test_a_traceback_is_for_those_who_operate(tasks: PlatformApp) -> None:
    """It has the addresses of the store, and keys with their root."""
    found = await submitted(tasks, "k-two", "ceo", **{"from": "missing", "to": "b"})
    await run(tasks)
    for key, sees in (("k-two", False), ("k-all", False), ("k-root", True)):
        one = (await ask(tasks, key, "GET", f"/api/tasks/{found.json['task_id']}")).json
        listed = (await ask(tasks, key, "GET", "/api/tasks")).json["tasks"][0]
        for error in (one["error"], listed["error"]):
            assert error["message"] == "object 'missing' does not exist"
            assert (error["traceback"] is not None) is sees
            assert sees or "tenants" not in json.dumps(error)


async def test_each_submitter_has_its_own_idempotency_keys(tasks: PlatformApp) -> None:
    async def submit(key: str, agent: str, to: str = "agents/ceo/b") -> Any:
        payload = {"from": "agents/ceo/a", "to": to}
        body = {"action": "copy_it", "agent_id": agent, "payload": payload, "idempotency_key": "1"}
        return await ask(tasks, key, "POST", "/api/tasks", json.dumps(body).encode())

    first = (await submit("k-ceo", "ceo")).json["task_id"]
    assert (await submit("k-ceo", "ceo")).json["task_id"] == first
    # Others learn nothing of it, even if they may see the tasks of the agent, and do not get one that runs
    # with its rights in place of theirs.
    for key, agent in (("k-two", "ceo"), ("k-all", "cto"), ("k-root", "ceo")):
        other = await submit(key, agent)
        assert other.status == 202
        assert other.json["task_id"] != first
    conflict = await submit("k-ceo", "ceo", "agents/ceo/c")
    assert conflict.problem["code"] == "idempotency-conflict"


async def test_an_agent_that_there_cannot_be_is_refused_before_it_is_logged(
    tasks: PlatformApp, caplog: pytest.LogCaptureFixture
) -> None:
    for agent in ("a\nforged line", "x" * 100_000, ""):
        found = await submitted(tasks, "k-ceo", agent, **{"from": "a", "to": "b"})
        assert (found.status, found.problem["field"]) == (400, "agent_id")
    assert "forged" not in caplog.text


async def test_a_task_waits_while_its_submitter_has_two_roots(tasks: PlatformApp, policy_file: Path) -> None:
    access = tasks.state.access
    roots = {"a": {"root": "x/", "may": {}}, "b": {"root": "y/", "may": {}}}
    policy_file.write_text(json.dumps({"principals": roots}))
    with pytest.raises(TransientStorageError, match="different roots"):
        await access.storage_of("a b")


async def test_a_task_waits_for_a_policy_that_cannot_be_had(
    tasks: PlatformApp, policy_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = (await submitted(tasks, "k-ceo", "ceo", **{"from": "agents/ceo/a", "to": "agents/ceo/b"})).json
    policy_file.unlink()
    vars(tasks.state).pop("access", None)
    vars(tasks.state).pop("engine", None)
    await run(tasks)
    record = await tasks.state.engine.get(found["task_id"])
    assert record.status == "queued"
    assert record.error is not None
    assert "no task can run" in record.error.message
