"""Microsoft's compiler over ``infra/``, where it is there: `make infra-check`.

It builds and lints without a word, it would format nothing otherwise, and it predicts the resources that the
tests' own evaluator predicts, in each of their scenarios. Exits 0 if so, 1 if not, and 3 without a compiler.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.arm_expressions import Unknown, resolved
from tests.bicep import SUBSCRIPTION, TENANT, Deployment, Resource, deploy, read_folder
from tests.bicep_functions import has_runtime
from tests.infra_model import SCENARIOS, Scenario

INFRA = Path(__file__).resolve().parent.parent / "infra"

MISSING = """\
Microsoft's compiler of Bicep is not here: no bicep is on the PATH, and az has not installed one.
Install it with the Azure CLI
    az bicep install
or as a program of its own, which has to be on the PATH
    https://learn.microsoft.com/azure/azure-resource-manager/bicep/install
and run this again. It has to be 0.49.2 or newer, which knows all types of resources that are here."""

UNKNOWN_TYPE = "BCP081"
"""What an older compiler says of a version that it does not know, whose properties it cannot check."""


class Note(str):
    """What is worth to be told, and no problem."""

    __slots__ = ()


@dataclass(frozen=True)
class Compiler:
    """``command`` is ``bicep``, or ``az bicep``, which names the file by an option."""

    command: tuple[str, ...]

    def run(self, verb: str, file: Path, *options: str) -> subprocess.CompletedProcess[bytes]:
        named = ["--file", str(file)] if len(self.command) > 1 else [str(file)]
        return subprocess.run(
            [*self.command, verb, *named, *options],
            # az tells of a newer version where only diagnostics belong.
            env={**os.environ, "AZURE_BICEP_CHECK_VERSION": "false", "AZURE_CORE_NO_COLOR": "true"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=300,
        )


def find_compiler() -> Compiler | None:
    """The one on the PATH, or the one that ``az bicep install`` has put into its folder, or az with one."""
    folder = Path(os.environ.get("AZURE_CONFIG_DIR") or Path.home() / ".azure") / "bin"
    found = shutil.which("bicep") or shutil.which("bicep", path=str(folder))
    if found:
        return Compiler((found,))
    az = shutil.which("az")
    # It installs one by itself for any other command, which a check had better not do.
    if az and subprocess.run([az, "bicep", "version"], capture_output=True, check=False).returncode == 0:
        return Compiler((az, "bicep"))
    return None


def problems(
    compiler: Compiler, infra: Path = INFRA, scenarios: Iterable[Scenario] = SCENARIOS
) -> Iterator[str]:
    """Everything that the compiler says, and whatever it sees otherwise than the tests."""
    yield from said(compiler, "build", infra / "main.bicep", "--stdout")
    yield from said(compiler, "lint", infra / "main.bicep")
    for path in sorted(infra.rglob("*.bicep")):
        yield from formatted(compiler, path, path.relative_to(infra).as_posix())
    files = read_folder(infra)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "infra"
        shutil.copytree(infra, copy)
        for scenario in scenarios:
            yield from predicted(compiler, copy, scenario, deploy(files, scenario.parameters))


def said(compiler: Compiler, verb: str, file: Path, *options: str) -> Iterator[str]:
    """Warnings are failures, though the compiler exits with 0."""
    run = compiler.run(verb, file, *options)
    lines = [line for line in run.stderr.decode(errors="replace").splitlines() if line.strip()]
    if run.returncode != 0 and not lines:
        lines = [f"it ends with {run.returncode}, and says nothing"]
    for line in lines:
        remedy = " Install 0.49.2 or newer." if UNKNOWN_TYPE in line else ""
        yield f"{verb}: {line.strip()}{remedy}"


def formatted(compiler: Compiler, file: Path, name: str) -> Iterator[str]:
    run = compiler.run("format", file, "--stdout")
    if run.returncode != 0 or run.stderr.strip():
        yield from said(compiler, "format", file, "--stdout")
        return
    here, wanted = file.read_text(), run.stdout.decode().replace("\r\n", "\n")
    if len(compiler.command) > 1:
        wanted = wanted.removesuffix("\n")  # az prints it, with one more.
    if here != wanted:
        lines = list(difflib.unified_diff(here.splitlines(), wanted.splitlines(), name, "formatted", n=0))
        shown = "\n".join([*lines[:40], *(["…"] if len(lines) > 40 else [])])
        yield f"format: {name} differs, which bicep format puts right:\n{shown}"


def predicted(compiler: Compiler, folder: Path, scenario: Scenario, deployment: Deployment) -> Iterator[str]:
    name = re.sub(r"\W+", "-", scenario.name)
    file, snapshot = folder / f"{name}.bicepparam", folder / f"{name}.snapshot.json"
    file.write_text(parameter_file(scenario.parameters))
    options = {
        "--subscription-id": SUBSCRIPTION,
        "--tenant-id": TENANT,
        "--location": scenario["location"],
        "--deployment-name": "main",
    }
    given = [part for option in options.items() for part in option]
    run = compiler.run("snapshot", file, "--mode", "overwrite", *given)
    if run.returncode != 0 or not snapshot.exists():
        why = run.stderr.decode(errors="replace").strip() or "it is not written"
        yield f"{scenario.name}: there is no snapshot, for which bicep 0.41.2 or newer is needed: {why}"
        return
    content = json.loads(snapshot.read_text())
    found = [*differences(content, deployment)]
    yield from (type(each)(f"{scenario.name}: {each}") for each in found)
    if found:
        yield from (f"{scenario.name}: the compiler says: {each}" for each in content["diagnostics"])


def parameter_file(parameters: Mapping[str, Any]) -> str:
    given = "".join(f"param {name} = {literal(value)}\n" for name, value in parameters.items())
    return f"using 'main.bicep'\n\n{given}"


def literal(value: Any) -> str:
    """A value of JSON as Bicep writes it."""
    match value:
        case str():
            text = value.replace("\\", "\\\\").replace("'", "\\'").replace("${", "\\${")
            return "'" + text.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t") + "'"
        case bool() | None:
            return {True: "true", False: "false", None: "null"}[value]
        case int():
            return str(value)
        case list():
            return "[\n" + "".join(f"{literal(each)}\n" for each in value) + "]"
        case dict():
            return "{\n" + "".join(f"{literal(key)}: {literal(each)}\n" for key, each in value.items()) + "}"
        case _:
            raise ValueError(f"Bicep has no way to write {value!r}")


# What the snapshot has beside the body, or has of the order of things, which the tests check for themselves.
BESIDE = frozenset({"id", "type", "name", "apiVersion", "dependsOn", "scope", "comments", "condition"})


def differences(snapshot: Mapping[str, Any], deployment: Deployment) -> Iterator[str]:
    """Between the resources and outputs that the compiler and the tests predict."""
    ours: dict[str, list[Resource]] = defaultdict(list)
    for resource in deployment.resources:
        if not resource.existing:
            ours[resource.type.lower()].append(resource)
    unmatched: list[dict[str, Any]] = []
    for raw in snapshot["predictedResources"]:
        group = re.search(r"^/subscriptions/[^/]+/resourceGroups/([^/]+)/", raw["id"])
        each = resolved(raw, group[1] if group else "")
        left = ours[each["type"].lower()]
        match = next((r for r in left if r.id.lower() == str(each["id"]).lower()), None)
        if match is None:
            unmatched.append(each)
            continue
        left.remove(match)
        yield from compared(each, match)
    for each in unmatched:
        # The name of a role's assignment is made of what is not known yet: it is known by all that it says.
        left = ours[each["type"].lower()]
        alike = [r for r in left if has_runtime(r.id) and has_runtime(each["id"])]
        match = next((r for r in alike if not [*compared(each, r)]), None)
        if match is None:
            yield f"the tests do not predict {each['id']}"
        else:
            left.remove(match)
    for resource in (resource for left in ours.values() for resource in left):
        yield f"the compiler does not predict {resource.id}"
    outputs = {name.lower(): resolved(value) for name, value in snapshot["outputs"].items()}
    for name, value in deployment.outputs.items():
        yield from unequal(f"output {name}", outputs.pop(name.lower(), None), value)
    yield from (f"the tests do not predict the output {name}" for name in outputs)


def compared(predicted: Mapping[str, Any], resource: Resource) -> Iterator[str]:
    if predicted["apiVersion"] != resource.api:
        yield f"{resource.id} is of {predicted['apiVersion']}, and of {resource.api} to the tests"
    body = {key: value for key, value in predicted.items() if key not in BESIDE}
    yield from unequal(resource.id, body, resource.body)


def unequal(where: str, theirs: Any, ours: Any) -> Iterator[str]:
    """What differs, with null as if it were not there, as Azure takes it."""
    if isinstance(theirs, Unknown):
        if not has_runtime(ours):
            yield Note(f"{where} is {theirs}, which is not compared with {ours!r}")
    elif isinstance(theirs, dict) and isinstance(ours, dict):
        known = {key: value for key, value in ours.items() if value is not None}
        for key in sorted(theirs.keys() | known.keys()):
            yield from unequal(f"{where}: {key}", theirs.get(key), known.get(key))
    elif isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        for index, (one, other) in enumerate(zip(theirs, ours, strict=True)):
            yield from unequal(f"{where}[{index}]", one, other)
    elif theirs != ours or isinstance(theirs, bool) != isinstance(ours, bool):
        yield f"{where} is {theirs!r}, and {ours!r} to the tests"


def main() -> int:
    compiler = find_compiler()
    if compiler is None:
        print(MISSING, file=sys.stderr)
        return 3
    count = 0
    for problem in problems(compiler):
        count += not isinstance(problem, Note)
        print(f"{'note: ' if isinstance(problem, Note) else ''}{problem}", flush=True)
    print(f"{' '.join(compiler.command)}: {count or 'no'} {'problem' if count == 1 else 'problems'}")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
