"""The data types of the table port: entities, pages of queries, and operations that change entities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from storage_lib.frozen import quick
from storage_lib.ports.entities import EntityValue

UpdateMode = Literal["merge", "replace"]
"""What happens to properties that are not given: ``merge`` keeps them, ``replace`` drops them. None
counts as not given, so a merge cannot remove a property (Azure ignores nulls when it merges)."""


@quick
@dataclass(frozen=True, slots=True)
class Entity:
    """A row: its two keys, its properties, and the ETag that it had when it was read."""

    partition_key: str
    row_key: str
    properties: Mapping[str, Any]
    etag: str
    timestamp: datetime

    def selected(self, names: list[str] | None) -> Entity:
        """The entity with only these properties; None keeps all."""
        if names is None:
            return self
        kept = {name: self.properties[name] for name in names if name in self.properties}
        return Entity(self.partition_key, self.row_key, kept, self.etag, self.timestamp)


@dataclass(frozen=True, slots=True)
class EntityPage:
    """A page of a query. Pass ``cursor`` to get the next page; None means that there is none."""

    entities: list[Entity]
    cursor: str | None


@quick
@dataclass(frozen=True, slots=True)
class Insert:
    """In a `TableStore.batch`: like `TableStore.insert`."""

    row_key: str
    properties: Mapping[str, EntityValue] = field(default_factory=dict[str, EntityValue])


@quick
@dataclass(frozen=True, slots=True)
class Upsert:
    """In a `TableStore.batch`: like `TableStore.upsert`."""

    row_key: str
    properties: Mapping[str, EntityValue] = field(default_factory=dict[str, EntityValue])
    mode: UpdateMode = "merge"


@quick
@dataclass(frozen=True, slots=True)
class Update:
    """In a `TableStore.batch`: like `TableStore.update`."""

    row_key: str
    properties: Mapping[str, EntityValue] = field(default_factory=dict[str, EntityValue])
    etag: str | None = None
    mode: UpdateMode = "merge"


@dataclass(frozen=True, slots=True)
class Delete:
    """In a `TableStore.batch`: like `TableStore.delete`."""

    row_key: str
    etag: str | None = None


type TableOperation = Insert | Upsert | Update | Delete
