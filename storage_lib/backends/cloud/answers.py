"""What a service said, whichever client brought it, and the error of this library for it.

obstore's errors have no fields and are read from their text. A service brings a table of what its codes mean;
what follows from the status alone is the same for all. A bare 404 (a proxy, another server on the port) is
never "not found".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

from storage_lib.errors import (
    InvalidArgumentError,
    KeyNotFoundError,
    ObjectTooLargeError,
    PreconditionFailedError,
    RangeNotSatisfiableError,
    StorageError,
    StorageUnavailableError,
    TransientStorageError,
    UnsupportedOperationError,
)
from storage_lib.patterns import pattern

CONFLICT = 412
# The text begins with the key, which may contain anything, and ends with what the service said.
_STATUS = pattern(
    r"\bError performing [A-Z]+ \S+ in \S+ - Server returned non-2xx status code: (\d{3})|\(code: (\d{3})\)\Z"
)
_CODE = pattern(r"<Code>([A-Za-z0-9.]+)</Code>")
_MESSAGE = pattern(r"<Message>(.*?)</Message>", re.DOTALL)
_SIGNATURE = pattern(r"(\bsig=|\bX-Amz-Signature=)[^&\s\"']+", re.IGNORECASE)
_BY_NAME = {
    "UnauthenticatedError": 401,
    "PermissionDeniedError": 401,
    "InvalidPathError": 400,
    "NotSupportedError": 501,
}
"""The status that obstore leaves out, by its error."""


class Meaning(NamedTuple):
    """The error for an answer. ``words`` go behind the message; ``refused`` tells, of what may be tried
    again, that nothing has happened."""

    error: type[StorageError]
    remedy: str | None = None
    field: str | None = None
    words: str = ""
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """``status`` is None when the service did not answer, or not to the end."""

    SERVICE: ClassVar[str]
    DENIED: ClassVar[Meaning]
    CODES: ClassVar[Mapping[str, Meaning]]
    """What a code means, whatever the status."""

    status: int | None
    code: str | None
    message: str
    retry_after: float | None = None

    @classmethod
    def of_body(cls, status: int, body: str, retry_after: float | None = None) -> Self:
        """What an answer says in XML, or in the beginning of any other text."""
        code, message = _CODE.search(body), _MESSAGE.search(body)
        words = message[1] if message else body.strip(" :\n")[:200]
        return cls(status, code and code[1], without_secrets(words), retry_after)

    @classmethod
    def of_obstore(cls, error: Exception) -> Self | None:
        """What an error of obstore says; None if it is none."""
        is_missing = isinstance(error, FileNotFoundError)
        if not is_missing and not type(error).__module__.startswith("obstore"):
            return None
        text = str(error).partition("\n\nDebug source:")[0].strip()
        found = _STATUS.search(text)
        if is_missing and found is None and not text.startswith("Object at location"):
            return None  # a file of ours, not an answer
        status = int(found[1] or found[2]) if found else None
        if (special := cls.of_words(status, text)) is not None:
            return special
        if found is not None and status is not None:
            return cls.of_body(status, text[found.end() :])
        return cls(_BY_NAME.get(type(error).__name__), None, without_secrets(text))

    @classmethod
    def of_words(cls, status: int | None, text: str) -> Self | None:
        """What obstore says in words of its own; None where there is nothing special."""
        return None

    @property
    def is_conflict(self) -> bool:
        """Whether a precondition of the request did not hold."""
        return self.meaning.error is PreconditionFailedError

    @property
    def is_not_found(self) -> bool:
        """Whether the service says that what was asked for does not exist."""
        return self.meaning.error is KeyNotFoundError

    @property
    def meaning(self) -> Meaning:
        status = self.status
        if (known := self.CODES.get(self.code or "")) is not None:
            return known
        if status == CONFLICT:
            return Meaning(PreconditionFailedError)
        if status in (401, 403):
            return self.DENIED
        if status == 404 and self.code is None:
            remedy = f"this is no answer of {self.SERVICE}; check the endpoint and any proxy"
            return Meaning(StorageUnavailableError, remedy)
        if status == 501:
            return Meaning(UnsupportedOperationError)
        if status is None or status in (408, 429) or status >= 500:
            return Meaning(StorageUnavailableError, refused=status == 429)
        if status == 413:
            return Meaning(ObjectTooLargeError)
        if status == 416:
            return Meaning(RangeNotSatisfiableError, field="range")
        if status == 400:
            return Meaning(InvalidArgumentError)
        return Meaning(StorageError)

    def as_error(self, doing: str) -> StorageError:
        """The error of this library for the answer; ``doing`` tells what was tried, for the message."""
        meaning = self.meaning
        said = " ".join(str(part) for part in (self.status, self.code) if part is not None)
        text = f"{doing}: {': '.join(part for part in (said, self.message) if part)}{meaning.words}"
        options: dict[str, Any] = {"field": meaning.field, "remedy": meaning.remedy}
        if issubclass(meaning.error, TransientStorageError):
            options |= {"retry_after": self.retry_after, "refused": meaning.refused}
        return meaning.error(text, **options)


def on(
    codes: str, error: type[StorageError], remedy: str | None = None, field: str | None = None, **options: Any
) -> dict[str, Meaning]:
    """A part of `Answer.CODES`: what each of the codes, with blanks between them, means."""
    return dict.fromkeys(codes.split(), Meaning(error, remedy, field, **options))


class ToldError(Exception):
    """Stands for an error of a vendor's client whose text has a signature, without it."""


def told(error: Exception) -> Exception:
    """``error`` as the cause of ours, which logs and traces show: a client, or a proxy on the way, may repeat
    the URL of a request, and with a SAS that is a key to the store."""
    chained: BaseException | None = error
    for _ in range(_LONGEST_CHAIN):
        if chained is None:
            return error
        if _SIGNATURE.search(f"{chained} {chained.args}"):
            break
        chained = chained.__cause__ or chained.__context__
    kind = type(error)
    stand_in = ToldError(f"{kind.__module__}.{kind.__qualname__}: {without_secrets(str(error))}")
    return stand_in.with_traceback(error.__traceback__)


_LONGEST_CHAIN = 20


def without_secrets(text: str) -> str:
    """``text`` in one line, without signatures."""
    return _SIGNATURE.sub(r"\1REDACTED", " ".join(text.split()))
