"""Tables and queues of a backend that has none: every operation tells what to configure instead."""

from __future__ import annotations

from typing import Any, NoReturn, cast

from storage_lib.errors import UnsupportedOperationError
from storage_lib.ports.drivers import QueueDriver, TableDriver
from storage_lib.ports.queues import QueueStore
from storage_lib.ports.tables import TableStore

_ELSEWHERE = (
    "keep tables and queues on Azure or in files: tables_and_queues='azure' or 'file' in StorageConfig"
    " (AGENT_STORAGE_TABLES_AND_QUEUES)"
)


def no_tables(backend: str, remedy: str = _ELSEWHERE) -> TableStore:
    """A table store whose every operation raises `UnsupportedOperationError`.

    :param backend: what has none, for the message.
    """
    return TableStore(_refusing(TableDriver, f"{backend} has no tables", remedy))


def no_queues(backend: str, remedy: str = _ELSEWHERE) -> QueueStore:
    """A queue store whose every operation raises `UnsupportedOperationError`."""
    return QueueStore(_refusing(QueueDriver, f"{backend} has no queues", remedy))


def _refusing[Driver](driver: type[Driver], message: str, remedy: str) -> Driver:
    async def refuse(*_: Any, **__: Any) -> NoReturn:
        raise UnsupportedOperationError(message, remedy=remedy)

    methods: frozenset[str] = getattr(driver, "__abstractmethods__", frozenset())
    return cast("Driver", type(driver.__name__, (driver,), dict.fromkeys(methods, refuse))())
