"""What outlives an invocation: the storage and the task engine of this process."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from functools import cached_property

from functions.limits import DEFAULT_JSON_BYTES, checked_body_limit, function_timeout
from storage_lib.config import StorageConfig
from storage_lib.errors import ConfigurationError
from storage_lib.manager import StorageManager
from storage_lib.tasks.engine import LEASE_SECONDS, TaskEngine
from storage_lib.tasks.registry import Registry

DEFAULT_MAX_BODY_BYTES = 64 * 1024 * 1024
"""Below the platform's own limit of 100 MB, so that the answer to a larger body is ours and says why."""

MIN_RETENTION_DAYS = 8.0
"""Longer than any message can be hidden (`MAX_VISIBILITY_SECONDS`), and than an idempotency key stands."""


@dataclass
class AppState:
    """Made at the first invocation, from the app settings; connections stay open between invocations."""

    config: StorageConfig

    @cached_property
    def storage(self) -> StorageManager:
        return StorageManager(self.config)

    @cached_property
    def engine(self) -> TaskEngine:
        modules = [name.strip() for name in os.environ.get("AGENT_TASK_MODULES", "").split(",")]
        lease = _positive("AGENT_TASK_LEASE_SECONDS", LEASE_SECONDS)
        registry = Registry(filter(None, modules), host_timeout=function_timeout())
        return TaskEngine(self.storage, registry, lease_seconds=lease)

    @cached_property
    def task_retention_days(self) -> float:
        days = _positive("AGENT_TASK_RETENTION_DAYS", 30)
        if days < MIN_RETENTION_DAYS:
            # A hidden message would outlive the record of its task, which had been cancelled, and run it.
            raise ConfigurationError(
                f"AGENT_TASK_RETENTION_DAYS is {days:g}, and a message can be hidden for 7 days",
                field="AGENT_TASK_RETENTION_DAYS",
                limit=f"{MIN_RETENTION_DAYS:g} or more",
            )
        return days

    @cached_property
    def max_body_bytes(self) -> int:
        return checked_body_limit(int(_positive("AGENT_STORAGE_MAX_BODY_BYTES", DEFAULT_MAX_BODY_BYTES)))

    @cached_property
    def max_json_bytes(self) -> int:
        return int(_positive("AGENT_STORAGE_MAX_JSON_BYTES", DEFAULT_JSON_BYTES))

    def check_settings(self) -> None:
        """:raises ConfigurationError: a setting or a task module can not work."""
        self.engine.registry.names()
        _ = self.max_body_bytes, self.max_json_bytes, self.task_retention_days


_states: dict[asyncio.AbstractEventLoop, AppState] = {}


def state() -> AppState:
    """The state that belongs to the running event loop (the worker has one; clients can not change loops).

    :raises ConfigurationError: an app setting can not work; ``field`` names it.
    """
    loop = asyncio.get_running_loop()
    if loop not in _states:
        _states[loop] = AppState(StorageConfig.from_env())
    return _states[loop]


async def shutdown() -> None:
    """Close what the running loop opened; the host calls it when it stops."""
    found = _states.pop(asyncio.get_running_loop(), None)
    if found is not None and "storage" in found.__dict__:
        await found.storage.close()


def _positive(setting: str, default: float) -> float:
    text = os.environ.get(setting)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value < float("inf"):
        raise ConfigurationError(f"{setting} is {text!r}", field=setting, limit="a number above 0")
    return value
