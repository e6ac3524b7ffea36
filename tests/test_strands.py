"""The adapter of Strands Agents, in an environment of its own: they require an older MCP SDK."""

from __future__ import annotations

from collections.abc import Callable

from tests.environments import run_tests


async def test_its_storage(azurite: object, record_property: Callable[[str, str], None]) -> None:
    record_property("measured", await run_tests("strands", azurite=azurite))
