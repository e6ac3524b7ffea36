"""What the hook before `azd provision` refuses, and that it knows all that can be set."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from typing import Any

import pytest
import yaml

from deployment.variables import BOOLEAN, MEMBERS, RULES, faults, other_names
from tests.conftest import PROJECT

INFRA = PROJECT / "infra"
DOCUMENT: Any = json.loads((INFRA / "main.parameters.json").read_text())
VARIABLES = {
    found[1]: name
    for name, given in DOCUMENT["parameters"].items()
    if (found := re.match(r"\$\{(\w+)", str(given["value"])))
}
OTHERS = other_names(PROJECT)


def refused(**environment: str) -> list[str]:
    return list(faults(DOCUMENT, OTHERS, environment))


def test_every_parameter_that_can_be_set_is_known() -> None:
    assert DOCUMENT["parameters"].keys() <= RULES.keys() | MEMBERS.keys()
    assert len(VARIABLES) > 12


@pytest.mark.parametrize(
    ("origins", "good"),
    [
        ([], True),
        (["https://example.com", "http://localhost:3000"], True),
        (["*"], True),
        (["*", "https://example.com"], False),
        (["https://example.com/"], False),
        (["https://example.com/app"], False),
        (["example.com"], False),
        (["https://Example.com"], False),
        (["https://*.example.com"], False),
        (["null"], False),
        ([1], False),
    ],
)
def test_an_origin_that_no_page_has_is_refused(origins: list[Any], good: bool) -> None:
    document = {"parameters": DOCUMENT["parameters"] | {"corsOrigins": {"value": origins}}}
    found = list(faults(document, OTHERS, {}))
    assert (found == []) == good
    assert all("corsOrigins" in each for each in found)


def test_the_rules_are_those_of_the_template() -> None:
    """Of what stands at each parameter: its type, its bounds, its choices and its default."""
    template = (INFRA / "main.bicep").read_text()
    compared = 0
    for found in re.finditer(
        r"((?:^@[^\n]*\n(?:[ \t})\]][^\n]*\n)*)+)^param (\w+) (\S+)(?: = (.*))?$", template, re.MULTILINE
    ):
        decorators, name, kind, default = found.groups()
        if name not in RULES:
            assert kind not in ("bool", "int", "string"), f"{name} has no rule"
            continue
        compared += 1
        holds, bounds = RULES[name].holds, dict(re.findall(r"@(minValue|maxValue)\((-?\d+)\)", decorators))
        assert (kind == "bool") == (RULES[name] is BOOLEAN), name
        if default and default != "''":
            assert holds(default.strip("'")), f"{name} = {default}"
        for bound, beyond in (("minValue", -1), ("maxValue", 1)):
            if bound in bounds:
                assert holds(bounds[bound]), name
                assert not holds(str(int(bounds[bound]) + beyond)), name
        if choices := re.search(r"@allowed\(\[([^\]]*)\]\)", decorators):
            assert set(RULES[name].choices) == set(re.findall(r"[\w.]+", choices[1])), name
    assert compared >= 25


@pytest.mark.parametrize("variable", VARIABLES)
def test_nonsense_is_refused_and_named(variable: str) -> None:
    told, *_ = refused(**{variable: "?!"})
    assert told.startswith(f"{variable} is '?!': it must be {RULES[VARIABLES[variable]].allowed}")


@pytest.mark.parametrize(
    "value", ["yes", "no", "1", "0", "t", "tRue", "true ", "treu", "enabled", "'true'", "True;"]
)
def test_only_true_and_false_are_booleans(value: str) -> None:
    (told,) = refused(AGENT_STORAGE_NETWORK_ISOLATION=value)
    assert f"AGENT_STORAGE_NETWORK_ISOLATION is {value!r}: it must be true or false" in told


@pytest.mark.parametrize(
    ("variable", "value", "meant"),
    [
        ("AGENT_STORAGE_NETWORK_ISOLATION", "yes", "true"),
        ("AGENT_STORAGE_NETWORK_ISOLATION", "ture", "true"),
        ("AGENT_STORAGE_KEY_VAULT", "Off", "false"),
        ("AGENT_STORAGE_SKU", "standard_lrs", "Standard_LRS"),
        ("AGENT_STORAGE_SKU", "Standard_RA-GRS", "Standard_RAGRS"),
        ("AGENT_STORAGE_INSTANCE_MB", "2084", "2048"),
        ("AZURE_LOCATION", "West Europe", "westeurope"),
    ],
)
def test_what_was_meant_is_suggested_with_its_command(variable: str, value: str, meant: str) -> None:
    (told,) = refused(**{variable: value})
    assert told.endswith(f"Did you mean {meant}? azd env set {variable} {meant}")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("AGENT_STORAGE_INSTANCE_MB", "2GB"),
        ("AGENT_STORAGE_INSTANCE_MB", "1024"),
        ("AGENT_STORAGE_MAX_INSTANCES", "0"),
        ("AGENT_STORAGE_MAX_INSTANCES", "1001"),
        ("AGENT_STORAGE_MAX_INSTANCES", "1e2"),
        ("AGENT_STORAGE_MAX_INSTANCES", "1_000"),
        ("AGENT_STORAGE_MAX_INSTANCES", "100.0"),
        ("AGENT_STORAGE_MAX_INSTANCES", "\u0661\u0662"),
        ("AGENT_STORAGE_BUDGET", "-1"),
        ("AGENT_STORAGE_BUDGET", "50 EUR"),
        ("AGENT_STORAGE_BUDGET_START", "2026-12-02"),
        ("AGENT_STORAGE_BUDGET_START", "2026-13-01"),
        ("AGENT_STORAGE_BUDGET_START", "01.12.2026"),
        ("AGENT_STORAGE_BUDGET_START", "2026-12"),
        ("AGENT_STORAGE_BUDGET_START", "20261201"),
        ("AGENT_STORAGE_ALERT_EMAIL", "ops"),
        ("AGENT_STORAGE_ALERT_EMAIL", "ops@example"),
        ("AGENT_STORAGE_ALERT_EMAIL", "a@example.com,b@example.com"),
        ("AGENT_STORAGE_ALERT_EMAIL", "Ops <ops@example.com>"),
        ("AGENT_STORAGE_AUTH_CLIENT_ID", "api://5f1f3f0e-6d5c-4b0e-9d5b-0c8f6f6f2a11"),
        ("AGENT_STORAGE_AUTH_CLIENT_ID", "agents"),
        ("AGENT_STORAGE_DATA_ACCOUNT", "My-Account"),
        ("AGENT_STORAGE_DATA_ACCOUNT", "https://stdata.blob.core.windows.net/"),
        ("AGENT_STORAGE_SKU", "Premium_LRS"),
        ("AGENT_STORAGE_NAMESPACE", "my-app"),
        ("AGENT_STORAGE_NAMESPACE", "agent"),
        ("AGENT_STORAGE_NAMESPACE", "a" * 21),
        ("AGENT_TASK_QUEUES", "0"),
        ("AGENT_TASK_QUEUES", "17"),
        ("AGENT_TASK_QUEUES", "four"),
        ("AZURE_LOCATION", "west-europe"),
        ("AZURE_ENV_NAME", "agents dev"),
        ("AZURE_ENV_NAME", "a" * 65),
        ("AZURE_PRINCIPAL_TYPE", "user"),
    ],
)
def test_what_a_variable_cannot_be_is_refused(variable: str, value: str) -> None:
    told = refused(**{variable: value})
    assert told[0].startswith(f"{variable} is {value[:80]!r}: it must be ")


def test_a_network_is_one_of_ipv4_that_is_large_enough() -> None:
    holds = RULES["networkAddressPrefix"].holds
    assert [holds(text) for text in ("10.20.0.0/20", "10.0.0.0/8", "192.168.0.0/16")] == [True] * 3
    wrong = ("10.20.0.0", "10.20.0.0/21", "10.20.0.1/20", "10.20.0.0/33", "fd00::/20", "10.20.0/20", "net")
    assert [holds(text) for text in wrong] == [False] * len(wrong)


def test_what_is_right_passes() -> None:
    assert refused() == []
    assert refused(**dict.fromkeys(VARIABLES, "")) == []
    right = {
        "AZURE_ENV_NAME": "agents-dev",
        "AZURE_LOCATION": "eastus2",
        "AZURE_PRINCIPAL_ID": "5f1f3f0e-6d5c-4b0e-9d5b-0c8f6f6f2a11",
        "AZURE_PRINCIPAL_TYPE": "ServicePrincipal",
        "AGENT_STORAGE_SEPARATE_HOST": "False",
        "AGENT_STORAGE_SKU": "Standard_GZRS",
        "AGENT_STORAGE_DATA_ACCOUNT": "stabc123data",
        "AGENT_STORAGE_DATA_GROUP": "rg-agents_(dev).1",
        "AGENT_STORAGE_NETWORK_ISOLATION": "TRUE",
        "AGENT_STORAGE_AUTH_CLIENT_ID": "5F1F3F0E-6d5c-4b0e-9d5b-0c8f6f6f2a11",
        "AGENT_STORAGE_ALERT_EMAIL": "ops+agents@mail.example.com",
        "AGENT_STORAGE_INSTANCE_MB": "4096",
        "AGENT_STORAGE_MAX_INSTANCES": "1000",
        "AGENT_STORAGE_BUDGET": "50",
        "AGENT_STORAGE_BUDGET_START": "2026-12-01",
        # Of the app, of the templates' outputs, and of others.
        "AGENT_STORAGE_TYPE": "azure",
        "AGENT_STORAGE_ACCOUNT": "stabc123data",
        "AGENT_STORAGE_KEY_URI": "",
        "SSH_AGENT_PID": "1",
        "AZURE_STORAGE_ACCOUNT": "stother",
        "MY_STORAGE_THING": "x",
    }
    assert refused(**right) == []


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("AGENT_STORAGE_NETWORK_ISOLATON", "AGENT_STORAGE_NETWORK_ISOLATION"),
        ("AGENT_STORAGE_NETWORKISOLATION", "AGENT_STORAGE_NETWORK_ISOLATION"),
        ("AGENTS_STORAGE_NETWORK_ISOLATION", "AGENT_STORAGE_NETWORK_ISOLATION"),
        ("agent_storage_sku", "AGENT_STORAGE_SKU"),
        ("AGENT-STORAGE-SKU", "AGENT_STORAGE_SKU"),
        ("AGENT_STORAGE_EMAIL", "AGENT_STORAGE_ALERT_EMAIL"),
        ("AGENT_STORAGE_AUTH_CLIENTID", "AGENT_STORAGE_AUTH_CLIENT_ID"),
        ("AGENT_STORAGE_KEYVAULT", "AGENT_STORAGE_KEY_VAULT"),
        ("STORAGE_NETWORK_ISOLATION", "AGENT_STORAGE_NETWORK_ISOLATION"),
    ],
)
def test_a_mistyped_name_is_refused(name: str, meant: str) -> None:
    (told,) = refused(**{name: "true"})
    assert told == f"{name} is not known: did you mean {meant}? Empty it: azd env set {name} ''"
    assert refused(**{name: ""}) == [], "as told"


@pytest.mark.parametrize(
    "name",
    [
        *(
            "AGENT_STORAGE_PRIVATE",
            "AGENT_STORAGE_NETWORK",
            "agent_storage_closed",
            "AGENT_STORAGE_ZONE_REDUNDANT",
        ),
        *("AGENT_STORAGE_RETENTION_DAYS", "AGENT_STORAGE_ALLOWED_ADDRESSES"),
    ],
)
def test_a_name_that_is_like_no_other_is_refused_too(name: str) -> None:
    assert refused(**{name: "true"}) == [f"{name} is not known. Empty it: azd env set {name} ''"]


def test_what_needs_another_is_refused_without_it() -> None:
    (told,) = refused(AGENT_STORAGE_BUDGET="50")
    assert told == (
        "AGENT_STORAGE_BUDGET is set, so AGENT_STORAGE_BUDGET_START must be too: the first day of a month,"
        " such as 2026-12-01"
    )
    (told,) = refused(AGENT_STORAGE_DATA_GROUP="rg-agents-dev")
    assert told.startswith("AGENT_STORAGE_DATA_GROUP is set, so AGENT_STORAGE_DATA_ACCOUNT must be too: ")
    assert refused(AGENT_STORAGE_BUDGET="0") == []
    isolated = {"AGENT_STORAGE_APP_PRIVATE_ENDPOINT": "true", "AGENT_STORAGE_NETWORK_ISOLATION": "true"}
    assert refused(**isolated) == refused(AGENT_STORAGE_APP_PRIVATE_ENDPOINT="false") == []
    (told,) = refused(AGENT_STORAGE_APP_PRIVATE_ENDPOINT="true")
    assert told.endswith("is set, so AGENT_STORAGE_NETWORK_ISOLATION must be too: true")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"networkIsolation": {"value": "yes"}}, "networkIsolation of infra/main.parameters.json is 'yes'"),
        ({"httpConcurrency": {"value": 0}}, "httpConcurrency of infra/main.parameters.json is '0'"),
        ({"backlogThreshold": {"value": "${BACKLOG=10000}"}}, "BACKLOG is 'many'"),
        (
            {"networkAddressPrefix": {"value": "10.0.0.0/24"}},
            "networkAddressPrefix of infra/main.parameters.json",
        ),
    ],
)
def test_values_that_stand_in_the_file_are_checked_too(given: dict[str, Any], told: str) -> None:
    (found,) = faults({"parameters": given}, set(), {"BACKLOG": "many"})
    assert found.startswith(told)


def test_what_the_file_may_have_otherwise_is_left_to_azure() -> None:
    given = {"networkIsolation": {"value": True}, "alwaysReady": {"value": []}, "own": {"value": "x"}}
    assert list(faults({"parameters": given}, set(), {})) == []


def hook(**environment: str) -> subprocess.CompletedProcess[str]:
    azd = yaml.safe_load((PROJECT / "azure.yaml").read_text())["hooks"]["preprovision"]
    assert azd["windows"] == {"shell": "pwsh", "run": "py -3 -m deployment.variables"}
    assert azd["posix"]["shell"] == "sh"
    command = azd["posix"]["run"].replace("python3", sys.executable + " -S", 1)
    path = {"PATH": os.environ["PATH"], **environment}
    return subprocess.run(
        ["sh", "-c", command], cwd=PROJECT, env=path, capture_output=True, text=True, check=False
    )


def test_the_hook_of_azd_stops_it_and_says_all_that_is_wrong() -> None:
    right = hook(AZURE_ENV_NAME="agents-dev", AZURE_LOCATION="westeurope")
    assert (right.returncode, right.stdout, right.stderr) == (0, "", "")
    wrong = hook(AGENT_STORAGE_NETWORK_ISOLATION="yes", AGENT_STORAGE_SKUU="Standard_LRS")
    assert wrong.returncode == 1
    told = wrong.stderr.splitlines()
    assert len(told) == 3
    assert told[0].startswith("AGENT_STORAGE_NETWORK_ISOLATION is 'yes'")
    assert told[1].startswith("AGENT_STORAGE_SKUU is not known")
    assert told[2].startswith("Nothing was provisioned")


@pytest.mark.parametrize(
    "path", ["deployment/__init__.py", "deployment/variables.py", "storage_lib/config/spelling.py"]
)
def test_the_hook_runs_with_the_python_that_systems_have(path: str) -> None:
    ast.parse((PROJECT / path).read_text(), feature_version=(3, 9))
