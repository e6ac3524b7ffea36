"""HTTP: health checks and metrics; and who asks, and what it may do, so that a client need not offer what
would be refused."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import azure.functions as func
from msgspec import to_builtins

from functions.access import grant, need_to_operate
from functions.answers import json_response
from functions.callers import principal_of
from functions.endpoint import Blueprint
from functions.parameters import integer_parameter
from functions.state import state
from storage_lib.errors import KeyNotFoundError, StorageUnavailableError, TransientStorageError
from storage_lib.tasks.model import TASK_QUEUE

if TYPE_CHECKING:
    from storage_lib.ports.backend import StorageBackend

blueprint = Blueprint()

READY_SECONDS = 5.0
"""How long a readiness check waits for the storage."""


@blueprint.http(
    "GET HEAD", "health/live", level=func.AuthLevel.ANONYMOUS, answers={200: "Live"}, is_open=True
)
async def health_live(req: func.HttpRequest) -> func.HttpResponse:
    """``GET /api/health/live``: whether the process is up. 200 as long as it answers; does not touch the
    storage."""
    return json_response({"status": "live"})


@blueprint.http("GET HEAD", "health/ready", answers={200: "Ready"}, is_limited=False)
async def health_ready(req: func.HttpRequest) -> func.HttpResponse:
    """``GET /api/health/ready``: whether the app can work. 200 if objects, tables and queues answer
    within five seconds, the encryption key is at hand and the settings are valid, else 503 or 500 with the
    reason. A quota above its warning mark is shown, and is no reason.

    With a second store the answer says which one answers. While that is the second, the status is
    ``degraded``, and ``tasks`` says whether tables and queues, which do not fall back, are there.
    """
    await need_to_operate()
    app = state()
    app.check_settings()

    async def peek() -> None:
        with suppress(KeyNotFoundError):  # the first task creates the queue
            await app.storage.backend.queues.peek(TASK_QUEUE)

    limit = asyncio.timeout(READY_SECONDS)
    try:
        async with limit:
            if app.config.encryption is not None:
                await _need_key(app.storage.backend)
            # Without a second store the first error is the answer.
            asked = (app.storage.open(), app.engine.list(limit=1), peek())
            found = await asyncio.gather(*asked, return_exceptions=app.config.fallback is not None)
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise StorageUnavailableError(f"the storage did not answer within {READY_SECONDS:.0f} s") from error
    failed = [result for result in found if isinstance(result, BaseException)]
    answer: dict[str, Any] = {"status": "ready", "storage": app.config.storage_type}
    layer = app.storage.fallback
    status = None if layer is None else layer.status()
    if status is not None:
        answer["fallback"] = {
            "mode": status.mode,
            "answers": status.answers,
            "primary_away_since": _text(status.primary_away_since),
            "secondary_away_since": _text(status.secondary_away_since),
            "pending": status.pending,
        }
        if status.answers == "secondary":
            is_open = not isinstance(found[0], BaseException)
            if is_open and all(isinstance(error, TransientStorageError) for error in failed):
                answer |= {"status": "degraded", "tasks": "unavailable" if failed else "ready"}
                failed = []
    if failed:
        raise failed[0]
    if quotas := app.storage.backend.quotas():
        answer["quotas"] = [to_builtins(usage) | {"is_high": usage.is_high} for usage in quotas]
    return json_response(answer)


async def _need_key(backend: StorageBackend) -> None:
    """:raises StorageError: the key that encrypts cannot be had, perhaps from the vault that wraps it."""
    from storage_lib.layers.encryption import EncryptionLayer  # Only where it is on.
    from storage_lib.ports.backend import layers_of

    for layer in layers_of(backend):
        if isinstance(layer, EncryptionLayer):
            await layer.ring.current()


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


@blueprint.http("GET HEAD", "metrics", answers={200: ("PrometheusText", "OpenMetricsText")}, problems=(501,))
async def metrics(req: func.HttpRequest) -> func.HttpResponse:
    """``GET /api/metrics``: the metrics of this process in Prometheus' text format, or in OpenMetrics if
    ``Accept`` says so; 501 if metrics are off."""
    await need_to_operate()
    from functions.metrics import metrics_response

    return await metrics_response(req, state())


@blueprint.http("GET HEAD", "sizes", "limit", answers={200: "Sizes"})
async def list_sizes(req: func.HttpRequest) -> func.HttpResponse:
    """``GET /api/sizes?limit=``: how many objects and bytes are stored below each first-level prefix, as a
    timer has measured it: the newest measurements, oldest first; and by how many bytes each prefix has grown
    in the last day. Every hour for two days, before that every day. It costs one read: nothing is listed."""
    await need_to_operate()
    from storage_lib.sizes import Sizes

    app, limit = state(), integer_parameter(req, "limit", 100, 1, 1000)
    series, options = await Sizes(app.storage).read(), app.config.metrics
    samples = sorted({each.at: each for each in (*series.daily, *series.recent)}.items())[-limit:]
    return json_response(
        {
            "hours": (options.sizes_hours or None) if options else None,
            "growth": series.growth(),
            "samples": [
                {"at": at.astimezone(UTC), "prefixes": {name: list(of) for name, of in each.prefixes.items()}}
                for at, each in samples
            ],
        }
    )


@blueprint.http("GET HEAD", "me", answers={200: "Caller"})
async def show_caller(req: func.HttpRequest) -> func.HttpResponse:
    """``GET /api/me``: your principal, and your rights by the access policy; null where there is none, and
    you may do everything. ``signed_in`` says whether the platform's authentication has let you in."""
    found = grant()
    principal, rights = (None, None) if found is None else (found.principal, found.rights)
    signed_in = principal_of(req) is not None
    return json_response({"principal": principal, "rights": rights, "signed_in": signed_in})
