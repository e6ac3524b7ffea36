"""The adapter of Strands Agents, in an environment of its own: they require an older MCP SDK."""

from __future__ import annotations

from tests.environments import run_tests
from tests.framework_table import assert_as_told


async def test_its_storage(azurite: object) -> None:
    assert_as_told("Strands Agents", await run_tests("strands", azurite=azurite))
