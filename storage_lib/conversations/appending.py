"""An append: the messages, what says where their ids are, and the head, in one transaction.

Messages that do not fit into one are written first, behind the last position, where nobody sees them, each
time together with the unchanged head; the last transaction moves the position over all of them. What an
append that was cut off has left there, the next one replaces.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import batched

from storage_lib.conversations.chores import Chores
from storage_lib.conversations.head import Head
from storage_lib.conversations.index import GRACE, Index, facets_of
from storage_lib.conversations.messages import Message, object_prefix, put_objects
from storage_lib.conversations.model import Appended, check_state
from storage_lib.conversations.options import Options, expiry
from storage_lib.conversations.rows import id_key, message_key, new_generation, partition_of
from storage_lib.conversations.store import Conflict, Plan, Settled, Store, afterwards
from storage_lib.errors import PreconditionFailedError
from storage_lib.ports.errors import UnknownOutcomeError
from storage_lib.ports.table_model import Insert, TableOperation, Upsert
from storage_lib.ports.tables import MAX_BATCH_OPERATIONS

_MOST_BYTES = 3 * 1024 * 1024
_CHORE_OBJECTS = 200
"""A property of a row holds about 280 of their names."""
_SAFE = timedelta(seconds=GRACE.total_seconds() / 4)
"""Rows of the index older than this are written again: their removal is far enough away."""


class Append:
    """One call of `Conversations.append`.

    :param name: what the caller calls the conversation.
    :param options: of the call; ``defaults`` are for a conversation that it creates.
    """

    def __init__(
        self,
        store: Store,
        index: Index,
        chores: Chores,
        name: str,
        stored: str,
        messages: Sequence[Message],
        if_position: int | None,
        if_match: str | None,
        options: Options,
        defaults: Options,
    ) -> None:
        self._store, self._index, self._chores = store, index, chores
        self._name, self._stored, self._messages = name, stored, messages
        self._if_position, self._if_match = if_position, if_match
        self._options, self._defaults = options, defaults
        # Whoever has to save it as an object looks first whether it is there.
        self._looks = any(each.given and each.is_large for each in messages)
        self._generation = ""
        self._told: dict[str, datetime] = {}
        self._chore_keys: list[tuple[str, str]] = []
        """Each with the generation that it looks at."""
        self._written: list[str] = []
        self._new: list[Message] = []
        self._tried: tuple[Head, str, list[int]] | None = None

    async def run(self) -> tuple[Appended, Head]:
        """What it did, and the head afterwards."""
        seen = self._store.seen(self._stored)
        stale = seen is not None and not self._is_expected(seen)
        try:
            head, positions = await self._store.change(self._stored, self._plan, fresh=stale)
        except Settled as settled:
            head, positions, self._new = settled.result
        if not {*self._written} - {each.object for each in self._new}:
            # Else it is seen to later: it may be that an attempt whose answer was lost has used them.
            with afterwards(self._stored):
                for generation, key in self._chore_keys:
                    if generation == head.generation:  # Of another one there may be messages: it lost a race.
                        await self._chores.done(key)
        appended = Appended(
            position=head.position,
            positions=tuple(positions),
            ids=tuple(each.id for each in self._messages),
            added=len(self._new),
            etag=head.public_etag,
        )
        return appended, head

    async def _plan(self, head: Head | None, token: str, conflict: Conflict | None) -> Plan[list[int]]:
        now = self._store.now()
        over = head
        if head is not None and head.is_over(now):
            head = None
        if conflict is not None and conflict.at != 0:
            self._looks = True
            if conflict.at is None and head is not None:
                await self._settle_tried(head)
        is_expected = self._is_expected(head)
        known: dict[str, int] = {}
        replaced: set[str] = set()
        if head is not None and (self._looks or not is_expected):
            known, replaced = await self._lookup(head)
        self._new = new = [each for each in self._messages if not each.given or each.id not in known]
        if not new and head is not None and self._messages and not self._options.applied(head, adding=True):
            raise Settled((head, [known[each.id] for each in self._messages], []))
        if not is_expected:
            position, etag = (0, "") if head is None else (head.position, head.public_etag)
            check_state(self._name, position, etag, self._if_position, self._if_match)
        base = head or self._made(now, conflict)
        at = max(now, base.updated)
        wanted = self._wanted(base, token, at, len(new), is_new=head is None)
        await self._prepare(head, wanted, new)
        batches = _packed(self._operations(base, new, replaced, at))
        before = over if head is None else head
        for operations in batches[:-1]:
            if head is None:
                await self._stage(operations)
            else:
                before = head = await self._store.fence(self._stored, head, operations)
        places = iter(range(base.position + 1, base.position + len(new) + 1))
        positions = [
            known[each.id] if each.given and each.id in known else next(places) for each in self._messages
        ]
        if new:
            self._tried = base, new[0].id, positions
        return before, wanted, batches[-1], positions

    async def _stage(self, operations: Sequence[TableOperation]) -> None:
        """Write messages of a new conversation, before its head: nobody else knows its generation."""
        try:
            await self._store.tables.batch(self._store.table, partition_of(self._stored), operations)
        except UnknownOutcomeError as error:
            raise Conflict(None) from error  # Begun anew, in another generation.

    def _is_expected(self, head: Head | None) -> bool:
        position, etag = (0, None) if head is None else (head.position, head.public_etag)
        return self._if_position in (None, position) and (
            self._if_match in (None, etag) or (self._if_match == "*" and head is not None)
        )

    async def _settle_tried(self, head: Head) -> None:
        """:raises Settled: the last attempt, whose answer was lost, has made its change."""
        if self._tried is not None:
            base, first_id, positions = self._tried
            if base.generation != head.generation:
                return  # Somebody else has made the conversation.
            partition = partition_of(self._stored)
            key = message_key(base.generation, base.position + 1)
            row = await self._store.tables.get(self._store.table, partition, key, default=None)
            if row is not None and row.properties["id"] == first_id and max(positions) <= head.position:
                raise Settled((head, positions, self._new))

    def _made(self, now: datetime, conflict: Conflict | None) -> Head:
        """A new conversation. After a conflict it is another one, in whose partition there is nothing yet."""
        if not self._generation or conflict is not None:
            self._generation = new_generation(now.timestamp())
        return Head(generation=self._generation, created=now, updated=now)

    def _wanted(self, base: Head, token: str, at: datetime, count: int, *, is_new: bool) -> Head:
        changes = self._defaults.given if is_new else {}
        changes |= self._options.applied(base, adding=True)
        ttl = changes.get("ttl", base.ttl)
        return base.after(
            token,
            at,
            **changes,
            position=base.position + count,
            count=base.count + count,
            expires=expiry(at, ttl),
        )

    async def _prepare(self, head: Head | None, wanted: Head, new: Sequence[Message]) -> None:
        """Write what must be there before the head: rows of the index, large messages, and whatever makes
        sure that what is left of them is removed."""
        facets = facets_of(wanted.participants, wanted.topic)
        if head is not None:
            there = set(facets_of(head.participants, head.topic))
            facets = [each for each in facets if each not in there]
        now = self._store.now()
        keys = [f"{wanted.generation} {each}" for each in facets]
        missing = [
            each
            for each, key in zip(facets, keys, strict=True)
            if key not in self._told or self._told[key] < now - _SAFE
        ]
        if missing:
            await self._index.add(self._stored, wanted.generation, missing)
            self._told |= {f"{wanted.generation} {each}": now for each in missing}
        await self._watch(head, wanted)
        prefix = object_prefix(partition_of(self._stored), wanted.generation)
        large = [each for each in new if each.is_large and not (each.object or "").startswith(prefix)]
        if large:
            await self._save(wanted, prefix, large)
        elif head is None and (
            len(new) >= MAX_BATCH_OPERATIONS // 2 or sum(each.wire_bytes for each in new) > _MOST_BYTES
        ):
            await self._chore(wanted)

    async def _watch(self, head: Head | None, wanted: Head) -> None:
        before = (None, None) if head is None else (head.ttl, head.max_age)
        after = (wanted.ttl, wanted.max_age)
        if before != after and after != (None, None) and f"watch {after}" not in self._told:
            await self._chores.watch(self._stored, wanted)
            self._told[f"watch {after}"] = self._store.now()

    async def _save(self, wanted: Head, prefix: str, large: Sequence[Message]) -> None:
        names = [each.name_object(prefix) for each in large]
        for some in batched(names, _CHORE_OBJECTS, strict=False):
            await self._chore(wanted, some)
        self._written += names
        await put_objects(self._store.objects, large)

    async def _chore(self, wanted: Head, objects: Sequence[str] = ()) -> None:
        key = await self._chores.add(self._stored, wanted.generation, objects=objects)
        self._chore_keys.append((wanted.generation, key))

    def _operations(
        self, base: Head, new: Sequence[Message], replaced: set[str], at: datetime
    ) -> list[tuple[int, list[TableOperation]]]:
        """For each message about how large it is, and what writes it."""
        found: list[tuple[int, list[TableOperation]]] = []
        for position, message in enumerate(new, base.position + 1):
            operations: list[TableOperation] = [
                Upsert(message_key(base.generation, position), message.properties(at), "replace")
            ]
            if message.given:
                key = id_key(base.generation, message.id)
                where = {"position": position, "digest": message.digest}
                operations.append(
                    Upsert(key, where, "replace") if message.id in replaced else Insert(key, where)
                )
            found.append((message.wire_bytes, operations))
        return found

    async def _lookup(self, head: Head) -> tuple[dict[str, int], set[str]]:
        """The positions of those messages that are there, and the ids that say of none where it is."""
        store, partition = self._store, partition_of(self._stored)

        async def look(message: Message) -> tuple[Message, int | None, bool]:
            key = id_key(head.generation, message.id)
            row = await store.tables.get(store.table, partition, key, default=None)
            if row is None:
                return message, None, False
            position: int = row.properties["position"]
            if not head.first <= position <= head.position:
                return message, None, True
            key = message_key(head.generation, position)
            there = await store.tables.get(store.table, partition, key, default=None)
            if there is None or there.properties["id"] != message.id:
                return message, None, True
            if row.properties["digest"] != message.digest:
                raise self._other(message, position)
            return message, position, False

        looks = await store.each([each for each in self._messages if each.given], look)
        known = {message.id: position for message, position, _ in looks if position is not None}
        return known, {message.id for message, _, is_stale in looks if is_stale}

    def _other(self, message: Message, position: int) -> PreconditionFailedError:
        number = self._messages.index(message)
        return PreconditionFailedError(
            f"the id {message.id[:80]!r} is that of another message, at position {position}",
            field=f"messages[{number}].id",
            limit="each id once in a conversation",
            remedy="give the message an id of its own, or pass ids=[None, …] if the ids are not theirs alone",
        )


def _packed(rows: Sequence[tuple[int, list[TableOperation]]]) -> list[list[TableOperation]]:
    """The operations in as few transactions as hold them, each with room for the head; at least one."""
    batches: list[list[TableOperation]] = [[]]
    total = 0
    for size, operations in rows:
        full = len(batches[-1]) + len(operations) > MAX_BATCH_OPERATIONS - 1
        if batches[-1] and (full or total + size > _MOST_BYTES):
            batches.append([])
            total = 0
        batches[-1] += operations
        total += size
    return batches
