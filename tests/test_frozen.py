"""Frozen dataclasses with a quicker ``__init__`` are what they were."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from storage_lib import Entity, Insert, ObjectInfo, StoredObject, Update, Upsert
from storage_lib.frozen import quick


@dataclass(frozen=True, slots=True)
class Plain:
    key: str
    value: Any
    tags: dict[str, str] = field(default_factory=dict[str, str])
    size: int = 3
    hidden: bool = field(default=False, repr=False, compare=False)


@quick
@dataclass(frozen=True, slots=True)
class Quick:
    key: str
    value: Any
    tags: dict[str, str] = field(default_factory=dict[str, str])
    size: int = 3
    hidden: bool = field(default=False, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Longer(Quick):
    more: int = 7


@pytest.mark.parametrize(
    ("positional", "named"),
    [
        (("k", 1), {}),
        (("k", [1], {"a": "b"}, 4, True), {}),
        (("k",), {"value": None, "size": 0}),
        ((), {"value": 2, "key": "k", "tags": {}, "hidden": True}),
    ],
)
def test_what_is_made_quicker_is_the_same(positional: tuple[Any, ...], named: dict[str, Any]) -> None:
    plain, made = Plain(*positional, **named), Quick(*positional, **named)
    assert dataclasses.asdict(made) == dataclasses.asdict(plain)
    assert repr(made) == repr(plain).replace("Plain", "Quick")
    assert inspect.signature(Quick) == inspect.signature(Plain)
    for other in (pickle.loads(pickle.dumps(made)), copy.deepcopy(made), dataclasses.replace(made)):  # noqa: S301
        assert other == made
        assert type(other) is Quick
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.key = "other"  # type: ignore[misc]
    assert Longer(*positional, **named).more == 7


def test_each_has_a_default_of_its_own_and_what_is_missing_is_named() -> None:
    first, second = Quick("a", 1), Quick("a", 1)
    assert first.tags == {}
    assert first.tags is not second.tags
    with pytest.raises(
        TypeError, match=r"Quick\.__init__\(\) missing 1 required positional argument: 'value'"
    ):
        Quick("a")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected keyword argument 'other'"):
        Quick("a", 1, other=2)  # type: ignore[call-arg]


@pytest.mark.parametrize("kind", [Entity, Insert, Update, Upsert, ObjectInfo, StoredObject])
def test_those_of_the_library_stay_frozen_and_take_what_they_declare(kind: Any) -> None:
    names = [field.name for field in dataclasses.fields(kind)]
    assert list(inspect.signature(kind).parameters) == names
    made = kind(*range(len(names)))
    assert [getattr(made, name) for name in names] == [*range(len(names))]
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(made, names[0], "other")
    assert ObjectInfo("k", 1, "e", datetime.now(UTC), "text/plain").metadata == {}
