"""Clients that the tests install by themselves, below ``.clients``: a browser, and a generator of clients."""

from __future__ import annotations

import atexit
import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from devhost.node import INSTALL, INSTALL_SECONDS, ensure_node, locked
from tests.conftest import PROJECT
from tests.downloads import fetched

HOME = PROJECT / ".clients"
CHROMIUM, PLAYWRIGHT, GENERATOR, AXE = "153.0.0", "1.65.0", "0.29.1", "4.14.1"
_BROWSER = Path(__file__).with_name("browser.mjs")


def _installed(name: str, install: Callable[[Path], None]) -> Path:
    """A folder that is made whole once, by one process, while others wait for it."""
    home = HOME / name
    if not home.is_dir():
        HOME.mkdir(exist_ok=True)
        with locked(HOME / "install.lock", 3 * INSTALL_SECONDS, "another installation of clients"):
            if not home.is_dir():
                partial = Path(tempfile.mkdtemp(prefix="partial-", dir=HOME))
                try:
                    install(partial)
                    partial.rename(home)
                finally:
                    shutil.rmtree(partial, ignore_errors=True)
    return home


def _run(*command: str, cwd: Path | None = None, **variables: str) -> str:
    env = {**os.environ, **variables}
    done = subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@functools.cache
def generated_client(document: bytes) -> Path:
    """The folder to import ``agent_storage`` from, a client that openapi-python-client has made."""
    folder = Path(tempfile.mkdtemp(prefix="generated-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)

    def install(partial: Path) -> None:
        # Beside the tests' own packages: the two need different versions of some.
        pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target")
        fetched(*pip, str(partial), f"openapi-python-client=={GENERATOR}")

    tools = _installed(f"openapi-python-client-{GENERATOR}", install)
    (folder / "openapi.json").write_bytes(document)
    (folder / "config.yaml").write_text("post_hooks: []\n")
    generate = ("-m", "openapi_python_client", "generate", "--path", str(folder / "openapi.json"))
    options = ("--meta", "none", "--config", str(folder / "config.yaml"))
    _run(
        sys.executable,
        *generate,
        *options,
        "--output-path",
        str(folder / "agent_storage"),
        PYTHONPATH=str(tools),
    )
    return folder


def run_generated(folder: Path, program: str, *arguments: str) -> Any:
    """What a program that uses the generated client prints as JSON."""
    path = os.pathsep.join((str(folder), str(HOME / f"openapi-python-client-{GENERATOR}")))
    return json.loads(_run(sys.executable, "-c", program, *arguments, PYTHONPATH=path))


def chromium() -> Path:
    """The folder of Chromium and of what drives it; ``chromium`` in it is the program."""

    def install(partial: Path) -> None:
        packages = f"@sparticuz/chromium@{CHROMIUM}", f"playwright-core@{PLAYWRIGHT}"
        fetched(ensure_node().npm, *INSTALL, "--prefix", str(partial), *packages)
        # It unpacks itself into the temporary folder, which takes seconds: once, beside the package.
        unpack = "import('@sparticuz/chromium').then((packed) => packed.default.executablePath())"
        _run(ensure_node().node, "-e", unpack, cwd=partial, TMPDIR=str(partial), NODE_OPTIONS="")

    return _installed(f"chromium-{CHROMIUM}-playwright-{PLAYWRIGHT}", install)


def axe() -> Path:
    """The script by which a page is checked for what keeps people out."""

    def install(partial: Path) -> None:
        fetched(ensure_node().npm, *INSTALL, "--prefix", str(partial), f"axe-core@{AXE}")

    return _installed(f"axe-{AXE}", install) / "node_modules" / "axe-core" / "axe.min.js"


def console_build(folder: Path) -> Path:
    """The console as its source gives it, made in ``folder`` with the versions that its lock file names."""
    source = PROJECT / "console"
    lock = hashlib.sha256((source / "package-lock.json").read_bytes()).hexdigest()[:12]

    def install(partial: Path) -> None:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(source / name, partial)
        npm = (ensure_node().npm, "ci", "--no-audit", "--no-fund", "--prefix", str(partial))
        fetched(*npm, "--fetch-timeout=20000", "--fetch-retries=5")

    packages = _installed(f"console-{lock}", install) / "node_modules"
    work = folder / "source"
    shutil.copytree(source, work, ignore=shutil.ignore_patterns("node_modules"))
    (work / "node_modules").symlink_to(packages)
    node = ensure_node().node
    _run(node, str(packages / "typescript" / "bin" / "tsc"), "--noEmit", cwd=work)
    _run(node, "build.mjs", str(folder / "built"), cwd=work)
    return folder / "built"


class Browser:
    """Headless Chromium. `run` opens a page and evaluates a function of JavaScript in it."""

    def __init__(self, folder: Path) -> None:
        """:param folder: for what it writes."""
        self._process = subprocess.Popen(
            [ensure_node().node, str(_BROWSER), str(chromium())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(folder), "NODE_OPTIONS": ""},
        )

    def run(self, page: str, function: str, argument: Any = None) -> Any:
        """:raises AssertionError: the function has thrown, as for a fetch that the browser does not allow."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        said = {"page": page, "function": function, "argument": argument}
        self._process.stdin.write(json.dumps(said) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert "error" not in answer, answer["error"]
        return answer.get("value")

    def close(self) -> None:
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(120)
            except subprocess.TimeoutExpired:
                self._process.kill()


MCP = "1.32.2"


@functools.cache
def _mcp_home() -> Path:
    def install(partial: Path) -> None:
        fetched(ensure_node().npm, *INSTALL, "--prefix", str(partial), f"@modelcontextprotocol/sdk@{MCP}")

    return _installed(f"mcp-{MCP}", install)


def ask_by_typescript(url: str, command: str, asked: dict[str, Any] | None = None) -> dict[str, Any]:
    """What the Model Context Protocol's SDK for TypeScript makes of a server (mcp_client.mjs): ``ok`` or
    ``error``."""
    # Node looks for packages from where a program is.
    program = _mcp_home() / f"{os.getpid()}.mjs"
    shutil.copyfile(Path(__file__).with_name("mcp_client.mjs"), program)
    said = (url, command, json.dumps(asked or {}))
    return json.loads(_run(ensure_node().node, str(program), *said, NODE_OPTIONS=""))
