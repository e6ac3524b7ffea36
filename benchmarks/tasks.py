"""No-op tasks through the local host on the file backend: submitted over HTTP, processed from the queue.

Celery has the same number of no-op tasks on its filesystem and on its SQLite transport, on one worker with as
many threads.
"""

from __future__ import annotations

import http.client
import json
import signal
import tempfile
import threading
import time
from pathlib import Path

from benchmarks import celery_tasks
from benchmarks.local_host import start

TASKS = 600
THREADS = 8
BATCH = 50
ACTIONS = """
from storage_lib.tasks.registry import task

@task("no_op")
async def no_op(context, payload):
    return None
"""


def measure(_: int) -> list[tuple[str, str, str]]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "bench_actions.py").write_text(ACTIONS)
        settings = {"AGENT_TASK_MODULES": "bench_actions", "PYTHONPATH": folder}
        process, port = start(f"{folder}/data", settings)
        try:
            rates = [_run(port, single) for single in (True, False)]
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)
    peers = {transport: celery_tasks.rate(transport) for transport in celery_tasks.TRANSPORTS}
    return [
        (f"no-op tasks end to end, {THREADS} submitters, one a request", f"{rates[0]:.0f} /s", ""),
        (f"no-op tasks end to end, {THREADS} submitters, {BATCH} a request", f"{rates[1]:.0f} /s", "300 /s"),
        *(
            (
                f"no-op tasks, one a request / Celery, {transport} transport",
                f"{rates[0] / peer:.2f} x",
                ">= 3 x",
            )
            for transport, peer in peers.items()
        ),
    ]


def _run(port: int, single: bool) -> float:
    """Tasks a second, from the first submission to the last end."""
    agent = f"bench-{single}"
    task = {"action": "no_op", "agent_id": agent}
    body = json.dumps(task if single else {"tasks": [task] * BATCH})
    requests = TASKS if single else TASKS // BATCH

    def submit(count: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        for _ in range(count):
            connection.request("POST", "/api/tasks", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            response.read()
            assert response.status == 202
        connection.close()

    shares = [requests // THREADS + (n < requests % THREADS) for n in range(THREADS)]
    threads = [threading.Thread(target=submit, args=(share,)) for share in shares]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    connection = http.client.HTTPConnection("127.0.0.1", port)
    while _succeeded(connection, agent) < TASKS:
        time.sleep(0.2)
    return TASKS / (time.perf_counter() - started)


def _succeeded(connection: http.client.HTTPConnection, agent: str) -> int:
    connection.request("GET", f"/api/tasks?agent_id={agent}&status=succeeded&limit=1000")
    return len(json.loads(connection.getresponse().read())["tasks"])
