"""The bindings of every function, as the platform reads them; a change here changes the deployed app."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
from typing import Any

from storage_lib.config import CONNECTION, StorageConfig
from storage_lib.tasks.model import HIGH_POISON_QUEUE, HIGH_QUEUE, POISON_QUEUE, TASK_QUEUE
from tests.conftest import PROJECT

SNAPSHOT = PROJECT / "tests" / "snapshots" / "bindings.json"


_TELL = """
import json, function_app
found = {f.get_function_name(): f.get_raw_bindings() for f in function_app.app.get_functions()}
print(json.dumps(found))
"""


@functools.cache
def bindings() -> dict[str, list[dict[str, Any]]]:
    # In a process of its own: an app can be indexed once, and other tests serve it.
    run = subprocess.run([sys.executable, "-c", _TELL], cwd=PROJECT, capture_output=True, check=True)
    return {name: [json.loads(raw) for raw in found] for name, found in json.loads(run.stdout).items()}


def test_bindings_are_those_of_the_snapshot() -> None:
    expected = json.loads(SNAPSHOT.read_text())
    found = bindings()
    assert sorted(found) == sorted(expected)
    for name, function in found.items():
        assert function == expected[name], name


def test_a_literal_route_is_tried_before_the_one_with_a_parameter_that_would_take_it() -> None:
    """The host tries routes in the order of the functions' names (azure-functions-host, issue 9876), and
    nothing at all is a rest of the path, too."""
    triggers = {
        name: binding
        for name, function in bindings().items()
        for binding in function
        if binding["type"] == "httpTrigger"
    }
    found = set[str]()
    for name, trigger in triggers.items():
        template = re.sub(r"/\{\*\w+\}$", "(/.*)?", trigger["route"])
        if template == trigger["route"]:
            template = re.sub(r"\{\w+\}", "[^/]+", template)
        for other, literal in triggers.items():
            if (
                "{*" not in literal["route"]
                and other != name
                and re.fullmatch(template, literal["route"])
                and set(trigger["methods"]) & set(literal["methods"])
            ):
                assert other.lower() < name.lower(), f"{other} would never be called: {name} comes first"
                found.add(name)
    assert {"save_object", "show_upload", "get_task"} <= found


BY_LINK = {
    "load_by_link",
    "head_by_link",
    "save_by_link",
    "by_query_load_by_link",
    "by_query_save_by_link",
}
"""What is allowed there, the signature of the URL says."""


def test_only_liveness_signed_links_and_the_empty_console_are_anonymous() -> None:
    levels = {
        name: binding["authLevel"]
        for name, function in bindings().items()
        for binding in function
        if binding["type"] == "httpTrigger"
    }
    assert {name for name, level in levels.items() if level == "ANONYMOUS"} == {
        "health_live",
        "console_page",
        "console_asset",
        *BY_LINK,
    }
    assert set(levels.values()) == {"ANONYMOUS", "FUNCTION"}


def test_queue_bindings_use_the_queues_and_the_connection_of_the_library() -> None:
    found = bindings()
    for name, queue in (
        ("process_task", TASK_QUEUE),
        ("process_poison_task", POISON_QUEUE),
        ("process_high_task", HIGH_QUEUE),
        ("process_high_poison_task", HIGH_POISON_QUEUE),
    ):
        (trigger,) = [b for b in found[name] if b["type"] == "queueTrigger"]
        assert (trigger["queueName"], trigger["connection"]) == (queue, CONNECTION)
        # Events are sent by the function itself: of an output binding nobody is told whether it was sent.
        assert [b["type"] for b in found[name]] == ["queueTrigger"]
    # The poison queue's name is not free: the platform makes it from the queue's.
    assert f"{TASK_QUEUE}-poison" == POISON_QUEUE
    assert f"{HIGH_QUEUE}-poison" == HIGH_POISON_QUEUE


def test_host_json_leaves_the_encoding_to_the_queue_client() -> None:
    """The settings; test_http.py has the proof by messages that arrive, encoded and plain."""
    queues = json.loads((PROJECT / "host.json").read_text())["extensions"]["queues"]
    assert queues["messageEncoding"] == "none"
    assert StorageConfig().message_encoding == "base64"
