"""A conflict after a lost response."""

from __future__ import annotations

from storage_lib.errors import TransientStorageError


class UnknownOutcomeError(TransientStorageError):
    """Neither success nor a conflict: an earlier attempt took effect and someone has changed the result
    since, or it did not and someone else was faster. A plain conflict would make the caller do it a
    second time. It is never retried automatically."""


def unknown(doing: object) -> UnknownOutcomeError:
    return UnknownOutcomeError(
        f"{doing}: the response was lost and it has since changed; it is not known whether this call"
        " changed it",
        remedy="read it again and decide",
    )
