"""``audit``: who did what, and whether anyone has tampered with the record of it."""

import asyncio
import os
from typing import Annotated

import typer

from storage_lib.cli.command import Run, command, group
from storage_lib.cli.exits import say

app = group("audit", "The audit log.")

_KEY = "AGENT_STORAGE_AUDIT_KEY"


@command(app, "verify", json=True)
async def verify(
    run: Run,
    path: Annotated[
        str | None, typer.Argument(metavar="PATH", help="The log's folder, or one file of it.")
    ] = None,
    table: Annotated[
        str | None, typer.Option("--table", metavar="NAME", help="A table of the store.")
    ] = None,
    heads: Annotated[
        str | None,
        typer.Option("--heads", metavar="FOLDER", help="Where the heads are, if not in PATH/heads."),
    ] = None,
    old_key_from: Annotated[
        list[str] | None,
        typer.Option("--old-key-from", metavar="VARIABLE", help="Names a former key; repeatable."),
    ] = None,
    allow_unsealed: Annotated[
        bool, typer.Option("--allow-unsealed", help="Accept chains without a key although there is one.")
    ] = False,
) -> None:
    """Look for tampering, and write each finding.

    Edited, missing, reordered, inserted and cut-off entries are found. The key is read from
    AGENT_STORAGE_AUDIT_KEY. Without PATH and --table, the log is the one that the settings choose. The exit
    code is 1 if something is found.
    """
    from storage_lib import audit
    from storage_lib.errors import ConfigurationError

    if path is not None and table is not None:
        raise typer.BadParameter("give PATH or --table, not both", param_hint="--table")
    names = [*([_KEY] if os.environ.get(_KEY) else []), *(old_key_from or [])]
    if missing := [name for name in names if not os.environ.get(name)]:
        raise typer.BadParameter(f"{missing[0]} is not set", param_hint="--old-key-from")
    key = [os.environ[name] for name in names]
    if path is None and table is None:
        options = run.config.audit
        if options is None or options.sink == "log":
            raise ConfigurationError(
                "the settings choose no audit log that could be read",
                remedy="give PATH or --table, or set AGENT_STORAGE_AUDIT to file or table",
            )
        path, table = (options.path, None) if options.sink == "file" else (None, options.table)
        heads = heads or options.heads
    if table is not None:
        report = await audit.verify_configured(run.config, table, key, allow_unsealed)
    else:
        report = await asyncio.to_thread(
            audit.verify, path or "", key=key, heads=heads, allow_unsealed=allow_unsealed
        )
    if run.out.as_json:
        run.out.document(
            {
                "ok": report.ok,
                "entries": report.entries,
                "writers": report.writers,
                "findings": [str(each) for each in report.findings],
                "notes": [str(each) for each in report.notes],
                "unsealed": report.unsealed,
                "gaps": report.gaps,
            }
        )
    else:
        for finding in report.findings:
            run.out.line(str(finding))
        for each in report.remarks:
            say(f"note: {each}", lines=True)
        say(report.summary)
    run.end(ok=report.ok)
