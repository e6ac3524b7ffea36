"""Cursors belong to the listing that gave them: with another prefix or filter they would skip names."""

from __future__ import annotations

import base64
import hashlib

from storage_lib.errors import InvalidArgumentError


def bound(cursor: str, *listing: object) -> str:
    """A cursor as it is handed out, 12 characters longer. ``listing`` is what decides which names it has."""
    return _mark(listing) + cursor


def unbound(cursor: str, *listing: object) -> str:
    """The cursor as it was before `bound`.

    :raises InvalidArgumentError: another listing gave it, or none.
    """
    mark = _mark(listing)
    if not isinstance(cursor, str) or not cursor.startswith(mark) or cursor == mark:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise refused()
    return cursor.removeprefix(mark)


def refused() -> InvalidArgumentError:
    """The error for a cursor that this listing has not given."""
    return InvalidArgumentError(
        "cursor is not one that this listing returned",
        field="cursor",
        remedy="send it with the prefix, delimiter or filters of the page that gave it, or start again"
        " without a cursor",
    )


def _mark(listing: tuple[object, ...]) -> str:
    digest = hashlib.blake2b(repr(listing).encode(errors="surrogatepass"), digest_size=9).digest()
    return base64.urlsafe_b64encode(digest).decode()
