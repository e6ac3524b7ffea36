"""What a conversation is besides its messages, as callers give it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec

from storage_lib import values
from storage_lib.arguments import mapping, several, whole
from storage_lib.arguments import seconds as checked_seconds
from storage_lib.conversations.head import Head
from storage_lib.conversations.model import (
    MAX_ID_CHARACTERS,
    MAX_METADATA_CHARACTERS,
    MAX_NAME_CHARACTERS,
    MAX_PARTICIPANTS,
)
from storage_lib.conversations.names import unicode_text
from storage_lib.errors import InvalidArgumentError, InvalidKeyError, ObjectTooLargeError, SerializationError
from storage_lib.ports.expiry import MAX_TTL_SECONDS
from storage_lib.ports.object_model import KEPT, Kept
from storage_lib.segments import to_table_key

MAX_FOLDERS = 50
MAX_MESSAGES = 1_000_000


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be set; what is `KEPT` stays as it is."""

    participants: tuple[str, ...] | Kept = KEPT
    topic: str | Kept | None = KEPT
    metadata: Mapping[str, Any] | Kept = KEPT
    ttl: float | Kept | None = KEPT
    max_messages: int | Kept | None = KEPT
    max_age: float | Kept | None = KEPT

    @property
    def given(self) -> dict[str, Any]:
        found = {name: getattr(self, name) for name in self.__struct_fields__}
        return {name: value for name, value in found.items() if value is not KEPT}

    def applied(self, head: Head, *, adding: bool) -> dict[str, Any]:
        """The fields of the head that become others.

        :param adding: participants and members of the metadata join those that there are.
        """
        wanted = self.given
        if adding and "participants" in wanted:
            wanted["participants"] = _joined(head.participants, wanted["participants"])
        if adding and "metadata" in wanted:
            wanted["metadata"] = checked_metadata({**head.metadata, **wanted["metadata"]})
        return {name: value for name, value in wanted.items() if getattr(head, name) != value}


def checked(
    *,
    participants: Any = KEPT,
    topic: Any = KEPT,
    metadata: Any = KEPT,
    ttl: Any = KEPT,
    max_messages: Any = KEPT,
    max_age: Any = KEPT,
) -> Options:
    """:raises InvalidArgumentError: one of them cannot be so."""
    return Options(
        participants=KEPT if participants is KEPT else checked_participants(participants),
        topic=topic if topic is KEPT else checked_topic(topic),
        metadata=KEPT if metadata is KEPT else checked_metadata(metadata),
        ttl=ttl if ttl is KEPT or ttl is None else float(checked_seconds("ttl", ttl, 0, MAX_TTL_SECONDS)),
        max_messages=max_messages
        if max_messages is KEPT or max_messages is None
        else whole("max_messages", max_messages, 1, MAX_MESSAGES),
        max_age=max_age
        if max_age is KEPT or max_age is None
        else float(checked_seconds("max_age", max_age, 1, MAX_TTL_SECONDS)),
    )


def expiry(now: datetime, ttl: float | None) -> datetime | None:
    return None if ttl is None else now + timedelta(seconds=ttl)


def check_id(conversation: str, stored: str) -> str:
    """The name in the store, if there is room for it."""
    if (size := len(stored)) > MAX_ID_CHARACTERS or stored.count("/") > MAX_FOLDERS:
        raise InvalidKeyError(
            f"conversation {conversation[:80]!r} has {size} characters in {stored.count('/') + 1} segments",
            field="conversation",
            limit=f"{MAX_ID_CHARACTERS} characters, {MAX_FOLDERS} segments",
        )
    try:
        to_table_key(stored)
    except InvalidKeyError as error:
        raise InvalidKeyError(
            f"conversation {conversation[:80]!r} would take more than a table's key holds",
            field="conversation",
            limit="512 characters, where anything but ASCII letters, digits and -_.@:+, may take several",
            remedy="use a shorter id",
        ) from error
    return stored


def checked_participants(participants: Any) -> tuple[str, ...]:
    names = several("participants", participants)
    return _joined((), tuple(_name(f"participants[{n}]", each) for n, each in enumerate(names)))


def checked_topic(topic: Any) -> str | None:
    return None if topic is None or topic == "" else _name("topic", topic)


def checked_metadata(metadata: Any) -> dict[str, Any]:
    found = mapping("metadata", metadata)
    try:
        encoded = values.encode(found)
    except SerializationError as error:
        raise SerializationError(f"metadata: {error.message}", field="metadata") from error
    if encoded.content_type != values.JSON:
        raise SerializationError("metadata is not plain JSON", field="metadata")
    if (size := len(encoded.data.decode())) > MAX_METADATA_CHARACTERS:
        raise ObjectTooLargeError(
            f"metadata has {size} characters of JSON",
            field="metadata",
            limit=f"{MAX_METADATA_CHARACTERS} characters",
            remedy="save it with storage.save, and put its key into the metadata",
        )
    return found


def _joined(before: tuple[str, ...], more: tuple[str, ...]) -> tuple[str, ...]:
    found = tuple(dict.fromkeys((*before, *more)))
    if len(found) > MAX_PARTICIPANTS:
        raise InvalidArgumentError(
            f"{len(found)} participants", field="participants", limit=f"{MAX_PARTICIPANTS} participants"
        )
    return found


def _name(field: str, name: Any) -> str:
    if not isinstance(name, str):
        raise InvalidArgumentError(f"{field} is a {type(name).__name__}", field=field, limit="a str")
    if not name or len(name) > MAX_NAME_CHARACTERS:
        raise InvalidArgumentError(
            f"{field} has {len(name)} characters", field=field, limit=f"1 to {MAX_NAME_CHARACTERS} characters"
        )
    return unicode_text(field, name)
