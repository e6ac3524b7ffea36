"""Hugging Face datasets on the adapter of fsspec, in an environment of its own (tests/environments.py)."""

from __future__ import annotations

import re

from tests.environments import run_tests


async def test_datasets(azurite: object) -> None:
    counted = await run_tests("datasets", azurite=azurite)
    assert re.match(r"6 passed", counted), counted
