"""``save``: files, folders and stdin become objects."""

import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from storage_lib.cli.amounts import duration, folder, pairs
from storage_lib.cli.command import Run, command, commands
from storage_lib.cli.commands.options import (
    ContentType,
    IfAbsent,
    IfMatch,
    Metadata,
    Recursive,
    put_fields,
)
from storage_lib.cli.exits import is_terminal, warn
from storage_lib.cli.local_files import (
    chunks_of,
    chunks_of_stdin,
    type_of,
)
from storage_lib.cli.many import JOBS, Jobs, each
from storage_lib.cli.progress import Progress
from storage_lib.cli.text import count_text, size_text

if TYPE_CHECKING:
    from storage_lib.manager import StorageManager
    from storage_lib.ports.object_model import PutResult

app = commands()

_CHECKED_BYTES = 8 << 20
"""Files up to this size are compared with their content type; larger ones are streams."""
_BYTES = "application/octet-stream"


@command(app, "save", json=True)
async def save(
    run: Run,
    key: Annotated[
        str,
        typer.Argument(metavar="KEY", help="The object; a folder, which ends with /, keeps the file's name."),
    ],
    source: Annotated[
        str | None, typer.Argument(metavar="FILE", help="A file or, with -r, a folder; - is stdin.")
    ] = None,
    content_type: ContentType = None,
    meta: Metadata = None,
    ttl: Annotated[
        str | None, typer.Option("--ttl", metavar="TIME", help="When it is gone: 90 (seconds), 15m, 12h, 7d.")
    ] = None,
    if_absent: IfAbsent = False,
    if_match: IfMatch = None,
    recursive: Recursive = False,
    jobs: Jobs = JOBS,
) -> None:
    """Save FILE, or what comes from stdin, under KEY. It is saved whole or not at all.

    What is saved with the content type of JSON or text is checked to be that. With --recursive, FILE is a
    folder, and its files are saved below KEY; links are left out.
    """
    options: dict[str, Any] = {
        "metadata": pairs(meta or [], "--meta"),
        "ttl": None if ttl is None else duration(ttl),
        "if_absent": if_absent,
    }
    if recursive:
        if source in (None, "-"):
            raise typer.BadParameter("--recursive needs a folder", param_hint="FILE")
        if if_match is not None:
            raise typer.BadParameter("--if-match is for one object", param_hint="--if-match")
        await _save_folder(run, folder(key), Path(source or ""), content_type, options, jobs)
        return
    options["if_match"] = if_match
    async with run.open(creating=True) as storage:
        if source in (None, "-"):
            if is_terminal(sys.stdin) and source is None:
                raise typer.BadParameter(
                    "nothing to save: name a file, or - to type it in", param_hint="FILE"
                )
            if key.endswith("/"):
                raise typer.BadParameter("stdin has no name: give the whole key", param_hint="KEY")
            kind = content_type or type_of(key) or _BYTES
            result, kind = await _save_stdin(storage, key, kind, content_type is not None, options)
        else:
            path = Path(source or "")
            if path.is_dir():
                raise typer.BadParameter(f"{source} is a folder: add --recursive", param_hint="FILE")
            key += path.name if key.endswith("/") else ""
            with Progress(f"Saving {key}", total=path.stat().st_size) as progress:
                result, kind = await _save_file(storage, key, path, content_type, options, progress)
    _saved(run, result, kind)


def _saved(run: Run, result: "PutResult", kind: str) -> None:
    run.out.answer(put_fields(result) | {"content_type": kind})
    run.note(f"Saved {result.key} ({size_text(result.size)}).")


async def _save_stdin(
    storage: "StorageManager", key: str, kind: str, is_given: bool, options: dict[str, Any]
) -> "tuple[PutResult, str]":
    with Progress(f"Saving {key}") as progress:
        source = chunks_of_stdin(progress.advance)
        first = bytearray()
        async for chunk in source:
            first += chunk
            if len(first) > _CHECKED_BYTES:
                break
        else:
            return await _write(storage, key, bytes(first), kind, is_given, options)

        async def all_of_it() -> AsyncIterator[bytes]:
            yield bytes(first)
            async for chunk in source:
                yield chunk

        return await storage.write_stream(key, all_of_it(), content_type=kind, **options), kind


async def _save_file(
    storage: "StorageManager",
    key: str,
    path: Path,
    content_type: str | None,
    options: dict[str, Any],
    progress: Progress,
) -> "tuple[PutResult, str]":
    import asyncio

    kind = content_type or type_of(path.name, key) or _BYTES
    if path.is_file() and path.stat().st_size <= _CHECKED_BYTES:
        data = await asyncio.to_thread(path.read_bytes)
        result = await _write(storage, key, data, kind, content_type is not None, options)
        progress.advance(len(data))
        return result
    chunks = chunks_of(path, progress.advance)
    return await storage.write_stream(key, chunks, content_type=kind, **options), kind


async def _write(
    storage: "StorageManager", key: str, data: bytes, kind: str, is_given: bool, options: dict[str, Any]
) -> "tuple[PutResult, str]":
    from storage_lib.errors import SerializationError

    try:
        return await storage.write(key, data, content_type=kind, **options), kind
    except SerializationError as error:
        if is_given:
            raise
        # The name was wrong about the bytes; they are saved as what they certainly are.
        warn(f"{key}: not {kind}, as its name says, but saved as {_BYTES}: {error.message}")
        return await storage.write(key, data, content_type=_BYTES, **options), _BYTES


async def _save_folder(
    run: Run, prefix: str, source: Path, content_type: str | None, options: dict[str, Any], jobs: int
) -> None:
    if not source.is_dir():
        raise NotADirectoryError(20, "Not a folder", str(source))

    async def files() -> AsyncIterator[Path]:
        def told(error: OSError) -> None:
            run.failed(str(error.filename), error)

        for above, folders, names in os.walk(source, onerror=told):
            folders.sort()
            for name in sorted([*names, *(found for found in folders if Path(above, found).is_symlink())]):
                path = Path(above, name)
                if path.is_symlink() or not path.is_file():
                    warn(f"{path}: left out, for it is no regular file")
                else:
                    yield path

    async with run.open(creating=True) as storage:
        with Progress(f"Saving {source}", unit="files") as progress:

            async def one(path: Path) -> None:
                key = prefix + path.relative_to(source).as_posix()
                quiet = Progress("")
                result, kind = await _save_file(storage, key, path, content_type, options, quiet)
                if run.out.as_json:
                    run.out.item(put_fields(result) | {"content_type": kind})

            count = await each(run, files(), one, jobs=jobs, named=str, progress=progress)
    run.note(f"Saved {count_text(count, 'object')}.")
