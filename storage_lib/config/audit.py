"""The options of the audit layer."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from storage_lib.config.settings import Settings


class AuditOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the audit layer records who did what."""


def from_env(env: Mapping[str, str]) -> AuditOptions | None:
    """Read ``AGENT_STORAGE_AUDIT`` and the settings that begin with it; None if it is off."""
    settings = Settings(env, "AGENT_STORAGE_AUDIT")
    if not settings.switch():
        return None
    return AuditOptions()
