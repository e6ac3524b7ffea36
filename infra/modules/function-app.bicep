// The app on a Flex Consumption plan. Whatever it opens, it opens with its identity.

import { alwaysReadyType, appSettingsType, storageEndpointsType, tagsType, textsType } from '../types.bicep'

@description('Required. Name of the function app, unique in Azure.')
param name string

@description('Required. Name of the plan.')
param planName string

@description('Required. Region of app and plan.')
param location string

@description('Required. Tags of app and plan.')
param tags tagsType

@description('Required. Service of azure.yaml that is deployed to the app.')
param serviceName string

@description('Required. Resource id of the identity of the app.')
param identityId string

@description('Required. Client id of the same identity.')
param identityClientId string

@description('Required. Addresses of the storage account of the Functions host: `blob`, `queue` and `table`.')
param hostEndpoints storageEndpointsType

@description('Required. Addresses of the storage account of the data: `blob`, `queue` and `table`.')
param dataEndpoints storageEndpointsType

@description('Required. Container of the host account that code packages are deployed to.')
param deploymentContainer string

@description('Required. Container of the data account that objects are kept in.')
param objectContainer string

@description('Required. Connection string of Application Insights, which takes telemetry from identities only.')
param applicationInsightsConnectionString string

@description('Required. Memory of an instance in MB.')
param instanceMemoryMB int

@description('Required. Most instances that the platform scales to.')
param maximumInstanceCount int

@description('Required. Instances that never sleep: objects with `name` (`http`, or `function:` and a function) and `instanceCount`.')
param alwaysReady alwaysReadyType

@description('Required. HTTP requests at once on one instance.')
param httpConcurrency int

@description('Required. Queue messages taken at once by one instance, for each function; 0 leaves it to host.json.')
param queueBatchSize int

@description('Required. Messages still in work at which the next batch is taken; -1 leaves it to host.json.')
param queueNewBatchThreshold int

@description('Required. Spreads the plan over availability zones, in regions that have them.')
param zoneRedundant bool

@description('Required. Resource id of the subnet to call out through; empty for none.')
param subnetId string

@description('Required. Lets the app be called, and code be deployed to it, by its public address.')
param publicAccess bool

@description('Required. Ranges of addresses that may call the app by its public address; empty for all.')
param allowedAddresses textsType

@description('Required. Lets the availability test in, whatever addresses may call.')
param testedFromOutside bool

@description('Required. Origins of web pages that may call the app; empty for none.')
param corsOrigins textsType

@description('Required. Identifier of the key for the code of the app to wrap keys with, in a list; an empty list for none.')
param keyUris textsType

@description('Required. Telemetry of host and app by OpenTelemetry.')
param openTelemetry bool

@description('Required. Further app settings, by name.')
param appSettings appSettingsType

var connections = [
  {
    name: 'AzureWebJobsStorage'
    endpoints: hostEndpoints
  }
  {
    name: 'AgentStorage'
    endpoints: dataEndpoints
  }
]
var services = [
  'blob'
  'queue'
  'table'
]
var connectionUris = flatten(map(
  connections,
  connection =>
    map(services, service => {
      name: '${connection.name}__${service}ServiceUri'
      value: connection.endpoints[service]
    })
))
var connectionIdentities = flatten(map(connections, connection => [
  {
    name: '${connection.name}__credential'
    value: 'managedidentity'
  }
  {
    name: '${connection.name}__clientId'
    value: identityClientId
  }
]))
var ownSettings = [
  {
    name: 'AGENT_STORAGE_TYPE'
    value: 'azure'
  }
  {
    name: 'AGENT_STORAGE_CONTAINER'
    value: objectContainer
  }
  {
    name: 'APPLICATIONINSIGHTS_CONNECTION_STRING'
    value: applicationInsightsConnectionString
  }
  {
    name: 'APPLICATIONINSIGHTS_AUTHENTICATION_STRING'
    value: 'ClientId=${identityClientId};Authorization=AAD'
  }
]
var batchSize = {
  name: 'AzureFunctionsJobHost__extensions__queues__batchSize'
  value: string(queueBatchSize)
}
var newBatchThreshold = {
  name: 'AzureFunctionsJobHost__extensions__queues__newBatchThreshold'
  value: string(queueNewBatchThreshold)
}
var queueSettings = concat(
  queueBatchSize > 0 ? [batchSize] : [],
  queueNewBatchThreshold >= 0 ? [newBatchThreshold] : []
)
var keySettings = map(keyUris, keyUri => {
  name: 'AGENT_KEY_VAULT_KEY_URI'
  value: keyUri
})
// The host sends what the app logs; a worker that said that it sends its logs itself would keep the host from that.
var telemetryNames = [
  'AGENT_STORAGE_METRICS'
  'AGENT_STORAGE_METRICS_TRACES'
  'AGENT_STORAGE_METRICS_AZURE_MONITOR'
]
var telemetrySettings = map(openTelemetry ? telemetryNames : [], name => {
  name: name
  value: 'true'
})
var hostTelemetry = {
  name: 'AzureFunctionsJobHost__telemetryMode'
  value: 'OpenTelemetry'
}
var furtherSettings = map(items(appSettings), setting => {
  name: setting.key
  value: setting.value
})
var testRule = {
  name: 'availability-test'
  priority: 100
  action: 'Allow'
  tag: 'ServiceTag'
  ipAddress: 'ApplicationInsightsAvailability'
}
var callerRules = [
  for (address, i) in allowedAddresses: {
    name: 'caller-${i}'
    priority: 200 + i
    action: 'Allow'
    ipAddress: address
  }
]
var restricted = !empty(allowedAddresses)
// Where the plan is spread over zones, one instance that is always ready would be in one of them only.
var alwaysReadyInstances = map(alwaysReady, each => {
  name: each.name
  instanceCount: zoneRedundant ? max(2, each.instanceCount) : each.instanceCount
})

resource plan 'Microsoft.Web/serverfarms@2025-03-01' = {
  // checkov:skip=CKV_AZURE_225: a parameter, for not every region has zones
  name: planName
  location: location
  tags: tags
  kind: 'functionapp'
  sku: {
    name: 'FC1'
    tier: 'FlexConsumption'
  }
  properties: {
    reserved: true
    zoneRedundant: zoneRedundant
  }
}

resource app 'Microsoft.Web/sites@2025-03-01' = {
  // checkov:skip=CKV_AZURE_17: callers are known by function keys or Entra tokens, not by certificates
  // checkov:skip=CKV_AZURE_78: Flex Consumption has no FTP, and refuses the property ftpsState
  // checkov:skip=CKV_AZURE_212: Flex Consumption scales to zero; always-ready instances are a parameter
  // checkov:skip=CKV_AZURE_213: Flex Consumption has no health check path; an availability test asks instead
  // checkov:skip=CKV_AZURE_222: agents call it from anywhere, with a key or a token
  name: name
  location: location
  tags: union(tags, {
    'azd-service-name': serviceName
  })
  kind: 'functionapp,linux'
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${identityId}': {}
    }
  }
  properties: {
    serverFarmId: plan.id
    httpsOnly: true
    clientAffinityEnabled: false
    // For settings that refer to a vault, which would otherwise be opened by a system-assigned identity.
    keyVaultReferenceIdentity: identityId
    publicNetworkAccess: publicAccess ? 'Enabled' : 'Disabled'
    virtualNetworkSubnetId: empty(subnetId) ? null : subnetId
    siteConfig: {
      minTlsVersion: '1.2'
      scmMinTlsVersion: '1.2'
      http20Enabled: true
      cors: {
        allowedOrigins: corsOrigins
        // Keys and tokens are sent in headers; with cookies any admitted page could act as whoever has signed in.
        supportCredentials: false
      }
      ipSecurityRestrictions: concat(restricted && testedFromOutside ? [testRule] : [], callerRules)
      ipSecurityRestrictionsDefaultAction: restricted ? 'Deny' : 'Allow'
      remoteDebuggingEnabled: false
      appSettings: concat(
        connectionUris,
        connectionIdentities,
        ownSettings,
        queueSettings,
        keySettings,
        telemetrySettings,
        openTelemetry ? [hostTelemetry] : [],
        furtherSettings
      )
    }
    functionAppConfig: {
      runtime: {
        name: 'python'
        version: '3.13'
      }
      deployment: {
        storage: {
          type: 'blobContainer'
          value: '${hostEndpoints.blob}${deploymentContainer}'
          authentication: {
            type: 'UserAssignedIdentity'
            userAssignedIdentityResourceId: identityId
          }
        }
      }
      scaleAndConcurrency: {
        alwaysReady: alwaysReadyInstances
        instanceMemoryMB: instanceMemoryMB
        maximumInstanceCount: maximumInstanceCount
        triggers: {
          http: {
            perInstanceConcurrency: httpConcurrency
          }
        }
      }
    }
  }
}

// Deployment is by Entra tokens; user name and password stay off for the site and for FTP.
resource ftpPublishing 'Microsoft.Web/sites/basicPublishingCredentialsPolicies@2025-03-01' = {
  parent: app
  name: 'ftp'
  #disable-next-line BCP187 // the service refuses a policy without a location, which the published type lacks
  location: location
  properties: {
    allow: false
  }
}

resource scmPublishing 'Microsoft.Web/sites/basicPublishingCredentialsPolicies@2025-03-01' = {
  parent: app
  name: 'scm'
  #disable-next-line BCP187 // the service refuses a policy without a location, which the published type lacks
  location: location
  properties: {
    allow: false
  }
  // The site takes one change at a time.
  dependsOn: [
    ftpPublishing
  ]
}

@description('Name of the function app.')
output name string = app.name

@description('Address of the function app.')
output uri string = 'https://${app.properties.defaultHostName}'
