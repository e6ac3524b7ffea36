"""The functions and operators of templates as Azure evaluates them, on the values of JSON.

They follow Azure's own engine, which is .NET: a bool in a text is ``True``, keys are sorted and merged
without regard to case, 1 is not true. Where its answer is not known for sure, the call is a `BicepError`.
"""

from __future__ import annotations

import ipaddress
import json
import uuid
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

SUBSCRIPTION = "00000000-0000-0000-0000-00000000ace5"
TENANT = "00000000-0000-0000-0000-00000000feed"


class BicepError(Exception):
    """The template cannot be compiled or deployed; the message says where and why."""

    located = False
    """Whether it says where, the file and the line."""


class Runtime(str):
    """A text that is known only once it is deployed. What it says names it:
    ``{type/name}.properties.hostName``. Nothing can be decided on it, for what it will be is unknown."""

    __slots__ = ()


def has_runtime(value: Any) -> bool:
    return isinstance(value, Runtime) or any(has_runtime(each) for each in _children(value))


def _children(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from chain(value, value.values())
    elif isinstance(value, list):
        yield from value


def known(*values: Any) -> None:
    """:raises BicepError: something would be decided on a value that is not known yet."""
    for value in values:
        if has_runtime(value):
            raise BicepError(f"{value} is not known before it is deployed")


def same(one: Any, other: Any) -> bool:
    """Whether two values of JSON are equal, as elements of a list are: 1 is neither true nor 1.0."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def equals(one: Any, other: Any) -> bool:
    """``==``, to which 1 is 1.0 too."""
    known(one, other)
    numbers = all(isinstance(each, int | float) and not isinstance(each, bool) for each in (one, other))
    return one == other if numbers else same(one, other)


def number(value: Any) -> int:
    known(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise BicepError(f"{value!r} is no whole number")
    return value


def truth(value: Any) -> bool:
    known(value)
    if not isinstance(value, bool):
        raise BicepError(f"{value!r} is neither true nor false")
    return value


def text(value: Any) -> str:
    known(value)
    if not isinstance(value, str):
        raise BicepError(f"{value!r} is no text")
    return value


def listed(value: Any) -> list[Any]:
    known(isinstance(value, Runtime) and value)
    if not isinstance(value, list):
        raise BicepError(f"{value!r} is no array")
    return value


def keyed(value: Any) -> dict[str, Any]:
    known(isinstance(value, Runtime) and value, *(value if isinstance(value, dict) else ()))
    if not isinstance(value, dict):
        raise BicepError(f"{value!r} is no object")
    return value


def folded(key: str) -> bytes:
    """Keys that .NET takes for equal without regard to case have the same, in the order in which it sorts."""
    upper = (c.upper() if len(c.upper()) == 1 else c for c in key)
    return "".join(upper).encode("utf-16-be")


def shown(value: Any) -> str:
    """A value in a text, as in ``'${value}'``."""
    if isinstance(value, bool | int | str):
        return str(value)
    if isinstance(value, dict | list):
        return string(value).replace('"', "'")
    raise BicepError(f"a text is made of {value!r}")


def string(value: Any) -> str:
    if not isinstance(value, dict | list):
        return value if isinstance(value, str) else shown(value)
    for each in _floats(value):
        if "e" in repr(each) or each != each:
            raise BicepError(f"it is not known how {each} is written")
    written = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    for character in "\x85\u2028\u2029":
        written = written.replace(character, f"\\u{ord(character):04x}")
    return Runtime(written) if has_runtime(value) else written


def _floats(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    for child in _children(value):
        yield from _floats(child)


def _empty(value: Any) -> bool:
    known(value if not isinstance(value, dict | list) else None)
    if value is not None and not isinstance(value, str | dict | list):
        raise BicepError(f"{value!r} is never empty")
    return not value


def _length(value: Any) -> int:
    known(value if not isinstance(value, dict | list) else None)
    if isinstance(value, dict | list):
        return len(value)
    return len(text(value).encode("utf-16-le")) // 2


def _pad_left(value: Any, width: Any, character: Any = " ") -> str:
    known(value, width, character)
    return (str(value) if isinstance(value, int) else text(value)).rjust(width, text(character))


def _index_of(container: Any, wanted: Any) -> int:
    if isinstance(container, list):
        known(container, wanted)
        return next((i for i, each in enumerate(container) if same(each, wanted)), -1)
    return text(container).lower().find(text(wanted).lower())


def _contains(container: Any, wanted: Any) -> bool:
    if isinstance(container, list):
        return _index_of(container, wanted) >= 0
    if isinstance(container, dict):
        return folded(text(wanted)) in map(folded, keyed(container))
    return text(wanted) in text(container)


def _concat(*values: Any) -> Any:
    if values and all(isinstance(each, list) for each in values):
        return [*chain.from_iterable(values)]
    if not values or not all(isinstance(each, str) for each in values):
        raise BicepError("it joins arrays, or texts, and not both")
    return (Runtime if has_runtime([*values]) else str)("".join(values))


def _replace(where: str, old: str, new: str) -> str:
    where, old, new = map(text, (where, old, new))
    if not old or where.lower().count(old.lower()) != where.count(old):
        raise BicepError(f"{old!r} is in {where!r} in other cases too, and whether those count is not known")
    return where.replace(old, new)


def _to_lower(value: str) -> str:
    if not text(value).isascii():
        raise BicepError(f"{value!r} has letters whose small ones are not known here")
    return value.lower()


def _union(*values: Any) -> Any:
    if len(values) < 2:
        raise BicepError("it needs two or more")
    if all(isinstance(each, list) for each in values):
        known(*values)
        found: list[Any] = []
        for item in chain.from_iterable(values):
            if not any(same(item, each) for each in found):
                found.append(item)
        return found
    merged: dict[str, Any] = {}
    for value in values:
        merged = _merged(merged, keyed(value))
    return merged


def _merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """With what is in both taken from the latter, objects merged in turn."""
    found, names = dict(one), {folded(name): name for name in one}
    for name, value in other.items():
        there = names.setdefault(folded(name), name)
        if there != name:
            raise BicepError(f"{there} and {name} are one key, and which is kept is not known")
        if value is None:
            raise BicepError(f"{name} is null, and whether that counts is not known")
        inner = found.get(name)
        if isinstance(value, dict):
            value = _merged(inner if isinstance(inner, dict) else {}, value)
        found[name] = value
    return found


def _items(value: Any) -> list[dict[str, Any]]:
    found = keyed(value)
    return [{"key": key, "value": found[key]} for key in sorted(found, key=folded)]


def _to_object(values: list[Any], key: Then, value: Then = lambda each: each) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for each in listed(values):
        name = text(key(each))
        if folded(name) in map(folded, found):
            raise BicepError(f"the key {name} is there twice")
        found[name] = value(each)
    return found


def _flatten(values: Any) -> list[Any]:
    return [*chain.from_iterable(map(listed, listed(values)))]


def _map(values: Any, function: Then) -> list[Any]:
    return [function(each) for each in listed(values)]


def _skip(value: Any, count: int) -> Any:
    left = max(number(count), 0)
    if isinstance(value, list):
        return value[left:]
    if not text(value).isascii():
        raise BicepError(f"the characters of {value!r} are not counted here")
    return value[left:]


def _range(first: int, count: int) -> list[int]:
    if not 0 <= number(count) <= 10_000:
        raise BicepError(f"a range of {count} numbers")
    return [*range(number(first), first + count)]


def _divided(value: int, by: int) -> int:
    if number(by) == 0:
        raise BicepError(f"{value} / 0")
    quotient = abs(number(value)) // abs(by)
    return quotient if (value < 0) == (by < 0) else -quotient


def _max(*values: Any) -> int:
    return max(map(number, listed(values[0]) if len(values) == 1 else values))


def _json(value: str) -> Any:
    return json.loads(text(value))


def _fail(message: str) -> Any:
    raise BicepError(text(message))


def _cidr_subnet(network: str, size: int, index: int) -> str:
    subnets = ipaddress.ip_network(text(network)).subnets(new_prefix=number(size))
    if number(index) < 0:
        raise BicepError(f"there is no subnet {index}")
    return str([*subnets][index])


def _joined(parts: tuple[Any, ...]) -> str:
    if not parts or not all(isinstance(each, str) for each in parts):
        raise BicepError("it takes texts, one or more")
    return "-".join(parts)


_NAMES = uuid.UUID("11fb06fb-712d-4ddd-98c7-e71bbd588830")


def _guid(*parts: str) -> str:
    """As Azure has it. Of what is not known yet the real one is another, and this one stands for it."""
    found = str(uuid.uuid5(_NAMES, _joined(parts)))
    return Runtime(f"{{guid {found}}}") if has_runtime([*parts]) else found


def _unique_string(*parts: str) -> str:
    known(*parts)
    left = _murmur(_joined(parts).encode())
    digits = ((left << 1) >> shift & 31 for shift in range(60, -1, -5))
    return "".join("abcdefghijklmnopqrstuvwxyz234567"[digit] for digit in digits)


def _murmur(data: bytes) -> int:
    """Azure's own 64 bits out of MurmurHash3: two lanes of 32 bits that feed each other, the seed 0."""
    mask = 0xFFFFFFFF

    def turned(value: int, bits: int) -> int:
        value &= mask
        return (value << bits | value >> 32 - bits) & mask

    def first(word: int) -> int:
        return turned(word * 0x239B961B, 15) * 0xAB0E9789 & mask

    def second(word: int) -> int:
        return turned(word * 0xAB0E9789, 17) * 0x239B961B & mask

    def mixed(value: int) -> int:
        value = (value ^ value >> 16) * 0x85EBCA6B & mask
        value = (value ^ value >> 13) * 0xC2B2AE35 & mask
        return value ^ value >> 16

    one = two = 0
    whole = len(data) // 8 * 8
    for at in range(0, whole, 8):
        low, high = (int.from_bytes(data[at + i : at + i + 4], "little") for i in (0, 4))
        one = ((turned(one ^ first(low), 19) + two) * 5 + 0x561CCD1B) & mask
        two = ((turned(two ^ second(high), 13) + one) * 5 + 0x0BCAA747) & mask
    rest = data[whole:]
    if rest:
        one ^= first(int.from_bytes(rest[:4], "little"))
        two ^= second(int.from_bytes(rest[4:], "little"))
    one, two = one ^ len(data), two ^ len(data)
    one = one + two & mask
    two = two + one & mask
    one, two = mixed(one), mixed(two)
    one = one + two & mask
    two = two + one & mask
    return two << 32 | one


Then = Callable[[Any], Any]

SHORT: dict[str, Callable[[Any], bool]] = {
    "&&": lambda left: not truth(left),
    "||": truth,
    "??": lambda left: known(left if isinstance(left, Runtime) else None) or left is not None,
}
"""The operators that may leave out their right side: whether the left one is the answer."""

OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "==": equals,
    "!=": lambda a, b: not equals(a, b),
    ">": lambda a, b: number(a) > number(b),
    ">=": lambda a, b: number(a) >= number(b),
    "<": lambda a, b: number(a) < number(b),
    "<=": lambda a, b: number(a) <= number(b),
    "+": lambda a, b: number(a) + number(b),
    "-": lambda a, b: number(a) - number(b),
    "/": _divided,
}

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "cidrSubnet": _cidr_subnet,
    "concat": _concat,
    "contains": _contains,
    "empty": _empty,
    "environment": lambda: {
        "suffixes": {"storage": "core.windows.net", "keyvaultDns": ".vault.azure.net"},
        "authentication": {"loginEndpoint": "https://login.microsoftonline.com/"},
    },
    "fail": _fail,
    "flatten": _flatten,
    "guid": _guid,
    "indexOf": _index_of,
    "items": _items,
    "json": _json,
    "length": _length,
    "map": _map,
    "max": _max,
    "padLeft": _pad_left,
    "range": _range,
    "replace": _replace,
    "skip": _skip,
    "string": string,
    "subscription": lambda: {"id": f"/subscriptions/{SUBSCRIPTION}", "subscriptionId": SUBSCRIPTION},
    "tenant": lambda: {"tenantId": TENANT},
    "toLower": _to_lower,
    "toObject": _to_object,
    "union": _union,
    "uniqueString": _unique_string,
}
