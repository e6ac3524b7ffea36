"""The two ways a report can be refused."""

from __future__ import annotations

from typing import ClassVar

from storage_lib.errors import InvalidArgumentError, SerializationError


class UnsupportedReportError(InvalidArgumentError):
    """The format or the charset is none of those that can be profiled; the bytes were not judged."""

    code: ClassVar[str] = "unsupported-report"


class MalformedReportError(SerializationError):
    """The bytes are not what their format promises. The message names the place: line and column, or byte."""

    code: ClassVar[str] = "malformed-report"
