// A vault with one key, for those who wrap keys of their own: actions, and the encryption of objects. The key never leaves it.

import { tagsType } from '../types.bicep'

@description('Required. Name of the key vault: 3 to 24 characters, unique in Azure.')
@minLength(3)
@maxLength(24)
param name string

@description('Required. Region of the vault.')
param location string

@description('Required. Tags of the vault.')
param tags tagsType

@description('Required. Whether the public endpoint answers; where it does not, only the private endpoint reaches the vault.')
@allowed([
  'Enabled'
  'Disabled'
])
param publicNetworkAccess string

@description('Optional. Name of the key.')
param keyName string = 'agent-storage'

resource keyVault 'Microsoft.KeyVault/vaults@2026-05-15' = {
  // checkov:skip=CKV_AZURE_189: closed where the network is isolated, which is a parameter
  // checkov:skip=CKV_AZURE_109: denied where the network is isolated, which is a parameter
  name: name
  location: location
  tags: tags
  properties: {
    tenantId: tenant().tenantId
    sku: {
      family: 'A'
      name: 'standard'
    }
    enableRbacAuthorization: true
    // A lost key makes everything unreadable that it wrapped: neither may be removed for good at once.
    enableSoftDelete: true
    softDeleteRetentionInDays: 90
    enablePurgeProtection: true
    publicNetworkAccess: publicNetworkAccess
    networkAcls: {
      bypass: 'None'
      defaultAction: publicNetworkAccess == 'Disabled' ? 'Deny' : 'Allow'
    }
  }
}

resource key 'Microsoft.KeyVault/vaults/keys@2026-05-15' = {
  // checkov:skip=CKV_AZURE_112: it wraps few and small keys; an HSM needs the premium vault
  parent: keyVault
  name: keyName
  tags: tags
  properties: {
    kty: 'RSA'
    keySize: 3072
    keyOps: [
      'wrapKey'
      'unwrapKey'
    ]
    rotationPolicy: {
      attributes: {
        expiryTime: 'P2Y'
      }
      lifetimeActions: [
        {
          action: {
            type: 'rotate'
          }
          trigger: {
            timeAfterCreate: 'P1Y'
          }
        }
      ]
    }
  }
}

@description('Identifier of the key, without a version.')
output keyUri string = key.properties.keyUri
