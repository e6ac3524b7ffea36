"""The one place where errors of obstore and of the Azure SDK become ours.

Neither vendor needs to be imported for it: an obstore error is read from its text (it has no fields), an
SDK error from its attributes. `read` says what the service answered, `Answer.as_error` what that means.

Rules: a missing object, entity, message, queue or table is only believed when the service says so by its
error code; a bare 404 (a proxy, another server on the port) and a missing container are never "not found".
Sources: "Common REST API error codes", "Blob / Queue / Table service error codes" (Azure Storage REST).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Any, Self

from storage_lib.backends.cloud import answers
from storage_lib.backends.cloud.answers import CONFLICT, Meaning, on, told, without_secrets
from storage_lib.backends.cloud.sessions import Response
from storage_lib.errors import (
    AccessDeniedError,
    ConfigurationError,
    KeyNotFoundError,
    ObjectTooLargeError,
    PreconditionFailedError,
    StorageError,
    StorageUnavailableError,
    TransientStorageError,
    UnsupportedOperationError,
)
from storage_lib.patterns import pattern

CONTAINER_MISSING = "ContainerNotFound"
QUEUE_MISSING = "QueueNotFound"
TABLE_MISSING = "TableNotFound"
ENTITY_EXISTS = "EntityAlreadyExists"
HIERARCHICAL = "HierarchicalNamespace"
"""No code of the service: what only an account with a hierarchical namespace answers."""
# The status of a refused copy is what reading the source said.
_SOURCE_REFUSED = "CannotVerifyCopySource"
_LOST_RECEIPT = "MessageNotFound PopReceiptMismatch"

_DENIED = Meaning(
    AccessDeniedError,
    "check the account key or the expiry and permissions of the SAS; an identity needs the roles Storage Blob"
    " Data Contributor, Storage Queue Data Contributor and Storage Table Data Contributor, which take minutes"
    " to apply; check the account's firewall; and this machine's clock, which must be within 15 minutes",
)
_ARCHIVED = Meaning(
    UnsupportedOperationError,
    "it is in the archive: set its tier to Hot, Cool or Cold, and try again once it is there",
    "key",
)


class Answer(answers.Answer):
    """What Azure Storage said."""

    __slots__ = ()
    SERVICE = "Azure Storage"
    DENIED = _DENIED
    CODES = (
        on(
            CONTAINER_MISSING,
            StorageUnavailableError,
            "the container was deleted; open the backend again to make a new, empty one",
            refused=True,
        )
        | on(
            f"BlobNotFound ResourceNotFound EntityNotFound {QUEUE_MISSING} {TABLE_MISSING}", KeyNotFoundError
        )
        | on(_LOST_RECEIPT, KeyNotFoundError, None, "pop_receipt", words=": the receipt has lost its message")
        | on(
            f"BlobAlreadyExists ConditionNotMet {ENTITY_EXISTS} SourceConditionNotMet TargetConditionNotMet"
            " UpdateConditionNotSatisfied",
            PreconditionFailedError,
        )
        | on(
            "AuthenticationFailed InvalidAuthenticationInfo NoAuthenticationInformation"
            " PublicAccessNotPermitted",
            *_DENIED[:2],
        )
        | on(
            "BlobImmutableDueToLegalHold BlobImmutableDueToPolicy",
            AccessDeniedError,
            "lift the legal hold or the immutability policy that it is under, or wait",
        )
        | on(
            "InvalidBlobType",
            UnsupportedOperationError,
            "another program made it as an append or page blob, whose type cannot be changed: it can be read"
            " and copied; delete it before you save, or use another key",
            "key",
        )
        | on(
            "BlobBeingRehydrated",
            UnsupportedOperationError,
            "it is on its way out of the archive, which takes up to 15 hours; try again then",
            "key",
        )
        | on("BlobArchived", *_ARCHIVED[:3])
        | on("ContainerDisabled OperationTimedOut", StorageUnavailableError)
        | on(
            "ContainerBeingDeleted QueueBeingDeleted ServerBusy TableBeingDeleted",
            StorageUnavailableError,
            refused=True,
        )
        | on(
            "InvalidBlockList",
            TransientStorageError,
            "save it again",
            words=": another save to it ended meanwhile, which drops the blocks of this one",
        )
        | on(
            "InvalidBlobOrBlock",
            StorageError,
            "another program's unfinished upload is in the way for up to a week; save the object whole (put)"
            " once, which drops it",
        )
        | on("Md5Mismatch", TransientStorageError, "try again", words=", on its way there", refused=True)
        | on("PendingCopyOperation", TransientStorageError, "a copy to it is under way; try again later")
        | on(
            "EntityTooLarge MessageTooLarge MetadataTooLarge PropertyValueTooLarge RequestBodyTooLarge"
            " TooManyProperties",
            ObjectTooLargeError,
        )
    )

    @classmethod
    def of_words(cls, status: int | None, text: str) -> Self | None:
        if status is not None:
            return None
        if "got x-ms-resource-type: " in text:
            return cls(200, HIERARCHICAL, text)  # obstore's own words for a directory
        if "Wanted range starting at" in text or "bytes 0--1/0" in text:
            # What obstore makes of Azurite's answers to a range behind the end and of an empty blob.
            return cls(416, "InvalidRange", text.partition("error: ")[2])
        return None

    @property
    def meaning(self) -> Meaning:
        status, code = self.status, self.code or ""
        if code == _SOURCE_REFUSED:
            if status == 404:
                return Meaning(KeyNotFoundError)
            # Of a copy the service says only that it could not read the source, and why in words.
            if "archived blob" in self.message:
                return _ARCHIVED
        elif "Lease" in code:
            return Meaning(TransientStorageError, "another program holds a lease; try again later")
        elif status == CONFLICT and code and code not in self.CODES:
            return Meaning(StorageError)  # of something else than the request's conditions
        return super().meaning

    @property
    def is_lost_receipt(self) -> bool:
        return self.code is not None and self.code in _LOST_RECEIPT.split()

    @property
    def blames_source(self) -> bool:
        """Whether it is the source of a copy that is not as it should be."""
        return self.code in ("SourceConditionNotMet", _SOURCE_REFUSED)

    def as_error(self, doing: str) -> StorageError:
        return hierarchical(doing) if self.code == HIERARCHICAL else super().as_error(doing)


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
    if isinstance(error, RefusedError):
        return error.answer
    if (answer := Answer.of_obstore(error)) is not None:
        return answer
    if isinstance(error, AttributeError | Warning) and isinstance(error.__context__, Exception):
        # The SDK stumbled over the error that it was about to report.
        error = error.__context__
    from azure.core.exceptions import AzureError

    return _read_sdk(error) if isinstance(error, AzureError) else None


def read_response(response: Any) -> Answer:
    """What an answer of the SDK's pipeline says, where the SDK makes no error of it."""
    code = response.headers.get("x-ms-error-code")
    if not code and (found := _JSON_CODE.search(response.text())):
        code = found.group(1)
    return Answer(response.status_code, code or None, response.reason or "", _retry_after(response.headers))


def read_signed(status: int, headers: Any, body: bytes) -> Answer:
    """What an answer to a request of our own says, that tells of a failure."""
    answer = Answer.of_body(status, body.decode(errors="replace"), _retry_after(headers))
    code = headers.get("x-ms-error-code")
    return Answer(status, code, answer.message, answer.retry_after) if code else answer


def check(response: Response, status: int) -> Response:
    """``response``, which has to have this status.

    :raises RefusedError: it has another.
    """
    if response.status != status:
        raise RefusedError(read_signed(response.status, response.headers, response.body))
    return response


def etag_of(response: Response, doing: str) -> str:
    """The ETag in the answer to a save.

    :raises StorageUnavailableError: it has none.
    """
    if not (etag := response.headers.get("ETag")):
        raise StorageUnavailableError(
            f"{doing}: the answer has no ETag",
            remedy="this is no answer of Azure Storage; check the endpoint and any proxy",
        )
    return etag


def read_part(text: bytes) -> Answer | None:
    """What a part of the answer to a batch says; None if it tells of success."""
    part = text.decode(errors="replace")
    if (line := _PART.search(part)) is None:
        return Answer(None, None, "this is no answer to a batch")
    if (status := int(line[1])) < 300:
        return None
    code = _PART_CODE.search(part)
    return Answer(status, code[1] if code else _BATCH_CODES.get(line[2].strip()), without_secrets(line[2]))


class RefusedError(Exception):
    """The ``answer`` to a request of our own that failed."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"{answer.status} {answer.code or ''}: {answer.message}")
        self.answer = answer


async def making[T](code: str, make: Callable[[], Awaitable[object]], call: Callable[[], Awaitable[T]]) -> T:
    """What ``call`` returns. If it is answered with the ``code``, what it needs is made; then once more."""
    try:
        return await call()
    except Exception as error:
        answer = read(error)
        if answer is None or answer.code != code:
            raise
    await make()
    return await call()


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
        raise (known and known(answer)) or answer.as_error(doing) from told(error)


_PART = pattern(r"^HTTP/1\.1 (\d{3}) ?(.*?)\r?$", re.MULTILINE)
_PART_CODE = pattern(r"^x-ms-error-code: *(\w+)", re.IGNORECASE | re.MULTILINE)
# In the answer to a batch some parts have no error code, only the status and these sentences.
_BATCH_CODES = {
    "The specified blob does not exist.": "BlobNotFound",
    "The specified container does not exist.": CONTAINER_MISSING,
    "This operation is not permitted as the blob is immutable due to a policy.": "BlobImmutableDueToPolicy",
    "This operation is not permitted as the blob is immutable due to one or more legal holds.": (
        "BlobImmutableDueToLegalHold"
    ),
    "There is currently a lease on the blob and no lease ID was specified in the request.": "LeaseIdMissing",
}


_JSON_CODE = pattern(r'"code"\s*:\s*"([A-Za-z0-9]+)"')
_SDK_NOISE = pattern(r"\s*\n?ErrorCode:\w+|\s*\n?Content: .*", re.DOTALL)


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
    return Answer(status, code or None, without_secrets(_SDK_NOISE.sub("", text)), _retry_after(headers))


def _retry_after(headers: Any) -> float | None:
    for name, scale in (("x-ms-retry-after-ms", 1000), ("retry-after-ms", 1000), ("Retry-After", 1)):
        try:
            return float(headers[name]) / scale
        except (KeyError, ValueError):
            continue
    return None
