"""Cursors belong to the listing that returned them: with another prefix or filter they would skip names."""

from __future__ import annotations

import base64
import hashlib

from storage_lib.errors import InvalidArgumentError


def bound(cursor: str, *listing: object) -> str:
    """A cursor for callers, 12 characters longer. ``listing`` is everything that determines its names."""
    return _mark(listing) + cursor


def unbound(cursor: str, *listing: object) -> str:
    """The cursor before `bound`.

    :raises InvalidArgumentError: this listing did not return it.
    """
    mark = _mark(listing)
    if not isinstance(cursor, str) or not cursor.startswith(mark) or cursor == mark:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise refused()
    return cursor.removeprefix(mark)


def refused() -> InvalidArgumentError:
    """The error for a cursor that this listing did not return."""
    return InvalidArgumentError(
        "cursor is not one that this listing returned",
        field="cursor",
        remedy="send it with the prefix, delimiter or filters of the page that gave it, or start again"
        " without a cursor",
    )


def _mark(listing: tuple[object, ...]) -> str:
    digest = hashlib.blake2b(repr(listing).encode(errors="surrogatepass"), digest_size=9).digest()
    return base64.urlsafe_b64encode(digest).decode()
