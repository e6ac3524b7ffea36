"""What docs/deploy.md calculates with is what the app does: the runs of its timers, and the sums."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from devhost.timers import Schedule
from tests.bicep import deploy
from tests.conftest import PROJECT
from tests.infra_model import METRIC_RULE, QUERY_RULE, SCENARIOS, at, one
from tests.test_bindings import bindings
from tests.test_infra import files

HOURS = 730
"""Of a month, as everybody who bills by the month counts."""
DEFAULTS = next(s for s in SCENARIOS if s.name == "defaults")


def section(title: str) -> str:
    """A part of the text, with its signs as a keyboard has them."""
    text = (PROJECT / "docs" / "deploy.md").read_text()
    found = re.search(rf"^\*\*{title}\*\*.*?(?=^\*\*|^## )", text, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[0].replace("\N{MULTIPLICATION SIGN}", "x").replace("\N{MINUS SIGN}", "-")


def rows(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        if line.startswith("|"):
            yield [cell.strip().strip("*") for cell in line.strip("|").split("|")]


def number(text: str) -> float:
    return float(text.replace(",", ""))


def runs_a_month(schedule: str) -> int:
    moment = datetime(2026, 11, 2, tzinfo=UTC) - timedelta(microseconds=1)
    day, plan, count = moment + timedelta(days=1), Schedule(schedule, "a timer"), 0
    while (moment := plan.after(moment)) <= day:
        count += 1
    assert count % 24 == 0, f"{schedule} is not the same in every hour"
    return count // 24 * HOURS


@pytest.mark.parametrize(
    ("schedule", "runs"), [("0 * * * * *", 43_800), ("20 */5 * * * *", 8_760), ("30 3 * * * *", 730)]
)
def test_runs_are_counted_from_a_schedule(schedule: str, runs: int) -> None:
    assert runs_a_month(schedule) == runs


def documented() -> dict[str, int]:
    """Runs a month by function, each the result of the product before it."""
    found: dict[str, int] = {}
    for cells in rows(section("Idle month")):
        if name := re.fullmatch(r"`(\w+)`", cells[0]):
            product, _, result = cells[2].partition(" = ")
            expected = 1.0
            for factor in product.split(" x "):
                expected *= number(factor)
            assert expected == number(result), cells
            found[name[1]] = int(expected)
    return found


def test_the_runs_of_timers_are_those_of_their_schedules() -> None:
    timers = {
        name: runs_a_month(binding["schedule"])
        for name, function in bindings().items()
        for binding in function
        if binding["type"] == "timerTrigger"
    }
    test = one(deploy(files(), DEFAULTS.parameters), "Microsoft.Insights/webtests")
    asked = HOURS * 3600 // at(test, "properties.Frequency") * len(at(test, "properties.Locations"))
    assert documented() == {**timers, "health_live": asked}
    together = sum(timers.values()) + asked
    text = section("Idle month")
    assert f"| together | | {together:,} |" in text
    beyond = together * 2 - 100_000
    assert f"{together:,} x 1 s x 2 GB = {together * 2:,} GB-s" in text
    assert f": {beyond:,} x 0.000026 | {beyond * 0.000026:.2f} |" in text
    assert f"| the host notes each run of a timer | {sum(timers.values()):,} x" in text
    assert f"| active time of timers and test | {together * 2:,} GB-s," in section("Busy month")


@pytest.mark.parametrize("month", ["Idle month", "Busy month"])
def test_the_sum_of_a_month_is_right(month: str) -> None:
    amounts = [(cells[0], cells[-1]) for cells in rows(section(month)) if re.fullmatch(r"[\d.]+", cells[-1])]
    *items, (last, total) = amounts
    assert last == "sum"
    assert round(sum(float(amount) for _, amount in items), 2) == float(total)


def test_what_is_in_both_months_is_counted_once() -> None:
    idle = {cells[0]: cells[-1] for cells in rows(section("Idle month"))}
    busy = {cells[0]: cells for cells in rows(section("Busy month"))}
    rest = busy["what else an idle month costs"]
    assert rest[1] == f"{idle['sum']} - {idle['active time']}"
    assert float(rest[2]) == round(float(idle["sum"]) - float(idle["active time"]), 2)


def test_the_alerts_are_all_paid_for() -> None:
    deployment = deploy(files(), DEFAULTS.parameters)
    rules = deployment.of(QUERY_RULE)
    often = sum(at(rule, "properties.evaluationFrequency") == "PT5M" for rule in rules)
    split = sum(bool(at(rule, "properties.criteria.allOf.0.dimensions")) for rule in rules)
    metrics = len(deployment.of(METRIC_RULE))
    row = next(cells for cells in rows(section("Idle month")) if cells[0] == "alerts")
    counted = f"{often} x 1.50 + {len(rules) - often} x 0.50 + {split} x 0.05 + {metrics} x 0.10"
    assert row[1] == counted
    cost = often * 1.5 + (len(rules) - often) * 0.5 + split * 0.05 + metrics * 0.1
    assert row[2] == f"{cost:.2f}"
