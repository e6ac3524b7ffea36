"""What the library itself keeps in tables and objects under names like keys, as one caller reaches it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from storage_lib.keys import validate_prefix, validate_user_key
from storage_lib.ports.portable import Stationary

if TYPE_CHECKING:
    from storage_lib.ports.objects import ObjectStore
    from storage_lib.ports.tables import TableStore

__all__ = ["Reach"]


class Reach(Stationary):
    """The stores of a backend, and which names in them the caller may use. This one may use all;
    `access.confined` has that of a caller with an access policy.

    A part of the library that keeps something by name asks `stored` for every name that it is given, and
    then uses ``tables`` and ``objects``, which do not ask again.
    """

    def __init__(self, tables: TableStore, objects: ObjectStore) -> None:
        self.tables = tables
        self.objects = objects

    @property
    def clock(self) -> Callable[[], float]:
        """Seconds since the epoch."""
        return self.objects.clock

    async def stored(self, name: str, *actions: str) -> str:
        """The name in the store of what the caller calls ``name``.

        :param actions: what is to be done with it: ``load``, ``save``, ``delete``.
        :raises InvalidKeyError: it is outside the grammar of keys.
        :raises ForbiddenError: the caller may not do all of this.
        """
        return validate_user_key(name)

    async def stored_prefix(self, prefix: str) -> str:
        """The longest prefix in the store that has everything below ``prefix`` which the caller may list.

        :raises ForbiddenError: the caller may list nothing below it.
        """
        return validate_prefix(prefix)

    def shown(self, stored: str) -> str | None:
        """What the caller calls it; None if it may not list it."""
        return stored
