"""What Azure answers only now and then or on some accounts, and Azurite does not."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import pytest

from storage_lib.backends.azure import AzureStorageBackend
from storage_lib.errors import (
    AccessDeniedError,
    ConfigurationError,
    KeyNotFoundError,
    StorageUnavailableError,
)
from storage_lib.ports.tables import Upsert
from tests.stub_service import Answer, Request, StubService

BLOB = {
    "ETag": '"0x1"',
    "Last-Modified": "Wed, 25 Nov 2026 03:28:15 GMT",
    "Content-Type": "text/plain",
    "x-ms-blob-type": "BlockBlob",
}


def backend_of(service: StubService, **options: Any) -> AzureStorageBackend:
    url = f"{service.endpoint}/dev"
    return AzureStorageBackend(
        blob_endpoint=url, queue_endpoint=url, table_endpoint=url, credential="a2V5", **options
    )


def error(status: int, code: str) -> Answer:
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>why</Message></Error>'
    return Answer(status, body.encode(), {"x-ms-error-code": code, "Content-Type": "application/xml"})


def listing(*names: str, properties: str = "") -> Answer:
    blobs = "".join(
        f"<Blob><Name>{name}</Name><Properties><Content-Length>1</Content-Length>{properties}</Properties></Blob>"
        for name in names
    )
    body = (
        f'<?xml version="1.0"?><EnumerationResults><Blobs>{blobs}</Blobs><NextMarker/></EnumerationResults>'
    )
    return Answer(200, body.encode(), {"Content-Type": "application/xml"})


# -- accounts with a hierarchical namespace


@pytest.mark.parametrize("kind", ["file", "directory"])
async def test_a_listing_of_folders_is_refused(kind: str) -> None:
    answer = listing("a", "b", properties=f"<ResourceType>{kind}</ResourceType>")
    async with StubService(lambda _: answer) as service:
        backend = backend_of(service)
        with pytest.raises(ConfigurationError, match="hierarchical namespace") as refused:
            await backend.objects.list_page()
        assert "without a hierarchical namespace" in (refused.value.remedy or "")
        await backend.close()


async def test_a_listing_in_no_known_order_is_refused() -> None:
    """In the order of folders ``a/1`` comes before ``a-b``; it used to hide what came behind."""

    def answer(request: Request) -> Answer:
        return listing("a", "a/1", "a-b", "a-b/2", "b") if "%2F" not in request.target else listing()

    async with StubService(answer) as service:
        backend = backend_of(service)
        with pytest.raises(ConfigurationError, match="left out"):
            await backend.objects.list_page()
        await backend.close()


async def test_the_next_page_is_on_its_way_while_one_is_used() -> None:
    asked = asyncio.Event()

    def answer(request: Request) -> Answer:
        if "prefix=" in request.target:
            return listing()  # what the library keeps for itself
        if "marker=" not in request.target:
            first = listing("a", "b")
            return replace(first, body=first.body.replace(b"<NextMarker/>", b"<NextMarker>m</NextMarker>"))
        asked.set()
        return listing("c")

    async with StubService(answer) as service:
        backend = backend_of(service)
        before = asyncio.all_tasks()
        found: list[str] = []
        async for entry in backend.objects.iterate(details=True):
            found.append(str(getattr(entry, "key", entry)))
            async with asyncio.timeout(120):
                await asked.wait()
        assert found == ["a", "b", "c"]
        assert len(service.seen) == 2
        # A page that is asked for by its length is one request, and one left early leaves nothing behind.
        assert len((await backend.objects.list_page(limit=1, details=True)).entries) == 1
        assert len(service.seen) == 3
        async with aclosing(aiter(backend.objects.iterate(details=True))) as entries:
            async for _ in entries:
                break
        async with asyncio.timeout(120):
            while left := asyncio.all_tasks() - before:
                await asyncio.wait(left)
        await backend.close()


async def test_a_directory_is_refused() -> None:
    answer = Answer(
        200, headers={**BLOB, "x-ms-meta-hdi_isfolder": "true", "x-ms-resource-type": "directory"}
    )
    async with StubService(lambda _: answer) as service:
        backend = backend_of(service)
        for call in (backend.objects.head, backend.objects.get):
            with pytest.raises(ConfigurationError, match="hierarchical namespace") as refused:
                await call("a")
            assert "without a hierarchical namespace" in (refused.value.remedy or "")
        await backend.close()


# -- codes


@pytest.mark.parametrize("code", ["SourceConditionNotMet", "CannotVerifyCopySource"])
async def test_a_source_that_is_replaced_while_it_is_copied_is_copied_again(code: str) -> None:
    copies = 0

    def answer(request: Request) -> Answer:
        nonlocal copies
        if "x-ms-copy-source" not in request.headers:
            return Answer(200, headers={**BLOB, "ETag": f'"0x{copies}"'})
        assert request.headers["x-ms-source-if-match"] == f'"0x{copies}"'
        copies += 1
        if copies == 1:
            return error(412, code)
        return Answer(202, headers={"ETag": '"0xnew"', "x-ms-copy-status": "success", "x-ms-copy-id": "1"})

    async with StubService(answer) as service:
        backend = backend_of(service)
        assert (await backend.objects.copy("a", "b")).etag == "0xnew"
        await backend.close()
    assert copies == 2


@pytest.mark.parametrize("code", ["BlobImmutableDueToLegalHold", "BlobImmutableDueToPolicy"])
async def test_a_protected_blob_is_denied(code: str) -> None:
    async with StubService(lambda _: error(409, code)) as service:
        backend = backend_of(service)
        for call in (backend.objects.put("k", b"x"), backend.objects.delete("k", if_match="0x1")):
            with pytest.raises(AccessDeniedError, match=code) as denied:
                await call
            assert "legal hold" in (denied.value.remedy or "")
        await backend.close()


async def test_the_words_of_the_service_are_those_of_the_cause() -> None:
    def answer(request: Request) -> Answer:
        if "/table1" in request.target:
            return Answer(404, b'{"odata.error":{"code":"ResourceNotFound","message":{"value":"why"}}}')
        return error(404, "QueueNotFound" if "messages" in request.target else "BlobNotFound")

    async with StubService(answer) as service:
        backend = backend_of(service)
        for call, code in (
            (backend.objects.get("k"), "BlobNotFound"),
            (backend.objects.delete("k", if_match="0x1"), "BlobNotFound"),
            (backend.queues.receive("queue-1"), "QueueNotFound"),
            (backend.tables.get("table1", "p", "r"), "ResourceNotFound"),
            (backend.tables.delete("table1", "p", "r"), "ResourceNotFound"),
        ):
            with pytest.raises(KeyNotFoundError) as missing:
                await call
            assert code not in str(missing.value)
            assert code in str(missing.value.__cause__)
        await backend.close()


async def test_a_busy_batch_tells_when_to_come_back() -> None:
    words = '{"odata.error":{"code":"ServerBusy","message":{"lang":"en-US","value":"1:The server is busy."}}}'
    lines = (
        "--batch_1",
        "Content-Type: multipart/mixed; boundary=changes_1",
        "",
        "--changes_1",
        "Content-Type: application/http",
        "Content-Transfer-Encoding: binary",
        "",
        "HTTP/1.1 503 Service Unavailable",
        "Retry-After: 7",
        "Content-Type: application/json;odata=minimalmetadata",
        "",
        words,
        "--changes_1--",
        "--batch_1--",
        "",
    )
    answer = Answer(202, "\r\n".join(lines).encode(), {"Content-Type": "multipart/mixed; boundary=batch_1"})
    async with StubService(lambda _: answer) as service:
        backend = backend_of(service)
        with pytest.raises(StorageUnavailableError, match="operation 1") as busy:
            await backend.tables.batch("table1", "p", [Upsert("a", {}), Upsert("b", {})])
        assert (busy.value.field, busy.value.retry_after) == ("operations[1]", 7)
        await backend.close()


# -- messages


MOMENT = "Wed, 25 Nov 2026 03:28:15 GMT"
TIMES = "".join(f"<{name}Time>{MOMENT}</{name}Time>" for name in ("Insertion", "Expiration"))
SENT = (
    '<?xml version="1.0"?><QueueMessagesList><QueueMessage><MessageId>1</MessageId><PopReceipt>x</PopReceipt>'
    f"{TIMES}<TimeNextVisible>{MOMENT}</TimeNextVisible></QueueMessage></QueueMessagesList>"
)


async def test_a_reader_of_xml_reads_the_text_that_was_sent() -> None:
    def answer(request: Request) -> Answer:
        if request.method == "POST":
            return Answer(201, SENT.encode(), {"Content-Type": "application/xml"})
        if request.method == "PUT":
            return Answer(204, headers={"x-ms-popreceipt": "y", "x-ms-time-next-visible": MOMENT})
        text = "<MessageText>x</MessageText><DequeueCount>1</DequeueCount></QueueMessage>"
        body = SENT.replace("</QueueMessage>", text)
        return Answer(200, body.encode(), {"Content-Type": "application/xml"})

    async with StubService(answer) as service:
        backend = backend_of(service, message_encoding="none")
        for text in ("a\r\nb", "a\rb\n", "&#13;\r", "a\nb"):
            service.seen.clear()
            await backend.queues.send("queue-1", text)
            await backend.queues.send_text("queue-1", text)
            (message,) = await backend.queues.receive("queue-1")
            await backend.queues.update("queue-1", message, visibility_timeout=1, body=text)
            sent = [request.body for request in service.seen if request.body]
            assert [_text_in(body) for body in sent] == [text] * 3
        await backend.close()


def _text_in(body: bytes) -> str | None:
    return ElementTree.fromstring(body).findtext("MessageText")  # noqa: S314 - our own


# -- deletes that share a request


async def test_a_batch_that_is_refused_as_a_whole_is_refused_to_each() -> None:
    """The service answers with one part, which tells of no request in particular."""
    part = (
        "--b\r\nContent-Type: application/http\r\n\r\n"
        "HTTP/1.1 403 This request is not authorized to perform this operation.\r\n"
        "x-ms-error-code: AuthorizationFailure\r\n\r\n--b--"
    )
    answer = Answer(202, part.encode(), {"Content-Type": "multipart/mixed; boundary=b"})
    async with StubService(lambda _: answer) as service:
        backend = backend_of(service)
        done = await backend.objects.delete_many(["a", "b"], missing_ok=True)
        assert [type(error) for error in done.values()] == [AccessDeniedError] * 2
        assert [request.method for request in service.seen] == ["POST"]
        await backend.close()
