"""`make infra-check`: with Microsoft's compiler where it is there, and with one that answers as it does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.arm_expressions import Unknown, resolved
from tests.bicep import SUBSCRIPTION, Deployment, Runtime, deploy, parse, read_folder
from tests.conftest import PROJECT
from tests.infra_compiler import INFRA, MISSING, Compiler, Note, differences, find_compiler, literal, problems
from tests.infra_model import SCENARIOS

COMPILER = find_compiler()


@pytest.mark.skipif(COMPILER is None, reason=MISSING.replace("\n", " "))
def test_the_compiler_has_nothing_to_say_and_predicts_what_the_tests_do() -> None:
    assert COMPILER is not None
    assert [*problems(COMPILER)] == []


FAKE = r'''#!{python} -IS
"""Answers as Bicep's command line does: diagnostics on stderr, and 0 with warnings, 1 with errors."""
import json, os, pathlib, shutil, sys

verb, *rest = sys.argv[1:]
if "{az}" and [verb, rest[:1]] == ["bicep", ["version"]]:
    sys.exit(0)
if "{az}":
    assert verb == "bicep"
    verb, option, *rest = rest
    assert option == "--file"
file, *options = rest
told = pathlib.Path("{told}")
answers = json.loads((told / "answers.json").read_text())
with (told / "calls").open("a") as calls:
    calls.write(json.dumps([verb, pathlib.Path(file).name, *options]) + "\n")
path = pathlib.Path(file)
assert path.is_file(), f"An error occurred reading file. Could not find file '{{file}}'."
expected = {{"build": ["--stdout"], "lint": [], "format": ["--stdout"]}}
assert verb == "snapshot" or options == expected[verb], options
output, errors, code = answers.get(verb) or answers.get(f"{{verb}} {{path.name}}") or ["", "", 0]
if verb == "format" and not output:
    output = path.read_text()
if verb == "snapshot" and not code:
    assert path.suffix == ".bicepparam"
    assert (path.parent / "main.bicep").is_file() and (path.parent / "modules").is_dir()
    shutil.copy(path, told / path.name)
    shutil.copy(told / f"{{path.stem}}.snapshot.json", path.parent)
sys.stdout.write(output)
sys.stderr.write(errors)
sys.exit(code)
'''


class Fake:
    def __init__(self, folder: Path, name: str = "bicep") -> None:
        self.folder, self.path = folder, folder / "bin" / name
        self.path.parent.mkdir()
        self.told = f"{self.path} bicep" if name == "az" else str(self.path)
        az = name if name == "az" else ""
        self.path.write_text(FAKE.format(python=sys.executable, told=folder, az=az))
        self.path.chmod(0o755)
        self.answer({})
        for scenario in SCENARIOS:
            self.predict(scenario.name, lambda snapshot: None)

    def answer(self, answers: dict[str, tuple[str, str, int]]) -> None:
        (self.folder / "answers.json").write_text(json.dumps(answers))

    def predict(self, scenario: str, change: Callable[[dict[str, Any]], object]) -> None:
        """The compiler's snapshot of a scenario, which is what the tests predict, but for a change."""
        parameters = next(each.parameters for each in SCENARIOS if each.name == scenario)
        snapshot = as_snapshot(deploy(read_folder(INFRA), parameters))
        change(snapshot)
        name = re.sub(r"\W+", "-", scenario)
        (self.folder / f"{name}.snapshot.json").write_text(json.dumps(snapshot))

    @property
    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in (self.folder / "calls").read_text().splitlines()]

    def check(self) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": str(self.path.parent), "AZURE_CONFIG_DIR": str(self.folder / "none")}
        return subprocess.run(
            [sys.executable, "-m", "tests.infra_compiler"],
            cwd=PROJECT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )


def as_snapshot(deployment: Deployment) -> dict[str, Any]:
    """As the compiler writes it: what is not known yet is an expression, what is null is not there."""
    apis = {f"{{{r.type}/{r.full_name}}}": (r.id, r.api) for r in deployment.resources}

    def expression(value: Any) -> Any:
        if isinstance(value, dict):
            return {expression(key): expression(each) for key, each in value.items() if each is not None}
        if isinstance(value, list):
            return [expression(each) for each in value]
        if not isinstance(value, Runtime):
            return value
        parts: list[str] = []

        def reference(match: re.Match[str]) -> str:
            if match[1].startswith("{guid"):
                parts.append(f"guid('{match[1]}', deployment().name)")
            else:
                named, api = apis[match[1]]
                parts.append(f"reference('{named}', '{api}'){(match[2] or '').removeprefix('.properties')}")
            return f"{{{len(parts) - 1}}}"

        pattern = re.sub(r"(\{[^}]+\})((?:\.\w+)*)", reference, value)
        return f"[{parts[0]}]" if pattern == "{0}" else f"[format('{pattern}', {', '.join(parts)})]"

    resources = [
        {"id": expression(r.id), "type": r.type, "name": expression(r.full_name), "apiVersion": r.api}
        | expression(r.body)
        for r in deployment.resources
        if not r.existing
    ]
    outputs = {name: expression(value) for name, value in deployment.outputs.items()}
    return json.loads(json.dumps({"predictedResources": resources, "diagnostics": [], "outputs": outputs}))


def resource(snapshot: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(each for each in snapshot["predictedResources"] if each["type"] == kind)


@pytest.mark.parametrize("name", ["bicep", "az"])
def test_a_compiler_that_agrees_with_the_tests(tmp_path: Path, name: str) -> None:
    fake = Fake(tmp_path, name)
    if name == "az":
        files = {path: path.read_text() for path in INFRA.rglob("*.bicep")}
        fake.answer({f"format {path.name}": (f"{text}\n", "", 0) for path, text in files.items()})
    run = fake.check()
    assert (run.stdout.splitlines()[0], run.stderr, run.returncode) == (f"{fake.told}: no problems", "", 0)
    calls = fake.calls
    assert calls[:2] == [["build", "main.bicep", "--stdout"], ["lint", "main.bicep"]]
    assert {call[1] for call in calls if call[0] == "format"} == {p.name for p in INFRA.rglob("*.bicep")}
    snapshots = [call for call in calls if call[0] == "snapshot"]
    assert len(snapshots) == len(SCENARIOS)
    assert all(call[2:6] == ["--mode", "overwrite", "--subscription-id", SUBSCRIPTION] for call in snapshots)
    for scenario in SCENARIOS:
        text = (fake.folder / f"{re.sub(r'\W+', '-', scenario.name)}.bicepparam").read_text()
        first, _, given = text.partition("\n\n")
        assert first == "using 'main.bicep'"
        outputs = "".join(f"output {each} object = {{ value: {each} }}\n" for each in scenario.parameters)
        source = re.sub(r"^param ", "var ", given, flags=re.MULTILINE) + outputs
        found = deploy({"main.bicep": source.encode()}, {}).outputs
        assert {name: value["value"] for name, value in found.items()} == scenario.parameters


def test_without_a_compiler_it_says_what_to_install(tmp_path: Path) -> None:
    empty = tmp_path / "bin"
    empty.mkdir()
    az = empty / "az"
    for content in (None, "#!/bin/sh\nexit 1\n"):
        if content:
            az.write_text(content)
            az.chmod(0o755)
        run = subprocess.run(
            [sys.executable, "-m", "tests.infra_compiler"],
            cwd=PROJECT,
            env={"PATH": str(empty), "AZURE_CONFIG_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert (run.returncode, run.stdout) == (3, "")
        assert "az bicep install" in run.stderr


def test_the_compiler_that_az_has_installed_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = Fake(tmp_path).path
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    monkeypatch.setenv("AZURE_CONFIG_DIR", str(tmp_path))
    assert find_compiler() == Compiler((str(installed),))


WARNING = "/infra/modules/network.bicep(9,12) : Warning BCP225: The discriminator cannot be evaluated."


@pytest.mark.parametrize(
    ("answers", "line"),
    [
        ({"build": ("{}", f"{WARNING}\n", 0)}, f"build: {WARNING}"),
        ({"lint": ("", f"{WARNING}\n", 0)}, f"lint: {WARNING}"),
        (
            {"build": ("{}", "/infra/main.bicep(1,1) : Warning BCP081: No types.\n", 0)},
            "BCP081: No types. Install 0.49.2 or newer.",
        ),
        (
            {"build": ("", "/infra/main.bicep(1,1) : Error BCP007: Not recognized.\n", 1)},
            "build: /infra/main.bicep(1,1) : Error",
        ),
        ({"build": ("", "", 134)}, "build: it ends with 134, and says nothing"),
        ({"format main.bicep": ("targetScope = 'subscription'\n", "", 0)}, "format: main.bicep differs"),
        ({"format main.bicep": ("", "no\n", 1)}, "format: no"),
        (
            {"snapshot": ("", "Unrecognized command or argument 'snapshot'.\n", 1)},
            "0.41.2 or newer is needed: Unrecog",
        ),
    ],
)
def test_what_the_compiler_says_is_a_problem(
    tmp_path: Path, answers: dict[str, tuple[str, str, int]], line: str
) -> None:
    fake = Fake(tmp_path)
    fake.answer(answers)
    (found,) = problems(Compiler((str(fake.path),)), scenarios=SCENARIOS[1:2])
    assert line in found
    assert not isinstance(found, Note)


ACCOUNT = "Microsoft.Storage/storageAccounts"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda s: s["predictedResources"].pop(0), "the compiler does not predict /subscriptions/"),
        (
            lambda s: s["predictedResources"].append({**s["predictedResources"][0], "id": "/x"}),
            "do not predict /x",
        ),
        (lambda s: resource(s, ACCOUNT).update(apiVersion="2020-01-01"), " is of 2020-01-01, and of "),
        (
            lambda s: resource(s, ACCOUNT)["properties"].pop("allowSharedKeyAccess"),
            "allowSharedKeyAccess is None, and False",
        ),
        (
            lambda s: resource(s, ACCOUNT)["properties"].update(minimumTlsVersion="TLS1_0"),
            "'TLS1_0', and 'TLS1_2' to",
        ),
        (lambda s: resource(s, ACCOUNT)["properties"].update(allowSharedKeyAccess=0), "is 0, and False to"),
        (lambda s: resource(s, ACCOUNT)["properties"].update(new=1), "new is 1, and None to"),
        (lambda s: resource(s, ACCOUNT).update(location="[parameters('x')]"), "which is not compared"),
        (
            lambda s: resource(s, "Microsoft.Web/sites")["properties"]["siteConfig"]["appSettings"].pop(),
            "appSettings is [",
        ),
        (lambda s: s["outputs"].pop("AZURE_LOCATION"), "output AZURE_LOCATION is None"),
        (lambda s: s["outputs"].update(more=1), "do not predict the output more"),
        (
            lambda s: resource(s, "Microsoft.Authorization/roleAssignments")["properties"].update(
                principalType="User"
            ),
            "the tests do not predict [",
        ),
    ],
)
def test_what_the_compiler_sees_otherwise_is_a_problem(
    change: Callable[[dict[str, Any]], object], line: str
) -> None:
    deployment = deploy(read_folder(INFRA), SCENARIOS[0].parameters)
    snapshot = as_snapshot(deployment)
    assert [*differences(snapshot, deployment)] == []
    change(snapshot)
    found = [*differences(snapshot, deployment)]
    assert any(line in each for each in found), found
    assert all(isinstance(each, Note) for each in found) == ("not compared" in line)


def test_the_last_line_counts_the_problems(tmp_path: Path) -> None:
    fake = Fake(tmp_path)
    fake.predict("everything", lambda snapshot: snapshot["outputs"].update(more=1, other=2))
    run = fake.check()
    assert (run.returncode, run.stderr) == (1, "")
    assert run.stdout.endswith(": 2 problems\n")


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("plain", "plain"),
        ("[[not one]", "[not one]"),
        (
            "[reference('/subscriptions/s/resourceGroups/g/providers/My.Rp/a/x/b/y', '1').p.q]",
            "{My.Rp/a/b/x/y}.properties.p.q",
        ),
        (
            "[reference('/subscriptions/s/resourceGroups/g/providers/My.Rp/a/x', '1', 'full').location]",
            "{My.Rp/a/x}.location",
        ),
        (
            "[format('https://{0}/{{{1}}}', reference('/providers/My.Rp/a/x', '1').h, 2)]",
            "https://{My.Rp/a/x}.properties.h/{2}",
        ),
        (
            "[createArray(createObject('a', 'it''s', 'b', -1), null(), true())]",
            [{"a": "it's", "b": -1}, None, True],
        ),
        ("[concat('a', environment().suffixes.storage)]", "acore.windows.net"),
        ("[createObject('a', createArray(1))['a'][0]]", 1),
        ("[if(equals(1, 2), 'a', 'b')]", "b"),
        (
            "[guid(resourceGroup().id, 'x')]",
            resolved(f"[guid('/subscriptions/{SUBSCRIPTION}/resourceGroups/rg', 'x')]"),
        ),
    ],
)
def test_an_expression_of_a_snapshot(expression: str, value: Any) -> None:
    found = resolved(expression, "rg")
    assert found == value
    assert not isinstance(found, Unknown)


@pytest.mark.parametrize(
    "expression",
    [
        "[x]",
        "[]",
        "[f(]",
        "[parameters('x')]",
        "[reference('symbol').x]",
        "[null().a]",
        "[createArray(1)[7]]",
        "['a' 'b']",
        "[empty(reference('/providers/My.Rp/a/x').h)]",
        "[format('{3}', 1)]",
        "[#]",
        "[createObject('a')]",
        "[reference('/subscriptions/s/providers/Microsoft.Resources/deployments/x', '1').outputs.id.value]",
    ],
)
def test_an_expression_that_is_not_understood(expression: str) -> None:
    assert isinstance(resolved(expression), Unknown)


@pytest.mark.parametrize(
    "value", ["", "it's ${x} \\ \n\r\t é", True, None, -3, [], {}, [1, [True]], {"a b": {"c": "'"}, "d": []}]
)
def test_a_value_in_a_file_of_parameters(value: Any) -> None:
    source = f"var given = {literal(value)}\noutput found object = {{ value: given }}"
    parse(source.encode())
    assert deploy({"main.bicep": source.encode()}, {}).outputs["found"] == {"value": value}
    with pytest.raises(ValueError, match="no way to write"):
        literal(1.5)


def test_make_has_a_target_for_it() -> None:
    run = subprocess.run(
        ["make", "-n", "infra-check"], cwd=PROJECT, capture_output=True, text=True, check=True, env=os.environ
    )
    assert "-m tests.infra_compiler" in run.stdout
