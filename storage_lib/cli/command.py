"""A command: its common options, and what it is given to work with."""

import functools
import inspect
import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, TypeIs

import typer

from storage_lib.cli.exits import EndError, Exit, is_terminal, say, tell, warn
from storage_lib.cli.output import Output
from storage_lib.cli.text import printable

if TYPE_CHECKING:
    from storage_lib.config import StorageConfig
    from storage_lib.manager import StorageManager

NAME = "agent-storage"
COMPLETION_VARIABLE = f"_{NAME.upper().replace('-', '_')}_COMPLETE"
"""What a shell sets to ask for completions, as typer names it."""
STORE_VARIABLE = "AGENT_STORAGE_URL"
STORE_HELP = "The store; see agent-storage --help."


@dataclass(frozen=True, slots=True)
class Program:
    """What was said before the command's name."""

    store: str | None = None
    verbose: bool = False


class Run:
    """What a command works with: the chosen store, stdout, and the user."""

    def __init__(self, store: str | None, *, as_json: bool, yes: bool) -> None:
        self.store = store
        self.out = Output(as_json=as_json)
        self.yes = yes
        self._failures = 0

    @functools.cached_property
    def config(self) -> "StorageConfig":
        """The configuration of the store.

        :raises ConfigurationError: it cannot work.
        """
        if self.store is None:
            from storage_lib.config import StorageConfig

            return StorageConfig.from_env()
        from storage_lib.urls import config_of

        return config_of(self.store)

    @property
    def is_remote(self) -> bool:
        """Whether the store is an app, reached over HTTP."""
        return self.config.storage_type == "http"

    def check_exists(self, url: str) -> None:
        """
        :raises KeyNotFoundError: the URL names a folder that does not exist.
        """
        from storage_lib.urls import config_of

        _existing(config_of(url))

    @asynccontextmanager
    async def open(self, *, creating: bool = False) -> "AsyncGenerator[StorageManager]":
        """The store, open.

        :param creating: whether a folder that does not exist is created, instead of being not found.
        """
        from storage_lib.manager import StorageManager

        if not creating:
            _existing(self.config)
        async with StorageManager(self.config) as storage:
            yield storage

    def confirm(self, question: str) -> None:
        """Ask before something is destroyed, unless the answer was given: ``--yes``.

        :raises EndError: the answer is no, or there is nobody to ask.
        """
        if self.yes:
            return
        if not (is_terminal(sys.stdin) and is_terminal(sys.stderr)):
            say(f"error: {printable(question)} There is no terminal to ask on.\n  remedy: add --yes")
            raise EndError(Exit.REFUSED)
        sys.stderr.write(f"{printable(question)} [y/N] ")
        sys.stderr.flush()
        from storage_lib.cli.interrupts import interruptible

        with interruptible():
            answer = sys.stdin.readline()
        if not answer.endswith("\n"):
            say("")
        if answer.strip().lower() not in ("y", "yes"):
            say("Nothing was changed.")
            raise EndError(Exit.REFUSED)

    def note(self, message: str) -> None:
        """Say on a terminal what was done; scripts know it from the exit code."""
        if is_terminal(sys.stderr) and not self.out.as_json:
            say(printable(message))

    def failed(self, about: str, error: BaseException) -> None:
        """Say that one of several things failed; the program goes on, and its end tells."""
        self._failures += 1
        tell(error, about)

    @contextmanager
    def several(self, about: str, count: int) -> Generator[None]:
        """One of several things: its error is told and the others go on. That of the only one is raised."""
        from storage_lib.errors import StorageError

        try:
            yield
        except (StorageError, OSError) as error:
            if count == 1:
                raise
            self.failed(about, error)

    @property
    def has_failed(self) -> bool:
        return bool(self._failures)

    def end(self, *, ok: bool) -> None:
        """The exit code tells whether all is as it was to be."""
        self._failures += not ok

    def finish(self) -> None:
        """:raises EndError: something has `failed`."""
        if self._failures:
            raise EndError(Exit.FAILED)


def _existing(config: "StorageConfig") -> None:
    from pathlib import Path

    if config.storage_type == "file" and not Path(config.base_path).is_dir():
        from storage_lib.errors import KeyNotFoundError

        raise KeyNotFoundError(
            f"the store is the folder {str(config.base_path)!r}, which does not exist",
            remedy=f"name another with --store or {STORE_VARIABLE}; saving an object creates the folder",
        )


def group(name: str, help: str) -> typer.Typer:
    """A command with commands of its own."""
    app = typer.Typer(name=name, help=help, no_args_is_help=True, rich_markup_mode=None, add_completion=False)
    app.callback()(lambda: None)  # It stays a group even if it has one command.
    return app


def commands() -> typer.Typer:
    """Holds commands of the first level."""
    return typer.Typer(rich_markup_mode=None, add_completion=False)


_STORE = Annotated[str | None, typer.Option("--store", metavar="URL", help=STORE_HELP)]
_JSON = Annotated[bool, typer.Option("--json", help="Write JSON: one document, or a line for each item.")]
_YES = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
_VERBOSE = Annotated[bool, typer.Option("--verbose", "-v", help="Show the log and the place of an error.")]
_COMMON = {
    name: inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=False if name != "store" else None, annotation=kind
    )
    for name, kind in (("store", _STORE), ("json", _JSON), ("yes", _YES), ("verbose", _VERBOSE))
}


def command[**P](
    app: typer.Typer, name: str, *, store: bool = True, json: bool = False, yes: bool = False
) -> Callable[
    [Callable[Concatenate[Run, P], Coroutine[Any, Any, None]]],
    Callable[Concatenate[Run, P], Coroutine[Any, Any, None]],
]:
    """Register a coroutine function as a command. Its first parameter is the `Run`, the others are those of
    typer, and its docstring is the help. A parameter whose type is a dataclass stands for options that
    several commands share: one for each field.

    :param store: whether it has the option ``--store``.
    :param json: whether it can write JSON.
    :param yes: whether it asks for confirmation.
    """
    chosen = {"store": store, "json": json, "yes": yes, "verbose": True}

    def register(
        function: Callable[Concatenate[Run, P], Coroutine[Any, Any, None]],
    ) -> Callable[Concatenate[Run, P], Coroutine[Any, Any, None]]:
        parameters = list(inspect.signature(function).parameters.values())[1:]
        shared = {each.name: each.annotation for each in parameters if _is_shared(each.annotation)}
        own = [option for each in parameters for option in _options(each)]
        common = [_COMMON[each] for each, wanted in chosen.items() if wanted]
        context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)

        def start(context: typer.Context, **given: Any) -> None:
            program: Program = context.obj or Program()
            _listen(verbose=given.pop("verbose") or program.verbose)
            where = given.pop("store", None) or program.store or os.environ.get(STORE_VARIABLE)
            run = Run(where or None, as_json=given.pop("json", False), yes=given.pop("yes", False))
            for name, kind in shared.items():
                given[name] = kind(**{each.name: given.pop(each.name) for each in fields(kind)})
            from storage_lib.cli import interrupts

            interrupts.run(_through(function(run, **given), run))  # pyright: ignore[reportCallIssue]

        functools.update_wrapper(start, function)
        vars(start).pop("__wrapped__")
        keywords = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own]
        signature = inspect.Signature([context, *keywords, *common])
        vars(start)["__signature__"] = signature
        start.__annotations__ = {each.name: each.annotation for each in signature.parameters.values()}
        app.command(name)(start)
        return function

    return register


def _options(parameter: inspect.Parameter) -> list[inspect.Parameter]:
    kind = parameter.annotation
    return list(inspect.signature(kind).parameters.values()) if _is_shared(kind) else [parameter]


def _is_shared(kind: Any) -> TypeIs[type[Any]]:
    return isinstance(kind, type) and is_dataclass(kind)


async def _through(doing: Awaitable[None], run: Run) -> None:
    await doing
    run.out.flush()
    run.finish()


def _listen(*, verbose: bool) -> None:
    """Show the log on stderr: warnings, or all of it."""
    import logging

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.WARNING:
                warn(record.getMessage())
            else:
                say(f"{record.name}: {record.getMessage()}", lines=True)

    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[Handler()])
    if not verbose:
        # Their faults are raised as errors, which are told.
        logging.getLogger("azure").setLevel(logging.CRITICAL)
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
