"""Listings: what ListObjectsV2 answers, parsed, and given in the order that all backends keep.

S3 lists by the UTF-8 bytes of the keys, which is the port's order: there, pages are asked for one after the
other and given as they come. SeaweedFS lists as a file system does, folder by folder: ``a``, ``a/1``,
``a-1``, where the order is ``a``, ``a-1``, ``a/1``; and it answers ``start-after=a`` without what lies below
``a/``. What is known of such a server (by its name, or because a page is seen to be out of order before any
of it is given) is read by `_Walk`, which needs no more of the server than that the names within one folder
are sorted.

Source: "ListObjectsV2" (Amazon S3 API reference).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import unquote_plus

from storage_lib.backends.cloud.objects import Found, name_of
from storage_lib.ports.object_model import ListEntry, is_after

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

MAX_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Query:
    """What to ask for: names behind ``start``, or the page that ``token`` names."""

    prefix: str
    delimiter: str | None
    size: int
    start: str | None = None
    token: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """The answer; ``found`` is sorted within the page. ``in_order`` is whether the service had it so (common
    prefixes come in a list of their own), ``token`` None on the last page."""

    found: list[Found]
    in_order: bool
    token: str | None


Fetch = Callable[[Query], Awaitable[Page]]


class Listing:
    """Reads a bucket in order. It remembers what kind of server answered.

    :param fetch: asks for a page. :param by_folder: the server is known to list folder by folder.
    """

    def __init__(self, fetch: Fetch, *, by_folder: bool = False) -> None:
        self._fetch = fetch
        self.by_folder = by_folder

    async def read(
        self, prefix: str, delimiter: str | None, after: str | None, size: int
    ) -> AsyncGenerator[Found]:
        """All that is behind ``after``, each once, in the order of the UTF-8 bytes; a page is held at a time.

        :param size: of a page, where the service lets us choose.
        """
        query = Query(prefix, delimiter, min(size, MAX_PAGE), _behind(after))
        last = ""
        while not self.by_folder:
            page = await self._fetch(query)
            if not page.in_order or (page.found and name_of(page.found[0]) <= last):
                self.by_folder = True
            if self.by_folder:
                break
            for found in page.found:
                if is_after(name_of(found), after):
                    yield found
            if page.token is None:
                return
            if page.found:
                last = name_of(page.found[-1])
            query = Query(prefix, delimiter, MAX_PAGE, token=page.token)
        async with aclosing(_Walk(self._fetch).read(prefix, delimiter, last or after)) as walk:
            async for found in walk:
                if is_after(name_of(found), after):
                    yield found


def _behind(after: str | None) -> str | None:
    """``start-after`` for what follows ``after``: for a common prefix, the greatest name below it."""
    return after + "\U0010ffff" if after is not None and after.endswith("/") else after


class _Walk:
    """Folder by folder, each by its own listings with the delimiter.

    A folder ``n/`` of a server's listing stands where its bare name ``n`` sorts, but its turn comes behind
    all names that start with ``n`` and a character below ``/``. Until then it waits, and so may another whose
    name starts so: ``waiting`` is a stack of folders whose top comes first. It is no deeper than a name is
    long.
    """

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch

    async def read(self, prefix: str, delimiter: str | None, after: str | None) -> AsyncGenerator[Found]:
        if after is not None and not after.startswith(prefix):
            if after > prefix:
                return
            after = None
        if delimiter is None and after is None:
            page = await self._fetch(Query(prefix, None, MAX_PAGE))
            if page.token is None:
                for found in page.found:
                    yield found
                return
        folder = prefix[: prefix.rfind("/") + 1]
        start, waiting = _resume(folder, prefix, after)
        while True:
            page = await self._fetch(Query(prefix, "/", MAX_PAGE, start))
            found_here = sorted(page.found, key=_bare)
            for found in found_here:
                bare = _bare(found)
                while waiting and waiting[-1] < bare:
                    async for below in self._folder(waiting.pop(), delimiter, after):
                        yield below
                if not isinstance(found, str):
                    yield found
                elif found not in waiting:
                    waiting.append(found)
            if page.token is None or not found_here:
                break
            start = _bare(found_here[-1])
            if start + "/" not in waiting:
                # The next page begins behind this name, be it an object's or a folder's or both.
                waiting.append(start + "/")
        while waiting:
            async for below in self._folder(waiting.pop(), delimiter, after):
                yield below

    async def _folder(self, folder: str, delimiter: str | None, after: str | None) -> AsyncGenerator[Found]:
        if delimiter is not None:
            # An empty folder may be left of deleted objects, or only be thought of by `_resume`.
            if (await self._fetch(Query(folder, None, 1))).found:
                yield folder
            return
        inside = after if after is not None and after.startswith(folder) else None
        async with aclosing(self.read(folder, None, inside)) as walk:
            async for found in walk:
                yield found


def _resume(folder: str, prefix: str, after: str | None) -> tuple[str | None, list[str]]:
    """Where to go on behind ``after``: the name in ``folder`` to start behind, and the folders before it
    whose turn has not come (if they exist): ``a/`` and ``a-b/`` behind ``a-b.c``, and ``a-b.c/`` itself."""
    if after is None or len(after) <= len(folder):
        return None, []
    child, slash, rest = after[len(folder) :].partition("/")
    waiting = [
        f"{folder}{child[:at]}/"
        for at in range(max(1, len(prefix) - len(folder)), len(child))
        if child[at] < "/"
    ]
    if not slash or rest:
        waiting.append(f"{folder}{child}/")
    return folder + child, waiting


def _bare(found: Found) -> str:
    return found.removesuffix("/") if isinstance(found, str) else found.key


def parse(body: bytes) -> Page:
    """The page in an answer to ListObjectsV2. :raises ValueError: it is none."""
    from xml.etree import ElementTree

    try:
        root = ElementTree.fromstring(body)  # noqa: S314 - the service's own answer
    except ElementTree.ParseError as error:
        raise ValueError(str(error)) from error
    space = root.tag[: root.tag.find("}") + 1]
    if root.tag != space + "ListBucketResult":
        raise ValueError(f"<{root.tag}> is no listing")
    encoded = root.findtext(space + "EncodingType") == "url"
    entries = [_entry(node, space, encoded) for node in root.iterfind(space + "Contents")]
    prefixes = [
        _decoded(node.findtext(space + "Prefix"), encoded) for node in root.iterfind(space + "CommonPrefixes")
    ]
    token = None
    if root.findtext(space + "IsTruncated") == "true":
        token = root.findtext(space + "NextContinuationToken")
        if token is None:
            raise ValueError("a page without the token of the next one")
    names = [entry.key for entry in entries]
    in_order = names == sorted(names) and prefixes == sorted(prefixes)
    found: list[Found] = [*entries, *prefixes]
    if prefixes or not in_order:
        found.sort(key=name_of)
    return Page(found, in_order, token)


def _entry(node: Element, space: str, encoded: bool) -> ListEntry:
    size, modified = node.findtext(space + "Size"), node.findtext(space + "LastModified")
    key = _decoded(node.findtext(space + "Key"), encoded)
    # The ETag of an object has a part that only its metadata tell.
    return ListEntry(
        key, int(size) if size else 0, last_modified=datetime.fromisoformat(modified) if modified else None
    )


def _decoded(name: str | None, encoded: bool) -> str:
    return unquote_plus(name or "") if encoded else name or ""
