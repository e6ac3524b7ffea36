"""Schemathesis against the running local host, from the document that it serves: every check, with links."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import PROJECT
from tests.local_host import Running, served
from tests.schemathesis_tool import run

SOAK = os.environ.get("SOAK") == "1"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The local host as a newcomer starts it, with metrics on: where they are off, they are a 501."""
    folder = tmp_path_factory.mktemp("described")
    with served(PROJECT, folder, settings={"AGENT_STORAGE_METRICS": "true"}) as found:
        yield found


@pytest.mark.timeout(3600 if SOAK else 900)
def test_nothing_is_answered_but_what_the_document_says(host: Running, tmp_path: Path) -> None:
    """No 5xx, no status, media type, header or schema that is not described, no request refused that the
    document allows, none accepted that it does not."""
    count = "60" if SOAK else "8"
    phases = "examples,coverage,fuzzing,stateful" if SOAK else "examples,fuzzing,stateful"
    found = run(
        f"http://127.0.0.1:{host.port}/api/openapi.json",
        tmp_path,
        f"--max-examples={count}",
        f"--phases={phases}",
        *(() if SOAK else ("--seed=1",)),
    )
    assert found.returncode == 0, found.stdout[-20_000:] + found.stderr[-2_000:]
    generated = int(re.findall(r"(\d+) generated", found.stdout)[0])
    assert generated >= (5_000 if SOAK else 300)
    selected, tested = re.findall(r"Selected: (\d+)/\d+\s+Tested: (\d+)", found.stdout)[0]
    assert selected == tested


def test_a_fault_would_be_found(host: Running, tmp_path: Path) -> None:
    """The rules of tests/schemathesis_hooks.py do not let it pass."""
    response, body = host.ask("GET", "/api/openapi.json")
    assert response.status == 200
    wrong = tmp_path / "openapi.json"
    document = json.loads(body)
    document["components"]["schemas"]["SavedObject"]["required"].append("nothing")
    wrong.write_text(json.dumps(document))
    found = run(
        str(wrong),
        tmp_path,
        f"--url=http://127.0.0.1:{host.port}/api",
        "--max-examples=2",
        "--phases=examples",
        "--include-operation-id=save_object",
    )
    assert found.returncode == 1, found.stdout[-5_000:]
    assert '"nothing" is a required property' in found.stdout
