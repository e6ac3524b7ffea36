"""What a newcomer meets at ``/`` of the local host."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.conftest import PROJECT
from tests.local_host import Running, served, write_app

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with served(PROJECT, tmp_path_factory.mktemp("landing")) as found:
        yield found


def test_a_browser_gets_the_console(host: Running) -> None:
    response, _ = host.ask("GET", "/", headers=BROWSER)
    assert (response.status, response.headers["Location"]) == (302, "/api/console")
    response, page = host.ask("GET", "/api/console")
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert b"console/console.js" in page


def test_everyone_else_is_told_where_to_go_on(host: Running) -> None:
    _, body = host.ask("GET", "/")
    links = re.findall(r": +(http://\S+)", body.decode())
    assert [urlsplit(each).path for each in links[:3]] == ["/api/console", "/api/docs", "/api/openapi.json"]
    for link in links:
        assert host.ask("GET", urlsplit(link).path)[0].status == 200, link


def test_what_it_says_works(host: Running) -> None:
    _, body = host.ask("GET", "/")
    commands = [line.strip() for line in body.decode().splitlines() if line.strip().startswith("curl ")]
    assert len(commands) == 3
    for command in commands:
        done = subprocess.run([*shlex.split(command), "-sf"], capture_output=True, check=True, timeout=120)
    assert b"configs/ceo.json" in done.stdout


def test_others_get_text(host: Running) -> None:
    response, body = host.ask("GET", "/", headers={"Accept": "*/*"})
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert body.startswith(b"The function app is running.\n")
    assert f"http://127.0.0.1:{host.port}/api/docs" in body.decode()
    assert host.ask("HEAD", "/")[0].status == 200
    assert host.ask("POST", "/")[0].status == 404


def test_it_says_where_a_key_is_needed(tmp_path: Path) -> None:
    with served(PROJECT, tmp_path, "--require-keys") as host:
        _, body = host.ask("GET", "/", headers={"Host": "evil.example"})
        assert b"HOST_KEY" in body
        assert host.ask("GET", "/api/docs")[0].status == 401


def test_an_app_without_documentation_has_no_links(tmp_path: Path) -> None:
    app = write_app(
        tmp_path / "app",
        "import azure.functions as func\napp = func.FunctionApp()\n\n"
        "@app.route(route='mine', methods=['GET'])\ndef mine(req: func.HttpRequest) -> str:\n    return ''\n",
    )
    with served(app, tmp_path) as host:
        _, body = host.ask("GET", "/")
        assert body == b"The function app is running.\n"
        _, page = host.ask("GET", "/", headers=BROWSER)
        assert b"href" not in page
