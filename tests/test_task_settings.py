"""Settings of the task engine that cannot work are refused by name, before a task suffers from them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from functions.limits import DEFAULT_SECONDS, SETTING, function_timeout
from functions.state import MIN_RETENTION_DAYS, AppState
from storage_lib.backends.memory import MemoryBackend
from storage_lib.config import StorageConfig
from storage_lib.errors import ConfigurationError, InvalidArgumentError
from storage_lib.manager import StorageManager
from storage_lib.tasks import registry as registry_module
from storage_lib.tasks.engine import TaskEngine
from storage_lib.tasks.registry import DEFAULT_TIMEOUT_SECONDS, Registry, task
from storage_lib.tasks.submission import KEY_WINDOW_SECONDS, MAX_VISIBILITY_SECONDS


@pytest.fixture(autouse=True)
def actions() -> Iterator[None]:
    Registry().names()
    before = dict(registry_module._actions)
    yield
    registry_module._actions.clear()
    registry_module._actions.update(before)


def app(tmp_path: Path) -> AppState:
    return AppState(StorageConfig(base_path=tmp_path))


def takes(seconds: float) -> None:
    @task("takes_long", timeout=seconds)
    async def takes_long(context: Any, payload: Any) -> None: ...


# -- time limits


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("00:10:00", 600),
        ("02:00:05", 7205),
        ("1.00:00:00", 86400),
        ("00:05:00.5000000", 300),
        ("-1", math.inf),
        (-1, math.inf),
        (None, DEFAULT_SECONDS),
    ],
)
def test_the_hosts_limit_is_read_as_the_host_reads_it(value: Any, seconds: float, tmp_path: Path) -> None:
    host_json = tmp_path / "host.json"
    host_json.write_text(
        json.dumps({"version": "2.0"} | ({} if value is None else {"functionTimeout": value}))
    )
    assert function_timeout(host_json) == seconds


def test_a_setting_overrides_host_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert function_timeout(tmp_path / "none.json") == DEFAULT_SECONDS
    monkeypatch.setenv(SETTING, "00:01:00")
    assert function_timeout() == 60


@pytest.mark.parametrize(
    "value", ["a while", "00:99:00", "00:00:60", "1:2:3", "9" * 400 + ":00:00", "9" * 5000 + ".00:00:00", ""]
)
def test_a_limit_that_is_no_time_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTING, value)
    with pytest.raises(ConfigurationError) as refused:
        function_timeout()
    assert refused.value.field == "functionTimeout"
    assert value[:40] in refused.value.message
    assert len(refused.value.message) < 100


def test_the_apps_own_limits_fit(tmp_path: Path) -> None:
    assert function_timeout() > DEFAULT_TIMEOUT_SECONDS
    app(tmp_path).check_settings()


@pytest.mark.parametrize("seconds", [600, 3600])
def test_an_action_that_the_host_would_kill_is_refused(seconds: float, tmp_path: Path) -> None:
    takes(seconds)
    with pytest.raises(ConfigurationError) as refused:
        app(tmp_path).check_settings()
    assert f"timeout {seconds:g} s of action 'takes_long'" in str(refused.value)
    assert "functionTimeout, 600 s" in str(refused.value)


async def test_nothing_is_submitted_to_an_app_with_such_an_action(tmp_path: Path) -> None:
    takes(601)
    found = app(tmp_path)
    for _ in range(2):
        with pytest.raises(ConfigurationError):
            await found.engine.submit("takes_long", "a")


@pytest.mark.parametrize("limit", ["01:00:01", "-1"])
def test_a_host_that_lets_it_take_so_long_is_content(
    limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    takes(3600)
    monkeypatch.setenv(SETTING, limit)
    app(tmp_path).check_settings()


# -- retention


def test_records_are_kept_longer_than_a_message_is_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the message of a cancelled task would find no record, and run it; and a submission repeated within
    the day of its key would run a second time."""
    monkeypatch.setenv("AGENT_TASK_RETENTION_DAYS", "8")
    assert app(tmp_path).task_retention_days == 8
    assert max(MAX_VISIBILITY_SECONDS, KEY_WINDOW_SECONDS) < MIN_RETENTION_DAYS * 24 * 3600
    monkeypatch.setenv("AGENT_TASK_RETENTION_DAYS", "7.9")
    with pytest.raises(ConfigurationError) as refused:
        app(tmp_path).check_settings()
    assert refused.value.field == "AGENT_TASK_RETENTION_DAYS"
    assert refused.value.limit == "8 or more"
    assert "hidden for 7 days" in str(refused.value)


@pytest.mark.parametrize("wrong", [-1, float("nan"), float("inf"), 1e12, "60", True, None])
@pytest.mark.parametrize("name", ["lease_seconds", "key_window_seconds"])
def test_an_engine_with_a_time_that_cannot_be_is_refused(name: str, wrong: Any) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        TaskEngine(StorageManager(backend=MemoryBackend()), **{name: wrong})
    assert refused.value.field == name
