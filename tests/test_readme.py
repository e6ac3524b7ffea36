"""The package and the commands of the project."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.conftest import PROJECT


def test_the_package_needs_what_is_deployed() -> None:
    """Of each requirement of storage_lib the version that requirements.txt pins, or a newer one."""
    lines = (PROJECT / "requirements.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    for name in ("azure-functions", "charset-normalizer", "duckdb", "markdown-it-py"):
        del pinned[name]  # the app's and its actions', which storage_lib does not import
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = [
        *project["dependencies"],
        *(line for name in extras if name not in ("s3", "cli") for line in extras[name]),
    ]
    ranges = {each.name: each.specifier for each in map(Requirement, declared)}
    assert ranges.keys() == pinned.keys()
    for name, version in pinned.items():
        assert version in ranges[name], name
        assert f">={version}" in map(str, ranges[name]), name


@pytest.mark.timeout(300)
def test_the_package_is_storage_lib_alone(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--wheel-dir", tmp_path, PROJECT], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    files = {str(path.relative_to(PROJECT)) for path in (PROJECT / "storage_lib").rglob("*.py")}
    assert {name for name in names if ".dist-info/" not in name} == files | {"storage_lib/py.typed"}


def test_lint_reaches_every_file_of_the_project() -> None:
    """The Makefile names folders, so that files of a user's own are left alone."""
    sources = re.search(r"^SOURCES := (.*)$", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    assert sources
    tracked = subprocess.run(
        ["git", "ls-files", "*.py", "*.md"], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    if tracked.returncode == 0:
        assert {path.partition("/")[0] for path in tracked.stdout.split()} <= set(sources[1].split())
