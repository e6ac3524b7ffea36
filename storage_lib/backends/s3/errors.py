"""The one place where answers of S3 become errors of ours, whichever client they came through.

obstore's errors are read from their text (they have no fields), our own requests' from status and body. A
missing object is only believed when the service says ``NoSuchKey``; a missing bucket and a bare 404 (a proxy,
another server on the port) are never "not found".

Source: "Error responses", list of error codes (Amazon S3 API reference).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

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

BUCKET_MISSING = "NoSuchBucket"
KEY_MISSING = "NoSuchKey"
METADATA = "Metadata"
"""No code of the service: obstore gives no object whose metadata are not UTF-8, as some servers have them."""
NOT_PARTIAL = "not a part"
"""What obstore was given for a range: the whole, as some servers answer for an empty object."""

_CLOCK = frozenset({"RequestTimeTooSkewed", "RequestExpired"})
_DENIED = frozenset({"ExpiredToken", "InvalidToken", "TokenRefreshRequired"})
_WRONG_REGION = frozenset(
    {
        "AuthorizationHeaderMalformed",
        "IllegalLocationConstraintException",
        "PermanentRedirect",
        "TemporaryRedirect",
    }
)
_ARCHIVED = frozenset({"InvalidObjectState", "ObjectNotInActiveTierError"})
# "Access Denied because object protected by object lock" (AWS), "Object is WORM protected" (MinIO).
_LOCK = re.compile(r"object.?lock|\bWORM\b|legal hold|retention", re.IGNORECASE)
_CONFLICTING = frozenset({"ConditionalRequestConflict", "NoSuchUpload", "OperationAborted"})
_UNAVAILABLE = frozenset({"RequestTimeout", "SlowDown"})
_LATE: dict[str | None, int] = {
    "AccessDenied": 403,
    "ConditionalRequestConflict": 409,
    "NoSuchKey": 404,
    "NoSuchUpload": 404,
    "PreconditionFailed": 412,
    "SlowDown": 503,
}
"""The status of an error that comes after a 200. Any other is 500: what was asked for may yet happen."""
_TOO_LARGE = frozenset({"EntityTooLarge", "KeyTooLongError", "MetadataTooLarge", "MaxMessageLengthExceeded"})
_DENIED_REMEDY = (
    "check the access key and its secret, and that the policy allows s3:GetObject, s3:PutObject,"
    " s3:DeleteObject and s3:ListBucket (without s3:ListBucket the service denies what is not there)"
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
        return self.status == 412

    @property
    def is_wordless(self) -> bool:
        """Whether the service refused without saying why, as it does to a HEAD."""
        return self.status is not None and 400 <= self.status < 500 and self.code is None

    def as_error(self, doing: str) -> StorageError:
        """The error of this library for the answer; ``doing`` tells what was tried, for the message."""
        text = f"{doing}: {self._words()}"
        if self.code == METADATA:
            return StorageError(
                text, remedy="another program gave it metadata that are no text; save it anew"
            )
        status, code = self.status, self.code
        if code == BUCKET_MISSING:
            return ConfigurationError(
                text, field="bucket", remedy="create the bucket, or pass create_bucket=True"
            )
        if code == KEY_MISSING:
            return KeyNotFoundError(text)
        if self.is_conflict:
            return PreconditionFailedError(text)
        if code in _CLOCK:
            return AccessDeniedError(text, remedy="set this machine's clock: it differs from the service's")
        if code in _WRONG_REGION or status in (301, 307):
            return ConfigurationError(text, field="region", remedy="set the region that the bucket is in")
        if code in _ARCHIVED:
            return UnsupportedOperationError(
                text,
                field="key",
                remedy="it is archived (Glacier): restore it (RestoreObject), and try again once it is there",
            )
        if _LOCK.search(self.message) and status in (400, 403, 409):
            return AccessDeniedError(
                text, remedy="lift the legal hold or the retention (Object Lock) that it is under, or wait"
            )
        if status in (401, 403) or code in _DENIED:
            return AccessDeniedError(text, remedy=_DENIED_REMEDY)
        if status == 404 and code is None:
            return StorageUnavailableError(
                text, remedy="this is no answer of S3; check the endpoint and any proxy"
            )
        if status == 501:
            return UnsupportedOperationError(text)
        if code in _CONFLICTING:
            # Of two conditional requests at once one was not taken up.
            refused = code == "ConditionalRequestConflict"
            return TransientStorageError(text, retry_after=self.retry_after, refused=refused)
        if status is None or status in (408, 429) or status >= 500 or code in _UNAVAILABLE:
            busy = status == 429 or code == "SlowDown"
            return StorageUnavailableError(text, retry_after=self.retry_after, refused=busy)
        if code in _TOO_LARGE or status == 413:
            return ObjectTooLargeError(text)
        if status in (400, 416):
            return InvalidArgumentError(text, field="range" if status == 416 else None)
        return StorageError(text)

    def _words(self) -> str:
        said = " ".join(str(part) for part in (self.status, self.code) if part is not None)
        return f"{said}: {self.message}" if said and self.message else said or self.message


_ERROR = re.compile(rb"\s*(?:<\?xml[^>]*>\s*)?<Error[\s/>]")
_STATUS = re.compile(r"non-2xx status code: (\d{3})")
_CODE = re.compile(r"<Code>([A-Za-z0-9.]+)</Code>")
_MESSAGE = re.compile(r"<Message>(.*?)</Message>", re.DOTALL)


def read(error: Exception) -> Answer | None:
    """What an error of obstore says, or None if ``error`` is none."""
    text = str(error).partition("\n\nDebug source:")[0].strip()
    if isinstance(error, FileNotFoundError):
        if not text.startswith("Object at location"):
            return None  # a file of ours, not an answer
    elif not type(error).__module__.startswith("obstore"):
        return None
    found = _STATUS.search(text)
    if found is not None:
        return _answer(int(found.group(1)), text[found.end() :], None)
    name = type(error).__name__
    if name in ("UnauthenticatedError", "PermissionDeniedError"):
        return Answer(401, None, text)
    if "redirect without LOCATION" in text:
        return Answer(301, "PermanentRedirect", text)
    if "non-partial response" in text:
        return Answer(416, NOT_PARTIAL, text)
    if name in ("InvalidPathError", "NotSupportedError"):
        return Answer(400 if name == "InvalidPathError" else 501, None, text)
    if "Metadata value for" in text:
        return Answer(200, METADATA, text)
    return Answer(None, None, text)


def has_unreadable_metadata(error: StorageError) -> bool:
    """Whether it is for its metadata, another program's, that an object can not be had."""
    answer = read(error.__cause__) if isinstance(error.__cause__, Exception) else None
    return answer is not None and answer.code == METADATA


def is_error(status: int, body: bytes) -> bool:
    """Whether an answer tells of a failure. One with status 200 may: the service begins to answer some
    requests before it knows how they end, and sends blanks, any number of them, while it works."""
    return status >= 300 or _ERROR.match(body) is not None


def read_response(status: int, headers: Mapping[str, str], body: bytes) -> Answer:
    """What an answer that tells of a failure says, to a request of our own."""
    retry_after = headers.get("Retry-After", "")
    return _answer(
        status, body.decode(errors="replace"), float(retry_after) if retry_after.isdecimal() else None
    )


def _answer(status: int, body: str, retry_after: float | None) -> Answer:
    code = _CODE.search(body)
    message = _MESSAGE.search(body)
    words = message.group(1) if message else body.strip(" :\n")[:200]
    if status < 300:
        status = _LATE.get(code and code.group(1), 500)
    return Answer(status, code and code.group(1), " ".join(words.split()), retry_after)
