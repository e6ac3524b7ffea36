"""Whatever a request holds, the answer is no 5xx: what the client sends is the client's fault."""

from __future__ import annotations

import json
import os
from typing import Any
from urllib.parse import quote

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.http_app import AppAnswer, PlatformApp

BODY = b"0123456789"
_DIGITS = st.integers(0, 10**40).map(str) | st.sampled_from(
    ["", "00", "9" * 5000, "\u0663", "1e3", "-1", "0x1", " 1"]
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
_RANGES = st.builds(
    "{}={}-{}".format, st.sampled_from(["bytes", "BYTES", "lines", ""]), _DIGITS, _DIGITS
) | st.builds("bytes={}-{},{}-{}".format, _DIGITS, _DIGITS, _DIGITS, _DIGITS)
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
HEADERS = st.fixed_dictionaries({}, optional={name: each | _NOISE for name, each in _HEADERS.items()}).map(
    lambda found: dict(list(found.items())[:6])
)
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
QUERY = st.fixed_dictionaries({}, optional={name: each | _NOISE for name, each in _QUERY.items()})
_PATHS = st.sampled_from(["objects", "objects/a", "tasks", "tasks/{task}", "health/live"]) | st.builds(
    "objects/{}".format,
    st.text(max_size=9).map(lambda text: quote(text, safe="%/.+", errors="surrogatepass")),
)
_ROUTES = st.tuples(st.sampled_from(["GET", "HEAD", "PUT", "DELETE"]), _PATHS) | st.sampled_from(
    [
        ("POST", "tasks"),
        ("POST", "tasks/x/cancel"),
        ("POST", "tasks/{task}/requeue"),
        ("GET", "objects/a"),
        ("PUT", "objects/a"),
    ]
)
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
    app: PlatformApp, route: tuple[str, str], query: dict[str, str], headers: dict[str, str], body: bytes
) -> AppAnswer:
    method, path = route
    await app.storage.write("a", BODY)
    info = await app.storage.info("a")
    words = {"tag": info.etag, "date": "Sun, 29 Nov 2026 00:00:00 GMT", "task": "none", "cursor": "x" * 30}

    def worded(text: str) -> str:
        for name, word in words.items():
            text = text.replace("{" + name + "}", word)
        return text

    pairs = (f"{name}={quote(worded(value), errors='surrogatepass')}" for name, value in query.items())
    given = {name: worded(value) for name, value in headers.items()}
    return await app(method, f"/api/{worded(path)}?{'&'.join(pairs)}", body, given)


def check(answer: AppAnswer) -> None:
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
            assert name not in str({**problem, "field": ""}), problem


async def test_nothing_that_a_request_holds_is_a_5xx(platform_anywhere: PlatformApp) -> None:
    """Hypothesis makes the requests; the answers come from this loop."""
    requests: list[Any] = []
    count = 200 if platform_anywhere.state.config.storage_type == "file" else 60

    @settings(
        max_examples=20 * count if os.environ.get("SOAK") == "1" else count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.tuples(_ROUTES, QUERY, HEADERS, BODIES))
    def collect(request: Any) -> None:
        requests.append(request)

    collect()
    for request in requests:
        try:
            check(await ask(platform_anywhere, *request))
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
