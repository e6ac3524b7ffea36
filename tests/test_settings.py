"""Settings that cannot work are refused by name before anything is served; misspelt ones are told."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from functions.state import AppState, check_settings
from storage_lib.config import StorageConfig, spelling
from storage_lib.config.spelling import OF_OTHERS, SETTINGS, misspelt
from storage_lib.errors import ConfigurationError
from storage_lib.tasks.registry import task
from tests.conftest import PROJECT

NUMBERS = [
    "AGENT_TASK_RETENTION_DAYS",
    "AGENT_TASK_LEASE_SECONDS",
    "AGENT_STORAGE_MAX_BODY_BYTES",
    "AGENT_STORAGE_MAX_JSON_BYTES",
]
BAD = ["999999999", "1e12", "1e400", "inf", "nan", "-1", "0", "0.0001", "many", " ", "1e-400", "9" * 5000]


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AGENT_STORAGE_PATH", str(tmp_path))
    monkeypatch.setattr(spelling, "_told", set[str]())


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", BAD)
def test_a_number_out_of_bounds_is_refused_with_its_name(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as refused:
        check_settings()
    error = refused.value
    assert error.field == name
    assert name in error.message
    assert error.limit
    assert len(error.explained()) < 500


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("AGENT_TASK_RETENTION_DAYS", ["8", "30", "3660"]),
        ("AGENT_TASK_LEASE_SECONDS", ["1", "2.5", "3600"]),
        ("AGENT_STORAGE_MAX_BODY_BYTES", ["1", "104857600"]),
        ("AGENT_STORAGE_MAX_JSON_BYTES", ["1", "104857600", ""]),
    ],
)
def test_the_bounds_themselves_can_work(
    name: str, values: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for value in values:
        monkeypatch.setenv(name, value)
        check_settings()


def test_checking_opens_nothing(tmp_path: Path) -> None:
    app = AppState(StorageConfig(base_path=tmp_path / "none"))
    app.check_settings()
    assert "storage" not in vars(app)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), 1e12])
def test_the_time_of_an_action_has_a_bound(timeout: float) -> None:
    with pytest.raises(ConfigurationError) as refused:
        task("takes_its_time", timeout=timeout)
    assert refused.value.field == "timeout"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("AGENT_STORAGE_TYP", "AGENT_STORAGE_TYPE"),
        ("AGENT_STORAGE_BACKEND_TYPE", "AGENT_STORAGE_TYPE"),
        ("agent_storage_type", "AGENT_STORAGE_TYPE"),
        ("AGENTS_STORAGE_TYPE", "AGENT_STORAGE_TYPE"),
        ("AGENT_STORAGE_BUCKET", "AGENT_STORAGE_S3_BUCKET"),
        ("AGENT_STORGE_PATH", "AGENT_STORAGE_PATH"),
        ("AGENT_TASKS_MODULES", "AGENT_TASK_MODULES"),
        ("AGENT_TASK_MODULE", "AGENT_TASK_MODULES"),
        ("AGENT_TASK_RETENTION", "AGENT_TASK_RETENTION_DAYS"),
        ("AGENT_TASK_LEASE_SECOND", "AGENT_TASK_LEASE_SECONDS"),
        ("AGENTSTORAGE", "AgentStorage"),
        ("AgentStorage_blobServiceUri", "AgentStorage__blobServiceUri"),
        ("AgentStorage__blobServiceURI", "AgentStorage__blobServiceUri"),
        ("AgentStorage__queueServicesUri", "AgentStorage__queueServiceUri"),
    ],
)
def test_a_misspelt_name_is_told_with_the_nearest(
    name: str, nearest: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert misspelt([name]) == {name: nearest}
    with caplog.at_level(logging.WARNING, "AOS.Settings"):
        for _ in range(2):
            StorageConfig.from_env({name: "x"})
    (record,) = (each for each in caplog.records if each.name == "AOS.Settings")
    assert name in record.getMessage()
    assert nearest in record.getMessage()


def test_the_names_of_others_are_left_alone() -> None:
    others = [
        *("AGENT", "SSH_AGENT_PID", "USER_AGENT", "STORAGE_ACCOUNT", "TASK_ID", "AZURE_STORAGE_ACCOUNT"),
        *("AzureWebJobsStorage", "AWS_REGION", "PATH", "AGENT_TOOLSDIRECTORY", "AGENT_NAME", "AGENT_OS"),
    ]
    assert misspelt([*SETTINGS, *OF_OTHERS, *others]) == {}


def test_every_setting_that_is_read_is_known() -> None:
    read: set[str] = set()
    for top in ("functions", "actions", "storage_lib", "devhost"):
        for path in (PROJECT / top).rglob("*.py"):
            if path.name != "spelling.py":
                read.update(re.findall(r"AGENT_(?:STORAGE|TASK)_[A-Z0-9]+(?:_[A-Z0-9]+)*", path.read_text()))
    assert read <= SETTINGS
    deployed = (PROJECT / "infra" / "main.parameters.json").read_text()
    assert set(re.findall(r"AGENT_[A-Z0-9_]+", deployed)) <= SETTINGS | OF_OTHERS


@pytest.mark.parametrize(
    "variables",
    [
        {"AGENT_TASK_RETENTION_DAYS": "999999"},
        {"AGENT_TASK_LEASE_SECONDS": "1e12"},
        {"AGENT_STORAGE_MAX_BODY_BYTES": "1e12"},
        {"AGENT_STORAGE_RETRY_ATTEMPTS": "99999"},
        {"AGENT_STORAGE_MESSAGE_ENCODING": "base32"},
        {"AzureFunctionsJobHost__functionTimeout": "a while"},
    ],
    ids=json.dumps,
)
def test_the_local_host_does_not_say_ready(tmp_path: Path, variables: dict[str, str]) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.upper().startswith("AGENT")}
    run = subprocess.run(
        [sys.executable, "-m", "devhost", "--backend", "file", "--port", "0", "--data", str(tmp_path)],
        cwd=PROJECT,
        env=clean | variables | {"AGENT_STORAGE_TYP": "azure"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    (name,) = variables
    assert run.returncode == 2, run.stderr
    assert name.rpartition("__")[2].removeprefix("AGENT_STORAGE_").lower() in run.stderr.lower()
    assert "ready" not in run.stdout
    if not name.startswith("AzureFunctionsJobHost"):  # That is read before the storage's settings are.
        assert "did you mean AGENT_STORAGE_TYPE?" in run.stderr


@pytest.mark.parametrize("name", ["retry_attempts", "concurrent_requests"])
@pytest.mark.parametrize(
    "text", ["0", "-1", "1.5", "1e3", "nan", "9" * 20, "9" * 5000, "²"], ids=lambda t: t[:5]
)
def test_a_number_that_is_none_is_refused_however_long_it_is(name: str, text: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        StorageConfig.from_env({f"AGENT_STORAGE_{name.upper()}": text})
    assert refused.value.field == name
    assert len(refused.value.message) < 200


@pytest.mark.parametrize(
    ("setting", "limit"),
    [("AGENT_TASK_PAYLOADS", "records or objects"), ("AGENT_CONVERSATION_MESSAGES", "rows or objects")],
)
def test_where_payloads_and_messages_are_kept_is_one_of_two(
    monkeypatch: pytest.MonkeyPatch, setting: str, limit: str
) -> None:
    monkeypatch.setenv(setting, "objects")
    check_settings()
    monkeypatch.setenv(setting, "queue")
    with pytest.raises(ConfigurationError) as refused:
        check_settings()
    assert (refused.value.field, refused.value.limit) == (setting, limit)
