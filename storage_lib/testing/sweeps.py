"""What holds while expired objects are being swept, whatever is behind the store."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import pytest

from storage_lib.errors import KeyNotFoundError, PreconditionFailedError
from storage_lib.ports import expiry, listing, sweeping
from storage_lib.ports.backend import ListEntry, ObjectInfo, ObjectStore, PutResult


@contextmanager
def _sweep_before_call(objects: ObjectStore, key: str, number: int) -> Generator[None]:
    """Have the expired object at ``key`` removed before the call with this number that asks for the key."""
    calls = 0
    driver = objects.driver.core
    hooks = {name: getattr(driver, name) for name in ("head", "put", "put_stream", "copy", "delete")}

    def swept(name: str) -> Callable[..., Awaitable[Any]]:
        async def call(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            if key == (arguments[1] if name == "copy" else arguments[0]):
                if calls == number:
                    with suppress(KeyNotFoundError):
                        info = await hooks["head"](key)
                        if (end := expiry.end_in(info.metadata)) is not None and end <= objects.clock():
                            await hooks["delete"](key, info.etag)
                calls += 1
            return await hooks[name](*arguments, **named)

        return call

    for name in hooks:
        setattr(driver, name, swept(name))
    try:
        yield
    finally:
        for name in hooks:
            delattr(driver, name)


class SweepContract:
    """Part of `ObjectStoreContract`."""

    small_part = 256 * 1024
    race_rounds = 5
    """More where a round costs little."""

    async def test_creating_over_an_expired_object_that_is_swept_meanwhile_succeeds(
        self, objects: ObjectStore, unique: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = float(int(datetime.now(UTC).timestamp()))
        monkeypatch.setattr(objects, "clock", lambda: now)
        monkeypatch.setattr(objects, "part_bytes", self.small_part)
        source = f"{unique}/source"
        await objects.put(source, b"x")
        long = b"x" * (2 * self.small_part + 1)
        creates: list[Callable[[str], Awaitable[PutResult]]] = [
            lambda key: objects.put(key, b"x", if_absent=True),
            lambda key: objects.put(key, b"x", if_absent=True, ttl=600),
            lambda key: objects.put_stream(key, [long], if_absent=True),
            lambda key: objects.copy(source, key, if_absent=True),
        ]
        # At whatever moment the sweep comes: before each of the calls by which the store is asked.
        for step in range(6):
            keys = [f"{unique}/{step}/{n}" for n in range(len(creates))]
            for key in keys:
                await objects.put(key, b"old", ttl=1)
            now += 2
            for key, create in zip(keys, creates, strict=True):
                with _sweep_before_call(objects, key, step):
                    await create(key)
                assert (await objects.head(key)).etag
                with pytest.raises(PreconditionFailedError):
                    await create(key)
        # And at any other.
        for _ in range(self.race_rounds):
            for n in range(len(creates)):
                await objects.put(f"{unique}/raced/{n}", b"old", ttl=1)
            now += 2
            racing = [create(f"{unique}/raced/{n}") for n, create in enumerate(creates)]
            await asyncio.gather(objects.sweep_expired(), *racing, objects.sweep_expired())
        await _delete_all(objects, unique)

    async def test_racing_creators_over_an_expired_object_have_one_winner(
        self, objects: ObjectStore, unique: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = float(int(datetime.now(UTC).timestamp()))
        monkeypatch.setattr(objects, "clock", lambda: now)
        for _ in range(self.race_rounds):
            await objects.put(f"{unique}/k", b"old", ttl=1)
            now += 2
            made = await asyncio.gather(
                *(objects.put(f"{unique}/k", b"%d" % n, if_absent=True) for n in range(4)),
                objects.sweep_expired(),
                return_exceptions=True,
            )
            refused = [result for result in made if isinstance(result, PreconditionFailedError)]
            assert (len(made), len(refused)) == (5, 3), made
            assert not any(isinstance(result, BaseException) for result in made if result not in refused)
            await objects.delete(f"{unique}/k")

    async def test_a_sweep_goes_on_behind_objects_that_were_saved_anew_or_deleted(
        self, objects: ObjectStore, unique: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = float(int(datetime.now(UTC).timestamp()))
        monkeypatch.setattr(objects, "clock", lambda: now)
        for n in range(12):
            now += 1
            await objects.put(f"{unique}/heartbeat", b"%d" % n, ttl=60)
            await objects.put(f"{unique}/deleted", b"", ttl=60)
        await objects.delete(f"{unique}/deleted")
        await objects.put(f"{unique}/last", b"x", ttl=61)
        now += 62
        await objects.put(f"{unique}/heartbeat", b"alive", ttl=60)
        assert await objects.sweep_expired(3) == 1
        due = [marker async for marker in sweeping.due_markers(objects.driver.core, None)]
        assert due == []
        assert await _delete_all(objects, unique) == [f"{unique}/heartbeat"]

    async def test_an_object_that_is_saved_again_while_others_are_removed_stays(
        self, objects: ObjectStore, unique: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With the same bytes, too."""
        now = float(int(datetime.now(UTC).timestamp()))
        monkeypatch.setattr(objects, "clock", lambda: now)
        monkeypatch.setattr(sweeping, "_ONE_BY_ONE", 2, raising=False)
        keys = [f"{unique}/{n}" for n in range(6)]
        for key in keys:
            await objects.put(key, b"same", ttl=1)
            now += 0.01
        now += 2
        core, has_begun, is_saved = objects.driver.core, False, asyncio.Event()
        remove = core.remove

        async def removing(info: ObjectInfo) -> None:
            nonlocal has_begun
            if not has_begun:
                has_begun = True
                await objects.put(keys[-1], b"same", ttl=60)
                is_saved.set()
            await is_saved.wait()
            await remove(info)

        monkeypatch.setattr(core, "remove", removing)
        assert await objects.sweep_expired() == 5
        assert (await objects.head(keys[-1])).size == 4
        now += 61
        assert await objects.sweep_expired() == 1
        assert await _delete_all(objects, unique) == []

    async def test_a_clock_that_is_set_back_leaves_no_object_for_ever(
        self, objects: ObjectStore, unique: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = float(int(datetime.now(UTC).timestamp()))
        monkeypatch.setattr(objects, "clock", lambda: now)
        await objects.put(f"{unique}/k", b"x", ttl=10)
        now += 11
        core = objects.driver.core
        head = core.head

        async def heading(key: str) -> ObjectInfo:
            nonlocal now
            now -= 5
            return await head(key)

        with monkeypatch.context() as during:
            during.setattr(core, "head", heading)
            assert await objects.sweep_expired() == 0
        now += 10
        assert [entry async for entry in objects.iterate(f"{unique}/")] == []
        assert await objects.sweep_expired() == 1

    async def test_what_ends_while_a_listing_is_read_is_not_shown(
        self, objects: ObjectStore, unique: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = float(int(datetime.now(UTC).timestamp()))
        monkeypatch.setattr(objects, "clock", lambda: now)
        await objects.put(f"{unique}/0", b"x", ttl=1)  # Its marker is due, but it lives.
        for n, ttl in enumerate([10, 10, 10, None, None, 10, 100]):
            await objects.put(f"{unique}/{n}", b"x", ttl=ttl)
        now += 2
        for details in (False, True):
            seen: list[str] = []
            async for entry in objects.iterate(f"{unique}/", details=details):
                assert isinstance(entry, ListEntry)
                seen.append(entry.key.rpartition("/")[2])
                if entry.key == f"{unique}/0":
                    now += 9
            assert seen == ["0", "3", "4", "6"], details
            now -= 9
        await _delete_all(objects, unique)

    async def test_a_listing_shows_what_lives_and_nothing_else(
        self, objects: ObjectStore, unique: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whatever was saved again, with another life or none, and however many markers are due."""
        monkeypatch.setattr(listing, "_FIRST", 3)
        monkeypatch.setattr(listing, "_HELD", 12)
        now = float(int(datetime.now(UTC).timestamp()))
        monkeypatch.setattr(objects, "clock", lambda: now)
        chance = random.Random(7)  # noqa: S311 - the same each time
        # One is so long that its marker does not tell it.
        names = [f"{unique}/{n % 4}/{n}" for n in range(12)] + [f"{unique}/{'k' * 100}/{'l' * 880}"]
        ends: dict[str, float | None] = {}
        for step in range(8):
            for key in chance.sample(names, 5):
                ttl = chance.choice([None, 1, 2, 4, 30])
                if key in ends and chance.random() < 0.2 and _lives(ends[key], now):
                    await objects.delete(key)
                    del ends[key]
                    continue
                await objects.put(key, b"same", ttl=ttl)
                ends[key] = None if ttl is None else now + ttl
            now += chance.choice([0, 1, 2])
            alive = sorted(key for key, end in ends.items() if _lives(end, now))
            folded = sorted({f"{key.rpartition('/')[0]}/" for key in alive})
            for details in (False, True):
                found = [entry async for entry in objects.iterate(f"{unique}/", details=details)]
                assert [entry.key for entry in found if isinstance(entry, ListEntry)] == alive, step
            found = [one async for one in objects.iterate(f"{unique}/", delimiter="/")]
            assert found == folded, step
            page = await objects.list_page(f"{unique}/", limit=2)
            assert [entry.key for entry in page.entries] == alive[:2], step
            if step == 5:
                await objects.sweep_expired()
        now += 31
        await objects.sweep_expired()
        assert await _delete_all(objects, unique) == sorted(key for key, end in ends.items() if end is None)


def _lives(end: float | None, now: float) -> bool:
    return end is None or end > now


async def _delete_all(objects: ObjectStore, unique: str) -> list[str]:
    """Leave nothing that the tests of other clocks could meet; what there was."""
    keys = [entry.key async for entry in objects.iterate(f"{unique}/") if isinstance(entry, ListEntry)]
    for key in keys:
        await objects.delete(key)
    return keys
