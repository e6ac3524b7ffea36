// Private endpoints in a network, and the names by which it finds them.

import { privateLinksType, tagsType, textsType } from '../types.bicep'

@description('Required. Name of the virtual network, which has a subnet `endpoints`.')
param networkName string

@description('Required. Prefix of the names of private endpoints.')
param endpointPrefix string

@description('Required. Region of the network.')
param location string

@description('Required. Tags of everything here.')
param tags tagsType

@description('Required. What gets a private endpoint.')
param links privateLinksType

@description('Required. Names of the private DNS zones, each once.')
param zoneNames textsType

resource network 'Microsoft.Network/virtualNetworks@2026-03-01' existing = {
  name: networkName
}

resource zones 'Microsoft.Network/privateDnsZones@2024-06-01' = [
  for zone in zoneNames: {
    name: zone
    location: 'global'
    tags: tags
  }
]

resource zoneLinks 'Microsoft.Network/privateDnsZones/virtualNetworkLinks@2024-06-01' = [
  for (zone, i) in zoneNames: {
    parent: zones[i]
    name: networkName
    location: 'global'
    tags: tags
    properties: {
      registrationEnabled: false
      virtualNetwork: {
        id: network.id
      }
    }
  }
]

// An account takes one change at a time.
@batchSize(1)
resource endpoints 'Microsoft.Network/privateEndpoints@2026-03-01' = [
  for link in links: {
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
  }
]

@batchSize(1)
resource endpointRecords 'Microsoft.Network/privateEndpoints/privateDnsZoneGroups@2026-03-01' = [
  for (link, i) in links: {
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
  }
]
