"""`python3 -m deployment.variables`: refuses, before `azd provision`, what its variables cannot mean.

For a value that is no boolean or number, azd takes the parameter's default without a word: with
`AGENT_STORAGE_NETWORK_ISOLATION=yes` the storage would stay public. A mistyped name is passed over likewise.
This runs with any Python from 3.9 on, as systems have it.
"""

from __future__ import annotations

import datetime
import difflib
import importlib.util
import ipaddress
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

PROJECT = Path(__file__).resolve().parent.parent
CLOSE = 0.85
"""How like a known name another must be to be taken for it, mistyped."""


class Rule(NamedTuple):
    """What a parameter may be: whether a text is it, and the words for what it must be."""

    holds: Callable[[str], bool]
    allowed: str
    choices: tuple[str, ...] = ()


def _form(pattern: str, allowed: str) -> Rule:
    def holds(text: str) -> bool:
        return re.fullmatch(pattern, text, re.ASCII) is not None

    return Rule(holds, allowed)


def _number(least: int, most: int = 2**31 - 1) -> Rule:
    def holds(text: str) -> bool:
        return re.fullmatch(r"-?[0-9]{1,10}", text) is not None and least <= int(text) <= most

    upper = f"from {least} to {most}" if most < 2**31 - 1 else f"of {least} or more"
    return Rule(holds, f"a whole number {upper}, in digits")


def _one_of(*choices: str) -> Rule:
    return Rule(choices.__contains__, f"one of {', '.join(choices)}", choices)


def _is_budget_start(text: str) -> bool:
    if re.fullmatch(r"[0-9]{4}-[0-9]{2}-01", text) is None:
        return False
    try:
        return bool(datetime.date.fromisoformat(text))
    except ValueError:
        return False


def _is_network(text: str) -> bool:
    try:
        return ipaddress.IPv4Network(text).prefixlen <= 20 and "/" in text
    except ValueError:
        return False


_GUID = _form(
    r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}",
    "a GUID such as 5f1f3f0e-6d5c-4b0e-9d5b-0c8f6f6f2a11",
)
_GROUP = _form(
    r"[A-Za-z0-9_.()-]{0,89}[A-Za-z0-9_()-]",
    "the name of a resource group: letters, digits and _ . ( ) -, at most 90",
)
BOOLEAN = Rule(
    # As azd reads them. It takes 1 and t too, which are refused: who writes them may write 2 and y as well.
    {"true", "True", "TRUE", "false", "False", "FALSE"}.__contains__,
    "true or false",
    ("true", "false"),
)

RULES: Mapping[str, Rule] = {
    "environmentName": _form(
        r"[A-Za-z0-9_.()-]{0,63}[A-Za-z0-9_()-]", "letters, digits and _ . ( ) -, at most 64"
    ),
    "location": _form(
        r"[a-z]{2,}[a-z0-9]*", "the name of a region without blanks and capitals, such as westeurope"
    ),
    "resourceGroupName": _GROUP,
    "createResourceGroup": BOOLEAN,
    "principalId": _GUID,
    "principalType": _one_of("User", "Group", "ServicePrincipal"),
    "separateHostStorage": BOOLEAN,
    "dataStorageSku": _one_of(
        *(
            "Standard_LRS",
            "Standard_ZRS",
            "Standard_GRS",
            "Standard_RAGRS",
            "Standard_GZRS",
            "Standard_RAGZRS",
        )
    ),
    "dataLock": _one_of("auto", "on", "off"),
    "hostStorageSku": _one_of("Standard_LRS", "Standard_ZRS"),
    "retentionDays": _number(2, 365),
    "coolAfterDays": _number(0),
    "storageLogs": BOOLEAN,
    "openTelemetry": BOOLEAN,
    "instanceMemoryMB": _one_of("512", "2048", "4096"),
    "maximumInstanceCount": _number(1, 1000),
    "httpConcurrency": _number(1, 1000),
    "queueBatchSize": _number(0, 32),
    "queueNewBatchThreshold": _number(-1),
    "zoneRedundant": BOOLEAN,
    "existingDataAccountName": _form(
        r"[a-z0-9]{3,24}", "the name of an account: 3 to 24 small letters and digits"
    ),
    "existingDataAccountResourceGroup": _GROUP,
    "taskQueues": _number(1, 16),
    "storageNamespace": _form(
        r"(?!(agent|azure)\Z)[a-z][a-z0-9]{0,19}",
        "a small letter, then small letters and digits, at most 20, and neither agent nor azure",
    ),
    "networkIsolation": BOOLEAN,
    "networkAddressPrefix": Rule(_is_network, "a network of IPv4, /20 or larger, such as 10.20.0.0/20"),
    "appPrivateEndpoint": BOOLEAN,
    "appPublicAccess": BOOLEAN,
    "authClientId": _GUID,
    "keyVaultEnabled": BOOLEAN,
    "alertEmail": _form(
        r"[^@\s,;<>\"]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+", "one address such as ops@example.com"
    ),
    "availabilityTest": BOOLEAN,
    "latencyThresholdMs": _number(1),
    "backlogThreshold": _number(1),
    "logRetentionDays": _number(30, 730),
    "logDailyQuotaGb": _number(-1),
    "budgetAmount": _number(0),
    "budgetStartDate": Rule(_is_budget_start, "the first day of a month, such as 2026-12-01"),
}
"""By parameter of infra/main.bicep, which says the same to Azure; tests compare the two."""

MEMBERS: Mapping[str, Rule] = {
    "corsOrigins": _form(
        r"\*|https?://(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?::[0-9]{1,5})?",
        "an origin such as https://example.com, in small letters, without a path or a slash at its end",
    ),
}
"""What each member of an array may be, where Azure would take it and no page could ever match it."""

NEEDS: Mapping[str, str] = {
    "appPrivateEndpoint": "networkIsolation",
    "budgetAmount": "budgetStartDate",
    "existingDataAccountResourceGroup": "existingDataAccountName",
}
"""Parameters that mean nothing without another one."""


class Parameter(NamedTuple):
    """One of main.parameters.json: its value, or the variable that has it and what it is without one."""

    name: str
    variable: str
    value: str


def parameters(document: Any, environment: Mapping[str, str]) -> Iterator[Parameter]:
    """Those that are texts or come from variables. An empty variable counts as none, as with azd."""
    for name, given in document["parameters"].items():
        value = given.get("value")
        if isinstance(value, (bool, int)):
            value = json.dumps(value)
        if not isinstance(value, str):
            continue  # Arrays and objects have no variables; Azure checks them.
        found = re.fullmatch(r"\$\{(\w+)(?:=(.*))?\}", value)
        if found is None:
            yield Parameter(name, "", value)
        else:
            yield Parameter(name, found[1], environment.get(found[1]) or found[2] or "")


def faults(document: Any, others: set[str], environment: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with an environment, a sentence each.

    :param document: main.parameters.json.
    :param others: names that are known, but not by it.
    """
    given = {parameter.name: parameter for parameter in parameters(document, environment)}
    for each in given.values():
        rule = RULES.get(each.name)
        if rule is not None and each.value and not rule.holds(each.value):
            yield f"{_named(each)} is {each.value[:80]!r}: it must be {rule.allowed}{_meant(each, rule)}"
    yield from _members(document)
    for name, needed in NEEDS.items():
        if _set(given.get(name)) and not _set(given.get(needed)):
            other = _named(given[needed]) if needed in given else needed
            allowed = "true" if RULES[needed] is BOOLEAN else RULES[needed].allowed
            yield f"{_named(given[name])} is set, so {other} must be too: {allowed}"
    variables = {parameter.variable for parameter in given.values() if parameter.variable}
    yield from _mistyped(variables, others, environment)


def _members(document: Any) -> Iterator[str]:
    for name, rule in MEMBERS.items():
        members = document["parameters"].get(name, {}).get("value")
        where = f"{name} of infra/main.parameters.json"
        for member in members if isinstance(members, list) else []:
            if not isinstance(member, str) or not rule.holds(member):
                yield f"{where} has {str(member)[:80]!r}: it must be {rule.allowed}"
        if isinstance(members, list) and "*" in members and len(members) > 1:
            yield f"{where} has '*', which is every origin, and others: name them, or only '*'"


def _mistyped(variables: set[str], others: set[str], environment: Mapping[str, str]) -> Iterator[str]:
    known = sorted(variable for variable in variables if variable.startswith("AGENT_"))
    for name in sorted(environment.keys() - variables - others):
        upper = name.upper().replace("-", "_")
        if not environment[name] or ("AGENT" not in upper and "STORAGE_" not in upper):
            continue
        nearest = difflib.get_close_matches(upper, known, n=1, cutoff=CLOSE)
        # A name that only this project uses is meant for it, however unlike the known ones it is.
        if nearest or upper.startswith("AGENT_STORAGE_"):
            meant = f": did you mean {nearest[0]}?" if nearest else "."
            yield f"{name} is not known{meant} Empty it: azd env set {name} ''"


def _named(parameter: Parameter) -> str:
    return parameter.variable or f"{parameter.name} of infra/main.parameters.json"


def _set(parameter: Parameter | None) -> bool:
    return parameter is not None and parameter.value.lower() not in ("", "0", "false")


_TRUTHS = {
    **dict.fromkeys(("yes", "y", "on", "1", "t", "enabled"), "true"),
    **dict.fromkeys(("no", "n", "off", "0", "f", "disabled"), "false"),
}


def _meant(parameter: Parameter, rule: Rule) -> str:
    """What is nearest to it, and how to say that, if anything is."""
    plain = re.sub(r"\s", "", parameter.value.lower())
    choices = {choice.lower(): choice for choice in rule.choices}
    found = difflib.get_close_matches(plain, sorted(choices), n=1)
    meant = _TRUTHS.get(plain) if rule is BOOLEAN else None
    meant = meant or (choices[found[0]] if found else plain if rule.holds(plain) else None)
    if meant is None:
        return ""
    remedy = f" azd env set {parameter.variable} {meant}" if parameter.variable else ""
    return f". Did you mean {meant}?{remedy}"


def other_names(project: Path) -> set[str]:
    """Names that the app reads, and that the templates put out: a shell may have them for other ends."""
    path = project / "storage_lib" / "config" / "spelling.py"
    spec = importlib.util.spec_from_file_location("spelling", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} cannot be read")
    spelling = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(spelling)
    template = (project / "infra" / "main.bicep").read_text(encoding="utf-8")
    return {*spelling.SETTINGS, *re.findall(r"^output (\w+) ", template, re.MULTILINE)}


def main(project: Path, environment: Mapping[str, str]) -> int:
    document = json.loads((project / "infra" / "main.parameters.json").read_text(encoding="utf-8"))
    found = list(faults(document, other_names(project), environment))
    for fault in found:
        print(fault, file=sys.stderr)
    if found:
        print("Nothing was provisioned. docs/deploy.md, Options, has all variables.", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(PROJECT, os.environ))
