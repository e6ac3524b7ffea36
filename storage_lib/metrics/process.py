"""What the operating system knows about this process."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

from storage_lib.metrics.families import Family, Told

_PROC = Path("/proc/self")


def process_families() -> list[Family]:
    """Under the names that Prometheus' own clients use; outside Linux only processor time and Python."""
    told = Told()
    told.add(
        "process.cpu",
        time.process_time(),
        kind="counter",
        unit="s",
        description="Processor time of user and system",
    )
    told.add(
        "python.info",
        1,
        (("implementation", platform.python_implementation()), ("version", platform.python_version())),
        description="The Python that runs this",
    )
    if instance := os.environ.get("WEBSITE_INSTANCE_ID"):
        told.add(
            "agent_storage.instance.info",
            1,
            (("instance", instance),),
            description="Which instance of the function app this is",
        )
    if _PROC.exists():
        _add_linux(told)
    return list(told.families.values())


def _add_linux(told: Told) -> None:
    page, ticks = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
    # The name of the program, in parentheses, may have spaces.
    fields = (_PROC / "stat").read_text().rpartition(")")[2].split()
    booted = time.time() - float(Path("/proc/uptime").read_text().split()[0])
    for name, value, unit, description in (
        ("process.start_time", booted + int(fields[19]) / ticks, "s", "When this process began, since 1970"),
        ("process.virtual_memory", int(fields[20]), "By", "Virtual memory"),
        ("process.resident_memory", int(fields[21]) * page, "By", "Resident memory"),
        ("process.threads", int(fields[17]), "", "Threads"),
        ("process.open_fds", len(list((_PROC / "fd").iterdir())), "", "Open file descriptors"),
    ):
        told.add(name, value, unit=unit, description=description)
