"""``infra/`` deploys what the code needs, safely; and nothing can be taken out without a test failing."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pycep
import pytest
import yaml

from storage_lib.config.spelling import SETTINGS
from tests.bicep import (
    BicepError,
    Declaration,
    Files,
    declarations,
    deploy,
    parse,
    read_folder,
    text_of,
    walk,
)
from tests.conftest import PROJECT
from tests.downloads import fetched
from tests.infra_checks import CHECKS, problems
from tests.infra_model import ACCOUNT, BASE, ROLE, SCENARIOS, App, Check, Scenario, at, settings_of
from tests.infra_mutations import UNNOTICED, mutations
from tests.infra_rules import SECURE, secret_problems
from tests.test_bindings import bindings

SOAK = os.environ.get("SOAK") == "1"

INFRA = PROJECT / "infra"
TEMPLATES = sorted(path.relative_to(INFRA).as_posix() for path in INFRA.rglob("*.bicep"))


@functools.cache
def files() -> Files:
    return read_folder(INFRA)


@functools.cache
def app() -> App:
    return App(bindings(), (PROJECT / ".python-version").read_text().strip())


def declared(kind: str) -> list[tuple[str, Declaration]]:
    return [(path, d) for path in TEMPLATES for d in declarations(files()[path]) if d.kind == kind]


@pytest.mark.parametrize("path", TEMPLATES)
def test_both_parsers_read_every_template(path: str) -> None:
    parse(files()[path])
    if path != "types.bicep":  # Its grammar has types only of whole parameters.
        assert pycep.BicepParser().parse(text=files()[path].decode())


def test_the_templates_deploy_what_the_code_needs_and_nothing_unsafe() -> None:
    assert problems(files(), app()) == []


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_check(check: Check, scenario: Scenario) -> None:
    assert list(check(deploy(files(), scenario.parameters), scenario, app())) == []


def test_whatever_is_taken_out_or_turned_round_is_noticed() -> None:
    """Every property, element, resource and module of every template, one at a time; every flag, condition
    default, text, number and type changed; infra_mutations finds them. All of them are Bicep.

    The soak tries every one; otherwise every fifteenth is tried. What is deployed is looked at until each
    item was missed, and what takes out most is tried first.
    """
    real = set(items(files()))
    found: set[str] = set()
    removable: set[str] = set()
    count = conditions = defaults = 0
    for mutation in sorted(mutations(files()), key=lambda each: len(each.source) - len(files()[each.path])):
        count += 1
        conditions += " unless " in mutation.name
        defaults += " defaults to " in mutation.name
        changed = mutation.apply(files())
        if SOAK or count % 15 == 0:
            parse(mutation.source)
            if not problems(changed, app()):
                found.add(mutation.place)
        # Where nothing is deployed, no item is missed by itself.
        if removable != real:
            with contextlib.suppress(BicepError):
                removable |= real - set(items(changed))
    assert found <= UNNOTICED.keys()
    assert found == UNNOTICED.keys() or not SOAK
    assert all(len(reason) > 20 for reason in UNNOTICED.values())
    assert len(UNNOTICED) < 20, "what nobody notices can be wrong"
    assert count > 1100, "the templates have far more that could be taken out"
    assert conditions > 40
    assert defaults == sum(declaration.value is not None for _, declaration in declared("param"))
    assert real - removable == set(), "never taken out"


def items(of: Files) -> Iterable[str]:
    """What a full deployment has: a text for each role, setting, container, queue, table and secure value."""
    deployment = deploy(of, SCENARIOS[0].parameters)
    for assignment in deployment.of(ROLE):
        role = str(assignment.properties.get("roleDefinitionId"))[-36:]
        yield f"role {role} of {assignment.properties.get('principalId')} on {assignment.scope}"
    yield from (f"setting {name}" for name in settings_of(deployment))
    for resource in deployment.resources:
        if resource.type.startswith(f"{ACCOUNT}/"):
            yield f"{resource.type} {resource.full_name}"
        for path in SECURE.get(resource.type, {}) if not resource.existing else ():
            yield f"{resource.type}/{resource.full_name}: {path} = {at(resource, path)!r}"


@pytest.mark.parametrize(
    ("path", "before", "after"),
    [
        ("modules/rbac.bicep", "empty(keyVaultName) ? 'none' : keyVaultName", "keyVaultName"),
        (
            "modules/rbac.bicep",
            "empty(applicationInsightsName) ? 'none' : applicationInsightsName",
            "applicationInsightsName",
        ),
        ("main.bicep", "resourceGroup(dataGroupName)", "resourceGroup(existingDataAccountResourceGroup)"),
        ("main.bicep", "name: 'key-vault'", "name: keyVaultEnabled ? 'key-vault' : ''"),
    ],
)
def test_an_empty_name_is_noticed_where_nothing_is_deployed(path: str, before: str, after: str) -> None:
    """Azure evaluates the names of all resources before it looks at their conditions."""
    source = files()[path].decode()
    assert before in source
    changed = {**files(), path: source.replace(before, after).encode()}
    with pytest.raises(BicepError, match="name of"):
        deploy(changed, {**BASE, "principalId": "00000000-0000-0000-0000-00000000cafe"})


@pytest.mark.parametrize(
    "line",
    [
        "output key string = storage.listKeys().keys[0].value",
        "output key string = listKeys(storage.id, '2025-06-01').keys[0].value",
        "output c string = 'AccountName=x;AccountKey=${key}'",
        "@secure()\nparam clientSecret string",
        "var x = vault.getSecret('password')",
    ],
)
def test_a_secret_is_noticed(line: str) -> None:
    assert list(secret_problems({"main.bicep": line.encode()}))


def test_outputs_tell_no_connection_string() -> None:
    deployed = deploy(files(), SCENARIOS[0].parameters)
    assert not [name for name, value in deployed.outputs.items() if "connectionstring" in str(value).lower()]


def test_outputs_become_the_variables_that_the_documentation_uses(tmp_path: Path) -> None:
    """With the Azure CLI, which answers with other cases: a word's capitals but the last become small."""
    outputs = deploy(files(), SCENARIOS[0].parameters).outputs
    answer = {
        re.sub(r"^[A-Z]+(?=[A-Z])", lambda capitals: capitals[0].lower(), name): {"value": f"it's ${name}"}
        for name in outputs
    }
    assert "azurE_LOCATION" in answer
    told = (PROJECT / "docs" / "deploy.md").read_text()
    command = re.search(r'^eval "\$\(az deployment sub show .*?^$', told, re.MULTILINE | re.DOTALL)
    assert command
    az = tmp_path / "az"
    az.write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps(answer)}\nEND\n")
    az.chmod(0o755)
    script = command[0] + "".join(f'printf "%s\\n" "${name}"\n' for name in outputs)
    path = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    run = subprocess.run(
        ["sh", "-euc", script], env={"PATH": path}, capture_output=True, text=True, check=True
    )
    assert run.stdout.splitlines() == [f"it's ${name}" for name in outputs]
    read = set(re.findall(r"\$\{?((?:AZURE|AGENT_STORAGE)_[A-Z_]+)", told)) - {
        "AZURE_STORAGE_ACCOUNT",
        "AZURE_SUBSCRIPTION_ID",
    }
    assert read <= outputs.keys()


@pytest.mark.parametrize("kind", ["param", "output"])
def test_every_parameter_and_output_says_what_it_is(kind: str) -> None:
    for path, declaration in declared(kind):
        call = declaration.decorators.get("description")
        assert call is not None, f"{path}: {declaration.name} has no description"
        text = text_of(call)
        if kind == "output":
            continue
        word = re.match(r"(?:sys\.)?description\('(Required|Optional|Conditional)\. [A-Z0-9]", text)
        assert word, f"{path}: {declaration.name}: {text}"
        if word[1] != "Conditional":
            assert (word[1] == "Required") == (declaration.value is None), f"{path}: {declaration.name}"


def test_nothing_is_declared_in_vain() -> None:
    for path in TEMPLATES:
        tree = parse(files()[path])
        used = [text_of(n) for n in walk(tree) if n.type == "identifier"]
        for declaration in declarations(files()[path]):
            if declaration.kind in ("param", "var"):
                assert used.count(declaration.name) > 1, f"{path}: {declaration.name} is not used"
    names = json.loads(files()["abbreviations.json"])
    text = b"".join(files()[path] for path in TEMPLATES).decode()
    assert [name for name in names if f".{name}" not in text] == []


def test_modules_are_of_this_folder() -> None:
    """It compiles without a registry."""
    for path, declaration in declared("module"):
        source = next(text_of(c).strip("'") for c in declaration.node.named_children if c.type == "string")
        assert source in files(), f"{path}: {source}"


def test_the_parameters_file_is_for_azd_and_agrees_with_the_template() -> None:
    parameters = json.loads(files()["main.parameters.json"])["parameters"]
    known = {d.name: d for path, d in declared("param") if path == "main.bicep"}
    assert parameters.keys() <= known.keys()
    required = {name for name, d in known.items() if d.value is None}
    assert required <= parameters.keys()
    variables: set[str] = set()
    for name, given in parameters.items():
        if not isinstance(given["value"], str):
            continue
        variable = re.fullmatch(r"\$\{([A-Z_]+)(?:=(\w+))?\}", given["value"])
        assert variable, f"{name}: {given['value']}"
        if name not in required:
            node = known[name].value
            assert node is not None
            assert (variable[2] or "") == text_of(node).strip("'"), name
        variables.add(variable[1])
    told = (PROJECT / "docs" / "deploy.md").read_text()
    untold = {name for name in known if f"`{name}`" not in told} - required
    assert untold == {"principalId", "principalType"}
    settable = {name for name in variables if name.startswith("AGENT_STORAGE_")}
    outputs = {d.name for path, d in declared("output") if path == "main.bicep"}
    app_settings = {
        *("AGENT_STORAGE_MAX_JSON_BYTES", "AGENT_STORAGE_SDK_LOG_LEVEL", "AGENT_STORAGE_ENCRYPTION"),
        *("AGENT_STORAGE_ENCRYPTION_KEYS", "AGENT_STORAGE_ENCRYPTION_KEY_VAULT_KEY"),
    }
    assert app_settings <= SETTINGS
    assert set(re.findall(r"AGENT_STORAGE_[A-Z_]+", told)) - outputs - app_settings == settable


def test_azd_deploys_this_folder_to_the_app_with_its_tag() -> None:
    text = (PROJECT / "azure.yaml").read_text()
    assert "\n  api:\n    project: .\n" in text
    assert "\n    language: python\n    host: function\n" in text
    assert "\n  path: infra\n  module: main\n" in text
    # azd refuses to choose between two apps of a group with the same tag.
    assert yaml.safe_load(text)["services"]["api"]["resourceName"] == "${AZURE_FUNCTION_NAME}"
    assert "AZURE_FUNCTION_NAME" in deploy(files(), BASE).outputs


def checkov_environment() -> Path:
    """checkov, in an environment beside the tests' own; made when its pins change."""
    home = Path(sys.prefix) / "checkov"
    pins = (INFRA / "requirements-checkov.txt").read_text()
    # checkov pins a parser that gives up on lambdas and nested loops.
    parser = f"pycep-parser=={importlib.metadata.version('pycep-parser')}"
    stamp, wanted = home / "made-from", f"{pins}{parser}\n{sys.version}"
    if not stamp.exists() or stamp.read_text() != wanted:
        fetched(sys.executable, "-m", "venv", "--clear", "--without-pip", home)
        pip = [sys.executable, "-m", "pip", "--python", home / "bin" / "python", "install", "--quiet"]
        fetched(*pip, "-r", INFRA / "requirements-checkov.txt")
        fetched(*pip, "--no-deps", parser)
        stamp.write_text(wanted)
    return home


def test_checkov_finds_nothing_that_is_not_explained(tmp_path: Path) -> None:
    command = [
        checkov_environment() / "bin" / "checkov",
        "-d",
        INFRA,
        "--framework",
        "bicep",
        "--skip-path",
        "types.bicep",
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    run = subprocess.run(
        [*command, "--skip-download", "--output", "json"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    report = json.loads(run.stdout)
    summary, results = report["summary"], report["results"]
    assert summary["parsing_errors"] == 0, results["parsing_errors"]
    assert "Failed to run check" not in run.stderr
    assert [f"{c['check_id']} {c['resource']}" for c in results["failed_checks"]] == []
    assert summary["passed"] > 20
    assert summary["resource_count"] > 40
    for skipped in results["skipped_checks"]:
        reason = skipped["check_result"]["suppress_comment"].strip()
        assert len(reason) > 20, f"{skipped['check_id']} of {skipped['resource']} is skipped without a reason"
