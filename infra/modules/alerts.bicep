// Who is told when: alerts on logs and metrics, an availability test, a workbook to look at, and a budget.

@description('Required. Prefixes of names by kind of resource, as in abbreviations.json.')
param prefixes object

@description('Required. What makes the names of one environment its own.')
param token string

@description('Required. Region of what has one.')
param location string

@description('Required. Tags of everything here.')
param tags object

@description('Required. Resource id of Application Insights.')
param applicationInsightsId string

@description('Required. Names of the storage accounts.')
param storageAccountNames array

@description('Required. Name of the storage account with the queues.')
param dataAccountName string

@description('Required. Address of the app.')
param appUri string

@description('Required. Who gets alerts by mail; empty shows them in the portal only.')
param email string

@description('Required. Tests from outside, every quarter of an hour, that the app answers. Each run wakes it.')
param availabilityTest bool

@description('Required. 95th percentile of the duration of HTTP requests, in milliseconds, above which an alert is raised.')
param latencyThresholdMs int

@description('Required. Messages waiting in the queues above which an alert is raised.')
param backlogThreshold int

@description('Required. Budget of the resource group for a month, in the currency of the bill; 0 for none.')
param budgetAmount int

@description('Conditional. First day of the month in which the budget begins, as 2026-12-01. Required with a budget; it can not be changed afterwards.')
param budgetStartDate string

var actionGroupIds = empty(email) ? [] : [
  actionGroup.id
]
// The names of functions on poison queues all have the word in them.
var queryAlerts = [
  {
    name: 'poison-tasks'
    description: 'A task could not be processed and went through a poison queue. GET /api/tasks?status=dead tells which and why.'
    severity: 1
    window: 'PT5M'
    query: 'requests | where name contains "poison"'
  }
  {
    name: 'failures'
    description: 'More than 5 % of at least 20 requests failed, by an answer of 5xx or an error of a function.'
    severity: 1
    window: 'PT15M'
    query: 'requests | summarize total = count(), failed = countif(toint(resultCode) >= 500 or (success == false and toint(resultCode) == 0)) | where total >= 20 and failed * 20 > total'
  }
  {
    name: 'latency'
    description: 'The slowest 5 % of at least 20 HTTP requests took longer than ${latencyThresholdMs} ms.'
    severity: 2
    window: 'PT15M'
    query: 'requests | where isnotempty(url) | summarize total = count(), p95 = percentile(duration, 95) | where total >= 20 and p95 > ${latencyThresholdMs}'
  }
]
var availabilityAlerts = map(storageAccountNames, account => {
  name: 'availability-${account}'
  description: 'Storage answered less than 99.9 % of valid requests.'
  severity: 1
  scope: resourceId('Microsoft.Storage/storageAccounts', account)
  namespace: 'Microsoft.Storage/storageAccounts'
  metric: 'Availability'
  operator: 'LessThan'
  // Bicep has no other way to write a number with a fraction.
  threshold: json('99.9')
  frequency: 'PT5M'
  window: 'PT15M'
})
var backlogAlert = {
  name: 'backlog'
  description: 'More than ${backlogThreshold} messages are waiting: tasks come in faster than they are done, or nothing takes them.'
  severity: 2
  scope: '${resourceId('Microsoft.Storage/storageAccounts', dataAccountName)}/queueServices/default'
  namespace: 'Microsoft.Storage/storageAccounts/queueServices'
  metric: 'QueueMessageCount'
  operator: 'GreaterThan'
  threshold: backlogThreshold
  // Storage counts the messages of all queues together, once an hour.
  frequency: 'PT1H'
  window: 'PT1H'
}
var metricAlerts = concat(availabilityAlerts, [
  backlogAlert
])
var testLocations = [
  'emea-nl-ams-azr'
  'us-va-ash-azr'
  'apac-sg-sin-azr'
]
var budgetNotifications = [
  {
    name: 'actual80'
    threshold: 80
    type: 'Actual'
  }
  {
    name: 'forecast100'
    threshold: 100
    type: 'Forecasted'
  }
]

resource actionGroup 'Microsoft.Insights/actionGroups@2023-01-01' = if (!empty(email)) {
  name: '${prefixes.insightsActionGroups}${token}'
  location: 'global'
  tags: tags
  properties: {
    groupShortName: 'agentstorage'
    enabled: true
    emailReceivers: [
      {
        name: 'operators'
        emailAddress: email
        useCommonAlertSchema: true
      }
    ]
  }
}

resource queryRules 'Microsoft.Insights/scheduledQueryRules@2023-12-01' = [for alert in queryAlerts: {
  name: '${prefixes.insightsScheduledQueryRules}${alert.name}-${token}'
  location: location
  tags: tags
  kind: 'LogAlert'
  properties: {
    displayName: 'Agent storage: ${alert.name}'
    description: alert.description
    enabled: true
    severity: alert.severity
    scopes: [
      applicationInsightsId
    ]
    evaluationFrequency: alert.window
    windowSize: alert.window
    autoMitigate: true
    // Before the first request there is no data that a query could be checked against.
    skipQueryValidation: true
    criteria: {
      allOf: [
        {
          query: alert.query
          timeAggregation: 'Count'
          operator: 'GreaterThan'
          threshold: 0
          failingPeriods: {
            numberOfEvaluationPeriods: 1
            minFailingPeriodsToAlert: 1
          }
        }
      ]
    }
    actions: {
      actionGroups: actionGroupIds
    }
  }
}]

resource metricRules 'Microsoft.Insights/metricAlerts@2018-03-01' = [for alert in metricAlerts: {
  name: '${prefixes.insightsMetricAlerts}${alert.name}-${token}'
  location: 'global'
  tags: tags
  properties: {
    description: alert.description
    enabled: true
    severity: alert.severity
    scopes: [
      alert.scope
    ]
    evaluationFrequency: alert.frequency
    windowSize: alert.window
    autoMitigate: true
    criteria: {
      'odata.type': 'Microsoft.Azure.Monitor.SingleResourceMultipleMetricCriteria'
      allOf: [
        {
          criterionType: 'StaticThresholdCriterion'
          name: alert.name
          metricNamespace: alert.namespace
          metricName: alert.metric
          operator: alert.operator
          threshold: alert.threshold
          timeAggregation: 'Average'
        }
      ]
    }
    actions: map(actionGroupIds, id => {
      actionGroupId: id
    })
  }
}]

resource webTest 'Microsoft.Insights/webtests@2022-06-15' = if (availabilityTest) {
  name: '${prefixes.insightsWebTests}${token}'
  location: location
  // Application Insights finds its tests by this tag.
  tags: union(tags, {
    'hidden-link:${applicationInsightsId}': 'Resource'
  })
  kind: 'standard'
  properties: {
    SyntheticMonitorId: '${prefixes.insightsWebTests}${token}'
    Name: 'Agent storage answers'
    Enabled: true
    Frequency: 900
    Timeout: 60
    Kind: 'standard'
    RetryEnabled: true
    Locations: map(testLocations, id => {
      Id: id
    })
    Request: {
      RequestUrl: '${appUri}/api/health/live'
      HttpVerb: 'GET'
      ParseDependentRequests: false
    }
    ValidationRules: {
      ExpectedHttpStatusCode: 200
      SSLCheck: true
      SSLCertRemainingLifetimeCheck: 7
    }
  }
}

resource webTestRule 'Microsoft.Insights/metricAlerts@2018-03-01' = if (availabilityTest) {
  name: '${prefixes.insightsMetricAlerts}unreachable-${token}'
  location: 'global'
  tags: tags
  properties: {
    description: 'The app does not answer in two or more of ${length(testLocations)} places.'
    enabled: true
    severity: 0
    scopes: [
      webTest.id
      applicationInsightsId
    ]
    evaluationFrequency: 'PT5M'
    windowSize: 'PT30M'
    autoMitigate: true
    criteria: {
      'odata.type': 'Microsoft.Azure.Monitor.WebtestLocationAvailabilityCriteria'
      webTestId: webTest.id
      componentId: applicationInsightsId
      failedLocationCount: 2
    }
    actions: map(actionGroupIds, id => {
      actionGroupId: id
    })
  }
}

resource workbook 'Microsoft.Insights/workbooks@2023-06-01' = {
  name: guid(resourceGroup().id, 'agent-storage-workbook')
  location: location
  tags: tags
  kind: 'shared'
  properties: {
    displayName: 'Agent storage'
    category: 'workbook'
    sourceId: applicationInsightsId
    version: 'Notebook/1.0'
    serializedData: string(loadJsonContent('workbook.json'))
  }
}

resource budget 'Microsoft.Consumption/budgets@2023-11-01' = if (budgetAmount > 0) {
  name: '${prefixes.consumptionBudgets}${token}'
  properties: {
    amount: budgetAmount
    category: 'Cost'
    timeGrain: 'Monthly'
    timePeriod: {
      startDate: budgetStartDate
    }
    notifications: toObject(budgetNotifications, notification => notification.name, notification => {
      enabled: true
      operator: 'GreaterThanOrEqualTo'
      threshold: notification.threshold
      thresholdType: notification.type
      contactEmails: empty(email) ? [] : [
        email
      ]
      contactRoles: [
        'Owner'
      ]
    })
  }
}
