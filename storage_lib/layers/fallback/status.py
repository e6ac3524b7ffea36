"""Which store answers, and what the layer has done: for people, readiness and metrics."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Literal

import msgspec

from storage_lib.errors import StorageError
from storage_lib.ports.statistics import Statistic

_log = logging.getLogger("AOS.Storage")


class FallbackStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What this process knows. The counts begin when the layer was made.

    :param answers: the store that answered last: ``secondary`` while the primary is away.
    :param primary_away_since: when the primary was first found unavailable; None if it last responded.
    :param secondary_away_since: likewise.
    :param reads_from_secondary: reads and listings that the second store answered; they may be older.
    :param writes_journaled: writes and deletes that the second store took.
    :param mirror_failures: writes that reached only the primary; repair copies them.
    :param pending: journaled keys that await repair, as last seen; at most 1,000 are counted.
    :param repaired: keys that this process has repaired.
    :param conflicts: conflicts that it met when it did.
    """

    mode: Literal["fallback", "mirror"]
    writes: Literal["primary", "secondary"]
    answers: Literal["primary", "secondary"]
    primary_away_since: datetime | None
    secondary_away_since: datetime | None
    reads_from_secondary: int
    writes_journaled: int
    mirror_failures: int
    pending: int
    repaired: int
    conflicts: int


class Watch:
    """Notes whether a store responds.

    :param name: for the log.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self.since: float | None = None
        """When it was first found away, in seconds since the epoch; None if it last responded."""

    def failed(self, error: StorageError, began: float) -> float:
        """An operation that began at that time found it away; since when it is."""
        if self.since is None:
            self.since = began
            _log.warning("the %s store is unavailable: %s", self._name, error)
        return min(self.since, began)

    def responded(self) -> None:
        if self.since is not None:
            self.since = None
            _log.warning("the %s store is available again", self._name)

    @property
    def moment(self) -> datetime | None:
        return None if self.since is None else datetime.fromtimestamp(self.since, UTC)


class Counts:
    """What one layer has done since it was made."""

    def __init__(self) -> None:
        self.primary = Watch("primary")
        self.secondary = Watch("second")
        self.reads_from_secondary = 0
        self.writes_journaled = 0
        self.mirror_failures = 0
        self.repaired = 0
        self.conflicts = 0

    def statistics(self, pending: int, clock: Callable[[], float]) -> Iterator[Statistic]:
        name = "agent_storage.fallback"
        yield Statistic(f"{name}.reads", self.reads_from_secondary, unit="{read}")
        yield Statistic(f"{name}.journaled", self.writes_journaled, unit="{write}")
        yield Statistic(f"{name}.mirror_failures", self.mirror_failures, unit="{write}")
        yield Statistic(f"{name}.repaired", self.repaired, unit="{object}")
        yield Statistic(f"{name}.conflicts", self.conflicts, unit="{object}")
        yield Statistic(f"{name}.pending", pending, "gauge", unit="{object}")
        since = self.primary.since
        away = 0.0 if since is None else max(clock() - since, 0.0)
        yield Statistic(f"{name}.primary_away", away, "gauge", unit="s")
