"""The options of the caching layer."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from storage_lib.config.settings import Settings
from storage_lib.errors import ConfigurationError

MAX_TTL_SECONDS = 7 * 24 * 3600
MAX_BYTES = 2**40
_MIB = 1024 * 1024


class CachingOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the caching layer keeps objects in memory.

    :param ttl: seconds for which an object is answered from memory. Then the store is asked whether it
        has changed; only a changed one is transferred. What other processes change is seen after this
        time at the latest. With 0 the store is asked each time.
    :param negative_ttl: seconds for which it is remembered that there is no object, at most ``ttl``;
        None means 5, or ``ttl`` if that is less.
    :param max_bytes: memory for all that is kept, counting 1,300 bytes beside those of each object; what
        was not used for longest makes room.
    :param max_object_bytes: larger objects are not kept; None means 1 MiB, or ``max_bytes`` if that is
        less.
    :param keep_writes: whether what this process saves is kept, so that loading it needs no request.
    :raises ConfigurationError: one of them is out of range; ``field`` names it.
    """

    ttl: float = 300
    negative_ttl: float | None = None
    max_bytes: int = 64 * _MIB
    max_object_bytes: int | None = None
    keep_writes: bool = True

    def __post_init__(self) -> None:
        _check_number("ttl", self.ttl, MAX_TTL_SECONDS, "seconds")
        _check_whole("max_bytes", self.max_bytes, MAX_BYTES)
        if self.negative_ttl is not None:
            _check_number("negative_ttl", self.negative_ttl, self.ttl, "seconds, which is the ttl")
        if self.max_object_bytes is not None:
            _check_whole("max_object_bytes", self.max_object_bytes, self.max_bytes)
        if type(self.keep_writes) is not bool:
            raise ConfigurationError(
                f"keep_writes is {self.keep_writes!r}", field="keep_writes", limit="true or false"
            )

    @property
    def missing_seconds(self) -> float:
        """How long it is remembered that there is no object."""
        return min(5, self.ttl) if self.negative_ttl is None else self.negative_ttl

    @property
    def largest_bytes(self) -> int:
        """The size of the largest object that is kept."""
        return min(_MIB, self.max_bytes) if self.max_object_bytes is None else self.max_object_bytes


def _check_number(name: str, value: object, most: float, unit: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise ConfigurationError(f"{name} is {value!r}", field=name, limit=f"0 to {most:g} {unit}")


def _check_whole(name: str, value: object, most: int) -> None:
    if type(value) is not int or not 0 <= value <= most:
        raise ConfigurationError(f"{name} is {value!r}", field=name, limit=f"0 to {most} bytes")


def from_env(env: Mapping[str, str]) -> CachingOptions | None:
    """Read ``AGENT_STORAGE_CACHING`` and the settings that begin with it; None if it is off."""
    settings = Settings(env, "AGENT_STORAGE_CACHING")
    if not settings.switch():
        return None
    return CachingOptions(**settings.options(CachingOptions))
