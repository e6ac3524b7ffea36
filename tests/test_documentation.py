"""What a newcomer copies out of README.md and docs/ runs as it stands, and gives what stands there."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import pytest

from storage_lib import config
from storage_lib.config.spelling import SETTINGS
from storage_lib.s3_backend import S3StorageBackend
from tests.conftest import PROJECT
from tests.pages import blocks, pages, reading
from tests.s3_servers import ACCESS_KEY_ID, SECRET_ACCESS_KEY

# Its commands need a subscription; tests/test_clients.py runs those of the other.
NOT_TYPED = {"deploy.md", "clients.md"}
WITH_EXAMPLES = [page for page in pages() if page.name not in NOT_TYPED and blocks(page)]

# azure-data-tables reads error bodies so.
pytestmark = pytest.mark.filterwarnings("ignore:Testing an element's truth value:DeprecationWarning")


@pytest.fixture
def s3_endpoint(page: Path, request: pytest.FixtureRequest) -> str | None:
    """That of moto, for the page that serves a bucket of the reader's."""
    return request.getfixturevalue("moto").endpoint if "make run" in _s3_commands(page) else None


def _s3_commands(page: Path) -> str:
    return "".join(block.text for block in blocks(page) if "AWS_ACCESS_KEY_ID=" in block.text)


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=lambda page: page.name)
async def test_the_examples(page: Path, s3_endpoint: str | None, tmp_path: Path) -> None:
    given: dict[str, str] = {}
    if s3_endpoint is not None:
        found = re.search(r"AGENT_STORAGE_S3_BUCKET=(\S+) .*AWS_REGION=(\S+)", _s3_commands(page), re.DOTALL)
        assert found
        keys = {"access_key_id": ACCESS_KEY_ID, "secret_access_key": SECRET_ACCESS_KEY}
        place: dict[str, Any] = {"endpoint": s3_endpoint, "region": found[2], "create_bucket": True}
        async with S3StorageBackend(found[1], **place, **keys):
            pass
        given = {"AGENT_STORAGE_S3_ENDPOINT": s3_endpoint}
        given |= {f"AWS_{name.upper()}": value for name, value in keys.items()}
    async with reading(tmp_path, given) as reader:
        for block in blocks(page):
            await reader.read(block)
        assert reader.used == reader.files, "every file that is saved is used"


def test_the_pages_are_built_without_a_warning(tmp_path: Path) -> None:
    """`make docs`: links, anchors and the docstrings of the reference."""
    run = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path / "site"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert (tmp_path / "site" / "index.html").exists()


def test_the_links_of_the_readme() -> None:
    """They lead to pages that exist; those between pages are checked where the pages are built."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", (PROJECT / "README.md").read_text())
    assert len(links) >= 10
    assert [link for link in links if not (PROJECT / link).is_file()] == []


def test_every_page_is_named_by_the_readme() -> None:
    readme = (PROJECT / "README.md").read_text()
    assert [
        page.name for page in pages()[1:] if page.name != "index.md" and f"docs/{page.name}" not in readme
    ] == []


def text(name: str) -> str:
    return (PROJECT / "docs" / name).read_text()


def test_every_setting_is_described() -> None:
    described = set(re.findall(r"`(\w+)`", text("configuration.md")))
    assert sorted(SETTINGS - described) == []


def test_every_route_and_timer_is_described() -> None:
    bindings = json.loads((PROJECT / "tests/snapshots/bindings.json").read_text())
    triggers = {name: found[0] for name, found in bindings.items()}
    routes = {
        each["route"].translate(str.maketrans({"*": ""})) for each in triggers.values() if "route" in each
    }
    described = text("http.md").replace("{id}", "{task_id}")
    assert [route for route in sorted(routes) if f"/api/{route}" not in described] == []
    timers = {name for name, each in triggers.items() if each["type"] == "timerTrigger"}
    assert timers
    assert [name for name in sorted(timers) if f"`{name}`" not in text("operations.md")] == []


def test_every_code_of_an_error_is_described() -> None:
    codes: set[str] = set()
    for folder in ("storage_lib", "functions", "actions"):
        for path in (PROJECT / folder).rglob("*.py"):
            codes |= set(re.findall(r'^    code = "([a-z-]+)"$', path.read_text(), re.MULTILINE))
    assert len(codes) > 10
    pages = text("http.md") + text("tasks.md")
    assert [code for code in sorted(codes) if f"`{code}`" not in pages] == []


def test_every_proof_of_a_guarantee_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", text("guarantees.md")))
    assert len(named) > 30
    folders = (PROJECT / "tests", PROJECT / "storage_lib" / "testing")
    code = "".join(path.read_text() for folder in folders for path in folder.glob("*.py"))
    assert [name for name in sorted(named) if f"def {name}(" not in code] == []


def test_every_option_of_a_layer_is_described() -> None:
    modules = [
        importlib.import_module(f"storage_lib.config.{each.name}") for each in iter_modules(config.__path__)
    ]
    found = [each for module in modules for name, each in vars(module).items() if name.endswith("Options")]
    fields = {field for each in found for field in each.__struct_fields__}
    assert len(fields) > 30
    described = set(re.findall(r"`(?:\w+=)?(\w+)[`(]", text("layers.md")))
    assert sorted(fields - described) == []


def test_each_guarantee_has_a_proof() -> None:
    guarantees = re.split(r"\n(?=\d+\. |- \*\*|All layers)", text("guarantees.md"))[1:]
    assert len(guarantees) > 30
    assert [each[:80] for each in guarantees if not re.search(r"`tests?[_/]", each)] == []
