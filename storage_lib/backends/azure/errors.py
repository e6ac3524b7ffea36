"""The one place where errors of obstore and of the Azure SDK become ours.

Neither vendor needs to be imported for it: an obstore error is read from its text (it has no fields), an
SDK error from its attributes. `read` says what the service answered, `Answer.as_error` what that means.

Rules: a missing object, entity, message, queue or table is only believed when the service says so by its
error code; a bare 404 (a proxy, another server on the port) and a missing container are never "not found".
Sources: "Common REST API error codes", "Blob / Queue / Table service error codes" (Azure Storage REST).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from storage_lib.errors import (
    AccessDeniedError,
    ConfigurationError,
    InvalidArgumentError,
    KeyNotFoundError,
    ObjectTooLargeError,
    PreconditionFailedError,
    StorageError,
    StorageUnavailableError,
    TransientStorageError,
    UnsupportedOperationError,
)

CONTAINER_MISSING = "ContainerNotFound"
QUEUE_MISSING = "QueueNotFound"
TABLE_MISSING = "TableNotFound"
ENTITY_EXISTS = "EntityAlreadyExists"
SNAPSHOTS = "SnapshotsPresent"
HIERARCHICAL = "HierarchicalNamespace"
"""No code of the service: what only an account with a hierarchical namespace answers."""

_NOT_FOUND = frozenset({"BlobNotFound", "ResourceNotFound", "EntityNotFound", QUEUE_MISSING, TABLE_MISSING})
# The status of a refused copy is what reading the source said.
_SOURCE_REFUSED = "CannotVerifyCopySource"
_LOST_RECEIPT = frozenset({"MessageNotFound", "PopReceiptMismatch"})
_CONFLICT = frozenset(
    {
        "BlobAlreadyExists",
        "ConditionNotMet",
        ENTITY_EXISTS,
        "SourceConditionNotMet",
        "TargetConditionNotMet",
        "UpdateConditionNotSatisfied",
    }
)
_DENIED = frozenset(
    {
        "AuthenticationFailed",
        "InvalidAuthenticationInfo",
        "NoAuthenticationInformation",
        "PublicAccessNotPermitted",
    }
)
_PROTECTED = frozenset({"BlobImmutableDueToLegalHold", "BlobImmutableDueToPolicy"})
_UNAVAILABLE = frozenset(
    {
        "ContainerBeingDeleted",
        "ContainerDisabled",
        "OperationTimedOut",
        "QueueBeingDeleted",
        "ServerBusy",
        "TableBeingDeleted",
    }
)
# What was asked for has not happened.
_REFUSED = frozenset({"ContainerBeingDeleted", "QueueBeingDeleted", "ServerBusy", "TableBeingDeleted"})
_TOO_LARGE = frozenset(
    {
        "EntityTooLarge",
        "MessageTooLarge",
        "MetadataTooLarge",
        "PropertyValueTooLarge",
        "RequestBodyTooLarge",
        "TooManyProperties",
    }
)
_DENIED_REMEDY = (
    "check the account key or the expiry and permissions of the SAS; an identity needs the roles Storage Blob"
    " Data Contributor, Storage Queue Data Contributor and Storage Table Data Contributor, which take minutes"
    " to apply; check the account's firewall; and this machine's clock, which must be within 15 minutes"
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the service said. ``status`` is None when it did not answer, or not to the end."""

    status: int | None
    code: str | None
    message: str
    retry_after: float | None = None

    @property
    def is_conflict(self) -> bool:
        """Whether a precondition of the request did not hold (and not, say, a lease of someone else)."""
        return self.code in _CONFLICT or (self.status == 412 and self.code in (None, _SOURCE_REFUSED))

    @property
    def is_lost_receipt(self) -> bool:
        return self.code in _LOST_RECEIPT

    @property
    def blames_source(self) -> bool:
        """Whether it is the source of a copy that is not as it should be."""
        return self.code in ("SourceConditionNotMet", _SOURCE_REFUSED)

    @property
    def is_not_found(self) -> bool:
        """Whether the blob, entity, queue or table that was asked for does not exist."""
        return self.code in _NOT_FOUND or (self.status == 404 and self.code == _SOURCE_REFUSED)

    def as_error(self, doing: str) -> StorageError:
        """The error of this library for the answer; ``doing`` tells what was tried, for the message."""
        text = f"{doing}: {self._words()}"
        status, code = self.status, self.code
        if code == CONTAINER_MISSING:
            return StorageUnavailableError(
                text,
                remedy="the container was deleted; open the backend again to make a new, empty one",
                refused=True,
            )
        if code == HIERARCHICAL:
            return hierarchical(doing)
        if self.is_not_found:
            return KeyNotFoundError(text)
        if self.is_lost_receipt:
            return KeyNotFoundError(f"{text}: the receipt has lost its message", field="pop_receipt")
        if self.is_conflict:
            return PreconditionFailedError(text)
        if code in _PROTECTED:
            return AccessDeniedError(
                text, remedy="lift the legal hold or the immutability policy that it is under, or wait"
            )
        if (remedy := self._remedy_for_state()) is not None:
            return UnsupportedOperationError(text, field="key", remedy=remedy)
        if status in (401, 403) or code in _DENIED:
            return AccessDeniedError(text, remedy=_DENIED_REMEDY)
        if status == 404 and code is None:
            return StorageUnavailableError(
                text, remedy="this is no answer of Azure Storage; check the endpoint and any proxy"
            )
        if status == 501:
            return UnsupportedOperationError(text)
        if status is None or status in (408, 429) or status >= 500 or code in _UNAVAILABLE:
            refused = status == 429 or code in _REFUSED
            return StorageUnavailableError(text, retry_after=self.retry_after, refused=refused)
        if code == "InvalidBlockList":
            return TransientStorageError(
                f"{text}: another save to it ended meanwhile, which drops the blocks of this one",
                remedy="save it again",
            )
        if code == "InvalidBlobOrBlock":
            return StorageError(
                text,
                remedy="another program's unfinished upload is in the way for up to a week; save the object"
                " whole (put) once, which drops it",
            )
        if code == "PendingCopyOperation":
            return TransientStorageError(text, remedy="a copy to it is under way; try again later")
        if code is not None and "Lease" in code:
            return TransientStorageError(text, remedy="another program holds a lease; try again later")
        if code in _TOO_LARGE or status == 413:
            return ObjectTooLargeError(text)
        if status in (400, 416):
            return InvalidArgumentError(text, field="range" if status == 416 else None)
        return StorageError(text)

    def _remedy_for_state(self) -> str | None:
        """What to do about a blob whose type or tier does not allow the operation."""
        if self.code == "InvalidBlobType":
            return (
                "another program made it as an append or page blob, whose type cannot be changed: it can be"
                " read and copied; delete it before you save, or use another key"
            )
        if self.code == "BlobBeingRehydrated":
            return "it is on its way out of the archive, which takes up to 15 hours; try again then"
        # Of a copy the service says only that it could not read the source, and why in words.
        if self.code == "BlobArchived" or (self.code == _SOURCE_REFUSED and "archived blob" in self.message):
            return "it is in the archive: set its tier to Hot, Cool or Cold, and try again once it is there"
        return None

    def _words(self) -> str:
        said = " ".join(str(part) for part in (self.status, self.code) if part is not None)
        return f"{said}: {self.message}" if said and self.message else said or self.message


type Known = Callable[[Answer], StorageError | None]
"""The error for an answer that every backend has; None for any other."""


def hierarchical(doing: str) -> ConfigurationError:
    """The error for an account whose names are folders: there ``a`` and ``a/b`` cannot both be objects, and
    listings go folder by folder."""
    return ConfigurationError(
        f"{doing}: the account has a hierarchical namespace, whose names are folders and not keys",
        field="connection_string",
        remedy="use a storage account without a hierarchical namespace (Data Lake Storage)",
    )


def read(error: Exception) -> Answer | None:
    """What a vendor's error says, or None if ``error`` is not a vendor's."""
    if isinstance(error, StorageError):
        return None
    if isinstance(error, FileNotFoundError) or type(error).__module__.startswith("obstore"):
        return _read_obstore(error)
    if isinstance(error, AttributeError | Warning) and isinstance(error.__context__, Exception):
        # The SDK stumbled over the error that it was about to report.
        error = error.__context__
    if _is_sdk_error(error):
        return _read_sdk(error)
    return None


def read_response(response: Any) -> Answer:
    """What an answer of the SDK's pipeline says, where the SDK makes no error of it."""
    code = response.headers.get("x-ms-error-code")
    if not code and (found := _JSON_CODE.search(response.text())):
        code = found.group(1)
    return Answer(response.status_code, code or None, response.reason or "", _retry_after(response.headers))


@contextmanager
def translated(doing: str, known: Known | None = None) -> Generator[None]:
    """Raise what a vendor's error in the block means; others pass through. What is ``known`` has the words of
    the port."""
    try:
        yield
    except Exception as error:
        answer = read(error)
        if answer is None:
            raise
        raise (known and known(answer)) or answer.as_error(doing) from error


_STATUS = re.compile(r"non-2xx status code: (\d{3})|\(code: (\d{3})\)")
_CODE = re.compile(r"<Code>([A-Za-z0-9]+)</Code>")
_MESSAGE = re.compile(r"<Message>(.*?)</Message>", re.DOTALL)
_BATCH_REASON = re.compile(r"failed for key .*?: (.*?) \(code: \d{3}\)\Z", re.DOTALL)
# In the answer to a bulk delete the parts have no error code, only the status and these sentences.
_BATCH_CODES = {
    "The specified blob does not exist.": "BlobNotFound",
    "The specified container does not exist.": CONTAINER_MISSING,
    "This operation is not permitted as the blob is immutable due to a policy.": "BlobImmutableDueToPolicy",
    "This operation is not permitted as the blob is immutable due to one or more legal holds.": (
        "BlobImmutableDueToLegalHold"
    ),
    "This operation is not permitted because the blob has snapshots.": SNAPSHOTS,
    "This operation is not permitted while the blob has snapshots.": SNAPSHOTS,  # Azurite
    "There is currently a lease on the blob and no lease ID was specified in the request.": "LeaseIdMissing",
}


def _read_obstore(error: Exception) -> Answer | None:
    text = str(error).partition("\n\nDebug source:")[0].strip()
    found = _STATUS.search(text)
    if found is None:
        if isinstance(error, FileNotFoundError) and not text.startswith("Object at location"):
            return None  # a file of ours, not an answer
        if "got x-ms-resource-type: " in text:
            return Answer(200, HIERARCHICAL, text)  # obstore's own words for a directory
        name = type(error).__name__
        if name in ("UnauthenticatedError", "PermissionDeniedError"):
            return Answer(401, None, _without_secrets(text))
        if name == "NotSupportedError":
            return Answer(501, None, _without_secrets(text))
        if "Wanted range starting at" in text or "bytes 0--1/0" in text:
            # What obstore makes of Azurite's answers to a range behind the end and of an empty blob.
            return Answer(416, "InvalidRange", text.partition("error: ")[2])
        if name == "InvalidPathError":
            return Answer(400, None, _without_secrets(text))
        return Answer(None, None, _without_secrets(text))
    code = _CODE.search(text)
    message = _MESSAGE.search(text)
    status = int(found.group(1) or found.group(2))
    if code is None and (reason := _BATCH_REASON.search(text)):
        return Answer(status, _BATCH_CODES.get(reason.group(1).partition("\n")[0]), reason.group(1))
    words = message.group(1) if message else text[found.end() :].strip(" :")[:200]
    return Answer(status, code and code.group(1), _without_secrets(words.replace("\n", " ")))


def _is_sdk_error(error: Exception) -> bool:
    from azure.core.exceptions import AzureError

    return isinstance(error, AzureError)


_JSON_CODE = re.compile(r'"code"\s*:\s*"([A-Za-z0-9]+)"')
_SDK_NOISE = re.compile(r"\s*\n?ErrorCode:\w+|\s*\n?Content: .*", re.DOTALL)


def _read_sdk(error: Any) -> Answer:
    response = getattr(error, "response", None)
    status = getattr(error, "status_code", None)
    text = str(getattr(error, "message", None) or error)
    code = getattr(error, "error_code", None)
    code = getattr(code, "value", code)
    headers: Any = getattr(response, "headers", None) or {}
    if not code:
        # Some calls of the tables SDK hand the answer on unread.
        found = _JSON_CODE.search(text)
        code = headers.get("x-ms-error-code") or (found and found.group(1))
    if status is None and type(error).__name__ in ("ClientAuthenticationError", "CredentialUnavailableError"):
        status = 401
    words = _SDK_NOISE.sub("", text).strip().replace("\n", " ")
    return Answer(status, code or None, _without_secrets(words), _retry_after(headers))


def _retry_after(headers: Any) -> float | None:
    for name, scale in (("x-ms-retry-after-ms", 1000), ("retry-after-ms", 1000), ("Retry-After", 1)):
        try:
            return float(headers[name]) / scale
        except (KeyError, ValueError):
            continue
    return None


_SIGNATURE = re.compile(r"(\bsig=)[^&\s\"']+", re.IGNORECASE)


def _without_secrets(text: str) -> str:
    return _SIGNATURE.sub(r"\1REDACTED", text)
