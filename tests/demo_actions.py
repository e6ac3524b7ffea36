"""Actions of the agents in the console's pictures; tests/console_demo.py submits them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Literal

from storage_lib.errors import StorageUnavailableError
from storage_lib.tasks.context import TaskContext
from storage_lib.tasks.registry import task
from storage_lib.tasks.retry import RetryPolicy, RetryTaskError

SOON = RetryPolicy(max_attempts=3, base_seconds=0.05, max_seconds=0.1)


@dataclass
class Summary:
    document: str
    length: Literal["short", "medium", "long"] = "medium"
    words: int = 200
    translate: bool = False


@task("summarize", payload=Summary)
async def summarize(context: TaskContext, payload: Summary) -> dict[str, Any]:
    """Writes a summary of a document beside it."""
    return {"summary": f"{payload.document}.summary.md", "words": payload.words - 17}


@task("crawl_site")
async def crawl_site(context: TaskContext, payload: Any) -> dict[str, Any]:
    for page in payload["pages"]:
        await context.submit("fetch_page", {"url": f"{payload['site']}{page}"})
    return {"pages": len(payload["pages"])}


@task("fetch_page")
async def fetch_page(context: TaskContext, payload: Any) -> dict[str, Any]:
    if payload["url"].endswith("/careers"):
        raise ValueError("404: there is no such page")
    return {"saved": "crawl/" + payload["url"].split("//")[1], "bytes": 4096 + 97 * len(payload["url"])}


@task("evaluate_model", retry=SOON)
async def evaluate_model(context: TaskContext, payload: Any) -> dict[str, Any]:
    if context.task.attempts < 3:
        raise RetryTaskError("the model is busy: 429 Too Many Requests")
    return {"model": payload["model"], "accuracy": 0.914, "samples": 1200, "tokens": 184_203}


@task("train_adapter")
async def train_adapter(context: TaskContext, payload: Any) -> None:
    await context.progress({"epoch": 7, "of": payload["epochs"], "loss": 0.173})
    while True:
        await context.checkpoint()
        await asyncio.sleep(0.2)


@task("send_digest")
async def send_digest(context: TaskContext, payload: Any) -> None:
    raise PermissionError(f"the mailbox of {payload['to']} takes no mail from agents")


@task("sync_crm", retry=SOON)
async def sync_crm(context: TaskContext, payload: Any) -> None:
    raise StorageUnavailableError("crm.example.com does not answer")
