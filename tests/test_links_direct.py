"""Large objects by links of the app: the local host streams them into and out of the store."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.test_end_to_end import Devhost, devhost

MIB = 1024 * 1024
SIZE = 120 * MIB
"""More than the platform's host takes."""
GROWTH = 80 * MIB
"""Of the host or its worker; less than the body, of which one copy would be too much."""
BLOCK = bytes(range(256)) * 4096


@pytest.fixture(scope="module")
async def host(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Devhost]:
    async with devhost("file", tmp_path_factory.mktemp("data"), AGENT_STORAGE_PROXIES="1") as found:
        yield found


async def link(host: Devhost, key: str, **wanted: Any) -> dict[str, Any]:
    async with host.session.post(f"{host.url}/api/links/{key}", json=wanted) as response:
        assert response.status == 201, await response.text()
        return await response.json()


def head(url: str, size: int, **headers: str) -> bytes:
    parts = urlsplit(url)
    lines = [f"PUT {parts.path}?{parts.query} HTTP/1.1", f"Host: {parts.netloc}", f"Content-Length: {size}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


async def connected(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(url)
    return await asyncio.open_connection(parts.hostname, parts.port)


async def answered(reader: asyncio.StreamReader) -> tuple[int, dict[str, Any]]:
    """The status and the document of an answer."""
    text = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    size = int(text.partition("content-length: ")[2].split("\r\n")[0])
    return int(text.split()[1]), json.loads(await reader.readexactly(size))


async def blocks(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // len(BLOCK)):
        yield BLOCK
    yield BLOCK[: size % len(BLOCK)]


async def put(host: Devhost, url: str, size: int = SIZE, **headers: str) -> tuple[int, dict[str, Any]]:
    told = {name.replace("_", "-"): value for name, value in headers.items()} | {"Content-Length": str(size)}
    async with host.session.put(url, data=blocks(size), headers=told) as response:
        return response.status, await response.json()


def peak(pid: int) -> int:
    """The most memory that a process had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def processes(host: Devhost) -> list[int]:
    """The host and its worker."""
    pid = host.process.pid
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


async def test_a_body_beyond_a_request_goes_in_and_out_with_little_memory(host: Devhost) -> None:
    small = await link(host, "large/a.bin", method="PUT", content_type="application/x-model")
    assert (small["through"], small["max_bytes"]) == ("app", 5000 * MIB)
    for size in (1, 65 * MIB):  # So that everything is loaded.
        assert (await put(host, small["url"], size, Content_Type="application/x-model"))[0] in (200, 201)
    pids = processes(host)
    assert len(pids) == 2
    before = [peak(pid) for pid in pids]
    told = {"Content_Type": "application/x-model", "x_meta_agent": "ceo", "Cache_Control": "max-age=60"}
    status, saved = await put(host, small["url"], **told)
    assert (status, saved["key"], saved["size"]) == (200, "large/a.bin", SIZE)

    loads = await link(host, "large/a.bin")
    digest, size = hashlib.sha256(), 0
    async with host.session.get(loads["url"]) as response:
        assert response.status == 200
        assert response.headers["ETag"] == f'"{saved["etag"]}"'
        assert response.headers["Content-Length"] == str(SIZE)
        assert response.headers["Content-Type"] == "application/x-model"
        assert response.headers["x-meta-agent"] == "ceo"
        assert response.headers["Cache-Control"] == "private, max-age=60"
        async for part in response.content.iter_any():
            digest.update(part)
            size += len(part)
    expected = hashlib.sha256()
    async for block in blocks(SIZE):
        expected.update(block)
    assert (size, digest.digest()) == (SIZE, expected.digest())
    for pid, earlier in zip(pids, before, strict=True):
        assert peak(pid) - earlier < GROWTH

    start = SIZE - 3 * MIB - 7
    for sent, status, span in (
        ({"Range": f"bytes={start}-"}, 206, (start, SIZE)),
        ({"Range": "bytes=-5"}, 206, (SIZE - 5, SIZE)),
        ({"Range": "bytes=10-19", "If-Range": f'"{saved["etag"]}"'}, 206, (10, 20)),
    ):
        async with host.session.get(loads["url"], headers=sent) as response:
            assert response.status == status
            assert response.headers["Content-Range"] == f"bytes {span[0]}-{span[1] - 1}/{SIZE}"
            assert await response.read() == (BLOCK * 5)[span[0] % len(BLOCK) :][: span[1] - span[0]]
    for sent, status in (
        ({"Range": f"bytes={SIZE}-"}, 416),
        ({"If-None-Match": f'"{saved["etag"]}"'}, 304),
        ({"If-Match": '"other"'}, 412),
    ):
        async with host.session.get(loads["url"], headers=sent) as response:
            assert response.status == status
    async with host.session.head(loads["url"]) as response:
        assert (response.status, response.headers["Content-Length"]) == (200, str(SIZE))


async def test_what_the_link_does_not_allow_is_refused_before_the_body(host: Devhost) -> None:
    """The body is never sent: an answer that waited for it would not come."""
    url = (await link(host, "refused/a", method="PUT", max_bytes=SIZE, content_type="a/b"))["url"]
    bound = (await link(host, "refused/a", method="PUT", ip="192.0.2.1"))["url"]
    loads = url.replace("refused/a", "refused/b")
    cases: list[tuple[str, int, dict[str, str], int, str]] = [
        (loads, SIZE, {"Content_Type": "a/b"}, 403, "sig"),
        (f"{url}x", SIZE, {"Content_Type": "a/b"}, 403, "sig"),
        (url.replace("max=", "max=1"), SIZE, {"Content_Type": "a/b"}, 403, "sig"),
        (bound, SIZE, {}, 403, "ip"),
        (url, SIZE, {"Content_Type": "a/c"}, 415, "Content-Type"),
        (url, SIZE + 1, {"Content_Type": "a/b"}, 413, "body"),
        (url, SIZE, {"Content_Type": "a/b", "x_ttl_seconds": "never"}, 400, "x-ttl-seconds"),
        (url, SIZE, {"Content_Type": "a/b", "Content_Encoding": "gzip"}, 415, "Content-Encoding"),
        (url, SIZE, {"Content_Type": "a/b", "Content_MD5": "?"}, 400, "Content-MD5"),
        (f"{url}&other=1", SIZE, {"Content_Type": "a/b"}, 400, "other"),
    ]
    for target, size, headers, status, field in cases:
        reader, writer = await connected(target)
        writer.write(head(target, size, Expect="100-continue", **headers))
        found, document = await answered(reader)
        assert (found, document["field"]) == (status, field)
        assert document["type"].startswith("urn:agent-storage:problem:")
        writer.close()
    async with host.session.get(f"{host.url}/api/objects/refused/a") as response:
        assert response.status == 404


async def test_conditions_and_digests_hold(host: Devhost) -> None:
    url = (await link(host, "held/a", method="PUT"))["url"]
    size = 65 * MIB
    assert (await put(host, url, size, If_None_Match="*"))[0] == 201
    for headers, status, field in (
        ({"If_None_Match": "*"}, 412, "If-None-Match"),
        ({"If_Match": '"other"'}, 412, "If-Match"),
        ({"Content_MD5": "A" * 22 + "=="}, 400, "Content-MD5"),
    ):
        found, document = await put(host, url, size, **headers)
        assert (found, document.get("field", field)) == (status, field)
    async with host.session.head(f"{host.url}/api/objects/held/a") as response:
        etag = response.headers["ETag"]
    assert (await put(host, url, size, If_Match=f'"other", {etag}'))[0] == 200


async def test_a_body_that_is_cut_off_leaves_nothing(host: Devhost, tmp_path: Path) -> None:
    async with devhost("file", tmp_path) as own:
        url = (await link(own, "cut/a", method="PUT"))["url"]
        assert (await put(own, url, MIB))[0] == 201
        kept = files(tmp_path)
        writer = await half_sent(url)
        async with asyncio.timeout(120):
            while files(tmp_path) == kept:
                await asyncio.sleep(0.01)
            writer.transport.abort()
            while files(tmp_path) != kept:
                await asyncio.sleep(0.01)
        async with own.session.head(f"{own.url}/api/objects/cut/a") as response:
            assert response.headers["Content-Length"] == str(MIB)

        writer = await half_sent(url)
        async with asyncio.timeout(120):
            while files(tmp_path) == kept:
                await asyncio.sleep(0.01)
        await own.stop()  # While the rest of it is waited for.
        assert files(tmp_path) == kept
        writer.close()


async def half_sent(url: str) -> asyncio.StreamWriter:
    _, writer = await connected(url)
    writer.write(head(url, SIZE))
    for _ in range(SIZE // len(BLOCK) // 2):
        writer.write(BLOCK)
        await writer.drain()
    return writer


def files(folder: Path) -> set[str]:
    """Of objects and of what is being written."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {each for each in found if ".db" not in each and "sqlite" not in each and "devhost" not in each}


async def test_a_body_in_chunks_has_no_length_to_be_taken_by(host: Devhost) -> None:
    url = (await link(host, "chunked/a", method="PUT"))["url"]
    async with host.session.put(url, data=blocks(MIB)) as response:
        assert response.status == 411


async def test_other_requests_are_taken_as_on_the_platform(host: Devhost) -> None:
    """Only links lead past the limit."""
    async with host.session.put(f"{host.url}/api/objects/a", data=BLOCK) as response:
        assert response.status == 201
    reader, writer = await connected(host.url)
    writer.write(head(f"{host.url}/api/objects/a", SIZE))
    assert (await reader.readline()).split()[1] == b"500"
    writer.close()


async def test_what_is_streamed_goes_through_the_layers(tmp_path: Path) -> None:
    keys = f"one:{base64.b64encode(b'k' * 32).decode()}"
    settings = {"AGENT_STORAGE_ENCRYPTION": "true", "AGENT_STORAGE_ENCRYPTION_KEYS": keys}
    size = 65 * MIB
    async with devhost("file", tmp_path, **settings) as own:
        url = (await link(own, "secret/a", method="PUT"))["url"]
        assert (await put(own, url, size))[0] == 201
        for path in tmp_path.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    assert all(BLOCK[:4096] not in part for part in iter(lambda: file.read(MIB), b""))
        loads = (await link(own, "secret/a"))["url"]
        async with own.session.get(loads, headers={"Range": f"bytes={size - 3}-"}) as response:
            assert (response.status, await response.read()) == (206, BLOCK[-3:])
        async with own.session.get(loads) as response:
            assert hashlib.sha256(await response.read()).digest() == hashlib.sha256(BLOCK * 65).digest()
