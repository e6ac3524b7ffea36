"""`analyze_report`: writes the profile of a stored report."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from storage_lib import values
from storage_lib.errors import (
    InvalidArgumentError,
    KeyNotFoundError,
    ObjectTooLargeError,
    PreconditionFailedError,
    TransientStorageError,
)
from storage_lib.keys import validate_user_key
from storage_lib.manager import StorageManager
from storage_lib.tasks.context import TaskContext
from storage_lib.tasks.registry import task

MAX_REPORT_BYTES = 128 * 1024 * 1024
"""A profile needs several times the report's size in memory."""
_GENERATED = ("generated-by", "analyze-report")
_ATTEMPTS = 100
_AT_ONCE = 2
_profiling: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()
"""By loop, for a semaphore belongs to one."""


@dataclass(frozen=True, slots=True)
class AnalyzeReport:
    """:param report: the key of the stored report.
    :param output: the key of the profile to write; by default the report's with ``.profile.json`` added.
    :param overwrite: whether ``output`` may replace an object that is no profile.
    """

    report: str
    output: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        validate_user_key(self.report)
        if validate_user_key(self.target) == self.report:
            raise InvalidArgumentError("output is the report itself", field="output")

    @property
    def target(self) -> str:
        return self.output or f"{self.report}.profile.json"


@task("analyze_report", payload=AnalyzeReport)
async def analyze_report(context: TaskContext, payload: AnalyzeReport) -> dict[str, Any]:
    """Read a stored report (CSV, JSON, JSON Lines, Markdown or plain text), write its profile as a JSON
    object and return the profile's key with its headline figures.

    Running it twice writes the same profile twice, which does no harm.

    :raises PreconditionFailedError: there is another object where the profile should go.
    :raises ObjectTooLargeError: the report is larger than 128 MiB.
    """
    from actions.report import profile

    storage = context.storage
    info = await storage.info(payload.report)
    if info.size > MAX_REPORT_BYTES:
        raise ObjectTooLargeError(
            f"the report is {info.size} bytes", field="report", limit=f"{MAX_REPORT_BYTES} bytes"
        )
    async with _profiling.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(_AT_ONCE)):
        found = await storage.read(payload.report)
        # Bytes that anybody may have written: whatever they do to a parser, it can be stopped.
        result = await context.run_isolated(
            profile, found.data, content_type=_declared(found.info.content_type), name=payload.report
        )
    result = {"report": payload.report, "report_etag": found.info.etag, **result}
    await _write(storage, payload, result, context.task.task_id)
    return {"report": payload.report, "profile": payload.target, **_headline(result)}


async def _write(storage: StorageManager, payload: AnalyzeReport, result: Any, task_id: str) -> None:
    metadata = {_GENERATED[0]: _GENERATED[1], "task-id": task_id}
    if payload.overwrite:
        await storage.save(payload.target, result, metadata=metadata)
        return
    if_match: str | None = None
    for _ in range(_ATTEMPTS):
        try:
            await storage.save(
                payload.target, result, metadata=metadata, if_match=if_match, if_absent=if_match is None
            )
            return
        except PreconditionFailedError as error:
            try:
                there = await storage.info(payload.target)
            except KeyNotFoundError:
                if_match = None
                continue
            if there.metadata.get(_GENERATED[0]) != _GENERATED[1]:
                raise PreconditionFailedError(
                    f"object {payload.target!r} exists and is no profile",
                    field="output",
                    remedy='choose another output, or say "overwrite": true',
                ) from error
            if_match = there.etag  # Another task's profile of the same report: the later one stays.
    raise TransientStorageError(f"object {payload.target!r} is being replaced all the time")


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
