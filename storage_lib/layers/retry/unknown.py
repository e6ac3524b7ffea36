"""A conflict after a lost response."""

from __future__ import annotations

from storage_lib.ports.errors import UnknownOutcomeError

__all__ = ["UnknownOutcomeError", "unknown"]


def unknown(doing: object) -> UnknownOutcomeError:
    return UnknownOutcomeError(
        f"{doing}: the response was lost and it has since changed; it is not known whether this call"
        " changed it",
        remedy="read it again and decide",
    )
