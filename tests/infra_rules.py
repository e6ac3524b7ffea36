"""What is always so for a type of resource: its API version and its secure values. And no secret anywhere."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

from tests.bicep import TENANT, Deployment, Files
from tests.infra_model import (
    ACCOUNT,
    BUDGET,
    COMPONENT,
    DIAGNOSTICS,
    IDENTITY,
    LOCK,
    METRIC_RULE,
    QUERY_RULE,
    ROLE,
    SITE,
    VAULT,
    WORKSPACE,
    ZONE_LINK,
    App,
    Scenario,
    at,
)

SECRETS = re.compile(
    r"\blist(Keys|Secrets|AccountSas|ServiceSas|Credentials|ConnectionStrings|Value)\b|\bgetSecret\b|AccountKey"
    r"|SharedAccess|InstrumentationKey|@secure|[Pp]assword\s*[:=]|\bsig="
)

API_VERSIONS = {
    LOCK: "2020-05-01",
    "Microsoft.Authorization/roleAssignments": "2022-04-01",
    DIAGNOSTICS: "2021-05-01-preview",
    "Microsoft.Consumption/budgets": "2026-06-01",
    "Microsoft.Insights/actionGroups": "2023-01-01",
    "Microsoft.Insights/components": "2020-02-02",
    "Microsoft.Insights/metricAlerts": "2026-01-01",
    "Microsoft.Insights/scheduledQueryRules": "2026-03-01",
    "Microsoft.Insights/webtests": "2022-06-15",
    "Microsoft.Insights/workbooks": "2023-06-01",
    "Microsoft.KeyVault/vaults": "2026-05-15",
    "Microsoft.ManagedIdentity/userAssignedIdentities": "2024-11-30",
    "Microsoft.Network/networkSecurityGroups": "2026-03-01",
    "Microsoft.Network/privateDnsZones": "2024-06-01",
    "Microsoft.Network/privateEndpoints": "2026-03-01",
    "Microsoft.Network/virtualNetworks": "2026-03-01",
    "Microsoft.OperationalInsights/workspaces": "2026-03-01",
    "Microsoft.Resources/resourceGroups": "2025-04-01",
    "Microsoft.Storage/storageAccounts": "2026-06-01",
    "Microsoft.Web/serverfarms": "2025-03-01",
    "Microsoft.Web/sites": "2025-03-01",
}
"""By type; one below it (``storageAccounts/blobServices``) is of the same version."""

# https://learn.microsoft.com/azure/azure-functions/functions-app-settings#flex-consumption-plan-deprecations
REFUSED_BY_FLEX = {
    "alwaysOn",
    "containerSize",
    "elasticWebAppScaleLimit",
    "ftpsState",
    "functionAppScaleLimit",
    "functionsRuntimeScaleMonitoringEnabled",
    "healthCheckPath",
    "isReserved",
    "isXenon",
    "javaContainer",
    "javaContainerVersion",
    "javaVersion",
    "linuxFxVersion",
    "minimumElasticInstanceCount",
    "netFrameworkVersion",
    "nodeVersion",
    "numberOfWorkers",
    "phpVersion",
    "powerShellVersion",
    "preWarmedInstanceCount",
    "pythonVersion",
    "use32BitWorkerProcess",
    "vnetBackupRestoreEnabled",
    "vnetContentShareEnabled",
    "vnetImagePullEnabled",
    "vnetRouteAllEnabled",
    "windowsFxVersion",
}
"""Properties of an app and of its `siteConfig` that a Flex Consumption plan refuses with 400, or ignores."""

Rule = Callable[[Any], bool]


def equal(value: Any) -> Rule:
    return lambda found: found == value and type(found) is type(value)


ENABLED = equal(True)

SECURE: dict[str, dict[str, Rule]] = {
    ACCOUNT: {
        "kind": equal("StorageV2"),
        "properties.accessTier": equal("Hot"),
        "properties.allowBlobPublicAccess": equal(False),
        "properties.allowCrossTenantReplication": equal(False),
        "properties.allowSharedKeyAccess": equal(False),
        "properties.defaultToOAuthAuthentication": ENABLED,
        "properties.minimumTlsVersion": equal("TLS1_2"),
        "properties.supportsHttpsTrafficOnly": ENABLED,
    },
    f"{ACCOUNT}/blobServices": {
        "properties.isVersioningEnabled": ENABLED,
        "properties.changeFeed.enabled": ENABLED,
        "properties.containerDeleteRetentionPolicy.enabled": ENABLED,
        "properties.deleteRetentionPolicy.enabled": ENABLED,
        "properties.restorePolicy.enabled": ENABLED,
    },
    f"{ACCOUNT}/blobServices/containers": {"properties.publicAccess": equal("None")},
    f"{ACCOUNT}/managementPolicies": {
        "properties.policy.rules.0.enabled": ENABLED,
        "properties.policy.rules.0.name": bool,
        "properties.policy.rules.0.type": equal("Lifecycle"),
        "properties.policy.rules.0.definition.filters.blobTypes": equal(["blockBlob", "appendBlob"]),
    },
    f"{ACCOUNT}/queueServices": {},
    f"{ACCOUNT}/queueServices/queues": {},
    f"{ACCOUNT}/tableServices": {},
    f"{ACCOUNT}/tableServices/tables": {},
    SITE: {
        "properties.httpsOnly": ENABLED,
        "properties.siteConfig.http20Enabled": ENABLED,
        "properties.siteConfig.minTlsVersion": equal("1.2"),
        "properties.siteConfig.remoteDebuggingEnabled": equal(False),
        "properties.siteConfig.scmMinTlsVersion": equal("1.2"),
    },
    f"{SITE}/basicPublishingCredentialsPolicies": {"properties.allow": equal(False)},
    f"{SITE}/config": {
        "properties.platform.enabled": ENABLED,
        "properties.globalValidation.requireAuthentication": ENABLED,
        "properties.globalValidation.unauthenticatedClientAction": equal("Return401"),
        "properties.globalValidation.excludedPaths": equal(
            ["/api/health/live", "/api/console", "/api/console/*", "/api/signed", "/api/signed/*"]
        ),
        "properties.httpSettings.requireHttps": ENABLED,
        "properties.identityProviders.azureActiveDirectory.enabled": ENABLED,
        "properties.identityProviders.azureActiveDirectory.registration.openIdIssuer": equal(
            f"https://login.microsoftonline.com/{TENANT}/v2.0"
        ),
        "properties.login.tokenStore.enabled": equal(False),
    },
    "Microsoft.Web/serverfarms": {},
    VAULT: {
        "properties.tenantId": equal(TENANT),
        "properties.sku": equal({"family": "A", "name": "standard"}),
        "properties.enablePurgeProtection": ENABLED,
        "properties.enableRbacAuthorization": ENABLED,
        "properties.enableSoftDelete": ENABLED,
        "properties.softDeleteRetentionInDays": equal(90),
        "properties.networkAcls.bypass": equal("None"),
    },
    f"{VAULT}/keys": {
        "properties.kty": equal("RSA"),
        "properties.keySize": equal(3072),
        "properties.keyOps": equal(["wrapKey", "unwrapKey"]),
        "properties.rotationPolicy.attributes.expiryTime": equal("P2Y"),
        "properties.rotationPolicy.lifetimeActions.0": equal(
            {"action": {"type": "rotate"}, "trigger": {"timeAfterCreate": "P1Y"}}
        ),
    },
    COMPONENT: {
        "kind": equal("web"),
        "properties.Application_Type": equal("web"),
        "properties.DisableIpMasking": equal(False),
        "properties.DisableLocalAuth": ENABLED,
        "properties.IngestionMode": equal("LogAnalytics"),
    },
    WORKSPACE: {
        "properties.sku.name": equal("PerGB2018"),
        "properties.features.disableLocalAuth": ENABLED,
        "properties.features.enableLogAccessUsingOnlyResourcePermissions": ENABLED,
    },
    IDENTITY: {},
    DIAGNOSTICS: {
        "properties.logs": equal(
            [
                {"category": category, "enabled": True}
                for category in ("StorageRead", "StorageWrite", "StorageDelete")
            ]
        )
    },
    LOCK: {"properties.level": equal("CanNotDelete")},
    ROLE: {},
    "Microsoft.Resources/resourceGroups": {},
    "Microsoft.Network/networkSecurityGroups": {},
    "Microsoft.Network/virtualNetworks": {},
    "Microsoft.Network/privateDnsZones": {"location": equal("global")},
    ZONE_LINK: {
        "location": equal("global"),
        "properties.registrationEnabled": equal(False),
    },
    "Microsoft.Network/privateEndpoints": {},
    "Microsoft.Network/privateEndpoints/privateDnsZoneGroups": {},
    "Microsoft.Insights/actionGroups": {
        "location": equal("global"),
        "properties.enabled": ENABLED,
        "properties.groupShortName": lambda name: isinstance(name, str) and 0 < len(name) <= 12,
        "properties.emailReceivers.0.name": bool,
        "properties.emailReceivers.0.useCommonAlertSchema": ENABLED,
    },
    QUERY_RULE: {
        "kind": equal("LogAlert"),
        "properties.autoMitigate": ENABLED,
        "properties.enabled": ENABLED,
        "properties.skipQueryValidation": ENABLED,
        "properties.severity": lambda severity: severity in range(5),
        "properties.criteria.allOf.0.failingPeriods": equal(
            {"numberOfEvaluationPeriods": 1, "minFailingPeriodsToAlert": 1}
        ),
        "properties.criteria.allOf.0.operator": equal("GreaterThan"),
        "properties.criteria.allOf.0.threshold": equal(0),
        "properties.criteria.allOf.0.timeAggregation": equal("Count"),
    },
    METRIC_RULE: {
        "location": equal("global"),
        "properties.autoMitigate": ENABLED,
        "properties.enabled": ENABLED,
        "properties.severity": lambda severity: severity in range(5),
        "properties.evaluationFrequency": equal("PT5M"),
    },
    "Microsoft.Insights/webtests": {
        "kind": equal("standard"),
        "properties.Enabled": ENABLED,
        "properties.Frequency": equal(900),
        "properties.Kind": equal("standard"),
        # https://learn.microsoft.com/azure/azure-monitor/app/availability#location-population-tags
        "properties.Locations": equal(
            [{"Id": "emea-nl-ams-azr"}, {"Id": "us-va-ash-azr"}, {"Id": "apac-sg-sin-azr"}]
        ),
        "properties.Name": bool,
        "properties.Request.HttpVerb": equal("GET"),
        "properties.Request.ParseDependentRequests": equal(False),
        "properties.RetryEnabled": ENABLED,
        # A cold start may take longer than the default of 30.
        "properties.Timeout": equal(60),
        "properties.ValidationRules": equal(
            {"ExpectedHttpStatusCode": 200, "SSLCheck": True, "SSLCertRemainingLifetimeCheck": 7}
        ),
    },
    "Microsoft.Insights/workbooks": {
        "kind": equal("shared"),
        "properties.category": equal("workbook"),
        "properties.displayName": bool,
        "properties.version": equal("Notebook/1.0"),
    },
    BUDGET: {"properties.category": equal("Cost"), "properties.timeGrain": equal("Monthly")},
}
"""For each type that may be deployed, the values that never change. A type without an entry is a problem."""


def secure(deployment: Deployment, scenario: Scenario, app: App) -> Iterator[str]:
    for resource in deployment.resources:
        version = API_VERSIONS.get("/".join(resource.type.split("/")[:2]))
        if resource.api != version:
            yield f"{resource.type} is of {resource.api}, not {version}"
        if resource.existing:
            continue
        if resource.type not in SECURE:
            yield f"{resource.type} has no rules in SECURE"
        for path, rule in SECURE.get(resource.type, {}).items():
            if not rule(at(resource, path)):
                yield f"{resource.type}/{resource.full_name}: {path} is {at(resource, path)!r}"
        located = resource.parent is None and resource.type not in (ROLE, BUDGET, DIAGNOSTICS, LOCK)
        if located and resource.body.get("location") not in (scenario["location"], "global"):
            yield f"{resource.id} is in {resource.body.get('location')!r}"
    refused = {name.lower() for name in REFUSED_BY_FLEX}
    for site in deployment.of(SITE):
        for name in (*site.properties, *(at(site, "properties.siteConfig") or {})):
            if name.lower() in refused:
                yield f"Flex Consumption refuses {name}"
    policies = {r.name: r for r in deployment.of(f"{SITE}/basicPublishingCredentialsPolicies")}
    if policies.keys() != {"ftp", "scm"}:
        yield f"basic credentials are closed only for {sorted(policies)}"
    elif policies["ftp"] not in policies["scm"].depends:
        yield "two changes of the site at once may be refused"
    for policy in policies.values():
        if policy.body.get("location") != scenario["location"]:
            yield f"the policy {policy.name} has no location, without which it is refused"


def secret_problems(files: Files) -> Iterator[str]:
    for path, content in files.items():
        for secret in _secrets_in(content):
            yield f"{path}: {secret}"


@functools.lru_cache(maxsize=4096)
def _secrets_in(content: bytes) -> tuple[str, ...]:
    return tuple(match[0] for match in SECRETS.finditer(content.decode()))
