"""Listings as callers see them: page by page, with cursors, or entry by entry."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from storage_lib import base64url
from storage_lib.arguments import whole
from storage_lib.errors import InvalidArgumentError
from storage_lib.keys import validate_prefix
from storage_lib.ports import cursors, hidden
from storage_lib.ports.drivers import ListOptions, ObjectDriver
from storage_lib.ports.listing import Living
from storage_lib.ports.object_model import ListEntry, ListPage


async def page(
    driver: ObjectDriver,
    prefix: str,
    *,
    delimiter: str | None = None,
    limit: int = 1000,
    cursor: str | None = None,
    start_after: str | None = None,
    details: bool = False,
    cheap: bool = False,
    skip: str | None = None,
) -> ListPage:
    """See `ObjectStore.list_page`."""
    validate_prefix(prefix)
    can = driver.capabilities
    is_bare = details and cheap and can.asks_for_details
    limit = whole("limit", limit, 1, 5000)
    if delimiter not in (None, "/"):
        raise InvalidArgumentError(
            f"delimiter {delimiter!r} is not supported", field="delimiter", limit="'/' or none"
        )
    after = _start(start_after)
    if cursor is not None:
        after = max(after or "", _decode_cursor(cursor, prefix, delimiter))
    entries: list[ListEntry] = []
    prefixes: list[str] = []
    last, left = "", limit
    # One more than asked for tells whether there is a next page, without an empty page at the end.
    options = ListOptions(delimiter, after, limit + 1, details and not is_bare)
    async for found in _visible(driver, prefix, options, skip):
        if left == 0:
            return ListPage(entries, prefixes, _encode_cursor(last, prefix, delimiter))
        left -= 1
        if isinstance(found, str):
            prefixes.append(found)
            last = found
        else:
            entries.append(replace(found, size=None) if is_bare and not can.lists_sizes else found)
            last = found.key
    return ListPage(entries, prefixes, None)


def found(
    driver: ObjectDriver,
    prefix: str,
    *,
    delimiter: str | None = None,
    start_after: str | None = None,
    details: bool = False,
    skip: str | None = None,
) -> AsyncGenerator[ListEntry | str]:
    """See `ObjectStore.iterate`."""
    validate_prefix(prefix)
    options = ListOptions(delimiter, _start(start_after), details=details)
    return _visible(driver, prefix, options, skip)


async def _visible(
    driver: ObjectDriver, prefix: str, options: ListOptions, skip: str | None
) -> AsyncGenerator[ListEntry | str]:
    """What a listing shows, as callers see it."""
    async with aclosing(Living(driver).scan(prefix, options, skip)) as listing:
        async for found in listing:
            yield hidden.listed(found) if isinstance(found, ListEntry) and found.info else found


def _start(start_after: str | None) -> str | None:
    return None if start_after is None else validate_prefix(start_after, "start_after") or None


def _encode_cursor(last: str, *listing: str | None) -> str:
    return cursors.bound(base64url.encoded(last.encode()), *listing)


def _decode_cursor(cursor: str, *listing: str | None) -> str:
    text = cursors.unbound(cursor, *listing)
    try:
        return validate_prefix(base64url.decoded(text).decode())
    except ValueError as error:
        raise cursors.refused() from error
