"""The files of the console, read when they are first asked for, and the ways to sign in that it offers."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

from functions.callers import is_authenticated
from functions.served import Served
from storage_lib.errors import KeyNotFoundError
from storage_lib.patterns import pattern

_FILES = Path(__file__).parent / "assets"
_TYPES = {
    "console.js": "text/javascript; charset=utf-8",
    "charts.js": "text/javascript; charset=utf-8",
    "console.css": "text/css; charset=utf-8",
}
_POLICY = (
    # Its own script and style, and images that it makes of what it has loaded. Nothing inline, nothing from
    # elsewhere, and calls to this app alone.
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# Relative, so that it works behind whatever path a proxy adds.
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Agent storage</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="console/console.css">
<script type="module" src="console/console.js"></script>
</head>
<body><div id="app"></div><noscript>The console needs JavaScript.</noscript></body>
</html>
"""
_CONFIGURATION = "WEBSITE_AUTH_V2_CONFIG_JSON"
"""The platform's own configuration, which it tells apps (Microsoft Learn, "Environment variables and app
settings in Azure App Service")."""
_NAMES = {"azureActiveDirectory": "aad", "gitHub": "github"}
"""Of providers whose sign-in is called otherwise than their settings: ``/.auth/login/NAME``."""
_CUSTOM = "customOpenIdConnectProviders"
_IDS = ("clientId", "appId", "consumerKey")
"""One of these is set where a provider is."""
_FIT = pattern(r"[A-Za-z0-9_-]{1,60}")


@functools.cache
def page(in_folder: bool = False, providers: tuple[str, ...] = ()) -> Served:
    """The page, which loads the others.

    :param in_folder: it was asked for with a slash at its end, from where the others have shorter names.
    :param providers: by which the platform has users sign in, which the page offers to those who have not.
    """
    text = _PAGE.replace('"console/', '"') if in_folder else _PAGE
    if providers:
        text = text.replace("<title>", f'<meta name="sign-in" content="{" ".join(providers)}">\n<title>')
    headers = {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": _POLICY,
        "Referrer-Policy": "no-referrer",
    }
    return Served.of(text.encode(), headers)


@functools.cache
def _asset(name: str) -> Served:
    return Served.of((_FILES / name).read_bytes(), {"Content-Type": _TYPES[name]}, zipped=True)


def asset(name: str) -> Served:
    """One of the files that the page loads.

    :raises KeyNotFoundError: it has no such file.
    """
    if name not in _TYPES:
        raise KeyNotFoundError(f"the console has no file {name!r}", field="asset")
    return _asset(name)


def providers() -> tuple[str, ...]:
    """By which the platform's authentication lets people sign in, by their names as ``/.auth/login/`` takes
    them; none if the platform's authentication is off. Entra ID if
    it does not tell."""
    if not is_authenticated():
        return ()
    return tuple(name for name in _told(os.environ.get(_CONFIGURATION, "")) if _FIT.fullmatch(name)) or (
        "aad",
    )


def _told(configuration: str) -> list[str]:
    import msgspec

    try:
        told: Any = msgspec.json.decode(configuration)
    except (msgspec.MsgspecError, RecursionError):
        return []
    found = _record(_record(told).get("identityProviders"))
    custom = _record(found.get(_CUSTOM))
    named = [_NAMES.get(name, name) for name, each in found.items() if name != _CUSTOM and _is_set(each)]
    return named + [name for name, each in custom.items() if _is_set(each)]


def _is_set(provider: Any) -> bool:
    registration = _record(_record(provider).get("registration"))
    is_known = any(registration.get(name) for name in _IDS)
    return is_known and _record(provider).get("enabled") is not False


def _record(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
