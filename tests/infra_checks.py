"""What must be true of ``infra/``: checks over what its templates would deploy, each a list of problems.

They are functions of a folder's files, so that `test_infra.py` can run them on the real ones and on ones that
something was taken out of.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from storage_lib.config import CONNECTION, StorageConfig
from storage_lib.errors import ConfigurationError
from storage_lib.namespaces import queue_in, table_in
from storage_lib.resource_names import CONTAINERS, TABLES, queues
from tests.bicep import GROUP, SUBSCRIPTION, BicepError, Deployment, Files, Resource, deploy, resource_id
from tests.infra_alerts import alerts, budget, workbook
from tests.infra_model import (
    ACCOUNT,
    BUDGET,
    COMPONENT,
    DIAGNOSTICS,
    HOST,
    IDENTITY,
    LOCK,
    ROLE,
    SCENARIOS,
    SERVICES,
    SITE,
    VAULT,
    WORKSPACE,
    ZONE_LINK,
    App,
    Check,
    Scenario,
    account_behind,
    at,
    endpoint,
    group_name,
    one,
    settings_of,
    used_accounts,
)
from tests.infra_names import resource_names
from tests.infra_network import authentication, callers, network
from tests.infra_rules import secret_problems, secure

__all__ = ["CHECKS", "SCENARIOS", "App", "problems"]


# https://learn.microsoft.com/azure/role-based-access-control/built-in-roles, written down a second time:
# an id mistyped in a template is found by comparing the two.
ROLE_IDS = {
    "e147488a-f6f5-4113-8e2d-b22465e65bf6": "Key Vault Crypto Service Encryption User",
    "3913510d-42f4-4e42-8a64-420c390055eb": "Monitoring Metrics Publisher",
    "ba92f5b4-2d11-453d-a403-e96b0029c9fe": "Storage Blob Data Contributor",
    "b7e6dc6d-f1e8-4753-8033-0f276bb0955b": "Storage Blob Data Owner",
    "974c5e8b-45b9-4653-ba55-5f855dd0fb88": "Storage Queue Data Contributor",
    "0a9a7e1f-b9d0-4cc4-a60d-0319b160aaa3": "Storage Table Data Contributor",
}

ROLE_DEFINITIONS = f"/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Authorization/roleDefinitions/"

DATA_ROLES = {
    "Storage Blob Data Contributor",
    "Storage Queue Data Contributor",
    "Storage Table Data Contributor",
}

HOST_ROLES = {"Storage Blob Data Owner", "Storage Queue Data Contributor", "Storage Table Data Contributor"}

# Flex Consumption takes these from functionAppConfig, and refuses or ignores them as settings.
# https://learn.microsoft.com/azure/azure-functions/functions-app-settings#flex-consumption-plan-deprecations
REFUSED_SETTINGS = re.compile(
    r"ENABLE_ORYX_BUILD|FUNCTIONS_(EXTENSION_VERSION|WORKER_\w+|MAX_HTTP_CONCURRENCY)|SCM_DO_BUILD_\w+"
    r"|WEBSITE_(CONTENT\w+|RUN_FROM_PACKAGE|NODE_DEFAULT_VERSION|MAX_DYNAMIC_\w+|TIME_ZONE|VNET_ROUTE_ALL)"
)


def problems(files: Files, app: App) -> list[str]:
    """Everything that is wrong, in any scenario; the first scenario with problems ends it."""
    found = list(secret_problems(files))
    for scenario in SCENARIOS:
        if found:
            break
        try:
            deployment = deploy(files, scenario.parameters)
            for each in CHECKS:
                found += [f"{scenario.name}: {problem}" for problem in each(deployment, scenario, app)]
        except BicepError as error:
            found.append(f"{scenario.name}: {error}")
    return found


def _container(scenario: Scenario) -> str:
    """That of the objects, whose name begins as those of queues do."""
    return queue_in(scenario["storageNamespace"], *CONTAINERS)


def data_resources(deployment: Deployment, scenario: Scenario, app: App) -> Iterator[str]:
    """The names in the templates are the names in the code, on the account that the code opens."""
    account = account_behind(deployment, CONNECTION)
    host = account_behind(deployment, HOST)
    if account is None or host is None:
        return
    package = at(one(deployment, SITE), "properties.functionAppConfig.deployment.storage.value") or ""
    packages = package.removeprefix(endpoint(host, "blob"))
    wanted = queues(scenario["taskQueues"])
    expected: dict[str, Counter[str]] = {
        "blobServices/containers": Counter([_container(scenario)]),
        "queueServices/queues": Counter(queue_in(scenario["storageNamespace"], queue) for queue in wanted),
        "tableServices/tables": Counter(table_in(scenario["storageNamespace"], table) for table in TABLES),
    }
    if account.existing:
        expected = {kind: Counter() for kind in expected}
    if host is account:
        expected["blobServices/containers"][packages] += 1
    for kind, names in expected.items():
        found = deployment.of(f"{ACCOUNT}/{kind}")
        declared = Counter(r.name for r in found if r.full_name.startswith(f"{account.name}/default/"))
        if declared != names:
            yield f"{kind} are {sorted(declared)}, the code uses {sorted(names)}"
    for queue in app.queues() - set(wanted):
        yield f"queue {queue} of a binding is not in storage_lib.resource_names"
    containers = {r.full_name for r in deployment.of(f"{ACCOUNT}/blobServices/containers")}
    if f"{host.name}/default/{packages}" not in containers:
        yield f"code packages are deployed to {package}, which is no container of the host account"


def settings(deployment: Deployment, scenario: Scenario, app: App) -> Iterator[str]:
    """Every connection is complete, by the identity of the app, and the code understands what it is given."""
    site, found = one(deployment, SITE), settings_of(deployment)
    client = f"{{{IDENTITY}/{one(deployment, IDENTITY).name}}}.properties.clientId"
    expected: dict[str, str] = {
        "AGENT_STORAGE_TYPE": "azure",
        "AGENT_TASK_QUEUES": str(scenario["taskQueues"]),
        "AGENT_STORAGE_CONTAINER": _container(scenario),
        "APPLICATIONINSIGHTS_CONNECTION_STRING": (
            f"{{{COMPONENT}/{one(deployment, COMPONENT).name}}}.properties.ConnectionString"
        ),
        "APPLICATIONINSIGHTS_AUTHENTICATION_STRING": f"ClientId={client};Authorization=AAD",
        **scenario["appSettings"],
    }
    if scenario["storageNamespace"]:
        expected["AGENT_STORAGE_NAMESPACE"] = scenario["storageNamespace"]
    if scenario["openTelemetry"]:
        expected["AzureFunctionsJobHost__telemetryMode"] = "OpenTelemetry"
        traced = (
            "AGENT_STORAGE_METRICS",
            "AGENT_STORAGE_METRICS_TRACES",
            "AGENT_STORAGE_METRICS_AZURE_MONITOR",
        )
        expected |= dict.fromkeys(traced, "true")
    if scenario["queueBatchSize"] > 0:
        expected["AzureFunctionsJobHost__extensions__queues__batchSize"] = str(scenario["queueBatchSize"])
    if scenario["queueNewBatchThreshold"] >= 0:
        threshold = str(scenario["queueNewBatchThreshold"])
        expected["AzureFunctionsJobHost__extensions__queues__newBatchThreshold"] = threshold
    keys = deployment.of(f"{VAULT}/keys")
    if [key.name for key in keys] != (["agent-storage"] if scenario["keyVaultEnabled"] else []):
        yield f"the keys are {[key.name for key in keys]}"
    for key in keys:
        expected["AGENT_KEY_VAULT_KEY_URI"] = key_uri(key)
    for connection in {HOST, CONNECTION} | app.connections():
        account = account_behind(deployment, connection)
        if account is None:
            yield f"{connection}__queueServiceUri is of no storage account"
            continue
        expected |= {f"{connection}__{s}ServiceUri": endpoint(account, s) for s in SERVICES}
        expected |= {f"{connection}__credential": "managedidentity", f"{connection}__clientId": client}
    for name in expected.keys() | found.keys():
        if expected.get(name) != found.get(name):
            yield f"setting {name} is {found.get(name)!r}, not {expected.get(name)!r}"
        if REFUSED_SETTINGS.fullmatch(name):
            yield f"setting {name} is not for Flex Consumption"
    listed = at(site, "properties.siteConfig.appSettings") or []
    if len(listed) != len(found):
        yield "a setting is there twice"
    try:
        connection = {"APPLICATIONINSIGHTS_CONNECTION_STRING": "InstrumentationKey=known-when-it-is-there"}
        config = StorageConfig.from_env({**found, **connection})
    except ConfigurationError as error:
        yield f"the code refuses the settings: {error}"
        return
    if (config.storage_type, config.container, config.client_id) != ("azure", _container(scenario), client):
        yield f"the code reads the settings as {config}"
    host, data = account_behind(deployment, HOST), account_behind(deployment, CONNECTION)
    there = scenario["existingDataAccountName"]
    sends = config.metrics is not None and config.metrics.traces and config.metrics.azure_monitor
    if sends is not scenario["openTelemetry"]:
        yield f"the code reads of telemetry {config.metrics}"
    if (host is not data) is not bool(scenario["separateHostStorage"] or there):
        yield "host and data are not as separate as asked for"
    group = scenario["existingDataAccountResourceGroup"] or group_name(scenario)
    if there and (data is None or data.id != resource_id(ACCOUNT, there, group)):
        yield f"the data are in {data and data.id}"
    for account in used_accounts(deployment):
        if account.existing and account is not data:
            yield f"{account.id} is not the account of the data"


def key_uri(key: Resource) -> str:
    return f"{{{VAULT}/keys/{key.full_name}}}.properties.keyUri"


def roles(deployment: Deployment, scenario: Scenario, app: App) -> Iterator[str]:
    """Each principal has the roles for what it uses and not one more."""
    identity = f"{{{IDENTITY}/{one(deployment, IDENTITY).name}}}.properties.principalId"
    expected: set[tuple[str, str, str, str]] = set()

    def grant(principal: str, kind: str, scope: Resource | None, names: set[str]) -> None:
        expected.update((principal, kind, scope.id if scope else "", name) for name in names)

    grant(identity, "ServicePrincipal", account_behind(deployment, HOST), HOST_ROLES)
    for connection in {CONNECTION} | app.connections():
        grant(identity, "ServicePrincipal", account_behind(deployment, connection), DATA_ROLES)
    component = one(deployment, COMPONENT)
    grant(identity, "ServicePrincipal", component, {"Monitoring Metrics Publisher"})
    # A key is of use only to an app that is told of it.
    told = settings_of(deployment).get("AGENT_KEY_VAULT_KEY_URI")
    for key in deployment.of(f"{VAULT}/keys"):
        if told == key_uri(key):
            grant(identity, "ServicePrincipal", key.parent, {"Key Vault Crypto Service Encryption User"})
    if scenario["principalId"]:
        data = account_behind(deployment, CONNECTION)
        grant(scenario["principalId"], scenario["principalType"], data, DATA_ROLES)
    found: set[tuple[str, str, str, str]] = set()
    for assignment in deployment.of(ROLE):
        given = assignment.properties
        role = str(given.get("roleDefinitionId")).removeprefix(ROLE_DEFINITIONS)
        scope = assignment.scope.id if assignment.scope else "the resource group"
        who, kind = str(given.get("principalId")), str(given.get("principalType"))
        found.add((who, kind, scope, ROLE_IDS.get(role, role)))
    for missing in sorted(expected - found):
        yield f"a role is missing: {missing}"
    for extra in sorted(found - expected):
        yield f"a role too many: {extra}"


def host(deployment: Deployment, scenario: Scenario, app: App) -> Iterator[str]:
    """The plan, the runtime and the scale are those asked for, and packages come by identity."""
    site, identity = one(deployment, SITE), one(deployment, IDENTITY)
    # One that is always ready would be in one zone only.
    least = 2 if scenario["zoneRedundant"] else 1
    ready = [each | {"instanceCount": max(least, each["instanceCount"])} for each in scenario["alwaysReady"]]
    scale: dict[str, Any] = {
        "alwaysReady": ready,
        "instanceMemoryMB": scenario["instanceMemoryMB"],
        "maximumInstanceCount": scenario["maximumInstanceCount"],
        "triggers": {"http": {"perInstanceConcurrency": scenario["httpConcurrency"]}},
    }
    plan = one(deployment, "Microsoft.Web/serverfarms")
    subnets = [f"{n.id}/subnets/app" for n in deployment.of("Microsoft.Network/virtualNetworks")]
    for resource, path, expected in (
        (plan, "sku", {"name": "FC1", "tier": "FlexConsumption"}),
        (plan, "kind", "functionapp"),
        (plan, "properties.reserved", True),
        (plan, "properties.zoneRedundant", scenario["zoneRedundant"]),
        (site, "kind", "functionapp,linux"),
        (site, "identity", {"type": "UserAssigned", "userAssignedIdentities": {identity.id: {}}}),
        (site, "tags.azd-service-name", "api"),
        (site, "properties.serverFarmId", plan.id),
        (site, "properties.clientAffinityEnabled", False),
        (site, "properties.keyVaultReferenceIdentity", identity.id),
        (site, "properties.virtualNetworkSubnetId", subnets[0] if subnets else None),
        (site, "properties.functionAppConfig.runtime", {"name": "python", "version": app.python}),
        (site, "properties.functionAppConfig.deployment.storage.type", "blobContainer"),
        (
            site,
            "properties.functionAppConfig.deployment.storage.authentication",
            {"type": "UserAssignedIdentity", "userAssignedIdentityResourceId": identity.id},
        ),
        (site, "properties.functionAppConfig.scaleAndConcurrency", scale),
    ):
        if at(resource, path) != expected:
            yield f"{resource.type}: {path} is {at(resource, path)!r}, not {expected!r}"
    outputs = deployment.outputs
    account = account_behind(deployment, CONNECTION)
    if outputs.get("AZURE_FUNCTION_NAME") != site.name:
        yield "AZURE_FUNCTION_NAME is not the function app"
    if outputs.get("AGENT_STORAGE_ACCOUNT") != (account.name if account else None):
        yield "AGENT_STORAGE_ACCOUNT is not the storage account of the data"
    keys = [key_uri(key) for key in deployment.of(f"{VAULT}/keys")] or [""]
    if outputs.get("AGENT_STORAGE_KEY_URI") != keys[0]:
        yield "AGENT_STORAGE_KEY_URI is not the key of the vault"
    group = group_name(scenario)
    groups = [(each.name, each.body.get("location")) for each in deployment.of(GROUP)]
    if groups != [(group, scenario["location"])] * scenario["createResourceGroup"]:
        yield f"the resource groups that are made are {groups}"
    if outputs.get("AZURE_RESOURCE_GROUP") != group:
        yield f"the resource group is not {group}"
    for resource in deployment.resources:
        # Only roles are given elsewhere, on data that are there already.
        if resource.group not in ("", group) and not resource.existing and resource.type != ROLE:
            yield f"{resource.id} is in another resource group"


def azd_tags(deployment: Deployment, scenario: Scenario, app: App) -> Iterator[str]:
    """`azd` finds its resources by a tag, and a bill is told apart by it."""
    for resource in deployment.resources:
        taggable = resource.parent is None or resource.type in (f"{VAULT}/keys", ZONE_LINK)
        if resource.existing or not taggable or resource.type in (ROLE, BUDGET, DIAGNOSTICS, LOCK):
            continue
        if (resource.body.get("tags") or {}).get("azd-env-name") != scenario["environmentName"]:
            yield f"{resource.id} has no tag azd-env-name"


def retention(deployment: Deployment, scenario: Scenario, app: App) -> Iterator[str]:
    """Deleted and overwritten data can be brought back as long as asked for, then they are gone."""
    days = scenario["retentionDays"]
    account = account_behind(deployment, CONNECTION)
    for each in deployment.of(ACCOUNT):
        of_host = "Standard_ZRS" if scenario["zoneRedundant"] else scenario["hostStorageSku"]
        if at(each, "sku.name") != (scenario["dataStorageSku"] if each is account else of_host):
            yield f"{each.name} has redundancy {at(each, 'sku.name')}"
        cool = scenario["coolAfterDays"] if each is account else None
        for kind in ("blobServices", "queueServices", "tableServices", "managementPolicies"):
            if not any(r.parent is each for r in deployment.of(f"{ACCOUNT}/{kind}")):
                yield f"{each.name} has no {kind}"
        for service in (r for r in deployment.of(f"{ACCOUNT}/blobServices") if r.parent is each):
            for path, expected in (
                ("changeFeed.retentionInDays", days),
                ("containerDeleteRetentionPolicy.days", days),
                ("deleteRetentionPolicy.days", days),
                ("restorePolicy.days", days - 1),
            ):
                if at(service, f"properties.{path}") != expected:
                    yield f"{each.name}: {path} is {at(service, f'properties.{path}')}, not {expected}"
        for policy in (r for r in deployment.of(f"{ACCOUNT}/managementPolicies") if r.parent is each):
            if policy.name != "default":
                yield f"the lifecycle of {each.name} has the name {policy.name}, and the only one is default"
            rules = at(policy, "properties.policy.rules") or []
            actions = [rule.get("definition", {}).get("actions") for rule in rules]
            ends = {"delete": {"daysAfterCreationGreaterThan": days}}
            expected_actions: list[Any] = [{"version": ends, "snapshot": ends}]
            if cool:
                tier = {"tierToCool": {"daysAfterModificationGreaterThan": cool}}
                expected_actions.append({"baseBlob": tier})
                last = rules[-1] if rules else {}
                shape = {key: last.get(key) for key in ("enabled", "type")}
                filters = last.get("definition", {}).get("filters")
                if shape != {"enabled": True, "type": "Lifecycle"} or filters != {"blobTypes": ["blockBlob"]}:
                    yield f"{each.name}: the rule that cools is {last}"
            names = {rule.get("name") for rule in rules} - {None}
            if actions != expected_actions or len(names) != len(rules):
                yield f"{each.name}: lifecycle is {actions}, not {expected_actions}"
            if not any(r.type == f"{ACCOUNT}/blobServices" and r.parent is each for r in policy.depends):
                yield f"{each.name}: lifecycle may come before versioning"
    made = [each for each in deployment.of(ACCOUNT) if each is account]
    expected_locks = made if scenario.locked else []
    if [lock.scope for lock in deployment.of(LOCK)] != expected_locks:
        yield f"locked are {[lock.scope and lock.scope.name for lock in deployment.of(LOCK)]}"
    for lock in deployment.of(LOCK):
        remedy = (
            f"az lock delete --name {lock.name} --resource-group {group_name(scenario)}"
            f" --resource-type {ACCOUNT} --resource {lock.scope and lock.scope.name}"
        )
        if lock.name != "keep-data" or not str(at(lock, "properties.notes")).endswith(remedy):
            yield f"the lock {lock.name} does not say how to lift it: {at(lock, 'properties.notes')}"
    workspace = one(deployment, WORKSPACE)
    services = [f"{ACCOUNT}/{service}Services" for service in SERVICES]
    logged = [s for s in deployment.resources if s.type in services and made and s.parent is made[0]]
    access = [setting.scope for setting in deployment.of(DIAGNOSTICS)]
    if access != (logged if scenario["storageLogs"] else []):
        yield f"access is logged of {[each and each.full_name for each in access]}"
    for setting in deployment.of(DIAGNOSTICS):
        if setting.name != "access" or at(setting, "properties.workspaceId") != workspace.id:
            yield f"{setting.name} logs to {at(setting, 'properties.workspaceId')}"
    if at(workspace, "properties.retentionInDays") != scenario["logRetentionDays"]:
        yield "logs are not kept as long as asked for"
    if at(workspace, "properties.workspaceCapping.dailyQuotaGb") != scenario["logDailyQuotaGb"]:
        yield "logs are not capped as asked for"
    if at(one(deployment, COMPONENT), "properties.WorkspaceResourceId") != workspace.id:
        yield "Application Insights keeps its data elsewhere"


def order(deployment: Deployment, scenario: Scenario, app: App) -> Iterator[str]:
    """Whatever a module names is deployed before it, and the app starts with its roles."""
    homes = {r.id.lower(): r.module for r in deployment.resources if not r.existing}
    for resource in deployment.resources:
        there = resource.type == ACCOUNT and resource.name == scenario["existingDataAccountName"]
        if resource.existing and not there and resource.id.lower() not in homes:
            yield f"{resource.id} is taken for there, and is not"
        texts = [resource.id, *texts_in(resource.body)] if resource.existing else texts_in(resource.body)
        for text in texts:
            named = text.lower().partition("/subnets/")[0]
            home = homes.get(named, resource.module)
            if home and home != resource.module and home not in deployment.waits[resource.module]:
                yield f"module {resource.module} may come before module {home}, whose {text} it needs"
    site = one(deployment, SITE)
    identity = f"{{{IDENTITY}/{one(deployment, IDENTITY).name}}}.properties.principalId"
    for assignment in deployment.of(ROLE):
        own = assignment.properties.get("principalId") == identity
        if own and assignment.module not in deployment.waits[site.module]:
            yield f"the app may start before its roles of module {assignment.module}"
    for endpoint_of in deployment.of("Microsoft.Network/privateEndpoints"):
        leads = at(endpoint_of, "properties.privateLinkServiceConnections.0.properties.privateLinkServiceId")
        if leads != site.id and endpoint_of.module not in deployment.waits[site.module]:
            yield f"the app may start before {endpoint_of.name}, by which it reaches its storage"
        for other in (site, *deployment.of(f"{SITE}/config")):
            if leads == site.id and other.module not in deployment.waits[endpoint_of.module]:
                yield f"{endpoint_of.name} and {other.full_name} may change the site at once"


def texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from texts_in(item)


CHECKS: tuple[Check, ...] = (
    data_resources,
    settings,
    roles,
    host,
    azd_tags,
    secure,
    retention,
    network,
    callers,
    authentication,
    alerts,
    workbook,
    budget,
    order,
    resource_names,
)
