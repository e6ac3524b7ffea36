"""Types of your own among the values: a codec turns one into a value that can be stored, and back.

::

    from storage_lib.codecs import register_codec

    register_codec(
        Money, "shop.money", encode=lambda m: [m.amount, m.currency], decode=lambda stored: Money(*stored)
    )
    await storage.save("price", {"net": Money(Decimal("9.90"), "EUR")})

The name is stored with the value and must mean the same for as long as such values are kept. Register at the
import of the module that defines the type, so that every process that loads the value has the codec.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from storage_lib.errors import InvalidArgumentError

_MAX_NAME: Final = 200


class Codec(NamedTuple):
    """How values of exactly the type ``kind`` are stored."""

    kind: type
    name: str
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


_by_kind: dict[type, Codec] = {}
_by_name: dict[str, Codec] = {}


def register_codec[T](
    kind: type[T], name: str, *, encode: Callable[[T], Any], decode: Callable[[Any], T]
) -> None:
    """Store values of the type ``kind`` under ``name``, wherever they are in a value.

    :param kind: exactly this type; a subclass needs a codec of its own.
    :param name: stable and unique, such as ``shop.money``; up to 200 characters.
    :param encode: gives a value that can be stored, of any type that this library takes.
    :param decode: makes the object again of what ``encode`` gave.
    :raises InvalidArgumentError: the type or the name has a codec, or the type is stored by itself.
    """
    if not isinstance(kind, type):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidArgumentError(f"{kind!r} is no class", field="kind")
    if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME or not name.isprintable():  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidArgumentError(
            f"{name!r} is no name of a codec", field="name", limit=f"1 to {_MAX_NAME} printable characters"
        )
    if kind.__module__ in ("builtins", "numpy") or _is_stored(kind):
        raise InvalidArgumentError(
            f"values of the type {kind.__name__} are stored without a codec",
            field="kind",
            remedy="register a class of your own",
        )
    for found in (_by_kind.get(kind), _by_name.get(name)):
        if found is not None:
            raise InvalidArgumentError(
                f"the codec {found.name!r} of {found.kind.__qualname__} is registered already",
                field="kind" if found.kind is kind else "name",
                remedy="choose another name, or call unregister_codec() first to replace it",
            )
    _by_kind[kind] = _by_name[name] = Codec(kind, name, encode, decode)


def unregister_codec(name: str) -> None:
    """Forget a codec, as before its class is defined anew in a notebook.

    :raises InvalidArgumentError: no codec has this name.
    """
    found = _by_name.pop(name, None)
    if found is None:
        raise InvalidArgumentError(f"no codec is registered as {name!r}", field="name")
    del _by_kind[found.kind]


def codec_of(kind: type) -> Codec | None:
    """The codec of exactly this type."""
    return _by_kind.get(kind)


def codec_named(name: str) -> Codec | None:
    """The codec that a stored name means."""
    return _by_name.get(name)


def _is_stored(kind: type) -> bool:
    from storage_lib.packing import SCALARS

    return kind in SCALARS
