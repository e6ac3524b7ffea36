"""How the program ends: its exit codes, and what it says about an error."""

import contextlib
import errno
import os
import signal
import sys
from enum import IntEnum
from typing import Any, NoReturn

from storage_lib.cli.text import printable


class Exit(IntEnum):
    """The exit codes. Whoever interrupts the program, or closes the pipe that it writes to, is answered with
    the signal itself, as by other programs: a shell shows 130 and 141."""

    DONE = 0
    FAILED = 1
    """It failed, or part of it did."""
    USAGE = 2
    """The command, an argument or the configuration can never work."""
    NOT_FOUND = 3
    REFUSED = 4
    """Permissions, a condition, a limit, a rule, or a confirmation that was not given."""
    UNAVAILABLE = 5
    """The store cannot be reached or is too busy; a retry may help."""
    INTERRUPTED = 130
    PIPE_CLOSED = 141


class PipeClosedError(Exception):
    """Whoever read stdout has had enough of it."""


class EndError(Exception):
    """Ends the program with this code; everything has been said."""

    def __init__(self, code: Exit) -> None:
        super().__init__(code)
        self.code = code


def exit_of(error: BaseException) -> Exit:
    """The code for an error."""
    from storage_lib import errors

    match error:
        case EndError():
            return error.code
        case KeyboardInterrupt():
            return Exit.INTERRUPTED
        case SystemExit(code=int(code)) if not isinstance(error.__context__, OSError):
            return Exit(code)
        case PipeClosedError() | SystemExit():  # typer's, for a help that nobody wants to read to its end.
            return Exit.PIPE_CLOSED
        case errors.KeyNotFoundError() | FileNotFoundError():
            return Exit.NOT_FOUND
        case errors.PreconditionFailedError() | errors.RuleViolationError() | errors.QuotaExceededError():
            return Exit.REFUSED
        case errors.ObjectTooLargeError() | PermissionError() | FileExistsError():
            return Exit.REFUSED
        case errors.StorageError(code="task-state" | "idempotency-conflict"):
            return Exit.REFUSED
        case errors.TransientStorageError():
            return Exit.UNAVAILABLE
        case errors.InvalidKeyError() | errors.InvalidArgumentError() | errors.ConfigurationError():
            return Exit.USAGE
        case errors.UnsupportedOperationError():
            return Exit.USAGE
        case _:
            return Exit.FAILED


def report(error: BaseException, *, verbose: bool) -> Exit:
    """Say on stderr what went wrong, and return the exit code."""
    error = first(error)
    if verbose and not isinstance(error, PipeClosedError | EndError | KeyboardInterrupt | SystemExit):
        import traceback

        for line in traceback.format_exception(error):
            say(line.rstrip("\n"), lines=True)
    if callable(show := getattr(error, "show", None)):  # Of typer: the usage and a hint come before it.
        show()
        return Exit.USAGE
    code = exit_of(error)
    if not isinstance(error, PipeClosedError | EndError | KeyboardInterrupt | SystemExit):
        tell(error)
    return code


def first(error: BaseException) -> BaseException:
    """The first error of a group, which is what it was about."""
    while isinstance(error, BaseExceptionGroup):
        found: Any = error.exceptions[0]
        error = found
    return error


def tell(error: BaseException, about: str = "") -> None:
    """Say what an error is on stderr, with its limit and remedy."""
    from storage_lib.errors import StorageError

    before = f"{about}: " if about else ""
    if isinstance(error, StorageError):
        message = error.message
        for more in (error.limit and f"  limit: {error.limit}", error.remedy and f"  remedy: {error.remedy}"):
            message += f"\n{more}" if more else ""
    elif isinstance(error, OSError) and error.strerror:
        named = f"{error.filename}: " if error.filename is not None else ""
        message = f"{named}{error.strerror}"
    elif isinstance(error, OSError) and str(error):
        message = str(error)
    else:
        message = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    say(f"{styled('error:', '31;1')} {printable(before + message, lines=True)}")


def warn(message: str) -> None:
    """Say something on stderr that needs attention."""
    say(f"{styled('warning:', '33;1')} {printable(message, lines=True)}")


def say(message: str, *, lines: bool = False) -> None:
    """Say something on stderr; nobody need listen."""
    with contextlib.suppress(OSError, ValueError):
        print(printable(message, lines=True) if lines else message, file=sys.stderr, flush=True)


def styled(text: str, style: str, stream: Any = None) -> str:
    """With a style if the stream, by default stderr, shows it (https://no-color.org)."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    if plain or not is_terminal(stream or sys.stderr):
        return text
    return f"\033[{style}m{text}\033[0m"


def is_terminal(stream: Any) -> bool:
    """Whether a stream is one; a closed or missing stream is none."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:
        return False


def end(outcome: Exit) -> NoReturn:
    """End the process with this code, or by the signal that it stands for."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:  # pyright: ignore[reportUnnecessaryComparison]
                stream.flush()
        except (OSError, ValueError) as error:
            if outcome is Exit.DONE and stream is sys.stdout:
                closed = isinstance(error, OSError) and error.errno == errno.EPIPE
                outcome = Exit.PIPE_CLOSED if closed else report(error, verbose=False)
    numbers = {Exit.INTERRUPTED: "SIGINT", Exit.PIPE_CLOSED: "SIGPIPE"}
    number = getattr(signal, numbers.get(outcome, ""), None)
    if number is not None:
        # A shell that runs a script then knows that it was interrupted too.
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    # What was written is flushed. Threads that wait for a server do not hold up the end.
    os._exit(outcome)
