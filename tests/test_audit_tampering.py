"""`verify` finds every edited, missing, reordered, inserted and cut-off entry and names it, and finds nothing
in a log that is as it was written, however its writer ended."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import hmac
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from storage_lib.audit import AuditUnavailableError, main, verify, verify_table
from storage_lib.backends.azure import AzureStorageBackend
from storage_lib.backends.file import FileStorageBackend
from storage_lib.backends.memory import MemoryBackend
from storage_lib.config.audit import AuditOptions
from storage_lib.errors import KeyNotFoundError
from storage_lib.layers.audit import AuditLayer
from storage_lib.layers.audit.entries import Entry, Head, Seal
from storage_lib.layers.audit.files import FileJournal
from storage_lib.layers.audit.findings import Report
from storage_lib.ports.backend import StorageBackend
from tests.conftest import PROJECT

SOAK = os.environ.get("SOAK") == "1"
TAMPERINGS = 1000 if SOAK else 100
TABLE_TAMPERINGS = 200 if SOAK else 25
ENTRIES = 10_000
KEY = "a secret of forty characters, or longer.."

pytestmark = pytest.mark.filterwarnings("ignore:Testing an element's truth value:DeprecationWarning")


def entry(n: int) -> Entry:
    return Entry(
        time=datetime.now(UTC),
        actor="agent:ceo",
        action="objects.put",
        resource=f"objects/a/{n}",
        outcome="success",
        size=n,
    )


async def written(options: AuditOptions, count: int) -> Path:
    """A log of about this many entries, in several files of one writer that has ended."""
    journal = FileJournal(options)
    for n in range(0, count - 1, 10):
        journal.add(*(entry(m) for m in range(n, min(n + 10, count - 1))))
    await journal.end()
    return Path(options.path)


# -- tampering with a file

Lines = list[bytes]


def edit(lines: Lines, at: int, chance: random.Random) -> set[int]:
    line = bytearray(lines[at])
    where = chance.randrange(len(line))
    line[where] = chance.choice([byte for byte in range(32, 127) if byte != line[where]])
    lines[at] = bytes(line)
    return {at}


def edit_a_field(lines: Lines, at: int, chance: random.Random) -> set[int]:
    lines[at] = re.sub(rb'"time":"20', b'"time":"19', lines[at])
    return {at}


def drop(lines: Lines, at: int, chance: random.Random) -> set[int]:
    count = chance.randrange(1, 5)
    gone = set(range(at, min(at + count, len(lines))))
    del lines[at : at + count]
    return gone


def swap(lines: Lines, at: int, chance: random.Random) -> set[int]:
    other = chance.choice([n for n in range(len(lines)) if n != at])
    lines[at], lines[other] = lines[other], lines[at]
    return {at, other}


def cut(lines: Lines, at: int, chance: random.Random) -> set[int]:
    del lines[at:]
    return {at}


def insert_a_copy(lines: Lines, at: int, chance: random.Random) -> set[int]:
    copied = chance.randrange(len(lines))
    lines.insert(at, lines[copied])
    return {at, copied}


def insert_a_forgery(lines: Lines, at: int, chance: random.Random) -> set[int]:
    forged = lines[at].replace(b'"size":', b'"size":1')
    if forged == lines[at]:
        forged = lines[at].replace(b'"time":"20', b'"time":"19')
    lines.insert(at, forged)
    return {at, at + 1}


def insert_anything(lines: Lines, at: int, chance: random.Random) -> set[int]:
    lines.insert(at, chance.choice([b"", b"{}", b'{"a":1}', b"\x00\xff", lines[at][:-5]]))
    return {at}


def insert_without_the_key(lines: Lines, at: int, chance: random.Random) -> set[int]:
    """One that is right but for the key."""
    body = re.sub(rb',"hash":"[0-9a-f]{64}"}$', b"}", lines[at])
    body = body.replace(b'"actor":"', b'"actor":"not-')
    lines[at] = body[:-1] + b',"hash":"' + hashlib.sha256(body).hexdigest().encode() + b'"}'
    return {at, at + 1}


WAYS: list[Callable[[Lines, int, random.Random], set[int]]] = [
    edit,
    edit_a_field,
    drop,
    swap,
    cut,
    insert_a_copy,
    insert_a_forgery,
    insert_anything,
    insert_without_the_key,
]


@pytest.mark.parametrize("key", [KEY, None], ids=["key", "no-key"])
async def test_every_tampering_is_found_and_named(tmp_path: Path, key: str | None) -> None:
    options = AuditOptions(path=str(tmp_path), key=key, rotate_bytes=1_000_000)
    folder = await written(options, ENTRIES)
    files = sorted(folder.glob("*.jsonl"))
    assert len(files) >= 3
    untouched = verify(folder, key=key)
    assert untouched == Report(entries=ENTRIES - 1 + len(files), writers=1)
    seed = random.randrange(2**32) if SOAK else 7
    chance = random.Random(seed)
    for n in range(TAMPERINGS if key else TAMPERINGS // 4):
        path = chance.choice(files)
        before = path.read_bytes()
        lines = before.splitlines()
        first = int(re.findall(rb'"seq":(\d+)', lines[0])[0])
        way = WAYS[n % len(WAYS)]
        touched = way(lines, chance.randrange(len(lines)), chance)
        path.write_bytes(b"".join(line + b"\n" for line in lines))
        try:
            report = verify(folder, key=key)
            named = {finding.sequence for finding in report.findings}
            assert not report.ok, way
            assert named & {first + at for at in touched}, (way, touched, first, report.findings)
            assert all(finding.where.startswith(str(tmp_path)) for finding in report.findings)
            assert {finding.writer for finding in report.findings} == {path.name.partition(".")[0]}
            assert len(report.findings) <= 6, (way, report.findings)
        except BaseException as error:
            error.add_note(f"seed {seed}, tampering {n}")
            raise
        finally:
            path.write_bytes(before)
    assert verify(folder, key=key) == untouched


def test_the_seal_is_hmac_sha_256() -> None:
    derived = hmac.digest(KEY.encode(), b"agent-storage audit 1", "sha256")
    for body in (b"", b"x", b"y" * 1000):
        assert Seal(KEY).hash_of(body) == hmac.digest(derived, body, "sha256").hex()
        assert Seal(None).hash_of(body) == hashlib.sha256(body).hexdigest()


# -- other ways to tamper with files


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    return await written(AuditOptions(path=str(tmp_path / "log"), key=KEY, rotate_bytes=20_000), 300)


def kinds(report: Report) -> set[str]:
    return {finding.kind for finding in report.findings}


def head_of(folder: Path) -> Path:
    (found,) = (folder / "heads").iterdir()
    return found


def remove_a_file(folder: Path) -> None:
    sorted(folder.glob("*.jsonl"))[1].unlink()


def remove_the_last_file(folder: Path) -> None:
    sorted(folder.glob("*.jsonl"))[-1].unlink()


def remove_all_files(folder: Path) -> None:
    for path in folder.glob("*.jsonl"):
        path.unlink()


def exchange_files(folder: Path) -> None:
    first, second, *_ = sorted(folder.glob("*.jsonl"))
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)


def remove_the_head(folder: Path) -> None:
    head_of(folder).unlink()


def empty_the_head(folder: Path) -> None:
    head_of(folder).write_bytes(b"")


def edit_the_head(folder: Path) -> None:
    path = head_of(folder)
    path.write_bytes(path.read_bytes().replace(b'"count":3', b'"count":2'))


def append_a_piece(folder: Path) -> None:
    with sorted(folder.glob("*.jsonl"))[-1].open("ab") as file:
        file.write(b'{"writer":')


def break_the_last_line(folder: Path) -> None:
    path = sorted(folder.glob("*.jsonl"))[-1]
    path.write_bytes(path.read_bytes()[:-1])


DEEP = (
    b'{"writer":"w","seq":1,"context":' + b"[" * 100_000 + b"]" * 100_000 + b',"hash":"' + b"a" * 64 + b'"}\n'
)


def append_what_is_nested_deeply(folder: Path) -> None:
    with sorted(folder.glob("*.jsonl"))[-1].open("ab") as file:
        file.write(DEEP)


def nest_the_head_deeply(folder: Path) -> None:
    head_of(folder).write_bytes(DEEP)


def add_a_writer(folder: Path) -> None:
    source = sorted(folder.glob("*.jsonl"))[0]
    shutil.copy(source, folder / f"20200101T000000000000Z-{'0' * 12}.000001.jsonl")


def add_a_file(folder: Path) -> None:
    shutil.copy(sorted(folder.glob("*.jsonl"))[0], folder / "more.jsonl")


def rebuild_without_the_key(folder: Path) -> None:
    """The whole log as if it had been written without a key, by one who does not have it."""
    last, count, name = "", 0, ""
    for path in sorted(folder.glob("*.jsonl")):
        lines = []
        for line in path.read_bytes().splitlines():
            body = re.sub(rb',"hash":"[0-9a-f]{64}"}$', b"}", line).replace(b"agent:ceo", b"agent:cfo")
            body = re.sub(rb'"prev":"[0-9a-f]{64}"', f'"prev":"{last}"'.encode(), body)
            body = re.sub(rb'"key":"[0-9a-f]+"', b'"key":""', body)
            last, count, name = hashlib.sha256(body).hexdigest(), count + 1, path.name.partition(".")[0]
            lines.append(body[:-1] + f',"hash":"{last}"}}\n'.encode())
        path.write_bytes(b"".join(lines))
    head = Head(name, count, last, "", True, datetime.now(UTC))
    head_of(folder).write_bytes(Seal(None).sealed(head)[0] + b"\n")


@pytest.mark.parametrize(
    ("tamper", "kind"),
    [
        (remove_a_file, "missing"),
        (remove_the_last_file, "cut-off"),
        (remove_all_files, "cut-off"),
        (exchange_files, "reordered"),
        (remove_the_head, "head"),
        (empty_the_head, "head"),
        (edit_the_head, "head"),
        (append_a_piece, "inserted"),
        (break_the_last_line, "cut-off"),
        (append_what_is_nested_deeply, "edited"),
        (nest_the_head_deeply, "head"),
        (add_a_writer, "head"),
        (add_a_file, "inserted"),
        (rebuild_without_the_key, "unverifiable"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
async def test_other_ways_to_tamper_are_found(
    folder: Path, tamper: Callable[[Path], None], kind: str
) -> None:
    assert verify(folder, key=KEY).ok
    tamper(folder)
    report = verify(folder, key=KEY)
    assert kind in kinds(report), report.findings


async def test_a_log_and_its_head_cannot_both_be_removed_or_set_back(tmp_path: Path) -> None:
    options = AuditOptions(path=str(tmp_path / "log"), key=KEY)
    first = FileJournal(options)
    first.add(entry(1))
    await first.end()
    folder = Path(options.path)
    saved = tmp_path / "saved"
    shutil.copytree(folder, saved)
    first.add(entry(2), entry(3))
    await first.end()
    second = FileJournal(options)
    second.add(entry(4))
    await second.end()
    assert verify(folder, key=KEY).ok
    writer = first.chain.writer
    for path in [*folder.glob(f"{writer}.*"), *(folder / "heads").glob(f"{writer}.*")]:
        path.unlink()
    (gone,) = verify(folder, key=KEY).findings
    assert (gone.kind, gone.writer) == ("missing", writer)
    shutil.copytree(saved, folder, dirs_exist_ok=True)
    (set_back,) = verify(folder, key=KEY).findings
    assert (set_back.kind, set_back.writer, set_back.sequence) == ("cut-off", writer, 3)


async def test_keys_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    assert kinds(verify(folder)) == {"unverifiable"}
    assert kinds(verify(folder, key="another secret of sixteen")) == {"unverifiable"}
    assert verify(folder, key=["another secret of sixteen", KEY]).ok
    plain = await written(AuditOptions(path=str(tmp_path / "plain")), 20)
    assert verify(plain).ok
    assert kinds(verify(plain, key=KEY)) == {"unverifiable"}
    assert verify(plain, key=KEY, allow_unsealed=True).ok


async def test_one_file_stands_for_its_writer(folder: Path) -> None:
    other = FileJournal(AuditOptions(path=str(folder), key=KEY))
    other.add(entry(1))
    await other.end()
    (path,) = folder.glob(f"{other.chain.writer}.*.jsonl")
    assert verify(path, key=KEY) == Report(entries=2, writers=1)
    remove_a_file(folder)
    assert verify(path, key=KEY).ok
    assert not verify(folder, key=KEY).ok


async def test_heads_in_another_folder(tmp_path: Path) -> None:
    options = AuditOptions(path=str(tmp_path / "log"), heads=str(tmp_path / "elsewhere"), key=KEY)
    folder = await written(options, 20)
    assert not (folder / "heads").exists()
    assert verify(folder, key=KEY, heads=tmp_path / "elsewhere").ok
    assert kinds(verify(folder, key=KEY)) == {"head"}


# -- what is no tampering


async def test_a_head_that_is_behind_is_no_tampering(tmp_path: Path) -> None:
    """As after a kill between an entry and its head."""
    journal = FileJournal(AuditOptions(path=str(tmp_path), key=KEY, sync_ms=60_000))
    journal.add(*(entry(n) for n in range(10)))
    report = verify(tmp_path, key=KEY)
    assert report == Report(entries=11, writers=1, unsealed=11)
    await journal.end()
    assert verify(tmp_path, key=KEY) == Report(entries=11, writers=1)


async def test_a_last_line_that_is_incomplete_is_no_tampering(tmp_path: Path) -> None:
    journal = FileJournal(AuditOptions(path=str(tmp_path), key=KEY, sync_ms=60_000))
    journal.add(*(entry(n) for n in range(10)))
    (path,) = tmp_path.glob("*.jsonl")
    copied = tmp_path / "copied"
    shutil.copytree(tmp_path, copied)
    (copied / path.name).write_bytes(path.read_bytes()[:-20])
    report = verify(copied, key=KEY)
    assert (report.ok, report.unsealed, len(report.notes)) == (True, 10, 1)
    await journal.end()


WRITER = """
import asyncio, sys
from storage_lib.backends.memory import MemoryBackend
from storage_lib.config.audit import AuditOptions
from storage_lib.layers.audit import AuditLayer

async def main():
    options = AuditOptions(path=sys.argv[1], key=sys.argv[2], sync_ms=10, rotate_bytes=30_000)
    layer = AuditLayer(MemoryBackend(), options)
    n = 0
    while True:
        await layer.objects.put(f"k{n}", b"x")
        n += 1
        print(n, flush=True)

asyncio.run(main())
"""


def test_a_killed_writer_loses_nothing_and_is_no_tampering(tmp_path: Path) -> None:
    acknowledged = 0
    chance = random.Random(7)
    kills = 20 if SOAK else 4
    for _ in range(kills):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, tmp_path, KEY], stdout=subprocess.PIPE, text=True, cwd=PROJECT
        )
        assert process.stdout is not None
        read = 0
        for _ in range(chance.randrange(1, 600)):
            read = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        rest = [line for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
        process.stdout.close()
        process.wait()
        acknowledged += int(rest[-1]) if rest else read
        report = verify(tmp_path, key=KEY)
        assert report.findings == []
    # A writer that was killed as it began a file may have left it empty.
    begins = sum(path.stat().st_size > 0 for path in tmp_path.glob("*.jsonl"))
    assert report.writers == kills
    # The operation that was under way may have its entry, too.
    assert acknowledged <= report.entries - begins <= acknowledged + kills


def test_processes_that_share_a_folder_have_chains_of_their_own(tmp_path: Path) -> None:
    code = WRITER.replace("while True", "while n < 200")
    processes = [
        subprocess.Popen([sys.executable, "-c", code, tmp_path, KEY], stdout=subprocess.DEVNULL, cwd=PROJECT)
        for _ in range(3)
    ]
    assert [process.wait(120) for process in processes] == [0, 0, 0]
    report = verify(tmp_path, key=KEY)
    assert report.findings == []
    assert report.writers == 3
    # None was closed, but the interpreter ended in order.
    assert report.unsealed == 0
    assert report.entries == 600 + len(list(tmp_path.glob("*.jsonl")))


async def test_a_forked_process_has_a_chain_of_its_own(tmp_path: Path) -> None:
    journal = FileJournal(AuditOptions(path=str(tmp_path), key=KEY))
    journal.add(entry(1))
    child = os.fork()
    if child == 0:
        try:
            journal.add(entry(2), entry(3))
            journal._finish()
        finally:
            os._exit(0)
    async with asyncio.timeout(120):
        await asyncio.to_thread(os.waitpid, child, 0)
    journal.add(entry(4))
    await journal.end()
    assert verify(tmp_path, key=KEY) == Report(entries=6, writers=2)


async def test_a_forged_head_deceives_no_later_writer(folder: Path) -> None:
    head = Head(f"20200101T000000000000Z-{'0' * 12}", 99, "0" * 64, "", True, datetime.now(UTC))
    forged = folder / "heads" / f"{head.writer}.head.json"
    forged.write_bytes(Seal(None).sealed(head)[0])
    (folder / "heads" / "junk.head.json").write_bytes(b"\xff")
    (folder / "heads" / "deep.head.json").write_bytes(DEEP)
    later = FileJournal(AuditOptions(path=str(folder), key=KEY))
    later.add(entry(1))
    await later.end()
    assert {finding.writer for finding in verify(folder, key=KEY).findings} == {head.writer, "junk", "deep"}
    forged.unlink()
    (folder / "heads" / "deep.head.json").unlink()
    (folder / "heads" / "junk.head.json").unlink()
    assert verify(folder, key=KEY).ok


@pytest.mark.parametrize("seed", range(50 if SOAK else 8))
async def test_a_disk_that_fails_now_and_then_is_no_tampering(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    chance = random.Random(seed)
    likely = 0.0

    def failing(real: Callable[..., Any], place: str | None = None) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            if chance.random() >= likely or (place is not None and place not in str(arguments[0])):
                return real(*arguments)
            if real is write and chance.random() < 0.5:
                return real(arguments[0], arguments[1][: len(arguments[1]) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")

        return call

    write = os.write
    monkeypatch.setattr(os, "write", failing(os.write))
    monkeypatch.setattr(os, "ftruncate", failing(os.ftruncate))
    monkeypatch.setattr(os, "open", failing(os.open, str(tmp_path)))
    options = AuditOptions(path=str(tmp_path), key=KEY, rotate_bytes=4096, sync_ms=chance.choice([1, 5, 50]))
    journals = [FileJournal(options) for _ in range(2)]
    written = lost = 0
    for n in range(120):
        likely = chance.choice([0, 0, 0, 0.3, 0.9])
        journal = chance.choice(journals)
        try:
            journal.add(entry(n))
            written += 1
        except AuditUnavailableError:
            lost += 1
        if chance.random() < 0.02:
            likely = 0
            await journal.end()
    likely = 0
    for journal in journals:
        await journal.end()
    report = verify(tmp_path, key=KEY)
    assert (report.findings, report.unsealed, report.gaps) == ([], 0, lost)
    assert report.entries >= written + len(list(tmp_path.glob("*.jsonl")))


async def test_a_log_can_be_verified_while_it_is_written(tmp_path: Path) -> None:
    journal = FileJournal(AuditOptions(path=str(tmp_path), key=KEY, sync_ms=1, rotate_bytes=20_000))
    for n in range(40):
        journal.add(*(entry(m) for m in range(n)))
        report = await asyncio.to_thread(verify, tmp_path, key=KEY)
        assert report.findings == []
    await journal.end()
    assert verify(tmp_path, key=KEY).ok


# -- the table


@pytest.fixture
async def store(task_store: tuple[str, Any], tmp_path: Path) -> AsyncIterator[StorageBackend]:
    kind, server = task_store
    if kind == "memory":
        yield MemoryBackend()
    elif kind == "file":
        async with FileStorageBackend(tmp_path / "data") as backend:
            yield backend
    else:
        name = f"a-{uuid.uuid4().hex}"
        async with AzureStorageBackend(server.connection_string, container=name) as backend:
            yield backend


type Change = Callable[[StorageBackend, str, str, random.Random], Any]


async def edit_row(store: StorageBackend, table: str, writer: str, chance: random.Random) -> int:
    seq, row = await _row(store, table, writer, chance)
    row["entry"] = row["entry"].replace('"actor":"system"', '"actor":"nobody"')
    await store.tables.upsert(table, writer, f"{seq:012}", row, mode="replace")
    return seq


async def edit_column(store: StorageBackend, table: str, writer: str, chance: random.Random) -> int:
    seq, row = await _row(store, table, writer, chance)
    row["actor"] = "nobody"
    await store.tables.upsert(table, writer, f"{seq:012}", row, mode="replace")
    return seq


async def drop_row(store: StorageBackend, table: str, writer: str, chance: random.Random) -> int:
    seq, _ = await _row(store, table, writer, chance)
    await store.tables.delete(table, writer, f"{seq:012}")
    return seq


async def swap_rows(store: StorageBackend, table: str, writer: str, chance: random.Random) -> int:
    (one, first), (two, second) = [await _row(store, table, writer, chance) for _ in range(2)]
    while one == two:
        two, second = await _row(store, table, writer, chance)
    await store.tables.upsert(table, writer, f"{one:012}", second, mode="replace")
    await store.tables.upsert(table, writer, f"{two:012}", first, mode="replace")
    return one


async def cut_rows(store: StorageBackend, table: str, writer: str, chance: random.Random) -> int:
    last = max(
        [entity.row_key async for entity in store.tables.iterate(table, f"PartitionKey eq '{writer}'")]
    )
    await store.tables.delete(table, writer, last)
    return int(last)


async def insert_row(store: StorageBackend, table: str, writer: str, chance: random.Random) -> int:
    seq, row = await _row(store, table, writer, chance)
    await store.tables.upsert(table, writer, f"{seq:012}5", row, mode="replace")
    return seq


async def _row(
    store: StorageBackend, table: str, writer: str, chance: random.Random
) -> tuple[int, dict[str, Any]]:
    seq = chance.randrange(2, ROWS)
    entity = await store.tables.get(table, writer, f"{seq:012}")
    return seq, dict(entity.properties)


ROWS = 150
CHANGES: list[Change] = [edit_row, edit_column, drop_row, swap_rows, cut_rows, insert_row]


async def test_every_tampering_with_the_table_is_found_and_named(store: StorageBackend) -> None:
    table = f"audit{uuid.uuid4().hex[:8]}"
    layer = AuditLayer(store, AuditOptions(sink="table", table=table, key=KEY))
    for n in range(ROWS - 1):
        await layer.objects.put(f"k{n}", b"x")
    journal = await layer.recorder.journal()
    await journal.end()
    untouched = await verify_table(layer, table, key=KEY)
    assert untouched == Report(entries=ROWS, writers=1)
    rows = [entity async for entity in store.tables.iterate(table)]
    writer = rows[0].partition_key
    chance = random.Random(3)
    for n in range(TABLE_TAMPERINGS if not isinstance(store, AzureStorageBackend) else len(CHANGES)):
        change = CHANGES[n % len(CHANGES)]
        touched = await change(store, table, writer, chance)
        report = await verify_table(layer, table, key=KEY)
        assert touched in {finding.sequence for finding in report.findings}, (change, report.findings)
        assert {(finding.where, finding.writer) for finding in report.findings} == {(table, writer)}
        await _restored(store, table, rows)
    assert await verify_table(layer, table, key=KEY) == untouched
    await store.tables.delete(f"{table}heads", "heads", writer)
    assert kinds(await verify_table(layer, table, key=KEY)) == {"head"}


async def _restored(store: StorageBackend, table: str, rows: list[Any]) -> None:
    now = {entity.row_key: entity async for entity in store.tables.iterate(table)}
    before = {entity.row_key: entity for entity in rows}
    for key in now.keys() - before.keys():
        await store.tables.delete(table, now[key].partition_key, key)
    for key, entity in before.items():
        if key not in now or now[key].properties != entity.properties:
            await store.tables.upsert(table, entity.partition_key, key, entity.properties, mode="replace")


async def test_a_whole_partition_that_is_missing_is_found() -> None:
    store = MemoryBackend()
    layer = AuditLayer(store, AuditOptions(sink="table"))
    await layer.objects.put("a", b"x")
    await (await layer.recorder.journal()).end()
    for entity in await store.tables.iterate("audit"):
        await store.tables.delete("audit", entity.partition_key, entity.row_key)
    (finding,) = (await verify_table(store)).findings
    assert (finding.kind, finding.sequence) == ("cut-off", 1)


TABLE_WRITER = """
import asyncio, sys
from storage_lib.backends.file import FileStorageBackend
from storage_lib.config.audit import AuditOptions
from storage_lib.layers.audit import AuditLayer

async def main():
    options = AuditOptions(sink="table", key=sys.argv[2], sync_ms=1)
    layer = AuditLayer(FileStorageBackend(sys.argv[1]), options)
    n = 0
    while True:
        await layer.queues.create_queue(f"queue-{n}")
        n += 1
        print(n, flush=True)

asyncio.run(main())
"""


def test_a_killed_writer_of_the_table_is_no_tampering(tmp_path: Path) -> None:
    chance = random.Random(11)
    kills = 10 if SOAK else 2
    for _ in range(kills):
        process = subprocess.Popen(
            [sys.executable, "-c", TABLE_WRITER, tmp_path, KEY],
            stdout=subprocess.PIPE,
            text=True,
            cwd=PROJECT,
        )
        assert process.stdout is not None
        for _ in range(chance.randrange(100, 200)):
            assert process.stdout.readline()
        process.kill()
        process.stdout.close()
        process.wait()

    async def verified() -> Report:
        async with FileStorageBackend(tmp_path) as backend:
            return await verify_table(backend, key=KEY)

    report = asyncio.run(verified())
    assert report.findings == []
    assert report.writers == kills
    assert report.entries > kills * 20


async def test_a_table_that_is_not_there_is_an_error() -> None:
    with pytest.raises(KeyNotFoundError):
        await verify_table(MemoryBackend())


# -- the command


async def test_the_exit_codes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AGENT_STORAGE_AUDIT_KEY", KEY)
    assert main(["verify", str(folder)]) == 0
    assert "0 findings" in capsys.readouterr().out
    lines = (path := sorted(folder.glob("*.jsonl"))[0]).read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:5] + lines[6:]))
    assert main(["verify", str(folder)]) == 1
    told = capsys.readouterr().out
    assert f"{path}: writer {path.name.partition('.')[0]}, entry 6: missing" in told
    assert main(["verify", str(folder / "nowhere")]) == 2
    for wrong in (["verify"], ["verify", "a", "--table", "b"], ["look"], []):
        with pytest.raises(SystemExit) as exit:
            main(wrong)
        assert exit.value.code == 2


async def test_the_command_runs(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    environment = {**os.environ, "AGENT_STORAGE_AUDIT_KEY": "another secret of sixteen", "OLD": KEY}
    for path, more, code, said in (
        (folder, ("--old-key-from", "OLD"), 0, "0 findings"),
        (folder, (), 1, "unverifiable"),
        (folder, ("--old-key-from", "OLDER"), 2, "OLDER is not set"),
        (tmp_path / "empty", (), 2, "there is no audit log in"),
    ):
        command = [sys.executable, "-m", "storage_lib.audit", "verify", str(path), *more]
        run = await asyncio.create_subprocess_exec(
            *command,
            cwd=PROJECT,
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await run.communicate()
        assert (run.returncode, said in output.decode()) == (code, True), output


def test_the_command_verifies_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def write() -> None:
        layer = AuditLayer(FileStorageBackend(tmp_path), AuditOptions(sink="table", key=KEY))
        await layer.objects.put("a", b"x")
        await layer.close()

    asyncio.run(write())
    for name in list(os.environ):
        if name.startswith("AGENT_STORAGE"):
            monkeypatch.delenv(name)
    for name, value in {"TYPE": "file", "PATH": str(tmp_path), "AUDIT": "table", "AUDIT_KEY": KEY}.items():
        monkeypatch.setenv(f"AGENT_STORAGE_{name}", value)
    assert main(["verify", "--table", "audit"]) == 0
    assert "2 entries of 1 writers, 0 findings" in capsys.readouterr().out
    assert main(["verify", "--table", "other"]) == 2
