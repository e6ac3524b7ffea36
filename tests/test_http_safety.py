"""What every answer says to browsers: stored content runs nothing, nothing is embedded elsewhere, and no
shared cache gives an answer to those whom the app would refuse."""

from __future__ import annotations

import pytest

from functions.answers import json_response
from functions.endpoint import endpoint
from tests.http_app import PlatformApp

JSON = {"Content-Type": "application/json"}
EVERYWHERE = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
STORED = "sandbox; default-src 'none'; frame-ancestors 'self'"
OWN = "default-src 'none'; frame-ancestors 'none'"
PAGES = {
    "text/html": b"<script>fetch('/api/objects')</script>",
    "image/svg+xml": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
    "application/xhtml+xml": b"<html xmlns='http://www.w3.org/1999/xhtml'/>",
    "text/xml": b"<?xml-stylesheet href='data:text/xsl,x'?><a/>",
    "application/pdf": b"%PDF-1.7",
    "text/plain": b"<script>1</script>",
}


@pytest.mark.parametrize("content_type", PAGES)
async def test_stored_content_runs_in_no_browser(platform: PlatformApp, content_type: str) -> None:
    page = PAGES[content_type]
    saved = await platform("PUT", "/api/objects/a/page", page, {"Content-Type": content_type})
    await platform("POST", "/api/versions/a/page", page, {"Content-Type": content_type})
    for method, target, headers, status in (
        ("GET", "/api/objects/a/page", {}, 200),
        ("GET", "/api/objects?key=a/page", {}, 200),
        ("HEAD", "/api/objects/a/page", {}, 200),
        ("GET", "/api/objects/a/page", {"Range": "bytes=0-3"}, 206),
        ("GET", "/api/objects/a/page", {"Range": "bytes=0-1,3-4"}, 206),
        ("GET", "/api/objects/a/page", {"Accept-Encoding": "gzip"}, 200),
        ("GET", "/api/objects/a/page", {"If-None-Match": saved.headers["etag"]}, 304),
        ("GET", "/api/versions/a/page?version=1", {}, 200),
    ):
        found = await platform(method, target, headers=headers)
        assert found.status == status
        assert found.headers["content-security-policy"] == STORED
        assert EVERYWHERE.items() <= found.headers.items()
        assert found.headers["cache-control"] == "private, no-cache"
        assert "access-control-allow-origin" not in found.headers


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("PUT", "/api/objects/a", 201),
        ("DELETE", "/api/objects/none", 404),
        ("GET", "/api/objects", 200),
        ("GET", "/api/objects?limit=x", 400),
        ("POST", "/api/tasks", 411),
        ("GET", "/api/metrics", 501),
        ("GET", "/api/health/live", 200),
    ],
)
async def test_every_answer_of_the_app(platform: PlatformApp, method: str, target: str, status: int) -> None:
    headers = {"Transfer-Encoding": "chunked"} if status == 411 else {}
    body = b"1" if method == "PUT" else b""
    found = await platform(method, target, body, JSON | headers | {"Origin": "https://evil.example"})
    assert found.status == status
    assert found.headers["content-security-policy"] == OWN
    assert found.headers["cache-control"] == "no-store"
    assert EVERYWHERE.items() <= found.headers.items()
    assert "access-control-allow-origin" not in found.headers


async def test_every_route_says_so(platform: PlatformApp) -> None:
    for method, path in platform.every_route():
        found = await platform(method, path, b"{}" if method in ("PUT", "PATCH", "POST") else b"", JSON)
        assert EVERYWHERE.items() <= found.headers.items(), (method, path)
        assert {"content-security-policy", "cache-control"} <= found.headers.keys(), (method, path)


async def test_an_answer_without_a_body_is_safe_too(platform: PlatformApp) -> None:
    await platform("PUT", "/api/objects/a", b"1", JSON)
    found = await platform("DELETE", "/api/objects/a")
    assert found.status == 204
    assert EVERYWHERE.items() <= found.headers.items()


async def test_what_a_route_says_itself_stays() -> None:
    import azure.functions as func

    @endpoint(is_open=True)
    async def page(req: func.HttpRequest) -> func.HttpResponse:
        return json_response({}, headers={"content-security-policy": "script-src 'self'"})

    found = await page(func.HttpRequest("GET", "http://app.example/", body=b""))
    assert found.headers.getlist("Content-Security-Policy") == ["script-src 'self'"]


async def test_a_shared_cache_keeps_an_object_for_whoever_asked_only(
    platform: PlatformApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program may have let caches keep it: a function key in a header is nothing they know of."""
    from dataclasses import replace
    from typing import Any

    await platform("PUT", "/api/objects/a", b"1", JSON)
    objects = platform.storage.backend.objects
    plain = objects._readable

    def cached(info: Any) -> Any:
        return replace(plain(info), cache_control="public, max-age=60")

    monkeypatch.setattr(objects, "_readable", cached)
    found = await platform("GET", "/api/objects/a")
    assert found.headers["cache-control"] == "public, max-age=60"
    named = {each.strip().lower() for each in found.headers["vary"].split(",")}
    assert {"authorization", "cookie", "x-functions-key"} <= named


async def test_a_page_that_may_read_an_answer_may_read_its_headers(platform: PlatformApp) -> None:
    """Whether it may is the platform's to say; its CORS cannot expose headers."""
    page = {"Origin": "https://console.example"}
    saved = await platform("PUT", "/api/objects/a", b"123", JSON | page | {"x-meta-team": "b"})
    part = await platform("GET", "/api/objects/a", headers=page | {"Range": "bytes=1-2"})
    for answer, wanted in ((saved, {"etag", "location"}), (part, {"etag", "content-range", "x-meta-team"})):
        assert wanted <= set(answer.headers["access-control-expose-headers"].split(", "))
        assert "access-control-allow-origin" not in answer.headers
    assert "access-control-expose-headers" not in (await platform("GET", "/api/objects/a")).headers
