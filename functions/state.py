"""What invocations share: the storage and the task engine of this process."""

from __future__ import annotations

import asyncio
import math
import os
from functools import cached_property
from typing import TYPE_CHECKING

from functions.addresses import admitted_origins, proxies, public_url
from functions.limits import DEFAULT_JSON_BYTES, MAX_BODY_BYTES, checked_body_limit, function_timeout
from functions.logs import sdk_level
from storage_lib.config import StorageConfig
from storage_lib.errors import ConfigurationError
from storage_lib.tasks.queues import queue_count

if TYPE_CHECKING:
    from functions.gauges import Gauges
    from functions.rates import Rates
    from functions.senders import Access

    # Imported by the first invocation that needs it: a cold start with another does not wait for it.
    from storage_lib.links import Signer
    from storage_lib.manager import StorageManager
    from storage_lib.tasks.engine import TaskEngine
    from storage_lib.tasks.registry import Registry

DEFAULT_MAX_BODY_BYTES = 64 * 1024 * 1024
"""Below the platform's own limit of 100 MB, so that the app answers a larger body, with the reason."""

LINK_BYTES = "AGENT_STORAGE_LINK_MAX_BYTES"
"""Set by the local host, which streams the bodies of links into the store."""

MIN_RETENTION_DAYS = 8.0
"""Longer than a message can be hidden (`MAX_VISIBILITY_SECONDS`) and than an idempotency key is valid."""

MAX_RETENTION_DAYS = 3660.0
"""Ten years: dates that long ago are still valid everywhere."""
MIN_LEASE_SECONDS = 1.0
MAX_LEASE_SECONDS = 3600.0
"""How long a task may wait for another worker after its own has died."""

REMEMBERED_TASKS = 256
"""At most 4 MiB."""
FLEX_WAITERS = 4
"""How many requests may wait for the end of a task on an instance of the Flex Consumption plan, which admits
only a few requests at once: half of the template's ``httpConcurrency``."""
MAX_WAITERS = 100_000

LOCAL_EVENT_SECONDS = 24 * 3600.0
"""How long an event stays on a developer's machine, where usually nobody takes any."""

ACTIONS = "actions"
"""The package of the app's own actions. The engine knows none of them."""


class AppState:
    """Created at the first invocation from the app settings; connections stay open between invocations."""

    def __init__(self, config: StorageConfig) -> None:
        self.config = config

    @cached_property
    def storage(self) -> StorageManager:
        from storage_lib.manager import StorageManager

        return StorageManager(self.config)

    @cached_property
    def engine(self) -> TaskEngine:
        from storage_lib.tasks.engine import TaskEngine

        return TaskEngine(
            self.storage,
            self.registry,
            lease_seconds=self.lease_seconds,
            payloads_as_objects=payloads_as_objects(),
            events=task_events(),
            remembered=REMEMBERED_TASKS,
            event_seconds=LOCAL_EVENT_SECONDS if is_local() else None,
            queues=queue_count(),
            max_waiters=self.max_waiters,
            storage_of=self.access.storage_of if os.environ.get("AGENT_STORAGE_ACCESS_POLICY") else None,
        )

    @cached_property
    def access(self) -> Access:
        from functions.senders import Access

        return Access(os.environ.get("AGENT_STORAGE_ACCESS_POLICY", ""), self.storage)

    @cached_property
    def users_storage(self) -> StorageManager:
        """What everyone may do without a policy: all but write to the app's own tables and queues."""
        from storage_lib.access import Grant, confined

        may = {"tables": ["*"], "queues": ["*"], "operate": ["*"]}
        return confined(self.storage, Grant("everyone", may=may), denied=self.access.denied)

    @cached_property
    def rates(self) -> Rates | None:
        per_second = _number("AGENT_STORAGE_RATE_PER_SECOND", 0, 0.001, 1_000_000)
        burst = _number("AGENT_STORAGE_RATE_BURST", max(1, math.ceil(10 * per_second)), 1, 1_000_000_000)
        if not per_second:
            if os.environ.get("AGENT_STORAGE_RATE_BURST"):
                raise ConfigurationError(
                    "AGENT_STORAGE_RATE_BURST limits nothing without AGENT_STORAGE_RATE_PER_SECOND",
                    field="AGENT_STORAGE_RATE_BURST",
                    remedy="set AGENT_STORAGE_RATE_PER_SECOND too, or remove it",
                )
            return None
        from functions.rates import Rates

        return Rates(per_second, int(burst), self._count_refusal)

    def _count_refusal(self) -> None:
        if (registry := self.storage.backend.metrics) is not None:
            registry.counter(
                "agent_http.rate_limited", unit="{request}", description="Requests refused by the rate limit"
            ).add(1)

    @cached_property
    def link_signer(self) -> Signer:
        from storage_lib.links import Signer

        return Signer(
            self.storage, os.environ.get("AGENT_STORAGE_LINK_SECRETS", "").replace(",", " ").split()
        )

    @cached_property
    def links_to_store(self) -> bool:
        """Whether links lead to the store itself where they can.

        :raises ConfigurationError: ``AGENT_STORAGE_LINKS`` is neither ``store`` nor ``app``.
        """
        return _choice("AGENT_STORAGE_LINKS", "store", "app") == "store"

    @cached_property
    def gauges(self) -> Gauges | None:
        registry = self.storage.backend.metrics
        if registry is None:
            return None
        from functions.gauges import Gauges

        return Gauges(self.storage, lambda: self.engine.queue_lengths(), registry)

    async def refresh_gauges(self) -> None:
        """Bring the gauges up to date, if metrics are on; called before they are shown."""
        if self.gauges is not None:
            await self.gauges.refresh()

    @cached_property
    def registry(self) -> Registry:
        return task_registry()

    @cached_property
    def lease_seconds(self) -> float:
        from storage_lib.tasks.engine import LEASE_SECONDS

        return _number("AGENT_TASK_LEASE_SECONDS", LEASE_SECONDS, MIN_LEASE_SECONDS, MAX_LEASE_SECONDS)

    @cached_property
    def task_retention_days(self) -> float:
        days = _number("AGENT_TASK_RETENTION_DAYS", 30, 0, MAX_RETENTION_DAYS)
        if days < MIN_RETENTION_DAYS:
            # A hidden message would outlive the record of its cancelled task, and run it.
            raise ConfigurationError(
                f"AGENT_TASK_RETENTION_DAYS is {days:g}, and a message can be hidden for 7 days",
                field="AGENT_TASK_RETENTION_DAYS",
                limit=f"{MIN_RETENTION_DAYS:g} or more",
            )
        return days

    @cached_property
    def max_waiters(self) -> float:
        most = FLEX_WAITERS if os.environ.get("WEBSITE_SKU") == "FlexConsumption" else MAX_WAITERS
        return _number("AGENT_TASK_WAITERS", most, 1, MAX_WAITERS)

    @cached_property
    def max_body_bytes(self) -> int:
        return checked_body_limit(
            int(_number("AGENT_STORAGE_MAX_BODY_BYTES", DEFAULT_MAX_BODY_BYTES, 1, math.inf))
        )

    @cached_property
    def max_link_bytes(self) -> int:
        """Of a save by a link through the app: what a request takes, unless the host streams it.

        :raises ConfigurationError: it is more, and this is the platform, which would refuse the request.
        """
        most = int(_number(LINK_BYTES, self.max_body_bytes, 1, math.inf))
        if most > self.max_body_bytes and not is_local():
            raise ConfigurationError(
                f"{LINK_BYTES} is {most}, and only the local host takes more by a link than by a request",
                field=LINK_BYTES,
                limit=f"{self.max_body_bytes} bytes (AGENT_STORAGE_MAX_BODY_BYTES)",
                remedy="remove it, or set it to that or less; larger objects go in parts to /api/uploads",
            )
        return most

    @cached_property
    def max_json_bytes(self) -> int:
        return int(_number("AGENT_STORAGE_MAX_JSON_BYTES", DEFAULT_JSON_BYTES, 1, MAX_BODY_BYTES))

    def check_settings(self) -> None:
        """Check all settings and import the task modules.

        :raises ConfigurationError: a setting or a task module cannot work.
        """
        self.check_numbers()
        self.registry.names()

    def check_numbers(self) -> None:
        """Check the numeric settings and the log level.

        :raises ConfigurationError: one is not a number or level, or out of range.
        """
        sdk_level()
        _ = (
            self.max_body_bytes,
            self.max_link_bytes,
            self.max_json_bytes,
            self.task_retention_days,
            self.lease_seconds,
        )
        _ = self.max_waiters, self.rates, payloads_as_objects(), messages_as_objects(), task_events()
        _ = queue_count(), self.links_to_store, proxies(), public_url(), admitted_origins()


_states: dict[asyncio.AbstractEventLoop, AppState] = {}


def state() -> AppState:
    """The state of the running event loop (the worker has one; clients cannot move between loops).

    :raises ConfigurationError: an app setting cannot work; ``field`` names it.
    """
    loop = asyncio.get_running_loop()
    if loop not in _states:
        made = AppState(StorageConfig.from_env())
        made.check_numbers()
        _states[loop] = made
        if made.config.metrics is not None and made.config.metrics.azure_monitor:
            from functions import monitor

            monitor.begin()
    return _states[loop]


def is_traced() -> bool:
    """Whether spans are made. With settings that cannot work there are none; the request says why."""
    try:
        metrics = state().config.metrics
    except ConfigurationError:
        return False
    return metrics is not None and metrics.traces


def task_registry() -> Registry:
    """The app's own actions and those of the modules that ``AGENT_TASK_MODULES`` names; imports none yet."""
    named = [name.strip() for name in os.environ.get("AGENT_TASK_MODULES", "").split(",")]
    from storage_lib.tasks.registry import Registry

    return Registry([ACTIONS, *filter(None, named)], host_timeout=function_timeout())


def check_settings() -> None:
    """Called by the local host before it reports that it is ready; opens nothing.

    :raises ConfigurationError: a setting or a task module cannot work; ``field`` names it.
    """
    AppState(StorageConfig.from_env()).check_settings()


async def shutdown() -> None:
    """Close what the running loop has opened; the host calls it when it stops."""
    found = _states.pop(asyncio.get_running_loop(), None)
    if found is not None and "storage" in found.__dict__:
        await found.storage.close()
    if found is not None and found.config.metrics is not None and found.config.metrics.azure_monitor:
        from functions import monitor

        await asyncio.to_thread(monitor.end)


def payloads_as_objects() -> bool:
    """Whether payloads and results of tasks are objects, whatever their size: ``AGENT_TASK_PAYLOADS``.

    :raises ConfigurationError: it is neither ``records`` nor ``objects``.
    """
    return _choice("AGENT_TASK_PAYLOADS", "records", "objects") == "objects"


def messages_as_objects() -> bool:
    """Whether messages of conversations are objects, whatever their size: ``AGENT_CONVERSATION_MESSAGES``.

    :raises ConfigurationError: it is neither ``rows`` nor ``objects``.
    """
    return _choice("AGENT_CONVERSATION_MESSAGES", "rows", "objects") == "objects"


def _choice(setting: str, usual: str, other: str) -> str:
    """:raises ConfigurationError: the setting is neither of the two."""
    where = os.environ.get(setting) or usual
    if where not in (usual, other):
        raise ConfigurationError(
            f"{setting} is {where[:40]!r}",
            field=setting,
            limit=f"{usual} or {other}",
            remedy=f"set it to one of them, or remove it: then it is {usual}",
        )
    return where


def task_events() -> bool:
    """Whether the end of each task is published to the queue ``agent-events``: ``AGENT_TASK_EVENTS``.

    :raises ConfigurationError: it is neither ``true`` nor ``false``.
    """
    said = os.environ.get("AGENT_TASK_EVENTS", "").strip().lower()
    if said not in (*_ON, *_OFF):
        raise ConfigurationError(
            f"AGENT_TASK_EVENTS is {said[:40]!r}",
            field="AGENT_TASK_EVENTS",
            limit="true or false",
            remedy="set it to one of them, or remove it: then no events are published",
        )
    return said in _ON


_ON = ("true", "1", "on")
_OFF = ("", "false", "0", "off")


def is_local() -> bool:
    """Whether the app runs on a developer's machine: Core Tools and devhost say so."""
    return os.environ.get("AZURE_FUNCTIONS_ENVIRONMENT", "").lower() == "development"


def _number(setting: str, default: float, least: float, most: float) -> float:
    text = os.environ.get(setting)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf or not least <= value <= most:
        raise ConfigurationError(
            f"{setting} is {text[:40]!r}",
            field=setting,
            limit=f"a number {f'from {least:g}' if least else 'above 0'} to {most:.12g}",
            remedy=f"set it to one, or remove it: then it is {default:.12g}",
        )
    return value
