"""Microsoft's worker runtime, in process. The only file that touches ``azure_functions_runtime``.

These are internal APIs of a pinned version; ``tests/test_devhost.py`` has one test that says so when
they change. Registry and imported modules are process-wide there, so a process serves one app.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, cast

from azure_functions_runtime import handle_event, loader, native_invocation
from azure_functions_runtime.bindings.datumdef import Datum
from azure_functions_runtime.bindings.meta import load_binding_registry
from azure_functions_runtime.utils.threadpool import start_threadpool_executor

from devhost.errors import DevhostError

if TYPE_CHECKING:
    from storage_lib.ports.queues import QueueMessage

Binding = Mapping[str, Any]
TriggerKind = Literal["http", "queue", "timer"]

_TRIGGERS: dict[str, TriggerKind] = {"httpTrigger": "http", "queueTrigger": "queue", "timerTrigger": "timer"}

# The runtime asks the host's protobuf module only for these constants while it indexes.
_BINDING_INFO = SimpleNamespace(
    **{"undefined": 0, "in": 0, "out": 1, "inout": 2, "string": 1, "binary": 2, "stream": 3}
)


@dataclass(frozen=True, slots=True)
class Function:
    """One indexed function. Bindings are as in function.json, the trigger included."""

    name: str
    function_id: str
    kind: TriggerKind
    trigger: Binding
    bindings: tuple[Binding, ...]


@dataclass(frozen=True, slots=True)
class FunctionIndex:
    """The functions of the one app of this process, and the module they come from."""

    directory: Path
    module: ModuleType
    functions: tuple[Function, ...]

    def __getitem__(self, name: str) -> Function:
        for function in self.functions:
            if function.name == name:
                return function
        raise KeyError(name)


@dataclass(frozen=True, slots=True)
class InvocationResult:
    """What an invocation came to. ``duration`` is in seconds; ``outputs`` are the ``Out`` parameters set."""

    ok: bool
    duration: float
    return_value: Datum | None = None
    outputs: tuple[tuple[str, Datum], ...] = ()
    error: str = ""
    traceback: str = ""


_loaded: FunctionIndex | None = None


def load_app(directory: Path) -> FunctionIndex:
    """Import ``function_app.py`` of ``directory`` and index its functions.

    :raises DevhostError: there is none, it cannot be imported, the runtime refuses a function, or this
        process already serves another app.
    """
    global _loaded
    directory = directory.resolve()
    if _loaded is not None:
        if _loaded.directory != directory:
            raise DevhostError(f"this process already serves {_loaded.directory}")
        return _loaded
    script = directory / "function_app.py"
    if not script.is_file():
        raise DevhostError(f"there is no function_app.py in {directory}")
    # With it the runtime believes that it runs on Linux Consumption.
    os.environ.pop("CONTAINER_NAME", None)
    # What it logs as an error, its answers say too; devhost prints those.
    logging.getLogger("azure.functions").setLevel(logging.CRITICAL)
    sys.path.insert(0, str(directory))
    importlib.invalidate_caches()
    protos = SimpleNamespace(BindingInfo=_BINDING_INFO)
    try:
        load_binding_registry()
        start_threadpool_executor()
        handle_event.protos = protos
        indexed = cast("Iterable[Any]", loader.index_function_app(str(script)))
        functions = tuple(_index(each, protos) for each in indexed)
    except DevhostError:
        raise
    except Exception as error:
        # The app's own code and the runtime's checks both run here, so anything can come out.
        raise DevhostError(
            f"function_app.py cannot be loaded: {_reason(error)}\n{_app_frames(error, directory)}"
        ) from error
    _loaded = FunctionIndex(directory, sys.modules["function_app"], functions)
    return _loaded


async def invoke(
    function: Function,
    inputs: list[tuple[str, Datum]],
    trigger_metadata: Mapping[str, Datum] | None = None,
    *,
    trace_parent: str = "",
) -> InvocationResult:
    """Run a function once. Whatever it raises becomes a failed result; only our own cancellation passes.

    :param trace_parent: the ``traceparent`` of the host's own span of the invocation, if it makes one.
    """
    started = time.perf_counter()
    call = cast("Callable[..., Any]", native_invocation.invocation_request_native)
    try:
        ok, returned, outputs, error, trace = await call(
            str(uuid.uuid4()), function.function_id, inputs, dict(trigger_metadata or {}), trace_parent
        )
    except (SystemExit, asyncio.CancelledError) as ended:
        task = asyncio.current_task()
        if isinstance(ended, asyncio.CancelledError) and task is not None and task.cancelling():
            raise
        # The function raised it itself. It would end what called us: the host, a listener, a timer.
        ok, returned, outputs, error, trace = False, None, [], repr(ended), traceback.format_exc()
    return InvocationResult(
        ok, time.perf_counter() - started, returned, tuple(outputs), error or "", trace or ""
    )


def http_datum(
    method: str,
    url: str,
    headers: Mapping[str, str] | None = None,
    params: Mapping[str, str] | None = None,
    route_params: Mapping[str, str] | None = None,
    body: bytes = b"",
) -> Datum:
    """A request as the host hands it to the worker: lower-case header names, the body always bytes."""
    return Datum(
        {
            "method": Datum(method, "string"),
            "url": Datum(url, "string"),
            "headers": {name.lower(): Datum(value, "string") for name, value in (headers or {}).items()},
            "query": {name: Datum(value, "string") for name, value in (params or {}).items()},
            "params": {name: Datum(value, "string") for name, value in (route_params or {}).items()},
            "body": Datum(body, "bytes"),
        },
        "http",
    )


def queue_datum(message: QueueMessage, body: bytes) -> tuple[Datum, dict[str, Datum]]:
    """A message and its metadata as the host hands them to the worker: text where it is valid UTF-8, else
    bytes."""
    try:
        value = Datum(body.decode(), "string")
    except UnicodeDecodeError:
        value = Datum(body, "bytes")
    metadata = {
        "QueueTrigger": value,
        "Id": Datum(message.id, "string"),
        "DequeueCount": Datum(json.dumps(message.dequeue_count), "json"),
        "PopReceipt": Datum(message.pop_receipt, "string"),
        "InsertionTime": _time_datum(message.inserted_at),
        "ExpirationTime": _time_datum(message.expires_at),
        "NextVisibleTime": _time_datum(message.next_visible_at),
    }
    return value, metadata | _replaced(body, metadata)


def _replaced(body: bytes, metadata: Mapping[str, Datum]) -> dict[str, Datum]:
    """What a JSON message's own properties replace of its metadata: the host binds both by the same names,
    whatever their case, and the message's come later."""
    names = {name.lower(): name for name in metadata}
    try:
        content: Any = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    properties = cast("dict[str, Any]", content) if isinstance(content, dict) else {}
    return {
        names[name.lower()]: Datum(value, "string")
        if isinstance(value, str)
        else Datum(json.dumps(value), "json")
        for name, value in properties.items()
        if name.lower() in names and value is not None
    }


def timer_datum(
    *, past_due: bool = False, last: datetime | None = None, next_: datetime | None = None
) -> Datum:
    """What a timer function gets; ``last`` and ``next_`` are its previous and next due times."""
    never = "0001-01-01T00:00:00+00:00"
    return Datum(
        json.dumps(
            {
                "Schedule": {"AdjustForDST": True},
                "ScheduleStatus": {
                    "Last": last.isoformat() if last else never,
                    "Next": next_.isoformat() if next_ else never,
                    "LastUpdated": (last or datetime.now(UTC)).isoformat(),
                },
                "IsPastDue": past_due,
            }
        ),
        "json",
    )


def _time_datum(moment: datetime) -> Datum:
    # The service has whole seconds.
    return Datum(json.dumps(moment.astimezone(UTC).isoformat(timespec="seconds")), "json")


def _index(indexed: Any, protos: SimpleNamespace) -> Function:
    info = handle_event._functions.add_indexed_function(indexed, protos)  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]  # the registry has no public name
    name = cast("str", info.name)
    bindings = tuple(_normal(json.loads(raw)) for raw in indexed.get_raw_bindings())
    triggers = [binding for binding in bindings if str(binding["type"]).lower().endswith("trigger")]
    if len(triggers) != 1 or triggers[0]["type"] not in _TRIGGERS:
        kinds = ", ".join(str(trigger["type"]) for trigger in triggers) or "none"
        raise DevhostError(
            f"function {name}: devhost runs {', '.join(_TRIGGERS)} functions; the trigger here is {kinds}"
        )
    if info.deferred_bindings_enabled:
        raise DevhostError(f"function {name}: SDK-type bindings are not supported by devhost")
    return Function(name, info.function_id, _TRIGGERS[triggers[0]["type"]], triggers[0], bindings)


def _normal(binding: dict[str, Any]) -> Binding:
    """Enumerations reach us in upper case; function.json has them in lower case."""
    for key in ("direction", "authLevel"):
        if key in binding:
            binding[key] = str(binding[key]).lower()
    return binding


def _reason(error: BaseException) -> str:
    # A missing module's message is drowned in the runtime's advice and the whole sys.path.
    text = str(error).split(". Cannot find module.")[0]
    return f"{type(error).__name__}: {text}"


def _app_frames(error: BaseException, directory: Path) -> str:
    """The traceback from the app's first frame on: what lies above it is the host's business."""
    frames = traceback.extract_tb(error.__traceback__)
    own = next((at for at, frame in enumerate(frames) if Path(frame.filename).is_relative_to(directory)), 0)
    return "".join(traceback.format_list(frames[own:])).rstrip()
