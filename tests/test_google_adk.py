"""The adapter of Google ADK, in an environment of its own: it requires an older OpenTelemetry."""

from __future__ import annotations

from collections.abc import Callable

from tests.environments import run_tests


async def test_its_sessions_and_artifacts(
    azurite: object, record_property: Callable[[str, str], None]
) -> None:
    record_property("measured", await run_tests("google_adk", azurite=azurite))
