"""All layers over a connection that fails: nothing acknowledged is lost, nothing wrong is read, no conflict
is false. `make soak` does more of it.

Each worker has keys of its own, so that what may be there is known at each moment: one value, or several
after an operation whose outcome is unknown. All workers update the counter.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from devhost.azurite import Azurite
from storage_lib.config import StorageConfig
from storage_lib.config.audit import AuditOptions
from storage_lib.config.caching import CachingOptions
from storage_lib.config.compression import CompressionOptions
from storage_lib.config.encryption import EncryptionOptions
from storage_lib.config.fallback import FallbackOptions
from storage_lib.config.metrics import MetricsOptions
from storage_lib.config.validation import ValidationOptions
from storage_lib.errors import (
    KeyNotFoundError,
    PreconditionFailedError,
    TransientStorageError,
)
from storage_lib.manager import StorageManager
from tests.fault_proxy import FAULTS, FaultProxy, Faults
from tests.layer_stacks import GENEROUS

SOAK = os.environ.get("SOAK") == "1"
OPERATIONS = 5000 if SOAK else 300
SECOND_OPERATIONS = 1000 if SOAK else 100
WORKERS = 16 if SOAK else 10
RATE = 0.2
KEYS = 3
PART = 64 * 1024

pytestmark = [
    pytest.mark.filterwarnings("ignore:Testing an element's truth value:DeprecationWarning"),
    pytest.mark.timeout(1800 if SOAK else 900),
]

ABSENT = None
Value = tuple[bytes, str] | None
"""Bytes and the metadata ``mark``; None for no object."""


def full_stack(
    azurite: Azurite,
    port: int,
    container: str,
    fallback: FallbackOptions | None = None,
    *,
    attempts: int | None = None,
) -> StorageConfig:
    """:param port: where blobs are."""
    more: dict[str, Any] = {} if attempts is None else {"retry_attempts": attempts}
    connection = azurite.connection_string.replace(azurite.url(azurite.blob_port), azurite.url(port))
    return StorageConfig(
        storage_type="azure",
        connection_string=connection,
        container=container,
        metrics=MetricsOptions(),
        audit=AuditOptions(sink="log", operations="all", on_failure="refuse", key="k" * 32),
        validation=ValidationOptions(rules=GENEROUS.rules, refresh_seconds=5),
        caching=CachingOptions(),
        compression=CompressionOptions(),
        encryption=EncryptionOptions(keys={"now": bytes(range(32))}),
        fallback=fallback or FallbackOptions(secondary=StorageConfig(storage_type="memory")),
        **more,
    )


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that wait for a silent service for seconds, not for a minute. The longest answer of an emulator
    on a busy machine has to be shorter."""
    monkeypatch.setattr("storage_lib.backends.azure.clients.READ_SECONDS", 3)
    for clients in ("byte_stores", "connections"):
        monkeypatch.setattr(f"storage_lib.backends.cloud.{clients}.READ_SECONDS", 3)


@dataclass
class Known:
    """What may be under a key, and the ETag of what is, if it is known for sure."""

    may_be: set[Value] = field(default_factory=lambda: {ABSENT})
    etag: str | None = None
    past: set[Value] = field(default_factory=lambda: {ABSENT})
    """All that has ever been in ``may_be``."""

    @property
    def is_sure(self) -> bool:
        return len(self.may_be) == 1

    def is_(self, value: Value, etag: str | None = None) -> None:
        self.may_be, self.etag = {value}, etag
        self.past.add(value)

    def may_become(self, value: Value) -> None:
        self.may_be, self.etag = {*self.may_be, value}, None
        self.past.add(value)


def shown(value: Value) -> str:
    return "nothing" if value is None else f"{value[1]} with {len(value[0])} bytes"


class Worker:
    """One writer and reader of its own keys, who does one thing at a time.

    :param old_reads: how many reads were answered by a store that may be behind.
    :param lists_all: whether a listing has everything, whichever store answers.
    """

    def __init__(
        self,
        storage: StorageManager,
        number: int,
        seed: int,
        done: Counter[str],
        old_reads: Callable[[], int] = lambda: 0,
        *,
        lists_all: bool = True,
    ) -> None:
        self.old_reads = old_reads
        self.lists_all = lists_all
        self.old_before = 0
        self.storage = storage
        self.random = random.Random(f"{seed} {number}")
        self.prefix = f"w{number}/"
        self.known = {f"{self.prefix}{n}": Known() for n in range(KEYS)}
        self.number = number
        self.done = done
        self.written = 0
        self.history: list[str] = []
        """Each operation: name, key, outcome, whether it may have seen something old, and what may be there
        then."""

    async def run(self, operations: int) -> None:
        doings: list[Callable[[str, Known], Awaitable[None]]] = [
            self.put,
            self.put,
            self.put_if_absent,
            self.put_if_match,
            self.put_stream,
            self.get,
            self.get,
            self.get_stream,
            self.head,
            self.delete,
            self.copy,
            self.list,
            self.count,
        ]
        for _ in range(operations):
            key = self.random.choice(list(self.known))
            doing = self.random.choice(doings)
            name = doing.__name__
            self.old_before = self.old_reads()
            try:
                await doing(key, self.known[key])
            except TransientStorageError as error:
                self.done[f"{name}: unknown"] += 1
                self.note(name, key, f"{type(error).__name__}{' refused' * error.refused}")
            except BaseException as error:
                error.add_note("\n".join(["", *self.history[-40:], f"{name} {key}"]))
                raise
            else:
                self.done[name] += 1
                self.note(name, key, "done")

    def note(self, name: str, key: str, outcome: str) -> None:
        states = {other: sorted(map(shown, known.may_be)) for other, known in self.known.items()}
        self.history.append(f"{name} {key}: {outcome}{', old' * self.may_be_old}; {states}")

    @property
    def may_be_old(self) -> bool:
        """Whether what this operation has seen may be older than what is there."""
        return self.old_reads() != self.old_before

    def value(self, size: int) -> tuple[bytes, str]:
        self.written += 1
        mark = f"{self.number}-{self.written}"
        text = f"{mark} ".encode() * (size // 8 + 1)
        return (text if self.random.random() < 0.5 else text + self.random.randbytes(size)), mark

    async def _write(self, known: Known, value: Value, write: Awaitable[Any]) -> None:
        try:
            result = await write
        except TransientStorageError as error:
            if not error.refused:
                known.may_become(value)
            raise
        known.is_(value, result.etag)

    async def put(self, key: str, known: Known) -> None:
        data, mark = self.value(2000)
        await self._write(known, (data, mark), self.storage.write(key, data, metadata={"mark": mark}))

    async def put_if_absent(self, key: str, known: Known) -> None:
        data, mark = self.value(200)
        write = self.storage.write(key, data, metadata={"mark": mark}, if_absent=True)
        try:
            await self._write(known, (data, mark), write)
        except PreconditionFailedError:
            if self.may_be_old:
                return
            assert known.may_be != {ABSENT}, f"a false conflict at {key}"
            known.may_be.discard(ABSENT)

    async def put_if_match(self, key: str, known: Known) -> None:
        if known.etag is None:
            return
        data, mark = self.value(200)
        etag = known.etag if self.random.random() < 0.8 else "0x8DE000000000000"
        write = self.storage.write(key, data, metadata={"mark": mark}, if_match=etag)
        try:
            await self._write(known, (data, mark), write)
        except PreconditionFailedError:
            assert etag != known.etag or self.may_be_old, f"a false conflict at {key}"
        else:
            assert etag != "0x8DE000000000000"

    async def put_stream(self, key: str, known: Known) -> None:
        data, mark = self.value(3 * PART)

        async def source() -> AsyncIterator[bytes]:
            for start in range(0, len(data), 10_000):
                yield data[start : start + 10_000]

        options: dict[str, Any] = {}
        if known.may_be == {ABSENT}:
            options = {"if_absent": self.random.random() < 0.5}
        elif known.etag is not None:
            options = {"if_match": self.random.choice([None, known.etag])}
        write = self.storage.write_stream(key, source(), metadata={"mark": mark}, **options)
        try:
            await self._write(known, (data, mark), write)
        except PreconditionFailedError as error:
            if self.may_be_old:
                return
            raise AssertionError(f"a false conflict of the stream {mark} at {key}: {options}") from error

    def saw(self, key: str, known: Known, value: Value, etag: str | None) -> None:
        if self.may_be_old:
            assert value in known.past, f"{key} has what was never there"
            return
        assert value in known.may_be, f"{key} has {shown(value)}, expected {sorted(map(shown, known.may_be))}"
        known.is_(value, etag)

    async def get(self, key: str, known: Known) -> None:
        try:
            found = await self.storage.read(key)
        except KeyNotFoundError:
            self.saw(key, known, ABSENT, None)
        else:
            self.saw(key, known, (found.data, found.info.metadata["mark"]), found.info.etag)

    async def get_stream(self, key: str, known: Known) -> None:
        try:
            async with self.storage.open_reader(key) as reader:
                data = await reader.read()
        except KeyNotFoundError:
            self.saw(key, known, ABSENT, None)
        else:
            self.saw(key, known, (data, reader.info.metadata["mark"]), reader.info.etag)

    async def head(self, key: str, known: Known) -> None:
        try:
            info = await self.storage.info(key)
        except KeyNotFoundError:
            self.saw(key, known, ABSENT, None)
        else:
            may_be = known.past if self.may_be_old else known.may_be
            found = [may for may in may_be if may and may[1] == info.metadata["mark"]]
            assert found, f"{key} has {info.metadata['mark']!r}"
            assert found[0] is not None
            assert info.size == len(found[0][0])
            self.saw(key, known, found[0], info.etag)

    async def delete(self, key: str, known: Known) -> None:
        etag = self.random.choice([None, known.etag])
        try:
            await self.storage.delete(key, if_match=etag)
        except KeyNotFoundError:
            if self.may_be_old:
                return
            assert ABSENT in known.may_be, f"{key} is gone"
        except PreconditionFailedError as error:
            if self.may_be_old:
                return
            raise AssertionError(f"a false conflict of the deletion of {key}") from error
        except TransientStorageError as error:
            if not error.refused:
                known.may_become(ABSENT)
            raise
        known.is_(ABSENT)

    async def copy(self, key: str, known: Known) -> None:
        target = self.random.choice([other for other in self.known if other != key])
        try:
            result = await self.storage.copy(key, target)
        except KeyNotFoundError:
            self.saw(key, known, ABSENT, None)
        except PreconditionFailedError:
            assert self.may_be_old, f"a false conflict of the copy of {key}"
        except TransientStorageError as error:
            if not error.refused:
                for value in (known.past if self.may_be_old else known.may_be) - {ABSENT}:
                    self.known[target].may_become(value)
            raise
        else:
            # What was copied may be older, too, and then says nothing of what the source has now.
            copied = (known.past if self.may_be_old else known.may_be) - {ABSENT}
            assert copied, f"{key} has something to copy, expected nothing"
            if not self.may_be_old:
                known.may_be = set(copied)
            self.known[target].may_be = set(copied)
            self.known[target].past |= copied
            self.known[target].etag = result.etag

    async def list(self, key: str, known: Known) -> None:
        listed = {entry.key for entry in (await self.storage.list_page(self.prefix, details=True)).entries}
        for name, each in self.known.items():
            if each.is_sure and self.lists_all and not self.may_be_old:
                assert (name in listed) == (each.may_be != {ABSENT}), f"{name} is listed wrongly"

    async def count(self, key: str, known: Known) -> None:
        await self.storage.update("counter", lambda counts: [*counts, self.number], initial=[])

    async def settle(self, plain: StorageManager) -> None:
        """Read everything in the end, without faults."""
        self.old_reads, self.lists_all = int, True
        self.old_before = 0
        for key, known in self.known.items():
            self.storage, faulty = plain, self.storage
            try:
                await self.get(key, known)
                await self.list(key, known)
            except AssertionError as error:
                error.add_note("\n".join(["", *self.history[-40:], f"in the end {key}"]))
                raise
            self.storage = faulty


async def test_faults_lose_nothing_and_invent_nothing(
    azurite: Azurite, impatient: None, record_property: Any
) -> None:
    seed = int(os.environ.get("FAULT_SEED", "1"))
    container = f"faults-{seed}-{OPERATIONS}"
    done: Counter[str] = Counter()
    async with (
        FaultProxy(azurite.blob_port, Faults(seed, RATE)) as proxy,
        StorageManager(full_stack(azurite, azurite.blob_port, container)) as plain,
        StorageManager(full_stack(azurite, proxy.port, container)) as storage,
    ):
        storage.backend.objects.part_bytes = PART
        layer = storage.fallback
        assert layer is not None

        def from_second() -> int:
            """If each attempt fails, a listing is that of the second store, which is empty."""
            return layer.status().reads_from_secondary

        workers = [Worker(storage, number, seed, done, from_second) for number in range(WORKERS)]
        await asyncio.gather(*(worker.run(OPERATIONS // WORKERS) for worker in workers))
        for worker in workers:
            await worker.settle(plain)
        counted = await plain.load("counter")
        assert done["count"] <= len(counted) <= done["count"] + done["count: unknown"]
    total = sum(proxy.counts.values())
    faults = total - proxy.counts["none"]
    record_property("measured", f"{faults} of {total} requests failed: {dict(proxy.counts)}; {dict(done)}")
    assert set(FAULTS) <= set(proxy.counts)
    assert RATE * 0.6 < faults / total < RATE * 1.4
    unknown = sum(count for name, count in done.items() if "unknown" in name)
    assert unknown < sum(done.values()) * 0.2  # Else nothing would have been tested.


MODES: dict[str, dict[str, Any]] = {
    "mirror": {"mode": "mirror"},
    "mirror that takes writes": {"mode": "mirror", "writes": "secondary"},
    "second store that takes writes": {"writes": "secondary"},
}


@pytest.mark.parametrize("mode", MODES)
async def test_faults_lose_nothing_with_a_second_store(
    azurite: Azurite, impatient: None, tmp_path: Path, record_property: Any, mode: str
) -> None:
    seed = int(os.environ.get("FAULT_SEED", "1"))
    container = f"faults-{list(MODES).index(mode)}-{seed}"
    second = FallbackOptions(secondary=StorageConfig(base_path=str(tmp_path)), check_seconds=0, **MODES[mode])
    done: Counter[str] = Counter()
    # Without further attempts the primary is often away. Silence would only make it slow.
    weights = dict.fromkeys(("reset before", "reset after", "busy", "cut", "slow"), 1.0)
    async with (
        FaultProxy(azurite.blob_port, Faults(seed, RATE, weights)) as proxy,
        StorageManager(full_stack(azurite, azurite.blob_port, container, second)) as plain,
        StorageManager(full_stack(azurite, proxy.port, container, second, attempts=1)) as storage,
    ):
        storage.backend.objects.part_bytes = PART
        layer = storage.fallback
        assert layer is not None
        # What a mirror answers may be older; a store that only takes writes has the newest or nothing.
        is_mirror = "mirror" in mode
        old_reads = (lambda: layer.status().reads_from_secondary) if is_mirror else int
        workers = [Worker(storage, number, seed, done, old_reads, lists_all=is_mirror) for number in range(4)]
        await asyncio.gather(*(worker.run(SECOND_OPERATIONS // 4) for worker in workers))
        status = layer.status()
        repaired = await plain.repair()
        assert (repaired.failed, repaired.pending) == ((), 0)
        for worker in workers:
            await worker.settle(plain)
        counted = await plain.load("counter")
        if not repaired.conflicts:
            assert done["count"] <= len(counted) <= done["count"] + done["count: unknown"]
        if is_mirror:  # The second store has the same.
            away = full_stack(azurite, proxy.port, container, second, attempts=1)
            proxy.faults = Faults(seed, 1, {"reset before": 1})
            async with StorageManager(away) as alone:
                for worker in workers:
                    await worker.settle(alone)
                assert await alone.load("counter") == counted
    told = f"{dict(proxy.counts)}; {dict(done)}; {status}; {len(repaired.conflicts)} conflicts"
    record_property("measured", told)
    assert status.reads_from_secondary
    assert bool(status.writes_journaled) == ("takes writes" in mode)


# -- one fault at a time


class LostAnswers(Faults):
    """The answer to the first request of each kind in ``kinds``, method and a part of the query, is lost."""

    def __init__(self, *kinds: tuple[str, str]) -> None:
        super().__init__(0, 0)
        self.kinds = list(kinds)

    def choose(self, method: str, target: str) -> str | None:
        for kind in self.kinds:
            if method == kind[0] and kind[1] in target:
                self.kinds.remove(kind)
                return "reset after"
        return None


@pytest.mark.parametrize("condition", ["if_absent", "if_match"])
async def test_a_stream_whose_last_answer_was_lost_meets_no_conflict_with_itself(
    azurite: Azurite, condition: str
) -> None:
    lost = LostAnswers(("PUT", "comp=blocklist"))
    key = f"lost-commit-{condition}"
    async with (
        FaultProxy(azurite.blob_port, lost) as proxy,
        StorageManager(full_stack(azurite, proxy.port, "faults-lost")) as storage,
    ):
        storage.backend.objects.part_bytes = PART
        options: dict[str, Any] = {"if_absent": True}
        if condition == "if_match":
            options = {"if_match": (await storage.write(key, b"before")).etag}
        data = random.Random(1).randbytes(3 * PART)
        with pytest.raises(TransientStorageError):  # And not that there is another, or a newer one.
            await storage.write_stream(key, iter([data]), **options)
        assert lost.kinds == []
        assert (await storage.read(key)).data == data


async def test_a_message_whose_deletion_was_not_acknowledged_is_deleted(azurite: Azurite) -> None:
    lost = LostAnswers(("DELETE", "popreceipt="))
    async with FaultProxy(azurite.queue_port, lost) as proxy:
        connection = azurite.connection_string.replace(
            azurite.url(azurite.queue_port), azurite.url(proxy.port)
        )
        async with StorageManager(
            StorageConfig(storage_type="azure", connection_string=connection)
        ) as storage:
            queues = storage.backend.queues
            await queues.create_queue("lost-deletion")
            await queues.send("lost-deletion", b"1")
            [message] = await queues.receive("lost-deletion")
            await queues.delete("lost-deletion", message)
            assert lost.kinds == []
            assert await queues.length("lost-deletion") == 0


# -- the proxy


async def test_the_same_seed_fails_the_same_requests() -> None:
    def chosen(seed: int) -> list[str | None]:
        faults = Faults(seed, 0.5)
        return [faults.choose("GET", f"/a/{n % 3}?x={n}") for n in range(200)]

    assert chosen(1) == chosen(1)
    assert chosen(1) != chosen(2)
    assert set(chosen(1)) == {None, *FAULTS}


@pytest.mark.parametrize("fault", FAULTS)
async def test_each_fault_is_what_it_says(fault: str) -> None:
    from aiohttp import ClientError, ClientSession, ClientTimeout

    from tests.stub_service import Answer, StubService

    async with (
        StubService(lambda request: Answer(200, b"answer to " + request.body)) as service,
        FaultProxy(int(service.endpoint.rpartition(":")[2]), Faults(1, 1, {fault: 1})) as proxy,
        ClientSession(timeout=ClientTimeout(3 if fault.startswith("silent") else 60)) as client,
    ):
        url = f"http://127.0.0.1:{proxy.port}/a?b=c"
        try:
            async with client.post(url, data=b"x" * 100_000) as answer:
                body = await answer.read()
        except (ClientError, TimeoutError) as error:
            said: object = type(error)
        else:
            said = answer.status, len(body), answer.headers.get("Retry-After")
        assert proxy.counts == {fault: 1}
        forwarded = fault not in ("reset before", "busy", "silent before")
        assert [len(request.body) for request in service.seen] == [100_000] * forwarded
        assert proxy.unanswered == (fault in ("reset after", "silent after", "cut"))
        if fault == "busy":
            assert said == (503, 0, "1")
        elif fault == "slow":
            assert said == (200, 100_010, None)
        else:
            assert isinstance(said, type)
            assert issubclass(said, TimeoutError) == fault.startswith("silent")
