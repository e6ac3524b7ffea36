"""`requirements.lock`: each wheel that is deployed, by its hash; made from requirements.txt by `make lock`.

It names the wheels for the platform's Python and system alone, so that every machine packs the same bytes.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

PYTHON = "3.13"
"""As `functionAppConfig.runtime` of infra/modules/function-app.bicep says."""

GLIBC = ("manylinux_2_28", "manylinux_2_17", "manylinux2014", "manylinux_2_12", "manylinux_2_5", "manylinux1")
"""What wheels may ask of the system's C library: no newer one than the platform's image has."""

TARGET = (
    *("--only-binary=:all:", "--implementation=cp", f"--python-version={PYTHON}"),
    *(f"--abi={abi}" for abi in ("cp313", "abi3", "none")),
    *(f"--platform={glibc}_x86_64" for glibc in GLIBC),
)
"""Arguments of pip that stand for the platform."""

HEAD = """\
# Made from requirements.txt by `make lock`: the wheels that are deployed, for CPython {python} on Linux.
"""


WITH = "# With "
"""Before an extra that was asked for, whose wheels do not say by their names that they are for it."""


def pip(*arguments: str | Path) -> None:
    """:raises SystemExit: pip failed, and has said why."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    if subprocess.run(command, check=False).returncode:  # noqa: S603
        raise SystemExit(f"pip {arguments[0]} failed, see above")


def write_lock(requirements: Path, lock: Path, scratch: Path) -> None:
    """Resolve ``requirements`` for the platform and note what comes of it."""
    report = scratch / "report.json"
    target = ("--target", scratch / "none", *TARGET)
    pip(
        "install",
        "--quiet",
        "--dry-run",
        "--ignore-installed",
        "--report",
        report,
        *target,
        "-r",
        requirements,
    )
    found: list[dict[str, Any]] = json.loads(report.read_text(encoding="utf-8"))["install"]
    lines = sorted(
        f"{normal(wheel['metadata']['name'])}=={wheel['metadata']['version']} \\\n"
        f"    --hash=sha256:{wheel['download_info']['archive_info']['hashes']['sha256']}\n"
        for wheel in found
    )
    asked = "".join(f"{WITH}{name}\n" for name in extras(requirements.read_text(encoding="utf-8")))
    lock.write_text(HEAD.format(python=PYTHON) + asked + "".join(lines), encoding="utf-8", newline="\n")


def normal(name: str) -> str:
    """A distribution's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(text: str) -> dict[str, str]:
    """The versions of a file of requirements, by normal name; of what has none, the line."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        stated = re.sub(r"(^|\s)#.*|;.*|\\$|\s--hash=.*", "", line).strip()
        if match := re.match(r"([A-Za-z0-9][\w.-]*)\s*(?:\[[^\]]*\])?\s*(.*)", stated):
            found[normal(match[1])] = match[2].removeprefix("==").strip()
        elif stated and not stated.startswith("--hash="):
            found[stated] = ""
    return found


def extras(text: str) -> list[str]:
    """The requirements of a file that ask for extras, without versions: `pydantic[email]`."""
    found = re.findall(r"^([A-Za-z0-9][\w.-]*)\s*\[([^\]]*)\]", text, re.MULTILINE)
    return sorted(
        f"{normal(name)}[{','.join(sorted(normal(each.strip()) for each in names.split(',')))}]"
        for name, names in found
    )


def check_lock(requirements: Path, lock: Path) -> None:
    """:raises SystemExit: ``lock`` has not what ``requirements`` asks for."""
    text = lock.read_text(encoding="utf-8") if lock.exists() else ""
    locked, lines = pins(text), text.splitlines()
    asked = requirements.read_text(encoding="utf-8")
    missing = sorted(name for name, version in pins(asked).items() if locked.get(name) != version)
    missing += [name for name in extras(asked) if f"{WITH}{name}" not in lines]
    if missing:
        raise SystemExit(
            f"{lock.name} does not have what {requirements.name} asks for ({', '.join(missing)}):"
            f" run `make lock`, which resolves it anew; each has to be pinned with `==`"
        )
