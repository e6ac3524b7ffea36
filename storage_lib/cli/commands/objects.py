"""``stat``, ``cp``, ``mv`` and ``rm``: objects, one or many."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from storage_lib.cli.amounts import folder
from storage_lib.cli.command import Run, command, commands
from storage_lib.cli.commands.listings import entries
from storage_lib.cli.commands.options import (
    IfAbsent,
    IfMatch,
    Recursive,
    found_any,
    put_fields,
)
from storage_lib.cli.local_files import (
    lines_of_stdin,
)
from storage_lib.cli.many import JOBS, Jobs, each
from storage_lib.cli.progress import Progress
from storage_lib.cli.text import count_text, printable, size_text

if TYPE_CHECKING:
    from storage_lib.manager import StorageManager
    from storage_lib.ports.object_model import ObjectInfo

app = commands()


@command(app, "stat", json=True)
async def stat(
    run: Run, keys: Annotated[list[str], typer.Argument(metavar="KEY...", help="The objects.")]
) -> None:
    """Show what is known about objects: size, content type, ETag, times, metadata, checksum."""
    async with run.open() as storage:
        for n, key in enumerate(keys):
            with run.several(key, len(keys)):
                info = await storage.info(key, fresh=True)
                if run.out.as_json:
                    (run.out.document if len(keys) == 1 else run.out.item)(info_fields(info))
                    continue
                if n:
                    run.out.line("")
                _show_info(run, info)


def info_fields(info: "ObjectInfo") -> dict[str, Any]:
    """The info of an object, as JSON shows it."""
    return {
        "key": info.key,
        "size": info.size,
        "content_type": info.content_type,
        "etag": info.etag,
        "last_modified": info.last_modified,
        "expires_at": info.expires_at,
        "metadata": dict(info.metadata),
        "sha256": info.sha256,
        "content_encoding": info.content_encoding,
        "content_disposition": info.content_disposition,
        "content_language": info.content_language,
        "cache_control": info.cache_control,
    }


def _show_info(run: Run, info: "ObjectInfo") -> None:
    from storage_lib.cli.text import time_text

    fields = info_fields(info)
    for name, value in fields.items():
        if name == "metadata":
            for each_name, text in info.metadata.items():
                run.out.line(f"metadata {each_name}: {printable(text)}")
        elif value is not None:
            shown = time_text(value) if name.endswith(("_at", "_modified")) else printable(str(value))
            if name == "size" and run.out.is_terminal and info.size >= 1024:
                shown += f" ({size_text(info.size)})"
            run.out.line(f"{name.replace('_', ' ')}: {shown}")


@command(app, "cp", json=True)
async def cp(
    run: Run,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A key or, with -r, a folder.")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="A key, or a folder, which ends with /.")],
    recursive: Recursive = False,
    if_absent: IfAbsent = False,
    jobs: Jobs = JOBS,
) -> None:
    """Copy an object within the store, with its type and metadata; the bytes stay there where possible."""
    await _transfer(run, "copy", source, target, recursive, if_absent, jobs)


@command(app, "mv", json=True)
async def mv(
    run: Run,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A key or, with -r, a folder.")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="A key, or a folder, which ends with /.")],
    recursive: Recursive = False,
    if_absent: IfAbsent = False,
    jobs: Jobs = JOBS,
) -> None:
    """Move an object within the store. If it is interrupted, there may be both; moving again goes on."""
    await _transfer(run, "move", source, target, recursive, if_absent, jobs)


async def _transfer(
    run: Run, what: str, source: str, target: str, recursive: bool, if_absent: bool, jobs: int
) -> None:
    done = "Copied" if what == "copy" else "Moved"
    async with run.open() as storage:
        doing = storage.copy if what == "copy" else storage.move
        if not recursive:
            target += source.rpartition("/")[2] if target.endswith("/") else ""
            result = await doing(source, target, if_absent=if_absent)
            if run.out.as_json:
                run.out.document({"source": source} | put_fields(result))
            run.note(f"{done} {source} to {target}.")
            return
        source, target = folder(source), folder(target)
        if target.startswith(source):
            raise typer.BadParameter(f"{target!r} is within {source!r}", param_hint="TARGET")

        async def keys() -> AsyncIterator[str]:
            async for entry in entries(storage, source):
                yield entry.key

        async def one(key: str) -> None:
            result = await doing(key, target + key.removeprefix(source), if_absent=if_absent)
            if run.out.as_json:
                run.out.item({"source": key} | put_fields(result))

        with Progress(f"{'Copying' if what == 'copy' else 'Moving'} {source}", unit="objects") as progress:
            count = await each(run, keys(), one, jobs=jobs, named=str, progress=progress)
    found_any(run, source, count)
    run.note(f"{done} {count_text(count, 'object')}.")


@command(app, "rm", json=True, yes=True)
async def rm(
    run: Run,
    keys: Annotated[
        list[str], typer.Argument(metavar="KEY...", help="Objects; - reads keys from stdin, one a line.")
    ],
    recursive: Recursive = False,
    missing_ok: Annotated[
        bool, typer.Option("--missing-ok", help="What does not exist is no error.")
    ] = False,
    if_match: IfMatch = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write what would be deleted, and stop.")
    ] = False,
    jobs: Jobs = JOBS,
) -> None:
    """Delete objects, after a confirmation. With --recursive, KEY is a folder; '' is the whole store."""
    if if_match is not None and (recursive or len(keys) > 1 or keys == ["-"]):
        raise typer.BadParameter("it is for one object", param_hint="--if-match")
    if recursive and "-" in keys:
        raise typer.BadParameter("keys from stdin are those of objects", param_hint="--recursive")
    async with run.open() as storage:
        if not dry_run:
            run.confirm(await _question(storage, keys, recursive))

        async def chosen() -> AsyncIterator[str]:
            for key in keys:
                if recursive:
                    async for entry in entries(storage, folder(key)):
                        yield entry.key
                elif key == "-":
                    for line in lines_of_stdin():
                        yield line
                else:
                    yield key

        async def one(key: str) -> None:
            from storage_lib.errors import KeyNotFoundError

            try:
                if dry_run:
                    await storage.info(key)
                else:
                    await storage.delete(key, if_match=if_match)
            except KeyNotFoundError:
                # Somebody else has deleted it since it was listed, or that was expected.
                if not recursive and not missing_ok:
                    raise
                return
            if run.out.as_json:
                run.out.item({"key": key, "deleted": not dry_run})
            elif dry_run:
                run.out.line(key)

        if len(keys) == 1 and not recursive and keys != ["-"]:
            await one(keys[0])
            count = 1
        else:
            with Progress("Deleting", unit="objects") as progress:
                count = await each(run, chosen(), one, jobs=jobs, named=str, progress=progress)
    if recursive and not missing_ok:
        found_any(run, ", ".join(keys), count)
    if not dry_run:
        run.note(f"Deleted {count_text(count, 'object')}.")


async def _question(storage: "StorageManager", keys: list[str], recursive: bool) -> str:
    if not recursive:
        if keys == ["-"]:
            return "Delete the objects whose keys are read from stdin?"
        return f"Delete {keys[0] if len(keys) == 1 else count_text(len(keys), 'object')}?"
    count, more = 0, ""
    for key in keys:
        page = await storage.list_page(folder(key), limit=1000)
        count += len(page.entries)
        more = "at least " if page.cursor is not None else more
    where = ", ".join(folder(key) or "the whole store" for key in keys)
    return f"Delete {more}{count_text(count, 'object')} below {where}?"
