// A storage account that only Microsoft Entra identities can open, with its containers, queues and tables.

import { storageEndpointsType, storageSkuType, tagsType, textsType } from '../types.bicep'

@description('Required. Name of the storage account: 3 to 24 lower-case letters and digits, unique in Azure.')
@minLength(3)
@maxLength(24)
param name string

@description('Required. Region of the account.')
param location string

@description('Required. Tags of the account.')
param tags tagsType

@description('Required. Redundancy of the account.')
param skuName storageSkuType

@description('Required. Names of the private blob containers.')
param containers textsType

@description('Required. Names of the queues.')
param queues textsType

@description('Required. Names of the tables.')
param tables textsType

@description('Required. True closes the public endpoints; only private endpoints reach the account then.')
param privateOnly bool

@description('Required. Public addresses, or ranges of them, that reach the account even so.')
param allowedAddresses textsType

@description('Required. Resource id of the workspace to which each read, write and delete is logged; empty for no log.')
param logsWorkspaceId string

@description('Required. Days that deleted blobs, containers and old versions can be brought back.')
@minValue(2)
@maxValue(365)
param retentionDays int

@description('Required. Days after the last change at which a blob moves to the cool tier; 0 leaves all in the hot tier.')
@minValue(0)
param coolAfterDays int

@description('Required. True keeps the account from being deleted, by a lock that has to be lifted first.')
param locked bool

var expireRule = {
  name: 'expire-old-versions'
  enabled: true
  type: 'Lifecycle'
  definition: {
    filters: {
      blobTypes: [
        'blockBlob'
        'appendBlob'
      ]
    }
    actions: {
      version: {
        delete: {
          daysAfterCreationGreaterThan: retentionDays
        }
      }
      snapshot: {
        delete: {
          daysAfterCreationGreaterThan: retentionDays
        }
      }
    }
  }
}
var coolRule = {
  name: 'cool-unchanged'
  enabled: true
  type: 'Lifecycle'
  definition: {
    filters: {
      blobTypes: [
        'blockBlob'
      ]
    }
    actions: {
      baseBlob: {
        tierToCool: {
          daysAfterModificationGreaterThan: coolAfterDays
        }
      }
    }
  }
}

var accessCategories = [
  'StorageRead'
  'StorageWrite'
  'StorageDelete'
]
var accessLogs = map(accessCategories, category => {
  category: category
  enabled: true
})

resource account 'Microsoft.Storage/storageAccounts@2026-06-01' = {
  // checkov:skip=CKV_AZURE_35: denied where the network is isolated, which is a parameter
  // checkov:skip=CKV_AZURE_206: a parameter; the data are geo-redundant unless it says otherwise
  name: name
  location: location
  tags: tags
  kind: 'StorageV2'
  sku: {
    name: skuName
  }
  properties: {
    accessTier: 'Hot'
    allowBlobPublicAccess: false
    allowCrossTenantReplication: false
    allowSharedKeyAccess: false
    defaultToOAuthAuthentication: true
    minimumTlsVersion: 'TLS1_2'
    supportsHttpsTrafficOnly: true
    publicNetworkAccess: privateOnly && empty(allowedAddresses) ? 'Disabled' : 'Enabled'
    networkAcls: {
      bypass: privateOnly ? 'None' : 'AzureServices'
      defaultAction: privateOnly ? 'Deny' : 'Allow'
      ipRules: map(allowedAddresses, address => {
        value: address
        action: 'Allow'
      })
    }
  }
}

resource blobService 'Microsoft.Storage/storageAccounts/blobServices@2026-06-01' = {
  parent: account
  name: 'default'
  properties: {
    isVersioningEnabled: true
    changeFeed: {
      enabled: true
      retentionInDays: retentionDays
    }
    containerDeleteRetentionPolicy: {
      enabled: true
      days: retentionDays
    }
    deleteRetentionPolicy: {
      enabled: true
      days: retentionDays
    }
    // Point-in-time restore has to end before soft delete does.
    restorePolicy: {
      enabled: true
      days: retentionDays - 1
    }
  }
}

resource queueService 'Microsoft.Storage/storageAccounts/queueServices@2026-06-01' = {
  parent: account
  name: 'default'
}

resource tableService 'Microsoft.Storage/storageAccounts/tableServices@2026-06-01' = {
  parent: account
  name: 'default'
}

resource blobContainers 'Microsoft.Storage/storageAccounts/blobServices/containers@2026-06-01' = [
  for container in containers: {
    parent: blobService
    name: container
    properties: {
      publicAccess: 'None'
    }
  }
]

resource accountQueues 'Microsoft.Storage/storageAccounts/queueServices/queues@2026-06-01' = [
  for queue in queues: {
    parent: queueService
    name: queue
  }
]

resource accountTables 'Microsoft.Storage/storageAccounts/tableServices/tables@2026-06-01' = [
  for table in tables: {
    parent: tableService
    name: table
  }
]

resource lifecycle 'Microsoft.Storage/storageAccounts/managementPolicies@2026-06-01' = {
  parent: account
  name: 'default'
  properties: {
    policy: {
      rules: coolAfterDays > 0 ? [expireRule, coolRule] : [expireRule]
    }
  }
  // A rule on versions is refused before versioning is on.
  dependsOn: [
    blobService
  ]
}

#disable-next-line use-recent-api-versions // the newest of all; the stable one before it has no categories
resource blobLogs 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = if (!empty(logsWorkspaceId)) {
  scope: blobService
  name: 'access'
  properties: {
    workspaceId: logsWorkspaceId
    logs: accessLogs
  }
}

#disable-next-line use-recent-api-versions // the newest of all; the stable one before it has no categories
resource queueLogs 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = if (!empty(logsWorkspaceId)) {
  scope: queueService
  name: 'access'
  properties: {
    workspaceId: logsWorkspaceId
    logs: accessLogs
  }
}

#disable-next-line use-recent-api-versions // the newest of all; the stable one before it has no categories
resource tableLogs 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = if (!empty(logsWorkspaceId)) {
  scope: tableService
  name: 'access'
  properties: {
    workspaceId: logsWorkspaceId
    logs: accessLogs
  }
}

// Its resource group cannot be deleted then either, whoever asks for it.
resource lock 'Microsoft.Authorization/locks@2020-05-01' = if (locked) {
  scope: account
  name: 'keep-data'
  properties: {
    level: 'CanNotDelete'
    notes: 'Agent storage keeps its data here. To delete the account or its resource group: az lock delete --name keep-data --resource-group ${resourceGroup().name} --resource-type Microsoft.Storage/storageAccounts --resource ${name}'
  }
}

@description('Addresses of the services, by the names that connection settings use.')
output endpoints storageEndpointsType = {
  blob: account.properties.primaryEndpoints.blob
  queue: account.properties.primaryEndpoints.queue
  table: account.properties.primaryEndpoints.table
}
