"""Who is told when: alerts, the workbook and the budget."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from tests.bicep import Deployment, Resource
from tests.infra_model import (
    ACCOUNT,
    BUDGET,
    COMPONENT,
    METRIC_RULE,
    QUERY_RULE,
    SITE,
    App,
    Scenario,
    at,
    one,
    used_accounts,
)

NO_WAIT = 'name != "get_task" and name !endswith "/tasks/{task_id}"'
"""Of requests, those that do not wait for a task to end, for as long as they are asked to."""

# What these mean for the line that the app logs is evaluated by test_infra_queues.py.
QUEUE_LENGTHS = (
    'traces | where message startswith "queue lengths: "'
    ' | extend lengths = parse_json(extract("^queue lengths: ([{].*[}])$", 1, message))'
    " | mv-expand queue = bag_keys(lengths) to typeof(string)"
    " | extend messages = tolong(lengths[queue])"
)
ALERTS = {
    "given-up": (1, "given up, after a poison queue", "POST /api/tasks/ID/requeue."),
    "poison-length": (1, "stay in a poison queue", "ask GET /api/health/ready."),
    "backlog": (2, "stay in a queue of tasks", "Raise maximumInstanceCount, or look at"),
    "failures": (1, "More than 5 % of at least 20 requests failed", "ask GET /api/health/ready."),
    "latency": (2, "The slowest 5 % of at least 20 HTTP requests", "lower httpConcurrency or raise"),
    "timers": (1, "watch_queues has not run for half an hour", "Restart the app: az functionapp restart."),
    "storage": (1, "less than 99.9 % of valid requests", "if it is lost, fail the account over."),
    "webtest": (0, "does not answer in two or more of 3 places", "restart it: az functionapp restart."),
}
"""Of each alert its severity, and what its mail says: the cause, and what to do."""

BY_QUEUE = {"name": "queue", "operator": "Include", "values": ["*"]}


def told(rule: Resource, kind: str) -> Iterator[str]:
    """Who gets an alert by mail knows how urgent it is, what happened and what to do."""
    severity, cause, remedy = ALERTS.get(kind, (None, "", ""))
    text = str(at(rule, "properties.description"))
    if at(rule, "properties.severity") != severity:
        yield f"{rule.name} is of severity {at(rule, 'properties.severity')}, not {severity}"
    if not cause or cause not in text or remedy not in text:
        yield f"{rule.name} does not say what happened and what to do: {text}"


def alerts(deployment: Deployment, scenario: Scenario, app: App) -> Iterator[str]:
    """What must be noticed has an alert that looks at the right resource and reaches somebody."""
    component = one(deployment, COMPONENT)
    groups = deployment.of("Microsoft.Insights/actionGroups")
    mails = [at(group, "properties.emailReceivers.0.emailAddress") for group in groups]
    if mails != ([scenario["alertEmail"]] if scenario["alertEmail"] else []):
        yield f"alerts are mailed to {mails}"
    actions = [group.id for group in groups]

    queries: dict[str, str] = {}
    of_queues: list[str] = []
    for rule in deployment.of(QUERY_RULE):
        query = str(at(rule, "properties.criteria.allOf.0.query"))
        queries[rule.name] = query
        if QUEUE_LENGTHS in query:
            of_queues.append(query)
        split = at(rule, "properties.criteria.allOf.0.dimensions")
        if split != ([BY_QUEUE] if QUEUE_LENGTHS in query else []):
            yield f"{rule.name} is split by {split}"
        if at(rule, "properties.scopes") != [component.id]:
            yield f"{rule.name} looks at {at(rule, 'properties.scopes')}"
        if at(rule, "properties.actions.actionGroups") != actions:
            yield f"{rule.name} tells nobody"
        kind = str(at(rule, "properties.displayName")).removeprefix("Agent storage: ")
        yield from told(rule, kind)
        # A row may be logged minutes late: what looks often looks further back than to its last look. Of a
        # timer that runs every five minutes one run may be late, not six.
        wanted_windows = {"given-up": ("PT5M", "PT15M"), "timers": ("PT15M", "PT30M")}
        windows = at(rule, "properties.evaluationFrequency"), at(rule, "properties.windowSize")
        if windows != wanted_windows.get(kind, ("PT15M", "PT15M")):
            yield f"{rule.name} looks at {windows}"
    limit = scenario["latencyThresholdMs"]
    wanted_of_requests = [
        'union (requests | where name contains "poison"), (traces | where message startswith '
        """"Executing 'Functions." and message contains "poison")""",
        'requests | where name !startswith "process agent-"'
        " | summarize total = count(), failed = countif(toint(resultCode) >= 500"
        " or (success == false and toint(resultCode) == 0))"
        " | where total >= 20 and failed * 20 > total",
        f"requests | where isnotempty(url) and {NO_WAIT}"
        " | summarize total = count(), p95 = percentile(duration, 95)"
        f" | where total >= 20 and p95 > {limit}",
        'union (requests | where name == "watch_queues"), (traces | where message startswith '
        """"Executing 'Functions.watch_queues") | summarize runs = count() | where runs == 0""",
    ]
    for name in ("get_task", "watch_queues"):
        if name not in app.bindings:
            yield f"there is no function {name}, which the alerts name"
    of_requests = [query for query in queries.values() if query not in of_queues]
    if of_requests != wanted_of_requests:
        yield f"requests are watched by {of_requests}"
    for name, function in app.bindings.items():
        queues = [str(b.get("queueName")) for b in function if b["type"] == "queueTrigger"]
        if any(queue.endswith("-poison") for queue in queues) and "poison" not in name:
            yield f"the alert on poison queues does not see the function {name}"

    twice = " | summarize seen = count() by queue | where seen >= 2"
    backlog = scenario["backlogThreshold"] // scenario["taskQueues"]
    wanted_of_queues = [
        f'{QUEUE_LENGTHS} | where queue endswith "-poison" and messages > 0{twice}',
        f'{QUEUE_LENGTHS} | where queue !endswith "-poison" and messages > {backlog}{twice}',
    ]
    if of_queues != wanted_of_queues:
        yield f"lengths of queues are watched by {of_queues}"

    expected: Counter[Any] = Counter()
    for each in used_accounts(deployment):
        expected[each.id, ACCOUNT, "Availability", "LessThan", 99.9, "Average"] += 1
    tests = deployment.of("Microsoft.Insights/webtests")
    if len(tests) != int(scenario["availabilityTest"] and scenario["appPublicAccess"]):
        yield "the availability test is not there or not asked for"
    found: Counter[Any] = Counter()
    for rule in deployment.of(METRIC_RULE):
        # Two runs of the test from each place; three looks at storage.
        window = "PT30M" if "webTestId" in (at(rule, "properties.criteria") or {}) else "PT15M"
        if at(rule, "properties.windowSize") != window:
            yield f"{rule.name} looks at {at(rule, 'properties.windowSize')}"
        scopes, criteria = at(rule, "properties.scopes") or [""], at(rule, "properties.criteria") or {}
        if [a.get("actionGroupId") for a in at(rule, "properties.actions") or []] != actions:
            yield f"{rule.name} tells nobody"
        yield from told(rule, "webtest" if "webTestId" in criteria else "storage")
        match str(criteria.get("odata.type")).removeprefix("Microsoft.Azure.Monitor."):
            case "SingleResourceMultipleMetricCriteria":
                (one_of,) = criteria.get("allOf") or [{}]
                if one_of.get("criterionType") != "StaticThresholdCriterion" or not one_of.get("name"):
                    yield f"{rule.name} has the criterion {one_of}"
                keys = ("metricNamespace", "metricName", "operator", "threshold", "timeAggregation")
                found[(scopes[0], *(one_of.get(key) for key in keys))] += 1
            case "WebtestLocationAvailabilityCriteria":
                wanted = [tests[0].id, component.id, 2] if tests else []
                seen = [criteria.get(k) for k in ("webTestId", "componentId", "failedLocationCount")]
                if seen != wanted or scopes != wanted[:2]:
                    yield f"{rule.name} looks at {seen}"
                found["webtest"] += 1
            case other:
                yield f"{rule.name} has criteria of type {other}"
    expected["webtest"] = len(tests)
    if +found != +expected:
        yield f"metric alerts are {sorted(map(str, found))}, not {sorted(map(str, expected))}"
    site = one(deployment, SITE)
    for test in tests:
        url = f"https://{{{SITE}/{site.name}}}.properties.defaultHostName/api/health/live"
        if at(test, "properties.Request.RequestUrl") != url:
            yield f"the availability test asks {at(test, 'properties.Request.RequestUrl')}"
        if at(test, "properties.SyntheticMonitorId") != test.name:
            yield f"the availability test has the id {at(test, 'properties.SyntheticMonitorId')}"
        if (test.body.get("tags") or {}).get(f"hidden-link:{component.id}") != "Resource":
            yield "Application Insights does not find its availability test"


def workbook(deployment: Deployment, scenario: Scenario, app: App) -> Iterator[str]:
    found = one(deployment, "Microsoft.Insights/workbooks")
    if at(found, "properties.sourceId") != one(deployment, COMPONENT).id:
        yield "the workbook is not of Application Insights"
    content = json.loads(at(found, "properties.serializedData") or "{}")
    items = content.get("items", [])
    if content.get("version") != "Notebook/1.0" or not items:
        yield "the workbook is empty"
    for item in items:
        query = str(item.get("content", {}).get("query", ""))
        if "percentile(duration, 95), p99" in query and NO_WAIT not in query:
            yield f"in {item.get('name')} of the workbook waiting counts as slowness"
    names = [item.get("name") for item in items]
    if len(set(names)) != len(names):
        yield "two parts of the workbook have one name"


def budget(deployment: Deployment, scenario: Scenario, app: App) -> Iterator[str]:
    found, amount = deployment.of(BUDGET), scenario["budgetAmount"]
    if len(found) != (1 if amount else 0):
        yield f"there are {len(found)} budgets for an amount of {amount}"
    for each in found:
        if at(each, "properties.amount") != amount:
            yield "the budget has another amount"
        if at(each, "properties.timePeriod.startDate") != scenario["budgetStartDate"]:
            yield "the budget begins at another time"
        notifications = at(each, "properties.notifications") or {}
        for kind, threshold in (("Actual", 80), ("Forecasted", 100)):
            wanted = {
                "enabled": True,
                "operator": "GreaterThanOrEqualTo",
                "threshold": threshold,
                "thresholdType": kind,
                "contactEmails": [scenario["alertEmail"]] if scenario["alertEmail"] else [],
                "contactRoles": ["Owner"],
            }
            if wanted not in notifications.values():
                yield f"the budget does not tell of {threshold} % {kind}"
