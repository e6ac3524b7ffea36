"""What List Blobs answers: names, properties and metadata of blobs, and where the next page begins."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote

from storage_lib.errors import StorageUnavailableError
from storage_lib.patterns import pattern
from storage_lib.ports.kept_headers import METADATA

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
