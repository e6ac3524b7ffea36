"""How checks of ``infra/`` see it: ways to deploy it, what is known of the code, and where things are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from tests.bicep import BicepError, Deployment, Resource

HOST = "AzureWebJobsStorage"
SERVICES = ("blob", "queue", "table")
ACCOUNT = "Microsoft.Storage/storageAccounts"
BUDGET = "Microsoft.Consumption/budgets"
COMPONENT = "Microsoft.Insights/components"
IDENTITY = "Microsoft.ManagedIdentity/userAssignedIdentities"
DIAGNOSTICS = "Microsoft.Insights/diagnosticSettings"
LOCK = "Microsoft.Authorization/locks"
METRIC_RULE = "Microsoft.Insights/metricAlerts"
QUERY_RULE = "Microsoft.Insights/scheduledQueryRules"
ROLE = "Microsoft.Authorization/roleAssignments"
SITE = "Microsoft.Web/sites"
VAULT = "Microsoft.KeyVault/vaults"
WORKSPACE = "Microsoft.OperationalInsights/workspaces"
ZONE_LINK = "Microsoft.Network/privateDnsZones/virtualNetworkLinks"


@dataclass(frozen=True)
class Scenario:
    """A way to deploy. ``everything`` turns all options on, each to a value that is no default."""

    name: str
    parameters: Mapping[str, Any]

    def __getitem__(self, parameter: str) -> Any:
        return self.parameters[parameter] if parameter in self.parameters else DEFAULTS[parameter]

    @property
    def locked(self) -> bool:
        """Whether the data are kept from being deleted."""
        over_regions = self["dataStorageSku"].removeprefix("Standard_") in ("GRS", "RAGRS", "GZRS", "RAGZRS")
        return {"on": True, "off": False, "auto": over_regions}[self["dataLock"]]


# Written down a second time: a default changed in the template deploys something else than this says.
DEFAULTS: dict[str, Any] = {
    "resourceGroupName": "",
    "createResourceGroup": True,
    "principalId": "",
    "principalType": "User",
    "separateHostStorage": True,
    "dataStorageSku": "Standard_RAGRS",
    "dataLock": "auto",
    "hostStorageSku": "Standard_LRS",
    "retentionDays": 14,
    "coolAfterDays": 0,
    "instanceMemoryMB": 2048,
    "maximumInstanceCount": 100,
    "alwaysReady": [],
    "httpConcurrency": 8,
    "queueBatchSize": 0,
    "queueNewBatchThreshold": -1,
    "zoneRedundant": False,
    "appSettings": {},
    "existingDataAccountName": "",
    "existingDataAccountResourceGroup": "",
    "taskQueues": 1,
    "storageNamespace": "",
    "storageLogs": False,
    "openTelemetry": False,
    "networkIsolation": False,
    "storageAllowedAddresses": [],
    "networkAddressPrefix": "10.20.0.0/20",
    "appPrivateEndpoint": False,
    "appPublicAccess": True,
    "appAllowedAddresses": [],
    "corsOrigins": [],
    "authClientId": "",
    "authAllowedApplications": [],
    "keyVaultEnabled": False,
    "alertEmail": "",
    "availabilityTest": True,
    "latencyThresholdMs": 5000,
    "backlogThreshold": 10000,
    "logRetentionDays": 30,
    "logDailyQuotaGb": 5,
    "budgetAmount": 0,
    "budgetStartDate": "",
}

BASE: dict[str, Any] = {"environmentName": "test", "location": "westeurope"}

SCENARIOS = (
    Scenario(
        "everything",
        BASE
        | {
            "principalId": "00000000-0000-0000-0000-00000000beef",
            "principalType": "Group",
            "dataStorageSku": "Standard_RAGZRS",
            "dataLock": "on",
            "hostStorageSku": "Standard_LRS",
            "retentionDays": 21,
            "coolAfterDays": 30,
            "instanceMemoryMB": 4096,
            "maximumInstanceCount": 37,
            "alwaysReady": [{"name": "http", "instanceCount": 2}],
            "httpConcurrency": 12,
            "queueBatchSize": 5,
            "queueNewBatchThreshold": 3,
            "zoneRedundant": True,
            "appSettings": {"AGENT_TASK_MODULES": "more.actions"},
            "taskQueues": 3,
            "storageNamespace": "team2",
            "storageLogs": True,
            "openTelemetry": True,
            "networkIsolation": True,
            "storageAllowedAddresses": ["198.51.100.0/24", "203.0.113.7"],
            "appPrivateEndpoint": True,
            "appAllowedAddresses": ["198.51.100.0/24", "203.0.113.7/32"],
            "corsOrigins": ["https://agents.example.com"],
            "authClientId": "11111111-1111-1111-1111-111111111111",
            "authAllowedApplications": ["22222222-2222-2222-2222-222222222222"],
            "keyVaultEnabled": True,
            "alertEmail": "operators@example.com",
            "latencyThresholdMs": 1234,
            "backlogThreshold": 567,
            "logRetentionDays": 45,
            "logDailyQuotaGb": 2,
            "budgetAmount": 99,
            "budgetStartDate": "2026-12-01",
        },
    ),
    Scenario("defaults", BASE),
    Scenario(
        "one account",
        BASE
        | {
            "resourceGroupName": "agents",
            "createResourceGroup": False,
            "dataStorageSku": "Standard_LRS",
            "principalId": "00000000-0000-0000-0000-00000000cafe",
            "separateHostStorage": False,
            "coolAfterDays": 1,
            "alwaysReady": [{"name": "function:watch_queues", "instanceCount": 1}],
            "queueBatchSize": 1,
            "queueNewBatchThreshold": 0,
            "authClientId": "11111111-1111-1111-1111-111111111111",
            "keyVaultEnabled": True,
            "availabilityTest": False,
            "storageLogs": True,
            "appAllowedAddresses": ["198.51.100.0/24"],
            "budgetAmount": 1,
            "budgetStartDate": "2026-12-01",
        },
    ),
    Scenario(
        "data elsewhere",
        BASE
        | {
            "principalId": "00000000-0000-0000-0000-00000000cafe",
            "separateHostStorage": False,
            "existingDataAccountName": "stolddata",
            "existingDataAccountResourceGroup": "rg-old",
            "storageNamespace": "productionofoneteam2",
            "networkIsolation": True,
            "networkAddressPrefix": "10.30.0.0/16",
            "storageLogs": True,
            "appPublicAccess": False,
            "appPrivateEndpoint": True,
        },
    ),
    Scenario(
        "data here",
        BASE
        | {
            "existingDataAccountName": "stolddata",
            "zoneRedundant": True,
            "alwaysReady": [
                {"name": "http", "instanceCount": 1},
                {"name": "function:watch_queues", "instanceCount": 3},
            ],
        },
    ),
)


@dataclass(frozen=True)
class App:
    """What is known of the code: its bindings by function, as in function.json, and its Python version."""

    bindings: Mapping[str, list[dict[str, Any]]]
    python: str

    def connections(self) -> set[str]:
        return {b["connection"] for b in chain(*self.bindings.values()) if "connection" in b}

    def queues(self) -> set[str]:
        return {b["queueName"] for b in chain(*self.bindings.values()) if "queueName" in b}


Check = Callable[[Deployment, Scenario, App], Iterator[str]]


def one(deployment: Deployment, kind: str) -> Resource:
    found = deployment.of(kind)
    if len(found) != 1:
        raise BicepError(f"{len(found)} resources of type {kind}")
    return found[0]


def settings_of(deployment: Deployment) -> dict[str, str]:
    listed = at(one(deployment, SITE), "properties.siteConfig.appSettings") or []
    return {setting.get("name", ""): setting.get("value", "") for setting in listed}


def group_name(scenario: Scenario) -> str:
    return scenario["resourceGroupName"] or f"rg-{scenario['environmentName']}"


def endpoint(account: Resource, service: str) -> str:
    """Where an account answers: as Azure tells of one that is made, by its name of one that exists."""
    if account.existing:
        return f"https://{account.name}.{service}.core.windows.net/"
    return f"{{{ACCOUNT}/{account.name}}}.properties.primaryEndpoints.{service}"


def used_accounts(deployment: Deployment) -> list[Resource]:
    """The storage accounts that are made, then those that are there already, each once."""
    made = deployment.of(ACCOUNT)
    ids = {account.id for account in made}
    named = {r.id: r for r in deployment.resources if r.type == ACCOUNT and r.id not in ids}
    return [*made, *named.values()]


def account_behind(deployment: Deployment, connection: str) -> Resource | None:
    """The storage account that a connection's settings lead to."""
    uri = settings_of(deployment).get(f"{connection}__queueServiceUri")
    return next((a for a in used_accounts(deployment) if endpoint(a, "queue") == uri), None)


def at(resource: Resource, path: str) -> Any:
    """A value below a resource's body, by names and numbers with dots; None where there is none."""
    value: Any = resource.body
    for name in path.split("."):
        if isinstance(value, list):
            value = value[int(name)] if int(name) < len(value) else None
        else:
            value = value.get(name) if isinstance(value, dict) else None
    return value
