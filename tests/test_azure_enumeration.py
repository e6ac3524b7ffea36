"""The answer to List Blobs, and its end, which is read before the rest."""

from __future__ import annotations

from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage_lib.backends.azure import listing
from storage_lib.backends.azure.listing import Item, end_of, items_of, parsed
from storage_lib.errors import StorageUnavailableError

texts = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"), exclude_characters="\ufffe\uffff")
)
names = texts.filter(bool)
tags = st.sampled_from(
    ["Name", "Blob", "BlobPrefix", "aos_sha256", "NextMarker", "Blobs", "Properties", "Metadata", "Etag"]
)
items = st.builds(
    Item,
    names,
    st.dictionaries(st.sampled_from(["Etag", "Content-Type"]), names),
    st.dictionaries(tags, texts),
    st.just(False),
) | st.builds(Item, names, st.just({}), st.just({}), st.just(True))


def answer(found: list[Item], marker: str, between: str = "") -> bytes:
    """What the service writes. :param between: what a proxy that formats XML would put between elements."""

    def texts_of(of: dict[str, str]) -> str:
        return "".join(f"<{tag}>{escape(text)}</{tag}>{between}" for tag, text in of.items())

    def element(item: Item) -> str:
        name = f"{between}<Name>{escape(item.name)}</Name>{between}"
        if item.is_prefix:
            return f"<BlobPrefix>{name}</BlobPrefix>{between}"
        properties = f"<Properties>{texts_of(item.properties)}</Properties>{between}"
        return f"<Blob>{name}{properties}<Metadata>{texts_of(item.metadata)}</Metadata></Blob>{between}"

    blobs = f"<Blobs>{between}{''.join(map(element, found))}</Blobs>" if found else "<Blobs />"
    ends = f"<NextMarker>{escape(marker)}</NextMarker>" if marker else "<NextMarker />"
    text = f'<?xml version="1.0"?><EnumerationResults><Prefix/>{between}{blobs}{between}{ends}{between}'
    return f"{text}</EnumerationResults>".encode()


@given(st.lists(items, max_size=4), texts, st.sampled_from(["", "\n  "]))
def test_what_was_written_is_read_and_so_is_its_end(found: list[Item], marker: str, between: str) -> None:
    body = answer(found, marker, between)
    assert items_of(body, "list") == found
    assert end_of(body, "list") == (found[-1].name if found else "", marker)


@pytest.mark.parametrize("tag", ["Name", "Blob", "BlobPrefix"])
def test_metadata_may_be_called_like_what_is_looked_for(tag: str) -> None:
    found = [Item("a", {"Etag": "1"}, {tag: "b"})]
    assert end_of(answer(found, "next"), "list") == ("a", "next")


def test_a_name_that_is_encoded_is_decoded() -> None:
    body = answer([Item("a%00b", {}, {})], "next").replace(b"<Name>", b'<Name Encoded="true">')
    assert end_of(body, "list") == ("a\0b", "next")


REAL = (
    "\ufeff<?xml version='1.0' encoding='utf-8'?><EnumerationResults ServiceEndpoint='https://a/'>"
    "<Prefix>é/</Prefix><Blobs>"
    "<Blob><Name>é/1</Name><VersionId>2</VersionId><Properties><Etag>0x1</Etag><Content-Length>7"
    "</Content-Length><Content-CRC64 /><Cache-Control /></Properties><Metadata><a>b > c</a><d></d></Metadata>"
    "<OrMetadata /></Blob>"
    "<Blob><Name>é/2</Name><Properties><Etag>0x2</Etag></Properties><Metadata /><OrMetadata /></Blob>"
    "<Blob><Name>é/3</Name><Properties><Etag>0x3</Etag></Properties></Blob>"
    "</Blobs><NextMarker /></EnumerationResults>"
)


def test_the_form_of_the_service_needs_no_xml_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "parsed", None)
    assert items_of(REAL.encode(), "list") == [
        Item("é/1", {"Etag": "0x1", "Content-Length": "7"}, {"a": "b > c", "d": ""}),
        Item("é/2", {"Etag": "0x2"}, {}),
        Item("é/3", {"Etag": "0x3"}, {}),
    ]


@pytest.mark.parametrize(
    ("usual", "other"),
    [
        ("b > c", "b &gt; c"),
        ("b > c", "<![CDATA[b > c]]>"),
        ("<d></d>", "<d/>"),
        ("<d></d>", "<d> </d>"),
        ("<d></d>", "<d><!-- nothing --></d>"),
        ("<a>", "\n<a>"),
        ("<Name>é/2", '<Name Encoded="true">%C3%A9/2'),
        ("<Metadata /><OrMetadata />", "<OrMetadata /><Metadata />"),
        ("</EnumerationResults>", "</EnumerationResults>\r\n"),
        ("<Name>é/3</Name>", "<Name>é/3</Name><Metadata><a>before</a></Metadata>"),
        ("<Properties><Etag>0x3</Etag></Properties>", "<Etag>0x3</Etag><Properties />"),
        ("<Blob><Name>é/3</Name>", "<BlobPrefix><Name>é/</Name></BlobPrefix><Blob><Name>é/3</Name>"),
        ("</Blob></Blobs>", "</Blob><BlobPrefix><Name>é/4/</Name></BlobPrefix></Blobs>"),
    ],
)
def test_any_other_form_is_read_as_an_xml_parser_does(
    usual: str, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert usual in REAL
    body = REAL.replace(usual, other).encode()
    found = items_of(body, "list")
    monkeypatch.setattr(listing, "_usual_items", lambda _: None)
    assert items_of(body, "list") == found


OPEN = (
    b"<EnumerationResults><Blobs><Blob><Name>a<b</Name><Properties></Properties></Blob></Blobs><NextMarker>"
    b"</EnumerationResults>"
)
"""A name that is no text."""


@pytest.mark.parametrize("body", [b"", b"<html></html>", b"<EnumerationResults>", b"\x00" * 9, OPEN])
def test_what_is_no_answer_is_refused(body: bytes) -> None:
    for read in (items_of, end_of, parsed):
        with pytest.raises(StorageUnavailableError, match="list: the answer is"):
            read(body, "list")
