"""Connections of our own (backends/cloud/connections.py): every form that an answer may have, and what is
sent no more than once."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage_lib.backends.azure import AzureStorageBackend
from storage_lib.backends.cloud import connections
from storage_lib.backends.cloud.connections import PIECE_BYTES, Connections, Response
from storage_lib.errors import BackendClosedError, InvalidArgumentError, StorageUnavailableError
from storage_lib.threads import waiting
from tests.certificates import self_signed
from tests.conftest import PROJECT
from tests.stub_service import Answer, Request, StubService

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"

ANSWERS = {
    "length": (OK + b"Content-Length: 5\r\n\r\nhello", 200, b"hello"),
    "nothing": (b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n", 201, b""),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
    "not modified": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 304, b""),
    "chunks": (CHUNKED + b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", 200, b"hello world"),
    "chunks with more": (CHUNKED + b"5;a=b\r\nhello\r\n00\r\nDigest: x\r\nX: y\r\n\r\n", 200, b"hello"),
    "line ends in chunks": (CHUNKED + b"A\r\n\r\n0\r\n\r\n\r\nx\r\n0\r\n\r\n", 200, b"\r\n0\r\n\r\n\r\nx"),
    "continue first": (b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 1\r\n\r\nx", 200, b"x"),
    "until the end": (OK + b"\r\nall of it", 200, b"all of it"),
    "no reason": (b"HTTP/1.1 404 \r\nContent-Length: 1\r\n\r\nx", 404, b"x"),
    "old": (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", 200, b"x"),
}

NO_ANSWERS = {
    "nothing": b"",
    "something else": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "cut in the headers": OK + b"Content-Le",
    "cut": OK + b"Content-Length: 10\r\n\r\nhello",
    "a chunk is cut": CHUNKED + b"A\r\nhello",
    "the last chunk is missing": CHUNKED + b"5\r\nhello\r\n",
    "a chunk is too long": CHUNKED + b"3\r\nhello\r\n0\r\n\r\n",
    "no size": CHUNKED + b"\r\nhello\r\n0\r\n\r\n",
    "a negative size": CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n",
    "too long": OK + b"Content-Length: 3\r\n\r\nhello",
    "no length": OK + b"Content-Length: -3\r\n\r\nhello",
    "another coding": OK + b"Transfer-Encoding: gzip\r\n\r\nhello",
    "no header": OK + b"Content-Length 5\r\n\r\nhello",
    "headers without an end": OK + b"X: " + b"x" * 100_000,
}

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(serve: Serve) -> AsyncIterator[Connections]:
    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(one, "127.0.0.1", 0)
    opened = Connections("127.0.0.1", server.sockets[0].getsockname()[1], None)
    try:
        yield opened
    finally:
        await opened.close()
        server.close()
        await server.wait_closed()


async def request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """The next request: its head and its body."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
    return head, await reader.readexactly(length)


async def ask(opened: Connections, body: bytes = b"") -> Response:
    return await opened.send("PUT", "/a/b?c=d", {"x-ms-date": "now"}, body)


@pytest.mark.parametrize("pieces", [1, 2, 7, 10_000], ids=str)
@pytest.mark.parametrize("name", ANSWERS)
async def test_every_form_of_an_answer_is_read(name: str, pieces: int) -> None:
    sent, status, body = ANSWERS[name]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        size = max(len(sent) // pieces, 1)
        for start in range(0, len(sent), size):
            writer.write(sent[start : start + size])
            await writer.drain()
            await asyncio.sleep(0)

    async with serving(serve) as opened:
        answer = await ask(opened)
    assert (answer.status, answer.body) == (status, body)


@pytest.mark.parametrize("name", NO_ANSWERS)
async def test_what_is_no_answer_is_told_of(name: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(NO_ANSWERS[name])
        await writer.drain()

    async with serving(serve) as opened:
        with pytest.raises(StorageUnavailableError, match="PUT /a/b: ") as caught:
            await asyncio.wait_for(ask(opened), 120)
    assert not caught.value.refused


@given(
    chunks=st.lists(st.binary(min_size=1, max_size=300), max_size=8),
    cuts=st.lists(st.integers(0, 3000), max_size=12),
)
def test_chunks_are_the_body_however_they_arrive(chunks: list[bytes], cuts: list[int]) -> None:
    sent = CHUNKED + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    reading, at, ended = connections._Reading(), 0, False
    for cut in [*sorted({cut for cut in cuts if cut < len(sent)}), len(sent)]:
        assert not ended
        if at < cut:
            ended = reading.feed(sent[at:cut])
        at = cut
    assert ended
    assert reading.response().body == b"".join(chunks)


async def test_headers_are_found_in_any_case() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(OK + b'ETAG:"x"\r\nX-Two: a\r\nx-two:  b \r\nContent-Length: 0\r\n\r\n')

    async with serving(serve) as opened:
        headers = (await ask(opened)).headers
    assert headers["etag"] == headers["ETag"] == headers.get("Etag") == '"x"'
    assert headers["X-TWO"] == "a, b"
    assert "content-length" in headers
    assert headers.get("Retry-After") is None


class Counting:
    """Answers each request, on as many connections as there are, with the number of the connection."""

    def __init__(self, last: bytes = b"", *, close_after: int = 10_000) -> None:
        self.connections = 0
        self.requests = 0
        self._last = last
        self._close_after = close_after
        self.closed = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = b"%d" % self.connections
        for _ in range(self._close_after):
            try:
                await request(reader)
            except (asyncio.IncompleteReadError, ConnectionError):
                self.closed.set()
                return
            self.requests += 1
            writer.write(OK + self._last + b"Content-Length: %d\r\n\r\n%b" % (len(number), number))
            await writer.drain()


async def test_a_connection_is_used_again() -> None:
    serve = Counting()
    async with serving(serve) as opened:
        for _ in range(3):
            assert (await ask(opened)).body == b"1"
        assert (await ask(opened, b"x" * (3 * PIECE_BYTES + 1))).body == b"1"
        assert {(await each).body for each in [ask(opened), ask(opened)]} == {b"1"}
    assert (serve.connections, serve.requests) == (1, 6)


async def test_a_connection_that_is_to_be_closed_is_not_used_again() -> None:
    serve = Counting(b"Connection: close\r\n")
    async with serving(serve) as opened:
        assert [(await ask(opened)).body for _ in range(3)] == [b"1", b"2", b"3"]


@pytest.mark.parametrize("is_noticed", [True, False])
async def test_a_connection_that_was_closed_while_idle_is_not_used_again(
    is_noticed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether or not the event loop has heard of it before."""
    monkeypatch.setattr(connections, "_CERTAIN_SECONDS", 0.0)
    serve = Counting(close_after=1)
    async with serving(serve) as opened:
        for number in (b"1", b"2", b"3"):
            assert (await ask(opened)).body == number
            if is_noticed:
                async with asyncio.timeout(120):
                    while opened._open:
                        await asyncio.sleep(0)
            else:
                (idle,) = opened._idle
                assert idle._transport is not None
                idle._transport.pause_reading()
                await asyncio.to_thread(_wait_for_end, idle._transport.get_extra_info("socket").fileno())
    assert serve.requests == 3


def _wait_for_end(fd: int) -> None:
    import select

    assert select.select([fd], [], [], 10)[0]


async def test_what_has_been_idle_for_long_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_IDLE_SECONDS", -1.0)
    monkeypatch.setattr(connections, "_CERTAIN_SECONDS", -1.0)
    serve = Counting()
    async with serving(serve) as opened:
        assert [(await ask(opened)).body for _ in range(2)] == [b"1", b"2"]


@pytest.mark.parametrize("before", [0, 1])
async def test_nothing_is_sent_twice(before: int) -> None:
    """Not even on a connection that was used before: the request may have been carried out."""
    seen = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        while True:
            await request(reader)
            seen += 1
            if seen > before:
                return
            writer.write(OK + b"Content-Length: 0\r\n\r\n")

    async with serving(serve) as opened:
        for _ in range(before):
            await ask(opened)
        with pytest.raises(StorageUnavailableError):
            await ask(opened, b"x")
    assert seen == before + 1


@pytest.mark.parametrize("size", [1, 3 * PIECE_BYTES, 64 * PIECE_BYTES])
async def test_a_request_that_is_cancelled_is_cut_off(size: int) -> None:
    arrived, cut = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        arrived.set()
        try:
            await reader.readexactly(size + 1)
        except (ConnectionError, asyncio.IncompleteReadError):
            cut.set()

    async with serving(serve) as opened:
        asking = asyncio.ensure_future(ask(opened, b"x" * size))
        await asyncio.wait_for(arrived.wait(), 120)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await asyncio.wait_for(cut.wait(), 120)
        assert not opened._idle


async def test_an_answer_before_the_end_of_the_body_is_heard() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 1\r\n\r\nx")
        await writer.drain()
        while await reader.read(1 << 20):  # Without which the system may drop the answer.
            pass

    async with serving(serve) as opened:
        answer = await asyncio.wait_for(ask(opened, b"x" * (64 << 20)), 120)
        assert answer.status == 413
        assert not opened._idle


async def test_silence_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "READ_SECONDS", 0.05)
    silent = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        await silent.wait()

    async with serving(serve) as opened:
        with pytest.raises(StorageUnavailableError, match="nothing was heard"):
            await asyncio.wait_for(ask(opened), 120)
        silent.set()


@pytest.mark.parametrize("value", ["a\r\nb: c", "a\nb", "a\rb", "ü", "a\0b"])
async def test_a_header_that_cannot_be_sent_is_refused(value: str) -> None:
    serve = Counting()
    async with serving(serve) as opened:
        with pytest.raises(InvalidArgumentError, match="header of PUT /a"):
            await opened.send("PUT", "/a", {"x-ms-meta-a": value}, b"")
    assert serve.connections == 0


async def test_a_server_that_is_not_there_has_carried_out_nothing() -> None:
    async with serving(Counting()) as opened:
        pass
    with pytest.raises(StorageUnavailableError) as caught:
        await ask(opened)
    assert caught.value.refused


async def test_a_proxy_is_used_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which our own connections cannot: then aiohttp and obstore carry the requests."""

    def answer(asked: Request) -> Answer:
        if asked.method == "PUT":
            return Answer(201, headers={"ETag": '"x"', "Last-Modified": "Mon, 30 Nov 2026 12:00:00 GMT"})
        if "comp=list" in asked.target:
            return Answer(200, b"<EnumerationResults><Blobs/><NextMarker/></EnumerationResults>")
        return Answer(404, headers={"x-ms-error-code": "BlobNotFound"})

    async with StubService(answer) as proxy:
        monkeypatch.setenv("http_proxy", proxy.endpoint)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        where = {"blob_endpoint": "http://a.test", "queue_endpoint": "http://b.test"}
        async with AzureStorageBackend(
            "AccountName=x;AccountKey=eA==", table_endpoint="http://c.test", **where
        ) as backend:
            await backend.objects.put("k", b"x")
            assert [entry async for entry in backend.objects.iterate("")] == []
    assert {asked.target.partition("?")[0].rpartition("/")[0] for asked in proxy.seen} <= {
        "http://a.test/agent-storage",
        "http://a.test",
        "http://a.test/agent-storage/.system",
    }
    assert len(proxy.seen) >= 3


PROGRAM = """
import asyncio, json, sys
from storage_lib.backends.azure import AzureStorageBackend

async def main():
    async with AzureStorageBackend(sys.argv[1], container="imports") as backend:
        objects = backend.objects
        await objects.put("a/b", b"x")
        objects.part_bytes = 1024
        await objects.put_stream("a/c", [b"x" * 5000])
        found = [entry async for entry in objects.iterate("a/", details=True)]
        print(json.dumps([len(found), sorted(sys.modules)]))
        await objects.delete("a/b")

asyncio.run(main())
"""


async def test_saves_streams_listings_and_deletes_import_neither_the_sdk_nor_aiohttp(azurite: Any) -> None:
    """They take half a second of each start."""
    run = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", PROGRAM, azurite.connection_string],
        cwd=PROJECT,
        capture_output=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr.decode()
    found, modules = json.loads(run.stdout)
    assert found == 2
    assert not {"azure.core", "azure.storage.blob", "aiohttp"} & set(modules)


async def test_a_large_body_that_is_cancelled_leaves_nothing_to_complain_of() -> None:
    """An error that nobody asks for is logged when it is garbage."""
    heard: list[Any] = []
    arrived, given_up = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        arrived.set()
        await given_up.wait()  # Meanwhile the sender waits until the system takes more.

    asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context["message"]))
    async with serving(serve) as opened:
        asking = asyncio.ensure_future(ask(opened, b"x" * (64 << 20)))
        await asyncio.wait_for(arrived.wait(), 120)
        (connection,) = opened._open
        assert connection._full is not None
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        while opened._open:
            await asyncio.sleep(0)
        given_up.set()
        del connection, asking
    gc.collect()
    assert heard == []


async def test_no_connection_is_left_by_what_was_connecting_when_all_was_closed() -> None:
    serve = Counting()
    async with serving(serve) as opened:
        asking = asyncio.ensure_future(ask(opened))
        await asyncio.sleep(0)
        await opened.close()
        with pytest.raises(BackendClosedError):
            await asyncio.wait_for(asking, 120)
        async with asyncio.timeout(120):
            while opened._open:
                await asyncio.sleep(0)
    assert serve.requests == 0


@pytest.mark.parametrize("host", ["nowhere.invalid", "a..b", "a" * 64 + ".test"])
async def test_a_name_without_an_address_is_told_of(host: str) -> None:
    with pytest.raises(StorageUnavailableError, match=f"no connection to {host}: ") as caught:
        await ask(Connections(host, 80, None))
    assert caught.value.refused


async def test_names_are_looked_up_while_all_threads_wait_for_sources() -> None:
    go_on = threading.Event()
    slow = [asyncio.ensure_future(waiting.run(go_on.wait, 20)) for _ in range(64)]
    try:
        async with serving(Counting()) as opened:
            assert (await ask(opened)).body == b"1"
    finally:
        go_on.set()
        await asyncio.gather(*slow)


async def test_an_address_of_a_family_that_the_system_has_not_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving(Counting()) as opened:
        there = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", opened._port))
        found = [(999, socket.SOCK_STREAM, 0, "", ("::1", opened._port, 0, 0)), there]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        assert (await ask(opened)).body == b"1"


async def test_a_save_whose_answer_has_no_etag_is_told_of() -> None:
    async with StubService(lambda _: Answer(201)) as service:
        where = {f"{name}_endpoint": service.endpoint for name in ("blob", "queue", "table")}
        backend = AzureStorageBackend("AccountName=x;AccountKey=eA==", **where)
        with pytest.raises(StorageUnavailableError, match="put 'k': the answer has no ETag"):
            await backend.objects.put("k", b"x")
        with pytest.raises(StorageUnavailableError, match="put 'k': the answer has no ETag"):
            await backend.objects.put_stream("k", [b"x"])
        await backend.close()


SORTED_OTHERWISE = [
    ("by-1", "by1", "by"),
    ("a", "ab", "a-b", "a0", "a-0", "a--b", "a-"),
    ("v2-a", "v2a", "v-2"),
]
"""Names of metadata that characters put into another order than the service has."""


@pytest.mark.parametrize("names", SORTED_OTHERWISE, ids=",".join)
@pytest.mark.parametrize("how", ["small", "large", "stream", "touch", "copy"])
async def test_metadata_of_all_names_are_signed(how: str, names: tuple[str, ...], azurite: Any) -> None:
    metadata = {name: f"of {name}" for name in names}
    async with AzureStorageBackend(azurite.connection_string, container="signed") as backend:
        objects, key = backend.objects, "k"
        match how:
            case "small":
                await objects.put(key, b"x", metadata=metadata)
            case "large":
                await objects.put(key, b"x" * (PIECE_BYTES + 1), metadata=metadata)
            case "stream":
                await objects.put_stream(key, [b"x"], metadata=metadata)
            case "touch":
                await objects.put(key, b"x")
                await objects.touch(key, metadata=metadata)
            case _:
                await objects.put("source", b"x", metadata=metadata)
                await objects.copy("source", key)
        assert (await objects.head(key)).metadata == metadata


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's, and what trusts it."""
    folder = tmp_path_factory.mktemp("certificates")
    cert, key = folder / "cert.pem", folder / "key.pem"
    self_signed(cert, key)
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(cert, key)
    return served, ssl.create_default_context(cafile=str(cert))


async def test_connections_that_are_given_up_while_they_are_secured_disturb_no_other(
    certificates: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    """Wherever that is. The loop must not watch a descriptor that is another connection's by now."""
    serve = Counting()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, ssl.SSLError):
            await serve(reader, writer)
        writer.close()

    server = await asyncio.start_server(one, "127.0.0.1", 0, ssl=certificates[0])
    opened = Connections("127.0.0.1", server.sockets[0].getsockname()[1], certificates[1])
    waited = asyncio.get_running_loop().time()
    await ask(opened)
    waited = asyncio.get_running_loop().time() - waited
    for turn in range(60):
        for connection in list(opened._idle):
            connection.abort()
        asking = asyncio.ensure_future(ask(opened))
        if turn % 2:
            await asyncio.sleep(waited * turn / 60)
        else:
            for _ in range(turn):
                await asyncio.sleep(0)
        asking.cancel()
        other = asyncio.ensure_future(ask(opened))
        await asyncio.wait([asking])
        assert (await asyncio.wait_for(other, 120)).status == 200
    await opened.close()
    async with asyncio.timeout(120):
        while opened._open:
            await asyncio.sleep(0)
    server.close()


async def test_a_certificate_that_is_not_trusted_is_refused(
    certificates: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    serve = Counting()
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=certificates[0])
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(StorageUnavailableError, match="CERTIFICATE_VERIFY_FAILED") as caught:
        await ask(Connections("127.0.0.1", port, ssl.create_default_context()))
    assert caught.value.refused
    server.close()
    assert serve.requests == 0


async def test_what_was_asked_before_the_container_was_made_is_asked_again() -> None:
    """Its answer, that there is none, may come after another request has made it."""
    made, asked_late = asyncio.Event(), asyncio.Event()

    async def answer(request: Request) -> Answer:
        missing = Answer(404, headers={"x-ms-error-code": "ContainerNotFound"})
        if "restype=container" in request.target:
            made.set()
            return Answer(201)
        if request.method == "GET":
            return Answer(404, headers={"x-ms-error-code": "BlobNotFound"}) if made.is_set() else missing
        if request.path.endswith("/late") and not asked_late.is_set():
            asked_late.set()
            await made.wait()
            await asyncio.sleep(0.05)
            return missing
        return Answer(201, headers={"ETag": '"x"'}) if made.is_set() else missing

    async with StubService(answer) as service:
        where = {f"{name}_endpoint": service.endpoint for name in ("blob", "queue", "table")}
        backend = AzureStorageBackend("AccountName=x;AccountKey=eA==", **where)
        late = asyncio.ensure_future(backend.objects.put("late", b"x"))
        await asyncio.wait_for(asked_late.wait(), 120)
        await backend.objects.put("first", b"x")
        assert (await late).etag == "x"
        await backend.close()
