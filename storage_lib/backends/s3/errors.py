"""The one place where answers of S3 become errors of ours, whichever client they came through.

obstore's errors are read from their text (they have no fields), our own requests' from status and body. A
missing object is only believed when the service says ``NoSuchKey``; a missing bucket and a bare 404 (a proxy,
another server on the port) are never "not found".

Source: "Error responses", list of error codes (Amazon S3 API reference).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Self

from storage_lib.backends.cloud import answers
from storage_lib.backends.cloud.answers import Meaning, on
from storage_lib.errors import (
    AccessDeniedError,
    ConfigurationError,
    KeyNotFoundError,
    ObjectTooLargeError,
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

# "Access Denied because object protected by object lock" (AWS), "Object is WORM protected" (MinIO).
_LOCK = re.compile(r"object.?lock|\bWORM\b|legal hold|retention", re.IGNORECASE)
_LATE: dict[str | None, int] = {
    "AccessDenied": 403,
    "ConditionalRequestConflict": 409,
    "NoSuchKey": 404,
    "NoSuchUpload": 404,
    "PreconditionFailed": 412,
    "SlowDown": 503,
}
"""The status of an error that comes after a 200. Any other is 500: what was asked for may yet happen."""
_DENIED = Meaning(
    AccessDeniedError,
    "check the access key and its secret, and that the policy allows s3:GetObject, s3:PutObject,"
    " s3:DeleteObject and s3:ListBucket (without s3:ListBucket the service denies what is not there)",
)
_ELSEWHERE = Meaning(ConfigurationError, "set the region that the bucket is in", "region")


class Answer(answers.Answer):
    """What S3 said."""

    __slots__ = ()
    SERVICE = "S3"
    DENIED = _DENIED
    CODES = (
        on(METADATA, StorageError, "another program gave it metadata that are no text; save it anew")
        | on(BUCKET_MISSING, ConfigurationError, "create the bucket, or pass create_bucket=True", "bucket")
        | on(KEY_MISSING, KeyNotFoundError)
        | on(
            "RequestTimeTooSkewed RequestExpired",
            AccessDeniedError,
            "set this machine's clock: it differs from the service's",
        )
        | on("ExpiredToken InvalidToken TokenRefreshRequired", *_DENIED[:2])
        | on(
            "AuthorizationHeaderMalformed IllegalLocationConstraintException PermanentRedirect"
            " TemporaryRedirect",
            *_ELSEWHERE[:3],
        )
        | on(
            "InvalidObjectState ObjectNotInActiveTierError",
            UnsupportedOperationError,
            "it is archived (Glacier): restore it (RestoreObject), and try again once it is there",
            "key",
        )
        # Of two conditional requests at once one was not taken up.
        | on("ConditionalRequestConflict", TransientStorageError, refused=True)
        | on("NoSuchUpload OperationAborted", TransientStorageError)
        | on("RequestTimeout", StorageUnavailableError)
        | on("SlowDown", StorageUnavailableError, refused=True)
        | on("EntityTooLarge KeyTooLongError MetadataTooLarge MaxMessageLengthExceeded", ObjectTooLargeError)
    )

    @classmethod
    def of_body(cls, status: int, body: str, retry_after: float | None = None) -> Self:
        answer = super().of_body(status, body, retry_after)
        return answer if status >= 300 else replace(answer, status=_LATE.get(answer.code, 500))

    @classmethod
    def of_words(cls, status: int | None, text: str) -> Self | None:
        if status is not None:
            return None
        if "redirect without LOCATION" in text:
            return cls(301, "PermanentRedirect", text)
        if "non-partial response" in text:
            return cls(416, NOT_PARTIAL, text)
        return cls(200, METADATA, text) if "Metadata value for" in text else None

    @property
    def is_wordless(self) -> bool:
        """Whether the service refused without saying why, as it does to a HEAD."""
        return self.status is not None and 400 <= self.status < 500 and self.code is None

    @property
    def meaning(self) -> Meaning:
        if self.status in (400, 403, 409) and _LOCK.search(self.message):
            return Meaning(
                AccessDeniedError,
                "lift the legal hold or the retention (Object Lock) that it is under, or wait",
            )
        return _ELSEWHERE if self.status in (301, 307) else super().meaning


_ERROR = re.compile(rb"\s*(?:<\?xml[^>]*>\s*)?<Error[\s/>]")


def read(error: BaseException | None) -> Answer | None:
    """What an error of obstore says, or None if ``error`` is none."""
    return Answer.of_obstore(error) if isinstance(error, Exception) else None


def has_unreadable_metadata(error: StorageError) -> bool:
    """Whether it is for its metadata, another program's, that an object cannot be had."""
    answer = read(error.__cause__)
    return answer is not None and answer.code == METADATA


def is_error(status: int, body: bytes) -> bool:
    """Whether an answer tells of a failure. One with status 200 may: the service begins to answer some
    requests before it knows how they end, and sends blanks, any number of them, while it works."""
    return status >= 300 or _ERROR.match(body) is not None


def read_response(status: int, headers: Mapping[str, str], body: bytes) -> Answer:
    """What an answer that tells of a failure says, to a request of our own."""
    retry_after = headers.get("Retry-After", "")
    return Answer.of_body(
        status, body.decode(errors="replace"), float(retry_after) if retry_after.isdecimal() else None
    )
