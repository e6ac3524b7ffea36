"""The actions that this library brings."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from storage_lib import values
from storage_lib.tasks.context import TaskContext
from storage_lib.tasks.registry import task


@dataclass(frozen=True, slots=True)
class AnalyzeReport:
    """:param report: the key of the stored report.
    :param output: the key of the profile to write; by default the report's with ``.profile.json`` added.
    """

    report: str
    output: str | None = None


@task("analyze_report", payload=AnalyzeReport)
async def analyze_report(context: TaskContext, payload: AnalyzeReport) -> dict[str, Any]:
    """Read a stored report (CSV, JSON, JSON Lines, Markdown or plain text), write its profile as a JSON
    object and return the profile's key with its headline figures.

    Running it twice writes the same profile twice, which does no harm.
    """
    from storage_lib.tasks.report import profile

    output = payload.output or f"{payload.report}.profile.json"
    found = await context.storage.read(payload.report)
    # Profiling is pure computation: in a thread it does not hold up other invocations.
    result = await asyncio.to_thread(
        profile, found.data, content_type=_declared(found.info.content_type), name=payload.report
    )
    result = {"report": payload.report, "report_etag": found.info.etag, **result}
    await context.storage.save(output, result, metadata={"task-id": context.task.task_id})
    return {"report": payload.report, "profile": output, **_headline(result)}


def _declared(content_type: str) -> str | None:
    """Bytes without a type say nothing: then the name and the content decide."""
    return None if content_type == values.BYTES else content_type


def _headline(result: dict[str, Any]) -> dict[str, Any]:
    headline: dict[str, Any] = {"format": result["format"], "bytes": result["bytes"]}
    if "table" in result:
        headline |= {
            "rows": result["table"]["rows"],
            "columns": [c["name"] for c in result["table"]["columns"]],
        }
    elif "text" in result:
        headline |= {"words": result["text"]["words"]}
    headline["warnings"] = len(result.get("warnings", []))
    return headline
