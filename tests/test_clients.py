"""Clients as people use them, against the local host on files and on Azurite: curl, httpx, a client that is
generated from the served OpenAPI document, and a browser."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.client_tools import Browser, generated_client, run_generated
from tests.conftest import PROJECT
from tests.pages import blocks, commands
from tests.test_end_to_end import BACKENDS, devhost

LARGE = (200 if os.environ.get("SOAK") else 20) * 1_000_000
PART = 32 * 1024 * 1024
"""What a load of a part takes."""
ACTIONS = """
from storage_lib.tasks.registry import task


@task("greet")
async def greet(context, payload):
    return {"greeting": f"Hello, {payload['name']}!"}
"""
TASK = {"action": "greet", "agent_id": "ceo", "payload": {"name": "Ada"}}


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>a page</title>")

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture(scope="module")
def origins() -> Iterator[list[str]]:
    """Two sites with a page each."""
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), _Page) for _ in range(2)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    yield [f"http://127.0.0.1:{server.server_port}" for server in servers]
    for server in servers:
        server.shutdown()
        server.server_close()


@dataclass(frozen=True)
class Served:
    url: str
    connection_string: str
    admitted: str
    """The site whose pages `Host.CORS` admits, and the store, too."""
    other: str

    @property
    def api(self) -> str:
        return f"{self.url}/api"


@pytest.fixture(scope="module", params=BACKENDS)
async def served(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    azurite: object,
    origins: list[str],
) -> AsyncIterator[Served]:
    """The app with an action and a local.settings.json of the test's own."""
    app = tmp_path_factory.mktemp("app")
    for name in ("function_app.py", "host.json", "functions", "actions", "storage_lib"):
        (app / name).symlink_to(PROJECT / name)
    (app / "greetings.py").write_text(ACTIONS)
    settings = {
        "IsEncrypted": False,
        "Values": {"FUNCTIONS_WORKER_RUNTIME": "python"},
        "Host": {"CORS": origins[0]},
    }
    (app / "local.settings.json").write_text(json.dumps(settings))
    arguments = ("--app", str(app))
    async with devhost(request.param, app / "data", *arguments, AGENT_TASK_MODULES="greetings") as host:
        if host.connection_string:
            admit(host.connection_string, origins[0])
        yield Served(host.url, host.connection_string, *origins)


def admit(connection_string: str, origin: str) -> None:
    """As docs/clients.md says: pages of an origin may use links that lead to the store."""
    from azure.storage.blob import BlobServiceClient, CorsRule

    rule = CorsRule(
        [origin],
        ["GET", "HEAD", "PUT"],
        allowed_headers=["*"],
        exposed_headers=["*"],
        max_age_in_seconds=3600,
    )
    with BlobServiceClient.from_connection_string(connection_string) as service:
        service.set_service_properties(cors=[rule])


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A file, and its SHA-256."""
    path = tmp_path_factory.mktemp("large") / "large.bin"
    block = bytes(range(256)) * 4000
    path.write_bytes((block * (LARGE // len(block) + 1))[:LARGE])
    with path.open("rb") as file:
        return path, hashlib.file_digest(file, "sha256").hexdigest()


def stored(served: Served, key: str) -> tuple[int, str]:
    """The size and the SHA-256 of an object, which is loaded in parts that a request takes."""
    digest, size = hashlib.sha256(), 0
    with httpx.Client(base_url=served.api, timeout=120) as client:
        total = int(client.head(f"/objects/{key}").headers["content-length"])
        while size < total:
            part = client.get(f"/objects/{key}", headers={"Range": f"bytes={size}-{size + PART - 1}"})
            assert part.status_code == 206
            digest.update(part.content)
            size += len(part.content)
    return size, digest.hexdigest()


# -- curl


def curl(*arguments: str) -> tuple[int, Any]:
    """The status, and the answer."""
    command = [
        "curl",
        "--silent",
        "--show-error",
        "--max-time",
        "120",
        "--write-out",
        "\n%{http_code}",
        *arguments,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr
    text, _, status = done.stdout.rpartition("\n")
    return int(status), json.loads(text) if text.startswith(("{", "[")) else text


def test_curl(served: Served, large: tuple[Path, str]) -> None:
    api, kind = served.api, "Content-Type: application/json"
    saved = curl("-X", "PUT", f"{api}/objects/curl/a.json", "-H", kind, "-d", '{"n": 1, "m": 2}')
    assert saved[0] == 201
    assert curl(f"{api}/objects/curl/a.json") == (200, {"n": 1, "m": 2})
    status, listed = curl(f"{api}/objects?prefix=curl/")
    assert (status, [each["key"] for each in listed["objects"]]) == (200, ["curl/a.json"])
    merge = "Content-Type: application/merge-patch+json"
    assert (
        curl("-X", "PATCH", f"{api}/objects/curl/a.json", "-H", merge, "-d", '{"m": null, "x": "y"}')[0]
        == 200
    )
    assert curl(f"{api}/objects/curl/a.json") == (200, {"n": 1, "x": "y"})

    status, task = curl(f"{api}/tasks", "-H", kind, "-d", json.dumps(TASK))
    assert status == 202
    while task["status"] in ("queued", "running"):
        status, task = curl(f"{api}/tasks/{task['task_id']}?wait=30")
    assert (status, task["status"], task["result"]) == (200, "succeeded", {"greeting": "Hello, Ada!"})

    path, digest = large
    status, link = curl(f"{api}/links/curl/large.bin", "-H", kind, "-d", '{"method": "PUT"}')
    assert status == 201
    headers = [each for name, value in link["headers"].items() for each in ("-H", f"{name}: {value}")]
    assert curl("-T", str(path), link["url"], *headers)[0] in (200, 201)
    assert stored(served, "curl/large.bin") == (LARGE, digest)


# -- httpx


def test_httpx(served: Served, large: tuple[Path, str]) -> None:
    with httpx.Client(base_url=served.api, timeout=120) as client:
        assert client.put("/objects/httpx/a.json", json={"n": 1}).status_code == 201
        loaded = client.get("/objects/httpx/a.json")
        assert loaded.json() == {"n": 1}
        assert [
            each["key"] for each in client.get("/objects", params={"prefix": "httpx/"}).json()["objects"]
        ] == ["httpx/a.json"]
        patched = client.patch(
            "/objects/httpx/a.json",
            content=b'{"n": 2}',
            headers={"Content-Type": "application/merge-patch+json", "If-Match": loaded.headers["ETag"]},
        )
        assert patched.status_code == 200
        assert client.get("/objects/httpx/a.json").json() == {"n": 2}

        submitted = client.post("/tasks", json=TASK)
        assert submitted.status_code == 202
        task = client.get(f"/tasks/{submitted.json()['task_id']}", params={"wait": 30}).json()
        assert task["result"] == {"greeting": "Hello, Ada!"}

        path, digest = large
        link = client.post("/links/httpx/large.bin", json={"method": "PUT"}).json()
        with path.open("rb") as file:
            sent = httpx.put(
                link["url"],
                content=file,
                headers={"Content-Length": str(LARGE), **link["headers"]},
                timeout=120,
            )
        assert sent.status_code in (200, 201), sent.text
    assert stored(served, "httpx/large.bin") == (LARGE, digest)


# -- a generated client

GENERATED = """
import json, sys, warnings

warnings.simplefilter("ignore")
import httpx
from agent_storage import Client
from agent_storage.api.objects import make_link
from agent_storage.api.objects import list_objects, load_object, save_object, touch_object
from agent_storage.api.tasks import get_task, submit_task
from agent_storage.models import LinkRequest, ObjectChange, TaskSubmission

url, path, task = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
said = {}
with Client(base_url=url, timeout=httpx.Timeout(300), raise_on_unexpected_status=True) as client:
    saved = save_object.sync("generated/a.json", client=client, body={"n": 1})
    said["saved"] = saved.key
    said["loaded"] = json.load(load_object.sync("generated/a.json", client=client).payload)
    said["listed"] = [each.key for each in list_objects.sync(client=client, prefix="generated/").objects]
    change = ObjectChange.from_dict({"metadata": {"agent": "ceo"}})
    said["patched"] = touch_object.sync("generated/a.json", client=client, body=change).key
    task = submit_task.sync(client=client, body=TaskSubmission.from_dict(task))
    ended = {"status": "queued"}
    while ended["status"] in ("queued", "running"):
        ended = get_task.sync(task.task_id, client=client, wait=30).to_dict()
    said["task"] = ended["result"]
    request = LinkRequest.from_dict({"method": "PUT"})
    link = make_link.sync("generated/large.bin", client=client, body=request)
    with open(path, "rb") as file:
        headers = {"Content-Length": sys.argv[4], **link.headers.to_dict()}
        said["sent"] = httpx.put(link.url, content=file, headers=headers, timeout=120).status_code
print(json.dumps(said))
"""


def test_a_generated_client(served: Served, large: tuple[Path, str]) -> None:
    document = httpx.get(f"{served.api}/openapi.json", timeout=120)
    folder = generated_client(document.content)
    path, digest = large
    said = run_generated(folder, GENERATED, served.api, str(path), json.dumps(TASK), str(LARGE))
    sent = said.pop("sent")
    assert said == {
        "saved": "generated/a.json",
        "loaded": {"n": 1},
        "listed": ["generated/a.json"],
        "patched": "generated/a.json",
        "task": {"greeting": "Hello, Ada!"},
    }
    assert sent in (200, 201)
    assert stored(served, "generated/large.bin") == (LARGE, digest)


# -- a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = Browser(tmp_path_factory.mktemp("browser"))
    yield found
    found.close()


IN_A_PAGE = """async ({api, name, task, size}) => {
  const ask = async (method, path, body, headers = {}) => {
    const type = body === undefined ? {} : {'Content-Type': 'application/json'};
    const sent = body === undefined ? body : JSON.stringify(body);
    const response = await fetch(path.startsWith('http') ? path : api + path,
      {method, body: sent, headers: {...type, ...headers}});
    const text = await response.text();
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text}`);
    return {status: response.status, etag: response.headers.get('etag'), value: text && JSON.parse(text)};
  };
  const saved = await ask('PUT', `/objects/${name}/a.json`, {n: 1});
  const loaded = await ask('GET', `/objects/${name}/a.json`);
  const listed = await ask('GET', `/objects?prefix=${name}/`);
  await ask('PATCH', `/objects/${name}/a.json`, {n: 2},
    {'Content-Type': 'application/merge-patch+json', 'If-Match': loaded.etag});
  const patched = await ask('GET', `/objects/${name}/a.json`);
  const submitted = await ask('POST', '/tasks', task);
  let ended = submitted;
  while (['queued', 'running'].includes(ended.value.status))
    ended = await ask('GET', `/tasks/${submitted.value.task_id}?wait=30`);
  const block = new Uint8Array(1024000).map((_, n) => n % 256);
  const file = new File(Array(Math.ceil(size / block.length)).fill(block), 'large.bin').slice(0, size);
  const link = (await ask('POST', `/links/${name}/large.bin`, {method: 'PUT'})).value;
  const sent = await fetch(link.url, {method: 'PUT', body: file, headers: link.headers});
  if (!sent.ok) throw new Error(`PUT to the link: ${sent.status} ${await sent.text()}`);
  return [saved.status, loaded.value, loaded.etag !== null, listed.value.objects.map((each) => each.key),
    patched.value, ended.value.result];
}"""
REFUSED = """async (api) => {
  const outcomes = [];
  for (const [method, path, headers] of [
    ['GET', '/objects', {}],
    ['PUT', '/objects/stolen', {'Content-Type': 'application/json'}],
    ['POST', '/tasks', {'Content-Type': 'text/plain'}],
    ['DELETE', '/objects/kept', {}],
  ])
    outcomes.push(await fetch(api + path, {method, headers, body: method === 'GET' ? undefined : '1'})
      .then((response) => response.status, () => 'refused'));
  const blind = await fetch(api + '/objects/stolen', {method: 'POST', mode: 'no-cors', body: '1'});
  return [outcomes, blind.type, blind.status];
}"""


@pytest.mark.parametrize("where", ["its own", "another that is admitted"])
def test_a_browser(served: Served, browser: Browser, large: tuple[Path, str], where: str) -> None:
    """A page of the host's own origin, and of one that `Host.CORS` admits."""
    own = where == "its own"
    if own and served.connection_string:
        admit(served.connection_string, served.url)  # Where the link leads is another origin all the same.
    name = "own" if own else "admitted"
    argument = {"api": served.api, "name": name, "task": TASK, "size": LARGE}
    page = f"{served.api}/health/live" if own else served.admitted
    try:
        found = browser.run(page, IN_A_PAGE, argument)
    finally:
        if own and served.connection_string:
            admit(served.connection_string, served.admitted)
    assert found == [201, {"n": 1}, True, [f"{name}/a.json"], {"n": 2}, {"greeting": "Hello, Ada!"}]
    assert stored(served, f"{name}/large.bin") == (LARGE, large[1])


def test_a_page_of_another_site_is_refused(served: Served, browser: Browser) -> None:
    assert httpx.put(f"{served.api}/objects/kept", json=1, timeout=120).status_code in (200, 201)
    outcomes, kind, status = browser.run(served.other, REFUSED, served.api)
    assert outcomes == ["refused"] * 4
    assert (kind, status) == ("opaque", 0)  # It learns nothing.
    assert httpx.get(f"{served.api}/objects/kept", timeout=120).json() == 1
    assert httpx.get(f"{served.api}/objects/stolen", timeout=120).status_code == 404


# -- what docs/clients.md shows


def test_the_page_about_clients(served: Served, browser: Browser) -> None:
    """Each example runs as it stands. Those of the shell install things, or need a subscription."""
    shown = blocks(PROJECT / "docs/clients.md")
    assert {block.language for block in shown} == {"console", "python", "sh", "js"}
    folder = generated_client(httpx.get(f"{served.api}/openapi.json", timeout=120).content)
    for block in shown:
        if block.language == "console":
            for command in commands(block):
                text = command.text.replace("http://127.0.0.1:7071", served.url)
                status, answer = curl(*shlex.split(text)[1:])
                assert status < 300, (text, answer)
                assert not command.output or answer == json.loads(command.output)
        elif block.language == "python":
            run_generated(folder, block.text + "\nprint('{}')", served.api)
        elif block.language == "js":
            assert browser.run(served.admitted, block.text, served.api) is True
