"""How far something is: on a terminal, with rate and remaining time, and nowhere else."""

import os
import stat
import sys
import time
from types import TracebackType
from typing import Any, Self

from storage_lib.cli.exits import is_terminal
from storage_lib.cli.text import printable

_QUIET_SECONDS = 0.5
"""What is done by then needs no progress."""


class Progress:
    """A line on stderr while something goes on.

        with Progress("Saving", total=size) as progress:
            progress.advance(len(chunk))

    :param total: of bytes or things; None if it is not known.
    :param unit: ``B`` for bytes, else the noun of the things.
    """

    def __init__(self, doing: str, *, total: int | None = None, unit: str = "B") -> None:
        self._doing = printable(doing)
        self._total = total
        self._unit = unit
        self._done = 0
        self._shown = is_terminal(sys.stderr) and not _is_pipe()
        self._since = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def expect(self, total: int | None) -> None:
        """Set the total, once it is known."""
        self._total = total
        if self._bar is not None:
            self._bar.update(self._task, total=total)

    def advance(self, by: int = 1) -> None:
        """So much more is done."""
        self._done += by
        if not self._shown:
            return
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done)
        elif time.monotonic() - self._since > _QUIET_SECONDS:
            self._begin()

    def reach(self, done: int) -> None:
        """So much is done in all."""
        self.advance(done - self._done)

    def _begin(self) -> None:
        from rich import progress as rich
        from rich.console import Console

        amounts: list[Any]
        if self._unit == "B":
            amounts = [rich.DownloadColumn(binary_units=True), rich.TransferSpeedColumn()]
        else:
            amounts = [rich.MofNCompleteColumn(), rich.TextColumn(self._unit), _Rate()]
        self._bar = rich.Progress(
            rich.TextColumn("{task.description}", markup=False),
            rich.BarColumn(),
            *amounts,
            rich.TimeRemainingColumn(compact=True),
            console=Console(file=sys.stderr),
            transient=True,
        )
        self._bar.start()
        self._task = self._bar.add_task(self._doing, total=self._total, completed=self._done)


def _Rate() -> Any:  # noqa: N802 - a class, made once rich is imported
    from rich.progress import ProgressColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text("" if task.speed is None else f"{task.speed:.0f}/s", style="progress.data.speed")

    return Rate()


def _is_pipe() -> bool:
    """Whether stdout goes to another program, which may use the terminal itself."""
    try:
        return stat.S_ISFIFO(os.fstat(sys.stdout.fileno()).st_mode)
    except (OSError, ValueError, AttributeError):
        return False
