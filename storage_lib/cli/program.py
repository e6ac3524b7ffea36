"""The commands by name, and what the program does before and after one of them."""

import gc
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
from typer import core
from typer.main import get_command

from storage_lib.cli.command import COMPLETION_VARIABLE, NAME, STORE_HELP, Program
from storage_lib.cli.exits import Exit, end, report
from storage_lib.cli.words import read_plainly

COMMANDS: dict[str, dict[str, tuple[str, str]]] = {
    "Objects": {
        "save": ("saving", "Save a file, a folder or stdin."),
        "load": ("loading", "Load an object to a file or stdout, or a folder of them."),
        "ls": ("listings", "List keys and folders."),
        "tree": ("listings", "Show keys as a tree."),
        "du": ("listings", "Count objects and their bytes."),
        "stat": ("objects", "Show size, type, ETag, times and metadata of objects."),
        "touch": ("objects", "Renew the time to live and the metadata of objects."),
        "cp": ("objects", "Copy an object or a folder."),
        "mv": ("objects", "Move an object or a folder."),
        "rm": ("objects", "Delete objects or a folder."),
        "versions": ("versions", "Keep, compare, label and restore versions of an object."),
        "query": ("query", "Run SQL over stored CSV, JSON and Parquet objects."),
    },
    "Between stores": {
        "migrate": ("migration", "Copy everything from one store to another."),
        "check": ("migration", "Compare two stores."),
        "backup": ("archives", "Write a store into one archive."),
        "restore": ("archives", "Store what is in an archive."),
        "import": ("archives", "Save what AgentOperatingSystem's file backend stored."),
    },
    "Tasks, tables and queues": {
        "tasks": ("tasks", "Submit, follow, cancel and requeue tasks."),
        "tables": ("tables", "Query tables."),
        "queues": ("queues", "Look into queues, send to them and clear them."),
        "conversations": ("conversations", "Show, extend, copy and export conversations."),
    },
    "Operation": {
        "doctor": ("doctor", "Find out what is wrong, and what mends it."),
        "sweep": ("doctor", "Remove expired objects."),
        "access": ("access", "Check, keep and show the access policy."),
        "audit": ("audit", "Look for tampering in an audit log."),
        "keys": ("keys", "Make encryption keys, and encrypt anew with the newest."),
        "completion": ("completion", "Print the completion script of a shell."),
    },
}
"""By section of the help: the module of ``commands/`` and what the command does."""

_MODULES = {name: module for section in COMMANDS.values() for name, (module, _) in section.items()}
_SUMMARIES = {name: text for section in COMMANDS.values() for name, (_, text) in section.items()}


class _Commands(core.TyperGroup):
    """A group whose commands are imported when they are called, not to list them."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(_MODULES)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in _MODULES:
            return None
        if cmd_name not in self.commands:
            module = import_module(f"storage_lib.cli.commands.{_MODULES[cmd_name]}")
            found = get_command(module.app)
            # A module is a group with its own name, or holds several commands of the first level.
            alone = isinstance(found, core.TyperGroup) and module.app.info.name != cmd_name
            self.commands[cmd_name] = found.commands[cmd_name] if alone else found  # pyright: ignore[reportAttributeAccessIssue]
        return self.commands[cmd_name]

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in _MODULES and not args[0].startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(args[0], _MODULES, 2)
            hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
            ctx.fail(f"No such command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        for section, commands in COMMANDS.items():
            with formatter.section(section):
                formatter.write_dl([(name, summary) for name, (_, summary) in commands.items()])

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        from typer._click.shell_completion import CompletionItem

        names = [name for name in _MODULES if name.startswith(incomplete)]
        if names:
            return [CompletionItem(name, help=_SUMMARIES[name]) for name in names]
        return super().shell_complete(ctx, incomplete)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"{NAME} {version(NAME)}")
        except PackageNotFoundError:  # It runs from the source tree.
            import tomllib
            from pathlib import Path

            project = Path(__file__).parents[2] / "pyproject.toml"
            print(f"{NAME} {tomllib.loads(project.read_text())['project']['version']}")
        raise typer.Exit


def _root(
    context: typer.Context,
    store: Annotated[str | None, typer.Option("--store", metavar="URL", help=STORE_HELP)] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show the log, and where in the program an error arose.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Save, load and list objects, follow tasks and run stores, from the command line.

    A store is named by a URL: file:./data, azure:, azure://account/container, s3://bucket, or
    http://host/api for an app. Without --store it is AGENT_STORAGE_URL, or what the settings of the
    environment select.

    Exit codes: 0 done, 1 failed in part, 2 wrong usage, 3 not found, 4 refused, 5 unavailable (try again).
    """
    context.obj = Program(store=store, verbose=verbose)


def run(arguments: Sequence[str]) -> None:
    """Run a command and end the process as its outcome demands. It never returns."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # It was closed.
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - it stays open to the end
    # Most of what a command makes lives to its end. To look for garbage more often takes a tenth of the time
    # of a long listing.
    gc.set_threshold(20_000, 20, 20)
    read_plainly()
    program = typer.Typer(
        cls=_Commands,
        rich_markup_mode=None,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        no_args_is_help=True,
    )
    program.callback()(_root)
    command: Any = get_command(program)
    verbose = any(each in ("-v", "--verbose") for each in arguments)
    if COMPLETION_VARIABLE in os.environ:
        from typer._completion_classes import completion_init

        completion_init()
    try:
        code = command.main(args=list(arguments), prog_name=NAME, standalone_mode=False)
        outcome = Exit(code or Exit.DONE)
    except BaseException as error:
        outcome = report(error, verbose=verbose)
    end(outcome)
