"""Every error that the library raises, as one tree.

    StorageError
    ├── KeyNotFoundError (KeyError, FileNotFoundError)  the object, entity or message does not exist
    ├── InvalidKeyError (ValueError)           a key or name is outside the grammar of keys.py
    ├── InvalidArgumentError (ValueError)      any other argument that can never be valid
    │   └── RangeNotSatisfiableError           no byte of the object lies in the range
    ├── SerializationError (ValueError)        a value cannot be stored and restored as it is
    ├── ObjectTooLargeError (ValueError)       a value, entity or message exceeds a limit
    ├── RuleViolationError (ValueError)        a rule of the configuration does not allow the object
    ├── QuotaExceededError                     the objects below a prefix would exceed its quota
    ├── PreconditionFailedError                if_match or if_absent did not hold; nothing was changed
    │   └── ObjectExistsError (FileExistsError)  if_absent did not hold
    ├── IntegrityError                         stored bytes are not the bytes that were saved
    │   └── EncryptionError                    they are not encrypted, or with a key that is not there
    ├── AccessDeniedError (PermissionError)    the store refused the credentials or the permission
    │   └── ForbiddenError                     the access policy does not allow it to this caller
    ├── UnsupportedOperationError              this backend has no such operation
    │   └── NotPortableError (TypeError)       this manager or backend can be neither pickled nor copied
    ├── ConfigurationError (ValueError)        the configuration cannot work; retrying does not help
    ├── BackendClosedError                     this manager or backend was closed
    └── TransientStorageError                  a retry may succeed
        └── StorageUnavailableError            the store cannot be reached, or is out of service

Not found, broken and unreachable are different errors, and none is ever turned into ``None``, ``False``
or an empty list. Each backend translates its vendor's errors in one place and chains them
(``raise … from``), so the vendor's message stays readable.
"""

from __future__ import annotations

from typing import ClassVar, TypedDict, Unpack


class About(TypedDict, total=False):
    """What an error says beside its message; see `StorageError`."""

    field: str | None
    limit: str | None
    remedy: str | None


class StorageError(Exception):
    """Base of all errors of this library.

    ``code`` is a stable, machine-readable name: HTTP responses carry it in their problem ``type``, task
    records in their ``error``. ``field``, ``limit`` and ``remedy`` are set where they apply: which input
    was wrong, what is allowed, and what to do.
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
        """The message with its limit and remedy, for people."""
        parts = [
            self.message,
            self.limit and f"limit: {self.limit}",
            self.remedy and f"remedy: {self.remedy}",
        ]
        return "; ".join(part for part in parts if part)

    def __str__(self) -> str:
        # KeyError would show the repr of its argument; every error here reads as plain text.
        return self.message


class KeyNotFoundError(StorageError, KeyError, FileNotFoundError):
    """The object, entity, queue message or table does not exist."""

    code = "key-not-found"


class InvalidKeyError(StorageError, ValueError):
    """A key or name is outside the grammar; it was refused before anything was touched."""

    code = "invalid-key"


class InvalidArgumentError(StorageError, ValueError):
    """An argument that can never be valid, such as a negative limit or a malformed filter."""

    code = "invalid-argument"


class RangeNotSatisfiableError(InvalidArgumentError):
    """No byte of the object lies in the requested range, which may suit another object."""

    code = "range-not-satisfiable"


class SerializationError(StorageError, ValueError):
    """A value cannot be stored and restored as it is, or stored bytes do not match their content type."""

    code = "serialization-error"


class ObjectTooLargeError(StorageError, ValueError):
    """A value, its metadata, an entity or a message exceeds a limit; nothing was stored."""

    code = "object-too-large"


class RuleViolationError(StorageError, ValueError):
    """A rule of the configuration does not allow the object; nothing was stored.

    ``rule`` is the rule's name, and ``requirement`` is the option of it that is not met: ``schema``,
    ``model``, ``content_types``, ``max_bytes``, ``max_value_bytes``, ``required_metadata`` or
    ``allowed_metadata``. For the first two ``field`` is a JSON pointer (RFC 6901) into the value, or
    ``value`` for the value itself. ``stored`` is set if it is not about a write: what is stored breaks the
    rule.
    """

    code = "rule-violation"

    def __init__(
        self,
        message: str,
        *,
        rule: str = "",
        requirement: str = "",
        stored: bool = False,
        **about: Unpack[About],
    ) -> None:
        super().__init__(message, **about)
        self.rule = rule
        self.requirement = requirement
        self.stored = stored


class QuotaExceededError(StorageError):
    """The objects below a prefix would exceed its quota; nothing was stored.

    ``rule`` is the name of the rule with the quota.
    """

    code = "quota-exceeded"

    def __init__(self, message: str, *, rule: str = "", **about: Unpack[About]) -> None:
        super().__init__(message, **about)
        self.rule = rule


class PreconditionFailedError(StorageError):
    """``if_match`` or ``if_absent`` did not hold; the stored object is unchanged."""

    code = "precondition-failed"


class ObjectExistsError(PreconditionFailedError, FileExistsError):
    """``if_absent`` did not hold: there is an object with this key."""


class IntegrityError(StorageError):
    """Stored bytes do not match their checksum, length or header. They are never returned as data."""

    code = "integrity-error"


class EncryptionError(IntegrityError):
    """An object is not encrypted where it must be, or no key of the configuration decrypts it."""

    code = "encryption-error"


class AccessDeniedError(StorageError, PermissionError):
    """The store refused access: a wrong key, an expired token, a missing role, a read-only folder."""

    code = "access-denied"


class ForbiddenError(AccessDeniedError):
    """The access policy does not allow the caller this; nothing was touched."""

    code = "forbidden"


class UnsupportedOperationError(StorageError):
    """This backend has no such operation."""

    code = "unsupported-operation"


class NotPortableError(UnsupportedOperationError, TypeError):
    """This manager or backend can be neither pickled nor copied."""

    code = "not-portable"


class ConfigurationError(StorageError, ValueError):
    """The configuration cannot work; retrying does not help."""

    code = "configuration-error"


class BackendClosedError(StorageError):
    """The manager or backend was closed. Another one may do the same at once."""

    code = "backend-closed"

    def __init__(
        self,
        message: str = "the storage backend is closed",
        *,
        field: str | None = None,
        limit: str | None = None,
        remedy: str | None = "use it before close(), or make a new one",
    ) -> None:
        super().__init__(message, field=field, limit=limit, remedy=remedy)


class TransientStorageError(StorageError):
    """A retry may succeed.

    ``retry_after`` is the store's own hint, in seconds. ``refused`` is set if the store said that it did
    nothing, so the operation is known not to have happened.
    """

    code = "transient-storage-error"

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        refused: bool = False,
        **about: Unpack[About],
    ) -> None:
        super().__init__(message, **about)
        self.retry_after = retry_after
        self.refused = refused


class StorageUnavailableError(TransientStorageError):
    """The store cannot be reached, or answers that it is out of service or too busy."""

    code = "storage-unavailable"
