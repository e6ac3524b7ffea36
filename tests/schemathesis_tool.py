"""Schemathesis, in an environment of its own: its plugin of pytest would else run with every test."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.conftest import PROJECT
from tests.environments import environment


def schemathesis() -> Path:
    """The command; installed when its pins change."""
    return environment("schemathesis").with_name("schemathesis")


def run(url: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """What it finds in the app that is described at ``url``, by schemathesis.toml."""
    command = [
        str(schemathesis()),
        "--config-file",
        str(PROJECT / "schemathesis.toml"),
        "run",
        url,
        "--no-color",
        "--continue-on-failure",
        "--generation-database=none",
        *options,
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        command,
        cwd=PROJECT,
        env=environment | {"NO_PROXY": "127.0.0.1", "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
