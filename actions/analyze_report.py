"""`analyze_report`: writes the profile of a stored report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from actions.stored.workspace import put, workspace
from storage_lib import values
from storage_lib.errors import InvalidArgumentError
from storage_lib.keys import validate_user_key
from storage_lib.tasks.context import TaskContext
from storage_lib.tasks.registry import task


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
    """Read a stored report (CSV, JSON, JSON Lines, Parquet, Markdown or plain text), write its profile as a
    JSON object and return the profile's key with its headline figures.

    Running it twice writes the same profile twice, which does no harm.

    :raises PreconditionFailedError: there is another object where the profile should go.
    :raises ObjectTooLargeError: the report is larger than 256 MiB (``AGENT_ANALYSIS_OBJECT_MB``).
    """
    from actions.report import profile

    async with workspace(context) as place:
        path, info = await place.fetch(payload.report, "report", "report")
        # Bytes without a type say nothing: then the name and the content decide.
        declared = None if info.content_type == values.BYTES else info.content_type
        found = await place.run(profile, path, declared, payload.report, place.limits)
        result = {"report": payload.report, "report_etag": info.etag, **found}
        await put(context, payload.target, result, "analyze-report", overwrite=payload.overwrite)
    return {"report": payload.report, "profile": payload.target, **_headline(result)}


def _headline(result: dict[str, Any]) -> dict[str, Any]:
    headline: dict[str, Any] = {"format": result["format"], "bytes": result["bytes"]}
    if "table" in result:
        columns = [column["name"] for column in result["table"]["columns"]]
        headline |= {"rows": result["table"]["rows"], "columns": columns}
    elif "text" in result:
        headline["words"] = result["text"]["words"]
    return {**headline, "warnings": len(result["warnings"])}
