"""Frameworks whose requirements conflict with those of the other tests."""

from __future__ import annotations

import pytest

from tests.environments import PINS, run_python

NAMES = sorted(path.stem for path in PINS.glob("*.txt"))

# Every requirement of what is pinned, and of what that requires, is met by what an import finds.
CHECK = """
import re, sys
from importlib.metadata import distribution
from packaging.requirements import Requirement

import storage_lib

wanted = [Requirement(line) for line in map(str.strip, open(sys.argv[1])) if line and line[0] != "#"]
assert wanted
seen = set()
while wanted:
    requirement = wanted.pop()
    found = distribution(requirement.name)
    assert requirement.specifier.contains(found.version, prereleases=True), (str(requirement), found.version)
    for text in found.requires or []:
        needed = Requirement(text)
        extras = requirement.extras or {""}
        if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
            if text not in seen:
                seen.add(text)
                wanted.append(needed)
"""


@pytest.mark.parametrize("name", NAMES)
async def test_an_environment_has_what_its_framework_requires(name: str) -> None:
    await run_python(name, "-c", CHECK, str(PINS / f"{name}.txt"))


async def test_a_failure_is_told_with_its_output() -> None:
    with pytest.raises(AssertionError, match="this went wrong"):
        await run_python(NAMES[0], "-c", "raise SystemExit('this went wrong')")


async def test_what_takes_too_long_is_ended() -> None:
    with pytest.raises(TimeoutError):
        await run_python(NAMES[0], "-c", "import time; time.sleep(60)", timeout=0.5)
