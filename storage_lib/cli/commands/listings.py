"""``ls``, ``tree`` and ``du``: what is stored."""

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from storage_lib.cli.command import Run, command, commands
from storage_lib.cli.exits import say, warn
from storage_lib.cli.text import count_text, size_text, time_text

if TYPE_CHECKING:
    from storage_lib.ports.object_model import ListEntry

app = commands()

Prefix = Annotated[str, typer.Argument(metavar="PREFIX", help="Only keys that begin so.")]
_TREE_LIMIT = 10_000


@command(app, "ls", json=True)
async def ls(
    run: Run,
    prefix: Prefix = "",
    recursive: Annotated[
        bool,
        typer.Option("--recursive", "-r", help="List all keys, not folders in place of what is in them."),
    ] = False,
    long: Annotated[bool, typer.Option("--long", "-l", help="Show size and time, too.")] = False,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", min=1, help="List no more than these.")
    ] = None,
    after: Annotated[
        str | None, typer.Option("--start-after", metavar="KEY", help="Only what comes behind this key.")
    ] = None,
) -> None:
    """List the keys that begin with PREFIX, one a line, ordered by their bytes.

    What lies deeper is shown as its folder, which ends with a slash; --recursive lists the keys instead. With
    --long a line has size, time and key; into a pipe, bytes and time separated by tabs.
    """
    from storage_lib.keys import SYSTEM_PREFIX

    async with run.open() as storage:
        found = storage.backend.objects.iterate(
            prefix,
            delimiter=None if recursive else "/",
            start_after=after,
            details=long or run.out.as_json,
            skip=SYSTEM_PREFIX,
        )
        count = 0
        async for each in found:
            _show(run, each, long=long)
            count += 1
            if count == limit:
                return


def _show(run: Run, found: "ListEntry | str", *, long: bool) -> None:
    out = run.out
    if isinstance(found, str):
        if out.as_json:
            out.item({"prefix": found})
        elif long:
            out.line(f"{'':>10}  {'':20}  {found}" if out.is_terminal else f"\t\t{found}")
        else:
            out.line(found)
    elif out.as_json:
        out.item(entry_fields(found))
    elif long:
        moment = time_text(found.last_modified)
        size = found.size or 0
        out.line(
            f"{size_text(size):>10}  {moment:20}  {found.key}"
            if out.is_terminal
            else f"{size}\t{moment}\t{found.key}"
        )
    else:
        out.line(found.key)


def entry_fields(entry: "ListEntry") -> dict[str, Any]:
    """An object of a listing, as JSON shows it."""
    fields: dict[str, Any] = {
        "key": entry.key,
        "size": entry.size,
        "etag": entry.etag,
        "last_modified": entry.last_modified,
    }
    if (info := entry.info) is not None:
        fields |= {
            "content_type": info.content_type,
            "expires_at": info.expires_at,
            "metadata": dict(info.metadata),
        }
    return fields


@command(app, "tree", json=True)
async def tree(
    run: Run,
    prefix: Prefix = "",
    depth: Annotated[
        int | None, typer.Option("--depth", "-d", min=1, help="Show no more levels of folders.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Show no more objects.")] = _TREE_LIMIT,
) -> None:
    """Show the keys that begin with PREFIX as a tree."""
    root: dict[str, Any] = {}
    count, folders, cut = 0, 0, False
    start = prefix.rpartition("/")[0]
    async with run.open() as storage:
        async for key in storage.list_keys(prefix):
            if count == limit:
                cut = True
                break
            count += 1
            *above, name = key.removeprefix(start).removeprefix("/").split("/")
            place = root
            for segment in above if depth is None else above[: depth - 1 if depth else 0]:
                folders += segment + "/" not in place
                place = place.setdefault(segment + "/", {})
            if depth is not None and len(above) >= depth:
                folders += above[depth - 1] + "/" not in place
                place.setdefault(above[depth - 1] + "/", {})
            else:
                place[name] = None
    if run.out.as_json:
        run.out.document(_as_json(root, f"{start}/" if start else ""))
    else:
        _draw(run, root, "")
        if run.out.is_terminal:
            say(f"\n{count_text(folders, 'folder')}, {count_text(count, 'object')}")
    if cut:
        warn(f"only the first {limit:,} objects are shown; --limit shows more")


def _as_json(place: dict[str, Any], above: str) -> list[dict[str, Any]]:
    return [
        {"key": above + name}
        if inside is None
        else {"prefix": above + name, "contents": _as_json(inside, above + name)}
        for name, inside in place.items()
    ]


def _draw(run: Run, place: dict[str, Any], before: str) -> None:
    for n, (name, inside) in enumerate(place.items(), 1):
        last = n == len(place)
        run.out.line(f"{before}{'└── ' if last else '├── '}{name}")
        if inside:
            _draw(run, inside, before + ("    " if last else "│   "))


@command(app, "du", json=True)
async def du(
    run: Run,
    prefix: Prefix = "",
    depth: Annotated[
        int, typer.Option("--depth", "-d", min=0, help="Also show folders, so many levels below PREFIX.")
    ] = 0,
) -> None:
    """Count the objects below PREFIX and their bytes. The last line is the sum.

    A line has size, number of objects and prefix; into a pipe, bytes separated by tabs.
    """
    found: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    start = len(prefix) - len(prefix.rpartition("/")[2])
    async with run.open() as storage:
        if depth:
            async for entry in storage.list_objects(prefix):
                segments = entry.key[start:].split("/")[:-1]
                above = ["/".join(segments[:level]) for level in range(1, min(depth, len(segments)) + 1)]
                for name in ("", *(f"{entry.key[:start]}{folder}/" for folder in above)):
                    found[name] += 1
                    sizes[name] += entry.size or 0
        else:
            stats = await storage.stats(prefix)
            found[""], sizes[""] = stats.count, stats.bytes
    rows = [(each, found[each], sizes[each]) for each in sorted(found, key=str.encode) if each]
    rows.append((prefix, found[""], sizes[""]))
    if run.out.as_json:
        for name, count, size in rows:
            run.out.item({"prefix": name, "objects": count, "bytes": size})
        return
    shown = size_text if run.out.is_terminal else str
    run.out.table(
        ("SIZE", "OBJECTS", "PREFIX"), [(shown(size), str(count), name) for name, count, size in rows]
    )
