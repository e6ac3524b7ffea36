"""Who is recorded: the principal that the platform vouches for, the agent of a task, the library itself."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from storage_lib.audit import acting_as, audit_log, caller, verify
from storage_lib.config.audit import AuditOptions
from storage_lib.errors import StorageError
from storage_lib.layers.audit import AuditLayer
from storage_lib.manager import StorageManager
from storage_lib.tasks.context import TaskContext
from storage_lib.tasks.engine import TaskEngine
from storage_lib.tasks.model import TASK_QUEUE
from storage_lib.tasks.registry import task
from tests.conftest import PROJECT
from tests.http_app import PlatformApp, config_of, serve
from tests.task_stores import opened
from tests.test_audit import logged

PRINCIPAL = {
    "X-MS-CLIENT-PRINCIPAL-ID": "6f1e",
    "X-MS-CLIENT-PRINCIPAL-IDP": "aad",
    "X-MS-CLIENT-PRINCIPAL-NAME": "ada@example.com",
}


@pytest.fixture
async def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PlatformApp]:
    monkeypatch.delenv("WEBSITE_AUTH_ENABLED", raising=False)
    config = await config_of("file", None, tmp_path)
    options = AuditOptions(path=str(tmp_path / "log"), operations="all", prefixes=("objects/",))
    async with serve(monkeypatch, replace(config, audit=options)) as app:
        yield app


def callers(tmp_path: Path) -> set[tuple[str, str]]:
    return {(entry["actor"], entry["correlation"]) for entry in logged(tmp_path / "log")}


@pytest.mark.parametrize(
    ("headers", "is_on", "actor"),
    [
        (PRINCIPAL, False, "function-key"),
        ({}, False, "function-key"),
        (PRINCIPAL, True, "aad:6f1e"),
        ({"X-MS-CLIENT-PRINCIPAL-NAME": "ada@example.com"}, True, "principal:ada@example.com"),
        ({"X-MS-CLIENT-PRINCIPAL-ID": "a b", "X-MS-CLIENT-PRINCIPAL-IDP": "x" * 200}, True, "x" * 128),
        ({}, True, "anonymous"),
    ],
    ids=["not-trusted", "key", "principal", "name", "bounded", "anonymous"],
)
async def test_the_actor_of_a_request(
    app: PlatformApp,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    headers: dict[str, str],
    is_on: bool,
    actor: str,
) -> None:
    if is_on:
        monkeypatch.setenv("WEBSITE_AUTH_ENABLED", "True")
    answer = await app("PUT", "/api/objects/a", b"1", {**headers, "x-correlation-id": "order-17"})
    assert answer.status == 201
    assert callers(tmp_path) == {(actor, "order-17")}


@pytest.mark.parametrize(
    ("headers", "correlation"),
    [
        ({"x-correlation-id": "order-17", "x-request-id": "r"}, "order-17"),
        ({"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01", "x-request-id": "r"}, "ab" * 16),
        ({"traceparent": "nonsense", "x-request-id": "r"}, "r"),
        ({"x-correlation-id": "a\tb" + "x" * 200}, "a?b" + "x" * 125),
        ({}, None),
    ],
    ids=["given", "trace", "request", "bounded", "invocation"],
)
async def test_the_correlation_of_a_request(
    app: PlatformApp, tmp_path: Path, headers: dict[str, str], correlation: str | None
) -> None:
    await app("PUT", "/api/objects/a", b"1", headers)
    await app("GET", "/api/objects/a", b"", headers)
    found = {found for _, found in callers(tmp_path)}
    assert len(found) == (1 if correlation else 2), "two requests without one have two"
    assert correlation in found or (correlation is None and all(found))


async def test_each_outcome_of_a_request(app: PlatformApp, tmp_path: Path) -> None:
    assert (await app("GET", "/api/objects/nothing")).status == 404
    assert (await app("PUT", "/api/objects/a", b"1", {"If-None-Match": "*"})).status == 201
    assert (await app("PUT", "/api/objects/a", b"1", {"If-None-Match": "*"})).status == 412
    outcomes = [entry["outcome"] for entry in logged(tmp_path / "log") if entry["action"] != "objects.head"]
    assert outcomes == ["key-not-found", "success", "precondition-failed"]


async def test_a_request_without_its_entry_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "log").write_text("a file where the folder is to be")
    config = await config_of("file", None, tmp_path)
    options = AuditOptions(path=str(tmp_path / "log"), on_failure="refuse")
    async with serve(monkeypatch, replace(config, audit=options)) as app:
        answer = await app("PUT", "/api/objects/a", b"1")
        assert (answer.status, answer.problem["code"]) == (503, "audit-unavailable")
        assert (await app("GET", "/api/objects/a")).status == 404
        assert (await app("GET", "/api/health/ready")).status == 503
        (tmp_path / "log").unlink()
        assert (await app("PUT", "/api/objects/a", b"1")).status == 201


@task("audited")
async def audited(context: TaskContext, payload: None) -> None:
    await context.storage.save("made", {"by": "task"})
    await audit_log(action="approve", resource="orders/17")


@pytest.mark.parametrize("correlation", ["order-17", None])
async def test_the_agent_of_a_task(
    tmp_path: Path, task_store: tuple[str, Any], correlation: str | None
) -> None:
    async with opened(task_store, tmp_path / "data") as plain:
        layer = AuditLayer(plain.backend, AuditOptions(path=str(tmp_path / "log"), prefixes=("objects/",)))
        storage = StorageManager(backend=layer)
        engine = TaskEngine(storage)
        record = await engine.submit("audited", "ceo", correlation_id=correlation)
        (message,) = await storage.backend.queues.receive(TASK_QUEUE)
        await engine.deliver(message.text, queue=TASK_QUEUE)
        assert (await engine.get(record.task_id)).status == "succeeded"
        journal = await layer.recorder.journal()
        await journal.end()
    made = [entry for entry in logged(tmp_path / "log") if entry["action"] in ("objects.put", "approve")]
    assert [entry["resource"] for entry in made] == ["objects/made", "orders/17"]
    expected = f"task:{record.task_id}" if correlation is None else f"order-17 task:{record.task_id}"
    assert {(entry["actor"], entry["correlation"]) for entry in made} == {("agent:ceo", expected)}
    assert caller().actor == "system"


async def test_callers_are_nested() -> None:
    assert (caller().actor, caller().correlation) == ("system", None)
    with acting_as("a", "1"):
        with acting_as("b"):
            assert (caller().actor, caller().correlation) == ("b", None)
        assert (caller().actor, caller().correlation) == ("a", "1")
        with pytest.raises(StorageError), acting_as("c"):
            raise StorageError("x")
        assert caller().actor == "a"
    assert caller().actor == "system"


def test_a_cold_start_does_not_import_the_layer() -> None:
    code = "import sys, json, function_app; print(json.dumps(sorted(sys.modules)))"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    loaded = json.loads(run.stdout)
    assert "function_app" in loaded
    assert [name for name in loaded if "audit" in name] == []


async def test_the_log_of_the_app_is_sealed_when_it_stops(app: PlatformApp, tmp_path: Path) -> None:
    await app("PUT", "/api/objects/a", b"1")
    await app.storage.close()
    report = verify(tmp_path / "log")
    assert (report.findings, report.unsealed) == ([], 0)
