"""``load``: objects become files, folders or stdout."""

from collections.abc import AsyncIterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from storage_lib.cli.amounts import folder
from storage_lib.cli.command import Run, command, commands
from storage_lib.cli.commands.options import (
    IfMatch,
    Key,
    Recursive,
    found_any,
)
from storage_lib.cli.exits import EndError, Exit, say
from storage_lib.cli.local_files import (
    CHUNK_BYTES,
    replaced,
)
from storage_lib.cli.many import JOBS, Jobs, each
from storage_lib.cli.progress import Progress
from storage_lib.cli.text import count_text, printable, size_text

if TYPE_CHECKING:
    from storage_lib.manager import StorageManager
    from storage_lib.ports.object_model import ByteRange

app = commands()


@command(app, "load", json=True)
async def load(
    run: Run,
    key: Key,
    target: Annotated[
        str | None, typer.Argument(metavar="FILE", help="A file or folder; - or nothing is stdout.")
    ] = None,
    version: Annotated[
        str | None, typer.Option("--version", metavar="VERSION", help="A version of it: number or label.")
    ] = None,
    byte_range: Annotated[
        str | None, typer.Option("--range", metavar="FIRST-LAST", help="Only these bytes: 0-99, 100-, -50.")
    ] = None,
    if_match: IfMatch = None,
    recursive: Recursive = False,
    jobs: Jobs = JOBS,
) -> None:
    """Load an object to FILE or stdout. FILE is replaced once all of it has come and is intact.

    With --json, the value is written as JSON, however it is stored. With --recursive, all objects below the
    folder KEY are loaded into the folder FILE.
    """
    if recursive:
        if target in (None, "-"):
            raise typer.BadParameter("--recursive needs a folder", param_hint="FILE")
        if version is not None or byte_range is not None or if_match is not None or run.out.as_json:
            raise typer.BadParameter(
                "not with --version, --range, --if-match or --json", param_hint="--recursive"
            )
        await _load_folder(run, folder(key), Path(target or ""), jobs)
        return
    part = None if byte_range is None else _range(byte_range)
    async with run.open() as storage:
        if version is not None:
            from storage_lib.cli.commands.versions import key_of_version

            key = await key_of_version(storage, key, version)
        if run.out.as_json:
            if target not in (None, "-") or part is not None or if_match is not None:
                raise typer.BadParameter("not with FILE, --range or --if-match", param_hint="--json")
            run.out.document(await storage.load(key))
        elif target in (None, "-"):
            await _load_to_stdout(run, storage, key, part, if_match)
        else:
            path = Path(target or "")
            path = path / key.rpartition("/")[2] if path.is_dir() or str(target).endswith("/") else path
            size = await _load_to_file(storage, key, path, part, if_match)
            run.note(f"Loaded {path} ({size_text(size)}).")


async def _load_to_file(
    storage: "StorageManager",
    key: str,
    path: Path,
    part: "ByteRange | None" = None,
    if_match: str | None = None,
    *,
    quiet: bool = False,
) -> int:
    import asyncio

    size = 0
    async with storage.open_reader(key, byte_range=part, if_match=if_match) as reader:
        total = None if part is not None or quiet else reader.info.size
        with Progress(f"Loading {key}", total=total) as progress, replaced(path) as file:
            async for chunk in reader:
                await asyncio.to_thread(file.write, chunk)
                size += len(chunk)
                if not quiet:
                    progress.advance(len(chunk))
    return size


async def _load_to_stdout(
    run: Run, storage: "StorageManager", key: str, part: "ByteRange | None", if_match: str | None
) -> None:
    import asyncio

    async with storage.open_reader(key, byte_range=part, if_match=if_match) as reader:
        if run.out.is_terminal:
            await _show(run, key, reader)
            return
        with Progress(f"Loading {key}", total=None if part else reader.info.size) as progress:
            async for chunk in reader:
                # A reader that is slow must not keep the loop from noticing Ctrl-C.
                await asyncio.to_thread(run.out.bytes, chunk)
                progress.advance(len(chunk))


async def _show(run: Run, key: str, chunks: AsyncIterable[bytes]) -> None:
    """Text to a terminal; its control characters are written out."""
    import codecs

    decoder = codecs.getincrementaldecoder("utf-8")()
    end = "\n"
    async for chunk in chunks:
        for start in range(0, len(chunk), CHUNK_BYTES):
            try:
                text = decoder.decode(chunk[start : start + CHUNK_BYTES])
            except UnicodeDecodeError:
                text = "\0"
            if "\0" in text:
                say(
                    f"error: {printable(key)} is not text, and stdout is a terminal\n"
                    "  remedy: name a file for it, or send it through a pipe"
                )
                raise EndError(Exit.USAGE)
            if text:
                run.out.text(text.replace("\r\n", "\n"))
                end = text[-1]
    if end != "\n":
        run.out.text("\n")


async def _load_folder(run: Run, prefix: str, target: Path, jobs: int) -> None:
    async with run.open() as storage:
        target.mkdir(parents=True, exist_ok=True)
        with Progress(f"Loading {prefix}", unit="objects") as progress:

            async def one(key: str) -> None:
                path = target / key.removeprefix(prefix)  # No key has a segment that leads elsewhere.
                path.parent.mkdir(parents=True, exist_ok=True)
                await _load_to_file(storage, key, path, quiet=True)

            count = await each(run, storage.list_keys(prefix), one, jobs=jobs, named=str, progress=progress)
    found_any(run, prefix, count)
    run.note(f"Loaded {count_text(count, 'object')}.")


def _range(text: str) -> "ByteRange":
    """As in HTTP: both ends are part of it."""
    import re

    from storage_lib.ports.object_model import ByteRange

    found = re.fullmatch(r"(\d{0,15})-(\d{0,15})", text)
    if found is None or found[0] == "-" or (found[1] and found[2] and int(found[2]) < int(found[1])):
        raise typer.BadParameter(f"{text!r} is no range; write 0-99, 100- or -50", param_hint="--range")
    if not found[1]:
        if not int(found[2]):
            raise typer.BadParameter(f"{text!r} holds no byte", param_hint="--range")
        return ByteRange(-int(found[2]))
    return ByteRange(int(found[1]), int(found[2]) + 1 if found[2] else None)
