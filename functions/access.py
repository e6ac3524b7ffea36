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
from storage_lib.errors import ForbiddenError

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
    return _acting(await state().access.sender(req))


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


async def need_to_operate() -> None:
    """:raises ForbiddenError: the sender may not see or do what is the app's own."""
    found = grant()
    if found is not None and not found.operates:
        await state().access.denied("operate", "app")
        raise ForbiddenError(
            "you may not see or do what is the app's own",
            remedy="ask those who keep the access policy for the right 'operate'",
        )
