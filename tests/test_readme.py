"""The package and the commands of the project."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from pkgutil import iter_modules

from packaging.requirements import Requirement

from tests.conftest import PROJECT
from tests.downloads import fetched
from tests.framework_table import pinned_versions


def test_the_package_needs_what_is_deployed() -> None:
    """Of each requirement of storage_lib the version that requirements.txt pins, or a newer one."""
    lines = (PROJECT / "requirements.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    for name in ("azure-functions", "charset-normalizer", "duckdb", "markdown-it-py", "mcp"):
        del pinned[name]  # the app's and its actions', which storage_lib does not import
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    others = {"s3", "cli", *extras_of_frameworks()}
    declared = [
        *project["dependencies"],
        *(line for name in extras if name not in others for line in extras[name]),
    ]
    ranges = {each.name: each.specifier for each in map(Requirement, declared)}
    assert ranges.keys() == pinned.keys()
    for name, version in pinned.items():
        assert version in ranges[name], name
        assert f">={version}" in map(str, ranges[name]), name


def extras_of_frameworks() -> set[str]:
    modules = [each.name for each in iter_modules([str(PROJECT / "integrations")])]
    return {name.replace("_", "-") for name in modules}


def test_each_adapter_has_an_extra_with_the_versions_that_it_was_tested_with() -> None:
    extras = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    pinned = pinned_versions()
    for extra in extras_of_frameworks():
        assert extras.get(extra), f"the adapter of {extra} has no extra"
        for each in map(Requirement, extras[extra]):
            assert pinned[each.name] in each.specifier, f"{each}: {pinned[each.name]} is tested"
            assert any(bound.operator in ("<", "<=", "==", "~=") for bound in each.specifier), (
                f"{each}: no end"
            )


def test_the_package_is_the_library_and_its_adapters(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps"]
    fetched(*pip, "--wheel-dir", tmp_path, PROJECT)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    files = {
        str(path.relative_to(PROJECT))
        for folder in ("storage_lib", "integrations")
        for path in (PROJECT / folder).rglob("*.py")
    }
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
