"""What layers and backends count about themselves, for the metrics layer to ask.

A layer yields its own numbers from ``statistics()``; ``inside()`` leads to what it is around. So the metrics
layer shows the numbers of every layer without knowing one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from storage_lib.ports.backend import StorageBackend


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


def statistics_of(backend: StorageBackend) -> Iterator[Statistic]:
    """The statistics of ``backend`` and of everything inside it. What is inside under a name, such as the
    secondary store of a fallback, has that name as its tag ``store``."""
    yield from backend.statistics()
    for name, inner in backend.inside().items():
        for each in statistics_of(inner):
            yield each.tagged("store", name) if name else each
