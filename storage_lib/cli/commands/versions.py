"""``versions``: what was saved before."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from storage_lib.cli.amounts import span
from storage_lib.cli.command import Run, command, group
from storage_lib.cli.commands.options import ContentType, Metadata
from storage_lib.cli.text import count_text, size_text, time_text

if TYPE_CHECKING:
    from storage_lib.manager import StorageManager

app = group(
    "versions", "Versions of an object: KEY/v1, KEY/v2, … and KEY/current, which names the current one."
)

Key = Annotated[str, typer.Argument(metavar="KEY", help="The object that has versions.")]
Version = Annotated[str, typer.Argument(metavar="VERSION", help="A number, such as 3 or v3, or a label.")]


def _named(version: str) -> int | str:
    """A number, or a label."""
    return int(version) if version.isdecimal() and len(version) < 20 else version


async def number_of(storage: "StorageManager", key: str, version: str) -> int:
    """The number of a version, which exists.

    :raises KeyNotFoundError: there is no such version.
    """
    from storage_lib.errors import KeyNotFoundError

    for each in await storage.list_versions(key):
        if version in (str(each.number), f"v{each.number}") or version in each.labels:
            return each.number
    raise KeyNotFoundError(
        f"{key!r} has no version {version!r}", remedy=f"agent-storage versions list {key} shows them"
    )


async def key_of_version(storage: "StorageManager", key: str, version: str) -> str:
    """The object that is a version."""
    return f"{key}/v{await number_of(storage, key, version)}"


@command(app, "list", json=True)
async def list_versions(run: Run, key: Key) -> None:
    """List the versions of KEY, oldest first.

    A line has number, size, time, who saved it and labels.
    """
    async with run.open() as storage:
        found = await storage.list_versions(key, details=True)
    if not found:
        raise _no_versions(key)
    shown = size_text if run.out.is_terminal else str
    run.out.each(
        found,
        ("VERSION", "SIZE", "SAVED", "BY", "LABELS"),
        lambda each: (
            f"v{each.number}",
            shown(each.size),
            time_text(each.saved_at),
            each.saved_by or "",
            ", ".join(["current", *each.labels] if each.is_current else each.labels),
        ),
    )


def _no_versions(key: str) -> Exception:
    from storage_lib.errors import KeyNotFoundError

    return KeyNotFoundError(f"{key!r} has no versions", remedy="agent-storage versions save makes one")


@command(app, "save", json=True)
async def save(
    run: Run,
    key: Key,
    source: Annotated[
        str, typer.Argument(metavar="FILE", help="A file of JSON, text or anything; - is stdin.")
    ] = "-",
    content_type: ContentType = None,
    meta: Metadata = None,
    by: Annotated[str | None, typer.Option("--by", metavar="NAME", help="Who saves it.")] = None,
    label: Annotated[str | None, typer.Option("--label", help="Give it this label.")] = None,
) -> None:
    """Save FILE as a new version of KEY.

    It becomes the current one. JSON and text are saved as such.
    """
    from storage_lib.cli.amounts import pairs
    from storage_lib.cli.local_files import all_of_stdin, type_of

    data = all_of_stdin() if source == "-" else Path(source).read_bytes()
    names = (key,) if source == "-" else (source, key)
    kind = content_type or type_of(*names)
    async with run.open(creating=True) as storage:
        number = await storage.save_versioned(
            key,
            _value(data, kind),
            content_type=kind if kind and kind.startswith("text/") else content_type,
            metadata=pairs(meta or [], "--meta"),
            saved_by=by,
            label=label,
        )
    run.out.answer({"key": key, "version": number, "label": label}, f"v{number}")


def _value(data: bytes, kind: str | None) -> Any:
    """What the bytes are, so that `load` and ``diff`` know it too."""
    import msgspec

    if kind is not None and (kind == "application/json" or kind.partition(";")[0].endswith("+json")):
        try:
            return msgspec.json.decode(data)
        except msgspec.DecodeError as error:
            raise typer.BadParameter(f"this is no JSON: {error}", param_hint="FILE") from None
    if kind is not None and kind.startswith("text/"):
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise typer.BadParameter(f"this is no UTF-8 text: {error}", param_hint="FILE") from None
    if kind is None:
        try:
            return msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return data
    return data


@command(app, "current", json=True)
async def current(run: Run, key: Key) -> None:
    """Write the number of the current version."""
    async with run.open() as storage:
        number = await storage.current_version(key)
    _tell(run, key, number)


def _tell(run: Run, key: str, number: int) -> None:
    run.out.answer({"key": key, "version": number}, f"v{number}")


@command(app, "rollback", json=True)
async def rollback(run: Run, key: Key, version: Version) -> None:
    """Make an earlier version the current one. Later versions stay."""
    async with run.open() as storage:
        _tell(run, key, await storage.rollback(key, _named(version)))


@command(app, "label", json=True)
async def label(
    run: Run,
    key: Key,
    version: Version,
    label: Annotated[str, typer.Argument(metavar="LABEL", help="Such as production or v1.2.")],
) -> None:
    """Give a version a label.

    Another version that had it loses it at the same moment.
    """
    async with run.open() as storage:
        _tell(run, key, await storage.label_version(key, _named(version), label))


@command(app, "unlabel")
async def unlabel(run: Run, key: Key, label: Annotated[str, typer.Argument(metavar="LABEL")]) -> None:
    """Remove a label; its version stays."""
    async with run.open() as storage:
        await storage.unlabel_version(key, label)


@command(app, "diff", json=True)
async def diff(
    run: Run,
    key: Key,
    old: Version,
    new: Annotated[str | None, typer.Argument(metavar="VERSION", help="By default the current one.")] = None,
) -> None:
    """Show what changes from one version to another.

    Both are JSON, and so is the answer: a JSON Patch (RFC 6902).
    """
    async with run.open() as storage:
        patch = await storage.diff_versions(key, _named(old), None if new is None else _named(new))
    if run.out.as_json:
        run.out.document(patch)
        return
    for change in patch:
        run.out.item(change)


@command(app, "prune", json=True, yes=True)
async def prune(
    run: Run,
    key: Key,
    keep_last: Annotated[
        int | None, typer.Option("--keep-last", metavar="N", min=0, help="Keep the N highest numbers.")
    ] = None,
    younger_than: Annotated[
        str | None, typer.Option("--younger-than", metavar="TIME", help="Keep what was saved within it: 30d.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write what would be deleted, and stop.")
    ] = False,
) -> None:
    """Delete old versions, after a confirmation.

    The current one and those with a label stay.
    """
    if keep_last is None and younger_than is None:
        raise typer.BadParameter("say what to keep: --keep-last or --younger-than", param_hint="--keep-last")
    rule: dict[str, Any] = {
        "keep_last": keep_last,
        "younger_than": None if younger_than is None else span(younger_than),
    }
    async with run.open() as storage:
        found = await storage.prune_versions(key, **rule, dry_run=True)
        if not found and not await storage.list_versions(key):
            raise _no_versions(key)
        if found and not dry_run:
            shown = ", ".join(f"v{number}" for number in found[:10]) + (", …" if len(found) > 10 else "")
            run.confirm(f"Delete {count_text(len(found), 'version')} of {key} ({shown})?")
            found = await storage.prune_versions(key, **rule)
    if run.out.as_json:
        run.out.document(
            {"key": key, "deleted": [] if dry_run else found, "would_delete": found if dry_run else []}
        )
        return
    for number in found:
        run.out.line(f"v{number}")
    run.note(f"{'Would delete' if dry_run else 'Deleted'} {count_text(len(found), 'version')}.")
