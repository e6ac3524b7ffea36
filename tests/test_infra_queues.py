"""The timer that tells how long the queues of tasks are, and the alerts that read what it logs."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest

from functions import maintenance
from functions import state as state_module
from functions.state import AppState
from storage_lib.config import StorageConfig
from storage_lib.errors import UnsupportedOperationError
from storage_lib.ports.backend import QueueStore
from storage_lib.tasks.model import EVENT_QUEUE, HIGH_POISON_QUEUE, HIGH_QUEUE, POISON_QUEUE, TASK_QUEUE
from tests.bicep import deploy
from tests.infra_model import QUERY_RULE, SCENARIOS, at
from tests.test_infra import files

WATCHED = {TASK_QUEUE, POISON_QUEUE, HIGH_QUEUE, HIGH_POISON_QUEUE}
BACKLOG = SCENARIOS[0]["backlogThreshold"] // SCENARIOS[0]["taskQueues"]


@pytest.fixture
async def queues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[QueueStore]:
    app = AppState(StorageConfig(base_path=tmp_path))
    monkeypatch.setattr(state_module, "_states", {asyncio.get_running_loop(): app})
    yield app.storage.backend.queues
    await app.storage.close()


async def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What one run of the timer logs."""
    caplog.clear()
    caplog.set_level("INFO", "AOS.Maintenance")
    await maintenance.watch_queues._function.get_user_function()(None)  # type: ignore[attr-defined]
    return [record.getMessage() for record in caplog.records if record.name == "AOS.Maintenance"]


def lengths_in(query: str, line: str) -> dict[str, int]:
    """What the first steps of a query make of a line, taken literally: the filter, the pattern, the JSON."""
    start = re.search(r'\| where message startswith "([^"]*)" \|', query)
    pattern = re.search(r'parse_json\(extract\("([^"]*)", 1, message\)\)', query)
    assert start, query
    assert pattern, query
    # KQL reads \ in such a text as an escape; where there is none the pattern is what it looks like.
    assert "\\" not in pattern[1]
    assert "mv-expand queue = bag_keys(lengths) to typeof(string)" in query
    assert "tolong(lengths[queue])" in query
    found = re.search(pattern[1], line)
    return json.loads(found[1]) if found and line.startswith(start[1]) else {}


def alarms(lines: Iterable[str]) -> dict[str, set[str]]:
    """Which rules would be raised by the lines of one window, and for which queues."""
    lines = list(lines)
    found: dict[str, set[str]] = {}
    for rule in deploy(files(), SCENARIOS[0].parameters).of(QUERY_RULE):
        query = str(at(rule, "properties.criteria.allOf.0.query"))
        if not query.startswith("traces"):
            continue
        rest = re.search(
            r'\| where queue (!?)endswith "(\S+)" and messages > (\d+)'
            r" \| summarize seen = count\(\) by queue \| where seen >= (\d+)$",
            query,
        )
        assert rest, query
        negated, ending, threshold, times = rest[1], rest[2], int(rest[3]), int(rest[4])
        seen = Counter(
            queue
            for line in lines
            for queue, messages in lengths_in(query, line).items()
            if queue.endswith(ending) is not bool(negated) and messages > threshold
        )
        name = str(at(rule, "properties.displayName")).rpartition(" ")[2]
        found[name] = {queue for queue, count in seen.items() if count >= times}
    return found


async def test_empty_and_missing_queues_are_no_news(
    queues: QueueStore, caplog: pytest.LogCaptureFixture
) -> None:
    assert await logged(caplog) == []
    await queues.create_queue(TASK_QUEUE)
    await queues.send(EVENT_QUEUE, b"nobody has to take it")
    assert await logged(caplog) == []


async def test_one_line_tells_all_lengths_and_the_alerts_understand_it(
    queues: QueueStore, caplog: pytest.LogCaptureFixture
) -> None:
    for queue, count in ((TASK_QUEUE, 3), (HIGH_POISON_QUEUE, 1), (EVENT_QUEUE, 2)):
        for _ in range(count):
            await queues.send(queue, b"x")
    await queues.receive(TASK_QUEUE)  # in work, and still to be done
    (line,) = await logged(caplog)
    expected = dict.fromkeys(WATCHED, 0) | {TASK_QUEUE: 3, HIGH_POISON_QUEUE: 1}
    queries = [
        str(at(rule, "properties.criteria.allOf.0.query"))
        for rule in deploy(files(), SCENARIOS[0].parameters).of(QUERY_RULE)
    ]
    panels = json.loads(files()["modules/workbook.json"])["items"]
    queries += [panel["content"].get("query", "") for panel in panels]
    readers = [query for query in queries if query.startswith('traces | where message startswith "queue')]
    assert len(readers) == 3
    for query in readers:
        assert lengths_in(query, line) == expected
    assert alarms([line]) == {"poison-length": set(), "backlog": set()}, "once may be chance"
    assert alarms([line, line]) == {"poison-length": {HIGH_POISON_QUEUE}, "backlog": set()}


async def test_a_backlog_is_told_of_each_queue_of_tasks(
    queues: QueueStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {TASK_QUEUE: BACKLOG, POISON_QUEUE: BACKLOG + 1, HIGH_QUEUE: BACKLOG + 1, HIGH_POISON_QUEUE: 0}

    async def length(queue: str) -> int:
        return counts[queue]

    monkeypatch.setattr(queues, "length", length)
    lines = [*await logged(caplog), *await logged(caplog)]
    assert alarms(lines) == {"poison-length": {POISON_QUEUE}, "backlog": {HIGH_QUEUE}}
    assert alarms([line.replace("{", "") for line in lines]) == {"poison-length": set(), "backlog": set()}


async def test_a_store_without_queues_says_so(
    queues: QueueStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the other timers do: tasks cannot work there, and silence would hide it."""

    async def length(queue: str) -> int:
        raise UnsupportedOperationError("S3 has no queues")

    monkeypatch.setattr(queues, "length", length)
    with pytest.raises(UnsupportedOperationError):
        await logged(caplog)
