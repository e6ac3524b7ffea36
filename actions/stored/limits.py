"""What one analysis may use, by app settings."""

from __future__ import annotations

import os
from dataclasses import dataclass

from storage_lib.errors import ConfigurationError

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """The defaults suit an instance of 2 GiB, with 0.8 GB of temporary disk, that runs one at a time."""

    object_bytes: int = 256 * _MIB
    """Of all objects that one task reads."""
    memory_bytes: int = 512 * _MIB
    """Of DuckDB; what does not fit goes to the temporary disk."""
    disk_bytes: int = 512 * _MIB
    """Of DuckDB's temporary files, and of a result."""
    threads: int = 2
    seconds: int = 300

    @classmethod
    def from_env(cls) -> Limits:
        """:raises ConfigurationError: a setting is no whole number within its bounds."""
        return cls(
            _setting("AGENT_ANALYSIS_OBJECT_MB", 256, 1, 16 * 1024) * _MIB,
            _setting("AGENT_ANALYSIS_MEMORY_MB", 512, 128, 64 * 1024) * _MIB,
            _setting("AGENT_ANALYSIS_DISK_MB", 512, 16, 256 * 1024) * _MIB,
            _setting("AGENT_ANALYSIS_THREADS", 2, 1, 64),
            _setting("AGENT_ANALYSIS_SECONDS", 300, 1, 3600),
        )


def _setting(name: str, default: int, least: int, most: int) -> int:
    text = os.environ.get(name) or str(default)
    value = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else -1
    if not least <= value <= most:
        raise ConfigurationError(
            f"{name} is {text[:40]!r}", field=name, limit=f"a whole number from {least} to {most}"
        )
    return value
