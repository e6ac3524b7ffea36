"""Servers that the tests need, started once by the tests themselves and stopped by pid."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

# Registered once in each process, before any test that takes back what it has registered itself.
import actions  # noqa: F401

# A run that decides about a change must not depend on chance; every other run looks for new examples.
settings.register_profile("decides", derandomize=True, print_blob=True)
if os.environ.get("CI"):
    settings.load_profile("decides")

if TYPE_CHECKING:
    from tests.http_app import PlatformApp

PROJECT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
async def azurite(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[object]:
    """One Azurite for the whole run; `connection_string` tells where it listens."""
    from devhost.azurite import Azurite, ensure_installed

    ensure_installed(PROJECT)
    async with Azurite(tmp_path_factory.mktemp("azurite")) as server:
        yield server


@pytest.fixture(scope="session")
async def moto(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[object]:
    """One moto for the whole run, an S3 in memory; `endpoint` tells where it listens."""
    from tests.s3_servers import Moto

    async with Moto(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture(scope="session")
async def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[object]:
    """One SeaweedFS for the whole run, an S3 that checks signatures and writes to disk."""
    from tests.s3_servers import SeaweedFS

    async with SeaweedFS(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture
async def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PlatformApp]:
    """The app on files, behind the model of the platform's host."""
    from tests.http_app import config_of, serve

    async with serve(monkeypatch, await config_of("file", None, tmp_path)) as app:
        yield app


@pytest.fixture(params=["file", "moto", "azurite"])
def any_store(request: pytest.FixtureRequest) -> tuple[str, object]:
    """A kind of backend that keeps something, and its server if it has one."""
    return request.param, None if request.param == "file" else request.getfixturevalue(request.param)


@pytest.fixture(params=["memory", "file", "azure"])
def task_store(request: pytest.FixtureRequest) -> tuple[str, object]:
    """A kind of store, and its server if it has one."""
    return request.param, request.getfixturevalue("azurite") if request.param == "azure" else None


@pytest.fixture
async def platform_anywhere(
    any_store: tuple[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[PlatformApp]:
    """The app on each backend that keeps something."""
    from tests.http_app import config_of, serve

    async with serve(monkeypatch, await config_of(*any_store, tmp_path)) as app:
        yield app


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """What a test logged is made text that the process which collects the reports can read: tests are run by
    several processes, and some log what no encoding has."""
    report = yield
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections
    ]
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Show what tests have measured (``record_property("measured", text)``): what they print is shown of
    those that fail alone."""
    for report in terminalreporter.getreports("passed"):
        for name, text in report.user_properties:
            if name == "measured":
                terminalreporter.write_line(f"{report.nodeid}: {text}")
