// A network for the app to call out through, with a subnet for private endpoints.

import { tagsType } from '../types.bicep'

@description('Required. Name of the virtual network.')
param name string

@description('Required. Prefix of the names of network security groups.')
param securityGroupPrefix string

@description('Required. Region of the network.')
param location string

@description('Required. Tags of everything in it.')
param tags tagsType

@description('Required. Address space of the network in CIDR notation, /20 or larger; its first two /24 become subnets.')
param addressPrefix string

var subnets = [
  {
    name: 'app'
    // Flex Consumption runs on the same platform as Container Apps. No underscore may be in the name.
    delegations: [
      'Microsoft.App/environments'
    ]
    // To Entra and to Application Insights the app calls out as the platform does for a delegated subnet, to
    // which the rule for private ones does not apply.
    callsOut: true
  }
  {
    name: 'endpoints'
    delegations: []
    callsOut: false
  }
]

resource securityGroups 'Microsoft.Network/networkSecurityGroups@2026-03-01' = [
  for subnet in subnets: {
    name: '${securityGroupPrefix}${subnet.name}'
    location: location
    tags: tags
  }
]

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
    subnets: [
      for (subnet, i) in subnets: {
        name: subnet.name
        properties: {
          addressPrefix: cidrSubnet(addressPrefix, 24, i)
          networkSecurityGroup: {
            id: securityGroups[i].id
          }
          delegations: map(subnet.delegations, service => {
            name: 'delegation'
            properties: {
              serviceName: service
            }
          })
          // Said in so many words, because what it is without depends on the version of the API.
          defaultOutboundAccess: subnet.callsOut
          privateEndpointNetworkPolicies: 'NetworkSecurityGroupEnabled'
        }
      }
    ]
  }
}

@description('Resource id of the subnet that the app calls out through.')
output appSubnetId string = '${network.id}/subnets/app'
