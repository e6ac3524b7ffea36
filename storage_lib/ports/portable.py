"""Pickling and copying: objects with connections and threads are copied as their arguments, or not at all."""

from __future__ import annotations

import copy
import os
from dataclasses import is_dataclass
from typing import Any, ClassVar, Self

import msgspec

from storage_lib.errors import NotPortableError

__all__ = ["Portable", "Stationary"]


class Stationary:
    """Can be neither pickled nor copied; its error says what can."""

    def __reduce__(self) -> Any:
        raise NotPortableError(
            f"a {type(self).__name__} cannot be pickled or copied",
            remedy="pickle its StorageManager, its backend or a StorageConfig, or share this object",
        )


class Portable(Stationary):
    """Pickled and copied as its arguments: the copy is another one, not yet open, with its own
    connections. A class sets ``portable`` for itself, not for its subclasses."""

    portable: ClassVar[bool] = False
    _given: _Given

    def __new__(cls, *arguments: Any, **options: Any) -> Self:
        self = super().__new__(cls)
        self._given = _Given(arguments, options)
        return self

    def built_with(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments that another one is built with."""
        return self._given.arguments, self._given.options

    def __reduce__(self) -> Any:
        if not vars(type(self)).get("portable"):
            return super().__reduce__()
        arguments, options = self.built_with()
        for name, value in (*enumerate(arguments, 1), *options.items()):
            if not isinstance(value, _PORTABLE) and not is_dataclass(value):
                raise NotPortableError(
                    f"a {type(self).__name__} that was built with a {type(value).__name__} cannot be"
                    " pickled or copied",
                    field=name if isinstance(name, str) else f"argument {name}",
                    remedy="build another one where it is needed, or share this one",
                )
        return _build, (type(self), arguments, options)

    def __copy__(self) -> Self:
        """As `copy.deepcopy` and pickling: a backend that this one is built around is copied with it. Two
        that shared it would close it for one another."""
        return copy.deepcopy(self)


class _Given:
    """Arguments, with secrets among them: not in a repr."""

    __slots__ = ("arguments", "options")

    def __init__(self, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        self.arguments = arguments
        self.options = options


_PORTABLE = (str, int, float, type(None), os.PathLike, msgspec.Struct, Portable)


def _build(kind: type[Portable], arguments: tuple[Any, ...], options: dict[str, Any]) -> Portable:
    return kind(*arguments, **options)
