"""Everything that can go wrong, as one tree.

::

    StorageError
    ├── KeyNotFoundError (KeyError)            the object, entity or message is not there
    ├── InvalidKeyError (ValueError)           a key or name is outside the grammar of keys.py
    ├── InvalidArgumentError (ValueError)      any other argument that can never be right
    ├── SerializationError (ValueError)        a value can not be stored so that it comes back
    ├── ObjectTooLargeError (ValueError)       a value, entity or message exceeds a limit
    ├── PreconditionFailedError                if_match / if_absent did not hold; nothing was changed
    ├── IntegrityError                         stored bytes are not the bytes that were saved
    ├── AccessDeniedError (PermissionError)    the store refused the credentials or the permission
    ├── UnsupportedOperationError              this backend has no such operation
    │   └── NotPortableError (TypeError)       it can be neither pickled nor copied
    ├── ConfigurationError (ValueError)        the configuration can not work, whatever is retried
    └── TransientStorageError                  trying again later may succeed
        └── StorageUnavailableError            the store can not be reached, or says it is out of order

Not found, broken and unreachable are different: nothing here is ever turned into ``None``, ``False``
or an empty list. Each backend translates its vendor's errors in one place and chains them
(``raise … from``), so the vendor's own words stay readable.
"""

from __future__ import annotations

from typing import ClassVar


class StorageError(Exception):
    """Base of all errors of this library.

    ``code`` is a stable, machine-readable name: HTTP answers carry it in their problem ``type``, task
    records in their ``error``. ``field``, ``limit`` and ``remedy`` are set where they make sense: which
    input was wrong, what is allowed, what to do.
    """

    code: ClassVar[str] = "storage-error"

    def __init__(
        self, message: str, *, field: str | None = None, limit: str | None = None, remedy: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.limit = limit
        self.remedy = remedy

    def explained(self) -> str:
        """The message with its limit and its remedy, for people."""
        parts = [
            self.message,
            self.limit and f"limit: {self.limit}",
            self.remedy and f"remedy: {self.remedy}",
        ]
        return "; ".join(part for part in parts if part)

    def __str__(self) -> str:
        # KeyError would show the repr of its argument; every error here reads as plain text.
        return self.message


class KeyNotFoundError(StorageError, KeyError):
    """The object, entity, queue message or table asked for does not exist."""

    code = "key-not-found"


class InvalidKeyError(StorageError, ValueError):
    """A key or a name is outside the grammar; it was refused before anything was touched."""

    code = "invalid-key"


class InvalidArgumentError(StorageError, ValueError):
    """An argument that can never be right (a negative limit, a malformed filter or content type)."""

    code = "invalid-argument"


class SerializationError(StorageError, ValueError):
    """A value could not be encoded so that it comes back, or stored bytes are not what they claim."""

    code = "serialization-error"


class ObjectTooLargeError(StorageError, ValueError):
    """A value, its metadata, an entity or a message exceeds a limit; nothing was stored."""

    code = "object-too-large"


class PreconditionFailedError(StorageError):
    """``if_match`` or ``if_absent`` did not hold; the stored object was left as it is."""

    code = "precondition-failed"


class IntegrityError(StorageError):
    """Stored bytes do not agree with their checksum, length or header. Never returned as data."""

    code = "integrity-error"


class AccessDeniedError(StorageError, PermissionError):
    """The store refused: wrong key, expired token, missing role, read-only folder."""

    code = "access-denied"

    def __init__(
        self, message: str, *, field: str | None = None, limit: str | None = None, remedy: str | None = None
    ) -> None:
        StorageError.__init__(self, message, field=field, limit=limit, remedy=remedy)


class UnsupportedOperationError(StorageError):
    """This backend has no such operation."""

    code = "unsupported-operation"


class NotPortableError(UnsupportedOperationError, TypeError):
    """It can be neither pickled nor copied."""

    code = "not-portable"


class ConfigurationError(StorageError, ValueError):
    """The configuration can not work, however often it is tried."""

    code = "configuration-error"


class TransientStorageError(StorageError):
    """Trying again later may succeed. ``retry_after`` is the store's own hint, in seconds. ``refused`` is set
    where the store said that it did nothing: what was asked for has surely not happened."""

    code = "transient-storage-error"

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        limit: str | None = None,
        remedy: str | None = None,
        retry_after: float | None = None,
        refused: bool = False,
    ) -> None:
        super().__init__(message, field=field, limit=limit, remedy=remedy)
        self.retry_after = retry_after
        self.refused = refused


class StorageUnavailableError(TransientStorageError):
    """The store can not be reached, or answers that it is out of order or too busy."""

    code = "storage-unavailable"
