"""Namespaces: apps that share a store see nothing of each other's tables and queues, the platform's triggers
included."""

from __future__ import annotations

import asyncio
import json
import string
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage_lib.config import StorageConfig
from storage_lib.errors import ConfigurationError, InvalidArgumentError, KeyNotFoundError
from storage_lib.factory import build
from storage_lib.manager import StorageManager
from storage_lib.migration import Migration, MigrationOptions
from storage_lib.names import queue_name, table_name, validate_queue_name
from storage_lib.namespaces import (
    MAX_NAMESPACE_CHARACTERS,
    namespace_of,
    queue_in,
    queues_of,
    table_in,
    tables_of,
)
from storage_lib.ports.backend import StorageBackend
from storage_lib.tasks.model import HIGH_POISON_QUEUE, HIGH_QUEUE, POISON_QUEUE, TASK_QUEUE, TASK_TABLE
from storage_lib.urls import open_store
from tests.conftest import PROJECT
from tests.http_app import config_of
from tests.test_end_to_end import BACKENDS, WEATHER, Devhost, devhost

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
NAMESPACES = st.from_regex(rf"[a-z][a-z0-9]{{0,{MAX_NAMESPACE_CHARACTERS - 1}}}", fullmatch=True)
QUEUES = st.one_of(
    st.from_regex(r"[a-z0-9]{1,3}(-[a-z0-9]{1,20}){1,2}", fullmatch=True),
    st.from_regex(r"=[a-z0-9]{1,51}-x[0-9a-f]{10}", fullmatch=True),
    st.text(min_size=1),
)
TABLES = st.one_of(
    st.from_regex(r"[A-Za-z][A-Za-z0-9]{2,62}", fullmatch=True),
    st.from_regex(r"=[a-z][a-z0-9]{0,51}x[0-9a-f]{10}", fullmatch=True),
    st.text(min_size=1),
)


# -- names


def test_names_in_a_namespace_can_be_read() -> None:
    assert queue_in("dev", TASK_QUEUE) == "dev-agent-tasks"
    assert table_in("dev", TASK_TABLE) == "n03devtasks"
    assert queue_in("", TASK_QUEUE) == TASK_QUEUE
    assert table_in("", TASK_TABLE) == TASK_TABLE


def test_the_platform_finds_the_poison_queue_of_a_queue_in_a_namespace() -> None:
    longest = "a" * MAX_NAMESPACE_CHARACTERS
    for namespace in ("", "d", longest):
        for queue, poison in ((TASK_QUEUE, POISON_QUEUE), (HIGH_QUEUE, HIGH_POISON_QUEUE)):
            assert queue_in(namespace, poison) == f"{queue_in(namespace, queue)}-poison"


def mapped(kind: str, name: str) -> str:
    try:
        return queue_name(name) if kind == "queue" else table_name(name)
    except ValueError:
        return queue_name("other") if kind == "queue" else table_name("other")


@UNHURRIED
@given(NAMESPACES, NAMESPACES, QUEUES, QUEUES)
def test_two_queues_never_share_a_name(one: str, two: str, first: str, second: str) -> None:
    a, b = mapped("queue", first), mapped("queue", second)
    for namespace, queue in ((one, a), (two, b)):
        stored = queue_in(namespace, queue)
        validate_queue_name(stored)
        assert queues_of(namespace, [stored]) == [queue]
    assert (queue_in(one, a) == queue_in(two, b)) == ((one, a) == (two, b))
    if one != two:
        assert queues_of(one, [queue_in(two, b)]) == []


@UNHURRIED
@given(NAMESPACES, NAMESPACES, TABLES, TABLES)
def test_two_tables_never_share_a_name(one: str, two: str, first: str, second: str) -> None:
    a, b = mapped("table", first), mapped("table", second)
    for namespace, table in ((one, a), (two, b)):
        stored = table_in(namespace, table)
        assert 3 <= len(stored) <= 63
        assert stored.isascii()
        assert stored.isalnum()
        assert stored[0] in string.ascii_letters
        assert tables_of(namespace, [stored]) == [table]
    # On Azure the case of a table's name makes no difference.
    shared = table_in(one, a).lower() == table_in(two, b).lower()
    assert shared == ((one, a.lower()) == (two, b.lower()))
    if one != two:
        assert tables_of(one, [table_in(two, b)]) == []


@pytest.mark.parametrize(
    "wrong", ["Dev", "my-app", "1dev", "dev ", "dév", "a" * 21, "agent", "azure", "dev\n", None, 3]
)
def test_what_cannot_be_a_namespace_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError) as refused:
        StorageConfig(storage_type="memory", namespace=wrong)
    assert refused.value.field == "namespace"
    assert "20 characters" in (refused.value.limit or "")
    assert refused.value.remedy
    if isinstance(wrong, str):
        with pytest.raises(ConfigurationError) as refused:
            StorageConfig.from_env({"AGENT_STORAGE_TYPE": "memory", "AGENT_STORAGE_NAMESPACE": wrong})
        assert refused.value.field == "AGENT_STORAGE_NAMESPACE"


def test_a_namespace_is_a_setting() -> None:
    environ = {"AGENT_STORAGE_TYPE": "memory", "AGENT_STORAGE_NAMESPACE": "dev"}
    assert namespace_of(environ) == StorageConfig.from_env(environ).namespace == "dev"
    assert namespace_of({}) == StorageConfig.from_env({"AGENT_STORAGE_TYPE": "memory"}).namespace == ""


def test_the_doctor_tells_the_namespace() -> None:
    from storage_lib.cli.diagnosis import described

    assert "in the namespace dev" in described(StorageConfig(namespace="dev"))
    assert "namespace" not in described(StorageConfig())


# -- stores


class Neighbours(NamedTuple):
    """Apps on one store: two in namespaces of their own, the name of one beginning like the other's, and one
    in none."""

    name: str
    one: StorageBackend
    two: StorageBackend
    everything: StorageBackend


@pytest.fixture
async def neighbours(any_store: tuple[str, object], tmp_path: Path) -> AsyncIterator[Neighbours]:
    config, name = await config_of(*any_store, tmp_path), f"d{uuid.uuid4().hex[:8]}"
    one, two, everything = (build(replace(config, namespace=each)) for each in (name, f"{name}two", ""))
    async with one, two, everything:
        yield Neighbours(name, one, two, everything)


@pytest.mark.parametrize(
    "table",
    ["tasks", "My_Table", "A" * 63, f"={'a' * 52}x0123456789"],
    ids=["plain", "mapped", "long", "long as an older version mapped it"],
)
async def test_tables_of_neighbours_are_apart(neighbours: Neighbours, table: str) -> None:
    one, two, everything = neighbours.one.tables, neighbours.two.tables, neighbours.everything.tables
    await one.upsert(table, "p", "r", {"of": "one"})
    with pytest.raises(KeyNotFoundError) as missing:
        await two.get(table, "p", "r")
    for shown in (str(missing.value), repr(missing.value)):
        assert neighbours.name not in shown, "errors have the names of the app"
    await two.upsert(table, "p", "r", {"of": "two"})
    await two.insert("alone", "p", "r", {})
    assert (await one.get(table, "p", "r")).properties == {"of": "one"}
    assert await one.list_tables() == [table]
    assert await two.list_tables() == sorted([table, "alone"])
    if table == "tasks":
        stored = f"n09{neighbours.name}tasks"
        assert await everything.list_tables("n09" + neighbours.name) == [stored]
        assert (await everything.get(stored, "p", "r")).properties == {"of": "one"}


@pytest.mark.parametrize(
    "queue",
    ["agent-tasks", "My Queue", "q" * 63, f"={'q' * 51}-x0123456789"],
    ids=["plain", "mapped", "long", "long as an older version mapped it"],
)
async def test_queues_of_neighbours_are_apart(neighbours: Neighbours, queue: str) -> None:
    one, two, everything = neighbours.one.queues, neighbours.two.queues, neighbours.everything.queues
    await one.send(queue, "of one")
    with pytest.raises(KeyNotFoundError):
        await two.receive(queue)
    await two.send(queue, "of two")
    await two.send("alone", "x")
    (message,) = await one.receive(queue)
    assert message.body == b"of one"
    assert await one.list_queues() == [queue]
    assert await two.list_queues() == sorted([queue, "alone"])
    await two.clear(queue)
    assert await one.length(queue) == 1
    await one.delete(queue, message)
    if queue == "agent-tasks":
        await one.send(queue, "seen by the platform")
        (stored,) = await everything.receive(f"{neighbours.name}-agent-tasks")
        assert stored.body == b"seen by the platform"


async def test_names_that_were_not_given_by_this_library_are_listed_and_reached(
    neighbours: Neighbours,
) -> None:
    name, dev, everything = neighbours.name, neighbours.one, neighbours.everything
    await everything.tables.driver.create_table(f"n09{name}older")
    await everything.tables.driver.create_table(f"n09{name}olderx0123456789")
    await everything.queues.driver.create_queue(f"{name}-older")
    assert await dev.tables.list_tables() == ["=olderx0123456789", "older"]
    assert await dev.queues.list_queues() == ["older"]
    for table in await dev.tables.list_tables():
        await dev.tables.insert(table, "p", "r", {})
    assert len((await everything.tables.query(f"n09{name}older")).entities) == 1


async def test_tables_and_messages_are_copied_from_one_namespace_to_another(tmp_path: Path) -> None:
    place = f"file:{tmp_path / 'data'}"
    async with open_store(place) as old, open_store(f"{place}?namespace=dev") as new:
        assert old.backend.place("objects") == new.backend.place("objects")
        for table in ("people", "My_Table"):
            await old.backend.tables.insert(table, "p", "r", {"n": 1})
        await old.backend.queues.send("jobs", "x")
        await old.save("k", 1)
        options = MigrationOptions(objects=False, tables=("people",), queues=("jobs",))
        report = await Migration(old, new, options).run()
        assert report.ok
        assert await new.list_tables() == ["people"]
        assert (await new.backend.tables.get("people", "p", "r")).properties == {"n": 1}
        (message,) = await new.backend.queues.receive("jobs")
        assert message.body == b"x"
        with pytest.raises(InvalidArgumentError, match="the same store"):
            await Migration(old, new).run()


def test_objects_of_a_namespace_are_those_of_the_store() -> None:
    """They have their container or folder, and nothing stands before them."""
    backend = build(StorageConfig(storage_type="memory", namespace="dev"))
    assert backend.objects is backend.inside()[""].objects


async def test_all_layers_see_the_names_of_the_app(tmp_path: Path) -> None:
    from storage_lib.config.metrics import MetricsOptions

    config = StorageConfig(base_path=tmp_path, namespace="dev", metrics=MetricsOptions())
    async with StorageManager(config) as storage:
        await storage.backend.queues.send("work", "x")
        assert storage.backend.system("queues") == "file"
        assert await storage.list_queues() == ["work"]


# -- the app


def triggers(**variables: str) -> subprocess.CompletedProcess[str]:
    tell = (
        "import json, function_app\n"
        "found = {f.get_function_name(): f.get_raw_bindings() for f in function_app.app.get_functions()}\n"
        "queues = {name: json.loads(b).get('queueName') for name, all in found.items() for b in all}\n"
        "print(json.dumps({name: queue for name, queue in queues.items() if queue}))"
    )
    return subprocess.run(
        [sys.executable, "-c", tell], cwd=PROJECT, env=variables, capture_output=True, text=True, check=False
    )


def test_the_triggers_name_the_queues_of_the_namespace() -> None:
    assert json.loads(triggers(AGENT_STORAGE_NAMESPACE="dev").stdout) == {
        "process_task": "dev-agent-tasks",
        "process_high_task": "dev-agent-tasks-high",
        "process_poison_task": "dev-agent-tasks-poison",
        "process_high_poison_task": "dev-agent-tasks-high-poison",
    }


def test_without_a_valid_namespace_no_function_takes_the_messages_of_others() -> None:
    refused = triggers(AGENT_STORAGE_NAMESPACE="my-app")
    assert refused.returncode
    last = refused.stderr.splitlines()[-1]
    assert "AGENT_STORAGE_NAMESPACE is 'my-app'; limit: a small letter" in last
    assert "remedy: " in last


async def gone(host: Devhost, config: StorageConfig) -> dict[str, Any]:
    """Send what no worker can handle, and return the record that the poison function makes of it."""
    async with StorageManager(config) as storage:
        await storage.backend.queues.send(TASK_QUEUE, "no task")
    while not (dead := (await host.json("tasks?status=dead"))["tasks"]):
        await asyncio.sleep(0.05)
    return dead[0]


@pytest.mark.parametrize("backend", BACKENDS)
async def test_apps_with_namespaces_work_side_by_side(backend: str, tmp_path: Path) -> None:
    """Two local hosts, one store: each runs its own tasks, and gives up its own messages."""
    data, settings = tmp_path / "data", {"AGENT_STORAGE_CONTAINER": "shared"}
    async with devhost(backend, data, AGENT_STORAGE_NAMESPACE="one", **settings) as one:
        place = {"AgentStorage": one.connection_string} if backend == "azurite" else {}
        kind = "azure" if backend == "azurite" else "file"
        place |= {"AGENT_STORAGE_TYPE": kind, "AGENT_STORAGE_PATH": str(data), **settings}
        async with devhost(None, data, AGENT_STORAGE_NAMESPACE="two", **place) as two:
            assert await one.put("reports/weather.csv", WEATHER.read_bytes(), "text/csv") == 201
            for host, other in ((one, two), (two, one)):
                task = await host.submit("reports/weather.csv")
                record = await host.settled(task)
                assert record["status"] == "succeeded", record
                assert (await other.json(f"tasks/{task}"))["status"] == 404
            ours = replace(StorageConfig.from_env(place), namespace="two")
            dead = await gone(two, ours)
            assert dead["status"] == "dead"
            assert (await one.json("tasks?status=dead"))["tasks"] == []
            async with StorageManager(ours) as storage:
                while await storage.backend.queues.length(
                    POISON_QUEUE
                ):  # Deleted after the function has ended.
                    await asyncio.sleep(0.05)
            async with StorageManager(replace(ours, namespace="")) as storage:
                assert await storage.list_tables("task") == []
                assert await storage.list_queues("agent-") == []
