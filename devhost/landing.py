"""What ``/`` answers: the way to the documentation of the app, and a first request. On the platform that is a
page of the host's own, which knows nothing of the app."""

from __future__ import annotations

from html import escape

from aiohttp import hdrs

from devhost.answers import Answer
from devhost.routing import RouteTable

_CONSOLE = "console"
_GUIDES = (
    (_CONSOLE, "Console"),
    ("docs", "Documentation"),
    ("openapi.json", "OpenAPI document"),
    ("health/live", "Is it up?"),
)


def landing(routes: RouteTable, prefix: str, origin: str, accept: str, *, needs_key: bool) -> Answer:
    """For browsers the console, or a page if the app has none; text for everyone else.

    :param origin: of this host as the request names it.
    :param accept: the request's ``Accept``.
    """
    base = "/".join(part for part in (origin, prefix) if part)
    guides = [
        (title, f"{base}/{path}")
        for path, title in _GUIDES
        if routes.resolve("GET", f"/{prefix}/{path}".replace("//", "/")) is not None
    ]
    commands = _commands(routes, prefix, base, needs_key=needs_key)
    headers = {
        hdrs.CACHE_CONTROL: "no-store",
        "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff",
    }
    if "text/html" in accept.lower():
        console = f"/{prefix}/{_CONSOLE}".replace("//", "/")
        if routes.resolve("GET", console) is not None:
            return Answer(302, headers | {hdrs.LOCATION: console}, b"")
        return Answer(200, headers | {hdrs.CONTENT_TYPE: "text/html; charset=utf-8"}, _page(guides, commands))
    lines = ["The function app is running.", *("" for _ in guides[:1])]
    lines += [f"{title + ':':<18} {url}" for title, url in guides]
    if commands:
        lines += ["", "Save an object, load it, list:", *(f"  {command}" for command in commands)]
    text = "\n".join([*lines, ""])
    return Answer(200, headers | {hdrs.CONTENT_TYPE: "text/plain; charset=utf-8"}, text.encode())


def _commands(routes: RouteTable, prefix: str, base: str, *, needs_key: bool) -> list[str]:
    """First requests, for an app that keeps objects."""
    if routes.resolve("PUT", f"/{prefix}/objects/a".replace("//", "/")) is None:
        return []
    key = " -H 'x-functions-key: HOST_KEY'" if needs_key else ""
    return [
        f"curl{key} -X PUT {base}/objects/configs/ceo.json -H 'Content-Type: application/json'"
        ' -d \'{"model": "large"}\'',
        f"curl{key} {base}/objects/configs/ceo.json",
        f"curl{key} '{base}/objects?prefix=configs/'",
    ]


def _page(guides: list[tuple[str, str]], commands: list[str]) -> bytes:
    links = "".join(f"<li><a href='{escape(url)}'>{escape(title)}</a></li>" for title, url in guides)
    shown = escape("\n".join(commands))
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        "<meta name='color-scheme' content='light dark'><title>The function app is running</title></head>"
        f"<body><h1>The function app is running</h1><ul>{links}</ul>"
        f"{f'<p>Save an object, load it, list:</p><pre>{shown}</pre>' if commands else ''}</body></html>\n"
    ).encode()
