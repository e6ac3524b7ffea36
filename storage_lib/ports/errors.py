"""Errors with the same wording on every backend."""

from __future__ import annotations

from copy import copy

from storage_lib.errors import (
    EncryptionError,
    KeyNotFoundError,
    ObjectExistsError,
    ObjectTooLargeError,
    PreconditionFailedError,
    StorageError,
    StorageUnavailableError,
    TransientStorageError,
)
from storage_lib.names import given_name
from storage_lib.ports.object_model import ANY_VERSION


class UnknownOutcomeError(TransientStorageError):
    """Neither success nor a conflict: an earlier attempt took effect and someone has changed the result
    since, or it did not and someone else was faster. A plain conflict would make the caller do it a
    second time. It is never retried automatically."""


class UnknownPresenceError(StorageUnavailableError):
    """The store that answers does not have the object, but the one that is unavailable may."""


def missing(key: str) -> KeyNotFoundError:
    """The object does not exist."""
    return KeyNotFoundError(f"object {key!r} does not exist", field="key")


def unmet(key: str, if_match: str | None) -> PreconditionFailedError:
    """The object does not have the ETag ``if_match``; if that is None, an object exists."""
    if if_match is None:
        return ObjectExistsError(f"object {key!r} exists", field="if_absent")
    if if_match == ANY_VERSION:
        return PreconditionFailedError(f"object {key!r} does not exist", field="if_match")
    return PreconditionFailedError(
        f"object {key!r} does not have the ETag {if_match[:300]!r}", field="if_match"
    )


def still_encrypted(key: str) -> EncryptionError:
    return EncryptionError(
        f"object {key!r} is encrypted, and encryption is off here",
        field="key",
        remedy="set AGENT_STORAGE_ENCRYPTION=true and AGENT_STORAGE_ENCRYPTION_KEYS, as where it was saved",
    )


def too_large(size: int, limit: int) -> ObjectTooLargeError:
    return ObjectTooLargeError(
        f"object is {size} bytes", field="data", limit=f"{limit} bytes", remedy="use put_stream"
    )


def missing_table(table: str) -> KeyNotFoundError:
    """The queried table does not exist."""
    return KeyNotFoundError(f"table {given_name(table)!r} does not exist", field="table")


def missing_entity(table: str, pk: str, rk: str) -> KeyNotFoundError:
    """The entity, or its table, does not exist."""
    return KeyNotFoundError(f"entity {pk!r}, {rk!r} does not exist in table {given_name(table)!r}")


def existing_entity(table: str, pk: str, rk: str) -> PreconditionFailedError:
    """The entity cannot be inserted because it exists."""
    return PreconditionFailedError(f"entity {pk!r}, {rk!r} exists in table {given_name(table)!r}")


def other_entity_etag(table: str, pk: str, rk: str, etag: str) -> PreconditionFailedError:
    """The entity does not have this ETag."""
    return PreconditionFailedError(
        f"entity {pk!r}, {rk!r} of table {given_name(table)!r} does not have the ETag {etag[:300]!r}",
        field="etag",
    )


def at_operation(index: int, error: StorageError) -> StorageError:
    """An error of the same type that names the failed operation of a batch."""
    named = copy(error)  # with all that its type has to say
    named.message = f"operation {index}: {error.message}"
    named.args = (named.message,)
    named.field = f"operations[{index}]"
    return named


def missing_queue(queue: str) -> KeyNotFoundError:
    """The queue does not exist."""
    return KeyNotFoundError(f"queue {given_name(queue)!r} does not exist", field="queue")


def lost_receipt(queue: str, message_id: str) -> KeyNotFoundError:
    """The receipt is no longer valid."""
    return KeyNotFoundError(
        f"the receipt has lost its message {message_id!r} of queue {queue!r}: it was deleted, has expired,"
        " or was received by another",
        field="pop_receipt",
    )
