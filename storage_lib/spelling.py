"""Unknown names, and the nearest known one."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from storage_lib.errors import InvalidArgumentError


class UnknownNameError(InvalidArgumentError):
    """A parameter or field does not exist; ``field`` is its name as it was sent."""


def refuse_unknown(names: Iterable[str], known: Collection[str], what: str, *, below: str = "") -> None:
    """Refuse names that are not known.

    :param what: what the names stand for, for the message.
    :param below: the beginning of ``field`` in the error.
    :raises UnknownNameError: a name is not known; the remedy is the nearest known one.
    """
    unknown = next((name for name in names if name not in known), None)
    if unknown is None:
        return
    from difflib import get_close_matches

    shown = unknown if len(unknown) <= 80 else f"{unknown[:80]}…"
    name = unknown.lower()[:80]
    begins = [each for each in known if name and each.startswith(name)]
    nearest = begins or get_close_matches(name, known, 1)
    raise UnknownNameError(
        f"unknown {what} {shown!r}",
        field=below + ascii(shown)[1:-1],
        limit=", ".join(sorted(known)) or "none",
        remedy=f"did you mean {nearest[0]!r}?" if nearest else "leave it out",
    )
