"""Pages of conversations: rows of the index, and the head that each of them leads to."""

from __future__ import annotations

from storage_lib.arguments import whole
from storage_lib.conversations.index import Index, facet_of, facets_of, generation_in, is_generation
from storage_lib.conversations.model import Conversation, ConversationPage
from storage_lib.conversations.options import checked_participants, checked_topic
from storage_lib.conversations.retention import Retention
from storage_lib.conversations.store import Store
from storage_lib.ports import cursors
from storage_lib.ports.table_model import Entity


async def page(
    store: Store,
    index: Index,
    retention: Retention,
    participant: str | None,
    topic: str | None,
    prefix: str,
    limit: int,
    cursor: str | None,
) -> ConversationPage:
    """See `Conversations.page`."""
    whole("limit", limit, 1, 1000)
    if participant is not None:
        (participant,) = checked_participants([participant])
    topic = checked_topic(topic)
    area = await store.reach.stored_prefix(prefix)
    bound = ("conversations", participant, topic, area, prefix)
    after = None
    if cursor is not None and not is_generation(after := cursors.unbound(cursor, *bound)):
        raise cursors.refused()

    async def look(item: tuple[Entity, str]) -> tuple[Entity, Conversation | None, bool]:
        """The row, what it leads to, and whether that is right."""
        row, name = item
        stored = row.properties["conversation"]
        head = await store.head(stored)
        if head is None or head.generation != generation_in(row):
            return row, None, False
        if head.is_over(store.now()):
            return row, None, True  # The sweep removes it: clocks differ, and an append may renew it.
        if row.partition_key not in facets_of(head.participants, head.topic):
            return row, None, False
        if topic is not None and topic != head.topic:
            return row, None, True  # It is here for its participant.
        return row, head.shown(name, await retention.count(stored, head)), True

    facet, at, following = facet_of(participant, topic), after, None
    shown: list[tuple[str, Conversation]] = []
    while len(shown) <= limit:
        # One more than is shown: what the caller may not list must not be seen in the cursor either.
        found = await index.page(facet, area, at, min(limit + 1, 1000), following)
        rows = [
            (row, name)
            for row in found.entities
            if (name := store.reach.shown(row.properties["conversation"])) is not None
            and name.startswith(prefix)
        ]
        looks = await store.each(rows, look)
        await index.tidy([row for row, _, is_right in looks if not is_right], store.reach.clock())
        shown += [(generation_in(row), each) for row, each, _ in looks if each is not None]
        if (following := found.cursor) is None:
            break
    more = cursors.bound(shown[limit - 1][0], *bound) if len(shown) > limit else None
    return ConversationPage(conversations=[each for _, each in shown[:limit]], cursor=more)
