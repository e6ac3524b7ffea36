"""FastMCP on the adapter of py-key-value, in an environment of its own (tests/environments.py)."""

from __future__ import annotations

from tests.environments import run_tests
from tests.framework_table import assert_as_told


async def test_fastmcp(azurite: object) -> None:
    assert_as_told("FastMCP", await run_tests("fastmcp", azurite=azurite))
