"""Names of other programs that no key can address: listings leave them out, `stats` reports them."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

from storage_lib.ports.hints import within

MAX_NAMES = 100

_collected: ContextVar[dict[str, None] | None] = ContextVar("unlisted", default=None)


@contextmanager
def collected() -> Generator[dict[str, None]]:
    """The first hundred names that listings leave out inside this context, each once, in the order of
    the listing."""
    names: dict[str, None] = {}
    with within(_collected, names):
        yield names


def collector() -> dict[str, None] | None:
    """Where a listing that begins now is to `leave_out` names; None where nobody wants to know."""
    return _collected.get()


def leave_out(name: str, names: dict[str, None] | None = None) -> None:
    """Note a name. What ends in a slash stands for a folder, and is left out as such."""
    names = _collected.get() if names is None else names
    if names is not None and not name.endswith("/") and len(names) < MAX_NAMES:
        names[name] = None
