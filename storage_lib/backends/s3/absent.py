"""Tables and queues, which S3 has not: whatever is asked of them, they say what to configure instead."""

from __future__ import annotations

from typing import Any, NoReturn, cast

from storage_lib.errors import UnsupportedOperationError
from storage_lib.ports.drivers import QueueDriver, TableDriver
from storage_lib.ports.queues import QueueStore
from storage_lib.ports.tables import TableStore


def no_tables() -> TableStore:
    """A table store whose every operation raises `UnsupportedOperationError`."""
    return TableStore(_refusing(TableDriver, "tables"))


def no_queues() -> QueueStore:
    """A queue store whose every operation raises `UnsupportedOperationError`."""
    return QueueStore(_refusing(QueueDriver, "queues"))


def _refusing[Port](port: type[Port], what: str) -> Port:
    async def refuse(*_: Any, **__: Any) -> NoReturn:
        raise UnsupportedOperationError(
            f"S3 has no {what}",
            remedy="keep tables and queues on Azure or in files: tables_and_queues='azure' or 'file' in"
            " StorageConfig (AGENT_STORAGE_TABLES_AND_QUEUES)",
        )

    # Whatever the port asks of a backend ends in the same sentence.
    hooks: frozenset[str] = getattr(port, "__abstractmethods__", frozenset())
    return cast("Port", type(f"No{what.title()}", (port,), dict.fromkeys(hooks, refuse))())
