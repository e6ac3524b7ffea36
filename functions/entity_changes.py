"""Changes of entities under the conditions of a request (RFC 9110, 13): by the store itself where it compares
all that is required, else by evaluating the conditions for the version that is then changed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import azure.functions as func

from functions import access, entities
from functions.conditions import ANY, Preconditions, single
from storage_lib.errors import (
    KeyNotFoundError,
    PreconditionFailedError,
    StorageError,
    TransientStorageError,
)

if TYPE_CHECKING:
    from datetime import datetime

    from storage_lib.ports.table_model import Entity
    from storage_lib.ports.tables import TableStore

_ATTEMPTS = 100
_FIELDS = {"etag": "If-Match", "properties": "body"}


class Place(NamedTuple):
    """Where an entity is."""

    table: str
    partition: str
    row: str


class Seen(NamedTuple):
    """What the conditions of a request look at."""

    key: str
    etag: str
    last_modified: datetime

    @classmethod
    def of(cls, entity: Entity) -> Seen:
        return cls(f"{entity.partition_key}, {entity.row_key}", entity.etag, entity.timestamp)

    def has_etag(self, tag: str) -> bool:
        return entities.tag_of(self.etag) == tag


async def put(req: func.HttpRequest, place: Place, properties: dict[str, Any]) -> tuple[str, bool]:
    """The ETag of the entity, which has these properties now, and whether it is new."""
    tables, conditions = tables_of_sender(), Preconditions.of(req)
    etag, is_absent = _etag(conditions), conditions.only_none_match is ANY
    looks = not (conditions.none or is_absent or _is_compared(conditions))
    with in_http():
        for _ in range(_ATTEMPTS):
            if looks:
                etag = _checked(place, conditions, await tables.get(*place, default=None))
                is_absent = etag is None
            try:
                if is_absent:
                    return await tables.insert(*place, properties), True
                return await tables.update(*place, properties, etag=etag, mode="replace"), False
            except (KeyNotFoundError, PreconditionFailedError) as error:
                if conditions.none:
                    is_absent = not is_absent
                elif not looks:
                    raise _failed(place, conditions) from error
    raise _always_replaced(place)


async def changed[T](req: func.HttpRequest, place: Place, change: Callable[[str | None], Awaitable[T]]) -> T:
    """What a change of an entity returns, which has to be there, under the conditions of the request. As with
    objects, one that is not there is that, whatever the conditions are (RFC 9110, 13.2.1)."""
    conditions = Preconditions.of(req)
    etag = _etag(conditions)
    looks = not (conditions.none or _is_compared(conditions))
    with in_http():
        for _ in range(_ATTEMPTS):
            if looks:
                etag = _checked(place, conditions, await tables_of_sender().get(*place))
            try:
                return await change(etag)
            except PreconditionFailedError as error:
                if not looks:
                    raise _failed(place, conditions) from error
    raise _always_replaced(place)


def _is_compared(conditions: Preconditions) -> bool:
    """Whether the store itself compares all that the request requires of the entity that is there."""
    return conditions.only_match is ANY or _etag(conditions) is not None


def _etag(conditions: Preconditions) -> str | None:
    """The one that the entity must have, if that is all that the request requires."""
    tag = single(conditions.only_match)
    # Another spelling of a tag is another tag; one of "*" would be any to a store.
    return etag if tag is not None and entities.tag_of(etag := entities.etag_of(tag)) == tag else None


def _checked(place: Place, conditions: Preconditions, found: Entity | None) -> str | None:
    """The ETag of the entity for which the conditions hold; None if they hold for none.

    :raises PreconditionFailedError: they do not hold.
    """
    seen: Any = None if found is None else Seen.of(found)
    conditions.check_write(f"{place.partition}, {place.row}", seen)
    return None if found is None else found.etag


def tables_of_sender() -> TableStore:
    return access.users_storage().backend.tables


@contextmanager
def in_http() -> Generator[None]:
    """Have errors name what was sent as HTTP calls it."""
    try:
        yield
    except StorageError as error:
        if isinstance(error, PreconditionFailedError):
            error.message = error.message.replace("object ", "entity ", 1)
        error.field = _FIELDS.get(error.field or "", error.field)
        raise


def _failed(place: Place, conditions: Preconditions) -> PreconditionFailedError:
    what = f"entity {place.partition!r}, {place.row!r} of table {place.table!r}"
    if conditions.only_none_match is ANY:
        return PreconditionFailedError(f"{what} exists", field="If-None-Match")
    return PreconditionFailedError(f"{what} is not there, or has another ETag", field="If-Match")


def _always_replaced(place: Place) -> TransientStorageError:
    return TransientStorageError(
        f"entity {place.partition!r}, {place.row!r} is being replaced all the time", remedy="try again later"
    )
