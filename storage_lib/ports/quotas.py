"""How much of its quotas a store uses."""

from __future__ import annotations

import msgspec


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
