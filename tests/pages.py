"""A reader of README.md and docs/ who types everything that stands there, and compares what comes back."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from storage_lib import StorageConfig, StorageManager
from tests.conftest import PROJECT
from tests.environments import PINS, environment
from tests.test_end_to_end import Devhost, devhost

SHOWN_URL = "http://127.0.0.1:7071"
COMMAND_SECONDS = 300
SEEN_SECONDS = 180
"""How long a GET is repeated until it shows what the page shows."""

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE_NAME = re.compile(r"[Ss]ave this as\s+`([\w./]+)`")
_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_ETAG = r"(?<![0-9a-f-])[0-9a-f]{32}(?![0-9a-f-])"
_TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z"
_VARYING = re.compile(f"(?P<uuid>{_UUID})|(?P<etag>{_ETAG})|(?P<time>{_TIME})|(?P<rest> ?… ?)")
_PROBLEM = "urn:agent-storage:problem:"


@dataclass(frozen=True)
class Block:
    """A block of code: its language, its text, and the file that the sentence before names for it."""

    line: int
    language: str
    text: str
    file_name: str | None


@dataclass(frozen=True)
class Command:
    """A command and the output that the page shows after it."""

    text: str
    output: str


def pages() -> list[Path]:
    return [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    found: list[Block] = []
    for match in _BLOCK.finditer(text):
        before = text[: match.start()].rstrip().rpartition("\n\n")[2]
        named = _FILE_NAME.search(before)
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(line, match[1], match[2], named[1] if named else None))
    return found


def commands(block: Block) -> list[Command]:
    """Those of a console block, after ``$``, or those of a shell block, which shows no output."""
    found: list[Command] = []
    lines = block.text.splitlines()
    while lines:
        line = lines.pop(0)
        if block.language == "console":
            assert line.startswith("$ "), f"line {block.line}: no command: {line}"
            line = line[2:]
        while line.endswith("\\") or not _is_whole(line):
            line += "\n" + lines.pop(0)
        output: list[str] = []
        while block.language == "console" and lines and not lines[0].startswith("$ "):
            output.append(lines.pop(0))
        if line.strip():
            found.append(Command(line, "\n".join(output).strip()))
    return found


def _is_whole(line: str) -> bool:
    try:
        shlex.split(line, comments=True)
    except ValueError:
        return False
    return True


class Reader:
    """Goes through one page, in a folder of its own, with the host that the page starts.

    Ids and ETags of the page stand for those of the run: the first output that shows one binds it. Times
    are any times, and ``…`` is anything.

    :param given: settings that take the place of those in the page's ``make run``.
    """

    def __init__(self, folder: Path, given: Mapping[str, str]) -> None:
        self.folder = folder
        self.given = given
        self.exported: dict[str, str] = {}
        self.host: Devhost | None = None
        self.namespace = ModuleType(f"page_{folder.name}")
        self.storage: StorageManager | None = None
        self.files: set[str] = set()
        self.used: set[str] = set()
        self._known: dict[str, str] = {}
        self._hosts = AsyncExitStack()
        (folder / "samples").symlink_to(PROJECT / "samples")

    async def close(self) -> None:
        sys.modules.pop(self.namespace.__name__, None)
        if self.storage is not None:
            await self.storage.close()
        await self._hosts.aclose()

    async def read(self, block: Block) -> None:
        match block.language:
            case "python" if block.file_name is not None:
                (self.folder / block.file_name).write_text(block.text)
                self.files.add(Path(block.file_name).stem)
            case "python" if "asyncio.run(" in block.text:
                (self.folder / "shown.py").write_text(block.text)
                await self._type(Command(f"{await _python_of(block)} shown.py", ""))
            case "python":
                await self._continue(block)
            case "console" | "sh":
                for command in commands(block):
                    self.used |= {name for name in self.files if name in command.text}
                    await self._type(command)
            case "json":
                json.loads(block.text)
            case other:
                raise AssertionError(f"nobody runs a block of {other or 'no language'}")

    async def _continue(self, block: Block) -> None:
        """A piece of Python that goes on inside of ``async with StorageManager() as storage``."""
        if self.storage is None:
            self.storage = StorageManager(StorageConfig(base_path=self.folder / "data"))
            self.namespace.__dict__["storage"] = self.storage
            sys.modules[self.namespace.__name__] = self.namespace
        import ast

        code = compile(
            block.text, f"line {block.line}", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True
        )
        running: Any = eval(code, self.namespace.__dict__)  # noqa: S307 - the project's own page
        if running is not None:
            await running

    async def _type(self, command: Command) -> None:
        words = shlex.split(command.text.replace("\\\n", " "), comments=True)
        if "make" in words:
            await self._make(words)
        elif words[0] == "export":
            assert self.host is not None
            assert self.host.connection_string, "only Azurite has one"
            self.exported = {"AGENT_STORAGE_TYPE": "azure", "AgentStorage": self.host.connection_string}
        else:
            await self._run(command)

    async def _make(self, words: list[str]) -> None:
        """``make run`` serves the app, as `devhost`; of other targets only their recipe is looked at."""
        at = words.index("make")
        if words[at + 1] != "run":
            process = await asyncio.create_subprocess_exec(
                "make", "-n", *words[at + 1 :], cwd=PROJECT, **_PIPES
            )
            output, errors = await process.communicate()
            assert process.returncode == 0, errors.decode()
            assert output
            return
        variables = dict(word.split("=", 1) for word in words[:at])
        options = dict(word.split("=", 1) for word in words[at + 2 :])
        await self._hosts.aclose()
        self.exported = {}
        backend = options.get("BACKEND", None if "AGENT_STORAGE_TYPE" in variables else "file")
        self.host = await self._hosts.enter_async_context(
            devhost(
                backend,
                self.folder / f"data{'' if backend == 'file' else f'-{backend}'}",
                *shlex.split(options.get("ARGS", "")),
                **{"PYTHONPATH": str(self.folder)} | variables | self.given,
            )
        )
        assert (await self.host.json("health/ready"))["status"] == "ready"

    async def _run(self, command: Command) -> None:
        if SHOWN_URL in command.text and self.host is None:
            await self._make(["make", "run"])
        deadline = time.monotonic() + SEEN_SECONDS
        while True:
            code, output, errors = await self._shell(command.text)
            assert code == 0, f"$ {command.text}\n{errors}"
            shown = not command.output or self._shows(command, output)
            if shown or not _is_get(command.text) or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.2)
        assert shown, f"$ {command.text}\n{output}\ninstead of\n{command.output}"
        assert command.output or _PROBLEM not in output, f"$ {command.text}\n{output}"

    async def _shell(self, text: str) -> tuple[int, str, str]:
        for shown, real in self._known.items():
            text = text.replace(shown, real)
        if self.host is not None:
            text = text.replace(SHOWN_URL, self.host.url)
        text = text.replace(".venv/bin/python", shlex.quote(sys.executable))
        if "agent-storage " in text:  # As if it were installed.
            text = f'agent-storage() {{ {shlex.quote(sys.executable)} -m storage_lib.cli "$@"; }}\n{text}'
        text = re.sub(r"^curl ", f"curl -sS --max-time {COMMAND_SECONDS} ", text)
        text = text.replace(" GROUP ", f" {os.getgid()} ")
        clean = {
            name: value for name, value in os.environ.items() if not name.startswith(("AGENT_", "Agent"))
        }
        process = await asyncio.create_subprocess_exec(
            "bash",
            "-c",
            text,
            cwd=self.folder,
            env=clean | {"PYTHONPATH": str(PROJECT), "PYTHONWARNINGS": "error"} | self.exported,
            **_PIPES,
        )
        async with asyncio.timeout(COMMAND_SECONDS + 10):
            output, errors = await process.communicate()
        assert process.returncode is not None
        return process.returncode, output.decode(), errors.decode()

    def _shows(self, command: Command, output: str) -> bool:
        """Whether the output is the one that the page shows; of headers (``curl -i``) it may show some."""
        expected = command.output
        output = output.replace("\r\n", "\n").strip()
        found: dict[str, str] = {}
        if re.match(r"curl (-\w+ )*-\w*i", command.text):
            head, _, output = output.partition("\n\n")
            shown_head, _, expected = expected.partition("\n\n")
            lines = head.split("\n")
            for line in shown_head.split("\n"):
                if not any(self._fits(line, each, found) for each in lines):
                    return False
        if expected and not self._fits(expected, output, found):
            return False
        self._known |= found
        return True

    def _fits(self, expected: str, output: str, found: dict[str, str]) -> bool:
        known = self._known | found
        groups: dict[str, str] = {}

        def part(match: re.Match[str]) -> str:
            token, kind = match[0], match.lastgroup
            if kind == "rest":
                return ".*?"
            if kind == "time":
                return _TIME
            if token in known:
                return re.escape(known[token])
            if token in groups:
                return f"(?P={groups[token]})"
            groups[token] = f"t{len(groups)}"
            return f"(?P<{groups[token]}>{_UUID if kind == 'uuid' else _ETAG})"

        pattern, end = "", 0
        for match in _VARYING.finditer(expected):
            pattern += re.escape(expected[end : match.start()]) + part(match)
            end = match.end()
        fits = re.fullmatch(pattern + re.escape(expected[end:]), output, re.DOTALL)
        if fits is None:
            return False
        found |= {token: fits[name] for token, name in groups.items()}
        return True


async def _python_of(block: Block) -> str:
    """The tests' own, or that of the environment which a framework that is imported needs."""
    for name in sorted(path.stem for path in PINS.glob("*.txt")):
        package = name.replace("_", r"\.")
        if re.search(rf"^(?:from|import) (?:{package}|integrations\.{name})\b", block.text, re.MULTILINE):
            return shlex.quote(str(await asyncio.to_thread(environment, name)))
    return ".venv/bin/python"


_PIPES: dict[str, Any] = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE}


def _is_get(command: str) -> bool:
    return command.startswith("curl ") and " -X " not in command


@asynccontextmanager
async def reading(folder: Path, given: Mapping[str, str]) -> AsyncIterator[Reader]:
    reader = Reader(folder, given)
    try:
        yield reader
    finally:
        await reader.close()
