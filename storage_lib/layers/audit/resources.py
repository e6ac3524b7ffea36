"""What an operation is called in the log: its action, and the resources that it is done to."""

from __future__ import annotations

from storage_lib.layers.base import Operation

WRITES = frozenset(
    {
        "objects.put",
        "objects.put_stream",
        "objects.delete",
        "objects.copy",
        "objects.touch",
        "objects.link",
        "tables.create_table",
        "tables.insert",
        "tables.upsert",
        "tables.update",
        "tables.delete",
        "tables.batch",
        "queues.create_queue",
        "queues.send",
        "queues.delete",
        "queues.update",
        "queues.clear",
    }
)
"""All others are reads. So is receiving a message, which hides it for a while. A link counts as a write: it
lets others in."""


def named(operation: Operation) -> list[tuple[str, str]]:
    """(action, resource) of an operation: ``objects/KEY``, ``queues/QUEUE``, ``tables/TABLE``,
    ``tables/TABLE/PARTITION/ROW``. No table key has a slash. A batch changes several."""
    port, name, target = operation.port, operation.name, operation.target
    action = f"{port}.{name}"
    if port == "objects":
        return [(action, f"objects/{operation.arguments[0] if name == 'copy' else target}")]
    if port == "queues" or name in ("create_table", "query", "list_tables"):
        return [(action, f"{port}/{target}")]
    pk, what = operation.arguments
    place = f"tables/{target}/{pk}/"
    if name == "batch":
        return [(f"tables.{type(each).__name__.lower()}", place + each.row_key) for each in what]
    return [(action, place + (what if isinstance(what, str) else what.row_key))]
