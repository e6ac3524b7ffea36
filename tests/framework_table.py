"""The table of docs/integrations.md: what was run of each framework, with which version."""

from __future__ import annotations

import re
from typing import NamedTuple

from packaging.requirements import Requirement

from tests.conftest import PROJECT


class Row(NamedTuple):
    framework: str
    versions: dict[str, str]
    """By the name of the package."""
    suite: int
    """Tests of the framework's own suite on one store; 0 if it has none."""
    ours: int


def table() -> dict[str, Row]:
    """The rows by the name of their framework."""
    text = (PROJECT / "docs" / "integrations.md").read_text()
    lines = text.partition("| framework |")[2].partition("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {
        framework: Row(
            framework,
            {name.lower(): version for name, version in re.findall(r"([A-Za-z][\w-]*) (\d[\w.]*)", versions)},
            0 if suite == "none" else int(suite),
            int(ours),
        )
        for framework, versions, suite, ours, *_ in rows
    }


def pinned_versions() -> dict[str, str]:
    """Of the frameworks: those that the tests run with, some of them in environments of their own."""
    files = [PROJECT / "requirements-dev.txt", *(PROJECT / "tests" / "frameworks").glob("*.txt")]
    lines = [line for path in files for line in path.read_text().splitlines()]
    pins = [Requirement(line) for line in lines if line and not line.startswith(("#", "-r"))]
    return {pin.name: str(pin.specifier).removeprefix("==") for pin in pins}


def assert_as_told(framework: str, counted: str) -> None:
    """``counted`` is pytest's last line of a run in the framework's own environment."""
    assert re.match(rf"{table()[framework].ours} passed\b", counted), f"{framework}: {counted}"
