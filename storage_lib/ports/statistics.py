"""What layers and backends count about themselves, for the metrics layer to ask.

A layer yields its own numbers from ``statistics()``; ``inside()`` leads to what it is around. So the metrics
layer shows the numbers of every layer without knowing one.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class Statistic(msgspec.Struct, frozen=True, gc=False):
    """A number of a layer.

    ``name`` is dotted, like ``agent_storage.cache.hits``. A counter only rises, from 0 when the layer was
    made; a gauge is the number of something now. ``unit`` is in the notation of UCUM (``By``, ``s``,
    ``{entry}``).
    """

    name: str
    value: float
    kind: Literal["counter", "gauge"] = "counter"
    tags: tuple[tuple[str, str], ...] = ()
    unit: str = ""
    description: str = ""

    def plus(self, value: float) -> Statistic:
        """The same with ``value`` more."""
        return msgspec.structs.replace(self, value=self.value + value)

    def tagged(self, name: str, value: str) -> Statistic:
        """The same with one more tag."""
        return msgspec.structs.replace(self, tags=tuple(sorted((*self.tags, (name, value)))))


class QuotaUsage(msgspec.Struct, frozen=True):
    """What the objects below a prefix take, as far as this process knows.

    ``bytes`` and ``objects`` are None until the first write below the prefix has made them known; they never
    leave out what this process has written. A quota that is None does not limit.
    """

    rule: str
    prefix: str
    bytes: int | None
    objects: int | None
    quota_bytes: int | None
    quota_objects: int | None
    warn_at: float

    @property
    def used(self) -> float | None:
        """The larger of the used parts of both quotas: 1 is full, and more is possible."""
        if self.bytes is None or self.objects is None:
            return None
        pairs = ((self.bytes, self.quota_bytes), (self.objects, self.quota_objects))
        return max(used / quota if quota else float(used > 0) for used, quota in pairs if quota is not None)

    @property
    def is_high(self) -> bool:
        """Whether the warning mark has been reached."""
        return self.used is not None and self.used >= self.warn_at
