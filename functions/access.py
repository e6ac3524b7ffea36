"""Who sends a request, and what it may do: the access policy, if ``AGENT_STORAGE_ACCESS_POLICY`` names one.

Without a policy everyone whom the host lets in may do everything.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Literal

import azure.functions as func

from functions.state import state
from storage_lib.callers import acting_as, caller
from storage_lib.errors import ConfigurationError, ForbiddenError, KeyNotFoundError
from storage_lib.ports.hints import within
from storage_lib.tasks.model import check_agent_id

if TYPE_CHECKING:
    from functions.senders import Sender
    from storage_lib.access import Grant
    from storage_lib.manager import StorageManager
    from storage_lib.tasks.model import TaskRecord

SETTING = "AGENT_STORAGE_ACCESS_POLICY"
LINK = "link"
"""Who acts where somebody uses a link, and there is no policy."""

MARK = "~"
"""How the name of whoever made a link begins where there is no policy, which only tells callers apart."""

_sender: ContextVar[Sender | None] = ContextVar("sender", default=None)


async def on_behalf_of(req: func.HttpRequest) -> AbstractContextManager[None]:
    """Where what is done is done for whoever sends a request.

    :raises StorageError: there is to be a policy, and it cannot be read.
    """
    if not os.environ.get(SETTING):
        return nullcontext()
    with _policy_kept_secret():
        return _acting(await state().access.sender(req))


@contextmanager
def _policy_kept_secret() -> Generator[None]:
    """Have errors not tell what is wrong with the policy."""
    try:
        yield
    except ConfigurationError as error:
        if not (error.field or "").startswith("policy"):
            raise
        # Whom it names is not for everybody to know; the log has it all.
        raise ConfigurationError(
            "the access policy makes no sense",
            field=SETTING,
            remedy="agent-storage access check says what is wrong with it, like the log of the app",
        ) from error


def check_submitter(submitter: str | None) -> None:
    """See that a link was made under a policy where there is one, and without where there is none: they know
    objects by different names.

    :raises InvalidLinkError: it was not.
    """
    is_known = submitter is not None and not submitter.startswith(MARK)
    if bool(os.environ.get(SETTING)) != is_known:
        from storage_lib.links import InvalidLinkError

        raise InvalidLinkError(
            "the link was made under other rules", field="maker", remedy="ask for another link"
        )


async def on_behalf_of_submitter(submitter: str | None) -> AbstractContextManager[None]:
    """Where what is done is done for whoever has made a link, with the rights that it has now.

    :param submitter: as `submitter` told it then.
    """
    if submitter is None or submitter.startswith(MARK):
        return acting_as(LINK, caller().correlation)
    with _policy_kept_secret():
        return _acting(await state().access.named(submitter))


@contextmanager
def _acting(sender: Sender) -> Generator[None]:
    with within(_sender, sender), acting_as(sender.grant.principal, caller().correlation):
        yield


def storage(*, writing: bool = False, deleting: bool = False) -> StorageManager:
    """The storage of whoever sent the request.

    :param writing: for a save: conditions look at what the sender may save, even if it may not load it.
    :param deleting: for a delete, likewise.
    """
    sender = _sender.get()
    if sender is None:
        return state().storage
    return sender.deleting if deleting else sender.saving if writing else sender.reading


def users_storage() -> StorageManager:
    """The storage of whoever sent the request, for its tables and queues: what the app keeps there itself can
    be read by those who may see how it works, and written by nobody, even without a policy."""
    sender = _sender.get()
    return state().users_storage if sender is None else sender.reading


def forbidden(message: str, right: str, field: str | None = None) -> ForbiddenError:
    """:param right: what those who keep the access policy could give."""
    return ForbiddenError(message, field=field, remedy=f"ask those who keep the access policy for {right}")


async def need(key: str, *actions: str) -> None:
    """Asked before a body is looked at, so that nobody causes work for a request that is refused.

    :raises ForbiddenError: the sender may not do all of this to the object.
    """
    if (sender := _sender.get()) is not None:
        from storage_lib.access.confined import ConfinedObjects

        objects = sender.saving.backend.objects
        assert isinstance(objects, ConfinedObjects)  # noqa: S101 - that is what a sender has
        await objects.need(key, *actions)


async def need_some(*actions: str) -> None:
    """:raises ForbiddenError: the sender may do none of this to any object."""
    found = grant()
    if found is not None and all(found.listed(action) == frozenset() for action in actions):
        await state().access.denied(actions[0], "objects")
        raise forbidden("you may not use any object", "the right")


async def need_to_write(port: Literal["tables", "queues"], name: str) -> None:
    """Likewise.

    :raises ForbiddenError: the sender may not write to this table, or use this queue.
    """
    from storage_lib.access.confined import ConfinedBackend

    backend = users_storage().backend
    assert isinstance(backend, ConfinedBackend)  # noqa: S101 - that is what both are
    await backend.need_to_write(port, name)


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
        raise forbidden("you may not see or do what is the app's own", "the right 'operate'")


def need_task(record: TaskRecord) -> None:
    """
    :raises ForbiddenError: it is of a message that is no task, which has nobody's rights until it is read,
        and the sender may not put it back.
    """
    if record.raw_message is not None and (found := grant()) is not None and not found.operates:
        raise forbidden("you may not put back a message that is no task", "the right 'operate'", "task_id")


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
    raise forbidden(f"you may not use tasks of the agent {agent_id[:80]!r}", "the right 'tasks'", "agent_id")


async def need_action(name: str) -> None:
    """:raises ForbiddenError: the action needs the whole store, of which the sender may not use all."""
    found, registry = grant(), state().registry
    if found is None or found.is_everything or not registry.knows(name):
        return
    if registry.get(name).whole_store:
        await state().access.denied("tasks", f"actions/{name}")
        raise forbidden(f"the action {name!r} needs the rights to everything in the store", "them", "action")


async def agents() -> frozenset[str] | None:
    """The agents whose tasks the sender may see; None for all.

    :raises ForbiddenError: there are none.
    """
    found = grant()
    allowed = None if found is None else found.listed("tasks")
    if allowed is not None and not allowed:
        await state().access.denied("tasks", "tasks")
        raise forbidden("you may not see any tasks", "the right 'tasks'")
    return allowed
