// Where logs and telemetry go. Neither takes anything that is not signed by an identity.

import { tagsType } from '../types.bicep'

@description('Required. Name of the Log Analytics workspace.')
param workspaceName string

@description('Required. Name of Application Insights.')
param applicationInsightsName string

@description('Required. Region of both.')
param location string

@description('Required. Tags of both.')
param tags tagsType

@description('Required. Days that logs are kept.')
@minValue(30)
@maxValue(730)
param retentionDays int

@description('Required. Gigabytes a day after which logs are no longer taken until the next day; -1 for no cap.')
param dailyQuotaGb int

resource workspace 'Microsoft.OperationalInsights/workspaces@2026-03-01' = {
  name: workspaceName
  location: location
  tags: tags
  properties: {
    sku: {
      name: 'PerGB2018'
    }
    retentionInDays: retentionDays
    workspaceCapping: {
      dailyQuotaGb: dailyQuotaGb
    }
    features: {
      disableLocalAuth: true
      enableLogAccessUsingOnlyResourcePermissions: true
    }
  }
}

resource applicationInsights 'Microsoft.Insights/components@2020-02-02' = {
  name: applicationInsightsName
  location: location
  tags: tags
  kind: 'web'
  properties: {
    Application_Type: 'web'
    WorkspaceResourceId: workspace.id
    IngestionMode: 'LogAnalytics'
    DisableLocalAuth: true
    DisableIpMasking: false
  }
}

@description('Resource id of Application Insights.')
output applicationInsightsId string = applicationInsights.id

@description('Where telemetry goes. It names a resource and opens nothing: local authentication is off.')
output connectionString string = applicationInsights.properties.ConnectionString
