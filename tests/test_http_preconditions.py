"""Preconditions and parts, held against RFC 9110, 13.2.2: every combination, on every route of an object."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import azure.functions as func
import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.dates import http_date, parsed
from functions.headers import header as header_of
from storage_lib.backends.memory import MemoryBackend
from storage_lib.manager import StorageManager
from tests.effort import SOAK
from tests.http_app import PlatformApp, config_of, serve

BODY = b"0123456789"
METHODS = ("GET", "HEAD", "PUT", "DELETE")
KINDS = ("there", "missing", "expired")


@dataclass(frozen=True)
class Tags:
    """A list of entity tags; ``{tag}`` is the object's. Whether it holds that as it is, and weakly."""

    text: str
    strong: bool
    weak: bool


@dataclass(frozen=True)
class Date:
    """Seconds after the object was modified; None for what is no date."""

    text: str
    after: float | None


TAGS: tuple[Tags | None, ...] = (
    None,
    Tags("*", True, True),
    Tags('"{tag}"', True, True),
    Tags('"other"', False, False),
    Tags('W/"{tag}"', False, True),
    Tags('W/"other" ,, "x", "{tag}"', True, True),
    Tags('"*"', False, False),
    Tags('""', False, False),
    Tags(",", False, False),
)
DATES: tuple[Date | None, ...] = (None, Date("before", -5), Date("then", 0), Date("yesterday", None))


@dataclass(frozen=True)
class Conditions:
    match: Tags | None = None
    none_match: Tags | None = None
    modified_since: Date | None = None
    unmodified_since: Date | None = None

    def headers(self, tag: str, modified: datetime) -> dict[str, str]:
        given = {
            "If-Match": self.match,
            "If-None-Match": self.none_match,
            "If-Modified-Since": self.modified_since,
            "If-Unmodified-Since": self.unmodified_since,
        }
        return {
            name: each.text.replace("{tag}", tag)
            if isinstance(each, Tags)
            else each.text
            if each.after is None
            else http_date(modified + timedelta(seconds=each.after))
            for name, each in given.items()
            if each is not None
        }

    def outcome(self, method: str, exists: bool) -> tuple[int, str | None]:
        """The status and what fails, by the letter of the standard."""
        reads = method in ("GET", "HEAD")
        if not exists and method != "PUT":
            return 404, "key"
        if self.match is not None:
            if not (exists and self.match.strong):
                return 412, "If-Match"
        elif (since := self.unmodified_since) and since.after is not None and exists and since.after < 0:
            return 412, "If-Unmodified-Since"
        if self.none_match is not None:
            if exists and self.none_match.weak:
                return (304, None) if reads else (412, "If-None-Match")
        elif reads and (since := self.modified_since) and since.after is not None and since.after >= 0:
            return 304, None
        return {"GET": 200, "HEAD": 200, "PUT": 200 if exists else 201, "DELETE": 204}[method], None


EVERY = [Conditions(*each) for each in itertools.product(TAGS[:-2], TAGS[:-2], DATES, DATES)]


class Bench:
    """The app and one object in it, whose conditions are tried."""

    def __init__(self, app: PlatformApp) -> None:
        self.app = app

    async def check(self, method: str, conditions: Conditions, kind: str) -> None:
        key, exists = "tried/object", kind == "there"
        if exists or kind == "expired":
            await self.app.storage.write(key, BODY, ttl=None if exists else 0)
        else:
            await self.app("DELETE", f"/api/objects/{key}")
        info = await self.app.storage.info(key) if exists else None
        tag = info.etag if info else "tag"
        headers = conditions.headers(tag, info.last_modified if info else datetime.now(UTC))
        answer = await self.app(method, f"/api/objects/{key}", b"new" if method == "PUT" else b"", headers)
        status, failed = conditions.outcome(method, exists)
        assert answer.status == status, (method, kind, headers, answer)
        if failed and method != "HEAD":
            assert answer.problem["field"] == failed, (method, kind, headers)
        if status == 304:
            assert answer.headers["etag"] == f'"{tag}"'
        if status in (204, 404) or (not exists and status == 412):
            assert (await self.app("HEAD", f"/api/objects/{key}")).status == 404
        else:
            changed = method == "PUT" and status < 300
            assert (await self.app("GET", f"/api/objects/{key}")).body == (b"new" if changed else BODY)


@pytest.fixture
async def memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Bench]:
    async with serve(monkeypatch, await config_of("memory", None, tmp_path)) as app:
        yield Bench(app)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
async def test_every_combination(memory: Bench, method: str, kind: str) -> None:
    """`make soak` has every one; otherwise each is tried, by some methods and kinds, and each method and kind
    meets each pair of headers."""
    step = 1 if SOAK else 5  # No factor of how many there are of anything.
    for conditions in EVERY[(METHODS.index(method) + KINDS.index(kind)) % step :: step]:
        await memory.check(method, conditions, kind)


async def test_combinations_on_every_backend(platform_anywhere: PlatformApp) -> None:
    chosen = random.Random(9110)
    for conditions in chosen.sample(EVERY, 12):
        for method in METHODS:
            await Bench(platform_anywhere).check(
                method, conditions, chosen.choice(["there", "there", "missing", "expired"])
            )
    for tags in TAGS:
        for method, kind in itertools.product(METHODS, ("there", "missing")):
            await Bench(platform_anywhere).check(method, Conditions(match=tags), kind)
            await Bench(platform_anywhere).check(method, Conditions(none_match=tags), kind)


RANGES = (
    (None, None),
    ("bytes=2-3", (2, 3)),
    ("bytes=-4", (6, 9)),
    ("bytes=90-", "beyond"),
    ("bytes=5-1", None),
)
IF_RANGES = (
    (None, True),
    ('"{tag}"', True),
    ('W/"{tag}"', False),
    ('"other"', False),
    ("{date}", False),
    ("x", False),
)


def parts() -> Iterator[tuple[Any, Any, Conditions]]:
    for each in itertools.product(RANGES, IF_RANGES, TAGS, (None, TAGS[2], TAGS[3]), DATES[:3]):
        yield each[0], each[1], Conditions(each[2], each[3], None, each[4])


async def test_conditions_come_before_parts(memory: Bench) -> None:
    await memory.app.storage.write("a", BODY)
    info = await memory.app.storage.info("a")
    # 7 has no factor of how many there are of anything: each meets each.
    for (wanted, found), (if_range, holds), conditions in itertools.islice(
        parts(), 0, None, 1 if SOAK else 7
    ):
        headers = conditions.headers(info.etag, info.last_modified)
        if wanted is not None:
            headers["Range"] = wanted
        if if_range is not None:
            headers["If-Range"] = if_range.format(tag=info.etag, date=http_date(info.last_modified))
        answer = await memory.app("GET", "/api/objects/a", b"", headers)
        status, _ = conditions.outcome("GET", True)
        body, content_range = BODY, None
        if status == 200 and found is not None and holds:
            if found == "beyond":
                status, content_range = 416, "bytes */10"
            else:
                status, content_range = 206, f"bytes {found[0]}-{found[1]}/10"
                body = BODY[found[0] : found[1] + 1]
        assert (answer.status, answer.headers.get("content-range")) == (status, content_range), headers
        if status in (200, 206):
            assert answer.body == body
        headed = await memory.app("HEAD", "/api/objects/a", b"", headers)
        assert headed.status == conditions.outcome("HEAD", True)[0], "HEAD has no parts"


async def test_one_of_many_conditional_writes_wins(platform_anywhere: PlatformApp) -> None:
    app = platform_anywhere
    _, made = "first", await app("PUT", "/api/objects/raced", b"first")
    tag = made.headers["etag"]
    for headers in (
        {"If-Match": f'"x", {tag}'},
        {"If-Match": tag, "If-None-Match": '"other"'},
        {"If-None-Match": "*", "If-Unmodified-Since": "Mon, 01 Jan 2001 00:00:00 GMT"},
    ):
        if "*" in headers.values():
            await app("DELETE", "/api/objects/raced")
        else:
            tag = (await app("PUT", "/api/objects/raced", b"first")).headers["etag"]
            headers["If-Match"] = headers["If-Match"].replace(made.headers["etag"], tag)
        answers = await asyncio.gather(
            *(app("PUT", "/api/objects/raced", str(n).encode(), headers) for n in range(8))
        )
        won = [str(n).encode() for n, answer in enumerate(answers) if answer.status < 300]
        assert len(won) == 1
        assert {answer.status for answer in answers} <= {200, 201, 412}
        assert (await app("GET", "/api/objects/raced")).body == won[0]


async def test_a_304_is_of_the_version_that_the_client_has(
    memory: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is replaced between the comparison and the look at its headers."""
    storage = memory.app.storage
    await storage.write("a", b"old")
    old = await storage.info("a")
    compare = storage.read_if_changed

    async def replaced_after(key: str, etag: str, **options: Any) -> Any:
        found = await compare(key, etag, **options)
        await storage.write("a", b"new")
        return found

    monkeypatch.setattr(storage, "read_if_changed", replaced_after)
    answer = await memory.app("GET", "/api/objects/a", b"", {"If-None-Match": f'"{old.etag}"'})
    assert (answer.status, answer.body) == (200, b"new")


async def test_conditions_on_expired_objects_are_as_on_none(platform_anywhere: PlatformApp) -> None:
    app = platform_anywhere
    target = "/api/objects/expiring"

    async def expired() -> str:
        put = await app("PUT", target, b"old", {"x-ttl-seconds": "0"})
        assert put.status == 201
        return put.headers["etag"]

    for method in ("GET", "HEAD", "DELETE"):
        for headers in ({}, {"If-Match": "*"}, {"If-None-Match": "*"}, {"If-Match": await expired()}):
            await expired()
            assert (await app(method, target, b"", headers)).status == 404, (method, headers)
    for headers in ({"If-Match": "*"}, {"If-Match": await expired()}, {"If-Match": '"x"'}):
        assert (await app("PUT", target, b"new", headers)).status == 412
        assert (await app("GET", target)).status == 404
    for headers in ({}, {"If-None-Match": "*"}, {"If-None-Match": '"x"'}, {"If-None-Match": await expired()}):
        await expired()
        put = await app("PUT", target, b"new", headers)
        assert (put.status, put.headers["location"]) == (201, target)
        assert (await app("DELETE", target)).status == 204


# -- dates


@pytest.mark.parametrize(
    "spelled",
    [
        lambda moment: format_datetime(moment, usegmt=True),
        lambda moment: moment.strftime("%A, %d-%b-%y %H:%M:%S GMT"),
        lambda moment: moment.strftime("%a %b %e %H:%M:%S %Y"),
    ],
)
async def test_the_three_forms_of_a_date(memory: Bench, spelled: Callable[[datetime], str]) -> None:
    await memory.app.storage.write("a", BODY)
    modified = (await memory.app.storage.info("a")).last_modified.replace(microsecond=0)
    for header, offset, status in (
        ("If-Modified-Since", 0, 304),
        ("If-Modified-Since", -1, 200),
        ("If-Unmodified-Since", 0, 200),
        ("If-Unmodified-Since", -1, 412),
    ):
        text = spelled(modified + timedelta(seconds=offset))
        assert (await memory.app("GET", "/api/objects/a", b"", {header: text})).status == status, text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "2100-01-01",
        "2100-01-01T00:00:00Z",
        "Fri, 01 Jan 2100 00:00:00",
        "Fri, 01 Jan 2100 00:00:00 +0000",
        "Fri, 1 Jan 2100 00:00:00 GMT",
        "Fri, 31 Feb 2100 00:00:00 GMT",
        "Fri, 01 Jan 2100 25:00:00 GMT",
        "Fri, 01 Jan 2100 00:00:00 GMT, Fri, 01 Jan 2100 00:00:00 GMT",
        "Fri, 01 Jan 2100 00:00:00 GMT;",
        "Fri, 01 Jan \uff12100 00:00:00 GMT",
        "Mon, 01 Jan 99999999999 00:00:00 GMT",
    ],
)
async def test_what_is_no_date_is_ignored(memory: Bench, text: str) -> None:
    assert parsed(text) is None
    await memory.app.storage.write("a", BODY)
    for header in ("If-Modified-Since", "If-Unmodified-Since"):
        for method, status in (("GET", 200), ("HEAD", 200), ("PUT", 200)):
            assert (await memory.app(method, "/api/objects/a", BODY, {header: text})).status == status


async def test_dates_have_whole_seconds(memory: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two saves of one second have the same date: the README sends those who care to ETags."""
    now = [1_700_000_000.25]
    backend = MemoryBackend(clock=lambda: now[0])
    app = memory.app
    monkeypatch.setitem(app.state.__dict__, "storage", StorageManager(backend=backend))
    await app.storage.write("a", b"1")
    date = (await app("GET", "/api/objects/a")).headers["last-modified"]
    now[0] += 0.5
    await app.storage.write("a", b"2")
    assert (await app("GET", "/api/objects/a")).headers["last-modified"] == date
    assert (await app("PUT", "/api/objects/a", b"3", {"If-Unmodified-Since": date})).status == 200
    now[0] += 0.5
    await app.storage.write("a", b"4")
    assert (await app("PUT", "/api/objects/a", b"5", {"If-Unmodified-Since": date})).status == 412


@given(
    st.datetimes(timezones=st.timezones(), min_value=datetime(1900, 1, 2), max_value=datetime(9999, 12, 30))
)
def test_dates_in_headers_are_those_of_the_standard_library_and_read_back(moment: datetime) -> None:
    text = http_date(moment)
    assert text == format_datetime(moment.astimezone(UTC), usegmt=True)
    assert parsed(text) == moment.astimezone(UTC).replace(microsecond=0)


@pytest.mark.parametrize("sent", ["If-Match", "if-match", "IF-MATCH"])
def test_a_header_is_found_in_any_case(sent: str) -> None:
    request = func.HttpRequest("GET", "http://app/api/objects/a", headers={sent: '"x"'}, body=b"")
    assert (header_of(request, "If-Match"), header_of(request, "If-None-Match")) == ('"x"', None)
