"""``KEY/current``, which names versions (`storage_lib.versioning`), among the objects that are copied."""

from __future__ import annotations

from typing import Any, cast

import msgspec

_CURRENT = "/current"


def is_pointer(name: str) -> bool:
    """Whether an object of this name may say which versions there are."""
    return name.endswith(_CURRENT)


def pointed_at(key: str, content: bytes) -> list[str]:
    """The keys of the versions that ``KEY/current`` names: the current one and those with a label. None if it
    is another object that just has such a name."""
    try:
        state: Any = msgspec.json.decode(content)
    except msgspec.DecodeError:
        return []
    if not isinstance(state, dict):
        return []
    found = cast("dict[str, Any]", state)
    labels = found.get("labels", {})
    numbers = [found.get("version"), *(labels.values() if isinstance(labels, dict) else ())]
    below = key.removesuffix(_CURRENT)
    return [f"{below}/v{number}" for number in dict.fromkeys(numbers) if type(number) is int and number > 0]
