"""What things are called: Azure knows a resource by its name, and one called otherwise is another one."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.bicep import GROUP, SUBSCRIPTION, Deployment, resource_id
from tests.bicep_functions import FUNCTIONS
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
    group_name,
)

ACCOUNTS = "st{token}(data|host)"

NAMES = {
    GROUP: "{group}",
    LOCK: "keep-data",
    ACCOUNT: ACCOUNTS,
    f"{ACCOUNT}/blobServices": f"{ACCOUNTS}/default",
    f"{ACCOUNT}/blobServices/containers": f"{ACCOUNTS}/default/((team2-)?agent-storage|app-packages)",
    f"{ACCOUNT}/managementPolicies": f"{ACCOUNTS}/default",
    f"{ACCOUNT}/queueServices": f"{ACCOUNTS}/default",
    f"{ACCOUNT}/queueServices/queues": f"{ACCOUNTS}/default/(team2-)?agent-(tasks|events)[a-z0-9-]*",
    f"{ACCOUNT}/tableServices": f"{ACCOUNTS}/default",
    f"{ACCOUNT}/tableServices/tables": f"{ACCOUNTS}/default/(n05team2)?[a-z]+",
    BUDGET: "bdg-{token}",
    COMPONENT: "appi-{token}",
    IDENTITY: "id-{token}",
    DIAGNOSTICS: "access",
    "Microsoft.Insights/actionGroups": "ag-{token}",
    METRIC_RULE: f"ma-(unreachable|availability-({ACCOUNTS}|stolddata))-{{token}}",
    QUERY_RULE: "sqr-[a-z-]+-{token}",
    "Microsoft.Insights/webtests": "wt-{token}",
    "Microsoft.Insights/workbooks": "{workbook}",
    VAULT: "kv-{token}",
    f"{VAULT}/keys": "kv-{token}/agent-storage",
    "Microsoft.Network/networkSecurityGroups": "nsg-{token}-(app|endpoints)",
    "Microsoft.Network/virtualNetworks": "vnet-{token}",
    "Microsoft.Network/privateDnsZones": r"privatelink\.[a-z.]+",
    ZONE_LINK: r"privatelink\.[a-z.]+/vnet-{token}",
    "Microsoft.Network/privateEndpoints": (
        f"pep-({ACCOUNTS}|stolddata|kv-{{token}}|func-{{token}})-(blob|queue|table|vault|sites)"
    ),
    "Microsoft.Network/privateEndpoints/privateDnsZoneGroups": "pep-[a-z0-9-]+/default",
    WORKSPACE: "log-{token}",
    "Microsoft.Web/serverfarms": "plan-{token}",
    SITE: "func-{token}",
    f"{SITE}/basicPublishingCredentialsPolicies": "func-{token}/(ftp|scm)",
    f"{SITE}/config": "func-{token}/authsettingsV2",
}
"""By type, the name with those of its parents. A type without an entry is a problem."""

MODULES = (
    f"identity|monitoring|storage-{ACCOUNTS}|key-vault|network|private-links?(-app)?|access-(app|operator|existing-data)"
    "|function-app|authentication|alerts"
)
"""Those of their deployments are given: one that is repeated replaces its record, and adds none."""

TITLES = {
    "Microsoft.Insights/webtests": {"properties.Name": "Agent storage answers"},
    "Microsoft.Insights/workbooks": {"properties.displayName": "Agent storage {environment}"},
    QUERY_RULE: {"properties.displayName": "Agent storage: [a-z-]+"},
    f"{ACCOUNT}/managementPolicies": {"properties.policy.rules.0.name": "expire-old-versions"},
}
"""By type, what people find it by."""


def resource_names(deployment: Deployment, scenario: Scenario, app: App) -> Iterator[str]:
    token = FUNCTIONS["uniqueString"](
        f"/subscriptions/{SUBSCRIPTION}", scenario["environmentName"], scenario["location"]
    )
    group = group_name(scenario)
    workbook = FUNCTIONS["guid"](resource_id(GROUP, group), token, "agent-storage-workbook")
    known = {"token": token, "group": group, "workbook": workbook, "environment": scenario["environmentName"]}

    def fits(name: str, pattern: str) -> bool:
        for key, value in known.items():
            pattern = pattern.replace(f"{{{key}}}", re.escape(value))
        return re.fullmatch(pattern, name) is not None

    for resource in deployment.resources:
        # An assignment of a role has a name that Azure makes of all it says.
        if resource.existing or resource.type == ROLE:
            continue
        pattern = NAMES.get(resource.type)
        if pattern is None:
            yield f"{resource.type} has no pattern in NAMES"
        elif not fits(resource.full_name, pattern):
            yield f"{resource.type} is called {resource.full_name}, not {pattern}"
        for path, title in TITLES.get(resource.type, {}).items():
            if not fits(str(at(resource, path)), title):
                yield f"{resource.id}: {path} is {at(resource, path)}, not {title}"
    for module in deployment.waits:
        if not fits(module, MODULES):
            yield f"a module is called {module}"
