"""What the platform's own host was measured to do with requests and answers, row by row."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import logging
import re
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from devhost import kestrel
from devhost.__main__ import RESTART_SECONDS
from devhost.answers import Answer, to_answer
from devhost.errors import DevhostError
from devhost.hostjson import HostJson, QueueOptions, is_disabled, load_host_json
from devhost.http import DEFAULT_BODY_LIMIT
from devhost.kestrel import Patience
from devhost.runtime import Function, InvocationResult
from devhost.sockets import bind
from functions.limits import function_timeout
from tests import stub_service
from tests.local_host import DEADLINE, Running, serve, wait_for, write_app

APP = """
import json

import azure.functions as func

app = func.FunctionApp(http_auth_level=func.AuthLevel.FUNCTION)


@app.route(route="o", methods=["GET"])
def listing(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse("list")


@app.route(route="o/{*key}", methods=["GET", "PUT"])
def one(req: func.HttpRequest) -> func.HttpResponse:
    seen = {
        "url": req.url,
        "key": req.route_params.get("key"),
        "query": dict(req.params),
        "headers": dict(req.headers),
        "body": len(req.get_body()),
    }
    return func.HttpResponse(json.dumps(seen))


@app.route(route="tasks/{id}", methods=["GET"])
def task(req: func.HttpRequest) -> str:
    return req.route_params["id"]


@app.route(route="answer/{kind}", methods=["GET", "HEAD"])
def answer(req: func.HttpRequest) -> func.HttpResponse:
    headers = {
        "varies": {"Vary": "Accept-Encoding"},
        "right": {"Content-Length": "4"},
        "long": {"Content-Length": "9"},
        "short": {"Content-Length": "3"},
        "junk": {"Content-Length": "four"},
        "text": {"X-Name": "caf\\u00e9"},
        "control": {"X-Name": "a\\u0001b"},
        "twice": {"X-Name": "first", "x-name": "second"},
        "coding": {"Transfer-Encoding": "chunked"},
        "none": {},
    }[req.route_params["kind"]]
    return func.HttpResponse("body", headers=headers, mimetype="text/plain")


@app.route(route="partly/{status}", methods=["GET"])
def partly(req: func.HttpRequest) -> func.HttpResponse:
    status = int(req.route_params["status"])
    body, length = ("body", {"Content-Length": "4"}) if status == 206 else (None, {})
    headers = {"ETag": '"a"', "Content-Range": "bytes 0-3/9"} | length
    return func.HttpResponse(body, status_code=status, headers=headers, mimetype="a/b")


@app.route(route="off", methods=["GET"])
def off(req: func.HttpRequest) -> str:
    return "off"
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    settings = {"Host": {"CORS": "https://console.example, http://localhost:3000", "CORSCredentials": True}}
    app = write_app(tmp_path_factory.mktemp("platform"), APP)
    (app / "local.settings.json").write_text(json.dumps(settings))
    variables = {"AzureWebJobs.off.Disabled": "true", "FUNCTIONS_REQUEST_BODY_SIZE_LIMIT": "100000"}
    names = ("box.local", "Desk.Local.:7071", "192.168.0.9", "fd00::9", "[fd00::a]:80")
    options = [text for name in names for text in ("--allow-host", name)]
    with serve(app, *options, **variables) as running:
        yield running


def wire(host: Running, request: bytes) -> bytes:
    """What is answered to bytes on a connection, until it is closed."""
    with host.connect() as connection:
        connection.sendall(request)
        received = b""
        while more := connection.recv(65536):
            received += more
    return received


def status_of(host: Running, target: bytes, method: bytes = b"GET") -> int:
    head = b"%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % (method, target)
    return int(wire(host, head).split(b" ")[1])


# --- paths and queries


@pytest.mark.parametrize(
    ("sent", "url", "key"),
    [
        ("a%2Fb", "a%2Fb", "a%2Fb"),
        ("a%252Fb", "a%2Fb", "a%2Fb"),
        ("a%25%32%46b", "a%2Fb", "a%2Fb"),
        ("a%2525b", "a%25b", "a%25b"),
        ("a%25b", "a%25b", "a%b"),
        ("a%2Bb", "a+b", "a+b"),
        ("a%3Ab", "a:b", "a:b"),
        ('a"b', "a%22b", 'a"b'),
        ("a[1]", "a%5B1%5D", "a[1]"),
        ("a\\b", "a%5Cb", "a\\b"),
        ("a%FF", "a%FF", "a%FF"),
        ("%C0%AF", "%C0%AF", "%C0%AF"),
        ("%C3%A9", "%C3%A9", "é"),
        ("a/./b", "a/b", "a/b"),
        ("a/../b", "b", "b"),
        ("a/%2e%2e/b", "b", "b"),
        ("..%2fetc", "..%2fetc", "..%2fetc"),
        ("a/..%2fb", "a/..%2fb", "a/..%2fb"),
        ("a//b", "a//b", "a//b"),
        ("a/b/", "a/b/", "a/b/"),
    ],
)
def test_paths(host: Running, sent: str, url: str, key: str) -> None:
    response, body = host.ask("GET", f"/API/O/{sent}")
    assert response.status == 200
    seen = json.loads(body)
    assert (seen["url"], seen["key"]) == (f"http://127.0.0.1:{host.port}/API/O/{url}", key)


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (b"/api/o/a%00b", 400),
        (b"/api/o/a\xc3\xa9", 400),
        (b"/api/o/a\xe9", 400),
        (b"/api/o/a#b", 400),
        (b"/api/o/a b", 400),
        (b"/api/o/a?x=\xc3\xa9", 400),
        (b"/api/o/a?x=#", 400),
        (b"/api/o//b", 404),
        (b"/api/o//", 404),
        (b"/api/tasks/x/", 200),
        (b"/api/off", 404),
        (b"/", 200),
        (b"/api/o/" + b"a" * (8192 - 40), 200),
        (b"/api/o/" + b"a" * 8192, 414),
        (b"/api/o/" + b"a" * 100_000, 414),
    ],
)
def test_targets(host: Running, target: bytes, status: int) -> None:
    assert status_of(host, target) == status


@pytest.mark.parametrize(
    ("query", "values"),
    [
        ("x=1&x=2", {"x": "1,2"}),
        ("x=&x=2", {"x": "2"}),
        ("x", {}),
        ("x=", {}),
        ("x=%FF", {"x": "%FF"}),
        ("x=a+b%20c", {"x": "a b c"}),
    ],
)
def test_queries(host: Running, query: str, values: dict[str, str]) -> None:
    assert json.loads(host.ask("GET", f"/api/o/a?{query}")[1])["query"] == values


# --- methods


@pytest.mark.parametrize("method", [b"HEAD", b"POST", b"OPTIONS", b"PATCH", b"TRACE", b"NONSENSE"])
def test_methods(host: Running, method: bytes) -> None:
    answer = wire(host, method + b" /api/o HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert re.match(rb"HTTP/1\.[01] 404 ", answer)
    assert b"\r\nallow:" not in answer.lower()


# --- bodies and headers


def test_chunked_body_does_not_reach_the_function(host: Running) -> None:
    sent = b"3\r\nabc\r\n0\r\n\r\n"
    response, body = host.ask("PUT", "/api/o/a", sent, {"Transfer-Encoding": "chunked"})
    assert response.status == 200
    seen = json.loads(body)
    assert (seen["body"], seen["headers"]["transfer-encoding"]) == (0, "chunked")
    assert "PUT /api/o/a: the body is chunked; as on the platform, the function does not get it" in host.log


def test_too_large_a_body_is_500_without_a_body(host: Running) -> None:
    assert host.ask("PUT", "/api/o/a", b"x" * 100_000)[0].status == 200
    response, body = host.ask("PUT", "/api/o/a", b"x" * 100_001)
    assert (response.status, body, response.headers["Connection"]) == (500, b"", "close")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"X-A": "a" * 8000}, 200),
        ({"X-A": "a" * 20_000}, 200),
        ({"X-A": "a" * 33_000}, 431),
        ({"X-A": "a" * 17_000, "X-B": "b" * 17_000}, 431),
        ({f"X-{number}": "a" for number in range(90)}, 200),
        ({f"X-{number}": "a" for number in range(101)}, 431),
    ],
)
def test_header_limits(host: Running, headers: dict[str, str], status: int) -> None:
    assert host.ask("GET", "/api/o/a", headers=headers)[0].status == status
    assert "Traceback" not in host.log


def test_headers_arrive_lower_case_and_joined(host: Running) -> None:
    answer = wire(
        host,
        b'GET /api/o/a HTTP/1.1\r\nHost: localhost\r\nIf-Match: "a"\r\nIF-MATCH: W/"b"\r\n'
        b"X-MS-CLIENT-PRINCIPAL: me\r\nConnection: close\r\n\r\n",
    )
    assert rb'"if-match": "\"a\",W/\"b\""' in answer
    assert b'"x-ms-client-principal": "me"' in answer


def test_malformed_requests_are_400_without_a_traceback(host: Running) -> None:
    for request in (
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /api/o/a HTTP/1.1\r\nA B: c\r\n\r\n",
    ):
        assert re.match(rb"HTTP/1\.[01] 40[04] ", wire(host, request))
    assert "Traceback" not in host.log


# --- answers


@pytest.mark.parametrize(
    ("kind", "status", "length", "text"),
    [
        ("none", 200, None, b"body"),
        ("right", 200, "4", b"body"),
        ("short", 500, None, b""),
        ("junk", 500, None, b""),
        ("text", 500, None, b""),
        ("control", 500, None, b""),
        ("twice", 200, None, b"body"),
    ],
)
def test_answers(host: Running, kind: str, status: int, length: str | None, text: bytes) -> None:
    response, body = host.ask("GET", f"/api/answer/{kind}")
    assert (response.status, body) == (status, text)
    if status == 200:
        assert response.headers["Content-Length"] == length
        assert response.headers["Transfer-Encoding"] == (None if length else "chunked")
    if kind == "twice":
        assert response.headers.get_all("X-Name") == ["first"]


def test_an_answer_that_claims_to_be_longer_is_cut(host: Running) -> None:
    answer = wire(host, b"GET /api/answer/long HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"\r\nContent-Length: 9" in head
    assert body == b"body"


def test_an_answer_with_a_transfer_encoding_of_its_own_is_broken(host: Running) -> None:
    answer = wire(host, b"GET /api/answer/coding HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert not answer.endswith(b"0\r\n\r\n")
    assert "Transfer-Encoding is the host's to set" in host.log


def test_head_and_empty_answers(host: Running) -> None:
    response, body = host.ask("HEAD", "/api/answer/right")
    assert (response.status, response.headers["Content-Length"], body) == (200, "4", b"")
    function = Function("f", "f", "http", {}, ({"type": "http", "name": "$return"},))
    assert to_answer(function, InvocationResult(ok=True, duration=0), "GET").status == 204


@pytest.mark.parametrize(("status", "body"), [(204, b""), (206, b"body"), (304, b"")])
def test_answers_without_a_whole_body_are_as_given(host: Running, status: int, body: bytes) -> None:
    response, received = host.ask("GET", f"/api/partly/{status}")
    assert (response.status, received) == (status, body)
    assert (response.headers["ETag"], response.headers["Content-Type"]) == ('"a"', "a/b")
    assert response.headers["Content-Range"] == "bytes 0-3/9"
    assert response.headers["Content-Length"] == ("4" if body else None)


def test_a_string_is_plain_text(host: Running) -> None:
    response, body = host.ask("GET", "/api/tasks/x")
    assert (response.status, body) == (200, b"x")
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"


# --- who may ask


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost"}, 200),
        ({"Host": "LOCALHOST:7071"}, 200),
        ({"Host": "127.0.0.1:1"}, 200),
        ({"Host": "[::1]:80"}, 200),
        ({"Host": "app.localhost"}, 200),
        ({"Host": "box.local:7071"}, 200),
        *(({"Host": name}, 200) for name in ("desk.local", "192.168.0.9:1", "[fd00::9]", "[FD00::A]:7071")),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "192.168.0.7"}, 403),
        ({"Host": ""}, 403),
        *(
            ({"Host": name}, 400)
            for name in (
                *("[::1", "[::1]evil.example", "::1", "[evil.example]", "localhost:x", "user@localhost"),
                *(
                    "localhost/evil",
                    "evil.example\\@localhost",
                    "evil.example:80@localhost",
                    "a b",
                    "caf\u00e9",
                ),
            )
        ),
        ({"Host": "localhost", "Origin": "http://["}, 403),
        ({"Host": "localhost", "Origin": "http://localhost, https://evil.example"}, 403),
        ({"Host": "localhost", "Origin": "ftp://localhost"}, 403),
        ({"Host": "localhost:1", "Origin": "http://localhost:1"}, 200),
        ({"Host": "localhost:1", "Origin": "http://localhost:2"}, 403),
        ({"Host": "localhost:1", "Origin": "null"}, 403),
        ({"Host": "localhost:1", "Origin": "https://evil.example"}, 403),
        ({"Host": "localhost:1", "Origin": "https://console.example"}, 200),
        ({"Host": "localhost:1", "Origin": "http://localhost:3000"}, 200),
        ({"Host": "localhost", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403),
        ({"Host": "localhost", "Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"}, 403),
        ({"Host": "localhost", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 200),
        ({"Host": "localhost", "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}, 200),
        ({"Host": "localhost", "Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}, 200),
    ],
)
def test_hosts_and_origins(host: Running, headers: dict[str, str], status: int) -> None:
    response, body = host.ask("GET", "/api/o/a", headers=headers)
    assert response.status == status
    if status == 403:
        assert json.loads(body)["detail"]
        assert (response.headers["Cache-Control"], response.headers["X-Content-Type-Options"]) == (
            "no-store",
            "nosniff",
        )


@pytest.mark.parametrize("name", ["", "*", "a b", "http://box.local", "box.local,desk.local", "*.local"])
def test_what_is_no_name_of_a_host_is_refused(tmp_path: Path, name: str) -> None:
    app = write_app(tmp_path, APP)
    told = "exit code 2: devhost: --allow-host must be"
    with pytest.raises(AssertionError, match=told), serve(app, "--allow-host", name):
        pass


@pytest.mark.parametrize(
    ("target", "name", "status"),
    [
        (b"http://localhost/api/o/a", b"localhost", 200),
        (b"HTTP://LOCALHOST:7071/api/o/a", b"localhost:7071", 200),
        (b"http://localhost", b"localhost", 200),
        (b"http://evil.example/api/o/a", b"localhost", 400),
        (b"http://localhost/api/o/a", b"evil.example", 400),
        (b"http://evil.example/api/o/a", b"evil.example", 403),
    ],
)
def test_absolute_targets_name_the_same_host(host: Running, target: bytes, name: bytes, status: int) -> None:
    answer = wire(host, b"GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" % (target, name))
    assert int(answer.split(b" ")[1]) == status


@pytest.mark.parametrize(
    ("sent", "statuses"),
    [
        (b"GET /api/o/a HTTP/1.1\r\nHost: localhost\r\n\r\n", [b"200"]),
        (
            b"GET /api/o/a HTTP/1.1\r\nHost: localhost\r\n\r\n"
            b"PUT /api/o/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\na"
            b"GET /none HTTP/1.1\r\nHost: localhost\r\n\r\n",
            [b"200", b"200", b"404"],
        ),
        (b"PUT /api/o/cut HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\na", []),
        (b"GET /api/o/a HTTP/1.1\r\nHost: local", []),
        (b"", []),
    ],
)
def test_a_client_that_sends_no_more_gets_its_answers(
    host: Running, sent: bytes, statuses: list[bytes]
) -> None:
    with host.connect() as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while more := connection.recv(65536):
            received += more
    assert re.findall(rb"HTTP/1.1 (\d\d\d)", received) == statuses


def test_a_form_of_another_site_changes_nothing(host: Running) -> None:
    form = {"Origin": "https://evil.example", "Content-Type": "text/plain"}
    assert host.ask("PUT", "/api/o/a", b"x", form)[0].status == 403
    form = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert host.ask("PUT", "/api/o/a", b"x", form)[0].status == 403


def test_cors_of_local_settings(host: Running) -> None:
    asked = {"Origin": "https://console.example", "Access-Control-Request-Method": "PUT"}
    response, _ = host.ask("OPTIONS", "/api/o/a", headers=asked | {"Access-Control-Request-Headers": "x-ttl"})
    assert response.status == 204
    assert response.headers["Access-Control-Allow-Origin"] == "https://console.example"
    assert response.headers["Access-Control-Allow-Methods"] == "PUT"
    assert response.headers["Access-Control-Allow-Headers"] == "x-ttl"
    response, _ = host.ask("GET", "/api/o/a", headers={"Origin": "https://console.example"})
    assert response.headers["Access-Control-Allow-Origin"] == "https://console.example"
    assert response.headers["Access-Control-Allow-Credentials"] == "true"
    response, _ = host.ask("GET", "/api/answer/varies", headers={"Origin": "https://console.example"})
    assert response.headers["Vary"] == "Accept-Encoding, Origin"
    response, _ = host.ask("OPTIONS", "/api/o/a", headers={"Origin": "https://evil.example"})
    assert response.status == 403


def test_no_key_is_in_the_log_of_the_host(host: Running) -> None:
    """Whatever the host makes of the request: it is served, refused, malformed, too large or cut off."""
    key = "planted-key-0123456789"
    headers = {"x-functions-key": key, "Authorization": f"Bearer {key}", "Cookie": f"a={key}"}
    for method, path, more in (
        ("GET", f"/api/o/a?code={key}", {}),
        ("GET", f"/api/none?code={key}", {}),
        ("PATCH", f"/api/o/a?code={key}", {}),
        ("GET", f"/api/o/%00?code={key}", {}),
        ("GET", f"/api/o/a?code={key}", {"Host": "evil.example"}),
        ("GET", f"/api/o/a?code={key}", {"Origin": "https://evil.example"}),
        ("OPTIONS", f"/api/o/a?code={key}", {"Origin": "https://evil.example"}),
        ("GET", f"/api/answer/text?code={key}", {}),
        ("GET", f"/api/answer/junk?code={key}", {}),
    ):
        host.ask(method, path, headers=headers | more)
    host.ask("PUT", f"/api/o/a?code={key}", b"x" * 100_001, headers)
    for line, more in (
        (f"GET /api/o/a?code={key}#x HTTP/1.1", ""),
        (f"GET /api/o/ä?code={key} HTTP/1.1", ""),
        (f"GET http://localhost/api/o/a?code={key} HTTP/1.1", ""),
        (f"GET /api/o/a?code={key} HTTP/9", ""),
        (f"GET /api/o/a?code={key} HTTP/1.1", f"x-functions-key {key}\r\n"),
        ("GET /api/o/a HTTP/1.1", f"x-functions-key: {key}\x01\r\n"),
    ):
        wire(host, f"{line}\r\nHost: localhost\r\nConnection: close\r\n{more}\r\n".encode())
    status_of(host, b"/api/o/done")
    wait_for(lambda: "/api/o/done" in host.log)
    assert key not in host.log
    assert not any(key in line for line in host.output)


# --- slow clients


QUICK = Patience(idle=1.0, head=0.1, body=-0.9)
# As quick with requests, and patient with connections.
PATIENT = Patience(idle=600, head=0.1, body=-0.9)


@asynccontextmanager
async def served_with(patience: Patience) -> AsyncIterator[int]:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        try:
            return Answer(200, body=await kestrel.read_body(request, 1000, patience))
        except kestrel.BodyTooSlowError:
            return Answer(500, close=True)

    runner = web.ServerRunner(kestrel.Server(handle, patience))
    await runner.setup()
    bound = bind("127.0.0.1", 0)
    await web.SockSite(runner, bound).start()
    yield bound.getsockname()[1]
    await runner.cleanup()


@pytest.fixture
async def quick() -> AsyncIterator[int]:
    """A server whose patience is counted in tenths of a second."""
    async with served_with(QUICK) as port:
        yield port


@pytest.fixture
async def patient() -> AsyncIterator[int]:
    """One that waits for the next request as long as need be."""
    async with served_with(PATIENT) as port:
        yield port


async def sending(port: int, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection on which this has been sent before the server, which runs in this loop, knows of it."""
    connected = socket.create_connection(("127.0.0.1", port))
    connected.sendall(data)
    return await asyncio.open_connection(sock=connected)


async def test_a_fault_of_the_host_shows_no_key(caplog: pytest.LogCaptureFixture) -> None:
    async def fails(request: web.BaseRequest) -> web.StreamResponse:
        raise RuntimeError("a fault")

    runner = web.ServerRunner(kestrel.Server(fails))
    await runner.setup()
    bound = bind("127.0.0.1", 0)
    await web.SockSite(runner, bound).start()
    reader, writer = await asyncio.open_connection("127.0.0.1", bound.getsockname()[1])
    writer.write(b"GET /api/o/a?code=planted-key HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await asyncio.wait_for(reader.read(), DEADLINE)).startswith(b"HTTP/1.1 500 ")
    writer.close()
    await runner.cleanup()
    assert "devhost failed on /api/o/a" in caplog.text
    assert "planted-key" not in caplog.text


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"GET / HT", b"HTTP/1.1 408 Request Timeout\r\n"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n", b"HTTP/1.1 408 Request Timeout\r\n"),
        (
            b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nab",
            b"HTTP/1.1 500 Internal Server Error\r\n",
        ),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab", b"HTTP/1.1 200 OK\r\n"),
    ],
)
async def test_slow_clients(quick: int, sent: bytes, answer: bytes) -> None:
    reader, writer = await sending(quick, sent)
    async with asyncio.timeout(DEADLINE):
        assert await reader.readline() == answer
    writer.close()


async def test_an_idle_connection_is_not_a_slow_request(patient: int) -> None:
    request = b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\na"
    reader, writer = await sending(patient, request)
    for _ in range(2):
        async with asyncio.timeout(DEADLINE):
            assert (await reader.readuntil(b"\r\n0\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
        # Longer than a request's headers may take.
        await asyncio.sleep(0.3)
        writer.write(request)
    writer.close()


@pytest.mark.parametrize(
    ("sent", "answer"),
    [(b"", b""), (b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\na", b"HTTP/1.1 200 OK\r\n")],
)
async def test_an_idle_connection_is_closed(quick: int, sent: bytes, answer: bytes) -> None:
    started = time.monotonic()
    reader, writer = await sending(quick, sent)
    async with asyncio.timeout(DEADLINE):
        assert (await reader.read()).startswith(answer)
    assert time.monotonic() - started > 0.9
    writer.close()


def test_times() -> None:
    """As they were measured; the host notices within a second."""
    assert Patience() == Patience(idle=130, head=30, body=5, bytes_per_second=240)
    assert DEFAULT_BODY_LIMIT == 104_857_600


async def test_the_rest_of_a_body_is_not_a_slow_request(patient: int) -> None:
    reader, writer = await sending(
        patient, b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    async with asyncio.timeout(DEADLINE):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
    writer.write(b"1\r\na\r\n0\r\n\r\n")
    # Longer than a request's headers may take.
    await asyncio.sleep(0.3)
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    async with asyncio.timeout(DEADLINE):
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    writer.close()


# --- settings that override host.json


def test_settings_override_host_json(tmp_path: Path) -> None:
    (tmp_path / "host.json").write_text('{"version": "2.0", "extensions": {"queues": {"batchSize": 4}}}')
    settings = {
        "AzureFunctionsJobHost__extensions__queues__batchSize": "8",
        "AzureFunctionsJobHost__extensions__Queues__visibilityTimeout": "00:00:07",
        "AzureFunctionsJobHost__extensions__http__routePrefix": "v1",
        "AzureFunctionsJobHost__logging__logLevel__default": "Warning",
        "AzureFunctionsJobHost__telemetryMode": "openTelemetry",
    }
    found = load_host_json(tmp_path, settings)
    assert (found.queues.batch_size, found.queues.visibility_timeout) == (8, 7)
    assert (found.route_prefix, found.log_level) == ("v1", logging.WARNING)
    for name, text, message in [
        ("extensions__queues__batchSize", "33", "batchSize must be a whole number from 1 to 32, not 33"),
        (
            "extensions__queues__batchSize",
            "many",
            "batchSize must be a whole number from 1 to 32, not 'many'",
        ),
        ("version__x", "1", "host.json has a value, not a section, at version"),
        ("logging__logLevel__default", "Loud", "logging.logLevel.default must be one of"),
        ("telemetryMode", "OpenTelemetri", "telemetryMode must be one of ApplicationInsights, OpenTelemetry"),
    ]:
        with pytest.raises(DevhostError, match=message):
            load_host_json(tmp_path, {f"AzureFunctionsJobHost__{name}": text})


@pytest.mark.parametrize(
    "host_json", [None, "{}", '{"EXTENSIONS": {"Queues": {}, "HTTP": {}}, "Logging": {}}']
)
@pytest.mark.parametrize("spelled", [str, str.lower, str.upper, lambda name: name.replace("__", ":")])
def test_each_setting_that_is_read_is_overridden_whatever_its_case(
    tmp_path: Path, host_json: str | None, spelled: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if host_json is not None:
        (tmp_path / "host.json").write_text(json.dumps({"Version": "2.0"} | json.loads(host_json)))
    settings = {
        "functionTimeout": "00:01:01",
        "extensions__http__routePrefix": "v1",
        "logging__logLevel__default": "Error",
        "extensions__queues__batchSize": "7",
        "extensions__queues__newBatchThreshold": "2",
        "extensions__queues__visibilityTimeout": "00:00:09",
        "extensions__queues__maxDequeueCount": "3",
        "extensions__queues__maxPollingInterval": "00:00:01",
        "extensions__queues__messageEncoding": "none",
    }
    settings = {spelled(f"AzureFunctionsJobHost__{name}"): text for name, text in settings.items()}
    queues = QueueOptions(7, 2, 9, 3, 1, "none")
    assert load_host_json(tmp_path, settings) == HostJson("v1", queues, logging.ERROR, 61)
    for name, text in settings.items():
        monkeypatch.setenv(name, text)
    assert function_timeout(tmp_path / "host.json") == 61


@pytest.mark.parametrize(
    ("levels", "settings", "level"),
    [
        ({}, {}, logging.INFO),
        ({"default": "Warning"}, {}, logging.WARNING),
        ({"default": "Warning", "Function": "Information"}, {}, logging.INFO),
        ({"default": "Information", "function": "error"}, {}, logging.ERROR),
        (
            {"default": "Warning"},
            {"AzureFunctionsJobHost__logging__logLevel__Function": "Debug"},
            logging.DEBUG,
        ),
        ({"default": "Warning", "Host.Results": "Trace"}, {}, logging.WARNING),
    ],
)
def test_what_functions_log_has_the_level_of_its_category(
    tmp_path: Path, levels: dict[str, str], settings: dict[str, str], level: int
) -> None:
    (tmp_path / "host.json").write_text(json.dumps({"version": "2.0", "logging": {"logLevel": levels}}))
    assert load_host_json(tmp_path, settings).log_level == level


def test_host_json_is_read_whatever_the_case_of_its_names(tmp_path: Path) -> None:
    text = '{"Version": "2.0", "FUNCTIONTIMEOUT": "00:02:00", "Extensions": {"QUEUES": {"BatchSize": 3}}}'
    (tmp_path / "host.json").write_text(text)
    found = load_host_json(tmp_path, {})
    assert (found.function_timeout, found.queues.batch_size) == (120, 3)
    assert function_timeout(tmp_path / "host.json") == 120


@pytest.mark.parametrize(
    ("setting", "text", "disabled"),
    [
        ("AzureWebJobs.f.Disabled", "true", True),
        ("AzureWebJobs.f.Disabled", "1", True),
        ("azurewebjobs__F__disabled", "True", True),
        ("AzureWebJobs.f.Disabled", "false", False),
        ("AzureWebJobs.g.Disabled", "true", False),
    ],
)
def test_functions_are_disabled_by_settings(setting: str, text: str, disabled: bool) -> None:
    assert is_disabled("f", {setting: text}) is disabled


# --- keys


def test_keys(tmp_path: Path) -> None:
    app = write_app(tmp_path, APP)
    with serve(app, "--require-keys") as first:
        key = next(line.split(": ")[1] for line in first.output if line.startswith("host key"))
        for query, headers, status in [
            ("", {}, 401),
            ("", {"x-functions-key": key}, 200),
            ("", {"x-functions-key": key.swapcase()}, 200),
            (f"?code={key}", {}, 200),
            (f"?CODE={key}", {}, 200),
            (f"?code={key}", {"x-functions-key": "wrong"}, 401),
            (f"?code={key}", {"x-functions-key": ""}, 401),
            (f"?code={key}&code=wrong", {}, 200),
            (f"?code=wrong&code={key}", {}, 401),
        ]:
            response, body = first.ask("GET", f"/api/o/a{query}", headers=headers)
            assert response.status == status, (query, headers)
            if status == 401:
                assert (body, response.headers["WWW-Authenticate"]) == (b"", None)
        # Neither the key nor the body is waited for where there is no route, nor the body without a key.
        for target, method, status in [
            (b"/api/none", b"PUT", 404),
            (b"/api/o/a", b"PATCH", 404),
            (b"/api/o/a", b"PUT", 401),
        ]:
            head = b"%s %s HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\nConnection: close\r\n\r\n"
            with first.connect() as connection:
                connection.sendall(head % (method, target))
                assert connection.recv(12) == b"HTTP/1.1 %d" % status
        # With keys, names and origins are the caller's business, as on Azure.
        assert (
            first.ask("GET", "/api/o/a", headers={"Host": "x.example", "x-functions-key": key})[0].status
            == 200
        )
    with serve(app, "--require-keys") as second:
        # They were shown once, and a terminal's history is no place to keep them.
        assert not any(key in line for line in second.output)
        assert any(line.startswith("keys: ") for line in second.output)
        assert second.ask("GET", "/api/o/a", headers={"x-functions-key": key})[0].status == 200


# --- what stops the host


STOPS = """
import asyncio
import pathlib
import time

import azure.functions as func

app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)
HERE = pathlib.Path(__file__).parent
MET = []
with (HERE / "starts").open("a") as file:
    print(time.time(), file=file)


@app.route(route="meet", methods=["GET"])
async def meet(req: func.HttpRequest) -> str:
    MET.append(req)
    while len(MET) < 200:
        await asyncio.sleep(0.01)
    return "met"


@app.route(route="ping", methods=["GET"])
async def ping(req: func.HttpRequest) -> str:
    return "pong"


@app.queue_trigger(arg_name="message", queue_name="work", connection="S")
async def work(message: func.QueueMessage) -> None:
    (HERE / "worked").touch()
"""


async def test_a_refused_queue_request_stops_the_host_which_starts_again(tmp_path: Path) -> None:
    refused = 0

    def answer(request: stub_service.Request) -> stub_service.Answer:
        nonlocal refused
        if request.method == "GET" and request.path.endswith("/work/messages"):
            if not refused:
                refused += 1
                return stub_service.Answer(403, headers={"x-ms-error-code": "AuthorizationFailure"})
            empty = b'<?xml version="1.0"?><QueueMessagesList/>'
            return stub_service.Answer(200, empty, {"Content-Type": "application/xml"})
        return stub_service.Answer(
            200, headers={"Last-Modified": "Wed, 25 Nov 2026 03:28:15 GMT", "ETag": '"1"'}
        )

    async with stub_service.StubService(answer) as service:
        urls = (f"{name}Endpoint={service.endpoint}/dev" for name in ("Blob", "Queue", "Table"))
        settings = {
            "AGENT_STORAGE_TYPE": "azure",
            "AgentStorage": ";".join(["AccountName=dev", "AccountKey=a2V5", *urls]),
        }

        def meanwhile() -> None:
            with serve(write_app(tmp_path, STOPS), **settings) as host:
                wait_for(
                    lambda: "the platform stops the host here and starts it again: queue work" in host.log
                )
                wait_for(lambda: answers(host))

        await asyncio.to_thread(meanwhile)
    assert refused == 1


async def test_a_host_that_always_stops_soon_is_started_in_pauses_and_can_be_ended(tmp_path: Path) -> None:
    def answer(request: stub_service.Request) -> stub_service.Answer:
        if request.method == "GET" and request.path.endswith("/work/messages"):
            return stub_service.Answer(403, headers={"x-ms-error-code": "AuthorizationFailure"})
        return stub_service.Answer(
            200, headers={"Last-Modified": "Wed, 25 Nov 2026 03:28:15 GMT", "ETag": '"1"'}
        )

    async with stub_service.StubService(answer) as service:
        urls = (f"{name}Endpoint={service.endpoint}/dev" for name in ("Blob", "Queue", "Table"))
        settings = {
            "AGENT_STORAGE_TYPE": "azure",
            "AgentStorage": ";".join(["AccountName=dev", "AccountKey=a2V5", *urls]),
        }

        def meanwhile() -> None:
            with serve(write_app(tmp_path, STOPS), **settings) as host:
                stopped = "the platform stops the host here and starts it again"
                wait_for(lambda: host.log.count(stopped) >= 3)
                host.process.send_signal(signal.SIGINT)
                assert host.process.wait(DEADLINE) in (0, 130, -signal.SIGINT)
                starts = [float(line) for line in (tmp_path / "starts").read_text().split()]
                assert starts[2] - starts[1] > RESTART_SECONDS
                assert "KeyboardInterrupt" not in host.log

        await asyncio.to_thread(meanwhile)


def test_200_requests_reach_the_app_at_once(tmp_path: Path) -> None:
    with serve(write_app(tmp_path, STOPS)) as host, concurrent.futures.ThreadPoolExecutor(200) as pool:
        answered = pool.map(lambda _: host.ask("GET", "/api/meet"), range(200))
        assert [(response.status, body) for response, body in answered] == [(200, b"met")] * 200


TIMER = """
@app.timer_trigger(arg_name="timer", schedule="* * * * * *", run_on_startup=True)
async def timer(timer: func.TimerRequest) -> None:
    (HERE / "timer.began").touch()
    await asyncio.sleep(600)
    (HERE / "timer.ended").touch()
"""


def test_a_stop_cuts_timers_off(tmp_path: Path) -> None:
    app = write_app(tmp_path, STOPS + TIMER)
    with serve(app) as host:
        wait_for(lambda: (app / "timer.began").exists())
        host.process.send_signal(signal.SIGINT)
        assert host.process.wait(DEADLINE) == 0
    assert not (app / "timer.ended").exists()


def answers(host: Running) -> bool:
    try:
        return host.ask("GET", "/api/ping")[0].status == 200
    except OSError:
        return False
