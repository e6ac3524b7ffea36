"""Who can reach what: private endpoints and names, and tokens for callers."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from itertools import islice

from tests.bicep import Deployment
from tests.infra_model import (
    ACCOUNT,
    SERVICES,
    SITE,
    VAULT,
    ZONE_LINK,
    App,
    Scenario,
    at,
    one,
    used_accounts,
)


def network(deployment: Deployment, scenario: Scenario, app: App) -> Iterator[str]:
    """Isolated means: no public endpoint, and every service by an address of its own in the network."""
    isolated, addresses = scenario["networkIsolation"], scenario["storageAllowedAddresses"]
    targets: dict[tuple[str, str], str] = {}
    for account in used_accounts(deployment):
        targets |= {(account.id, s): f"privatelink.{s}.core.windows.net" for s in SERVICES}
    for account in deployment.of(ACCOUNT):
        for path, closed, opened in (
            ("publicNetworkAccess", "Enabled" if addresses else "Disabled", "Enabled"),
            ("networkAcls.ipRules", [{"value": each, "action": "Allow"} for each in addresses], []),
            ("networkAcls.bypass", "None", "AzureServices"),
            ("networkAcls.defaultAction", "Deny", "Allow"),
        ):
            if at(account, f"properties.{path}") != (closed if isolated else opened):
                yield f"{account.name}: {path} is {at(account, f'properties.{path}')}"
    for vault in deployment.of(VAULT):
        targets[vault.id, "vault"] = "privatelink.vaultcore.azure.net"
        default = at(vault, "properties.networkAcls.defaultAction")
        access = at(vault, "properties.publicNetworkAccess"), default
        if access != (("Disabled", "Deny") if isolated else ("Enabled", "Allow")):
            yield f"{vault.name}: public access is {access}"
    if scenario["appPrivateEndpoint"]:
        targets[one(deployment, SITE).id, "sites"] = "privatelink.azurewebsites.net"
    endpoints = deployment.of("Microsoft.Network/privateEndpoints")
    if not isolated:
        if endpoints or deployment.of("Microsoft.Network/virtualNetworks"):
            yield "there is a network that nobody asked for"
        return
    net = one(deployment, "Microsoft.Network/virtualNetworks")
    subnets = {s.get("name"): s.get("properties", {}) for s in at(net, "properties.subnets") or []}
    if subnets.keys() != {"app", "endpoints"}:
        yield f"the subnets are {list(subnets)}"
        return
    delegated = [d.get("properties", {}).get("serviceName") for d in subnets["app"].get("delegations", [])]
    if delegated != ["Microsoft.App/environments"] or not subnets["app"]["delegations"][0].get("name"):
        yield f"the subnet of the app is delegated to {delegated}"
    if subnets["endpoints"].get("delegations"):
        yield "the subnet of the endpoints is delegated"
    space = scenario["networkAddressPrefix"]
    if at(net, "properties.addressSpace.addressPrefixes") != [space]:
        yield "the network has another address space"
    first = [str(subnet) for subnet in islice(ipaddress.ip_network(space).subnets(new_prefix=24), 2)]
    if [s.get("addressPrefix") for s in subnets.values()] != first:
        yield "the subnets are not the first two of the network"
    groups = {group.id for group in deployment.of("Microsoft.Network/networkSecurityGroups")}
    if {s.get("networkSecurityGroup", {}).get("id") for s in subnets.values()} != groups or len(groups) != 2:
        yield "a subnet has no security group of its own"
    for name, subnet in subnets.items():
        if subnet.get("privateEndpointNetworkPolicies") != "NetworkSecurityGroupEnabled":
            yield f"security rules do not hold for private endpoints in {name}"
        if subnet.get("defaultOutboundAccess") is not (name == "app"):
            yield f"{name}: defaultOutboundAccess is {subnet.get('defaultOutboundAccess')}"
    zones = {zone.id: zone for zone in deployment.of("Microsoft.Network/privateDnsZones")}
    for zone in zones.values():
        links = deployment.of(ZONE_LINK)
        if not any(r.parent is zone and at(r, "properties.virtualNetwork.id") == net.id for r in links):
            yield f"the network does not ask {zone.name}"
    for each in endpoints:
        connections = at(each, "properties.privateLinkServiceConnections") or [{}]
        link = connections[0].get("properties", {})
        target = link.get("privateLinkServiceId"), (link.get("groupIds") or [""])[0]
        zone_name = targets.pop(target, None)
        if zone_name is None or not connections[0].get("name"):
            yield f"{each.name} leads to {target}"
        if at(each, "properties.subnet.id") != f"{net.id}/subnets/endpoints":
            yield f"{each.name} is in another subnet"
        records = deployment.of("Microsoft.Network/privateEndpoints/privateDnsZoneGroups")
        configs = [at(r, "properties.privateDnsZoneConfigs.0") or {} for r in records if r.parent is each]
        named = [zones[c["properties"]["privateDnsZoneId"]].name for c in configs if c.get("properties")]
        if named != [zone_name] or not all(c.get("name") for c in configs):
            yield f"{each.name} has its address in {named}"
    for missing in targets:
        yield f"there is no private endpoint for {missing}"


def callers(deployment: Deployment, scenario: Scenario, app: App) -> Iterator[str]:
    """Who may call the app by its public address: all, those from some addresses, or nobody."""
    site, addresses = one(deployment, SITE), scenario["appAllowedAddresses"]
    if at(site, "properties.publicNetworkAccess") != (
        "Enabled" if scenario["appPublicAccess"] else "Disabled"
    ):
        yield f"public access of the app is {at(site, 'properties.publicNetworkAccess')}"
    cors = {"allowedOrigins": scenario["corsOrigins"], "supportCredentials": False}
    if at(site, "properties.siteConfig.cors") != cors:
        yield f"pages of {at(site, 'properties.siteConfig.cors')} may call the app"
    default = at(site, "properties.siteConfig.ipSecurityRestrictionsDefaultAction")
    if default != ("Deny" if addresses else "Allow"):
        yield f"all others are met with {default}"
    rules = at(site, "properties.siteConfig.ipSecurityRestrictions") or []
    tested = scenario["availabilityTest"] and scenario["appPublicAccess"]
    expected = [(200 + i, f"caller-{i}", None, address) for i, address in enumerate(addresses)]
    if addresses and tested:
        expected.insert(0, (100, "availability-test", "ServiceTag", "ApplicationInsightsAvailability"))
    found = [tuple(rule.get(key) for key in ("priority", "name", "tag", "ipAddress")) for rule in rules]
    if found != expected:
        yield f"the app may be called from {found}, not {expected}"
    if any(rule.get("action") != "Allow" for rule in rules):
        yield f"a rule does not let in: {rules}"


def authentication(deployment: Deployment, scenario: Scenario, app: App) -> Iterator[str]:
    found, client = deployment.of(f"{SITE}/config"), scenario["authClientId"]
    if not client:
        if found:
            yield "authentication is on without an app registration"
        return
    if [r.name for r in found] != ["authsettingsV2"]:
        yield "authentication is not on"
        return
    directory = "properties.identityProviders.azureActiveDirectory"
    for path, expected in (
        ("registration.clientId", client),
        ("validation.allowedAudiences", [client, f"api://{client}"]),
        (
            "validation.defaultAuthorizationPolicy.allowedApplications",
            scenario["authAllowedApplications"],
        ),
    ):
        if at(found[0], f"{directory}.{path}") != expected:
            yield f"authentication: {path} is {at(found[0], f'{directory}.{path}')}"
    anonymous = {
        re.sub(r"\{\*?\w+\}$", "*", f"/api/{binding['route']}")
        for function in app.bindings.values()
        for binding in function
        if binding.get("authLevel") == "ANONYMOUS"
    }
    if set(at(found[0], "properties.globalValidation.excludedPaths") or []) != anonymous:
        yield f"the paths without a token are not those of anonymous functions, {sorted(anonymous)}"
