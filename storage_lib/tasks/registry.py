"""The actions: ``@task("name")`` registers one. Each name can be used once."""

from __future__ import annotations

import functools
import inspect
import logging
import math
import os
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import import_module, invalidate_caches
from types import CodeType
from typing import Any

from storage_lib.errors import ConfigurationError, InvalidArgumentError
from storage_lib.tasks.context import TaskContext
from storage_lib.tasks.jsonvalues import told
from storage_lib.tasks.model import check_action
from storage_lib.tasks.payload_types import DeclaredSchema, annotated_type, reason_against, schema_of
from storage_lib.tasks.retry import RetryPolicy, exception_classes

Action = Callable[[TaskContext, Any], Awaitable[Any]]

MAX_TIMEOUT_SECONDS = 366 * 24 * 3600.0
DEFAULT_TIMEOUT_SECONDS = 540.0
"""Below the platform's limit of an invocation (host.json, ``functionTimeout``), so that a task that takes too
long ends with a reason."""


class UnknownActionError(InvalidArgumentError):
    """No action has this name. This is a permanent failure; the message lists the known names."""

    code = "unknown-action"


@dataclass(frozen=True, slots=True)
class RegisteredAction:
    """An action, the type of its payload (None: any JSON value), its time limit in seconds and its
    retries; what its payload must be besides, what it does, and whether it needs the whole store."""

    name: str
    run: Action
    payload: Any
    timeout: float
    retry: RetryPolicy
    defined_by: CodeType | None = field(default=None, repr=False, compare=False)
    """The code that registered it: a module, a notebook cell or a function."""
    schema: DeclaredSchema | None = None
    description: str = ""
    whole_store: bool = False
    annotated: bool = False
    """Whether the type is that of the action's annotation, and nobody has tried yet whether it can check."""

    @property
    def payload_schema(self) -> dict[str, Any]:
        """The JSON Schema of the payload; empty for any JSON value."""
        return schema_of(self.payload, self.schema)

    def shown(self) -> dict[str, Any]:
        """What clients are told of it."""
        return {
            "name": self.name,
            "description": self.description,
            "payload_schema": self.payload_schema,
            "timeout_seconds": self.timeout,
            "retry": {
                "max_attempts": self.retry.max_attempts,
                "base_seconds": self.retry.base_seconds,
                "max_seconds": self.retry.max_seconds,
            },
        }


class Registry:
    """Actions by name. Modules are imported when an action is first looked up, not at a cold start."""

    def __init__(self, modules: Iterable[str] = (), *, host_timeout: float = math.inf) -> None:
        """
        :param modules: names of the modules that call `task` when they are imported.
        :param host_timeout: seconds after which the host ends an invocation. Every action must have a shorter
            time limit, or its task would be run again and again without a reason.
        """
        self._modules = list(modules)
        self._host_timeout = host_timeout
        self._loaded = False

    def get(self, name: str) -> RegisteredAction:
        """
        :raises UnknownActionError: there is no action of this name.
        :raises ConfigurationError: a module cannot be imported, or an action may take longer than the host
            allows.
        """
        self._load()
        try:
            found = _actions[name]
            return _tried(found) if found.annotated else found
        except KeyError:
            known = ", ".join(sorted(_actions)) or "none"
            raise UnknownActionError(
                f"unknown action {name!r}; there are: {known}",
                field="action",
                limit=f"one of: {known}",
                remedy=None
                if self._modules
                else 'name its module: TaskEngine(storage, Registry(["actions"]))',
            ) from None

    def knows(self, name: str) -> bool:
        """Whether there is an action of this name; it is not known as long as a module cannot be imported."""
        with suppress(ConfigurationError):
            self._load()
        return name in _actions

    def names(self) -> list[str]:
        self._load()
        return sorted(_actions)

    def every(self) -> list[RegisteredAction]:
        """All actions, by name.

        :raises ConfigurationError: as `get`.
        """
        return [self.get(name) for name in self.names()]

    def _load(self) -> None:
        if self._loaded:
            return
        for module in self._modules:
            _import(module)
        for action in _actions.values():
            if action.schema is not None:
                _ = action.schema.compiled
            if action.timeout >= self._host_timeout:
                raise ConfigurationError(
                    f"timeout {action.timeout:g} s of action {action.name!r} is not below functionTimeout,"
                    f" {self._host_timeout:g} s",
                    field="timeout",
                    remedy="lower the timeout in @task, or raise functionTimeout in host.json",
                )
        self._loaded = True


def _import(module: str) -> None:
    """Import a module that registers actions; after a failure it is imported again next time.

    :raises ConfigurationError: the module raised something.
    """
    try:
        import_module(module)
    except ConfigurationError:
        raise
    except BaseException as error:
        # What was not there may be by now: the finders remember folders.
        invalidate_caches()
        remedy = None
        if isinstance(error, SystemExit):
            how = f"it exited while it was imported ({error.code!r})"
            remedy = 'put what is only for a script under if __name__ == "__main__"'
        elif isinstance(error, Exception):
            how = told(error)
        else:
            how = f"it raised {type(error).__name__} while it was imported"
        raise ConfigurationError(
            f"task module {module!r} cannot be imported: {how}", field="AGENT_TASK_MODULES", remedy=remedy
        ) from error


_log = logging.getLogger("AOS.Tasks")
_actions: dict[str, RegisteredAction] = {}


def task(
    name: str,
    *,
    payload: Any = None,
    timeout: float = DEFAULT_TIMEOUT_SECONDS,
    retry: RetryPolicy | None = None,
    retry_on: type[BaseException] | tuple[type[BaseException], ...] = (),
    schema: Mapping[str, Any] | None = None,
    description: str | None = None,
    whole_store: bool = False,
) -> Callable[[Action], Action]:
    """Register an action: ``async def action(context, payload) -> result``.

    :param name: the action's name: 1 to 64 of a-z, 0-9 and _, starting with a letter.
    :param payload: a dataclass, TypedDict, pydantic model, msgspec struct or other type. The payload is
        checked against it when a task is submitted, and passed to the action as an instance of it. Without
        it, the action's own annotation counts if it names one of the first four.
    :param timeout: seconds that one run may take before it fails with ``deadline-exceeded``; less than the
        host's own limit (`Registry`).
    :param retry: what happens after a transient error.
    :param retry_on: exception classes of the action that count as transient, besides those of ``retry`` and
        what `is_transient` says.
    :param schema: a JSON Schema that the payload must satisfy, too.
    :param description: what the action does; None for the first paragraph of its docstring.
    :param whole_store: it needs the rights to everything in the store.
    :raises ConfigurationError: another function has this name, or the action is not an ``async def``.
    """
    check_action(name)
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage] - cheap, unlike inspect.stack
    defined_by, names = frame.f_code, frame.f_locals
    del frame
    policy = retry or RetryPolicy()
    policy = replace(policy, retry_on=(*policy.retry_on, *exception_classes(retry_on)))
    if not 0 < timeout <= MAX_TIMEOUT_SECONDS:
        raise ConfigurationError(
            f"timeout {timeout} of action {name!r} is not above 0 and at most a year", field="timeout"
        )

    def register(action: Action) -> Action:
        if not inspect.iscoroutinefunction(action) and not inspect.iscoroutinefunction(
            getattr(action, "__call__", None)  # noqa: B004 - an object whose call is one
        ):
            raise ConfigurationError(
                f"action {name!r}, {_where(action)}, is not an async function",
                field="action",
                remedy="define it with async def; run blocking calls with await asyncio.to_thread(…)",
            )
        taken = _actions.get(name)
        if taken is not None and not _is_same(taken, action, defined_by):
            raise ConfigurationError(
                f"two actions are named {name!r}: {_where(taken.run)} and {_where(action)}",
                field="action",
                remedy="give each its own name",
            )
        _actions[name] = RegisteredAction(
            name,
            action,
            annotated_type(action, names) if payload is None else payload,
            timeout,
            policy,
            defined_by,
            None if schema is None else DeclaredSchema(name, schema),
            _described(action) if description is None else description,
            whole_store,
            annotated=payload is None,
        )
        return action

    return register


def _tried(action: RegisteredAction) -> RegisteredAction:
    """An annotation may be for type checkers only, and not be one by which a payload can be checked: then it
    says nothing."""
    kind = action.payload
    if kind is not None and (why := reason_against(kind)):
        _log.warning("the payload of action %r is not checked by its annotation: %s", action.name, why)
        kind = None
    tried = _actions[action.name] = replace(action, payload=kind, annotated=False)
    return tried


def _described(action: Action) -> str:
    """The first paragraph of its docstring, in one line."""
    text = inspect.getdoc(_function(action)) or ""
    return " ".join(text.partition("\n\n")[0].split())


def _is_same(taken: RegisteredAction, action: Action, defined_by: CodeType) -> bool:
    """Whether this is the registered action, defined again: its module was imported again after a
    failure, runs as a script as well, or its notebook cell was run twice. The later definition counts.

    Two definitions in one run of a module are two actions.
    """
    if taken.run is action:
        return True
    before, now = _function(taken.run), _function(action)
    if taken.defined_by is defined_by or before.__qualname__ != now.__qualname__:
        return False
    return before.__module__ == now.__module__ or _file(before) == _file(now)


def _function(action: Action) -> Any:
    """The function behind an action, or the class of a callable object."""
    found: Any = inspect.unwrap(action)
    while isinstance(found, functools.partial):
        found = inspect.unwrap(found.func)
    return found if hasattr(found, "__qualname__") else type(found)


def _file(function: Any) -> str | None:
    try:
        return os.path.realpath(inspect.getfile(function))
    except (TypeError, OSError):
        return None


def _where(action: Action) -> str:
    function = _function(action)
    return f"{function.__module__}.{function.__qualname__}"
