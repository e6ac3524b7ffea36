"""Servers that the tests need, started once by the tests themselves and stopped by pid."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

# Registered once in each process, before any test that takes back what it has registered itself.
import actions  # noqa: F401

# A run that decides about a change must not depend on chance, nor on how fast the machine is: it has the same
# examples each time. A soak looks for new ones.
settings.register_profile(
    "decides",
    derandomize=os.environ.get("SOAK") != "1",
    print_blob=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("decides")

if TYPE_CHECKING:
    from tests.http_app import PlatformApp

PROJECT = Path(__file__).resolve().parent.parent

# A shell that starts the tests in the background has them ignore it, and what they start ignores it as well:
# tests that interrupt a program would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _available_memory() -> int:
    """In bytes, as Linux tells it."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))


# What is tested waits for the disk with every write. A folder in memory, where there is one with room, is as
# good for what a killed process leaves, and takes a tenth of the time.
IN_MEMORY = Path("/dev/shm")  # noqa: S108
if IN_MEMORY.is_dir() and min(shutil.disk_usage(IN_MEMORY).free, _available_memory()) > 8 << 30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(IN_MEMORY))
    tempfile.tempdir = str(IN_MEMORY)

SHARED: list[str] = []
"""How the Azurite of this process is reached, once there is one."""

# The longest, which are begun first: no process has to wait for one that another began last. Those that wait
# for other processes stand beside those that work. The first installs Azurite, which others do not wait for.
LONGEST = [
    "end_to_end",
    "infra",
    "task_stops",
    "fallback_contract",
    "azure_backend",
    "clients",
    "s3_backend",
    "migration_tables_kills",
    "task_cuts",
    "documentation",
    "migration_kills",
    "http_fuzz",
    "several_hosts",
    "task_kills",
    "task_leases",
    "layers_files",
    "task_takeover",
    "task_costs",
    "state_machine",
    "schemathesis",
    "strands",
    "zarr",
    "temporal",
    "task_chaos",
    "task_states",
    "task_foreign",
    "workflows",
    "versions",
]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """Tests are many objects, and all are kept: none of them is looked at when garbage is collected."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {f"test_{name}.py": n for n, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture(scope="session")
async def azurite(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[object]:
    """One Azurite for the whole run; `connection_string` tells where it listens."""
    from devhost.azurite import Azurite, ensure_installed
    from devhost.errors import DevhostError
    from tests.downloads import tried

    tried(lambda: ensure_installed(PROJECT), DevhostError)
    async with Azurite(tmp_path_factory.mktemp("azurite")) as server:
        SHARED.append(server.connection_string)
        yield server
        SHARED.clear()


@pytest.fixture(scope="module", autouse=True)
def _nothing_of_other_files() -> None:
    """Each test has a container of its own, and many have the queues and tables of the app: what another file
    has left in them is removed. Which files a process has run before is chance."""
    for connection_string in SHARED:
        from azure.data.tables import TableServiceClient
        from azure.storage.queue import QueueServiceClient

        with QueueServiceClient.from_connection_string(connection_string) as queues:
            for queue in list(queues.list_queues()):
                queues.delete_queue(queue)
        with TableServiceClient.from_connection_string(connection_string) as tables:
            for table in list(tables.list_tables()):
                tables.delete_table(table.name)


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


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> tuple[str, object]:
    """The kind of store that a test names (``indirect=["kind"]``), and its server if it has one."""
    name: str = request.param
    return name, None if name in ("file", "memory") else request.getfixturevalue(name)


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
