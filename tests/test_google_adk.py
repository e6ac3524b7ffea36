"""The adapter of Google ADK, in an environment of its own: it requires an older OpenTelemetry."""

from __future__ import annotations

from tests.environments import run_tests
from tests.framework_table import assert_as_told


async def test_its_sessions_and_artifacts(azurite: object) -> None:
    assert_as_told("Google ADK", await run_tests("google_adk", azurite=azurite))
