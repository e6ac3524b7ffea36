"""What the console's pictures show: a store of a few agents, and times that are the same whenever they are
made."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from tests.conftest import PROJECT
from tests.console_host import App

__all__ = ["ACTIONS", "NOW", "RULES", "Times", "fill", "metrics", "sizes"]

NOW = datetime(2026, 6, 15, 10, 30, tzinfo=UTC)
ACTIONS = Path(__file__).with_name("demo_actions.py").read_text()
RULES = {
    "rules": [
        {"prefix": "agents/", "quota_bytes": 50_000, "quota_objects": 100},
        {"prefix": "uploads/", "quota_bytes": 120_000, "warn_at": 0.8},
    ]
}
AGENTS = ("ceo", "cfo", "researcher", "writer")
HANDBOOK = """# Handbook of the agents

What every agent reads before its first task.

## How we work

1. **Ask** before you spend more than `budget.daily`.
2. Write down what you have learned, under `memory/`.
3. Hand long work to a task, and read its *progress*.

| agent | model | reports to |
|---|---|---|
| ceo | large | the board |
| cfo | large | ceo |
| researcher | medium | ceo |

> A figure without its source is an opinion.

```python
await storage.save("reports/q2.json", report)
```
"""
TALK = (
    ("user", "How did the second quarter go, and what should we tell the board?"),
    ("assistant", "I will look at the ledger first.", {"name": "query", "arguments": {"table": "ledger"}}),
    (
        "assistant",
        "Revenue is **up 12 %** on the first quarter, and costs grew by 4 %:\n\n"
        "- subscriptions: 412,000\n- services: 96,500\n- refunds: -3,200",
    ),
    ("user", "Good. Which of these is likely to last?"),
    (
        "assistant",
        "Subscriptions. Renewals are at 94 %, and `churn.csv` shows no month above 2 %. Services depend on"
        " two customers, so I would call them *one-off* in the report.",
    ),
    ("user", "Then write it that way, and have the researcher check the numbers."),
    ("assistant", "Done: `reports/q2.md`. The researcher's task is queued."),
)
TOPICS = ("Hiring plan", "Incident of May 3", "Newsletter", "Pricing", "Second quarter")
SITE = {"site": "https://example.com", "pages": ["/", "/pricing", "/docs", "/careers", "/blog"]}


def _config(agent: str, model: str) -> dict[str, Any]:
    return {
        "name": agent,
        "model": {"family": model, "temperature": 0.2, "max_tokens": 4096},
        "tools": [
            {"name": "search", "limit": 20},
            {"name": "mail", "allowed": ["board@example.com", "team@example.com"]},
        ],
        "budget": {"daily": 25, "currency": "EUR"},
        "reports_to": None if agent == "ceo" else "ceo",
        "enabled": True,
    }


def _parquet(folder: Path) -> bytes:
    rows = (
        "select i as run, ['ceo', 'cfo', 'researcher'][1 + i % 3] as agent, 900 + (i * 577) % 4100 as tokens,"
        " round(0.4 + (i * 37 % 100) / 40, 2) as seconds from range(60) runs(i)"
    )
    duckdb.sql(f"copy ({rows}) to '{folder / 'runs.parquet'}'")
    return (folder / "runs.parquet").read_bytes()


def _array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.sin(np.arange(4096 * 4, dtype="<f4")).reshape(256, 64) / 3)
    return file.getvalue()


LOGO = (
    "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 240 120' width='480' height='240'>"
    "<rect width='240' height='120' rx='14' fill='#0a58ca'/><circle cx='62' cy='60' r='30' fill='#fff'/>"
    "<circle cx='62' cy='60' r='16' fill='#0a58ca'/><rect x='112' y='42' width='96' height='12' fill='#fff'/>"
    "<rect x='112' y='66' width='64' height='12' fill='#9ec5fe'/></svg>"
)


async def fill(app: App, folder: Path) -> None:
    """Store everything through the app's own API."""
    kept: dict[str, tuple[bytes, str]] = {
        "handbook.md": (HANDBOOK.encode(), "text/markdown"),
        "knowledge/pricing.md": (b"# Pricing\n\nThree plans, billed yearly.\n", "text/markdown"),
        "knowledge/onboarding.md": (HANDBOOK.encode(), "text/markdown"),
        "models/adapters/ceo.npy": (_array(), "application/octet-stream"),
        "pictures/logo.svg": (LOGO.encode(), "image/svg+xml"),
        "reports/runs.parquet": (_parquet(folder), "application/vnd.apache.parquet"),
        "reports/weather.csv": ((PROJECT / "samples/seattle-weather.csv").read_bytes(), "text/csv"),
        "uploads/minutes.txt": (b"The board met at nine.\n" * 4600, "text/plain"),
    }
    for month in range(1, 7):
        kept[f"reports/2026-{month:02}.json"] = (json.dumps({"month": month}).encode(), "application/json")
    for agent in AGENTS:
        kept[f"agents/{agent}/memory.json"] = (json.dumps({"learned": []}).encode(), "application/json")
        kept[f"agents/{agent}/notes.md"] = (b"- ask the board\n", "text/markdown")
    for key, (body, kind) in kept.items():
        await app.ask("PUT", f"objects/{key}", body, **{"Content-Type": kind})
    for agent in AGENTS:
        about = {"x-meta-owner": agent, "x-meta-reviewed": "2026-06-01"}
        body = json.dumps(_config(agent, "large"), indent=2).encode()
        await app.ask("PUT", f"objects/agents/{agent}/config.json", body, **about)
    for number, (model, temperature) in enumerate(
        (("small", 0.7), ("medium", 0.7), ("large", 0.4), ("large", 0.2)), 1
    ):
        value = _config("ceo", model)
        value["model"]["temperature"] = temperature
        value["budget"]["daily"] = 5 * (number + 1)
        label = "?label=approved" if number == 3 else ""
        await app.ask("POST", f"versions/agents/ceo/config.json{label}", value)
    await _talk(app)
    await _tables_and_queues(app)
    await _tasks(app)


async def _talk(app: App) -> None:
    for n, topic in enumerate(TOPICS):
        said = [
            {"role": each[0], "content": each[1], **({"tool_call": each[2]} if len(each) > 2 else {})}
            for each in (TALK if topic == "Second quarter" else TALK[: 2 + n])
        ]
        about = {"topic": topic, "participants": ["ceo", AGENTS[1 + n % 3]]}
        key = f"conversations?key=talks/{topic.lower().replace(' ', '-')}"
        await app.ask("POST", key, {"messages": said, **about})


async def _tables_and_queues(app: App) -> None:
    rows = csv.DictReader(io.StringIO((PROJECT / "samples/seattle-weather.csv").read_text()))
    for n, day in zip(range(24), rows, strict=False):
        run = {
            "model": ("large", "medium")[n % 2],
            "tokens": 900 + (n * 577) % 4100,
            "cost": (n * 37 % 100) / 100,
        }
        entity = {"PartitionKey": AGENTS[n % 4], "RowKey": f"run-{n:04}", "weather": day["weather"], **run}
        await app.ask("POST", "tables/runs", entity)
    await app.ask("POST", "tables/budgets", {"PartitionKey": "2026", "RowKey": "06", "left": 412.5})
    for n in range(5):
        review = {"report": f"reports/2026-{n + 1:02}.json", "for": AGENTS[n % 4], "urgent": n == 0}
        await app.ask("POST", "queues/reviews/messages", {"body": json.dumps(review)})
    await app.ask("POST", "queues/notifications/messages", {"body": "The nightly run has ended."})


async def _tasks(app: App) -> None:
    """In the order of their age, the oldest first."""
    for n in range(34):
        action, payload = _regular(n)
        await _done(app, action, payload, AGENTS[n * 7 % 4], n)
    await _done(app, "sync_crm", {"since": "2026-06-14"}, "cfo", 34)
    await _done(app, "crawl_site", SITE, "researcher", 35)
    await _done(app, "evaluate_model", {"model": "ceo-v3", "dataset": "support-2026-05"}, "researcher", 36)
    training = await app.submit(
        "train_adapter", {"model": "ceo-v4", "epochs": 12}, agent_id="researcher", idempotency_key="demo-37"
    )
    await app.settled(training, "running")
    later = {"agent_id": "writer", "idempotency_key": "demo-38", "delay_seconds": 3600}
    await app.submit("summarize", {"document": "reports/2026-06.json"}, **later)


def _regular(n: int) -> tuple[str, dict[str, Any]]:
    if n in (9, 21):
        return "send_digest", {"to": "board@example.com"}
    if n % 5 == 3:
        return "evaluate_model", {"model": f"ceo-v{1 + n // 10}", "dataset": "support-2026-05"}
    return "summarize", {"document": f"knowledge/page-{n}.md", "length": "short"}


async def _done(app: App, action: str, payload: dict[str, Any], agent: str, n: int) -> None:
    others = {"agent_id": agent, "idempotency_key": f"demo-{n:02}", "correlation_id": f"week-{23 + n // 20}"}
    task = await app.submit(action, payload, **others)
    await app.settled(task)


def _chance(name: str, most: int) -> int:
    """The same for the same name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) % most


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _not_later(found: re.Match[str]) -> str:
    is_later = datetime.fromisoformat(found[0]) > NOW + timedelta(hours=2)
    return _iso(NOW - timedelta(seconds=42)) if is_later else found[0]


class Times:
    """Answers of the app as they would be if it had all happened at the times that the pictures show, with
    ids that do not change either."""

    def __init__(self) -> None:
        self._shown: dict[str, str] = {}
        self._real: dict[str, str] = {}
        self._created: dict[str, datetime] = {}

    async def learn(self, app: App) -> None:
        """Which tasks there are."""
        found = (await app.json("tasks?limit=1000"))["tasks"]
        for each in sorted(found, key=lambda task: "parent_id" in task):
            url = (each["payload"] or {}).get("url", "")
            name = each.get("idempotency_key") or url
            digest = hashlib.sha256(name.encode()).hexdigest()
            shown = f"019f{digest[-4:]}-{digest[-8:-4]}-7a31-9c02-{digest[:12]}"
            self._shown[each["task_id"]], self._real[shown] = shown, each["task_id"]
            if url:
                age = timedelta(seconds=2 + SITE["pages"].index(url.removeprefix(SITE["site"])))
                self._created[each["task_id"]] = self._created[each["parent_id"]] + age
            else:
                left = 38 - int(name.split("-")[1])
                # In bursts, as agents work.
                minutes = 0.7 + 9 * (left - left % 4) + 2 * (left % 4) + (9 if left > 20 else 0)
                self._created[each["task_id"]] = NOW - timedelta(minutes=minutes)

    def id_of(self, key: str) -> str:
        """The shown id of the task that was submitted with an idempotency key."""
        wanted = f"{hashlib.sha256(key.encode()).hexdigest()[:12]}"
        return next(shown for shown in self._real if shown.endswith(wanted))

    def asked(self, text: str) -> str:
        """A URL as the app knows it."""
        return _replaced(text, self._real)

    def told(self, text: str) -> str:
        """An answer, JSON, as it is shown."""
        document = json.loads(text)
        self._tell(document)
        # What no record tells is now, such as the age of a queue.
        text = re.sub(r"20\d\d-\d\d-\d\dT[\d:.]+Z", _not_later, json.dumps(document))
        return _replaced(text, self._shown)

    def _tell(self, value: Any) -> None:
        if isinstance(value, dict):
            if "task_id" in value and "history" in value:
                self._tell_task(value)
            elif "last_modified" in value:
                value["last_modified"] = self.modified(value.get("key", ""))
            elif "saved_at" in value:
                value["saved_at"] = _iso(NOW - timedelta(hours=26.3 * (5 - value["number"])))
            elif "participants" in value and "updated_at" in value:
                age = 4 + 197 * (len(TOPICS) - 1 - TOPICS.index(value["topic"]))
                value["updated_at"] = _iso(NOW - timedelta(minutes=age))
            elif "position" in value and "at" in value:
                value["at"] = _iso(NOW - timedelta(minutes=4, seconds=50 * (8 - value["position"])))
            elif value.get("oldest_at") and value["name"] in ("reviews", "notifications"):
                value["oldest_at"] = _iso(NOW - timedelta(seconds=603 if value["name"] == "reviews" else 700))
            elif "inserted_at" in value:
                name = hashlib.sha256(value["body"].encode()).hexdigest()
                month = re.search(r"2026-0(\d)", value["body"])
                value["inserted_at"] = _iso(NOW - timedelta(seconds=700 - 97 * int(month[1] if month else 0)))
                value["id"] = f"{name[:8]}-{name[8:12]}-4{name[13:16]}-a{name[17:20]}-{name[20:32]}"
            elif "RowKey" in value:
                name = f"{value['PartitionKey']}/{value['RowKey']}"
                value["Timestamp"] = _iso(NOW - timedelta(seconds=_chance(name, 90_000)))
            for each in value.values():
                self._tell(each)
        elif isinstance(value, list):
            for each in value:
                self._tell(each)

    def modified(self, key: str) -> str:
        return _iso(NOW - timedelta(minutes=2 + _chance(key, 9000)))

    def _tell_task(self, task: dict[str, Any]) -> None:
        at = self._created.setdefault(task["task_id"], NOW)
        task["started_at"] = task.get("started_at") and _iso(at + timedelta(seconds=0.6))
        task["created_at"] = _iso(at)
        for each in task["history"]:
            name = f"{task['task_id']}"
            at += timedelta(seconds=0.6 if each["number"] == 1 else 6.5 * each["number"])
            each["started_at"] = _iso(at)
            if each["number"] == 1 or not task.get("children"):
                task["started_at"] = each["started_at"]
            at += timedelta(seconds=0.8 + _chance(self._shown.get(name, "") + str(each["number"]), 90) / 10)
            each["ended_at"] = _iso(at)
        if task.get("finished_at"):
            task["finished_at"] = _iso(at + timedelta(seconds=12 if task.get("children") else 0))
        if task["status"] == "running":
            task["started_at"] = _iso(self._created[task["task_id"]] + timedelta(seconds=0.6))
        if task.get("due_at"):
            waits = timedelta(hours=1) if task["status"] == "queued" else timedelta()
            task["due_at"] = _iso(self._created[task["task_id"]] + waits)


def _replaced(text: str, names: dict[str, str]) -> str:
    for one, other in names.items():
        text = text.replace(one, other)
    return text


def metrics(seconds: float) -> str:
    """What a busy app has measured by then: the integrals of what the charts show, which are its rates."""

    def grown(rate: float, swing: float, period: float, extra: float = 0, short: float = 1) -> float:
        waves = swing * period * (1 - math.cos(seconds / period)) + extra * short * math.sin(seconds / short)
        return rate * seconds + waves

    total = grown(120, 45, 40, 22, 9)
    hits = grown(40, 6, 30, 3, 11)
    lines = [
        f'agent_storage_operations_total{{operation="load"}} {total:.3f}',
        f'agent_storage_errors_total{{operation="load"}} {0.2 * max(0, math.floor(seconds / 47)):.3f}',
        f"agent_storage_cache_hits_total {hits:.3f}",
        f"agent_storage_cache_misses_total {52 * seconds - hits:.3f}",
        f'agent_task_ended_total{{status="succeeded"}} {grown(0.6, 0.35, 35):.3f}',
    ]
    for bound, part in {
        "0.005": 0.55,
        "0.01": 0.8,
        "0.025": 0.93,
        "0.05": 0.97,
        "0.1": 0.99,
        "+Inf": 1,
    }.items():
        value = total * part + 60 * (1 - part) * 25 * math.sin(seconds / 25)
        lines.append(f'db_client_operation_duration_seconds_bucket{{le="{bound}"}} {value:.3f}')
    return "\n".join(lines) + "\n"


def sizes() -> dict[str, Any]:
    """What is stored by prefix, as a week's measurements have found it."""
    samples: list[dict[str, Any]] = []
    for hour in range(-168, 1, 4):
        part = (hour + 168) / 168 + 0.02 * math.sin(hour / 9)
        prefixes = {
            "agents/": (1_904, 12_582_912 - int(524_288 * part)),
            "knowledge/": (48_210, 734_003_200 + int(220_000_000 * part)),
            "models/": (200 + int(12 * part), 3_758_096_384 + 268_435_456 * int(6 * part)),
        }
        samples.append({"at": _iso(NOW + timedelta(hours=hour - 0.6)), "prefixes": prefixes})
    growth = {"agents/": -74_898, "knowledge/": 31_457_280, "models/": 268_435_456}
    return {"hours": 1, "growth": growth, "samples": samples}
