"""FastMCP on the adapter of py-key-value, in an environment of its own (tests/environments.py)."""

from __future__ import annotations

import re

from tests.environments import run_tests


async def test_fastmcp(azurite: object) -> None:
    counted = await run_tests("fastmcp", azurite=azurite)
    assert re.match(r"6 passed", counted), counted
