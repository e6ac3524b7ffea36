"""What the service is asked leaves out nothing that the filter holds for, however strict the service is.

The models here are of Azure (a constant meets a property of its own type only, times are kept to 100 ns) and
of Azurite (numbers are numbers, times are compared to the millisecond).
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage_lib.backends.azure.filters import question
from storage_lib.ports.odata import Compare, Constants, Junction, Node, Not, compile_filter
from storage_lib.ports.tables import Entity
from tests.effort import examples

MOMENT = datetime(2026, 1, 2, 3, 4, 5, 123_456, UTC)
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")
}
_EPOCH = datetime(1, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Tick:
    """A moment of the service, which keeps ``rest`` of 100 ns more than we see."""

    seen: datetime
    rest: int

    def units(self) -> int:
        return (self.seen - _EPOCH) // timedelta(microseconds=1) * 10 + self.rest


@dataclass(frozen=True, slots=True)
class Service:
    """``strict``: of types. ``unit``: to which times are compared, in 100 ns. ``others_differ``: whether
    ``ne`` holds for another type."""

    strict: bool
    unit: int
    others_differ: bool

    def holds(self, node: Node | None, held: Any) -> bool:
        match node:
            case None:
                return True
            case Junction():
                return (all if node.every else any)(self.holds(term, held) for term in node.nodes)
            case Not():
                return not self.holds(node.node, held)
            case Constants():
                raise AssertionError("Azurite does not take two constants: they are decided here")
            case Compare():
                if self._kind(node.value) not in self._meets(held):
                    return self.others_differ and node.operator == "ne"
                return _COMPARE[node.operator](self._value(held), self._value(node.value))

    def _kind(self, value: Any) -> str:
        if isinstance(value, datetime | Tick):
            return "time"
        if not self.strict:
            return "number"
        if isinstance(value, float):
            return "double"
        return "int32" if -(2**31) <= value < 2**31 else "int64"

    def _meets(self, held: Any) -> set[str]:
        kind = self._kind(held)
        return {"int32", "int64"} if kind == "int64" else {kind}

    def _value(self, value: Any) -> Any:
        if isinstance(value, datetime):
            value = Tick(value, 0)
        return value.units() // self.unit if isinstance(value, Tick) else value


AZURE = [Service(strict=True, unit=1, others_differ=differ) for differ in (True, False)]
SERVICES = [*AZURE, Service(strict=False, unit=10_000, others_differ=False)]

EDGES = [0, 5, -5, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**53 + 1, 2**62 + 1, 2**63 - 1, -(2**63)]
NUMBERS = st.one_of(
    st.sampled_from([*EDGES, *map(float, EDGES), 5.5, -0.0, -5.5, 2**31 - 0.5, 1e22, -1e22, 5e9]),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
)
TIMES = st.one_of(
    st.sampled_from([MOMENT + timedelta(microseconds=n) for n in range(-3, 4)]),
    st.sampled_from([datetime(1601, 1, 1, tzinfo=UTC), datetime.max.replace(tzinfo=UTC)]),
)


def leaves_nothing_out(template: str, constant: Any, held: Any) -> None:
    filter = compile_filter(template, {"v": constant})
    seen = held.seen if isinstance(held, Tick) else held
    if filter(Entity("p", "r", {"v": seen}, "etag", MOMENT)):
        asked = question(filter)
        node = compile_filter(asked, {}).node
        for service in SERVICES:
            assert service.holds(node, held), (asked, held, service)


TEMPLATES = [template for how in _COMPARE for template in (f"v {how} @v", f"not (v {how} @v)")]


@settings(max_examples=examples(400), deadline=None)
@given(template=st.sampled_from(TEMPLATES), constant=NUMBERS, held=NUMBERS, same=st.booleans())
def test_numbers_of_every_type_are_asked_for(template: str, constant: Any, held: Any, same: bool) -> None:
    leaves_nothing_out(template, constant, held)
    if same:
        for twin in (constant, float(constant), round(constant)):
            if isinstance(twin, float) or -(2**63) <= twin < 2**63:
                leaves_nothing_out(template, constant, twin)


@pytest.mark.parametrize("template", TEMPLATES)
def test_an_int_meets_a_double_and_a_double_an_int(template: str) -> None:
    for constant in (*EDGES, 4.5, 5.0, 5.5, float(2**31), float(-(2**31) - 1), 1e22, -1e22):
        for held in (4, 5, 6, 5.0, 5.5, 4.5, *EDGES, *map(float, EDGES), 1e22, -1e22):
            leaves_nothing_out(template, constant, held)


@settings(max_examples=examples(300), deadline=None)
@given(template=st.sampled_from(TEMPLATES), constant=TIMES, held=TIMES, rest=st.integers(0, 9))
def test_what_the_service_keeps_of_a_time_beyond_a_microsecond_loses_no_row(
    template: str, constant: datetime, held: datetime, rest: int
) -> None:
    leaves_nothing_out(template, constant, Tick(held, rest))
    leaves_nothing_out(template, constant, Tick(constant, rest))


def test_not_everything_is_asked_for() -> None:
    for filter, held in (("v gt 5", 5.0), ("v eq 5.5", 5), ("v lt 5000000000", 6e9), ("v eq 5", 6)):
        node = compile_filter(question(compile_filter(filter, {})), {}).node
        assert not any(service.holds(node, held) for service in SERVICES if not service.others_differ), filter


@pytest.mark.parametrize(
    ("filter", "kept"),
    [
        (
            "PartitionKey eq 'p' and (" + " or ".join(f"n eq {n}" for n in range(8)) + ")",
            "PartitionKey eq 'p'",
        ),
        (" or ".join(f"id eq {5_000_000_000 + n}" for n in range(6)), None),
        ("PartitionKey eq 'p' and " + " and ".join(f"x gt {n}.0" for n in range(14)), "PartitionKey eq 'p'"),
        (
            "PartitionKey eq 'p' and RowKey ge 'a' and ("
            + " or ".join(f"s eq '{n} eq '" for n in range(20))
            + ")",
            "PartitionKey eq 'p'",
        ),
        ("PartitionKey eq 'p' and s eq ' lt gt ' and n eq 3", "s eq ' lt gt '"),
    ],
)
def test_no_more_is_asked_than_the_service_takes(filter: str, kept: str | None) -> None:
    """Fifteen comparisons; what there is no room for is judged here, and the keys come first."""
    asked = question(compile_filter(filter, {}))
    if kept is None:
        assert asked is None
        return
    assert asked is not None
    assert kept in asked
    assert len(re.findall(r" (?:eq|ne|lt|le|gt|ge) ", re.sub("'[^']*'", "''", asked))) <= 15
    compile_filter(asked.replace("L", ""), {})
