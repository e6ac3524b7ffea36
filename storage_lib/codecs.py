"""Codecs for your own types: a codec turns an object into a value that can be stored, and back.

    from storage_lib.codecs import register_codec

    register_codec(
        Money, "shop.money", encode=lambda m: [m.amount, m.currency], decode=lambda stored: Money(*stored)
    )
    await storage.save("price", {"net": Money(Decimal("9.90"), "EUR")})

The name is stored with the value and must keep its meaning for as long as such values exist. Register
the codec where the type is defined, so that every process that loads such a value has it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from storage_lib.errors import InvalidArgumentError

_MAX_NAME: Final = 200


class Codec(NamedTuple):
    """How objects of exactly the type ``kind`` are stored."""

    kind: type
    name: str
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


_by_kind: dict[type, Codec] = {}
_by_name: dict[str, Codec] = {}


def register_codec[T](
    kind: type[T], name: str, *, encode: Callable[[T], Any], decode: Callable[[Any], T]
) -> None:
    """Register a codec for objects of the type ``kind``, wherever they occur in a value.

    :param kind: exactly this type; a subclass needs a codec of its own.
    :param name: stable and unique, such as ``shop.money``; up to 200 characters.
    :param encode: returns a value of any type that the library stores.
    :param decode: turns the result of ``encode`` back into the object.
    :raises InvalidArgumentError: the type or the name already has a codec, or the type needs none.
    """
    if not isinstance(kind, type):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidArgumentError(f"{kind!r} is not a class", field="kind")
    if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME or not name.isprintable():  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidArgumentError(
            f"{name!r} cannot name a codec", field="name", limit=f"1 to {_MAX_NAME} printable characters"
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
                f"the codec {found.name!r} of {found.kind.__qualname__} is already registered",
                field="kind" if found.kind is kind else "name",
                remedy="choose another name, or call unregister_codec() first to replace it",
            )
    _by_kind[kind] = _by_name[name] = Codec(kind, name, encode, decode)


def unregister_codec(name: str) -> None:
    """Remove a codec, for example before its class is defined again in a notebook.

    :raises InvalidArgumentError: no codec has this name.
    """
    found = _by_name.pop(name, None)
    if found is None:
        raise InvalidArgumentError(f"no codec is registered as {name!r}", field="name")
    del _by_kind[found.kind]


def codec_of(kind: type) -> Codec | None:
    """The codec of exactly this type, or None."""
    return _by_kind.get(kind)


def codec_named(name: str) -> Codec | None:
    """The codec registered under a stored name, or None."""
    return _by_name.get(name)


def _is_stored(kind: type) -> bool:
    from datetime import date, datetime, time, timedelta
    from decimal import Decimal
    from uuid import UUID

    return kind in (datetime, date, time, timedelta, UUID, Decimal)
