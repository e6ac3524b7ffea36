"""The names of tables or queues that a sender may see, as a page."""

from __future__ import annotations

from itertools import islice
from typing import Any, Literal

import azure.functions as func

from functions import access
from functions.parameters import integer_parameter
from functions.state import state

_PAGE = 100
_MOST = 1000


async def page_of_names(req: func.HttpRequest, port: Literal["tables", "queues"]) -> dict[str, Any]:
    """In order, each with what of the app it belongs to, if it is the app's own. The cursor is the last name:
    a page costs as much as all of them, of which there are few.

    :raises ForbiddenError: the sender may use none.
    """
    from storage_lib.access.confined import ConfinedBackend

    found = access.grant()
    if found is not None and not found.operates and found.listed(port) == frozenset():
        await state().access.denied(port, port)
        raise access.forbidden(f"you may use no {port}", "the right")
    storage = access.users_storage()
    limit = integer_parameter(req, "limit", _PAGE, 1, _MOST)
    prefix, after = req.params.get("prefix", ""), req.params.get("cursor", "")
    listing = storage.list_tables(prefix) if port == "tables" else storage.list_queues(prefix)
    names = [name for name in await listing if name > after]
    backend = storage.backend
    assert isinstance(backend, ConfinedBackend)  # noqa: S101 - that is what both are
    shown = [{"name": name, "owner": backend.owner(port, name)} for name in islice(names, limit)]
    return {port: shown, "cursor": names[limit - 1] if len(names) > limit else None}
