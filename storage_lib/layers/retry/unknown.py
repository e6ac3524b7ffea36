"""What a conflict means after an answer was lost."""

from __future__ import annotations

from storage_lib.errors import TransientStorageError


class UnknownOutcomeError(TransientStorageError):
    """Neither success nor a conflict: an earlier try was carried out and changed by somebody since, or it was
    not and somebody was faster. A plain conflict would make the caller do it a second time. Never tried again
    by itself."""


def unknown(doing: object) -> UnknownOutcomeError:
    return UnknownOutcomeError(
        f"{doing}: an answer was lost and it has been changed since, whether by this call is not known",
        remedy="read it and decide anew",
    )
