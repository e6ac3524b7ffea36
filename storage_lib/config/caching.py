"""The options of the caching layer."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from storage_lib.config.settings import Settings


class CachingOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the caching layer keeps objects in memory."""


def from_env(env: Mapping[str, str]) -> CachingOptions | None:
    """Read ``AGENT_STORAGE_CACHING`` and the settings that begin with it; None if it is off."""
    settings = Settings(env, "AGENT_STORAGE_CACHING")
    if not settings.switch():
        return None
    return CachingOptions()
