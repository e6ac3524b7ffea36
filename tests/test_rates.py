"""The rate limit: each caller has a bucket of its own, refusals say when to return, and memory is bounded."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions import rates as rates_module
from functions.rates import Rates
from functions.state import check_settings
from storage_lib.config import MetricsOptions, StorageConfig
from storage_lib.errors import ConfigurationError
from tests.effort import calls, examples
from tests.http_app import PlatformApp, serve

JSON = {"Content-Type": "application/json"}


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def made(per_second: float, burst: int) -> tuple[Rates, Clock, list[int]]:
    clock, refusals = Clock(), list[int]()
    return Rates(per_second, burst, lambda: refusals.append(1), clock), clock, refusals


def test_a_bucket_empties_and_fills() -> None:
    rates, clock, refusals = made(2, 3)
    assert [rates.take("a").remaining for _ in range(3)] == [2, 1, 0]
    refused = rates.take("a")
    assert (refused.remaining, refused.wait, refused.full) == (0, 0.5, 1.5)
    assert rates.take("b").remaining == 2
    clock.now += 0.5
    assert (rates.take("a").wait, rates.take("a").wait) == (0, 0.5)
    clock.now += 100
    assert [rates.take("a").wait for _ in range(4)] == [0, 0, 0, 0.5]
    assert len(refusals) == 3
    assert rates.policy == '"caller";q=3;w=2'


@settings(max_examples=examples(200), deadline=None)
@given(
    st.sampled_from([0.01, 0.1, 1 / 3, 1.0, 7.0, 1000.0]),
    st.integers(1, 20),
    st.lists(st.floats(0, 5) | st.just(0.0), min_size=1, max_size=200),
)
def test_in_no_time_are_more_let_through(per_second: float, burst: int, pauses: list[float]) -> None:
    """As many as the bucket holds and what has flown in, never more; and who waits as told is let through."""
    rates, clock, _ = made(per_second, burst)
    passed: list[float] = []
    for pause in pauses:
        clock.now += pause / per_second
        found = rates.take("a")
        if found.wait:
            clock.now += found.wait
            found = rates.take("a")
            assert not found.wait
        passed.append(clock.now)
    for first in range(len(passed)):
        for last in range(first, len(passed)):
            assert last - first + 1 <= burst + (passed[last] - passed[first]) * per_second + 0.001


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates_module, "MOST_CALLERS", 100)
    rates, _, _ = made(1, 1)
    for n in range(1000):
        rates.take(n)
        rates.take("busy")
    assert len(rates._full) <= 100
    assert rates.take("busy").wait, "who sends all the time is not forgotten"


def test_it_costs_next_to_nothing() -> None:
    """A few calls, 5 µs at most, also where there are many callers."""
    rates = Rates(1e6, 10**9, lambda: None)
    callers = [f"key:{n}" for n in range(1000)]

    def all_of_them() -> None:
        for each in callers:
            rates.take(each)

    assert calls(all_of_them) < 10 * len(callers)


@pytest.fixture
async def app(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PlatformApp]:
    monkeypatch.setenv("AGENT_STORAGE_RATE_PER_SECOND", "0.01")
    monkeypatch.setenv("AGENT_STORAGE_RATE_BURST", "2")
    config = StorageConfig(storage_type="memory", metrics=MetricsOptions())
    async with serve(monkeypatch, config) as app:
        yield app


async def asked(
    app: PlatformApp, key: str | None = None, target: str = "/api/objects", **headers: str
) -> int:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return (
        await app("GET", target, headers=given | ({} if key is None else {"x-functions-key": key}))
    ).status


async def test_one_request_too_many(app: PlatformApp) -> None:
    first = await app("PUT", "/api/objects/a", b"1", JSON)
    assert (first.status, first.headers["ratelimit"]) == (201, '"caller";r=1;t=100')
    assert first.headers["ratelimit-policy"] == '"caller";q=2;w=200'
    failed = await app("GET", "/api/objects/none")
    assert (failed.status, failed.headers["ratelimit"]) == (404, '"caller";r=0;t=100')
    refused = await app("PUT", "/api/objects/b", b"1", JSON)
    assert (refused.status, refused.problem["code"]) == (429, "rate-limited")
    assert 90 <= int(refused.headers["retry-after"]) <= 100
    assert refused.headers["ratelimit"] == f'"caller";r=0;t={refused.headers["retry-after"]}'
    assert "AGENT_STORAGE_RATE_PER_SECOND" in refused.problem["limit"]
    assert not await app.storage.exists("b")
    for target in ("/api/health/live", "/api/health/ready"):
        healthy = await app("GET", target)
        assert (healthy.status, "ratelimit" in healthy.headers) == (200, False)
    metrics = await app("GET", "/api/metrics", headers={"x-functions-key": "other"})
    assert re.search(r"^agent_http_rate_limited_total 1$", metrics.body.decode(), re.MULTILINE)


async def test_a_refusal_comes_before_the_body_is_looked_at(app: PlatformApp) -> None:
    for _ in range(2):
        await asked(app)
    for method, target in (
        ("PUT", "/api/objects/a"),
        ("PATCH", "/api/objects/a"),
        ("POST", "/api/tasks"),
        ("POST", "/api/tables/t"),
        ("GET", "/api/objects?nothing=known"),
    ):
        assert (
            await app(method, target, b"{" * 100, {"Content-Type": "text/x", "Repr-Digest": "x"})
        ).status == 429


async def test_each_key_is_a_caller(app: PlatformApp) -> None:
    assert [await asked(app, "one") for _ in range(3)] == [200, 200, 429]
    assert [await asked(app, "two") for _ in range(3)] == [200, 200, 429]
    assert [await asked(app) for _ in range(3)] == [200, 200, 429]
    # The host takes a key in any case, the first of two headers, and one in the URL.
    assert await asked(app, "ONE") == 429
    assert await asked(app, "one,new") == 429
    assert await asked(app, target="/api/objects?code=One") == 429
    assert await asked(app, "new", target="/api/objects?code=one") == 200
    # What a client says of itself does not count while the platform does not authenticate.
    assert await asked(app, "one", **{"X_MS_CLIENT_PRINCIPAL_ID": "someone"}) == 429


async def test_each_principal_of_the_platform_is_a_caller(
    app: PlatformApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEBSITE_AUTH_ENABLED", "true")
    for who in ("1", "2"):
        principal = {"X_MS_CLIENT_PRINCIPAL_ID": who, "X_MS_CLIENT_PRINCIPAL_IDP": "aad"}
        assert [await asked(app, f"key{n}", **principal) for n in range(3)] == [200, 200, 429]


async def test_each_principal_of_a_policy_is_a_caller(
    app: PlatformApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy: dict[str, Any] = {
        "keys": {"ceo": [hashlib.sha256(key.encode()).hexdigest() for key in ("old", "new")]},
        "principals": {"key:ceo": {"may": {"list": [""]}}, "anonymous": {"may": {"list": [""]}}},
    }
    (tmp_path / "policy.json").write_text(json.dumps(policy))
    monkeypatch.setenv("AGENT_STORAGE_ACCESS_POLICY", str(tmp_path / "policy.json"))
    assert [await asked(app, key) for key in ("old", "new", "old")] == [200, 200, 429]
    assert [await asked(app, key) for key in ("a", "b", "c")] == [200, 200, 429]


async def link(app: PlatformApp, key: str, **headers: str) -> str:
    """Where a new link to load it leads."""
    made = await app(
        "POST", f"/api/links/{key}", headers={name.replace("_", "-"): v for name, v in headers.items()}
    )
    assert made.status == 201
    return re.sub(r"^[a-z]+://[^/]*", "", made.json["url"])


async def test_each_link_is_a_caller(app: PlatformApp) -> None:
    await app.storage.save("a", 1)
    await app.storage.save("b", 2)
    one, two = await link(app, "a"), await link(app, "b", x_functions_key="other")
    first = await app("GET", one)
    assert (first.status, first.headers["ratelimit"]) == (200, '"caller";r=1;t=100')
    assert [await asked(app, target=one) for _ in range(2)] == [200, 429]
    assert await asked(app, f"key of {one}", target=one) == 429, "a key does not count there"
    assert await asked(app, target=two) == 200
    refused = await app("GET", one)
    assert int(refused.headers["retry-after"]) > 90
    saves = (await app("POST", "/api/links/c", b'{"method": "PUT"}', JSON | {"x-functions-key": "b"})).json[
        "url"
    ]
    saves = re.sub(r"^[a-z]+://[^/]*", "", saves)
    assert [(await app("PUT", saves, b"1")).status for _ in range(3)] == [201, 200, 429]


async def test_all_links_of_a_caller_are_one_caller(app: PlatformApp) -> None:
    """However many there are: otherwise a link for each request would do away with the limit."""
    await app.storage.save("a", 1)
    made = [await link(app, "a", x_functions_key="Mine"), await link(app, "a", x_functions_key="mine")]
    assert [await asked(app, target=each) for each in (*made, *made)] == [200, 200, 429, 429]
    assert "mine" not in "".join(made)
    assert await asked(app, target=await link(app, "a", x_functions_key="other")) == 200


async def test_a_link_of_before_rates_were_limited_is_a_caller(app: PlatformApp) -> None:
    await app.storage.save("a", 1)
    limited = app.state.rates
    vars(app.state)["rates"] = None
    made = await link(app, "a")
    assert "maker" not in made
    vars(app.state)["rates"] = limited
    assert [await asked(app, target=made) for _ in range(3)] == [200, 200, 429]


async def test_a_link_made_without_a_policy_does_not_work_under_one(
    app: PlatformApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await app.storage.save("a", 1)
    made = await link(app, "a")
    assert "maker=" in made
    policy: dict[str, Any] = {"principals": {"*": {"may": {"load": [""]}}}}
    (tmp_path / "policy.json").write_text(json.dumps(policy))
    monkeypatch.setenv("AGENT_STORAGE_ACCESS_POLICY", str(tmp_path / "policy.json"))
    refused = await app("GET", made)
    assert refused.status == 403
    assert refused.problem["field"] == "maker"


async def test_links_that_are_none_are_one_caller(app: PlatformApp, caplog: pytest.LogCaptureFixture) -> None:
    """Each refusal goes into the audit log, which nobody without a key is to fill."""
    await app.storage.save("a", 1)
    good = await link(app, "a")
    wrong = [re.sub("sig=[^&]*", f"sig={n}", good) for n in range(4)]
    assert [await asked(app, target=each) for each in wrong] == [403, 403, 429, 429]
    assert caplog.text.count("may not link") == 2
    assert await asked(app, target=good) == 200


async def test_under_a_policy_a_link_counts_for_who_made_it(
    app: PlatformApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy: dict[str, Any] = {
        "keys": {"ceo": hashlib.sha256(b"old").hexdigest()},
        "principals": {"key:ceo": {"may": {"list": [""], "load": [""]}}},
    }
    (tmp_path / "policy.json").write_text(json.dumps(policy))
    monkeypatch.setenv("AGENT_STORAGE_ACCESS_POLICY", str(tmp_path / "policy.json"))
    await app.storage.save("a", 1)
    url = await link(app, "a", x_functions_key="old")
    assert [await asked(app, target=url) for _ in range(2)] == [200, 429]
    assert await asked(app, "old") == 429


async def test_without_the_setting_nothing_is_limited(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with serve(monkeypatch, StorageConfig(storage_type="memory")) as app:
        found = await app("GET", "/api/objects")
        assert "ratelimit" not in found.headers
        assert app.state.rates is None


@pytest.mark.parametrize(
    ("variables", "field"),
    [
        ({"RATE_PER_SECOND": "0"}, "AGENT_STORAGE_RATE_PER_SECOND"),
        ({"RATE_PER_SECOND": "many"}, "AGENT_STORAGE_RATE_PER_SECOND"),
        ({"RATE_PER_SECOND": "1", "RATE_BURST": "0"}, "AGENT_STORAGE_RATE_BURST"),
        ({"RATE_BURST": "5"}, "AGENT_STORAGE_RATE_BURST"),
    ],
)
def test_a_setting_that_cannot_work_is_named(
    variables: dict[str, str], field: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AGENT_STORAGE_PATH", str(tmp_path))
    for name, value in variables.items():
        monkeypatch.setenv(f"AGENT_STORAGE_{name}", value)
    with pytest.raises(ConfigurationError) as refused:
        check_settings()
    assert refused.value.field == field
