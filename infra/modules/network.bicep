// A network for the app to call out through, and private endpoints for what it calls.

@description('Required. Name of the virtual network.')
param name string

@description('Required. Prefix of the names of network security groups.')
param securityGroupPrefix string

@description('Required. Prefix of the names of private endpoints.')
param endpointPrefix string

@description('Required. Region of the network.')
param location string

@description('Required. Tags of everything in it.')
param tags object

@description('Required. Address space of the network in CIDR notation, /20 or larger; its first two /24 become subnets.')
param addressPrefix string

@description('Required. What gets a private endpoint: objects with `id`, `name`, `groupId` and `zone`.')
param privateLinks array

@description('Required. Names of the private DNS zones, each once.')
param zoneNames array

var subnets = [
  {
    name: 'app'
    // Flex Consumption runs on the same platform as Container Apps. No underscore may be in the name.
    delegation: 'Microsoft.App/environments'
    // To Entra and to Application Insights the app calls out as the platform does for a delegated subnet, to
    // which the rule for private ones does not apply.
    callsOut: true
  }
  {
    name: 'endpoints'
    delegation: ''
    callsOut: false
  }
]

resource securityGroups 'Microsoft.Network/networkSecurityGroups@2026-03-01' = [for subnet in subnets: {
  name: '${securityGroupPrefix}${subnet.name}'
  location: location
  tags: tags
}]

resource network 'Microsoft.Network/virtualNetworks@2026-03-01' = {
  name: name
  location: location
  tags: tags
  properties: {
    addressSpace: {
      addressPrefixes: [
        addressPrefix
      ]
    }
    subnets: [for (subnet, i) in subnets: {
      name: subnet.name
      properties: {
        addressPrefix: cidrSubnet(addressPrefix, 24, i)
        networkSecurityGroup: {
          id: securityGroups[i].id
        }
        delegations: empty(subnet.delegation) ? [] : [
          {
            name: 'delegation'
            properties: {
              serviceName: subnet.delegation
            }
          }
        ]
        // Said in so many words, because what it is without depends on the version of the API.
        defaultOutboundAccess: subnet.callsOut
        privateEndpointNetworkPolicies: 'NetworkSecurityGroupEnabled'
      }
    }]
  }
}

resource zones 'Microsoft.Network/privateDnsZones@2024-06-01' = [for zone in zoneNames: {
  name: zone
  location: 'global'
  tags: tags
}]

resource zoneLinks 'Microsoft.Network/privateDnsZones/virtualNetworkLinks@2024-06-01' = [for (zone, i) in zoneNames: {
  parent: zones[i]
  name: name
  location: 'global'
  tags: tags
  properties: {
    registrationEnabled: false
    virtualNetwork: {
      id: network.id
    }
  }
}]

// An account takes one change at a time.
@batchSize(1)
resource endpoints 'Microsoft.Network/privateEndpoints@2026-03-01' = [for link in privateLinks: {
  name: '${endpointPrefix}${link.name}-${link.groupId}'
  location: location
  tags: tags
  properties: {
    subnet: {
      id: '${network.id}/subnets/endpoints'
    }
    privateLinkServiceConnections: [
      {
        name: link.groupId
        properties: {
          privateLinkServiceId: link.id
          groupIds: [
            link.groupId
          ]
        }
      }
    ]
  }
}]

@batchSize(1)
resource endpointRecords 'Microsoft.Network/privateEndpoints/privateDnsZoneGroups@2026-03-01' = [for (link, i) in privateLinks: {
  parent: endpoints[i]
  name: 'default'
  properties: {
    privateDnsZoneConfigs: [
      {
        name: link.groupId
        properties: {
          privateDnsZoneId: zones[indexOf(zoneNames, link.zone)].id
        }
      }
    ]
  }
}]

@description('Resource id of the subnet that the app calls out through.')
output appSubnetId string = '${network.id}/subnets/app'
