"""The access policy, and the storage of one caller: it can do nothing else, and shows nothing else."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage_lib import StorageManager
from storage_lib.access import Grant, Policy, confined
from storage_lib.access.confined import ConfinedObjects
from storage_lib.backends.memory import MemoryBackend
from storage_lib.errors import (
    ConfigurationError,
    ForbiddenError,
    InvalidKeyError,
    KeyNotFoundError,
    StorageError,
    UnsupportedOperationError,
)
from storage_lib.ports.objects import ListEntry, ObjectStore, StoredObject
from storage_lib.testing import ObjectStoreContract
from tests.effort import examples

ALL = {key: [""] for key in ("load", "list", "save", "delete")}


class _Timed(ConfinedObjects):
    """With a clock that a test can set, with a look below, and with the sweeps of the store."""

    @property
    def driver(self) -> Any:
        return self._inner.driver

    async def sweep_expired(self, limit: int = 1000, *, seconds: float | None = None) -> int:
        return await self._inner.sweep_expired(limit, seconds=seconds)

    @property
    def clock(self) -> Callable[[], float]:
        return self._inner.clock

    @clock.setter
    def clock(self, clock: Callable[[], float]) -> None:  # type: ignore[override]
        self._inner.clock = clock


@pytest.fixture(scope="module")
def inner() -> ObjectStore:
    return MemoryBackend().objects


class TestConfinedObjects(ObjectStoreContract):
    """A caller who may do everything below its root has a whole object store there."""

    root = ""
    race_rounds = 20
    test_decomposed_names_are_listed_or_told = None  # type: ignore[assignment]
    # They reach below the surface.
    test_a_stream_that_breaks_leaves_what_was_there = None  # type: ignore[assignment]
    test_a_sweep_goes_on_behind_objects_that_were_saved_anew_or_deleted = None  # type: ignore[assignment]
    test_an_object_that_appears_after_its_end_is_hidden_and_swept = None  # type: ignore[assignment]
    test_an_object_that_can_not_be_removed_does_not_hold_up_the_sweep = None  # type: ignore[assignment]
    test_an_object_that_is_saved_again_while_others_are_removed_stays = None  # type: ignore[assignment]
    test_a_clock_that_is_set_back_leaves_no_object_for_ever = None  # type: ignore[assignment]

    @pytest.fixture
    def objects(self, inner: ObjectStore) -> ObjectStore:
        async def unexpected(action: str, resource: str) -> None:
            pytest.fail(f"{action} {resource} was denied")

        return _Timed(inner, Grant("all", self.root, ALL), unexpected)

    async def tamper(self, objects: ObjectStore, key: str, data: bytes) -> None:
        stored = objects._inner.driver._objects  # type: ignore[attr-defined]
        stored[self.root + key] = replace(stored[self.root + key], data=data)

    async def put_foreign(self, objects: ObjectStore, key: str, data: bytes, content_type: str) -> None:
        await objects.put(key, data, content_type=content_type)
        stored = objects._inner.driver._objects  # type: ignore[attr-defined]
        name = self.root + key
        stored[name] = StoredObject(replace(stored[name].info, sha256=None), data)


class TestRootedObjects(TestConfinedObjects):
    root = "tenants/acme/"


async def _ignored(action: str, resource: str) -> None: ...


def test_every_method_of_the_objects_is_confined() -> None:
    """A method that is added to the store must not be a way round the checks."""
    public = {name for name, _ in inspect.getmembers(ObjectStore) if not name.startswith("_")}
    assert {name for name in public if name not in vars(ConfinedObjects)} == set()
    inner = MemoryBackend().objects
    told = {name for name in vars(inner) if not name.startswith("_")} - {"driver"}
    assert told <= vars(ConfinedObjects(inner, Grant("p"), _ignored)).keys()


SEGMENTS = st.sampled_from(["a", "b", "ab", "a.json", "a-b", "ä"])
KEYS = st.lists(SEGMENTS, min_size=1, max_size=3).map("/".join)
RULES = st.one_of(st.just(""), KEYS, KEYS.map("{}/".format))
PREFIXES = st.one_of(st.just(""), KEYS, KEYS.map("{}/".format), st.sampled_from(["a", "a/", "a/a", "a/b"]))


def means(rule: str, key: str) -> bool:
    """What the documentation says of a prefix."""
    if rule == "":
        return True
    segments, wanted = key.split("/"), rule.removesuffix("/").split("/")
    below = segments[: len(wanted)] == wanted
    return below and (len(segments) > len(wanted) or not rule.endswith("/"))


@given(rule=RULES, key=KEYS)
def test_a_prefix_means_whole_segments(rule: str, key: str) -> None:
    grant = Grant("p", "", {"load": [rule]})

    assert grant.allows("load", key) == means(rule, key)
    assert not grant.allows("save", key)


def test_a_name_that_only_begins_alike_is_not_meant() -> None:
    grant = Grant("p", "", {"load": ["agents/ceo"]})

    for key in (
        "agents/ceo2",
        "agents/ceo.json",
        "agents/ceo-x/y",
        "agents/CEO",
        "agents/ce",
        "agents",
        "ceo",
    ):
        assert not grant.allows("load", key)
    for key in ("agents/ceo", "agents/ceo/x", "agents/ceo/x/y"):
        assert grant.allows("load", key)
    assert not Grant("p", "", {"load": ["agents/ceo/"]}).allows("load", "agents/ceo")


async def listed(
    objects: ObjectStore, prefix: str, delimiter: str | None, limit: int, after: str | None
) -> Any:
    found: list[str] = []
    cursor = None
    while True:
        page = await objects.list_page(
            prefix, delimiter=delimiter, limit=limit, cursor=cursor, start_after=after
        )
        assert len(page.entries) + len(page.prefixes) <= limit
        names = sorted([*(each.key for each in page.entries), *page.prefixes], key=str.encode)
        assert not found or names == [] or found[-1].encode() < names[0].encode()
        found += names
        if (cursor := page.cursor) is None:
            return found


@settings(deadline=None, max_examples=examples(300))
@given(
    keys=st.sets(KEYS, max_size=12),
    rules=st.sets(RULES, max_size=4),
    prefix=PREFIXES,
    delimiter=st.sampled_from([None, "/"]),
    limit=st.integers(1, 5),
    after=st.one_of(st.none(), PREFIXES.filter(bool)),
    root=st.sampled_from(["", "tenants/t/"]),
)
def test_a_listing_shows_what_the_caller_may_see_and_nothing_else(
    keys: set[str],
    rules: set[str],
    prefix: str,
    delimiter: str | None,
    limit: int,
    after: str | None,
    root: str,
) -> None:
    """It is the listing of a store that has nothing else."""

    async def check() -> None:
        whole, visible = MemoryBackend(), MemoryBackend()
        for key in keys:
            await whole.objects.put(root + key, b"x")
            if any(means(rule, key) for rule in rules):
                await visible.objects.put(key, b"x")
        if root:
            await whole.objects.put("a/elsewhere", b"x")
        mine = confined(StorageManager(backend=whole), Grant("p", root, {"list": rules})).backend.objects
        is_open = any(means(rule, f"{prefix}x") or means(rule, f"{prefix}/x") for rule in rules) or any(
            rule.startswith(prefix) for rule in rules
        )
        if not is_open:
            with pytest.raises(ForbiddenError):
                await listed(mine, prefix, delimiter, limit, after)
            return
        expected = await listed(visible.objects, prefix, delimiter, limit, after)
        assert await listed(mine, prefix, delimiter, limit, after) == expected
        streamed = mine.iterate(prefix, delimiter=delimiter, start_after=after)
        assert [each if isinstance(each, str) else each.key async for each in streamed] == expected
        if delimiter is None and after is None:
            assert (await mine.stats(prefix)).count == len(expected)

    asyncio.run(check())


OPERATIONS: dict[str, tuple[set[str], Callable[[StorageManager, str], Any]]] = {
    "load": ({"load"}, lambda store, key: store.load(key)),
    "read": ({"load"}, lambda store, key: store.read(key)),
    "info": ({"load"}, lambda store, key: store.info(key)),
    "exists": ({"load"}, lambda store, key: store.exists(key)),
    "save": ({"save"}, lambda store, key: store.save(key, 1)),
    "write": ({"save"}, lambda store, key: store.write(key, b"1")),
    "stream": ({"save"}, lambda store, key: store.write_stream(key, [b"1"])),
    "touch": ({"save"}, lambda store, key: store.touch(key, ttl=60)),
    "delete": ({"delete"}, lambda store, key: store.delete(key)),
    "update": ({"load", "save"}, lambda store, key: store.update(key, lambda value: value)),
    "copy from": ({"load"}, lambda store, key: store.copy(key, "open/x")),
    "copy to": ({"save"}, lambda store, key: store.copy("open/y", key)),
    "move from": ({"load", "delete"}, lambda store, key: store.move(key, "open/x")),
    "move to": ({"save"}, lambda store, key: store.move("open/y", key)),
    "versions": ({"save"}, lambda store, key: store.save_versioned(key, 1)),
    "load many": ({"load"}, lambda store, key: store.load_many([key], raise_errors=True)),
}


@pytest.mark.parametrize("allowed", ["load", "list", "save", "delete", None])
@pytest.mark.parametrize("name", OPERATIONS)
async def test_an_operation_needs_each_of_its_rights(name: str, allowed: str | None) -> None:
    needed, operation = OPERATIONS[name]
    backend = MemoryBackend()
    storage = StorageManager(backend=backend)
    for key in ("agents/ceo/x", "agents/ceo2/x", "open/y"):
        await storage.save(key, 1)
    may = {action: ["open"] for action in ("load", "list", "save", "delete")}
    for action in needed if allowed is None else {allowed}:
        may[action] = ["open", "agents/ceo"]
    if name == "versions" and allowed is None:
        may["load"] = ["open", "agents/ceo"]
    denied: list[tuple[str, str]] = []

    async def tell(action: str, resource: str) -> None:
        denied.append((action, resource))

    mine = confined(storage, Grant("p", "", may), denied=tell)
    before = [each.key async for each in backend.objects.iterate()]

    if allowed is None or (needed == {allowed} and name != "versions"):
        await operation(mine, "agents/ceo/x")
        assert denied == []
    else:
        with pytest.raises(ForbiddenError):
            await operation(mine, "agents/ceo/x")
        assert denied
        assert [each.key async for each in backend.objects.iterate()] == before
        denied.clear()
    with pytest.raises(ForbiddenError) as told:
        await operation(mine, "agents/ceo2/x")
    assert "agents/ceo2/x" in str(told.value)
    assert denied[0][1].startswith("objects/agents/ceo2/x")


@pytest.mark.parametrize(
    "key", ["../other/x", "..", "/other/x", "a//b", "other/../../x", ".system/x", "%2e%2e/x", "..%2fother"]
)
async def test_no_key_leads_out_of_the_root(key: str) -> None:
    storage = StorageManager(backend=MemoryBackend())
    await storage.save("tenants/other/x", 1)
    await storage.save("x", 1)
    mine = confined(storage, Grant("p", "tenants/t/", ALL))

    with pytest.raises((InvalidKeyError, KeyNotFoundError)):
        await mine.load(key)
    with pytest.raises(KeyNotFoundError):
        await mine.load("other/x")


async def test_a_caller_sees_its_root_as_the_whole_store() -> None:
    whole = StorageManager(backend=MemoryBackend())
    await whole.save("tenants/other/x", 1)
    mine = confined(whole, Grant("p", "tenants/t/", ALL))

    put = await mine.save("a/b", {"n": 1}, ttl=3600)
    assert put.key == "a/b"
    assert await whole.load("tenants/t/a/b") == {"n": 1}
    assert (await mine.info("a/b")).key == "a/b"
    assert (await mine.copy("a/b", "a/c")).key == "a/c"
    assert await mine.list_keys() == ["a/b", "a/c"]
    found = await mine.list_page(delimiter="/")
    assert (found.entries, found.prefixes) == ([], ["a/"])
    details = await mine.list_objects()
    assert [each.info.key for each in details if each.info] == ["a/b", "a/c"]
    async with mine.open_writer("d") as writer:
        await writer.write(b"1")
    assert writer.result is not None
    assert writer.result.key == "d"
    async with mine.open_reader("d") as reader:
        assert reader.info.key == "d"
    result = await mine.move_prefix("a/", "e/")
    assert result.done == 2
    assert await mine.list_keys() == ["d", "e/b", "e/c"]
    with pytest.raises(KeyNotFoundError) as told:
        await mine.load("gone")
    assert "tenants" not in str(told.value)
    assert "tenants" not in repr(told.value)


@pytest.mark.parametrize("key", [5, None, b"a", ["a"]], ids=repr)
@pytest.mark.parametrize("rule", ["", "a"])
async def test_what_is_no_key_is_said_to_be_none(key: Any, rule: str) -> None:
    grant = Grant("p", "t/", {action: [rule] for action in ("load", "save", "delete")})
    mine = confined(StorageManager(backend=MemoryBackend()), grant)
    for use in (mine.load, mine.info, mine.delete, mine.exists, mine.read):
        with pytest.raises(InvalidKeyError):
            await use(key)
    with pytest.raises(InvalidKeyError):
        await mine.save(key, 1)


async def test_of_several_each_is_deleted_or_refused_by_itself() -> None:
    whole = StorageManager(backend=MemoryBackend())
    for key in ("tenants/t/mine/a", "tenants/t/other/a"):
        await whole.save(key, 1)
    mine = confined(whole, Grant("p", "tenants/t/", {"delete": ["mine"], "list": [""]}))

    found = await mine.delete_many(["mine/a", "mine/b", "other/a"])
    assert {key: type(error) for key, error in found.items()} == {
        "mine/a": type(None),
        "mine/b": KeyNotFoundError,
        "other/a": ForbiddenError,
    }
    assert "tenants" not in str(found["mine/b"])
    result = await mine.delete_prefix("")
    assert (result.done, list(result.failed)) == (0, ["other/a"])
    assert await whole.list_keys() == ["tenants/t/other/a"]


async def test_what_works_below_the_surface_is_out_of_reach() -> None:
    mine = confined(StorageManager(backend=MemoryBackend()), Grant("p", "", ALL))

    for attempt in (
        lambda: mine.sweep_expired(),
        lambda: mine.rotate_keys(),
        lambda: mine.repair(),
        lambda: asyncio.sleep(0, mine.backend.objects.driver),
    ):
        with pytest.raises(UnsupportedOperationError):
            await attempt()
    with pytest.raises(InvalidKeyError):
        await mine.backend.objects.list_page(".system/")
    await mine.save("x", 1, ttl=60)
    keys = [each.key async for each in mine.backend.objects.iterate() if isinstance(each, ListEntry)]
    assert keys == ["x"]


async def test_tables_and_queues_are_used_by_name() -> None:
    whole = StorageManager(backend=MemoryBackend())
    await whole.backend.tables.insert("notes", "p", "r", {"n": 1})
    await whole.backend.tables.insert("others", "p", "r", {"n": 1})
    mine = confined(whole, Grant("p", "", {"tables": ["Notes"], "queues": ["inbox"]})).backend

    assert (await mine.tables.get("notes", "p", "r")).properties["n"] == 1
    await mine.queues.send("inbox", b"x")
    for attempt in (
        mine.tables.get("others", "p", "r"),
        mine.tables.insert("new", "p", "r", {}),
        mine.queues.send("agent-tasks", b"x"),
        mine.queues.receive("outbox"),
    ):
        with pytest.raises(ForbiddenError):
            await attempt


OWN_TABLES = (
    "tasks",
    "taskKeys",
    "n03devtasks",
    "N03DEVtaskkeys",
    "audit",
    "auditheads",
    "n03devaudit",
)
OWN_QUEUES = (
    "agent-tasks",
    "agent-tasks-high-poison",
    "agent-events",
    "dev-agent-tasks",
    "dev-agent-events",
    "team2-agent-tasks-poison",
)


@pytest.mark.parametrize("rules", [["*"], None])
async def test_no_right_to_names_is_one_to_what_is_the_librarys_own(rules: list[str] | None) -> None:
    """Nor to that of another app, whose namespace is in the same store."""
    whole = StorageManager(backend=MemoryBackend())
    may = {"tables": rules or OWN_TABLES, "queues": rules or OWN_QUEUES}
    mine = confined(whole, Grant("p", "", may)).backend

    for name in OWN_TABLES:
        with pytest.raises(ForbiddenError):
            await mine.tables.insert(name, "p", "r", {})
        with pytest.raises(ForbiddenError):
            await mine.tables.get(name, "p", "r")
    for name in OWN_QUEUES:
        with pytest.raises(ForbiddenError):
            await mine.queues.send(name, b"x")
        with pytest.raises(ForbiddenError):
            await mine.queues.receive(name)
    assert [each async for each in mine.tables.list_tables()] == []


# -- policies


def policy(**principals: Any) -> str:
    return json.dumps({"principals": principals})


def test_a_grant_is_what_any_of_the_principals_may() -> None:
    digest = hashlib.sha256(b"secret").hexdigest()
    found = Policy.parse(
        json.dumps(
            {
                "keys": {"key:ceo": digest},
                "principals": {
                    "key:ceo": {"may": {"load": ["agents/ceo"], "tasks": ["ceo"]}},
                    "role:reader": {"may": {"list": ["agents"]}},
                    "*": {"may": {"load": ["shared/"]}},
                    "anonymous": {"may": {"load": ["public"]}},
                },
            }
        )
    )

    assert found.key_name("secret") == "key:ceo"
    assert found.key_name("Secret") is None
    ceo = found.grant(["key:ceo", "role:reader"])
    assert ceo.allows("load", "agents/ceo/x")
    assert ceo.allows("load", "shared/x")
    assert ceo.covers("list", "agents/")
    assert not ceo.allows("save", "agents/ceo/x")
    assert ceo.names("tasks", "ceo")
    assert not ceo.names("tasks", "cto")
    assert not ceo.allows("load", "public/x")
    nobody = found.grant([])
    assert nobody.allows("load", "public/x")
    assert not nobody.allows("load", "shared/x")
    unknown = found.grant(["key:other"])
    assert unknown.allows("load", "shared/x")
    assert not unknown.allows("load", "agents/ceo/x")
    of_tenants = policy(**{"aad:1/x": {"root": "tenants/{principal}/", "may": {"*": [""]}}})
    tenant = Policy.parse(of_tenants).grant(["aad:1/x"])
    assert tenant.root == "tenants/aad:1=2Fx/"
    assert all(tenant.allows(action, "any/key") for action in ALL)
    assert not tenant.operates


REFUSED: dict[str, tuple[Any, str]] = {
    "no JSON": ("{", "policy"),
    "a list": ("[]", "policy"),
    "unknown part": ({"principal": {}}, "policy"),
    "no principals": ({}, "policy.principals"),
    "unknown right": ({"principals": {"p": {"may": {"lod": [""]}}}}, "policy.principals.p.may"),
    "no list": ({"principals": {"p": {"may": {"load": ""}}}}, "policy.principals.p"),
    "no may": ({"principals": {"p": {}}}, "policy.principals.p"),
    "a bad prefix": ({"principals": {"p": {"may": {"load": ["a/../b"]}}}}, "policy.principals.p.may.load"),
    "a slash before": ({"principals": {"p": {"may": {"load": ["/a"]}}}}, "policy.principals.p.may.load"),
    "a star": ({"principals": {"p": {"may": {"tasks": ["ceo*"]}}}}, "policy.principals.p.may.tasks"),
    "the library's": ({"principals": {"p": {"may": {"load": [".system"]}}}}, "policy.principals.p.may.load"),
    "a root without end": ({"principals": {"p": {"root": "t", "may": {}}}}, "policy.principals.p.root"),
    "a root outside": ({"principals": {"p": {"root": "../", "may": {}}}}, "policy.principals.p.root"),
    "a key in clear": ({"keys": {"ceo": "secret"}, "principals": {}}, "policy.keys.ceo"),
    "one key twice": (
        {"keys": {"a": "0" * 64, "b": "0" * 64}, "principals": {}},
        "policy.keys.b",
    ),
    "a space": ({"principals": {"a b": {"may": {}}}}, "policy.principals"),
    "a member twice": ('{"principals": {"p": {"may": {}}, "p": {"may": {"*": [""]}}}}', "policy"),
    "a right twice": ('{"principals": {"p": {"may": {"load": ["x"], "load": [""]}}}}', "policy"),
    "a part twice": ('{"principals": {}, "principals": {"p": {"may": {}}}}', "policy"),
    "no table": ({"principals": {"p": {"may": {"tables": ["a/b"]}}}}, "policy.principals.p.may.tables"),
    "no queue": ({"principals": {"p": {"may": {"queues": ["a\n"]}}}}, "policy.principals.p.may.queues"),
    "no agent": ({"principals": {"p": {"may": {"tasks": ["x" * 200]}}}}, "policy.principals.p.may.tasks"),
    "true for a text": ({"principals": {"p": {"may": {"load": [True]}}}}, "policy.principals.p"),
    "null for a root": ({"principals": {"p": {"may": {}, "root": None}}}, "policy.principals.p"),
    "deep": ("[" * 100_000, "policy"),
    "a number of many digits": ('{"principals": ' + "1" * 5000 + "}", "policy"),
    "operate what": ({"principals": {"p": {"may": {"operate": ["x"]}}}}, "policy.principals.p.may.operate"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_policy_that_can_not_be_meant_is_refused(case: str) -> None:
    document, field = REFUSED[case]

    with pytest.raises(ConfigurationError) as told:
        Policy.parse(document if isinstance(document, str) else json.dumps(document))
    assert told.value.field == field
    assert "secret" not in str(told.value)


def test_two_roots_for_one_caller_are_an_error() -> None:
    found = Policy.parse(policy(a={"root": "x/", "may": {}}, b={"root": "y/", "may": {}}))

    with pytest.raises(StorageError, match="different roots"):
        found.grant(["a", "b"])


def test_what_anyone_may_counts_only_where_the_root_is_the_same() -> None:
    found = Policy.parse(
        policy(
            a={"may": {"load": ["x"]}},
            b={"root": "tenants/{principal}/", "may": {"load": ["y"]}},
            **{"*": {"root": "tenants/{principal}/", "may": {"list": [""]}}},
        )
    )

    a, b, c = (found.grant([each]) for each in "abc")
    assert (a.root, a.allows("load", "x"), a.covers("list", "")) == ("", True, False)
    assert (b.root, b.allows("load", "y"), b.covers("list", "")) == ("tenants/b/", True, True)
    assert (c.root, c.allows("load", "y"), c.covers("list", "")) == ("tenants/c/", False, True)
