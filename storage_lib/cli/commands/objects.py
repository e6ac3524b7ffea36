"""``stat``, ``touch``, ``cp``, ``mv`` and ``rm``: objects, one or many."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from storage_lib.cli.amounts import duration, folder, pairs
from storage_lib.cli.command import Run, command, commands
from storage_lib.cli.commands.options import (
    IfAbsent,
    IfMatch,
    Metadata,
    Recursive,
    found_any,
    put_fields,
)
from storage_lib.cli.exits import say
from storage_lib.cli.local_files import lines_of_stdin
from storage_lib.cli.many import JOBS, Jobs, each
from storage_lib.cli.progress import Progress
from storage_lib.cli.text import count_text, printable, size_text

if TYPE_CHECKING:
    from storage_lib.manager import StorageManager
    from storage_lib.ports.object_model import ObjectInfo, PutResult
    from storage_lib.prefixes import PrefixResult

app = commands()

_ATTEMPTS = 100

DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")]


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


@command(app, "touch", json=True)
async def touch(
    run: Run,
    keys: Annotated[list[str], typer.Argument(metavar="KEY...", help="The objects.")],
    ttl: Annotated[
        str | None,
        typer.Option("--ttl", metavar="TIME", help="When it is gone, from now: 15m, 7d; or never."),
    ] = None,
    meta: Metadata = None,
    unset: Annotated[
        list[str] | None, typer.Option("--unset", metavar="NAME", help="Remove this metadata; repeatable.")
    ] = None,
    if_match: IfMatch = None,
) -> None:
    """Give objects another time to live or other metadata. Their bytes are not sent again.

    Without an option they only count as changed now. Metadata that is not named stays.
    """
    from storage_lib.ports.object_model import KEPT

    if if_match is not None and len(keys) > 1:
        raise typer.BadParameter("it is for one object", param_hint="--if-match")
    end: Any = KEPT if ttl is None else None if ttl == "never" else duration(ttl)
    new = pairs(meta or [], "--meta")
    async with run.open() as storage:
        for key in keys:
            with run.several(key, len(keys)):
                result = await _touched(storage, key, end, new, unset or [], if_match)
                if run.out.as_json:
                    (run.out.document if len(keys) == 1 else run.out.item)(put_fields(result))


async def _touched(
    storage: "StorageManager", key: str, ttl: Any, new: dict[str, str], unset: list[str], if_match: str | None
) -> "PutResult":
    from storage_lib.errors import PreconditionFailedError, TransientStorageError

    if not new and not unset:
        return await storage.touch(key, ttl=ttl, if_match=if_match)
    for _ in range(_ATTEMPTS):
        info = await storage.info(key, fresh=True)
        metadata = {name: text for name, text in info.metadata.items() if name not in unset} | new
        try:
            return await storage.touch(key, ttl=ttl, metadata=metadata, if_match=if_match or info.etag)
        except PreconditionFailedError:
            if if_match is not None:
                raise
            # Somebody else was faster: their metadata stay, too.
    raise TransientStorageError(f"object {key!r} is being replaced all the time", remedy="try again later")


@dataclass(frozen=True, slots=True)
class Transfer:
    """What is copied or moved, and how."""

    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A key or, with -r, a folder.")]
    target: Annotated[str, typer.Argument(metavar="TARGET", help="A key, or a folder, which ends with /.")]
    recursive: Recursive = False
    if_absent: IfAbsent = False
    dry_run: DryRun = False
    jobs: Jobs = JOBS


@command(app, "cp", json=True)
async def cp(run: Run, what: Transfer) -> None:
    """Copy an object within the store, with its type and metadata; the bytes stay there where possible."""
    await _transfer(run, "copy", what)


@command(app, "mv", json=True)
async def mv(run: Run, what: Transfer) -> None:
    """Move an object within the store. If it is interrupted, there may be both; moving again goes on."""
    await _transfer(run, "move", what)


async def _transfer(run: Run, how: str, what: Transfer) -> None:
    async with run.open() as storage:
        doing = storage.copy if how == "copy" else storage.move
        if what.dry_run and not what.recursive:
            raise typer.BadParameter("it is for --recursive", param_hint="--dry-run")
        if what.recursive:
            await _transfer_folder(run, storage, how, what)
            return
        source, target = what.source, what.target
        target += source.rpartition("/")[2] if target.endswith("/") else ""
        result = await doing(source, target, if_absent=what.if_absent)
        run.out.answer({"source": source} | put_fields(result))
        run.note(f"{'Copied' if how == 'copy' else 'Moved'} {source} to {target}.")


async def _transfer_folder(run: Run, storage: "StorageManager", how: str, what: Transfer) -> None:
    doing = storage.copy_prefix if how == "copy" else storage.move_prefix
    source, target = folder(what.source), folder(what.target)
    with Progress(f"{'Copying' if how == 'copy' else 'Moving'} {source}", unit="objects") as progress:
        result = await doing(
            source,
            target,
            if_absent=what.if_absent,
            dry_run=what.dry_run,
            concurrency=what.jobs,
            on_progress=_follow(progress),
        )
    done = "copied" if how == "copy" else "moved"
    told = f"Would have {done}" if what.dry_run else done.capitalize()
    _end(run, result, {"source": source, "target": target}, told)
    if not result.done and not result.skipped:
        found_any(run, source, 0)


def _follow(progress: Progress) -> Callable[["PrefixResult"], None]:
    return lambda result: progress.reach(result.done + result.skipped + result.failures)


def _end(run: Run, result: "PrefixResult", about: dict[str, Any], done: str) -> None:
    """Tell what was done below a prefix, and what could not be."""
    for key, error in result.failed.items():
        run.failed(key, error)
    if (more := result.failures - len(result.failed)) > 0:
        say(f"error: {more:,} more failed")
    if run.out.as_json:
        failed = {key: error.explained() for key, error in result.failed.items()}
        counts = {"done": result.done, "skipped": result.skipped, "failures": result.failures}
        run.out.document(about | counts | {"failed": failed})
    skipped = f", {result.skipped:,} skipped" if result.skipped else ""
    run.note(f"{done} {count_text(result.done, 'object')}{skipped}.")


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

        if recursive and not dry_run:
            await _delete_folders(run, storage, keys, missing_ok, jobs)
            return

        async def chosen() -> AsyncIterator[str]:
            for key in keys:
                if recursive:
                    async for found in storage.list_keys(folder(key)):
                        yield found
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
                if not missing_ok:
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
    if not dry_run:
        run.note(f"Deleted {count_text(count, 'object')}.")


async def _delete_folders(
    run: Run, storage: "StorageManager", keys: list[str], missing_ok: bool, jobs: int
) -> None:
    for key in keys:
        with Progress(f"Deleting {folder(key)}", unit="objects") as progress:
            result = await storage.delete_prefix(folder(key), concurrency=jobs, on_progress=_follow(progress))
        _end(run, result, {"prefix": folder(key)}, "Deleted")
        if not missing_ok and not result.done and not result.skipped:
            found_any(run, folder(key), 0)


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
    found = f"Delete {more}{count_text(count, 'object')}"
    if "" in keys:
        return f"{found}: all that is in the store?"
    return f"{found} below {', '.join(map(folder, keys))}?"
