"""A migration copies all that objects have, any kind of store to any, as often as one likes."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from storage_lib import StorageConfig, StorageManager
from storage_lib.errors import InvalidArgumentError, KeyNotFoundError, StorageError
from storage_lib.migration import Migration, MigrationOptions, MigrationReport, check
from storage_lib.ports import hidden
from storage_lib.ports.drivers import PutOptions

LARGE = 20 * 1024 * 1024 + 17


async def migrate(source: StorageManager, target: StorageManager, **options: Any) -> MigrationReport:
    return await Migration(source, target, MigrationOptions(**options)).run()


@asynccontextmanager
async def memory(**options: Any) -> AsyncIterator[StorageManager]:
    async with StorageManager(StorageConfig(storage_type="memory", **options)) as storage:
        yield storage


@pytest.fixture
async def source() -> AsyncIterator[StorageManager]:
    async with memory() as storage:
        yield storage


@pytest.fixture
async def target() -> AsyncIterator[StorageManager]:
    async with memory() as storage:
        yield storage


@pytest.fixture(
    params=[("memory", "file"), ("file", "azurite"), ("azurite", "moto"), ("moto", "memory")], ids="-".join
)
def two_kinds(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[StorageConfig, StorageConfig]:
    """The configurations of two empty stores."""
    kinds = request.param
    servers = {kind: request.getfixturevalue(kind) for kind in kinds if kind in ("azurite", "moto")}
    return config_of(kinds[0], servers, tmp_path), config_of(kinds[1], servers, tmp_path)


@asynccontextmanager
async def opened(config: StorageConfig) -> AsyncIterator[StorageManager]:
    if config.storage_type == "s3":
        from storage_lib.backends.s3 import S3StorageBackend

        keys = {"access_key_id": "test", "secret_access_key": "test"}
        bucket, endpoint = config.s3_bucket or "", config.s3_endpoint
        async with S3StorageBackend(bucket, endpoint=endpoint, create_bucket=True, **keys):
            pass
    async with StorageManager(config) as storage:
        yield storage


def config_of(kind: str, servers: dict[str, Any], folder: Path) -> StorageConfig:
    name = f"migration-{os.urandom(6).hex()}"
    match kind:
        case "azurite":
            text = servers[kind].connection_string
            return StorageConfig(storage_type="azure", connection_string=text, container=name)
        case "moto":
            return StorageConfig(
                storage_type="s3",
                s3_bucket=name,
                s3_endpoint=servers[kind].endpoint,
                s3_access_key_id="test",
                s3_secret_access_key="test",
                tables_and_queues="file",
                base_path=folder / name,
            )
        case "file":
            return StorageConfig(base_path=folder / name)
        case _:
            return StorageConfig(storage_type="memory")


async def fill(storage: StorageManager) -> None:
    """Objects of all kinds."""
    await storage.save("configs/ceo", {"model": "large"}, metadata={"owner": "ops", "note": "ü"})
    await storage.save("text", "héllo", ttl=86400.5)
    await storage.write("empty", b"")
    await storage.write("a/b/c.bin", bytes(range(256)), content_type="application/x-thing")
    await storage.write("emoji/\U0001f600", b"1")
    await storage.write("emoji/\uff01", b"2")
    for n in range(3):
        await storage.save_versioned("plan", {"n": n}, saved_by=f"user{n}")
    await storage.label_version("plan", 2, "production")
    await storage.rollback("plan", 1)

    async def chunks() -> AsyncIterator[bytes]:
        for at in range(0, LARGE, 1 << 20):
            yield bytes([at >> 20]) * min(1 << 20, LARGE - at)

    await storage.write_stream("large", chunks(), metadata={"kind": "stream"})


async def test_a_copy_has_all_that_the_objects_had(two_kinds: tuple[StorageConfig, StorageConfig]) -> None:
    from_, to = two_kinds
    async with opened(from_) as one, opened(to) as other:
        await fill(one)
        report = await migrate(one, other, tables=())  # an account may have those of others
        assert (report.failures, report.copied) == (0, 11), report
        assert report.bytes_copied > LARGE
        compared = await check(one, other, MigrationOptions(tables=()), content=True)
        assert (compared.equal, compared.same) == (True, 11), compared

        assert await other.load("configs/ceo") == {"model": "large"}
        assert dict((await other.info("configs/ceo")).metadata) == {"owner": "ops", "note": "ü"}
        assert (await other.info("text")).expires_at == (await one.info("text")).expires_at
        assert await other.load_version("plan") == {"n": 0}
        assert await other.load_version("plan", "production") == {"n": 1}
        listed = await other.list_versions("plan", details=True)
        assert [each.saved_by for each in listed] == ["user0", "user1", "user2"]
        assert [e.saved_at for e in listed] == [
            e.saved_at for e in await one.list_versions("plan", details=True)
        ]
        assert await other.save_versioned("plan", 4) == 4

        again = await migrate(one, other, tables=())
        assert (again.copied, again.updated, again.skipped) == (0, 0, 10), again
        assert again.failures == 1
        assert again.failed[0].name == "plan/current"


async def test_what_expires_in_the_copy_is_swept_there(
    source: StorageManager, target: StorageManager
) -> None:
    await source.save("short", 1, ttl=60)
    await migrate(source, target)
    now = target.backend.objects.clock()
    target.backend.objects.clock = lambda: now + 61
    assert await target.list_keys() == []
    assert await target.sweep_expired() == 1


async def test_what_differs_stays_unless_it_is_to_be_updated(
    source: StorageManager, target: StorageManager
) -> None:
    await source.save("same", 1)
    await target.save("same", 1)
    await source.save("other", 1)
    await target.save("other", 2)
    await source.save("type", "x", content_type="text/html")
    await target.save("type", "x")
    report = await migrate(source, target)
    assert report.skipped == 1
    assert report.copied == 0
    assert [each.name for each in sorted(report.failed, key=lambda each: each.name)] == ["other", "type"]
    assert {each.code for each in report.failed} == {"precondition-failed"} or all(
        "update" in each.message for each in report.failed
    )
    assert await target.load("other") == 2

    report = await migrate(source, target, update=True)
    assert report.ok
    assert (report.updated, report.skipped) == (2, 1)
    assert (await check(source, target)).equal


async def test_a_dry_run_changes_nothing(source: StorageManager, target: StorageManager) -> None:
    await source.save("new", "x" * 10)
    await target.save("gone", 1)
    report = await migrate(source, target, dry_run=True, delete=True)
    assert (report.copied, report.deleted, report.bytes_copied) == (1, 1, 10)
    assert await target.list_keys() == ["gone"]


async def test_a_mirror_has_nothing_else(source: StorageManager, target: StorageManager) -> None:
    await source.save("in/1", 1)
    for key in ("in/1", "in/2", "in/keep.tmp", "out"):
        await target.save(key, 1)
    report = await migrate(source, target, prefix="in/", delete=True, exclude=["*.tmp"])
    assert report.ok
    assert report.deleted == 1
    assert await target.list_keys() == ["in/1", "in/keep.tmp", "out"]


async def test_nothing_is_deleted_after_a_failure(source: StorageManager, target: StorageManager) -> None:
    await source.save("a", 1)
    await target.save("a", 2)
    await target.save("b", 1)
    report = await migrate(source, target, delete=True)
    assert not report.ok
    assert report.deleted == 0
    assert await target.list_keys() == ["a", "b"]


async def test_prefixes(source: StorageManager, target: StorageManager) -> None:
    for key in ("a/1", "a/2", "b/1"):
        await source.save(key, key)
    await migrate(source, target, prefix="a/", target_prefix="copy/of/")
    assert await target.list_keys() == ["copy/of/1", "copy/of/2"]
    assert (await check(source, target, MigrationOptions(prefix="a/", target_prefix="copy/of/"))).equal
    await migrate(source, source, prefix="a/", target_prefix="c/")
    assert await source.load("c/1") == "a/1"
    with pytest.raises(InvalidArgumentError, match="same store"):
        Migration(source, source, MigrationOptions(prefix="a/", target_prefix="a/b/"))
    with pytest.raises(InvalidArgumentError, match="same store"):
        Migration(source, source)


async def test_a_range_of_keys(source: StorageManager, target: StorageManager) -> None:
    for n in range(6):
        await source.save(f"k/{n}", n)
        await target.save(f"k/{n}x", n)
    report = await migrate(source, target, prefix="k/", after="k/1", until="k/4", delete=True)
    assert report.copied == 3
    assert report.deleted == 3
    assert [k for k in await target.list_keys() if not k.endswith("x")] == ["k/2", "k/3", "k/4"]


@pytest.mark.parametrize(
    ("include", "exclude", "kept"),
    [
        (["*.json"], [], ["a.json", "d/b.json", "d/e/c.json"]),
        (["d/*.json"], [], ["d/b.json"]),
        (["d/**/*.json"], [], ["d/b.json", "d/e/c.json"]),
        (["d/"], ["*.txt"], ["d/b.json", "d/e/c.json"]),
        ([], ["**/[b-c].*", "?.txt"], ["a.json"]),
        (["[!ab].*"], [], ["d/e/c.json", "d/x.txt"]),
    ],
)
async def test_patterns(
    include: list[str], exclude: list[str], kept: list[str], source: StorageManager, target: StorageManager
) -> None:
    for key in ("p/a.json", "p/d/b.json", "p/d/e/c.json", "p/d/x.txt"):
        await source.save(key, 1)
    await migrate(source, target, prefix="p/", include=include, exclude=exclude)
    assert await target.list_keys() == [f"p/{key}" for key in kept]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"prefix": "/a"}, "prefix"),
        ({"target_prefix": ".system/x"}, "target_prefix"),
        ({"concurrency": 0}, "concurrency"),
        ({"bytes_per_second": 1}, "bytes_per_second"),
        ({"layers": "closed"}, "layers"),
        ({"include": "*.json"}, "include"),
        ({"exclude": [""]}, "exclude"),
    ],
)
def test_bad_options_name_the_field(options: dict[str, Any], field: str) -> None:
    with pytest.raises(StorageError) as raised:
        MigrationOptions(**options)
    assert raised.value.field == field


async def test_an_object_that_changes_meanwhile_is_read_again(
    source: StorageManager, target: StorageManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    await source.save("a", "old")
    await source.save("gone", "old")
    real, changed = source.backend.objects.get, False

    async def get(key: str, **options: Any) -> Any:
        nonlocal changed
        if not changed:
            changed = True
            await source.save("a", "new")
            await source.delete("gone")
        return await real(key, **options)

    monkeypatch.setattr(source.backend.objects, "get", get)
    report = await migrate(source, target)
    assert (report.failures, report.copied, report.vanished, report.retried) == (0, 1, 1, 1), report
    assert await target.load("a") == "new"


async def test_versions_come_before_what_names_them(
    source: StorageManager, target: StorageManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that is saved after the listing."""
    await source.save_versioned("plan", 1)
    saved: list[str] = []
    real, store = target.backend.objects.adopt, source.backend.objects

    async def adopt(key: str, *arguments: Any, **options: Any) -> Any:
        if not saved:
            await source.save_versioned("plan", 2)
        saved.append(key)
        return await real(key, *arguments, **options)

    monkeypatch.setattr(target.backend.objects, "adopt", adopt)
    report = await migrate(source, target)
    assert report.ok
    assert saved == ["plan/v1", "plan/v2", "plan/current"]
    assert await target.load_version("plan") == 2
    assert store is source.backend.objects


KEYS = "k1:" + base64.b64encode(bytes(32)).decode()


def sealed_config(tmp_path: Path, name: str, **options: Any) -> StorageConfig:
    environment = {
        "AGENT_STORAGE_TYPE": "file",
        "AGENT_STORAGE_PATH": str(tmp_path / name),
        "AGENT_STORAGE_ENCRYPTION": "true",
        "AGENT_STORAGE_ENCRYPTION_KEYS": KEYS,
        "AGENT_STORAGE_COMPRESSION": "true",
    }
    return replace(StorageConfig.from_env(environment), **options)


async def test_layers_are_opened_and_closed_or_left_sealed(tmp_path: Path) -> None:
    async with (
        StorageManager(sealed_config(tmp_path, "one")) as one,
        StorageManager(sealed_config(tmp_path, "two")) as two,
        StorageManager(StorageConfig(base_path=tmp_path / "plain")) as plain,
    ):
        await fill(one)
        await one.save("squeezed", "x" * 100_000, ttl=600)
        assert (await migrate(one, plain)).ok
        assert (await check(one, plain, content=True)).equal
        assert await plain.load("squeezed") == "x" * 100_000
        assert hidden.ENCRYPTED not in (await plain.backend.objects.driver.head("squeezed")).metadata

        report = await migrate(one, two, layers="sealed")
        assert report.ok, report
        assert (await check(one, two, MigrationOptions(layers="sealed"), content=True)).equal
        assert (await check(one, two, content=True)).equal
        assert await two.load("squeezed") == "x" * 100_000
        assert await two.load("configs/ceo") == {"model": "large"}

        moved = await migrate(one, two, layers="sealed", prefix="configs/", target_prefix="moved/")
        assert [failure.code for failure in moved.failed] == ["unsupported-operation"]
        assert (await migrate(one, two, prefix="configs/", target_prefix="moved/")).ok
        assert await two.load("moved/ceo") == {"model": "large"}

    async with StorageManager(StorageConfig(base_path=tmp_path / "one")) as unread, memory() as other:
        report = await migrate(unread, other)
        assert report.failures > 10
        assert {failure.code for failure in report.failed} == {"encryption-error"}


async def test_damage_is_found_and_not_copied(tmp_path: Path, target: StorageManager) -> None:
    async with StorageManager(StorageConfig(base_path=tmp_path)) as source:
        for key, size in (("small", 1000), ("large", LARGE)):
            await source.write(key, bytes(size))
            (path,) = [p for p in (tmp_path / "objects").rglob(f"{key}*") if p.is_file()]
            with path.open("r+b") as file:
                file.seek(-10, os.SEEK_END)
                file.write(b"\1")
        report = await migrate(source, target)
    assert sorted(failure.name for failure in report.failed) == ["large", "small"]
    assert {failure.code for failure in report.failed} == {"integrity-error"}
    assert await target.list_keys() == []


async def test_objects_of_other_programs(tmp_path: Path, target: StorageManager) -> None:
    folder = tmp_path / "objects" / "docs"
    async with StorageManager(StorageConfig(base_path=tmp_path)) as source:
        folder.mkdir(parents=True)
        (folder / "a.txt").write_text("hello")
        (folder / "b.csv").write_bytes(b"1,2\n" * 5_000_000)
        assert (await migrate(source, target)).copied == 2
        assert await target.load("docs/a.txt") == "hello"
        assert (await check(source, target)).equal
        assert (await migrate(source, target)).skipped == 2
        (folder / "a.txt").write_text("hallo")
        compared = await check(source, target)
        assert [(each.name, each.fields) for each in compared.differences] == [("docs/a.txt", ("content",))]
        assert (await migrate(source, target, update=True)).updated == 1


async def test_check_says_what_differs(source: StorageManager, target: StorageManager) -> None:
    await source.save("first", 1)
    await target.save("second", 1)
    for key, ours, theirs in (
        ("content", {"data": "a"}, {"data": "b"}),
        ("metadata", {"data": 1, "metadata": {"a": "1"}}, {"data": 1}),
        ("expires_at", {"data": 1, "ttl": 100}, {"data": 1}),
        ("content_type", {"data": "a", "content_type": "text/html"}, {"data": "a"}),
        ("size", {"data": "aa"}, {"data": "b"}),
        ("same", {"data": 1}, {"data": 1}),
    ):
        await source.save(key, **ours)
        await target.save(key, **theirs)
    report = await check(source, target)
    assert not report.equal
    assert (report.same, report.different, report.only_in_first, report.only_in_second) == (1, 5, 1, 1)
    for found in report.differences:
        assert found.kind != "differs" or found.fields == (found.name,), found


async def test_verify_reads_back(
    source: StorageManager, target: StorageManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    await source.save("good", "x")
    await source.save("bad", "x")
    assert (await migrate(source, target, verify=True, exclude=["bad"])).ok
    real = target.backend.objects.driver.put

    async def put(key: str, data: bytes, options: PutOptions) -> Any:
        return await real(key, b"y" * len(data), options)

    monkeypatch.setattr(target.backend.objects.driver, "put", put)
    report = await migrate(source, target, verify=True)
    assert [(failure.name, failure.code) for failure in report.failed] == [("bad", "integrity-error")]


async def test_bandwidth(source: StorageManager, target: StorageManager) -> None:
    for n in range(8):
        await source.write(f"{n}", bytes(100_000))
    report = await migrate(source, target, bytes_per_second=400_000)
    assert report.ok
    assert 0.9 <= report.seconds < 300


async def test_several_at_once_do_no_harm(tmp_path: Path, source: StorageManager) -> None:
    await fill(source)
    async with StorageManager(StorageConfig(base_path=tmp_path)) as target:
        reports = await asyncio.gather(*(migrate(source, target) for _ in range(3)))
        assert all(report.ok for report in reports), reports
        assert (await check(source, target, content=True)).equal


async def test_a_target_that_changes_at_that_moment_is_not_overwritten(
    source: StorageManager, target: StorageManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    await source.save("a", 1)
    real = source.backend.objects.get

    async def get(key: str, **options: Any) -> Any:
        await target.save("a", "mine")
        return await real(key, **options)

    monkeypatch.setattr(source.backend.objects, "get", get)
    report = await migrate(source, target)
    assert report.failed[0].code == "precondition-failed"
    assert await target.load("a") == "mine"


async def test_expired_objects_are_not_there(source: StorageManager, target: StorageManager) -> None:
    await source.save("a", 1, ttl=0)
    assert (await migrate(source, target)).copied == 0
    with pytest.raises(KeyNotFoundError):
        await target.load("a")
    soon = datetime.now(UTC) + timedelta(seconds=100)
    await source.save("b", 1, ttl=100)
    await migrate(source, target)
    expires = (await target.info("b")).expires_at
    assert expires is not None
    assert abs(expires - soon) < timedelta(seconds=5)


async def test_the_mark_of_another_store_is_not_trusted(moto: Any, tmp_path: Path) -> None:
    """An ETag of S3 tells the bytes alone: that of another bucket may be that of another object."""
    one, two = config_of("moto", {"moto": moto}, tmp_path), config_of("moto", {"moto": moto}, tmp_path)
    async with opened(one) as first, opened(two) as second, memory() as target:
        for store, kind in ((first, "text/plain"), (second, "text/markdown")):
            await innermost(store)._bucket.put("notes", b"the same", {"Content-Type": kind}, doing="put")
        assert (await migrate(first, target)).copied == 1
        assert (await migrate(first, target)).skipped == 1
        refused = await migrate(second, target)
        assert [failure.name for failure in refused.failed] == ["notes"], refused
        assert (await migrate(second, target, update=True)).updated == 1
        assert (await target.info("notes")).content_type == "text/markdown"


async def test_properties_that_other_programs_change_are_seen(
    two_kinds: tuple[StorageConfig, StorageConfig],
) -> None:
    """Those of the source, whose ETag may tell the bytes alone, and of a copy, which keeps its mark."""
    async with opened(two_kinds[0]) as source, opened(two_kinds[1]) as target:

        async def put(storage: StorageManager, kind: str, data: bytes, **metadata: str) -> None:
            options = PutOptions(kind, metadata, hashlib.sha256(data).hexdigest())
            await innermost(storage).put("notes", data, options)

        await put(source, "text/plain", b"the same", team="a")
        assert (await migrate(source, target, tables=())).copied == 1
        assert (await migrate(source, target, tables=())).skipped == 1
        mark = (await innermost(target).head("notes")).metadata[hidden.SOURCE]
        for side, kind, data, metadata in (
            (source, "text/markdown", b"the same", {"team": "a"}),
            (source, "text/markdown", b"the same", {"team": "b"}),
            (source, "text/markdown", b"the same", {"team": "b", "aos-cache-control": "no-store"}),
            (target, "text/html", b"the same", {"team": "b", "aos-cache-control": "no-store"}),
            (target, "text/markdown", b"the same", {"team": "c", "aos-cache-control": "no-store"}),
            (target, "text/markdown", b"other bytes", {"team": "b", "aos-cache-control": "no-store"}),
        ):
            if side is target:
                mark = (await innermost(target).head("notes")).metadata[hidden.SOURCE]
            marked = {hidden.SOURCE: mark} if side is target else {}
            await put(side, kind, data, **metadata, **marked)
            refused = await migrate(source, target, tables=())
            assert [each.name for each in refused.failed] == ["notes"], (kind, data, metadata)
            assert (await migrate(source, target, tables=(), update=True)).updated == 1
            assert (await check(source, target, MigrationOptions(tables=()))).equal
            assert (await migrate(source, target, tables=())).skipped == 1


async def test_a_foreign_object_of_s3_that_has_only_another_type(moto: Any, tmp_path: Path) -> None:
    async with opened(config_of("moto", {"moto": moto}, tmp_path)) as source, memory() as target:
        for kind in ("text/plain", "text/markdown"):
            bucket = innermost(source)._bucket
            await bucket.put("notes", b"the same", {"Content-Type": kind}, doing="put")
            assert (await migrate(source, target, update=True)).skipped == 0
            assert (await target.info("notes")).content_type == kind
            assert (await migrate(source, target)).skipped == 1


async def test_a_dry_run_counts_each_version_once(source: StorageManager, target: StorageManager) -> None:
    for n in range(3):
        await source.save_versioned("plan", {"n": n})
    expected = await migrate(source, target, dry_run=True)
    done = await migrate(source, target)
    assert (expected.copied, expected.bytes_copied) == (done.copied, done.bytes_copied)


def innermost(storage: StorageManager) -> Any:
    driver: Any = storage.backend.objects.driver
    while hasattr(driver, "inner"):
        driver = driver.inner
    return driver
