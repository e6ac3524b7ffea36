"""`python -m deployment.package`: one archive that Azure Functions runs as it is.

It has the code in this folder (see `deployment.ignored`), the wheels of requirements.lock where the
platform's worker looks for them, and the byte code of both. Byte code that is checked against its source's
time would be compiled anew at every cold start, since times do not survive an upload; so it is marked as not
to be checked (PEP 552). The bytes of the archive depend on the sources and the lock alone.

`dist/app` has the same files, for `azd`, which packs a folder by itself.
"""

from __future__ import annotations

import compileall
import importlib.util
import py_compile
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

from deployment.ignored import deployed
from deployment.lock import PYTHON, TARGET, check_lock, pip, write_lock

PROJECT = Path(__file__).resolve().parent.parent
SITE = Path(".python_packages", "lib", "site-packages")
"""Where the worker of Azure Functions looks for what an app depends on."""

ROOT = "/home/site/wwwroot"
"""Where the platform lays an app out."""

UNUSED = ("*.c", "*.h", "*.pxd", "*.pyx", "RECORD", "REQUESTED", "direct_url.json", "INSTALLER")
"""Of wheels: what only compilers and pip read. Stubs stay, for packages that load lazily read their own."""

EPOCH = (1980, 1, 1, 0, 0, 0)


def build(project: Path, folder: Path, archive: Path) -> None:
    """Lay the app out in ``folder``, which is made anew, and pack it into ``archive``.

    :raises SystemExit: it cannot be built here; the text says what to do.
    """
    check_python("byte code is compiled for")
    requirements, lock = project / "requirements.txt", project / "requirements.lock"
    check_lock(requirements, lock)
    archive.unlink(missing_ok=True)  # what is there after a failure is not of this state
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    files, strangers = deployed(project)
    for path in files:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(project / path, folder / path)
    if strangers:
        print(
            "not packed, because it is neither a module nor a folder with __init__.py:"
            f" {', '.join(strangers)}. To pack one, write !/ and its name into .funcignore"
        )
    install(lock, folder / SITE)
    compile_all(folder)
    pack(folder, archive)
    # Where this file is not, `azd` leaves out byte code. It does not pack the file itself.
    (folder / ".funcignore").write_text("", encoding="utf-8")


def check_python(purpose: str) -> None:
    """:raises SystemExit: this is not the Python of the platform."""
    if f"{sys.version_info.major}.{sys.version_info.minor}" != PYTHON or sys.implementation.name != "cpython":
        raise SystemExit(
            f"{purpose} CPython {PYTHON}, and this is {sys.implementation.name} {sys.version.split()[0]}"
            f" ({sys.executable}). Where .venv was made with it, `make clean` first; then name the right one:"
            f" `make PYTHON=/path/to/python{PYTHON} …`"
        )


def install(lock: Path, site: Path) -> None:
    """The wheels of ``lock``, without what nothing reads at run time."""
    pip(
        "install",
        "--quiet",
        "--no-compile",
        "--no-deps",
        "--require-hashes",
        *TARGET,
        "--target",
        site,
        "-r",
        lock,
    )
    for folder in [site / "bin", *site.glob("*/tests")]:
        shutil.rmtree(folder, ignore_errors=True)
    for pattern in UNUSED:
        for path in list(site.rglob(pattern)):
            path.unlink()


def compile_all(folder: Path) -> None:
    """Byte code for all sources in ``folder``, valid whatever their times become.

    :raises SystemExit: a source of the app's cannot be compiled.
    """
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    for part, wheels in ((folder / SITE, True), (folder, False)):
        good = compileall.compile_dir(
            part,
            maxlevels=64,
            quiet=2 if wheels else 1,
            rx=None if wheels else _Below(folder / SITE.parts[0]),
            force=True,
            workers=0,
            invalidation_mode=unchecked,
            stripdir=str(folder),
            prependdir=ROOT,
        )
        # Wheels may bring sources of other versions, or templates of sources; nothing imports those.
        if not good and not wheels:
            raise SystemExit("a source cannot be compiled, see above")


class _Below:
    """For compileall, which asks a pattern what to pass over: all below ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def search(self, path: str) -> bool:
        return Path(path).is_relative_to(self._folder)


def pack(folder: Path, archive: Path) -> None:
    """All files of ``folder``, in order and without what differs from one machine to the next."""
    part = archive.with_suffix(".part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as packed:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), EPOCH)
            entry.external_attr = 0o100644 << 16
            entry.create_system = 3
            packed.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED, 6)
    part.replace(archive)


def main(arguments: list[str]) -> None:
    if importlib.util.find_spec("pip") is None:
        raise SystemExit(f"{sys.executable} has no pip: `make package` makes an environment that has it")
    if arguments == ["--lock"]:
        # pip takes the platform's wheels, but reads conditions (`; python_version < "3.14"`) for this Python.
        check_python("requirements are resolved for")
        with tempfile.TemporaryDirectory() as scratch:
            write_lock(PROJECT / "requirements.txt", PROJECT / "requirements.lock", Path(scratch))
        return
    archive = PROJECT / "dist" / "app.zip"
    build(PROJECT, PROJECT / "dist" / "app", archive)
    count = len(zipfile.ZipFile(archive).namelist())
    print(f"{archive.relative_to(PROJECT)}: {archive.stat().st_size / 1e6:.1f} MB, {count} files")


if __name__ == "__main__":
    main(sys.argv[1:])
