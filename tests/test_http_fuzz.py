"""Whatever a request holds, the answer is no 5xx: what the client sends is the client's fault."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.effort import SOAK
from tests.http_app import AppAnswer, PlatformApp

BODY = b"0123456789"
TASK = b'{"action": "analyze_report", "agent_id": "ceo", "payload": {"report": "r"}}'
_LARGE = st.sampled_from([str(2**power + more) for power in (63, 64, 100) for more in (-1, 0)])
_DIGITS = (
    _LARGE
    | st.integers(0, 99).map(str)
    | st.sampled_from(["", "00", "9" * 5000, "\u0663", "1e3", "-1", "0x1", " 1"])
)
_NOISE = st.text(max_size=20) | st.sampled_from(
    [
        "*",
        '"*"',
        '""',
        ",",
        '"a"',
        'W/"a"',
        'W/"{tag}"',
        '"{tag}"',
        '"{tag}~00000000000000"',
        '"',
        "\ud800",
        "\0",
        "ü" * 300,
    ]
)
_DATES = st.sampled_from(
    [
        "{date}",
        "Mon, 01 Jan 0001 00:00:00 GMT",
        "Fri, 31 Dec 9999 23:59:59 GMT",
        "Mon, 00 Jan 2001 00:00:00 GMT",
        "Mon, 01 Jan 2001 99:00:00 GMT",
        "Monday, 01-Jan-70 00:00:00 GMT",
        "Mon Jan  1 00:00:00 2001",
        "Mon, 01 Jan 2020 00:00:00 +99999999999999",
    ]
)
_RANGES = (
    st.builds("bytes={}-{}".format, _LARGE | st.just("0") | st.just(""), _LARGE)
    | st.builds("{}={}-{}".format, st.sampled_from(["bytes", "BYTES", "lines"]), _DIGITS, _DIGITS)
    | st.builds("bytes={}-{},{}-{}".format, _DIGITS, _DIGITS, _DIGITS, _DIGITS)
)
_TYPES = st.sampled_from(
    [
        "text/plain; charset=no-such",
        "text/plain; charset=utf-16",
        "text/plain; charset=base64",
        "application/json; charset=latin-1",
        "application/json",
        "application/problem+json",
        "application/vnd.agent-storage.value+msgpack",
        "application/x-npy",
        "a/b;c=" + "d" * 300,
        'text/plain; charset="\\"',
        "multipart/form-data",
        "a/b ",
        " a/b",
    ]
)
_HEADERS = {
    "Range": _RANGES,
    "If-Range": _DATES,
    "If-Match": _NOISE,
    "If-None-Match": _NOISE,
    "If-Modified-Since": _DATES,
    "If-Unmodified-Since": _DATES,
    "Content-Type": _TYPES,
    "Content-Encoding": st.sampled_from(["gzip", "identity", "", ",,"]),
    "Content-Range": _RANGES,
    "Content-Length": _DIGITS,
    "Transfer-Encoding": st.sampled_from(["chunked", "identity"]),
    "x-ttl-seconds": st.builds("{}.{}".format, _DIGITS, _DIGITS) | _DIGITS,
    "x-meta-a": st.sampled_from(
        ["%", "%ff", "%00", "%ED%A0%80", "a  b", " a ", "%C3%BC", "x" * 1600, "a\tb"]
    ),
    "x-meta-": _NOISE,
    "x-meta-aos-expires": _DIGITS,
    "x-meta-ü": _NOISE,
    "traceparent": st.just("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    "Expect": _NOISE,
    "Host": _NOISE,
}


def some(values: Mapping[str, st.SearchStrategy[str]], most: int) -> st.SearchStrategy[dict[str, str]]:
    """A few of the names, each with a value of its own kind, or with noise."""
    pairs = st.sampled_from(sorted(values)).flatmap(
        lambda name: st.tuples(st.just(name), st.one_of(values[name], values[name], _NOISE))
    )
    return st.lists(pairs, max_size=most).map(dict)


_MOMENTS = st.sampled_from(
    [
        "0001-01-01",
        "9999-12-31T23:59:59.999999-23:59",
        "0001-01-01T00:00:00+23:59",
        "2026-01-01T00:00:00Z",
        "{date}",
    ]
)
_QUERY = {
    "prefix": st.sampled_from(["a", "a/", ".system/", ".system", "a//", "..", "%2F", "x" * 2000]),
    "delimiter": st.sampled_from(["/", "//", "-"]),
    "limit": _DIGITS,
    "cursor": st.sampled_from(["AAAA", "=", "{cursor}", "{cursor}x"]),
    "key": st.sampled_from(["a", "../a", ".system/a"]),
    "wait": st.sampled_from(["0", "-1", "31", "\u0661"]),
    "status": st.sampled_from(["queued", "dead", "Queued"]),
    "agent_id": st.sampled_from(["'", "''", "ceo' or 1 eq 1 or '", "x" * 40_000, "\u2028"]),
    "action": st.sampled_from(["analyze_report", "'"]),
    "parent_id": st.sampled_from(["a/b", "'"]),
    "created_after": _MOMENTS,
    "created_before": _MOMENTS,
    "code": _NOISE,
}
_LISTING = ("prefix", "delimiter", "limit", "cursor")
_FILTERS = ("status", "agent_id", "action", "parent_id", "created_after", "created_before", "limit", "cursor")
_KEYS = st.text(max_size=9).map(lambda text: quote(text, safe="%/.+", errors="surrogatepass"))
_ROUTES = [
    *[(method, "objects/a", ()) for method in ("GET", "GET", "HEAD", "PUT", "PUT", "DELETE")],
    *[(method, "objects/{key}", ()) for method in ("GET", "PUT", "DELETE")],
    *[(method, "objects", ("key",)) for method in ("GET", "HEAD", "PUT", "DELETE")],
    ("GET", "objects", _LISTING),
    ("GET", "objects", _LISTING),
    ("GET", "tasks", _FILTERS),
    ("GET", "tasks", _FILTERS),
    ("HEAD", "tasks", _FILTERS),
    ("POST", "tasks", ()),
    ("GET", "tasks/{task}", ("wait",)),
    ("POST", "tasks/{task}/cancel", ()),
    ("POST", "tasks/{task}/requeue", ()),
    ("GET", "health/live", ()),
]


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, str, dict[str, str], dict[str, str], bytes]:
    method, path, known = draw(st.sampled_from(_ROUTES))
    query = draw(some({name: _QUERY[name] for name in known}, 3)) if known else {}
    if draw(st.integers(0, 9)) == 0:
        query |= draw(some(_QUERY, 1))
    path = path.replace("{key}", draw(_KEYS))
    body = draw(BODIES) if method in ("PUT", "POST") else b""
    return method, path, query, draw(some(_HEADERS, 3)), body


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)
_FIELDS = (
    "action",
    "agent_id",
    "payload",
    "correlation_id",
    "idempotency_key",
    "delay_seconds",
    "priority",
    "tasks",
)
BODIES = (
    st.binary(max_size=30)
    | _JSON.map(lambda value: json.dumps(value).encode())
    | st.fixed_dictionaries({}, optional=dict.fromkeys(_FIELDS, _JSON)).map(
        lambda fields: json.dumps(
            {"action": "analyze_report", "agent_id": "ceo", "payload": {"report": "r"}} | fields
        ).encode()
    )
    | st.sampled_from(
        [
            b"",
            b'{"a": "\\ud800"}',
            b'{"action": "\\ud800", "agent_id": "\\udc00"}',
            b"\xef\xbb\xbf{}",
            b"[" * 3000,
        ]
    )
)


async def ask(
    app: PlatformApp,
    words: Mapping[str, str],
    method: str,
    path: str,
    query: Mapping[str, str],
    headers: Mapping[str, str],
    body: bytes,
) -> AppAnswer:
    await app.storage.write("a", BODY)
    words = {**words, "tag": (await app.storage.info("a")).etag}

    def worded(text: str) -> str:
        for name, word in words.items():
            text = text.replace("{" + name + "}", word)
        return text

    pairs = (f"{name}={quote(worded(value), errors='surrogatepass')}" for name, value in query.items())
    given = {"Content-Type": "application/json"} if method == "POST" else {}
    given |= {name: worded(value) for name, value in headers.items()}
    return await app(method, f"/api/{worded(path)}?{'&'.join(pairs)}", body, given)


def drawn(strategy: st.SearchStrategy[Any], count: int) -> list[Any]:
    """Examples of Hypothesis, for a loop of our own."""
    examples: list[Any] = []

    @settings(
        max_examples=max(count, 1),
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def draw(example: Any) -> None:
        examples.append(example)

    draw()
    return examples


def check(answer: AppAnswer, request: Any) -> None:
    assert 200 <= answer.status < 500, answer
    if answer.status >= 400 and answer.body:
        problem = answer.problem
        assert problem["detail"]
        for name in (
            "if_match",
            "if_absent",
            "content_type",
            "byte_range",
            "put_stream",
            "unicodedata",
            "ttl ",
        ):
            # What the client sent is told back; Hypothesis sends words of our source too.
            assert name in str(request) or name not in str({**problem, "field": ""}), problem


async def test_nothing_that_a_request_holds_is_a_5xx(platform_anywhere: PlatformApp) -> None:
    """Each header and query parameter by itself, with values of its kind and noise; then several at once."""
    is_local = platform_anywhere.state.config.storage_type == "file"
    count = (250 if SOAK else 8) if is_local else 2
    made: list[Any] = []
    for name, values in _HEADERS.items():
        for value in drawn(values, count) + drawn(_NOISE, count // 3):
            made += [(method, "objects/a", {}, {name: value}, BODY) for method in ("GET", "PUT")]
            made.append(("POST", "tasks", {}, {name: value}, TASK))
    for method, path, known in dict.fromkeys(_ROUTES):
        for name in (*known, "code"):
            for value in drawn(_QUERY[name], count) + drawn(_NOISE, count // 3):
                made.append((method, path, {name: value}, {}, BODY))
    for body in drawn(BODIES, 3 * count):
        made += [("PUT", "objects/a", {}, {"Content-Type": kind}, body) for kind in drawn(_TYPES, 3)]
        made.append(("POST", "tasks", {}, {}, body))
    made += drawn(requests(), 10 * count)
    await platform_anywhere("PUT", "/api/objects/b", BODY)
    submitted = await platform_anywhere("POST", "/api/tasks", TASK, {"Content-Type": "application/json"})
    words = {
        "date": "Sun, 29 Nov 2026 00:00:00 GMT",
        "task": submitted.json["task_id"],
        "cursor": (await platform_anywhere("GET", "/api/objects?limit=1")).json["cursor"] or "x" * 20,
    }
    for request in made:
        try:
            check(await ask(platform_anywhere, words, *request), request)
        except AssertionError as error:
            raise AssertionError(f"{request!r}") from error


_HUGE = [str(2**50), str(2**62), str(2**63 - 1), str(2**63), str(2**64), "9" * 30, "9" * 4300, "9" * 5000]


async def test_ranges_of_huge_numbers(platform_anywhere: PlatformApp) -> None:
    await platform_anywhere.storage.write("a", BODY)
    for huge in _HUGE:
        for text, status, body in (
            (f"bytes={huge}-", 416, None),
            (f"bytes={huge}-{huge}", 416, None),
            (f"bytes=0-{huge}", 206, BODY),
            (f"bytes=4-{huge}", 206, BODY[4:]),
            (f"bytes=-{huge}", 206, BODY),
            (f"bytes={huge}-1", 200, BODY),
            (f"bytes=000{huge}-{huge}0", 416, None),
            ("bytes=" + "0" * 5000 + "4-5", 206, BODY[4:6]),
            ("bytes= 4-5 ,", 206, BODY[4:6]),
            ("bytes=,,4-5", 206, BODY[4:6]),
        ):
            answer = await platform_anywhere("GET", "/api/objects/a", b"", {"Range": text})
            assert answer.status == status, text[:60]
            if body is None:
                assert answer.headers["content-range"] == "bytes */10"
            else:
                assert answer.body == body
