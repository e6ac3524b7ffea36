"""Listings: what List Blobs answers, in the order that all backends keep.

The port's order is that of the UTF-8 bytes (which is that of code points, and of Python's str). Azurite
sorts by UTF-16 units, and the documentation of Azure says no more than "alphabetical". The two differ
only between characters above U+FFFF (emoji) and those from U+E000 to U+FFFF (full-width forms) that stand
at the same place of two names with the same beginning. `in_key_order` gives the right order whichever of
them the service has: where such a beginning is met, it reads the block that belongs first by a request of
its own. It holds no more than a page, and without such names makes no more requests.

``startFrom`` needs service version 2026-02-06 (Azurite 3.37). A service that does not know it begins at
the beginning: that is noticed, costs reading, and leaves only the order described above to the service.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

from storage_lib.backends.azure.attributes import listed_info
from storage_lib.backends.azure.errors import hierarchical
from storage_lib.backends.cloud.objects import Found, name_of
from storage_lib.errors import ConfigurationError, StorageUnavailableError
from storage_lib.patterns import pattern
from storage_lib.ports import expiry, hidden
from storage_lib.ports.kept_headers import METADATA
from storage_lib.ports.object_model import ListEntry

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_READ = ("Content-Length", "Content-Type", "Etag", "Last-Modified", "ResourceType", *METADATA)


class Item(NamedTuple):
    """A blob, or a common prefix; ``properties`` are those of `_READ` that are not empty."""

    name: str
    properties: dict[str, str]
    metadata: dict[str, str]
    is_prefix: bool = False


def items_of(body: bytes, doing: str) -> list[Item]:
    """What an answer lists, in its order.

    :raises StorageUnavailableError: it is no such answer.
    """
    if (usual := _usual_items(body)) is not None:
        return usual
    blobs = parsed(body, doing).find("Blobs")
    found: list[Item] = []
    for node in () if blobs is None else blobs:
        name, properties, metadata = "", {}, {}
        for part in node:
            if (tag := part.tag) == "Name":
                name = _name(part)
            elif tag == "Properties":
                properties = {each.tag: text for each in part if each.tag in _READ and (text := each.text)}
            elif tag == "Metadata":
                metadata = {each.tag: each.text or "" for each in part}
        found.append(Item(name, properties, metadata, node.tag == "BlobPrefix"))
    return found


def _usual_items(body: bytes) -> list[Item] | None:
    """`items_of`, in a third of the time, of blobs in the form that the service writes; None for any other,
    such as one with an entity, with common prefixes or with white space between elements."""
    if b"&" in body or b"<!" in body or b"\r" in body or not body.endswith(_END):
        return None
    try:
        *blobs, after = body[body.index(_BEGIN) + len(_BEGIN) :].decode().split("</Blob>")
    except ValueError:
        return None
    if not after.startswith("</Blobs>"):
        return None
    found: list[Item] = []
    for blob in blobs:
        name, _, rest = blob.partition("</Name>")
        told, _, rest = rest.partition("</Properties>")
        before, begun, told = told.partition("<Properties>")
        if not begun or "<Metadata" in before or "<" in name[len(_NAME) :]:
            return None
        metadata = _METADATA.fullmatch(rest)
        elements = _ELEMENT.findall(metadata[1]) if metadata is not None and metadata[1] else []
        # There is nothing else between the elements.
        length = sum(2 * len(tag) + len(text) + len("<></>") for tag, text in elements)
        if metadata is None or length != len(metadata[1] or "") or not name.startswith(_NAME):
            return None
        found.append(Item(name[len(_NAME) :], dict(_PROPERTY.findall(told)), dict(elements)))
    return found


_BEGIN, _END = b"<Blobs>", b"</EnumerationResults>"
_NAME = "<Blob><Name>"
_PROPERTY = pattern(f"<({'|'.join(_READ)})>([^<]+)</")
_METADATA = pattern(r"(?:<Metadata>((?s:.*))</Metadata>|<Metadata ?/>)?(?:<OrMetadata ?/>)?")
_ELEMENT = pattern(r"<([^<>/\s]+)>([^<]*)</\1>")


def end_of(body: bytes, doing: str) -> tuple[str, str]:
    """The last name in an answer, and the marker of the next page; empty where there is none.

    Read from the end of the text, where it is in the usual form: so the next page can be asked for before
    all of this one is parsed.

    :raises StorageUnavailableError: it is no such answer.
    """
    last = _LAST.match(body, max(body.rfind(b"<Blob>"), body.rfind(b"<BlobPrefix>"), 0))
    marker = _MARKER.search(body, max(len(body) - _MARKER_BYTES, 0))
    if last is not None and marker is not None:
        return last[1].decode(), (marker[1] or b"").decode()
    items, answer = items_of(body, doing), parsed(body, doing)
    return items[-1].name if items else "", answer.findtext("NextMarker") or ""


_LAST = pattern(rb"<Blob(?:Prefix)?><Name>([^<&]*)</Name>")
_MARKER = pattern(rb"</Blobs><NextMarker(?: ?/>|>([^<&]*)</NextMarker>)</EnumerationResults>\s*\Z")
_MARKER_BYTES = 16 * 1024


def parsed(body: bytes, doing: str, expected: str = "EnumerationResults") -> Element:
    """The XML of an answer, by default of one to List Blobs.

    :raises StorageUnavailableError: it is none.
    """
    from xml.etree import ElementTree

    try:
        answer = ElementTree.fromstring(body)  # noqa: S314 - the service's own answer
    except ElementTree.ParseError as error:
        answer, why = None, f"not XML ({error})"
    else:
        why = f"a <{answer.tag}> and no <{expected}>"
    if answer is None or answer.tag != expected:
        raise StorageUnavailableError(
            f"{doing}: the answer is {why}",
            remedy="this is no answer of Azure Storage; check the endpoint and any proxy",
        )
    return answer


def _name(node: Element) -> str:
    name = node.text or ""
    return unquote(name) if node.get("Encoded") == "true" else name


@dataclass(frozen=True, slots=True)
class Page:
    """A page of the service, in the service's order. ``last`` tells that no page follows."""

    found: list[Found]
    last: bool


Fetch = Callable[[str | None], AsyncGenerator[Page]]
"""The pages from a name on (inclusive; None: from the beginning)."""


async def in_key_order(fetch: Fetch, prefix: str, after: str | None) -> AsyncGenerator[Found]:
    """All that is behind ``after``, each once, in the order of the UTF-8 bytes."""
    start = None
    blocks: list[str] = []
    if after is not None and after > prefix:
        start = behind(after) if after.endswith("/") else after
        blocks = [after[:at] for at in _places(_HIGH, after, len(prefix))]
    order = _Order(fetch, after or "")
    async with aclosing(order.read(start, len(prefix), blocks)) as stream:
        async for found in stream:
            name = name_of(found)
            if name > order.floor and not (after and after.endswith("/") and name.startswith(after)):
                order.floor = name
                yield found


def behind(folder: str) -> str:
    """The first name that is not below a common prefix: '0' follows '/'."""
    return folder[:-1] + "0"


def without(found: list[Found], folder: str) -> list[Found]:
    """What is not below a common prefix."""
    return [one for one in found if not name_of(one).startswith(folder)]


_HIGH = pattern("[\ue000-\uffff]")
_SUPPLEMENTARY = pattern("[\U00010000-\U0010ffff]")


class _Order:
    """``floor`` is the last name that was given; what is not above it has been given or was not wanted."""

    def __init__(self, fetch: Fetch, floor: str) -> None:
        self._fetch = fetch
        self.floor = floor

    async def read(self, start: str | None, fixed: int, blocks: list[str]) -> AsyncGenerator[Found]:
        """What the service has from ``start`` on, some of it more than once, but first in order.

        :param fixed: so many characters at the beginning are the same in all names.
        :param blocks: beginnings, each the beginning of the next, whose high block holds ``start``: the
            supplementary block belongs behind it, where a service sorting by UTF-16 has it before.
        """
        async with aclosing(self._fetch(start)) as pages:
            async for page in pages:
                for index, found in enumerate(page.found):
                    name = name_of(found)
                    if _precedes(name, start):
                        continue
                    while blocks and not _in_block(name, blocks[-1], _HIGH):
                        async for other in self._block(blocks.pop(), _SUPPLEMENTARY):
                            yield other
                    if not name.isascii():
                        for at in _places(_SUPPLEMENTARY, name, fixed):
                            if self._needs_high_block(name[:at], page, index):
                                async for other in self._block(name[:at], _HIGH):
                                    yield other
                    yield found
        while blocks:
            async for other in self._block(blocks.pop(), _SUPPLEMENTARY):
                yield other

    def _needs_high_block(self, beginning: str, page: Page, index: int) -> bool:
        if self.floor >= beginning + "\U00010000":
            return False  # it belongs before what has been given
        for found in page.found[index + 1 :]:
            if not _in_block(name_of(found), beginning, _SUPPLEMENTARY):
                return _in_block(name_of(found), beginning, _HIGH)
        return not page.last

    async def _block(self, beginning: str, kind: re.Pattern[str]) -> AsyncGenerator[Found]:
        start = beginning + ("\ue000" if kind is _HIGH else "\U00010000")
        async with aclosing(self.read(start, len(beginning) + 1, [])) as stream:
            async for found in stream:
                if not _in_block(name_of(found), beginning, kind):
                    return
                yield found


def _in_block(name: str, beginning: str, kind: re.Pattern[str]) -> bool:
    return name.startswith(beginning) and kind.match(name, len(beginning)) is not None


def _precedes(name: str, start: str | None) -> bool:
    """Whether ``name`` comes before ``start`` in either order: the service does not know startFrom."""
    return start is not None and name < start and name.encode("utf-16-be") < start.encode("utf-16-be")


def _places(kind: re.Pattern[str], name: str, fixed: int) -> list[int]:
    return [found.start() for found in kind.finditer(name, fixed)]


_EXPIRES = expiry.METADATA.replace("-", "_")


def entries_of(items: list[Item], *, details: bool, ends: bool = False) -> list[Found]:
    """The entries and common prefixes of a page of the service, in its order.

    :param ends: without ``details``, the end of each life.

    :raises ConfigurationError: the account has a hierarchical namespace, or an order in which names would
        get lost.
    """
    entries: list[Found] = []
    prefixes: list[Found] = []
    page: list[Found] = []
    for name, told, metadata, is_prefix in items:
        if "ResourceType" in told:
            # Only such accounts have it, for every name.
            raise hierarchical(f"list {name!r}")
        if is_prefix:
            prefixes.append(name)
            page.append(name)
            continue
        if details and told:
            entry = hidden.entry(listed_info(name, told, metadata))
        elif ends and (end := metadata.get(_EXPIRES)) is not None:
            entry = ListEntry(name, until=expiry.end_in({expiry.METADATA: end}))
        else:
            entry = ListEntry(name)
        entries.append(entry)
        page.append(entry)
    if _is_sorted(page):
        return page
    # All common prefixes may come before the blobs, as Azurite's do.
    for order in (name_of, _units):
        if _is_sorted(entries, order) and _is_sorted(prefixes, order):
            return sorted(page, key=order)
    raise ConfigurationError(
        "the service lists names neither by code points nor by UTF-16 units: some would be left out",
        field="connection_string",
        remedy="use a storage account without a hierarchical namespace (Data Lake Storage)",
    )


def _units(found: Found) -> bytes:
    return name_of(found).encode("utf-16-be")


def _is_sorted(page: list[Found], *orders: Callable[[Found], Any]) -> bool:
    """Whether the page is in one of the orders; without any named, in either that a service may have."""
    every = ([order(found) for found in page] for order in orders or (name_of, _units))
    return any(names == sorted(names) for names in every)
