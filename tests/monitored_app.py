"""Run as a process of its own: the app on files with telemetry to where the environment says, used once.

Prints what it used: the module names, and the trace of its requests. It must not import tests.conftest, which
names another folder for temporary files: the exporter stores there what it could not send, and any later
process with the same connection string sends it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from devhost.runtime import invoke, load_app, queue_datum
from tests.platform_host import PlatformHost

HOST = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01"


async def use() -> dict[str, Any]:
    if missing := os.environ.get("WITHOUT"):
        sys.modules[missing] = None  # type: ignore[assignment]
    index = load_app(Path(__file__).parent.parent)
    host = PlatformHost(index)
    host.trace_parent = HOST
    early = sorted(name for name in sys.modules if name.startswith(("opentelemetry", "azure.monitor")))
    began = time.perf_counter()
    first = await host("GET", "/api/objects/none")
    waited = time.perf_counter() - began
    from functions import monitor, state

    if seconds := os.environ.get("FLUSH_SECONDS"):
        monitor.FLUSH_SECONDS = float(seconds)
    for thread in monitor._started:
        await asyncio.to_thread(thread.join)
    body = json.dumps({"action": "copy", "agent_id": "a", "payload": None}).encode()
    saved = await host("PUT", "/api/objects/a/b", b"1", {})
    refused = await host("POST", "/api/tasks", body, {"content-type": "application/json"})
    queues = state.state().storage.backend.queues
    message = {"task_id": "t1", "agent_id": "a", "action": "none_such", "traceparent": HOST}
    await queues.send("agent-tasks", json.dumps(message).encode())
    for received in await queues.receive("agent-tasks"):
        value, metadata = queue_datum(received, received.text.encode())
        function = next(each for each in index.functions if each.name == "process_task")
        assert (await invoke(function, [("message", value)], metadata, trace_parent=HOST)).ok
    stopping_at = time.time()
    if "EXIT_AT_ONCE" not in os.environ:
        await index.module.shutdown()
    return {
        "stopping_at": stopping_at,
        "early": early,
        "waited": waited,
        "statuses": [first.status, saved.status, refused.status],
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(use())))
