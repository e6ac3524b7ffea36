"""The local host's timers: schedules, due times across restarts and overruns, one host at a time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from devhost.errors import DevhostError
from devhost.schedules import NEVER, Schedule, process_zone
from devhost.timers import Clock, TimerLease, TimerRunner, Timers
from tests.test_devhost import Runs, function_of, until

START = datetime(2026, 1, 1, tzinfo=UTC)


class StepClock(Clock):
    """A clock that a test moves: sleepers wake when it has come to their moment."""

    def __init__(self) -> None:
        self.time = START
        self.waiting_for: datetime | None = None
        self._moved = asyncio.Condition()

    def now(self) -> datetime:
        return self.time

    async def sleep_until(self, moment: datetime) -> None:
        self.waiting_for = moment
        async with self._moved:
            await self._moved.wait_for(lambda: self.time >= moment)
        self.waiting_for = None

    async def move(self, seconds: float) -> None:
        async with self._moved:
            self.time += timedelta(seconds=seconds)
            self._moved.notify_all()


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


@asynccontextmanager
async def running(timer: TimerRunner) -> AsyncIterator[None]:
    task = asyncio.create_task(timer.run())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def seen(runs: Runs) -> list[tuple[bool, str, str]]:
    """Of each run whether it is past due, and its last and next due times."""
    statuses = [(json.loads(body), json.loads(body)["ScheduleStatus"]) for body in runs.bodies]
    return [(whole["IsPastDue"], status["Last"], status["Next"]) for whole, status in statuses]


async def test_timer_runs_when_due_and_one_at_a_time() -> None:
    clock, runs = StepClock(), Runs()
    runs.gate = asyncio.Semaphore(0)
    async with running(TimerRunner(function_of("timer", schedule="*/10 * * * * *"), runs, clock=clock)):
        await until(lambda: clock.waiting_for == at(10))
        assert runs.bodies == []
        await clock.move(10)
        await until(lambda: runs.now == 1)
        # What falls due while a run is under way is made up by one run, at once.
        await clock.move(25)
        assert runs.now == 1
        runs.gate.release()
        await until(lambda: len(runs.bodies) == 2)
        runs.gate.release()
        await until(lambda: clock.waiting_for == at(40))
    assert len(runs.bodies) == 2
    assert runs.most == 1
    never = "0001-01-01T00:00:00+00:00"
    assert seen(runs) == [
        (False, never, at(20).isoformat()),
        (False, at(10).isoformat(), at(40).isoformat()),
    ]


async def test_a_pause_begins_when_a_run_has_ended() -> None:
    clock, runs = StepClock(), Runs()
    runs.gate = asyncio.Semaphore(0)
    async with running(TimerRunner(function_of("timer", schedule="00:00:10"), runs, clock=clock)):
        await until(lambda: clock.waiting_for == at(10))
        await clock.move(10)
        await until(lambda: runs.now == 1)
        await clock.move(25)
        runs.gate.release()
        await until(lambda: clock.waiting_for == at(45))


async def test_timer_runs_on_startup_where_asked() -> None:
    runs = Runs()
    timer = TimerRunner(
        function_of("timer", schedule="0 0 0 1 1 *", runOnStartup=True), runs, clock=StepClock()
    )
    async with running(timer):
        await until(lambda: len(runs.bodies) == 1)


@pytest.mark.parametrize(("away", "made_up", "next_"), [(5, False, 20), (15, True, 30), (3600, True, 3620)])
async def test_what_was_due_while_no_host_was_there_is_made_up_once(
    tmp_path: Path, away: float, made_up: bool, next_: float
) -> None:
    clock, runs = StepClock(), Runs()
    function = function_of("timer", schedule="*/10 * * * * *")
    async with running(TimerRunner(function, runs, tmp_path, clock)):
        await until(lambda: clock.waiting_for == at(10))
        await clock.move(10)
        await until(lambda: clock.waiting_for == at(20))
    await clock.move(away)
    async with running(TimerRunner(function, runs, tmp_path, clock)):
        await until(lambda: clock.waiting_for == at(next_))
    assert [past_due for past_due, _, _ in seen(runs)] == [False] + [True] * made_up


async def test_a_schedule_that_was_changed_counts_from_now(tmp_path: Path) -> None:
    clock, runs = StepClock(), Runs()
    async with running(TimerRunner(function_of("timer", schedule="0 0 0 1 6 *"), runs, tmp_path, clock)):
        await until(lambda: clock.waiting_for is not None)
    async with running(TimerRunner(function_of("timer", schedule="*/10 * * * * *"), runs, tmp_path, clock)):
        await until(lambda: clock.waiting_for == at(10))
    assert runs.bodies == []


def test_one_host_has_the_lease_until_it_ends(tmp_path: Path) -> None:
    clock = StepClock()
    first, second = (TimerLease(tmp_path, 60, clock) for _ in range(2))
    assert first.acquire() is None
    assert second.acquire() == at(60)
    clock.time = at(30)
    assert first.acquire() is None
    clock.time = at(89)
    assert second.acquire() == at(90)
    clock.time = at(90)
    assert second.acquire() is None
    assert first.acquire() == at(150)


async def test_of_several_hosts_one_runs_the_timers(tmp_path: Path) -> None:
    runs = [Runs() for _ in range(3)]
    hosts = [
        Timers(
            [TimerRunner(function_of("timer", schedule="* * * * * *"), each, tmp_path)],
            TimerLease(tmp_path, 2),
            renew_seconds=0.5,
        )
        for each in runs
    ]
    for host in hosts:
        host.start()
    await until(lambda: any(each.bodies for each in runs))
    first = next(at for at, each in enumerate(runs) if each.bodies)
    await hosts[first].stop()
    # Another takes over when the lease has ended.
    await until(lambda: sum(bool(each.bodies) for each in runs) >= 2)
    for host in hosts:
        await host.stop()
    assert max(each.most for each in runs) == 1


async def test_a_host_that_lost_the_lease_runs_the_timers_again_after_its_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runs = Runs()
    timer = TimerRunner(function_of("timer", schedule="* * * * * *"), runs, tmp_path)
    host = Timers([timer], TimerLease(tmp_path, 60), renew_seconds=0.2)
    host.start()
    await until(lambda: bool(runs.bodies))
    ends = datetime.now(UTC) + timedelta(seconds=4)
    (tmp_path / "lease.json").write_text(json.dumps({"owner": "another", "ends": ends.isoformat()}))
    await until(lambda: "another host took the lease" in caplog.text)
    before = len(runs.bodies)
    await until(lambda: len(runs.bodies) > before)
    assert datetime.now(UTC) >= ends
    await host.stop()


@pytest.mark.parametrize(
    "text", ["0 0 0 30 2 *", "0 0 0 31 4,6 *", "999999999999.00:00:01", "9999999.00:00:00"]
)
def test_a_schedule_that_is_never_due(text: str) -> None:
    assert Schedule(text, "here", UTC).after(START) == NEVER


async def test_a_timer_that_is_never_due_hinders_no_other(tmp_path: Path) -> None:
    never, every = Runs(), Runs()
    timers = [
        TimerRunner(function_of("timer", schedule="0 0 0 30 2 *"), never, tmp_path / "never"),
        TimerRunner(function_of("timer", schedule="* * * * * *"), every, tmp_path / "every"),
    ]
    for folder in ("never", "every"):
        (tmp_path / folder).mkdir()
    host = Timers(timers, TimerLease(tmp_path, 60), renew_seconds=30)
    host.start()
    await until(lambda: len(every.bodies) > 1)
    assert never.bodies == []
    await host.stop()


async def test_timers_go_on_after_a_failure_of_the_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "timers"
    runs = Runs()
    timer = TimerRunner(function_of("timer", schedule="* * * * * *"), runs, folder)
    host = Timers([timer], TimerLease(folder, 60), renew_seconds=0.6)
    host.start()
    await until(lambda: bool(runs.bodies))
    folder.rename(tmp_path / "gone")
    folder.touch()
    await until(lambda: "the timers failed" in caplog.text)
    folder.unlink()
    before = len(runs.bodies)
    await until(lambda: len(runs.bodies) > before)
    await host.stop()


@pytest.mark.parametrize(
    ("text", "due"),
    [
        ("30 * * * * *", "2026-01-01T00:00:30"),
        ("*/5 * * * *", "2026-01-01T00:05:00"),
        ("0 30 9 * * 1-5", "2026-01-01T09:30:00"),
        ("0 0 0 * Feb,june Mon-Wed", "2026-02-02T00:00:00"),
        ("0 0 0 * * Saturday", "2026-01-03T00:00:00"),
        # NCRONTAB wants both days to hold: the first 13th that is a Friday.
        ("0 0 0 13 * 5", "2026-02-13T00:00:00"),
        ("00:05:00", "2026-01-01T00:05:00"),
        ("1.00:00:01", "2026-01-02T00:00:01"),
    ],
)
def test_schedule(text: str, due: str) -> None:
    after = Schedule(text, "here", UTC).after(START)
    assert after == datetime.fromisoformat(due).replace(tzinfo=UTC)


def test_a_schedule_is_in_the_zone_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    assert process_zone() == ZoneInfo("America/New_York")
    schedule = Schedule("0 0 9 * * *", "here")
    assert schedule.after(START) == datetime(2026, 1, 1, 14, tzinfo=UTC)
    assert schedule.after(datetime(2026, 7, 1, tzinfo=UTC)) == datetime(2026, 7, 1, 13, tzinfo=UTC)
    monkeypatch.setenv("TZ", "Nowhere/City")
    with pytest.raises(DevhostError, match="TZ is 'Nowhere/City'"):
        Schedule("0 0 9 * * *", "here")


@pytest.mark.parametrize(
    "text",
    [
        *("", "* * * *", "61 * * * * *", "@hourly", "@daily", "0 0 0 0 0 0 0", "00:00:00"),
        *("0 0 0 * * 7", "0 0 0 * * 5-7", "0 0 0 ? * *", "0 0 0 L * *", "0 0 0 * * 5#2", "0 0 0 * * someday"),
    ],
)
def test_bad_schedule_is_refused(text: str) -> None:
    with pytest.raises(DevhostError, match="function f: schedule"):
        TimerRunner(function_of("timer", schedule=text), Runs())
