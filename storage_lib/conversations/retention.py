"""How many messages a conversation keeps, and for how long: the older ones are hidden, and then removed."""

from __future__ import annotations

from datetime import timedelta

import msgspec

from storage_lib.conversations.head import Head
from storage_lib.conversations.rows import position_of
from storage_lib.conversations.store import Conflict, Store, afterwards
from storage_lib.ports.table_model import TableOperation

_SLACK = 100
"""Messages beyond those to be kept that are removed together: one request for as many."""


class Retention:
    """What is still to be seen of conversations."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def first(self, stored: str, head: Head) -> int:
        """The first position that is still to be seen. It costs a request only where messages end by age, or
        where some were popped of a conversation that keeps so many."""
        first = head.first
        if head.max_messages is not None and head.count > head.max_messages:
            if head.count == head.position - head.first + 1:
                first = head.position - head.max_messages + 1
            else:
                first = await self._nth(stored, head, head.max_messages)
        if head.max_age is not None:
            first = max(first, await self._young(stored, head, first))
        return first

    async def count(self, stored: str, head: Head) -> int:
        """How many messages are still to be seen."""
        first = await self.first(stored, head)
        if first == head.first:
            return head.count
        if head.count == head.position - head.first + 1:
            return head.position - first + 1
        rows = self._store.between(stored, head.generation, first, head.position, select=["id"])
        return len([row async for row in rows])

    async def enforce(self, stored: str, head: Head) -> Head:
        """Remove what is no longer to be seen."""
        first = await self.first(stored, head)
        if first > head.first:
            count = await self.count(stored, head)

            async def plan(
                now: Head | None, token: str, conflict: Conflict | None
            ) -> tuple[Head | None, Head, list[TableOperation], None]:
                # Only what nobody has changed meanwhile: whoever did so comes here too.
                if now is None or now.etag != head.etag:
                    raise _Elsewhere
                changed = now.after(token, now.updated, first=first, count=count, erased=now.erased + 1)
                return now, changed, [], None

            try:
                head, _ = await self._store.change(stored, plan)
            except _Elsewhere:
                return head
        return await self.removed(stored, head)

    async def removed(self, stored: str, head: Head) -> Head:
        """Remove the rows before the first message that is to be seen."""
        if head.removed < head.first:
            await self._store.remove(stored, head.generation, head.removed, head.first - 1)

            async def plan(
                now: Head | None, token: str, conflict: Conflict | None
            ) -> tuple[Head | None, Head, list[TableOperation], None]:
                if now is None or now.generation != head.generation or now.removed >= head.first:
                    raise _Elsewhere
                # No change to callers, so the revision stays.
                return now, msgspec.structs.replace(now, removed=head.first), [], None

            try:
                head, _ = await self._store.change(stored, plan)
            except _Elsewhere:
                return head
        return head

    async def after_append(self, stored: str, head: Head) -> None:
        """Remove what an append has made superfluous, now and then."""
        if head.max_messages is None or head.count <= head.max_messages + _SLACK:
            return
        with afterwards(stored):
            await self.enforce(stored, head)

    async def _nth(self, stored: str, head: Head, count: int) -> int:
        seen = 0
        async for row in self._store.between(
            stored, head.generation, head.first, head.position, limit=count, select=["id"]
        ):
            seen += 1
            if seen == count:
                return position_of(row.row_key)
        return head.first

    async def _young(self, stored: str, head: Head, first: int) -> int:
        """The first position whose message is young enough: times never go back, so it is searched by
        halves."""
        assert head.max_age is not None  # noqa: S101 - asked before
        least = self._store.now() - timedelta(seconds=head.max_age)
        if head.updated <= least:
            return head.position + 1
        low, high = first, head.position + 1
        while low < high:
            middle = (low + high) // 2
            row = await self._at_or_before(stored, head, low, middle)
            if row is None:
                low = middle + 1  # Popped ones only.
            elif row[1] > least.timestamp():
                high = row[0]
            else:
                low = middle + 1
        return low

    async def _at_or_before(self, stored: str, head: Head, low: int, high: int) -> tuple[int, float] | None:
        rows = self._store.between(stored, head.generation, low, high, limit=1, select=["at"])
        async for row in rows:
            return position_of(row.row_key), row.properties["at"].timestamp()
        return None


class _Elsewhere(Exception):  # noqa: N818 - never leaves this module
    """Somebody else has done it, or made it needless."""
