"""These tests run in the environment of their framework (tests/environments.py) and nowhere else."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

collect_ignore_glob = [] if "FRAMEWORK" in os.environ else ["test_*.py"]


@pytest.fixture(scope="session")
def azurite() -> object:
    """The Azurite of the tests that have started these."""
    connection_string = os.environ.get("SHARED_AZURITE")
    assert connection_string, "run_tests(…, azurite=…) shares the server of its own tests"
    return SimpleNamespace(connection_string=connection_string)
