// Who is told when: alerts on logs and metrics, an availability test, a workbook to look at, and a budget.

import { prefixesType, storageAccountsType, tagsType } from '../types.bicep'

@description('Required. Prefixes of names by kind of resource, as in abbreviations.json.')
param prefixes prefixesType

@description('Required. What makes the names of one environment its own.')
param token string

@description('Required. Name of the environment, by which people know its workbook.')
param environmentName string

@description('Required. Region of what has one.')
param location string

@description('Required. Tags of everything here.')
param tags tagsType

@description('Required. Resource id of Application Insights.')
param applicationInsightsId string

@description('Required. The storage accounts: objects with `name` and `id`.')
param storageAccounts storageAccountsType

@description('Required. Address of the app.')
param appUri string

@description('Required. Who gets alerts by mail; empty shows them in the portal only.')
param email string

@description('Required. Tests from outside, every quarter of an hour, that the app answers. Each run wakes it.')
param availabilityTest bool

@description('Required. 95th percentile of the duration of HTTP requests, in milliseconds, above which an alert is raised.')
param latencyThresholdMs int

@description('Required. Messages in one queue of tasks, those in work included, above which an alert is raised.')
param backlogThreshold int

@description('Required. Budget of the resource group for a month, in the currency of the bill; 0 for none.')
param budgetAmount int

@description('Conditional. First day of the month in which the budget begins, as 2026-12-01. Required with a budget; it cannot be changed afterwards.')
param budgetStartDate string

var actionGroupIds = empty(email) ? [] : [actionGroup.id]
// A row for each queue of tasks, out of the line that the timer watch_queues logs every five minutes. What storage
// counts itself is of no use: all queues together, and nobody has to take what is in agent-events.
var queueLengths = 'traces | where message startswith "queue lengths: " | extend lengths = parse_json(extract("^queue lengths: ([{].*[}])$", 1, message)) | mv-expand queue = bag_keys(lengths) to typeof(string) | extend messages = tolong(lengths[queue])'
// Once may be chance: within a quarter of an hour there are three lines.
var seenTwice = 'summarize seen = count() by queue | where seen >= 2'
// With OpenTelemetry the host makes no request of what it takes from a queue, but logs it all the same.
var executing = 'Executing \'Functions.'
var queryAlerts = [
  {
    // The names of functions on poison queues all have the word in them. The app takes what is in these queues
    // and records it as dead, so that each run is a message that was given up.
    name: 'given-up'
    description: 'A task could not be processed and was given up, after a poison queue. GET /api/tasks?status=dead tells which and why; put that right, then POST /api/tasks/ID/requeue.'
    severity: 1
    // Soon, and far enough back for what is logged late.
    every: 'PT5M'
    window: 'PT15M'
    query: 'union (requests | where name contains "poison"), (traces | where message startswith "${executing}" and message contains "poison")'
    dimensions: []
  }
  {
    name: 'poison-length'
    description: 'Messages stay in a poison queue: nothing takes them, or recording them as dead fails. Look at the latest exceptions in the workbook, and ask GET /api/health/ready.'
    severity: 1
    every: 'PT15M'
    window: 'PT15M'
    query: '${queueLengths} | where queue endswith "-poison" and messages > 0 | ${seenTwice}'
    dimensions: [
      'queue'
    ]
  }
  {
    name: 'backlog'
    description: 'More than ${backlogThreshold} messages stay in a queue of tasks: they come in faster than they are done, or nothing takes them. Raise maximumInstanceCount, or look at the deliveries of tasks in the workbook.'
    severity: 2
    every: 'PT15M'
    window: 'PT15M'
    query: '${queueLengths} | where queue !endswith "-poison" and messages > ${backlogThreshold} | ${seenTwice}'
    dimensions: [
      'queue'
    ]
  }
  {
    name: 'failures'
    description: 'More than 5 % of at least 20 requests failed, by an answer of 5xx or an error of a function. Look at the latest exceptions in the workbook, and ask GET /api/health/ready.'
    severity: 1
    every: 'PT15M'
    window: 'PT15M'
    query: 'requests | where name !startswith "process agent-" | summarize total = count(), failed = countif(toint(resultCode) >= 500 or (success == false and toint(resultCode) == 0)) | where total >= 20 and failed * 20 > total'
    dimensions: []
  }
  {
    name: 'latency'
    description: 'The slowest 5 % of at least 20 HTTP requests took longer than ${latencyThresholdMs} ms, waiting for tasks not counted. Look at the slow calls in the workbook; lower httpConcurrency or raise instanceMemoryMB.'
    severity: 2
    every: 'PT15M'
    window: 'PT15M'
    // get_task waits as long as it is asked to. With OpenTelemetry requests are named by their routes.
    query: 'requests | where isnotempty(url) and name != "get_task" and name !endswith "/tasks/{task_id}" | summarize total = count(), p95 = percentile(duration, 95) | where total >= 20 and p95 > ${latencyThresholdMs}'
    dimensions: []
  }
  {
    name: 'timers'
    description: 'The timer watch_queues has not run for half an hour, though it should every five minutes: expired objects stay, and lost tasks are not sent again. Restart the app: az functionapp restart.'
    severity: 1
    every: 'PT15M'
    window: 'PT30M'
    // One row where there is none to count.
    query: 'union (requests | where name == "watch_queues"), (traces | where message startswith "${executing}watch_queues") | summarize runs = count() | where runs == 0'
    dimensions: []
  }
]
var testLocations = [
  'emea-nl-ams-azr'
  'us-va-ash-azr'
  'apac-sg-sin-azr'
]
var budgetEmails = empty(email) ? [] : [email]

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

resource queryRules 'Microsoft.Insights/scheduledQueryRules@2026-03-01' = [
  for alert in queryAlerts: {
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
      evaluationFrequency: alert.every
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
            dimensions: map(alert.dimensions, column => {
              name: column
              operator: 'Include'
              values: [
                '*'
              ]
            })
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
  }
]

resource storageRules 'Microsoft.Insights/metricAlerts@2026-01-01' = [
  for account in storageAccounts: {
    name: '${prefixes.insightsMetricAlerts}availability-${account.name}-${token}'
    location: 'global'
    tags: tags
    properties: {
      description: 'Storage answered less than 99.9 % of valid requests. Look at the service health of the region; if it is lost, fail the account over.'
      enabled: true
      severity: 1
      scopes: [
        account.id
      ]
      evaluationFrequency: 'PT5M'
      windowSize: 'PT15M'
      autoMitigate: true
      criteria: {
        'odata.type': 'Microsoft.Azure.Monitor.SingleResourceMultipleMetricCriteria'
        allOf: [
          {
            criterionType: 'StaticThresholdCriterion'
            name: 'availability'
            metricNamespace: 'Microsoft.Storage/storageAccounts'
            metricName: 'Availability'
            operator: 'LessThan'
            // Bicep has no other way to write a number with a fraction.
            threshold: json('99.9')
            timeAggregation: 'Average'
          }
        ]
      }
      actions: map(actionGroupIds, id => {
        actionGroupId: id
      })
    }
  }
]

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

resource webTestRule 'Microsoft.Insights/metricAlerts@2026-01-01' = if (availabilityTest) {
  name: '${prefixes.insightsMetricAlerts}unreachable-${token}'
  location: 'global'
  tags: tags
  properties: {
    description: 'The app does not answer in two or more of ${length(testLocations)} places. Look at its log stream and the service health of the region, and restart it: az functionapp restart.'
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
  name: guid(resourceGroup().id, token, 'agent-storage-workbook')
  location: location
  tags: tags
  kind: 'shared'
  properties: {
    // Of two workbooks with one name, in a group and of a source, the second is refused, whatever their ids are.
    displayName: 'Agent storage ${environmentName}'
    category: 'workbook'
    sourceId: applicationInsightsId
    version: 'Notebook/1.0'
    serializedData: string(loadJsonContent('workbook.json'))
  }
}

resource budget 'Microsoft.Consumption/budgets@2026-06-01' = if (budgetAmount > 0) {
  name: '${prefixes.consumptionBudgets}${token}'
  properties: {
    amount: budgetAmount
    category: 'Cost'
    timeGrain: 'Monthly'
    timePeriod: {
      startDate: budgetStartDate
    }
    notifications: {
      actual80: {
        enabled: true
        operator: 'GreaterThanOrEqualTo'
        threshold: 80
        thresholdType: 'Actual'
        contactEmails: budgetEmails
        contactRoles: [
          'Owner'
        ]
      }
      forecast100: {
        enabled: true
        operator: 'GreaterThanOrEqualTo'
        threshold: 100
        thresholdType: 'Forecasted'
        contactEmails: budgetEmails
        contactRoles: [
          'Owner'
        ]
      }
    }
  }
}
