"""Conditions and ranges by RFC 9110: every header in every combination, on every method and backend, against
an oracle of its own (tests/rfc9110.py)."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email.message import Message
from email.parser import BytesParser
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.ranges import spans
from storage_lib.backends.memory import MemoryBackend
from storage_lib.config import StorageConfig
from storage_lib.manager import StorageManager
from storage_lib.ports.backend import ByteRange
from tests.http_app import AppAnswer, PlatformApp, config_of, serve
from tests.layer_stacks import FULL, SOAK, stacked
from tests.rfc9110 import Expected, Resource, expected

BODY = b"0123456789"
KEY = "table/object"
TARGET = f"/api/objects/{KEY}"
METHODS = ("GET", "HEAD", "PUT", "PATCH", "DELETE")
VALUES: dict[str, tuple[str | None, ...]] = {
    "If-Match": (None, "*", '"a", "{tag}"', '"other"', 'W/"{tag}"'),
    "If-None-Match": (None, "*", '"{tag}"', '"other"', 'W/"{tag}"'),
    "If-Modified-Since": (None, "{before}", "{then}"),
    "If-Unmodified-Since": (None, "{before}", "{then}"),
    "If-Range": (None, '"{tag}"', '"other"', 'W/"{tag}"', "{then}"),
    "Range": (None, "bytes=2-3", "bytes=-4", "bytes=90-", "bytes=0-1, 7-", "bytes=5-1"),
}
"""``{tag}`` is the object's; ``{then}`` the second of its last change, ``{before}`` some seconds before."""
OF_GET = ("If-Range", "Range")
RANGES = (
    "bytes=0-0",
    "bytes=0-",
    "bytes=9-9",
    "bytes=9-100",
    "bytes=10-",
    "bytes=-1",
    "bytes=-10",
    "bytes=-100",
    "bytes=-0",
    "bytes=-",
    "bytes=",
    "bytes=,",
    "bytes=a-b",
    "bytes=1-2-3",
    "bytes=+1-2",
    "bytes=1.5-2",
    "bytes",
    "lines=1-2",
    "BYTES=1-2",
    " bytes=1-2 ",
    "bytes=1-2,",
    "bytes=,,1-2, ,4-5,",
    "bytes=4-5,1-2",
    "bytes=1-4,2-6",
    "bytes=2-6,1-4,8-8",
    "bytes=1-2,3-4",
    "bytes=3-4,1-2,-1",
    "bytes=0-,0-,0-",
    "bytes=-3,0-1",
    "bytes=1-2,90-",
    "bytes=90-,-0",
    "bytes=1-2,x",
    "bytes=1-2,5-1",
    "bytes=00001-00000000000000000000000000002",
    "bytes=99999999999999999999999999999999-",
    "bytes=0-99999999999999999999999999999999",
)


def combinations(names: tuple[str, ...]) -> Iterator[dict[str, str]]:
    for values in itertools.product(*(VALUES[name] for name in names)):
        yield {name: value for name, value in zip(names, values, strict=True) if value is not None}


EVERY = list(combinations(tuple(VALUES)))
WITHOUT_RANGES = [each for each in EVERY if not each.keys() & set(OF_GET)]


def pairwise(names: tuple[str, ...], seed: int) -> list[dict[str, str]]:
    """Few combinations, in which each two values of any two headers are met."""
    left = {
        ((one, a), (other, b))
        for one, other in itertools.combinations(names, 2)
        for a, b in itertools.product(VALUES[one], VALUES[other])
    }
    chosen: list[dict[str, str]] = []
    picks = random.Random(seed)
    while left:
        rows = [{name: picks.choice(VALUES[name]) for name in names} for _ in range(60)]
        needed = next(iter(sorted(left, key=repr)))
        for row in rows:
            row.update(needed)
        best = max(rows, key=lambda row: len(left & _pairs(row, names)))
        left -= _pairs(best, names)
        chosen.append({name: value for name, value in best.items() if value is not None})
    return chosen


def _pairs(row: Mapping[str, str | None], names: tuple[str, ...]) -> set[Any]:
    return {((a, row[a]), (b, row[b])) for a, b in itertools.combinations(names, 2)}


class Table:
    """The app, and the object that the table is of, or none."""

    def __init__(self, app: PlatformApp) -> None:
        self.app = app
        self.found: Resource | None = None
        self.data = BODY
        self._is_known = False

    async def fill(self, data: bytes) -> None:
        """Have the object with this content from now on."""
        self.data, self._is_known = data, False

    async def set(self, there: bool) -> None:
        """Have the object there, or not; it is left alone while that is so."""
        if self._is_known and (self.found is not None) == there:
            return
        if there:
            await self.app.storage.write(KEY, self.data, content_type="text/plain")
            info = await self.app.storage.info(KEY, fresh=True)
            self.found = Resource(self.data, info.etag, info.last_modified)
        else:
            await self.app.storage.delete(KEY, missing_ok=True)
            self.found = None
        self._is_known = True

    async def check(self, method: str, row: Mapping[str, str], there: bool) -> None:
        await self.set(there)
        modified = datetime.now(UTC) if self.found is None else self.found.modified
        dates = {"then": modified, "before": modified - timedelta(seconds=5)}
        texts = {name: format_datetime(moment, usegmt=True) for name, moment in dates.items()}
        tag = "tag" if self.found is None else self.found.tag
        headers = {name: value.format(tag=tag, **texts) for name, value in row.items()}
        want = expected(method, headers, self.found)
        body = {"PUT": BODY, "PATCH": json.dumps({"metadata": {"m": "1"}}).encode()}.get(method, b"")
        sent = headers | ({"Content-Type": "application/json"} if method == "PATCH" else {})
        answer = await self.app(method, TARGET, body, sent)
        said = (method, there, headers, answer)
        assert answer.status == want.status, said
        if method not in ("GET", "HEAD") and want.status < 300:
            self._is_known = False  # It was changed, as it should be.
        if want.failed is not None and method != "HEAD":
            assert answer.problem["field"] == want.failed, said
        if want.status == 304:
            assert answer.headers["etag"] == f'"{tag}"', said
            assert answer.body == b"", said
        if want.status == 416:
            assert answer.headers["content-range"] == f"bytes */{len(self.data)}", said
        if method in ("GET", "HEAD") and want.status in (200, 206, 304):
            # What every one of these has (15.3.7 and 15.4.5).
            assert answer.headers["vary"] == "Accept-Encoding", said
            assert answer.headers["cache-control"] == "private, no-cache", said
            assert answer.headers["etag"] == f'"{tag}"', said
        if method in ("GET", "HEAD") and want.status in (200, 206):
            check_body(method, answer, want, self.data)


def check_body(method: str, answer: AppAnswer, want: Expected, data: bytes) -> None:
    if want.parts is None:
        assert "content-range" not in answer.headers
        assert answer.headers["content-length"] == str(len(data))
        assert answer.body == (data if method == "GET" else b"")
        return
    if len(want.parts) == 1:
        first, last = want.parts[0]
        assert answer.headers["content-range"] == f"bytes {first}-{last}/{len(BODY)}"
        assert answer.body == BODY[first : last + 1]
        return
    assert "content-range" not in answer.headers
    assert parts_of(answer) == [
        ("text/plain", f"bytes {first}-{last}/{len(BODY)}", BODY[first : last + 1])
        for first, last in want.parts
    ]


def parts_of(answer: AppAnswer) -> list[tuple[str | None, str | None, bytes]]:
    """As a MIME parser reads them."""
    content_type = answer.headers["content-type"]
    assert content_type.startswith("multipart/byteranges; boundary=")
    message: Message = BytesParser().parsebytes(
        b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + answer.body
    )
    assert not message.defects
    return [
        (part["Content-Type"], part["Content-Range"], part.get_payload(decode=True))  # type: ignore[misc]
        for part in message.get_payload()  # type: ignore[union-attr]
    ]


@pytest.fixture(params=["memory", "file"] if SOAK else ["memory"])
async def local(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> AsyncIterator[Table]:
    """The others have each pair of headers."""
    async with serve(monkeypatch, await config_of(request.param, None, tmp_path)) as app:
        yield Table(app)


async def test_every_combination_of_a_get(local: Table) -> None:
    for there in (True, False):
        rows = EVERY if there else random.Random(9110).sample(EVERY, 500)
        for row in rows:
            await local.check("GET", row, there)


@pytest.mark.parametrize("method", [each for each in METHODS if each != "GET"])
async def test_every_combination_of_another_method(local: Table, method: str) -> None:
    """Ranges mean nothing there (14.2): with a few of them the answer is the same."""
    for there in (True, False):
        for row in WITHOUT_RANGES:
            await local.check(method, row, there)
    for row in random.Random(9110).sample(EVERY, 100):
        await local.check(method, row, True)


async def test_each_pair_of_headers_on_every_backend(platform_anywhere: PlatformApp) -> None:
    """`make soak` has every combination."""
    table = Table(platform_anywhere)
    for row in EVERY if SOAK else pairwise(tuple(VALUES), 14):
        await table.check("GET", row, True)
    for method in METHODS[1:]:
        rows = WITHOUT_RANGES if SOAK else random.Random(method).sample(WITHOUT_RANGES, 12)
        for row in rows:
            await table.check(method, row, True)
    for method in METHODS:
        rows = WITHOUT_RANGES if SOAK else random.Random(method).sample(WITHOUT_RANGES, 4)
        for row in rows:
            await table.check(method, row, False)


async def test_each_pair_of_headers_behind_all_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve(monkeypatch, StorageConfig(storage_type="memory")) as app:
        storage = StorageManager(backend=stacked(MemoryBackend(), FULL))
        monkeypatch.setitem(vars(app.state), "storage", storage)
        table = Table(app)
        for row in pairwise(tuple(VALUES), 14):
            await table.check("GET", row, True)
        for method in METHODS[1:]:
            for row in random.Random(method).sample(WITHOUT_RANGES, 12):
                await table.check(method, row, True)
        for data in (BODY, b""):
            await table.fill(data)
            for value in RANGES:
                await table.check("GET", {"Range": value}, True)


async def test_every_form_of_a_range(local: Table) -> None:
    for value in RANGES:
        await local.check("GET", {"Range": value}, True)
        await local.check("GET", {"Range": value, "If-Range": '"{tag}"'}, True)


async def test_every_form_of_a_range_of_nothing(platform_anywhere: PlatformApp) -> None:
    table = Table(platform_anywhere)
    await table.fill(b"")
    for value in RANGES:
        await table.check("GET", {"Range": value}, True)
    for row in ({"If-None-Match": '"{tag}"'}, {"If-Match": '"other"'}, {"If-Range": '"other"'}):
        await table.check("GET", {"Range": "bytes=-4", **row}, True)


DATES = (
    "%A, %d-%b-%y %H:%M:%S GMT",
    "%a %b %e %H:%M:%S %Y",
    "%a, %d %b %Y %H:%M:%S GMT",
)
"""The forms of 5.6.7; the last is the one that is sent."""


@pytest.mark.parametrize("form", DATES, ids=["rfc850", "asctime", "imf"])
async def test_every_form_of_a_date(platform: PlatformApp, form: str) -> None:
    await platform.storage.write(KEY, BODY)
    modified = (await platform.storage.info(KEY)).last_modified
    for seconds, since, unless in ((-5, 200, 412), (0, 304, 200), (5, 304, 200)):
        text = (modified + timedelta(seconds=seconds)).strftime(form)
        assert (await platform("GET", TARGET, headers={"If-Modified-Since": text})).status == since
        assert (await platform("GET", TARGET, headers={"If-Unmodified-Since": text})).status == unless


async def test_several_ranges_on_every_backend(platform_anywhere: PlatformApp) -> None:
    table = Table(platform_anywhere)
    for value in RANGES:
        if "," in value:
            await table.check("GET", {"Range": value}, True)


def test_the_oracle_and_the_app_are_not_the_same_code() -> None:
    """Some rows as the standard has them, by hand."""
    modified = datetime(2026, 1, 1, 12, 0, 0, 500_000, tzinfo=UTC)
    found = Resource(BODY, "t", modified)
    then, before = (format_datetime(modified - timedelta(seconds=n), usegmt=True) for n in (0, 5))
    rows: list[tuple[str, dict[str, str], Resource | None, Expected]] = [
        ("GET", {}, found, Expected(200)),
        ("GET", {}, None, Expected(404)),
        ("DELETE", {"If-Match": '"x"'}, None, Expected(404)),
        ("PUT", {"If-Match": "*"}, None, Expected(412, failed="If-Match")),
        ("PUT", {"If-None-Match": "*"}, None, Expected(201)),
        ("PUT", {"If-None-Match": "*"}, found, Expected(412, failed="If-None-Match")),
        ("GET", {"If-None-Match": 'W/"t"', "If-Modified-Since": before}, found, Expected(304)),
        ("GET", {"If-Match": 'W/"t"'}, found, Expected(412, failed="If-Match")),
        ("GET", {"If-Match": '"t"', "If-Unmodified-Since": before}, found, Expected(200)),
        ("GET", {"If-Unmodified-Since": before}, found, Expected(412, failed="If-Unmodified-Since")),
        ("GET", {"If-Modified-Since": then}, found, Expected(304)),
        ("PUT", {"If-Modified-Since": then}, found, Expected(200)),
        ("GET", {"Range": "bytes=2-3"}, found, Expected(206, [(2, 3)])),
        ("GET", {"Range": "bytes=2-3", "If-Range": then}, found, Expected(200)),
        ("GET", {"Range": "bytes=90-", "If-None-Match": '"t"'}, found, Expected(304)),
        ("GET", {"Range": "bytes=90-"}, found, Expected(416)),
        ("HEAD", {"Range": "bytes=2-3"}, found, Expected(200)),
        ("GET", {"Range": "bytes=4-5,1-2"}, found, Expected(206, [(4, 5), (1, 2)])),
        ("GET", {"Range": "bytes=1-4,2-6"}, found, Expected(206, [(1, 6)])),
        ("GET", {"Range": "bytes=-4"}, Resource(b"", "t", modified), Expected(200)),
        ("GET", {"Range": "bytes=-0"}, Resource(b"", "t", modified), Expected(416)),
        ("GET", {"Range": "bytes=0-"}, Resource(b"", "t", modified), Expected(416)),
    ]
    for method, headers, resource, want in rows:
        assert expected(method, headers, resource) == want, (method, headers)


# -- several ranges


@given(
    st.integers(0, 60),
    st.lists(
        st.one_of(
            st.tuples(st.integers(0, 70), st.integers(1, 30)).map(lambda each: ByteRange(each[0], sum(each))),
            st.integers(0, 70).map(ByteRange),
            st.integers(1, 70).map(lambda count: ByteRange(-count)),
        ),
        max_size=12,
    ),
)
def test_no_byte_is_sent_twice_and_each_that_was_asked_for_is(size: int, wanted: list[ByteRange]) -> None:
    found = spans(wanted, size)
    sent = [byte for start, end in found for byte in range(start, end)]
    asked: set[int] = set()
    for each in wanted:
        start = max(size + each.start, 0) if each.start < 0 else each.start
        asked |= set(range(start, size if each.end is None else min(each.end, size)))
    assert len(sent) == len(set(sent))
    assert set(sent) == asked
    ends = {end for _, end in found}
    assert not any(start in ends for start, _ in found), "what touches is one part"


async def test_too_many_ranges_get_the_whole_object(platform: PlatformApp) -> None:
    data = bytes(range(256)) * 4
    await platform.storage.write("a", data)
    many = [f"{n * 4}-{n * 4}" for n in range(64)]
    answer = await platform("GET", "/api/objects/a", headers={"Range": f"bytes={','.join(many)}"})
    assert [part[2] for part in parts_of(answer)] == [data[n * 4 : n * 4 + 1] for n in range(64)]
    for more in ([*many, "9-9"], ["0-"] * 2000):
        answer = await platform("GET", "/api/objects/a", headers={"Range": f"bytes={','.join(more)}"})
        assert (answer.status, answer.body) == (200, data)


async def test_ranges_far_apart_are_read_apart(
    platform: PlatformApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = random.Random(1).randbytes(3_000_000)
    await platform.storage.write("a", data)
    read: list[Any] = []
    get = platform.storage.backend.objects.get

    async def noting(key: str, **options: Any) -> Any:
        read.append(options["byte_range"])
        return await get(key, **options)

    monkeypatch.setattr(platform.storage.backend.objects, "get", noting)
    headers = {"Range": "bytes=0-9, 2999990-, 1500000-1500009"}
    answer = await platform("GET", "/api/objects/a", headers=headers)
    assert [part[2] for part in parts_of(answer)] == [data[:10], data[-10:], data[1_500_000:1_500_010]]
    assert sum(each.end - each.start for each in read) == 30
    read.clear()
    answer = await platform("GET", "/api/objects/a", headers={"Range": "bytes=0-9,900000-900009"})
    assert [part[2] for part in parts_of(answer)] == [data[:10], data[900_000:900_010]]
    assert len(read) == 1


async def test_parts_are_of_one_version(platform: PlatformApp, monkeypatch: pytest.MonkeyPatch) -> None:
    await platform.storage.write("a", b"old 0123456789")
    info = platform.storage.info

    async def replaced_after(key: str, **options: Any) -> Any:
        found = await info(key, **options)
        monkeypatch.setattr(platform.storage, "info", info)
        await platform.storage.write("a", b"new 0123456789")
        return found

    monkeypatch.setattr(platform.storage, "info", replaced_after)
    answer = await platform("GET", "/api/objects/a", headers={"Range": "bytes=0-2,4-4"})
    assert [part[2] for part in parts_of(answer)] == [b"new", b"0"]
    assert answer.headers["etag"] == f'"{(await info("a")).etag}"'
