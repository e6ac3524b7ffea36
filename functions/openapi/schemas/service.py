"""Health and metrics."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from msgspec import Meta

from functions.openapi.schemas import Moment

MEDIA_TYPES = {
    "PrometheusText": "text/plain",
    "OpenMetricsText": "application/openmetrics-text",
    "DocumentationPage": "text/html",
    "ConsolePage": "text/html",
}

PrometheusText = Annotated[str, Meta(description="Prometheus' text format, 0.0.4.")]
OpenMetricsText = Annotated[str, Meta(description="OpenMetrics 1.0.")]
ConsolePage = Annotated[str, Meta(description="A page for browsers.")]
DocumentationPage = Annotated[str, Meta(description="A page for people.")]


class OpenApiDocument(TypedDict):
    """OpenAPI 3.1."""

    openapi: str
    info: dict[str, Any]
    paths: dict[str, Any]


class Caller(TypedDict):
    """Who asks, and what it may do."""

    principal: Annotated[str | None, Meta(description="The name in the access policy; null: there is none.")]
    rights: Annotated[
        dict[str, list[str]] | None,
        Meta(description="Prefixes or names by right; null: everything."),
    ]
    signed_in: Annotated[bool, Meta(description="Whether the platform's authentication knows the caller.")]


class SizesSample(TypedDict):
    """What was stored at a time."""

    at: Moment
    prefixes: Annotated[
        dict[str, list[int]],
        Meta(description="Objects and bytes below each prefix; `*` is the sum of all others."),
    ]


class Sizes(TypedDict):
    """What is stored, and was."""

    hours: Annotated[
        float | None, Meta(description="How often it is measured; null: it is not, as metrics are off.")
    ]
    growth: Annotated[dict[str, int], Meta(description="Bytes that each prefix has grown by in a day.")]
    samples: list[SizesSample]


class Live(TypedDict):
    """The process answers."""

    status: Literal["live"]


class Fallback(TypedDict):
    """Which of two stores answers."""

    mode: str
    answers: Literal["primary", "secondary"]
    primary_away_since: Moment | None
    secondary_away_since: Moment | None
    pending: Annotated[int, Meta(description="What is to be brought back to the first store.")]


class Quota(TypedDict):
    """What the objects below a prefix take, as far as this process knows."""

    rule: str
    prefix: str
    bytes: Annotated[int | None, Meta(description="null until the first write below the prefix.")]
    objects: Annotated[int | None, Meta(description="Likewise.")]
    quota_bytes: Annotated[int | None, Meta(description="null does not limit.")]
    quota_objects: Annotated[int | None, Meta(description="Likewise.")]
    warn_at: float
    is_high: Annotated[bool, Meta(description="Whether the warning mark has been reached.")]


class Ready(TypedDict):
    """The storage answers."""

    status: Literal["ready", "degraded"]
    storage: str
    fallback: NotRequired[Fallback]
    tasks: NotRequired[Literal["ready", "unavailable"]]
    quotas: NotRequired[list[Quota]]
