"""Entities of tables."""

from __future__ import annotations

from typing import Annotated, Any, TypedDict

from msgspec import Meta

from functions.openapi.schemas import Moment, NextPage

_Key = Annotated[
    str,
    Meta(
        pattern=r"^[^/\\#?\u0000-\u001f\u007f-\u009f\ufffe\uffff]*$",
        description="At most 512 characters without `/`, `\\`, `#` and `?`; it may be empty.",
    ),
]
_TYPES = ("String", "Boolean", "Int32", "Int64", "Double", "DateTime", "Guid", "Binary")
_PROPERTIES = {
    "propertyNames": {"pattern": r"^[A-Za-z_][A-Za-z0-9_]{0,254}(@odata\.type)?$"},
    "patternProperties": {r"@odata\.type$": {"enum": [f"Edm.{name}" for name in _TYPES]}},
}
"""Of entities in requests."""


class NamedResource(TypedDict):
    """A table or a queue."""

    name: str
    owner: Annotated[
        str | None, Meta(description="What of the app it belongs to, such as `tasks`; null: to its users.")
    ]


class TablePage(TypedDict):
    """Tables that the caller may use, by name."""

    tables: list[NamedResource]
    cursor: NextPage


class Entity(TypedDict):
    """A row: two keys, and properties of its own, with `NAME@odata.type` where JSON has no such type."""

    PartitionKey: _Key
    RowKey: _Key
    Timestamp: Annotated[Moment, Meta(description="When it was changed last.")]
    etag: Annotated[str, Meta(description="Its ETag without the quotes.")]


class NewEntity(TypedDict):
    """A row to add: two keys, and properties of its own, with `NAME@odata.type` as in answers."""

    PartitionKey: _Key
    RowKey: _Key


EntityProperties = Annotated[
    dict[str, Any],
    Meta(
        description="The properties; the keys may be among them, if they are those of the URL. What was read"
        " can be changed and sent back.",
        extra_json_schema=_PROPERTIES,
    ),
]


class EntityWritten(TypedDict):
    """The keys of what was written, and its ETag."""

    PartitionKey: _Key
    RowKey: _Key
    etag: str


class EntityPage(TypedDict):
    """A page of entities, ordered by partition and row."""

    entities: list[dict[str, Any]]
    cursor: NextPage


CONSTRAINTS = {"NewEntity": _PROPERTIES}
