"""The options of the compression layer."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from storage_lib.config.settings import Settings


class CompressionOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the compression layer stores objects compressed."""


def from_env(env: Mapping[str, str]) -> CompressionOptions | None:
    """Read ``AGENT_STORAGE_COMPRESSION`` and the settings that begin with it; None if it is off."""
    settings = Settings(env, "AGENT_STORAGE_COMPRESSION")
    if not settings.switch():
        return None
    return CompressionOptions()
