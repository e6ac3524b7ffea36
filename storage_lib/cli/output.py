"""What commands write to stdout: data, for a terminal, a pipe or a program that reads JSON."""

import errno
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from storage_lib.cli.exits import PipeClosedError, is_terminal, styled
from storage_lib.cli.text import printable, printable_json


class Output:
    """Stdout. A reader that has gone raises `PipeClosedError`.

    :param as_json: whether a program reads it: JSON.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self.is_terminal = is_terminal(sys.stdout)
        if isinstance(sys.stdout.encoding, str):
            # Data is UTF-8 for every reader, and a terminal that shows less shows what it can.
            encoding = sys.stdout.encoding if self.is_terminal else "utf-8"
            sys.stdout.reconfigure(encoding=encoding, errors="backslashreplace")  # pyright: ignore

    def line(self, text: str, *, mark: str = "", style: str = "") -> None:
        """Write one line.

        :param mark: a word before it, which a terminal shows in ``style``.
        """
        shown = printable(text, lines=True) if self.is_terminal else text
        self._write(f"{styled(mark, style, sys.stdout)} {shown}\n" if mark else f"{shown}\n")

    def text(self, text: str) -> None:
        """Write text as it is, line ends included."""
        self._write(printable(text, lines=True) if self.is_terminal else text)

    def answer(self, value: Any, line: str | None = None) -> None:
        """Write the answer of a command: JSON for a program, else a line, if there is one."""
        if self.as_json:
            self.document(value)
        elif line is not None:
            self.line(line)

    def each[T](
        self,
        values: Iterable[T],
        headings: Sequence[str],
        row: Callable[[T], Sequence[str]],
        item: Callable[[T], Any] = lambda value: value,
    ) -> None:
        """Write several values: a line of JSON for each, or a table."""
        if self.as_json:
            for value in values:
                self.item(item(value))
        else:
            self.table(headings, map(row, values))

    def document(self, value: Any) -> None:
        """Write a value as JSON on one line, or indented for a terminal."""
        self._write(self.json(value, indent=2 if self.is_terminal else 0) + "\n")

    def item(self, value: Any) -> None:
        """Write one of several values: a line of JSON Lines."""
        self._write(self.json(value) + "\n")

    def json(self, value: Any, indent: int = 0) -> str:
        """The JSON of a value. Bytes are base64, times ISO 8601, decimals and UUIDs text."""
        import msgspec

        data = msgspec.json.encode(value, enc_hook=_plain)
        text = (msgspec.json.format(data, indent=indent) if indent else data).decode()
        return printable_json(text) if self.is_terminal else text

    def table(self, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Write rows: aligned and with headings on a terminal, else separated by tabs, as ``cut`` takes
        them. Tabs and line ends in a cell are written out."""
        if not self.is_terminal:
            for row in rows:
                self._write("\t".join(map(_cell, row)) + "\n")
            return
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        for heading in headings:
            table.add_column(heading, overflow="fold", justify="right" if heading == "SIZE" else "left")
        for row in rows:
            table.add_row(*(Text(printable(each)) for each in row))
        if table.row_count:
            console = Console(file=sys.stdout, highlight=False)
            with console.capture() as captured:
                console.print(table)
            self._write("".join(f"{each.rstrip()}\n" for each in captured.get().splitlines()))

    def bytes(self, data: bytes) -> None:
        """Write bytes as they are; not to a terminal."""
        try:
            sys.stdout.buffer.write(data)
        except BrokenPipeError as error:
            raise PipeClosedError from error

    def flush(self) -> None:
        """Hand on what was written, for a reader that waits."""
        try:
            sys.stdout.flush()
        except BrokenPipeError as error:
            raise PipeClosedError from error

    def _write(self, text: str) -> None:
        try:
            sys.stdout.write(text)
        except BrokenPipeError as error:
            raise PipeClosedError from error
        except OSError as error:
            if error.errno == errno.EINVAL:  # How Windows says it.
                raise PipeClosedError from error
            raise


def _cell(text: str) -> str:
    return text.translate({ord("\t"): "\\t", ord("\n"): "\\n", ord("\r"): "\\r"})


def _plain(value: Any) -> Any:
    if callable(tolist := getattr(value, "tolist", None)):  # An array.
        return tolist()
    if callable(dump := getattr(value, "model_dump", None)):
        return dump(mode="json")
    raise TypeError(f"a {type(value).__name__} has no JSON")
