"""What the matrix of access is about: a caller with some rights, a store full of things, and the app."""

from __future__ import annotations

import asyncio
import base64
import functools
import hashlib
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from devhost.runtime import FunctionIndex, load_app
from functions import state as state_module
from functions import watch
from functions.endpoint import Described
from functions.state import AppState
from storage_lib.config import StorageConfig
from storage_lib.config.audit import AuditOptions
from storage_lib.conversations import Conversations
from storage_lib.errors import KeyNotFoundError
from storage_lib.tasks.context import TaskContext
from storage_lib.tasks.model import TASK_QUEUE, TaskRecord
from storage_lib.tasks.registry import task
from storage_lib.uploads import Uploads
from tests.conftest import PROJECT
from tests.http_app import AppAnswer
from tests.platform_host import PlatformHost
from tests.test_access import means
from tests.test_access_tokens import token

OBJECT_ACTIONS = ("load", "list", "save", "delete")
KEYS = (
    *("agents/ceo", "agents/ceo/a", "agents/ceo/b/c", "agents/ceo2/a", "agents/ceo.json", "agents/ceo-x"),
    *("agents/CEO/a", "agents/cto/a", "agents/%63eo/a", "agents/ceo%32/a", "agents/ceo\u00e4/a"),
    *("shared/a", "shared.a", "sharedx", "a", "a.json", "b/c", "\u00e4/x", "agents/c"),
    *("tenants/a", "tenants/a/a", "tenants/a/b/c", "tenants/a/agents/ceo/a", "tenants/a/tenants/a/x"),
    *("tenants/ab/a", "tenants/ab/b/c", "tenants/A/a", "tenants/a.json", "tenants/a-b/a", "tenants/a2"),
)
"""Names of the store that are told from one another with care, or not at all."""
VERSIONED = ("agents/ceo/w", "agents/ceo2/w", "tenants/a/w", "tenants/ab/w")
"""Names with versions below them."""
AGENTS = ("ceo", "acme", "cto")
TABLES = ("notes", "notes2", "others")
QUEUES = ("inbox", "inbox-2", "outbox")
UNKNOWN_ID = "01997f00-0000-7000-8000-000000000000"
ACTION = "matrix_copy"


def mark(name: str) -> str:
    """What stands in a thing's content, and nowhere else: who sees it has seen the thing."""
    return "mark" + hashlib.sha256(name.encode()).hexdigest()[:20]


@dataclass(frozen=True)
class Rights:
    """What the policy says of the caller."""

    root: str = ""
    may: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def allows(self, action: str, key: str) -> bool:
        """Of an object by the caller's own name for it."""
        return any(means(rule, key) for rule in self.may.get(action, ()))

    def names(self, action: str, name: str) -> bool:
        rules = self.may.get(action, ())
        return name in rules or "*" in rules

    @property
    def operates(self) -> bool:
        return bool(self.may.get("operate"))

    def lists_below(self, prefix: str) -> bool:
        """Whether there can be anything below it that the caller may list."""
        return any(
            rule == "" or means(rule, f"{prefix}x") or means(rule, f"{prefix}/x") or rule.startswith(prefix)
            for rule in self.may.get("list", ())
        )

    def sees(self, name: str) -> bool:
        """Whether an object of the store is of any concern to the caller: a right to save tells, by the
        conditions of a save, that something is there."""
        if not name.startswith(self.root):
            return False
        return any(self.allows(action, name.removeprefix(self.root)) for action in OBJECT_ACTIONS)

    def loads(self, name: str) -> bool:
        return name.startswith(self.root) and self.allows("load", name.removeprefix(self.root))


EVERYTHING = Rights(
    "",
    dict.fromkeys(OBJECT_ACTIONS, ("",)) | dict.fromkeys(("tasks", "tables", "queues", "operate"), ("*",)),
)


def policy(rights: Rights) -> str:
    digests = {name: hashlib.sha256(f"k-{name}".encode()).hexdigest() for name in ("me", "root")}
    said = {
        who: {"root": given.root, "may": given.may} for who, given in (("me", rights), ("root", EVERYTHING))
    }
    principals = {f"{kind}:{who}": each for kind in ("key", "aad") for who, each in said.items()}
    return json.dumps({"keys": digests, "principals": principals | {"role:Admin": said["root"]}})


IDENTITIES = ("key", "code", "platform", "token")


def identity(kind: str, who: str = "me") -> tuple[dict[str, str], str]:
    """The headers, and what is added to the query, by which a caller shows who it is."""
    if kind == "key":
        return {"x-functions-key": f"k-{who}"}, ""
    if kind == "code":
        return {}, f"code=k-{who}"
    if kind == "token":
        return {"authorization": f"Bearer {_token(who)}"}, ""
    claims = {"auth_typ": "aad", "role_typ": "roles", "claims": [{"typ": "name", "val": "root"}]}
    text = base64.b64encode(json.dumps(claims).encode()).decode()
    return {
        "x-ms-client-principal-id": who,
        "x-ms-client-principal-idp": "aad",
        "x-ms-client-principal": text,
    }, ""


@functools.cache
def _token(who: str) -> str:
    return token(oid=who)


def principal(kind: str) -> str:
    return "key:me" if kind in ("key", "code") else "aad:me"


async def copy_it(context: TaskContext, payload: dict[str, Any]) -> Any:
    """What a task can do to objects: it has the rights of whoever submitted it."""
    if "fail" in payload:
        raise ValueError(payload["fail"])
    if "mark" in payload:
        return payload
    listed = await context.storage.list_keys(payload.get("list", ""))
    value = await context.storage.load(payload["from"])
    await context.storage.save(payload["to"], value)
    return [listed, value]


@contextmanager
def registered() -> Any:
    """Have the action `ACTION`, for as long as this lasts."""
    from storage_lib.tasks import registry

    registry.Registry().names()  # The built-in ones are registered once.
    before = dict(registry._actions)
    task(ACTION)(copy_it)
    try:
        yield
    finally:
        registry._actions.clear()
        registry._actions.update(before)


@functools.cache
def app() -> FunctionIndex:
    return load_app(PROJECT)


@functools.cache
def host() -> PlatformHost:
    return PlatformHost(app())


@dataclass(frozen=True)
class Route:
    """A method of a route that is registered, and what it says of itself."""

    method: str
    path: str
    described: Described

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"


@functools.cache
def routes() -> Mapping[str, Route]:
    """All of the app, by name."""
    found: dict[str, Route] = {}
    for builder in app().module.app._function_builders:
        function: Any = builder._function
        trigger = function.get_trigger()
        if trigger.type == "httpTrigger":
            for method in trigger.methods:
                route = Route(method.value, trigger.route, function.get_user_function().described)
                found[route.name] = route
    return dict(sorted(found.items()))


class World:
    """The app on a store. With others, the store is full; without, it has only what concerns the caller."""

    def __init__(self, config: StorageConfig, rights: Rights, *, others: bool) -> None:
        self.state = AppState(config)
        self.rights, self.others = rights, others
        self.tasks: dict[str, str] = {}
        """Ids of the tasks by agent and number."""
        self.etags: dict[str, str] = {}
        self.messages: dict[str, tuple[str, str]] = {}
        """Ids and receipts of received messages by queue."""
        self.upload = UNKNOWN_UPLOAD
        """The id of an upload of one with every right."""
        self._time = time.time() - 1000

    def _clock(self) -> float:
        # So that what is made one after the other is so everywhere.
        self._time += 0.01
        return self._time

    def _has(self, is_seen: bool) -> bool:
        return is_seen or self.others

    async def plant(self, *, tasks: bool, versions: bool) -> None:
        storage, rights = self.state.storage, self.rights
        for name in filter(lambda name: self._has(rights.sees(name)), KEYS):
            saved = await storage.save(name, {"mark": mark(name)}, metadata={"of": mark(f"{name} ")})
            self.etags[name] = saved.etag
        for table in filter(lambda table: self._has(rights.names("tables", table)), TABLES):
            await storage.backend.tables.insert(table, "p", "r", {"mark": mark(table)})
        for queue in filter(lambda queue: self._has(rights.names("queues", queue)), QUEUES):
            for _ in range(2):
                await storage.backend.queues.send(queue, mark(queue).encode())
            (message,) = await storage.backend.queues.receive(queue, visibility_timeout=3600)
            self.messages[queue] = message.id, message.pop_receipt
        for name in filter(lambda name: self._has(rights.sees(f"{name}/v1")), VERSIONED if versions else ()):
            for _ in range(2):
                await storage.save_versioned(name, {"mark": mark(name)})
        log = Conversations(storage)
        for name in filter(lambda name: self._has(rights.sees(name)), KEYS if versions else ()):
            await log.append(name, [{"mark": mark(name)}], metadata={"of": mark(f"{name} ")})
        if self.others and tasks:
            uploads = Uploads(storage, " key:root")
            self.upload = (await uploads.create("shared/a")).id
            await uploads.put(self.upload, 1, mark("upload").encode())
        if tasks:
            await self._plant_tasks()

    async def _plant_tasks(self) -> None:
        engine = self.state.engine
        engine.submission._now = lambda: _moment(self._clock())  # type: ignore[attr-defined]
        for agent in AGENTS:
            if not self._has(self.rights.names("tasks", agent) or self.rights.operates):
                continue
            for n, (payload, delay) in enumerate(
                (({"mark": mark(agent)}, 0), ({"fail": mark(agent)}, 0), ({"mark": mark(agent)}, 3600))
            ):
                record = await engine.submit(
                    ACTION,
                    agent,
                    payload,
                    correlation_id=f"of-{agent}",
                    idempotency_key=f"key-{agent}-{n}",
                    delay_seconds=delay,
                    submitter="key:root",
                )
                self.tasks[f"{agent}{n}"] = record.task_id
        await self.run_tasks()

    async def run_tasks(self) -> None:
        """Deliver what is in the queue."""
        queues, engine = self.state.storage.backend.queues, self.state.engine
        for _ in range(20):
            try:
                messages = await queues.receive(TASK_QUEUE, max_messages=32)
            except KeyNotFoundError:
                return  # No task was ever submitted.
            for message in messages:
                await engine.deliver(message.text, queue=TASK_QUEUE, dequeue_count=message.dequeue_count)
                await queues.delete(TASK_QUEUE, message)
            if not messages:
                return

    async def ask(
        self, method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> AppAnswer:
        state_module._states[asyncio.get_running_loop()] = self.state
        sent = {name: self.resolved(value) for name, value in (headers or {}).items()}
        found = await host()(
            method, self.resolved(target), self.resolved(body.decode("latin-1")).encode("latin-1"), sent
        )
        return AppAnswer(found.status, found.headers, found.body, found.function)

    def resolved(self, text: str) -> str:
        """With what is this world's own in place of symbols."""
        text = re.sub(r"TASK(\w+?)KSAT", lambda found: self.tasks.get(found[1], UNKNOWN_ID), text)
        text = re.sub(
            r"MESSAGE(\w)(\d)EGASSEM",
            lambda found: quote(
                self.messages.get(QUEUES[int(found[2])], (UNKNOWN_ID, "x"))[found[1] == "r"], safe=""
            ),
            text,
        )
        text = text.replace(UPLOAD_SYMBOL, self.upload)
        return re.sub(r"ETAG(\d+)GATE", lambda found: self.etags.get(KEYS[int(found[1])], "0" * 32), text)

    async def hidden(self) -> Any:
        """All that does not concern the caller, as it is now."""
        storage, rights = self.state.storage, self.rights
        tables, queues, engine = storage.backend.tables, storage.backend.queues, self.state.engine
        objects = {
            each.key: (each.etag, each.info and dict(each.info.metadata), each.info and each.info.expires_at)
            async for each in storage.backend.objects.iterate(details=True, skip=".system/")
            if not isinstance(each, str) and not rights.sees(each.key)
        }
        conversations = {
            each.id: each.etag async for each in Conversations(storage).list() if not rights.sees(each.id)
        }
        entities: dict[str, Any] = {}
        for table in TABLES:
            if not rights.names("tables", table):
                entities[table] = await _entities(tables, table)
        messages = {
            queue: (
                [each.body for each in await queues.peek(queue, max_messages=32)],
                await queues.length(queue),
            )
            for queue in QUEUES
            if self.others and not rights.names("queues", queue)
        }
        records: dict[str, TaskRecord] = {}
        for name, task_id in self.tasks.items():
            if not rights.names("tasks", name[:-1]):
                records[name] = await engine.get(task_id)
        return objects, conversations, entities, messages, records

    async def close(self) -> None:
        await self.state.storage.close()


async def _entities(tables: Any, table: str) -> Any:
    try:
        page = await tables.query(table)
    except KeyNotFoundError:
        return None
    return [(each.partition_key, each.row_key, dict(each.properties), each.etag) for each in page.entities]


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def task_symbol(agent: str, n: int) -> str:
    return f"TASK{agent}{n}KSAT"


def message_symbol(queue: str, what: str) -> str:
    """Of the ``id`` or the ``receipt`` of a received message, percent-encoded."""
    return f"MESSAGE{what[0]}{QUEUES.index(queue)}EGASSEM"


UPLOAD_SYMBOL = "UPLOADDAOLPU"
UNKNOWN_UPLOAD = "0" * 32


def etag_symbol(key: str) -> str:
    return f"ETAG{KEYS.index(key)}GATE"


@asynccontextmanager
async def worlds(
    rights: Rights, where: Path, *configs: StorageConfig, tasks: bool = False, versions: bool = False
) -> AsyncIterator[list[World]]:
    """A world full of others, and, with a second configuration, one without them."""
    where.write_text(policy(rights))
    await watch.end()
    found = [World(config, rights, others=n == 0) for n, config in enumerate(configs)]
    try:
        for each in found:
            await each.plant(tasks=tasks, versions=versions)
        yield found
    finally:
        state_module._states.pop(asyncio.get_running_loop(), None)
        for each in found:
            await each.close()


class Audit(logging.Handler):
    """The entries of the audit log."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.entries.append(json.loads(record.getMessage()))

    def denied(self) -> list[tuple[str, str, str]]:
        """Who was denied what, and where."""
        return [
            (each["actor"], each["action"], each["resource"])
            for each in self.entries
            if each.get("outcome") == "forbidden"
        ]


def memory(*, audited: bool = False) -> StorageConfig:
    return StorageConfig(storage_type="memory", audit=AuditOptions(sink="log") if audited else None)
