"""Arguments and options that several commands have, and what they say about results."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from storage_lib.cli.command import Run

if TYPE_CHECKING:
    from storage_lib.ports.object_model import PutResult

Key = Annotated[str, typer.Argument(metavar="KEY", help="The object, such as configs/ceo.json.")]
Recursive = Annotated[bool, typer.Option("--recursive", "-r", help="A folder, with all that is below it.")]
ContentType = Annotated[
    str | None,
    typer.Option("--content-type", "-t", metavar="TYPE", help="By default what the name of the file says."),
]
Metadata = Annotated[
    list[str] | None, typer.Option("--meta", "-m", metavar="NAME=VALUE", help="Metadata; may be repeated.")
]
Prefix = Annotated[str, typer.Option("--prefix", help="Only objects whose keys begin so.")]
TableNames = Annotated[
    list[str] | None,
    typer.Option("--table", metavar="NAME", help="This table: a name, or a pattern; repeatable."),
]
NoTables = Annotated[bool, typer.Option("--no-tables", help="No tables.")]
Sealed = Annotated[
    bool, typer.Option("--sealed", help="The stored bytes as they are, encrypted and compressed.")
]
IfAbsent = Annotated[bool, typer.Option("--if-absent", help="Never replace an object.")]
IfMatch = Annotated[
    str | None, typer.Option("--if-match", metavar="ETAG", help="Only if the object has this ETag.")
]


def found_any(run: Run, prefix: str, count: int) -> None:
    """:raises KeyNotFoundError: there was nothing below a folder."""
    if not count and not run.has_failed:
        from storage_lib.errors import KeyNotFoundError

        raise KeyNotFoundError(
            f"there is no object below {prefix!r}", remedy="agent-storage ls shows what is"
        )


def put_fields(result: "PutResult") -> dict[str, Any]:
    """The result of a save, as JSON shows it."""
    return {"key": result.key, "etag": result.etag, "size": result.size, "created": result.created}
