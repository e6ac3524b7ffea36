"""What reaches the platform's log, which has a daily cap."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys

import pytest

from functions.logs import LEVELS, SETTING
from functions.state import check_settings
from storage_lib.errors import ConfigurationError
from tests.conftest import PROJECT

HTTP = "azure.core.pipeline.policies.http_logging_policy"
LOGGERS = (
    HTTP,
    "azure.storage.blob",
    "azure.identity",
    "azure.data.tables",
    "azure.functions",
    "AOS.Tasks",
    "my_tasks",
)

# As the worker does before it imports the app: its handler takes what loggers of any name let through.
WORKER = """
import json, logging, sys

taken = {}

class Handler(logging.Handler):
    def emit(self, record):
        taken.setdefault(record.name, []).append(record.levelno)

root = logging.getLogger()
root.setLevel(sys.argv[1])
root.addHandler(Handler())
import function_app
for name in sys.argv[2:]:
    for level in (10, 20, 30, 40):
        logging.getLogger(name).log(level, "said")
print(json.dumps({name: min(levels) for name, levels in taken.items()}))
"""


def levels(root: str, **settings: str) -> dict[str, int]:
    """The lowest level of what reaches the handler, by logger."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("AGENT")
    } | settings
    command = [sys.executable, "-c", WORKER, root, *LOGGERS]
    run = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


@pytest.mark.parametrize("root", ["INFO", "DEBUG"])
def test_the_sdk_logs_warnings_and_all_others_as_the_worker_has_it(root: str) -> None:
    found = levels(root)
    sdk = {name: found.pop(name) for name in LOGGERS[:4]}
    assert set(sdk.values()) == {logging.WARNING}
    assert set(found.values()) == {getattr(logging, root)}


@pytest.mark.parametrize("level", [*LEVELS, "info", " Debug "])
def test_a_setting_says_otherwise(level: str) -> None:
    found = levels("INFO", AGENT_STORAGE_SDK_LOG_LEVEL=level)
    assert found[HTTP] == getattr(logging, level.strip().upper())
    assert found["AOS.Tasks"] == found["azure.functions"] == logging.INFO


@pytest.mark.parametrize("level", ["VERBOSE", "20", "warn", "Warnung", "NOTSET"])
def test_what_is_no_level_is_told_when_the_app_is_used(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert levels("INFO", AGENT_STORAGE_SDK_LOG_LEVEL=level)[HTTP] == logging.WARNING
    monkeypatch.setenv(SETTING, level)
    with pytest.raises(ConfigurationError) as refused:
        check_settings()
    assert refused.value.field == SETTING
    assert repr(level) in refused.value.message
    assert "DEBUG, INFO, WARNING, ERROR" in refused.value.explained()
