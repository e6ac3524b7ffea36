"""The access policy over HTTP, on each backend: no answer tells of what a caller may not see."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.http_app import PlatformApp, config_of, serve

ALL = {"*": [""]}
PRINCIPALS: dict[str, Any] = {
    "acme": {"root": "tenants/acme/", "may": ALL},
    "ceo": {"may": {"*": ["agents/ceo", "shared/"]}},
    "one": {"may": {"*": ["agents/ceo/a"]}},
    "blind": {"may": {"save": ["agents/ceo"], "delete": ["agents/ceo"]}},
    "loads": {"may": {"load": ["agents/ceo"]}},
}
SEEN = {
    "acme": ["a", "b/c", "b/d"],
    "ceo": ["agents/ceo", "agents/ceo/a", "agents/ceo/b/c", "shared/x"],
    "one": ["agents/ceo/a"],
}
OPEN = (
    *("agents/ceo", "agents/ceo/a", "agents/ceo/b/c", "shared/x"),
    *("tenants/acme/a", "tenants/acme/b/c", "tenants/acme/b/d"),
)
HIDDEN = (
    *("agents/ceo-secret", "agents/ceo.secret", "agents/ceo2/secret", "agents/secret", "agents/CEO/secret"),
    *("tenants/acme2/secret", "tenants/acme.secret", "tenants/Acme/secret", "tenants/secret", "secret"),
    *("shared.secret", "sharedsecret/x", "a-secret", "zz/secret"),
)
CONDITIONS: tuple[dict[str, str], ...] = (
    {},
    {"If-Match": "*"},
    {"If-Match": '"x"'},
    {"If-None-Match": "*"},
    {"If-None-Match": '"x"'},
    {"If-None-Match": '"x", "y"'},
    {"If-Modified-Since": "Fri, 01 Jan 2100 00:00:00 GMT"},
    {"If-Unmodified-Since": "Thu, 01 Jan 1970 00:00:10 GMT"},
    {"Range": "bytes=0-0"},
    {"Range": "bytes=9999-"},
    {"Range": "bytes=0-0", "If-Range": '"x"'},
    {"If-None-Match": "*", "Idempotency-Key": "1"},
    {"Cache-Control": "no-cache"},
)


@pytest.fixture
async def app(
    any_store: tuple[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[PlatformApp]:
    keys = {name: hashlib.sha256(name.encode()).hexdigest() for name in PRINCIPALS}
    path = tmp_path / "policy.json"
    principals = {f"key:{name}": rights for name, rights in PRINCIPALS.items()}
    path.write_text(json.dumps({"keys": keys, "principals": principals}))
    monkeypatch.setenv("AGENT_STORAGE_ACCESS_POLICY", str(path))
    monkeypatch.delenv("WEBSITE_AUTH_ENABLED", raising=False)
    async with serve(monkeypatch, await config_of(*any_store, tmp_path)) as app:
        for key in (*OPEN, *HIDDEN):
            await app.storage.save(key, {"value": "secret"} if key in HIDDEN else 1, metadata={"of": key})
        yield app


async def ask(app: PlatformApp, who: str, method: str, target: str, body: bytes = b"", **more: str) -> Any:
    headers = {"x-functions-key": who, "Content-Type": "application/json"} | more
    return await app(method, target, body, headers)


def answer(found: Any) -> Any:
    """What tells one answer from another."""
    told = {
        name: value for name, value in found.headers.items() if name in ("etag", "content-range", "location")
    }
    return found.status, found.body, told


@pytest.mark.parametrize("who", PRINCIPALS)
async def test_an_object_out_of_reach_makes_no_difference(app: PlatformApp, who: str) -> None:
    before = {each.key: each.etag async for each in app.storage.list_objects()}
    root = PRINCIPALS[who].get("root", "")
    bodies = {"PUT": b"1", "PATCH": b'{"metadata": {}}'}
    for there in HIDDEN:
        missing = there.replace("secret", "absent")
        # A tenant tries to leave its root; for the others the names are those of the store.
        names = ("../" + there, "../" + missing) if root else (there, missing)
        for method, (by, headers) in itertools.product(
            ("GET", "HEAD", "PUT", "PATCH", "DELETE"), enumerate(CONDITIONS)
        ):
            target = "/api/objects?key={}" if by % 2 or root else "/api/objects/{}"
            some = [
                await ask(app, who, method, target.format(quote(name)), bodies.get(method, b""), **headers)
                for name in names
            ]
            assert some[0].status in (400, 403), (method, headers, there)
            found, other = map(answer, some)
            assert (found[0], found[1].replace(b"secret", b"absent"), found[2]) == other
    assert {each.key: each.etag async for each in app.storage.list_objects()} == before


@pytest.mark.parametrize("who", SEEN)
async def test_no_listing_and_no_cursor_leads_out(app: PlatformApp, who: str) -> None:
    async def names(query: str) -> list[str]:
        found = await ask(app, who, "GET", f"/api/objects?{query}")
        assert b"secret" not in found.body.replace(quote(query).encode(), b"")
        assert found.status in (200, 400, 403)
        if found.status != 200:
            return []
        return [*(each["key"] for each in found.json["objects"]), *found.json["prefixes"]]

    for limit in (1, 2, 1000):
        seen: list[str] = []
        cursor: str | None = ""
        while cursor is not None:
            page = (
                await ask(app, who, "GET", f"/api/objects?limit={limit}{cursor and '&cursor='}{cursor}")
            ).json
            seen += [each["key"] for each in page["objects"]]
            cursor = page["cursor"] and quote(page["cursor"])
        assert seen == SEEN[who]
    allowed = set(SEEN[who])
    folded = {key[: at + 1] for key in allowed for at, c in enumerate(key) if c == "/"}
    others = (
        "",
        "a",
        "agents",
        "agents/",
        "agents/ceo",
        "agents/ceo/",
        "tenants/",
        "tenants/acme",
        "shared",
        "z",
    )
    for prefix, delimiter, after in itertools.product(
        others, ("", "/"), ("", "a", "agents/ceo-", "tenants/")
    ):
        query = f"prefix={prefix}&delimiter={delimiter}&start_after={after}"
        assert set(await names(query)) <= allowed | folded
    # Cursors of another caller, and forged ones.
    foreign = [
        (await ask(app, other, "GET", "/api/objects?limit=1")).json["cursor"]
        for other in SEEN
        if other != who
    ]
    own = (await ask(app, who, "GET", "/api/objects?limit=1")).json["cursor"] or ""
    for name in ("tenants/acme2/", "agents/ceo-", "zz/", "a", "../", ".system/"):
        text = base64.urlsafe_b64encode(name.encode()).decode().rstrip("=")
        foreign += [own[:12] + text, own[:12] + name, text]
    for cursor in filter(None, foreign):
        assert set(await names(f"limit=1000&cursor={quote(cursor)}")) <= allowed
