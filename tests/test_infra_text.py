"""What the templates' text says that their resources do not: order within a loop, what is known beforehand,
and what the compiler is told to be silent about."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from tree_sitter import Node

from tests.bicep import BicepError, Declaration, Deployment, declarations, deploy, parse, text_of, walk
from tests.conftest import PROJECT
from tests.infra_checks import retention
from tests.infra_model import BASE, LOCK, QUERY_RULE, SCENARIOS, Scenario, at
from tests.infra_rules import REFUSED_BY_FLEX, secure
from tests.test_infra import TEMPLATES, app, declared, files

SILENCED = {
    # The principal is in the name of its role.
    ("main.bicep", "what-if-short-circuiting"): r"    principalId: identity\.outputs\.principalId",
    # A policy of publishing has a location, which its type lacks.
    ("modules/function-app.bicep", "BCP187"): r"  location: location",
    # Diagnostic settings have no newer version.
    ("modules/storage.bicep", "use-recent-api-versions"): (
        r"resource \w+ 'Microsoft\.Insights/diagnosticSettings@2021-05-01-preview' = if \(.*"
    ),
}
"""Each message of the compiler that is not wanted to be heard, by file, with the line that it is about, for a
line further up it would silence nothing. Anything else has to be put right."""

ONE_AT_A_TIME = re.compile(r"Microsoft\.Network/privateEndpoints(/.*)?")
"""Types that change something which all of them share, and which refuses two changes at once."""


def loops() -> Iterator[tuple[str, Declaration, str]]:
    """Each resource that is declared in a loop, with its type."""
    for path, declaration in declared("resource"):
        if any(child.type == "for_statement" for child in declaration.node.children):
            kind = next(text_of(c) for c in declaration.node.named_children if c.type == "string")
            yield path, declaration, kind.strip("'").partition("@")[0]


def test_what_shares_an_account_is_deployed_one_after_another() -> None:
    found = {kind: d.decorators.get("batchSize") for _, d, kind in loops() if ONE_AT_A_TIME.fullmatch(kind)}
    assert len(found) == 2
    for kind, decorator in found.items():
        assert decorator is not None, f"{kind} is deployed all at once"
        assert text_of(decorator) == "batchSize(1)", kind


def test_the_compiler_is_silenced_only_where_it_is_wrong() -> None:
    found: set[tuple[str, str]] = set()
    for path in TEMPLATES:
        lines = files()[path].decode().splitlines()
        for line, following in itertools.pairwise(lines):
            if "#disable" not in line:
                continue
            pragma = re.fullmatch(r" *#disable-next-line ([A-Za-z0-9-]+) // \w.{20,}", line)
            assert pragma, f"{path}: {line} gives no reason"
            about = SILENCED.get((path, pragma[1]), "")
            assert re.fullmatch(about, following), f"{path}: {pragma[1]} is not about {following}"
            found.add((path, pragma[1]))
    assert found == SILENCED.keys()


def late(node: Node) -> bool:
    """Whether a value is known only when another module has been deployed."""
    return any(
        n.type == "member_expression" and re.search(r"\.outputs\.", text_of(n)) is not None
        for n in walk(node)
    )


def decides(path: str) -> set[str]:
    """The parameters of a template that the names, scopes and conditions of its resources come from."""
    known = {d.name: d for d in declarations(files()[path])}
    used: set[str] = set()
    for declaration in known.values():
        if declaration.kind not in ("resource", "module"):
            continue
        for node in walk(declaration.node):
            if node.type == "object_property" and text_of(node.named_children[0]) in ("name", "scope"):
                used |= {text_of(n) for n in walk(node) if n.type == "identifier"}
            if node.type == "if_statement":
                used |= {text_of(n) for n in walk(node.named_children[0]) if n.type == "identifier"}
    while True:
        behind = {
            text_of(n)
            for name in used & known.keys()
            if known[name].kind == "var"
            for n in walk(known[name].node)
            if n.type == "identifier"
        }
        if behind <= used:
            return {name for name in used if name in known and known[name].kind == "param"}
        used |= behind


# The principal is in the name of its role: one that is made anew cannot take over the role of the old one.
KNOWN_LATE = {("modules/rbac.bicep", "principalId")}


def test_what_if_knows_what_each_module_would_deploy() -> None:
    """It is silent about a whole module where a name or a condition waits for another module."""
    unknown: set[tuple[str, str]] = set()
    for _, module in declared("module"):
        path = next(text_of(c).strip("'") for c in module.node.named_children if c.type == "string")
        properties = [n for n in walk(module.node) if n.type == "object_property"]
        given = {text_of(p.named_children[0]): p.named_children[-1] for p in properties}
        unknown |= {(path, name) for name in given.keys() & decides(path) if late(given[name])}
    assert unknown == KNOWN_LATE


@pytest.mark.parametrize("name", sorted(REFUSED_BY_FLEX))
@pytest.mark.parametrize("where", ["    siteConfig: {\n", "    serverFarmId: plan.id\n"])
def test_a_property_that_the_plan_refuses_is_noticed(name: str, where: str) -> None:
    path = "modules/function-app.bicep"
    source = files()[path].decode()
    assert source.count(where) == 1
    changed = {**files(), path: source.replace(where, f"{where}    {name}: null\n").encode()}
    deployment = deploy(changed, BASE)
    assert list(secure(deployment, SCENARIOS[1], app())) == [f"Flex Consumption refuses {name}"]


@pytest.mark.parametrize("start", ["", "2026-12", "2026-12-15", "December"])
def test_a_budget_without_the_first_of_a_month_is_refused_with_what_to_do(start: str) -> None:
    with pytest.raises(BicepError, match=r"AGENT_STORAGE_BUDGET_START.*2026-12-01"):
        deploy(files(), BASE | {"budgetAmount": 1, "budgetStartDate": start})


def test_two_environments_in_one_group_share_nothing() -> None:
    groups = BASE | {"resourceGroupName": "shared", "keyVaultEnabled": True, "networkIsolation": True}
    groups |= {"alertEmail": "operators@example.com", "budgetAmount": 1, "budgetStartDate": "2026-12-01"}
    one_of, other = (deploy(files(), groups | {"environmentName": name}) for name in ("first", "second"))

    def ids(of: Deployment) -> dict[str, str]:
        return {f"{r.scope.id if r.scope else ''}{r.id}": r.type for r in of.resources}

    shared = {kind for each, kind in ids(one_of).items() if each in ids(other)}
    assert shared == {"Microsoft.Resources/resourceGroups", "Microsoft.Network/privateDnsZones"}
    # Azure refuses a second workbook with a title that is there, such as the one that all once had.
    workbooks = [*one_of.of("Microsoft.Insights/workbooks"), *other.of("Microsoft.Insights/workbooks")]
    titles = [at(workbook, "properties.displayName") for workbook in workbooks]
    assert titles == ["Agent storage first", "Agent storage second"]


@pytest.mark.parametrize("mode", ["auto", "on", "off"])
@pytest.mark.parametrize("sku", ["LRS", "ZRS", "GRS", "RAGRS", "GZRS", "RAGZRS"])
def test_the_data_are_locked_where_they_outlive_a_region(sku: str, mode: str) -> None:
    scenario = Scenario("a lock", BASE | {"dataStorageSku": f"Standard_{sku}", "dataLock": mode})
    deployment = deploy(files(), scenario.parameters)
    assert list(retention(deployment, scenario, app())) == []
    assert len(deployment.of(LOCK)) == (mode == "on" or (mode == "auto" and "G" in sku))


@pytest.mark.parametrize(
    "asked", [{"appPrivateEndpoint": True}, {"storageAllowedAddresses": ["198.51.100.0/24"]}]
)
def test_what_needs_a_network_says_so(asked: dict[str, Any]) -> None:
    with pytest.raises(BicepError, match="AGENT_STORAGE_NETWORK_ISOLATION=true"):
        deploy(files(), BASE | asked)
    deploy(files(), BASE | asked | {"networkIsolation": True})


WARNED = {
    "no-unused-existing-resources",
    "no-unused-imports",
    "no-unused-params",
    "no-unused-types",
    "no-unused-vars",
    "use-recent-api-versions",
    "use-safe-access",
    "use-user-defined-types",
    "what-if-short-circuiting",
}


def test_the_linter_is_told_to_warn() -> None:
    core = json.loads(files()["bicepconfig.json"])["analyzers"]["core"]
    assert core["enabled"] is True
    assert core["rules"].keys() >= WARNED
    assert {rule["level"] for rule in core["rules"].values()} == {"warning"}


def test_parameters_say_what_they_are_made_of() -> None:
    """No array of anything and no object with anything: a wrong member is an error where it is written."""
    for kind in ("param", "output", "type"):
        for path, declaration in declared(kind):
            primitives = {text_of(n) for n in walk(declaration.node) if n.type == "primitive_type"}
            assert not primitives & {"array", "object", "any"}, f"{path}: {declaration.name}"


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"alwaysReady": [{"name": "http"}]}, "instanceCount is missing"),
        ({"alwaysReady": [{"name": "http", "instanceCount": 0}]}, "instanceCount: 0 is below 1"),
        ({"alwaysReady": [{"name": "http", "instanceCount": 1, "count": 1}]}, "no such property"),
        ({"alwaysReady": ["http"]}, "'http' is no object"),
        ({"appSettings": {"AGENT_TASK_MODULES": True}}, "AGENT_TASK_MODULES: True is no string"),
        ({"corsOrigins": "https://example.com"}, "is no array"),
        ({"authAllowedApplications": [1]}, "1 is no string"),
    ],
)
def test_a_member_of_another_type_is_refused(given: dict[str, Any], wrong: str) -> None:
    with pytest.raises(BicepError, match=wrong):
        deploy(files(), BASE | given)


def test_types_deploy_nothing() -> None:
    """For checkov, which does not know the grammar of types, does not read them."""
    assert {d.kind for d in declarations(files()["types.bicep"])} == {"type"}


def test_the_documentation_tells_of_each_alert_and_of_what_azure_refuses() -> None:
    told = (PROJECT / "docs" / "deploy.md").read_text()
    rules = deploy(files(), BASE).of(QUERY_RULE)
    names = {str(at(rule, "properties.displayName")).removeprefix("Agent storage: ") for rule in rules}
    assert {name for name in names if f"\n| {name} | " not in told} == set()
    # Another location for the same environment, and the end of a group with data that are locked.
    assert "InvalidResourceGroupLocation" in told
    assert "ScopeLocked" in told
    assert "az lock delete --name keep-data" in told


def test_every_template_ends_with_one_line_break() -> None:
    for path in TEMPLATES:
        assert parse(files()[path])
        assert re.search(rb"[^\n]\n\Z", files()[path]), path
