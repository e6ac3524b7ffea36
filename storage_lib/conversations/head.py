"""The head of a conversation: what it is without its messages, and where these begin and end.

Every change of a conversation changes its head too, in the same transaction and only if the head still has
the ETag that it had: that makes all of them one after another.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from storage_lib.conversations.model import Conversation
from storage_lib.ports.entities import EntityValue
from storage_lib.ports.table_model import Entity

_REMEMBERED = 8
_TOKEN = 8


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """``first`` is the first position that there may be a message at, ``removed`` the first one whose row may
    still be there. ``erased`` counts what took messages away. ``calls`` has the marks of the last changes:
    whoever does not know whether its own was made finds it there. ``etag`` is the store's."""

    generation: str
    position: int = 0
    first: int = 1
    removed: int = 1
    count: int = 0
    participants: tuple[str, ...] = ()
    topic: str | None = None
    metadata: Mapping[str, Any] = {}
    created: datetime
    updated: datetime
    ttl: float | None = None
    max_messages: int | None = None
    max_age: float | None = None
    expires: datetime | None = None
    revision: int = 0
    erased: int = 0
    calls: str = ""
    etag: str = ""

    def after(self, token: str, now: datetime, **changes: Any) -> Head:
        """The head after a change.

        :param token: the mark of the change.
        """
        calls = (self.calls + token)[-_REMEMBERED * _TOKEN :]
        return msgspec.structs.replace(
            self, revision=self.revision + 1, calls=calls, updated=max(now, self.updated), **changes
        )

    def has_made(self, token: str) -> bool:
        return token in (self.calls[at : at + _TOKEN] for at in range(0, len(self.calls), _TOKEN))

    def is_over(self, now: datetime) -> bool:
        return self.expires is not None and self.expires <= now

    @property
    def public_etag(self) -> str:
        """Begins with the position."""
        return f"{self.position}.{self.revision}.{self.generation[-8:]}"

    def shown(self, name: str, count: int) -> Conversation:
        """As callers see it.

        :param name: what they call it.
        """
        return Conversation(
            id=name,
            position=self.position,
            count=count,
            participants=self.participants,
            topic=self.topic,
            metadata=self.metadata,
            created_at=self.created,
            updated_at=self.updated,
            expires_at=self.expires,
            ttl=self.ttl,
            max_messages=self.max_messages,
            max_age=self.max_age,
            etag=self.public_etag,
        )


_NEVER = datetime.max.replace(microsecond=0, tzinfo=UTC)


def to_properties(head: Head, since: Head | None) -> dict[str, EntityValue]:
    """The properties of the entity, those that are others than ``since``. None is never among them: a merge
    cannot take a property away."""
    now = _properties(head)
    before = {} if since is None else _properties(since)
    return {name: value for name, value in now.items() if name not in before or before[name] != value}


def _properties(head: Head) -> dict[str, EntityValue]:
    return {
        "generation": head.generation,
        "position": head.position,
        "first": head.first,
        "removed": head.removed,
        "count": head.count,
        "participants": list(head.participants),
        "topic": head.topic or "",
        "metadata": dict(head.metadata),
        "created": head.created,
        "updated": head.updated,
        "ttl": head.ttl or 0.0,
        "max_messages": head.max_messages or 0,
        "max_age": head.max_age or 0.0,
        "expires": head.expires or _NEVER,
        "revision": head.revision,
        "erased": head.erased,
        "calls": head.calls,
    }


def to_head(entity: Entity) -> Head:
    """The head that an entity has."""
    found = dict(entity.properties)
    expires = found["expires"]
    return Head(
        generation=found["generation"],
        position=found["position"],
        first=found["first"],
        removed=found["removed"],
        count=found["count"],
        participants=tuple(found["participants"]),
        topic=found["topic"] or None,
        metadata=found["metadata"],
        created=found["created"],
        updated=found["updated"],
        ttl=found["ttl"] or None,
        max_messages=found["max_messages"] or None,
        max_age=found["max_age"] or None,
        expires=None if expires >= _NEVER else expires,
        revision=found["revision"],
        erased=found["erased"],
        calls=found["calls"],
        etag=entity.etag,
    )
