"""The options of the fallback layer."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from storage_lib.config.settings import Settings


class FallbackOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the fallback layer uses a second store for when the first is unavailable."""


def from_env(env: Mapping[str, str]) -> FallbackOptions | None:
    """Read ``AGENT_STORAGE_FALLBACK`` and the settings that begin with it; None if it is off."""
    settings = Settings(env, "AGENT_STORAGE_FALLBACK")
    if not settings.switch():
        return None
    return FallbackOptions()
