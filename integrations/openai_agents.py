"""OpenAI Agents SDK keeps its sessions in a `StorageManager`.

pip install "agent-storage[openai-agents]"
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import batched
from typing import TYPE_CHECKING, Any, cast

from agents.memory import Session, SessionSettings

from storage_lib import KeyNotFoundError, StorageManager, to_segment
from storage_lib.conversations import Conversations
from storage_lib.conversations.batches import batch_ids
from storage_lib.conversations.model import MAX_APPENDED, MAX_READ

if TYPE_CHECKING:
    from agents.items import TResponseInputItem

PLACEHOLDER_ID = "__fake_id__"
"""The id that the SDK gives to items of models that give none."""


class StorageSession(Session):
    """The history of one conversation, which several processes may use at once: a ``Session`` of the SDK.

        session = StorageSession("user-42", storage)
        result = await Runner.run(agent, "Hello", session=session)

    The items are messages of `storage_lib.conversations`, where other programs read them as `conversation`.
    An append is one request, however long the history is. Items of which one has an id (``msg_…``, ``fc_…``)
    are appended once: adding the same ones again, because the answer was lost, changes nothing. The storage
    stays open; who made it closes it.

    :param session_id: any text of up to 255 bytes.
    :param storage: of memory, files or Azure; or a `Conversations` that was made of one.
    :param prefix: of the ids of the conversations.
    :param ttl: seconds after the last item after which the session is gone; None keeps it.
    :param session_settings: ``limit`` is how many items `get_items` returns if it is not told.
    :raises InvalidKeyError: the id is too long.
    """

    def __init__(
        self,
        session_id: str,
        storage: StorageManager | Conversations,
        *,
        prefix: str = "openai-agents",
        ttl: float | None = None,
        session_settings: SessionSettings | None = None,
    ) -> None:
        self.session_id = session_id
        self.session_settings = session_settings or SessionSettings()
        self.conversation = "/".join(filter(None, (prefix.strip("/"), to_segment(session_id))))
        self._log = storage if isinstance(storage, Conversations) else Conversations(storage)
        self._ttl = ttl

    async def get_items(self, limit: int | None = None) -> list[TResponseInputItem]:
        """The items, oldest first.

        :param limit: only as many of the newest; None means as many as the settings say, or all. As in the
            SDK's own sessions a negative number means all.
        """
        if limit is None and self.session_settings is not None:
            limit = self.session_settings.limit
        if limit is not None and not 0 <= limit <= MAX_READ:
            limit = None
        try:
            entries = await self._log.read(self.conversation, last=limit)
        except KeyNotFoundError:
            return []
        return [cast("TResponseInputItem", entry.message) for entry in entries]

    async def add_items(self, items: list[TResponseInputItem]) -> None:
        """Append items, all of them or none (of more than 5,000, each 5,000).

        :raises SerializationError: one is not plain JSON.
        """
        for some in batched(cast("list[dict[str, Any]]", items), MAX_APPENDED, strict=False):
            await self._log.append(self.conversation, some, ids=_identities(some), ttl=self._ttl)

    async def pop_item(self) -> TResponseInputItem | None:
        """Remove the newest item and return it; None if there is none."""
        entry = await self._log.pop(self.conversation, default=None)
        return None if entry is None else cast("TResponseInputItem", entry.message)

    async def clear_session(self) -> None:
        """Remove all items."""
        try:
            await self._log.clear(self.conversation)
        except KeyNotFoundError:
            return


def _identities(items: Sequence[dict[str, Any]]) -> list[str] | list[None]:
    """Ids by which the same items, added again, are known. Those of the items would not do alone: users' have
    none, and a model may give one to several."""
    if all(item.get("id", PLACEHOLDER_ID) in (None, PLACEHOLDER_ID) for item in items):
        return [None] * len(items)
    return batch_ids(items)
