"""Hugging Face datasets on the adapter of fsspec, in an environment of its own (tests/environments.py)."""

from __future__ import annotations

from tests.environments import run_tests
from tests.framework_table import assert_as_told


async def test_datasets(azurite: object) -> None:
    assert_as_told("Hugging Face datasets", await run_tests("datasets", azurite=azurite))
