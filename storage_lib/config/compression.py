"""The options of the compression layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from storage_lib.config.settings import Settings
from storage_lib.errors import ConfigurationError

_LEVELS: Final = {"zstd": (1, 22), "gzip": (1, 9)}
_DEFAULT_LEVELS: Final = {"zstd": 3, "gzip": 6}


class CompressionOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the compression layer stores objects compressed.

    :param codec: ``zstd`` or ``gzip``. Objects of either are read whatever it says.
    :param level: 1 (fast) to 22 (small) for zstd, to 9 for gzip; None means 3 and 6.
    :param min_bytes: objects with fewer bytes are stored as they are.
    :param max_expanded_bytes: what a compressed object may expand to when it is read in one piece, if that is
        also more than a hundred times what is stored. Larger ones can be streamed.
    """

    codec: Literal["zstd", "gzip"] = "zstd"
    level: int | None = None
    min_bytes: int = 1024
    max_expanded_bytes: int = 256 * 1024 * 1024

    def __post_init__(self) -> None:
        if self.codec not in _LEVELS:
            raise _refused("codec", self.codec, "zstd or gzip")
        least, most = _LEVELS[self.codec]
        if self.level is not None and not (type(self.level) is int and least <= self.level <= most):
            raise _refused("level", self.level, f"a whole number from {least} to {most} for {self.codec}")
        for name in ("min_bytes", "max_expanded_bytes"):
            value = getattr(self, name)
            if type(value) is not int or value < 0:
                raise _refused(name, value, "a whole number, not negative")

    @property
    def chosen_level(self) -> int:
        """The level, or the codec's default."""
        return _DEFAULT_LEVELS[self.codec] if self.level is None else self.level


def _refused(name: str, value: object, limit: str) -> ConfigurationError:
    return ConfigurationError(
        f"{name} of the compression is {value!r:.60}", field=f"compression.{name}", limit=limit
    )


def from_env(env: Mapping[str, str]) -> CompressionOptions | None:
    """Read ``AGENT_STORAGE_COMPRESSION`` and the settings that begin with it; None if it is off."""
    settings = Settings(env, "AGENT_STORAGE_COMPRESSION")
    if (codec := settings.switch("true", "zstd", "gzip")) is None:
        return None
    given = settings.options(CompressionOptions, "codec")
    if codec != "true":
        given["codec"] = codec
    return CompressionOptions(**given)
