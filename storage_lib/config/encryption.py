"""The options of the encryption layer."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from storage_lib.config.settings import Settings


class EncryptionOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the encryption layer stores objects encrypted."""


def from_env(env: Mapping[str, str]) -> EncryptionOptions | None:
    """Read ``AGENT_STORAGE_ENCRYPTION`` and the settings that begin with it; None if it is off."""
    settings = Settings(env, "AGENT_STORAGE_ENCRYPTION")
    if not settings.switch():
        return None
    return EncryptionOptions()
