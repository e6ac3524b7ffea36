"""One text out of an answer in XML."""

from __future__ import annotations

from xml.etree import ElementTree

from storage_lib.errors import StorageUnavailableError


def children_of(body: bytes, name: str) -> list[dict[str, str]]:
    """The texts inside each element of this name, by the names of theirs."""
    try:
        return [
            {child.tag.rpartition("}")[2]: child.text or "" for child in node}
            for node in ElementTree.fromstring(body.strip()).iter()  # noqa: S314 - the service's own answer
            if node.tag.rpartition("}")[2] == name
        ]
    except ElementTree.ParseError as error:
        raise StorageUnavailableError(f"this is no answer of S3: {error}") from error


def text_of(body: bytes, name: str) -> str:
    """The text of the first element of this name. :raises StorageUnavailableError: there is none."""
    try:
        for node in ElementTree.fromstring(body.strip()).iter():  # noqa: S314 - the service's own answer
            if node.tag.rpartition("}")[2] == name and node.text:
                return node.text
    except ElementTree.ParseError as error:
        raise StorageUnavailableError(f"this is no answer of S3: {error}") from error
    raise StorageUnavailableError(f"this is no answer of S3: there is no {name} in it")
