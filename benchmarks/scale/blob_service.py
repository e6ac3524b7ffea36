"""A blob service that answers at once, or after as long as it is told.

It has what saves, looks, deletes, batches of these, and listings need, keeps everything in memory, and
checks no signature. ``/control`` tells the numbers of requests by their methods and the seconds of processor
time, and takes ``?seconds=``.
"""

from __future__ import annotations

import asyncio
import bisect
import itertools
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Mapping
from email.utils import formatdate
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

_DELETE = re.compile(rb"Content-ID: (\d+)\r\n\r\nDELETE (\S+) HTTP/1.1\r\n(.*?)\r\n\r\n", re.DOTALL)
_IF_MATCH = re.compile(rb"(?i)^if-match: (\S+)", re.MULTILINE)
_CONTROL = "/control"


class _Blob(NamedTuple):
    headers: dict[str, str]
    etag: str
    body: bytes


class _Answer(NamedTuple):
    status: int
    headers: Mapping[str, str] = {}
    body: bytes = b""


class _Service:
    def __init__(self) -> None:
        self._seconds = 0.0
        self._requests: Counter[str] = Counter()
        self._blobs: dict[str, _Blob] = {}
        self._etags = itertools.count(1)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                first, *lines = head.split("\r\n")[:-2]
                method, target, _ = first.split(" ")
                headers = {name.lower(): text for name, _, text in (line.partition(": ") for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                answer = await self._answer(method, target, headers, body)
                length = answer.headers.get("Content-Length", str(len(answer.body)))
                told = {**answer.headers, "Content-Length": length, "x-ms-request-id": "0"}
                lines = "".join(f"{name}: {text}\r\n" for name, text in told.items())
                whole = f"HTTP/1.1 {answer.status} .\r\n{lines}\r\n".encode()
                writer.write(whole if method == "HEAD" else whole + answer.body)
        except (EOFError, ConnectionError):
            writer.close()

    async def _answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> _Answer:
        url = urlsplit(target)
        query = {name: texts[0] for name, texts in parse_qs(url.query).items()}
        if url.path == _CONTROL:
            self._seconds = float(query.get("seconds", self._seconds))
            return _Answer(
                200,
                {"Content-Type": "application/json"},
                json.dumps({"requests": self._requests, "cpu": time.process_time()}).encode(),
            )
        self._requests[method] += 1
        if self._seconds:
            await asyncio.sleep(self._seconds)
        name = _name(url.path)
        if query.get("comp") == "batch":
            return self._batch(body)
        if query.get("comp") == "list":
            return self._listing(query)
        if not name:
            return _Answer(201)  # The container is made.
        if method == "PUT":
            return self._put(name, headers, body)
        if name not in self._blobs:
            return _refused(404, "BlobNotFound")
        if method == "DELETE":
            return self._delete(name, headers.get("if-match"))
        blob = self._blobs[name]
        described = {**blob.headers, "ETag": blob.etag, "Last-Modified": _NOW, "x-ms-blob-type": "BlockBlob"}
        return _Answer(200, described | {"Content-Length": str(len(blob.body))}, blob.body)

    def _put(self, name: str, headers: dict[str, str], body: bytes) -> _Answer:
        if headers.get("if-none-match") == "*" and name in self._blobs:
            return _refused(409, "BlobAlreadyExists")
        kept = {key: text for key, text in headers.items() if key.startswith("x-ms-meta-")}
        etag = f'"0x{next(self._etags):x}"'
        self._blobs[name] = _Blob(kept | {"Content-Type": headers["content-type"]}, etag, body)
        return _Answer(201, {"ETag": etag, "Last-Modified": _NOW})

    def _delete(self, name: str, if_match: str | None) -> _Answer:
        if name not in self._blobs:
            return _refused(404, "BlobNotFound")
        if if_match not in (None, self._blobs[name].etag):
            return _refused(412, "ConditionNotMet")
        del self._blobs[name]
        return _Answer(202)

    def _batch(self, body: bytes) -> _Answer:
        parts: list[str] = []
        for number, target, headers in _DELETE.findall(body):
            condition = _IF_MATCH.search(headers)
            answer = self._delete(
                _name(target.decode()), None if condition is None else condition[1].decode()
            )
            told = "".join(f"{name}: {text}\r\n" for name, text in answer.headers.items())
            parts.append(
                f"--b\r\nContent-Type: application/http\r\nContent-ID: {int(number)}\r\n\r\n"
                f"HTTP/1.1 {answer.status} .\r\n{told}\r\n{answer.body.decode()}\r\n"
            )
        return _Answer(
            202, {"Content-Type": "multipart/mixed; boundary=b"}, f"{''.join(parts)}--b--".encode()
        )

    def _listing(self, query: dict[str, str]) -> _Answer:
        prefix, count = query.get("prefix", ""), int(query["maxresults"])
        names = sorted(name for name in self._blobs if name.startswith(prefix))
        start = bisect.bisect_right(names, query.get("marker", ""))
        start = max(start, bisect.bisect_left(names, query.get("startFrom", "")))
        page = names[start : start + count]
        marker = page[-1] if len(names) > start + count else ""
        listed = "".join(_item(name, self._blobs[name]) for name in page)
        text = (
            '<?xml version="1.0" encoding="utf-8"?><EnumerationResults ContainerName="scale">'
            f"<Blobs>{listed}</Blobs><NextMarker>{escape(marker)}</NextMarker></EnumerationResults>"
        )
        return _Answer(200, {"Content-Type": "application/xml"}, text.encode())


def _item(name: str, blob: _Blob) -> str:
    metadata = "".join(
        f"<{key[10:]}>{escape(text)}</{key[10:]}>"
        for key, text in blob.headers.items()
        if key.startswith("x-ms-meta-")
    )
    return (
        f"<Blob><Name>{escape(name)}</Name><Properties><Last-Modified>{_NOW}</Last-Modified>"
        f"<Etag>{blob.etag[1:-1]}</Etag><Content-Length>{len(blob.body)}</Content-Length>"
        f"<Content-Type>{escape(blob.headers['Content-Type'])}</Content-Type></Properties>"
        f"<Metadata>{metadata}</Metadata></Blob>"
    )


def _name(path: str) -> str:
    return unquote(path).lstrip("/").partition("/")[2].partition("/")[2]


def _refused(status: int, code: str) -> _Answer:
    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>"
    return _Answer(status, {"x-ms-error-code": code, "Content-Type": "application/xml"}, text.encode())


_NOW = formatdate(usegmt=True)


async def _main() -> None:
    server = await asyncio.start_server(_Service().serve, "127.0.0.1", 0, limit=2**22)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_main())
