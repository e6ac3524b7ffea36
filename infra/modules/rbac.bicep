// What one principal may do: data roles on storage accounts, telemetry, and the key of the vault.

import { storageGrantsType } from '../types.bicep'

@description('Required. Object id of the identity, user or group.')
param principalId string

@description('Optional. Kind of the principal. A new identity that is not told to be one may not be found yet.')
@allowed([
  'ServicePrincipal'
  'User'
  'Group'
])
param principalType string = 'ServicePrincipal'

@description('Required. Roles on storage accounts: objects with `account` and `role`.')
param storageGrants storageGrantsType

@description('Optional. Application Insights to send telemetry to; empty for none.')
param applicationInsightsName string = ''

@description('Optional. Key vault whose keys wrap and unwrap data keys; empty for none.')
param keyVaultName string = ''

// https://learn.microsoft.com/azure/role-based-access-control/built-in-roles
var roleIds = {
  'Key Vault Crypto Service Encryption User': 'e147488a-f6f5-4113-8e2d-b22465e65bf6'
  'Monitoring Metrics Publisher': '3913510d-42f4-4e42-8a64-420c390055eb'
  'Storage Blob Data Contributor': 'ba92f5b4-2d11-453d-a403-e96b0029c9fe'
  'Storage Blob Data Owner': 'b7e6dc6d-f1e8-4753-8033-0f276bb0955b'
  'Storage Queue Data Contributor': '974c5e8b-45b9-4653-ba55-5f855dd0fb88'
  'Storage Table Data Contributor': '0a9a7e1f-b9d0-4cc4-a60d-0319b160aaa3'
}

resource accounts 'Microsoft.Storage/storageAccounts@2026-06-01' existing = [
  for grant in storageGrants: {
    name: grant.account
  }
]

// Azure looks at the name of a resource even where its condition is false, and refuses an empty one.
resource applicationInsights 'Microsoft.Insights/components@2020-02-02' existing = if (!empty(applicationInsightsName)) {
  name: empty(applicationInsightsName) ? 'none' : applicationInsightsName
}

resource keyVault 'Microsoft.KeyVault/vaults@2026-05-15' existing = if (!empty(keyVaultName)) {
  name: empty(keyVaultName) ? 'none' : keyVaultName
}

resource storageRoles 'Microsoft.Authorization/roleAssignments@2022-04-01' = [
  for (grant, i) in storageGrants: {
    name: guid(accounts[i].id, principalId, roleIds[grant.role])
    scope: accounts[i]
    properties: {
      principalId: principalId
      principalType: principalType
      roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roleIds[grant.role])
    }
  }
]

resource telemetryRole 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(applicationInsightsName)) {
  name: guid(applicationInsights.id, principalId, roleIds['Monitoring Metrics Publisher'])
  scope: applicationInsights
  properties: {
    principalId: principalId
    principalType: principalType
    roleDefinitionId: subscriptionResourceId(
      'Microsoft.Authorization/roleDefinitions',
      roleIds['Monitoring Metrics Publisher']
    )
  }
}

resource keyRole 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(keyVaultName)) {
  name: guid(keyVault.id, principalId, roleIds['Key Vault Crypto Service Encryption User'])
  scope: keyVault
  properties: {
    principalId: principalId
    principalType: principalType
    roleDefinitionId: subscriptionResourceId(
      'Microsoft.Authorization/roleDefinitions',
      roleIds['Key Vault Crypto Service Encryption User']
    )
  }
}
