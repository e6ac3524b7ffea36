"""docs/deploy.md, as somebody follows it who has never deployed this."""

from __future__ import annotations

import ast
import re
import subprocess

import pytest
import yaml

from tests.conftest import PROJECT

TEXT = (PROJECT / "docs" / "deploy.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def section(title: str) -> str:
    """The text below a heading, up to the next of the same level or above."""
    found = re.search(rf"^(#+) {re.escape(title)}$(.*?)(?=^#{{1,3}} |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found, title
    return re.sub(r"\s+", " ", found[2])


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_every_command_can_be_parsed(number: int) -> None:
    run = subprocess.run(["bash", "-n"], input=BLOCKS[number], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_python_of_the_commands_is_that_of_systems() -> None:
    """Before 3.12 a quote ends the f-string that it is in, and the newest `ast` does not say so."""
    snippets = re.findall(r"python3 -c '([^']*)'", TEXT)
    assert snippets
    for snippet in snippets:
        ast.parse(snippet, feature_version=(3, 9))
        assert re.search(r'\bf"[^"\n]*\{[^}"\n]*"', snippet) is None


def test_every_link_leads_to_a_heading() -> None:
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", TEXT, flags=re.MULTILINE | re.DOTALL), re.MULTILINE
    )
    anchors = {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in headings}
    assert set(re.findall(r"\]\(#([\w-]+)\)", TEXT)) <= anchors


def test_every_variable_that_is_set_is_one() -> None:
    variables = yaml.safe_load((PROJECT / "azure.yaml").read_text())["pipeline"]["variables"]
    assert set(re.findall(r"azd env set (?:-e \S+ )?([A-Z]\w+)", TEXT)) - {"NAME"} <= set(variables)


def test_every_target_and_workflow_is_there() -> None:
    targets = set(re.findall(r"^(\w[\w-]*):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([\w-]+)", TEXT, re.MULTILINE)) <= targets
    for name in re.findall(r"gh workflow run (\S+)", TEXT):
        assert (PROJECT / ".github" / "workflows" / name).exists()


def test_who_has_an_old_azd_is_warned_wherever_it_deletes() -> None:
    for title in ("From nothing to a first request", "Remove it all", "Disaster recovery"):
        assert "1.24.1" in section(title), title
    assert "deletes the group of the first environment" in section("Remove it all")
    assert "older one deletes the resource group of the first environment" in section("Disaster recovery")


@pytest.mark.parametrize(
    ("failure", "remedy"),
    [
        ("another version", "newer one"),
        ("it must be", "the message ends with the command"),
        ("python3.13 is not there", "make package PYTHON="),
        ("roleAssignments/write", "User Access Administrator"),
        ("MissingSubscriptionRegistration", "az provider register"),
        ("LocationNotAvailableForResourceType", "list-flexconsumption-locations"),
        ("InvalidResourceGroupLocation", "azd env new"),
        ("Ip Forbidden", "in its network"),
        ("SKU of a storage account", "Standard_ZRS"),
        ("number of instances", "AGENT_STORAGE_MAX_INSTANCES"),
        ("RequestDisallowedByPolicy", "AGENT_STORAGE_NETWORK_ISOLATION true"),
        ("need networkIsolation", "AGENT_STORAGE_NETWORK_ISOLATION true"),
        ("ResourceGroupNotFound", "AGENT_STORAGE_RESOURCE_GROUP"),
        ("StorageAccountOperationInProgress", "repeat"),
        ("needs budgetStartDate", "AGENT_STORAGE_BUDGET_START"),
        ("Start date of budgets cannot be updated", "az consumption budget"),
        ("BlobUploadFailedException", "azd deploy"),
        ("there are no functions", "--build-remote false"),
        ("waits half a minute", "alwaysReady"),
        ("the alert timers", "az functionapp restart"),
        ("ScopeLocked", "#remove-it-all"),
        ("legionservicelink", "vnet-integration remove"),
        ("a vault with this name", "#remove-it-all"),
    ],
)
def test_what_can_be_refused_has_a_way_out(failure: str, remedy: str) -> None:
    rows = [row for row in TEXT.splitlines() if row.startswith("| ") and failure in row.split(" | ")[0]]
    assert len(rows) == 1, failure
    assert remedy in rows[0].split(" | ")[2]


@pytest.mark.parametrize(
    ("title", "told"),
    [
        ("Options", "Values of `appSettings` are texts"),
        ("Options", "at least 1, and counts as 2 with `zoneRedundant`"),
        ("Options", "takes an Owner or a User Access Administrator"),
        ("Options", "does not remove one that is there"),
        ("Options", "It must exist"),
        ("Options", "paid for by the gigabyte"),
        ("Options", "replaces addresses and origins that were set by hand"),
        ("Options", "`storageAllowedAddresses` need `networkIsolation`"),
        ("Upgrade", "old workbook"),
        ("Upgrade", "Key Vault Crypto User"),
        ("From a pipeline", "federated-credential create"),
    ],
)
def test_what_surprises_is_told(title: str, told: str) -> None:
    assert told in section(title)


def test_what_is_left_after_a_removal_is_told() -> None:
    told = section("Remove it all")
    for word in (
        "az lock delete --name keep-data",
        "azd-env-name",
        "14 days",
        "--purge",
        "legionservicelink",
        "90 days",
    ):
        assert word in told, word


def test_what_changed_in_azure_alone_is_put_right_without_the_state_of_azd() -> None:
    """azd deploys nothing where template and parameters are those of its last deployment that succeeded."""
    told = section("Disaster recovery")
    assert set(re.findall(r"azd provision(?: -e [\w-]+)?( --[\w-]+)?", told)) == {" --no-state"}
    (lost,) = [row for row in TEXT.splitlines() if row.startswith("| the app or the host account lost ")]
    assert "`azd provision --no-state`" in lost


def test_what_a_lock_keeps_besides_the_account_is_told() -> None:
    """Private endpoints of it, such as those of a standby, and roles on it."""
    told = section("Disaster recovery")
    for command in ("az lock delete", "az network private-endpoint delete", "--no-state", "azd down"):
        assert command in told, command
        told = told.partition(command)[2]
