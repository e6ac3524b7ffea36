"""Who sends a request, and what it may do: the access policy, if ``AGENT_STORAGE_ACCESS_POLICY`` names one.

Without a policy everyone whom the host lets in may do everything.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING

import azure.functions as func

from functions.state import state
from storage_lib.callers import acting_as, caller
from storage_lib.errors import ConfigurationError, ForbiddenError, KeyNotFoundError
from storage_lib.tasks.model import check_agent_id

if TYPE_CHECKING:
    from functions.senders import Sender
    from storage_lib.access import Grant
    from storage_lib.manager import StorageManager

SETTING = "AGENT_STORAGE_ACCESS_POLICY"

_sender: ContextVar[Sender | None] = ContextVar("sender", default=None)


async def on_behalf_of(req: func.HttpRequest) -> AbstractContextManager[None]:
    """Where what is done is done for whoever sends a request.

    :raises StorageError: there is to be a policy, and it cannot be read.
    """
    if not os.environ.get(SETTING):
        return nullcontext()
    try:
        return _acting(await state().access.sender(req))
    except ConfigurationError as error:
        if not (error.field or "").startswith("policy"):
            raise
        # Whom it names is not for everybody to know; the log has it all.
        raise ConfigurationError(
            "the access policy makes no sense",
            field=SETTING,
            remedy="agent-storage access check says what is wrong with it, like the log of the app",
        ) from error


@contextmanager
def _acting(sender: Sender) -> Generator[None]:
    before = _sender.set(sender)
    try:
        with acting_as(sender.grant.principal, caller().correlation):
            yield
    finally:
        _sender.reset(before)


def storage(*, writing: bool = False) -> StorageManager:
    """The storage of whoever sent the request.

    :param writing: its conditions may look at what the sender may write but not load.
    """
    sender = _sender.get()
    found = None if sender is None else sender.writing if writing else sender.reading
    return state().storage if found is None else found


def grant() -> Grant | None:
    """What the sender of the request may do; None for everything."""
    sender = _sender.get()
    return None if sender is None else sender.grant


def sees_inside() -> bool:
    """Whether the sender may see how the app works: a traceback has addresses, and keys with their root."""
    found = grant()
    return found is None or found.operates


async def need_to_operate() -> None:
    """:raises ForbiddenError: the sender may not see or do what is the app's own."""
    if not sees_inside():
        await state().access.denied("operate", "app")
        raise ForbiddenError(
            "you may not see or do what is the app's own",
            remedy="ask those who keep the access policy for the right 'operate'",
        )


def submitter() -> str | None:
    """What a task remembers of the sender of the request that submits it."""
    found = grant()
    return None if found is None else " ".join(found.principals)


async def need_agent(agent_id: object, *, task_id: str | None = None) -> None:
    """
    :param task_id: the task that was asked for; a sender who may not see it is told that it does not exist.
    :raises InvalidArgumentError: no agent can have this id.
    :raises ForbiddenError: the sender may not submit tasks of this agent.
    :raises KeyNotFoundError: it may not see this task.
    """
    found = grant()
    if found is None or not isinstance(agent_id, str) or found.names("tasks", agent_id):
        return
    if task_id is None:
        check_agent_id(agent_id)  # It goes into logs.
    await state().access.denied("tasks", f"tasks/{task_id or agent_id}")
    if task_id is not None:
        raise KeyNotFoundError(f"task {task_id!r} does not exist", field="task_id")
    raise ForbiddenError(
        f"you may not use tasks of the agent {agent_id[:80]!r}",
        field="agent_id",
        remedy="ask those who keep the access policy for the right 'tasks'",
    )


async def agents() -> frozenset[str] | None:
    """The agents whose tasks the sender may see; None for all.

    :raises ForbiddenError: there are none.
    """
    found = grant()
    allowed = None if found is None else found.listed("tasks")
    if allowed is not None and not allowed:
        await state().access.denied("tasks", "tasks")
        raise ForbiddenError(
            "you may not see any tasks", remedy="ask those who keep the access policy for the right 'tasks'"
        )
    return allowed
