"""Why an object cannot be analysed. None of these errors is worth a retry."""

from __future__ import annotations

from typing import ClassVar

from storage_lib.errors import InvalidArgumentError, SerializationError, StorageError


class UnsupportedReportError(InvalidArgumentError):
    """The format or the charset is none of those that can be read; the bytes were not judged."""

    code: ClassVar[str] = "unsupported-report"


class MalformedReportError(SerializationError):
    """The bytes are not what their format promises. The message names the place: line and column, or byte."""

    code: ClassVar[str] = "malformed-report"


class StatementRefusedError(InvalidArgumentError):
    """SQL that is no single SELECT over the given tables, or that DuckDB cannot run."""

    code: ClassVar[str] = "statement-refused"


class AnalysisLimitError(StorageError):
    """It needs more memory, temporary disk or time than it may have."""

    code: ClassVar[str] = "analysis-limit"
