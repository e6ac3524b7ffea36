"""Archives that are damaged, cut off or made to do harm: what is lost is named, and nothing else is lost."""

from __future__ import annotations

import asyncio
import io
import itertools
import os
import random
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from storage_lib.archive import RestoreReport, StoredArchive, backup, restore, verify
from storage_lib.archive.entries import About, tar_header
from storage_lib.errors import IntegrityError, ObjectTooLargeError
from storage_lib.manager import StorageManager
from storage_lib.zstandard import zstd
from tests.archives import archive_of, content, fill, made, memory, restored

SOAK = os.environ.get("SOAK") == "1"
PARTS = 64 if SOAK else 2
"""Of the bytes of an archive, each for a test of its own: all take a processor four minutes."""


async def sample(*, tables: bool = False) -> tuple[StorageManager, bytes]:
    """A store, and an archive in which some objects have several frames."""
    storage = memory()
    await fill(storage, large=1_100_000)
    await storage.delete("noise")
    await storage.write("inner", (await archive_of(storage))[0], metadata={"is": "itself an archive"})
    if tables:
        await storage.backend.tables.insert("people", "p", "r", {"n": 1})
    return storage, (await archive_of(storage, tables=["people"] if tables else []))[0]


async def check(
    archive: bytes, storage: StorageManager, most: int, before: dict[str, Any] | None = None
) -> RestoreReport:
    """What is restored is as it was; what is not, at most so many objects, is named.

    :param before: the store's content, where it need not be read each time."""
    other, report = await restored(archive)
    before, after = before or await content(storage), await content(other)
    assert all(after[key] == before[key] for key in after)
    lost = before.keys() - after.keys()
    assert len(lost) <= most, (sorted(lost), report.damage)
    named = {damage.name for damage in report.damage}
    counted = sum(
        int(text.split()[0]) for each in report.damage if (text := each.what.partition("with them the ")[2])
    )
    assert len(lost - named) <= counted, (sorted(lost), report.damage)
    assert report.damages
    assert not report.ok
    verified = await verify(io.BytesIO(archive))
    assert (verified.ok, verified.damages) == (False, report.damages)
    return report


@pytest.mark.parametrize("part", range(PARTS), ids="part-{}".format)
async def test_one_flipped_bit_anywhere_costs_one_object_at_most_and_is_named(part: int) -> None:
    storage, archive = await sample()
    before = await content(storage)
    for at in range(part, len(archive), PARTS if SOAK else 149 * PARTS):
        damaged = bytearray(archive)
        damaged[at] ^= 1 << (at % 8)
        report = await check(bytes(damaged), storage, 1, before)
        assert report.complete or at > len(archive) - 300, at


async def test_other_damage_costs_what_it_touches() -> None:
    """Bytes that are missing, that are too many, and that were overwritten."""
    storage, archive = await sample()
    noise = random.Random(3)
    for _ in range(300 if SOAK else 40):
        at = noise.randrange(len(archive))
        await check(archive[:at] + archive[at + noise.choice((1, 8, 100)) :], storage, 2)
        await check(archive[:at] + noise.randbytes(noise.choice((1, 36, 500))) + archive[at:], storage, 2)
        await check(archive[:at] + bytes(200) + archive[at + 200 :], storage, 3)


MARK = b"\x57\x2a\x4d\x18"
"""How heads begin."""


def heads(archive: bytes) -> list[int]:
    """Where they are; the archive that is an object of the other has heads too, and another number."""
    at = archive.index(b"AGENTSTO")
    number = archive[at : at + 24]
    starts = [n for n in range(len(archive)) if archive.startswith(MARK, n)]
    return [n for n in starts if archive[n + 8 : n + 32] == number]


@pytest.mark.parametrize("over", [1, 4, 7, 12, 60], ids="{}-bytes-of-a-head".format)
async def test_damage_over_the_end_of_a_frame_and_the_head_behind_it(over: int) -> None:
    """Both entries are named or restored, whichever two it hits."""
    storage, archive = await sample()
    at_heads = heads(archive)
    assert len(at_heads) > 15
    for at in at_heads[1:]:
        start, end = at - 9, at + over
        report = await check(archive[:start] + archive[end:], storage, 2)
        assert not any("cannot be told" in each.what for each in report.damage), (at, report.damage)
        await check(archive[:start] + bytes(end - start) + archive[end:], storage, 2)
        await check(archive[:start] + b"\xff" * 30 + archive[end:], storage, 2)


async def test_a_missing_frame_names_its_entry_also_if_it_is_the_first() -> None:
    storage, archive = await sample()
    at_heads = heads(archive)
    [damage] = (await check(archive[: at_heads[0]] + archive[at_heads[1] :], storage, 1)).damage
    assert (damage.what, damage.name) == ("a frame is damaged or missing", "brief.txt")


async def test_a_frame_that_is_there_again_with_a_damaged_head_costs_nothing() -> None:
    storage, archive = await sample()
    at_heads = heads(archive)
    for at, behind in itertools.pairwise(at_heads[:7]):
        again = bytearray(archive[at:behind])
        again[20] ^= 1
        await check(archive[:behind] + bytes(again) + archive[behind:], storage, 0)


async def test_a_hole_of_many_entries_is_told_with_what_is_around_it() -> None:
    storage, archive = await sample()
    marks = [n for n in range(len(archive)) if archive.startswith(b"\x57\x2a\x4d\x18", n)]
    at, behind = marks[2], marks[6]
    other, report = await restored(archive[:at] + archive[behind:])
    lost = (await content(storage)).keys() - (await content(other)).keys()
    assert len(lost) == 4
    [damage] = report.damage
    assert "4 frames are damaged or missing" in damage.what
    assert "4 entries" in damage.what
    assert damage.name.startswith("after ")


async def test_an_archive_that_ends_early_gives_what_it_has() -> None:
    storage, archive = await sample(tables=True)
    before = await content(storage)
    for at in range(1000, len(archive), 97 if SOAK else 4001):
        other, report = await restored(archive[:at])
        after = await content(other)
        assert not report.complete
        assert not report.ok
        assert any("truncated" in damage.what or "cut off" in damage.what for damage in report.damage)
        assert all(after[key] == before[key] for key in after)
        assert len(after) + report.damages >= 1
    assert not (await restored(archive[:-1]))[1].ok
    for more in (b"\0", archive):
        _, report = await restored(archive + more)
        assert [damage.what for damage in report.damage] == ["there are bytes behind the end of the archive"]


async def test_damage_in_a_table_costs_a_part_of_it() -> None:
    storage = memory()
    for n in range(1000):
        await storage.backend.tables.insert("people", "p", f"{n:04}", {"text": os.urandom(200).hex()})
    archive, _ = await archive_of(storage, tables=["people"])
    damaged = bytearray(archive)
    damaged[len(archive) // 2] ^= 1
    other, report = await restored(bytes(damaged))
    assert [damage.name for damage in report.damage] == ["table people"]
    assert 500 < len(await other.backend.tables.iterate("people")) == report.restored < 1000


async def test_an_archive_in_a_store_is_read_though_it_is_damaged(tmp_path: Path) -> None:
    storage, archive = await sample()
    damaged = bytearray(archive)
    damaged[len(archive) // 2] ^= 1
    keeper = memory()
    await keeper.write("backup", bytes(damaged))
    other = memory()
    report = await restore(other, StoredArchive(keeper, "backup"))
    assert len((await content(storage)).keys() - (await content(other)).keys()) == 1
    assert report.damages == 1
    path = tmp_path / "damaged"
    path.write_bytes(damaged)
    assert (await verify(path)).damage == report.damage


@pytest.mark.parametrize(
    "data",
    [b"", b"x", bytes(5000), zstd.compress(b"x" * 5000), b"PK\x03\x04" * 100, b"\x57\x2a\x4d\x18" * 1000],
    ids=["empty", "short", "zeros", "zstd", "zip", "marks"],
)
async def test_what_is_no_archive_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError, match="not an archive of this library"):
        await restored(data)
    with pytest.raises(IntegrityError, match="not an archive of this library"):
        await verify(io.BytesIO(data))


async def test_a_tar_of_another_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x" * 10_000)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(tmp_path / "file")
    with pytest.raises(IntegrityError, match="not an archive"):
        await restored(zstd.compress((tmp_path / "a.tar").read_bytes()))


def member(kind: bytes) -> bytes:
    info = tarfile.TarInfo("objects/x")
    info.type, info.linkname = kind, "/etc/passwd"
    return info.tobuf(tarfile.PAX_FORMAT)


HOSTILE: dict[str, Callable[[], tuple[About, bytes] | bytes]] = {
    "path": lambda: (About("object", "../../etc/passwd", 1, "text/plain"), b"x"),
    "absolute": lambda: (About("object", "/etc/passwd", 1, "text/plain"), b"x"),
    "windows": lambda: (About("object", "..\\x", 1, "text/plain"), b"x"),
    "reserved key": lambda: (About("object", ".system/ttl/0/x", 1, "text/plain"), b"x"),
    "no key": lambda: (About("object", "", 1, "text/plain"), b"x"),
    "control characters": lambda: (About("object", "a\nb", 1, "text/plain"), b"x"),
    "no type": lambda: (About("object", "x", 1, "text\r\nx: y"), b"x"),
    "metadata": lambda: (About("object", "x", 1, "text/plain", {"a": "b\r\nx: y"}), b"x"),
    "a header": lambda: (About("object", "x", 1, "text/plain", {"aos-cache-control": "b\r\nx: y"}), b"x"),
    "much metadata": lambda: (About("object", "x", 1, "text/plain", {"a": "b" * 9000}), b"x"),
    "reserved metadata": lambda: (About("object", "x", 1, "text/plain", {"aos-encrypted": "1"}), b"x"),
    "a life without end": lambda: (About("object", "x", 1, "text/plain", {"aos-expires": "-1"}), b"x"),
    "wrong checksum": lambda: (About("object", "x", 1, "text/plain", sha256="0" * 64), b"x"),
    "symbolic link": lambda: member(tarfile.SYMTYPE),
    "hard link": lambda: member(tarfile.LNKTYPE),
    "device": lambda: member(tarfile.CHRTYPE),
    "folder": lambda: member(tarfile.DIRTYPE),
    "a file without a record": lambda: member(tarfile.REGTYPE),
    "link with a record": lambda: _typed(tarfile.SYMTYPE),
    "no tar": lambda: b"\xff" * 3000,
    "short": lambda: b"x",
    "negative": lambda: tar_header(About("object", "x", -5, "text/plain"), "x").replace(b"-5", b"-5"),
    "huge": lambda: tar_header(About("object", "x", 2**62, "text/plain"), "x"),
    "longer than there is": lambda: tar_header(About("object", "x", 2**33, "text/plain"), "x"),
    "a table's name": lambda: (About("table", "../x", 3), b"{}\n"),
    "a table's lines": lambda: (About("table", "people", 8), b"no json\n"),
    "a table's types": lambda: _entity(b'{"q":1}'),
    "a table's times": lambda: _entity(b'{"datetime":1}'),
    "a table's bytes": lambda: _entity(b'{"bytes":"?"}'),
    "a table's keys": lambda: _entity(b"1", b"a/b"),
}  # fmt: skip


def _entity(value: bytes, key: bytes = b"r") -> tuple[About, bytes]:
    line = b'{"pk":"p","rk":"%s","properties":{"a":%s}}' % (key, value)
    return About("table", "people", len(line)), line


def _typed(kind: bytes) -> bytes:
    header = bytearray(tar_header(About("object", "x", 0, "text/plain"), "x"))
    header[-512 + 156 : -512 + 157] = kind
    block = tarfile.TarInfo.frombuf(_summed(bytes(header[-512:])), "utf-8", "strict")
    return bytes(header[:-512]) + block.tobuf(tarfile.USTAR_FORMAT)


def _summed(block: bytes) -> bytes:
    total = 256 + sum(block[:148]) + sum(block[156:])
    return block[:148] + b"%06o\0 " % total + block[156:]


@pytest.mark.parametrize("name", HOSTILE)
async def test_what_an_archive_must_not_do_is_refused_and_the_rest_restored(name: str) -> None:
    good = (About("object", "good", 2, "text/plain"), b"ok")
    archive = await made((About("object", "first", 2, "text/plain"), b"ok"), HOSTILE[name](), good)
    other, report = await restored(archive)
    assert await other.list_keys() == ["first", "good"]
    assert report.failed.count + report.damages == 1
    assert (report.ok, report.restored) == (False, 2)


async def test_an_archive_does_not_expand_without_bounds() -> None:
    """Zeros shrink to a thousandth and no further, and a frame that says that it is more is refused."""
    storage = memory()
    await storage.write("zeros", bytes(20_000_000))
    archive, _ = await archive_of(storage)
    assert len(archive) > 20_000
    assert (await restored(archive))[1].ok
    with pytest.raises(ObjectTooLargeError, match="more than 10000000 bytes"):
        await restored(archive, max_bytes=10_000_000)

    frame = zstd.compress(bytes(1024 * 1024))
    for size, stored in (
        (1024 * 1024, frame),
        (2**31, zstd.compress(bytes(30_000_000))),
        (-5, frame),
        (3, frame),
    ):
        bomb = await with_frame(size, stored)
        other, report = await restored(bomb)
        assert await other.list_keys() == []
        assert report.damages


async def with_frame(size: int, stored: bytes) -> bytes:
    """An archive with a frame of this size, as its head says, and these bytes."""
    archive = await made()
    mark = archive.index(b"\x57\x2a\x4d\x18")
    nonce = archive[mark + 16 : mark + 32]
    content = (
        b'{"type":"frame","index":1,"entry":1,"part":0,"name":"bomb","stored":%d,"size":%d,"crc":%d}'
        % (len(stored), size, zlib.crc32(stored))
    )
    start = b"\x57\x2a\x4d\x18" + (28 + len(content)).to_bytes(4, "little") + b"AGENTSTO" + nonce
    head = start + zlib.crc32(content, zlib.crc32(start)).to_bytes(4, "little") + content
    return archive[:mark] + head + stored + archive[mark:]


async def test_a_restore_from_a_damaged_archive_of_files(tmp_path: Path) -> None:
    """What was damaged is stored by the restore of a sound copy, and nothing else is."""
    storage, archive = await sample()
    damaged = bytearray(archive)
    damaged[len(archive) // 2] ^= 1
    other, first = await restored(bytes(damaged))
    second = await restore(other, io.BytesIO(archive))
    assert (second.restored, second.unchanged) == (1, first.restored)
    assert await content(other) == await content(storage)
    await asyncio.wait_for(backup(other, tmp_path / "again"), 120)
