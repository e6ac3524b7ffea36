"""By which providers the platform's authentication lets people sign in. Imported only by the console."""

from __future__ import annotations

import os
from typing import Any

from functions.callers import is_authenticated
from storage_lib.patterns import pattern

_CONFIGURATION = "WEBSITE_AUTH_V2_CONFIG_JSON"
"""The platform's own configuration, which it tells apps (Microsoft Learn, "Environment variables and app
settings in Azure App Service")."""
_NAMES = {"azureActiveDirectory": "aad", "gitHub": "github"}
"""Of providers whose sign-in is called otherwise than their settings: ``/.auth/login/NAME``."""
_CUSTOM = "customOpenIdConnectProviders"
_IDS = ("clientId", "appId", "consumerKey")
"""One of these is set where a provider is."""
_FIT = pattern(r"[A-Za-z0-9_-]{1,60}")


def providers() -> tuple[str, ...]:
    """Their names as ``/.auth/login/`` takes them; none if the platform's authentication is off. Entra ID if
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
