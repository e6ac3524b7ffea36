// Everything that agent storage needs, in one resource group. No key and no secret is made, asked for or put out.
targetScope = 'subscription'

import { alwaysReadyType, appSettingsType, textsType } from 'types.bicep'

@description('Required. Name of the environment. The resource group is called by it, and all other names come from it.')
@minLength(1)
@maxLength(64)
param environmentName string

@description('Required. Region of everything. `az functionapp list-flexconsumption-locations` tells which have the plan.')
@minLength(1)
@metadata({
  azd: {
    type: 'location'
  }
})
param location string

@description('Optional. Name of the resource group; empty makes one from the environment.')
param resourceGroupName string = ''

@description('Optional. Makes the resource group. False takes the one of that name as it is: it keeps its tags, and is not taken for a part of the environment when that is deleted.')
param createResourceGroup bool = true

@description('Optional. Object id of a person or group that may read and write the data too; empty for nobody.')
param principalId string = ''

@description('Optional. Kind of that principal.')
@allowed([
  'User'
  'Group'
  'ServicePrincipal'
])
param principalType string = 'User'

@description('Optional. Keeps what the Functions host needs in a storage account of its own, away from the data and its load. With existing data it is always so.')
param separateHostStorage bool = true

@description('Optional. Redundancy of the data. Geo-redundant ones survive the loss of a region.')
@allowed([
  'Standard_LRS'
  'Standard_ZRS'
  'Standard_GRS'
  'Standard_RAGRS'
  'Standard_GZRS'
  'Standard_RAGZRS'
])
param dataStorageSku string = 'Standard_RAGRS'

@description('Optional. Keeps the account of the data from being deleted, with its resource group, by a lock: always (`on`), never (`off`), or where its redundancy survives the loss of a region (`auto`). A lock has to be lifted by hand, also after `off`: `az lock delete --name keep-data`.')
@allowed([
  'auto'
  'on'
  'off'
])
param dataLock string = 'auto'

@description('Optional. Redundancy of a host account of its own. It holds nothing that a deployment does not bring back. With zoneRedundant it is Standard_ZRS whatever this says; an account that is there already has to be converted first.')
@allowed([
  'Standard_LRS'
  'Standard_ZRS'
])
param hostStorageSku string = 'Standard_LRS'

@description('Optional. Days that deleted and overwritten blobs can be brought back.')
@minValue(2)
@maxValue(365)
param retentionDays int = 14

@description('Optional. Days after the last change at which an object moves to the cool tier; 0 leaves all in the hot tier.')
@minValue(0)
param coolAfterDays int = 0

@description('Optional. Logs each read, write and delete of blobs, queues and tables of the data to the workspace, which is paid for by the gigabyte. An account that is there already is left as it is.')
param storageLogs bool = false

@description('Optional. The app sends traces of its requests, tasks and operations on storage, and its metrics, to Application Insights, and the host sends its own telemetry by OpenTelemetry too. What is sent is paid for by the gigabyte.')
param openTelemetry bool = false

@description('Optional. Memory of an instance in MB.')
@allowed([
  512
  2048
  4096
])
param instanceMemoryMB int = 2048

@description('Optional. Most instances that the platform scales to.')
@minValue(1)
@maxValue(1000)
param maximumInstanceCount int = 100

@description('Optional. Instances that never sleep, and are paid for always: objects with `name` (`http`, or `function:` and a function) and `instanceCount`.')
param alwaysReady alwaysReadyType = []

@description('Optional. HTTP requests at once on one instance. The platform would take one only for Python; these functions are asynchronous. Eight of the largest bodies fit into 2048 MB.')
@minValue(1)
@maxValue(1000)
param httpConcurrency int = 8

@description('Optional. Queue messages taken at once by one instance, by each function on a queue alike, for the platform has no setting for one of them; 0 leaves it to host.json.')
@minValue(0)
@maxValue(32)
param queueBatchSize int = 0

@description('Optional. Messages still in work at which the next batch is taken; -1 leaves it to host.json.')
@minValue(-1)
param queueNewBatchThreshold int = -1

@description('Optional. Spreads the plan over availability zones, in regions that have them (`az functionapp list-flexconsumption-locations --zone-redundant=true`). The platform may then keep two always-ready instances for each group of functions, which are paid for.')
param zoneRedundant bool = false

@description('Optional. Further app settings, such as AGENT_TASK_MODULES. Not for secrets.')
param appSettings appSettingsType = {}

@description('Optional. Name of a storage account that is there already and has the data, such as one that failed over; empty makes one. It is left as it is.')
@maxLength(24)
param existingDataAccountName string = ''

@description('Optional. Resource group of that account; empty for the one of everything else.')
param existingDataAccountResourceGroup string = ''

@description('Optional. Over how many queues the tasks of each priority are spread. One takes about 660 tasks a second; four take what an account takes.')
@minValue(1)
@maxValue(16)
param taskQueues int = 1

@description('Optional. Sets the app apart from others on the same account, such as an existing one: the names of its container, queues and tables begin with this. A small letter, then small letters and digits. What is stored stays where it is when this changes.')
@maxLength(20)
param storageNamespace string = ''

@description('Optional. Puts storage and vault behind private endpoints in a virtual network, and closes their public ones.')
param networkIsolation bool = false

@description('Optional. Public addresses, or ranges of them as 198.51.100.0/24 (of one or two give the addresses), that reach the storage accounts in spite of networkIsolation.')
param storageAllowedAddresses textsType = []

@description('Optional. Address space of that network, /20 or larger.')
param networkAddressPrefix string = '10.20.0.0/20'

@description('Optional. Gives the app a private endpoint in that network.')
param appPrivateEndpoint bool = false

@description('Optional. Lets the app be called, and code be deployed to it, by its public address. Where not, only private endpoints lead to it, and nothing tests it from outside.')
param appPublicAccess bool = true

@description('Optional. Ranges of addresses, as 198.51.100.0/24, that may call the app by its public address; empty for all. The availability test may in any case, and so may the deployment of code.')
param appAllowedAddresses textsType = []

@description('Optional. Origins of web pages that may call the app, as https://example.com, without cookies; empty for none.')
param corsOrigins textsType = []

@description('Optional. Client id of an Entra app registration: every call but liveness then needs a token for it. Empty leaves only function keys.')
param authClientId string = ''

@description('Optional. Client ids of the applications that may call; empty for all of the tenant.')
param authAllowedApplications textsType = []

@description('Optional. Makes a key vault with a key for the code of actions and for the encryption of objects: the app may wrap and unwrap with it, and finds it by the setting AGENT_KEY_VAULT_KEY_URI.')
param keyVaultEnabled bool = false

@description('Optional. Who gets alerts by mail; empty shows them in the portal only.')
param alertEmail string = ''

@description('Optional. Tests from outside, every quarter of an hour, that the app answers. Each run wakes it.')
param availabilityTest bool = true

@description('Optional. 95th percentile of the duration of HTTP requests, in milliseconds, above which an alert is raised.')
@minValue(1)
param latencyThresholdMs int = 5000

@description('Optional. Messages of one priority of tasks, those in work included, above which an alert is raised; each of its queues is watched for its share.')
@minValue(1)
param backlogThreshold int = 10000

@description('Optional. Days that logs are kept.')
@minValue(30)
@maxValue(730)
param logRetentionDays int = 30

@description('Optional. Gigabytes a day after which logs are no longer taken until the next day; -1 for no cap.')
@minValue(-1)
param logDailyQuotaGb int = 5

@description('Optional. Budget of the resource group for a month, in the currency of the bill; 0 for none.')
@minValue(0)
param budgetAmount int = 0

@description('Conditional. First day of the month in which the budget begins, as 2026-12-01. Required with a budget; it cannot be changed afterwards.')
param budgetStartDate string = ''

var abbreviations = loadJsonContent('abbreviations.json')
var token = toLower(uniqueString(subscription().id, environmentName, location))
var tags = {
  'azd-env-name': environmentName
}

// The names that the code uses, of which it has constants, and no others: tests/test_infra.py compares them with
// storage_lib/resource_names.py.
// As storage_lib/namespaces.py makes them.
var queuePrefix = empty(storageNamespace) ? '' : '${storageNamespace}-'
var tablePrefix = empty(storageNamespace) ? '' : 'n${padLeft(length(storageNamespace), 2, '0')}${storageNamespace}'
var objectContainer = '${queuePrefix}agent-storage'
// Each number has a queue of each priority; the first has none in its name.
var firstTaskQueueNames = ['agent-tasks', 'agent-tasks-high']
var taskQueueNames = flatten(map(
  range(1, taskQueues),
  n => map(firstTaskQueueNames, queue => n == 1 ? queue : '${queue}-${n}')
))
var queueNames = concat(taskQueueNames, map(taskQueueNames, queue => '${queue}-poison'), ['agent-events'])
var tableNames = [
  'tasks'
  'taskkeys'
]
var deploymentContainer = 'app-packages'

var ownGroupName = '${abbreviations.resourcesResourceGroups}${environmentName}'
var groupName = empty(resourceGroupName) ? ownGroupName : resourceGroupName
var makesData = empty(existingDataAccountName)
// An existing account is not to be changed, so that it takes no packages of the host either.
var hostIsSeparate = separateHostStorage || !makesData
var dataIsHere = makesData || empty(existingDataAccountResourceGroup)
var dataGroupName = dataIsHere ? groupName : existingDataAccountResourceGroup
var dataAccountName = makesData ? '${abbreviations.storageStorageAccounts}${token}data' : existingDataAccountName
var hostAccountName = hostIsSeparate ? '${abbreviations.storageStorageAccounts}${token}host' : dataAccountName
var dataAccount = {
  name: dataAccountName
  skuName: dataStorageSku
  containers: hostIsSeparate ? [objectContainer] : [objectContainer, deploymentContainer]
  queues: map(queueNames, queue => '${queuePrefix}${queue}')
  tables: map(tableNames, table => '${tablePrefix}${table}')
  coolAfterDays: coolAfterDays
  logged: storageLogs
  // Of the names of kinds of redundancy, those over regions have a G.
  locked: dataLock == 'on' || (dataLock == 'auto' && contains(dataStorageSku, 'G'))
}
var hostAccount = {
  name: hostAccountName
  // No app goes on without the locks and keys of its host.
  skuName: zoneRedundant ? 'Standard_ZRS' : hostStorageSku
  containers: [
    deploymentContainer
  ]
  queues: []
  tables: []
  coolAfterDays: 0
  logged: false
  locked: false
}
// What is made: the data account first, unless it exists, and the host's last; they may be one.
var storageAccounts = concat(makesData ? [dataAccount] : [], hostIsSeparate ? [hostAccount] : [])
// What is used, wherever it is.
var usedAccounts = union(
  [
    {
      name: dataAccountName
      id: resourceId(subscription().subscriptionId, dataGroupName, 'Microsoft.Storage/storageAccounts', dataAccountName)
    }
  ],
  map(storageAccounts, account => {
    name: account.name
    id: resourceId(subscription().subscriptionId, groupName, 'Microsoft.Storage/storageAccounts', account.name)
  })
)
var existingDataEndpoints = {
  blob: 'https://${dataAccountName}.blob.${environment().suffixes.storage}/'
  queue: 'https://${dataAccountName}.queue.${environment().suffixes.storage}/'
  table: 'https://${dataAccountName}.table.${environment().suffixes.storage}/'
}

// The host keeps locks and keys in blobs, which takes an owner, and what it diagnoses in a table.
var hostRoles = [
  'Storage Blob Data Owner'
  'Storage Queue Data Contributor'
  'Storage Table Data Contributor'
]
var dataRoles = [
  'Storage Blob Data Contributor'
  'Storage Queue Data Contributor'
  'Storage Table Data Contributor'
]
var dataGrants = map(dataRoles, role => {
  account: dataAccountName
  role: role
})
// With one account the two lists overlap, and a role can be given only once. On existing data, which may be in
// another resource group, roles are given by a module of their own.
var appGrants = union(
  map(hostRoles, role => {
    account: hostAccountName
    role: role
  }),
  makesData ? dataGrants : []
)

var appName = '${abbreviations.webSitesFunctions}${token}'
var workspaceName = '${abbreviations.operationalInsightsWorkspaces}${token}'
var workspaceId = resourceId(
  subscription().subscriptionId,
  groupName,
  'Microsoft.OperationalInsights/workspaces',
  workspaceName
)
var networkName = '${abbreviations.networkVirtualNetworks}${token}'
var keyVaultName = '${abbreviations.keyVaultVaults}${token}'
var storageServices = [
  'blob'
  'queue'
  'table'
]
var storageLinks = flatten(map(
  usedAccounts,
  account =>
    map(storageServices, service => {
      id: account.id
      name: account.name
      groupId: service
      zone: 'privatelink.${service}.${environment().suffixes.storage}'
    })
))
var keyVaultZone = 'privatelink${replace(environment().suffixes.keyvaultDns, '.vault.', '.vaultcore.')}'
var keyVaultLink = {
  id: resourceId(subscription().subscriptionId, groupName, 'Microsoft.KeyVault/vaults', keyVaultName)
  name: keyVaultName
  groupId: 'vault'
  zone: keyVaultZone
}
var storageZones = map(storageServices, service => 'privatelink.${service}.${environment().suffixes.storage}')
var appLink = {
  id: resourceId(subscription().subscriptionId, groupName, 'Microsoft.Web/sites', appName)
  name: appName
  groupId: 'sites'
  zone: 'privatelink.azurewebsites.net'
}

// From outside there is nothing to test where nobody comes in.
var testsAvailability = availabilityTest && appPublicAccess
var needsNetwork = !empty(storageAllowedAddresses) || appPrivateEndpoint
var needsIsolation = 'storageAllowedAddresses and appPrivateEndpoint (AGENT_STORAGE_APP_PRIVATE_ENDPOINT) need networkIsolation (AGENT_STORAGE_NETWORK_ISOLATION=true): without it there is no network for an endpoint, and accounts are open to everybody with a role.'
var isolated = needsNetwork && !networkIsolation ? fail(needsIsolation) : networkIsolation

// The service would say no more than that the request is invalid, after all else has been deployed.
var beginsMonth = skip(budgetStartDate, 7) == '-01'
var needsBudgetStart = 'A budget (budgetAmount, AGENT_STORAGE_BUDGET) needs budgetStartDate (AGENT_STORAGE_BUDGET_START), the first day of a month as 2026-12-01.'
var budgetStart = budgetAmount == 0 || beginsMonth ? budgetStartDate : fail(needsBudgetStart)

resource group 'Microsoft.Resources/resourceGroups@2025-04-01' = if (createResourceGroup) {
  name: groupName
  location: location
  tags: tags
}

module identity 'modules/identity.bicep' = {
  name: 'identity'
  scope: group
  params: {
    name: '${abbreviations.managedIdentityUserAssignedIdentities}${token}'
    location: location
    tags: tags
  }
}

module monitoring 'modules/monitoring.bicep' = {
  name: 'monitoring'
  scope: group
  params: {
    workspaceName: workspaceName
    applicationInsightsName: '${abbreviations.insightsComponents}${token}'
    location: location
    tags: tags
    retentionDays: logRetentionDays
    dailyQuotaGb: logDailyQuotaGb
  }
}

module storage 'modules/storage.bicep' = [
  for account in storageAccounts: {
    name: 'storage-${account.name}'
    scope: group
    params: {
      name: account.name
      location: location
      tags: tags
      skuName: account.skuName
      containers: account.containers
      queues: account.queues
      tables: account.tables
      privateOnly: isolated
      allowedAddresses: storageAllowedAddresses
      logsWorkspaceId: account.logged ? workspaceId : ''
      retentionDays: retentionDays
      coolAfterDays: account.coolAfterDays
      locked: account.locked
    }
    dependsOn: [
      monitoring
    ]
  }
]

module keyVault 'modules/key-vault.bicep' = if (keyVaultEnabled) {
  name: 'key-vault'
  scope: group
  params: {
    name: keyVaultName
    location: location
    tags: tags
    publicNetworkAccess: isolated ? 'Disabled' : 'Enabled'
  }
}

module network 'modules/network.bicep' = if (isolated) {
  name: 'network'
  scope: group
  params: {
    name: networkName
    securityGroupPrefix: '${abbreviations.networkNetworkSecurityGroups}${token}-'
    location: location
    tags: tags
    addressPrefix: networkAddressPrefix
  }
}

module privateLinks 'modules/private-links.bicep' = if (isolated) {
  name: 'private-links'
  scope: group
  params: {
    networkName: networkName
    endpointPrefix: abbreviations.networkPrivateEndpoints
    location: location
    tags: tags
    links: concat(storageLinks, keyVaultEnabled ? [keyVaultLink] : [])
    zoneNames: concat(storageZones, keyVaultEnabled ? [keyVaultZone] : [])
  }
  dependsOn: [
    network
    storage
    keyVault
  ]
}

module appPrivateLink 'modules/private-links.bicep' = if (appPrivateEndpoint) {
  name: 'private-link-app'
  scope: group
  params: {
    networkName: networkName
    endpointPrefix: abbreviations.networkPrivateEndpoints
    location: location
    tags: tags
    links: [
      appLink
    ]
    zoneNames: [
      appLink.zone
    ]
  }
  // The site takes one change at a time.
  dependsOn: [
    functionApp
    authentication
  ]
}

module appAccess 'modules/rbac.bicep' = {
  name: 'access-app'
  scope: group
  params: {
    #disable-next-line what-if-short-circuiting // a role of an identity of before cannot be given to a new one
    principalId: identity.outputs.principalId
    storageGrants: appGrants
    applicationInsightsName: '${abbreviations.insightsComponents}${token}'
    keyVaultName: keyVaultEnabled ? keyVaultName : ''
  }
  dependsOn: [
    storage
    keyVault
  ]
}

module existingDataAccess 'modules/rbac.bicep' = if (!makesData) {
  name: 'access-existing-data'
  scope: resourceGroup(dataGroupName)
  params: {
    #disable-next-line what-if-short-circuiting // a role of an identity of before cannot be given to a new one
    principalId: identity.outputs.principalId
    storageGrants: dataGrants
  }
}

module operatorAccess 'modules/rbac.bicep' = if (!empty(principalId)) {
  name: 'access-operator'
  scope: resourceGroup(dataGroupName)
  params: {
    principalId: principalId
    principalType: principalType
    storageGrants: dataGrants
  }
  dependsOn: [
    storage
  ]
}

module functionApp 'modules/function-app.bicep' = {
  name: 'function-app'
  scope: group
  params: {
    name: appName
    planName: '${abbreviations.webServerFarms}${token}'
    location: location
    tags: tags
    serviceName: 'api'
    identityId: identity.outputs.id
    identityClientId: identity.outputs.clientId
    hostEndpoints: storage[length(storageAccounts) - 1].outputs.endpoints
    dataEndpoints: makesData ? storage[0].outputs.endpoints : existingDataEndpoints
    deploymentContainer: deploymentContainer
    objectContainer: objectContainer
    applicationInsightsConnectionString: monitoring.outputs.connectionString
    instanceMemoryMB: instanceMemoryMB
    maximumInstanceCount: maximumInstanceCount
    alwaysReady: alwaysReady
    httpConcurrency: httpConcurrency
    queueBatchSize: queueBatchSize
    queueNewBatchThreshold: queueNewBatchThreshold
    zoneRedundant: zoneRedundant
    subnetId: isolated ? network!.outputs.appSubnetId : ''
    publicAccess: appPublicAccess
    allowedAddresses: appAllowedAddresses
    testedFromOutside: testsAvailability
    corsOrigins: corsOrigins
    keyUris: keyVaultEnabled ? [keyVault!.outputs.keyUri] : []
    openTelemetry: openTelemetry
    appSettings: union(
      { AGENT_TASK_QUEUES: string(taskQueues) },
      empty(storageNamespace) ? {} : { AGENT_STORAGE_NAMESPACE: storageNamespace },
      appSettings
    )
  }
  // Before its first start the app has to be allowed what it does then, and to reach its storage.
  dependsOn: [
    appAccess
    existingDataAccess
    privateLinks
  ]
}

module authentication 'modules/authentication.bicep' = if (!empty(authClientId)) {
  name: 'authentication'
  scope: group
  params: {
    // Not the output of the app, which what-if does not know, so that it would be silent about all of this.
    appName: appName
    clientId: authClientId
    allowedApplications: authAllowedApplications
  }
  dependsOn: [
    functionApp
  ]
}

module alerts 'modules/alerts.bicep' = {
  name: 'alerts'
  scope: group
  params: {
    prefixes: abbreviations
    token: token
    environmentName: environmentName
    location: location
    tags: tags
    applicationInsightsId: monitoring.outputs.applicationInsightsId
    storageAccounts: usedAccounts
    appUri: functionApp.outputs.uri
    email: alertEmail
    availabilityTest: testsAvailability
    latencyThresholdMs: latencyThresholdMs
    backlogThreshold: backlogThreshold / taskQueues
    budgetAmount: budgetAmount
    budgetStartDate: budgetStart
  }
}

@description('Region of everything.')
output AZURE_LOCATION string = location

@description('Tenant whose identities are trusted.')
output AZURE_TENANT_ID string = tenant().tenantId

@description('Name of the resource group.')
output AZURE_RESOURCE_GROUP string = groupName

@description('Name of the function app.')
output AZURE_FUNCTION_NAME string = functionApp.outputs.name

@description('Address of the function app.')
output AZURE_FUNCTION_URI string = functionApp.outputs.uri

@description('Name of the storage account with the data.')
output AGENT_STORAGE_ACCOUNT string = dataAccountName

@description('Identifier of the key for the code of actions; empty without a vault.')
output AGENT_STORAGE_KEY_URI string = keyVaultEnabled ? keyVault!.outputs.keyUri : ''
