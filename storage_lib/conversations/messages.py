"""A message as a row: JSON text in one property, bytes in several, or an object where it is larger than that.

An entity holds 1 MiB, and 64 KiB in one property (Azure Storage REST, "Understanding the Table service data
model").
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime
from functools import cached_property
from secrets import token_hex
from typing import Any, cast

import msgspec

from storage_lib import values
from storage_lib.arguments import several
from storage_lib.conversations.model import MAX_APPENDED, MAX_MESSAGE_BYTES, Entry
from storage_lib.conversations.names import unicode_text
from storage_lib.conversations.rows import generation_of, position_of
from storage_lib.errors import (
    IntegrityError,
    InvalidArgumentError,
    KeyNotFoundError,
    ObjectTooLargeError,
    SerializationError,
)
from storage_lib.ports.entities import EntityValue
from storage_lib.ports.objects import ObjectStore
from storage_lib.ports.table_model import Entity
from storage_lib.reserved_names import MESSAGES

OBJECTS = MESSAGES
MAX_ID_CHARACTERS = 1024

_TEXT = 32 * 1024 - 16
_PIECE = 64 * 1024
_PIECES = 14
MOST_INLINE_BYTES = _PIECE * _PIECES
_TOGETHER = 16


class Message(msgspec.Struct, dict=True):
    """A message that is to be appended.

    :param given: its id is its caller's: a second one with it is the same message.
    :param most_inline: with more bytes than these it is kept as an object.
    """

    id: str
    given: bool
    data: bytes
    most_inline: int = MOST_INLINE_BYTES
    object: str | None = None

    @cached_property
    def digest(self) -> str:
        """Tells whether another one is the same, in whatever order its members are."""
        canonical = msgspec.json.encode(msgspec.json.decode(self.data), order="sorted")
        return hashlib.sha256(canonical).hexdigest()[:32]

    @property
    def is_large(self) -> bool:
        return len(self.data) > self.most_inline

    @property
    def wire_bytes(self) -> int:
        """About how much of a request it takes, rather too much than too little."""
        size = len(self.data)
        return 2000 + (200 if self.object else 3 * size if size <= _TEXT else size * 4 // 3)

    def name_object(self, prefix: str) -> str:
        """Give the object of a large message a name below ``prefix``."""
        self.object = f"{prefix}{token_hex(16)}"
        return self.object

    def properties(self, at: datetime) -> dict[str, EntityValue]:
        found: dict[str, EntityValue] = {"id": self.id, "given": self.given, "at": at}
        if self.given:
            found["digest"] = self.digest
        if self.object:
            return found | {"object": self.object}
        if len(self.data) <= _TEXT:
            return found | {"message": self.data.decode()}
        pieces = range(0, len(self.data), _PIECE)
        return found | {f"part{n:02}": self.data[at : at + _PIECE] for n, at in enumerate(pieces)}


def checked_messages(messages: Any, ids: Any, most_inline: int) -> list[Message]:
    """The messages that a caller gave.

    :raises InvalidArgumentError: they are not a list of JSON objects, or two have one id.
    :raises SerializationError: one is not plain JSON.
    :raises ObjectTooLargeError: one, or their number, is too large.
    """
    if isinstance(messages, dict):
        messages = _refuse_one()
    given = several("messages", messages)
    if len(given) > MAX_APPENDED:
        raise InvalidArgumentError(
            f"{len(given)} messages in one append",
            field="messages",
            limit=f"{MAX_APPENDED} messages",
            remedy="append them in several calls",
        )
    names = None if ids is None else several("ids", ids)
    if names is not None and len(names) != len(given):
        raise InvalidArgumentError(
            f"{len(names)} ids for {len(given)} messages",
            field="ids",
            limit="one for each message; None has one made",
        )
    found: list[Message] = []
    seen: dict[str, int] = {}
    for n, message in enumerate(given):
        data = _encoded(f"messages[{n}]", message)
        name = message.get("id") if names is None else names[n]
        own = _checked_id(f"messages[{n}].id" if names is None else f"ids[{n}]", name, is_own=names is None)
        if own is not None and own in seen:
            raise InvalidArgumentError(
                f"messages {seen[own]} and {n} have the same id {own[:80]!r}",
                field=f"messages[{n}].id",
                limit="each id once in a conversation",
                remedy="give them different ids, or pass ids=[None, …] if the ids are not theirs alone",
            )
        if own is not None:
            seen[own] = n
        found.append(Message(own or token_hex(16), own is not None, data, most_inline))
    return found


def summary_message(field: str, message: Any, most_inline: int) -> Message:
    """A message that the library puts in itself."""
    return Message(token_hex(16), False, _encoded(field, message), most_inline)


def _refuse_one() -> Any:
    raise InvalidArgumentError(
        "messages is a dict", field="messages", limit="a list of messages", remedy="put it into a list"
    )


def _encoded(field: str, message: Any) -> bytes:
    if not isinstance(message, dict):
        raise InvalidArgumentError(
            f"{field} is a {type(message).__name__}", field=field, limit="a JSON object (a dict)"
        )
    try:
        encoded = values.encode(dict(cast("dict[Any, Any]", message)))
    except SerializationError as error:
        raise SerializationError(f"{field}: {error.message}", field=field, remedy=_PLAIN) from error
    if encoded.content_type != values.JSON:
        raise SerializationError(f"{field} is not plain JSON", field=field, remedy=_PLAIN)
    if len(encoded.data) > MAX_MESSAGE_BYTES:
        raise ObjectTooLargeError(
            f"{field} has {len(encoded.data)} bytes",
            field=field,
            limit=f"{MAX_MESSAGE_BYTES} bytes",
            remedy="save what is large with storage.save, and put its key into the message",
        )
    return encoded.data


_PLAIN = "use str, int, float, bool, None, list and dict; save anything else with storage.save"


def _checked_id(field: str, name: Any, *, is_own: bool) -> str | None:
    if name is None or name == "":
        return None
    if type(name) is int:
        return str(name)
    if not isinstance(name, str):
        if is_own:
            return None  # Whatever it means there, it names no message.
        raise InvalidArgumentError(f"{field} is a {type(name).__name__}", field=field, limit="a str or None")
    if len(name) > MAX_ID_CHARACTERS:
        raise InvalidArgumentError(
            f"{field} has {len(name)} characters", field=field, limit=f"{MAX_ID_CHARACTERS} characters"
        )
    return unicode_text(field, name)


def object_prefix(partition: str, generation: str) -> str:
    """Where the large messages of one life of a conversation are."""
    return f"{OBJECTS}{hashlib.sha256(partition.encode()).hexdigest()[:32]}/{generation}/"


async def put_objects(objects: ObjectStore, messages: Sequence[Message]) -> None:
    """Save the bytes of these messages as objects, under the names that they have."""
    turns = asyncio.Semaphore(_TOGETHER)

    async def put(key: str, data: bytes) -> None:
        async with turns:
            await objects.put(key, data, content_type=values.JSON)

    await asyncio.gather(*(put(each.object, each.data) for each in messages if each.object is not None))


def object_of(row: Entity) -> str | None:
    """The object that has this message; None if the row has it itself.

    :raises IntegrityError: it refers to another one, which is none of the conversation's.
    """
    key = row.properties.get("object")
    if key is None or key.startswith(object_prefix(row.partition_key, generation_of(row.row_key))):
        return key
    # Tables may come from an archive that others have written: what they name here would be read or removed.
    raise IntegrityError(
        f"the message at position {position_of(row.row_key)} refers to an object that is not its own",
        field="conversation",
        remedy="take the message away with clear or replace",
    )


def objects_of(rows: Sequence[Entity]) -> list[str]:
    """The objects of these messages, to remove them: without those that are not their own."""
    found: list[str] = []
    for row in rows:
        with suppress(IntegrityError):
            if (key := object_of(row)) is not None:
                found.append(key)
    return found


async def to_entries(
    objects: ObjectStore, rows: Sequence[Entity], again: Callable[[Entity], Awaitable[Entity | None]]
) -> list[Entry]:
    """The entries that these rows have, in their order. One that has been taken away since its row was read
    is left out.

    :param again: reads a row again; None if it is no more.
    :raises IntegrityError: the object of a message is not there.
    """
    turns = asyncio.Semaphore(_TOGETHER)

    async def entry(row: Entity) -> Entry | None:
        key = object_of(row)
        if key is None:
            return _entry(row, _inline(row))
        async with turns:
            try:
                found = await objects.get(key)
            except KeyNotFoundError as error:
                now = await again(row)
                if now is None or now.properties.get("object") != key:
                    return None
                raise IntegrityError(
                    f"the message at position {position_of(row.row_key)} is kept as an object, which is gone",
                    field="conversation",
                    remedy="bring back the objects below .system/conversations/ from where the tables were"
                    " copied; or take the message away with clear or replace",
                ) from error
        assert found is not None  # noqa: S101 - only a get with if_none_match answers None
        return _entry(row, found.data)

    if not any("object" in row.properties for row in rows):
        return [_entry(row, _inline(row)) for row in rows]
    return [each for each in await asyncio.gather(*map(entry, rows)) if each is not None]


def _inline(row: Entity) -> bytes:
    found = row.properties
    if (text := found.get("message")) is not None:
        return text.encode()
    return b"".join(found[name] for name in sorted(found) if name.startswith("part"))


def _entry(row: Entity, data: bytes) -> Entry:
    found = row.properties
    try:
        message = values.decode_json(data)
    except ValueError as error:
        raise IntegrityError(f"the message at {row.row_key!r} is not readable") from error
    return Entry(position=position_of(row.row_key), id=found["id"], message=message, at=found["at"])
