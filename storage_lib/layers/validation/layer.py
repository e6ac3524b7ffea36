"""The validation layer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from storage_lib.config.validation import ValidationOptions
from storage_lib.layers.base import Layer
from storage_lib.layers.validation.ledger import Ledger
from storage_lib.layers.validation.objects import ValidatingObjects
from storage_lib.layers.validation.rules import ReadyRule
from storage_lib.ports.backend import StorageBackend
from storage_lib.ports.drivers import ObjectDriver
from storage_lib.ports.statistics import QuotaUsage, Statistic
from storage_lib.several import end

_USED = "What the objects of a quota take, as far as this process knows"
_LIMIT = "What the objects of a quota may take"


class ValidationLayer(Layer):
    """A layer that refuses what the rules of a prefix do not allow. Reads and deletions are never refused,
    unless a rule says ``on_read``.

    :raises ConfigurationError: a schema or a model of the rules cannot work.
    """

    portable = True

    def __init__(self, inner: StorageBackend, options: ValidationOptions) -> None:
        self.options = options
        self._rules = tuple(ReadyRule(rule, f"rules[{place}]") for place, rule in enumerate(options.rules))
        self._listings: set[asyncio.Task[None]] = set()
        self._ledger: Ledger | None = None
        super().__init__(inner)

    def object_layer(self, inner: ObjectDriver) -> ObjectDriver:
        ledger = Ledger(inner, self._rules, self.options.refresh_seconds, self._listings)
        self._ledger = self._ledger or ledger
        return ValidatingObjects(inner, self.around, self._rules, ledger)

    def quotas(self) -> list[QuotaUsage]:
        return [] if self._ledger is None else self._ledger.reports()

    def statistics(self) -> Iterable[Statistic]:
        for usage in self.quotas():
            tags = (("rule", usage.rule),)
            for unit, used, limit in (
                ("By", usage.bytes, usage.quota_bytes),
                ("{object}", usage.objects, usage.quota_objects),
            ):
                name = "bytes" if unit == "By" else "objects"
                yield Statistic(f"agent_storage.quota.used.{name}", used or 0, "gauge", tags, unit, _USED)
                if limit is not None:
                    yield Statistic(f"agent_storage.quota.limit.{name}", limit, "gauge", tags, unit, _LIMIT)

    async def close(self) -> None:
        try:
            await end(self._listings)
        finally:
            await self.inner.close()
