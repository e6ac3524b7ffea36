"""The options of the validation layer."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from storage_lib.config.settings import Settings


class ValidationOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the validation layer refuses what the rules of a prefix do not allow."""


def from_env(env: Mapping[str, str]) -> ValidationOptions | None:
    """Read ``AGENT_STORAGE_VALIDATION`` and the settings that begin with it; None if it is off."""
    settings = Settings(env, "AGENT_STORAGE_VALIDATION")
    if not settings.switch():
        return None
    return ValidationOptions()
