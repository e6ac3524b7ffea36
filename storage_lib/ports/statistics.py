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
