"""Cursors belong to the listing that returned them: with another prefix or filter they would skip names."""

from __future__ import annotations

import hashlib

import msgspec

from storage_lib import base64url
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
    return base64url.encoded(digest)


def packed(*place: object) -> str:
    """Where a query of a driver goes on, as text for a URL."""
    return base64url.encoded(msgspec.json.encode(place))


def unpacked[T](cursor: str, kind: type[T]) -> T:
    """The place before `packed`.

    :raises InvalidArgumentError: no query returned it.
    """
    try:
        return msgspec.json.decode(base64url.decoded(cursor), type=kind)
    except (ValueError, msgspec.MsgspecError) as error:
        raise InvalidArgumentError(
            "cursor is not one that a query returned", field="cursor", remedy="start again without a cursor"
        ) from error
